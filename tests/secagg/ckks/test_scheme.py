"""CKKS sums: exact under the stated bound, keyless at the server, strict about every byte."""

import copy
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.ckks import encoding as ckks_encoding
from secagg.ckks import parameters as ckks_parameters
from secagg.ckks import scheme as ckks
from secagg.ckks.objects import inflate, pack_words
from secagg.ckks.scheme import (
    DEGREE,
    LOG_Q_LIMIT,
    Accumulator,
    Parameters,
    PublicContext,
    SecretKey,
    choose_parameters,
    generate_key,
)
from secagg.errors import DecodeError, MissingExtraError, ParameterError, VerificationError
from secagg.secret import Secret

pytest.importorskip("tenseal")

STEP = 32767  # a 16-bit value
TEN = choose_parameters(bound=10 * STEP, max_summands=10)
COUNT = TEN.values_per_block + 5  # two blocks, the second nearly empty


@pytest.fixture(scope="module")
def key():
    return generate_key(TEN)


@pytest.fixture(scope="module")
def server():
    return PublicContext.from_parameters(TEN)


def vector(seed, *, count=COUNT, bound=STEP):
    return np.random.default_rng(seed).integers(-bound, bound + 1, count)


@pytest.fixture(scope="module")
def body(key):
    return key.encrypt_vector(vector(0))


def blocks_of(body):
    return [body[at : at + TEN.block_bytes] for at in range(0, len(body), TEN.block_bytes)]


def coefficients(key, body, count):
    """What decryption yields before it is rounded, in steps."""
    blocks = ckks._blocks(body, key.parameters, count)
    loaded = [ckks._load(key._context, key.parameters, block) for block in blocks]
    return np.array([ckks_encoding.from_slots(np.array(block.decrypt())) for block in loaded])


# --- parameters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("summands", "step", "packed", "scale_bits", "data_bits"),
    [
        (3, 32767, 2, 8, 45),
        (10, 32767, 2, 9, 49),
        (100, 32767, 2, 13, 60),
        (1000, 32767, 1, 13, 40),
        (10, 127, 4, 10, 57),
        (10, 2**23 - 1, 1, 9, 38),
    ],
)
def test_chosen_parameters_are_pinned(summands, step, packed, scale_bits, data_bits):
    assert choose_parameters(bound=summands * step, max_summands=summands) == Parameters(
        bound=summands * step,
        max_summands=summands,
        values_per_coefficient=packed,
        scale_bits=scale_bits,
        data_prime_bits=data_bits,
    )


@given(bound=st.integers(1, 2**40), max_summands=st.integers(1, 2**12))
def test_chosen_parameters_are_secure_and_exact(bound, max_summands):
    chosen = choose_parameters(bound=bound, max_summands=max_summands)
    assert chosen.log_q <= LOG_Q_LIMIT == 109
    assert chosen.error_bound < 0.25
    # The sum, with its error, stays under half of any prime of that many bits.
    assert (chosen.packed_bound + 0.25) * 2**chosen.scale_bits < 2 ** (chosen.data_prime_bits - 1) / 2


def test_error_bound_by_hand():
    # z = 11.23; Delta = 512; 10 summands of variance 10.5; f P = 2 * 2^-53 * sqrt(26/3) * 2^37.64.
    assert TEN.error_bound == pytest.approx(0.2346, abs=2e-4)
    # Two summands are at most 42 units of noise away, which beats the tail.
    two = choose_parameters(bound=2, max_summands=2)
    assert two.error_bound < 42 / 2**two.scale_bits + 0.25


@pytest.mark.parametrize("name", ["bound", "max_summands"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "7", None])
def test_choose_refuses_what_is_no_positive_int(name, value):
    arguments = {"bound": 1, "max_summands": 1, name: value}
    with pytest.raises(ParameterError, match=name):
        choose_parameters(**arguments)


@pytest.mark.parametrize(("bound", "summands"), [(2**45, 1), (2**63, 2), (2**500, 2), (1, 2**20 + 1)])
def test_choose_refuses_what_cannot_be_exact(bound, summands):
    with pytest.raises(ParameterError):
        choose_parameters(bound=bound, max_summands=summands)


