"""The one file that knows Flower: its records and messages on one side, parcels and records on the other.

A parcel travels as two records of reserved names: a `ConfigRecord` with the head, and an `ArrayRecord` with
the protocol's message as one `Array`, which Flower cuts into chunks and streams, so that no message of
protobuf holds it whole. What a round shows travels beside them, in the very record objects that the strategy
made: Flower names objects by their content, so one model for many nodes is stored, and sent to the link,
once.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np

from fl_integration.embedding.parcels import Parcel
from fl_integration.embedding.records import ArrayBytes, Kind, Record, array_digest
from protocols.interface import Learner
from secagg.errors import DecodeError, MissingExtraError, ParameterError

try:
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Error,
        Message,
        MessageType,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.clientapp.typing import ClientAppCallable, Mod
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import (
        FedAdagrad,
        FedAdam,
        FedAvg,
        FedAvgM,
        FedProx,
        FedYogi,
        Strategy,
    )
except ImportError as error:
    raise MissingExtraError(package="flwr", extra="flower") from error

__all__ = [
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ClientAppCallable",
    "ConfigRecord",
    "Context",
    "Error",
    "FedAvg",
    "Grid",
    "Message",
    "MessageType",
    "MetricRecord",
    "Mod",
    "RecordDict",
    "ServerApp",
    "Strategy",
    "admit",
    "arrays_in",
    "beside",
    "pack",
    "record_of",
    "records_of",
    "refusal",
    "settings_digest",
    "unpack",
    "visible",
    "with_arrays",
]

HEAD: Final = "secagg"
BODY: Final = "secagg.body"
SETTINGS: Final = "secagg.settings"
CALL: Final = "secagg.call"
_BYTES: Final = "secagg.bytes"

MOD_FAILED: Final = 6
"""Flower's code for a mod whose precondition does not hold."""
UNAVAILABLE: Final = 0
"""Flower's code for an error of no known kind."""

_MEANS: Final[tuple[type, ...]] = (FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi)
"""Strategies whose `aggregate_train` asks for nothing but the weighted mean."""
_BLIND_MEANS: Final[tuple[type, ...]] = (FedAvg, FedProx)
"""Those of them that leave a model as it is when it comes back as it went."""

CLEAR: Final = "message types, such as ('evaluate',)"
"""What `in_the_clear` names on both sides."""

Bodies: TypeAlias = dict[int, ArrayRecord]


def admit(strategy: Strategy, mean_only: tuple[type, ...], *, learns: Learner) -> None:
    """Returns if a strategy can live on one reply that holds the mean.

    What counts is the class that defines the `aggregate_train` that will run. A median, a trimmed mean or
    another choice among clients, which nobody can make from a sum, would do nonsense on one reply in silence.

    Raises:
        ParameterError: it is none of those that need the mean alone, and is not named in `mean_only`.
    """
    if not isinstance(mean_only, tuple) or not all(isinstance(kind, type) for kind in mean_only):
        raise ParameterError("mean_only is a tuple of classes, such as mean_only=(MyStrategy,)")
    if not isinstance(strategy, Strategy):
        raise ParameterError(f"strategy is a {type(strategy).__name__}, no strategy of flwr.serverapp")
    definer = next(kind for kind in type(strategy).__mro__ if "aggregate_train" in vars(kind))
    known = _MEANS if learns is Learner.SERVER else _BLIND_MEANS
    if definer in known or (learns is Learner.SERVER and definer in mean_only):
        return
    names = ", ".join(kind.__name__ for kind in known)
    if definer in _MEANS or learns is Learner.CLIENTS:
        raise ParameterError(
            f"under this protocol the clients learn the sum, so the server's arrays never change and "
            f"{definer.__name__} would do nothing; take one of {names}, and "
            "secure_aggregation(..., server_optimiser=...) at the clients"
        )
    raise ParameterError(
        f"{type(strategy).__name__} aggregates by {definer.__name__}.aggregate_train, which may ask for more "
        f"than the mean; {names} ask for the mean alone. If {definer.__name__} does, too, say "
        f"mean_only=({definer.__name__},)"
    )


def records_of(content: RecordDict) -> dict[str, Record]:
    """What a message shows to an application, in plain values; nothing is copied."""
    found: dict[str, Record] = {}
    for name, record in content.items():
        if name in (HEAD, BODY):
            continue
        if isinstance(record, ArrayRecord):
            arrays = {
                each: ArrayBytes(array.dtype, tuple(array.shape), array.stype, array.data)
                for each, array in record.items()
            }
            found[name] = Record(Kind.ARRAYS, arrays)
        else:
            kind = Kind.METRICS if isinstance(record, MetricRecord) else Kind.CONFIG
            found[name] = Record(kind, dict(record.items()))
    return found


