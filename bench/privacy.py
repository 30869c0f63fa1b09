"""What noise costs a client: one round of MaskedSum with `ClientLevel` and without, a million parameters.

The same client's processor time, in one run: cutting the update to the clip and to the grid, its share of the
noise, and its half of the protocol over the ring that noised sums need. Without noise it is the protocol's
own encoding to 16 bits and its half. The noise is that of a plan but for its standard deviation, which is
what its time depends on: small ones are drawn from small tables.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from rich import box
from rich.table import Table

from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.plan import PrivacyPlan
from protocols import MaskedSum, Session
from secagg.noise import Skellam

__all__ = ["Cost", "measure", "table_of"]

PARAMETERS: Final = 1_000_000
CLIENTS: Final = 3
DEVIATIONS: Final = (10.0, 1_000.0, 30_000.0)
REPEATS: Final = 5
_ROUND_SEED: Final = bytes(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Processor seconds of one client in one round, the least of several.

    Attributes:
        sigma: standard deviation of one client's noise, in grid steps; 0 without privacy.
        bits: of a value on the wire.
        clip: to cut the update to the clip and the grid; without privacy that is in `machine`.
        noise: to draw and add the noise.
        machine: the client's half of the protocol.
    """

    sigma: float
    bits: int
    clip: float
    noise: float
    machine: float

    @property
    def whole(self) -> float:
        """All of it."""
        return self.clip + self.noise + self.machine


def measure(*, parameters: int = PARAMETERS) -> list[Cost]:
    """One round without noise, and one for each standard deviation."""
    update = np.random.default_rng(1).normal(size=parameters).astype(np.float32) / np.sqrt(parameters)
    protocol = MaskedSum(max_clients=CLIENTS)
    found = [
        Cost(
            sigma=0.0,
            bits=protocol.plan(CLIENTS).ring_bits,
            clip=0.0,
            noise=0.0,
            machine=_machine(protocol, update),
        )
    ]
    unit = ClientLevel(epsilon=8.0, delta=1e-5, rounds=1)
    whole = unit.plan(CLIENTS, protocol=protocol, length=parameters)
    for sigma in DEVIATIONS:
        plan = replace(
            whole, noise=Skellam(variance=sigma**2), exact=protocol.modular(bits=_bits(whole, sigma))
        )
        given: dict[str, Any] = {"plan": plan, "round_seed": _ROUND_SEED}
        clip, summand = _least(lambda given=given: unit.summand(update, **given))
        noise, vector = _least(lambda summand=summand, plan=plan: unit.noised(summand, plan=plan))
        found.append(
            Cost(
                sigma=sigma,
                bits=plan.exact.plan(CLIENTS).ring_bits,
                clip=clip,
                noise=noise,
                machine=_machine(plan.exact, vector),
            )
        )
    return found


def table_of(costs: list[Cost]) -> Table:
    """What was measured, with the ratio to the round without noise."""
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"Processor time of a client, {PARAMETERS:,} parameters, MaskedSum among {CLIENTS}",
    )
    for head in ("σ of its noise", "bits a value", "clip and grid", "noise", "protocol", "whole", "ratio"):
        table.add_column(head, justify="right")
    for each in costs:
        table.add_row(
            f"{each.sigma:,.0f}" if each.sigma else "no privacy",
            str(each.bits),
            *(f"{1e3 * seconds:.0f} ms" for seconds in (each.clip, each.noise, each.machine, each.whole)),
            f"{each.whole / costs[0].whole:.1f}",
        )
    return table


def _bits(plan: PrivacyPlan, sigma: float) -> int:
    """The ring that holds the sum of all clients' clips and eleven standard deviations of their noise."""
    most = CLIENTS * plan.steps + 11 * sigma * np.sqrt(CLIENTS)
    return int(np.ceil(np.log2(2 * most + 1)))


def _machine(protocol: Any, vector: Any) -> float:
    """A client's half of a steady round, with the keys made before."""
    names = [str(number) for number in range(CLIENTS)]
    session = Session(protocol, names)
    updates = dict.fromkeys(names, vector)
    return min(session.round(updates).seconds["0"] for _ in range(REPEATS))


def _least(step: Callable[[], Any]) -> tuple[float, Any]:
    found, best = None, np.inf
    for _ in range(REPEATS):
        since = time.process_time()
        found = step()
        best = min(best, time.process_time() - since)
    return float(best), found
