"""C7: an exponent in clear beside the ciphertext, and ciphertexts that are not randomised.

Seen in phe's encoding of floats, which several systems use as it is: the power of the base travels in clear
and says how large, or how precise, each number is. And a sum, or a ciphertext with r = 1, that is not
randomised can be recognised, or read without any key. Ours sends whole ciphertexts of one size and nothing
else, each fresh.

The weakened copies are phe itself, and our own encryption with its randomness taken out.

Not covered: the length of a message says how many values there are, for everybody to see.
"""

from typing import Any

import gmpy2
import numpy as np
import pytest

from protocols import CkksSum, PaillierSum
from protocols.consortium.messages import Contribution
from secagg.entropy import SeededEntropy
from secagg.paillier import scheme as paillier
from secagg.paillier.packing import Packing, encrypt_vector
from tests.attacks.weakened import LENGTH, Stage

PACKING = Packing(key_bits=2048, bound=32767, max_summands=3)
COUNT = 300


@pytest.fixture(scope="module")
def private() -> paillier.PrivateKey:
    return paillier.generate_key(key_bits=2048, entropy=SeededEntropy(b"c7"))


def ciphertexts(public: paillier.PublicKey, body: bytes) -> list[int]:
    size = public.ciphertext_bytes
    return [int.from_bytes(body[at : at + size], "big") for at in range(0, len(body), size)]


def test_phe_tells_the_size_of_every_number() -> None:
    phe = pytest.importorskip("phe")
    public, _ = phe.generate_paillier_keypair(n_length=512)
    exponents = [public.encrypt(value).exponent for value in (1e-6, 1e-3, 1.0, 1e3)]
    assert exponents == sorted(exponents)
    assert len(set(exponents)) > 2


def test_ours_has_one_size_whatever_it_holds(private: paillier.PrivateKey) -> None:
    vectors = [np.zeros(COUNT, np.int64), np.full(COUNT, 32767), np.full(COUNT, -1)]
    bodies = [encrypt_vector(private.public_key, v, packing=PACKING) for v in vectors]
    assert {len(body) for body in bodies} == {PACKING.body_bytes(COUNT)}
    assert PACKING.body_bytes(COUNT) == PACKING.ciphertexts(COUNT) * private.public_key.ciphertext_bytes


@pytest.mark.parametrize("build", [CkksSum, PaillierSum])
def test_messages_have_one_size_whatever_they_hold(build: Any) -> None:
    extra = {"key_bits": 2048} if build is PaillierSum else {}
    stage = Stage(build(max_clients=4, max_weight=9, **extra), "abcd")
    data = {
        "a": np.zeros(LENGTH),
        "b": np.ones(LENGTH),
        "c": -np.ones(LENGTH),
        "d": np.linspace(-1, 1, LENGTH),
    }
    stage.play(data, weights={"a": 1, "b": 9, "c": 1, "d": 5})
    sizes = [len(each.vector) for each in stage.answers(2, Contribution).values()]
    assert len(set(sizes)) == 1


def without_randomness(self: Any, exponents: Any) -> Any:
    return [(gmpy2.mpz(1), gmpy2.mpz(0)) for _ in exponents]  # r = 1 + 0·n


def test_without_randomness_no_key_is_needed(
    private: paillier.PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = private.public_key
    monkeypatch.setattr(type(public._powers), "powers", without_randomness)
    values = np.arange(COUNT) - 150
    found = ciphertexts(public, encrypt_vector(public, values, packing=PACKING))
    plaintexts = [(each - 1) // public.n for each in found]
    assert PACKING.decode(plaintexts, modulus=public.n, count=COUNT, summands=1).tolist() == values.tolist()


def test_ours_is_fresh_each_time(private: paillier.PrivateKey) -> None:
    public = private.public_key
    zeros = np.zeros(COUNT, np.int64)
    seen: set[int] = set()
    for _ in range(3):
        for each in ciphertexts(public, encrypt_vector(public, zeros, packing=PACKING)):
            assert (each - 1) % public.n != 0  # no r = 1
            assert each % public.n not in seen  # nor the same r twice: c mod n is r^n mod n
            seen.add(each % public.n)
    assert len(seen) == 3 * PACKING.ciphertexts(COUNT)


def test_equal_updates_are_not_recognised_on_the_wire() -> None:
    protocol = PaillierSum(max_clients=4, key_bits=2048)
    stage = Stage(protocol, "abc")
    same = np.linspace(-1, 1, LENGTH)
    bodies = []
    for _ in range(2):
        stage.play(dict.fromkeys("abc", same))
        bodies += [bytes(each.vector) for each in stage.answers(2, Contribution).values()]
    windows = [{body[at : at + 16] for at in range(0, len(body) - 16, 16)} for body in bodies]
    assert sum(map(len, windows)) == len(set().union(*windows))


def test_sums_of_fresh_ciphertexts_are_fresh(private: paillier.PrivateKey) -> None:
    """A sum is not randomised again, and need not be: its randomness is the product of all the summands'."""
    public = private.public_key
    square = public.n**2
    zero = np.zeros(COUNT, np.int64)
    bodies = [ciphertexts(public, encrypt_vector(public, zero, packing=PACKING)) for _ in range(4)]
    sums = [[x * y % square for x, y in zip(bodies[i], bodies[i + 1], strict=True)] for i in (0, 2)]
    assert not {each % public.n for each in sums[0]} & {each % public.n for each in sums[1]}
