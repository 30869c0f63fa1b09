"""What the server's transcript says: nothing but what it must (A7, A8).

Everything that goes over the wire in MaskedSum is searched for the inputs, and the masked vectors are tested
for uniformity over their ring: chi-square over all values of small rings, over the high and the low bits of
large ones, whatever the inputs are. CkksSum's and PaillierSum's transcripts are searched for their
plaintexts. And two runs that differ in nothing but the inputs differ on the wire in nothing but the vectors.

A test of uniformity is worth something only if it fails on what is not uniform. So it is given PlainSum's
vectors, masks bounded like an update (float masks in shipped code: A8), `randint(0, R - 1)`, whose upper end
is exclusive, so that the largest value never comes (A7), a generator with one stuck bit, and a mask that
repeats. Not covered, because no such test can see it: a good generator with a short seed;
`test_a07_weak_generator.py` searches for that.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import Adversary, CkksSum, LatticeSum, MaskedSum, PaillierSum, PlainSum, Requirements
from protocols.lattice import messages as lattice
from protocols.machine.client import ClientMachine
from protocols.masked import dealing
from protocols.masked.collecting import check_words, lanes_of
from protocols.masked.messages import MaskedInput
from secagg.rlwe import scheme as rlwe
from secagg.secret import Secret
from secagg.standard.kem import encapsulate
from secagg.vectors import masking
from secagg.vectors.masking import expand
from secagg.vectors.ring import Ring
from tests.attacks.weakened import Stage, Vector, Wire, body_of, updates_of

NAMES = "abc"
Integers = NDArray[np.uint64]


def chi_square(cells: NDArray[np.int64]) -> float:
    """How many standard deviations the statistic is above what uniform cells give; 7 is 10^-11 or so."""
    expected = cells.sum() / len(cells)
    freedom = len(cells) - 1
    statistic = float(((cells - expected) ** 2 / expected).sum())
    return float((statistic - freedom) / np.sqrt(2 * freedom))


def is_uniform(values: Integers, bits: int) -> bool:
    """Whether values in [0, 2**bits) pass as uniform and independent."""
    views = (
        [(values, bits)] if bits <= 10 else [(values >> np.uint64(bits - 8), 8), (values & np.uint64(255), 8)]
    )
    lags = values - np.roll(values, 1) & np.uint64((1 << bits) - 1)
    views.append((lags >> np.uint64(max(0, bits - 8)), min(bits, 8)))
    return all(
        chi_square(np.bincount(view.astype(np.int64), minlength=1 << width)) < 7 for view, width in views
    )


def fields(stage: Stage, words: Vector) -> Integers:
    """Elements of a masked vector, cut into fields of a value's width: uniform if the elements are."""
    bits = stage.protocol.suite.surface.ring.bits
    residues = stage.ring.residues(words).astype(np.uint64)
    mask = np.uint64((1 << bits) - 1)
    return np.concatenate([residues >> np.uint64(at) & mask for at in range(0, stage.ring.bits, bits)])


def sent(stage: Stage, length: int = 60_000) -> list[Vector]:
    """The masked vectors of a round, check words and all."""
    return [stage.words(each.vector, length) for each in stage.answers(2, MaskedInput).values()]


def masked(
    surface_bits: int, inputs: Callable[[int, np.random.Generator], Any], length: int = 60_000
) -> tuple[Integers, int]:
    """All masked vectors of a round on the integer surface, one after the other, and the ring's width."""
    largest = ((1 << surface_bits) - 1) // len(NAMES)
    protocol = MaskedSum(max_clients=len(NAMES)).exact(max_summand=max(largest, 1))
    ring = protocol.suite.surface.ring
    generator = np.random.default_rng(1)
    stage = Stage(protocol, NAMES)
    data = {name: np.asarray(inputs(max(largest, 1), generator), dtype=np.uint64) for name in NAMES}
    stage.play(data)
    return np.concatenate([fields(stage, words) for words in sent(stage)]), ring.bits


