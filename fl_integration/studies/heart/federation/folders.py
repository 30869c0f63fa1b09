"""What stands on the disks of a federation: at each hospital its own files, at the coordinator the roster.

    hospitals/budapest/  identity.key    its key, under a password
                         password        of that key; in earnest not beside it
                         roster.txt      who may be there, signed by all
                         patients.npz    its training rows, which nobody else reads
                         state/          what a SuperNode's app keeps between two messages
                         journal         what a watcher may know
    coordinator/         identity.key    its own, which signs the records of rounds; and its password
                         roster.txt, journal
                         records/        what it signed

Keys and rosters are made by the functions behind `secagg identity` and `secagg roster`. Here one program
makes them all, on one machine, so whoever runs it is everybody: it shows how a federation runs and protects
nobody. In earnest each hospital makes its own key, on its own machine (KEYS.md).

All files have mode 0600 in folders of mode 0700. Test patients are in none of them: they stay with whoever
judges the model.

>>> import pathlib, tempfile
>>> from fl_integration.studies.heart.records import load_hospitals
>>> with tempfile.TemporaryDirectory() as folder:
...     federation = founded(pathlib.Path(folder), hospitals=load_hospitals(sites=3, seed=1))
...     federation.at(Site.BUDAPEST).load_patients()[0].shape
(235, 15)
"""

import io
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.embedding.archive import archived, read_archived
from fl_integration.site.keys import load_identity, load_public, save_identity
from fl_integration.site.private_files import Existing, read_private, write_private
from fl_integration.site.roster_file import read_roster, write_roster
from fl_integration.studies.heart.federation.journal import Journal
from fl_integration.studies.heart.federation.signed import PUBLIC_LINE, SHOWN_OF_A_SESSION, SignedRecords
from fl_integration.studies.heart.records import FEATURES, Hospital, Site
from protocols.identity import Identity, Roster
from protocols.membership import RosterVersion
from secagg.errors import ParameterError

__all__ = ["Coordinator", "Federation", "HospitalFiles", "Patients", "State", "first_state", "founded"]

Patients: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""float32[n, f] and float32[n]: features, and 1 for disease."""

State: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
"""The model's entries by name."""

_PATIENTS_BYTES: Final = 1 << 22
_PASSWORD_FILE_BYTES: Final = 1 << 12
_COORDINATOR: Final = "coordinator"
_PASSWORD_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class _Party:
    """The folder of one party, with its key."""

    root: Path

    @property
    def identity(self) -> Path:
        """Its key."""
        return self.root / "identity.key"

    @property
    def password(self) -> Path:
        """Its key's password."""
        return self.root / "password"

    def load_identity(self) -> Identity:
        """Its key, opened; takes a fifth of a second."""
        return _loaded(self.identity, self.password)


@dataclass(frozen=True, slots=True)
class HospitalFiles(_Party):
    """One hospital's folder."""

    @property
    def roster(self) -> Path:
        """Who may be there."""
        return self.root / "roster.txt"

    @property
    def state(self) -> Path:
        """A folder, made when it is needed."""
        return self.root / "state"

    @property
    def journal(self) -> Journal:
        """What a watcher may know of it."""
        return Journal(self.root / "journal")

    def save_patients(self, hospital: Hospital) -> None:
        """Writes its training rows."""
        stream = io.BytesIO()
        np.savez(stream, x=hospital.train_x, y=hospital.train_y)
        write_private(self._patients, stream.getvalue(), existing=Existing.REFUSE)

    def load_patients(self) -> Patients:
        """Its training rows."""
        data = read_private(self._patients, maximum=_PATIENTS_BYTES)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return arrays["x"], arrays["y"]

    @property
    def _patients(self) -> Path:
        return self.root / "patients.npz"


@dataclass(frozen=True, slots=True)
class Coordinator(_Party):
    """The coordinator's folder: no key of a hospital is in it."""

    @property
    def records(self) -> Path:
        """A folder, made when it is needed."""
        return self.root / "records"

    @property
    def roster(self) -> RosterVersion:
        """Who may be there."""
        return read_roster(self.root / "roster.txt")

    def signed_records(self) -> SignedRecords | None:
        """The records that it signed; None where there is none.

        Raises:
            DecodeError, VerificationError: a file is no record, or is not signed.
        """
        if not self.records.is_dir() or not (paths := archived(self.records)):
            return None
        session = read_archived(paths[0]).session.hex()[:SHOWN_OF_A_SESSION]
        files = {path.name: path.read_bytes() for path in paths}
        line = load_public(self.identity).line + "\n"
        return SignedRecords(session=session, files={**files, PUBLIC_LINE: line.encode()})

    @property
    def journal(self) -> Journal:
        """What became of each round."""
        return Journal(self.root / "journal")


@dataclass(frozen=True, slots=True)
class Federation:
    """All folders of a federation on one machine."""

    root: Path

    def at(self, site: Site) -> HospitalFiles:
        """One hospital's."""
        return HospitalFiles(self.root / "hospitals" / site.value)

    @property
    def coordinator(self) -> Coordinator:
        """The coordinator's."""
        return Coordinator(self.root / "coordinator")


def founded(root: Path, *, hospitals: tuple[Hospital, ...]) -> Federation:
    """Makes keys and a roster that all have signed, and puts everything where it belongs.

    Args:
        root: a folder of this user's own, in which none of this stands yet.
        hospitals: the members, in their order.

    Raises:
        ParameterError: something stands there, or it cannot be written.
    """
    federation = Federation(root)
    if taken := [each for each in (root / "hospitals", federation.coordinator.root) if os.path.lexists(each)]:
        raise ParameterError(f"{str(taken[0])!r} is there already; a federation is founded in a fresh folder")
    identities = [Identity.generate(hospital.site.value) for hospital in hospitals]
    version = RosterVersion(Roster.of(*identities))
    for identity in identities:
        version = version.signed(identity)
    (root / "hospitals").mkdir(mode=0o700)
    for identity, hospital in zip(identities, hospitals, strict=True):
        files = federation.at(hospital.site)
        files.root.mkdir(mode=0o700)
        _save(identity, files.identity, files.password)
        write_roster(version, files.roster)
        files.save_patients(hospital)
    coordinator = federation.coordinator
    coordinator.root.mkdir(mode=0o700)
    _save(Identity.generate(_COORDINATOR), coordinator.identity, coordinator.password)
    write_roster(version, coordinator.root / "roster.txt")
    return federation


def _save(identity: Identity, path: Path, password_file: Path) -> None:
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    write_private(password_file, password.encode(), existing=Existing.REFUSE)
    save_identity(identity, path, password=password)


def _loaded(path: Path, password_file: Path) -> Identity:
    return load_identity(path, password=read_private(password_file, maximum=_PASSWORD_FILE_BYTES).decode())


def first_state() -> State:
    """The model that a training begins from, as `HeartModel` has it; the server needs no torch for it."""
    return {
        "linear.weight": np.zeros((1, len(FEATURES)), np.float32),
        "linear.bias": np.zeros(1, np.float32),
    }
