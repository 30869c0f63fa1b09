"""A training that was stopped and taken up again is the one that was not stopped, to the last bit."""

import errno
import os
import pickle
import stat
import warnings
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from fl_integration.loop import in_process
from fl_integration.loop.cohorts import Sampling
from fl_integration.loop.evaluation import Better, Central, Custom, EarlyStopping, OnSites, Task
from fl_integration.loop.optimisers import FedAdam, FedAvg, FedAvgM, ServerOptimiser
from fl_integration.loop.report import FederatedRun, RoundReport, TrainingAborted
from fl_integration.loop.scaffold import Scaffold
from fl_integration.loop.watch import Watch
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.autoclip import AutoClip
from fl_integration.vectors.sharing import all_but, all_but_norms, only
from protocols import ParameterError, PeerViolation, RoundAborted, Rounding
from protocols.machine.client import ClientMachine
from protocols.machine.server import ServerMachine
from protocols.machine.summand import FloatSurface
from tests.fl_integration.loop.stage import EACH, LOCAL, NAMES, QUIET, pieces, seeded, sites, train

CLIENTS_LEARN = ("ckks", pytest.param("paillier", marks=pytest.mark.slow))


@pytest.fixture(params=EACH)
def name(request: Any) -> str:
    return str(request.param)


class Stopped(Exception):
    """Somebody pulled the plug."""


def body_and_head() -> nn.Module:
    """Weights, batch norm with its statistics, and a head."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
            self.head = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x))

    return seeded(Net)


def told(report: RoundReport) -> dict[str, Any]:
    """All that a report says but what a new session costs, and in which exchange somebody was missed."""
    aside = {"traffic", "side_traffic", "seconds", "dropped"}
    said = {each.name: getattr(report, each.name) for each in fields(report) if each.name not in aside}
    return said | {"dropped": set(report.dropped)}


def require_equal(one: FederatedRun, other: FederatedRun) -> None:
    assert one.digest == other.digest
    assert [told(report) for report in one.history] == [told(report) for report in other.history]
    assert (one.handed_over, one.stopped) == (other.handed_over, other.stopped)
    assert list(one.models) == list(other.models)
    for client, module in one.models.items():
        theirs = other.models[client].state_dict()
        for entry, value in module.state_dict().items():
            assert torch.equal(value, theirs[entry]), (client, entry)


def stopped_and_resumed(
    folder: Path, name: str, *, rounds: int = 5, at: int = 2, **options: Any
) -> FederatedRun:
    """The same training in two processes, so to speak."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        early = {number: lost for number, lost in options.get("drop", {}).items() if number < at}
        train(name, **{**options, "drop": early, "rounds": at, "checkpoint": folder})
        return train(name, **options, rounds=rounds, checkpoint=folder)


# --- bit for bit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_stopped_and_resumed_under_every_protocol(name: str, tmp_path: Path) -> None:
    shape = {"rounding": Rounding.STOCHASTIC, "metrics": {"loss": (0.0, 10.0)}}
    whole = train(name, rounds=5, shape=shape)
    require_equal(stopped_and_resumed(tmp_path, name, shape=shape), whole)
    if name == "plain":  # the rounding is seen
        assert train(name, rounds=5, shape=shape, protocol_seed=2).digest != whole.digest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_with_every_option_at_once(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": body_and_head(),
        "shared": all_but("head.*"),
        "server_optimiser": FedAdam(learning_rate=0.05),
        "clip": AutoClip(),
        "evaluate": OnSites({n: pieces(n) for n in NAMES}, task=Task.REGRESSION, target_range=(-9.0, 9.0)),
        "shape": {"rounding": Rounding.STOCHASTIC},
    }  # fmt: skip
    whole = train(name, rounds=4, **options)
    assert all(report.evaluation for report in whole.history)
    require_equal(stopped_and_resumed(tmp_path, name, rounds=4, **options), whole)


