"""Where the clients learn the sum over NVFlare: each holds the model; the server has none, nor a metric."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_integration.embedding.own_model import COPY, file_of
from fl_integration.embedding.parcels import Errand, Handover, decode_head
from fl_integration.loop.optimisers import FedAdam, FedAvg, ServerOptimiser
from fl_integration.nvflare import site_model
from protocols import CkksSum, LatticeSum, PaillierSum, Rounding
from protocols.machine.client import KEPT_RESULTS
from tests.fl_integration.nvflare.stage import ACCURACY, Study, finds

SHAPE: dict[str, Any] = {"max_clients": 6, "max_weight": 100, "rounding": Rounding.NEAREST}
CKKS = CkksSum(**SHAPE)


def paillier(**shape: Any) -> PaillierSum:
    return PaillierSum(key_bits=2048, **shape)


KINDS = [
    pytest.param(CKKS, id="ckks"),
    pytest.param(paillier(**SHAPE), id="paillier", marks=pytest.mark.slow),
    pytest.param(LatticeSum(keys=paillier, **SHAPE), id="lattice", marks=pytest.mark.slow),
]


def start() -> dict[str, Any]:
    return {
        "weight": np.array([[0.5, -0.0], [0.25, -1.5]], np.float32),
        "bias": np.array([-0.125], np.float32),
        "steps": np.array(7, np.int64),
    }


class Learners(Study):
    """A `Study` of four sites whose clients learn the sum.

    Attributes:
        seen: what each site's function was shown, in order.
        learnt: the evaluations that each site was told.
    """

    def __init__(self, folder: Path, *, optimiser: ServerOptimiser = FedAvg(), **given: Any) -> None:
        self.seen: dict[str, list[Any]] = {}
        self.learnt: dict[str, list[Any]] = {}
        self.optimiser = optimiser
        super().__init__(folder, **{"protocol": CKKS, "names": "abcd", **given})
        for name in self.names:
            self.enter(name)

    def enter(self, name: str) -> None:
        """A new process of this site; its folder is what it was."""
        place = "abcd".index(name)
        target, seen = 0.3 * place - 0.4, self.seen.setdefault(name, [])

        def train(model: dict[str, Any], config: dict[str, Any]) -> Any:
            seen.append({each: value.copy() for each, value in model.items()})
            for each in ("weight", "bias"):
                model[each] += np.float32(0.25) * (np.float32(target) - model[each])
            return model, {"num-examples": 10 * (place + 1)}

        self.join(
            name,
            train,
            server_optimiser=self.optimiser,
            on_evaluation=self.learnt.setdefault(name, []).append,
            **({} if self.evaluate_metrics is None else {"evaluate": finds(accuracy=0.1 * (place + 1))}),
        )

    def models(self) -> list[dict[str, Any]]:
        """The sites' own models, as they lie on their disks."""
        return [site_model(self.enrol(name)) for name in self.names]

    def agree(self) -> dict[str, Any]:
        first, *others = self.models()
        for other in others:
            assert {name: value.tobytes() for name, value in other.items()} == {
                name: value.tobytes() for name, value in first.items()
            }
        return first


def expected(rounds: int) -> float:
    """Where the bias is after plain means."""
    bias = -0.125
    for _ in range(rounds):
        bias += sum(10 * (k + 1) * 0.25 * (0.3 * k - 0.4 - bias) for k in range(4)) / 100
    return bias


@pytest.mark.parametrize("protocol", KINDS)
def test_a_training_ends_with_one_model_at_all_sites_and_none_at_the_server(
    tmp_path: Path, protocol: Any
) -> None:
    study = Learners(tmp_path, protocol=protocol)
    with study.secure(rounds=3) as secure:
        for _ in range(3):
            outcome = secure.train(start())
            assert (outcome.aborted, outcome.lost, outcome.contributors) == ("", {}, ("a", "b", "c", "d"))
            assert (outcome.weight, dict(outcome.metrics)) == (None, {})
            for name, value in start().items():
                np.testing.assert_array_equal(outcome.model[name], value)
    final = study.agree()
    assert float(final["bias"][0]) == pytest.approx(expected(3), abs=1e-3)
    assert final["steps"] == 7
    assert [len(study.seen[name]) for name in "abcd"] == [3, 3, 3, 3]
    # The model travelled once, and then it was the sites' own.
    travelled = [call["secagg_shown"] for call in study.steps("a") if call["secagg_shown"]]
    assert ["arrays" in shown for shown in travelled] == [True, False, False]
    needle = final["weight"].tobytes()
    for name in "abcd":
        for call in study.steps(name):
            assert needle not in call["secagg_body"]
        for reply in study.job.heard(name):
            assert needle not in reply["result"]["body"]


