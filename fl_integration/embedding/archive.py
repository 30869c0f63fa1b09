"""The signed record of each round, kept in a folder: one file a round, for whoever accounts for it later.

A record (`protocols.messages.record`) says who was asked, who is in the sum, who was lost and why, and under
which plan; no value of an update is in it. The coordinator signs it with a key of its own, made as a site's
is (`secagg identity new`), whose fingerprint the hospitals and their auditors compare by telephone: a key
that each session draws anew would let whoever holds the folder sign another history tomorrow.

A file holds the record and a head. The head's study, epoch and the roster's digest are bound: their hash is
the session that the record names. The number of the roster's version and **the time at which the round ended
are in the head too, and nobody signs them**: the protocols read no clock. The epoch is the coordinator's
clock when the session opened, in milliseconds.

A record proves that the holder of the key said so, and that it tells no other auditor something else about
that round, if the two compare. It does not prove that it is true: a coordinator that lies signs lies, though
the transcript's digest, over every message that it accepted, shows them to whoever is given the messages.
Nor that none was taken away: a study's rounds are numbered without a gap, which shows one that is missing at
the beginning or between two others, and not one at the end.

>>> import tempfile
>>> from protocols import Identity
>>> key = Identity.generate("coordinator")
>>> with tempfile.TemporaryDirectory() as folder:
...     archive = Archive(folder, identity=key)
...     archived(folder)
[]
"""

import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fl_integration.embedding.parcels import Place, Purpose, purpose_session
from fl_integration.site.private_files import WithoutModes, write_private
from fl_integration.site.whole_files import Existing, read_whole
from protocols.identity import Identity
from protocols.membership import digest_session_id
from protocols.messages.record import RoundRecord, SignedRecord
from protocols.messages.schema import U8, U64, decode, encode
from secagg.errors import DecodeError, ParameterError, VerificationError

__all__ = ["Archive", "ArchivedRound", "Gap", "archived", "gaps", "read_archived"]

SUFFIX: Final = ".record"
MAGIC: Final = b"SAGR"
VERSION: Final = 1
_MAXIMUM: Final = 1 << 26
"""A cohort of ten thousand, all of whom were lost for reasons of the greatest length, is less."""
_FOLDER: Final = 0o700
_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class ArchivedRound:
    """One file.

    Attributes:
        place: which session, as the coordinator names it to the sites.
        purpose: what was summed.
        ended: milliseconds since 1970 by the coordinator's clock, when it put the record here. Not signed.
        signed: the record, and the coordinator's signature on it.
    """

    place: Place
    purpose: U8
    ended: U64
    signed: SignedRecord

    @property
    def record(self) -> RoundRecord:
        """What is signed."""
        return self.signed.record

    @property
    def session(self) -> bytes:
        """The id of the session that the place names, 32 bytes."""
        return digest_session_id(self.place.study, self.place.roster, self.place.epoch)

    @property
    def name(self) -> str:
        """How the file is called: the session, the purpose and the round."""
        session, purpose = self.session.hex()[:_SHOWN], Purpose(self.purpose).name.lower()
        return f"{session}-{purpose}-{self.record.round:06}{SUFFIX}"

    def check(self) -> None:
        """Returns if the record is signed, by whomever, and belongs to the head.

        Raises:
            VerificationError: the signature is not that of the key that stands beside it, or the head names
                another session than the record, or no purpose.
        """
        self.signed.verify(self.signed.public_key)
        if self.purpose not in {each.value for each in Purpose}:
            raise VerificationError(f"a sum for purpose {self.purpose}, which there is not")
        try:
            named = purpose_session(self.session, Purpose(self.purpose))
        except ParameterError as error:
            raise VerificationError(f"the head names no session: {error}") from error
        if self.record.session != named:
            raise VerificationError("the head names another session than the record that was signed")


@dataclass(frozen=True, slots=True)
class Gap:
    """Rounds in [first, end), of a session or before it, that have no record."""

    session: bytes
    purpose: Purpose
    first: int
    end: int


