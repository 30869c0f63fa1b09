"""D2: a client beyond clip and cap.

What is masked or encrypted may be any element of the ring; a liar does not run the code that clips. One
client of five, of weight 1, puts five hundred clips into each place: a mean of a hundred clips, with all
contributors and no error. The weakened copy decodes whatever comes out.

Whoever opens a sum can check it without asking anybody: no honest contributors of total weight W add up to
more than W clips, nor their metrics to more than W times the range, nor their weights to more than the cap
times their number. Ours aborts such a round, whoever opens it, and the error says whose sum was opened.

**Partial.** Honest sums are far within W clips, and the rest is the liar's: it moves the mean to wherever it
likes within the clip, under a weight of 1 or of all that the caps leave, or it aborts every round. Tests show
that it does. Where several values share a word, a digit or a slot, one that does not fit spills into its
neighbours. That costs the round, or what is decoded is a vector that the liar could have sent as it is.

**Succeeds** on sums modulo 2**bits: every element of the ring is a possible sum there; nothing is checked.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from protocols import (
    CkksSum,
    IntegerSum,
    LatticeSum,
    Learner,
    MaskedSum,
    PaillierSum,
    PeerViolation,
    PlainSum,
    RoundAborted,
    Rounding,
    Sum,
)
from protocols.machine.parameters import MachineProtocol
from protocols.machine.summand import FloatSurface
from secagg.ckks.scheme import SecretKey
from secagg.paillier.packing import Packing
from secagg.rlwe.scheme import KEY_SUMMAND_MAX
from tests.attacks.weakened import LENGTH, Breaks, Stage, Vector, updates_of
from tests.attacks.weakened_lattice import LatticeStage

NAMES = "abcdm"
HONEST = "abcd"
EVERYBODY = frozenset(NAMES)
CAP = 500
LARGEST = 2**15 - 1
METRIC = LENGTH
WEIGHT = LENGTH + 1

Build = Callable[..., MachineProtocol]
PROTOCOLS = {
    "plain": PlainSum,
    "masked": MaskedSum,
    "lattice over masked": LatticeSum,
    "lattice over paillier": partial(LatticeSum, keys=partial(PaillierSum, key_bits=2048)),
    "ckks": CkksSum,
    "paillier": partial(PaillierSum, key_bits=2048),
}
every_protocol = pytest.mark.parametrize("build", PROTOCOLS.values(), ids=PROTOCOLS)


def built(build: Build, *, cap: int = CAP) -> MachineProtocol:
    return build(max_clients=8, max_weight=cap, metrics={"auc": (0.0, 1.0)}, rounding=Rounding.NEAREST)


def honest_updates(size: float = 1.0) -> dict[str, Vector]:
    return {name: size * update for name, update in updates_of(NAMES).items()}


class Consortium:
    """Five clients of weight 1, of whom the last lies."""

    def __init__(self, protocol: MachineProtocol, change: Callable[[Vector], None]) -> None:
        kind = LatticeStage if isinstance(protocol, LatticeSum) else Stage
        self.stage = kind(protocol, NAMES, steps={"m": Breaks(protocol.suite.client, change)})
        for client in self.stage.clients.values():
            client.contribute = partial(client.contribute, metrics={"auc": 0.5})  # type: ignore[method-assign]

    def learn(self, reader: str = "a", *, size: float = 1.0) -> Sum:
        """A round's sum, by whoever opens it: the server, or one client."""
        outcome = self.stage.play(honest_updates(size))
        if outcome.total is not None:
            return outcome.total
        return self.stage.clients[reader].open(outcome.result or b"")

    def refuses(self, why: str) -> None:
        """All who open the sum abort, and say whose it was; they accuse nobody."""
        if self.stage.protocol.learns is Learner.SERVER:
            openings: list[Callable[[], object]] = [self.learn]
        else:
            result = self.stage.play(honest_updates()).result or b""
            openings = [partial(client.open, result) for client in self.stage.clients.values()]
        for opening in openings:
            with pytest.raises(RoundAborted, match=why) as caught:
                opening()
            assert caught.value.opened == EVERYBODY
            assert not caught.value.culprits