def visible(content: RecordDict) -> RecordDict:
    """A message's content without this library's own records, in an order of names that no server chooses.

    An application may take the first record, or walk over a record's values. Flower keeps the order in which
    the server wrote them, and what a round binds holds that of arrays alone (A9).
    """
    return RecordDict({name: _sorted(content[name]) for name in sorted(content) if name not in (HEAD, BODY)})


def _sorted(record: ArrayRecord | ConfigRecord | MetricRecord) -> ArrayRecord | ConfigRecord | MetricRecord:
    if isinstance(record, ArrayRecord):
        return record
    if isinstance(record, ConfigRecord):
        return ConfigRecord({name: record[name] for name in sorted(record)})
    return MetricRecord({name: record[name] for name in sorted(record)})


def record_of(arrays: Mapping[str, Any]) -> ArrayRecord:
    """Arrays by name, in their order, as Flower carries them."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = Array(np.asarray(array, order="C"))
    return record


def arrays_in(content: RecordDict, whose: str) -> dict[str, Any]:
    """The arrays of the one ArrayRecord of a message, by name.

    Args:
        content: of the message.
        whose: who sends it, for an error.

    Raises:
        ParameterError: there are none, or two records of them; or the bytes are no array.
    """
    records = [each for each in content.values() if isinstance(each, ArrayRecord)]
    if len(records) != 1:
        raise ParameterError(f"{whose} sends {len(records)} ArrayRecords; a secure sum works on one")
    try:
        found = {name: array.numpy() for name, array in records[0].items()}
    except Exception as error:
        raise ParameterError(f"{whose} sends an array that is none") from error
    if not all(isinstance(array, np.ndarray) for array in found.values()):  # numpy opens archives, too
        raise ParameterError(f"{whose} sends an array that is none")
    return found


def with_arrays(content: RecordDict, arrays: Mapping[str, Any], *, named: str) -> RecordDict:
    """The same records with these arrays as the model: in place of the one that is there, or under a name."""
    record = record_of(arrays)
    there = [name for name, each in content.items() if isinstance(each, ArrayRecord)]
    # In the order of `visible`: that a model was withheld is nothing that an application should see.
    return RecordDict(dict(sorted({**dict(content.items()), (there or [named])[0]: record}.items())))


def settings_digest(run_config: Mapping[str, Any]) -> bytes:
    """The digest (32 bytes) of a run's settings, which an application reads from its context."""
    return array_digest(Record(Kind.SETTINGS, dict(run_config)))


def beside(kind: str, group: str, settings: bytes) -> dict[str, bytes]:
    """The digests of what an application sees beside a message's content.

    Args:
        kind: the message's type, by which Flower chooses the function that it calls.
        group: the message's group.
        settings: `settings_digest` of the run.
    """
    call = array_digest(Record(Kind.SETTINGS, {"type": kind, "group": group}))
    return {SETTINGS: settings, CALL: call}


def pack(parcel: Parcel, shown: RecordDict | None = None, *, bodies: Bodies | None = None) -> RecordDict:
    """A parcel, and what the round shows, as the content of a message.

    Args:
        parcel: what travels.
        shown: the round's records, if they travel with it.
        bodies: records that were made for bodies before; one body for many nodes is one record.

    Raises:
        ParameterError: the round's records have a name of this library's.
    """
    bodies = {} if bodies is None else bodies
    content = RecordDict({} if shown is None else dict(shown.items()))
    if taken := [name for name in (HEAD, BODY, SETTINGS, CALL) if name in content]:
        raise ParameterError(
            f"the strategy sends a record named {taken[0]!r}, which is this library's; rename it"
        )
    content[HEAD] = ConfigRecord({"head": parcel.head})
    if id(parcel.body) not in bodies:
        record, body = ArrayRecord(), bytes(parcel.body)
        record["body"] = Array(dtype="uint8", shape=(len(body),), stype=_BYTES, data=body)
        bodies[id(parcel.body)] = record
    content[BODY] = bodies[id(parcel.body)]
    return content


def unpack(content: RecordDict) -> Parcel:
    """The parcel in a message's content.

    Raises:
        DecodeError: there is none.
    """
    head, body = content.get(HEAD), content.get(BODY)
    if not isinstance(head, ConfigRecord) or not isinstance(body, ArrayRecord):
        raise DecodeError("the message holds no parcel of secagg: the other side runs without it")
    data, array = head.get("head"), body.get("body")
    if not isinstance(data, bytes) or array is None or array.stype != _BYTES:
        raise DecodeError("a parcel whose head or body is of another type")
    return Parcel(data, array.data, shows=len(content) > 2)


def refusal(reason: str, message: Message) -> Message:
    """An answer that Flower counts as a failure."""
    return Message(Error(MOD_FAILED, reason), reply_to=message)
