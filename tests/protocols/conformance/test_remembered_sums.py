"""A server that is told of a sum of another session puts off what is near it, as one that saw it (A10)."""

from typing import Any

import pytest

from protocols import Client, Learner, ParameterError, Requirements, RoundAborted
from tests.protocols.conftest import STATE_KEY, Family, World, assert_right, updates_of

pytestmark = pytest.mark.usefixtures("one_paillier_key")

MODEL, HEAD, NAMES = b"the model of both sessions", b"\x07" * 32, "abcdef"


class Heading:
    """A client that says what its update answers, where the clients learn the sum."""

    def __init__(self, client: Client, head: bytes) -> None:
        self._client, self.head = client, head

    def contribute(self, *args: Any, **named: Any) -> Any:
        return self._client.contribute(*args, **named, head=self.head)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class Session:
    """A new session of a training whose last one opened a sum of everybody."""

    def __init__(self, family: Family, *, head: bytes = HEAD) -> None:
        self.world = World(family(requirements=Requirements(corrupt_fraction=0.16)), NAMES)
        self.patience = self.world.protocol.plan(5, roster=6).corrupt + 1
        self.sealed = self.world.protocol.learns is Learner.CLIENTS
        if self.sealed:
            for name, client in self.world.clients.items():
                self.world.clients[name] = Heading(client, head)  # type: ignore[assignment]

    def remember(self, contributors: str = NAMES, **named: Any) -> None:
        answered = {"head": HEAD} if self.sealed else {"model": MODEL}
        self.world.server.remember(contributors, **{**answered, **named})

    def plays(self, cohort: str, model: bytes = MODEL) -> None:
        updates = updates_of(cohort)
        learnt = self.world.learn(self.world.play(updates, model=model))
        assert_right(learnt, self.world.protocol, updates, cohort)

    def is_put_off(self, cohort: str, time: int = 1) -> None:
        said = rf"a sum for this model was seen.*put off \({time} of {self.patience}\)"
        with pytest.raises(RoundAborted, match=said):
            self.world.play(updates_of(cohort), model=MODEL)
        record = self.world.server.record().record
        assert not record.opened
        assert not record.culprits

    def restart(self) -> None:
        saved = self.world.server.export(key=STATE_KEY)
        self.world.server = self.world.protocol.restore_server(saved, key=STATE_KEY)


def test_what_is_near_is_put_off_and_what_is_the_same_is_not(family: Family) -> None:
    session = Session(family)
    session.remember()
    session.is_put_off("abcde")
    session.plays(NAMES)


def test_nothing_is_put_off_where_nothing_was_seen(family: Family) -> None:
    """So that the others can fail."""
    Session(family).plays("abcde")


def test_it_is_in_the_saved_state(family: Family) -> None:
    session = Session(family)
    session.remember()
    for time in range(session.patience):
        session.restart()
        session.is_put_off("abcde", time + 1)
    session.plays("abcde")  # it does not wait without end


def test_another_model_is_another_matter(family: Family) -> None:
    session = Session(family, head=HEAD[::-1][:-1] + b"\x08")
    session.remember()
    session.plays("abcde", model=b"the next one")


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_nobody_waits_for_a_culprit_of_that_session(family: Family, restarted: bool) -> None:
    session = Session(family)
    session.remember(culprits="f")
    if restarted:
        session.restart()
    session.is_put_off("acdf")  # b and e are no culprits
    session.plays("abcde")


@pytest.mark.parametrize("near", ["abcde", "bcdef"])
def test_every_sum_is_remembered(to_server: Family, near: str) -> None:
    session = Session(to_server)
    session.remember("abcd")
    session.remember("cdef")
    session.is_put_off(near)


def test_what_answered_nothing_is_nothing(to_server: Family) -> None:
    session = Session(to_server)
    session.remember(model=b"")
    session.plays("abcde")
    session.plays("abcde", model=b"")


@pytest.mark.parametrize("wrong", [{"contributors": "abz"}, {"culprits": "z"}, {"contributors": [1]}])
def test_strangers_are_refused_and_nothing_is_remembered(to_server: Family, wrong: Any) -> None:
    session = Session(to_server)
    with pytest.raises(ParameterError, match="roster"):
        session.remember(**wrong)
    session.plays("abcde")
