"""Whatever is not as it should be: nothing leaves a site in the clear."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.filter import Filter
from nvflare.apis.fl_constant import FilterKey, FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.private.privacy_manager import Scope

from bench.filter_wire import CKKS, SITES, Job, job, step
from fl_integration.embedding.parcels import Answer, decode_head
from fl_integration.nvflare.filters import ModelOpener, UpdateSealer
from fl_integration.nvflare.filters_letters import Form, Shown, letter_in

pytestmark = pytest.mark.usefixtures("quick_passwords")

SECRET = 0.123456789
TOLD = np.full(3, SECRET)
CLEAR = TOLD[:1].tobytes()
STEPS = {"NUM_STEPS_CURRENT_ROUND": 5}
ERRORS = (ReturnCode.TASK_DATA_FILTER_ERROR, ReturnCode.TASK_RESULT_FILTER_ERROR)

Answers = Callable[[], Shareable]


@pytest.fixture(autouse=True)
def time() -> None:
    """The clock of this room's tests goes on without waiting; here answers come in threads' own time."""


def left(made: Job, name: str = "site-1") -> list[bytes]:
    """All that left a site."""
    return [data for sender, _, data in made.wire.seen if sender == name]


def result(kind: DataKind, data: Any, meta: dict[str, Any] | None = None) -> Answers:
    return lambda: DXO(kind, data, STEPS if meta is None else meta).to_shareable()


def failed_with_content() -> Shareable:
    reply = result(DataKind.WEIGHT_DIFF, {"w": TOLD})()
    reply.set_return_code(ReturnCode.EXECUTION_EXCEPTION)
    return reply


def failed_with_a_code_of_its_own() -> Shareable:
    reply = Shareable()
    reply.set_return_code(f"loss {SECRET}")
    return reply


def failed_with_a_code_that_is_none() -> Shareable:
    reply = Shareable()
    reply.set_return_code(TOLD)
    return reply


def no_dxo() -> Shareable:
    reply = Shareable()
    reply["weights"] = {"w": TOLD}
    return reply


def raises() -> Shareable:
    raise RuntimeError(f"at {SECRET}")


BAD: dict[str, Answers] = {
    "metrics": result(DataKind.METRICS, {"w": TOLD}),
    "analytic": result(DataKind.ANALYTIC, {"w": TOLD}),
    "a model of NVFlare's": result(DataKind.FL_MODEL, {"w": TOLD}),
    "app defined": result(DataKind.APP_DEFINED, {"w": TOLD}),
    "a collection": result(DataKind.COLLECTION, {"x": DXO(DataKind.WEIGHT_DIFF, {"w": TOLD}, STEPS)}),
    "no entries": result(DataKind.WEIGHT_DIFF, {}),
    "another name": result(DataKind.WEIGHT_DIFF, {"w": TOLD, "x": TOLD}),
    "another shape": result(DataKind.WEIGHT_DIFF, {"w": np.stack([TOLD, TOLD])}),
    "transposed": result(DataKind.WEIGHT_DIFF, {"w": TOLD.reshape(1, 3)}),
    "integers": result(DataKind.WEIGHT_DIFF, {"w": np.array([1, 2, 3])}),
    "texts": result(DataKind.WEIGHT_DIFF, {"w": [SECRET]}),
    "not finite": result(DataKind.WEIGHT_DIFF, {"w": np.array([SECRET, SECRET, np.inf])}),
    "no weight": result(DataKind.WEIGHT_DIFF, {"w": TOLD}, {}),
    "a weight of nothing": result(DataKind.WEIGHT_DIFF, {"w": TOLD}, {"NUM_STEPS_CURRENT_ROUND": 0}),
    "half a weight": result(DataKind.WEIGHT_DIFF, {"w": TOLD}, {"NUM_STEPS_CURRENT_ROUND": 1.5}),
    "a weight of True": result(DataKind.WEIGHT_DIFF, {"w": TOLD}, {"NUM_STEPS_CURRENT_ROUND": True}),
    "too much weight": result(DataKind.WEIGHT_DIFF, {"w": TOLD}, {"NUM_STEPS_CURRENT_ROUND": 101}),
    "a failure with content": failed_with_content,
    "a code with content": failed_with_a_code_of_its_own,
    "a code that is none": failed_with_a_code_that_is_none,
    "no DXO": no_dxo,
    "an exception": raises,
}


@pytest.fixture(scope="module")
def long_job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Job, dict[str, Answers]]]:
    """One job for all answers that are none: its rounds go on behind each."""
    answers: dict[str, Answers] = {}

    def train(site: str, dxo: DXO) -> Shareable:
        return answers["now"]() if site == "site-1" and "now" in answers else step(site, dxo)

    folder = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fl_integration.site.pkcs8._N", 1 << 8)
        patch.setattr("fl_integration.site.pkcs8._P", 1)
        with job(folder, {"w": np.zeros(3), "n": 1}, train=train, rounds=99) as made:
            yield made, answers


@pytest.mark.parametrize("what", BAD)
def test_an_answer_that_is_none_does_not_leave(
    long_job: tuple[Job, dict[str, Answers]], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, answers = long_job
    answers["now"] = BAD[what]
    made.wire.seen.clear()
    made.accepted.clear()
    made.round(only=("site-1",))
    assert left(made)
    assert not any(CLEAR in data or str(SECRET).encode() in data for data in left(made))
    assert "no sum" in caplog.text
    if made.codes["site-1"] == ReturnCode.OK:
        # The answer says that this site sits the round out, and not a word more.
        sent = letter_in(_fobs(left(made)[-1]))
        head = decode_head(sent.parcel.head)
        assert isinstance(head, Answer)
        assert head.failure == "this site sits the round out; its own log says why"
        assert sent.parcel.body == b""
    del answers["now"]


def _fobs(data: bytes) -> Shareable:
    from nvflare.fuel.utils import fobs

    return fobs.loads(data)


@pytest.mark.parametrize("missing", ["opener", "sealer", pytest.param("both", marks=pytest.mark.slow)])
def test_a_filter_that_is_missing_at_one_site(tmp_path: Path, missing: str) -> None:
    def without(part: str, make: Callable[[], Any]) -> Callable[[str], list[Any]]:
        return lambda name: [] if name == "site-1" and missing in (part, "both") else [make()]

    def trains_what_it_gets(site: str, dxo: DXO) -> Shareable:
        if dxo.data_kind != DataKind.WEIGHTS:  # as NVFlare's own trainers do
            return make_reply(ReturnCode.BAD_TASK_DATA)
        return step(site, dxo)

    with job(
        tmp_path,
        {"w": np.full(3, SECRET)},
        train=trains_what_it_gets,
        data_filters=without("opener", lambda: ModelOpener(protocol=CKKS)),
        result_filters=without("sealer", UpdateSealer),
    ) as made:
        made.round(only=("site-1",))
        executor = made.sites["site-1"].executor
        if missing == "sealer":
            assert not executor.shown  # no model is opened whose update could leave unsealed
            assert made.codes["site-1"] == ReturnCode.TASK_DATA_FILTER_ERROR
        else:
            assert from_shareable(executor.shown[0]).data_kind == DataKind.APP_DEFINED
            assert made.codes["site-1"] == ReturnCode.BAD_TASK_DATA
        assert not made.accepted


def test_a_sealer_without_an_opened_model_seals_nothing_and_empties_what_it_got(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context, reply = FLContext(), step("site-1", DXO(DataKind.WEIGHTS, {"w": np.zeros(3)}))
    context.set_prop(FLContextKey.TASK_NAME, "train")
    sealed = UpdateSealer().process(reply, context)
    assert sealed.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert set(sealed) == {"__headers__"}
    assert not reply  # whoever still holds it holds nothing
    assert "ModelOpener is missing here" in caplog.text


def test_the_sealer_raises_for_nothing() -> None:
    class Odd(Shareable):
        def get_return_code(self, default: Any = None) -> Any:
            raise KeyError("odd")

    context = FLContext()
    context.set_prop(FLContextKey.TASK_NAME, "train")
    odd = Odd({"w": TOLD})
    assert UpdateSealer().process(odd, context).get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
    assert not odd


def test_other_tasks_stay_closed_unless_they_are_named(tmp_path: Path) -> None:
    def telling(site: str, dxo: DXO) -> Shareable:
        return DXO(DataKind.WEIGHTS, {"w": TOLD}).to_shareable()

    def data(name: str) -> list[Any]:
        return [ModelOpener(protocol=CKKS, in_the_clear=["validate"])]

    with job(
        tmp_path,
        {"w": np.zeros(3)},
        train=telling,
        data_filters=data,
        result_filters=lambda name: [UpdateSealer(in_the_clear=["validate"])],
        tasks=("train", "validate", "submit_model"),
        executor_tasks=("train", "validate", "submit_model"),
    ) as made:
        asked = DXO(DataKind.WEIGHTS, {"w": np.zeros(3)}).to_shareable()
        site, server = made.sites["site-1"], made.wire.context_of("server")
        refused = site.do("submit_model", asked, server)
        assert refused.get_return_code() == ReturnCode.TASK_DATA_FILTER_ERROR
        assert not site.executor.shown
        told = site.do("validate", asked, server)
        np.testing.assert_array_equal(from_shareable(told).data["w"], TOLD)


@pytest.mark.parametrize(
    ("executor_tasks", "message"),
    [
        (("train", "submit_model"), "results of the task 'submit_model' would leave without UpdateSealer:"),
        (
            ("*",),
            "results of the task '*' would leave without UpdateSealer (a job's filters know no patterns",
        ),
    ],
)
def test_no_model_is_opened_while_another_task_could_answer_past_the_sealer(
    tmp_path: Path, executor_tasks: tuple[str, ...], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with job(tmp_path, {"w": np.zeros(3)}, executor_tasks=executor_tasks) as made:
        made.round(only=("site-1",))
        assert made.codes["site-1"] == ReturnCode.TASK_DATA_FILTER_ERROR
        assert not made.sites["site-1"].executor.shown
    assert message in caplog.text


@pytest.mark.parametrize("named", ["train", "submit_model"])
def test_a_sealer_that_lets_a_task_pass_is_none_for_that_task(
    tmp_path: Path, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    with job(
        tmp_path,
        {"w": np.zeros(3)},
        train=lambda site, dxo: result(DataKind.WEIGHT_DIFF, {"w": TOLD})(),
        result_filters=lambda name: [UpdateSealer(in_the_clear=[named])],
        tasks=("train", "submit_model"),
        executor_tasks=("train", "submit_model"),
    ) as made:
        made.round(only=("site-1",))
        assert made.codes["site-1"] == ReturnCode.TASK_DATA_FILTER_ERROR
        assert not made.sites["site-1"].executor.shown
        assert not any(CLEAR in data for data in left(made))
    assert f"results of the task {named!r} would leave without UpdateSealer" in caplog.text


def test_what_was_opened_is_sealed_whatever_the_sealer_lets_pass(tmp_path: Path) -> None:
    with job(tmp_path, {"w": np.zeros(3)}) as made:
        fl_ctx = made.context()
        shared = made.server.learnable_to_shareable(fl_ctx.get_prop("global_model"), fl_ctx)
        site = made.sites["site-1"]
        with site.engine.new_context() as at_site:
            opened(made, made.wire.pass_on("server", "site-1", made.task(shared, "site-1")), at_site)
            reply = result(DataKind.WEIGHT_DIFF, {"w": TOLD})()
            sealed = UpdateSealer(in_the_clear=["train"]).process(reply, at_site)
        assert not reply
        assert isinstance(decode_head(letter_in(sealed).parcel.head), Answer)


def test_the_sites_own_sealer_and_the_jobs_make_one_answer(tmp_path: Path) -> None:
    scope = Scope()
    scope.add_task_result_filter(UpdateSealer(), FilterKey.OUT)
    with job(tmp_path, {"w": np.zeros(3)}, rounds=1) as made:
        for engine in made.wire.engines.values():
            engine.manager.private_stickers[FLContextKey.SCOPE_OBJECT] = scope
        made.round()
        assert made.accepted == dict.fromkeys(SITES, True)


def test_the_sites_own_privacy_policy_covers_every_task(tmp_path: Path) -> None:
    scope = Scope()
    scope.add_task_result_filter(UpdateSealer(), FilterKey.OUT)
    with job(
        tmp_path, {"w": np.zeros(3)}, executor_tasks=("*",), result_filters=lambda name: [], rounds=1
    ) as made:
        for engine in made.wire.engines.values():
            engine.manager.private_stickers[FLContextKey.SCOPE_OBJECT] = scope
        made.round()
        assert made.accepted == dict.fromkeys(SITES, True)
        asked = DXO(DataKind.WEIGHTS, {"w": TOLD}).to_shareable()
        reply = made.sites["site-1"].do("submit_model", asked, made.wire.context_of("server"))
        assert reply.get_return_code() == ReturnCode.TASK_RESULT_FILTER_ERROR
        assert "DXO" not in reply


class Curious(Filter):  # type: ignore[misc]
    """A filter of the job's, behind the sealer."""

    def process(self, shareable: Shareable, fl_ctx: FLContext) -> Shareable:
        held = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        shareable["found"] = dict(held or {})
        return shareable


