"""The filter pair and its aggregator: rounds, what comes back, who is counted."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.job_config.fed_job_config import FedJobConfig

from bench.filter_wire import CKKS, LATTICE, PASSWORD, SITES, Job, job, step
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.parcels import Parcel
from fl_integration.embedding.site_model import site_model
from fl_integration.nvflare.filters import ModelOpener, UpdateSealer
from fl_integration.nvflare.filters_letters import Letter, letter_in
from fl_integration.nvflare.filters_server import SealedSum
from fl_integration.site.keys import load_identity
from fl_integration.site.roster_file import read_roster
from secagg.errors import ParameterError

pytestmark = pytest.mark.usefixtures("quick_passwords")

MODEL: dict[str, Any] = {
    "weight": np.zeros((2, 3), np.float32),
    "half": np.full(4, 0.5, np.float16),
    "double": np.array(1.0),
    "scalar": np.float32(0.25),
    "number": 2.5,
    "steps": 7,
    "on": True,
    "counter": np.array([2**40, 2], np.int64),
    "none": np.zeros((0, 3), np.float32),
}
MOVED = (1 * 0.25 + 2 * 0.5 + 3 * 0.75) / 6
"""What `step` moves each float by in one round, sites weighted by their steps."""


@pytest.fixture(autouse=True)
def time() -> None:
    """The clock of this room's tests goes on without waiting; here answers come in threads' own time."""


def shown(made: Job, name: str) -> dict[str, Any]:
    """The model that a site's executor was shown last."""
    data: dict[str, Any] = from_shareable(made.sites[name].executor.shown[-1]).data
    return data


def enrolment_in(folder: Path, name: str) -> Enrolment:
    """What a site's own file says."""
    said = json.loads((folder / name / "local" / "secagg.json").read_text())
    local = folder / name / "local"
    return Enrolment(
        identity=load_identity(local / said["identity"], password=PASSWORD),
        roster=read_roster(local / said["roster"]),
        state_dir=local / said["state"],
    )


def at(folder: Path, name: str) -> dict[str, Any]:
    """The model that a site holds."""
    return site_model(enrolment_in(folder, name))


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(CKKS, id="ckks"),
        pytest.param(LATTICE, id="lattice over paillier", marks=pytest.mark.slow),
    ],
)
def test_every_site_is_shown_the_mean_in_the_form_of_the_model(
    tmp_path: Path, protocol: dict[str, Any]
) -> None:
    with job(tmp_path, MODEL, protocol=protocol, rounds=2) as made:
        for number in range(2):
            ended = made.round()
            assert made.accepted == dict.fromkeys(SITES, True)
            for name in SITES:
                found = shown(made, name)
                assert list(found) == list(MODEL)
                for entry, first in MODEL.items():
                    assert type(found[entry]) is type(first)
                    assert np.shape(found[entry]) == np.shape(first)
                    assert np.asarray(found[entry]).dtype == np.asarray(first).dtype
                    floats = np.asarray(first).dtype.kind == "f"
                    wanted = first + number * MOVED if floats else first
                    np.testing.assert_allclose(found[entry], wanted, atol=2e-3 if entry == "half" else 1e-3)
        # The server's own model is what the persistor loaded.
        for entry, first in MODEL.items():
            np.testing.assert_array_equal(from_shareable(ended).data[entry], first)
    models = [at(tmp_path, name) for name in SITES]
    for entry in MODEL:
        np.testing.assert_array_equal(models[0][entry], models[1][entry])
        np.testing.assert_array_equal(models[0][entry], models[2][entry])
    np.testing.assert_allclose(models[0]["weight"], 2 * MOVED, atol=1e-3)


def test_a_round_is_one_task_and_the_model_travels_once(tmp_path: Path) -> None:
    with job(tmp_path, {"w": np.zeros(5000, np.float32)}, rounds=3) as made:
        for _ in range(2):
            before = len(made.wire.seen)
            made.round()
        steady = made.wire.seen[before:]
        assert len(steady) == 2 * len(SITES)  # a task and a result for each, and not a message more
        assert not any(bytes(4000) in data for _, _, data in steady)


