"""A question's two halves without a protocol between them: what the sums are, in the clear."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from fl_integration.statistics.answer import Answer
from fl_integration.statistics.encoding import decode_question, encode
from fl_integration.statistics.question import Question, selected
from fl_integration.statistics.rows import Rows


def pooled(question: Question, tables: Iterable[Any], *, max_rows: int = 1000) -> Answer:
    """The answer over all rows of the tables, none of which is too small; each summand is checked."""
    assert decode_question(encode(question)) == question
    largest = question.largest(max_rows=max_rows)
    sites = [selected(Rows.of(table), question.where) for table in tables]
    assert all(len(rows) <= max_rows for rows in sites)
    asking, sums = question.asking(max_rows=max_rows), 1
    step = next(asking)
    while True:
        summands = [question.summand(step, rows) for rows in sites]
        for summand in summands:
            assert summand.dtype == np.int64
            assert summand.shape == (step.length,)
            assert np.abs(summand).max() <= largest
        try:
            step = asking.send(np.sum(summands, axis=0))
        except StopIteration as done:
            answer: Answer = done.value
            return answer
        sums += 1
        assert sums <= question.most_sums
