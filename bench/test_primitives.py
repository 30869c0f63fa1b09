"""The floor's own primitives, each alone, in processor time. `values` says what one call works on."""

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count as counter

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bench.sampling import Laps, MaskFloor, draw_updates, repeat
from protocols import Adversary, Requirements
from protocols.planning.planner import plan_masked
from secagg import labels
from secagg.ckks import scheme as ckks
from secagg.entropy import SeededEntropy, system_entropy
from secagg.noise import DiscreteGaussian, Skellam
from secagg.paillier import packing as paillier_packing
from secagg.paillier import scheme as paillier
from secagg.secret import Secret
from secagg.shamir import combine, split
from secagg.standard.agreement import agree, generate, public_key
from secagg.standard.kdf import stretch
from secagg.standard.kem import SEED_BYTES, DecapsulationKey, encapsulate
from secagg.vectors.fixedpoint import FixedPoint, Rounding
from secagg.vectors.linear_mac import MacKey
from secagg.vectors.masking import apply_masks
from secagg.vectors.ring import Ring, Words

pytestmark = pytest.mark.benchmark(timer=time.process_time)

COUNT = 10**6
MASKS = 10
RING = Ring(bits=20)
LARGEST = 32767  # 16-bit values, and ten clients of weight one


def describe(benchmark: BenchmarkFixture, name: str, *, values: int) -> None:
    """What the report calls this benchmark, and the values that one call works on."""
    benchmark.extra_info.update(kind="primitive", name=name, values=values)


def drawn_words() -> NDArray[np.uint32]:
    return np.random.default_rng(1).integers(0, 1 << 32, COUNT, dtype=np.uint32)


def drawn_steps(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(2).integers(-LARGEST, LARGEST + 1, count, dtype=np.int64)


def test_masking_against_its_floor(benchmark: BenchmarkFixture) -> None:
    floor = MaskFloor(masks=MASKS, count=COUNT)
    vector = RING.zeros(COUNT)
    seeds = [Secret(bytes([index]) * 16) for index in range(MASKS)]
    laps = Laps()

    def lap() -> None:
        laps.time("floor", floor, values=MASKS * COUNT)
        laps.time(
            "apply_masks",
            lambda: apply_masks(vector, ring=RING, add=seeds[:5], subtract=seeds[5:]),
            values=MASKS * COUNT,
        )

    repeat(benchmark, lap, rounds=16)
    benchmark.extra_info.update(kind="masking", laps=laps.record())


def test_masks_on_threads(benchmark: BenchmarkFixture) -> None:
    """Whether masks scale over threads: the same two vectors on one thread and on two, by the wall clock."""
    vectors = [RING.zeros(COUNT) for _ in range(2)]
    seeds = [Secret(bytes([index]) * 16) for index in range(MASKS)]
    laps = Laps()

    def mask(vector: Words) -> None:
        apply_masks(vector, ring=RING, add=seeds, subtract=[])

    def lap() -> None:
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(len, vectors))  # threads are made beforehand
            laps.time("one thread", lambda: list(map(mask, vectors)), values=2 * MASKS * COUNT)
            laps.time("two threads", lambda: list(pool.map(mask, vectors)), values=2 * MASKS * COUNT)

    repeat(benchmark, lap, rounds=8)
    benchmark.extra_info.update(kind="threads", laps=laps.record())


def test_pack(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "ring: pack, 20 bits", values=COUNT)
    benchmark(RING.pack, drawn_words())


def test_unpack(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "ring: unpack, 20 bits", values=COUNT)
    benchmark(RING.unpack, RING.pack(drawn_words()), COUNT)


def test_add_packed(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "ring: add a packed vector, 20 bits", values=COUNT)
    benchmark(RING.add_packed, RING.zeros(COUNT), RING.pack(drawn_words()))


@pytest.mark.parametrize("rounding", Rounding)
def test_fixed_point_encode(benchmark: BenchmarkFixture, rounding: Rounding) -> None:
    describe(benchmark, f"fixed point: encode, {rounding.value} rounding", values=COUNT)
    (update,) = draw_updates(1, COUNT).values()
    out = np.empty(COUNT, dtype=np.uint32)
    benchmark(FixedPoint(rounding=rounding).encode, update, out=out, entropy=system_entropy)


def test_fixed_point_decode(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "fixed point: decode", values=COUNT)
    benchmark(FixedPoint().decode, drawn_steps(COUNT), total_weight=1)


