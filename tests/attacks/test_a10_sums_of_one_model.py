"""A10, D4: two sums for one model, of which one moved nobody.

Differencing needs updates that stay as they were. In a training they do while the model does: a sum that was
opened and refused, or that nobody could verify, is asked for again, and clients train the same from the same
model. Somebody has seen the first one: the server, which opened it, or who spoilt it and holds the key. If
then an honest client is in one of the two sums only, by chance or because the liar saw to it, the difference
is its update.

On the copy the server does not care (`careless`). Ours remembers the contributors of each sum for the model
at hand that may have been seen, and puts a near one off: it waits for those who are missing, once more than
there may be liars that make others be missing. Then the training goes on, and one test shows what that tells.
The loop asks the same clients again of itself (`Unmoved`), also where it is about three sums.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    NeedUpdate,
    PaillierSum,
    Requirements,
    RoundAborted,
)
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
from tests.attacks.trained import WithLiars
from tests.attacks.weakened import Doctored, Stage, Vector, updates_of
from tests.protocols.liars import fields_of, signed_dealing

torch = pytest.importorskip("torch")

from fl_integration.loop.cohorts import Unmoved  # noqa: E402  # behind the question whether there is a torch
from fl_integration.loop.federated import federate  # noqa: E402
from fl_integration.loop.rehearsal import Rehearsal  # noqa: E402
from fl_integration.loop.report import RoundReport, TrainingAborted  # noqa: E402
from fl_integration.loop.watch import Watch  # noqa: E402
from fl_integration.site.site import Site  # noqa: E402
from fl_integration.site.training import LocalTraining  # noqa: E402
from fl_integration.vectors.vectorise import flatten  # noqa: E402

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


def test_a_round_for_want_of_clients_does_not_bring_more_patience() -> None:
    session = Refused(DEFAULT)
    for _ in range(session.corrupt + 1):
        session.put_off(gone={VICTIM: 2})
    with pytest.raises(RoundAborted, match="at least"):
        session.play(gone=dict.fromkeys("aceg", 2))
    session.play(gone={VICTIM: 2})


def test_rounds_without_a_model_are_never_put_off() -> None:
    session = Refused(DEFAULT, model=b"")
    assert session.play(gone={VICTIM: 2}).contributors == frozenset(NAMES) - {VICTIM}


# Where the clients learn the sum


class Named:
    """Rounds of CkksSum and its like whose contributors all name one head."""

    def __init__(self, protocol: MachineProtocol) -> None:
        self.stage, self.head = Stage(protocol, NAMES), bytes(32)
        self.stage.tell = self.tell  # type: ignore[method-assign]
        self.corrupt = protocol.plan(7).corrupt

    def tell(self, name: str, message: bytes, update: Vector | None = None, *, weight: int = 1) -> bytes:
        answer = self.stage.clients[name].receive(message)
        if isinstance(answer, NeedUpdate):
            assert update is not None
            answer = self.stage.clients[name].contribute(update, weight=weight, head=self.head)
        return answer

    def play(self, gone: str = "") -> frozenset[str]:
        collecting = self.stage.protocol.suite.collecting
        updates = updates_of(NAMES, seed=self.stage.number + 2)
        return self.stage.play(updates, gone=dict.fromkeys(gone, collecting)).contributors

    def restart(self) -> None:
        saved = self.stage.server.export(key=KEY)
        self.stage.server = ServerMachine.restore(
            self.stage.protocol.suite, saved, key=KEY, entropy=self.stage.entropy("another day")
        )


SEALED: dict[str, MachineProtocol] = {
    "ckks": CkksSum(max_clients=7, requirements=DEFAULT),
    "paillier": PaillierSum(max_clients=7, requirements=DEFAULT, key_bits=2048),
    "lattice over ckks": LatticeSum(max_clients=7, requirements=DEFAULT, keys=CkksSum),
}


@pytest.mark.parametrize("restarted", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("name", SEALED)
def test_a_second_sum_for_a_head_is_put_off_if_it_is_near(name: str, restarted: bool) -> None:
    """The server does not know whether the first one opened."""
    session = Named(SEALED[name])
    assert session.play() == frozenset(NAMES)
    for tried in range(session.corrupt + 1):
        if restarted:
            session.restart()
        with pytest.raises(RoundAborted, match=rf"put off \({tried + 1} of 3\)"):
            session.play(VICTIM)
        record = session.stage.server.record().record
        assert not record.contributors
        assert not record.culprits
        if restarted:
            session.restart()
    assert session.play() == frozenset(NAMES)  # the same may be asked for without end
    assert session.play(VICTIM) == frozenset(NAMES) - {VICTIM}  # and it does not wait without end
    session.head = bytes(range(32))
    assert session.play("c") == frozenset(NAMES) - {"c"}
    with pytest.raises(RoundAborted, match=r"put off \(1 of 3\)"):  # of a new head: from the beginning
        session.play(VICTIM)


@pytest.mark.parametrize("model", [b"", MODEL], ids=["no model", "a model"])
@pytest.mark.parametrize(
    "name",
    [
        "ckks",
        "paillier",
        "lattice over ckks",
    ],
)
def test_sums_that_name_no_head_are_never_put_off(name: str, model: bytes) -> None:
    """There what they answer is the request's own model; who drives it tells one training from another."""
    stage = Stage(SEALED[name], NAMES)
    for number, gone in enumerate(("", VICTIM, "", "c", VICTIM)):
        outcome = stage.play(updates_of(NAMES, seed=number), model=model, gone=dict.fromkeys(gone, 0))
        assert outcome.contributors == frozenset(NAMES).difference(gone)


