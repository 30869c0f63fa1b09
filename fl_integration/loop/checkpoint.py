"""A training on disk: written whole after each round, atomically, and taken up where it stopped.

A checkpoint is one file, `training.pt`, in a folder of the caller's: the global values, the server
optimiser's state, control variates and scales, what each site keeps to itself, and the reports so far. It is
written beside its place, forced to the disk and put there by one rename: whoever crashes finds the last whole
one. Reading runs no code out of it (`torch.load(weights_only=True)`).

What it does not hold: keys. A training that is taken up again has new identities, a new session and new keys,
for a machine that goes back to an older state could be made to release twice (ATTACKS A14). Examples are
drawn from (seed, round, site), so a resumed run is the run that was not interrupted, bit for bit, wherever
that one repeats: the protocol's stochastic rounding has to repeat too, or be to the nearest.

A round that was running when the process died is run again. If its sum had been opened, and another site is
missing now, the two sums tell the difference (ATTACKS A10): to whoever was the server, which here is you.
Not so in a private training: its vectors may have left, a second one would have a second draw of the noise,
and so a round that was begun counts as aborted, and is paid for. An older checkpoint put in its place would
run its rounds again: a durable `BudgetLedger` refuses them, and one in memory does not know of them.

It is a file of a rehearsal in one process, and holds the parts that sites keep to themselves. On a system
with POSIX permissions only its owner can read it (mode 0600); protect it as you would protect those parts.
A bit that the disk flipped is found by the archive's checksums. Who writes into the folder on purpose chooses
how the training goes on: nothing is signed.
"""

import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from fl_integration.loop.global_model import GlobalModel
from fl_integration.loop.optimisers import OptimiserState
from fl_integration.loop.report import RoundReport
from fl_integration.site.site import OwnPart
from fl_integration.site.whole_files import written_whole
from protocols.identity import ClientId
from protocols.simulation import Traffic
from secagg.errors import MissingExtraError, ParameterError

try:
    import torch
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Checkpoint", "Fingerprint", "Saved"]

