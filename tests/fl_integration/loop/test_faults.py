"""A site that fails costs its own part of a round, and says why; nothing is silent."""

import copy
import pickle
import random
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fl_integration.loop.report import TrainingAborted
from fl_integration.loop.watch import Watch
from fl_integration.site.step import Trained
from fl_integration.site.training import LocalTraining
from protocols import ParameterError, RoundAborted
from tests.fl_integration.loop.stage import (
    EACH,
    LOCAL,
    NAMES,
    distance,
    in_the_clear,
    pieces,
    sites,
    train,
)


@pytest.fixture(params=EACH)
def name(request: Any) -> str:
    return str(request.param)


class Failing:
    """A site's examples, which cannot be read in some rounds (or ever); it counts how often it was asked."""

    def __init__(self, name: str, rounds: set[int] | None = None) -> None:
        self._pieces, self._rounds, self.asked = pieces(name), rounds, 0

    def __iter__(self) -> Iterator[Any]:
        self.asked += 1
        if self._rounds is None or self.asked - 1 in self._rounds:
            raise OSError("the disk is gone")
        return iter(self._pieces)


# --- a site sits a round out ------------------------------------------------------------------------------


def with_nan() -> Any:
    (x, y), *_ = pieces("b")
    return [(torch.cat([x, torch.full((1, 2), torch.nan)]), torch.cat([y, torch.zeros(1, 1)]))]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (Failing("b"), "OSError: the disk is gone"),
        (with_nan(), "training diverged.*NaN in the examples"),
        ([(torch.full((4, 2), 1e30), torch.ones(4, 1))], "training diverged"),
        ([], "no examples"),
        ([(torch.zeros(0, 2), torch.zeros(0, 1))], "no examples"),
        ([1], "piece 0"),
        ([(torch.zeros(4, 3), torch.zeros(4, 1))], "mat1 and mat2 shapes"),
    ],
    ids=["disk", "NaN", "diverged", "no pieces", "no rows", "no pair", "other shape"],
)
def test_a_site_that_cannot_train_sits_out_with_its_reason(data: Any, reason: str) -> None:
    run = train("masked", sites(b=data), rounds=2)
    for report in run.history:
        assert report.contributors == set("acd")
        assert not report.aborted
        assert report.dropped.keys() == {"b"}
        assert re.search(reason, report.dropped["b"])
    assert distance(run.model, in_the_clear(sites("acd"), rounds=2).model) < 1e-5


def test_it_does_so_under_every_protocol_and_is_back_in_the_next_round(name: str) -> None:
    run = train(name, sites(b=Failing("b", {1})))
    assert [len(report.contributors) for report in run.history] == [4, 3, 4]
    assert "disk is gone" in run.history[1].dropped["b"]
    assert distance(run.model, in_the_clear(absent={1: {"b"}}).model) < 1e-5


def test_one_example_under_batch_norm() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    run = train("masked", sites(b=pieces("b", 1)), model=net, rounds=1)
    assert "more than 1 value per channel" in run.history[0].dropped["b"]
    assert run.history[0].contributors == set("acd")


@pytest.mark.parametrize("returned", [None, 0, -3, True, 2.5, "12", Trained])
def test_a_step_without_a_weight(returned: Any) -> None:
    def local(model: nn.Module, data: Any, *, seed: int) -> Any:
        if data is theirs["b"]:
            return returned
        return LOCAL(model, data, seed=seed)

    theirs = sites()
    run = train("masked", theirs, local=local, rounds=1)
    assert run.history[0].contributors == set("acd")
    assert "return" in run.history[0].dropped["b"] or "weight" in run.history[0].dropped["b"]


def test_enough_lost_abort_that_round_and_finished_rounds_are_kept(name: str) -> None:
    run = train(name, sites(b=Failing("b", {1, 3}), c=Failing("c", {1, 3})), rounds=4)
    assert [bool(report.aborted) for report in run.history] == [False, True, False, True]
    assert set(run.history[1].dropped) >= {"b", "c"}
    assert distance(run.model, in_the_clear(rounds=1).model) > 1e-3
    assert run.history[0].total_weight == run.history[2].total_weight == 48


def test_what_no_site_can_do_raises_at_once() -> None:
    loaders = {each: Failing(each) for each in NAMES}
    with pytest.raises(ParameterError, match=r"no site can take part: 'a': OSError: the disk is gone; 'b'"):
        train("masked", loaders, rounds=50)
    assert {each.asked for each in loaders.values()} == {1}
    with pytest.raises(ParameterError, match="no site can take part"):
        in_the_clear({each: Failing(each) for each in NAMES}, rounds=50)