@pytest.mark.parametrize("name", ["plain", "ckks"])
@pytest.mark.parametrize(
    "optimiser", [FedAdam(learning_rate=0.05), FedAvgM(), Scaffold(learning_rate=0.5)],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_what_an_optimiser_remembers(name: str, optimiser: ServerOptimiser, tmp_path: Path) -> None:
    data = sites(b=[(x + 1, y) for x, y in pieces("b")])  # so that the control variates differ
    whole = train(name, data, rounds=4, server_optimiser=optimiser)
    require_equal(stopped_and_resumed(tmp_path, name, rounds=4, data=data, server_optimiser=optimiser), whole)
    forgot = train(name, data, rounds=2, model=train(name, data, rounds=2, server_optimiser=optimiser).model,
                   server_optimiser=optimiser)  # fmt: skip
    assert forgot.digest != whole.digest


@pytest.mark.parametrize(
    "predicate", [all_but("head.*"), only("head.*"), all_but_norms(body_and_head())], ids=repr
)
def test_what_sites_keep_to_themselves(predicate: Any, tmp_path: Path) -> None:
    whole = train("plain", rounds=4, model=body_and_head(), shared=predicate)
    require_equal(
        stopped_and_resumed(tmp_path, "plain", rounds=4, model=body_and_head(), shared=predicate), whole
    )


def late(name: str) -> str:
    return "MaskedInput" if name in ("masked", "lattice") else "Contribute"


@pytest.mark.parametrize("gone", [1, 2])
def test_a_site_that_is_away_before_or_after(name: str, gone: int, tmp_path: Path) -> None:
    drop = {gone: {"b": late(name)}}
    whole = train(name, rounds=4, drop=drop)
    resumed = stopped_and_resumed(tmp_path, name, rounds=4, drop=drop)
    require_equal(resumed, whole)
    assert [len(report.contributors) for report in resumed.history] == [
        3 if n == gone else 4 for n in range(4)
    ]


@pytest.mark.parametrize("name", CLIENTS_LEARN)
@pytest.mark.parametrize("option", ["checkpoint", "evaluate"])
def test_a_site_that_was_away_once_is_asked_again(name: str, option: str, tmp_path: Path) -> None:
    """The sum that it missed had moved the others, and was taken for one that had not."""
    given: Any = tmp_path if option == "checkpoint" else lambda number, model: {"one": 1.0}
    run = train(name, rounds=4, drop={1: {"b": "Contribute"}}, **{option: given})
    assert [report.asked for report in run.history] == [set("abcd")] * 4
    assert run.digest == train(name, rounds=4, drop={1: {"b": "Contribute"}}).digest


def test_an_aborted_round_before(name: str, tmp_path: Path) -> None:
    drop = {1: dict.fromkeys("abc", late(name))}
    whole = train(name, rounds=4, drop=drop)
    assert [bool(report.aborted) for report in whole.history] == [False, True, False, False]
    require_equal(stopped_and_resumed(tmp_path, name, rounds=4, drop=drop), whole)


def test_a_sample_of_the_sites(tmp_path: Path) -> None:
    whole = train("plain", rounds=5, sampling=Sampling(size=3))
    assert len({report.asked for report in whole.history}) > 1
    require_equal(stopped_and_resumed(tmp_path, "plain", sampling=Sampling(size=3)), whole)


def test_a_culprit_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it says in round 1 does not verify."""
    real = in_process.InProcess._answer

    def lying(self: Any, client: str, request: bytes) -> bytes | None:
        reply = real(self, client, request)
        if client == "d" and self._number == 1 and reply is not None:
            return reply[:-1] + bytes([reply[-1] ^ 1])
        return reply

    monkeypatch.setattr(in_process.InProcess, "_answer", lying)
    whole = train("masked", rounds=4)
    if not any(report.culprits for report in whole.history):
        pytest.fail("nobody was named")
    require_equal(stopped_and_resumed(tmp_path, "masked", rounds=4), whole)


def seen_and_refused(monkeypatch: pytest.MonkeyPatch, number: int, *, by_server: bool) -> None:
    """The sum of round `number` is opened, and whoever learns it refuses it: every training's, each time."""
    decode, opened = FloatSurface.decode, ClientMachine.open

    def refused(self: Any, total: Any, contributors: Any) -> Any:
        if by_server and running[-1] == number:
            raise RoundAborted("a value of the sum is beyond the clip", opened=contributors)
        return decode(self, total, contributors)

    def start(self: Any, round: Any) -> Any:
        running.append(round.number)
        return started(self, round)

    def open_one(self: Any, result: Any) -> Any:
        total = opened(self, result)
        if total.round == number:
            raise PeerViolation("what opens is no sum", culprit="a")
        return total

    running, started = [-1], ServerMachine.start
    monkeypatch.setattr(ServerMachine, "start", start)
    monkeypatch.setattr(FloatSurface, "decode", refused)
    monkeypatch.setattr(ClientMachine, "open", open_one)


def test_a_sum_that_somebody_saw_is_remembered(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the next round somebody is missing: the difference of the two sums would be that one's update."""
    seen_and_refused(monkeypatch, 1, by_server=name not in ("ckks", "paillier"))
    drop = {2: {"b": late(name)}}
    whole = train(name, rounds=4, drop=drop, checkpoint=tmp_path / "whole")
    moved = [report.number for report in whole.history if report.total_weight is not None]
    assert moved == [0, 3]
    assert "a sum for this model was seen" in whole.history[2].aborted
    require_equal(stopped_and_resumed(tmp_path, name, rounds=4, drop=drop), whole)


def test_learning_rates_go_on_by_round(tmp_path: Path) -> None:
    local = LocalTraining(loss=mse_loss, learning_rate=[0.1, 0.02, 0.05, 0.01], batch_size=4)
    optimiser = FedAvg(learning_rate=[1.0, 0.5, 0.25, 2.0])
    options = {"rounds": 4, "local": local, "server_optimiser": optimiser}
    with pytest.raises(Stopped):
        train("plain", **options, checkpoint=tmp_path, watch=stopping(1))
    require_equal(train("plain", **options, checkpoint=tmp_path), train("plain", **options))


# --- however it was stopped -------------------------------------------------------------------------------


def stopping(after: int) -> Watch:
    def stop(report: RoundReport) -> None:
        if report.number == after:
            raise Stopped

    return Watch(on_round=stop, progress=QUIET.progress)


def test_by_a_callback(name: str, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(name, rounds=4, checkpoint=tmp_path, watch=stopping(1))
    resumed = train(name, rounds=4, checkpoint=tmp_path)
    require_equal(resumed, train(name, rounds=4))


@pytest.mark.parametrize("name", ["masked", "ckks"])
@pytest.mark.parametrize("number", [0, 2])
def test_by_the_keyboard_in_the_middle_of_a_round(name: str, number: int, tmp_path: Path) -> None:
    rounds = dict.fromkeys(NAMES, 0)

    def local(model: nn.Module, data: Any, *, seed: int) -> Any:
        site = next(each for each, theirs in data_of.items() if theirs is data)
        weight = LOCAL(model, data, seed=seed)
        rounds[site] += 1
        if site == "c" and rounds[site] == number + 1:
            raise KeyboardInterrupt
        return weight

    data_of = sites()
    options: dict[str, Any] = {"model": body_and_head(), "shared": all_but("head.*"), "rounds": 4}
    with pytest.raises(KeyboardInterrupt):
        train(name, data_of, local=local, checkpoint=tmp_path, **options)
    resumed = train(name, data_of, local=local, checkpoint=tmp_path, **options)
    assert rounds["b"] == 4 + 1  # one round twice
    require_equal(resumed, train(name, **options))


def test_again_and_again(tmp_path: Path) -> None:
    for rounds in (1, 2, 4):
        resumed = train("masked", rounds=rounds, checkpoint=tmp_path)
    require_equal(resumed, train("masked", rounds=4))


def test_nothing_left_to_do(name: str, tmp_path: Path) -> None:
    model, messages = body_and_head(), []
    options: dict[str, Any] = {
        "rounds": 2,
        "model": model,
        "shared": all_but("head.*"),
        "checkpoint": tmp_path,
    }
    whole = train(name, **options)
    before = (tmp_path / "training.pt").read_bytes()
    watch = Watch(on_message=lambda *each: messages.append(each), progress=QUIET.progress)
    require_equal(train(name, **options, watch=watch), whole)
    assert messages == []
    assert (tmp_path / "training.pt").read_bytes() == before


def test_it_ends_early_where_it_did(tmp_path: Path) -> None:
    calls = []

    def metric(number: int, model: nn.Module) -> dict[str, float]:
        calls.append(number)
        return {"score": np.float32([3, 5, 4, 2, 1][number])}

    kind = Custom(metric, stop=EarlyStopping("score", patience=2, better=Better.HIGHER))
    whole = train("plain", rounds=5, evaluate=kind)
    assert len(whole.history) == 4
    require_equal(stopped_and_resumed(tmp_path, "plain", at=3, evaluate=kind), whole)
    require_equal(train("plain", rounds=5, evaluate=kind, checkpoint=tmp_path), whole)
    assert calls == [0, 1, 2, 3, 0, 1, 2, 3]


def test_rounds_without_a_mean_are_kept_and_the_end_is_an_error(tmp_path: Path) -> None:
    drop = {number: dict.fromkeys("abc", "Contribute") for number in range(3)}
    for rounds in (2, 3):
        with pytest.raises(TrainingAborted) as found:
            train("plain", rounds=rounds, drop={n: drop[n] for n in range(rounds)}, checkpoint=tmp_path)
        assert len(found.value.history) == rounds


# --- on the disk ------------------------------------------------------------------------------------------


def test_the_owner_alone_can_read_it(tmp_path: Path) -> None:
    """It holds every site's own part."""
    before = os.umask(0)
    try:
        train(
            "plain",
            rounds=2,
            model=body_and_head(),
            shared=all_but("head.*"),
            checkpoint=tmp_path / "a" / "b",
        )
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b" / "training.pt").stat().st_mode) == 0o600


def test_a_name_as_text_is_a_folder_too(tmp_path: Path) -> None:
    train("plain", rounds=1, checkpoint=str(tmp_path / "new"))
    assert [each.name for each in (tmp_path / "new").iterdir()] == ["training.pt"]


class FullDisk:
    """A file on a disk that takes a few bytes more."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, 1000

    def write(self, data: Any) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(data))

    def flush(self) -> None:
        self._file.flush()


@pytest.mark.parametrize("fault", ["save", "disk", "fsync", "rename"])
def test_a_crash_while_it_is_written(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train("plain", rounds=2, checkpoint=tmp_path)
    before, save = (tmp_path / "training.pt").read_bytes(), torch.save

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "broken")

    def half(data: Any, file: Any) -> None:
        file.write(b"half of it")
        raise Stopped

    with monkeypatch.context() as patch:
        if fault == "save":
            patch.setattr(torch, "save", half)
        elif fault == "disk":
            patch.setattr(torch, "save", lambda data, file: save(data, FullDisk(file)))
        elif fault == "fsync":
            patch.setattr(os, "fsync", broken)
        else:
            patch.setattr(Path, "replace", broken)
        with pytest.raises(Stopped if fault == "save" else OSError):
            train("plain", rounds=4, checkpoint=tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["training.pt"]
    assert (tmp_path / "training.pt").read_bytes() == before
    require_equal(train("plain", rounds=4, checkpoint=tmp_path), train("plain", rounds=4))


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    left = tmp_path / ".training.pt.0123456789abcdef.part"
    left.write_bytes(b"half")
    left.chmod(0o666)
    train("plain", rounds=1, checkpoint=tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["training.pt"]
    assert stat.S_IMODE((tmp_path / "training.pt").stat().st_mode) == 0o600


def refused(folder: Any, match: str, **options: Any) -> None:
    """Before anything runs: no site trains, no byte is sent."""

    def fail(*_: Any) -> None:
        pytest.fail("something ran")

    watch = Watch(on_message=fail, on_round=fail, progress=QUIET.progress)
    with pytest.raises(ParameterError, match=match):
        train(**{"name": "plain", "rounds": 3, "checkpoint": folder, "watch": watch, **options})


def test_every_flipped_bit_is_found_or_does_no_harm(tmp_path: Path) -> None:
    path, whole = tmp_path / "training.pt", train("plain", rounds=2, checkpoint=tmp_path)
    good, found = path.read_bytes(), 0
    with zipfile.ZipFile(path) as archive:
        values = good.index(archive.read(next(n for n in archive.namelist() if n.endswith("data/0"))))
    for place in [values, *range(3, len(good), 197)]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        try:
            assert train("plain", rounds=2, checkpoint=tmp_path).digest == whole.digest, place
        except ParameterError as error:
            assert "damaged" in str(error)  # noqa: PT017
            found += 1
        assert found or place != values
    assert found > 5


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"a,b\n1,2\n", None], ids=["empty", "cut", "table", "half"]
)
def test_a_foreign_or_cut_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    if content is None:
        train("plain", rounds=1, checkpoint=tmp_path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    refused(
        tmp_path, r"training\.pt in the checkpoint's folder is no checkpoint of this library, or is damaged"
    )
    assert path.read_bytes() == content


def test_another_program_s_weights(tmp_path: Path) -> None:
    torch.save({"state_dict": nn.Linear(2, 1).state_dict()}, tmp_path / "training.pt")
    refused(tmp_path, "no checkpoint of this library")


@pytest.mark.parametrize("key", ["own", "history", "values", "moments", "next_round"])
def test_a_part_is_missing(key: str, tmp_path: Path) -> None:
    train("plain", rounds=1, checkpoint=tmp_path)
    data = torch.load(tmp_path / "training.pt", weights_only=True)
    del data[key]
    torch.save(data, tmp_path / "training.pt")
    refused(tmp_path, "damaged")


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("way", ["torch", "pickle", "inside"])
def test_code_in_the_file_is_not_run(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    path = tmp_path / "folder" / "training.pt"
    train("plain", rounds=1, checkpoint=path.parent)
    if way == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        data = torch.load(path, weights_only=True)
        torch.save({**data, "history": [Bomb()]} if way == "inside" else Bomb(), path)
    refused(path.parent, "damaged")
    assert not (tmp_path / "exploded").exists()
    if way == "torch":  # the test can fail
        torch.load(path, weights_only=False)
        assert (tmp_path / "exploded").exists()


# --- of another training ----------------------------------------------------------------------------------


def frozen(value: float = 0.5) -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    nn.init.constant_(net[0].weight, value)
    net[0].requires_grad_(False)
    return net


def wide() -> nn.Module:
    net = body_and_head()
    net.head = nn.Linear(3, 1, dtype=torch.float64)
    return net


@pytest.mark.parametrize(
    ("first", "then", "match"),
    [
        ({}, {"model": nn.Linear(2, 1, bias=False)}, "another model"),
        ({}, {"model": nn.Linear(2, 1, dtype=torch.float64)}, "another model"),
        ({"model": body_and_head()}, {"shared": all_but("head.*")}, "another model"),
        ({"model": body_and_head(), "shared": all_but("head.*")}, {"model": wide()}, "another model"),
        ({"model": frozen()}, {"model": frozen(0.25)}, "frozen or integer entries hold other values"),
        ({}, {"name": "masked"}, r"another protocol \(PlainSum .*now MaskedSum"),
        ({}, {"shape": {"bits": 23}}, "another protocol"),
        ({}, {"shape": {"clip": 2.0}}, "another protocol"),
        ({}, {"data": sites("abc")}, r"other sites \(\['a', 'b', 'c', 'd'\], now \['a', 'b', 'c'\]"),
        ({}, {"data": sites("dcba")}, "other sites"),
        ({}, {"server_optimiser": FedAdam()}, r"another server optimiser .*now FedAdam"),
        ({"server_optimiser": FedAdam()}, {"server_optimiser": FedAdam(momentum=0.8)}, "server optimiser"),
        ({}, {"server_optimiser": Scaffold()}, "another server optimiser"),
        ({}, {"clip": AutoClip()}, "another clip="),
        ({"clip": AutoClip()}, {"clip": AutoClip(headroom=4.0)}, "another clip="),
        ({}, {"sampling": Sampling(size=3)}, "another sampling="),
        ({}, {"seed": 8}, "another seed"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:adaptivity")
def test_of_another_training(first: Any, then: Any, match: str, tmp_path: Path) -> None:
    train(**{"name": "plain", "rounds": 2, "checkpoint": tmp_path, **first})
    before = (tmp_path / "training.pt").read_bytes()
    refused(tmp_path, match, **{**first, **then})
    assert (tmp_path / "training.pt").read_bytes() == before
    train(**{"name": "plain", "rounds": 3, "checkpoint": tmp_path, **first})


def test_fewer_rounds_than_it_has(tmp_path: Path) -> None:
    train("plain", rounds=4, checkpoint=tmp_path)
    refused(tmp_path, "after 4 rounds, and rounds is 3")


@pytest.mark.parametrize(
    "wrong",
    [
        {"server_optimiser": FedAvg(learning_rate=[1.0, 0.5])},
        {"local": LocalTraining(loss=mse_loss, learning_rate=[0.1] * 4)},
    ],
)
def test_a_schedule_of_another_length(wrong: Any, tmp_path: Path) -> None:
    refused(tmp_path, "3 rounds", **wrong)


@pytest.mark.parametrize("wrong", [5, b"folder", True])
def test_no_path(wrong: Any) -> None:
    refused(wrong, "checkpoint is .*path of a folder")


def test_a_folder_that_is_a_file_or_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    refused(tmp_path / "file", "no folder that can be written to")
    refused(tmp_path / "file" / "below", "no folder that can be written to")
    if Path("/proc/self").is_dir():
        refused("/proc/self", "no folder that can be written to")


class WithNotes(nn.Module):
    """Its extra state is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.line, self.notes = nn.Linear(2, 1), {"steps": 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x)

    def get_extra_state(self) -> Any:
        return self.notes

    def set_extra_state(self, state: Any) -> None:
        self.notes = state


def test_what_a_file_cannot_hold_is_said_at_once(tmp_path: Path) -> None:
    refused(tmp_path, r"'_extra_state' stays at its site and is a dict, which a checkpoint cannot hold",
            model=WithNotes())  # fmt: skip


def test_evaluation_in_one_place_is_in_the_history(tmp_path: Path) -> None:
    kind = Central(pieces("a"), task=Task.REGRESSION)
    whole = train("plain", rounds=4, evaluate=kind)
    assert all("mse" in report.evaluation for report in whole.history)
    require_equal(stopped_and_resumed(tmp_path, "plain", rounds=4, evaluate=kind), whole)
