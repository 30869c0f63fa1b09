"""LatticeSum's two machines, over the integer surface of any key layer. The README here is the map."""

from protocols.lattice.protocol import LatticeParameters

__all__ = ["LatticeParameters"]
