"""`fedavg`: the federated loop without any protocol, the mean taken in float64, in the clear.

It is the truth that `federate` is measured against, and nothing to deploy: whoever runs it sees every update.
Sites, steps, server optimisers, shared entries and evaluation are those of `federate`, and so are the seeds,
so that what differs between the two is the cryptography and its fixed-point grid, and nothing else.

>>> import torch
>>> x = torch.linspace(-1, 1, 12).unsqueeze(1)
>>> sites = {name: [(x[i::3], 2 * x[i::3])] for i, name in enumerate(["basel", "graz", "wien"])}
>>> local = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.2)
>>> run = fedavg(torch.nn.Linear(1, 1), sites, local=local, rounds=40)
>>> bool(abs(run.model.weight.item() - 2) < 0.05), run.history[-1].total_weight
(True, 12)
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from fl_integration.loop.evaluating import Evaluator
from fl_integration.loop.evaluation import Evaluation, Metric
from fl_integration.loop.global_model import GlobalModel
from fl_integration.loop.optimisers import FedAvg, ServerOptimiser
from fl_integration.loop.preparing import Prepared, Shared, prepare, site_of
from fl_integration.loop.report import FederatedRun, Models, RoundReport, TrainingAborted
from fl_integration.loop.watch import Bar, Watch, log_round
from fl_integration.site.site import Site, SiteFailedError, copied
from fl_integration.site.step import Step
from fl_integration.site.training import LocalTraining
from protocols.identity import ClientId
from protocols.interface import Sum
from secagg.errors import MissingExtraError, ParameterError
from secagg.numbers import plain

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["LocalTraining", "fedavg"]


def fedavg(
    model: nn.Module,
    sites: Mapping[ClientId, object],
    *,
    local: Step,
    rounds: int,
    server_optimiser: ServerOptimiser = FedAvg(),
    shared: Shared | None = None,
    evaluate: Evaluation | Metric | None = None,
    seed: int = 0,
    absent: Mapping[int, Collection[ClientId]] | None = None,
    watch: Watch = Watch(),
) -> FederatedRun:
    """Trains as `federate` does, without any protocol.

    Args:
        absent: round (from 0) -> clients whose updates are not in its mean; where these are all, the round
            has none and the model stays, as when a secure sum aborts. The rest is as in `federate`.

    Raises:
        ParameterError: as `federate`.
        RoundAborted: no round had a mean.
    """
    rounds, seed, absent = plain(rounds), plain(seed), {} if absent is None else absent
    if not isinstance(watch, Watch):
        raise ParameterError(f"watch is a {type(watch).__name__}; it must be a Watch(…)")
    prepared = prepare(
        model, sites, local=local, rounds=rounds, seed=seed, optimiser=server_optimiser, shared=shared
    )
    _check_absent(absent, rounds=rounds, sites=sites)
    evaluator = Evaluator(evaluate, rounds=rounds, sites=sites)
    parties = {name: site_of(name, prepared) for name in sites}
    current, stopped = prepared.start, ""
    history: list[RoundReport] = []
    with Bar(watch, rounds=rounds, done=0) as bar:
        for number in range(rounds):
            if stopped := evaluator.stops(history):
                break
            present = {name: each for name, each in parties.items() if name not in absent.get(number, ())}
            mean, report, said = _mean(number, present, current)
            report = replace(
                report, dropped={**dict.fromkeys(absent.get(number, ()), "absent"), **report.dropped}
            )
            if mean is not None:
                current = current.moved(mean, round=number)
                if watch.on_model is not None:
                    watch.on_model(number, mean, prepared.state(current))
            elif present and not any(each.contributors for each in history):
                reasons = "; ".join(f"{name!r}: {reason}" for name, reason in report.dropped.items())
                raise ParameterError(f"no site can take part: {reasons}")
            if evaluator.asks([*history, report]):
                figures, dropped = evaluator.in_the_clear(
                    number,
                    {n: partial(each.load, current.values) for n, each in parties.items()},
                    partial(prepared.module, current),
                )
                report = replace(report, evaluated=True, evaluation=figures, evaluation_dropped=dropped)
            history.append(report)
            log_round(report, rounds, said=said)
            bar.update(report)
            if watch.on_round is not None:
                watch.on_round(report)
    return _ended(prepared, parties, current, tuple(history), stopped)


def _mean(
    number: int, present: Mapping[ClientId, Site], current: GlobalModel
) -> tuple[Sum | None, RoundReport, dict[ClientId, str]]:
    """One round's mean, if anybody could train; and what the log may say of those who could not."""
    total, weight = np.zeros(current.layout.length), 0
    metrics: dict[str, tuple[float, int]] = {}  # the sum by weight, and the weight of those who told it
    failed: dict[ClientId, SiteFailedError] = {}
    for name, site in present.items():
        try:
            update, trained = site.train(current.values, current.control, round=number)
        except SiteFailedError as error:
            failed[name] = error
            continue
        total += trained.weight * update.astype(np.float64)
        weight += trained.weight
        for metric, value in trained.metrics.items():
            so_far, told = metrics.get(metric, (0.0, 0))
            metrics[metric] = so_far + trained.weight * value, told + trained.weight
    there = frozenset(present).difference(failed)
    report = RoundReport(
        number=number,
        asked=frozenset(present),
        contributors=there,
        dropped={name: error.reason for name, error in failed.items()},
        total_weight=weight or None,
        aborted="" if there else "no site could train" if present else "every site is absent",
        metrics={metric: value / told for metric, (value, told) in metrics.items()},
    )
    mean = Sum(total / weight, weight, there, report.metrics, round=number) if there else None
    return mean, report, {name: error.logged for name, error in failed.items()}


def _ended(
    prepared: Prepared,
    parties: Mapping[ClientId, Site],
    current: GlobalModel,
    history: tuple[RoundReport, ...],
    stopped: str,
) -> FederatedRun:
    if all(report.total_weight is None for report in history):
        raise TrainingAborted(f"none of {len(history)} rounds had a mean", history=history)
    trained = prepared.module(current)
    return FederatedRun(
        model=trained,
        models=Models(
            {n: partial(lambda site: copied(site.load(current.values)), each) for n, each in parties.items()}
        ),
        history=history,
        digest=prepared.digest_of(trained),
        stopped=stopped,
    )


def _check_absent(
    absent: Mapping[int, Collection[ClientId]], *, rounds: int, sites: Mapping[ClientId, object]
) -> None:
    if not isinstance(absent, Mapping) or not all(isinstance(each, Collection) for each in absent.values()):
        raise ParameterError("absent maps a round to the clients whose updates are not in its mean")
    for number, names in absent.items():
        if number not in range(rounds):
            raise ParameterError(f"somebody is lost in round {number!r}; the rounds are 0 to {rounds - 1}")
        for name in names:
            if name not in sites:
                raise ParameterError(f"{name!r} is to be lost and is no client; they are {list(sites)}")
