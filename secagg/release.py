"""Which release this is. `secagg.__version__` is this; errors between two sites name it."""

from typing import Final

__all__ = ["RELEASE"]

RELEASE: Final = "0.1.0"
