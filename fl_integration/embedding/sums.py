"""What both sides of an app make from the same arguments: the sums, and the terms to compare."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final, TypeAlias

from fl_integration.embedding.parcels import DEFAULT_STUDY, Purpose, study_of
from fl_integration.loop.optimisers import FedAvg, ServerOptimiser
from protocols.interface import Learner
from protocols.machine.parameters import Parameters
from secagg.errors import ParameterError

__all__ = [
    "DEFAULT_STUDY",
    "DEFAULT_WEIGHT",
    "Ranges",
    "names_of",
    "optimiser_of",
    "study_of",
    "sums_of",
    "terms_of",
]

DEFAULT_WEIGHT: Final = "num-examples"
"""The key of an example count: where Flower's strategies look for it, and so do all engines here."""

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""Metric -> (low, high): what a client clips it to, and what the grid of the sum spans."""


def sums_of(protocol: Parameters, evaluate_metrics: Ranges | None) -> dict[Purpose, Parameters]:
    """The protocol of each purpose that is summed.

    An evaluation is a sum of its own: one value that is always zero, the metrics, and the example count.

    Raises:
        ParameterError: the protocol is none of this library's, or a range is none.
    """
    if not isinstance(protocol, Parameters):
        raise ParameterError(f"protocol is a {type(protocol).__name__}; pass one such as MaskedSum(...)")
    sums: dict[Purpose, Parameters] = {Purpose.TRAIN: protocol}
    if evaluate_metrics is not None:
        if not evaluate_metrics:
            raise ParameterError(
                "evaluate_metrics is empty; name each metric and its (low, high), or leave it out"
            )
        sums[Purpose.EVALUATE] = replace(protocol, metrics=dict(evaluate_metrics), clip=1.0)
    return sums


def terms_of(sums: Mapping[Purpose, Parameters], *, weighted_by_key: str) -> tuple[str, ...]:
    """What both sides must agree on, as texts that people can compare.

    Raises:
        ParameterError: a metric has the name under which the number of examples goes.
    """
    if any(weighted_by_key == name for each in sums.values() for name, *_ in each.surface.metrics):
        raise ParameterError(
            f"a metric is named {weighted_by_key!r}, as is the number of examples, which is summed anyway; "
            "leave it out of the metrics"
        )
    said = [f"{purpose.name.lower()}: {sums[purpose]!r}" for purpose in Purpose if purpose in sums]
    return (*(text[:4000] for text in said), f"weights under {weighted_by_key!r}")


def optimiser_of(server_optimiser: ServerOptimiser, *, learns: Learner, moves: str) -> ServerOptimiser:
    """What turns a mean into a step at each client, where the clients learn the sum.

    Args:
        server_optimiser: as an application names it.
        learns: who learns the sum.
        moves: whose affair the step is where the server learns it, for an error.

    Raises:
        ParameterError: it is none that a client can run, or the clients learn nothing.
    """
    if not isinstance(server_optimiser, ServerOptimiser) or server_optimiser.controls:
        raise ParameterError(
            "server_optimiser is one of FedAvg, FedAvgM, FedAdagrad, FedAdam and FedYogi of secagg"
        )
    if learns is Learner.SERVER and server_optimiser != FedAvg():
        raise ParameterError(
            f"this protocol tells the sum to the server, whose {moves} moves the model; server_optimiser is "
            "for protocols whose clients learn the sum"
        )
    return server_optimiser


def names_of(in_the_clear: tuple[str, ...], *, of: str) -> frozenset[str]:
    """What an application answers in the clear.

    Args:
        in_the_clear: names, as the application gives them.
        of: what they name, with an example, for an error.

    Raises:
        ParameterError: it is no tuple of str; `("evaluate")`, for one, is a str, and of one the letters
            would be looked at.
    """
    if not isinstance(in_the_clear, tuple) or not all(isinstance(each, str) for each in in_the_clear):
        raise ParameterError(f"in_the_clear is a tuple of {of}, with the comma")
    return frozenset(in_the_clear)
