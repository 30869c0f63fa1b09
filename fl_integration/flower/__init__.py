"""Flower: secure sums under its own strategies, on its own engine.

On the server `SecureGrid` stands where a strategy expects a grid; on the client `secure_aggregation` is a
mod. Neither holds any protocol: both carry parcels for `fl_integration.embedding`. The README in this folder
is the manual, and `quickstart/` an app that runs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_integration.embedding.coordinator import Patience
    from fl_integration.embedding.enrolment import Enrolment
    from fl_integration.flower.enrolling import Rehearsed, by_node_config
    from fl_integration.flower.grid import SecureGrid
    from fl_integration.flower.mod import secure_aggregation

__all__ = ["Enrolment", "Patience", "Rehearsed", "SecureGrid", "by_node_config", "secure_aggregation"]

_ROOMS = {
    "embedding.coordinator": ("Patience",),
    "embedding.enrolment": ("Enrolment",),
    "flower.enrolling": ("Rehearsed", "by_node_config"),
    "flower.grid": ("SecureGrid",),
    "flower.mod": ("secure_aggregation",),
}

if not TYPE_CHECKING:  # a type checker knows the names, and says which ones are not there

    def __getattr__(name: str) -> object:
        for room, names in _ROOMS.items():
            if name in names:
                return getattr(import_module(f"fl_integration.{room}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