INPUTS: dict[str, Callable[[int, np.random.Generator], Any]] = {
    "zeros": lambda largest, generator: np.zeros(60_000),
    "the largest value": lambda largest, generator: np.full(60_000, largest),
    "random": lambda largest, generator: generator.integers(0, largest + 1, 60_000),
    "alternating": lambda largest, generator: np.tile([0, largest], 30_000),
}


@pytest.mark.parametrize("bits", [2, 5, 8, 10, 20, 31, 32, 33, 48, 62])
@pytest.mark.parametrize("inputs", INPUTS)
def test_masked_vectors_are_uniform_whatever_is_in_them(bits: int, inputs: str) -> None:
    values, width = masked(bits, INPUTS[inputs])
    assert width == bits
    assert is_uniform(values, width)


@pytest.mark.parametrize("bits", [4, 12, 16])
def test_masked_float_vectors_are_uniform(bits: int) -> None:
    protocol = MaskedSum(max_clients=3, bits=bits)
    bits = protocol.suite.surface.ring.bits
    for update in (np.zeros(60_000), np.linspace(-1, 1, 60_000)):
        stage = Stage(protocol, NAMES)
        for _ in range(2):  # an epoch's first round and a steady one
            stage.play(dict.fromkeys(NAMES, update))
            assert all(is_uniform(fields(stage, words), bits) for words in sent(stage))


@pytest.mark.parametrize("bits", [2, 8, 20])
@pytest.mark.parametrize("rounds", [1, 2])
def test_two_clients_vectors_are_independent(bits: int, rounds: int) -> None:
    """Pair masks appear in two vectors, with opposite signs; self masks keep sums and differences uniform."""
    largest = ((1 << bits) - 1) // len(NAMES)
    stage = Stage(MaskedSum(max_clients=len(NAMES)).exact(max_summand=max(largest, 1)), NAMES)
    generator = np.random.default_rng(1)
    for _ in range(rounds):
        inputs = (generator.integers(0, largest + 1, 60_000).astype(np.uint64) for _ in NAMES)
        stage.play(dict(zip(NAMES, inputs, strict=True)))
    parts = sent(stage)
    for one, other in pairwise([*parts, parts[0]]):
        for mixed in (one + other, one - other):
            assert is_uniform(fields(stage, mixed), bits)


def hidden(protocol: Any, stage: Stage, length: int = 60_000) -> list[Integers]:
    """The coefficients of LatticeSum's vectors in a round."""
    vectors, surface = protocol.suite.client._vectors, protocol.suite.surface
    count = vectors.coefficients(surface.elements(length))
    said = stage.answers(protocol.suite.collecting, lattice.Contribution).values()
    return [vectors.ring.unpack(each.vector, count) for each in said]


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_vectors_under_a_lattice_mask_are_uniform(bits: int, value: float) -> None:
    protocol: Any = LatticeSum(max_clients=3, bits=bits)
    stage, width = Stage(protocol, NAMES), protocol.suite.client._vectors.modulus_bits
    for _ in range(2):
        stage.play(dict.fromkeys(NAMES, np.full(60_000, value)))
        parts = hidden(protocol, stage)
        assert len(parts) == 3
        mask = np.uint64((1 << width) - 1)
        for one, other in pairwise([*parts, parts[0]]):
            assert is_uniform(one, width)
            assert is_uniform(one + other & mask, width)
            assert is_uniform(one - other & mask, width)


