"""What a caller sees of a training: callbacks, log, progress, tables; and what is said of a bad argument."""

import logging
import os
import pty
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from fl_integration.loop.evaluation import Custom, OnSites, Task
from fl_integration.loop.federated import federate
from fl_integration.loop.parties import model_digest
from fl_integration.loop.plain import fedavg
from fl_integration.loop.rehearsal import Rehearsal
from fl_integration.loop.report import RoundReport
from fl_integration.loop.watch import Progress, Watch, to_tensorboard
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.autoclip import AutoClip
from protocols import Learner, MaskedSum, ParameterError
from tests.fl_integration.loop.stage import (
    LOCAL,
    PROTOCOLS,
    in_the_clear,
    linear,
    pieces,
    protocol,
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


class Failing:
    """Examples that cannot be read in some rounds."""

    def __init__(self, name: str, rounds: set[int]) -> None:
        self._pieces, self._rounds, self.asked = pieces(name), rounds, 0

    def __iter__(self) -> Iterator[Any]:
        self.asked += 1
        if self.asked - 1 in self._rounds:
            raise OSError("no disk\r\nround 9: all is well")
        return iter(self._pieces)


def watching(**callbacks: Any) -> Watch:
    return Watch(progress=Progress.NEVER, **callbacks)


# --- callbacks --------------------------------------------------------------------------------------------


def test_each_round_has_its_report_and_each_mean_its_model(name: str) -> None:
    first = protocol(name).exchanges(first=True)[0]
    reports: list[RoundReport] = []
    models: list[tuple[int, Any, bytes]] = []
    messages: Counter[int] = Counter()
    watch = watching(
        on_round=reports.append,
        on_model=lambda number, total, state: models.append((number, total, model_digest(state))),
        on_message=lambda number, message: messages.update({number: len(message.body)}),
    )
    run = train(name, rounds=4, drop={1: {"b": first, "c": first}}, watch=watch)
    assert [report.number for report in reports] == [0, 1, 2, 3]
    assert [bool(report.aborted) for report in reports] == [False, True, False, False]
    assert [number for number, _, _ in models] == [0, 2, 3]
    assert models[-1][2] == run.digest
    assert [total.total_weight for _, total, _ in models] == [48] * 3
    assert {total.contributors for _, total, _ in models} == {frozenset("abcd")}
    assert messages.keys() == {0, 1, 2, 3}
    # A report is of its moment: where the clients learn the weight it is filled in afterwards.
    late = protocol(name).learns is Learner.CLIENTS
    assert reports[0].total_weight == (None if late else 48)
    assert [report.total_weight for report in run.history] == [48, None, 48, 48]


def test_metrics_and_weights_are_there_afterwards_whoever_learns_them(name: str) -> None:
    run = train(name, shape={"metrics": {"loss": (0.0, 10.0)}})
    truth = in_the_clear()
    for report, true in zip(run.history, truth.history, strict=True):
        assert report.total_weight == true.total_weight == 48
        assert report.metrics == pytest.approx(true.metrics, abs=1e-3)


def test_in_the_clear_the_callbacks_are_the_same() -> None:
    reports: list[RoundReport] = []
    models: list[tuple[int, bytes]] = []
    watch = watching(
        on_round=reports.append,
        on_model=lambda number, total, state: models.append((number, model_digest(state))),
    )
    run = in_the_clear(watch=watch)
    assert tuple(reports) == run.history
    assert [number for number, _ in models] == [0, 1, 2]
    assert models[-1][1] == run.digest


class Broken(Exception):
    """What a callback raises."""


@pytest.mark.parametrize("which", ["on_round", "on_model", "on_message"])
def test_what_a_callback_raises_comes_through(name: str, which: str) -> None:
    def raising(*said: Any) -> None:
        if which == "on_round" or said[0] == 1:
            raise Broken

    with pytest.raises(Broken):
        train(name, watch=watching(**{which: raising}))


@pytest.mark.parametrize("name", ["masked", "ckks"])
@pytest.mark.parametrize(("which", "kept"), [("on_round", 2), ("on_model", 1)])
def test_what_was_written_by_then_is_safe(name: str, which: str, kept: int, tmp_path: Path) -> None:
    """A round is on the disk before it is told; the models of it are told while it runs."""

    def raising(*said: Any) -> None:
        if (said[0].number if which == "on_round" else said[0]) == 1:
            raise Broken

    with pytest.raises(Broken):
        train(name, watch=watching(**{which: raising}), checkpoint=tmp_path)
    seen: list[RoundReport] = []
    again = train(name, watch=watching(on_round=seen.append), checkpoint=tmp_path)
    assert [report.number for report in seen] == list(range(kept, 3))
    assert again.digest == train(name).digest


def test_a_callback_keeps_the_best_model() -> None:
    best: dict[str, Any] = {}

    def keep(number: int, _: Any, state: Any) -> None:
        if number == 1:
            best.update({key: torch.as_tensor(value).clone() for key, value in state.items()})

    train("masked", watch=watching(on_model=keep))
    assert model_digest(best) == train("masked", rounds=2).digest


# --- log --------------------------------------------------------------------------------------------------


def test_a_line_a_round_and_a_warning_where_a_site_sat_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "secagg"):
        run = train("masked", sites(b=Failing("b", {1})), evaluate=lambda *_: {"auc": 0.875})
    assert [each.levelname for each in caplog.records] == ["INFO", "WARNING", "INFO"]
    assert all(each.name == "secagg" and "\n" not in each.getMessage() for each in caplog.records)
    first, second, _ = caplog.messages
    assert first.startswith("round 0 (1 of 3): 4 of 4 sites; total weight 48; evaluation auc 0.875; ")
    assert "3 of 4 sites; total weight 36" in second
    assert second.endswith("1 sat out: b (OSError, see the report)")
    assert run.history[1].dropped == {"b": "OSError: no disk\r\nround 9: all is well"}


