"""A published table under a secure sum: FLamby's Fed-Heart-Disease. `python -m bench flamby` prints it."""

from bench.flamby.table import reproduce

__all__ = ["reproduce"]
