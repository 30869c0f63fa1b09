"""Which protocol for whom: `advise` says, and says why.

First what a deployment cannot have is struck out. A protocol whose clients all hold one key falls to a client
that colludes with the server, and one that tells the server the sum is none where the server must not know
it. Of what is left the one with the shortest round is recommended: processor time of one client and of the
server, and the time that the client's bytes take on its link.

Times are estimates from unit costs that were measured once, on a small machine (`costs`). They are
good for an order, and for finding where one protocol becomes cheaper than another; a schedule needs a
benchmark. They leave out training, the server's own link and what each exchange costs a transport. Bytes are
those of the plan and of the packed vector.

>>> advise(500, 1_000_000).best.name, advise(3, 500).best.name
('LatticeSum', 'MaskedSum')
>>> advise(20, 1_000_000, clients_may_collude=False, server_may_learn=False).best.name
'LatticeSum over PaillierSum'
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from protocols.advice.costs import (
    KEY_LENGTH,
    Load,
    Question,
    ckks,
    lattice_over_masked,
    lattice_over_paillier,
    masked,
    paillier,
)
from protocols.composition import LatticeSum
from protocols.consortium.ckks import CkksSum
from protocols.consortium.paillier import PaillierSum
from protocols.interface import Learner
from protocols.machine.parameters import Parameters
from protocols.masked import MaskedSum
from protocols.plain import PlainSum
from protocols.planning.requirements import Adversary, Plan, Requirements, ceil_fraction
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain

__all__ = ["Advice", "Candidate", "advise"]


SHARE_STEPS: Final = 10**9
LARGE_COHORT: Final = 20
"""From here on plans take random graphs, and round a share of the roster down."""


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

    @property
    def fragile(self) -> bool:
        """Whether a round that loses the expected share of its clients cannot end."""
        return self.plan is not None and self.plan.liveness_failure >= 1


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
                "no protocol of this package fits: "
                + "; ".join(f"{each.name}: {each.refused}" for each in self.candidates)
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
    roster: int | None = None,
) -> Advice:
    """Recommends a protocol for n clients with updates of `length` values, and says why.

    Args:
        n: clients in a round, at least 3.
        length: values in an update.
        bits, max_weight: as for every protocol's constructor.
        dropout_fraction: the share of the clients that is expected to vanish in a round, in [0, 1).
        corrupt_fraction: the share of the roster that may pool what they know with the server, if any may.
        clients_may_collude: whether a client may do so at all.
        server_is_client: whether whoever runs the server also runs a client. Then one client colludes.
        server_may_learn: whether the server may know the sum.
        server_may_lie: whether the server may tell different clients different stories.
        megabits: of a client's link, a second.
        roster: the clients that a round's are chosen from, at least n; None where all take part in each.

    Raises:
        ParameterError: an argument is anything else.
    """
    n, length, megabits = plain(n), plain(length), plain(megabits)
    bits, max_weight = plain(bits), plain(max_weight)
    asked = _check(n, length, dropout_fraction, corrupt_fraction, megabits)
    roster = n if roster is None else plain(roster)
    if type(roster) is not int or roster < n:
        raise ParameterError(f"roster is {roster!r}; it must be an integer of at least n, which is {n}")
    dropout_fraction, corrupt_fraction = asked.dropout_fraction, asked.corrupt_fraction
    _check_flags(
        clients_may_collude=clients_may_collude,
        server_is_client=server_is_client,
        server_may_learn=server_may_learn,
        server_may_lie=server_may_lie,
    )
    PlainSum(bits=bits, max_weight=max_weight, max_clients=n).surface.check_length(length)
    colluding = clients_may_collude or server_is_client
    corrupt = ceil_fraction(corrupt_fraction, roster) if clients_may_collude else 0
    shared = Requirements(
        adversary=Adversary.MALICIOUS if server_may_lie else Adversary.SEMI_HONEST,
        corrupt_fraction=_share(max(corrupt, int(colluding)), n, roster),
        dropout_fraction=dropout_fraction,
    )
    keyed = Requirements(corrupt_fraction=0.0, dropout_fraction=dropout_fraction)
    question = Question(clients=n, roster=roster, length=length, lost=ceil_fraction(dropout_fraction, n))

    def considered(name: str, build: Callable[..., Parameters], cost: Callable[..., Load]) -> Candidate:
        by_server = cost in (masked, lattice_over_masked)
        if by_server and not server_may_learn:
            return Candidate(name=name, refused="it tells the server the sum")
        if not by_server and colluding:
            return Candidate(name=name, refused="it falls to one client that colludes with the server")
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
    candidates.sort(key=lambda each: (bool(each.refused), each.fragile, each.round_seconds))
    return Advice(tuple(candidates), _reasons(candidates, question, lying=server_may_lie, megabits=megabits))


def _share(count: int, n: int, roster: int) -> float:
    """A fraction of a roster for which plans count at least so many clients, and just so many for a small n.

    Plans round a share of the roster up for a small cohort and down for a large one, in exact decimals.
    """
    scaled = count * SHARE_STEPS
    return (scaled // roster if n < LARGE_COHORT else -(-scaled // roster)) / SHARE_STEPS


def _check(n: int, length: int, dropout: float, corrupt: float, megabits: float) -> Requirements:
    for name, value, low in (("n", n, 3), ("length", length, 1)):
        if type(value) is not int or value < low:
            raise ParameterError(f"{name} is {value!r}; it must be an integer of at least {low}")
    if not is_number(megabits) or not 0 < megabits < 1e9:
        raise ParameterError(f"megabits is {megabits!r}; it must be a number above 0")
    return Requirements(dropout_fraction=dropout, corrupt_fraction=corrupt)


def _check_flags(**flags: bool) -> None:
    for name, value in flags.items():
        if type(value) is not bool:
            raise ParameterError(f"{name} is {value!r}; it must be True or False")


def _priced(
    name: str,
    protocol: Parameters,
    question: Question,
    cost: Callable[..., Load],
    megabits: float,
) -> Candidate:
    suite, plan = protocol.suite, protocol.plan(question.clients, roster=question.roster)
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


_CANDIDATES: Final[tuple[tuple[str, Callable[..., Parameters], Callable[..., Load]], ...]] = (
    ("MaskedSum", MaskedSum, masked),
    ("LatticeSum", LatticeSum, lattice_over_masked),
    ("LatticeSum over PaillierSum", partial(LatticeSum, keys=PaillierSum), lattice_over_paillier),
    ("CkksSum", CkksSum, ckks),
    ("PaillierSum", PaillierSum, paillier),
)


# Why


def _reasons(
    candidates: list[Candidate], question: Question, *, lying: bool, megabits: float
) -> tuple[str, ...]:
    best, *others = candidates
    if best.plan is None or best.protocol is None:
        return tuple(f"{each.name}: {each.refused}." for each in candidates)
    found = [
        f"{best.name} is the fastest here: a round of {question.clients:,} clients with {question.length:,} "
        f"values takes about {best.round_seconds:.2g} s of processors and of a link of {megabits:g} Mb/s."
    ]
    found += _comparison(best, others)
    learn = "The server learns" if best.protocol.learns is Learner.SERVER else "The clients learn"
    found.append(f"{learn} the sum. One update {best.plan.one_update}.")
    if not best.plan.post_quantum:
        found.append("Traffic that is recorded today opens to a quantum computer.")
    if lying and best.protocol.learns is Learner.CLIENTS:
        found.append(
            "A server that lies can show two clients true sums of different contributors; clients that "
            "compare notes then see the difference."
        )
    if best.fragile:
        fewer = ", or plan for fewer corrupt ones" if best.plan.corrupt else ""
        found.append(
            f"A round that loses {question.lost} clients is aborted: {best.plan.min_survivors} of "
            f"{question.clients} must stay. Ask more clients{fewer}."
        )
    found += [f"{each.name}: {each.refused}." for each in others if each.refused]
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
        f"{lattice.sent / masked.sent:.2f} times the bytes. {loser} would take {max(ratio, 1 / ratio):.2f} "
        "times as long."
    ]
