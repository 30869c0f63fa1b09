"""Where an app's enrolment comes from: a site's own files, or a rehearsal on one machine.

In earnest each site's operator makes an identity and holds the roster that all agreed on (`secagg identity`,
`secagg roster`, KEYS.md), and tells the SuperNode where they are:

    flower-supernode ... --node-config 'secagg-identity="/keys/site.pem" secagg-roster="/keys/roster.txt"
        secagg-state="/state" secagg-password-file="/keys/password"'

`by_node_config` reads that. The password may stand in the environment instead, as SECAGG_PASSWORD.

`Rehearsed` is for a simulation: identities of all sites, made from one secret in one folder. Whoever can read
the folder is everybody, so what it protects is nothing; it shows that the app runs.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.flower.engine import Context
from fl_integration.site.keys import load_identity
from fl_integration.site.private_files import Existing, read_private, write_private
from fl_integration.site.roster_file import read_roster
from protocols.identity import Identity, Roster
from secagg import labels
from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.standard.signing import SigningKey

__all__ = ["Rehearsed", "by_node_config"]

PASSWORD_VARIABLE: Final = "SECAGG_PASSWORD"  # noqa: S105 - the name of a variable
_MAXIMUM_PASSWORD_FILE: Final = 4096
_SECRET_BYTES: Final = 32


def by_node_config(context: Context) -> Enrolment:
    """The enrolment that a SuperNode's `--node-config` names: for `secure_aggregation(..., by_node_config)`.

    Raises:
        ParameterError: a setting is missing, or a file that it names is none of what it should be.
        VerificationError: the identity's file was changed.
    """
    config = context.node_config
    found = {name: config.get(f"secagg-{name}") for name in ("identity", "roster", "state")}
    if missing := [f"secagg-{name}" for name, value in found.items() if not isinstance(value, str)]:
        raise ParameterError(
            f"the SuperNode's --node-config lacks {', '.join(missing)}: paths of this site's identity, of "
            "the roster and of a folder for its state"
        )
    identity, roster, state = (str(value) for value in found.values())
    return Enrolment(
        identity=load_identity(identity, password=_password(config.get("secagg-password-file"))),
        roster=read_roster(roster),
        state_dir=state,
    )


def _password(file: object) -> str:
    if isinstance(file, str):
        return read_private(file, maximum=_MAXIMUM_PASSWORD_FILE).decode("utf-8", "replace").rstrip("\r\n")
    if (given := os.environ.get(PASSWORD_VARIABLE)) is not None:
        return given
    raise ParameterError(
        f"the identity's password is missing: name a file as secagg-password-file, or set {PASSWORD_VARIABLE}"
    )


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """All sites of a simulation, on one machine.

    Args:
        folder: made if it is not there; holds the secret that all identities come from, and every site's
            state. The same folder gives the same sites.
        members: how many sites.

    Raises:
        ParameterError: the folder cannot be used, or there are fewer than two members.
    """

    folder: Path
    members: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if type(self.members) is not int or self.members < 2:
            raise ParameterError(f"members is {self.members!r}; a rehearsal has at least two sites")

    @property
    def roster(self) -> Roster:
        """The roster of all sites."""
        return Roster.of(*self._identities())

    def enrol(self, context: Context) -> Enrolment:
        """The enrolment of the site that a simulation's node plays, by its partition-id.

        Raises:
            ParameterError: the node has no partition-id, or one beyond the members.
        """
        place, identities = context.node_config.get("partition-id"), self._identities()
        if not isinstance(place, int) or not 0 <= place < self.members:
            raise ParameterError(
                f"this node's partition-id is {place!r}; a rehearsal of {self.members} sites has 0 to "
                f"{self.members - 1}"
            )
        mine = identities[place]
        return Enrolment(
            identity=mine,
            roster=Roster.of(*identities),
            state_dir=self.folder / mine.client,
            max_sessions=1_000_000,
        )

    def _identities(self) -> tuple[Identity, ...]:
        secret = self._secret()
        return tuple(
            Identity(
                f"site-{place}",
                SigningKey.from_secret(hkdf(secret, label=labels.REHEARSED, context=str(place).encode())),
            )
            for place in range(self.members)
        )

    def _secret(self) -> Secret:
        """The secret of this rehearsal; the first process that asks makes it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ParameterError(
                f"the folder {str(self.folder)!r} cannot be made: {error.strerror}"
            ) from error
        path = self.folder / "rehearsal.secret"
        if not path.exists():
            try:
                write_private(path, os.urandom(_SECRET_BYTES), existing=Existing.REFUSE)
            except ParameterError:
                if not path.exists():  # another process was faster, or nobody can write here
                    raise
        return Secret(read_private(path, maximum=_SECRET_BYTES))
