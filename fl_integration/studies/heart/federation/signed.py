"""The records of a run's rounds that its coordinator signed, as they go to whoever ran the study.

They are copied as they are, the coordinator's public line beside them, into a folder that is named after the
session. Each run has a session and a key of its own, so that two runs never share a folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PUBLIC_LINE", "SHOWN_OF_A_SESSION", "SignedRecords"]

PUBLIC_LINE: Final = "coordinator.pub"
SHOWN_OF_A_SESSION: Final = 8
"""Digits, as `secagg audit` shows a session."""
_FOLDER: Final = "records"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRecords:
    """What a coordinator kept.

    Attributes:
        session: the beginning of its id, in hexadecimal digits.
        files: by name: the records, and the coordinator's public line.
    """

    session: str
    files: Mapping[str, bytes]

    @property
    def place(self) -> Path:
        """Where they lie in a folder of results."""
        return Path(_FOLDER, self.session)