def test_a_lattice_mask_without_a_key_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened copy: the noise alone, which hides a few low bits."""
    nothing = np.full(4096, rlwe.KEY_SUMMAND_MAX // 2, dtype=np.uint64)
    monkeypatch.setattr(rlwe, "draw_key", lambda entropy, *, degree: nothing)
    protocol: Any = LatticeSum(max_clients=3)
    stage, width = Stage(protocol, NAMES), protocol.suite.client._vectors.modulus_bits
    stage.play(dict.fromkeys(NAMES, np.linspace(-1, 1, 60_000)))
    assert not any(is_uniform(each, width) for each in hidden(protocol, stage))


def test_one_lattice_key_for_two_clients_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened copy: each vector alone is uniform, and their difference is that of the updates."""
    draw, keys = rlwe.draw_key, list[Any]()

    def first_again(entropy: Any, *, degree: int) -> Any:
        keys.append(draw(entropy, degree=degree))
        return keys[0]

    monkeypatch.setattr(rlwe, "draw_key", first_again)
    protocol: Any = LatticeSum(max_clients=3)
    stage, width = Stage(protocol, NAMES), protocol.suite.client._vectors.modulus_bits
    # Stopped before the end: the sum of three equal keys is too large for one of three keys, and is refused.
    stage.open(dict.fromkeys(NAMES, np.zeros(60_000)), until=protocol.suite.collecting + 1)
    one, other, _ = hidden(protocol, stage)
    assert is_uniform(one, width)
    assert not is_uniform(one - other & np.uint64((1 << width) - 1), width)


# The test can fail


