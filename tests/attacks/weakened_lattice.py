"""Tooling that the attacks on LatticeSum share: a stage, and what a server can do with hidden vectors.

A hidden vector is b = a·s + e + Δ·X. Whoever has b without s has a sample of RLWE; the attacks look for ways
around it. `LatticeStage.opened` reads a vector under a key, or under none where keys have cancelled. Errors
that are known in enough places are linear equations for the key, modulo Δ where the message is absent:
`Equations` collects and solves them.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import LatticeSum, NeedUpdate, PaillierSum
from protocols.lattice import client as lattice_client
from protocols.lattice import server as lattice_server
from protocols.lattice.client import LatticeClientSteps
from protocols.lattice.messages import Contribution, Task, public_seed
from protocols.lattice.server import LatticeServerSteps
from protocols.machine.suite import ServerSteps, Suite
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import MaskedInput
from protocols.messages.schema import decode, encode
from secagg.errors import VerificationError
from secagg.rlwe import scheme as rlwe
from secagg.rlwe.binomial import CENTRE
from secagg.rlwe.public import PublicProduct
from tests.attacks.weakened import LENGTH, Stage, Vector, body_of, refused

OVER_MASKED = LatticeSum(max_clients=4)
OVER_PAILLIER = LatticeSum(max_clients=4, keys=partial(PaillierSum, key_bits=2048))
LAYERS = [pytest.param(OVER_MASKED, id="masked"), pytest.param(OVER_PAILLIER, id="paillier")]

Coefficients = NDArray[np.uint64]
EQUATION_BITS = 8
"""Equations are modulo 2**8, which divides Δ for three or more clients."""


class LatticeStage(Stage):
    """A stage of LatticeSum. What `Stage` says of MaskedSum holds for the key layer."""

    @property
    def room(self) -> Any:
        """The library's client steps, which know the key layer and the lattice."""
        return self.protocol.suite.client

    @property
    def keys(self) -> Suite:
        """The key layer on its integer surface."""
        suite: Suite = self.room._keys
        return suite

    @property
    def vectors(self) -> rlwe.Parameters:
        """The lattice."""
        vectors: rlwe.Parameters = self.room._vectors
        return vectors

    @property
    def view(self) -> Any:
        """The key layer's state at the server."""
        return getattr(self.server._state, "keys", self.server._state)

    def tell(self, name: str, message: bytes, update: Vector | None = None, *, weight: int = 1) -> bytes:
        answer = self.clients[name].receive(message)
        if isinstance(answer, NeedUpdate):
            assert update is not None
            answer = self.clients[name].contribute(update, weight=weight)
            if not refused(answer) and isinstance(self.keys.client, MaskedClientSteps):
                self.inputs[name] = decode(MaskedInput, body_of(Contribution, answer).keys).signature
        return answer

    # What a curious server has

    def sent(self) -> dict[str, Contribution]:
        """Each client's contribution in the round that was played last."""
        return self.answers(self.keys.collecting, Contribution)

    def coefficients(self, sent: Contribution, length: int = LENGTH) -> Coefficients:
        """A hidden vector, from the wire."""
        count = self.vectors.coefficients(self.protocol.suite.surface.elements(length))
        return self.vectors.ring.unpack(sent.vector, count).astype(np.uint64)

    def hidden(self) -> dict[str, Coefficients]:
        """Each client's vector in that round."""
        return {name: self.coefficients(sent) for name, sent in self.sent().items()}

    def task(self, model: bytes, length: int = LENGTH) -> bytes:
        """What the key layer has for a model."""
        return encode(Task(length, hashlib.sha256(model).digest()))

    def round_seed(self, *, model: bytes = b"", length: int = LENGTH, round: int | None = None) -> bytes:
        """A round's public seed as clients derive it, in a weakened copy as they do there."""
        module: Any = lattice_client
        seed: bytes = module.public_seed(
            parameters=self.protocol.suite.digest,
            session=self.session,
            round=self.number if round is None else round,
            roster=self.roster,
            task=self.task(model, length),
        )
        return seed

    def opened(
        self,
        hidden: Coefficients,
        *,
        seed: bytes,
        key: Coefficients | None = None,
        summands: int = 1,
        length: int = LENGTH,
    ) -> Vector | None:
        """The values in a vector, or in a sum or difference of some, on a clip of 1; None if it stays shut.

        Args:
            key: counts; without one the vector is read as if no key were in it.
            summands: of the key.
        """
        surface: Any = self.protocol.suite.surface
        values = opened(
            self.vectors, hidden, seed=seed, key=key, summands=summands, count=surface.elements(length)
        )
        return None if values is None else values[:length] / surface.codec.largest_step


def opened(
    parameters: rlwe.Parameters,
    hidden: Coefficients,
    *,
    seed: bytes,
    count: int,
    key: Coefficients | None = None,
    summands: int = 1,
) -> NDArray[np.int64] | None:
    """The integers in a vector, or None where what is left under this key is not noise."""
    none = np.full(parameters.degree, CENTRE * summands, dtype=np.uint64)
    ring = parameters.ring  # wide enough for whatever a coefficient holds
    try:
        vector = rlwe.OpenedVector(
            parameters,
            seed=seed,
            key=none if key is None else key,
            summands=summands,
            total=np.ascontiguousarray(hidden, dtype=ring.dtype),
            count=count,
            ring=ring,
        )
        vector.check_all()
    except VerificationError:
        return None
    return ring.centred(vector[:])