def test_full_weights_are_summed_as_what_changed(tmp_path: Path) -> None:
    def full(site: str, dxo: DXO) -> Shareable:
        values = {"w": dxo.data["w"] + 0.5, "n": 99}
        return DXO(DataKind.WEIGHTS, values, {"NUM_STEPS_CURRENT_ROUND": 4.0}).to_shareable()

    with job(tmp_path, {"w": np.full(3, 5.0), "n": 1}, train=full, rounds=1) as made:
        made.round()
    np.testing.assert_allclose(at(tmp_path, "site-2")["w"], 5.5, atol=1e-3)
    assert at(tmp_path, "site-2")["n"] == 1


def test_nothing_of_an_update_is_in_what_leaves_a_site(tmp_path: Path) -> None:
    secret = np.linspace(0.1234567, 0.7654321, 64)

    def told(site: str, dxo: DXO) -> Shareable:
        made = DXO(DataKind.WEIGHT_DIFF, {"w": secret.copy()}, {"NUM_STEPS_CURRENT_ROUND": 77, "x": "told"})
        reply = made.to_shareable()
        reply.set_header("loss", "told")
        reply["beside"] = "told"
        return reply

    with job(tmp_path, {"w": np.zeros(64)}, train=told, rounds=1) as made:
        made.round()
    left = [data for sender, _, data in made.wire.seen if sender != "server"]
    patterns = [secret[:2].tobytes(), secret.astype(np.float32)[:2].tobytes(), b"told", b"NUM_STEPS"]
    assert len(left) > 3
    assert not any(pattern in data for data in left for pattern in patterns)


def test_an_executor_sees_nothing_that_the_round_does_not_bind(tmp_path: Path) -> None:
    def beside(name: str, task: Shareable) -> Shareable:
        task.set_header("learning_rate", 0.0)
        task.set_header("current_round", 99)
        task["beside"] = 1
        return task

    with job(tmp_path, {"w": np.zeros(3)}, rounds=1) as made:
        made.round(on_the_way=beside)
        task = made.sites["site-1"].executor.shown[0]
    assert task.get_header("learning_rate") is None
    assert "beside" not in task
    assert task.get_header("current_round") == 0
    assert task.get_header("num_rounds") == 1
    assert from_shareable(task).meta == {}


def test_a_site_that_was_away_is_brought_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "secagg")
    with job(tmp_path, {"w": np.zeros(3)}, rounds=4) as made:
        made.round()
        made.round(only=("site-1", "site-2"))  # too few: nothing moves
        assert "2 contributors, at least 3 are needed" in caplog.text
        assert "'site-3' is not in the sum" not in caplog.text
        assert "site-3 is not in the sum: its task ended without an answer" in caplog.text
        made.round()
        np.testing.assert_allclose(shown(made, "site-3")["w"], MOVED, atol=1e-3)
        made.round()
        np.testing.assert_allclose(shown(made, "site-3")["w"], 2 * MOVED, atol=1e-3)


def test_the_next_job_of_a_study_goes_on(tmp_path: Path) -> None:
    with job(tmp_path, {"w": np.zeros(3)}, rounds=1) as made:
        made.round()
    for name in SITES:  # the next job's processes find the same folders
        (tmp_path / name / "state").rename(tmp_path / f"{name}-state")

    def kept(name: str, entry: dict[str, Any]) -> dict[str, Any]:
        return entry | {
            "identity": f"{tmp_path}/{name}.pem",
            "roster": f"{tmp_path}/roster.txt",
            "state": f"{tmp_path}/{name}-state",
        }

    (tmp_path / "again").mkdir()
    with job(tmp_path / "again", {"w": np.zeros(3)}, rounds=1, said=kept) as made:
        (tmp_path / "again" / "roster.txt").write_bytes((tmp_path / "roster.txt").read_bytes())
        made.round()
        np.testing.assert_allclose(shown(made, "site-1")["w"], MOVED, atol=1e-3)


