"""What a deployment asks for, and the parameters that follow from it.

Nobody types a bare threshold. `Requirements` states the adversary, which share of the clients may be corrupt
and which may drop out, and how many contributors a sum needs before anybody may read it; `plan_complete`
derives degree and Shamir threshold for the complete graph of Bonawitz et al. (CCS'17), or raises and says
which number to change.

The rule for n clients with every pair connected and each client keeping a share of its own secrets: at most
c = ⌈γn⌉ holders are corrupt and pool their shares with a curious server, so t = max(c + 1, 2) shares must
be out of their reach. At least max(min_contributors, c + 2) contributors must survive, or the corrupt ones
could subtract themselves from the sum and hold a single honest update; as t is below that, whoever is left
can always unmask. Security holds with certainty while at most c are corrupt, so its failure probability is
zero. Liveness is as certain: a round ends while no more than n - min_survivors vanish, and does not beyond;
the plan says 0.0 or 1.0 for a loss of d = ⌈δn⌉.

>>> plan_complete(10, Requirements(), ring_bits=20).threshold
3
"""

from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from enum import Enum
from typing import Final

from secagg.errors import ParameterError
from secagg.shamir import MAXIMUM_INDEX

__all__ = ["Adversary", "Plan", "Requirements", "plan_complete", "plan_unshared"]


MAXIMUM_HOLDERS: Final = MAXIMUM_INDEX


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
        corrupt_fraction: γ in [0, 1): the share of the cohort that may pool its secrets with the server.
        dropout_fraction: δ in [0, 1): the share that may vanish in a round that must still end.
        min_contributors: the fewest contributors whose sum may be opened. Two contributors are never private
            from each other, each subtracts its own update, so 2 must be typed, and 1 is refused.
        security_bits: σ: a plan's security may fail with probability up to 2**-σ.
        liveness_bits: η: a round may fail for want of shares with probability up to 2**-η.
    """

    adversary: Adversary = Adversary.SEMI_HONEST
    corrupt_fraction: float = 0.2
    dropout_fraction: float = 0.3
    min_contributors: int = 3
    security_bits: int = 40
    liveness_bits: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.adversary, Adversary):
            raise ParameterError("adversary is a member of Adversary, for example Adversary.SEMI_HONEST")
        for name in ("corrupt_fraction", "dropout_fraction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
                raise ParameterError(f"{name} is {value!r}; it must be a number in [0, 1)")
            object.__setattr__(self, name, float(value))  # equal requirements have equal digests
        if type(self.min_contributors) is not int or self.min_contributors < 2:
            raise ParameterError(
                f"min_contributors is {self.min_contributors!r}; a sum of fewer than 2 is somebody's update"
            )
        for name in ("security_bits", "liveness_bits"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 256:
                raise ParameterError(f"{name} is {value!r}; it must be an integer in [1, 256]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parameters of one round.

    Attributes:
        degree: neighbours of each client (k); n - 1 on the complete graph, 0 where pairs share nothing.
        threshold: shares that rebuild a secret (t), or contributors that an opening needs where nothing is
            shared out.
        min_survivors: contributors without whom nothing is opened.
        ring_bits: bits of one summed value on the wire.
        security_failure: probability that the corrupt clients hold too many shares, in [0, 1].
        liveness_failure: probability that a round which loses the planned share of its clients cannot end,
            in [0, 1]. Small cohorts that need all their contributors have 1.0 here: n - min_survivors clients
            may be lost, which may be none.
    """

    degree: int
    threshold: int
    min_survivors: int
    ring_bits: int
    security_failure: float
    liveness_failure: float


def ceil_fraction(fraction: float, count: int) -> int:
    """⌈fraction·count⌉ in exact decimals, so that 0.3 of 10 is 3 and not 4."""
    return int((Decimal(repr(fraction)) * count).to_integral_value(ROUND_CEILING))


def plan_complete(n: int, requirements: Requirements, *, ring_bits: int) -> Plan:
    """Degree and threshold for n clients on the complete graph, for a semi-honest server.

    Raises:
        ParameterError: fewer than `min_contributors` clients, or fewer than two honest ones among them.
    """
    if n > MAXIMUM_HOLDERS:
        raise ParameterError(
            f"{n} clients share with each other, at most {MAXIMUM_HOLDERS} can; lower max_clients"
        )
    least = _check_size(n, requirements)
    corrupt = ceil_fraction(requirements.corrupt_fraction, n)
    # A sum of one honest client and the corrupt ones is that client's update: two honest ones at least. Two
    # clients in all are never private from each other; who typed min_contributors=2 has been told.
    survivors = max(least, corrupt + 2) if n > 2 else 2
    if max(survivors, corrupt + 1) > n:
        raise ParameterError(
            f"{corrupt} of {n} clients may be corrupt, which leaves fewer than two honest ones: ask more "
            f"clients, or lower corrupt_fraction"
        )
    return Plan(
        degree=n - 1,
        threshold=max(corrupt + 1, 2),  # below every allowed number of survivors
        min_survivors=survivors,
        ring_bits=ring_bits,
        security_failure=0.0,
        liveness_failure=float(ceil_fraction(requirements.dropout_fraction, n) > n - survivors),
    )


def plan_unshared(n: int, requirements: Requirements, *, ring_bits: int, security_failure: float) -> Plan:
    """The plan of a protocol in which clients share nothing out, so that any dropout is survived.

    Raises:
        ParameterError: fewer than `min_contributors` clients.
    """
    least = _check_size(n, requirements)
    return Plan(
        degree=0,
        threshold=least,
        min_survivors=least,
        ring_bits=ring_bits,
        security_failure=security_failure,
        liveness_failure=0.0,
    )


def _check_size(n: int, requirements: Requirements) -> int:
    """`min_contributors`, if n clients are as many."""
    least = requirements.min_contributors
    if n < least:
        raise ParameterError(f"a cohort of {n}, min_contributors is {least}: ask more clients, or lower it")
    return least