def test_later_it_costs_a_round(name: str) -> None:
    run = train(name, {each: Failing(each, {1}) for each in NAMES})
    assert [bool(report.aborted) for report in run.history] == [False, True, False]
    assert run.history[1].dropped.keys() == set(NAMES)


def test_sites_that_fail_once_each_in_rounds_of_their_own_are_waited_for() -> None:
    """Nobody contributed yet; but each could be read again in the next round."""
    run = train("plain", {each: Failing(each, {number}) for number, each in enumerate("abc")}, rounds=5)
    assert [bool(report.aborted) for report in run.history] == [True, True, True, False, False]
    assert [set(report.dropped) for report in run.history] == [{"a"}, {"b"}, {"c"}, set(), set()]
    with pytest.raises(ParameterError, match="no site can take part"):
        train("plain", {each: Failing(each) for each in "abc"}, rounds=5)


def test_interrupts_pass() -> None:
    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("masked", local=local)


def test_if_every_round_is_aborted_the_training_raises_with_its_history(name: str) -> None:
    lost = {number: {"b": "AdvertiseKeys" if name != "plain" else "Contribute"} for number in range(3)}
    with pytest.raises(
        RoundAborted, match=r"none of 3 rounds had a mean; the last said: .*at least 3"
    ) as found:
        train(name, sites("abc"), drop=lost)
    assert isinstance(found.value, TrainingAborted)
    assert [bool(report.aborted) for report in found.value.history] == [True] * 3
    for again in (pickle.loads(pickle.dumps(found.value)), copy.copy(found.value)):
        assert type(again) is TrainingAborted
        assert again.history == found.value.history
        assert again.reason == found.value.reason


# --- weights ----------------------------------------------------------------------------------------------


class Growing:
    """Examples that arrive: four more in each round."""

    def __init__(self, name: str) -> None:
        self._name, self.asked = name, 0

    def __iter__(self) -> Iterator[Any]:
        self.asked += 1
        return iter(pieces(self._name, 4 * self.asked))


def test_weights_are_counted_anew_in_each_round(name: str) -> None:
    run = train(name, sites(a=Growing("a"), b=Growing("b")))
    assert [report.total_weight for report in run.history] == [32, 40, 48]
    assert distance(run.model, in_the_clear(sites(a=Growing("a"), b=Growing("b"))).model) < 1e-5


def test_what_drop_last_drops_weighs_nothing() -> None:
    x, y = pieces("a", 11)[0]
    loader = DataLoader(TensorDataset(x, y), batch_size=4, drop_last=True, shuffle=True)
    assert (
        train("masked", sites(a=loader), rounds=1, shape={"max_weight": 12}).history[0].total_weight == 8 + 36
    )


def no_training(*_: Any) -> None:
    pytest.fail("something ran")


def test_a_size_that_the_loader_tells_is_checked_before_anything_runs(name: str) -> None:
    with pytest.raises(
        ParameterError, match=r"'c' is the largest site and has 20 examples.*pass max_weight=20"
    ):
        train(
            name, sites(c=pieces("c", 20)), shape={"max_weight": 16},
            watch=Watch(on_message=no_training), local=LocalTraining(loss=no_training, learning_rate=0.1),
        )  # fmt: skip


class Untold:
    """Examples that do not tell how many they are."""

    def __init__(self, name: str, count: int) -> None:
        self._pieces = pieces(name, count)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pieces)


def test_one_that_it_does_not_tell_is_checked_before_anything_leaves(name: str) -> None:
    data = sites(c=Untold("c", 20))
    run = train(name, data, shape={"max_weight": 16}, rounds=2)
    assert [report.contributors for report in run.history] == [set("abd")] * 2
    assert "a weight of 20 is above max_weight = 16; pass max_weight=20" in run.history[0].dropped["c"]
    with pytest.raises(ParameterError, match=r"no site can take part: 'a': a weight of 20 is above"):
        train(name, {each: Untold(each, 20) for each in NAMES}, shape={"max_weight": 16}, rounds=50)


def test_a_loader_that_can_be_read_once_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"'b' is a generator, which can be read once"):
        train("masked", sites(b=(piece for piece in pieces("b"))), watch=Watch(on_message=no_training))


# --- generators and numbers -------------------------------------------------------------------------------


