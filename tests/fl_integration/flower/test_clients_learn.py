"""Where the clients learn the sum: each holds the model; the server has no model, no mean and no metric."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import flwr.serverapp.strategy as strategies
import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedProx, Strategy

from fl_integration.embedding import member
from fl_integration.embedding.held_model import HeldModel
from fl_integration.embedding.own_model import COPY, file_of
from fl_integration.flower import SecureGrid, SiteModel, secure_aggregation, site_model
from fl_integration.flower.engine import BODY
from fl_integration.loop.optimisers import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    ServerOptimiser,
)
from fl_integration.loop.scaffold import Scaffold
from protocols import MaskedSum
from protocols.interface import Sum
from secagg.errors import ParameterError
from tests.fl_integration.flower.learners import (
    CKKS,
    KINDS,
    SHAPE,
    Course,
    Learners,
    blind,
    clock,
    needles,
    reached_the_server,
    replayed,
    same,
    start,
    sums,
)
from tests.fl_integration.flower.loopback import RUN_CONFIG
from tests.fl_integration.flower.stage import average, context_of, record_of

__all__ = ["clock", "sums"]  # fixtures

EVALUATED = {"acc": (0.0, 1.0)}
OPTIMISERS = [
    FedAvg(learning_rate=[1.0, 0.5, 0.25, 0.125]),
    FedAdam(learning_rate=0.1),
    pytest.param(FedAvgM(learning_rate=0.5, momentum=0.9), marks=pytest.mark.slow),
    pytest.param(FedAdagrad(learning_rate=0.1), marks=pytest.mark.slow),
    pytest.param(FedYogi(learning_rate=0.1), marks=pytest.mark.slow),
]

# Strategies and optimisers


@pytest.mark.parametrize("name", strategies.__all__)
def test_each_of_flowers_strategies_is_admitted_or_refused_by_name(tmp_path: Path, name: str) -> None:
    kind = getattr(strategies, name)
    if kind in (strategies.Strategy, strategies.Result):
        return
    study, made = Learners(tmp_path), object.__new__(kind)
    if name in ("FedAvg", "FedProx"):
        assert isinstance(study.secure(kind(fraction_evaluate=0.0)), SecureGrid)
        return
    for mean_only in ((), (kind,)):  # nobody's word changes that the server's arrays stay
        with pytest.raises(ParameterError, match=r"arrays never change.*server_optimiser=.*at the clients"):
            study.secure(made, mean_only=mean_only)


def test_a_strategy_of_ones_own_is_refused_however_it_is_named(tmp_path: Path) -> None:
    class Mine(strategies.FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            return super().aggregate_train(server_round, replies)

    with pytest.raises(ParameterError, match="Mine would do nothing; take one of FedAvg, FedProx"):
        Learners(tmp_path).secure(Mine(fraction_evaluate=0.0), mean_only=(Mine,))


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(blind(), marks=pytest.mark.slow), FedProx(proximal_mu=0.5, fraction_evaluate=0.0)],
)
def test_a_training_ends_with_one_model_at_all_clients_and_none_at_the_server(
    tmp_path: Path, strategy: Strategy
) -> None:
    study = Learners(tmp_path)
    result = study.run(strategy, arrays=record_of(start()), rounds=3)
    unmoved(result.arrays)
    final = study.agree("abcd")
    assert not np.array_equal(final["bias"], start()["bias"])
    assert [len(study.seen[name]) for name in "abcd"] == [3, 3, 3, 3]


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda each: type(each).__name__)
def test_an_optimiser_at_the_clients_makes_of_the_means_what_it_makes_of_them_anywhere(
    tmp_path: Path, sums: list[Sum], optimiser: ServerOptimiser
) -> None:
    study = Learners(tmp_path, optimiser=optimiser)
    study.run(blind(), arrays=record_of(start()), rounds=4)
    assert len(sums) == 16
    same(study.agree("abcd"), replayed(optimiser, start(), sums[::4]))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", KINDS[1:])
def test_under_the_other_protocols_too(tmp_path: Path, sums: list[Sum], protocol: Any) -> None:
    study = Learners(tmp_path, protocol=protocol, optimiser=FedAdam(learning_rate=0.1))
    study.run(blind(), arrays=record_of(start()), rounds=3)
    same(study.agree("abcd"), replayed(study.optimiser, start(), sums[::4]))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"server_optimiser": "FedAdam"}, "server_optimiser is one of FedAvg, FedAvgM"),
        ({"server_optimiser": Scaffold()}, "server_optimiser is one of FedAvg, FedAvgM"),
        ({"server_optimiser": FedAdam}, "server_optimiser is one of FedAvg, FedAvgM"),
    ],
)
def test_what_is_no_optimiser_is_refused(given: dict[str, Any], found: str) -> None:
    with pytest.raises(ParameterError, match=found):
        secure_aggregation(CKKS, lambda context: None, **given)


def test_where_the_server_learns_its_strategy_has_the_optimiser() -> None:
    with pytest.raises(ParameterError, match="server_optimiser is for protocols whose clients learn"):
        secure_aggregation(MaskedSum(), lambda context: None, server_optimiser=FedAdam())


@pytest.mark.parametrize("rounds", [0, -1, True, 1.0, "3"])
def test_rounds_is_a_number_of_rounds(tmp_path: Path, rounds: Any) -> None:
    with pytest.raises(ParameterError, match=r"rounds is .*at least 1, or None"):
        Learners(tmp_path).secure(blind(), rounds=rounds)


# What the server sees


def unmoved(arrays: ArrayRecord) -> None:
    """These are the arrays of the start; Flower's mean of one reply makes floats of integers."""
    for name, value in start().items():
        found = arrays[name].numpy()
        assert np.array_equal(found, value)
        assert value.dtype.kind != "f" or found.tobytes() == value.tobytes()