# Weakened copies


def unbind_seed(monkeypatch: pytest.MonkeyPatch, **constant: Any) -> None:
    """Public seeds that do not depend on some of what they should."""

    def unbound(**named: Any) -> bytes:
        return public_seed(**{**named, **constant})

    for module in (lattice_client, lattice_server):
        monkeypatch.setattr(module, "public_seed", unbound)


def server_over(protocol: LatticeSum, keys: ServerSteps) -> LatticeServerSteps:
    """LatticeSum's server over another server of the key layer."""
    steps: Any = protocol.suite.server
    return LatticeServerSteps(replace(steps._keys, server=keys), steps._vectors)


def client_of(protocol: LatticeSum, kind: Callable[..., LatticeClientSteps]) -> LatticeClientSteps:
    """LatticeSum's client, of another class."""
    steps: Any = protocol.suite.client
    return kind(steps._keys, steps._vectors)


# Linear algebra


class Equations:
    """What is known of one client's key: coefficients, and errors in places of its vector.

    Args:
        parameters: of the lattice.
        seed: the public one.
        hidden: the client's vector.
    """

    def __init__(self, parameters: rlwe.Parameters, *, seed: bytes, hidden: Coefficients) -> None:
        self._parameters, self._hidden = parameters, hidden
        unit = np.zeros(parameters.degree, dtype=np.int64)
        unit[0] = 1
        # The public polynomials themselves, as products with one.
        self._public = PublicProduct(parameters, seed=seed, key=unit)
        degree = parameters.degree
        self._exponents = np.arange(degree) // 2 + np.arange(degree) % 2 * (degree // 2)

    def _rows(self, block: int, places: NDArray[np.intp]) -> NDArray[np.uint8]:
        """The rows of the matrix by which a block multiplies a key, both in the order of memory."""
        degree = self._parameters.degree
        polynomial = np.empty(degree, dtype=np.uint64)
        self._public.write(block, polynomial, offset=0)
        by_exponent = np.empty(degree, dtype=np.uint8)
        by_exponent[self._exponents] = polynomial.astype(np.uint8)
        distance = self._exponents[places][:, None] - self._exponents[None, :]
        rows = by_exponent[distance % degree]
        return np.asarray(np.where(distance >= 0, rows, -rows))  # X^N = -1

    def solved(
        self, errors: NDArray[np.int64], *, known: NDArray[np.bool_], key: NDArray[np.int64]
    ) -> Coefficients | None:
        """The key as counts, or None where the equations do not determine it.

        Args:
            errors: the error in each coefficient of the vector where `known`, anything elsewhere.
            known: shape (coefficients,), where the error is known.
            key: shape (N,), centred, where it is known; the smallest int64 elsewhere.
        """
        degree = self._parameters.degree
        given = key != np.iinfo(np.int64).min
        rows, right = [], []
        blocks = -(-len(self._hidden) // degree)
        # A few from each block: where a polynomial is a multiple of X + 1 modulo 2, its rows alone do not do.
        most = np.count_nonzero(~given) // blocks + 16
        for block in range(blocks):
            part = slice(block * degree, (block + 1) * degree)
            places = np.flatnonzero(known[part])[:most]
            matrix = self._rows(block, places)
            values = (self._hidden[part][places] - errors[part][places].astype(np.uint64)).astype(np.uint8)
            right.append(values - matrix[:, given] @ key[given].astype(np.uint8))
            rows.append(matrix[:, ~given])
        found = solve(np.concatenate(rows), np.concatenate(right))
        if found is None:
            return None
        whole = key.copy()
        whole[~given] = found
        return (whole + CENTRE).astype(np.uint64)


def solve(rows: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.int8] | None:
    """x with rows·x = right modulo 2**8, as signed numbers; None if there is not exactly one.

    Gauss's elimination with odd pivots, in words that wrap around.
    """
    unknowns = rows.shape[1]
    matrix = np.concatenate([rows, right[:, None]], axis=1)
    if len(matrix) < unknowns:
        return None
    for column in range(unknowns):
        odd = np.flatnonzero(matrix[column:, column] & 1)
        if not len(odd):
            return None
        pivot = column + int(odd[0])
        matrix[[column, pivot]] = matrix[[pivot, column]]
        matrix[column, column:] *= np.uint8(pow(int(matrix[column, column]), -1, 1 << EQUATION_BITS))
        below = matrix[column + 1 :, column:]
        below -= below[:, :1].copy() * matrix[column, column:]
    if matrix[unknowns:, -1].any():
        return None
    found = matrix[:unknowns, -1]
    for column in range(unknowns - 1, 0, -1):
        found[:column] -= matrix[:column, column] * found[column]
    return found.astype(np.int8)
