"""A clip that follows the sizes of the updates, without looking at them in the clear.

Nobody knows a good clip beforehand, and to choose it by the data is a query of its own. Andrew, Thakkar,
McMahan and Ramaswamy (NeurIPS 2021) ask one question more in each round: for which part of the units was the
clip large enough? Each unit adds +½ or -½ to one more value of the vector; noise covers it like any other.
The clip then moves towards the quantile that was asked for, clip·exp(-learning_rate·(fraction - quantile)).

The clip of the next round follows from what is opened anyway, so it is public and costs nothing more. What
the count costs is charged with the vector: `share` of the squared sensitivity is the count's, and the noise
of all values grows by 1/√(1 - share).

>>> clip = AdaptiveClip(initial=1.0)
>>> round(clip.next(1.0, fraction=0.9), 3)
0.923
"""

import math
from dataclasses import dataclass

from fl_integration.privacy.units import LARGEST, check_positive
from secagg.errors import ParameterError
from secagg.numbers import is_number, plain_fields

__all__ = ["AdaptiveClip", "check_adaptive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveClip:
    """How a clip follows.

    Args:
        initial: the clip of the first round, public and chosen without looking at data.
        quantile: the part of the units that the clip shall leave whole (γ), in (0, 1].
        learning_rate: how fast it follows (η), in (0, 10].
        share: the count's part of the squared sensitivity, in (0, 1/2]; .05 raises the noise of everything
            else by 2.6 %, and the noise of the count is the noise multiplier / (2·√share), in units.
    """

    initial: float
    quantile: float = 0.5
    learning_rate: float = 0.2
    share: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", check_positive("initial", self.initial))
        plain_fields(self, "quantile", "learning_rate", "share")
        for name, most in (("quantile", 1.0), ("learning_rate", 10.0), ("share", 0.5)):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value <= most:
                raise ParameterError(f"{name} is {value!r}; it must be a number in (0, {most:g}]")

    def half(self, steps: int) -> int:
        """What a unit adds to the count or takes off it, in grid steps, beside a vector of up to `steps`."""
        return max(1, round(steps * math.sqrt(self.share / (1 - self.share))))

    def next(self, clip: float, *, fraction: float) -> float:
        """The next clip, public as both arguments are.

        Args:
            clip: that of the round that ended.
            fraction: the noised part of units that it left whole; outside [0, 1] it is taken for the end.
        """
        check_positive("clip", clip)
        if math.isnan(fraction):
            raise ParameterError("fraction is NaN; it is what `fraction` of the unit said")
        inside = min(max(fraction, 0.0), 1.0)
        moved = clip * math.exp(-self.learning_rate * (inside - self.quantile))
        return min(max(moved, 1 / LARGEST), LARGEST)


def check_adaptive(adaptive: object, clip: float) -> None:
    """An `AdaptiveClip` or None, and a clip beside it only where it is None."""
    if adaptive is None:
        return
    if not isinstance(adaptive, AdaptiveClip):
        raise ParameterError("adaptive is an AdaptiveClip(initial=…) or None")
    if clip != 1.0:
        raise ParameterError("clip and adaptive are both given; the first clip is AdaptiveClip(initial=…)")
