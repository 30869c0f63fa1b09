"""What NVFlare is told to make for a deployment on this machine, and what each operator would set then.

NVFlare's provisioning gives everybody a kit: a certificate of one authority whose common name is the
participant's name, its key, where the server is, and default policies, which the operators of a site and of
the server may change in the kit's `local`. This is what those operators do here.

Whose code runs at a site is the first question of security. NVFlare ships a job's code to the sites, and who
may submit jobs can then run anything there, before any mask is drawn: its default policy lets the
coordinator. `Code.OF_THE_SITE` is the answer: a job that brings code is refused by the server and by each
site on its own, and a job may only name classes on the site's list, code that is installed there. What a
site logs stays there in either case; by default its errors go to the server.

NVFlare's list is one of prefixes, and it calls whatever a name leads to with the job's arguments, functions
that a module imports included. So the list names classes and never a package: from a package of this library
a job could write these very policies, or start a process in an environment of its own. It replaces the list
that NVFlare makes, on which are trainers that read tables from a folder of the job's choice, in the clear.

And a site runs without its working folder on Python's path (`PATH_VARIABLE`): jobs are unpacked there, and a
module is found by any name, `<job>.app_<site>.config.anything` too. Against whoever submits jobs that is
enough. A server whose own program lies has a moment more: NVFlare unpacks a job's code before it refuses it.

>>> project(port=8002, ports={"va": 8002})["participants"][1]["connect_to"]
{'host': 'localhost', 'port': 8002}
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from secagg.errors import ParameterError

__all__ = [
    "ADMIN",
    "HOST",
    "PATH_VARIABLE",
    "PROJECT",
    "SERVER",
    "Code",
    "checked_sites",
    "forget_authority",
    "project",
    "settle",
]

SERVER: Final = "server"
"""The server's name for whoever uses a deployment."""
HOST: Final = "localhost"
"""The server's name in its certificate: the host under which sites reach it."""
ADMIN: Final = "admin@hospitals.invalid"
PROJECT: Final = "secagg"
SITE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""What NVFlare takes for a site, at most as long as it takes for a common name."""
TAKEN_NAMES: Final = {SERVER, HOST, ADMIN, "all", "client"}
COLLAB_CLASSES: Final = (
    "nvflare.collab.api.module_wrapper.ModuleWrapper",
    "nvflare.collab.runtime.controller.CollabController",
    "nvflare.collab.runtime.executor.CollabExecutor",
)
"""Classes that every job over the Collab API names, and that NVFlare's own list leaves out."""
OWN_CLASSES: Final = (
    "fl_integration.nvflare.filters.ModelOpener",
    "fl_integration.nvflare.filters.UpdateSealer",
    "fl_integration.nvflare.filters_server.SealedSum",
)
"""Those of this library that a job may name."""
PATH_VARIABLE: Final = "PYTHONSAFEPATH"
"""Set, it keeps Python from importing what lies in the working folder of a site, where jobs are unpacked."""
RIGHTS: Final = {
    **dict.fromkeys(("submit_job", "manage_job", "download_job", "view", "operate"), "any"),
    **dict.fromkeys(("clone_job", "shell_commands", "byoc", "server-predeployed-flwr"), "none"),
}
"""What the coordinator may do at sites that run their own code; `byoc` is to bring code."""
NVFLARE_STORE: Final = "/tmp/nvflare"  # noqa: S108  NVFlare's default, which is replaced
DAYS: Final = 1


class Code(Enum):
    """Whose code runs at a site."""

    OF_THE_SITE = auto()
    """What is installed there: a job that brings code is refused, and one that names other classes fails."""
    OF_THE_JOB = auto()
    """What comes with a job, NVFlare's default: who may submit jobs may run anything at every site."""


def checked_sites(sites: Sequence[str]) -> tuple[str, ...]:
    """The names of sites, which become folders, common names and host names.

    Raises:
        ParameterError: there is none, two are one, or one is not letters, digits, `_` and `-`, at most 63.
    """
    if isinstance(sites, str) or not sites:
        raise ParameterError(f"sites is {sites!r}; give a tuple of at least one site's name")
    for site in sites:
        if not isinstance(site, str) or not SITE_NAME.fullmatch(site) or site.lower() in TAKEN_NAMES:
            raise ParameterError(
                f"{site!r} is no name for a site; letters, digits, '_' and '-' are, at most 63, but for "
                f"{', '.join(sorted(TAKEN_NAMES))}"
            )
    if len({site.lower() for site in sites}) < len(sites):
        raise ParameterError("two sites have one name; give each another, in more than upper and lower case")
    return tuple(sites)


def project(*, port: int, ports: Mapping[str, int]) -> dict[str, Any]:
    """What NVFlare is to provision, as the content of its project file; JSON is YAML.

    Args:
        port: the server's, for the sites and for its administrator.
        ports: for each site, the port of this machine to which it connects in place of the server's.
    """
    builders: dict[str, dict[str, Any]] = {
        "workspace.WorkspaceBuilder": {},
        "static_file.StaticFileBuilder": {"config_folder": "config"},
        "cert.CertBuilder": {"root_valid_days": DAYS},
        "signature.SignatureBuilder": {},
    }
    server = {"name": HOST, "type": "server", "org": PROJECT, "fed_learn_port": port, "admin_port": port}
    sites = [
        {"name": site, "type": "client", "org": PROJECT, "connect_to": {"host": HOST, "port": own}}
        for site, own in ports.items()
    ]
    admin = {"name": ADMIN, "type": "admin", "org": PROJECT, "role": "project_admin"}
    return {
        "api_version": 3,
        "name": PROJECT,
        "description": "hospitals on one machine",
        "participants": [server, *sites, admin],
        "builders": [
            {"path": f"nvflare.lighter.impl.{path}", "args": args} for path, args in builders.items()
        ],
    }


def forget_authority(kits: Path) -> None:
    """Deletes what NVFlare keeps to provision again: the authority's key and everybody's, in one file."""
    shutil.rmtree(kits / PROJECT / "state")


def settle(kit: Path, *, code: Code, store: Path) -> None:
    """Writes a site's or the server's own policies into its kit.

    Args:
        kit: the folder with `startup` and `local`.
        code: whose code runs there.
        store: where the server keeps its jobs.
    """
    local = kit / "local"
    resources = (local / "resources.json.default").read_text(encoding="utf-8")
    settings = json.loads(resources.replace(NVFLARE_STORE, str(store)))
    settings["allow_log_streaming"] = False  # a site sends the server the errors that it logs otherwise
    if code is Code.OF_THE_SITE:
        settings["class_allow_list"] = [*COLLAB_CLASSES, *OWN_CLASSES]
        policy = json.loads((local / "authorization.json.default").read_text(encoding="utf-8"))
        policy["permissions"] = {"project_admin": RIGHTS}
        (local / "authorization.json").write_text(json.dumps(policy), encoding="utf-8")
    (local / "resources.json").write_text(json.dumps(settings), encoding="utf-8")
