"""Clipping is loud: said once, with the shares by entry, at the line of whoever called."""

import linecache
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

import fl_integration
from fl_integration import (
    AutoClip,
    ClippingWarning,
    FedAdam,
    LocalTraining,
    RoundReport,
    Scaffold,
    Watch,
    federate,
    segments,
)
from fl_integration.vectors.vectorise import manifest_of
from tests.fl_integration.loop.stage import NAMES, PROTOCOLS, QUIET, linear, protocol, seeded, sites, train


@pytest.fixture(
    params=[
        pytest.param(each, marks=[pytest.mark.slow] if each in ("lattice", "paillier") else [])
        for each in PROTOCOLS
    ]
)
def name(request: Any) -> str:
    return str(request.param)


class Moves:
    """A step that moves each site's entries by what a table says: site -> entry -> values."""

    def __init__(self, data: dict[str, Any], table: dict[str, dict[str, Any]]) -> None:
        self._moves = {id(data[name]): moves for name, moves in table.items()}

    def __call__(self, model: nn.Module, data: Any, *, seed: int) -> int:
        with torch.no_grad():
            state = model.state_dict()
            for entry, move in self._moves.get(id(data), {}).items():
                state[entry] += torch.tensor(move)
        return 12


def moved(name: str, table: dict[str, dict[str, Any]], **options: Any) -> Any:
    data = sites()
    return train(name, data, local=Moves(data, table), **options)


TABLE = {
    "a": {"weight": [[3.0, 0.1]], "bias": [5.0]},
    "b": {"weight": [[-2.0, 1.5]]},
    "c": {"weight": [[0.5, -0.5]], "bias": [-1.01]},
    "d": {"bias": [0.99]},
}
"""Beyond 1: three of eight weights, two of four biases; five of twelve values."""


# --- what is said -----------------------------------------------------------------------------------------


def test_shares_by_hand_in_every_round_and_one_warning(name: str) -> None:
    with pytest.warns(ClippingWarning) as said:
        run = moved(name, TABLE, rounds=2)
    assert len(said) == 1
    text = str(said[0].message)
    assert "round 0: 41.67% of all values were clipped, by entry bias 50%, weight 38%" in text
    assert "clip=AutoClip()" in text
    assert "fl_integration.segments" in text
    for report in run.history:
        assert report.clipped == {"a": 2, "b": 2, "c": 1, "d": 0}
        assert report.clipped_share == pytest.approx(5 / 12)
        assert report.clipped_entries == pytest.approx({"weight": 3 / 8, "bias": 2 / 4})
    assert "41.67%" in str(run)
    assert run.to_frame()["clipped_share"].tolist() == pytest.approx([5 / 12] * 2)


def test_who_sits_out_does_not_count(name: str) -> None:
    table = {**TABLE, "a": {"weight": [[float("nan"), 9.0]]}}
    with pytest.warns(ClippingWarning, match="33.33% of all"):
        run = moved(name, table, rounds=1)
    assert run.history[0].contributors == set("bcd")
    assert run.history[0].clipped == {"b": 2, "c": 1, "d": 0}
    assert run.history[0].clipped_share == pytest.approx(3 / 9)
    assert run.history[0].clipped_entries == pytest.approx({"weight": 2 / 6, "bias": 1 / 3})


def test_exactly_the_clip_is_not_beyond_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = moved("masked", {each: {"weight": [[0.0, 0.0]], "bias": [1.0]} for each in NAMES}, model=flat())
    assert run.history[0].clipped_share == 0


def flat() -> nn.Module:
    """A line at zero, where a step of 1 is exactly 1."""
    model = linear()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_said_in_a_later_round_if_it_begins_there() -> None:
    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        with torch.no_grad():
            model.bias += 2.0 if len(done) == 1 else 0.5
        return 12

    done: list[RoundReport] = []
    watch = Watch(progress=QUIET.progress, on_round=done.append)
    with pytest.warns(ClippingWarning, match="round 1: 33.33%") as said:
        run = train("masked", local=local, watch=watch, rounds=4)
    assert len(said) == 1
    assert [report.clipped_share for report in run.history] == pytest.approx([0, 1 / 3, 0, 0])


@pytest.mark.parametrize(("values", "warned"), [(1000, True), (1001, False)])
def test_a_thousandth_of_an_entry_is_worth_saying_and_less_is_not(values: int, warned: bool) -> None:
    """One value of each site; the report has it all the same."""
    data = sites()
    moves = np.zeros((1, values), np.float32)
    moves[0, 3] = 7
    local = Moves(data, {each: {"weight": moves} for each in NAMES})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run = train("masked", data, model=nn.Linear(values, 1), local=local, rounds=1)
    assert bool(said) is warned
    assert run.history[0].clipped_entries == pytest.approx({"weight": 1 / values})
    assert run.history[0].clipped == dict.fromkeys(NAMES, 1)


def test_a_small_entry_is_not_lost_in_a_large_model() -> None:
    data = sites()
    local = Moves(data, {each: {"bias": [2.0]} for each in NAMES})
    with pytest.warns(
        ClippingWarning, match=r"round 0: 0.05% of all values were clipped, by entry bias 100%"
    ):
        train("masked", data, model=nn.Linear(2000, 1), local=local, rounds=1)


def test_the_worst_entries_are_named_and_the_others_counted() -> None:
    net = seeded(lambda: nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))))
    data = sites()
    local = Moves(data, {each: {f"{i}.bias": [2.0, 0.0] for i in range(4)} | {"0.weight": [[2.0] * 2] * 2,
                                "1.weight": [[2.0, 0.0]] * 2} for each in NAMES})  # fmt: skip
    with pytest.warns(ClippingWarning, match="0.weight 100%, .* and 2 more"):
        train("masked", data, model=net, local=local, rounds=1)


