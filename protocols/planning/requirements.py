"""What a deployment asks for, and the plan that a protocol makes of it.

Nobody types a bare threshold. `Requirements` states the adversary, which share of the clients may be corrupt
and which may drop out, and how many contributors a sum needs before anybody may read it. `Plan` is what
follows for a cohort of one size: the graph, the thresholds, what can fail with which probability, and who
learns what. `planner` derives it for protocols in which clients share secrets with each other,
`plan_unshared` for those in which they do not. Both refuse what cannot be had and say which number to change.

**Corrupt clients are a share of the roster.** Whoever announces a cohort chooses its members: of a roster of
20 with 4 corrupt clients it may take one honest client and the four (ATTACKS D1). So c counts the corrupt
clients of the whole roster, whatever the cohort's size, and a cohort of fewer than c + 2 clients is refused.
Who samples small cohorts from a large roster has to assume, and agree with all, that fewer are corrupt.

A plan is made for numbers that are assumed. It says nothing about a roster in which more clients are corrupt
than `corrupt_fraction` allows.

>>> print(plan_unshared(5, Requirements(), ring_bits=20, protects=True))
clients           5, up to 1 corrupt
adversary         semi-malicious
graph             none, clients share nothing
survivors needed  3
ring              20 bits a value
security fails    never
liveness fails    never
revealed          who took part, to the server
                  the sum of at least 3 contributors, to those whom the protocol lets open it
                  that sum without their own updates, to 1 clients of those
sure and honest   at least 2 contributors of every sum that is opened
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from enum import Enum
from math import log2

from secagg.errors import ParameterError
from secagg.numbers import is_number, plain, plain_fields

__all__ = [
    "Adversary",
    "Plan",
    "Requirements",
    "at_most",
    "ceil_fraction",
    "check_size",
    "floor_fraction",
    "plan_unshared",
    "too_many_corrupt",
]


class Adversary(Enum):
    """What the server, together with the corrupt clients, may do."""

    SEMI_HONEST = "semi-honest"
    """Follows the protocol and reads everything."""
    SEMI_MALICIOUS = "semi-malicious"
    """May also tell different clients different stories."""
    MALICIOUS = "malicious"
    """The same, answered by a survivor set that a quorum signs before any share is released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What the parties ask of a round.

    Args:
        adversary: what the server may do; each protocol says which it withstands and raises on the others.
        corrupt_fraction: γ in [0, 1): the share of the roster that may pool its secrets with the server, all
            of whom a server may put into one cohort. A cohort that is a small part of its roster needs a
            smaller share, agreed on by all.
        dropout_fraction: δ in [0, 1): the share of the cohort that may vanish in a round that must still end.
        min_contributors: the fewest contributors whose sum may be opened. Two contributors are never private
            from each other, each subtracts its own update, so 2 must be typed, and 1 is refused.
        security_bits: σ in [1, 256]: a plan's security may fail with probability up to 2**-σ.
        liveness_bits: η in [1, 256]: a round may fail for want of shares with probability up to 2**-η.
        grinding_bits: g in [0, 128]: log2 of the graphs that an adversary can try between the last key that
            is advertised and the cohort that is announced. The graph's seed is a stretched hash (scrypt,
            about 35 ms a try) of the root of the cohort's keys, so 2**40 tries are about 1,200 core-years;
            raise it where that is too little, and set 0 where the seed comes from a public beacon. It adds to
            security_bits on a random graph, except against a server that follows the protocol.
    """

    adversary: Adversary = Adversary.SEMI_MALICIOUS
    corrupt_fraction: float = 0.2
    dropout_fraction: float = 0.3
    min_contributors: int = 3
    security_bits: int = 40
    liveness_bits: int = 20
    grinding_bits: int = 40

    def __post_init__(self) -> None:
        if not isinstance(self.adversary, Adversary):
            raise ParameterError("adversary is a member of Adversary, for example Adversary.SEMI_HONEST")
        for name in ("corrupt_fraction", "dropout_fraction"):
            value = plain(getattr(self, name))
            if not is_number(value) or not 0 <= value < 1:
                raise ParameterError(f"{name} is {value!r}; it must be a number in [0, 1)")
            # Equal requirements have equal digests. Shares are counted in decimals: a float32 of 0.2 is 0.2.
            object.__setattr__(self, name, float(str(getattr(self, name))))
        plain_fields(self, "min_contributors", "security_bits", "liveness_bits", "grinding_bits")
        if type(self.min_contributors) is not int or self.min_contributors < 2:
            raise ParameterError(
                f"min_contributors is {self.min_contributors!r}; a sum of fewer than 2 is somebody's update"
            )
        for name, least, most in (
            ("security_bits", 1, 256),
            ("liveness_bits", 1, 256),
            ("grinding_bits", 0, 128),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ParameterError(f"{name} is {value!r}; it must be an integer in [{least}, {most}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parameters of one round; `str` gives them as a table.

    Attributes:
        clients: the cohort's size (n).
        roster: the size of the roster that the cohort was chosen from, at least n.
        adversary: whom the plan is made against.
        degree: neighbours of each client (k); n - 1 on the complete graph, even and less on a random one, 0
            where clients share nothing.
        threshold: shares that rebuild a secret (t), or contributors that an opening needs where nothing is
            shared out.
        min_survivors: contributors without whom nothing is opened (m).
        min_neighbours: a client reveals nothing when fewer of its neighbours survive.
        corrupt: corrupt clients that are planned for (c): the planned share of the roster, all of them in
            the cohort; 0 where nothing is protected from them.
        corrupt_neighbours: the most corrupt clients among the neighbours of one client that are planned for:
            c on the complete graph; on a random one t1, which somebody's neighbours exceed with a probability
            that is part of `security_failure`; 0 where clients share nothing.
        quorum: signatures that a survivor set needs (q); 0 unless the adversary is MALICIOUS.
        ring_bits: bits of one summed value on the wire.
        security_failure: probability that the corrupt clients hold too many shares or cut the graph, in
            [0, 1].
        liveness_failure: probability that a round which loses the planned share of its clients cannot end,
            in [0, 1]. Small cohorts that need all their contributors have 1.0 here: n - min_survivors clients
            may be lost, which may be none.
        sure_contributors: whatever the server tells whom, a sum that it opens has so many contributors,
            corrupt ones counted, and at least two honest ones; except as `security_failure` and `exposure`
            say.
        sure_honest: the smallest number of honest contributors in any sum that can be opened, whoever of the
            c pool with the server; 0 where none is promised. Noise that each client adds by a share of
            1/`sure_honest` is all there in every such sum, except as `security_failure` says. Of two clients
            one may be corrupt, and it is 1. Where all clients hold one key (CkksSum, PaillierSum) it is
            promised against c of them without the server: together with it they open single updates, see
            `one_update`. And it counts out nobody but the c: with a `corrupt_fraction` of 0 a client that
            reads the published sum and knows its own noise is not planned for.
        exposure: upper bound of the probability that the graph lets a lying server open the update of one
            given client together with fewer than `sure_contributors` - 1 other honest ones, in [0, 1]. 1.0
            says that it is not excluded. Above 0 only for SEMI_MALICIOUS on a random graph.
        client_sends, client_receives: control bytes of a client in one steady round, without the vector and
            the model; 0 where unknown.
        one_update: to whom the update of one client opens, for the table; empty where unknown.
        post_quantum: whether traffic that is recorded today stays closed to a quantum computer; None where
            unknown.
    """

    clients: int
    roster: int
    adversary: Adversary
    degree: int
    threshold: int
    min_survivors: int
    min_neighbours: int
    corrupt: int
    corrupt_neighbours: int
    quorum: int
    ring_bits: int
    security_failure: float
    liveness_failure: float
    sure_contributors: int
    sure_honest: int
    exposure: float
    client_sends: int = 0
    client_receives: int = 0
    one_update: str = ""
    post_quantum: bool | None = None

    def __str__(self) -> str:
        """The plan as a table of two columns, in plain text."""
        rows = [
            ("clients", self._clients()),
            ("adversary", self.adversary.value),
            *self._graph(),
            ("ring", f"{self.ring_bits} bits a value"),
        ]
        if self.client_sends:
            rows.append(("client sends", f"{self.client_sends:,} bytes and {self.ring_bits / 8:g} a value"))
        if self.client_receives:
            rows.append(("client receives", f"{self.client_receives:,} bytes and the model"))
        rows += [
            ("security fails", _chance(self.security_failure)),
            ("liveness fails", _chance(self.liveness_failure)),
            *zip(("revealed", "", ""), self._revealed(), strict=False),
            ("sure and honest", self._honest()),
        ]
        if self.one_update:
            rows.append(("one update", self.one_update))
        if self.post_quantum is not None:
            kept = "stays closed" if self.post_quantum else "opens"
            rows.append(("quantum computer", f"traffic recorded today {kept} to it"))
        if self.exposure:
            allowed = "not excluded" if self.exposure >= 1 else f"at most {_chance(self.exposure)}"
            rows += [
                ("exposure", f"{allowed}: that a lying server opens the update of a given client"),
                ("", f"in a sum of fewer than {self.sure_contributors} honest contributors"),
            ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)

    def _clients(self) -> str:
        """How many there are, of how many, and how many of them may be corrupt."""
        chosen = f" of a roster of {self.roster}" if self.roster > self.clients else ""
        return f"{self.clients}{chosen}" + (f", up to {self.corrupt} corrupt" if self.corrupt else "")

    def _graph(self) -> list[tuple[str, str]]:
        """Who shares with whom, and how many are needed."""
        if not self.degree:
            return [
                ("graph", "none, clients share nothing"),
                ("survivors needed", f"{self.min_survivors}"),
            ]
        kind = "complete" if self.degree == self.clients - 1 else "random Harary"
        rows = [
            ("graph", f"{kind}, {self.degree} neighbours each"),
            ("threshold", f"{self.threshold} shares rebuild a secret"),
            (
                "survivors needed",
                f"{self.min_survivors}, and {self.min_neighbours} neighbours of each client",
            ),
        ]
        if self.quorum:
            rows.append(("quorum", f"{self.quorum} signatures on the survivors"))
        return rows

    def _revealed(self) -> list[str]:
        """What whom is told, one line each."""
        total = f"the sum of at least {self.sure_contributors} contributors"
        if self.security_failure >= 1:
            return ["every update, to the server"]
        lines = [f"who took part and {total}, to the server"]
        pooling = f"the server and {self.corrupt} clients"
        if not self.degree:
            lines = ["who took part, to the server", f"{total}, to those whom the protocol lets open it"]
            pooling = f"{self.corrupt} clients of those"
        if self.corrupt:
            lines.append(f"that sum without their own updates, to {pooling}")
        return lines

    def _honest(self) -> str:
        """How many contributors of any sum are honest."""
        if not self.sure_honest:
            return "none is promised"
        return f"at least {self.sure_honest} contributors of every sum that is opened"


