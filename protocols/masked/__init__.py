"""MaskedSum: Bonawitz et al., CCS'17, on the complete graph. Start with `protocol.py`."""

from protocols.masked.protocol import MaskedSum

__all__ = ["MaskedSum"]
