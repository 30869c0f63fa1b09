"""A12 over NVFlare: a site hands its greeting on to a member, and shows the server what the member signed.

Sites of a job may call one another. One that is no member asks a member to answer the server's challenge in
its place, from then on stands in the member's name, and hands on or withholds what it likes.

* On a copy whose sites answer whoever calls, for whichever site the greeting is, and whose server counts a
  member wherever it proves to be, the stranger is asked for updates in the member's name.
* On ours it is not, and each of the three checks alone keeps it out.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="the engine is an extra")

from nvflare.collab import collab

from fl_integration.embedding import rounds
from fl_integration.embedding.coordinator import Coordinator
from fl_integration.nvflare import server, site
from tests.fl_integration.disks import folder_in_memory
from tests.fl_integration.nvflare.loopback import settle
from tests.fl_integration.nvflare.stage import Study, zeros
from tests.fl_integration.waiting import Time

MEMBER, STRANGER = "a", "x"


class Never:
    """What no head is."""


class Anybody(str):
    """A name that is everybody's."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def answer_whoever_calls(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site, "_SERVER", Anybody())


def answer_for_whichever_site(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(site, "Hello", Never)


def count_a_member_anywhere(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server, "site_of", lambda node: MEMBER if node == b"x" else node.decode())


WEAKER = [answer_whoever_calls, answer_for_whichever_site, count_a_member_anywhere]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time(settle)

    def made(*given: Any, **named: Any) -> Coordinator:
        return Coordinator(*given, **named, monotonic=time.monotonic, pause=time.pause)

    monkeypatch.setattr(rounds, "Coordinator", made)


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as made:
        yield made


def asked_in_the_members_name(folder: Path) -> int:
    """Messages of rounds that reached the stranger."""
    study = Study(folder)
    relaying = False

    def relay(secagg_head: bytes, secagg_body: bytes, secagg_shown: Any = None) -> Any:
        nonlocal relaying
        relaying = True
        arguments = {"secagg_head": secagg_head, "secagg_body": secagg_body, "secagg_shown": secagg_shown}
        try:
            return study.job.deliver(f"{MEMBER}.client", "secure", arguments)["result"]
        finally:
            relaying = False

    study.job.join(STRANGER, SimpleNamespace(secure=collab.publish(relay)))
    member = study.job.sites[MEMBER]
    member.caller = STRANGER
    member.deaf = lambda nth: not relaying  # whoever owns the link to the member keeps the server away
    with study.secure() as secure:
        secure.train(zeros())
    return len(study.steps(STRANGER))


def test_the_copy_gives_the_stranger_the_members_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for weaken in WEAKER:
        weaken(monkeypatch)
    assert asked_in_the_members_name(folder) > 0


@pytest.mark.parametrize("kept", [None, *WEAKER], ids=lambda each: "all" if each is None else each.__name__)
def test_any_check_alone_keeps_it_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kept: Callable[[pytest.MonkeyPatch], None] | None
) -> None:
    for weaken in WEAKER if kept is not None else []:
        if weaken is not kept:
            weaken(monkeypatch)
    assert asked_in_the_members_name(folder) == 0
