"""Where a call of Collab has arrived: the site's own facts, and what its code sees of the job.

A job's configuration comes from the server: constructor arguments of the client's object, and properties that
`collab.get_app_prop` gives, each site its own if the server likes. A site's code that is given another number
of epochs than the others' is A9 once more. So both are settings, of which a round binds the digest: the files
of the job's configuration as they were deployed here, and the properties as they stand in memory.

A server can deploy a job anew while it runs: the files are those of all sites by then, and the object was
made from others. So files count that are older than the process, which read them when it began; the time at
which a file was changed is the system's own, and whoever unpacks a job does not choose it. In NVFlare's
simulator, where one machine is everybody, processes begin before their jobs, and nobody looks.

Properties are settings then, and nothing else: code that keeps its own objects there
(`collab.set_app_prop`) has a place of its own for them, in its module or its object.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from fl_integration.embedding.records import Kind, Record, array_digest
from fl_integration.nvflare.engine import FL_CONTEXT_PROP, FLContextKey, collab
from fl_integration.site.whole_files import read_whole
from secagg.errors import ParameterError

__all__ = ["Here"]

MOST_BYTES: Final = 1 << 24
"""Of one file of a job's configuration."""
MOST_FILES: Final = 256
_SCALARS: Final = (type(None), bool, int, float, str)
_AFTER_PID: Final = 19
"""Where /proc/self/stat has the start of the process, in the fields behind its name: proc(5), starttime."""


def _began() -> float:
    """When this process began, in seconds since 1970; where the system does not say, now."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(fields[_AFTER_PID]) / os.sysconf("SC_CLK_TCK")
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot
    except (OSError, AttributeError):  # another system than Linux
        return time.time()


BEGAN: Final = _began()
"""When the process began that reads this; without /proc when it imported this module."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """The site at which a call arrived.

    Attributes:
        name: of the site, as it is registered with NVFlare.
        caller: who calls, as NVFlare authenticated it: "server", or another site.
        simulated: NVFlare's simulator runs this process, on one machine with the server.
        startup: the folder of the site's startup kit.
        local: the folder of the site's own settings, which no server writes.
        job: the folder into which the server's job was deployed.
        config: the folder of the job's configuration.
        props: of the site's app, as its code sees them.
        published: the names of what the app publishes, and their parameters.
    """

    name: str
    caller: str
    simulated: bool
    startup: Path
    local: Path
    job: Path
    config: Path
    props: Mapping[str, Any] = field(repr=False)
    published: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def now(cls) -> Self:
        """Of the call at hand; inside of a published method."""
        app, context, workspace = collab.context.app, collab.fl_ctx, collab.workspace
        job = context.get_job_id()
        return cls(
            name=collab.site_name,
            caller=collab.caller,
            simulated=context.get_prop(FLContextKey.SIMULATE_MODE) is True,
            startup=Path(workspace.get_startup_kit_dir()),
            local=Path(workspace.get_site_config_dir()),
            job=Path(workspace.get_run_dir(job)),
            config=Path(workspace.get_app_config_dir(job)),
            props={name: value for name, value in app.get_props().items() if name != FL_CONTEXT_PROP},
            published=tuple(
                (name, tuple(each["name"] for each in parameters))
                for methods in app.get_collab_interface().values()
                for name, parameters in methods.items()
            ),
        )

    def settings(self) -> bytes:
        """The digest (32 bytes) of what the job sets for this site's code.

        Raises:
            ParameterError: a property is no plain value, or the configuration is no folder of files, or one
                that was changed after this process began.
        """
        found: dict[str, Any] = {f"file {name}": data for name, data in self._files().items()}
        for name, value in self.props.items():
            _check_plain(str(name), value)
            # In the order that the server gave them: a function may walk over a property.
            found[f"property {name}"] = json.dumps(value)
        return array_digest(Record(Kind.SETTINGS, found))

    def _files(self) -> dict[str, bytes]:
        """The digest of each file, by name: together they may be larger than a site's memory."""
        found = {}
        for folder, _, names in os.walk(self.config, onerror=_unreadable):
            self._check_read_at_start(os.stat(folder))
            for name in names:
                path = Path(folder) / name
                data = read_whole(path, maximum=MOST_BYTES, check=self._check_read_at_start)
                found[path.relative_to(self.config).as_posix()] = hashlib.sha256(data).digest()
                if len(found) > MOST_FILES:
                    raise ParameterError(f"the job's configuration has more than {MOST_FILES} files")
        return found

    def _check_read_at_start(self, status: os.stat_result) -> None:
        if not self.simulated and status.st_ctime > BEGAN:
            raise ParameterError(
                "the job's configuration was changed after its process began, which works by another one "
                "than stands there: let the server start the job again, and look at this machine's clock if "
                "nobody deployed it anew"
            )


def _unreadable(error: OSError) -> None:
    raise ParameterError(f"the job's configuration cannot be read here: {error.strerror}") from error


def _check_plain(name: str, value: object) -> None:
    """Returns if a property is a value that JSON has, of exactly these types."""
    if type(value) is list:
        for each in value:
            _check_plain(name, each)
    elif type(value) is dict and all(type(key) is str for key in value):
        for each in value.values():
            _check_plain(name, each)
    elif type(value) not in _SCALARS:
        raise ParameterError(
            f"the app's property {name!r} is, or holds, a {type(value).__name__}; properties are settings "
            "that all sites have alike: keep objects of this site's own in its module or its object"
        )
