"""What the filter pair needs and no job says: keys, roster and folder, in a file of the site's own.

Who writes a job writes its filters' arguments, so no argument names a file. The site's operator does, in
`secagg.json` in the `local` folder of the site's workspace, or in the file that SECAGG_SITE_FILE names
(`{site}` in it stands for the site's name). It is the file of `enrolling`, and may say more:

    {"identity": "keys/hospital-a.pem", "password-file": "keys/password", "roster": "keys/roster.txt",
     "state": "state/heart", "policy": {"min_contributors": 3}}

Paths are relative to the file. The password may stand in the environment as SECAGG_PASSWORD. `policy` is
what this site insists on whatever the job says; `protocol`, if it is there, is the only one that it runs. The
server's file has the roster alone.

>>> protocol_of({"name": "LatticeSum", "keys": {"name": "PaillierSum"}, "max_clients": 3}).learns
<Learner.CLIENTS: 'clients'>
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.own_files import enrolment_at
from fl_integration.nvflare.engine import FLContext, FLContextKey
from fl_integration.nvflare.enrolling import SETTINGS_FILE, not_of_others, outside_of_the_job
from fl_integration.nvflare.here import Here
from fl_integration.nvflare.names import check_names
from fl_integration.site.roster_file import read_roster
from fl_integration.site.whole_files import read_whole
from protocols import CkksSum, LatticeSum, PaillierSum
from protocols.interface import Learner, Policy
from protocols.machine.parameters import Parameters
from protocols.membership import RosterVersion
from protocols.planning.requirements import Adversary, Requirements
from secagg.errors import ParameterError
from secagg.vectors.fixedpoint import Rounding, Segment

__all__ = ["SERVER", "SITE_FILE", "SiteFile", "here_of", "protocol_of"]

SITE_FILE: Final = "SECAGG_SITE_FILE"
PASSWORD_FILE: Final = "password-file"  # noqa: S105 - the name of a setting
SERVER: Final = "server"
_MAXIMUM: Final = 1 << 16
_KEYS: Final = frozenset({"identity", PASSWORD_FILE, "roster", "state", "policy", "protocol", "max_sessions"})
_PROTOCOLS: Final[Mapping[str, Callable[..., Parameters]]] = {
    "CkksSum": CkksSum,
    "LatticeSum": LatticeSum,
    "PaillierSum": PaillierSum,
}


def here_of(fl_ctx: FLContext) -> Here:
    """Where a task has arrived."""
    workspace, job = fl_ctx.get_engine().get_workspace(), fl_ctx.get_job_id()
    return Here(
        name=fl_ctx.get_identity_name(),
        caller=SERVER,
        simulated=fl_ctx.get_prop(FLContextKey.SIMULATE_MODE) is True,
        startup=Path(workspace.get_startup_kit_dir()),
        local=Path(workspace.get_site_config_dir()),
        job=Path(workspace.get_run_dir(job)),
        config=Path(workspace.get_app_config_dir(job)),
        props={},
        published=(),
    )


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A site's own file, as it was read.

    Attributes:
        here: the site.
        folder: where the file lies; relative paths in it begin there.
        said: what stands in it.
    """

    here: Here
    folder: Path
    said: Mapping[str, Any]

    @classmethod
    def of(cls, here: Here, *, called: str = "") -> "SiteFile":
        """The file of one site.

        Args:
            here: the site.
            called: the name that `{site}` stands for, if it is another one.

        Raises:
            ParameterError: it is not there, can be written by others, or is not what it should be.
        """
        named = os.environ.get(SITE_FILE)
        path = (
            here.local / SETTINGS_FILE
            if named is None
            else Path(named.replace("{site}", called or here.name))
        )
        try:
            said = json.loads(read_whole(path, maximum=_MAXIMUM, check=not_of_others))
        except ValueError as error:
            if isinstance(error, ParameterError):
                raise
            raise ParameterError(f"{str(path)!r} is no JSON: {error}") from error
        if not isinstance(said, dict):
            raise ParameterError(f"{str(path)!r} holds a {type(said).__name__}; it is an object of JSON")
        if odd := sorted(said.keys() - _KEYS):
            raise ParameterError(f"{str(path)!r} says {odd[0]!r}; it may say {', '.join(sorted(_KEYS))}")
        return cls(here, path.parent, said)

    @property
    def roster(self) -> RosterVersion:
        """The roster that it names."""
        return read_roster(self._path("roster"))

    def enrolment(self) -> Enrolment:
        """The part that this site takes in a study.

        Raises:
            ParameterError: a setting is missing, or a file is none of what it should be.
            VerificationError: the identity's file was changed; or the site, its certificate and its identity
                have not one name.
        """
        enrolment = enrolment_at(
            identity=self._path("identity"),
            roster=self._path("roster"),
            state=self._path("state"),
            password_file=self._path(PASSWORD_FILE) if PASSWORD_FILE in self.said else None,
            setting=PASSWORD_FILE,
        )
        check_names(self.here, enrolment.identity.client)
        return replace(
            enrolment,
            policy=_made(Policy, _arguments("policy", self.said.get("policy", {}))),
            max_sessions=self.said.get("max_sessions", enrolment.max_sessions),
        )

    def allows(self, protocol: Parameters) -> None:
        """Returns if this site runs a protocol.

        Raises:
            ParameterError: the file names another one.
        """
        mine = self.said.get("protocol")
        if mine is not None and protocol_of(mine).suite.digest != protocol.suite.digest:
            raise ParameterError(f"the job runs {protocol!r}, this site runs {protocol_of(mine)!r} alone")

    def _path(self, key: str) -> Path:
        value = self.said.get(key)
        if not isinstance(value, str) or not value:
            raise ParameterError(f"the site's file lacks {key!r}, a path")
        return outside_of_the_job(self.here, key, self.folder / value)


