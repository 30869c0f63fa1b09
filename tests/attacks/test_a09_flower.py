"""A9 through Flower: a lying server shows one site other things than the rest, and reads that site's update.

Every site runs an unmodified app, which trains by what it is shown: a learning rate in the message's config,
the arrays, a rate in the run's settings, the function that the message's type names, the first record of two.
The server lies between Flower's grid and the nodes: it has all but one train with a rate of 0, so that the
sum is that one's update alone.

* A mod that believes the server's digest (the weakened copies each leave out one thing that ours binds) lets
  it through: the update comes out to the last step of the grid.
* Ours makes the digest anew from what was delivered: whoever is shown something else does not train, and the
  round fails for everybody.
* A server that also puts its own digest, the right one for each site, gets updates that are masked under
  different digests: nothing comes out. Over PlainSum, which masks nothing, it does.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_integration.embedding import rounds
from fl_integration.embedding.parcels import Answer, Parcel, Step, decode_head
from fl_integration.embedding.records import HASH, Kind, Record, array_digest, records_digest
from fl_integration.flower import engine, grid, mod
from protocols import MaskedSum, PlainSum
from secagg.errors import VerificationError
from tests.fl_integration.disks import folder_in_memory
from tests.fl_integration.flower.loopback import Node, identity_put_back
from tests.fl_integration.flower.stage import FIRST_NODE, Study, average, context_of, record_of

pytestmark = pytest.mark.usefixtures("own_identity")
VICTIM, *OTHERS = range(FIRST_NODE, FIRST_NODE + 3)
GRADIENT = np.array([0.25, -0.5, 0.125, 0.75], np.float32)
"""What the victim's data say; the others' is another one."""
MASKED, PLAIN = MaskedSum(max_weight=1), PlainSum(max_weight=1)
Lie = Callable[[int, Message], Message]


def app_of(node: int, aggregation: Any) -> ClientApp:
    app = ClientApp(mods=[aggregation])
    gradient = GRADIENT if node == VICTIM else np.full(4, 0.5, np.float32)

    def trained(message: Message, rate: float) -> Message:
        arrays = message.content["arrays"]["w"].numpy()
        # A model that is far off, such as one whose ReLUs are all dead, has no gradient.
        new = arrays + np.float32(rate) * gradient * (arrays < 100)
        content = {"arrays": record_of({"w": new}), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        first = next(iter(message.content.config_records.values()))
        return trained(message, float(first["lr"]) * float(context.run_config["scale"]))

    @app.train("warm_up")
    def warm_up(message: Message, context: Context) -> Message:
        return trained(message, 0.0)

    return app


def study_of(folder: Path, protocol: Any) -> Study:
    study = Study(folder, protocol=protocol)
    for node, name in zip((VICTIM, *OTHERS), "abc", strict=True):
        context = context_of(node)
        context.run_config["scale"] = 1.0
        study.grid.nodes[node] = Node(app_of(node, study.mod(name)), context)
    return study


def is_shown(message: Message) -> bool:
    return "arrays" in message.content


def read(study: Study) -> Any:
    """What the server makes of the sum: the victim's update, if the others sent nothing; or None."""
    strategy = average()
    configs = {"config": ConfigRecord({"lr": 1.0}), "before": ConfigRecord({"lr": 1.0, "other": 0.0})}
    secure = study.secure(strategy)
    content = RecordDict({"arrays": record_of({"w": np.zeros(4, np.float32)}), **configs})
    asked = [Message(content, dst_node_id=node, message_type="train") for node in secure.get_node_ids()]
    replies = [reply for reply in secure.send_and_receive(asked) if reply.has_content()]
    return 3 * replies[0].content["arrays"]["w"].numpy() if replies else None


def no_rate(node: int, message: Message) -> Message:
    if is_shown(message) and node != VICTIM:
        for record in ("config", "before"):
            message.content[record]["lr"] = 0.0
    return message


def dead_arrays(node: int, message: Message) -> Message:
    if is_shown(message) and node != VICTIM:
        message.content["arrays"] = record_of({"w": np.full(4, 1000, np.float32)})
    return message


def another_function(node: int, message: Message) -> Message:
    if is_shown(message) and node != VICTIM:
        message.metadata.__dict__["_message_type"] = "train.warm_up"
    return message


def one_more_record(node: int, message: Message) -> Message:
    if is_shown(message) and node != VICTIM:
        message.content["a"] = ConfigRecord({"lr": 0.0})
    return message


