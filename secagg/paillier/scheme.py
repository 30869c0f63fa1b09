"""Paillier's cryptosystem with short-exponent encryption, on GMP.

Paillier (EUROCRYPT'99) with g = n + 1: the ciphertext of m is (1 + m·n)·r mod n², r a random n-th residue,
and the product of ciphertexts decrypts to the sum of plaintexts. Semantic security rests on the decisional
composite residuosity assumption (DCRA).

**Where r comes from.** Paillier's r^n costs an exponentiation as long as n. Damgård, Jurik and Nielsen (Int.
J. Inf. Security 2010) publish h_s = h^n mod n² once, h = -x² mod n for random x, and use r = h_s^α with a
short α. With p ≡ q ≡ 3 mod 4 and gcd(p-1, q-1) = 2 the elements of Jacobi symbol one are a cyclic group, and
h generates it or a large part of it. Their α is half as long as n: such powers look like those of full length
if factoring is hard (Goldreich and Rosen, J. Cryptology 2003). Ours has `EXPONENT_BITS` = 400 bits, for which
one must assume in addition that short-exponent discrete logarithms modulo n are hard (Koshiba and Kurosawa,
PKC'04). The best attack that we know is Pollard's kangaroo, 2^(bits/2) steps: 256 bits would be the bare
minimum. But h_s is the base of every ciphertext of a session, and a table made in advance helps against all
of them (Bernstein and Lange, INDOCRYPT'12): about 2^(2·bits/3) steps once, then 2^(bits/3) for each. At 400
bits these are 2^267 and 2^133.

**Fixed base.** The powers of h_s stand in a table with windows of 8 bits, 50 × 256 residues, which a key
makes when it has encrypted more than a few integers: 50 multiplications then replace some 470. It takes
about 12 MB at 3072 bits (28 MB at 8192), and equal keys in a process share it. A residue modulo n² is kept
as the pair (a, b) with a + b·n: shorter products and divisions, 1.2 times as fast. Working modulo p² and q²
with the private key gained only another 1.2 to 1.4, too little for a second path that handles the primes.

**Not protected.** Who holds the private key opens every ciphertext, not only sums. Neither Python nor GMP is
constant-time: table look-ups are indexed by the secret exponent, so that code on the same processor may read
it from the cache, and `decrypt_int` takes time that depends on the key. Ciphertexts are malleable by design,
so authenticity must come from elsewhere. A public key is checked for gross faults, but n is not proven to be
biprime; who makes it could open everything anyway. There is no quantum-safe Paillier.

>>> from secagg.entropy import SeededEntropy
>>> private = generate_key(key_bits=2048, entropy=SeededEntropy(b"a doctest"))
>>> public = private.public_key
>>> a, b = public.encrypt_int(20), public.encrypt_int(22)
>>> private.decrypt_int(a * b % public.n**2)
42
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd
from typing import Final, NoReturn
from weakref import WeakValueDictionary

import gmpy2
from gmpy2 import mpz

from secagg.entropy import Entropy, draw, system_entropy, uniform_below
from secagg.errors import DecodeError, ParameterError, VerificationError
from secagg.secret import Secret
from secagg.wire import Buffer, Reader, Writer

__all__ = [
    "DEFAULT_KEY_BITS",
    "EXPONENT_BITS",
    "MAXIMUM_KEY_BITS",
    "MINIMUM_KEY_BITS",
    "PrivateKey",
    "PublicKey",
    "check_key_bits",
    "generate_key",
]

MINIMUM_KEY_BITS: Final = 2048
"""About 112-bit security; less is refused (ATTACKS C5)."""
DEFAULT_KEY_BITS: Final = 3072
"""About 128-bit security (NIST SP 800-57)."""
MAXIMUM_KEY_BITS: Final = 8192
EXPONENT_BITS: Final = 400
"""Length of α, the random exponent of an encryption."""

_WINDOW: Final = 256
"""Values of a window; a window is one byte of the exponent."""
_EXPONENT_BYTES: Final = EXPONENT_BITS // 8
_TABLE_FROM: Final = 24
"""Encryptions that cost about as much without a table as the table itself."""

_PRIMALITY_ROUNDS: Final = 40
"""GMP's Baillie-PSW test, then 16 Miller-Rabin rounds. For a random odd number of k = 1024 bits, the shortest
drawn here, Damgård, Landrock and Pomerance (1993) bound the chance that t = 16 rounds pass a composite by
k^1.5 · 2^t · t^-0.5 · 4^(2 - sqrt(t·k)) < 2^-220; for the worst composite 4^-16 and the first test remain."""
_SMALL_PRIMES: Final = gmpy2.primorial(1 << 12)
_CLOSE_PRIMES_BITS: Final = 100
"""|p - q| must exceed 2^(key_bits/2 - 100), as FIPS 186 asks, or Fermat's method factors n."""


