"""The table: ten ways to train, five seeds, the accuracy on the test patients; beside FLamby's own figures.

`reproduce` trains. In the clear the federated rows go through `fedavg`, with a protocol through `federate`:
the same steps, with the mean out of a secure sum. What the sum costs in precision is its grid; rounding is to
nearest, so that a sum is the same each time, whatever its masks were.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from rich.table import Table
from torch import nn

from bench.flamby.patients import NAMES, Cohort, Examples, load_cohort
from bench.flamby.training import Epochs, SiteSgd, train_alone, untrained, weights_of
from bench.published import FLAMBY, PublishedAccuracy
from fl_integration.loop.federated import federate
from fl_integration.loop.optimisers import FedAdagrad, FedAdam, FedAvg, FedYogi, ServerOptimiser
from fl_integration.loop.plain import fedavg
from protocols import MaskedSum, Rounding
from protocols.machine.parameters import MachineProtocol

__all__ = [
    "HEADERS",
    "MASKED",
    "RECIPES",
    "ROUNDS",
    "SEEDS",
    "Accuracy",
    "Recipe",
    "lines_of",
    "markdown_of",
    "reproduce",
    "table_of",
    "train",
]

SEEDS: Final = range(42, 47)
"""FLamby's."""

ROUNDS: Final = 15

MASKED: Final = MaskedSum(
    bits=28, clip=1.0, max_clients=len(NAMES), max_weight=200, rounding=Rounding.NEAREST
)
"""No value of an update in this table is above 0.6. A step of the grid, 7.5e-9, is below FLamby's tau."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A federated row: what the sites do, and what the mean does to the model."""

    local: SiteSgd
    server_optimiser: ServerOptimiser


_FLAMBY: Final = {"momentum": 0.9, "adaptivity": 1e-8}

RECIPES: Final[Mapping[str, Recipe]] = {
    "FedAvg": Recipe(local=SiteSgd(learning_rate=1e-3), server_optimiser=FedAvg()),
    "FedProx": Recipe(local=SiteSgd(learning_rate=1e-3, proximal=0.01), server_optimiser=FedAvg()),
    "FedAdam": Recipe(
        local=SiteSgd(learning_rate=1e-2),
        server_optimiser=FedAdam(learning_rate=1e-2, second_momentum=0.999, **_FLAMBY),
    ),
    "FedYogi": Recipe(
        local=SiteSgd(learning_rate=0.003162),
        server_optimiser=FedYogi(learning_rate=1e-2, second_momentum=0.999, **_FLAMBY),
    ),
    "FedAdagrad": Recipe(
        local=SiteSgd(learning_rate=0.003162),
        server_optimiser=FedAdagrad(learning_rate=0.316228, **_FLAMBY),
    ),
}
"""FLamby's own settings (its `config_heart_disease.json`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Shares of test patients with the right answer, in [0, 1]: of all of them, and of each site's."""

    pooled: float
    sites: tuple[float, ...]


def reproduce(
    seeds: Iterable[int] = SEEDS, *, protocol: MachineProtocol | None = None
) -> dict[str, list[Accuracy]]:
    """Trains every row of the table once for each seed.

    Args:
        seeds: of the initial values and of the order of examples.
        protocol: what takes the mean. None takes it in the clear, and trains the five rows without a
            federation too.

    Returns:
        Accuracies by row, one a seed.
    """
    cohort = load_cohort()
    found: dict[str, list[Accuracy]] = {}
    for seed in seeds:
        models = _alone(cohort, seed) if protocol is None else {}
        models |= {row: train(row, seed=seed, protocol=protocol) for row in RECIPES}
        for row, model in models.items():
            found.setdefault(row, []).append(_accuracy(model, cohort))
    return found


def train(row: str, *, seed: int, protocol: MachineProtocol | None = None) -> nn.Module:
    """The model of a federated row after its 15 rounds."""
    recipe, model = RECIPES[row], untrained(seed)
    sites = {
        name: Epochs(examples=site.train, seed=(seed, index))
        for index, (name, site) in enumerate(zip(NAMES, load_cohort().sites, strict=True))
    }
    if protocol is None:
        run = fedavg(
            model,
            sites,
            local=recipe.local,
            rounds=ROUNDS,
            server_optimiser=recipe.server_optimiser,
            seed=seed,
        )
    else:
        run = federate(
            protocol,
            model,
            sites,
            local=recipe.local,
            rounds=ROUNDS,
            server_optimiser=recipe.server_optimiser,
            seed=seed,
        )
    return run.model


def _alone(cohort: Cohort, seed: int) -> dict[str, nn.Module]:
    """The rows without a federation."""
    models = {}
    for index, site in enumerate((*cohort.sites, cohort.pooled)):
        model = untrained(seed)
        train_alone(model, Epochs(examples=site.train, seed=(seed, index)))
        models["Pooled" if site is cohort.pooled else f"Local {index}"] = model
    return models


def _accuracy(model: nn.Module, cohort: Cohort) -> Accuracy:
    weights = weights_of(model)

    def share(examples: Examples) -> float:
        return float(((examples.x @ weights > 0) == (examples.y == 1)).mean())

    return Accuracy(pooled=share(cohort.pooled.test), sites=tuple(share(site.test) for site in cohort.sites))


# --- ours beside theirs -----------------------------------------------------------------------------------

HEADERS: Final = (
    "",
    "published",
    "in the clear",
    "distance",
    "masked",
    "same",
    "by site, published / in the clear",
)


def lines_of(
    clear: Mapping[str, list[Accuracy]], masked: Mapping[str, list[Accuracy]]
) -> list[tuple[str, ...]]:
    """A line of the table for each row that FLamby published, in its order; the columns are `HEADERS`.

    "same" counts the seeds whose accuracies, on all patients and on each site's, the protocol did not change.
    """
    return [_line(row, theirs, clear[row], masked.get(row)) for row, theirs in FLAMBY.items()]


def markdown_of(headers: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    """The lines for a page."""
    rows = (headers, ("---",) * len(headers), *lines)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def table_of(lines: Iterable[tuple[str, ...]]) -> Table:
    """The lines for a terminal."""
    table = Table(title="FLamby's Fed-Heart-Disease: accuracy, mean ± standard deviation over five seeds")
    for number, header in enumerate(HEADERS):
        table.add_column(header, justify="right" if number else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _line(
    row: str, theirs: PublishedAccuracy, clear: list[Accuracy], masked: list[Accuracy] | None
) -> tuple[str, ...]:
    sites = np.mean([each.sites for each in clear], axis=0)
    pairs = ", ".join(f"{a:.3f} / {b:.3f}" for a, b in zip(theirs.sites, sites, strict=True))
    distance = np.mean([each.pooled for each in clear]) - theirs.mean
    under_masks, same = "", ""
    if masked is not None:
        equal = sum(ours == secure for ours, secure in zip(clear, masked, strict=True))
        under_masks, same = _spread(masked), f"{equal} of {len(clear)}"
    return (
        row,
        f"{theirs.mean:.4f} ± {theirs.deviation:.4f}",
        _spread(clear),
        f"{round(distance, 4) + 0.0:+.4f}",
        under_masks,
        same,
        pairs,
    )


def _spread(accuracies: list[Accuracy]) -> str:
    pooled = [each.pooled for each in accuracies]
    deviation = f" ± {np.std(pooled, ddof=1):.4f}" if len(pooled) > 1 else ""
    return f"{np.mean(pooled):.4f}{deviation}"
