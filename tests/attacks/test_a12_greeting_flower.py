"""A12. A recorded welcome: a node shows what a member once signed, and takes that member's place.

Whoever reads the link, a SuperLink for one, has every welcome that was ever sent. The member signs the
session, the node and the challenge with it. On a copy whose signature covers only who it is, a stranger under
another node is asked for updates in the member's name, in another session too, and the member is turned away.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fl_integration.embedding import attendance, parcels
from fl_integration.embedding.parcels import Copy, Hello
from fl_integration.flower.engine import pack, unpack
from secagg.wire import Writer
from tests.fl_integration.disks import folder_in_memory
from tests.fl_integration.flower.loopback import Node, identity_put_back
from tests.fl_integration.flower.stage import (
    FIRST_NODE,
    PLAIN,
    Study,
    app_of,
    average,
    by,
    context_of,
    steps,
)

MEMBER, STRANGER = FIRST_NODE, FIRST_NODE + 9


@pytest.fixture(autouse=True)
def own_identity() -> Iterator[None]:
    with identity_put_back():
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as made:
        yield made


def who_alone(hello: Hello, client: str, settings: bytes, copy: Copy) -> bytes:
    """What a member signs on the weakened copy: its name, for whatever it was asked."""
    return Writer().text(client).finish()


def asked_in_the_members_name(folder: Path) -> tuple[int, int]:
    """Messages of rounds that reached the stranger, and the member, in a session behind the recorded one."""
    study, recorded = Study(folder, protocol=PLAIN, names="abc"), []

    def record(node: int, answer: Message) -> Message:
        if node == MEMBER:
            recorded.append(unpack(answer.content))
        return answer

    study.grid.forge = record
    study.run()
    member = study.grid.nodes.pop(MEMBER)
    study.grid.sent.clear()
    # The stranger comes first, and the member behind it.
    others = dict(study.grid.nodes)
    study.grid.nodes.clear()
    study.grid.nodes[STRANGER] = Node(app_of(by(9.0)), context_of(STRANGER))
    study.grid.nodes.update({MEMBER: member, **others})
    greeting = pack(recorded[0])
    study.grid.forge = lambda node, answer: Message(greeting, reply_to=answer) if node == STRANGER else answer
    study.run(average(min_available_nodes=3))
    return len(steps(study, STRANGER)), len(steps(study, MEMBER))


def test_the_copy_gives_a_stranger_the_members_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (parcels, attendance):
        monkeypatch.setattr(room, "welcome_statement", who_alone)
    stranger, member = asked_in_the_members_name(folder)
    assert stranger > 0
    assert member == 0


def test_ours_asks_the_member_and_nobody_else(folder: Path, caplog: Any) -> None:
    stranger, member = asked_in_the_members_name(folder)
    assert stranger == 0
    assert member > 0
    assert f"node {STRANGER} takes no part" in caplog.text
