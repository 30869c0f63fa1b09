"""Which protocol for whom: `advise` says, and says why.

First what a deployment cannot have is struck out. A protocol whose clients all hold one key falls to a client
that colludes with the server, and one that tells the server the sum is none where the server must not know
it. Of what is left the one with the shortest round is recommended: processor time of one client and of the
server, and the time that the client's bytes take on its link.

Times are estimates from unit costs that were measured once, on a small machine (`UnitCosts`). They are good
for an order, and for finding where one protocol becomes cheaper than another; a schedule needs a benchmark.
Bytes are those of the plan and of the packed vector.

>>> advise(500, 1_000_000).best.name, advise(3, 500).best.name
('LatticeSum', 'MaskedSum')
>>> advise(20, 1_000_000, clients_may_collude=False, server_may_learn=False).best.name
'LatticeSum over PaillierSum'
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from protocols.ckks import CkksSum
from protocols.composition import LatticeSum
from protocols.interface import Learner
from protocols.lattice.vector import vectors_of
from protocols.masked import MaskedSum
from protocols.paillier import PaillierSum
from protocols.parameters import Parameters
from protocols.requirements import Adversary, Plan, Requirements, ceil_fraction
from protocols.summand import IntegerSurface, Surface
from secagg.errors import ParameterError
from secagg.lanes import Lanes
from secagg.rlwe import KEY_SUMMAND_MAX

__all__ = ["Advice", "Candidate", "UnitCosts", "advise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCosts:
    """Processor seconds of the parts of a steady round, single thread, on a 2.5 GHz x86-64 core.

    Attributes:
        encode, decode: fixed point, there and back, a value.
        receive: unpacking and adding, a machine word.
        mask, mask_word: setting up one mask; one mask over one machine word.
        client_edge, server_edge: keys, shares and hashes of one neighbour.
        client, server_client: messages and signatures of one client.
        hide, open: the lattice's product, noise and packing, a coefficient.
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
    hide: float = 30e-9
    open: float = 22e-9
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
class Candidate:
    """One protocol, with what it would cost or why it is out of the question.

    Attributes:
        name: the protocol's, with its key layer unless that is the default.
        protocol: ready to run; None where it is refused.
        plan: for the cohort that was asked about; None where it is refused.
        refused: why it cannot be had here; empty where it can.
        client_seconds, server_seconds: estimated processor time of a steady round.
        sent: bytes of one client in a steady round.
        round_seconds: one client, its bytes on its link, the server.
    """

    name: str
    protocol: Parameters | None = None
    plan: Plan | None = None
    refused: str = ""
    client_seconds: float = 0.0
    server_seconds: float = 0.0
    sent: int = 0
    round_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Advice:
    """What `advise` found; `str` gives it as a table with the reasons below.

    Attributes:
        candidates: the recommended one first, then by the length of a round, then those that are refused.
        reasons: why, in sentences.
    """

    candidates: tuple[Candidate, ...]
    reasons: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """The recommended one.

        Raises:
            ParameterError: nothing of this package can be had under these conditions.
        """
        if self.candidates[0].refused:
            raise ParameterError(
                "no protocol of this package fits: " + "; ".join(each.refused for each in self.candidates)
            )
        return self.candidates[0]

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("protocol", "client s", "server s", "sends MB", "round s")]
        for each in self.candidates:
            figures = (each.client_seconds, each.server_seconds, each.sent / 1e6, each.round_seconds)
            cells = ("-",) * len(figures) if each.refused else tuple(f"{figure:.3g}" for figure in figures)
            rows.append((each.name, *cells))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            aligned = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join([row[0].ljust(widths[0]), *aligned]))
        return "\n".join([*lines, "", *(f"- {reason}" for reason in self.reasons)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """What one client and the server compute, in seconds."""

    client: float
    server: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """The conditions, and what follows from them for every candidate."""

    clients: int
    length: int
    lost: int

    @property
    def present(self) -> int:
        return self.clients - self.lost


def advise(
    n: int,
    length: int,
    *,
    bits: int = 16,
    max_weight: int = 1,
    dropout_fraction: float = 0.1,
    corrupt_fraction: float = 0.2,
    clients_may_collude: bool = True,
    server_is_client: bool = False,
    server_may_learn: bool = True,
    server_may_lie: bool = True,
    megabits: float = 100.0,
) -> Advice:
    """Recommends a protocol for n clients with updates of `length` values, and says why.

    Args:
        n: clients in a round, at least 3.
        length: values in an update.
        bits, max_weight: as for every protocol's constructor.
        dropout_fraction: the share of the clients that is expected to vanish in a round, in [0, 1).
        corrupt_fraction: the share of the clients that may pool what they know with the server, if any may.
        clients_may_collude: whether a client may do so at all.
        server_is_client: whether whoever runs the server also runs a client. Then one client colludes.
        server_may_learn: whether the server may know the sum.
        server_may_lie: whether the server may tell different clients different stories.
        megabits: of a client's link, a second.

    Raises:
        ParameterError: an argument is anything else.
    """
    _check(n, length, dropout_fraction, corrupt_fraction, megabits)
    colluding = clients_may_collude or server_is_client
    least = 1 / n if colluding else 0.0
    shared = Requirements(
        adversary=Adversary.MALICIOUS if server_may_lie else Adversary.SEMI_HONEST,
        corrupt_fraction=max(corrupt_fraction if clients_may_collude else 0.0, least),
        dropout_fraction=dropout_fraction,
    )
    keyed = Requirements(corrupt_fraction=0.0, dropout_fraction=dropout_fraction)
    question = _Question(clients=n, length=length, lost=ceil_fraction(dropout_fraction, n))

    def considered(name: str, build: Callable[..., Parameters], cost: Callable[..., _Load]) -> Candidate:
        by_server = cost in (_masked, _lattice_over_masked)
        if by_server and not server_may_learn:
            return Candidate(name=name, refused=f"{name} tells the server the sum")
        if not by_server and colluding:
            return Candidate(name=name, refused=f"{name} falls to one client that colludes with the server")
        try:
            protocol = build(
                bits=bits,
                max_clients=n,
                max_weight=max_weight,
                requirements=shared if by_server else keyed,
            )
            return _priced(name, protocol, question, cost, megabits)
        except ParameterError as error:
            return Candidate(name=name, refused=str(error))

    candidates = [considered(*each) for each in _CANDIDATES]
    candidates.sort(key=lambda each: (bool(each.refused), each.round_seconds))
    return Advice(tuple(candidates), _reasons(candidates, question, colluding=colluding, megabits=megabits))


def _check(n: int, length: int, dropout: float, corrupt: float, megabits: float) -> None:
    for name, value, low in (("n", n, 3), ("length", length, 1)):
        if type(value) is not int or value < low:
            raise ParameterError(f"{name} is {value!r}; it must be an integer of at least {low}")
    Requirements(dropout_fraction=dropout, corrupt_fraction=corrupt)
    if isinstance(megabits, bool) or not isinstance(megabits, int | float) or not 0 < megabits < 1e9:
        raise ParameterError(f"megabits is {megabits!r}; it must be a number above 0")


def _priced(
    name: str,
    protocol: Parameters,
    question: _Question,
    cost: Callable[..., _Load],
    megabits: float,
) -> Candidate:
    suite, plan = protocol.suite, protocol.plan(question.clients)
    elements = suite.surface.elements(question.length)
    load = cost(protocol, plan, question)
    body = suite.server.body_bytes(elements, packed=suite.surface.ring.packed_size(elements))
    sent = plan.client_sends + body
    return Candidate(
        name=name,
        protocol=protocol,
        plan=plan,
        client_seconds=load.client,
        server_seconds=load.server,
        sent=sent,
        round_seconds=load.client + load.server + 8 * sent / (megabits * 1e6),
    )


# What each protocol computes


def _masking(surface: Surface, elements: int, plan: Plan, question: _Question) -> _Load:
    """MaskedSum on a vector of so many elements, without what turns floats into them."""
    lanes = Lanes(ring=surface.ring, signed=surface.signed)
    words = lanes.words(elements) * (1 if lanes.wide.dtype.itemsize == 8 else 0.5)
    mask = COSTS.mask + words * COSTS.mask_word
    degree = plan.degree
    return _Load(
        client=COSTS.client + degree * COSTS.client_edge + (degree + 1) * mask,
        server=question.clients * (COSTS.server_client + degree * COSTS.server_edge)
        + question.present * (words * COSTS.receive + mask)
        + question.lost * degree * mask,
    )


def _masked(protocol: Parameters, plan: Plan, question: _Question) -> _Load:
    surface = protocol.suite.surface
    masks = _masking(surface, surface.elements(question.length), plan, question)
    return _Load(
        client=masks.client + question.length * COSTS.encode,
        server=masks.server + question.length * COSTS.decode,
    )


def _vector(protocol: Parameters, question: _Question) -> tuple[float, float, float]:
    """Seconds to hide a vector, to receive all, and to open the sum."""
    surface = protocol.suite.surface
    count = vectors_of(surface, max_clients=protocol.max_clients).coefficients(
        surface.elements(question.length)
    )
    return (
        question.length * COSTS.encode + count * COSTS.hide,
        question.present * count * COSTS.receive,
        question.length * COSTS.decode + count * COSTS.open,
    )


def _counts(protocol: Parameters) -> IntegerSurface:
    """What the key layer sums."""
    return IntegerSurface(max_clients=protocol.max_clients, max_summand=KEY_SUMMAND_MAX)


def _lattice_over_masked(protocol: Parameters, plan: Plan, question: _Question) -> _Load:
    keys = _masking(_counts(protocol), KEY_LENGTH, plan, question)
    hiding, receiving, opening = _vector(protocol, question)
    return _Load(client=keys.client + hiding, server=keys.server + receiving + opening)


def _ckks(protocol: Parameters, plan: Plan, question: _Question) -> _Load:
    return _Load(
        client=COSTS.client + question.length * COSTS.ckks_client,
        server=question.present * (COSTS.server_client + question.length * COSTS.ckks_server),
    )


def _packed_paillier(surface: Surface, elements: int, question: _Question) -> _Load:
    """PaillierSum on a vector of so many elements, under its default key of 3072 bits."""
    ciphertexts = -(-elements // (KEY_BITS // surface.ring.bits))
    return _Load(
        client=COSTS.client + ciphertexts * COSTS.paillier_client,
        server=question.present * (COSTS.server_client + ciphertexts * COSTS.paillier_server),
    )


def _paillier(protocol: Parameters, plan: Plan, question: _Question) -> _Load:
    surface = protocol.suite.surface
    return _packed_paillier(surface, surface.elements(question.length), question)


def _lattice_over_paillier(protocol: Parameters, plan: Plan, question: _Question) -> _Load:
    keys = _packed_paillier(_counts(protocol), KEY_LENGTH, question)
    hiding, receiving, opening = _vector(protocol, question)
    return _Load(client=keys.client + hiding + opening, server=keys.server + receiving)


_CANDIDATES: Final[tuple[tuple[str, Callable[..., Parameters], Callable[..., _Load]], ...]] = (
    ("MaskedSum", MaskedSum, _masked),
    ("LatticeSum", LatticeSum, _lattice_over_masked),
    ("LatticeSum over PaillierSum", partial(LatticeSum, keys=PaillierSum), _lattice_over_paillier),
    ("CkksSum", CkksSum, _ckks),
    ("PaillierSum", PaillierSum, _paillier),
)


# Why


def _reasons(
    candidates: list[Candidate], question: _Question, *, colluding: bool, megabits: float
) -> tuple[str, ...]:
    best, *others = candidates
    if best.plan is None or best.protocol is None:
        return tuple(each.refused for each in candidates)
    found = [
        f"{best.name} is the fastest here: a round of {question.clients:,} clients with {question.length:,} "
        f"values takes about {best.round_seconds:.2g} s of processors and of a link of {megabits:g} Mb/s."
    ]
    found += _comparison(best, others)
    learn = "The server learns" if best.protocol.learns is Learner.SERVER else "The clients learn"
    found.append(f"{learn} the sum. One update {best.plan.one_update}.")
    if not best.plan.post_quantum:
        found.append("Traffic that is recorded today opens to a quantum computer.")
    if question.present < best.plan.min_survivors:
        found.append(
            f"A round that loses {question.lost} clients is aborted: {best.plan.min_survivors} of "
            f"{question.clients} must stay. Ask more clients, or plan for fewer corrupt ones."
        )
    if colluding:
        found.append("A client may collude with the server: one key for all clients will not do.")
    return tuple(found)


def _comparison(best: Candidate, others: list[Candidate]) -> list[str]:
    """MaskedSum against LatticeSum, if both can be had: which of the two is a matter of n and size."""
    rivals = {each.name: each for each in (best, *others) if not each.refused}
    if not {"MaskedSum", "LatticeSum"} <= rivals.keys():
        return []
    masked, lattice = rivals["MaskedSum"], rivals["LatticeSum"]
    loser = "MaskedSum" if best is lattice else "LatticeSum"
    ratio = masked.round_seconds / lattice.round_seconds
    return [
        f"LatticeSum masks a key of {KEY_LENGTH:,} numbers where MaskedSum masks the vector, and sends "
        f"{lattice.sent / masked.sent:.2f} times the bytes. {loser} would take {max(ratio, 1 / ratio):.2g} "
        "times as long."
    ]
