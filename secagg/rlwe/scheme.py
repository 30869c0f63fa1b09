"""Lattice masks: a long vector hidden by a short key, and sums of vectors opened by sums of keys.

ACORN (Bell et al., USENIX Security 2023) and LERNA (Li et al., ASIACRYPT 2023) in the ring
R = Z[X]/(X^N + 1) modulo q = 2**K. A client draws a key s of N small coefficients for one vector and sends

    b_j = a_j·s + e_j + Δ·x_j  mod 2**K    for each block j of N coefficients,

the a_j public, uniform and the same for all clients, the noise e_j fresh. The sum of such vectors is
a_j·Σs + Σe_j + Δ·Σx_j: it opens with the sum of the keys, which another protocol computes, and with
nothing that opens one vector. How values share coefficients, and why sums decode, is in
`secagg.rlwe.parameters`; the order of coefficients in memory in `secagg.rlwe.negacyclic`.

**Against whom.** Who sees all b_i, the seed and the sum of the keys learns the sum of the x_i: decisional
RLWE with keys as narrow as errors (normal form), and with the sum of two or more honest keys as a hint
(Hint-RLWE: Kim, Lee, Seo, Song, CRYPTO 2023), for centred binomials in place of Gaussians. **A key serves one
vector and one seed**: two vectors under the same a_j and s give away their difference (ATTACKS C10), so must
no key be stored for later. The seed must depend on what all parties said before, never on one of them.

**Not authenticated.** Anyone can add to b. An `OpenedVector` refuses wrong keys and random changes, which
leave residues that are no noise; a multiple of Δ that is added stays unseen. Against that, a MAC on sums can
bind the packed plaintexts: `packed` sees them on both sides.

>>> from secagg.entropy import system_entropy
>>> parameters = choose_parameters(sum_bound=200, signed=True, max_summands=2)
>>> seed, count, total, keys = bytes(32), 3, 0, 0
>>> for vector in ([1, -2, 100], [10, -20, 100]):
...     key = draw_key(system_entropy, degree=parameters.degree)
...     block = np.array(vector, dtype=np.int32).view(np.uint32)
...     blocks = mask_blocks(
...         parameters, seed=seed, key=key, blocks=[block], count=count, entropy=system_entropy)
...     total, keys = total + np.concatenate([block.copy() for block in blocks]), keys + key
>>> opened = OpenedVector(
...     parameters, seed=seed, key=keys, summands=2, total=total, count=count, ring=Ring(bits=9))
>>> Ring(bits=9).centred(opened[:]).tolist()
[11, -22, 200]
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from secagg import labels
from secagg.entropy import Entropy, draw
from secagg.errors import ParameterError, SecAggError, VerificationError
from secagg.rlwe.binomial import CENTRE, COINS, BinomialStream
from secagg.rlwe.digits import DigitCutter, DigitPacker
from secagg.rlwe.parameters import DEGREES, Parameters, choose_parameters
from secagg.rlwe.public import SEED_BYTES, PublicProduct
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.vectors.ring import BLOCK_VALUES, Ring, Words

__all__ = [
    "KEY_SUMMAND_MAX",
    "SEED_BYTES",
    "OpenedVector",
    "PackedHook",
    "Parameters",
    "choose_parameters",
    "draw_key",
    "mask_blocks",
]

KEY_SUMMAND_MAX: Final = COINS
"""A key's coefficient travels as its count of heads, in [0, KEY_SUMMAND_MAX]."""

Coefficients: TypeAlias = npt.NDArray[np.uint64]

PackedHook: TypeAlias = Callable[[npt.NDArray[np.int64], int], None]
"""Sees packed plaintexts, each once: (coefficients, index of the first); they are valid until it returns."""


def draw_key(entropy: Entropy, *, degree: int) -> Coefficients:
    """A fresh key as counts in [0, `KEY_SUMMAND_MAX`], shape (degree,) of uint64; 32 bytes are drawn.

    Add the counts of several keys for the key of their sum. Use it for one vector.

    Raises:
        ParameterError: the degree is not one of `DEGREES`, or the entropy source is broken.
    """
    if type(degree) is not int or degree not in DEGREES:
        raise ParameterError(f"a degree of {degree!r}; choose one of {DEGREES}")
    counts = np.empty(degree, dtype=np.uint8)
    BinomialStream(hkdf(Secret(draw(entropy, 32)), label=labels.LATTICE_KEY)).fill(counts)
    return counts.astype(np.uint64)