def check_key_bits(key_bits: int) -> None:
    """Raises `ParameterError` unless key_bits is a multiple of 64 in [2048, 8192]."""
    if type(key_bits) is not int:
        raise ParameterError(f"key_bits is a {type(key_bits).__name__}; it must be an int")
    if not MINIMUM_KEY_BITS <= key_bits <= MAXIMUM_KEY_BITS or key_bits % 64:
        raise ParameterError(
            f"a Paillier key of {key_bits} bits; choose a multiple of 64 from {MINIMUM_KEY_BITS} "
            f"to {MAXIMUM_KEY_BITS} (the default is {DEFAULT_KEY_BITS})"
        )


class _FixedBase:
    """Powers h_s^α mod n² for random α: the randomness of ciphertexts."""

    __slots__ = ("__weakref__", "_base", "_modulus", "_rows", "_without_table")

    def __init__(self, base: mpz, modulus: mpz) -> None:
        self._base = base
        self._modulus = modulus
        self._rows: list[list[tuple[mpz, mpz]]] = []
        self._without_table = 0

    def powers(self, exponents: Sequence[bytes]) -> list[tuple[mpz, mpz]]:
        """h_s^α mod n² of each little-endian α, as its pair (a, b)."""
        if not self._rows:
            self._without_table += len(exponents)
            if self._without_table < _TABLE_FROM:
                square = self._modulus**2
                full = (gmpy2.powmod(self._base, int.from_bytes(e, "little"), square) for e in exponents)
                return [(power % self._modulus, power // self._modulus) for power in full]
            self._rows = self._table()
        return [self._product(exponent) for exponent in exponents]

    def _product(self, exponent: bytes) -> tuple[mpz, mpz]:
        modulus = self._modulus
        low, high = self._rows[0][exponent[0]]
        for row, digit in zip(self._rows[1:], exponent[1:], strict=True):
            # (low + high·n)(a + b·n) = low·a + (low·b + high·a)·n  mod n².
            a, b = row[digit]
            carry, product = gmpy2.f_divmod(low * a, modulus)
            high = (low * b + high * a + carry) % modulus
            low = product
        return low, high

    def _table(self) -> list[list[tuple[mpz, mpz]]]:
        """Row i holds h_s^(d·256^i) for d in [0, 256)."""
        square = self._modulus**2
        rows = []
        step = self._base
        for _ in range(_EXPONENT_BYTES):
            power = mpz(1)
            row = []
            for _ in range(_WINDOW):
                row.append((power % self._modulus, power // self._modulus))
                power = power * step % square
            rows.append(row)
            step = power
        return rows


_SHARED: Final[WeakValueDictionary[tuple[int, int], _FixedBase]] = WeakValueDictionary()
"""Equal keys share a table; the last key that goes takes it with it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PublicKey:
    """Encrypts.

    Attributes:
        n: the modulus, a product of two primes of equal length.
        h_s: the n-th residue whose powers hide plaintexts, in (0, n²); None for a key that was made
            elsewhere, which encrypts with r^n for uniform r, as Paillier did: some seventy times slower.

    Raises:
        ParameterError: n has a length that `check_key_bits` refuses, a prime factor below 4096, or is a prime
            or a perfect power; or h_s is out of range, no unit, or has the wrong Jacobi symbol.
    """

    n: int
    h_s: int | None
    _powers: _FixedBase | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.n) is not int or type(self.h_s) not in (int, type(None)):
            raise ParameterError("a Paillier public key is an int n and an int h_s, or None in its place")
        check_key_bits(self.n.bit_length())
        modulus = mpz(self.n)
        if gmpy2.gcd(modulus, _SMALL_PRIMES) != 1:
            raise ParameterError("the Paillier modulus has a small factor; do not use this key")
        if gmpy2.is_power(modulus) or gmpy2.is_prime(modulus):
            raise ParameterError("the Paillier modulus is a prime or a power; do not use this key")
        powers = None
        if self.h_s is not None:
            self._check_base(self.h_s)
            powers = _SHARED.setdefault((self.h_s, self.n), _FixedBase(mpz(self.h_s), modulus))
        object.__setattr__(self, "_powers", powers)

    def _check_base(self, h_s: int) -> None:
        if not 1 < h_s < self.n * self.n - 1 or gcd(h_s, self.n) != 1:
            raise ParameterError("h_s is not a unit modulo n² other than one and minus one")
        # p ≡ q ≡ 3 mod 4 makes n ≡ 1, and -1 and h = -x² elements of Jacobi symbol one.
        if self.n % 4 != 1 or gmpy2.jacobi(h_s, self.n) != 1:
            raise ParameterError("h_s is not the n-th power of minus a square; do not use this key")

    @property
    def key_bits(self) -> int:
        """Length of n."""
        return self.n.bit_length()

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of one ciphertext: key_bits / 4."""
        return self.key_bits // 4

    def encrypt_int(self, plaintext: int, *, entropy: Entropy = system_entropy) -> int:
        """A fresh ciphertext, in (0, n²), of a plaintext in [0, n).

        Raises:
            ParameterError: the plaintext is not an int in [0, n).
        """
        self._check_plaintext(plaintext, "the plaintext")
        return self.encrypt_ints([plaintext], entropy=entropy)[0]

    def encrypt_ints(self, plaintexts: Sequence[int], *, entropy: Entropy = system_entropy) -> list[int]:
        """Fresh ciphertexts of many plaintexts; as `encrypt_int`."""
        modulus = mpz(self.n)
        for index, plaintext in enumerate(plaintexts):
            self._check_plaintext(plaintext, f"the plaintext at index {index}")
        # (1 + m·n)(a + b·n) = a + (b + m·a)·n  mod n².
        return [
            int(a + (b + plaintext * a) % modulus * modulus)
            for plaintext, (a, b) in zip(plaintexts, self._residues(len(plaintexts), entropy), strict=True)
        ]

    def _check_plaintext(self, plaintext: object, which: str) -> None:
        if type(plaintext) is not int:
            raise ParameterError(f"{which} is a {type(plaintext).__name__}; it must be an int in [0, n)")
        if not 0 <= plaintext < self.n:
            found = "negative" if plaintext < 0 else "n or more"
            raise ParameterError(
                f"{which} is {found}; it must be in [0, n). For signed numbers encrypt value % n, and read "
                "what decrypts to more than n / 2 as that minus n"
            )

    def _residues(self, count: int, entropy: Entropy) -> list[tuple[mpz, mpz]]:
        """Fresh n-th residues, as pairs."""
        if self._powers is not None:
            return self._powers.powers([draw(entropy, _EXPONENT_BYTES) for _ in range(count)])
        modulus = mpz(self.n)
        # r shares a factor with n with probability below 2^-1000; whoever finds such an r has factored n.
        draws = (1 + uniform_below(entropy, self.n - 1) for _ in range(count))
        residues = (gmpy2.powmod(r, modulus, modulus**2) for r in draws)
        return [(residue % modulus, residue // modulus) for residue in residues]

    def encode(self) -> bytes:
        """key_bits (2 bytes), whether h_s follows (1), n (key_bits/8), h_s (key_bits/4)."""
        writer = Writer().uint(self.key_bits, 2).uint(int(self.h_s is not None), 1)
        writer.uint(self.n, self.key_bits // 8)
        if self.h_s is not None:
            writer.uint(self.h_s, self.ciphertext_bytes)
        return writer.finish()

    @classmethod
    def decode(cls, data: Buffer) -> "PublicKey":
        """The inverse of `encode`.

        Raises:
            DecodeError: anything else, and every key that the constructor refuses.
        """
        reader = Reader(data)
        key_bits, has_base = _read_header(reader)
        n = reader.uint(key_bits // 8)
        h_s = reader.uint(key_bits // 4) if has_base else None
        reader.finish()
        if n.bit_length() != key_bits:
            raise DecodeError(f"a Paillier modulus of {n.bit_length()} bits where {key_bits} were announced")
        try:
            return cls(n=n, h_s=h_s)
        except ParameterError as error:
            raise DecodeError(str(error)) from None

    def __repr__(self) -> str:
        return f"PublicKey(key_bits={self.key_bits})"


class PrivateKey:
    """Decrypts. `PrivateKey(p=…, q=…, h_s=…)`.

    Shows nothing in `repr`, cannot be pickled or copied; compares by `Secret`. The primes come out through
    `encode` and `reveal_primes` alone.

    Args:
        p, q: distinct primes of key_bits/2 bits, in either order.
        h_s: see `PublicKey`; None for primes that were made elsewhere, which need not be ≡ 3 mod 4.

    Raises:
        ParameterError: the primes are not prime, of unequal length or too close; or h_s is given and the
            primes are not as Damgård, Jurik and Nielsen need them, or h_s is no n-th residue.
    """

    __slots__ = ("_p", "_p_inverse", "_q", "public_key")
    public_key: PublicKey

    def __init__(self, *, p: int, q: int, h_s: int | None) -> None:
        if type(p) is not int or type(q) is not int:
            raise ParameterError("the primes of a Paillier private key must be ints")
        self._p, self._q = mpz(min(p, q)), mpz(max(p, q))
        self._check_primes()
        self.public_key = PublicKey(n=p * q, h_s=h_s)
        self._p_inverse = gmpy2.invert(self._p, self._q)
        if h_s is not None:
            self._check_base(mpz(h_s))

    def _check_primes(self) -> None:
        p, q = self._p, self._q
        bits = q.bit_length()
        # Of equal length, neither prime divides the other less one: gcd(n, (p-1)(q-1)) = 1.
        if p < 3 or p.bit_length() != bits or (p * q).bit_length() != 2 * bits:
            raise ParameterError("p and q are not both half as long as their product")
        check_key_bits(2 * bits)
        if (q - p).bit_length() <= bits - _CLOSE_PRIMES_BITS:
            raise ParameterError("p and q are too close to each other; do not use this key")
        if not (gmpy2.is_prime(p, _PRIMALITY_ROUNDS) and gmpy2.is_prime(q, _PRIMALITY_ROUNDS)):
            raise ParameterError("p and q are not both prime; do not use this key")

    def _check_base(self, h_s: mpz) -> None:
        if self._p % 4 != 3 or self._q % 4 != 3 or gmpy2.gcd(self._p - 1, self._q - 1) != 2:
            raise ParameterError("h_s needs primes ≡ 3 mod 4 with gcd(p-1, q-1) = 2; pass h_s=None")
        for prime in (self._p, self._q):
            # Modulo p² the n-th residues are the elements whose order divides p - 1.
            if gmpy2.powmod(h_s, prime - 1, prime**2) != 1 or h_s % prime in (1, prime - 1):
                raise ParameterError("h_s is not an n-th residue of large order; do not use this key")

    def decrypt_int(self, ciphertext: int) -> int:
        """The plaintext, in [0, n). Every ciphertext that passes the checks has one.

        Raises:
            ParameterError: the ciphertext is not an int.
            VerificationError: it is not in (0, n²), or it shares a factor with n.
        """
        if type(ciphertext) is not int:
            raise ParameterError(f"a Paillier ciphertext is an int, not {type(ciphertext).__name__}")
        p, q = self._p, self._q
        if not 0 < ciphertext < (p * q) ** 2:
            raise VerificationError("a Paillier ciphertext is outside (0, n²)")
        m_p = _decrypt_modulo(mpz(ciphertext), p, q)
        m_q = _decrypt_modulo(mpz(ciphertext), q, p)
        return int(m_p + (m_q - m_p) * self._p_inverse % q * p)

    def reveal_primes(self) -> tuple[int, int]:
        """(p, q) with p < q. Every call of this method deserves a reader's attention."""
        return int(self._p), int(self._q)

    def encode(self) -> Secret:
        """key_bits (2 bytes), whether h_s follows (1), p < q (key_bits/16 each), h_s (key_bits/4)."""
        public = self.public_key
        half = public.key_bits // 16
        writer = Writer().uint(public.key_bits, 2).uint(int(public.h_s is not None), 1)
        writer.uint(int(self._p), half).uint(int(self._q), half)
        if public.h_s is not None:
            writer.uint(public.h_s, public.ciphertext_bytes)
        return Secret(writer.finish())

    @classmethod
    def decode(cls, secret: Secret) -> "PrivateKey":
        """The inverse of `encode`.

        Raises:
            DecodeError: anything else, and every key that the constructor refuses.
        """
        if not isinstance(secret, Secret):
            raise DecodeError(f"a Paillier private key comes as a Secret, not as {type(secret).__name__}")
        reader = Reader(secret.reveal())
        key_bits, has_base = _read_header(reader)
        p, q = reader.uint(key_bits // 16), reader.uint(key_bits // 16)
        h_s = reader.uint(key_bits // 4) if has_base else None
        reader.finish()
        if p >= q or (p * q).bit_length() != key_bits:
            raise DecodeError(f"a Paillier private key that is not p < q with a product of {key_bits} bits")
        try:
            return cls(p=p, q=q, h_s=h_s)
        except ParameterError as error:
            raise DecodeError(str(error)) from None

    def __repr__(self) -> str:
        return f"PrivateKey(key_bits={self.public_key.key_bits})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PrivateKey):
            return NotImplemented
        return self.encode() == other.encode()

    __hash__ = None  # type: ignore[assignment]  # a hash table would compare in variable time

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Paillier private key is not pickled or copied; encode() gives a Secret")


def generate_key(*, key_bits: int = DEFAULT_KEY_BITS, entropy: Entropy = system_entropy) -> PrivateKey:
    """A fresh key: p and q uniform among the primes ≡ 3 mod 4 that have half the length and two top bits set.

    Raises:
        ParameterError: key_bits is not a multiple of 64 in [2048, 8192], or the entropy source fails.
    """
    check_key_bits(key_bits)
    p = _random_prime(key_bits // 2, entropy)
    q = _random_prime(key_bits // 2, entropy)
    while gcd(p - 1, q - 1) != 2:
        q = _random_prime(key_bits // 2, entropy)
    n = p * q
    x = 1 + uniform_below(entropy, n - 1)
    # DJN10, key generation: h = -x² mod n and h_s = h^n mod n².
    return PrivateKey(p=p, q=q, h_s=int(gmpy2.powmod(-x * x % n, n, n * n)))


def _random_prime(bits: int, entropy: Entropy) -> int:
    """Fresh draws until one is prime, for a search upwards prefers primes after long gaps."""
    # About bits·ln(2)/2 draws are needed; ten times more pass 50·bits only with probability e^-144.
    for _ in range(50 * bits):
        candidate = int.from_bytes(draw(entropy, bits // 8), "big") | 3 << (bits - 2) | 3
        if gmpy2.is_prime(candidate, _PRIMALITY_ROUNDS):
            return candidate
    raise ParameterError("the entropy source is broken: no draw was prime")


def _decrypt_modulo(ciphertext: mpz, prime: mpz, other: mpz) -> mpz:
    """m mod p. With g = n + 1, c^(p-1) = 1 - m·q·p mod p²."""
    power = gmpy2.powmod(ciphertext, prime - 1, prime**2)
    quotient, remainder = gmpy2.f_divmod(power - 1, prime)
    if remainder:
        raise VerificationError("a Paillier ciphertext shares a factor with n")
    return -quotient * gmpy2.invert(other, prime) % prime


def _read_header(reader: Reader) -> tuple[int, bool]:
    """(key_bits, whether h_s follows)."""
    key_bits, flag = reader.uint(2), reader.uint(1)
    try:
        check_key_bits(key_bits)
    except ParameterError as error:
        raise DecodeError(str(error)) from None
    if flag > 1:
        raise DecodeError(f"a flag of value {flag}; it is 0 or 1")
    return key_bits, bool(flag)
