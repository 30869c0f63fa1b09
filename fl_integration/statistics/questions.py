"""All questions that there are: what a site can be asked, and what bytes can name.

A question's class is known by its name on the wire; so are the dataclasses and enums that its fields hold,
which `encoding` finds in their annotations.
"""

from typing import Final

from fl_integration.statistics.allele_test import AlleleTest
from fl_integration.statistics.correlation import Correlation
from fl_integration.statistics.count import Count
from fl_integration.statistics.cox_regression import CoxRegression
from fl_integration.statistics.cross_table import CrossTable
from fl_integration.statistics.histogram import Histogram
from fl_integration.statistics.kaplan_meier import KaplanMeier
from fl_integration.statistics.linear_regression import LinearRegression
from fl_integration.statistics.logistic_regression import LogisticRegression
from fl_integration.statistics.moments import Moments
from fl_integration.statistics.pca import PCA
from fl_integration.statistics.quantiles import Quantiles
from fl_integration.statistics.question import Question
from fl_integration.statistics.roc_curve import RocCurve

__all__ = ["QUESTIONS"]

QUESTIONS: Final[tuple[type[Question], ...]] = (
    AlleleTest,
    Correlation,
    Count,
    CoxRegression,
    CrossTable,
    Histogram,
    KaplanMeier,
    LinearRegression,
    LogisticRegression,
    Moments,
    PCA,
    Quantiles,
    RocCurve,
)