def planted(kind: str, bits: int, count: int = 180_000) -> Integers:
    """A vector of zeros behind a mask from a weak generator."""
    generator = np.random.default_rng(7)
    top = 1 << bits
    if kind == "misses the largest value":
        return generator.integers(0, top - 1, count, dtype=np.uint64)
    if kind == "bounded":
        bound = top >> 3
        return (generator.integers(-bound, bound + 1, count) % top).astype(np.uint64)
    if kind == "normal":
        return (np.rint(generator.normal(0, top / 6, count)).astype(np.int64) % top).astype(np.uint64)
    if kind == "a stuck bit":
        return generator.integers(0, top, count, dtype=np.uint64) | np.uint64(1)
    if kind == "repeats":
        return np.repeat(generator.integers(0, top, count // 2, dtype=np.uint64), 2)
    if kind == "unmasked":
        return np.zeros(count, dtype=np.uint64)
    return generator.integers(0, top, count, dtype=np.uint64)


@pytest.mark.parametrize("bits", [5, 8, 20, 33])
@pytest.mark.parametrize("kind", ["bounded", "normal", "a stuck bit", "repeats", "unmasked"])
def test_planted_generators_are_caught(kind: str, bits: int) -> None:
    assert is_uniform(planted("none", bits), bits)
    assert not is_uniform(planted(kind, bits), bits)


@pytest.mark.parametrize("bits", [2, 5, 8, 10])
def test_an_exclusive_upper_end_is_caught(bits: int) -> None:
    assert not is_uniform(planted("misses the largest value", bits, 1 << 20), bits)


@pytest.mark.parametrize("bits", [2, 8, 16, 17])
def test_our_masks_reach_both_ends_of_the_ring(bits: int) -> None:
    """With 2^17 values and 2^21 draws each end comes 16 times on average."""
    ring = Ring(bits=bits)
    mask = ring.residues(expand(Secret(bytes(range(16))), ring=ring, count=1 << 21))
    assert mask.min() == 0
    assert mask.max() == (1 << bits) - 1


def test_bounded_masks_in_the_protocol_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened copy: the real protocol, with masks of 8 bits in a ring of 20."""
    honest = masking.MaskStream.apply

    def bounded(self: Any, part: Any) -> None:
        before = part.copy()
        honest(self, part)
        part[:] = before + ((part - before) & 255)

    monkeypatch.setattr(masking.MaskStream, "apply", bounded)
    assert not is_uniform(before_the_end(20), 20)


def before_the_end(bits: int) -> Integers:
    """The vectors of a round that is stopped before its sum is opened."""
    stage = Stage(MaskedSum(max_clients=len(NAMES)).exact(max_summand=((1 << bits) - 1) // 3), NAMES)
    stage.open(dict.fromkeys(NAMES, np.zeros(60_000, dtype=np.uint64)), until=3)
    return np.concatenate([fields(stage, words) for words in sent(stage)])


# No input on the wire


def traces(protocol: Any, data: dict[str, Vector]) -> list[bytes]:
    """Bytes that would give an update away: as floats, as integers, packed, in plaintexts."""
    found: list[bytes] = []
    surface = protocol.suite.surface
    for update in data.values():
        steps = np.rint(update).astype(np.int64)
        words = np.append(steps, 1).astype(surface.ring.dtype)
        packed = bytes(surface.ring.pack(words))
        forms = [
            update.tobytes(),
            update.astype(np.float32).tobytes(),
            steps.tobytes(),
            words.tobytes(),
            packed,
        ]
        if isinstance(protocol, MaskedSum):  # as its vector would be without masks
            lanes = lanes_of(surface)
            zeros = np.zeros(check_words(surface.ring.bits), dtype=surface.ring.dtype)
            wide = np.concatenate(list(lanes.joined([np.append(words, zeros)])))
            forms += [wide.tobytes(), bytes(lanes.wide.pack(wide))]
        if isinstance(protocol, PaillierSum):
            packing = protocol.scheme(protocol.surface).packing
            for row in packing.encode(np.append(steps, 1)):
                forms += [abs(row).to_bytes(256, order) for order in ("big", "little")]
        found += [form[at : at + 12] for form in forms for at in range(16, len(form) - 12, 5)]
    return [window for window in found if len(set(window)) > 6]


def leaks(protocol: Any) -> list[bytes]:
    """Traces of the inputs in anything that was sent."""
    generator = np.random.default_rng(3)
    data = {name: generator.integers(-32767, 32768, 200).astype(np.float64) for name in NAMES}
    stage = Stage(protocol, NAMES)
    stage.play(data)
    wire = b"".join(each.message for each in stage.wire)
    windows = traces(protocol, data)
    assert len(windows) > 300
    return [window for window in windows if window in wire]


def test_the_search_finds_plain_vectors() -> None:
    assert leaks(PlainSum(max_clients=3, clip=32767.0))


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(MaskedSum(max_clients=3, clip=32767.0), id="masked"),
        pytest.param(CkksSum(max_clients=3, clip=32767.0), id="ckks"),
        pytest.param(PaillierSum(max_clients=3, clip=32767.0, key_bits=2048), id="paillier"),
        pytest.param(LatticeSum(max_clients=3, clip=32767.0), id="lattice"),
        pytest.param(
            LatticeSum(max_clients=3, clip=32767.0, keys=partial(PaillierSum, key_bits=2048)),
            id="lattice over paillier",
        ),
    ],
)
def test_no_transcript_contains_an_input(protocol: Any) -> None:
    assert leaks(protocol) == []


def test_the_searches_use_updates_on_the_grid() -> None:
    """So that the integers on the wire are known exactly, rounding or not."""
    surface = MaskedSum(max_clients=3, clip=32767.0).surface
    assert surface.codec.largest_step == 32767
    assert updates_of("a")["a"].dtype == np.float64


def test_the_search_finds_what_a_client_sends_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened copy: all of MaskedSum but the masks."""
    monkeypatch.setattr(masking.MaskStream, "apply", lambda self, part: None)
    monkeypatch.setattr("protocols.masked.unmasking.apply_masks", lambda *_, **__: None)
    assert leaks(MaskedSum(max_clients=3, clip=32767.0))


# Two runs that differ in their inputs alone

SEVEN = "abcdefg"


class Dribbles(ClientMachine):
    """A client that takes a little more randomness for each value that it clips, and is therefore read."""

    def contribute(self, update: Any, **named: Any) -> Any:
        for _ in range(int(np.count_nonzero(np.abs(update) > 1))):
            self._entropy(1)
        return super().contribute(update, **named)


def two_runs(
    monkeypatch: pytest.MonkeyPatch, machine: type[ClientMachine], build: Any = MaskedSum, **named: Any
) -> tuple[list[Wire], list[Wire], Stage]:
    """All messages of two rounds, twice, with the same randomness and other inputs and weights."""
    made: dict[tuple[int, bytes], Any] = {}

    def again(key: bytes) -> Any:
        # The backend draws the randomness of an encapsulation itself; this gives the second run the first's.
        count[key] = count.get(key, 0) + 1
        return made.setdefault((count[key], key), encapsulate(key))

    monkeypatch.setattr(dealing, "encapsulate", again)
    wires: list[list[Wire]] = []
    for run in (1, 2):
        count: dict[bytes, int] = {}
        stage = Stage(
            build(max_clients=8, max_weight=9, **named),
            SEVEN,
            machine=dict.fromkeys(SEVEN, machine),
        )
        wires.append([])
        for number in range(2):
            updates = {
                name: update * 1.5 for name, update in updates_of(SEVEN, seed=10 * run + number).items()
            }
            stage.play(updates, weights=dict.fromkeys(SEVEN, 4 * run), gone={"g": 2} if number else {})
            wires[-1] += stage.wire
    return wires[0], wires[1], stage


REQUIREMENTS = {adversary.value: Requirements(adversary=adversary) for adversary in Adversary}


@pytest.mark.parametrize("adversary", REQUIREMENTS)
def test_runs_with_other_inputs_differ_in_the_vectors_alone(
    monkeypatch: pytest.MonkeyPatch, adversary: str
) -> None:
    one, other, stage = two_runs(monkeypatch, ClientMachine, requirements=REQUIREMENTS[adversary])
    assert len(one) == len(other) > 50
    differ = 0
    for first, second in zip(one, other, strict=True):
        assert (first.down, first.exchange, first.client) == (second.down, second.exchange, second.client)
        assert len(first.message) == len(second.message)
        if first.message == second.message:
            continue
        differ += 1
        assert not first.down
        assert first.exchange == 2
        here, there = (body_of(MaskedInput, each.message) for each in (first, second))
        assert (here.transcript, here.unopened) == (there.transcript, there.unopened)
        # Under the same masks the difference is that of the inputs: nothing else was mixed in.
        change = np.abs(stage.values(stage.words(here.vector) - stage.words(there.vector)))
        assert 0 < change.max() <= 2 * stage.protocol.suite.surface.summand_bound
    assert differ == sum(not each.down and each.exchange == 2 for each in one)


def test_runs_of_lattice_sum_differ_in_the_vectors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the keys nor anything else of the key layer says a thing about the inputs."""
    one, other, stage = two_runs(monkeypatch, ClientMachine, LatticeSum)
    suite: Any = stage.protocol.suite
    vectors = suite.client._vectors
    count, differ = vectors.coefficients(suite.surface.elements(24)), 0
    for first, second in zip(one, other, strict=True):
        assert (first.down, first.exchange, first.client) == (second.down, second.exchange, second.client)
        assert len(first.message) == len(second.message)
        if first.message == second.message:
            continue
        differ += 1
        assert not first.down
        assert first.exchange == suite.collecting
        here, there = (body_of(lattice.Contribution, each.message) for each in (first, second))
        assert here.keys == there.keys
        # Under the same key and noise the difference is a multiple of Δ: that of the inputs.
        change = vectors.ring.unpack(here.vector, count) - vectors.ring.unpack(there.vector, count)
        assert not (change & np.uint64((1 << vectors.scale_bits) - 1)).any()
        assert change.any()
    assert differ == sum(not each.down and each.exchange == suite.collecting for each in one)


@pytest.mark.parametrize("build", [MaskedSum, LatticeSum])
def test_a_client_whose_randomness_depends_on_its_input_is_caught(
    monkeypatch: pytest.MonkeyPatch, build: Any
) -> None:
    one, other, _ = two_runs(monkeypatch, Dribbles, build)
    both = zip(one, other, strict=True)
    assert any(first.message != second.message and first.exchange != 2 for first, second in both)