def test_all_global_generators_are_left_as_they_were() -> None:
    x, y = pieces("a")[0]
    shuffled = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(), nn.Linear(4, 1))
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    one = train("masked", sites(a=shuffled), model=net)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    torch.manual_seed(99)
    assert train("masked", sites(a=shuffled), model=net).digest == one.digest


def test_float64_numpy_examples() -> None:
    data = {each: [tuple(part.double().numpy() for part in pieces(each)[0])] for each in NAMES}
    assert distance(train("masked", data).model, train("masked").model) == 0


# --- metrics ----------------------------------------------------------------------------------------------


def test_the_training_loss_rides_along(name: str) -> None:
    run = train(name, shape={"metrics": {"loss": (0.0, 10.0)}})
    truth = in_the_clear()
    for report, true in zip(run.history, truth.history, strict=True):
        assert report.metrics["loss"] == pytest.approx(true.metrics["loss"], abs=1e-3)
    assert run.history[0].metrics["loss"] > run.history[2].metrics["loss"] > 0


def test_a_metric_beyond_its_range_is_said_once() -> None:
    with pytest.warns(UserWarning, match="metrics outside the range.*: loss; declare a wider one") as said:
        run = train("masked", shape={"metrics": {"loss": (0.0, 0.5)}})
    assert len(said) == 1
    assert run.history[0].metrics["loss"] <= 0.5


def test_metrics_of_a_step_of_ones_own() -> None:
    def local(model: nn.Module, data: Any, *, seed: int) -> Trained:
        LOCAL(model, data, seed=seed)
        return Trained(weight=12, metrics={"height": 2.0 if data is theirs["a"] else 1.0})

    theirs = sites()
    run = train("masked", theirs, local=local, shape={"metrics": {"height": (0.0, 4.0)}})
    assert run.history[0].metrics["height"] == pytest.approx(1.25, abs=1e-3)
    with pytest.raises(
        ParameterError, match=r"metrics \['height'\], and LocalTraining knows its 'loss' alone"
    ):
        train("masked", shape={"metrics": {"height": (0.0, 4.0)}})
    run_without = pytest.raises(
        ParameterError, match=r"sums the metric 'height', and the step says \['loss'\]"
    )
    with run_without:
        train(
            "masked",
            local=lambda m, d, *, seed: LOCAL(m, d, seed=seed),
            shape={"metrics": {"height": (0, 4)}},
        )


# --- clipping ---------------------------------------------------------------------------------------------


def steep() -> dict[str, Any]:
    """Targets in the hundreds: the bias moves by far more than one in a round."""
    return {each: [(x, 300 * y + 500) for x, y in pieces(each)] for each in NAMES}


def test_clipping_is_said_once_with_its_share_by_entry_and_the_remedy() -> None:
    with pytest.warns(UserWarning, match=r"100.00% of all values were clipped") as said:
        run = train("masked", steep())
    assert len(said) == 1
    text = str(said[0].message)
    assert all(part in text for part in ("weight 100%", "bias 100%", "AutoClip"))
    assert run.history[0].clipped_share == 1.0
    assert run.history[0].clipped_entries == {"weight": 1.0, "bias": 1.0}
    assert run.history[0].clipped == dict.fromkeys(NAMES, 3)


def test_no_word_where_nothing_is_clipped() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = train("masked")
    assert run.history[0].clipped_share == 0
    assert run.history[0].clipped_entries == {}


# --- what is shown ----------------------------------------------------------------------------------------


def test_shown_in_short() -> None:
    run = train("masked", sites(b=Failing("b", {1})), rounds=30, shape={"metrics": {"loss": (0.0, 10.0)}})
    assert len(repr(run)) < 200
    assert all(len(repr(report)) < 200 for report in run.history)
    lines = str(run).splitlines()
    assert len(lines) < 20
    assert max(map(len, lines)) < 140
    assert "disk is gone" in str(run)
    assert "training loss" in lines[0]


def test_the_history_as_a_data_frame() -> None:
    frame = train("masked", sites(b=Failing("b", {1})), shape={"metrics": {"loss": (0.0, 10.0)}}).to_frame()
    assert list(frame.index) == [0, 1, 2]
    assert frame["contributors"].tolist() == [4, 3, 4]
    assert frame["total_weight"].tolist() == [48, 36, 48]
    assert (frame["bytes_up"] > 0).all()
    assert frame["training loss"].iloc[2] < frame["training loss"].iloc[0]
