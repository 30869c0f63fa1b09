"""Which of Flower's strategies may run over a sum, and that those which may do what they do in the clear."""

from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedYogi,
    Strategy,
)

from protocols import Identity
from secagg.errors import ParameterError
from tests.fl_integration.flower.loopback import LoopbackGrid, Node
from tests.fl_integration.flower.stage import (
    FIRST_NODE,
    MASKED,
    PLAIN,
    Study,
    app_of,
    average,
    by,
    context_of,
    record_of,
    zeros,
)

SAMPLED = {"fraction_evaluate": 0.0, "min_train_nodes": 3, "min_available_nodes": 3}
ADMITTED = {
    "FedAvg": FedAvg,
    "FedAvgM": lambda **others: FedAvgM(server_learning_rate=0.5, server_momentum=0.9, **others),
    "FedProx": lambda **others: FedProx(proximal_mu=0.1, **others),
    "FedAdagrad": FedAdagrad,
    "FedAdam": FedAdam,
    "FedYogi": FedYogi,
}
REFUSED = {
    "Bulyan",
    "DifferentialPrivacyClientSideAdaptiveClipping",
    "DifferentialPrivacyClientSideFixedClipping",
    "DifferentialPrivacyServerSideAdaptiveClipping",
    "DifferentialPrivacyServerSideFixedClipping",
    "FedMedian",
    "FedTrimmedAvg",
    "FedXgbBagging",
    "FedXgbCyclic",
    "Krum",
    "MultiKrum",
    "QFedAvg",
}
NO_STRATEGIES = {"Result", "Strategy"}
GRID_STEP = 1.0 / (2**15 - 1)
"""Of the sum at the defaults: clip 1 and 16 bits. Three sites round once each."""


def strategy_of(name: str) -> Strategy:
    kind: Any = getattr(flower, name)
    if name.startswith("DifferentialPrivacy"):
        return kind(
            FedAvg(**SAMPLED),
            0.1,
            **({"clipping_norm": 1.0} if "Fixed" in name else {}),
            num_sampled_clients=3,
        )
    if name == "FedXgbCyclic":
        return kind()
    if name == "QFedAvg":
        return kind(client_learning_rate=0.1, **SAMPLED)
    return kind(**SAMPLED)


def test_flower_has_no_strategy_that_nobody_has_thought_about() -> None:
    assert {*ADMITTED, *REFUSED, *NO_STRATEGIES} == set(flower.__all__)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_strategy_that_chooses_among_clients_is_refused_before_anything_is_sent(
    name: str, tmp_path: Any
) -> None:
    study = Study(tmp_path)
    with pytest.raises(
        ParameterError,
        match=rf"{name} aggregates by \w+\.aggregate_train, which may ask for more than the mean",
    ):
        study.secure(strategy_of(name))
    assert study.grid.sent == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in ("FedAdagrad", "FedYogi"))) for name in ADMITTED],
)
def test_an_admitted_strategy_makes_the_arrays_that_it_makes_in_the_clear(name: str, tmp_path: Any) -> None:
    start = {
        "weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
        "bias": np.array([0.25, -0.5]),
        "scalar": np.array(0.5, np.float32),
    }
    clear = LoopbackGrid()
    study = Study(tmp_path)
    for place in range(3):
        step = by(0.1 * (place + 1), 10 * (place + 1))
        clear.nodes[FIRST_NODE + place] = Node(app_of(step), context_of(FIRST_NODE + place))
    expected = ADMITTED[name](**SAMPLED).start(grid=clear, initial_arrays=record_of(start), num_rounds=3)
    found = study.run(ADMITTED[name](**SAMPLED), record_of(start), rounds=3)
    assert list(found.arrays) == list(expected.arrays)
    for key, array in expected.arrays.items():
        wanted, got = array.numpy(), found.arrays[key].numpy()
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        # FedAdam and its kin divide by the square root of what they saw, so an error does not add up plainly.
        np.testing.assert_allclose(got, wanted, atol=30 * GRID_STEP)


def test_the_mean_is_weighted_and_within_a_step_of_the_grid(tmp_path: Any) -> None:
    found = Study(tmp_path, protocol=MASKED).run(rounds=2)
    expected = 2 * (0.1 * 10 + 0.2 * 20 + 0.3 * 30) / 60
    np.testing.assert_allclose(found.arrays["w"].numpy(), expected, atol=2 * GRID_STEP)


@pytest.mark.slow
def test_the_mean_under_the_lattice(tmp_path: Any) -> None:
    from protocols import LatticeSum

    found = Study(tmp_path, protocol=LatticeSum(max_weight=1000)).run(rounds=2)
    np.testing.assert_allclose(found.arrays["w"].numpy(), 2 * 14 / 60, atol=2 * GRID_STEP)