def test_a_result_counts_once_under_the_ticket_that_was_sent_to_its_site(tmp_path: Path) -> None:
    kept: list[Shareable] = []

    def copied(name: str, result: Shareable) -> Shareable:
        kept.append(result)
        return result

    with job(tmp_path, {"w": np.zeros(3)}) as made:
        made.round(coming_back=copied)
        with made.wire.engines["server"].new_context() as fl_ctx:
            fl_ctx.set_prop(FLContextKey.TASK_NAME, "train")
            assert not made.server.accept(kept[0], fl_ctx)  # of a round that is over
            forged = Letter(letter_in(kept[1]).parcel, bytes(16)).put(Shareable())
            assert not made.server.accept(forged, fl_ctx)
            assert not made.server.accept(step("site-1", DXO(DataKind.WEIGHTS, {"w": np.zeros(3)})), fl_ctx)
            assert not made.server.accept(Shareable(), fl_ctx)


def test_a_site_gets_no_other_sites_letter_whatever_it_calls_itself(tmp_path: Path) -> None:
    with job(tmp_path, {"w": np.zeros(3)}) as made:
        fl_ctx = made.context()
        shared = made.server.learnable_to_shareable(fl_ctx.get_prop("global_model"), fl_ctx)
        own = letter_in(made.task(shared, "site-2"))
        assert letter_in(made.task(shared, "site-2", claimed="site-1")).ticket == own.ticket
        assert letter_in(made.task(shared, "site-1")).ticket != own.ticket
        assert letter_in(made.task(shared, "stranger", claimed="site-1")).parcel == Parcel(b"")
        assert letter_in(made.task(shared, "site-1", called="submit_model")).parcel == Parcel(b"")
        assert letter_in(shared).ticket == b""


