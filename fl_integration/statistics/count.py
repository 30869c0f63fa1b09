"""How many rows there are that meet some conditions."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fl_integration.statistics.answer import Answer, frame_of, new_axes
from fl_integration.statistics.columns import Column
from fl_integration.statistics.question import Asking, Question, Sensitivity, Step, Total
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Count", "CountAnswer"]

_STEP = Step("rows", 1)


@dataclass(frozen=True, eq=False)
class CountAnswer(Answer):
    """How many rows of all sites.

    Attributes:
        rows: the number.
    """

    rows: int
    _: KW_ONLY

    def to_frame(self) -> "pd.DataFrame":
        return frame_of({"rows": [self.rows]})

    def draw(self, axes: "Axes | None" = None) -> Any:
        axes = new_axes(axes, height=1.5)
        axes.barh(["rows"], [self.rows])
        axes.set_xlabel("rows of all sites")
        return axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(Question):
    """How many rows meet `where`; one sum of one number.

    A row whose value in a condition's column is missing does not meet it.
    """

    @property
    def columns(self) -> tuple[Column, ...]:
        return ()

    @property
    def most_sums(self) -> int:
        return 1

    def largest(self, *, max_rows: int) -> int:
        return max_rows

    @property
    def sensitivity(self) -> Sensitivity:
        return Sensitivity(np.ones(1, dtype=np.int64), touched=1)

    def asking(self, *, max_rows: int) -> Asking:
        total = yield _STEP
        return CountAnswer(int(total[0]))

    def summand(self, step: Step, rows: Rows) -> Total:
        if step != _STEP:
            raise ParameterError(f"a step {step.name!r} of {step.length} values is none of a Count's")
        return np.array([len(rows)], dtype=np.int64)