def protocol_of(said: object) -> Parameters:
    """A protocol as a job's configuration writes it.

    Args:
        said: {"name": "CkksSum", ...}, "PaillierSum" or "LatticeSum", the last with its "keys" written alike;
            and the parameters of the constructor. `requirements` is an object, `rounding` and `adversary` are
            names of members, parts of `clip` are [length, clip].

    Raises:
        ParameterError: it is anything else, or its clients do not learn the sum in one exchange.
    """
    values = _arguments("protocol", said)
    name = values.pop("name", None)
    if name not in _PROTOCOLS:
        raise ParameterError(
            f"the protocol's name is {name!r}; the filter pair runs {', '.join(sorted(_PROTOCOLS))}"
        )
    if "metrics" in values:
        raise ParameterError("the filter pair sums no metrics; leave 'metrics' out of the protocol")
    if "requirements" in values:
        wanted = _arguments("requirements", values["requirements"])
        if "adversary" in wanted:
            wanted["adversary"] = _member(Adversary, "adversary", wanted["adversary"])
        values["requirements"] = _made(Requirements, wanted)
    if "rounding" in values:
        values["rounding"] = _member(Rounding, "rounding", values["rounding"])
    if isinstance(values.get("clip"), list):
        values["clip"] = tuple(_segment(part) for part in values["clip"])
    if "keys" in values:
        keys = _arguments("keys", values["keys"])
        layer = keys.pop("name", None)
        if layer not in _PROTOCOLS or layer == "LatticeSum":
            raise ParameterError(
                f"the keys of a LatticeSum are summed by {layer!r}; write PaillierSum or CkksSum"
            )
        values["keys"] = partial(_PROTOCOLS[layer], **keys) if keys else _PROTOCOLS[layer]
    protocol: Parameters = _made(_PROTOCOLS[name], values)
    if protocol.learns is not Learner.CLIENTS or len(protocol.exchanges(first=False)) != 1:
        raise ParameterError(
            f"{name} with these keys takes more than one exchange a round; a pair of filters has one: take "
            '"keys": {"name": "PaillierSum"}, or the Collab adapter of this library'
        )
    return protocol


def _arguments(called: str, said: object) -> dict[str, Any]:
    if not isinstance(said, Mapping) or not all(isinstance(name, str) for name in said):
        raise ParameterError(f"{called} is a {type(said).__name__}; it is an object with names of parameters")
    return dict(said)


def _made(kind: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise ParameterError(f"a parameter that there is not: {error}") from None


def _member(kind: type[Any], called: str, name: object) -> Any:
    if not isinstance(name, str) or name not in kind.__members__:
        raise ParameterError(f"{called} is {name!r}; it is one of {', '.join(kind.__members__)}")
    return kind[name]


def _segment(part: object) -> Segment:
    if not isinstance(part, list) or len(part) != 2:
        raise ParameterError("a part of clip is [length, clip]")
    return Segment(length=part[0], clip=part[1])