@pytest.mark.parametrize(
    "change",
    [
        {"bound": 0},
        {"bound": True},
        {"max_summands": 0},
        {"max_summands": 2**20 + 1},
        {"max_summands": 20},  # too much noise for this scale
        {"scale_bits": 8},
        {"scale_bits": 10},  # the scaled sum does not fit the prime
        {"scale_bits": 0},
        {"data_prime_bits": 48},
        {"data_prime_bits": 61},
        {"data_prime_bits": 23},
        {"data_prime_bits": 49.0},
        {"values_per_coefficient": 3},
        {"values_per_coefficient": 0},
        {"values_per_coefficient": 10**9},
    ],
)
def test_parameters_refuse_inexact_or_unknown_values(change):
    good = {
        "bound": TEN.bound,
        "max_summands": 10,
        "values_per_coefficient": 2,
        "scale_bits": 9,
        "data_prime_bits": 49,
    }
    assert Parameters(**good) == TEN
    with pytest.raises(ParameterError):
        Parameters(**good | change)


def test_security_limit_is_enforced(monkeypatch):
    monkeypatch.setattr(ckks_parameters, "SPECIAL_PRIME_BITS", 61)
    with pytest.raises(ParameterError, match="109"):
        choose_parameters(bound=TEN.bound, max_summands=10)


# --- the transform -----------------------------------------------------------------------------------------


