"""A sample of the sites in each round: drawn from the seed, as large as the roster rule admits."""

from typing import Any

import numpy as np
import pytest
from torch import nn

from fl_integration.loop.cohorts import Sampling
from fl_integration.loop.evaluation import OnSites, Task
from fl_integration.loop.report import FederatedRun
from fl_integration.loop.rounds import Training
from fl_integration.loop.watch import Progress, Watch
from fl_integration.vectors.autoclip import AutoClip
from protocols import ParameterError, Requirements
from tests.fl_integration.loop.stage import (
    EACH,
    LOCAL,
    PROTOCOLS,
    distance,
    in_the_clear,
    sites,
    train,
)

EIGHT = "abcdefgh"
FEW = {"max_clients": 8, "requirements": Requirements(corrupt_fraction=0.0, dropout_fraction=0.0)}
"""Nobody is corrupt, so three of eight are a cohort."""


@pytest.fixture(params=EACH)
def name(request: Any) -> str:
    return str(request.param)


class Trained:
    """A step that notes who trained in which round."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._who = {id(each): name for name, each in data.items()}
        self.now: set[str] = set()
        self.rounds: list[set[str]] = []

    def __call__(self, model: nn.Module, data: Any, *, seed: int) -> Any:
        self.now.add(self._who[id(data)])
        return LOCAL(model, data, seed=seed)

    def watch(self) -> Watch:
        def on_round(_: Any) -> None:
            self.rounds.append(self.now)
            self.now = set()

        return Watch(progress=Progress.NEVER, on_round=on_round)


def sampled(name: str, size: int = 3, *, names: str = EIGHT, **options: Any) -> tuple[FederatedRun, Trained]:
    data = sites(names)
    step = Trained(data)
    given = {"rounds": 6, "shape": FEW, "local": step, "watch": step.watch(), **options}
    return train(name, data, sampling=Sampling(size=size), **given), step


def wanted(size: int, rounds: int, names: str = EIGHT, seed: int = 7) -> list[set[str]]:
    rule = Sampling(size=size)
    return [set(rule.cohort(tuple(names), seed=seed, round=number)) for number in range(rounds)]


def absent(cohorts: list[set[str]], names: str = EIGHT) -> dict[int, set[str]]:
    return {number: set(names) - cohort for number, cohort in enumerate(cohorts)}


# --- the draw ---------------------------------------------------------------------------------------------


def test_cohorts_follow_from_seed_and_round_alone() -> None:
    assert wanted(3, 20) == wanted(3, 20)
    assert wanted(3, 20) != wanted(3, 20, seed=8)
    assert len({frozenset(each) for each in wanted(3, 20)}) > 10
    assert all(len(each) == 3 for each in wanted(3, 20))
    counts = [sum(client in each for each in wanted(3, 800)) for client in EIGHT]
    assert min(counts) > 240  # 300 each, give or take 14
    assert max(counts) < 360


def test_a_cohort_has_the_order_of_the_roster() -> None:
    for number in range(20):
        cohort = Sampling(size=3).cohort(("c", "a", "b", "d"), seed=1, round=number)
        assert list(cohort) == [each for each in "cabd" if each in cohort]


def test_no_global_generator_is_asked() -> None:
    state = np.random.get_state()[1].copy()
    wanted(3, 5)
    assert np.array_equal(np.random.get_state()[1], state)


# --- a training -------------------------------------------------------------------------------------------


def test_only_who_is_drawn_trains_and_everybody_ends_with_one_model(name: str) -> None:
    rounds = 2 if name == "paillier" else 6
    run, step = sampled(name, rounds=rounds)
    cohorts = wanted(3, rounds)
    assert step.rounds == cohorts
    assert [set(report.asked) for report in run.history] == cohorts
    assert [set(report.contributors) for report in run.history] == cohorts
    assert [report.total_weight for report in run.history] == [36] * rounds
    truth = in_the_clear(sites(EIGHT), rounds=rounds, absent=absent(cohorts))
    assert distance(run.model, truth.model) < 1e-5
    assert all(distance(each, run.model) == 0 for each in run.models.values())
    assert run.models.keys() == set(EIGHT)


@pytest.mark.slow
def test_where_the_clients_learn_nobody_is_lost_however_long_it_was_away() -> None:
    """Sealed sums wait for a client, the last few of them: whoever was away for longer asks a peer."""
    run, step = sampled("ckks", rounds=14)
    cohorts = wanted(3, 14)
    first = {client: next(n for n, each in enumerate(cohorts) if client in each) for client in EIGHT}
    assert max(first.values()) > 4  # so the case is there
    assert step.rounds == cohorts
    assert not any(report.aborted or report.dropped for report in run.history)
    assert distance(run.model, in_the_clear(sites(EIGHT), rounds=14, absent=absent(cohorts)).model) < 1e-5
    assert run.handed_over == {client for client, number in first.items() if number > 4}


def test_who_was_set_up_applies_every_sum_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Site d is drawn in round 0 and away for some rounds: no peer is needed."""
    trainings: list[Any] = []
    begin = Training.__init__

    def remember(self: Any, *arguments: Any, **options: Any) -> None:
        trainings.append(self)
        begin(self, *arguments, **options)

    monkeypatch.setattr(Training, "__init__", remember)
    run, _ = sampled("ckks", 4, names="abcdef", rounds=6, shape={"max_clients": 6})
    assert not run.handed_over
    [training] = trainings
    assert {each.opened for each in training.clients.values()} == {6}
    assert len({each.base for each in training.clients.values()}) == 1


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_figures_are_those_of_the_model_that_a_sample_made(name: str) -> None:
    """Most sites are behind where they learn the sums; their old model must not be the one that counts."""
    asked = OnSites(sites(EIGHT), task=Task.REGRESSION, target_range=(-8.0, 8.0), max_examples=1000)
    run, step = sampled(name, evaluate=asked)
    truth = in_the_clear(sites(EIGHT), rounds=6, absent=absent(wanted(3, 6)), evaluate=asked)
    assert step.rounds == wanted(3, 6)
    for report, true in zip(run.history, truth.history, strict=True):
        assert report.evaluation == pytest.approx(true.evaluation, abs=1e-4)
        assert report.evaluation["examples"] == 96


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_scales_come_from_the_first_sample(name: str) -> None:
    run, step = sampled(name, clip=AutoClip(headroom=16.0))
    assert step.rounds == wanted(3, 6)
    assert run.history[0].side_traffic
    assert not any(report.side_traffic for report in run.history[1:])
    truth = in_the_clear(sites(EIGHT), rounds=6, absent=absent(wanted(3, 6)))
    assert distance(run.model, truth.model) < 1e-4


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_a_sample_of_a_training_that_is_taken_up_again(name: str, tmp_path: Any) -> None:
    whole, _ = sampled(name)
    _, early = sampled(name, rounds=2, checkpoint=tmp_path)
    again, late = sampled(name, checkpoint=tmp_path)
    assert early.rounds + late.rounds == wanted(3, 6)
    assert again.digest == whole.digest


