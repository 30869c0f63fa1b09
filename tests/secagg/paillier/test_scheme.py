"""Paillier: against the 1999 paper in plain integers, round trips, keys, and every malformed value."""

import copy
import pickle
from collections.abc import Callable
from math import gcd, lcm

import gmpy2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.entropy import SeededEntropy
from secagg.errors import DecodeError, ParameterError, VerificationError
from secagg.paillier.scheme import EXPONENT_BITS, PrivateKey, PublicKey, check_key_bits, generate_key
from secagg.secret import Secret

KEY_BITS = 2048
KEY = generate_key(key_bits=KEY_BITS, entropy=SeededEntropy(b"test_paillier"))
PUBLIC = KEY.public_key
P, Q = KEY.reveal_primes()
N = PUBLIC.n
FOREIGN = PublicKey(n=N, h_s=None)


def base() -> int:
    assert PUBLIC.h_s is not None
    return PUBLIC.h_s


def prime_where(condition: Callable[[int], bool], *, above: int) -> int:
    """The first prime above a bound that satisfies a condition."""
    prime = gmpy2.next_prime(above)
    while not condition(int(prime)):
        prime = gmpy2.next_prime(prime)
    return int(prime)


# Paillier, EUROCRYPT'99, scheme 1, in Python's integers: c = g^m r^n mod n²,
# m = L(c^λ mod n²) / L(g^λ mod n²) mod n with L(u) = (u - 1) / n.
def textbook_encrypt(m: int, r: int) -> int:
    return pow(N + 1, m, N * N) * pow(r, N, N * N) % (N * N)


def textbook_decrypt(c: int) -> int:
    lam = lcm(P - 1, Q - 1)

    def ell(u: int) -> int:
        assert u % N == 1
        return (u - 1) // N

    return ell(pow(c, lam, N * N)) * pow(ell(pow(N + 1, lam, N * N)), -1, N) % N


