"""Whose mean and deviation the inputs are scaled by: four points of accuracy, and more.

Trained on each site's own scale, as FLamby does, or on the pooled one, whose figures come out of one secure
sum (`standardised`); and tested on either, on all sites' test patients.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from rich.table import Table

from bench.flamby.patients import NAMES, Examples, SiteExamples, load_cohort
from bench.flamby.table import MASKED, RECIPES, ROUNDS, SEEDS
from bench.flamby.training import Epochs, untrained, weights_of
from fl_integration.loop.plain import fedavg
from fl_integration.loop.standardising import Standardisation, Standardise, Standardised, standardised
from fl_integration.site.scaling import Scale
from fl_integration.statistics.columns import Number

__all__ = ["COLUMNS", "HEADERS", "lines_of", "measure", "on_pooled_scale", "pooled_figures", "table_of"]

COLUMNS: Final = (
    Number("age", low=0, high=128, unit=1),
    Number("sex", low=0, high=1, unit=1),
    Number("trestbps", low=0, high=256, unit=1),
    Number("chol", low=0, high=1024, unit=1),
    Number("fbs", low=0, high=1, unit=1),
    Number("thalch", low=0, high=256, unit=1),
    Number("exang", low=0, high=1, unit=1),
    Number("oldpeak", low=-8, high=8, unit=0.1),
    *(Number(name, low=0, high=1, unit=1) for name in ("cp_2", "cp_3", "cp_4", "restecg_1", "restecg_2")),
)
"""The 13 inputs, with the bounds that a site would declare beforehand."""

ROWS: Final = ("FedAvg", "FedAdam")

HEADERS: Final = (
    "",
    "trained on the scale of",
    "tested on each site's own",
    "tested on the pooled one",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnScales:
    """Shares of all sites' test patients with the right answer, by seed, in [0, 1].

    Attributes:
        own: each patient on the scale of their site.
        pooled: all on the pooled scale.
    """

    own: tuple[float, ...]
    pooled: tuple[float, ...]


@cache
def pooled_figures() -> Standardised:
    """The pooled scale of the training rows, from one sum under MaskedSum."""
    sites = {
        name: [(site.train.x, site.train.y)] for name, site in zip(NAMES, load_cohort().unscaled, strict=True)
    }
    _, found = standardised(MASKED, sites, Standardisation(columns=COLUMNS, max_rows=1024))
    return found


def on_pooled_scale(site: SiteExamples) -> SiteExamples:
    """A site's inputs as they were written down, on the scale that the sum found, with a 1 for the bias."""
    scale = pooled_figures().scale
    return SiteExamples(train=_on(scale, site.train), test=_on(scale, site.test))


def measure(seeds: Iterable[int] = SEEDS) -> dict[tuple[str, Standardise], OnScales]:
    """Trains each row on both scales and tests it on both."""
    cohort, chosen = load_cohort(), tuple(seeds)
    pooled = tuple(map(on_pooled_scale, cohort.unscaled))
    found = {}
    for row in ROWS:
        for how, sites in ((Standardise.SITE, cohort.sites), (Standardise.POOLED, pooled)):
            weights = [_trained(row, sites, seed=seed) for seed in chosen]
            found[row, how] = OnScales(
                own=tuple(_share(each, cohort.sites) for each in weights),
                pooled=tuple(_share(each, pooled) for each in weights),
            )
    return found


def lines_of(found: Mapping[tuple[str, Standardise], OnScales]) -> list[tuple[str, ...]]:
    """A line for each way to train; the columns are `HEADERS`."""
    whose = {Standardise.SITE: "each site's own", Standardise.POOLED: "the pooled one"}
    return [(row, whose[how], _spread(each.own), _spread(each.pooled)) for (row, how), each in found.items()]


def table_of(lines: Iterable[tuple[str, ...]]) -> Table:
    """The lines for a terminal."""
    table = Table(title="Accuracy on all test patients, by the scale of the inputs; over five seeds")
    for number, header in enumerate(HEADERS):
        table.add_column(header, justify="right" if number > 1 else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _trained(row: str, sites: tuple[SiteExamples, ...], *, seed: int) -> np.ndarray:
    recipe = RECIPES[row]
    data = {
        name: Epochs(examples=site.train, seed=(seed, index))
        for index, (name, site) in enumerate(zip(NAMES, sites, strict=True))
    }
    run = fedavg(
        untrained(seed),
        data,
        local=recipe.local,
        rounds=ROUNDS,
        server_optimiser=recipe.server_optimiser,
        seed=seed,
    )
    return weights_of(run.model)


def _share(weights: np.ndarray, sites: tuple[SiteExamples, ...]) -> float:
    right = [(site.test.x @ weights > 0) == (site.test.y == 1) for site in sites]
    return float(np.concatenate(right).mean())


def _on(scale: Scale, examples: Examples) -> Examples:
    return Examples(x=np.column_stack([scale.apply(examples.x), np.ones(len(examples))]), y=examples.y)


def _spread(shares: tuple[float, ...]) -> str:
    deviation = f" ± {np.std(shares, ddof=1):.4f}" if len(shares) > 1 else ""
    return f"{np.mean(shares):.4f}{deviation}"