def test_a_task_that_comes_again_before_its_result_is_opened_again_and_answered_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with job(tmp_path, {"w": np.zeros(3)}) as made:
        fl_ctx = made.context()
        shared = made.server.learnable_to_shareable(fl_ctx.get_prop("global_model"), fl_ctx)
        site, contexts = made.sites["site-1"], []
        opener, sealer = site.filters["data"][0], site.filters["result"][0]
        for _ in range(2):
            data = made.wire.pass_on("server", "site-1", made.task(shared, "site-1"))
            at_site = site.engine.new_context()
            at_site.set_prop(FLContextKey.RUNNER, site.runner, private=True, sticky=False)
            at_site.set_prop(FLContextKey.TASK_NAME, "train", private=True, sticky=False)
            dxo = from_shareable(opener.process(data, at_site))
            assert dxo.data_kind == DataKind.WEIGHTS
            contexts.append((dxo, at_site))
        replies = [sealer.process(step("site-1", dxo), at_site) for dxo, at_site in contexts]
        # The executor of the first was given up when the task came again; the second's result is the one.
        assert [reply.get_return_code() for reply in replies] == ["TASK_RESULT_FILTER_ERROR", "OK"]
        assert "this turn is over: one task has one result" in caplog.text
        assert made.server.accept(replies[1], fl_ctx)
        assert not made.server.accept(replies[1], fl_ctx)


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        (ModelOpener, {"protocol": CKKS, "study": "heart", "in_the_clear": ["validate"]}),
        (UpdateSealer, {"in_the_clear": ["validate"]}),
        (SealedSum, {"protocol": LATTICE, "weighted_by": "", "exchange_seconds": 5.0}),
    ],
)
def test_nvflares_job_api_writes_what_it_was_given(kind: Any, args: dict[str, Any]) -> None:
    config = FedJobConfig(job_name="job", min_clients=3)
    written = config._get_args(kind(**args), "custom")
    assert json.loads(json.dumps(written)) == args
    kind(**written)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"protocol": CKKS, "study": ""}, "study is ''; it names the training in 1 to 255 bytes"),
        ({"protocol": CKKS, "weighted_by": None}, "weighted_by is None; it is a key of the result's meta"),
        (
            {"protocol": {"name": "CkksSum"}},
            "results are weighted by 'NUM_STEPS_CURRENT_ROUND', and the protocol's max_weight is 1",
        ),
    ],
)
@pytest.mark.parametrize("kind", [ModelOpener, SealedSum])
def test_bad_arguments_say_what_is_wrong(kind: Any, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        kind(**args)
    assert message in str(caught.value)


@pytest.mark.parametrize("wrong", ["validate", [1], None, {"validate": 1}])
def test_in_the_clear_is_a_list_of_names(wrong: Any) -> None:
    with pytest.raises(ParameterError, match="in_the_clear is a list of names of tasks"):
        UpdateSealer(in_the_clear=wrong)
    with pytest.raises(ParameterError, match="in_the_clear is a list of names of tasks"):
        ModelOpener(protocol=CKKS, in_the_clear=wrong)


def test_the_summed_task_is_never_in_the_clear() -> None:
    with pytest.raises(ParameterError, match="the task 'train' is the one that is summed"):
        ModelOpener(protocol=CKKS, in_the_clear=["train"])


@pytest.mark.parametrize("name", ["connect_seconds", "exchange_seconds", "round_seconds"])
def test_nobody_is_waited_for_without_an_end(name: str) -> None:
    with pytest.raises(ParameterError, match="a finite number above zero"):
        SealedSum(protocol=CKKS, **{name: float("inf")})


def test_a_job_without_its_sites_says_so_and_leaves_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with job(tmp_path, {"w": np.zeros(3)}) as made:
        made.wire.there = ["site-1", "site-2"]
        made.round(only=("site-1",))
        assert made.codes == {"site-1": ReturnCode.TASK_DATA_FILTER_ERROR}
    assert "a sum is of at least 3" in caplog.text


def test_a_run_that_is_aborted_waits_for_no_site(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with job(tmp_path, {"w": np.zeros(3)}, connect_seconds=20.0) as made:
        made.wire.there, signal, fl_ctx = ["site-1"], Signal(), made.context()
        fl_ctx.set_prop(ReservedKey.RUN_ABORT_SIGNAL, signal, private=True, sticky=False)
        threading.Timer(0.05, signal.trigger, [True]).start()
        shared = made.server.learnable_to_shareable(fl_ctx.get_prop("global_model"), fl_ctx)
        assert letter_in(shared).parcel == Parcel(b"")
        assert not made.server.handle_event(EventType.END_RUN, fl_ctx)
    assert "a round without an end: the run is over" in caplog.text


def test_a_run_that_ends_in_mid_round_sends_nobody_another_letter(tmp_path: Path) -> None:
    with job(tmp_path, {"w": np.zeros(3)}) as made:
        fl_ctx = made.context()
        made.server.learnable_to_shareable(fl_ctx.get_prop("global_model"), fl_ctx)
        sent = len(made.wire.seen)
        made.server.handle_event(EventType.END_RUN, fl_ctx)
        assert len(made.wire.seen) == sent


def test_cookies_go_back_to_the_workflow_and_past_the_executor(tmp_path: Path) -> None:
    def with_cookie(name: str, task: Shareable) -> Shareable:
        task.add_cookie("contribution_round", 0)
        return task

    back: dict[str, Any] = {}

    def coming_back(name: str, result: Shareable) -> Shareable:
        back[name] = result.get_cookie_jar()
        return result

    with job(tmp_path, {"w": np.zeros(3)}, rounds=1) as made:
        made.round(on_the_way=with_cookie, coming_back=coming_back)
        seen = made.sites["site-1"].executor.shown[0]
    assert back == {name: {"contribution_round": 0} for name in SITES}
    assert seen.get_cookie_jar() is None
    assert seen.get_peer_props() is None