def test_metrics_that_the_protocol_names_are_averaged_and_others_stay_at_the_site(tmp_path: Any) -> None:
    from protocols import PlainSum

    study = Study(tmp_path, protocol=PlainSum(max_weight=1000, metrics={"loss": (0.0, 4.0)}))
    for place, name in enumerate("abc"):
        study.join(name, FIRST_NODE + place, by(0.1, 10 * (place + 1), loss=float(place), private=4711.0))
    found = study.run()
    # One more than in the clear: the total is there too, but Flower leaves its weight out.
    assert dict(found.train_metrics_clientapp[1]) == {"loss": pytest.approx((20 + 60) / 60, abs=1e-3)}


class Quiet(FedAvg):
    """Changes what is sent, not how the answers are aggregated."""

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any) -> Any:
        config["lr"] = 0.1 / server_round
        return super().configure_train(server_round, arrays, config, grid)


class Aggregating(FedAvg):
    """Aggregates on its own."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        return super().aggregate_train(server_round, replies)


class Heir(Aggregating):
    """Inherits an aggregation that is not Flower's."""


class MedianThatIsNamedFedAvg(FedMedian):
    """A name proves nothing."""


MedianThatIsNamedFedAvg.__name__ = "FedAvg"


def test_a_subclass_that_leaves_aggregation_alone_is_admitted(tmp_path: Any) -> None:
    study = Study(tmp_path)
    seen: list[float] = []

    def step(arrays: Any, message: Message, context: Any) -> Any:
        seen.append(message.content["config"]["lr"])
        return arrays, {"num-examples": 10}

    study.join("a", FIRST_NODE, step)
    study.run(Quiet(**SAMPLED), rounds=2)
    assert seen == [0.1, 0.05]


@pytest.mark.parametrize("kind", [Aggregating, Heir])
def test_a_subclass_that_aggregates_is_refused_unless_the_class_that_defines_it_is_named(
    kind: type[FedAvg], tmp_path: Any
) -> None:
    study = Study(tmp_path)
    with pytest.raises(ParameterError, match=r"If Aggregating does, too, say mean_only=\(Aggregating,\)"):
        study.secure(kind(**SAMPLED))
    study.secure(kind(**SAMPLED), mean_only=(Aggregating,))


def test_naming_a_class_does_not_admit_another_that_it_inherits_from_or_that_inherits_from_it(
    tmp_path: Any,
) -> None:
    study = Study(tmp_path)
    with pytest.raises(ParameterError, match="Heir aggregates by Aggregating"):
        study.secure(Heir(**SAMPLED), mean_only=(Heir,))
    with pytest.raises(ParameterError, match="aggregates by FedMedian"):
        study.secure(MedianThatIsNamedFedAvg(**SAMPLED), mean_only=(FedAvg,))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"strategy": FedAvg}, "strategy is a ABCMeta, no strategy of flwr.serverapp"),
        ({"strategy": None}, "strategy is a NoneType, no strategy of flwr.serverapp"),
        ({"mean_only": Aggregating}, "mean_only is a tuple of classes"),
        ({"mean_only": ("Aggregating",)}, "mean_only is a tuple of classes"),
        ({"in_the_clear": "query.train"}, "in_the_clear is a tuple of message types"),
        ({"in_the_clear": (MessageType.TRAIN, 1)}, "in_the_clear is a tuple of message types"),
        ({"roster": "roster.txt"}, "roster is a str; pass a Roster, a RosterVersion or a function"),
        ({"study": ""}, "study is ''; it names the training in 1 to 255 bytes"),
        ({"study": "ä" * 128}, "it names the training in 1 to 255 bytes"),
        ({"study": b"heart"}, "study is b'heart'; it names the training in 1 to 255 bytes"),
        ({"state_dir": "somewhere"}, "state_dir and state_key go together"),
        ({"records": "somewhere"}, "records and identity go together"),
        ({"identity": Identity.generate("coordinator")}, "records and identity go together"),
        ({"evaluate_metrics": {}}, "evaluate_metrics is empty; name each metric"),
        ({"evaluate_metrics": {"num-examples": (0, 1)}}, "a metric is named 'num-examples'"),
    ],
)
def test_arguments_that_can_never_work_are_refused_in_words(
    arguments: dict[str, Any], said: str, tmp_path: Any
) -> None:
    study = Study(tmp_path)
    with pytest.raises(ParameterError, match=said):
        study.secure(**{"strategy": average(), **arguments})
    assert study.grid.sent == []


