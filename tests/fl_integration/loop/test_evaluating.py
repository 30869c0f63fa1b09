"""Evaluation after a round: figures as of the pooled examples, and a training that knows nothing of it."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, r2_score, roc_auc_score
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fl_integration.loop.cohorts import Sampling
from fl_integration.loop.evaluating import Evaluator
from fl_integration.loop.evaluation import Central, Custom, EarlyStopping, OnSites, Task
from fl_integration.loop.in_process import InProcess
from fl_integration.loop.report import FederatedRun, RoundReport
from fl_integration.loop.rounds import Training
from fl_integration.loop.watch import Progress, Watch
from fl_integration.site.training import LocalTraining, predict
from fl_integration.vectors.autoclip import AutoClip
from fl_integration.vectors.sharing import all_but
from protocols import Learner, ParameterError, Rounding
from protocols.messages.envelope import RESULT, Envelope
from tests.fl_integration.loop.stage import (
    LOCAL,
    NAMES,
    PROTOCOLS,
    in_the_clear,
    pieces,
    protocol,
    seeded,
    sites,
    train,
)

SLOW = {"lattice", "paillier"}
"""The others stand for them: one whose server learns the sum, and one whose clients do."""


@pytest.fixture(
    params=[pytest.param(each, marks=pytest.mark.slow if each in SLOW else ()) for each in PROTOCOLS]
)
def name(request: Any) -> str:
    return str(request.param)


def held_out(names: str = NAMES) -> dict[str, Any]:
    """Each site's test examples, of different sizes, none of them in its training."""
    return {each: pieces(each.upper(), 5 + 3 * index) for index, each in enumerate(names)}


def on_sites(data: dict[str, Any] | None = None, **options: Any) -> OnSites:
    """An evaluation with few counts, which even Paillier sums quickly."""
    given = {"task": Task.REGRESSION, "target_range": (-8.0, 8.0), "max_examples": 1000, **options}
    return OnSites(held_out() if data is None else data, **given)


def pooled(data: dict[str, Any]) -> tuple[torch.Tensor, np.ndarray[Any, Any]]:
    """All sites' examples as one test set."""
    x, y = zip(*(piece for each in data.values() for piece in each), strict=True)
    return torch.cat(x), torch.cat(y).numpy().ravel()


class Broken:
    """Test examples that cannot be read in some evaluations."""

    def __init__(self, name: str, when: set[int] | None = None) -> None:
        self._pieces, self._when, self.asked = pieces(name), when, 0

    def __iter__(self) -> Iterator[Any]:
        self.asked += 1
        if self._when is None or self.asked - 1 in self._when:
            raise OSError("the test set is gone\nand so is the line")
        return iter(self._pieces)


def evaluated(run: FederatedRun) -> list[int]:
    """The rounds that have figures."""
    return [report.number for report in run.history if report.evaluation]


# --- the figures ------------------------------------------------------------------------------------------


def test_figures_of_a_regression_are_those_of_the_pooled_examples(name: str) -> None:
    run = train(name, rounds=2, evaluate=on_sites())
    x, y = pooled(held_out())
    said, guess = run.history[-1].evaluation, predict(run.model, x).ravel()
    mse = float(np.mean((guess.astype(float) - y) ** 2))
    assert said["examples"] == len(y) == 38
    assert said["mse"] == pytest.approx(mse, rel=1e-6)
    assert said["loss"] == pytest.approx(mse, rel=1e-6)
    assert said["r2"] == pytest.approx(r2_score(y, guess), abs=1e-6)
    assert said["clipped_examples"] == 0
    assert run.history[0].evaluation["mse"] > said["mse"]


def binary(data: dict[str, Any]) -> dict[str, Any]:
    """The same examples with a class in place of a number; one site has ones only."""
    return {
        each: [(x, (y > (-99 if each == "a" else 0.3)).float()) for x, y in given]
        for each, given in data.items()
    }


