"""Evaluation: a secure sum of its own where metrics are named, refused where none is, in clear if typed."""

import logging
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

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
    said,
    zeros,
)

METRICS = {"accuracy": (0.0, 1.0), "loss": (0.0, 8.0)}
FOUND = {"a": (10, 0.5, 1.25), "b": (20, 0.75, 0.125), "c": (70, 0.9, 4.0)}
"""Of each site: examples, accuracy, loss."""


def evaluating(mods: Any, examples: Any, **metrics: Any) -> ClientApp:
    app = app_of(by(0.1), mods=mods)
    app = ClientApp(mods=mods)

    @app.train()
    def train(message: Message, context: Any) -> Message:
        content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 10})}
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Any) -> Message:
        assert message.content["config"]["server-round"] >= 1
        assert "arrays" in message.content
        found = MetricRecord({"num-examples": examples, **metrics})
        return Message(RecordDict({"metrics": found}), reply_to=message)

    return app


def study_of(folder: Any, protocol: Any = MASKED, **others: Any) -> Study:
    study = Study(folder, protocol=protocol, evaluate_metrics=METRICS)
    for place, (name, (examples, accuracy, loss)) in enumerate(FOUND.items()):
        node = FIRST_NODE + place
        app = evaluating([study.mod(name, **others)], examples, accuracy=accuracy, loss=loss, private=4711.0)
        study.grid.nodes[node] = Node(app, context_of(node))
    return study


def strategy() -> FedAvg:
    return FedAvg(min_train_nodes=3, min_evaluate_nodes=3, min_available_nodes=3)


def test_the_mean_is_what_flower_computes_in_the_clear(tmp_path: Any) -> None:
    clear = LoopbackGrid()
    for place, (examples, accuracy, loss) in enumerate(FOUND.values()):
        app = evaluating([], examples, accuracy=accuracy, loss=loss)
        clear.nodes[FIRST_NODE + place] = Node(app, context_of(FIRST_NODE + place))
    expected = strategy().start(grid=clear, initial_arrays=zeros(), num_rounds=1)
    found = study_of(tmp_path).run(strategy())
    assert dict(found.evaluate_metrics_clientapp[1]) == {
        name: pytest.approx(value, abs=(METRICS[name][1]) * 1e-4)
        for name, value in expected.evaluate_metrics_clientapp[1].items()
    }


def test_it_costs_at_most_one_more_round_of_exchanges(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study = study_of(tmp_path)
    with caplog.at_level(logging.INFO, "secagg"):
        study.run(strategy(), rounds=2)
    first, steady = (len(MASKED.exchanges(first=each)) for each in (True, False))
    assert len(study.heard(FIRST_NODE)) == 1 + 2 * first + 2 * steady
    assert "an evaluation is a secure sum of its own, after each round: up to 4 exchanges more" in caplog.text


def test_nothing_of_one_client_is_in_the_clear(tmp_path: Any) -> None:
    study = study_of(tmp_path, MASKED)
    study.run(strategy())
    for name in FOUND:
        sent = said(study.heard(FIRST_NODE + "abc".index(name)))
        # Numbers in the clear would be texts or doubles; other metrics' names, too, stay at the site.
        for secret in (b"private", b"accuracy", b"4711", b"num-examples"):
            assert secret not in sent, (name, secret)


def test_it_is_skipped_where_nothing_is_to_be_evaluated(tmp_path: Any) -> None:
    study = study_of(tmp_path)
    result = study.run(average())
    assert not result.evaluate_metrics_clientapp
    assert len(study.heard(FIRST_NODE)) == 1 + len(MASKED.exchanges(first=True))


def test_a_strategy_that_evaluates_what_nobody_sums_is_refused_at_construction(tmp_path: Any) -> None:
    study = Study(tmp_path)
    with pytest.raises(
        ParameterError, match=r"the strategy evaluates \(fraction_evaluate=1.0\), and no metric is summed"
    ):
        study.secure(strategy())
    assert study.grid.sent == []


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        ({"accuracy": (1.0, 0.0)}, "accuracy"),
        ({"accuracy": 1.0}, "accuracy"),
        ({"accuracy": (0.0, float("inf"))}, "accuracy"),
        ({1: (0.0, 1.0)}, "metric"),
    ],
)
def test_ranges_that_are_none_are_refused(metrics: Any, words: str, tmp_path: Any) -> None:
    with pytest.raises(ParameterError, match=words):
        Study(tmp_path).secure(strategy(), evaluate_metrics=metrics)


