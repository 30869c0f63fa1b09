"""Small trainings for the tests of the loop: every protocol, four sites, a line to fit."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import mse_loss

from fl_integration.loop.federated import federate
from fl_integration.loop.plain import fedavg
from fl_integration.loop.rehearsal import Rehearsal
from fl_integration.loop.report import FederatedRun
from fl_integration.loop.watch import Progress, Watch
from fl_integration.site.training import LocalTraining
from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    PlainSum,
    Requirements,
    Rounding,
)
from protocols.machine.parameters import MachineProtocol

NAMES = "abcd"
SHAPE: dict[str, Any] = {"bits": 24, "clip": 1.0, "max_clients": 4, "max_weight": 64}
MALICIOUS = {"requirements": Requirements(adversary=Adversary.MALICIOUS)}
"""So that one of four may be lost."""
OWN: dict[str, dict[str, Any]] = {"masked": MALICIOUS, "lattice": MALICIOUS, "paillier": {"key_bits": 2048}}
PROTOCOLS: dict[str, type] = {
    "plain": PlainSum,
    "masked": MaskedSum,
    "lattice": LatticeSum,
    "ckks": CkksSum,
    "paillier": PaillierSum,
}
EACH = tuple(PROTOCOLS)
"""What only repeats waits for the slow tests: see `tests/fl_integration/conftest.py`."""
LOCAL = LocalTraining(loss=mse_loss, learning_rate=0.05, batch_size=4)
QUIET = Watch(progress=Progress.NEVER)


def protocol(name: str, **options: Any) -> MachineProtocol:
    """A protocol of this name; its rounding repeats."""
    given = {**SHAPE, "rounding": Rounding.NEAREST, **OWN.get(name, {}), **options}
    made: MachineProtocol = PROTOCOLS[name](**given)
    return made


def linear() -> nn.Module:
    """A model that is equal wherever it is made."""
    return seeded(lambda: nn.Linear(2, 1))


def seeded(make: Any, seed: int = 1) -> nn.Module:
    """What `make` makes under a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module = make()
    return made


def pieces(name: str, count: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One site's examples."""
    generator = torch.Generator().manual_seed(ord(name))
    x = torch.randn(count, 2, generator=generator)
    return [(x, x @ torch.tensor([[1.0], [-2.0]]) + 0.1 * ord(name) / 100)]


def sites(names: str = NAMES, **other: Any) -> dict[str, Any]:
    """Everybody's examples; `other` replaces some."""
    return {**{name: pieces(name) for name in names}, **other}


def train(
    name: str = "plain",
    data: dict[str, Any] | None = None,
    *,
    model: nn.Module | None = None,
    drop: Any = None,
    protocol_seed: int | None = 1,
    shape: dict[str, Any] | None = None,
    **options: Any,
) -> FederatedRun:
    """A training; the protocol's randomness repeats."""
    return federate(
        protocol(name, **(shape or {})),
        linear() if model is None else model,
        sites() if data is None else data,
        **{"local": LOCAL, "rounds": 3, "seed": 7, "watch": QUIET, **options},
        rehearsal=Rehearsal(drop=drop or {}, protocol_seed=protocol_seed),
    )


def in_the_clear(
    data: dict[str, Any] | None = None, *, model: nn.Module | None = None, **options: Any
) -> FederatedRun:
    """The same without a protocol."""
    return fedavg(
        linear() if model is None else model,
        sites() if data is None else data,
        **{"local": LOCAL, "rounds": 3, "seed": 7, "watch": QUIET, **options},
    )


def distance(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of two values."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
