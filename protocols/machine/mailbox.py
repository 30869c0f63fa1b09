"""Results that only clients open, kept by the server until every member of the roster has them.

A member that does not fetch its results keeps the last few waiting and no more. A result that nobody waits
for is forgotten. What a message costs does not depend on how many members there are.

>>> mailbox = Mailbox(("a", "b"))
>>> mailbox.put(7, b"a result")
>>> mailbox.waiting("a"), [bytes(view) for view in mailbox.views((7,))]
((7,), [b'a result'])
>>> mailbox.arrived("a", (7,)), mailbox.arrived("b", (7,))
(None, None)
>>> mailbox.results
{}
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

from protocols.identity import ClientId
from protocols.machine.client import KEPT_RESULTS

__all__ = ["Mailbox"]


class Mailbox:
    """What is still to be delivered to whom.

    Args:
        members: all clients of the session.
        results, owed: as the attributes of an earlier mailbox had them.

    Attributes:
        results: each result that somebody waits for, by the number of its round.
        owed: the rounds whose results a client still waits for, oldest first.
    """

    __slots__ = ("_digests", "_members", "_readers", "owed", "results")

    def __init__(
        self,
        members: tuple[ClientId, ...],
        *,
        results: Mapping[int, bytes] | None = None,
        owed: Mapping[ClientId, tuple[int, ...]] | None = None,
    ) -> None:
        self._members = members
        self.results = dict(results or {})
        self.owed = dict(owed or {})
        self._digests = {number: hashlib.sha256(result).digest() for number, result in self.results.items()}
        self._readers = Counter(number for numbers in self.owed.values() for number in numbers)

    def put(self, number: int, result: bytes) -> None:
        """The result of round `number`, for every member."""
        self.results[number] = result
        self._digests[number] = hashlib.sha256(result).digest()
        for member in self._members:
            self._owe(member, (*self.waiting(member), number)[-KEPT_RESULTS:])

    def waiting(self, client: ClientId) -> tuple[int, ...]:
        """The rounds whose results `client` still waits for, oldest first."""
        return self.owed.get(client, ())

    def views(self, numbers: Collection[int]) -> tuple[memoryview, ...]:
        """The results of these rounds, not copied."""
        return tuple(memoryview(self.results[number]) for number in numbers)

    def arrived(self, client: ClientId, numbers: Collection[int]) -> None:
        """`client` has the results of these rounds."""
        if numbers:
            self._owe(client, tuple(number for number in self.waiting(client) if number not in numbers))

    def acknowledged(self, client: ClientId, digests: Collection[bytes]) -> None:
        """`client` has the results with these SHA-256 digests."""
        self.arrived(client, [number for number, digest in self._digests.items() if digest in digests])

    def _owe(self, client: ClientId, numbers: tuple[int, ...]) -> None:
        before, self.owed[client] = self.waiting(client), numbers
        self._readers.update(numbers)
        self._readers.subtract(before)
        for number in before:
            if not self._readers[number]:
                del self._readers[number], self.results[number], self._digests[number]