def mask_blocks(
    parameters: Parameters,
    *,
    seed: bytes,
    key: Coefficients,
    blocks: Iterable[Words],
    count: int,
    entropy: Entropy,
    packed: PackedHook | None = None,
) -> Iterator[Words]:
    """Masks a vector that comes in blocks; for `Ring.pack_stream`.

    Args:
        parameters: of the sum.
        seed: `SEED_BYTES` public bytes.
        key: from `draw_key`, not used before.
        blocks: `digits`·`degree` values each, the last one shorter: exact integers as words of uint32 or
            uint64, in two's complement if `parameters.signed`. The sum of all clients' values must keep to
            `sum_bound`. A block may reuse the memory of the one before.
        count: values in all blocks.
        entropy: 32 bytes are drawn for the noise when the first block is asked for.
        packed: sees each block of packed plaintexts, before Δ, checks included.

    Returns:
        the masked coefficients in blocks of `BLOCK_VALUES`, the last one shorter, each in the memory of the
        one before, of `parameters.ring.dtype` with garbage above `modulus_bits`;
        `parameters.coefficients(count)` in all.

    Raises:
        ParameterError: an argument is anything else: at the call; or a block: when it is reached.
    """
    _check_parameters(parameters)
    centred = _centred_key(parameters, key, summands=1, error=ParameterError)
    product = PublicProduct(parameters, seed=seed, key=centred)
    total = parameters.coefficients(count)
    packer = DigitPacker(parameters, blocks, count)
    return _masked(parameters, product, packer, total=total, entropy=entropy, packed=packed)