def test_both_sides_name_the_same_metrics(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    study = study_of(tmp_path, PLAIN)
    # Flower's strategies wait for nodes without an end, so nobody is asked to here.
    secure = study.secure(FedAvg(), evaluate_metrics={"accuracy": (0.0, 2.0), "loss": (0.0, 8.0)})
    assert list(secure.get_node_ids()) == []
    assert "both sides name the same" in caplog.text


def test_in_the_clear_the_server_reads_each_answer_if_both_sides_typed_it(tmp_path: Any) -> None:
    study = study_of(tmp_path, PLAIN, in_the_clear=("evaluate",))
    study.evaluate_metrics = METRICS
    result = study.run(strategy(), in_the_clear=("evaluate",))
    expected = sum(examples * accuracy for examples, accuracy, _ in FOUND.values()) / 100
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(expected, abs=1e-12)
    assert result.evaluate_metrics_clientapp[1]["private"] == 4711.0


def test_what_the_server_alone_typed_stays_at_the_site(tmp_path: Any) -> None:
    study = study_of(tmp_path, PLAIN)
    result = study.run(strategy(), in_the_clear=("evaluate",))
    assert not result.evaluate_metrics_clientapp
    assert b"4711" not in b"".join(said(study.heard(FIRST_NODE + place)) for place in range(3))


def test_a_query_in_the_clear(tmp_path: Any) -> None:
    study = Study(tmp_path)
    for place, name in enumerate("abc"):
        app = ClientApp(mods=[study.mod(name, in_the_clear=("query.version",))])

        @app.query("version")
        def version(message: Message, context: Any) -> Message:
            return Message(RecordDict({"version": ConfigRecord({"of": 3})}), reply_to=message)

        @app.query("data")
        def data(message: Message, context: Any) -> Message:
            return Message(RecordDict({"data": ConfigRecord({"of": 4711})}), reply_to=message)

        study.grid.nodes[FIRST_NODE + place] = Node(app, context_of(FIRST_NODE + place))
    secure = study.secure(average(), in_the_clear=("query.version", "query.data"))

    def asked(kind: str) -> list[Message]:
        return [
            Message(RecordDict(), dst_node_id=FIRST_NODE + place, message_type=kind) for place in range(3)
        ]

    assert [
        dict(each.content["version"]) for each in secure.send_and_receive(asked("query.version"))
    ] == 3 * [{"of": 3}]
    assert all(each.has_error() for each in secure.send_and_receive(asked("query.data")))


@pytest.mark.parametrize("bad", [float("nan"), True, "missing"])
def test_a_metric_that_is_no_number_costs_its_site_the_evaluation(bad: Any, tmp_path: Any) -> None:
    study = Study(tmp_path, names="abcd", protocol=PLAIN, evaluate_metrics={"accuracy": (0.0, 1.0)})
    for place, name in enumerate("abcd"):
        metrics = {"accuracy": 0.25 * (place + 1)}
        if name == "d":
            metrics = {"accurate": 1.0} if bad == "missing" else {"accuracy": bad}
        app = evaluating([study.mod(name)], 10, **metrics)
        study.grid.nodes[FIRST_NODE + place] = Node(app, context_of(FIRST_NODE + place))
    result = study.run(FedAvg(min_evaluate_nodes=4, min_train_nodes=4))
    expected = 0.5 if bad is not True else pytest.approx(0.5)
    assert result.evaluate_metrics_clientapp[1]["accuracy"] == pytest.approx(expected, abs=1e-3)


def test_a_metric_outside_its_range_counts_as_its_end(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, protocol=PLAIN, evaluate_metrics={"loss": (0.0, 1.0)})
    for place, name in enumerate("abc"):
        app = evaluating([study.mod(name)], 10, loss=[0.5, 4711.0, float("inf")][place])
        study.grid.nodes[FIRST_NODE + place] = Node(app, context_of(FIRST_NODE + place))
    result = study.run(strategy())
    assert result.evaluate_metrics_clientapp[1]["loss"] == pytest.approx(2.5 / 3, abs=1e-3)
    assert "metric 'loss' is outside its range [0" in caplog.text
    assert "4711" not in caplog.text