@pytest.mark.slow
def test_an_optimiser_runs_at_every_site_alike_and_outlives_its_process(tmp_path: Path) -> None:
    study = Learners(tmp_path, optimiser=FedAdam(learning_rate=0.1))
    with study.secure(rounds=3) as secure:
        secure.train(start())
        secure.train(start())
        study.enter("b")
        study.job.sites["b"].app._abort_signal = study.job.abort
        assert secure.train(start()).contributors == ("a", "b", "c", "d")
    assert abs(float(study.agree()["bias"][0]) - expected(3)) > 1e-3


def test_an_evaluation_is_told_to_the_sites_alone(tmp_path: Path) -> None:
    study = Learners(tmp_path, evaluate_metrics=ACCURACY)
    with study.secure(rounds=1) as secure:
        secure.train(start())
        outcome = secure.evaluate(start())
        assert (outcome.weight, dict(outcome.metrics)) == (None, {})
        assert outcome.contributors == ("a", "b", "c", "d")
    for name in "abcd":
        (told,) = study.learnt[name]
        assert told == {"accuracy": pytest.approx(0.25, abs=1e-3)}


def test_an_evaluation_that_fails_to_be_told_costs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Learners(tmp_path, evaluate_metrics=ACCURACY)

    class Broken(list[Any]):
        """Where it is told to."""

        def append(self, told: Any) -> None:
            raise OSError("disk full")

    study.learnt["d"] = Broken()
    study.enter("d")
    with study.secure(rounds=1) as secure:
        secure.train(start())
        secure.evaluate(start())
        assert secure.train(start()).contributors == ("a", "b", "c", "d")
    assert "on_evaluation failed" in caplog.text
    assert "disk full" not in repr(study.job.heard("d"))
    study.agree()


@pytest.mark.slow
def test_a_site_that_missed_too_much_is_brought_along_by_its_peers(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    with study.secure() as secure:
        secure.train(start())
        study.job.sites["d"].deaf = lambda nth: True
        for _ in range(KEPT_RESULTS + 1):
            assert secure.train(start(), sites=["a", "b", "c"]).contributors == ("a", "b", "c")
        study.job.sites["d"].deaf = lambda nth: False
        behind = secure.train(start())
        assert "the others moved on by sums that it cannot open" in behind.lost["d"]
        assert secure.train(start()).contributors == ("a", "b", "c", "d")
    heads = [decode_head(call["secagg_head"]) for _, call, _ in study.job.sent]
    errands = [Errand(head.errand) for head in heads if isinstance(head, Handover)]
    assert errands == [Errand.ASK, *[Errand.VOUCH] * 3, Errand.GIVE, Errand.TAKE]
    study.agree()


def test_a_site_that_lost_its_disk_gets_the_model_and_the_next_job_goes_on(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    with study.secure(rounds=2) as secure:
        secure.train(start())
        secure.train(start())
    before = study.agree()
    shutil.rmtree(tmp_path / "d")
    study.enter("d")
    with study.secure(rounds=1) as secure:  # another job, another session
        outcome = secure.train(start())
        assert outcome.contributors == ("a", "b", "c", "d")
    np.testing.assert_array_equal(study.seen["d"][-1]["bias"], before["bias"])
    assert study.enrol("d").files().read(file_of("d", COPY)) is not None
    assert float(study.agree()["bias"][0]) == pytest.approx(expected(3), abs=1e-3)


def test_another_model_for_one_site_is_seen(tmp_path: Path) -> None:
    study = Learners(tmp_path)

    def tamper(site: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if site == "d" and arguments["secagg_shown"]:
            return {**arguments, "secagg_shown": {**arguments["secagg_shown"], "config": {"lr": 0.0}}}
        return arguments

    study.job.tamper = tamper
    with study.secure(rounds=1) as secure:
        outcome = secure.train(start())
    assert "is not what the round binds" in outcome.lost["d"]
    assert study.seen["d"] == []
