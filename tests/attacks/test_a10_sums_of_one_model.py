"""A10, D4: two sums for one model, of which one moved nobody.

Differencing needs updates that stay as they were. In a training they do while the model does: a sum that was
opened and refused, or that nobody could verify, is asked for again, and clients train the same from the same
model. Somebody has seen the first one: the server, which opened it, or who spoilt it and holds the key. If then
an honest client is in one of the two sums only, by chance or because the liar saw to it, the difference is its
update.

On the copy the server does not care (`careless`). Ours remembers the contributors of each sum for the model at
hand that may have been seen, and puts a near one off: it waits for those who are missing, once more than there
may be liars that make others be missing. Then the training goes on, and one test shows what that tells. The
loop asks the same clients again of itself (`_Unmoved`), also where it is about three sums.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from protocols import Adversary, CkksSum, LatticeSum, MaskedSum, PaillierSum, Requirements, RoundAborted
from protocols.consortium import messages as consortium
from protocols.machine.parameters import MachineProtocol
from protocols.machine.server import ServerMachine
from protocols.masked import messages as masked
from protocols.masked.client import MaskedClientSteps
from protocols.masked.collecting import check_words, lanes_of
from protocols.masked.server import MaskedServerSteps
from protocols.messages.schema import decode
from secagg.errors import PeerViolation
from secagg.secret import Secret
from tests.attacks.trained import Lie, Says, WithLiars
from tests.attacks.weakened import Doctored, Stage, Vector, updates_of
from tests.protocols.liars import fields_of, signed_dealing

NAMES = "abcdefg"
"""Of seven, two may be corrupt, and five must contribute."""
LIAR, VICTIM = "b", "g"
MODEL = b"the model at hand"
KEY = Secret(bytes(32))
MALICIOUS = Requirements(dropout_fraction=0.0, adversary=Adversary.MALICIOUS)
DEFAULT = Requirements(dropout_fraction=0.0)


def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that opens any sum."""
    monkeypatch.setattr(ServerMachine, "_put_off_near", lambda *_: None)


# Where the server learns the sum


class Reads(MaskedServerSteps):
    """A curious server: it follows the protocol, and keeps what it saw of each sum, refused or not."""

    def __init__(self) -> None:
        self.sums: list[tuple[frozenset[str], Vector]] = []

    def close(self, context: Any, state: Any, present: Any) -> Any:
        try:
            return super().close(context, state, present)
        finally:
            if hasattr(state, "revealed"):
                surface = context.suite.surface
                lanes, count = lanes_of(surface), surface.elements(context.round.length)
                view = lanes.view(state.sum.total, count, padding=check_words(lanes.ring.bits))
                who = frozenset(state.sum.epoch.cohort[place] for place in state.survivors)
                self.sums.append((who, lanes.ring.centred(view[:])[:count].copy()))


class SpoilsOne(MaskedClientSteps):
    """Spoils a check word in round 0, and knows its own summands.

    Args:
        steers: in round 1 it is there no more, and sends the victim a pair secret with another hash than it
            says: the victim refuses too, and is honest.
    """

    def __init__(self, *, steers: bool) -> None:
        self._steers = steers
        self.summands: list[Vector] = []

    def fold(self, context: Any, state: Any, summand: Any) -> Any:
        self.summands.append(summand.integers().copy())
        if context.round == 0:
            summand = Doctored(summand, one_more)
        return super().fold(context, state, summand)

    def react(self, context: Any, state: Any, request: Any) -> Any:
        if not self._steers or context.round != 1:
            return super().react(context, state, request)
        if isinstance(request, masked.CollectInput):
            raise PeerViolation("it is busy", culprit="server")
        step: Any = super().react(context, state, request)
        if isinstance(step.message, masked.ShareKeys):  # the last edge behind it is the victim's
            lie = signed_dealing(fields_of(edges=lambda edges: edges[:-16] + bytes(16)))
            step = replace(step, message=lie(context, step.state, step.message))
        return step


def one_more(block: Vector) -> None:
    """The last word of the padding is a check word."""
    block[-1] += 1


class Refused:
    """A session whose first sum the server opened and refused; all answer one model."""

    def __init__(self, requirements: Requirements, *, steers: bool = False, model: bytes = MODEL) -> None:
        self.reads, self.liar = Reads(), SpoilsOne(steers=steers)
        self.stage = Stage(
            MaskedSum(max_clients=7, requirements=requirements),
            NAMES,
            steps={LIAR: self.liar},
            server_steps=self.reads,
        )
        self.corrupt = self.stage.protocol.plan(7).corrupt
        self.model, self.updates = model, updates_of(NAMES)
        error = self.aborted()
        assert "do not cancel" in error.reason
        assert error.opened == frozenset(NAMES)

    def play(self, cohort: str = NAMES, **spoilt: Any) -> Any:
        updates = {name: self.updates[name] for name in cohort}
        return self.stage.play(updates, model=self.model, **spoilt)

    def aborted(self, cohort: str = NAMES, **spoilt: Any) -> RoundAborted:
        with pytest.raises(RoundAborted) as error:
            self.play(cohort, **spoilt)
        return error.value

    def put_off(self, **spoilt: Any) -> RoundAborted:
        """A round that is put off, before anybody reveals anything."""
        error, opened = self.aborted(**spoilt), len(self.reads.sums)
        assert "a sum for this model was seen" in error.reason
        assert not error.opened
        assert not self.stage.server.record().record.opened
        assert len(self.reads.sums) == opened
        assert not any(each.exchange >= 3 for each in self.stage.wire)
        return error

    def tells(self, first: int = 0, second: int = 1) -> bool:
        """Whether two sums tell the victim's update to the server, and to the liar what it put in itself."""
        (one, before), (other, after) = self.reads.sums[first], self.reads.sums[second]
        difference = before - after
        if LIAR in one - other:
            difference = difference - self.liar.summands[0]
        surface: Any = self.stage.protocol.suite.surface
        seen = difference[: len(self.updates[VICTIM])] / surface.codec.largest_step * surface.codec.clip
        return bool(np.abs(seen - self.updates[VICTIM]).max() < 1e-3)

    def restart(self) -> None:
        """The server comes back from its saved state."""
        suite = replace(self.stage.protocol.suite, server=self.reads)
        saved = self.stage.server.export(key=KEY)
        self.stage.server = ServerMachine.restore(
            suite, saved, key=KEY, entropy=self.stage.entropy("another day")
        )