def _chance(probability: float) -> str:
    """A probability as a power of two."""
    if probability <= 0:
        return "never"
    if probability >= 1:
        return "certain"
    return f"2^-{-log2(probability):.1f}"


def ceil_fraction(fraction: float, count: int) -> int:
    """⌈fraction·count⌉ in exact decimals, so that 0.07 of 100 is 7 and not 8."""
    return int((Decimal(repr(fraction)) * count).to_integral_value(ROUND_CEILING))


def floor_fraction(fraction: float, count: int) -> int:
    """⌊fraction·count⌋ in exact decimals, so that 0.29 of 100 is 29 and not 28."""
    return int((Decimal(repr(fraction)) * count).to_integral_value(ROUND_FLOOR))


def at_most(part: int, count: int) -> str:
    """part/count rounded down to a decimal that can be typed, of as many places as `count` needs."""
    places = max(2, len(str(count)) - 1)
    return f"{max(part, 0) * 10**places // count / 10**places:.{places}f}"


def check_size(n: int, requirements: Requirements, roster: int | None = None) -> int:
    """`min_contributors`, if n clients of a roster are as many.

    Raises:
        ParameterError: they are fewer, or more than the roster has.
    """
    least = requirements.min_contributors
    if roster is not None and (type(roster) is not int or roster < n):
        raise ParameterError(f"a cohort of {n} from a roster of {roster!r}; a roster has at least its cohort")
    if n < least:
        raise ParameterError(f"a cohort of {n}, min_contributors is {least}: ask more clients, or lower it")
    return least