def test_figures_of_a_binary_task_are_those_of_the_pooled_examples(name: str) -> None:
    local = LocalTraining(loss=binary_cross_entropy_with_logits, learning_rate=0.1, batch_size=4)
    test = binary(held_out())
    asked = on_sites(test, task=Task.BINARY, target_range=None, bins=64)
    run = train(name, binary(sites()), local=local, rounds=1, evaluate=asked)
    x, y = pooled(test)
    said, logit = run.history[0].evaluation, predict(run.model, x).ravel().astype(float)
    chance = 1 / (1 + np.exp(-logit))
    assert said["examples"] == len(y)
    assert said["accuracy"] == accuracy_score(y, logit > 0)
    assert said["loss"] == pytest.approx(log_loss(y, chance), rel=1e-6)
    assert abs(said["auc"] - roc_auc_score(y, logit)) <= said["auc_error"] + 1e-12
    assert said["auc_error"] < 0.05


def test_in_the_clear_the_figures_are_the_same() -> None:
    secure, clear = train("plain", evaluate=on_sites()), in_the_clear(evaluate=on_sites())
    for one, other in zip(secure.history, clear.history, strict=True):
        assert one.evaluation == pytest.approx(other.evaluation, abs=1e-5)
        assert one.evaluation["examples"] == other.evaluation["examples"]


def two_layers() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    return seeded(lambda: net)


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_each_site_is_asked_with_its_own_part(name: str) -> None:
    data = {each: [(x, y + ord(each) - 99) for x, y in pieces(each)] for each in NAMES}
    test = {each: [(x, y + ord(each) - 99) for x, y in held_out()[each]] for each in NAMES}
    run = train(
        name, data, model=two_layers(), shared=all_but("2.*"), rounds=4, evaluate=on_sites(test),
    )  # fmt: skip
    errors = [
        (predict(run.models[each], x) - y.numpy()) ** 2 for each in NAMES for x, y in test[each]
    ]  # fmt: skip
    own = float(np.mean(np.concatenate(errors)))
    assert run.history[-1].evaluation["mse"] == pytest.approx(own, rel=1e-5)
    x, y = pooled(test)
    together = float(np.mean((predict(run.model, x).ravel() - y) ** 2))
    assert abs(own - together) > 0.1  # so the two can be told apart


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_a_central_set_and_a_function_are_asked_with_the_model_that_moved(name: str) -> None:
    seen: dict[int, Any] = {}

    def function(number: int, model: nn.Module) -> dict[str, float]:
        seen[number] = model.state_dict()["weight"].clone()
        return {"bias": float(model.state_dict()["bias"])}

    moved: dict[int, Any] = {}
    watch = Watch(progress=Progress.NEVER, on_model=lambda n, _, state: moved.update({n: state["weight"]}))
    run = train(name, evaluate=function, watch=watch)
    assert list(seen) == [0, 1, 2]
    assert all(np.array_equal(seen[number], moved[number]) for number in seen)
    assert run.history[2].evaluation == {"bias": run.model.state_dict()["bias"].item()}
    assert all(not report.side_traffic for report in run.history)

    x, y = pooled(held_out())
    central = Central([(x, torch.as_tensor(y).unsqueeze(1))], task=Task.REGRESSION)
    said = train(name, evaluate=central).history[-1].evaluation
    assert said["r2"] == pytest.approx(r2_score(y, predict(run.model, x).ravel()), abs=1e-6)


# --- when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4])])
def test_each_nth_round_and_the_last(every: int, expected: list[int]) -> None:
    run = train("masked", rounds=5, evaluate=on_sites(every=every))
    assert evaluated(run) == expected
    assert [report.number for report in run.history if report.side_traffic] == expected


def sends_counts(run_messages: list[tuple[int, Any]]) -> Counter[int]:
    """How often the server asks something of a client, by round."""
    return Counter(number for number, message in run_messages if message.sender == "server")


def test_a_model_that_had_its_evaluation_gets_no_second_one(name: str) -> None:
    """Two sums of counts over other sites, for one model: the difference is one site's counts."""
    first = protocol(name).exchanges(first=True)[0]
    lost = {1: {"b": first, "c": first}, 2: {"b": first, "c": first}}
    seen: list[tuple[int, Any]] = []
    watch = Watch(progress=Progress.NEVER, on_message=lambda n, message: seen.append((n, message)))
    with_one = train(name, drop=lost, evaluate=on_sites(), watch=watch)
    asked, seen[:] = sends_counts(seen), []
    train(name, drop=lost, watch=watch)
    without = sends_counts(seen)
    assert [bool(report.aborted) for report in with_one.history] == [False, True, True]
    assert evaluated(with_one) == [0]
    assert not with_one.history[1].side_traffic
    assert asked[0] > without[0]
    assert all(asked[number] <= without[number] for number in (1, 2))  # some results came earlier


