"""The model that a client holds: its bytes, and what is read of them without what moves it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_integration.embedding.held_model import HeldModel, answered_head, arrays_in, is_parameter
from fl_integration.loop.optimisers import FedAdam, FedAvg, ServerOptimiser
from protocols.interface import Sum
from secagg.errors import DecodeError
from tests.fl_integration.flower.learners import same, start

HERE, ELSEWHERE = bytes(32), bytes([1]) * 32
DTYPES = ("float32", "int64", "uint8", "bool")


@st.composite
def states(draw: Any) -> dict[str, Any]:
    """Arrays of all forms under names in any order; at least one value is a number that a sum moves."""
    found: dict[str, Any] = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=8), max_size=4, unique=True)):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        numbers = np.arange(int(np.prod(shape))).reshape(shape)
        found[name] = numbers.astype(draw(st.sampled_from(DTYPES)))
    found["w" * 9] = np.array(draw(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=4)), np.float32)
    return found


def begun(state: dict[str, Any], optimiser: ServerOptimiser = FedAvg()) -> HeldModel:
    return HeldModel.begin(state, began=bytes([7]) * 32, optimiser=optimiser)


@settings(max_examples=30)
@given(states(), st.sampled_from([FedAvg(), FedAdam()]))
def test_what_was_written_is_read_again(state: dict[str, Any], optimiser: ServerOptimiser) -> None:
    held = begun(state, optimiser)
    data = held.to_bytes(session=HERE)
    same(held.arrays(), state)
    same(arrays_in(data), state)
    again = HeldModel.from_bytes(data, session=HERE, optimiser=optimiser)
    same(again.arrays(), state)
    assert again.began == held.began
    assert again.standing == held.standing
    assert again.to_bytes(session=HERE) == data


def test_in_another_session_it_goes_on_and_is_not_in_the_rounds_of_that_one() -> None:
    held = begun(start())
    assert not held.moved
    length = held.own.model.layout.length
    held.own.apply(
        Sum(np.full(length, 0.5), 3, frozenset("abc"), {}, round=4, head=held.own.base), sealed=b"sealed"
    )
    assert held.moved
    data = held.to_bytes(session=HERE)
    here, there = (HeldModel.from_bytes(data, session=each, optimiser=FedAvg()) for each in (HERE, ELSEWHERE))
    assert (here.own.opened, here.own.last) == (1, 4)
    assert (there.own.opened, there.own.last) == (0, None)
    assert there.moved
    assert there.own.base == here.own.base
    same(there.arrays(), here.arrays())


@given(st.data())
def test_no_other_bytes_are_a_model(data: Any) -> None:
    whole = begun(start()).to_bytes(session=HERE)
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.sampled_from([whole[:at], whole + b"\0", whole[:at] + b"\xff" + whole[at + 1 :]]))
    for read in (arrays_in, lambda bad: HeldModel.from_bytes(bad, session=HERE, optimiser=FedAvg())):
        try:
            read(cut)
        except DecodeError:
            continue
        assert len(cut) == len(whole)  # a changed value is a value; the seal of the file is what tells


def test_a_peers_copy_of_another_training_is_none() -> None:
    ours, other = start(), start()
    other["bias"] = np.array([0.5], np.float32)
    with pytest.raises(DecodeError, match="a copy of another training, which began from other values"):
        begun(ours).handed_over(begun(other).own.for_peer())
    assert begun(ours).handed_over(begun(start()).own.for_peer()).standing == begun(ours).standing


def test_another_optimiser_is_told_apart() -> None:
    data = begun(start(), FedAdam()).to_bytes(session=HERE)
    with pytest.raises(DecodeError, match="for another optimiser"):
        HeldModel.from_bytes(data, session=HERE, optimiser=FedAvg())
    same(arrays_in(data), start())


def test_a_head_names_both_the_copy_and_what_was_shown() -> None:
    heads = {answered_head(base, shown) for base in (HERE, ELSEWHERE) for shown in (b"a", b"b")}
    assert len(heads) == 4
    assert {len(head) for head in heads} == {32}


@pytest.mark.parametrize(
    ("name", "moved"),
    [("layer.weight", True), ("bn.running_mean", False), ("running_var", False), ("running_mean.x", True)],
)
def test_statistics_are_no_parameters(name: str, moved: bool) -> None:
    assert is_parameter(name) is moved