def honest_mean() -> Vector:
    mean: Vector = np.mean(list(honest_updates().values()), axis=0)
    return mean


def words(value: int, block: Vector) -> Any:
    return np.int64(value).astype(block.dtype)


def many_clips(block: Vector) -> None:
    """500 clips in each place, under a weight of 1: what an honest client of weight 500 may send."""
    block[:LENGTH] = words(CAP * LARGEST, block)


def one_place(block: Vector) -> None:
    block[7] = words(-CAP * LARGEST, block)


def many_metrics(block: Vector) -> None:
    block[METRIC] = words(CAP * LARGEST, block)


def heavy(block: Vector) -> None:
    """More than one contributor may weigh, and less than all clients of a full round."""
    block[WEIGHT] = words(3, block)


def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a sum looks at nothing but whether its weight fits the largest round."""

    def decode(surface: FloatSurface, total: Any, contributors: frozenset[str]) -> Sum:
        length = len(total) - len(surface.metrics) - 1
        sums = surface.ring.centred(total[:])
        weight = int(sums[-1])
        assert len(contributors) <= weight <= surface.max_total_weight
        mean = surface.codec.decode(sums[:length], total_weight=weight)
        units = surface._metric_codec.decode(sums[length:-1], total_weight=weight)
        metrics = {
            name: float(low + (unit + 1) / 2 * (high - low))
            for (name, low, high), unit in zip(surface.metrics, units, strict=True)
        }
        return Sum(mean, weight, contributors, metrics)

    monkeypatch.setattr(FloatSurface, "decode", decode)


# Without the checks


@every_protocol
def test_without_a_check_one_client_makes_a_mean_of_a_hundred_clips(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    believing(monkeypatch)
    learnt = Consortium(built(build), many_clips).learn()
    assert learnt.contributors == EVERYBODY
    assert np.abs(learnt.mean - CAP / len(NAMES)).max() < 1


@every_protocol
def test_without_a_check_a_metric_is_far_out_of_its_range(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    believing(monkeypatch)
    assert Consortium(built(build), many_metrics).learn().metrics["auc"] > 50


@every_protocol
def test_without_a_check_one_client_weighs_as_much_as_three(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    believing(monkeypatch)
    assert Consortium(built(build, cap=1), heavy).learn().total_weight == 7


# Ours


@every_protocol
@pytest.mark.parametrize("change", [many_clips, one_place])
def test_ours_opens_no_sum_beyond_the_clip(build: Build, change: Callable[[Vector], None]) -> None:
    Consortium(built(build), change).refuses("a value of the sum is beyond what 5 contributors")


@every_protocol
def test_ours_opens_no_metric_beyond_its_range(build: Build) -> None:
    Consortium(built(build), many_metrics).refuses("metric 'auc' is beyond what 5 contributors")


@every_protocol
def test_ours_opens_no_weight_beyond_the_cap(build: Build) -> None:
    Consortium(built(build, cap=1), heavy).refuses(r"total weight is outside \[5, 5\]")


@every_protocol
def test_an_honest_round_is_opened(build: Build) -> None:
    learnt = Consortium(built(build), lambda block: None).learn()
    assert learnt.total_weight == len(NAMES)
    assert learnt.metrics["auc"] == pytest.approx(0.5, abs=1e-4)
    assert np.abs(learnt.mean - honest_mean()).max() < 1e-4


def test_the_reason_tells_nothing_of_the_sum() -> None:
    with pytest.raises(RoundAborted) as caught:
        Consortium(built(MaskedSum), many_clips).learn()
    numbers = {word for word in caught.value.reason.replace(":", "").split() if word.isdigit()}
    assert numbers == {"5"}


def test_the_next_round_without_the_liar_ends() -> None:
    stage = Consortium(built(MaskedSum), many_clips).stage
    with pytest.raises(RoundAborted):
        stage.play(updates_of(NAMES))
    assert stage.server.record().record.contributors == frozenset(NAMES)
    assert stage.server.record().record.opened
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)


# The integer surface, and the keys of LatticeSum


@pytest.mark.parametrize("build", [PlainSum, MaskedSum])
def test_integers_beyond_max_summand_are_no_sum(build: Build) -> None:
    """Five times 1000 is what five may add up to; the liar alone adds 6000."""

    def six_times(block: Vector) -> None:
        block[3] = 6000

    exact = build(max_clients=8).exact(max_summand=1000)
    stage = Stage(exact, NAMES, steps={"m": Breaks(exact.suite.client, six_times)})
    with pytest.raises(RoundAborted, match="broke max_summand") as caught:
        stage.play({name: np.full(LENGTH, 1, dtype=np.uint64) for name in NAMES})
    assert caught.value.opened == EVERYBODY


def adding(value: int) -> Callable[[Vector], None]:
    def change(block: Vector) -> None:
        block[3] = words(value, block)

    return change


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, LatticeSum])
@pytest.mark.parametrize("value", [6000, -6000])
def test_integers_beyond_max_abs_are_no_sum(build: Build, value: int) -> None:
    exact = build(max_clients=8).exact(max_abs=1000)
    kind = LatticeStage if build is LatticeSum else Stage
    stage = kind(exact, NAMES, steps={"m": Breaks(exact.suite.client, adding(value))})
    with pytest.raises(RoundAborted, match=r"outside what its contributors may .* broke max_abs") as caught:
        stage.play({name: np.full(LENGTH, 1) for name in NAMES})
    assert caught.value.opened == EVERYBODY


@pytest.mark.parametrize("build", [PlainSum, MaskedSum])
@pytest.mark.parametrize("value", [6000, -6000, 8191, 10**6])
def test_sums_modulo_are_wherever_one_contributor_wants_them(build: Build, value: int) -> None:
    """**Succeeds**: the ring that holds what five of the others may add up to, and no error."""
    surface = build(max_clients=8).modular(bits=14)
    stage = Stage(surface, NAMES, steps={"m": Breaks(surface.suite.client, adding(value))})
    total = stage.play({name: np.full(LENGTH, 1) for name in NAMES}).total
    assert isinstance(total, IntegerSum)
    assert total.contributors == EVERYBODY
    expected = np.full(LENGTH, len(NAMES))
    expected[3] = (len(HONEST) + value + 2**13) % 2**14 - 2**13
    assert np.array_equal(total.total, expected)


def test_keys_of_latticesum_beyond_their_range_are_no_sum() -> None:
    """A key layer is an integer surface too: one count of the liar's key is more than five may add up to."""

    def large(block: Vector) -> None:
        block[0] = len(NAMES) * KEY_SUMMAND_MAX + 1

    stage = LatticeStage(LatticeSum(max_clients=8), NAMES)
    room: Any = stage.clients["m"]._suite.client
    room._keys = replace(room._keys, client=Breaks(room._keys.client, large))
    with pytest.raises(RoundAborted, match="broke max_summand") as caught:
        stage.play(updates_of(NAMES))
    assert caught.value.opened == EVERYBODY


