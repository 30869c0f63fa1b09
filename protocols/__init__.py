"""Secure sums: protocols as sans-I/O machines behind one interface. The README in this folder is the map."""

from protocols.advice.advice import Advice, advise
from protocols.composition import LatticeSum
from protocols.consortium.ckks import CkksSum
from protocols.consortium.paillier import PaillierSum
from protocols.identity import Identity, Roster
from protocols.interface import (
    Client,
    IntegerSum,
    Learner,
    MemoryReleaseLog,
    NeedUpdate,
    Outcome,
    Policy,
    ReleaseLog,
    Round,
    Server,
    Sum,
    SumProtocol,
)
from protocols.masked import MaskedSum
from protocols.membership import RosterVersion, session_id
from protocols.plain import PlainSum
from protocols.planning.requirements import Adversary, Plan, Requirements
from protocols.run import run_round
from protocols.simulation import Message, Session, Simulation, Traffic, simulate
from secagg.errors import DecodeError, ParameterError, PeerViolation, RoundAborted, SecAggError
from secagg.vectors.fixedpoint import Rounding, Segment, suggest_clip

__all__ = [
    "Adversary",
    "Advice",
    "CkksSum",
    "Client",
    "DecodeError",
    "Identity",
    "IntegerSum",
    "LatticeSum",
    "Learner",
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
    "run_round",
    "session_id",
    "simulate",
    "suggest_clip",
]