@pytest.mark.parametrize("sigma", [2.0, 10.0, 1000.0, 30_000.0])
@pytest.mark.parametrize("law", [Skellam, DiscreteGaussian])
def test_noise(benchmark: BenchmarkFixture, law: type[Skellam | DiscreteGaussian], sigma: float) -> None:
    """Samples, the table made beforehand."""
    noise = Skellam(variance=sigma**2) if law is Skellam else DiscreteGaussian(sigma=sigma)
    describe(benchmark, f"noise: {law.__name__}, σ = {sigma:,.0f}", values=COUNT)
    noise.sample(1)
    benchmark(noise.sample, COUNT, entropy=system_entropy)


def test_shamir_split(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "Shamir: split one key, 100 holders, threshold 60", values=1)
    benchmark(split, Secret(bytes(32)), threshold=60, indices=range(1, 101))


def test_shamir_combine(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "Shamir: combine 60 shares, weights remembered", values=1)
    shares = split(Secret(bytes(32)), threshold=60, indices=range(1, 101))
    benchmark(combine, shares[:60], threshold=60)


def test_x25519(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "X25519: agree", values=1)
    benchmark(agree, generate(), public_key(generate()))


def test_ml_kem_generate(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "ML-KEM-768: key from a seed", values=1)
    benchmark(DecapsulationKey, Secret(bytes(SEED_BYTES)))


def test_ml_kem_edge(benchmark: BenchmarkFixture) -> None:
    """Both ends of an edge in an epoch's first dealing: a channel each way, and one mask key."""
    describe(benchmark, "ML-KEM-768: an edge, 3 encapsulations and decapsulations", values=1)
    keys = [DecapsulationKey(Secret(bytes([index]) * SEED_BYTES)) for index in range(3)]

    def edge() -> None:
        for key in keys:
            _, ciphertext = encapsulate(key.encapsulation_key)
            key.decapsulate(ciphertext)

    benchmark(edge)


def test_graph_seed(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "scrypt: the seed of a graph", values=1)
    fresh = counter()  # results are cached
    benchmark(lambda: stretch(next(fresh).to_bytes(8, "big"), label=labels.GRAPH_SEED))


@pytest.mark.parametrize(
    ("adversary", "fraction"), [(Adversary.SEMI_MALICIOUS, 0.05), (Adversary.MALICIOUS, 0.2)]
)
def test_plan(benchmark: BenchmarkFixture, adversary: Adversary, fraction: float) -> None:
    """Corrupt and dropped clients in the same share of 10^6."""
    describe(benchmark, f"planner: 10^6 clients, {adversary.value}, γ = δ = {fraction}", values=1)
    requirements = Requirements(
        adversary=adversary, corrupt_fraction=fraction, dropout_fraction=fraction, grinding_bits=0
    )
    fresh = counter(1)  # plans are cached, and the ring is only passed on
    benchmark(lambda: plan_masked(10**6, requirements, ring_bits=next(fresh)))


def test_mac(benchmark: BenchmarkFixture) -> None:
    describe(benchmark, "linear MAC: tag", values=COUNT)
    benchmark(MacKey(Secret(bytes(32))).tag, drawn_steps(COUNT), signer=b"a client", context=b"a round")


@pytest.mark.parametrize("key_bits", [2048, 3072])
@pytest.mark.parametrize("work", ["encrypt", "decrypt"])
def test_paillier(benchmark: BenchmarkFixture, work: str, key_bits: int) -> None:
    key = paillier.generate_key(key_bits=key_bits, entropy=SeededEntropy(b"bench"))
    packing = paillier_packing.Packing(key_bits=key_bits, bound=LARGEST, max_summands=10)
    # A client's vector has thousands of values; opening takes so long that fewer will do.
    count = packing.slots * (64 if work == "encrypt" else 8)
    values = drawn_steps(count)
    describe(benchmark, f"Paillier {key_bits}: {work}, 16-bit values of 10 clients", values=count)
    body = paillier_packing.encrypt_vector(key.public_key, values, packing=packing)
    if work == "encrypt":
        benchmark(paillier_packing.encrypt_vector, key.public_key, values, packing=packing)
    else:
        benchmark(paillier_packing.decrypt_vector, key, body, packing=packing, count=count, summands=1)


@pytest.mark.parametrize("work", ["encrypt", "decrypt"])
def test_ckks(benchmark: BenchmarkFixture, work: str) -> None:
    pytest.importorskip("tenseal")
    count = 100_000
    parameters = ckks.choose_parameters(bound=10 * LARGEST, max_summands=10)
    key = ckks.generate_key(parameters)
    values = drawn_steps(count)
    describe(benchmark, f"CKKS: {work}, 16-bit values of 10 clients", values=count)
    body = key.encrypt_vector(values)
    if work == "encrypt":
        benchmark(key.encrypt_vector, values)
    else:
        benchmark(key.decrypt_vector, body, count=count, bound=parameters.bound)
