"""Which sessions a site takes part in: each is admitted once, written down, and closes the ones before.

The ledger lies in the site's release log, by study and client, whatever the session: entry k says which
version of the roster, which epoch and which session id the k-th admitted session has. The log is durable,
inserts only and never forgets, so an old session does not open again although the site's state was lost or
restored from a backup, and a server that opens session after session, to ask again what it asked before, runs
into the site's `max_sessions`. A log that lost its file lost this memory too; the site's sealed state then
says so.

Epochs are milliseconds of the server's clock: an honest server that lost everything still goes up. A liar's
epoch far in the future would lock the honest one out, so one more than a day ahead is refused.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fl_integration.embedding.parcels import Place
from protocols.identity import ClientId
from protocols.interface import ReleaseLog
from protocols.membership import RosterVersion, digest_fingerprint, session_id
from protocols.messages.schema import U64, Key32, decode, encode
from secagg import labels
from secagg.errors import DecodeError, ParameterError, VerificationError
from secagg.wire import Writer

__all__ = ["Admitted", "Ledger", "check_version"]

AHEAD_SECONDS: Final = 24 * 3600.0
_PROBE: Final = b"\0"
"""What no entry is; an occupied place answers with what stands there."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session that was admitted.

    Attributes:
        version: of the roster.
        epoch: of the session.
        ordinal: how many sessions over this version were admitted, this one included.
        session: its id.
    """

    version: U64
    epoch: U64
    ordinal: U64
    session: Key32

    def before(self, place: Place) -> bool:
        """Whether `place` is a later session than this one."""
        return (self.version, self.epoch) < (place.version, place.epoch)


class Ledger:
    """The admitted sessions of one client in one study.

    Args:
        log: the site's release log.
        study: names the training.
        client: who.
        clock: seconds since 1970.
    """

    def __init__(
        self, log: ReleaseLog, *, study: bytes, client: ClientId, clock: Callable[[], float] = time.time
    ) -> None:
        self._log, self._clock = log, clock
        self._name = Writer().fixed(labels.ADMISSION).blob(study).text(client).finish()

    @property
    def last(self) -> Admitted | None:
        """The session that is open.

        Raises:
            ParameterError: the log holds something else in its place.
        """
        count = self._log.count(self._name)
        if not count:
            return None
        try:
            return decode(Admitted, self._log.insert(self._name, count - 1, 0, _PROBE))
        except DecodeError as error:
            raise ParameterError(
                f"the release log holds something else where this client's sessions stand: {error}"
            ) from error

    def admit(self, place: Place, version: RosterVersion, *, most: int) -> Admitted:
        """The session at `place`: the open one, or a new one that closes it.

        Args:
            place: checked against `version` by the caller.
            version: the roster's version as this site holds it.
            most: sessions that this site admits over one version.

        Raises:
            VerificationError: the session was closed, is from the future, or is one too many. It opens
            nothing.
        """
        session = session_id(place.study, version, place.epoch)
        last = self.last
        if last is not None and last.session == session:
            return last
        if last is not None and not last.before(place):
            raise VerificationError(
                f"a session over version {place.version} of the roster, epoch {place.epoch}, was asked for; "
                f"a later one (version {last.version}, epoch {last.epoch}) is open here, and closed it"
            )
        if place.epoch / 1000 > self._clock() + AHEAD_SECONDS:
            raise VerificationError(
                f"the session's epoch {place.epoch} (in milliseconds since 1970) is more than a day ahead of "
                "this site's clock; look at both clocks"
            )
        ordinal = last.ordinal + 1 if last is not None and last.version == place.version else 1
        if ordinal > most:
            raise VerificationError(
                f"the server opens session {ordinal} over version {place.version} of the roster; this site "
                f"admits {most}: agree on a next version, or raise max_sessions"
            )
        admitted = Admitted(place.version, place.epoch, ordinal, session)
        entry = encode(admitted)
        if self._log.insert(self._name, self._log.count(self._name), 0, entry) != entry:
            raise VerificationError("another process admits a session for this client at the same time")
        return admitted


def check_version(mine: RosterVersion, place: Place) -> None:
    """Returns if `place` is over the version of the roster that this site holds.

    Raises:
        VerificationError: it is over another one; the text has both fingerprints.
    """
    if place.roster == mine.digest and place.version == mine.version:
        return
    theirs = digest_fingerprint(place.roster)
    what = (
        "this site's is the older one: install the new roster here"
        if place.version > mine.version
        else "the server's is an older one"
        if place.version < mine.version
        else "they hold different members or keys: compare them line by line"
    )
    raise VerificationError(
        f"the server's roster is version {place.version} ({theirs}), this site's version {mine.version} "
        f"({mine.fingerprint}); {what}"
    )
