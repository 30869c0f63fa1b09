"""One client's share of the noise, added to its summand."""

import numpy as np
from numpy.typing import NDArray

from fl_integration.privacy.plan import PrivacyPlan
from secagg.entropy import Entropy
from secagg.errors import ParameterError

__all__ = ["noised"]


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
