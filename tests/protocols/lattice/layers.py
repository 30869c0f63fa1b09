"""The key layers over which LatticeSum's own tests run."""

from functools import partial
from typing import Any

import pytest

from protocols import MaskedSum, PaillierSum
from protocols.lattice.client import LatticeClientSteps
from secagg.rlwe import scheme as rlwe

__all__ = ["LAYERS", "PAILLIER", "both", "lattice_of"]

PAILLIER = partial(PaillierSum, key_bits=2048)
LAYERS = {"masked": MaskedSum, "paillier": PAILLIER}
both = pytest.mark.parametrize("keys", LAYERS.values(), ids=LAYERS)


def lattice_of(protocol: Any) -> rlwe.Parameters:
    """The parameters of a protocol's long vectors."""
    steps = protocol.suite.client
    assert isinstance(steps, LatticeClientSteps)
    return steps._vectors
