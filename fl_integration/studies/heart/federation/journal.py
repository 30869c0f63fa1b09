"""What an app writes down for whoever watches from outside: one line of JSON for each event.

A line is written whole, by one call, to the end of a file that only this user reads; a reader takes whole
lines only, so it may look while somebody writes, and what an app wrote before it was killed can be read.

What stands here leaves a hospital's process: numbers of rounds, and of the server the global model, which
goes to everybody. Nothing of a patient, and no update.

>>> import pathlib, tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     journal = Journal(pathlib.Path(folder) / "journal")
...     journal.add(Event.TRAINS, round=3)
...     journal.read()
[(<Event.TRAINS: 'trains'>, {'round': 3})]
"""

import json
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

__all__ = ["Event", "Journal"]


class Event(Enum):
    """What happened. Rounds count from 0."""

    ASKED = "asked"
    """The server asks for a round."""
    TRAINS = "trains"
    """A hospital begins to train in a round."""
    TRAINED = "trained"
    """It has trained; nothing has left it yet."""
    ENDED = "ended"
    """A round is over: its weight or None, reasons by node, and the model as it is now."""
    FAILED = "failed"
    """The server's app cannot go on."""


@dataclass(frozen=True, slots=True)
class Journal:
    """One app's events, in a file that is made by the first of them."""

    path: Path

    def add(self, event: Event, **values: Any) -> None:
        """Adds a line; values are of JSON's kinds."""
        line = json.dumps({"event": event.value, **values}, allow_nan=False) + "\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self) -> list[tuple[Event, dict[str, Any]]]:
        """All events so far, in their order; none where nothing was written yet."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().decode().split("\n")[:-1]  # behind the last end of a line is none
        found = [json.loads(line) for line in lines]
        return [(Event(each.pop("event")), each) for each in found]
