"""What a site keeps between two messages: sealed files in a folder that the server cannot rewind.

Each file is written whole or not at all, readable by its owner alone, and sealed under the site's key
together with its own name, so that nobody swaps two of them. Sealing does not stop a rollback: whoever puts
an older copy back is noticed by the release log, which stands beside the files and is no part of them.

`alone` keeps a second process out while the first works on the folder's files of one name: two nodes that
were given one identity would otherwise both go on from one state. The lock is the database engine's, so it
holds on every system and falls with its process.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     files = SealedFolder(folder, key=Secret(bytes(32)))
...     files.write("state", b"secret")
...     files.read("state"), files.read("other")
(b'secret', None)
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from fl_integration.site.private_files import WithoutModes, create_private, read_private, write_private
from secagg import labels
from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.standard.aead import KEY_BYTES, open_sealed, seal
from secagg.wire import Writer

__all__ = ["SealedFolder"]

_PRIVATE_FOLDER: Final = 0o700
_SUFFIX: Final = ".sealed"
_MAXIMUM_PUT: Final = 1 << 32


class SealedFolder:
    """A folder of sealed files.

    Args:
        path: made, for its owner alone, if it is not there.
        key: 32 bytes of this site, the same in every process that opens the folder.
        without_modes: what to do where file modes keep nobody out.

    Raises:
        ParameterError: the folder cannot be made, or the key is no Secret of 32 bytes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key: Secret,
        without_modes: WithoutModes = WithoutModes.REFUSE,
    ) -> None:
        if not isinstance(key, Secret) or len(key) != KEY_BYTES:
            raise ParameterError(f"a folder is sealed under a Secret of {KEY_BYTES} bytes")
        self.path, self.key, self._without_modes = Path(path), key, without_modes
        try:
            self.path.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        except OSError as error:
            raise ParameterError(f"the folder {str(path)!r} cannot be made: {error.strerror}") from error

    def read(self, name: str) -> bytes | None:
        """What was written under this name last; None if nothing was.

        Raises:
            ParameterError: the file is open to others, or cannot be read.
            VerificationError: it was changed, was written under another name, or under another key.
        """
        sealed = self.get(name)
        if sealed is None:
            return None
        return open_sealed(self.key, sealed, associated_data=_context(name)).reveal()

    def write(self, name: str, data: bytes) -> None:
        """Replaces what stands under this name, whole or not at all.

        Args:
            name: any text.
            data: at most 1 GiB.

        Raises:
            ParameterError: the disk refuses, or the data is too long. What stood there still stands.
        """
        self.put(name, seal(self.key, data, associated_data=_context(name)))

    def put(self, name: str, data: bytes) -> None:
        """Replaces what stands under this name by bytes that are sealed already, whole or not at all.

        Raises:
            ParameterError: the disk refuses. What stood there still stands.
        """
        write_private(self._place(name), data, without_modes=self._without_modes)

    def get(self, name: str) -> bytes | None:
        """What `put` wrote under this name last, as it stands there; None if nothing does.

        Raises:
            ParameterError: the file is open to others, or cannot be read.
        """
        place = self._place(name)
        try:
            place.lstat()
        except FileNotFoundError:
            return None
        except OSError as error:  # a folder that cannot be looked into is no folder without the file
            raise ParameterError(f"{str(place)!r} cannot be read: {error.strerror}") from error
        return read_private(place, maximum=_MAXIMUM_PUT, without_modes=self._without_modes)

    def remove(self, name: str) -> None:
        """Removes what stands under this name, if anything does.

        Raises:
            ParameterError: the disk or the folder refuses.
        """
        place = self._place(name)
        try:
            place.unlink(missing_ok=True)
        except OSError as error:
            raise ParameterError(f"{str(place)!r} cannot be removed: {error.strerror}") from error

    @contextmanager
    def alone(self, name: str, *, patience: float) -> Iterator[None]:
        """While inside, nobody else is inside under this name, in whatever process.

        Args:
            name: any text.
            patience: seconds to wait for somebody else to leave.

        Raises:
            ParameterError: somebody else is still inside, or the folder cannot be written to.
        """
        place = self._place(name).with_suffix(".lock")
        with ExitStack() as stack:
            create_private(place)
            try:
                lock = stack.enter_context(
                    closing(sqlite3.connect(place, timeout=patience, isolation_level=None))
                )
                lock.execute("BEGIN EXCLUSIVE")
            except sqlite3.Error as error:
                raise ParameterError(
                    f"another process works with {str(place)!r} ({error}): two nodes with one identity and "
                    "one folder? Give each its own"
                ) from error
            yield

    def _place(self, name: str) -> Path:
        # A client's id may hold what a file's name may not; the folder tells nobody who is who.
        return self.path / (hashlib.sha256(name.encode()).hexdigest()[:32] + _SUFFIX)


def _context(name: str) -> bytes:
    return Writer().fixed(labels.MEMBER_STATE).text(name).finish()