@pytest.mark.parametrize("protocol", KINDS)
def test_no_mean_no_metric_and_no_model_reaches_the_server(
    tmp_path: Path, sums: list[Sum], protocol: Any
) -> None:
    with_loss = type(protocol)(
        **SHAPE,
        metrics={"loss": (0.0, 10.0)},
        **{name: getattr(protocol, name) for name in ("keys", "key_bits") if hasattr(protocol, name)},
    )
    study = Learners(tmp_path, protocol=with_loss, evaluate_metrics=EVALUATED)
    result = study.run(
        blind(fraction_evaluate=1.0), arrays=record_of(start()), rounds=2, evaluate_metrics=EVALUATED
    )
    unmoved(result.arrays)
    assert not any(result.train_metrics_clientapp[number] for number in (1, 2))
    assert not result.evaluate_metrics_clientapp or not any(result.evaluate_metrics_clientapp.values())
    said, means = reached_the_server(study), [total.mean for total in sums[::4]]
    assert len(means) == 2
    assert sums[0].metrics["loss"] == pytest.approx(2.1, abs=0.01)
    secrets = [*means, *(total.metrics["loss"] for total in sums), 0.125]
    secrets += [np.ravel(value) for value in study.agree("abcd").values() if value.dtype.kind == "f"]
    secrets += [
        shown[name] for each in study.seen.values() for shown in each for name in ("layer.weight", "bias")
    ]
    for each in secrets:
        for needle in needles(each):
            assert needle not in said
    for kind in ("<f8", ">f8"):  # were one there, it would be found
        assert any(needle in said + means[0].astype(kind).tobytes() for needle in needles(means[0]))


def test_no_digest_of_the_model_does_either(tmp_path: Path) -> None:
    """Nor in the next session: by a digest the server could try guesses of a model of few values."""
    study = Learners(tmp_path)
    Course(study).rounds(2)
    sent = len(study.grid.sent)
    bound: list[bytes] = []
    held = _held(study, "a")
    with pytest.MonkeyPatch.context() as patch:
        real = member.answered_head
        patch.setattr(member, "answered_head", lambda base, shown: bound.append(shown) or real(base, shown))
        Course(study).rounds(1)  # a session of its own, which goes on from that model
    study.grid.sent[:sent] = []
    said = reached_the_server(study)
    assert len(set(bound)) == 1
    assert real(held.own.base, bound[0]) in said  # the chain of sealed sums, which the server knows
    for guess in (held.own.model.digest(), held.own.digest(), held.own.carried_on().digest()):
        assert guess not in said
        assert real(guess, bound[0]) not in said


