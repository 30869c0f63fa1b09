"""An enrolment from a site's own files, and one for a rehearsal on one machine, whatever the engine.

In earnest each site's operator makes an identity and holds the roster that all agreed on (`secagg identity`,
`secagg roster`, KEYS.md), and tells the site's process where they are, by a way that no server has a hand in.

`rehearsed` is for a simulation: identities of all sites, made from one secret in one folder. Whoever can read
the folder is everybody, so what it protects is nothing; it shows that the app runs.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.site.keys import load_identity
from fl_integration.site.private_files import Existing, read_private, write_private
from fl_integration.site.roster_file import read_roster
from protocols.identity import ClientId, Identity, Roster
from secagg import labels
from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.standard.signing import SigningKey
from secagg.wire import Writer

__all__ = ["PASSWORD_VARIABLE", "enrolment_at", "rehearsed", "rehearsed_identities"]

PASSWORD_VARIABLE: Final = "SECAGG_PASSWORD"  # noqa: S105 - the name of a variable
_MAXIMUM_PASSWORD_FILE: Final = 4096
_MAXIMUM_IDENTITY: Final = 1 << 16
_SECRET_BYTES: Final = 32
_REHEARSED_SESSIONS: Final = 1_000_000


def enrolment_at(
    *,
    identity: str | os.PathLike[str],
    roster: str | os.PathLike[str],
    state: str | os.PathLike[str],
    password_file: str | os.PathLike[str] | None,
    setting: str,
) -> Enrolment:
    """The enrolment whose files lie at these paths.

    Args:
        identity: the site's own, under a password.
        roster: as this site's operator agreed to it.
        state: a folder for the site's state.
        password_file: holds the identity's password; None: the variable SECAGG_PASSWORD does.
        setting: under which name an operator names that file, for an error.

    Raises:
        ParameterError: a file is none of what it should be, or there is no password.
        VerificationError: the identity's file was changed.
    """
    return Enrolment(
        identity=_opened(identity, _password(password_file, setting)),
        roster=read_roster(roster),
        state_dir=state,
    )


_OPENED: Final[dict[str, tuple[bytes, Identity]]] = {}
"""By path: a digest of the identity's file and its password, and the identity that they gave."""


def _opened(path: str | os.PathLike[str], password: str) -> Identity:
    """The identity in a file; what the same file gave under the same password is not opened again.

    To open a key takes as long as a round, and a site enrols for each message, so that another roster holds
    at once. Whoever reads this process's memory finds the key there, opened, with or without the digest.
    """
    place = os.path.abspath(path)
    data = Writer().blob(read_private(path, maximum=_MAXIMUM_IDENTITY)).text(password).finish()
    digest = hashlib.sha256(data).digest()
    known = _OPENED.get(place)
    if known is None or known[0] != digest:
        known = _OPENED[place] = digest, load_identity(path, password=password)
    return known[1]


def _password(file: str | os.PathLike[str] | None, setting: str) -> str:
    if file is not None:
        return read_private(file, maximum=_MAXIMUM_PASSWORD_FILE).decode("utf-8", "replace").rstrip("\r\n")
    if (given := os.environ.get(PASSWORD_VARIABLE)) is not None:
        return given
    raise ParameterError(
        f"the identity's password is missing: name a file as {setting}, or set {PASSWORD_VARIABLE}"
    )


def rehearsed(folder: Path, contexts: Mapping[ClientId, str], client: ClientId) -> Enrolment:
    """The enrolment of one site of a rehearsal.

    Args:
        folder: of the rehearsal; the same folder gives the same sites.
        contexts: what each site's key is derived under.
        client: of the sites, whose.

    Raises:
        ParameterError: the folder cannot be used.
    """
    identities = rehearsed_identities(folder, contexts)
    return Enrolment(
        identity=identities[client],
        roster=Roster.of(*identities.values()),
        state_dir=folder / client,
        max_sessions=_REHEARSED_SESSIONS,
    )


def rehearsed_identities(folder: Path, contexts: Mapping[ClientId, str]) -> dict[ClientId, Identity]:
    """The identities of all sites of a rehearsal, in order; the folder is made if it is not there.

    Raises:
        ParameterError: the folder cannot be used.
    """
    secret = _rehearsal_secret(folder)
    return {
        client: Identity(
            client, SigningKey.from_secret(hkdf(secret, label=labels.REHEARSED, context=context.encode()))
        )
        for client, context in contexts.items()
    }


def _rehearsal_secret(folder: Path) -> Secret:
    """The secret of a rehearsal; the first process that asks makes it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"the folder {str(folder)!r} cannot be made: {error.strerror}") from error
    path = folder / "rehearsal.secret"
    if not path.exists():
        try:
            write_private(path, os.urandom(_SECRET_BYTES), existing=Existing.REFUSE)
        except ParameterError:
            if not path.exists():  # another process was faster, or nobody can write here
                raise
    return Secret(read_private(path, maximum=_SECRET_BYTES))