def test_a_model_that_had_none_is_asked_where_the_round_that_was_due_had_no_mean(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind = protocol(name)
    first = kind.exchanges(first=True)[0]
    run = train(name, drop={2: {"b": first, "c": first}}, evaluate=on_sites(every=3))
    assert run.history[2].aborted
    if kind.learns is Learner.CLIENTS:  # the two do not have the model yet, so there are too few
        assert evaluated(run) == []
        assert any("round 2: not evaluated" in said for said in caplog.messages)
        return
    assert evaluated(run) == [2]
    x, y = pooled(held_out())
    mse = float(np.mean((predict(run.model, x).ravel() - y) ** 2))
    assert run.history[2].evaluation["mse"] == pytest.approx(mse, rel=1e-5)


# --- what fails -------------------------------------------------------------------------------------------


def test_a_site_that_fails_sits_the_evaluation_out(name: str, caplog: pytest.LogCaptureFixture) -> None:
    test = {**held_out(), "b": Broken("b", {1})}
    with caplog.at_level(logging.WARNING, "secagg"):
        run = train(name, evaluate=on_sites(test))
    counts = [report.evaluation["examples"] for report in run.history]
    assert counts == [42, 30, 42]
    assert [len(report.contributors) for report in run.history] == [4, 4, 4]
    [said] = caplog.messages
    assert said == ("round 1: b sat the evaluation out, OSError, see the report")
    assert run.digest == train(name).digest


def test_too_few_for_the_sum_is_no_figure_and_no_end(name: str, caplog: pytest.LogCaptureFixture) -> None:
    test = {**held_out(), "b": Broken("b", {1}), "c": Broken("c", {1})}
    with caplog.at_level(logging.WARNING, "secagg"):
        run = train(name, evaluate=on_sites(test))
    assert evaluated(run) == [0, 2]
    [said] = caplog.messages
    assert said.startswith("round 1: not evaluated, ")
    assert "(b: OSError, see the report; c: OSError, see the report)" in said
    assert "gone" not in said
    assert sum(each.sent for each in run.history[1].side_traffic.values()) > 0
    assert run.digest == train(name).digest


def test_a_site_that_refuses_to_count_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server hands one site another model to count with."""
    real = InProcess._answer

    def lying(self: InProcess, client: str, request: bytes) -> bytes | None:
        if client == "b" and self is not trainings[0].exchange and request.count(trainings[0].server.body):
            body = trainings[0].server.body
            request = request.replace(body, body[:-1] + bytes([body[-1] ^ 1]))
        return real(self, client, request)

    trainings: list[Training] = []
    made = Training.run
    monkeypatch.setattr(Training, "run", lambda self: (trainings.append(self), made(self))[1])
    monkeypatch.setattr(InProcess, "_answer", lying)
    with caplog.at_level(logging.WARNING, "secagg"):
        run = train("masked", evaluate=on_sites(), rounds=1)
    assert run.history[0].evaluation["examples"] == 30
    assert run.history[0].contributors == set(NAMES)
    [said] = caplog.messages
    assert said.startswith("round 0: b sat the evaluation out, ")


def test_one_that_nobody_opens_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = InProcess._answer

    def deaf(self: InProcess, client: str, request: bytes) -> bytes | None:
        """No result of an evaluation arrives."""
        lost = self._number == 1 and Envelope.decode(request).stage == RESULT and self is not mains[0]
        return None if lost else real(self, client, request)

    mains: list[InProcess] = []
    made = Training.run
    monkeypatch.setattr(Training, "run", lambda self: (mains.append(self.exchange), made(self))[1])
    monkeypatch.setattr(InProcess, "_answer", deaf)
    with caplog.at_level(logging.WARNING, "secagg"):
        run = train("ckks", evaluate=on_sites())
    assert evaluated(run) == [0, 2]
    assert run.history[1].evaluated
    assert caplog.messages == ["round 1: not evaluated, no client opened the sum of counts"]


def test_a_sum_of_counts_that_was_begun_is_not_begun_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends before the figures are saved, and the next round moves nobody (ATTACKS A10)."""
    begun: list[int] = []
    real = Evaluator.through_a_sum

    def counted(self: Evaluator, number: int, *args: Any, **named: Any) -> Any:
        begun.append(number)
        found = real(self, number, *args, **named)
        if len(begun) == 1:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Evaluator, "through_a_sum", counted)
    collecting = protocol(name).exchanges(first=True)[protocol(name).suite.collecting]
    options: dict[str, Any] = {"checkpoint": tmp_path, "drop": {1: dict.fromkeys(NAMES, collecting)}}
    with pytest.raises(KeyboardInterrupt):
        train(name, evaluate=on_sites(), **options)
    fewer = {**held_out(), "b": Broken("b", {0})}
    run = train(name, evaluate=on_sites(fewer), **options)
    assert begun == [0, 2]
    assert [bool(report.aborted) for report in run.history] == [False, True, False]
    assert evaluated(run) == [2]
    assert [report.evaluated for report in run.history] == [True, False, True]


