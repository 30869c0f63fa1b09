"""Packed Paillier vectors: exact at the extremes, sums of many, sizes, and every malformed body."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.errors import DecodeError, ParameterError, SecAggError, VerificationError
from secagg.paillier.packing import Accumulator, Packing, decrypt_vector, encrypt_vector
from secagg.paillier.scheme import PublicKey, generate_key

Vector = npt.NDArray[np.int64]

KEY = generate_key(key_bits=2048, entropy=SeededEntropy(b"test_paillier_packing"))
PUBLIC = KEY.public_key
N = PUBLIC.n
P, Q = KEY.reveal_primes()
SIZE = PUBLIC.ciphertext_bytes
PACKING = Packing(key_bits=2048, bound=32767, max_summands=10)


def total(vectors: list[Vector], packing: Packing) -> Vector:
    """The sum of vectors through encryption, accumulation and decryption."""
    count = len(vectors[0])
    accumulator = Accumulator(PUBLIC, packing.ciphertexts(count))
    for vector in vectors:
        accumulator.add(encrypt_vector(PUBLIC, vector, packing=packing))
    return decrypt_vector(KEY, accumulator.to_bytes(), packing=packing, count=count, summands=len(vectors))


def ciphertext(value: int) -> bytes:
    return value.to_bytes(SIZE, "big")


class TestPacking:
    @pytest.mark.parametrize(
        ("key_bits", "bound", "summands", "slot_bits", "slots"),
        [
            (3072, 32767, 10, 20, 153),
            (2048, 32767, 10, 20, 102),
            (2048, 1, 1, 2, 1023),
            (2048, 127, 100, 15, 136),
            (2048, 2**63 - 1, 1, 64, 31),
        ],
    )
    def test_layout(self, key_bits: int, bound: int, summands: int, slot_bits: int, slots: int) -> None:
        packing = Packing(key_bits=key_bits, bound=bound, max_summands=summands)
        assert (packing.slot_bits, packing.slots) == (slot_bits, slots)

    def test_sixteen_bits_and_ten_clients_take_at_most_5_2_bytes_a_value(self) -> None:
        packing = Packing(key_bits=3072, bound=32767, max_summands=10)
        assert packing.body_bytes(1_000_000) / 1_000_000 < 5.2
        assert packing.body_bytes(153) == 768
        assert packing.body_bytes(154) == 2 * 768

    def test_a_declared_limit_on_the_sum_saves_bits(self) -> None:
        wide = Packing(key_bits=2048, bound=1000, max_summands=1000)
        narrow = Packing(key_bits=2048, bound=1000, max_summands=1000, max_sum=2000)
        assert (wide.slot_bits, narrow.slot_bits) == (21, 12)
        assert total([np.array([-1000, 1000])] * 2, narrow).tolist() == [-2000, 2000]

    @pytest.mark.parametrize("bound", [1, 3, 32767, 2**31, 2**40 + 1, 2**62])
    def test_plaintexts_against_plain_integers(self, bound: int) -> None:
        packing = Packing(key_bits=2048, bound=bound, max_summands=1)
        count = 2 * packing.slots + 3
        values = np.random.default_rng(7).integers(-bound, bound, count, endpoint=True)
        plaintexts = packing.encode(values)
        for row, plaintext in enumerate(plaintexts):
            part = values[row * packing.slots : (row + 1) * packing.slots].tolist()
            assert plaintext == sum(x << (packing.slot_bits * j) for j, x in enumerate(part))
        residues = [plaintext % N for plaintext in plaintexts]
        np.testing.assert_array_equal(packing.decode(residues, modulus=N, count=count, summands=1), values)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"key_bits": 1024},
            {"key_bits": "2048"},
            {"bound": 0},
            {"bound": -1},
            {"bound": 1.0},
            {"bound": True},
            {"max_summands": 0},
            {"max_summands": None},
            {"max_sum": 0},
            {"max_sum": 32766},
            {"max_sum": 327671},
            {"bound": 2**63},
            {"bound": 2**62, "max_summands": 2},
        ],
    )
    def test_bad_arguments(self, arguments: dict[str, int]) -> None:
        with pytest.raises(ParameterError):
            Packing(**{"key_bits": 2048, "bound": 32767, "max_summands": 10, **arguments})

    @pytest.mark.parametrize("count", [0, -1, 1.0, None, True])
    def test_bad_counts(self, count: int) -> None:
        for method in (PACKING.ciphertexts, PACKING.body_bytes):
            with pytest.raises(ParameterError):
                method(count)


class TestSums:
    @pytest.mark.parametrize("count", [1, 101, 102, 103, 205])
    @pytest.mark.parametrize("sign", [-1, 1])
    def test_exact_when_every_client_is_at_its_bound(self, count: int, sign: int) -> None:
        vector = np.full(count, sign * PACKING.bound)
        np.testing.assert_array_equal(total([vector] * 10, PACKING), 10 * vector)

    def test_neighbours_at_opposite_extremes(self) -> None:
        vector = np.where(np.arange(205) % 2, PACKING.bound, -PACKING.bound)
        np.testing.assert_array_equal(total([vector] * 10, PACKING), 10 * vector)
        np.testing.assert_array_equal(total([vector, -vector] * 5, PACKING), 0 * vector)

    @pytest.mark.parametrize("bound", [2**62, 2**63 - 1])
    def test_the_widest_slots(self, bound: int) -> None:
        packing = Packing(key_bits=2048, bound=bound, max_summands=1)
        vector = np.array([bound, -bound, 0, 1, -1] * 8)
        np.testing.assert_array_equal(total([vector], packing), vector)

    def test_more_ciphertexts_than_a_block(self) -> None:
        packing = Packing(key_bits=2048, bound=2**60, max_summands=2)
        vector = np.random.default_rng(3).integers(-(2**60), 2**60, 70 * packing.slots + 5)
        np.testing.assert_array_equal(total([vector, vector], packing), 2 * vector)

    @settings(max_examples=12, deadline=None)
    @given(st.data())
    def test_any_sum_is_the_sum_of_integers(self, data: st.DataObject) -> None:
        bound = data.draw(st.integers(1, 2**40))
        summands = data.draw(st.integers(1, 5))
        count = data.draw(st.integers(1, 150))
        seed = data.draw(st.integers(0, 2**32 - 1))
        packing = Packing(key_bits=2048, bound=bound, max_summands=summands)
        rng = np.random.default_rng(seed)
        vectors = list(rng.integers(-bound, bound, (summands, count), endpoint=True))
        np.testing.assert_array_equal(total(vectors, packing), np.sum(vectors, axis=0))

    def test_strided_input(self) -> None:
        vector = np.arange(-100, 100)[::2]
        np.testing.assert_array_equal(total([vector], PACKING), vector)


class TestWhatABodyShows:
    def test_size_does_not_depend_on_values(self) -> None:
        # ATTACKS C7: no exponent in clear.
        rng = np.random.default_rng(5)
        vectors = [np.zeros(150, dtype=np.int64), np.full(150, 32767), rng.integers(-9, 9, 150)]
        sizes = {len(encrypt_vector(PUBLIC, vector, packing=PACKING)) for vector in vectors}
        assert sizes == {PACKING.body_bytes(150)} == {2 * SIZE}

    def test_equal_vectors_look_different(self) -> None:
        # The weakened copy repeats its randomness, and equal vectors show.
        vector = np.arange(150)
        bodies = [encrypt_vector(PUBLIC, vector, packing=PACKING) for _ in range(2)]
        assert not {bodies[0][:SIZE], bodies[0][SIZE:]} & {bodies[1][:SIZE], bodies[1][SIZE:]}
        weak = [
            encrypt_vector(PUBLIC, vector, packing=PACKING, entropy=SeededEntropy(b"weak")) for _ in range(2)
        ]
        assert weak[0] == weak[1]


class TestBadInput:
    @pytest.mark.parametrize(
        "values",
        [
            [1, 2],
            np.array([1.0]),
            np.array([1], dtype=np.int32),
            np.array([1], dtype=np.uint64),
            np.array([1], dtype=">i8"),
            np.array([[1]]),
            np.array(1),
            np.array([], dtype=np.int64),
            np.array([0, 32768]),
            np.array([-32768]),
            np.array([-(2**63)]),
            None,
        ],
    )
    def test_values(self, values: Vector) -> None:
        with pytest.raises(ParameterError):
            encrypt_vector(PUBLIC, values, packing=PACKING)
        with pytest.raises(ParameterError):
            PACKING.encode(values)

    def test_the_text_names_the_index_and_not_the_value(self) -> None:
        with pytest.raises(ParameterError, match="value 3 ") as caught:
            encrypt_vector(PUBLIC, np.array([0, 0, 0, 40001, 50002]), packing=PACKING)
        assert "40001" not in str(caught.value)

    def test_keys_and_packings_of_another_kind(self) -> None:
        longer = Packing(key_bits=3072, bound=1, max_summands=1)
        one = np.array([1])
        with pytest.raises(ParameterError, match="3072"):
            encrypt_vector(PUBLIC, one, packing=longer)
        with pytest.raises(ParameterError, match="3072"):
            decrypt_vector(KEY, bytes(768), packing=longer, count=1, summands=1)
        with pytest.raises(ParameterError):
            encrypt_vector(KEY, one, packing=PACKING)  # type: ignore[arg-type]
        with pytest.raises(ParameterError):
            encrypt_vector(PUBLIC, one, packing=None)  # type: ignore[arg-type]
        with pytest.raises(ParameterError):
            decrypt_vector(PUBLIC, bytes(SIZE), packing=PACKING, count=1, summands=1)  # type: ignore[arg-type]
        with pytest.raises(ParameterError):
            Accumulator(KEY, 1)  # type: ignore[arg-type]

    @pytest.mark.parametrize("summands", [-1, 11, 1.0, None, True])
    def test_summands(self, summands: int) -> None:
        body = encrypt_vector(PUBLIC, np.array([1]), packing=PACKING)
        with pytest.raises(ParameterError):
            decrypt_vector(KEY, body, packing=PACKING, count=1, summands=summands)

    def test_a_plaintext_too_many(self) -> None:
        with pytest.raises(ParameterError):
            PACKING.decode([0, 0], modulus=N, count=1, summands=1)


GOOD = encrypt_vector(PUBLIC, np.arange(150), packing=PACKING)

MALFORMED = {
    "empty": (b"", DecodeError),
    "truncated": (GOOD[:-1], DecodeError),
    "one ciphertext short": (GOOD[:SIZE], DecodeError),
    "oversized": (GOOD + b"\0", DecodeError),
    "one ciphertext long": (GOOD + GOOD[:SIZE], DecodeError),
    "not bytes": ("text", DecodeError),
    "none": (None, DecodeError),
    "zero": (GOOD[:SIZE] + ciphertext(0), DecodeError),
    "n squared": (GOOD[:SIZE] + ciphertext(N * N), DecodeError),
    "all ones": (GOOD[:SIZE] + b"\xff" * SIZE, DecodeError),
    "multiple of p": (GOOD[:SIZE] + ciphertext(5 * P), VerificationError),
    "multiple of q squared": (ciphertext(3 * Q**2) + GOOD[SIZE:], VerificationError),
    "multiple of n": (GOOD[:SIZE] + ciphertext(7 * N), VerificationError),
}


class TestMalformedBodies:
    @pytest.mark.parametrize(("body", "error"), MALFORMED.values(), ids=MALFORMED.keys())
    def test_the_accumulator_refuses_and_keeps_its_state(self, body: bytes, error: type[SecAggError]) -> None:
        accumulator = Accumulator(PUBLIC, 2)
        accumulator.add(GOOD)
        before = accumulator.export()
        with pytest.raises(error):
            accumulator.add(body)
        assert accumulator.export() == before
        with pytest.raises(error):
            Accumulator.restore(PUBLIC, 2, b"\0\0\0\1" + body if isinstance(body, bytes) else body)

    @pytest.mark.parametrize(("body", "error"), MALFORMED.values(), ids=MALFORMED.keys())
    def test_opening_refuses(self, body: bytes, error: type[SecAggError]) -> None:
        with pytest.raises(error):
            decrypt_vector(KEY, body, packing=PACKING, count=150, summands=1)

    def test_any_buffer_is_taken(self) -> None:
        for body in (bytearray(GOOD), memoryview(GOOD)):
            accumulator = Accumulator(PUBLIC, 2)
            accumulator.add(body)
            assert accumulator.to_bytes() == GOOD
            opened = decrypt_vector(KEY, body, packing=PACKING, count=150, summands=1)
            np.testing.assert_array_equal(opened, np.arange(150))


class TestHeadroom:
    def opened(self, plaintext: int, *, count: int = 102, summands: int = 10) -> Vector:
        body = ciphertext(PUBLIC.encrypt_int(plaintext % N))
        return decrypt_vector(KEY, body, packing=PACKING, count=count, summands=summands)

    # ATTACKS C6.
    @pytest.mark.parametrize(
        "plaintext",
        [1 << 2040, N // 2, N - (1 << 2040), (1 << 2047) - 1],
        ids=["above", "half", "below", "top"],
    )
    def test_a_plaintext_outside_all_slots(self, plaintext: int) -> None:
        with pytest.raises(VerificationError, match="headroom"):
            self.opened(plaintext)

    @pytest.mark.parametrize("slot", [0, 50, 101])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_slot_at_and_over_its_bound(self, slot: int, sign: int) -> None:
        assert self.opened(sign * 327670 << (20 * slot))[slot] == sign * 327670
        with pytest.raises(VerificationError):
            self.opened(sign * 327671 << (20 * slot))

    def test_more_than_the_contributors_can_reach(self) -> None:
        assert self.opened(2 * 32767, summands=2)[0] == 65534
        with pytest.raises(VerificationError, match="2 summands"):
            self.opened(2 * 32767 + 1, summands=2)
        with pytest.raises(VerificationError):
            self.opened(-32768, summands=1)
        with pytest.raises(VerificationError):
            self.opened(1, summands=0)

    @pytest.mark.parametrize("value", [1, -1, 32767])
    def test_something_after_the_last_value(self, value: int) -> None:
        with pytest.raises(VerificationError, match="after the last value"):
            self.opened(value << 20 * 101, count=101)

    def test_a_vector_counted_twice_is_seen_when_it_is_at_the_bound(self) -> None:
        accumulator = Accumulator(PUBLIC, 1)
        body = encrypt_vector(PUBLIC, np.array([32767]), packing=PACKING)
        accumulator.add(body)
        accumulator.add(body)
        with pytest.raises(VerificationError):
            decrypt_vector(KEY, accumulator.to_bytes(), packing=PACKING, count=1, summands=1)


class TestAccumulator:
    @pytest.mark.parametrize("added", [0, 1, 3])
    def test_export_and_restore(self, added: int) -> None:
        accumulator = Accumulator(PUBLIC, 2)
        for _ in range(added):
            accumulator.add(GOOD)
        state = accumulator.export()
        restored = Accumulator.restore(PUBLIC, 2, state)
        assert restored.summands == added
        assert restored.export() == state
        restored.add(GOOD)
        opened = decrypt_vector(KEY, restored.to_bytes(), packing=PACKING, count=150, summands=added + 1)
        np.testing.assert_array_equal(opened, (added + 1) * np.arange(150))

    def test_restoring_something_else(self) -> None:
        accumulator = Accumulator(PUBLIC, 2)
        accumulator.add(GOOD)
        state = accumulator.export()
        for broken in (state[:3], state[:-1], state + b"\0", bytes(4) + state[4:], b"\0\0\0\1", b""):
            with pytest.raises(DecodeError):
                Accumulator.restore(PUBLIC, 2, broken)
        with pytest.raises(DecodeError):
            Accumulator.restore(PUBLIC, 3, state)

    def test_nothing_added(self) -> None:
        with pytest.raises(ParameterError, match="empty"):
            Accumulator(PUBLIC, 1).to_bytes()

    @pytest.mark.parametrize("count", [0, -1, 1.0, None, True])
    def test_bad_count(self, count: int) -> None:
        with pytest.raises(ParameterError):
            Accumulator(PUBLIC, count)

    def test_order_does_not_matter(self) -> None:
        other = encrypt_vector(PUBLIC, -np.arange(150), packing=PACKING)
        sums = []
        for order in ((GOOD, other), (other, GOOD)):
            accumulator = Accumulator(PUBLIC, 2)
            for body in order:
                accumulator.add(body)
            sums.append(accumulator.to_bytes())
        assert sums[0] == sums[1]

    def test_a_key_without_a_base_adds_to_the_same_sum(self) -> None:
        packing = Packing(key_bits=2048, bound=9, max_summands=2)
        accumulator = Accumulator(PUBLIC, 1)
        for key in (PUBLIC, PublicKey(n=N, h_s=None)):
            accumulator.add(encrypt_vector(key, np.array([9, -9, 4]), packing=packing))
        opened = decrypt_vector(KEY, accumulator.to_bytes(), packing=packing, count=3, summands=2)
        assert opened.tolist() == [18, -18, 8]