def too_many_corrupt(n: int, *, roster: int, corrupt: int, needed: int, bearable: int) -> ParameterError:
    """What to change where too many of n clients may be corrupt.

    Args:
        needed: the fewest clients of which c may be corrupt.
        bearable: the most corrupt clients that a cohort of n bears.
    """
    share = at_most(bearable, roster)
    if n == roster:
        return ParameterError(
            f"{corrupt} of {n} clients may be corrupt, which leaves fewer than two honest ones: ask more "
            f"clients, or lower corrupt_fraction to at most {share}"
        )
    change = (
        f"at least {needed} clients are needed, or a corrupt_fraction of at most {share} agreed on by all"
    )
    if needed > roster:
        change = f"no cohort is large enough, lower corrupt_fraction to at most {share}, agreed on by all"
    return ParameterError(
        f"a cohort of {n} from a roster of {roster}, of whom {corrupt} may be corrupt and all of them in it: "
        f"{change}"
    )


def plan_unshared(
    n: int,
    requirements: Requirements,
    *,
    ring_bits: int,
    protects: bool,
    one_update: str = "",
    post_quantum: bool | None = None,
    roster: int | None = None,
) -> Plan:
    """The plan of a protocol in which clients share nothing out, so that any dropout is survived.

    Args:
        n: the announced cohort's size.
        requirements: what is asked.
        ring_bits, one_update, post_quantum: only passed on.
        protects: whether an update is kept from anybody. Then corrupt clients, who take their own updates off
            a sum that they open, must leave two honest ones in it; else nothing is planned for.
        roster: the size of the roster that the cohort was chosen from; None where it is the whole.

    Raises:
        ParameterError: fewer than `min_contributors` clients, or than c + 2 where something is protected.
    """
    least, roster = check_size(n, requirements, roster), n if roster is None else roster
    corrupt = ceil_fraction(requirements.corrupt_fraction, roster) if protects else 0
    # Of two, nobody is private from the other; who typed min_contributors=2 has been told.
    if protects and not (n == 2 and corrupt <= 1):
        least = max(least, corrupt + 2)
    if least > n:
        raise too_many_corrupt(n, roster=roster, corrupt=corrupt, needed=least, bearable=max(n - 2, 1))
    lost = ceil_fraction(requirements.dropout_fraction, n)
    return Plan(
        clients=n,
        roster=roster,
        adversary=requirements.adversary,
        degree=0,
        threshold=least,
        min_survivors=least,
        min_neighbours=0,
        corrupt=corrupt,
        corrupt_neighbours=0,
        quorum=0,
        ring_bits=ring_bits,
        security_failure=0.0 if protects else 1.0,
        liveness_failure=float(lost > n - least),
        sure_contributors=least,
        sure_honest=least - corrupt if protects else 0,
        exposure=0.0,
        one_update=one_update,
        post_quantum=post_quantum,
    )