# --- other clips ------------------------------------------------------------------------------------------


def test_under_segments_each_entry_has_the_clip_of_its_own(name: str) -> None:
    clip = segments(manifest_of(linear().state_dict()), clip=2.0, overrides={"bias": 0.5})
    with pytest.warns(ClippingWarning) as said:
        run = moved(name, TABLE, rounds=1, shape={"clip": clip})
    assert len(said) == 1
    # Beyond 2: the weight 3.0 (and not -2.0); beyond 0.5: 5.0, -1.01 and 0.99.
    assert run.history[0].clipped == {"a": 2, "b": 0, "c": 1, "d": 1}
    assert run.history[0].clipped_entries == pytest.approx({"weight": 1 / 8, "bias": 3 / 4})


def test_one_segment_over_two_entries_and_two_within_one() -> None:
    """Whatever segments an expert cuts, counting is by the model's entries."""
    from protocols import Segment

    for lengths, clips in [((1, 2), (0.75, 2.0)), ((3,), (1.0,)), ((1, 1, 1), (1.0, 2.0, 3.0))]:
        shape = {"clip": tuple(Segment(length=n, clip=c) for n, c in zip(lengths, clips, strict=True))}
        each = [clip for n, clip in zip(lengths, clips, strict=True) for _ in range(n)]
        with pytest.warns(ClippingWarning):
            run = moved("masked", TABLE, rounds=1, shape=shape, model=flat())
        rows = [np.r_[np.ravel(t.get("weight", [[0, 0]])), t.get("bias", [0])] for t in TABLE.values()]
        beyond = np.abs(rows) > np.array(each)
        found = run.history[0]
        assert found.clipped == dict(zip(NAMES, beyond.sum(axis=1).tolist(), strict=True))
        assert found.clipped_share == pytest.approx(beyond.mean())
        expected = {"weight": beyond[:, :2].mean(), "bias": beyond[:, 2].mean()}
        assert found.clipped_entries == pytest.approx({n: s for n, s in expected.items() if s})


def test_control_variates_are_counted_as_entries_of_their_own(name: str) -> None:
    local = LocalTraining(loss=mse_loss, learning_rate=0.001, batch_size=4)
    data = {each: [(x, 300 * y + 500) for x, y in part] for each, part in sites().items()}
    with pytest.warns(ClippingWarning, match="control variate of bias 100%") as said:
        run = train(name, data, local=local, server_optimiser=Scaffold(), rounds=1)
    assert len(said) == 1
    entries = run.history[0].clipped_entries
    assert entries["control variate of bias"] == 1
    sizes = {"weight": 2, "bias": 1, "control variate of weight": 2, "control variate of bias": 1}
    total = sum(share * sizes[entry] for entry, share in entries.items())
    assert run.history[0].clipped_share == pytest.approx(total / 6)


def test_under_autoclip_the_advice_is_another() -> None:
    """One value of a small entry outgrows the scale of the first round; the clip is the scale."""

    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        with torch.no_grad():
            model.weight += 0.1
            model.bias += 100.0 if done else 0.1
        return 12

    done: list[RoundReport] = []
    watch = Watch(progress=QUIET.progress, on_round=done.append)
    with pytest.warns(ClippingWarning, match=r"bias 100%.*begin anew with more headroom") as said:
        run = train("masked", model=nn.Linear(30, 1), local=local, watch=watch, rounds=2, clip=AutoClip())
    assert len(said) == 1
    assert "pass clip=AutoClip()" not in str(said[0].message)
    assert run.history[1].clipped_entries == {"bias": 1.0}
    assert run.history[1].clipped == dict.fromkeys(NAMES, 1)


# --- where it points --------------------------------------------------------------------------------------


def test_the_warning_points_at_the_line_that_calls_federate() -> None:
    data = sites()
    with pytest.warns(ClippingWarning) as said:
        federate(protocol("plain"), linear(), data, local=Moves(data, TABLE), rounds=2, watch=QUIET)
    assert [each.filename for each in said] == [__file__]
    line = linecache.getline(__file__, said[0].lineno)
    assert line.strip().startswith("federate(")


def test_so_does_one_about_an_adaptive_optimiser() -> None:
    data = {each: [(x, y) for x, y in part] for each, part in sites().items()}
    with pytest.warns(UserWarning, match="adaptivity") as said:
        federate(protocol("plain"), linear(), data, rounds=1, watch=QUIET,
                 local=LocalTraining(loss=mse_loss, learning_rate=0.01),
                 server_optimiser=FedAdam(learning_rate=0.1, adaptivity=1e-12))  # fmt: skip
    assert {each.filename for each in said} == {__file__}


def test_a_filter_turns_it_into_an_error_by_its_category() -> None:
    assert fl_integration.ClippingWarning is ClippingWarning
    assert issubclass(ClippingWarning, UserWarning)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClippingWarning)
        with pytest.raises(ClippingWarning):
            moved("masked", TABLE)


@pytest.mark.slow
def test_a_script_sees_it_on_standard_error_with_its_own_line(tmp_path: Any) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "from fl_integration import LocalTraining, federate\n"
        "from protocols import PlainSum\n"
        "x = torch.ones(4, 1)\n"
        "sites = {name: [(x, 500 * x)] for name in 'abc'}\n"
        "local = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.1)\n"
        "federate(PlainSum(max_clients=3, max_weight=4), "
        "torch.nn.Linear(1, 1), sites, local=local, rounds=2)"
    )
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(fl_integration.__path__[0]).rpartition("/")[0]},
    )  # fmt: skip
    assert f"{script}:7: ClippingWarning: round 0: 100.00%" in found.stderr
    assert found.stderr.count("ClippingWarning") == 1