def test_on_the_copy_a_liar_that_steers_the_retry_tells_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    careless(monkeypatch)
    session = Refused(MALICIOUS, steers=True)
    assert session.play().contributors == frozenset("acdef")
    assert session.tells()


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
def test_on_ours_the_retry_is_put_off_and_the_liar_is_named(restarted: bool) -> None:
    session = Refused(MALICIOUS, steers=True)
    if restarted:
        session.restart()
    error = session.put_off()
    assert error.culprits == {LIAR}
    assert session.stage.server.record().record.culprits == {LIAR}
    assert VICTIM in session.stage.server.record().record.dropped  # it refused, and is not to blame
    if restarted:
        session.restart()
    assert session.play("acdefg").contributors == frozenset("acdefg")  # the same but for the liar
    assert not session.tells()
    assert len(session.reads.sums) == 2


@pytest.mark.parametrize("requirements", [DEFAULT, MALICIOUS], ids=["default", "malicious"])
def test_who_vanishes_in_the_retry_is_told_on_the_copy(
    requirements: Requirements, monkeypatch: pytest.MonkeyPatch
) -> None:
    careless(monkeypatch)
    session = Refused(requirements)
    session.play(gone={VICTIM: 2})
    assert session.tells()


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("requirements", [DEFAULT, MALICIOUS], ids=["default", "malicious"])
def test_who_vanishes_in_the_retry_is_waited_for_on_ours(requirements: Requirements, restarted: bool) -> None:
    session = Refused(requirements)
    for tried in range(session.corrupt + 1):
        error = session.put_off(gone={VICTIM: 2})
        assert f"put off ({tried + 1} of {session.corrupt + 1})" in error.reason
        if restarted:
            session.restart()
    assert session.play().contributors == frozenset(NAMES)  # all are there again
    assert not session.tells()
    # The model moved. What the next rounds sum is nobody's business.
    assert session.play(gone={VICTIM: 2}).contributors == frozenset(NAMES) - {VICTIM}


@pytest.mark.parametrize("cohort", ["acdefg", "bcdefg", "abcde"])
def test_nor_does_a_server_that_asks_fewer_open_them(cohort: str) -> None:
    """Whoever drives the machine need not be our loop."""
    session = Refused(MALICIOUS)
    for _ in range(session.corrupt + 1):
        assert "a sum for this model was seen" in session.aborted(cohort).reason


@pytest.mark.parametrize("requirements", [DEFAULT, MALICIOUS], ids=["default", "malicious"])
def test_who_stays_away_longer_is_told_on_ours_too(requirements: Requirements) -> None:
    """What is left: a training does not wait for ever."""
    session = Refused(requirements)
    for _ in range(session.corrupt + 1):
        session.put_off(gone={VICTIM: 2})
    assert session.play(gone={VICTIM: 2}).contributors == frozenset(NAMES) - {VICTIM}
    assert session.tells()


def test_another_model_is_another_matter() -> None:
    session = Refused(MALICIOUS)
    session.model = b"the next one"
    assert session.play(gone={VICTIM: 2}).contributors == frozenset(NAMES) - {VICTIM}


def test_another_model_in_between_does_not_bring_more_patience() -> None:
    session = Refused(DEFAULT)
    for _ in range(session.corrupt + 1):
        session.put_off(gone={VICTIM: 2})
    with pytest.raises(RoundAborted, match="at least"):
        session.play(gone=dict.fromkeys("aceg", 2))
    session.play(gone={VICTIM: 2})


def test_rounds_without_a_model_are_never_put_off() -> None:
    session = Refused(DEFAULT, model=b"")
    assert session.play(gone={VICTIM: 2}).contributors == frozenset(NAMES) - {VICTIM}


OVER_CKKS = pytest.param(
    LatticeSum(max_clients=7, requirements=DEFAULT, keys=CkksSum),
    marks=pytest.mark.xfail(strict=True, reason="its key layer always says that contributors named a head"),
)


@pytest.mark.parametrize("model", [b"", MODEL], ids=["no model", "a model"])
@pytest.mark.parametrize(
    "protocol",
    [
        CkksSum(max_clients=7, requirements=DEFAULT),
        PaillierSum(max_clients=7, requirements=DEFAULT, key_bits=2048),
        OVER_CKKS,
    ],
    ids=["ckks", "paillier", "lattice over ckks"],
)
def test_nor_are_sealed_sums_that_name_no_head(protocol: MachineProtocol, model: bytes) -> None:
    """There what they answer is the request's own model; who drives it tells one training from another."""
    stage = Stage(protocol, NAMES)
    for number, gone in enumerate(("", VICTIM, "", "c", VICTIM)):
        outcome = stage.play(updates_of(NAMES, seed=number), model=model, gone=dict.fromkeys(gone, 0))
        assert outcome.contributors == frozenset(NAMES).difference(gone)