def test_a_roster_larger_than_a_cohort_may_be(name: str) -> None:
    """`max_clients` is of a round."""
    shape = {**FEW, "max_clients": 4}
    run, _ = sampled(name, 4, rounds=1, shape=shape)
    assert len(run.history[0].contributors) == 4
    with pytest.raises(ParameterError, match=r"a round asks 8 sites, max_clients is 4.*sampling="):
        train(name, sites(EIGHT), shape=shape)


def test_a_culprit_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Training.__init__

    def convicted(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self._culprits = {"d"}

    monkeypatch.setattr(Training, "__init__", convicted)
    _, step = sampled("masked", rounds=8)
    assert step.rounds == wanted(3, 8, names="abcefgh")
    assert any("d" in cohort for cohort in wanted(3, 8))


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "3", None])
def test_a_size_that_is_none(size: Any) -> None:
    with pytest.raises(ParameterError, match="size is"):
        Sampling(size=size)


def test_numpy_sizes() -> None:
    assert type(Sampling(size=np.int64(3)).size) is int


SILENT = Watch(progress=Progress.NEVER, on_message=lambda *_: pytest.fail("something ran"))


def test_more_than_there_are(name: str) -> None:
    with pytest.raises(ParameterError, match="a sample of 5 out of 4 sites; lower size"):
        train(name, sampling=Sampling(size=5), watch=SILENT)


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "plain"])
def test_a_sample_that_the_corrupt_could_fill_is_refused_up_front(name: str, tmp_path: Any) -> None:
    """A fifth of twenty may be corrupt, and all four of them in one cohort of three."""
    names = "abcdefghijklmnopqrst"
    with pytest.raises(
        ParameterError,
        match=r"a sample of 3 out of 20 sites: .*4 may be corrupt .*at least \d+ clients .*corrupt_fraction",
    ):
        train(
            name, sites(names), sampling=Sampling(size=3), watch=SILENT,
            shape={"max_clients": 20, "requirements": Requirements()}, checkpoint=tmp_path / "new",
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_fewer_than_a_sum_needs(name: str) -> None:
    with pytest.raises(ParameterError, match=r"a sample of 2 out of 4 sites: .*min_contributors is 3"):
        train(name, sampling=Sampling(size=2), watch=SILENT)


def test_everybody_is_a_sample_too(name: str) -> None:
    assert train(name, rounds=1, sampling=Sampling(size=4)).digest == train(name, rounds=1).digest


def test_a_sample_that_fails_is_not_everybody() -> None:
    """Nobody has contributed yet, but others may."""
    broken = {"a", "b", "c", "d"}

    def local(model: Any, data: Any, *, seed: int) -> int:
        if data in broken:
            raise OSError("the disk is gone")
        return 1

    everybody = {name: name for name in "abcdefgh"}
    run = train(
        "plain", everybody, local=local, sampling=Sampling(size=3), rounds=12, shape={"max_clients": 8}
    )
    assert any(report.contributors for report in run.history)
    with pytest.raises(ParameterError, match="no site can take part"):
        train(
            "plain",
            dict.fromkeys(everybody, "a"),
            local=local,
            sampling=Sampling(size=3),
            rounds=200,
            shape={"max_clients": 8},
        )
