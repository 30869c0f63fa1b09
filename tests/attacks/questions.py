"""Hospitals that are asked questions, and servers that ask others than they show."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fl_integration.statistics import asking
from fl_integration.statistics.asking import Asker, ask
from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.encoding import decode, encode
from fl_integration.statistics.ledger import AnswerLedger
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.question import Question
from fl_integration.statistics.request import Request
from protocols import CkksSum, MaskedSum
from protocols.interface import Round

NAMES = ("basel", "bern", "wien")
AGE = Number("age", low=0, high=128, unit=1)
MARKER = Number("marker", low=0, high=1000, unit=1)
SICK = Category("sick", (0, 1))
SERVER_LEARNS = MaskedSum(max_clients=4)
CLIENTS_LEARN = CkksSum(max_clients=4)


def hospitals(rows: int = 40) -> dict[str, pd.DataFrame]:
    """Everybody's age differs from everybody else's at that hospital; one in four is sick."""
    generator = np.random.default_rng(7)
    return {
        name: pd.DataFrame(
            {
                "age": 20.0 + np.arange(rows),
                "marker": generator.integers(100, 900, rows).astype(float),
                "sick": np.arange(rows) % 4 == 0,
            }
        )
        for name in NAMES
    }


def remembering(**options: Any) -> SitePolicy:
    """A site's policy with a ledger."""
    return SitePolicy(small_cells=SmallCells.OPENED, ledger=AnswerLedger(), **options)


def told(question: Question, *, policy: SitePolicy | None = None, tables: Any = None, **options: Any) -> Any:
    """The answer, all hospitals under one policy; None: each question alone is looked at."""
    given = {"seed": 1, **options}
    return ask(given.pop("protocol", SERVER_LEARNS), tables or hospitals(), question, policy=policy, **given)


class Lying(Asker):
    """A server that changes its requests before they leave."""

    def lie(self, request: Request) -> Request:
        return request

    @property
    def round(self) -> Round | None:
        honest = super().round
        if honest is None:
            return None
        request = self.lie(decode(Request, honest.model))
        length = honest.length if request.step is None else request.step.length
        return replace(honest, model=encode(request), length=length)


def serving(monkeypatch: pytest.MonkeyPatch, kind: type[Lying]) -> None:
    monkeypatch.setattr(asking, "Asker", kind)