def test_the_bytes_of_the_scales_are_no_evaluation() -> None:
    """A round that moved nobody, after that in which the scales were fixed: the model is due all the same."""
    collecting = dict.fromkeys(NAMES, "MaskedInput")
    for clip in (None, AutoClip()):
        run = train("masked", clip=clip, rounds=2, evaluate=Custom(lambda *_: {"one": 1.0}, every=2),
                    drop={1: collecting})  # fmt: skip
        assert run.history[1].aborted
        assert evaluated(run) == [1]


def test_in_the_clear_it_sits_out_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "secagg"):
        run = in_the_clear(evaluate=on_sites({**held_out(), "b": Broken("b", {1})}))
        nothing = in_the_clear(evaluate=on_sites({each: Broken(each) for each in NAMES}))
    assert [report.evaluation["examples"] for report in run.history] == [42, 30, 42]
    assert evaluated(nothing) == []
    assert any("b sat the evaluation out" in said for said in caplog.messages)


def test_whoever_is_no_site_is_refused_up_front(tmp_path: Path) -> None:
    asked = on_sites({**held_out(), "z": pieces("z")})
    silent = Watch(on_message=lambda *_: pytest.fail("something ran"))
    said = r"evaluate asks \['z'\], which are no sites"
    with pytest.raises(ParameterError, match=said):
        train("masked", evaluate=asked, watch=silent, checkpoint=tmp_path / "new")
    with pytest.raises(ParameterError, match=said):
        in_the_clear(evaluate=asked, watch=silent)
    assert not list(tmp_path.iterdir())


def test_fewer_sites_than_a_sum_needs_are_refused_up_front(name: str) -> None:
    silent = Watch(on_message=lambda *_: pytest.fail("something ran"))
    with pytest.raises(ParameterError, match=r"evaluate asks 2 sites: .*min_contributors is 3"):
        train(name, evaluate=on_sites(held_out("ab")), watch=silent)


def test_more_sites_than_a_sum_carries_are_refused_up_front(name: str, tmp_path: Path) -> None:
    silent = Watch(on_message=lambda *_: pytest.fail("something ran"))
    with pytest.raises(ParameterError, match=r"evaluate asks 5 sites, max_clients is 4"):
        train(name, sites("abcde"), evaluate=on_sites(held_out("abcde")), sampling=Sampling(size=4),
              watch=silent, checkpoint=tmp_path / "new")  # fmt: skip
    assert not list(tmp_path.iterdir())


# --- what it costs ----------------------------------------------------------------------------------------


def test_the_reports_hold_every_byte_on_the_wire(name: str) -> None:
    sent: Counter[str] = Counter()
    received: Counter[str] = Counter()

    def see(_: int, message: Any) -> None:
        sent[message.sender] += len(message.body)
        received[message.receiver] += len(message.body)

    watch = Watch(progress=Progress.NEVER, on_message=see)
    for options in ({}, {"evaluate": on_sites(every=2)}):
        sent.clear()
        received.clear()
        run = train(name, watch=watch, **options)
        for party in ("server", *NAMES):
            parts = [t for r in run.history for t in (r.traffic, r.side_traffic) if party in t]
            assert sum(each[party].sent for each in parts) == sent[party] > 0
            assert sum(each[party].received for each in parts) == received[party] > 0
        assert sum(report.sent for report in run.history) == sent.total()
    assert run.to_frame()["bytes_beside"].gt(0).tolist() == [False, True, True]