def test_a_strategy_that_shows_one_node_something_else_is_stopped_at_the_server(tmp_path: Any) -> None:
    class Unfair(FedAvg):
        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            messages = list(super().configure_train(server_round, arrays, config, grid))
            config = ConfigRecord({**dict(config), "lr": 1.0})
            messages[1] = Message(
                RecordDict({"arrays": arrays, "config": config}),
                dst_node_id=messages[1].metadata.dst_node_id,
                message_type=MessageType.TRAIN,
            )
            return messages

    study = Study(tmp_path)
    with pytest.raises(ParameterError, match=r"node \d+ would be shown other records than node \d+"):
        study.run(Unfair(**SAMPLED))
    assert not [message for _, message, _ in study.grid.sent if "arrays" in message.content]


def test_groups_types_and_records_that_are_no_round_are_refused(tmp_path: Any) -> None:
    study = Study(tmp_path)
    secure = study.secure(average())
    content = RecordDict({"arrays": zeros(), "config": ConfigRecord({})})

    def sent(*kinds: str, groups: str = "aaa", shown: RecordDict = content) -> list[Message]:
        return [
            Message(shown, dst_node_id=FIRST_NODE + place, message_type=kind, group_id=groups[place])
            for place, kind in enumerate(kinds)
        ]

    with pytest.raises(ParameterError, match="messages of types 'evaluate' and 'train' in one round"):
        secure.send_and_receive(sent("train", "train", "evaluate"))
    with pytest.raises(ParameterError, match="messages of groups 'a' and 'b' in one round"):
        secure.send_and_receive(sent("train", "train", "train", groups="aab"))
    with pytest.raises(ParameterError, match=r"type 'query' are not summed here"):
        secure.send_and_receive(sent("query", "query", "query"))
    two = RecordDict({"arrays": zeros(), "more": zeros()})
    taken = RecordDict({"arrays": zeros(), "secagg": ConfigRecord({})})
    with pytest.raises(ParameterError, match="the strategy sends 2 ArrayRecords"):
        secure.send_and_receive(sent("train", "train", "train", shown=two))
    with pytest.raises(ParameterError, match="a record named 'secagg', which is this library's"):
        secure.send_and_receive(sent("train", "train", "train", shown=taken))
    for refused in (secure.push_messages, secure.pull_messages):
        with pytest.raises(ParameterError, match="a SecureGrid sends to all of a cohort at once"):
            refused([])
    assert secure.send_and_receive([]) == []


def test_an_app_sees_the_type_and_group_that_the_strategy_gave(tmp_path: Any) -> None:
    study, seen = Study(tmp_path), []

    def step(arrays: Any, message: Message, context: Any) -> Any:
        seen.append((message.metadata.message_type, message.metadata.group_id, sorted(message.content)))
        return arrays, {"num-examples": 10}

    study.join("a", FIRST_NODE, step)
    content = RecordDict({"config": ConfigRecord({}), "arrays": zeros()})
    asked = [
        Message(content, dst_node_id=FIRST_NODE + place, message_type="train", group_id="7")
        for place in range(3)
    ]
    reply, *failures = study.secure(average()).send_and_receive(asked)
    assert seen == [("train", "7", ["arrays", "config"])]
    assert failures == []
    assert reply.content["metrics"]["num-examples"] == 60


def test_an_app_sees_names_in_an_order_that_no_server_chooses(tmp_path: Any) -> None:
    study, seen = Study(tmp_path), []

    def step(arrays: Any, message: Message, context: Any) -> Any:
        seen.append([list(message.content), *(list(message.content[each]) for each in message.content)])
        return arrays, {"num-examples": 10}

    study.join("a", FIRST_NODE, step)
    records = {"z": MetricRecord({"y": 1, "x": 2}), "config": ConfigRecord({"mu": 0.5, "lr": 1.0})}
    content = RecordDict({**records, "arrays": record_of({"b": np.zeros(2), "a": np.zeros(2)})})
    asked = [Message(content, dst_node_id=FIRST_NODE + place, message_type="train") for place in range(3)]
    assert next(iter(study.secure(average()).send_and_receive(asked))).has_content()
    # Arrays alone keep theirs: apps read a model in order, and it is bound.
    assert seen == [[["arrays", "config", "z"], ["b", "a"], ["lr", "mu"], ["x", "y"]]]