class Archive:
    """Where a coordinator keeps the records of its rounds, and the key that signs them.

    Args:
        folder: made, for its owner alone, if it is not there; its files have mode 0600.
        identity: the coordinator's, as `secagg identity new` makes it.
        without_modes: what to do where file modes keep nobody out.

    Raises:
        ParameterError: the folder cannot be made, or `identity` is no Identity.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        identity: Identity,
        without_modes: WithoutModes = WithoutModes.REFUSE,
    ) -> None:
        if not isinstance(identity, Identity):
            raise ParameterError(f"records are signed by an Identity, not {type(identity).__name__}")
        self.folder, self.identity, self._without_modes = Path(folder), identity, without_modes
        try:
            self.folder.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
        except OSError as error:
            raise ParameterError(
                f"the folder {str(folder)!r} for records cannot be made: {error.strerror}"
            ) from error

    def keep(self, place: Place, purpose: Purpose, signed: SignedRecord, *, ended: float) -> None:
        """Puts the record of a round into the folder; the same one again changes nothing.

        Args:
            place: the session.
            purpose: what was summed.
            signed: under this archive's key.
            ended: seconds since 1970.

        Raises:
            ParameterError: the disk refuses, or another record of this round stands there. A training that is
                to leave a record of each round stops here.
            VerificationError: the record is signed under another key, or is of another session.
            DecodeError: something else stands there under the record's name.
        """
        made = ArchivedRound(place, purpose.value, max(int(ended * 1000), 0), signed)
        signed.verify(self.identity.key.public_key)
        made.check()
        path = self.folder / made.name
        if os.path.lexists(path):
            if read_archived(path).signed != signed:
                raise ParameterError(
                    f"{str(path)!r} is another record of the same round: the coordinator's state was put "
                    "back, or two coordinators share a folder. Take another folder for the state, which "
                    "opens another session"
                )
            return
        data = MAGIC + bytes([VERSION]) + encode(made)
        write_private(path, data, existing=Existing.REFUSE, without_modes=self._without_modes)


def archived(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of records in a folder, by name; nothing else that lies there.

    Raises:
        ParameterError: the folder cannot be read.
    """
    try:
        return sorted(each for each in Path(folder).iterdir() if _is_record(each.name))
    except OSError as error:
        raise ParameterError(f"the folder {str(folder)!r} cannot be read: {error.strerror}") from error


def _is_record(name: str) -> bool:
    return name.endswith(SUFFIX) and not name.startswith(".")


def read_archived(path: str | os.PathLike[str]) -> ArchivedRound:
    """The round in a file: whole, signed by the key that it names, of its session, under its own name.

    Whose key that is, the caller knows: `signed.verify(public_key)`. The file may be anybody's, so that
    copies can be given away.

    Raises:
        ParameterError: there is no such file, or it cannot be read.
        DecodeError: it holds something else.
        VerificationError: the signature, the session or the name is another one's.
    """
    place = Path(path)
    data = read_whole(place, maximum=_MAXIMUM)
    if data[: len(MAGIC)] != MAGIC:
        raise DecodeError("this is no record of a round")
    if (version := data[len(MAGIC) : len(MAGIC) + 1]) != bytes([VERSION]):
        raise DecodeError(f"a record of version {version.hex() or 'none'}; this release reads {VERSION:02}")
    found = decode(ArchivedRound, data[len(MAGIC) + 1 :])
    found.check()
    if found.name != place.name:
        raise VerificationError(f"the file holds what belongs into {found.name!r}")
    return found


def gaps(rounds: Iterable[ArchivedRound]) -> list[Gap]:
    """Where rounds have no record, before the first and between two under one key of a session and purpose.

    A study's rounds go on counting from session to session, or begin at 0 where the coordinator lost its
    state. One that could not begin has none: its cohort was too small, say, or its model too long.
    """
    sessions: dict[tuple[int, bytes, bytes, int], dict[bytes, set[int]]] = {}
    for each in rounds:
        session = each.place.epoch, each.session, each.place.study, each.purpose
        signed = sessions.setdefault(session, {})
        signed.setdefault(each.signed.public_key, set()).add(each.record.round)
    missing, following = list[Gap](), dict[tuple[bytes, int], int]()
    for (_, name, study, purpose), by_key in sorted(sessions.items(), key=lambda each: each[0]):
        expected = following.get((study, purpose), 0)
        for numbers in by_key.values():
            found = sorted(numbers)
            missing += [
                Gap(name, Purpose(purpose), before + 1, after)
                for before, after in itertools.pairwise([min(expected, found[0]) - 1, *found])
                if after > before + 1
            ]
            following[study, purpose] = max(following.get((study, purpose), 0), found[-1] + 1)
    return missing
