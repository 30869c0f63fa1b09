"""NVFlare's own command line, asked for answers that a program reads.

It runs as a process, so that the one that asks has none of NVFlare's threads, handlers and loggers in it,
and so that what hangs can be ended.

>>> answer_in('a line of a library\\n{"status": "ok", "data": {"job_id": "7"}}').data
{'job_id': '7'}
>>> answer_in('{"status": "error", "error_code": "TIMEOUT"}').error
'TIMEOUT'
>>> answer_in("no answer").error
'NO_ANSWER'
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fl_integration.loopback.processes import script

__all__ = ["Answer", "answer_in", "ask"]

CONNECT_SECONDS: Final = 60
PRIVATE: Final = 0o077
"""What it writes, keys among it, is for this user alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the command line answered.

    Attributes:
        data: of its answer; empty when it has none.
        error: NVFlare's code for what went wrong, `NO_ANSWER` when it gave none, empty when all is well.
        said: all that it wrote, for a failure's text.
    """

    data: Mapping[str, Any]
    error: str
    said: str = ""


def ask(*arguments: str, folder: Path, environment: Mapping[str, str], seconds: float) -> Answer:
    """Runs `nvflare` with these arguments, in a folder.

    Raises:
        TimeoutError: it did not end in `seconds`; it is ended.
    """
    try:
        done = subprocess.run(
            [script("nvflare"), "--format", "json", "--connect-timeout", str(CONNECT_SECONDS), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=folder,
            env=environment,
            umask=PRIVATE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"nvflare {' '.join(arguments[:2])} did not end in {seconds:.0f} s") from None
    answer = answer_in(done.stdout)
    return Answer(data=answer.data, error=answer.error, said=f"{done.stdout}{done.stderr}")


def answer_in(text: str) -> Answer:
    """The answer in what the command line wrote: its last line, behind whatever libraries have printed."""
    lines = text.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return Answer(data={}, error="NO_ANSWER", said=text)
    error = "" if answer.get("status") == "ok" else str(answer.get("error_code", "NO_ANSWER"))
    return Answer(data=answer.get("data") or {}, error=error, said=text)