class Revealing:
    """Examples whose reader writes a row of them into its error."""

    def __init__(self, name: str, *, always: bool = False) -> None:
        self._pieces, self._always, self.asked = pieces(name), always, 0

    def __iter__(self) -> Iterator[Any]:
        self.asked += 1
        if self._always or self.asked == 1:
            raise ValueError("row 17: born 1961-03-04")
        return iter(self._pieces)


def test_what_a_sites_own_code_wrote_is_in_the_report_and_not_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    test = {**sites(), "c": Revealing("c", always=True)}
    evaluate = OnSites(test, task=Task.REGRESSION, target_range=(-8.0, 8.0))
    with caplog.at_level(logging.DEBUG):
        run = train("masked", sites(b=Revealing("b", always=True)), evaluate=evaluate, rounds=2)
        clear = in_the_clear(sites(b=Revealing("b", always=True)), evaluate=evaluate, rounds=2)
        scaleless = train("masked", sites(b=Revealing("b"), c=Revealing("c")), clip=AutoClip(), rounds=2)
    assert scaleless.history[0].aborted
    for history, lost in ((run.history, "b"), (clear.history, "b"), (scaleless.history[:1], "bc")):
        for report in history:
            assert {each: report.dropped[each] for each in lost} == dict.fromkeys(
                lost, "ValueError: row 17: born 1961-03-04"
            )
            assert "1961" not in report.aborted
    said = "\n".join(each.getMessage() for each in caplog.records)
    assert "1961" not in said
    assert said.count("b (ValueError, see the report)") == 5
    assert said.count("c sat the evaluation out, ValueError, see the report") == 4


def test_the_words_of_this_library_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "secagg"):
        train("masked", sites(b=[]), rounds=1)
    [said] = caplog.messages
    assert "no examples" in said


def test_nothing_secret_is_logged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        run = train(name, sites(b=Failing("b", {1})))
    said = "\n".join(each.getMessage() for each in caplog.records)
    assert said
    for each in [run.model, *run.models.values()]:
        for value in torch.cat([p.flatten() for p in each.parameters()]).tolist():
            assert f"{value:.4g}" not in said
    assert "tensor(" not in said
    assert "array(" not in said


def test_a_good_training_says_nothing_at_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train(name)
    assert not caplog.records


# --- a terminal, and a pipe -------------------------------------------------------------------------------

SCRIPT = """
from tests.fl_integration.loop.stage import *
train("masked", rounds=3, watch=Watch(), evaluate=lambda n, model: {"auc": 0.5 + n / 8})
"""


