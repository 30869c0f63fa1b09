"""Three sites with a few rows each, and the protocols that sum them."""

import numpy as np
import pandas as pd

from fl_integration.statistics.columns import Category, Number
from protocols import Adversary, CkksSum, LatticeSum, MaskedSum, PaillierSum, PlainSum, Requirements
from protocols.machine.parameters import MachineProtocol

NAMES = ("basel", "bern", "wien")
AGE = Number("age", low=0, high=128, unit=0.25)
CHOL = Number("chol", low=0, high=512, unit=1)
SEX = Category("sex", ("f", "m"))

MALICIOUS = Requirements(adversary=Adversary.MALICIOUS)
"""So that the protocol could bear the loss of one of four."""

PROTOCOLS: dict[str, MachineProtocol] = {
    "plain": PlainSum(max_clients=4),
    "masked": MaskedSum(max_clients=4, requirements=MALICIOUS),
    "lattice": LatticeSum(max_clients=4, requirements=MALICIOUS),
    "ckks": CkksSum(max_clients=4),
    "paillier": PaillierSum(max_clients=4, key_bits=2048),
}
EACH = tuple(PROTOCOLS)
"""What only repeats waits for the slow tests: see `tests/fl_integration/conftest.py`."""
MASKED = PROTOCOLS["masked"]


def tables(*, seed: int = 1, rows: int = 40, names: tuple[str, ...] = NAMES) -> dict[str, pd.DataFrame]:
    """Ages in quarters, a tenth of the cholesterol missing."""
    generator = np.random.default_rng(seed)
    made = {}
    for name in names:
        chol = generator.integers(150, 350, rows).astype(float)
        chol[generator.random(rows) < 0.1] = np.nan
        made[name] = pd.DataFrame(
            {
                "age": np.round(generator.normal(60, 12, rows) * 4) / 4,
                "chol": chol,
                "sex": generator.choice(["f", "m"], rows),
            }
        )
    return made