_FILE: Final = "training.pt"
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What a training must agree in with the one whose checkpoint it takes up. Each is a text to compare."""

    model: str
    kept_model: str
    protocol: str
    sites: str
    server_optimiser: str
    clip: str
    sampling: str
    seed: str
    standardised: str = ""
    privacy: str = ""


_SAID: Final = {
    "model": "another model: its entries, their shapes or dtypes, or which of them are shared, differ",
    "kept_model": "a model whose frozen or integer entries hold other values",
    "protocol": "another protocol",
    "sites": "other sites",
    "server_optimiser": "another server optimiser",
    "clip": "another clip=",
    "sampling": "another sampling=",
    "seed": "another seed",
    "standardised": "another standardise=, or of inputs with other means and deviations",
    "privacy": "another privacy=",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Saved:
    """A training between two rounds.

    Attributes:
        next_round: the number of the round that comes.
        model: the global model.
        own: what each site keeps to itself.
        history: the reports so far.
        culprits, handed_over: as the loop knows them.
        seen: contributors of sums that moved nobody, see `Unmoved`.
        account: under which a private training's rounds are paid for, and in which ledger; empty without
            privacy.
    """

    next_round: int
    model: GlobalModel
    own: Mapping[ClientId, OwnPart]
    history: tuple[RoundReport, ...]
    culprits: frozenset[ClientId] = frozenset()
    handed_over: frozenset[ClientId] = frozenset()
    seen: frozenset[frozenset[ClientId]] = frozenset()
    account: bytes = b""


class Checkpoint:
    """The folder of one training.

    Args:
        folder: made if it is not there.
        fingerprint: of the training that writes and reads here.

    Raises:
        ParameterError: the folder cannot be made or written to, or is a file.
    """

    def __init__(self, folder: str | os.PathLike[str], fingerprint: Fingerprint) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise ParameterError(f"checkpoint is a {type(folder).__name__}; it must be the path of a folder")
        self._folder, self._fingerprint = Path(folder), fingerprint
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):  # now, and not after a round of training
                pass
            for left in self._folder.glob(f".{_FILE}.*.part"):
                left.unlink()  # of a process that was killed; it may be as large as the model
        except OSError as error:
            raise ParameterError(
                f"checkpoint={str(folder)!r} is no folder that can be written to: {error.strerror}"
            ) from error

    @property
    def path(self) -> Path:
        """The file."""
        return self._folder / _FILE

    def load(self, like: GlobalModel) -> Saved | None:
        """What was written last; None if nothing was.

        Args:
            like: a global model of the training that asks: its layout, and the shapes of its state.

        Raises:
            ParameterError: the file is of another training, which the text tells apart, or is no checkpoint.
        """
        if not self.path.exists():
            return None
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.testzip() is not None:  # torch itself does not look at the checksums
                    raise zipfile.BadZipFile("a checksum differs")
            data = torch.load(self.path, map_location="cpu", weights_only=True)
            found, version = dict(data["fingerprint"]), data["format"]
        except Exception as error:  # a damaged file provokes anything in its reader
            raise self._damaged(error) from error
        if version != _FORMAT:
            raise ParameterError(f"a checkpoint of format {version!r}; this version reads {_FORMAT}")
        for each in fields(self._fingerprint):
            mine, theirs = getattr(self._fingerprint, each.name), found.get(each.name, "")
            if mine != theirs:
                raise ParameterError(
                    f"the checkpoint is of {_SAID[each.name]} ({theirs}, now {mine}); name another folder, "
                    "or go on as before"
                )
        try:
            return _saved(data, like)
        except Exception as error:  # a damaged file provokes anything in its reader
            raise self._damaged(error) from error

    def save(self, saved: Saved) -> None:
        """Writes it in the place of the one before.

        Raises:
            OSError: the disk did not take it; the one before is still there.
        """
        data = {"format": _FORMAT, "fingerprint": asdict(self._fingerprint), **_data(saved)}
        try:
            with written_whole(self.path, mode=0o600) as file:
                torch.save(data, file)
        except RuntimeError as error:  # torch's word for a disk that is full
            raise OSError(f"the checkpoint could not be written: {error.__context__ or error}") from error

    def _damaged(self, error: Exception) -> ParameterError:
        return ParameterError(
            f"{self.path.name} in the checkpoint's folder is no checkpoint of this library, or is damaged "
            f"({type(error).__name__}); name another folder, or remove it"
        )


def _data(saved: Saved) -> dict[str, Any]:
    model = saved.model
    return {
        "next_round": saved.next_round,
        "values": _tensor(model.values),
        "steps": model.state.steps,
        "moments": [_tensor(moment) for moment in model.state.moments],
        "control": _tensor(model.control),
        "scales": None if model.scales is None else _tensor(model.scales),
        "own": {
            name: {"entries": dict(part.entries), "control": _tensor(part.control)}
            for name, part in saved.own.items()
        },
        "history": [_report_data(report) for report in saved.history],
        "culprits": sorted(saved.culprits),
        "handed_over": sorted(saved.handed_over),
        "seen": sorted(sorted(each) for each in saved.seen),
        "account": saved.account.hex(),
    }


def _saved(data: Mapping[str, Any], like: GlobalModel) -> Saved:
    scales = data["scales"]
    model = replace(
        like,
        values=_array(data["values"]),
        state=OptimiserState(steps=data["steps"], moments=tuple(map(_array, data["moments"]))),
        control=_array(data["control"]),
        scales=None if scales is None else _array(scales),
    )
    return Saved(
        next_round=data["next_round"],
        model=model,
        own={
            name: OwnPart(entries=part["entries"], control=_array(part["control"]))
            for name, part in data["own"].items()
        },
        history=tuple(_report(each) for each in data["history"]),
        culprits=frozenset(data["culprits"]),
        handed_over=frozenset(data["handed_over"]),
        seen=frozenset(frozenset(each) for each in data["seen"]),
        account=bytes.fromhex(data.get("account", "")),
    )


def _report_data(report: RoundReport) -> dict[str, Any]:
    data = {each.name: getattr(report, each.name) for each in fields(report)}
    for name in ("asked", "contributors", "culprits"):
        data[name] = sorted(data[name])
    for name in ("traffic", "side_traffic"):
        data[name] = {party: [each.sent, each.received] for party, each in data[name].items()}
    return data


def _report(data: Mapping[str, Any]) -> RoundReport:
    given = dict(data)
    for name in ("asked", "contributors", "culprits"):
        given[name] = frozenset(given[name])
    for name in ("traffic", "side_traffic"):
        given[name] = {party: Traffic(*each) for party, each in given[name].items()}
    return RoundReport(**given)


def _tensor(values: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(values))


def _array(values: torch.Tensor) -> np.ndarray[Any, Any]:
    return values.numpy()
