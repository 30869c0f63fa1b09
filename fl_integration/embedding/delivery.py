"""What an engine's adapter shows of one message, and how it lets the application work on it.

`fl_integration.flower.mod` has the one for Flower, `fl_integration.nvflare.site` the one for NVFlare. Another
engine's adapter writes its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fl_integration.embedding.parcels import Purpose
from fl_integration.vectors.arrays import Vector

__all__ = ["Contribution", "Delivery"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What an application's answer adds to a sum.

    Attributes:
        update: float32[d] or float64[d].
        weight: a positive integer, for example an example count.
        metrics: one float for each metric that the protocol sums.
    """

    update: Vector
    weight: int
    metrics: Mapping[str, float]


class Delivery(Protocol):
    """The round's records as they came to this site."""

    def digest(self, withheld: Mapping[str, bytes]) -> bytes:
        """The digest of all that the application would see, and of records that did not travel."""
        ...  # a Protocol's signature

    def arrays(self) -> tuple[Mapping[str, Any], bytes] | None:
        """The model among the records, by name, and its digest (32 bytes); None if it did not travel.

        Raises:
            ParameterError: there is more than one.
        """
        ...  # a Protocol's signature

    def contribute(self, purpose: Purpose, model: Mapping[str, Any] | None, *, named: str) -> Contribution:
        """Lets the application work on what was delivered.

        Args:
            purpose: on what.
            model: shown in place of the model that was delivered or withheld; None: that is shown.
            named: the record's name, if it was withheld.
        """
        ...  # a Protocol's signature