class TestArrays:
    """What models are made of."""

    def test_integers_stay_what_they_were_for_as_many_rounds_as_there_are(self, tmp_path: Any) -> None:
        # Flower's mean makes floats of integers, so that from the second round on a strategy sends floats.
        start = {
            "weight": np.zeros(3, np.float32),
            "num_batches_tracked": np.array(7),
            "flags": np.array([True, False]),
            "bytes": np.arange(3, dtype=np.uint8),
        }
        study, seen = Study(tmp_path), []

        def step(arrays: Any, message: Any, context: Any) -> Any:
            seen.append({name: value.dtype.name for name, value in arrays.items()})
            counted = np.array(int(arrays["num_batches_tracked"]) + 5)
            return {**by(0.25)(arrays, message, context)[0], "num_batches_tracked": counted}, {
                "num-examples": 10
            }

        for place, name in enumerate("abc"):
            study.join(name, FIRST_NODE + place, step)
        found = study.run(arrays=record_of(start), rounds=3).arrays
        assert seen == 9 * [{name: value.dtype.name for name, value in start.items()}]
        np.testing.assert_allclose(found["weight"].numpy(), 0.75, atol=3 * GRID_STEP)
        for name in ("num_batches_tracked", "flags", "bytes"):
            np.testing.assert_array_equal(found[name].numpy(), start[name])

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_floats_keep_their_width(self, dtype: str, tmp_path: Any) -> None:
        found = Study(tmp_path).run(arrays=record_of({"w": np.zeros(3, dtype)}), rounds=2).arrays["w"].numpy()
        assert found.dtype == dtype
        np.testing.assert_allclose(found, 28 / 60, atol=2e-3 if dtype == "float16" else 2 * GRID_STEP)

    def test_an_answer_in_double_precision_is_as_good(self, tmp_path: Any) -> None:
        study = Study(tmp_path)

        def step(arrays: Any, message: Any, context: Any) -> Any:
            return {"w": arrays["w"].astype(np.float64) + 0.1}, {"num-examples": 10}

        study.join("a", FIRST_NODE, step)
        found = study.run().arrays["w"]
        assert found.dtype == "float32"
        np.testing.assert_allclose(found.numpy(), 14 / 60, atol=GRID_STEP)

    def test_a_model_that_is_a_list_of_arrays(self, tmp_path: Any) -> None:
        # As many layers as have names of two digits: as texts "10" comes before "2".
        layers = [np.full(place + 1, place / 16, np.float32) for place in range(12)]
        found = Study(tmp_path).run(arrays=ArrayRecord(layers)).arrays.to_numpy_ndarrays()
        assert [layer.shape for layer in found] == [layer.shape for layer in layers]
        for layer, before in zip(found, layers, strict=True):
            np.testing.assert_allclose(layer, before + 14 / 60, atol=GRID_STEP)

    def test_an_app_that_trains_in_the_record_that_it_was_given(self, tmp_path: Any) -> None:
        from flwr.app import Array, MetricRecord
        from flwr.clientapp import ClientApp

        study = Study(tmp_path)
        for place, name in enumerate("abc"):
            app = ClientApp(mods=[study.mod(name)])

            @app.train()
            def train(message: Message, context: Any) -> Message:
                record = message.content["arrays"]
                for each in list(record):
                    record[each] = Array(record[each].numpy() + np.float32(0.5))
                content = {"arrays": record, "metrics": MetricRecord({"num-examples": 10})}
                return Message(RecordDict(content), reply_to=message)

            study.grid.nodes[FIRST_NODE + place] = Node(app, context_of(FIRST_NODE + place))
        np.testing.assert_allclose(study.run().arrays["w"].numpy(), 0.5, atol=GRID_STEP)

    def test_constants_that_are_not_finite_stay(self, tmp_path: Any) -> None:
        start = {"w": np.zeros(2, np.float32), "mask": np.array([0.0, -np.inf], np.float32)}
        study = Study(tmp_path)
        found = study.run(arrays=record_of(start)).arrays
        np.testing.assert_array_equal(found["mask"].numpy(), start["mask"])

    def test_a_model_without_floats_is_refused_in_words(self, tmp_path: Any) -> None:
        with pytest.raises(ParameterError, match="no finite floating values; there is nothing to sum"):
            Study(tmp_path).run(arrays=record_of({"n": np.arange(3)}))


def test_weights_under_another_key(tmp_path: Any) -> None:
    study = Study(tmp_path)
    for place, name in enumerate("abc"):

        def step(arrays: Any, message: Any, context: Any, place: int = place) -> Any:
            return by(0.1 * (place + 1))(arrays, message, context)[0], {"patients": float(place + 1)}

        app = app_of(step, mods=[study.mod(name, weighted_by_key="patients")])
        study.grid.nodes[FIRST_NODE + place] = Node(app, context_of(FIRST_NODE + place))
    found = study.run(average(weighted_by_key="patients"))
    np.testing.assert_allclose(found.arrays["w"].numpy(), 14 / 60, atol=GRID_STEP)


def test_nothing_but_the_mean_is_told_to_the_strategy(tmp_path: Any) -> None:
    class Curious(FedAvg):
        """Keeps what it is told."""

        told: list[Message]

        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            self.told = list(replies)
            return super().aggregate_train(server_round, self.told)

    curious = Curious(**SAMPLED)
    Study(tmp_path, protocol=PLAIN).run(curious, mean_only=(Curious,))
    (reply,) = curious.told
    assert sorted(reply.content) == ["arrays", "metrics"]
    assert dict(reply.content["metrics"]) == {"num-examples": 60}