def _held(study: Learners, name: str) -> HeldModel:
    """This site's copy, as its next session begins with it."""
    data = study.enrol(name, context_of(0)).files().read(file_of(name, COPY))
    assert data is not None
    return HeldModel.from_bytes(data, session=bytes(32), optimiser=study.optimiser)


# What travels


def test_the_arrays_travel_once(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    values = np.random.default_rng(1).normal(size=20_000).astype(np.float32)
    course = Course(study, arrays=record_of({"w": values}), given={"rounds": 9})
    course.rounds(1)
    first, sent = _shown(study, 0), len(study.grid.sent)
    assert first[values.nbytes] == 4
    assert set(first) == {0, values.nbytes}
    course.rounds(3)
    assert _shown(study, sent) == {0: 12}
    assert not any(
        values[:64].tobytes() in message.content[BODY]["body"].data for _, message, _ in study.grid.sent
    )


def _shown(study: Learners, begin: int) -> Counter[int]:
    """How many messages showed so many bytes of arrays, beside the body of the protocol."""
    return Counter(
        sum(
            array.numpy().nbytes
            for name, record in message.content.items()
            if isinstance(record, ArrayRecord) and name != BODY
            for array in record.values()
        )
        for _, message, _ in study.grid.sent[begin:]
    )


def test_an_app_is_shown_its_own_model_in_the_form_of_the_servers(tmp_path: Path) -> None:
    study = Learners(tmp_path, names="abc")
    course = Course(study)
    course.rounds(1)
    same(study.seen["a"][0], start())
    for _ in range(2):
        before = study.agree("abc")
        course.rounds(1)
        same(study.seen["a"][-1], before)
        same(study.seen["b"][-1], before)
        assert not np.array_equal(study.seen["a"][-1]["bias"], study.seen["a"][-2]["bias"])
    assert study.seen["c"][-1]["bn.num_batches_tracked"] == 7


def test_what_comes_down_beside_the_arrays_still_does(tmp_path: Path) -> None:
    shown: list[tuple[list[str], Any]] = []
    study = Learners(tmp_path, names="abc")
    real = study.node("a").app

    def look(message: Any, context: Any) -> Any:
        if "config" in message.content:
            shown.append((sorted(each for each in message.content if each != BODY), context.run_config))
        return real(message, context)

    study.node("a").app = look
    course = Course(study)
    course.rounds(2)
    assert [each for each, _ in shown] == [["arrays", "config", "secagg"], ["config", "secagg"]]
    assert shown[-1] == (["config", "secagg"], RUN_CONFIG)


# The last sum


@pytest.mark.parametrize(
    ("rounds", "evaluated"),
    [
        (None, None),
        (3, EVALUATED),
        pytest.param(3, None, marks=pytest.mark.slow),
        pytest.param(None, EVALUATED, marks=pytest.mark.slow),
    ],
)
def test_all_hold_the_last_model_when_start_ends(
    tmp_path: Path, sums: list[Sum], rounds: int | None, evaluated: Any
) -> None:
    study = Learners(tmp_path, evaluate_metrics=evaluated)
    secure = study.secure(strategy := blind(fraction_evaluate=1.0 if evaluated else 0.0), rounds=rounds)
    strategy.start(grid=secure, initial_arrays=record_of(start()), num_rounds=3)
    assert len(sums) == 12
    same(study.agree("abcd"), replayed(FedAvg(), start(), sums[::4]))


@pytest.mark.slow
def test_without_knowing_the_last_each_sum_costs_one_exchange_more(tmp_path: Path) -> None:
    counts = []
    for rounds in (None, 4):
        study = Learners(tmp_path / str(rounds))
        strategy = blind()
        strategy.start(
            grid=study.secure(strategy, rounds=rounds), initial_arrays=record_of(start()), num_rounds=4
        )
        counts.append(len(study.grid.sent))
    assert counts[0] - counts[1] == 3 * 4


def test_a_last_round_without_a_sum_hands_out_the_one_before(tmp_path: Path, sums: list[Sum]) -> None:
    study = Learners(tmp_path)
    course = Course(study, given={"rounds": 3})
    course.rounds(2)
    assert len(sums) == 4
    for name in "abc":  # the next message is lost, and no later one
        study.node(name).deaf = study.node(name).received.__eq__
    assert not course.train()
    assert len(sums) == 8
    study.agree("abcd")


@pytest.mark.slow
def test_a_grid_that_starts_again_goes_on_and_hands_out_each(tmp_path: Path, sums: list[Sum]) -> None:
    study = Learners(tmp_path)
    secure = study.secure(strategy := blind(), rounds=2)
    for _ in range(2):
        strategy.start(grid=secure, initial_arrays=record_of(start()), num_rounds=2)
    assert len(sums) == 16
    same(study.agree("abcd"), replayed(FedAvg(), start(), sums[::4]))


# Evaluation


def test_an_evaluation_is_opened_by_the_clients_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Learners(tmp_path, evaluate_metrics=EVALUATED)
    with caplog.at_level(logging.INFO, logger="secagg"):
        result = study.run(blind(fraction_evaluate=1.0), arrays=record_of(start()), rounds=2)
    assert not result.evaluate_metrics_clientapp or not any(result.evaluate_metrics_clientapp.values())
    for name in "abcd":
        found = study.node(name).context.state["secagg.evaluation"]
        assert dict(found) == {"acc": pytest.approx(0.125, abs=1e-3)}  # each has 10 examples here
        assert caplog.messages.count(f"{name} opened an evaluation") == 2  # and no value


def test_the_app_evaluates_the_model_that_the_last_sum_made(tmp_path: Path) -> None:
    study = Learners(tmp_path, evaluate_metrics=EVALUATED, names="abc")
    evaluated: list[Any] = []
    course = Course(study)
    real = study.node("a").app

    def look(message: Any, context: Any) -> Any:
        answer = real(message, context)
        if message.metadata.message_type == "evaluate" and "arrays" in message.content:
            evaluated.append({name: array.numpy() for name, array in message.content["arrays"].items()})
        return answer

    study.node("a").app = look
    course.rounds(1)
    course.train(kind="evaluate")
    assert not course.failures
    same(evaluated[-1], study.agree("abc"))
    assert not np.array_equal(evaluated[-1]["bias"], start()["bias"])


# Reading a site's model


def test_a_site_reads_its_model_without_knowing_what_moves_it(tmp_path: Path) -> None:
    study = Learners(tmp_path, names="abc", optimiser=FedAdam(learning_rate=0.1))
    with pytest.raises(ParameterError, match="'a' holds no such model in this folder"):
        study.model("a")
    course = Course(study)
    course.rounds(2)
    before = {path: path.read_bytes() for path in (tmp_path / "a").glob("*.sealed")}
    found = study.model("a")
    found["bias"][:] = 1e9  # it is the caller's
    assert study.model("a")["bias"] != 1e9
    assert {path: path.read_bytes() for path in (tmp_path / "a").glob("*.sealed")} == before
    course.rounds(1)
    with pytest.raises(ParameterError, match="not of the study 'other': pass the name"):
        site_model(study.enrol("a", context_of(0)), study="other")
    with pytest.raises(ParameterError, match="'a' holds no such model"):
        study.model("a", SiteModel.BEFORE)
    with pytest.raises(ParameterError, match=r"which is SiteModel\.LATEST or SiteModel.BEFORE"):
        site_model(study.enrol("a", context_of(0)), which="copy")
    for name in (7, ""):
        with pytest.raises(ParameterError, match="it names the training in 1 to 255 bytes"):
            site_model(study.enrol("a", context_of(0)), study=name)


def test_where_the_server_learns_a_site_has_no_model(tmp_path: Path) -> None:
    study = Learners(tmp_path, protocol=MaskedSum(max_weight=100), names="abc")
    study.run(average())
    with pytest.raises(ParameterError, match="'a' holds no such model"):
        study.model("a")