LIES: dict[str, Lie] = {
    "the arrays": dead_arrays,
    "a config value": no_rate,
    "a record more": one_more_record,
    "the message's type": another_function,
}


SOME = [
    pytest.param(lie, marks=[] if lie in ("the arrays", "a config value") else [pytest.mark.slow])
    for lie in LIES
]


def failure_of(answer: Message) -> str:
    head = decode_head(engine.unpack(answer.content).head)
    return head.failure if isinstance(head, Answer) else ""


def other_settings(study: Study) -> None:
    for node in OTHERS:
        study.grid.nodes[node].context.run_config["scale"] = 0.0


@pytest.fixture
def own_identity() -> Iterator[None]:
    with identity_put_back():
        yield


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


def constant(*arguments: Any, **named: Any) -> bytes:
    """A digest that binds nothing."""
    return HASH + bytes(32)


@pytest.fixture
def believing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy whose both halves bind nothing of what is shown."""
    monkeypatch.setattr(mod, "records_digest", constant)
    monkeypatch.setattr(rounds, "records_digest", constant)


@pytest.mark.usefixtures("believing")
@pytest.mark.parametrize("lie", SOME)
def test_a_copy_that_binds_nothing_gives_the_victims_update(lie: str, tmp_path: Path) -> None:
    study = study_of(tmp_path, MASKED)
    study.grid.tamper = LIES[lie]
    np.testing.assert_allclose(read(study), GRADIENT, atol=1e-3)


@pytest.mark.usefixtures("believing")
def test_a_copy_that_binds_nothing_gives_it_under_other_settings_too(tmp_path: Path) -> None:
    study = study_of(tmp_path, MASKED)
    other_settings(study)
    np.testing.assert_allclose(read(study), GRADIENT, atol=1e-3)


@pytest.mark.parametrize(
    "lie",
    [pytest.param(lie, marks=[pytest.mark.slow] if lie == "a record more" else []) for lie in LIES],
)
def test_ours_makes_the_digest_anew_and_nobody_who_was_shown_something_else_trains(
    lie: str, tmp_path: Path
) -> None:
    study = study_of(tmp_path, MASKED)
    study.grid.tamper = LIES[lie]
    assert read(study) is None
    failures = {failure_of(answer) for node in OTHERS for answer in study.heard(node)}
    assert "what was delivered here is not what the round binds: it was shown to nobody" in failures


def test_ours_refuses_other_settings_at_the_others(tmp_path: Path) -> None:
    study = study_of(tmp_path, MASKED)
    other_settings(study)
    assert read(study) is None


def test_an_honest_round_has_a_sum(tmp_path: Path) -> None:
    np.testing.assert_allclose(read(study_of(tmp_path, MASKED)), GRADIENT + 1.0, atol=1e-3)


# One thing left out of what ours binds


def without_the_call(kind: str, group: str, settings: bytes) -> dict[str, bytes]:
    return {engine.SETTINGS: settings}


def without_the_settings(kind: str, group: str, settings: bytes) -> dict[str, bytes]:
    return {engine.CALL: array_digest(Record(Kind.SETTINGS, {"type": kind, "group": group}))}


def test_a_copy_that_binds_no_message_type_calls_another_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (mod, grid):
        monkeypatch.setattr(room, "beside", without_the_call)
    study = study_of(tmp_path, MASKED)
    study.grid.tamper = another_function
    np.testing.assert_allclose(read(study), GRADIENT, atol=1e-3)


def test_a_copy_that_binds_no_settings_trains_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (mod, grid):
        monkeypatch.setattr(room, "beside", without_the_settings)
    study = study_of(tmp_path, MASKED)
    other_settings(study)
    np.testing.assert_allclose(read(study), GRADIENT, atol=1e-3)


def turned_round(node: int, message: Message) -> Message:
    """The same records to all, in another order: the first of two configs has a rate of 0 at the others."""
    if is_shown(message):
        rates = {"config": 1.0, "before": 0.0}
        for name, rate in rates.items():
            message.content[name]["lr"] = rate
        first = ["config", "before"] if node == VICTIM else ["before", "config"]
        message.content = RecordDict(
            {name: message.content[name] for name in (*first, *set(message.content) - {*first})}
        )
    return message


def as_they_came(content: RecordDict) -> RecordDict:
    return RecordDict(
        {name: each for name, each in content.items() if name not in (engine.HEAD, engine.BODY)}
    )


def reading_in_order(study: Study) -> Any:
    strategy = average()
    content = RecordDict(
        {
            "arrays": record_of({"w": np.zeros(4, np.float32)}),
            "config": ConfigRecord({"lr": 1.0}),
            "before": ConfigRecord({"lr": 0.0}),
        }
    )
    secure = study.secure(strategy)
    asked = [Message(content, dst_node_id=node, message_type="train") for node in secure.get_node_ids()]
    replies = [reply for reply in secure.send_and_receive(asked) if reply.has_content()]
    return 3 * replies[0].content["arrays"]["w"].numpy() if replies else None


def test_a_copy_that_shows_records_as_they_came_lets_a_server_choose_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mod, "visible", as_they_came)
    study = study_of(tmp_path, MASKED)
    study.grid.tamper = turned_round
    np.testing.assert_allclose(reading_in_order(study), GRADIENT, atol=1e-3)


def test_ours_shows_records_in_an_order_of_their_names(tmp_path: Path) -> None:
    study = study_of(tmp_path, MASKED)
    study.grid.tamper = turned_round
    # "before" comes before "config", at the victim as at the others.
    np.testing.assert_allclose(reading_in_order(study), np.zeros(4), atol=1e-3)


@pytest.mark.parametrize("name", [engine.SETTINGS, engine.CALL])
def test_no_record_is_withheld_under_a_name_that_stands_for_something_else(name: str, tmp_path: Path) -> None:
    # The digest has the settings under this name; a model that is shown under it would be bound by nothing.
    study = study_of(tmp_path, MASKED)
    message = Message(RecordDict({"config": ConfigRecord({"lr": 1.0})}), dst_node_id=1, message_type="train")
    context = study.grid.nodes[VICTIM].context
    delivered = mod._Delivered(message, context, lambda *_: message, sums={}, weighted_by_key="num-examples")
    assert delivered.digest({}) != delivered.digest({"arrays": bytes(32)})
    with pytest.raises(VerificationError, match="withheld under a name that is this library's own"):
        delivered.digest({name: bytes(32)})


# A server that puts its own digest


def with_its_own_digest(true: bytes, study: Study) -> Lie:
    """Lies about the rate, and tells each of the others the digest of what it is shown."""

    def lie(node: int, message: Message) -> Message:
        if not is_shown(message) or node == VICTIM:
            return message
        message = no_rate(node, message)
        settings = engine.settings_digest(study.grid.nodes[node].context.run_config)
        own = engine.beside(message.metadata.message_type, message.metadata.group_id, settings)
        false = records_digest(engine.records_of(message.content), replaced=own)
        parcel = engine.unpack(message.content)
        assert bytes(parcel.body).count(true) == 1
        parcel = Parcel(parcel.head, bytes(parcel.body).replace(true, false), shows=True)
        shown = engine.visible(message.content)
        message.content = engine.pack(parcel, shown)
        return message

    return lie


def digest_of_the_truth(study: Study) -> bytes:
    configs = {"config": ConfigRecord({"lr": 1.0}), "before": ConfigRecord({"lr": 1.0, "other": 0.0})}
    content = RecordDict({"arrays": record_of({"w": np.zeros(4, np.float32)}), **configs})
    settings = engine.settings_digest(study.grid.nodes[VICTIM].context.run_config)
    return records_digest(engine.records_of(content), replaced=engine.beside("train", "", settings))


def test_over_a_sum_that_masks_nothing_its_own_digest_gives_the_victims_update(tmp_path: Path) -> None:
    study = study_of(tmp_path, PLAIN)
    study.grid.tamper = with_its_own_digest(digest_of_the_truth(study), study)
    np.testing.assert_allclose(read(study), GRADIENT, atol=1e-3)


def test_under_masks_that_hang_on_the_digest_nothing_comes_out(tmp_path: Path) -> None:
    study = study_of(tmp_path, MASKED)
    study.grid.tamper = with_its_own_digest(digest_of_the_truth(study), study)
    found = read(study)
    assert not any(failure_of(answer) for node in OTHERS for answer in study.heard(node)), "the lie was seen"
    assert found is None or not np.allclose(found, GRADIENT, atol=0.05)


def test_a_step_is_what_the_lies_are_about(tmp_path: Path) -> None:
    # That the attacks tamper with rounds and not with greetings, which show nothing.
    study = study_of(tmp_path, MASKED)
    read(study)
    shown = [
        decode_head(engine.unpack(each.content).head) for _, each, _ in study.grid.sent if is_shown(each)
    ]
    assert len(shown) == 3
    assert all(isinstance(head, Step) for head in shown)
