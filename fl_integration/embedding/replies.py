"""The large replies of a site's machine, in files of their own.

A machine keeps what it said, for a request that comes twice. The vector that a site sent is most of its
state, and would be read and written with every message behind it; so it lies apart, is written once, and is
read when it is asked for again. It is what leaves the site in any case, so it is stored as it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fl_integration.site.sealed_folder import SealedFolder

__all__ = ["KEPT_REPLIES", "Replies"]

KEPT_REPLIES: Final = 8
"""Of one machine: a round has one that is large, or a few where its cohort is."""


@dataclass(frozen=True, slots=True)
class Replies(Mapping[bytes, bytes]):
    """What lies in the files, by SHA-256.

    Args:
        files: the site's.
        name: of the machine's own file.
        digests: which there are, oldest first.
    """

    files: SealedFolder
    name: str
    digests: tuple[bytes, ...] = ()

    def __getitem__(self, digest: bytes) -> bytes:
        if digest not in self.digests or (reply := self.files.get(self._file(digest))) is None:
            raise KeyError(digest)
        return reply

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.digests)

    def __len__(self) -> int:
        return len(self.digests)

    def followed_by(self, apart: Mapping[bytes, bytes]) -> "Replies":
        """These and no others; the new ones are stored, and those that are left out are still there."""
        for digest in apart.keys() - self.digests:
            self.files.put(self._file(digest), apart[digest])
        return Replies(self.files, self.name, tuple(apart)[-KEPT_REPLIES:])

    def drop(self, *, but: tuple[bytes, ...] = ()) -> None:
        """Removes the files, but for some."""
        for digest in set(self.digests).difference(but):
            self.files.remove(self._file(digest))

    def _file(self, digest: bytes) -> str:
        return f"{self.name}/reply {digest.hex()}"
