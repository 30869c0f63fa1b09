"""What a round costs, in estimates: the arithmetic behind `protocols.advice`.

Unit costs are processor seconds that were measured once, with `time.process_time`, on one core of a 2.5 GHz
x86-64 machine; they are no promise for another. What they are multiplied with follows from the plan: masks
for each neighbour, words for each value, coefficients for each block.

>>> COSTS.mask_word < COSTS.hide < COSTS.ckks_client
True
"""

from dataclasses import dataclass
from typing import Final

from protocols.machine.integers import IntegerSurface
from protocols.machine.parameters import Parameters
from protocols.machine.summand import Surface
from protocols.planning.requirements import Plan
from secagg.vectors.lanes import Lanes

__all__ = [
    "COSTS",
    "KEY_LENGTH",
    "Load",
    "Question",
    "UnitCosts",
    "ckks",
    "lattice_over_masked",
    "lattice_over_paillier",
    "masked",
    "paillier",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCosts:
    """Processor seconds of the parts of a steady round, single thread, on a 2.5 GHz x86-64 core.

    Attributes:
        encode, decode: fixed point, there and back, a value.
        receive: unpacking and adding, a machine word.
        mask, mask_word: setting up one mask; one mask over one machine word.
        client_edge, server_edge: keys, shares and hashes of one neighbour.
        client, server_client: messages and signatures of one client.
        hide, open: the lattice's noise and packing, a coefficient.
        product: the lattice's product, a limb of a coefficient.
        ckks_client, ckks_server: a value, opening included.
        paillier_client, paillier_server: a ciphertext of 3072 bits, opening included.
    """

    encode: float = 3e-9
    decode: float = 2e-9
    receive: float = 2.5e-9
    mask: float = 14e-6
    mask_word: float = 1.2e-9
    client_edge: float = 0.35e-3
    server_edge: float = 2e-6
    client: float = 1.5e-3
    server_client: float = 0.9e-3
    hide: float = 12e-9
    open: float = 4e-9
    product: float = 9e-9
    ckks_client: float = 330e-9
    ckks_server: float = 8e-9
    paillier_client: float = 10e-3
    paillier_server: float = 9e-6


COSTS: Final = UnitCosts()
KEY_LENGTH: Final = 4096
"""Numbers of a lattice key."""
KEY_BITS: Final = 3072
"""Of PaillierSum, by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one client and the server compute, in seconds."""

    client: float
    server: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The conditions, and what follows from them for every candidate. `clients` are chosen from `roster`."""

    clients: int
    roster: int
    length: int
    lost: int

    @property
    def present(self) -> int:
        return self.clients - self.lost


def _masking(surface: Surface, elements: int, plan: Plan, question: Question) -> Load:
    """MaskedSum on a vector of so many elements, without what turns floats into them."""
    lanes = Lanes(ring=surface.ring, signed=surface.signed)
    words = lanes.words(elements) * (1 if lanes.wide.dtype.itemsize == 8 else 0.5)
    mask = COSTS.mask + words * COSTS.mask_word
    degree = plan.degree
    return Load(
        client=COSTS.client + degree * COSTS.client_edge + (degree + 1) * mask,
        server=question.clients * (COSTS.server_client + degree * COSTS.server_edge)
        + question.present * (words * COSTS.receive + mask)
        + question.lost * degree * mask,
    )


def masked(protocol: Parameters, plan: Plan, question: Question) -> Load:
    surface = protocol.suite.surface
    masks = _masking(surface, surface.elements(question.length), plan, question)
    return Load(
        client=masks.client + question.length * COSTS.encode,
        server=masks.server + question.length * COSTS.decode,
    )


def _vector(protocol: Parameters, question: Question) -> tuple[float, float, float]:
    """Seconds to hide a vector, to receive all, and to open the sum."""
    from protocols.lattice.vector import vectors_of

    surface = protocol.suite.surface
    vectors = vectors_of(surface, max_clients=protocol.max_clients)
    count, product = vectors.coefficients(surface.elements(question.length)), vectors.limbs * COSTS.product
    return (
        question.length * COSTS.encode + count * (COSTS.hide + product),
        question.present * count * COSTS.receive,
        question.length * COSTS.decode + count * (COSTS.open + product),
    )


def _counts(protocol: Parameters) -> IntegerSurface:
    """What the key layer sums."""
    from secagg.rlwe.scheme import KEY_SUMMAND_MAX

    return IntegerSurface(max_clients=protocol.max_clients, max_summand=KEY_SUMMAND_MAX)


def lattice_over_masked(protocol: Parameters, plan: Plan, question: Question) -> Load:
    keys = _masking(_counts(protocol), KEY_LENGTH, plan, question)
    hiding, receiving, opening = _vector(protocol, question)
    return Load(client=keys.client + hiding, server=keys.server + receiving + opening)


def ckks(protocol: Parameters, plan: Plan, question: Question) -> Load:
    return Load(
        client=COSTS.client + question.length * COSTS.ckks_client,
        server=question.present * (COSTS.server_client + question.length * COSTS.ckks_server),
    )


def _packed_paillier(surface: Surface, elements: int, question: Question) -> Load:
    """PaillierSum on a vector of so many elements, under its default key of 3072 bits."""
    ciphertexts = -(-elements // (KEY_BITS // surface.ring.bits))
    return Load(
        client=COSTS.client + ciphertexts * COSTS.paillier_client,
        server=question.present * (COSTS.server_client + ciphertexts * COSTS.paillier_server),
    )


def paillier(protocol: Parameters, plan: Plan, question: Question) -> Load:
    surface = protocol.suite.surface
    return _packed_paillier(surface, surface.elements(question.length), question)


def lattice_over_paillier(protocol: Parameters, plan: Plan, question: Question) -> Load:
    keys = _packed_paillier(_counts(protocol), KEY_LENGTH, question)
    hiding, receiving, opening = _vector(protocol, question)
    return Load(client=keys.client + hiding + opening, server=keys.server + receiving)