@pytest.mark.slow
def test_quiet_in_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, timeout=120, check=True,
        env={**os.environ, "FORCE_COLOR": "1", "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert done.stderr == b""
    assert done.stdout == b""


@pytest.mark.slow
def test_a_terminal_shows_rounds_metrics_and_bytes() -> None:
    pytest.importorskip("rich")
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stderr=theirs, stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # Linux says so where the other end is closed
        pass
    finally:
        os.close(ours)
        out, _ = child.communicate(timeout=60)
    text = shown.decode()
    assert child.returncode == 0
    assert out == b""
    assert all(
        part in text for part in ("0/3", "1/3", "2/3", "3/3", "auc 0.5", "auc 0.625", "auc 0.75", "kB")
    )


# --- tables -----------------------------------------------------------------------------------------------


def test_the_history_as_a_data_frame(name: str) -> None:
    first = protocol(name).exchanges(first=True)[0]
    run = train(
        name, rounds=3, drop={1: {"b": first, "c": first}}, evaluate=Custom(lambda *_: {"auc": 0.5}, every=2),
        shape={"metrics": {"loss": (0.0, 10.0)}},
    )  # fmt: skip
    frame = run.to_frame()
    assert list(frame.columns) == [
        "asked", "contributors", "dropped", "total_weight", "aborted", "clipped_share", "bytes_up",
        "bytes_down", "bytes_beside", "client_seconds", "server_seconds", "training loss", "auc",
    ]  # fmt: skip
    assert frame.index.name == "round"
    assert frame["aborted"].astype(bool).tolist() == [False, True, False]
    assert frame["total_weight"].isna().tolist() == [False, True, False]
    assert frame["training loss"].isna().tolist() == [False, True, False]
    assert (frame["bytes_up"] > 0).all()
    assert frame["auc"].iloc[2] == 0.5


class Recorder:
    """A writer as TensorBoard's."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, value: float, step: int, /) -> None:
        self.scalars.append((tag, value, step))


def test_curves_of_a_training(name: str) -> None:
    recorder = Recorder()
    run = train(
        name, watch=watching(on_round=to_tensorboard(recorder)), evaluate=lambda n, _: {"auc": n / 4}
    )  # fmt: skip
    curves = {tag for tag, _, _ in recorder.scalars}
    assert curves == {
        "evaluation/auc", "round/contributors", "round/clipped_share", "round/total_weight", "bytes/up",
        "bytes/down",
    }  # fmt: skip
    assert [(value, step) for tag, value, step in recorder.scalars if tag == "evaluation/auc"] == [
        (0.0, 0), (0.25, 1), (0.5, 2)
    ]  # fmt: skip
    up = sum(value for tag, value, _ in recorder.scalars if tag == "bytes/up")
    assert up == sum(report.traffic["server"].received for report in run.history)


# --- arguments --------------------------------------------------------------------------------------------


def test_numpys_numbers_are_numbers(name: str) -> None:
    run = train(name, rounds=np.int64(2), seed=np.uint8(7))
    assert run.digest == train(name, rounds=2).digest
    assert in_the_clear(rounds=np.int16(2), seed=np.int32(7)).digest == in_the_clear(rounds=2).digest


def raises(_: str) -> bool:
    raise Broken


WRONG: list[tuple[str, Any, str]] = [
    ("protocol", None, "protocol is a NoneType; pass an instance"),
    ("protocol", MaskedSum, "protocol is MaskedSum; pass an instance"),
    ("protocol", protocol("masked").exact(max_summand=5), "the protocol sums integers"),
    ("model", None, "the model is a NoneType"),
    ("model", nn.Linear, "the model is a type"),
    ("model", nn.Identity(), "there is nothing to train"),
    ("sites", None, "sites is a NoneType"),
    ("sites", [pieces("a")], "sites is a list"),
    ("sites", {}, "sites is empty"),
    ("sites", sites("ab"), "min_contributors is 3"),
    ("sites", sites("abcde"), "max_clients is 4"),
    ("sites", {**sites("abc"), "": pieces("d")}, "has 0 bytes"),
    ("sites", {**sites("abc"), "server": pieces("d")}, "names the server"),
    ("sites", {**sites("abc"), 4: pieces("d")}, "a client id is a str, not int"),
    ("sites", {**sites("abc"), "d" * 65: pieces("d")}, "has 65 bytes"),
    ("sites", {**sites("abc"), "d": iter(pieces("d"))}, "can be read once"),
    ("local", None, "local is a NoneType"),
    ("local", LocalTraining(loss=mse_loss, learning_rate=[0.1]), "1 rates and there are 2 rounds"),
    ("rounds", 0, "rounds is 0"),
    ("rounds", 2.0, "rounds is 2.0"),
    ("rounds", "2", "rounds is '2'"),
    ("rounds", None, "rounds is None"),
    ("server_optimiser", None, "server_optimiser is a NoneType"),
    ("server_optimiser", "adam", "server_optimiser is a str"),
    ("shared", 5, "shared is a int"),
    ("shared", "weight", "shared is a str"),
    ("shared", lambda _: False, "shared fits no entry"),
    ("clip", 1.0, "clip is a float"),
    ("clip", AutoClip, "clip is a type"),
    ("evaluate", 5, "evaluate is a int"),
    ("evaluate", Custom, "evaluate is a type"),
    ("checkpoint", 5, "checkpoint is 5"),
    ("checkpoint", b"here", "checkpoint is b'here'"),
    ("checkpoint", "", "checkpoint is ''"),
    ("sampling", 3, "sampling is a int"),
    ("seed", -1, "seed is -1"),
    ("seed", 1 << 63, "seed is 9223372036854775808"),
    ("seed", None, "seed is None"),
    ("seed", 7.0, "seed is 7.0"),
    ("watch", None, "watch is a NoneType"),
    ("watch", print, "watch is a builtin_function_or_method"),
    ("rehearsal", {}, "rehearsal is a dict"),
]


def message(case: tuple[str, Any, str]) -> str:
    return f"{case[0]}: {case[2]}"


@pytest.mark.parametrize("case", WRONG, ids=message)
def test_a_bad_argument_is_refused_before_anything_runs_or_is_written(
    case: tuple[str, Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argument, value, said = case
    monkeypatch.chdir(tmp_path)
    silent = watching(on_message=lambda *_: pytest.fail("something ran"))
    given: dict[str, Any] = {
        "protocol": protocol("masked"), "model": linear(), "sites": sites(), "local": LOCAL, "rounds": 2,
        "watch": silent, "checkpoint": tmp_path / "deep" / "down", argument: value,
    }  # fmt: skip
    with pytest.raises(ParameterError) as found:
        federate(given.pop("protocol"), given.pop("model"), given.pop("sites"), **given)
    assert said in str(found.value)
    assert not list(tmp_path.iterdir())


NOT_OF_FEDAVG = {"protocol", "clip", "checkpoint", "sampling", "rehearsal"}
OF_A_PROTOCOL = ("min_contributors", "max_clients")


@pytest.mark.parametrize(
    "case",
    [each for each in WRONG if each[0] not in NOT_OF_FEDAVG and not each[2].startswith(OF_A_PROTOCOL)]
    + [
        ("absent", 5, "absent maps a round"),
        ("absent", {0: 5}, "absent maps a round"),
        ("absent", {2: "a"}, "round 2; the rounds are 0 to 1"),
        ("absent", {0: "z"}, "'z' is to be lost"),
    ],
    ids=message,
)
def test_a_bad_argument_is_refused_in_the_clear(case: tuple[str, Any, str]) -> None:
    argument, value, said = case
    silent = watching(on_round=lambda *_: pytest.fail("something ran"))
    given: dict[str, Any] = {
        "model": linear(), "sites": sites(), "local": LOCAL, "rounds": 2, "watch": silent, argument: value,
    }  # fmt: skip
    with pytest.raises(ParameterError) as found:
        fedavg(given.pop("model"), given.pop("sites"), **given)
    assert said in str(found.value)


def test_what_a_predicate_raises_comes_through_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        train("masked", shared=raises, checkpoint=tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("drop", [5, {0: "a"}, {0: ["a"]}])
def test_losses_that_are_none(drop: Any) -> None:
    with pytest.raises(ParameterError, match="drop maps a round"):
        Rehearsal(drop=drop)
