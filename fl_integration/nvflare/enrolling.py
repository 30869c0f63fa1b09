"""Where a site's enrolment comes from: the site's own files, or a rehearsal on one machine.

In earnest each site's operator makes an identity and holds the roster that all agreed on (`secagg identity`,
`secagg roster`, KEYS.md), and writes where they are into `secagg.json`, in the folder `local` of the site's
workspace, which is the operator's and which no server writes:

    {"identity": "/keys/site.pem", "roster": "/keys/roster.txt", "state": "/var/lib/secagg",
     "password-file": "/keys/password"}

`by_site_files` reads that. The password may stand in the environment instead, as SECAGG_PASSWORD. Nothing is
taken from the job: its properties and its folder are the server's, and a path into that folder is refused, as
is a state anywhere in the workspace, where the server's jobs may replace it.

`Rehearsed` is for NVFlare's simulator: identities of all sites, made from one secret in one folder. Whoever
can read the folder is everybody, so what it protects is nothing; it shows that the app runs.
"""

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.own_files import enrolment_at, rehearsed, rehearsed_identities
from fl_integration.nvflare.here import Here
from fl_integration.site.whole_files import read_whole
from protocols.identity import Roster, check_client_id
from secagg.errors import ParameterError

__all__ = ["SETTINGS_FILE", "Rehearsed", "by_site_files", "not_of_others", "outside_of_the_job"]

SETTINGS_FILE: Final = "secagg.json"
_STATE: Final = "state"
_NEEDED: Final = ("identity", "roster", _STATE)
_PASSWORD_FILE: Final = "password-file"  # noqa: S105 - the name of a setting
MOST_BYTES: Final = 1 << 16
_OTHERS_WRITE: Final = 0o022


def by_site_files(site_name: str) -> Enrolment:
    """The enrolment that `secagg.json` in the site's own folder names: for `secure_aggregation(..., ...)`.

    Paths in it are as the operator writes them; one that is not absolute begins at the file's folder.

    Raises:
        ParameterError: the file is not there, can be written by others, or lacks a setting; a path leads to
            where the server fills or removes folders; or a file that it names is none of what it should be.
        VerificationError: the identity's file was changed.
    """
    here = Here.now()
    paths = {name: _own(here, name, value) for name, value in _settings(here).items()}
    return enrolment_at(
        identity=paths["identity"],
        roster=paths["roster"],
        state=paths["state"],
        password_file=paths.get(_PASSWORD_FILE),
        setting=_PASSWORD_FILE,
    )


def _settings(here: Here) -> dict[str, str]:
    path = here.local / SETTINGS_FILE
    try:
        found: Any = json.loads(read_whole(path, maximum=MOST_BYTES, check=not_of_others))
    except ValueError as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{str(path)!r} is no JSON: {error}") from error
    allowed = {*_NEEDED, _PASSWORD_FILE}
    if type(found) is not dict or not set(_NEEDED) <= found.keys() <= allowed:
        raise ParameterError(
            f"{str(path)!r} holds paths by name: {', '.join(_NEEDED)} and, if the password is not in the "
            f"environment, {_PASSWORD_FILE}"
        )
    if odd := [name for name, value in found.items() if type(value) is not str or not value]:
        raise ParameterError(f"{odd[0]!r} in {str(path)!r} is no path")
    return found


def not_of_others(status: os.stat_result) -> None:
    """Returns if nobody else writes a file, who would say which key signs and where the state lies.

    Raises:
        ParameterError: others can.
    """
    if os.name == "posix" and (
        stat.S_IMODE(status.st_mode) & _OTHERS_WRITE or status.st_uid not in (os.geteuid(), 0)
    ):
        raise ParameterError(
            f"{SETTINGS_FILE} can be written by others than this user; run: chmod go-w, and look at what it "
            "says"
        )


def _own(here: Here, name: str, value: str) -> Path:
    return outside_of_the_job(here, name, here.local / value)


def outside_of_the_job(here: Here, name: str, path: Path) -> Path:
    """A path that a site's own file names.

    NVFlare unpacks a job into the folder of its name in the site's workspace, and removes what stands there
    before. The server names jobs: one called as the folder with a site's state wipes that, its release log
    too, and the site would say again, in the same session, what it never says twice (ATTACKS D9).

    Raises:
        ParameterError: it leads to where the server fills or removes folders.
    """
    real, workspace = path.resolve(), here.job.parent.resolve()
    if real.is_relative_to(here.job.resolve()):
        raise ParameterError(
            f"{name!r} leads into the folder of the job, which the server fills; a site's keys and state lie "
            "in a place of its own"
        )
    spared = name != _STATE and real.is_relative_to(here.local.resolve())
    if not here.simulated and real.is_relative_to(workspace) and not spared:
        raise ParameterError(
            f"{name!r} leads into NVFlare's workspace of this site, where a job of the folder's name would "
            "replace it; take a folder elsewhere"
        )
    return path


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """All sites of a simulation, on one machine.

    Args:
        folder: made if it is not there; holds the secret that all identities come from, and every site's
            state. The same folder gives the same sites.
        sites: their names, as NVFlare has them: `SimEnv(clients=[...])`.

    Raises:
        ParameterError: there are fewer than two sites, two of one name, or a name that no member may have.
    """

    folder: Path
    sites: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        named = () if isinstance(self.sites, str) else tuple(self.sites)
        object.__setattr__(self, "sites", named)
        if len(set(named)) != len(named) or len(named) < 2:
            raise ParameterError(
                f"sites is {self.sites!r}; a rehearsal has at least two, each of its own name"
            )
        for site in self.sites:
            check_client_id(site)

    @property
    def roster(self) -> Roster:
        """The roster of all sites.

        Raises:
            ParameterError: the folder cannot be used.
        """
        return Roster.of(*rehearsed_identities(self.folder, self._contexts()).values())

    def enrol(self, site_name: str) -> Enrolment:
        """The enrolment of a site: for `secure_aggregation(..., rehearsal.enrol, ...)`.

        Raises:
            ParameterError: it is none of these sites, or the folder cannot be used.
        """
        if site_name not in self.sites:
            raise ParameterError(
                f"this site is {site_name!r}; the rehearsal's are {', '.join(map(repr, self.sites))}"
            )
        return rehearsed(self.folder, self._contexts(), site_name)

    def _contexts(self) -> dict[str, str]:
        return {site: site for site in self.sites}