# Where the clients learn the sum, and the liar is one of them

FIVE = "abcde"
"""Of five, one may be corrupt."""
CUSTODIAN, HOLDER, AWAY = "a", "b", "d"
SHAPE: dict[str, Any] = {"bits": 24, "clip": 4.0, "max_weight": 8}
CKKS = CkksSum(max_clients=5, requirements=DEFAULT, **SHAPE)
X = torch.linspace(-1, 1, 20).unsqueeze(1)
LOCAL = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.1)


class SpoilsTags(type(CKKS.suite.client)):  # type: ignore[misc]
    """Tags its vector wrongly, so that nobody opens the sum; and decrypts it, for it holds the key.

    Args:
        until: the first round in which it does not lie.
        steers: in that round it seals no key to the victim.
    """

    def __init__(self, *, until: int, steers: bool) -> None:
        super().__init__(CKKS.suite.client._scheme)  # type: ignore[attr-defined]
        self._until, self._steers = until, steers
        self.sums: dict[int, tuple[frozenset[str], Vector]] = {}

    def fold(self, context: Any, state: Any, summand: Any) -> Any:
        step = super().fold(context, state, summand)
        if context.round >= self._until:
            return step
        return replace(step, message=replace(step.message, tag=bytes(16)))

    def _distribute(self, context: Any, state: Any, request: Any) -> Any:
        step = super()._distribute(context, state, request)
        sealed = step.message.sealed
        if not self._steers or context.round < self._until or AWAY not in sealed:
            return step
        sealed = {**sealed, AWAY: bytes(len(sealed[AWAY]))}
        return replace(step, message=replace(step.message, sealed=sealed))

    def open(self, context: Any, state: Any, result: Any) -> Any:
        given, keyed = decode(consortium.Result, result), self.idle(state)
        secret = decode(consortium.ConsortiumSecret, keyed.secret.reveal())
        count = context.suite.surface.elements(given.length)
        total = self._key(secret.private_key).decrypt(
            given.vector, count=count, summands=len(given.contributors)
        )
        self.sums[given.round] = (frozenset(given.contributors), total)
        return super().open(context, state, result)


class WithHolder(WithLiars):
    """A protocol of which one client runs other steps."""

    def client(self, *, identity: Any, **given: Any) -> Any:
        machine: Any = super().client(identity=identity, **given)
        steps = self.lies.get(identity.client)
        if steps is not None:
            machine._suite = replace(machine._suite, client=steps)
        return machine


