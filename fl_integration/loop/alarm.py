"""Clipping is loud: counted by entry, and said once, with what to do about it.

A clipped update bends the model without any error: a regression with unscaled targets, BatchNorm over raw
pixels. So the loop warns the first time that an entry loses a thousandth of its values, or more, to the clip.
"""

import inspect
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from fl_integration.loop.global_model import Layout
from fl_integration.loop.parties import FederatedClient
from fl_integration.vectors.autoclip import AutoClip

__all__ = ["Alarm", "Clipped", "ClippingWarning", "warn"]

_WORTH_SAYING: Final = 1e-3
_NAMED: Final = 4
_LOOP: Final = __name__.rpartition(".")[0] + "."


class ClippingWarning(UserWarning):
    """Updates were clipped: the mean is not the mean of what the sites learnt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipped:
    """The share of values clipped, in [0, 1]: of all, and by entry, those with any."""

    share: float
    entries: dict[str, float]


@dataclass(slots=True)
class Alarm:
    """Counts, and warns once.

    Args:
        layout: of the training.
        clip: the rule for scales, if there is one; the advice depends on it.
    """

    layout: Layout
    clip: AutoClip | None
    _said: set[str] = field(default_factory=set)

    def clipped(self, number: int, contributors: Collection[FederatedClient]) -> Clipped:
        """What was clipped in one round of these contributors."""
        counts: dict[str, int] = {}
        for client in contributors:
            for name, count in client.clipped.items():
                counts[name] = counts.get(name, 0) + count
        sizes = {name: part.stop - part.start for name, part in self.layout.segments.items()}
        of_all = max(len(contributors) * self.layout.length, 1)
        found = Clipped(
            share=sum(counts.values()) / of_all,
            entries={name: count / (len(contributors) * sizes[name]) for name, count in counts.items()},
        )
        worst = {name: share for name, share in found.entries.items() if share >= _WORTH_SAYING}
        if worst:
            self._say("clip", self._of_clipping(number, found.share, worst))
        strange = sorted({name for client in contributors for name in client.strange})
        if strange:
            self._say(
                "metrics",
                f"round {number}: metrics outside the range that the protocol declares count as its end: "
                f"{', '.join(strange)}; declare a wider one",
            )
        return found

    def of_scales(self, number: int, asked: Collection[FederatedClient]) -> None:
        """Says once that sites refuse the scales, and once that updates drown under them."""
        refusing = sorted(client.name for client in asked if client.refused_scales)
        if refusing:
            self._say(
                "refused",
                f"round {number}: {', '.join(refusing)} refused the scales that AutoClip fixed and sat out; "
                "the report says why. Where updates outgrow their first ones, under a learning rate that "
                "rises for instance, begin anew with more headroom, AutoClip(headroom=…)",
            )
        drowned = sorted({name for client in asked for name in client.drowned})
        if drowned:
            named = ", ".join(drowned[:_NAMED]) + (" and more" if len(drowned) > _NAMED else "")
            self._say(
                "drowned",
                f"round {number}: under AutoClip's scales the updates of some sites are below a few steps of "
                f"the grid, in {named}: another site's first update was far larger, or was counted falsely. "
                "Look at the sites' data, or give the protocol more bits",
            )

    def _of_clipping(self, number: int, share: float, worst: dict[str, float]) -> str:
        ranked = sorted(worst.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {part:.0%}" for name, part in ranked[:_NAMED])
        more = f" and {len(ranked) - _NAMED} more" if len(ranked) > _NAMED else ""
        what = (
            "pass clip=AutoClip(), give these entries a clip of their own (fl_integration.segments), or "
            "scale inputs and targets"
            if self.clip is None
            else "begin anew with more headroom, AutoClip(headroom=…), or a lower learning rate"
        )
        return (
            f"round {number}: {share:.2%} of all values were clipped, by entry {named}{more}. The mean "
            f"is not that of what the sites learnt: {what}. Said once; each round's report has the shares"
        )

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warn(text, ClippingWarning)


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warns, and points at the line that called the loop, however deep in it this is."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_LOOP):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
