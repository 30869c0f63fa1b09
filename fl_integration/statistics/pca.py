"""Principal components of the pooled table, through its covariance.

The covariance is exact up to its last division; its eigenvectors are LAPACK's. An eigenvalue comes with an
error of about 2**-52 of the *largest* one, so of a table whose columns have very different spreads ask the
components of the correlation, in which each column counts alike.

An eigenvector has no sign of its own. Here the loading that is largest in absolute value is positive, the
first of them where two are alike.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Column, Number
from fl_integration.statistics.products import (
    Products,
    check_step,
    largest_product,
    length_of,
    numbers_of,
    sum_products,
)
from fl_integration.statistics.question import Question, Step, Total
from fl_integration.statistics.rows import Rows
from fl_integration.statistics.showing import BLUE, ORANGE, complete, with_provenance
from secagg.errors import ParameterError
from secagg.numbers import plain_fields

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["PCA", "Matrix", "PrincipalComponents"]

_STEP: Final = "products"


class Matrix(Enum):
    """Whose eigenvectors the components are."""

    COVARIANCE = "covariance"
    CORRELATION = "correlation"


@dataclass(frozen=True, slots=True)
class PCA(Question):
    """The directions in which the pooled rows vary most. One sum, of complete rows.

    A row that lacks any of the values is left out; how many such rows there are is in the answer.

    Args:
        numbers: the columns, at least two.
        components: how many; in [1, number of columns].
        matrix: COVARIANCE, of the values as they are (default), or CORRELATION, of the values divided by
            their standard deviations.

    Raises:
        ParameterError: an argument is none of these.
    """

    numbers: tuple[Number, ...]
    components: int = 2
    matrix: Matrix = Matrix.COVARIANCE

    complete_cases: ClassVar[bool] = True

    def __post_init__(self) -> None:
        Question.__post_init__(self)
        object.__setattr__(self, "numbers", numbers_of(self.numbers, least=2, what="a PCA"))
        plain_fields(self, "components")
        if type(self.components) is not int or not 1 <= self.components <= len(self.numbers):
            raise ParameterError(
                f"components is {self.components!r}; of these columns there are 1 to {len(self.numbers)}"
            )
        if not isinstance(self.matrix, Matrix):
            raise ParameterError(f"matrix is {self.matrix!r}; it must be a Matrix")

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.numbers

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        return largest_product(self.numbers, max_rows=max_rows)

    def asking(self, *, max_rows: int) -> Generator[Step, Total, "PrincipalComponents"]:
        total = yield Step(_STEP, length_of(self.numbers))
        products = Products.of(total, 1 + len(self.numbers))
        count, units = products.count, np.array([each.unit for each in self.numbers])
        if count < 2:
            raise ParameterError(f"{count} rows have all {len(self.numbers)} values; a PCA takes at least 2")
        spread = products.spread
        middles = np.array([each.middle for each in self.numbers], dtype=object)
        mean = ((products.sums + count * middles) / count).astype(np.float64) * units
        covariance = (spread / (count * (count - 1))).astype(np.float64) * np.outer(units, units)
        scale = np.ones(len(self.numbers))
        if self.matrix is Matrix.CORRELATION:
            scale = np.sqrt(np.diag(covariance))
            if not scale.all():
                constant = self.numbers[int(scale.argmin())].name
                raise ParameterError(f"column {constant!r} is the same in all complete rows: leave it out")
            covariance = covariance / np.outer(scale, scale)
            np.fill_diagonal(covariance, 1.0)
        variances, vectors = np.linalg.eigh(covariance)
        order = np.argsort(-variances, kind="stable")[: self.components]
        loadings = vectors.T[order]
        peaks = np.abs(loadings).argmax(axis=1)
        loadings = loadings * np.where(loadings[np.arange(len(order)), peaks] < 0, -1.0, 1.0)[:, None]
        whole = float(np.trace(covariance))
        explained = np.maximum(variances[order], 0.0)
        return PrincipalComponents(
            names=tuple(each.name for each in self.numbers),
            mean=mean,
            scale=scale,
            loadings=loadings,
            variances=explained,
            ratios=explained / whole if whole else np.full(len(order), np.nan),
            count=count,
            incomplete=products.incomplete,
        )

    def summand(self, step: Step, rows: Rows) -> Total:
        check_step(step, name=_STEP, length=length_of(self.numbers))
        return sum_products(rows, self.numbers)


@dataclass(frozen=True, kw_only=True, eq=False)
class PrincipalComponents(Answer):
    """The answer to a `PCA`.

    Attributes:
        names: of the p columns.
        mean: float64[p], of the complete rows.
        scale: float64[p], what values are divided by: 1, or with CORRELATION their standard deviation
            (n - 1 in its denominator).
        loadings: float64[components, p], rows of length one; the largest in absolute value is positive.
        variances: float64[components], along each, n - 1 in the denominator; falling.
        ratios: float64[components], their share of the whole variance; NaN where nothing varies.
        count: complete rows.
        incomplete: rows that were left out.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    loadings: NDArray[np.float64]
    variances: NDArray[np.float64]
    ratios: NDArray[np.float64]
    count: int
    incomplete: int

    def scores(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where rows lie along the components, for whoever has them.

        Args:
            values: float[rows, p], columns in the order of `names`.

        Returns:
            float64[rows, components]; NaN for a row with a missing value.

        Raises:
            ParameterError: they have another shape.
        """
        found = np.asarray(values, dtype=np.float64)
        if found.ndim != 2 or found.shape[1] != len(self.names):
            raise ParameterError(f"values of shape {found.shape}; pass [rows, {len(self.names)}]")
        return ((found - self.mean) / self.scale) @ self.loadings.T

    def to_frame(self) -> "pd.DataFrame":
        """One row a component: its variance, its share, and the loading of each column."""
        frame = frame_of(dict(zip(self.names, self.loadings.T, strict=True)), index=self._labels())
        frame.insert(0, "share", self.ratios)
        frame.insert(0, "variance", self.variances)
        return frame

    def draw(self, axes: "Axes | None" = None) -> Any:
        """The share of the variance that each component has, and what they have together."""
        axes = new_axes(axes)
        places = np.arange(len(self.ratios))
        axes.bar(places, self.ratios, color=BLUE, label="each")
        axes.plot(places, np.cumsum(self.ratios), color=ORANGE, marker="o", label="up to here")
        axes.set_xticks(places, self._labels())
        axes.set_ylim(0, 1.05)
        axes.set_ylabel("share of the variance")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        return axes

    def __str__(self) -> str:
        """The loadings, a column each component, below their variances and shares."""
        table = self.to_frame().T.to_string(float_format=lambda each: f"{each:.4g}")
        return with_provenance(f"{table}\n{complete(self.count, self.incomplete)}", self.provenance)

    def _labels(self) -> list[str]:
        return [f"PC{each + 1}" for each in range(len(self.loadings))]
