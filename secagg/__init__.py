"""Primitives of secure aggregation: bytes, integers and arrays in; bytes, integers and arrays out.

Most users want `protocols`, the floor above. The README in this folder is the map of these rooms; each is a
module of its own, and the optional backends load when they are first used.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
