"""Fresh interpreters: what a program prints in one, and one in which a library is missing."""

import subprocess
import sys
import textwrap
from pathlib import Path

__all__ = ["BLOCKER", "ROOT", "run"]

ROOT = Path(__file__).resolve().parents[1]

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError("blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> str:
    """What a fresh interpreter prints. It sees this checkout first."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