def test_slots_are_the_polynomial_at_powers_of_three():
    # The definition, term by term, for a few slots; the order is that of SEAL's CKKSEncoder (generator 3).
    c = vector(1, count=DEGREE // 2).astype(float)
    full = np.concatenate([c, [0.0], -c[:0:-1]])
    slots = ckks_encoding.to_slots(c)
    for i in (0, 1, 2, 1000, DEGREE // 2 - 1):
        root = np.exp(1j * np.pi / DEGREE * pow(3, i, 2 * DEGREE))
        value = (full * root ** np.arange(DEGREE)).sum()
        assert abs(value.imag) < 1e-4
        assert slots[i] == pytest.approx(value.real, abs=1e-4)
    assert np.abs(ckks_encoding.from_slots(slots) - c).max() < 1e-9


def test_a_coefficient_meets_only_its_own_noise(key, server):
    # (e_j - e_(N-j)) / 2 per summand: sqrt(10.5 / 2) units. In another order of slots every coefficient would
    # be spread over all others: still decryptable, but with a noise 45 times as large.
    total = Accumulator(server, count=2 * TEN.values_per_block)
    for _ in range(10):
        total.add(key.encrypt_vector(np.zeros(2 * TEN.values_per_block, dtype=np.int64)))
    noise = coefficients(key, total.to_bytes(), total.count) * 2**TEN.scale_bits
    assert noise.std() == pytest.approx(np.sqrt(10 * 10.5 / 2), rel=0.1)
    assert abs(noise.mean()) < 1


def patterns(count, bound):
    sign = (-1) ** np.arange(count)
    spike = np.where(np.arange(count) % (DEGREE // 2) == 77, bound, 0)
    return [np.full(count, bound), bound * sign, spike, vector(2, count=count, bound=bound)]


@pytest.mark.parametrize(
    ("summands", "step"), [(1, 1), (1, 2**41), (2, STEP), (3, 699050), (10, 127), (30, STEP)]
)
def test_error_stays_under_its_bound_and_sums_are_exact(summands, step):
    parameters = choose_parameters(bound=summands * step, max_summands=summands)
    own, context = generate_key(parameters), PublicContext.from_parameters(parameters)
    count = parameters.values_per_block
    for values in patterns(count, step):
        total = Accumulator(context, count=count)
        for _ in range(summands):
            total.add(own.encrypt_vector(values))
        error = coefficients(own, total.to_bytes(), count)
        assert np.abs(error - np.rint(error)).max() < parameters.error_bound
        opened = own.decrypt_vector(total.to_bytes(), count=count, bound=parameters.bound)
        assert np.array_equal(opened, summands * values)


# --- round trips -------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(data=st.data(), count=st.integers(1, 2 * TEN.values_per_block), summands=st.integers(1, 4))
def test_a_sum_is_the_sum(key, server, data, count, summands):
    seeds = data.draw(st.lists(st.integers(0, 2**32), min_size=summands, max_size=summands))
    updates = [vector(seed, count=count, bound=TEN.bound // 4) for seed in seeds]
    total = Accumulator(server, count=count)
    for update in updates:
        total.add(key.encrypt_vector(update))
    opened = key.decrypt_vector(total.to_bytes(), count=count, bound=TEN.bound)
    assert opened.dtype == np.int64
    assert np.array_equal(opened, sum(updates))


def test_extremes_and_buffers(key):
    values = np.array([TEN.bound, -TEN.bound, 0, 1, -1])
    body = key.encrypt_vector(values)
    for buffer in (body, bytearray(body), memoryview(body)):
        assert np.array_equal(key.decrypt_vector(buffer, count=5, bound=TEN.bound), values)
    strided = np.arange(10)[::2]
    assert np.array_equal(key.decrypt_vector(key.encrypt_vector(strided), count=5, bound=9), strided)


def test_blocks_are_the_body(key):
    blocks = list(key.encrypt_blocks(vector(3)))
    assert len(blocks) == TEN.blocks(COUNT) == 2
    opened = key.decrypt_vector(b"".join(blocks), count=COUNT, bound=STEP)
    assert np.array_equal(opened, vector(3))


def test_encryption_is_randomised(key):
    assert key.encrypt_vector(vector(0)) != key.encrypt_vector(vector(0))


def test_what_is_opened_does_not_depend_on_the_noise(key):
    # Li and Micciancio read the key from Dec(Enc(m)) - m: there before rounding, zero after it.
    values = vector(4, count=TEN.values_per_block)
    bodies = [key.encrypt_vector(values) for _ in range(2)]
    first, second = (coefficients(key, body, values.size) for body in bodies)
    assert not np.array_equal(first, second)
    opened = [key.decrypt_vector(body, count=values.size, bound=STEP) for body in bodies]
    assert np.array_equal(opened[0], opened[1])
    assert np.array_equal(opened[0], values)


@pytest.mark.parametrize(("summands", "step", "most"), [(10, STEP, 14.3), (100, STEP, 16.3), (10, 127, 7.9)])
def test_bytes_per_element(summands, step, most):
    parameters = choose_parameters(bound=summands * step, max_summands=summands)
    values = vector(5, count=parameters.values_per_block, bound=step)
    assert len(generate_key(parameters).encrypt_vector(values)) <= most * values.size


def test_nothing_is_printed(key, server, capfd):
    total = Accumulator(server, count=COUNT)
    total.add(key.encrypt_vector(vector(0)))
    total.add(key.encrypt_vector(vector(1)))
    key.decrypt_vector(total.to_bytes(), count=COUNT, bound=TEN.bound)
    SecretKey.decode(key.encode(), TEN)
    with pytest.raises(DecodeError):
        total.add(bytes(100))
    assert capfd.readouterr() == ("", "")


# --- keys --------------------------------------------------------------------------------------------------


def test_key_round_trip(key, body):
    secret = key.encode()
    assert len(secret) < 50_000
    restored = SecretKey.decode(secret, TEN)
    assert restored.encode() == secret
    assert np.array_equal(restored.decrypt_vector(body, count=COUNT, bound=STEP), vector(0))
    back = restored.encrypt_vector(vector(6))
    assert np.array_equal(key.decrypt_vector(back, count=COUNT, bound=STEP), vector(6))


def test_keys_differ_and_the_wrong_one_opens_nothing(key, body):
    other = generate_key(TEN)
    assert other.encode() != key.encode()
    with pytest.raises(VerificationError):
        other.decrypt_vector(body, count=COUNT, bound=TEN.bound)


def test_a_key_does_not_spill(key):
    assert repr(key) == "SecretKey(...)"
    for spill in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="encode"):
            spill(key)


def test_the_server_holds_no_key(key, server, body):
    assert key._context.is_private()
    assert not server._context.is_private()
    assert len(ckks._keyless(TEN)) < 200
    loaded = ckks._load(server._context, TEN, ckks._blocks(body, TEN, COUNT)[0])
    with pytest.raises(ValueError, match="secret_key"):
        loaded.decrypt()


def test_a_key_of_other_parameters_is_refused(key):
    other = choose_parameters(bound=3 * STEP, max_summands=3)
    with pytest.raises(DecodeError):
        SecretKey.decode(key.encode(), other)


def test_damaged_keys_are_refused(key):
    data = key.encode().reveal()
    damaged = [b"", data[:15], data[:-1], data + b"\0", b"\xff" * len(data), b"\xff" * 7 + data[7:]]
    damaged += [data[:-3] + b"\xff" * 3]
    for blob in damaged:
        with pytest.raises(DecodeError):
            SecretKey.decode(Secret(blob), TEN)


# --- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        np.zeros(3),
        np.zeros(3, dtype=np.int32),
        np.zeros(3, dtype=np.uint64),
        np.zeros((1, 3), dtype=np.int64),
        np.zeros(0, dtype=np.int64),
        np.array(1),
        np.array([0, TEN.bound + 1]),
        np.array([-TEN.bound - 1]),
        np.array([-(2**63)]),
        None,
    ],
)
def test_encrypt_refuses(key, values):
    with pytest.raises(ParameterError):
        key.encrypt_vector(values)
    with pytest.raises(ParameterError):
        key.encrypt_blocks(values)  # at once, not on the first block


@pytest.mark.parametrize("count", [0, -1, 2**29 + 1, 5.0, True, None])
def test_counts_are_checked(key, server, body, count):
    with pytest.raises(ParameterError):
        key.decrypt_vector(body, count=count, bound=STEP)
    with pytest.raises(ParameterError):
        Accumulator(server, count=count)


@pytest.mark.parametrize("bound", [-1, TEN.bound + 1, 1.0, True, None])
def test_bounds_are_checked(key, body, bound):
    with pytest.raises(ParameterError):
        key.decrypt_vector(body, count=COUNT, bound=bound)


# --- the server's sum --------------------------------------------------------------------------------------


def test_accumulator_restores(key, server, body):
    total = Accumulator(server, count=COUNT)
    total.add(body)
    copied = Accumulator.restore(server, total.to_bytes(), count=COUNT, summands=total.summands)
    assert copied.to_bytes() == total.to_bytes()
    for accumulator in (total, copied):
        accumulator.add(key.encrypt_vector(vector(1)))
        assert accumulator.summands == 2
        opened = key.decrypt_vector(accumulator.to_bytes(), count=COUNT, bound=TEN.bound)
        assert np.array_equal(opened, vector(0) + vector(1))


@pytest.mark.parametrize("summands", [0, 11, -1, 1.0, True])
def test_restore_checks_the_number_of_summands(server, body, summands):
    with pytest.raises(ParameterError):
        Accumulator.restore(server, body, count=COUNT, summands=summands)


def test_accumulator_stops_at_max_summands(server, body):
    total = Accumulator.restore(server, body, count=COUNT, summands=9)
    total.add(body)
    with pytest.raises(ParameterError, match="10"):
        total.add(body)
    assert total.summands == 10


def test_an_empty_sum_has_no_bytes(server):
    with pytest.raises(ParameterError, match="nothing"):
        Accumulator(server, count=1).to_bytes()


def test_a_refused_vector_changes_nothing(key, server, body):
    total = Accumulator(server, count=COUNT)
    total.add(body)
    before = total.to_bytes()
    first, second = blocks_of(key.encrypt_vector(vector(1)))
    for bad in (first, first + second[:-1], first + bytes(len(second)), first + b"\xff" * len(second)):
        with pytest.raises(DecodeError):
            total.add(bad)
    assert (total.to_bytes(), total.summands) == (before, 1)


def test_a_vector_that_cancels_the_sum_is_refused(key, server, body):
    # -c turns the sum into a ciphertext without a mask, which SEAL refuses only when it is too late.
    first, second = ckks._blocks(body, TEN, COUNT)
    negated = ckks._block_of(ckks._load(key._context, TEN, second).neg(), TEN)
    total = Accumulator(server, count=COUNT)
    total.add(body)
    with pytest.raises(DecodeError, match="sum"):
        total.add(bytes(first) + negated)
    assert total.to_bytes() == body
    assert total.summands == 1


# --- what a decryption refuses -----------------------------------------------------------------------------


def test_values_beyond_the_bound_are_refused(key, body):
    with pytest.raises(VerificationError, match="bound"):
        key.decrypt_vector(body, count=COUNT, bound=int(np.abs(vector(0)).max()) - 1)


def test_a_packed_value_beyond_its_bound_is_refused(key, server):
    total = Accumulator(server, count=1)
    for _ in range(2):
        total.add(key.encrypt_vector(np.full(TEN.values_per_block, TEN.bound)))
    with pytest.raises(VerificationError, match="exceeds"):
        key.decrypt_vector(total.to_bytes(), count=TEN.values_per_block, bound=TEN.bound)


def test_padding_that_is_not_zero_is_refused(key, body):
    with pytest.raises(VerificationError, match="padding"):
        key.decrypt_vector(body, count=COUNT - 1, bound=STEP)


def test_a_value_between_integers_is_refused(key):
    slots = ckks_encoding.to_slots(np.full(DEGREE // 2, 0.5)).tolist()
    fresh = ckks._tenseal().ckks_vector(key._context, slots)
    with pytest.raises(VerificationError, match="integer"):
        key.decrypt_vector(ckks._block_of(fresh, TEN), count=1, bound=1)


# --- hostile bytes -----------------------------------------------------------------------------------------


def refused(key, server, body, count=COUNT):
    for refuse in (
        Accumulator(server, count=count).add,
        lambda data: key.decrypt_vector(data, count=count, bound=TEN.bound),
    ):
        with pytest.raises(DecodeError):
            refuse(body)


def test_a_body_has_one_size(key, server, body):
    first, second = blocks_of(body)
    assert len(body) == 2 * TEN.block_bytes == 2 * 2 * DEGREE * 49 // 8
    bad = [b"", body[:3], body[:-1], body + b"\0", first, first + second + second, first + second[:-1]]
    bad += [bytes(len(body)), b"\xff" * len(body), b"\xff" * 100]
    for data in bad:
        refused(key, server, data)
    for data in (memoryview(body + body)[::2], memoryview(body).cast("H")[1:]):
        refused(key, server, data)


def test_sizes_do_not_depend_on_what_is_encrypted(key, server):
    """SEAL compresses what it writes; a size that follows a ciphertext's entropy would waver, and say so."""
    sizes, secrets = set(), {len(generate_key(TEN).encode()) for _ in range(3)}
    for values in (np.zeros(COUNT, dtype=np.int64), vector(1), np.full(COUNT, STEP)):
        total = Accumulator(server, count=COUNT)
        for _ in range(4):
            body = key.encrypt_vector(values)
            total.add(body)
            sizes |= {len(body), len(total.to_bytes())}
    assert sizes == {2 * TEN.block_bytes}
    assert secrets == {DEGREE * (TEN.data_prime_bits + ckks_parameters.SPECIAL_PRIME_BITS) // 8}


def test_bytes_of_a_ciphertext_are_canonical(key, server, body):
    for block in ckks._blocks(body, TEN, COUNT):
        assert ckks._block_of(ckks._load(server._context, TEN, block), TEN) == block


def test_a_body_of_other_parameters_is_refused(key, server):
    other = choose_parameters(bound=3 * STEP, max_summands=3)
    refused(key, server, generate_key(other).encrypt_vector(vector(0)))


Q_BITS = TEN.data_prime_bits


def packed(words):
    return pack_words(np.asarray(words, dtype=np.uint64), bits=Q_BITS)


def test_coefficients_below_the_prime_load(key, server):
    # Otherwise the refusals below would prove nothing. Opening them shows that they are no encryption.
    good = packed(np.random.default_rng(9).integers(0, 2**48, 2 * DEGREE))
    Accumulator(server, count=1).add(good)
    with pytest.raises(VerificationError):
        key.decrypt_vector(good, count=1, bound=TEN.bound)


ONES, ZEROS = np.ones(DEGREE), np.zeros(DEGREE)


@pytest.mark.parametrize(
    "words",
    [
        np.full(2 * DEGREE, 2**Q_BITS - 1),  # not reduced modulo q
        np.concatenate([ONES, ONES[1:], [2**Q_BITS - 1]]),  # the last one
        np.concatenate([[2**Q_BITS - 1], ONES[1:], ONES]),
        np.concatenate([ZEROS, ZEROS]),
        np.concatenate([ONES, ZEROS]),  # a plaintext in the clear
    ],
    ids=["all", "last", "first", "nothing", "clear"],
)
def test_coefficients_that_are_no_ciphertext_are_refused(key, server, words):
    refused(key, server, packed(words), count=1)


def test_random_damage_never_escapes(key, server, body):
    random_source = random.Random(1)
    block, _ = blocks_of(body)
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(block)
        for _ in range(random_source.choice((1, 1, 4))):
            at = random_source.randrange(random_source.choice((150, len(block))))
            damaged[at] ^= 1 << random_source.randrange(8)
        for act in (
            Accumulator(server, count=TEN.values_per_block).add,
            lambda data: key.decrypt_vector(data, count=TEN.values_per_block, bound=TEN.bound),
        ):
            try:
                act(bytes(damaged))
                outcomes.add("taken")
            except (DecodeError, VerificationError) as error:
                outcomes.add(type(error))
    assert VerificationError in outcomes


# --- the backend -------------------------------------------------------------------------------------------


def test_tenseal_is_imported_on_first_use_only():
    check = "import sys, secagg.ckks.scheme; sys.exit('tenseal' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_missing_backend_names_its_extra(monkeypatch):
    ckks._tenseal.cache_clear()
    monkeypatch.setitem(sys.modules, "tenseal", None)
    try:
        with pytest.raises(MissingExtraError, match=r"secagg\[ckks\]"):
            generate_key(TEN)
    finally:
        ckks._tenseal.cache_clear()


def test_without_zstandard_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingExtraError, match=r"zstandard is not installed.*secagg\[ckks\]"):
        inflate(b"", size=1)


def test_a_server_whose_backend_will_not_do_says_so_before_any_message(key, monkeypatch):
    """Found out with the first ciphertext it would be an honest sender's fault."""
    ckks._frame.cache_clear()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    try:
        with pytest.raises(MissingExtraError, match="zstandard"):
            PublicContext.from_parameters(TEN)
        monkeypatch.undo()
        monkeypatch.setattr(ckks, "_CIPHERTEXT_METADATA", 96)
        with pytest.raises(ParameterError, match="layout"):
            PublicContext.from_parameters(TEN)
    finally:
        ckks._frame.cache_clear()


def test_an_unknown_layout_of_tenseal_is_refused(key, body):
    vector = ckks._load(key._context, TEN, ckks._blocks(body, TEN, COUNT)[0])
    written = ckks._unfield(b"\x12", ckks._between(vector.serialize(), *ckks._vector_frame(TEN)))
    size = ckks._CIPHERTEXT_METADATA + ckks._COEFFICIENT_BYTES
    assert len(inflate(written, size=size)[1]) == size
    for wrong in (b"", written[:16], b"\0" + written[1:], written[:-1]):
        with pytest.raises(ParameterError, match="layout"):
            inflate(wrong, size=size)
    for other in (size - 1, size + 1):
        with pytest.raises(ParameterError, match="layout"):
            inflate(written, size=other)
    with pytest.raises(ParameterError, match="layout"):
        ckks._words_of(written, TEN, metadata=bytes(ckks._CIPHERTEXT_METADATA))
    with pytest.raises(ParameterError, match="layout"):
        ckks._between(b"abc", b"x", b"c")
    with pytest.raises(ParameterError, match="layout"):
        ckks._unfield(b"\x12", b"\x12\x05abc")