def test_a_filter_behind_the_sealer_finds_no_clear_result(tmp_path: Path) -> None:
    with job(
        tmp_path,
        {"w": np.zeros(3)},
        train=lambda site, dxo: result(DataKind.WEIGHT_DIFF, {"w": TOLD})(),
        result_filters=lambda name: [UpdateSealer(), Curious()],
    ) as made:
        made.round(only=("site-1",))
        assert made.codes["site-1"] == ReturnCode.OK
        assert not any(CLEAR in data for data in left(made))


def opened(made: Job, task: Shareable, at_site: FLContext) -> Shareable:
    """A task, as the opener of site-1 hands it to the executor."""
    site = made.sites["site-1"]
    at_site.set_prop(FLContextKey.RUNNER, site.runner, private=True, sticky=False)
    at_site.set_prop(FLContextKey.TASK_NAME, "train", private=True, sticky=False)
    shown: Shareable = site.filters["data"][0].process(task, at_site)
    return shown


def plain(name: str, task: Shareable) -> Shareable:
    return DXO(DataKind.WEIGHTS, {"w": np.zeros(3)}).update_shareable(task)


def changed(part: str, change: Callable[[bytes], bytes]) -> Callable[[str, Shareable], Shareable]:
    def on_the_way(name: str, task: Shareable) -> Shareable:
        data = dict(from_shareable(task).data)
        data[part] = change(data[part])
        return DXO(DataKind.APP_DEFINED, data).update_shareable(task)

    return on_the_way


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


