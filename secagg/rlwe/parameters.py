"""Parameters of lattice encryption: how wide the ring, how many values in a coefficient, how much noise.

A coefficient carries m values of base B as one integer X, its *digits*, and travels as Δ·X + noise modulo
q = 2**K with Δ = 2**d (ACORN, Bell et al., USENIX Security 2023, with q a power of two). Everything follows
from the bound of a sum and the number of summands n:

- B = 2·sum_bound + 1 for signed values, sum_bound + 1 for unsigned ones: the sums of digits never carry.
- The noise of n summands is the centred count of 164·n fair coins. By Hoeffding's inequality it exceeds t
  with a probability of at most 2·exp(-2t²/(164·n)); `noise_bound` E is the least that is exceeded with less
  than 2**-68, so that among `MAXIMUM_COEFFICIENTS` = 2**28 of them one is with less than 2**-40.
- Δ is the least power of two with 2E + 1 <= (31/32)·Δ. A uniform residue passes for noise with at most
  31/32, all N of a block with 2**-187 for N = 4096: a wrong key is found, not decoded.
- K is the least with B**m <= 2**(K - d), so no sum wraps; where a 25th more makes it whole bytes, which are
  several times faster to add, it is that. m makes K/m, the bits a value, least.
- `CHECK_BITS` = 128 say how many zero coefficients travel behind the last value: a wrong key passes all of
  them with less than 2**-128, however short the vector.

**Security.** The table of the HomomorphicEncryption.org standard (2018) allows, for 128 bits against known
attacks, errors of standard deviation 3.2 and the narrowest keys, which are ternary, total moduli of 27, 54,
109 and 218 bits at N = 1024, 2048, 4096 and 8192. More is refused. Keys and errors here are as wide as 6.4.
What the sum of the keys says of each one is paid for by their width; see `secagg.rlwe.scheme`.

>>> p = choose_parameters(sum_bound=10 * 32767, signed=True, max_summands=10)
>>> p.modulus_bits, p.digits, p.noise_bound, p.scale_bits
(48, 2, 198, 9)
>>> p.packed_size(1_000_000)
3000024
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from secagg.errors import ParameterError
from secagg.rlwe.binomial import COINS, VARIANCE
from secagg.rlwe.negacyclic import MAXIMUM_ERROR, rounding_bound
from secagg.vectors.ring import Ring

__all__ = [
    "CHECK_BITS",
    "DEGREES",
    "MAXIMUM_COEFFICIENTS",
    "MAXIMUM_SUMMANDS",
    "SECURE_MODULUS_BITS",
    "Parameters",
    "choose_parameters",
]

SECURE_MODULUS_BITS: Final = {1024: 27, 2048: 54, 4096: 109, 8192: 218}
"""The largest log2 q for 128 bits of security, by degree: HomomorphicEncryption.org, ternary keys."""

DEGREES: Final = tuple(SECURE_MODULUS_BITS)

MAXIMUM_COEFFICIENTS: Final = 1 << 28
"""Of one vector: what the failure probability of 2**-40 is divided among."""

MAXIMUM_SUMMANDS: Final = 1 << 16

CHECK_BITS: Final = 128

_MAX_MODULUS_BITS: Final = 64
_MAX_LIMB_BITS: Final = 32
_FAILURE_BITS: Final = 68  # a coefficient: 40 + log2(MAXIMUM_COEFFICIENTS)
_KEY_FAILURE_BITS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What all parties of a sum agree on; made by `choose_parameters`.

    Attributes:
        degree: N, coefficients of a block.
        modulus_bits: K; coefficients travel modulo 2**K.
        scale_bits: d; Δ = 2**d.
        base: B, of a digit.
        digits: m, values in a coefficient.
        signed: whether digits are balanced, from -(B-1)/2 to (B-1)/2, or from 0 to B-1.
        noise_bound: E, the largest magnitude of a residue.
        limb_bits: w, of a limb of the public polynomial.
        limbs: how many it has; L·w >= K.
        max_summands: n.
        key_norm_bound: the largest squared 2-norm of a sum of n keys.

    Raises:
        ParameterError: they are not secure, or do not decode.
    """

    degree: int
    modulus_bits: int
    scale_bits: int
    base: int
    digits: int
    signed: bool
    noise_bound: int
    limb_bits: int
    limbs: int
    max_summands: int
    key_norm_bound: int

    def __post_init__(self) -> None:
        if self.modulus_bits > min(_MAX_MODULUS_BITS, SECURE_MODULUS_BITS.get(self.degree, 0)):
            raise ParameterError(
                f"a modulus of {self.modulus_bits} bits is not secure at degree {self.degree}; {_allowed()}"
            )
        if (
            self.base**self.digits << self.scale_bits > 1 << self.modulus_bits
            or 32 * (2 * self.noise_bound + 1) > 31 << self.scale_bits
            or self.limb_bits * self.limbs < self.modulus_bits
        ):
            raise ParameterError("these parameters do not decode; take those of choose_parameters")

    @property
    def ring(self) -> Ring:
        """Where the coefficients live."""
        return Ring(bits=self.modulus_bits)

    @property
    def bits_per_value(self) -> float:
        """K/m."""
        return self.modulus_bits / self.digits

    @property
    def plaintext_half(self) -> int:
        """What is added to signed plaintexts so that none is negative: (B**m - 1)/2; else 0."""
        return (self.base**self.digits - 1) // 2 if self.signed else 0

    @property
    def check_coefficients(self) -> int:
        """Zero coefficients behind the last value: a wrong key passes all with less than 2**-CHECK_BITS.

        The key is wrong by δ, whose coefficients are at most 164·n. Whatever power of two 2**c divides δ, a·δ
        is uniform over an ideal that contains 2**(c+1)·R, so one check passes with at most
        (2E + 1 + 2**(c+1))/2**K <= (2E + 1 + 328·n)/2**K.
        """
        passing, count = 2 * self.noise_bound + 1 + 2 * COINS * self.max_summands, 1
        while passing**count << CHECK_BITS >= 1 << (self.modulus_bits * count):
            count += 1
        return count

    def coefficients(self, count: int) -> int:
        """The coefficients that travel for `count` values, checks included.

        Raises:
            ParameterError: count is not an integer of at least 0, or more than `MAXIMUM_COEFFICIENTS` would
                travel.
        """
        if type(count) is not int or count < 0:
            raise ParameterError(f"a vector of {count!r} values; its length is an integer of at least 0")
        full, rest = divmod(count, self.digits * self.degree)
        coefficients = full * self.degree + -(-rest // self.digits) + self.check_coefficients
        if coefficients > MAXIMUM_COEFFICIENTS:
            raise ParameterError(
                f"{count} values take {coefficients} coefficients of the {MAXIMUM_COEFFICIENTS} that are "
                "sure to decode; split the vector"
            )
        return coefficients

    def packed_size(self, count: int) -> int:
        """Bytes that `count` values take on the wire; errors are those of `coefficients`."""
        return self.ring.packed_size(self.coefficients(count))


@lru_cache(maxsize=64, typed=True)
def choose_parameters(*, sum_bound: int, signed: bool, max_summands: int, degree: int = 4096) -> Parameters:
    """The parameters with the fewest bits a value.

    Args:
        sum_bound: the largest magnitude of a sum, at least 1.
        signed: whether sums may be negative.
        max_summands: the most vectors in a sum, in [1, `MAXIMUM_SUMMANDS`].
        degree: N, one of `DEGREES`.

    Raises:
        ParameterError: an argument is anything else, or not one value fits the modulus that is secure.
    """
    if type(sum_bound) is not int or sum_bound < 1:
        raise ParameterError(f"sum_bound is {sum_bound!r}; it is an integer of at least 1")
    if type(signed) is not bool:
        raise ParameterError(f"signed is of type {type(signed).__name__}; it is a bool")
    if type(max_summands) is not int or not 1 <= max_summands <= MAXIMUM_SUMMANDS:
        raise ParameterError(
            f"max_summands is {max_summands!r}; it is an integer from 1 to {MAXIMUM_SUMMANDS:,}"
        )
    if type(degree) is not int or degree not in DEGREES:
        raise ParameterError(f"a degree of {degree!r}; {_allowed()}")
    base = 2 * sum_bound + 1 if signed else sum_bound + 1
    noise_bound = _noise_bound(max_summands)
    scale_bits = 0
    while 32 * (2 * noise_bound + 1) > 31 << scale_bits:
        scale_bits += 1
    modulus_bits, digits = _fewest_bits(base, scale_bits, min(_MAX_MODULUS_BITS, SECURE_MODULUS_BITS[degree]))
    if not digits:
        raise ParameterError(
            f"sums of up to {sum_bound} over {max_summands} summands do not fit a secure modulus at degree "
            f"{degree}; lower max_clients, max_weight, bits, max_summand or max_abs"
        )
    key_norm_bound = _key_norm_bound(degree, max_summands)
    limbs = _limbs(degree, modulus_bits, key_norm_bound)
    return Parameters(
        degree=degree,
        modulus_bits=modulus_bits,
        scale_bits=scale_bits,
        base=base,
        digits=digits,
        signed=signed,
        noise_bound=noise_bound,
        limb_bits=-(-modulus_bits // limbs),
        limbs=limbs,
        max_summands=max_summands,
        key_norm_bound=key_norm_bound,
    )


def _allowed() -> str:
    pairs = ", ".join(f"{degree}: {bits}" for degree, bits in SECURE_MODULUS_BITS.items())
    return f"secure are the degrees and bits ({pairs}), with at most {_MAX_MODULUS_BITS} bits"


def _noise_bound(summands: int) -> int:
    """The least E with 2·exp(-2·(E+1)²/(164·n)) < 2**-68: noise is an integer, so beyond E is E + 1."""
    square = COINS * summands / 2 * (_FAILURE_BITS + 1) * math.log(2)
    return math.floor(math.sqrt(square))


def _fewest_bits(base: int, scale_bits: int, largest: int) -> tuple[int, int]:
    """(K, m) with the least K/m, the smaller m of equals; (0, 0) if not one digit fits."""
    best, best_digits = 0, 0
    for digits in range(1, largest + 1):
        bits = _whole_bytes(scale_bits + (base**digits - 1).bit_length())
        if bits > largest:
            break
        if not best_digits or bits * best_digits < best * digits:
            best, best_digits = bits, digits
    return best, best_digits


def _whole_bytes(bits: int) -> int:
    """`bits`, or whole bytes of more than 32 bits where they cost at most a 25th."""
    rounded = -(-bits // 8) * 8
    return rounded if rounded > 32 and 25 * (rounded - bits) <= bits else bits


def _key_norm_bound(degree: int, summands: int) -> int:
    """What the squared norm of a sum of keys exceeds with less than 2**-64.

    A centred count of k coins is subgaussian with variance k/4. Hsu, Kakade and Zhang ("A tail inequality for
    quadratic forms of subgaussian random vectors", 2012, theorem 2.1): for N independent ones of variance v,
    Pr[‖S‖² > v·(N + 2√(N·t) + 2t)] <= exp(-t).
    """
    t = _KEY_FAILURE_BITS * math.log(2)
    return math.ceil(VARIANCE * summands * (degree + 2 * math.sqrt(degree * t) + 2 * t))


def _limbs(degree: int, modulus_bits: int, key_norm_bound: int) -> int:
    """The fewest limbs whose products round correctly under every key that is accepted."""
    limbs = -(-modulus_bits // _MAX_LIMB_BITS)
    while rounding_bound(
        degree=degree, limb_bits=-(-modulus_bits // limbs), squared_norm=key_norm_bound
    ) >= MAXIMUM_ERROR * (1 - 2.0**-20):
        limbs += 1
    return limbs
