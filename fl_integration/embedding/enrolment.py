"""What a site brings along to take part: who it is, whom it trusts to be there, and where it keeps its state.

A site's operator makes the identity and agrees on the roster with the others, once (`secagg identity new`,
`secagg roster new`). The folder holds what must outlive a process: the sealed state of the client's machines
and, where clients learn the sum, its copy of the model. The release log stands beside it and keeps the site
from answering twice (ATTACKS A14); it is also the ledger of the sessions that were admitted, so that an older
one never opens again, whoever restores what.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fl_integration.site.private_files import WithoutModes
from fl_integration.site.release_log import SqliteReleaseLog
from fl_integration.site.sealed_folder import SealedFolder
from protocols.identity import Identity, Roster
from protocols.interface import Policy, ReleaseLog
from protocols.membership import RosterVersion
from secagg import labels
from secagg.errors import ParameterError
from secagg.numbers import plain_fields
from secagg.secret import Secret
from secagg.standard.aead import KEY_BYTES
from secagg.standard.kdf import hkdf

__all__ = ["Enrolment"]

_LOG: Final = "releases.sqlite"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """One site's part in a study.

    Args:
        identity: this client and its long-term key.
        roster: who may be there, as this site's operator agreed to it; a plain `Roster` is version 1.
        state_dir: a folder of this site's own, made if it is not there. One for each study.
        state_key: 32 bytes under which the state is sealed; keep it where you keep the identity, not in the
            folder. None: derived from the identity's key.
        release_log: what keeps this site from answering twice. None: a file in `state_dir`. Better on storage
            of its own, and never in a backup together with the folder.
        policy: what this client insists on; its `release_log` is left out here. Another one holds from the
            next session on.
        max_sessions: how many sessions over one version of the roster this site admits. A server that lost
            its state opens a new one; in each it could ask again for what it asked before (ATTACKS A10).
        earlier: versions of the roster before this one, oldest first, that this site may have missed: each
            must succeed the one before it.
        without_modes: what to do where file modes keep nobody out.

    Raises:
        ParameterError: an argument is anything else, or the roster does not hold this identity.
    """

    identity: Identity
    roster: Roster | RosterVersion
    state_dir: str | os.PathLike[str]
    state_key: Secret | None = field(default=None, repr=False)
    release_log: ReleaseLog | None = None
    policy: Policy = field(default_factory=Policy)
    max_sessions: int = 64
    earlier: tuple[RosterVersion, ...] = ()
    without_modes: WithoutModes = WithoutModes.REFUSE

    def __post_init__(self) -> None:
        plain_fields(self, "max_sessions")
        if not isinstance(self.identity, Identity):
            raise ParameterError(
                f"identity is a {type(self.identity).__name__}; load_identity gives an Identity"
            )
        if not isinstance(self.roster, Roster | RosterVersion):
            raise ParameterError(
                f"roster is a {type(self.roster).__name__}; read_roster gives a RosterVersion"
            )
        key = self.state_key
        if key is not None and (not isinstance(key, Secret) or len(key) != KEY_BYTES):
            raise ParameterError(
                f"state_key is a secagg.secret.Secret of {KEY_BYTES} bytes, kept by this site"
            )
        if not isinstance(self.policy, Policy) or self.policy.release_log is not None:
            raise ParameterError(
                "policy is a protocols.Policy without a release_log; pass that as release_log="
            )
        if type(self.max_sessions) is not int or self.max_sessions < 1:
            raise ParameterError(
                f"max_sessions is {self.max_sessions!r}; it must be an integer of at least 1"
            )
        roster, mine = self.version.roster, self.identity
        if mine.client not in roster or roster.public_key(mine.client) != mine.key.public_key:
            raise ParameterError(
                f"the roster does not hold {mine.client!r} with this identity's public key; its members are "
                f"{', '.join(roster.members)}"
            )

    @property
    def version(self) -> RosterVersion:
        """The roster with its place in the line of versions."""
        return self.roster if isinstance(self.roster, RosterVersion) else RosterVersion(self.roster)

    @property
    def sealing_key(self) -> Secret:
        """32 bytes under which the state is sealed."""
        if self.state_key is not None:
            return self.state_key
        return hkdf(self.identity.key.secret, label=labels.MEMBER_STATE)

    def files(self) -> SealedFolder:
        """The folder with the site's state."""
        return SealedFolder(self.state_dir, key=self.sealing_key, without_modes=self.without_modes)

    @contextmanager
    def opened_log(self) -> Iterator[ReleaseLog]:
        """The release log: the one that was given, or the file of this site, closed afterwards."""
        if self.release_log is not None:
            yield self.release_log
            return
        with SqliteReleaseLog(Path(self.state_dir) / _LOG) as log:
            yield log