_UNBOUND = "what was delivered here is not what the round binds"
TAMPERED: dict[str, tuple[Callable[[str, Shareable], Shareable], str]] = {
    "a plaintext": (plain, "a DXO of kind 'WEIGHTS' came where a sealed letter belongs"),
    "another kind": (
        lambda name, task: DXO(DataKind.METRICS, {"w": 1.0}).update_shareable(task),
        "came where a sealed letter belongs",
    ),
    "no DXO": (lambda name, task: task.pop("DXO") and task, "what came is no DXO"),
    "other arrays": (
        changed("secagg.arrays", flipped),
        _UNBOUND,
    ),
    "half of the arrays": (changed("secagg.arrays", lambda data: data[:-4]), "this site has no part"),
    "another round's number": (
        changed("secagg.shown", lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:]),
        _UNBOUND,
    ),
    "another body": (changed("secagg.body", flipped), "this site has no part in the round"),
    "another head": (changed("secagg.head", lambda data: b"XXXX" + data[4:]), "magic bytes"),
    "parts that are no bytes": (
        lambda name, task: DXO(DataKind.APP_DEFINED, {"secagg.head": "text"}).update_shareable(task),
        "a letter whose parts are no bytes",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_task_that_is_none_is_shown_to_nobody(
    long_job: tuple[Job, dict[str, Answers]], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = long_job
    on_the_way, message = TAMPERED[what]
    before = len(made.sites["site-2"].executor.shown)
    made.round(only=("site-2",), on_the_way=on_the_way)
    assert made.codes["site-2"] == ReturnCode.TASK_DATA_FILTER_ERROR
    assert len(made.sites["site-2"].executor.shown) == before
    assert message in caplog.text


def test_the_job_goes_on_behind_them(long_job: tuple[Job, dict[str, Answers]]) -> None:
    made, _ = long_job
    made.round()
    assert made.accepted == dict.fromkeys(SITES, True)


def test_a_task_of_an_earlier_round_is_shown_to_nobody(tmp_path: Path) -> None:
    old: dict[str, Shareable] = {}

    def keep(name: str, task: Shareable) -> Shareable:
        return old.setdefault(name, task)

    with job(tmp_path, {"w": np.zeros(3)}) as made:
        made.round(on_the_way=keep)
        made.round(on_the_way=keep)
        assert set(made.codes.values()) <= {*ERRORS}
        assert all(len(site.executor.shown) == 1 for site in made.sites.values())


def test_a_message_beside_a_task_never_trains(tmp_path: Path) -> None:
    with job(tmp_path, {"w": np.zeros(3)}) as made:
        fl_ctx = made.context()
        shared = made.server.learnable_to_shareable(fl_ctx.get_prop("global_model"), fl_ctx)
        task = made.task(shared, "site-1")
        reply = made.wire.carry("server", "site-1", "secagg.letters", task)
        head = decode_head(letter_in(reply).parcel.head)
        assert isinstance(head, Answer)
        assert head.failure == "this site sits the round out; its own log says why"
        assert not made.sites["site-1"].executor.shown


def test_a_model_that_cannot_be_shown_leaves_the_sites_folder_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = Shown.named_forms

    def of_another_form(self: Shown) -> dict[str, Form]:
        return forms(self) | {"w": Form.BOOL}  # an array of three is no bool

    with job(tmp_path, {"w": np.zeros(3)}) as made:
        fl_ctx = made.context()
        shared = made.server.learnable_to_shareable(fl_ctx.get_prop("global_model"), fl_ctx)
        task = made.wire.pass_on("server", "site-1", made.task(shared, "site-1"))
        monkeypatch.setattr(Shown, "named_forms", of_another_form)
        with (
            made.sites["site-1"].engine.new_context() as at_site,
            pytest.raises(ValueError, match="truth value"),
        ):
            opened(made, task, at_site)
        for turn in [each for each in threading.enumerate() if each.name == "secagg-turn"]:
            turn.join(20)
            assert not turn.is_alive()


def other(name: str, **changes: Any) -> Callable[[str], list[Any]]:
    return lambda site: [ModelOpener(**({"protocol": CKKS} | (changes if site == name else {})))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": CKKS | {"clip": 2.0}}, "both sides name the same"),
        pytest.param(
            {"protocol": CKKS | {"name": "PaillierSum"}}, "both sides name the same", marks=pytest.mark.slow
        ),
        ({"study": "another"}, "the server's study is b'study', this site's b'another'"),
        pytest.param({"weighted_by": "examples"}, "weights under", marks=pytest.mark.slow),
    ],
)
def test_a_site_of_another_protocol_takes_no_part(
    tmp_path: Path, changes: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with job(tmp_path, {"w": np.zeros(3)}, data_filters=other("site-3", **changes)) as made:
        made.round(only=("site-3",))
        assert not made.sites["site-3"].executor.shown
        assert made.codes["site-3"] == ReturnCode.TASK_DATA_FILTER_ERROR
    assert message in caplog.text


def test_a_site_that_was_deployed_another_configuration_trains_for_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with job(tmp_path, {"w": np.zeros(3)}) as made:
        (made.sites["site-2"].engine.app / "config_fed_client.json").write_text(json.dumps({"lr": 0}))
        made.round()
        assert not made.sites["site-2"].executor.shown
        assert made.sites["site-1"].executor.shown
    assert "what was delivered here is not what the round binds" in caplog.text
