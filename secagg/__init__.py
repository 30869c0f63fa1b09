"""Secure aggregation: n parties learn the (weighted) sum of their vectors, and nothing else.

This is the front door: `import secagg` gives every public name of `protocols`, and the training loop of
`fl_integration`, under one import. Nothing is loaded before a name is asked for, so this ground floor, whose
primitives stand in the rooms of this folder (its README is their map), stays free of what stands above it.

>>> import numpy as np
>>> import secagg
>>> run = secagg.simulate(secagg.MaskedSum(max_clients=3), {name: np.ones(2) for name in "abc"}, seed=1)
>>> run.mean.tolist()
[1.0, 1.0]
"""

from importlib import import_module
from typing import TYPE_CHECKING

from secagg.release import RELEASE

if TYPE_CHECKING:  # the one place where an arrow runs up: for type checkers, never at run time
    from fl_integration import (
        FedAdagrad,
        FedAdam,
        FedAvg,
        FedAvgM,
        FedYogi,
        LocalTraining,
        fedavg,
        federate,
    )
    from protocols import (
        Adversary,
        Advice,
        CkksSum,
        Client,
        DecodeError,
        Identity,
        IntegerSum,
        LatticeSum,
        Learner,
        MaskedSum,
        MemoryReleaseLog,
        Message,
        NeedUpdate,
        Outcome,
        PaillierSum,
        ParameterError,
        PeerViolation,
        PlainSum,
        Plan,
        Policy,
        ReleaseLog,
        Requirements,
        Roster,
        RosterVersion,
        Round,
        RoundAborted,
        Rounding,
        SecAggError,
        Segment,
        Server,
        Session,
        Simulation,
        Sum,
        SumProtocol,
        Traffic,
        advise,
        run_round,
        session_id,
        simulate,
        suggest_clip,
    )

__version__ = RELEASE

__all__ = [
    "Adversary",
    "Advice",
    "CkksSum",
    "Client",
    "DecodeError",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "Identity",
    "IntegerSum",
    "LatticeSum",
    "Learner",
    "LocalTraining",
    "MaskedSum",
    "MemoryReleaseLog",
    "Message",
    "NeedUpdate",
    "Outcome",
    "PaillierSum",
    "ParameterError",
    "PeerViolation",
    "PlainSum",
    "Plan",
    "Policy",
    "ReleaseLog",
    "Requirements",
    "Roster",
    "RosterVersion",
    "Round",
    "RoundAborted",
    "Rounding",
    "SecAggError",
    "Segment",
    "Server",
    "Session",
    "Simulation",
    "Sum",
    "SumProtocol",
    "Traffic",
    "advise",
    "fedavg",
    "federate",
    "run_round",
    "session_id",
    "simulate",
    "suggest_clip",
]

_TRAINING = (
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "LocalTraining",
    "fedavg",
    "federate",
)

if not TYPE_CHECKING:  # a type checker knows the names, and says which ones are not there

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("fl_integration" if name in _TRAINING else "protocols"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
