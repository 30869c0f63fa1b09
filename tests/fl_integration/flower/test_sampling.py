"""Sampled cohorts: where the roster rule admits them, and what construction says where it does not."""

import logging
import re
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg

from protocols import MaskedSum, PlainSum, Requirements
from secagg.errors import ParameterError
from tests.fl_integration.flower.stage import Study, mean_of, moved, near

SIX = "abcdef"
NONE_CORRUPT = MaskedSum(max_weight=1000, requirements=Requirements(corrupt_fraction=0.0))


def half(**others: Any) -> FedAvg:
    return FedAvg(fraction_train=0.5, fraction_evaluate=0.0, min_available_nodes=6, **others)


def test_a_cohort_that_every_client_would_refuse_is_refused_at_construction(tmp_path: Any) -> None:
    study = Study(tmp_path, names=SIX, protocol=MaskedSum(max_weight=1000))
    with pytest.raises(ParameterError) as caught:
        study.secure(half())
    said = str(caught.value)
    assert "fraction_train=0.5 of a roster of 6 is a cohort of 3" in said
    advised = re.search(r"a corrupt_fraction of at most (0\.\d+)", said)
    assert advised is not None
    # What it advises is true, and no more cautious than it has to be by one client.
    for name in SIX:
        assert name in study.roster
    study.protocol = MaskedSum(
        max_weight=1000, requirements=Requirements(corrupt_fraction=float(advised.group(1)))
    )
    study.secure(half())
    with pytest.raises(ParameterError, match="is a cohort of 3"):
        Study(
            tmp_path, names=SIX, protocol=MaskedSum(requirements=Requirements(corrupt_fraction=0.17))
        ).secure(half())
    assert study.grid.sent == []


def test_the_strategys_minimum_of_nodes_counts(tmp_path: Any) -> None:
    study = Study(tmp_path, names=SIX, protocol=MaskedSum(max_weight=1000))
    study.secure(half(min_train_nodes=4))


def test_fraction_evaluate_is_held_to_the_same_rule(tmp_path: Any) -> None:
    study = Study(
        tmp_path, names=SIX, protocol=MaskedSum(max_weight=1000), evaluate_metrics={"accuracy": (0.0, 1.0)}
    )
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.5)
    with pytest.raises(ParameterError, match=r"fraction_evaluate=0.5 of a roster of 6 is a cohort of 3"):
        study.secure(strategy)


def test_two_of_many_are_refused_whoever_is_corrupt(tmp_path: Any) -> None:
    study = Study(tmp_path, names=SIX, protocol=PlainSum(max_weight=1000))
    with pytest.raises(ParameterError, match="a cohort of 2, min_contributors is 3"):
        study.secure(FedAvg(fraction_train=0.1, fraction_evaluate=0.0))


def test_a_roster_that_is_larger_than_max_clients_is_refused_at_construction(tmp_path: Any) -> None:
    study = Study(tmp_path, names="abcd", protocol=PlainSum(max_weight=1000, max_clients=3))
    with pytest.raises(ParameterError, match="max_clients"):
        study.secure(FedAvg(fraction_evaluate=0.0))


def test_what_a_fresh_cohort_costs_is_said(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path, names=SIX, protocol=NONE_CORRUPT)
    with caplog.at_level(logging.INFO, "secagg"):
        study.secure(half())
    assert (
        "fraction_train=0.5: a cohort that is not the one before makes its keys anew: 4 exchanges"
        in caplog.text
    )


def test_sampled_cohorts_train_round_after_round(tmp_path: Any) -> None:
    study = Study(tmp_path, names=SIX, protocol=NONE_CORRUPT)
    cohorts = []

    class Sampled(FedAvg):
        def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Any:
            messages = super().configure_train(server_round, arrays, config, grid)
            cohorts.append([SIX[message.metadata.dst_node_id - 100] for message in messages])
            return messages

    result = study.run(Sampled(fraction_train=0.5, fraction_evaluate=0.0, min_available_nodes=6), rounds=3)
    assert [len(cohort) for cohort in cohorts] == [3, 3, 3]
    expected = sum(
        sum(0.01 * (10 * (1 + SIX.index(name))) ** 2 for name in cohort)
        / sum(10 * (1 + SIX.index(name)) for name in cohort)
        for cohort in cohorts
    )
    assert moved(result) == near(expected)


def test_no_sampling_needs_no_advice(tmp_path: Any) -> None:
    study = Study(tmp_path)
    assert moved(study.run(FedAvg(fraction_evaluate=0.0, min_train_nodes=3))) == near(mean_of(*"abc"))
