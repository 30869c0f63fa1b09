"""One tree: what is whose fault is a class, not a text."""

import copy
import inspect
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from secagg import errors
from secagg.errors import (
    DecodeError,
    MissingExtraError,
    ParameterError,
    PeerViolation,
    RoundAborted,
    SecAggError,
    VerificationError,
)

EXAMPLES = [
    ParameterError("reason"),
    MissingExtraError(package="tenseal", extra="ckks"),
    DecodeError("reason"),
    VerificationError("reason"),
    PeerViolation("reason", culprit="basel"),
    RoundAborted("reason"),
]


def test_the_module_exports_its_whole_tree() -> None:
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert classes == set(errors.__all__)
    assert {type(example).__name__ for example in EXAMPLES} | {"SecAggError"} == classes


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_no_kind_of_error_is_caught_as_another(example: SecAggError) -> None:
    caught_by = [type(other).__name__ for other in EXAMPLES if isinstance(example, type(other))]
    assert caught_by == [type(example).__name__]
    assert isinstance(example, SecAggError)


def test_what_python_programmers_expect_to_catch() -> None:
    assert issubclass(ParameterError, ValueError)
    assert issubclass(DecodeError, ValueError)
    assert issubclass(MissingExtraError, ImportError)
    for kind in (VerificationError, PeerViolation, RoundAborted):
        assert kind.__bases__ == (SecAggError,)


def test_a_violation_names_the_culprit() -> None:
    error = PeerViolation("two messages for one step", culprit="basel")
    assert (error.reason, error.culprit) == ("two messages for one step", "basel")
    assert str(error) == "basel: two messages for one step"
    with pytest.raises(TypeError):
        PeerViolation("nobody is named")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        PeerViolation("the culprit is a keyword", "basel")  # type: ignore[call-arg]


def test_an_aborted_round_says_why() -> None:
    error = RoundAborted("2 of 5 clients are left, 3 are needed")
    assert error.reason == str(error) == "2 of 5 clients are left, 3 are needed"


def test_a_missing_extra_says_what_to_install() -> None:
    error = MissingExtraError(package="tenseal", extra="ckks")
    assert str(error) == "tenseal is not installed; run: pip install 'secagg[ckks]'"
    assert error.name == "tenseal"


def noted(example: SecAggError) -> SecAggError:
    example.add_note("seen by a test")
    return example


@pytest.mark.parametrize(
    "example",
    [*EXAMPLES, RoundAborted("reason", culprits=frozenset({"basel", "graz"}))],
    ids=lambda example: type(example).__name__,
)
@pytest.mark.parametrize(
    "carry",
    [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)
def test_an_error_is_carried_unchanged(carry: Any, example: SecAggError) -> None:
    carried = carry(noted(example))
    assert type(carried) is type(example)
    assert carried is not example
    for told in (str, repr, vars):
        assert told(carried) == told(example)
    assert carried.args == example.args
    for name in ("name", "path", "msg", "reason", "culprit", "culprits", "opened"):
        assert getattr(carried, name, None) == getattr(example, name, None)


def raise_it(example: SecAggError) -> None:
    raise example


def test_errors_cross_the_border_of_a_process() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for example in EXAMPLES:
            with pytest.raises(type(example)) as caught:
                pool.submit(raise_it, example).result(60)
            assert str(caught.value) == str(example)
            assert getattr(caught.value, "culprit", None) == getattr(example, "culprit", None)