class TestAgainstThePaper:
    @pytest.mark.parametrize("plaintext", [0, 1, 42, N // 2, N - 1], ids=["0", "1", "42", "half", "n - 1"])
    def test_each_opens_what_the_other_closed(self, plaintext: int) -> None:
        assert textbook_decrypt(PUBLIC.encrypt_int(plaintext)) == plaintext
        assert textbook_decrypt(FOREIGN.encrypt_int(plaintext)) == plaintext
        assert KEY.decrypt_int(textbook_encrypt(plaintext, 3**700)) == plaintext

    @pytest.mark.parametrize("count", [1, 60])
    def test_the_randomness_is_the_short_power_of_the_base(self, count: int) -> None:
        # 60 encryptions go through the table, the first one of a fresh key does not.
        key = PublicKey.decode(
            generate_key(key_bits=2048, entropy=SeededEntropy(b"fresh")).public_key.encode()
        )
        assert key.h_s is not None
        square = key.n**2
        exponents = SeededEntropy(b"exponents")
        plaintexts = [7**i for i in range(count)]
        expected = [
            (1 + m * key.n)
            * pow(key.h_s, int.from_bytes(exponents(EXPONENT_BITS // 8), "little"), square)
            % square
            for m in plaintexts
        ]
        assert key.encrypt_ints(plaintexts, entropy=SeededEntropy(b"exponents")) == expected

    @pytest.mark.parametrize("digit", [b"\x00", b"\x01", b"\xff"])
    def test_extreme_exponents(self, digit: bytes) -> None:
        exponent = int.from_bytes(digit * 50, "little")
        expected = (1 + 5 * N) * pow(base(), exponent, N * N) % (N * N)
        found = PUBLIC.encrypt_ints([5] * 30, entropy=lambda size: digit * size)
        assert found == [expected] * 30

    def test_a_foreign_key_uses_full_length_randomness(self) -> None:
        entropy = SeededEntropy(b"r")
        r = 1 + next(
            x for x in iter(lambda: int.from_bytes(entropy(KEY_BITS // 8), "big"), None) if x < N - 1
        )
        assert FOREIGN.encrypt_int(9, entropy=SeededEntropy(b"r")) == textbook_encrypt(9, r)


class TestHomomorphism:
    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(0, N - 1), min_size=1, max_size=5))
    def test_a_product_opens_to_the_sum(self, plaintexts: list[int]) -> None:
        product = 1
        for ciphertext in PUBLIC.encrypt_ints(plaintexts):
            product = product * ciphertext % (N * N)
        assert KEY.decrypt_int(product) == sum(plaintexts) % N


class TestSemanticSecurity:
    def test_equal_plaintexts_have_different_ciphertexts(self) -> None:
        # ATTACKS C7. The weakened copy: randomness that repeats lets anyone test a guess.
        assert len(set(PUBLIC.encrypt_ints([5] * 40))) == 40
        assert FOREIGN.encrypt_int(5) != FOREIGN.encrypt_int(5)
        assert len(set(PUBLIC.encrypt_ints([5] * 40, entropy=lambda size: b"\x07" * size))) == 1

    def test_the_base_has_the_structure_of_djn(self) -> None:
        assert P % 4 == Q % 4 == 3
        assert gcd(P - 1, Q - 1) == 2
        h = pow(base(), pow(N, -1, (P - 1) * (Q - 1)), N)
        for prime in (P, Q):
            assert gmpy2.legendre(-h, prime) == 1
            assert pow(base(), prime - 1, prime**2) == 1
            assert pow(base(), 2, prime) != 1

    def test_entropy_is_used_in_full(self) -> None:
        sizes: list[int] = []

        def entropy(size: int) -> bytes:
            sizes.append(size)
            return bytes(size)

        PUBLIC.encrypt_ints([1, 2, 3], entropy=entropy)
        assert sum(sizes) == 3 * EXPONENT_BITS // 8

    def test_broken_entropy_is_refused(self) -> None:
        with pytest.raises(ParameterError):
            PUBLIC.encrypt_int(1, entropy=lambda size: bytes(size - 1))
        with pytest.raises(ParameterError, match="broken"):
            generate_key(key_bits=2048, entropy=bytes)


class TestMalformed:
    @pytest.mark.parametrize(
        "plaintext",
        [-1, N, N + 1, 1.0, "1", None, True, gmpy2.mpz(1)],
        ids=["-1", "n", "n + 1", "float", "text", "None", "bool", "mpz"],
    )
    def test_plaintexts(self, plaintext: int) -> None:
        for key in (PUBLIC, FOREIGN):
            with pytest.raises(ParameterError):
                key.encrypt_int(plaintext)

    # ATTACKS C6.
    @pytest.mark.parametrize(
        "ciphertext",
        [0, -1, N * N, N * N + 1, P, Q, N, 5 * P**2, N * N - Q, 3 * N],
        ids=["0", "-1", "n²", "n² + 1", "p", "q", "n", "5p²", "n² - q", "3n"],
    )
    def test_ciphertext_values(self, ciphertext: int) -> None:
        with pytest.raises(VerificationError):
            KEY.decrypt_int(ciphertext)

    @pytest.mark.parametrize("ciphertext", [1.0, "1", None, b"1", True])
    def test_ciphertext_types(self, ciphertext: int) -> None:
        with pytest.raises(ParameterError):
            KEY.decrypt_int(ciphertext)


class TestKeyBits:
    @pytest.mark.parametrize("key_bits", [2048, 2112, 3072, 8192])
    def test_allowed(self, key_bits: int) -> None:
        check_key_bits(key_bits)

    # ATTACKS C5.
    @pytest.mark.parametrize(
        "key_bits", [0, -2048, 512, 1024, 1984, 2047, 2050, 3000, 8256, 2048.0, "2048", None]
    )
    def test_refused(self, key_bits: int) -> None:
        with pytest.raises(ParameterError):
            generate_key(key_bits=key_bits)

    def test_generated_keys_have_their_length_and_differ(self) -> None:
        assert N.bit_length() == PUBLIC.key_bits == KEY_BITS
        assert PUBLIC.ciphertext_bytes == 512
        assert gmpy2.is_prime(P)
        assert gmpy2.is_prime(Q)
        assert P < Q
        assert generate_key(key_bits=KEY_BITS) != KEY
        assert generate_key(key_bits=KEY_BITS, entropy=SeededEntropy(b"test_paillier")) == KEY


class TestPublicKeyBytes:
    @pytest.mark.parametrize("key", [PUBLIC, FOREIGN])
    def test_round_trip(self, key: PublicKey) -> None:
        encoded = key.encode()
        assert len(encoded) == 3 + 256 + (512 if key.h_s else 0)
        assert PublicKey.decode(encoded) == key
        assert PublicKey.decode(memoryview(bytearray(encoded))).encode() == encoded

    @pytest.mark.parametrize("size", [0, 1, 3, 258, 259, 770])
    def test_truncated(self, size: int) -> None:
        with pytest.raises(DecodeError):
            PublicKey.decode(PUBLIC.encode()[:size])

    def test_leftovers_and_headers(self) -> None:
        encoded = PUBLIC.encode()
        for broken in (
            encoded + b"\0",
            FOREIGN.encode() + b"\0",
            b"\x04\x00" + encoded[2:],
            b"\x08\x01" + encoded[2:],
            encoded[:2] + b"\x02" + encoded[3:],
            encoded[:3] + b"\x00" + encoded[4:],
        ):
            with pytest.raises(DecodeError):
                PublicKey.decode(broken)

    @pytest.mark.parametrize("data", [None, 5, "text", [1, 2]])
    def test_wrong_type(self, data: bytes) -> None:
        with pytest.raises(DecodeError):
            PublicKey.decode(data)

    @pytest.mark.parametrize(
        "n",
        [
            N + 1,
            3 * prime_where(lambda p: True, above=2**2046),
            prime_where(lambda p: True, above=2**2047),
            prime_where(lambda p: True, above=2**1023 + 2**1022) ** 2,
            P,
            2**2047,
        ],
        ids=["even", "divisible by 3", "prime", "square", "short", "power of two"],
    )
    def test_bad_moduli(self, n: int) -> None:
        with pytest.raises(ParameterError):
            PublicKey(n=n, h_s=None)
        with pytest.raises(DecodeError):
            PublicKey.decode(b"\x08\x00\x00" + n.to_bytes(256, "big"))

    @pytest.mark.parametrize(
        "h_s",
        [0, 1, N * N - 1, N * N, P, N, next(x for x in range(2, 99) if gmpy2.jacobi(x, N) == -1)],
        ids=["zero", "one", "minus one", "too large", "shares p", "shares n", "Jacobi symbol -1"],
    )
    def test_bad_bases(self, h_s: int) -> None:
        with pytest.raises(ParameterError):
            PublicKey(n=N, h_s=h_s)
        with pytest.raises(DecodeError):
            PublicKey.decode(b"\x08\x00\x01" + N.to_bytes(256, "big") + h_s.to_bytes(512, "big"))

    def test_a_modulus_of_primes_1_mod_4_has_no_base(self) -> None:
        q = prime_where(lambda p: p % 4 == 1, above=2**1023 + 2**1022)
        with pytest.raises(ParameterError, match="minus a square"):
            PublicKey(n=P * q, h_s=4)

    @pytest.mark.parametrize(
        ("n", "h_s"),
        [("n", 5), (1.5, None), (N, 2.0), (N, "2"), (None, None)],
        ids=["text n", "float n", "float h_s", "text h_s", "None"],
    )
    def test_wrong_field_types(self, n: int, h_s: int) -> None:
        with pytest.raises(ParameterError):
            PublicKey(n=n, h_s=h_s)


class TestPrivateKeyBytes:
    @pytest.mark.parametrize("h_s", [PUBLIC.h_s, None], ids=["with base", "without"])
    def test_round_trip(self, h_s: int | None) -> None:
        key = PrivateKey(p=Q, q=P, h_s=h_s)
        encoded = key.encode()
        assert len(encoded) == 3 + 256 + (512 if h_s else 0)
        restored = PrivateKey.decode(encoded)
        assert restored == key
        assert restored.encode() == encoded
        assert restored.public_key == key.public_key
        assert restored.decrypt_int(PUBLIC.encrypt_int(77)) == 77

    @pytest.mark.parametrize("size", [0, 2, 3, 100, 259, 770])
    def test_truncated(self, size: int) -> None:
        with pytest.raises(DecodeError):
            PrivateKey.decode(Secret(KEY.encode().reveal()[:size]))

    def test_leftovers_order_and_type(self) -> None:
        data = KEY.encode().reveal()
        swapped = data[:3] + data[131:259] + data[3:131] + data[259:]
        for broken in (data + b"\0", swapped, data[:2] + b"\x03" + data[3:]):
            with pytest.raises(DecodeError):
                PrivateKey.decode(Secret(broken))
        with pytest.raises(DecodeError):
            PrivateKey.decode(data)  # type: ignore[arg-type]  # raw bytes are not taken for a secret

    @pytest.mark.parametrize(
        ("p", "q"),
        [
            (P, P),
            (P, Q + 2),
            (P, 4 * Q + 1),
            (P, prime_where(lambda p: True, above=P)),
            (0, 0),
            (-P, -Q),
            (1, N),
            (P, float(3)),
        ],
        ids=["equal", "composite", "too long", "too close", "zero", "negative", "trivial", "float"],
    )
    def test_bad_primes(self, p: int, q: int) -> None:
        with pytest.raises(ParameterError) as caught:
            PrivateKey(p=p, q=q, h_s=None)
        assert str(P)[:12] not in str(caught.value)

    def test_short_primes(self) -> None:
        p, q = int(gmpy2.next_prime(3 << 510)), int(gmpy2.next_prime(7 << 509))
        with pytest.raises(ParameterError, match="1024 bits"):
            PrivateKey(p=p, q=q, h_s=None)

    def test_primes_that_djn_does_not_allow(self) -> None:
        q = prime_where(lambda p: p % 4 == 1, above=2**1023 + 2**1022)
        assert PrivateKey(p=P, q=q, h_s=None).decrypt_int(P * q + 1) == 1
        with pytest.raises(ParameterError):
            PrivateKey(p=P, q=q, h_s=4)

    def test_a_base_that_carries_a_plaintext_is_refused(self) -> None:
        # A dealer who sends h_s·(1+n) makes every ciphertext wrong; the public key cannot show it (DCRA).
        bad = base() * (1 + N) % (N * N)
        PublicKey(n=N, h_s=bad)
        with pytest.raises(ParameterError, match="residue"):
            PrivateKey(p=P, q=Q, h_s=bad)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_base_of_small_order_modulo_a_prime_is_refused(self, sign: int) -> None:
        # It is an n-th residue of Jacobi symbol one, but gcd(h_s ± 1, n) = p, and nothing is hidden modulo p.
        large = sign * base() ** 2
        small = (sign * Q**2 * pow(Q**2, -1, P**2) + large * P**2 * pow(P**2, -1, Q**2)) % (N * N)
        PublicKey(n=N, h_s=small)
        with pytest.raises(ParameterError, match="large order"):
            PrivateKey(p=P, q=Q, h_s=small)


class TestSecrecyOfTheObject:
    def test_repr_shows_nothing(self) -> None:
        assert repr(KEY) == str(KEY) == "PrivateKey(key_bits=2048)"
        assert repr(PUBLIC) == "PublicKey(key_bits=2048)"
        assert not hasattr(KEY, "__dict__")

    @pytest.mark.parametrize("spill", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_no_pickle_no_copy(self, spill: Callable[[object], object]) -> None:
        with pytest.raises(TypeError):
            spill(KEY)

    def test_not_hashable_and_equal_by_value(self) -> None:
        with pytest.raises(TypeError):
            hash(KEY)
        assert PrivateKey.decode(KEY.encode()) == KEY
        assert PrivateKey(p=P, q=Q, h_s=None) != KEY
        assert KEY != PUBLIC
