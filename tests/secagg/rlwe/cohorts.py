"""Honest clients with vectors under lattice keys, for the tests of `secagg.rlwe.scheme`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from secagg.entropy import SeededEntropy
from secagg.rlwe.scheme import (
    OpenedVector,
    Parameters,
    choose_parameters,
    draw_key,
    mask_blocks,
)
from secagg.vectors.ring import Ring, Words

SEED = bytes(range(32))
Vector = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint64]


class Cohort:
    """Honest clients with their vectors, and what they send."""

    def __init__(self, parameters: Parameters, vectors: list[Vector], *, seed: bytes = SEED) -> None:
        self.parameters, self.seed, self.count = parameters, seed, len(vectors[0])
        entropies = [SeededEntropy(b"client %d" % index) for index in range(len(vectors))]
        self.keys = [draw_key(entropy, degree=parameters.degree) for entropy in entropies]
        self.sent = [
            masked(parameters, vector, seed=seed, key=key, entropy=entropy)
            for vector, key, entropy in zip(vectors, self.keys, entropies, strict=True)
        ]
        self.expected: Vector = np.sum(vectors, axis=0)

    @property
    def ring(self) -> Ring:
        return ring_of(self.parameters)

    def opened(self, **changes: Any) -> OpenedVector:
        """The sum of all, or what becomes of it with other arguments."""
        arguments: dict[str, Any] = {
            "seed": self.seed,
            "key": sum(self.keys[1:], self.keys[0]),
            "summands": len(self.keys),
            "total": sum(self.sent[1:], self.sent[0]),
            "count": self.count,
            "ring": self.ring,
        }
        return OpenedVector(self.parameters, **(arguments | changes))


def ring_of(parameters: Parameters) -> Ring:
    """The narrowest ring of the sums."""
    return Ring(bits=(parameters.base - 1).bit_length())


def words(vector: Vector) -> Words:
    if len(vector) and (vector.min() < -(2**31) or vector.max() >= 2**31):
        return vector.view(np.uint64)
    return vector.astype(np.int32).view(np.uint32)


def groups(parameters: Parameters, vector: Vector) -> Iterator[Words]:
    """The blocks of a vector, each in the memory of the one before."""
    size = parameters.digits * parameters.degree
    whole = words(vector)
    buffer = np.empty(min(size, len(vector)), dtype=whole.dtype)
    for start in range(0, len(vector), size):
        block = buffer[: min(size, len(vector) - start)]
        block[:] = whole[start : start + size]
        yield block


def masked(parameters: Parameters, vector: Vector, **arguments: Any) -> Words:
    blocks = mask_blocks(
        parameters,
        **({"seed": SEED, "blocks": groups(parameters, vector), "count": len(vector)} | arguments),
    )
    return np.concatenate([block.copy() for block in blocks])


def read(vector: OpenedVector, parameters: Parameters) -> Vector:
    """All values, as integers."""
    ring = ring_of(parameters)
    if parameters.signed:
        return ring.centred(vector[:])
    return ring.residues(vector[:]).astype(np.int64)


def drawn(parameters: Parameters, clients: int, count: int, seed: int = 0) -> list[Vector]:
    """Vectors whose sums reach both ends of the range."""
    bound = (parameters.base - 1) // (2 if parameters.signed else 1) // clients
    rng = np.random.default_rng(seed)
    low = -bound if parameters.signed else 0
    vectors = [rng.integers(low, bound, count, endpoint=True) for _ in range(clients)]
    for vector in vectors:
        vector[: count // 4], vector[count // 2 : count // 2 + count // 4] = bound, low
    return vectors


def slow_packed(parameters: Parameters, vector: Vector) -> list[int]:
    """Mixed radix, value by value, with the checks behind."""
    size, packed = parameters.digits * parameters.degree, []
    for start in range(0, len(vector), size):
        group = vector[start : start + size].tolist()
        columns = -(-len(group) // parameters.digits)
        for column in range(columns):
            digits = group[column::columns]
            packed.append(sum(digit * parameters.base**power for power, digit in enumerate(digits)))
    return packed + [0] * parameters.check_coefficients


SMALL = choose_parameters(sum_bound=3 * 100, signed=True, max_summands=3, degree=1024)
USUAL = choose_parameters(sum_bound=10 * 32767, signed=True, max_summands=10)