# Values that do not fit where they are packed


def packing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The liar's own code does not look at what it packs; nor does that of the others, which is honest."""

    def blocks(key: SecretKey, values: Any) -> Any:
        size = key.parameters.values_per_block
        return (key._encrypt_block(values[at : at + size]) for at in range(0, len(values), size))

    monkeypatch.setattr(Packing, "_check_values", lambda *_: None)
    monkeypatch.setattr(SecretKey, "encrypt_blocks", blocks)


@every_protocol
def test_whatever_is_packed_no_mean_is_beyond_the_clip(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word in any place, however narrow that is: what comes out is a sum within the limits, or none."""
    packing_anything(monkeypatch)
    generator, sums, refusals = np.random.default_rng(4), 0, 0

    def anything(block: Vector) -> None:
        place = generator.integers(LENGTH + 2)
        block[place] = generator.integers(2 ** generator.integers(12, 32), dtype=block.dtype)

    for _ in range(2):
        consortium = Consortium(built(build, cap=1), anything)
        for _ in range(6):
            try:
                learnt = consortium.learn()
            except (RoundAborted, PeerViolation):
                refusals += 1
            else:
                assert np.abs(learnt.mean).max() <= 1
                assert 0 <= learnt.metrics["auc"] <= 1
                assert learnt.total_weight == len(NAMES)
                sums += 1
    assert sums
    assert refusals


# A word of three values, a coefficient of two, a slot among others, two values in a coefficient of CKKS.
SPILLS = [
    pytest.param(PROTOCOLS["masked"], None, id="masked"),
    pytest.param(PROTOCOLS["lattice over masked"], None, id="lattice over masked"),
    pytest.param(PROTOCOLS["lattice over paillier"], None, id="lattice over paillier"),
    pytest.param(PROTOCOLS["ckks"], "does not verify", id="ckks"),
    pytest.param(PROTOCOLS["paillier"], "does not verify", id="paillier"),
]


def room_of(protocol: Any) -> int:
    """What a value must be to be nothing in its own place, and one more in the next."""
    surface = protocol.surface
    if isinstance(protocol, CkksSum):
        return int(protocol.scheme(surface).parameters.radix)
    if isinstance(protocol, LatticeSum):
        return int(protocol.suite.client._vectors.base)
    return 1 << surface.ring.bits


@pytest.mark.parametrize(("build", "why"), SPILLS)
def test_what_spills_over_is_refused_or_a_vector_that_could_have_been_sent(
    build: Build, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """**Succeeds** where no tag binds single values: a neighbour moves by a step, as by any small lie."""
    packing_anything(monkeypatch)
    protocol = built(build, cap=1)
    place, one = 2, room_of(protocol)

    def spill(block: Vector) -> None:
        block.view(f"i{block.itemsize}")[place] += one

    if why:
        with pytest.raises(PeerViolation, match=why):
            Consortium(protocol, spill).learn()
        return
    honest = Consortium(protocol, lambda block: None).learn()
    moved = (Consortium(protocol, spill).learn().mean - honest.mean) * LARGEST * len(NAMES)
    neighbour = int(np.argmax(moved))
    assert neighbour != place
    assert np.abs(moved - np.where(np.arange(LENGTH) == neighbour, 1, 0)).max() < 1e-9


# What the check leaves to a liar: these succeed on ours


@every_protocol
@pytest.mark.parametrize("target", [0.9, -0.9])
def test_a_liar_of_weight_1_puts_the_mean_anywhere_within_the_clip(build: Build, target: float) -> None:
    """An honest client of that weight moves it by a fifth. All others are small, as updates are."""

    def aim(block: Vector) -> None:
        block[:LENGTH] = words(round(target * LARGEST * len(NAMES)), block)

    learnt = Consortium(built(build), aim).learn(size=0.05)
    assert learnt.total_weight == len(NAMES)
    assert np.abs(learnt.mean - target).max() <= 0.05


@pytest.mark.parametrize("build", [PlainSum, MaskedSum, LatticeSum])
def test_a_liar_takes_all_the_weight_that_the_caps_leave(build: Build) -> None:
    """Its own cap does not bind it: what the other four may weigh and do not is the liar's."""
    most = len(NAMES) * CAP - len(HONEST)

    def aim(block: Vector) -> None:
        block[:LENGTH] = words(round(0.9 * LARGEST * most), block)
        block[WEIGHT] = words(most, block)

    learnt = Consortium(built(build), aim).learn()
    assert learnt.total_weight == len(NAMES) * CAP
    assert np.abs(learnt.mean - 0.9).max() < 0.01


@every_protocol
def test_a_heavy_client_within_its_cap_is_the_mean(build: Build) -> None:
    """No lie is needed for it but one about the number of its examples."""
    consortium = Consortium(built(build), lambda block: None)
    updates = {**honest_updates(), "m": np.full(LENGTH, 0.9)}
    outcome = consortium.stage.play(updates, weights={"m": CAP})
    learnt = outcome.total or consortium.stage.clients["a"].open(outcome.result or b"")
    assert np.abs(learnt.mean - 0.9).max() <= 2 * len(HONEST) / (len(HONEST) + CAP)