def _masked(
    parameters: Parameters,
    product: PublicProduct,
    packer: DigitPacker,
    *,
    total: int,
    entropy: Entropy,
    packed: PackedHook | None,
) -> Iterator[Words]:
    noise = BinomialStream(hkdf(Secret(draw(entropy, 32)), label=labels.LATTICE_NOISE))
    degree = parameters.degree
    capacity = min(BLOCK_VALUES, -(-total // degree) * degree)
    plain = np.empty(capacity, dtype=np.int64)
    out = np.empty(capacity, dtype=np.uint64)
    counts = np.empty(capacity, dtype=np.uint8)
    for start in range(0, total, BLOCK_VALUES):
        size = min(BLOCK_VALUES, total - start)
        block, part = plain[:size], out[:size]
        packer.fill(block)
        if packed is not None:
            packed(block, start)
        product.write(start // degree, out[: -(-size // degree) * degree], offset=-CENTRE)
        np.left_shift(block, parameters.scale_bits, out=block)
        np.add(part, block.view(np.uint64), out=part)
        noise.fill(counts[:size])
        np.add(part, counts[:size], out=part)
        yield part.astype(parameters.ring.dtype, copy=False)
    packer.finish()


class OpenedVector:
    """The sum of masked vectors, opened where it is read: a sequence of `count` words of a narrow ring.

    The batch of `BLOCK_VALUES` coefficients that was opened last is kept, so that slices in order open each
    block once. Nothing of a batch is returned before all its residues and checks are found good.

    Args:
        parameters: of the sum.
        seed: `SEED_BYTES` public bytes, those of every summand.
        key: the sum of the counts of the summands' keys, shape (degree,) of uint64.
        summands: how many there are, in [1, max_summands].
        total: the sum of the masked vectors, shape (`parameters.coefficients(count)`,), contiguous, of
            `parameters.ring.dtype`; bits above `modulus_bits` are ignored. It is only read, and must not
            change.
        count: values in the vector.
        ring: where the values' sums live; it must be wide enough for every sum.
        packed: sees each batch of packed plaintexts, checks included, when it is opened for the first time.

    Raises:
        ParameterError: an argument is anything else.
        VerificationError: the key is no sum of so many keys: a count or the norm is beyond what they reach.
    """

    __slots__ = (
        "_batch",
        "_checked",
        "_count",
        "_cutter",
        "_good",
        "_packed",
        "_parameters",
        "_product",
        "_ring",
        "_scratch",
        "_total",
        "_values",
    )

    def __init__(
        self,
        parameters: Parameters,
        *,
        seed: bytes,
        key: Coefficients,
        summands: int,
        total: Words,
        count: int,
        ring: Ring,
        packed: PackedHook | None = None,
    ) -> None:
        _check_parameters(parameters)
        if type(summands) is not int or not 1 <= summands <= parameters.max_summands:
            raise ParameterError(
                f"{summands!r} summands; these parameters allow 1 to {parameters.max_summands}"
            )
        coefficients = parameters.coefficients(count)
        if (
            not isinstance(total, np.ndarray)
            or total.dtype != parameters.ring.dtype
            or total.shape != (coefficients,)
            or not total.flags.c_contiguous
        ):
            raise ParameterError(
                f"a sum of {count} values is a contiguous array of {coefficients} {parameters.ring.dtype}"
            )
        if not isinstance(ring, Ring) or parameters.base > 1 << ring.bits:
            raise ParameterError("the ring of the sums is narrower than a digit; take that of the surface")
        centred = _centred_key(parameters, key, summands=summands, error=VerificationError)
        self._parameters, self._ring, self._total, self._count = parameters, ring, total, count
        self._product = PublicProduct(parameters, seed=seed, key=np.negative(centred))
        degree = parameters.degree
        capacity = min(BLOCK_VALUES, -(-coefficients // degree) * degree)
        self._checked = np.empty(capacity, dtype=np.uint64)
        self._scratch = np.empty(capacity, dtype=np.uint64)
        self._cutter = DigitCutter(parameters, dtype=ring.dtype, capacity=capacity)
        self._values = np.empty(parameters.digits * capacity, dtype=ring.dtype)
        self._batch = -1
        self._packed, self._good = packed, set[int]()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"OpenedVector({self._count} values)"

    def __getitem__(self, part: slice) -> Words:
        """The values of a slice with step 1: fresh, contiguous, of `ring.dtype`, signs in two's complement.

        Raises:
            ParameterError: the slice has another step.
            VerificationError: a block under the slice does not open under this key.
        """
        start, stop, step = part.indices(self._count)
        if step != 1:
            raise ParameterError(f"a slice with step {step}; values are read one after the other")
        values = np.empty(max(stop - start, 0), dtype=self._ring.dtype)
        capacity = self._parameters.digits * BLOCK_VALUES
        at = start
        while at < stop:
            batch, offset = divmod(at, capacity)
            size = min(capacity - offset, stop - at)
            values[at - start : at - start + size] = self._opened(batch)[offset : offset + size]
            at += size
        return values

    def check_all(self) -> None:
        """Opens every block that was not opened yet.

        Raises:
            VerificationError: a block does not open under this key.
        """
        for batch in range(-(-len(self._total) // BLOCK_VALUES)):
            if batch not in self._good:
                self._check(batch)

    def _opened(self, batch: int) -> Words:
        """The values of a batch, valid until another is opened."""
        if batch == self._batch:
            return self._values
        self._batch = -1
        parameters = self._parameters
        raised = self._check(batch)
        rest = self._count - batch * parameters.digits * BLOCK_VALUES
        group = parameters.digits * parameters.degree
        full = min(rest // group, BLOCK_VALUES // parameters.degree)
        self._cutter.cut(raised[: full * parameters.degree], groups=full, out=self._values[: full * group])
        rest -= full * group
        if rest and full < BLOCK_VALUES // parameters.degree:
            columns = -(-rest // parameters.digits)
            out = self._values[full * group : full * group + columns * parameters.digits]
            self._cutter.cut(raised[full * parameters.degree :][:columns], groups=1, out=out)
            if out[rest:].any():
                raise VerificationError("there are values behind the last one; the sum was changed")
        self._batch = batch
        return self._values

    def _check(self, batch: int) -> Coefficients:
        """The packed plaintexts of a batch, raised by `plaintext_half`, valid until the next one.

        Refuses residues that are not noise, plaintexts that do not exist, and checks that are not zero.
        """
        parameters = self._parameters
        total = self._total[batch * BLOCK_VALUES : (batch + 1) * BLOCK_VALUES]
        degree = parameters.degree
        raised, scratch = self._checked[: len(total)], self._scratch[: len(total)]
        # With E and Δ·half added, residues become [0, 2E] and plaintexts [0, B**m), without signs.
        offset = parameters.noise_bound + (parameters.plaintext_half << parameters.scale_bits)
        whole = self._checked[: -(-len(total) // degree) * degree]
        self._product.write(batch * BLOCK_VALUES // degree, whole, offset=offset)
        np.add(raised, total, out=raised)
        np.bitwise_and(raised, np.uint64((1 << parameters.scale_bits) - 1), out=scratch)
        residue = int(scratch.max())
        if parameters.modulus_bits < 64:
            np.bitwise_and(raised, np.uint64((1 << parameters.modulus_bits) - 1), out=raised)
        np.right_shift(raised, parameters.scale_bits, out=raised)
        checks = raised[max(len(self._total) - parameters.check_coefficients - batch * BLOCK_VALUES, 0) :]
        if (
            residue > 2 * parameters.noise_bound
            or int(raised.max()) >= parameters.base**parameters.digits
            or (checks != np.uint64(parameters.plaintext_half)).any()
        ):
            raise VerificationError("the sum does not open under this key: what remains is not noise")
        if self._packed is not None and batch not in self._good:
            np.subtract(raised, np.uint64(parameters.plaintext_half), out=scratch)
            self._packed(scratch.view(np.int64), batch * BLOCK_VALUES)
        self._good.add(batch)
        return raised


def _check_parameters(parameters: Parameters) -> None:
    if not isinstance(parameters, Parameters):
        raise ParameterError(f"parameters come from choose_parameters, not {type(parameters).__name__}")


def _centred_key(
    parameters: Parameters, key: Coefficients, *, summands: int, error: type[SecAggError]
) -> npt.NDArray[np.int64]:
    """The key itself, from its counts.

    Raises:
        ParameterError: it is not an array of counts.
        error: a count or the norm is beyond that of so many keys.
    """
    if not isinstance(key, np.ndarray) or key.dtype != np.uint64 or key.shape != (parameters.degree,):
        raise ParameterError(f"a key is an array of {parameters.degree} counts of uint64")
    if int(key.max()) > COINS * summands:
        raise error(f"the key is not the sum of keys of {summands} summands: a count is out of range")
    centred = key.astype(np.int64) - CENTRE * summands
    if int(centred @ centred) > parameters.key_norm_bound:
        raise error(f"the key is not the sum of keys of {summands} summands: it is too large")
    return centred