# --- the training is as it was ----------------------------------------------------------------------------


@pytest.mark.parametrize("own", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_training_is_the_same_to_the_last_bit(name: str, own: bool) -> None:
    options: dict[str, Any] = {
        "model": two_layers(),
        "rounds": 2,
        "shape": {"rounding": Rounding.STOCHASTIC, "bits": 16},
        **({"shared": all_but("2.*")} if own else {}),
    }
    without = train(name, **options)
    for asked in (on_sites(), Central(held_out()["a"], task=Task.REGRESSION), lambda *_: {"one": 1.0}):
        found = train(name, evaluate=asked, **options)
        assert evaluated(found) == [0, 1]
        assert found.digest == without.digest
        for each in NAMES:
            pair = zip(
                found.models[each].state_dict().values(),
                without.models[each].state_dict().values(),
                strict=True,
            )
            assert all(torch.equal(one, other) for one, other in pair)


# --- early stopping ---------------------------------------------------------------------------------------


def worsening(rounds: list[float]) -> Custom:
    return Custom(
        lambda number, _: {"loss": rounds[number]}, stop=EarlyStopping("loss", patience=2)
    )  # fmt: skip


STOPS = [3.0, 2.0, 2.5, 2.5, 1.0, 1.0]


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_early_stopping_ends_the_run_and_says_so(name: str) -> None:
    run = train(name, rounds=6, evaluate=worsening(STOPS))
    assert len(run.history) == 4
    assert run.stopped == "loss has not improved since round 1, for 2 evaluations"
    assert "stopped early: loss has not improved" in str(run)
    assert run.digest == train(name, rounds=4).digest
    assert train(name, rounds=4, evaluate=worsening(STOPS)).stopped == ""
    clear = in_the_clear(rounds=6, evaluate=worsening(STOPS))
    assert (len(clear.history), clear.stopped) == (4, run.stopped)


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_a_training_that_was_stopped_does_not_go_on(name: str, tmp_path: Path) -> None:
    run = train(name, rounds=6, evaluate=worsening(STOPS), checkpoint=tmp_path)
    seen: list[RoundReport] = []
    watch = Watch(
        progress=Progress.NEVER, on_round=seen.append, on_message=lambda *_: pytest.fail("it went on")
    )
    for rounds in (6, 20):
        again = train(name, rounds=rounds, evaluate=worsening(STOPS), checkpoint=tmp_path, watch=watch)
        assert not seen
        assert (again.digest, again.stopped, again.history) == (run.digest, run.stopped, run.history)


# --- a function that raises -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_what_a_function_raises_comes_through_and_the_round_before_is_safe(name: str, tmp_path: Path) -> None:
    def raising(number: int, _: nn.Module) -> dict[str, float]:
        if number == 1:
            raise KeyError("no such column")
        return {"one": 1.0}

    with pytest.raises(KeyError, match="no such column"):
        train(name, evaluate=raising, checkpoint=tmp_path)
    again = train(name, evaluate=lambda *_: {"one": 1.0}, checkpoint=tmp_path)
    assert again.digest == train(name).digest
    assert evaluated(again) == [0, 1, 2]


def test_a_function_that_gives_no_figures_is_an_error() -> None:
    with pytest.raises(ParameterError, match="the evaluation gave a NoneType"):
        train("masked", evaluate=lambda *_: None)


def test_a_site_need_not_be_asked() -> None:
    run = train("masked", evaluate=on_sites(held_out("abd")), local=LOCAL)
    assert run.history[0].evaluation["examples"] == 5 + 8 + 11
    assert run.history[0].contributors == set(NAMES)


def test_early_stopping_waits_for_a_metric_that_one_class_does_not_have() -> None:
    one_class = {name: [(x, torch.zeros(len(x), 1))] for name in NAMES for x, _ in pieces(name)}
    stop = EarlyStopping("auc", patience=1)
    run = train("plain", evaluate=OnSites(one_class, task=Task.BINARY, stop=stop), rounds=3)
    assert len(run.history) == 3
    assert all(report.evaluation and "auc" not in report.evaluation for report in run.history)