class Spoilt:
    """A training in which one liar spoils sums and decrypts them.

    Attributes:
        asked: by round, whom the server asked for anything.
    """

    def __init__(
        self,
        *,
        rounds: int,
        liar: str = HOLDER,
        until: int = 1,
        steers: bool = False,
        drop: dict[int, dict[str, str]] | None = None,
    ) -> None:
        self.steps = SpoilsTags(until=until, steers=steers)
        self.asked: dict[int, set[str]] = {}
        self.model = torch.nn.Linear(1, 1)
        protocol = WithHolder(CKKS, {})
        object.__setattr__(protocol, "lies", {liar: self.steps})
        self.loaders = {name: [(X[i::5], 2 * X[i::5])] for i, name in enumerate(FIVE)}
        self.history = self._tried(
            protocol,
            self.model,
            self.loaders,
            rounds=rounds,
            local=LOCAL,
            watch=Watch(on_message=self.see),
            rehearsal=Rehearsal(drop=drop or {}, protocol_seed=1),
        )

    @staticmethod
    def _tried(*args: Any, **options: Any) -> tuple[RoundReport, ...]:
        try:
            return federate(*args, **options).history
        except TrainingAborted as error:
            return error.history

    def see(self, number: int, message: Any) -> None:
        if message.sender == "server" and message.exchange != "Result":
            self.asked.setdefault(number, set()).add(message.receiver)

    def tells(self, first: int, second: int, victim: str) -> bool:
        """Whether two sums tell the victim's update to the liar."""
        if not {first, second} <= self.steps.sums.keys():
            return False
        (one, before), (other, after) = self.steps.sums[first], self.steps.sums[second]
        assert one ^ other == {victim}
        difference = before - after if victim in one else after - before
        codec: Any = CKKS.surface.codec
        if not difference[-1]:
            return False
        seen = difference[:-1] / codec.largest_step * codec.clip / difference[-1]
        number = first if victim in one else second
        values, manifest = flatten(self.model.state_dict())
        site = Site(victim, model=self.model, data=self.loaders[victim], local=LOCAL, manifest=manifest)
        truth, _ = site.train(values, values[:0], round=number)
        return bool(np.abs(seen - truth).max() < 1e-3)

    def opened(self) -> list[int]:
        """Rounds whose sum moved the model."""
        return [report.number for report in self.history if report.total_weight is not None]


def by_chance() -> Spoilt:
    """The victim is not there in the round behind the spoilt one."""
    return Spoilt(rounds=3, drop={1: {AWAY: "AdvertiseKeys"}})


def by_a_key() -> Spoilt:
    """After five spoilt rounds everybody asks for another key; the liar makes it, and not for the victim."""
    return Spoilt(rounds=8, liar=CUSTODIAN, until=5, steers=True)


WAYS: dict[str, tuple[Callable[[], Spoilt], int]] = {"by chance": (by_chance, 1), "by a key": (by_a_key, 5)}
"""And the round behind the last spoilt one."""


