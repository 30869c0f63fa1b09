"""One client's share of the noise, added to its summand; whether plans, summands, totals fit each other."""

import numpy as np
from numpy.typing import NDArray

from fl_integration.privacy.plan import PrivacyPlan
from fl_integration.privacy.units import Unit
from secagg.entropy import Entropy
from secagg.errors import ParameterError

__all__ = ["check_plan", "check_total", "noised"]


def noised(summand: NDArray[np.int64], *, plan: PrivacyPlan, entropy: Entropy) -> NDArray[np.int64]:
    """The summand, held to ±`plan.reach` where sums cannot wrap, and one draw of noise: a new int64 vector.

    To hold an entry to an interval brings two summands no farther apart, so it costs no privacy.

    Raises:
        ParameterError: the summand is no int64 vector of the plan's length.
    """
    if (
        not isinstance(summand, np.ndarray)
        or summand.ndim != 1
        or summand.dtype != np.int64
        or not len(summand)
    ):
        raise ParameterError("a summand is int64[d], as `summand` makes it, with at least one entry")
    if plan.length and len(summand) != plan.length:
        raise ParameterError(f"a summand of {len(summand)} entries; the plan is for {plan.length}")
    share = plan.noise.sample(len(summand), entropy=entropy)
    if plan.reach is None:
        share += summand  # modulo 2**64 at most, of which the ring is a part
    else:
        share += np.clip(summand, -plan.reach, plan.reach)
    return share


def check_plan(plan: object, *, unit: Unit, l2: float, rounds: int, rate: float) -> None:
    """Whether a plan was made by the unit that it is used with; with another's, noise would not fit summands.

    Raises:
        ParameterError: it was not.
    """
    if not isinstance(plan, PrivacyPlan):
        raise ParameterError("plan is what `plan(n, …)` of this unit made")
    made = (plan.unit, plan.release.l2, plan.rounds, plan.release.sampling_rate)
    if made != (unit, l2, rounds, rate):
        raise ParameterError("a plan that another unit made; make one with this unit's plan(n, …)")


def check_total(total: object, *, plan: PrivacyPlan) -> NDArray[np.int64]:
    """An opened sum as long as the plan says.

    Raises:
        ParameterError: it is none.
    """
    if not isinstance(total, np.ndarray) or total.ndim != 1 or total.dtype != np.int64:
        raise ParameterError("a total is int64[d], as `IntegerSum.total` has it")
    if plan.length and len(total) != plan.length:
        raise ParameterError(f"a total of {len(total)} entries; the plan is for {plan.length}")
    return total
