"""All questions that there are: what a site can be asked, and what bytes can name.

A question's class is known by its name on the wire; so are the dataclasses and enums that its fields hold,
which `encoding` finds in their annotations.
"""

from typing import Final

from fl_integration.statistics.count import Count
from fl_integration.statistics.cox_regression import CoxRegression
from fl_integration.statistics.histogram import Histogram
from fl_integration.statistics.kaplan_meier import KaplanMeier
from fl_integration.statistics.logistic_regression import LogisticRegression
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Question
from fl_integration.statistics.roc_curve import RocCurve

__all__ = ["QUESTIONS"]

QUESTIONS: Final[tuple[type[Question], ...]] = (
    Count,
    CoxRegression,
    Histogram,
    KaplanMeier,
    LogisticRegression,
    Moments,
    Quantiles,
    RocCurve,
)
