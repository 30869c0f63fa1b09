"""What one letter shows a site, and what of it the round binds.

A member shows nothing to an executor before it made this digest anew from what arrived: the task, the model,
and the configuration and code that the server deployed to this site (ATTACKS A9).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fl_integration.embedding.delivery import Contribution
from fl_integration.embedding.parcels import Purpose
from fl_integration.embedding.records import Kind, Record, array_digest, records_digest
from fl_integration.nvflare.filters_letters import MODEL, Letter, Model, Shown
from fl_integration.nvflare.filters_turn import Ask
from fl_integration.site.whole_files import read_whole
from secagg.errors import ParameterError, VerificationError

__all__ = ["SETTINGS", "Delivered", "round_digest", "settings_digest"]

SETTINGS: Final = "secagg.settings"
"""The record's name under which the digest of a round holds the settings."""
_MAXIMUM_FILE: Final = 1 << 28


class Delivered:
    """What one letter shows, and the executor that works on it."""

    def __init__(self, letter: Letter, *, task: str, settings: bytes, ask: Ask | None) -> None:
        self._letter, self._task, self._settings, self._ask = letter, task, settings, ask
        self._model: Model | None = None

    def digest(self, withheld: Mapping[str, bytes]) -> bytes:
        shown, model = self._shown(), self._delivered()
        if shown.task != self._task:
            raise VerificationError(f"a letter for the task {shown.task!r} came with the task {self._task!r}")
        if withheld.keys() - {MODEL}:  # a record under another name would be bound, and shown to nobody
            raise VerificationError("a record was withheld that is no model")
        return round_digest(
            shown, None if model is None else model.record(), settings=self._settings, withheld=withheld
        )

    def arrays(self) -> tuple[Mapping[str, Any], bytes] | None:
        model = self._delivered()
        return None if model is None else (model.arrays, array_digest(model.record()))

    def contribute(self, purpose: Purpose, model: Mapping[str, Any] | None, *, named: str) -> Contribution:
        if self._ask is None or model is None:
            raise ParameterError("an update was asked for without a task; sites train for tasks alone")
        return self._ask(Model(dict(model), self._shown().named_forms()))

    def _shown(self) -> Shown:
        if self._letter.shown is None:
            raise VerificationError("the letter shows nothing that an executor could work on")
        return self._letter.shown

    def _delivered(self) -> Model | None:
        if self._model is None and self._letter.arrays is not None:
            self._model = Model.from_bytes(self._letter.arrays, forms={})
        return self._model


def round_digest(
    shown: Shown, model: Record | None, *, settings: bytes, withheld: Mapping[str, bytes]
) -> bytes:
    """What a round binds: all that an executor sees.

    Args:
        shown: beside the model.
        model: the arrays, if they travel.
        settings: `settings_digest` of the sites.
        withheld: the digest of arrays that do not travel, by `MODEL`.
    """
    records = {"task": shown.record()} | ({} if model is None else {MODEL: model})
    return records_digest(records, replaced={**withheld, SETTINGS: settings})


def settings_digest(app: Path) -> bytes:
    """The digest (32 bytes) of what the server deployed to a site: its job's configuration and code.

    What Python compiled beside the code has each site's own times in it and is not bound. Who may deploy code
    could as well send any there: a site that gives no job that right (byoc) has no such folder.

    Raises:
        ParameterError: a file cannot be read.
    """
    files = [
        path
        for part in ("config", "custom")
        for path in sorted((app / part).rglob("*"))
        if path.is_file() and not (part == "custom" and "__pycache__" in path.relative_to(app).parts)
    ]
    found = {str(path.relative_to(app)): read_whole(path, maximum=_MAXIMUM_FILE) for path in files}
    return array_digest(Record(Kind.SETTINGS, dict(found)))