@pytest.mark.parametrize("way", WAYS)
def test_on_the_copy_who_spoils_a_sum_learns_an_update(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    careless(monkeypatch)
    spoil, behind = WAYS[way]
    training = spoil()
    assert training.history[behind].contributors == frozenset(FIVE) - {AWAY}
    assert training.tells(behind - 1, behind, AWAY)


@pytest.mark.parametrize("way", WAYS)
def test_on_ours_the_sum_without_the_victim_is_put_off(way: str) -> None:
    spoil, behind = WAYS[way]
    training = spoil()
    assert "a sum for this model was seen" in training.history[behind].aborted
    assert not training.history[behind].contributors
    assert not training.history[behind].culprits
    assert behind not in training.steps.sums
    assert not training.tells(behind - 1, behind, AWAY)
    assert training.history[behind + 1].contributors == frozenset(FIVE)
    assert training.opened()[0] == behind + 1


def ask_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that asks everybody in each round."""
    monkeypatch.setattr(Unmoved, "next_cohort", lambda self, culprits, **_: tuple(self._clients))


def test_on_the_copy_who_was_away_from_the_spoilt_sum_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    careless(monkeypatch)
    ask_all(monkeypatch)
    training = Spoilt(rounds=2, drop={0: {AWAY: "AdvertiseKeys"}})
    assert training.asked[1] == set(FIVE)
    assert training.tells(0, 1, AWAY)


def test_a_loop_that_asks_all_is_stopped_by_our_server(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_all(monkeypatch)
    training = Spoilt(rounds=2, drop={0: {AWAY: "AdvertiseKeys"}})
    assert "a sum for this model was seen" in training.history[1].aborted
    assert not training.tells(0, 1, AWAY)


def test_ours_asks_those_of_the_spoilt_sum_again() -> None:
    """It brings the result to its clients first: who will be asked depends on whether it opens."""
    training = Spoilt(rounds=4, drop={0: {AWAY: "AdvertiseKeys"}})
    assert training.asked[1] == training.asked[2] == set(FIVE) - {AWAY}
    assert training.asked[3] == set(FIVE)  # round 1 moved the model, which is known when round 2 brought it
    assert training.opened() == [1, 2, 3]
    assert not any(report.aborted or report.culprits for report in training.history)


def test_behind_a_sum_that_moved_the_model_it_asks_whom_it_likes() -> None:
    training = Spoilt(rounds=3, until=0, drop={0: {AWAY: "AdvertiseKeys"}, 1: {"c": "Contribute"}})
    assert AWAY in training.asked[1]
    assert training.asked[2] == set(FIVE)
    assert training.opened() == [0, 1, 2]
    assert [report.contributors for report in training.history] == [
        frozenset(FIVE).difference(gone) for gone in (AWAY, "c", "")
    ]


# Three sums


EIGHT = "abcdefgh"
ONE, OTHER = frozenset("abcde"), frozenset("abfgh")
"""They differ by six. All eight differ from each by three, and three hide an honest one."""
OF_EIGHT = MaskedSum(
    max_clients=8,
    requirements=Requirements(corrupt_fraction=0.125, dropout_fraction=0.0, adversary=Adversary.MALICIOUS),
)


class Pairs(Unmoved):
    """A loop that looks at two sums at a time: that of all, and each that was seen."""

    def _chosen(self, wanted: Any, culprits: Any, seen: Any) -> Any:
        found = {super(Pairs, self)._chosen(wanted, culprits, [each]) for each in seen}
        (cohort,) = found or {tuple(self._clients)}
        return cohort


def unmoved(kind: type[Unmoved], *seen: frozenset[str]) -> Unmoved:
    clients: Any = {name: SimpleNamespace(base=b"", opened=0, stranded=False) for name in EIGHT}
    made = kind(OF_EIGHT, clients)
    for each in seen:
        made.ended(each, RoundAborted("refused", opened=each))
    return made


def asked_next(loop: Unmoved, culprits: str = "") -> frozenset[str]:
    return frozenset(loop.next_cohort(culprits, deliver=lambda: None))


def test_on_the_copy_three_sums_tell_one_update_to_a_liar() -> None:
    assert OF_EIGHT.plan(8).corrupt == 1
    assert len(ONE) == len(OTHER) == OF_EIGHT.plan(8).min_survivors
    third = asked_next(unmoved(Pairs, ONE, OTHER))
    assert third == frozenset(EIGHT)
    updates = updates_of(EIGHT)
    sums = [np.sum([updates[name] for name in each], axis=0) for each in (ONE, OTHER, third)]
    # a is corrupt, and knows what is its own.
    assert np.allclose(sums[0] + sums[1] - sums[2] - updates["a"], updates["b"])


def test_ours_asks_for_one_of_two_again() -> None:
    assert asked_next(unmoved(Unmoved, ONE)) == frozenset(EIGHT)  # far enough from one
    assert asked_next(unmoved(Unmoved, ONE, OTHER)) in (ONE, OTHER)
    assert asked_next(unmoved(Unmoved, ONE, OTHER, ONE)) in (ONE, OTHER)
    moved = unmoved(Unmoved, ONE, OTHER)
    moved.ended(ONE, None)
    assert asked_next(moved) == frozenset(EIGHT)


def test_a_culprit_may_be_missing_from_it() -> None:
    assert asked_next(unmoved(Unmoved, ONE, OTHER), "h") in (ONE, OTHER - {"h"}, OTHER)
    assert asked_next(unmoved(Unmoved, frozenset(EIGHT)), "h") == frozenset(EIGHT) - {"h"}
