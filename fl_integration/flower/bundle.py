"""Two apps as Flower wants them: a folder with a `pyproject.toml` that names them.

The apps themselves are not in it: they are named by module and attribute and imported from where this library
lies, on both sides. So what runs at a site is what was installed there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

__all__ = ["Apps", "Value", "write_bundle"]

Value: TypeAlias = bool | int | float | str
"""What a setting may be."""

PYPROJECT: Final = """\
[project]
name = "{name}"
version = "1.0.0"
description = "Two apps that run together"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "secagg"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{client}"

[tool.flwr.app.config]
{config}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apps:
    """Two apps that run together.

    Attributes:
        server: `module:attribute` of a `ServerApp`.
        client: `module:attribute` of a `ClientApp`.
        config: the run's configuration, which both find in `context.run_config`.
    """

    server: str
    client: str
    config: Mapping[str, Value] = field(default_factory=dict)


def write_bundle(folder: Path, apps: Apps) -> None:
    """Makes `folder`, which must not be there, for `flwr run`."""
    folder.mkdir()
    config = "\n".join(f"{key} = {json.dumps(value)}" for key, value in apps.config.items())
    text = PYPROJECT.format(name=folder.name, server=apps.server, client=apps.client, config=config)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    # Flower refuses a bundle without a module, though it finds ours elsewhere.
    (folder / "placeholder.py").write_text("", encoding="utf-8")
