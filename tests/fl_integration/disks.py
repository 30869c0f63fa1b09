"""Where tests of engines keep what sites force to their disks with every message."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder on a disk of memory, where there is one: a site waits for its disk several times a message."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)
