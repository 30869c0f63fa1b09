"""One machine, one process, one caller at a time.

A server may hand messages to its machine from many threads. Steps change state in place, and two at once
would make a false sum without an error; two contributions at once would put two vectors under one mask. So
calls on one machine are put one after the other, and what costs time and needs no state (hashes, decoding,
signatures) is done outside. What is answered once stays answered, whoever asks at the same time.

A copy of a machine is a rollback: two copies would answer one request twice, with other randomness (ATTACKS
A14). So a machine is neither copied nor pickled, and after a fork the child's copy refuses; `export` and
`restore_client` or `restore_server` move a machine. This is the floor's only use of threads.

>>> guard = Guard()
>>> with guard, guard:      # whoever holds it may come again
...     pass
"""

import functools
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

from secagg.errors import ParameterError

__all__ = ["Guard", "Guarded", "guarded"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Machine = TypeVar("Machine", bound="Guarded")


class Guard:
    """A lock that knows the process in which it was made.

    Entering it raises `ParameterError` in any other process, and does not wait there: the lock may have been
    held by a thread that does not exist in the copy.
    """

    __slots__ = ("_home", "_lock")

    def __init__(self) -> None:
        self._home = os.getpid()
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if os.getpid() != self._home:
            raise ParameterError(
                "this machine was made in another process, and a copy of it would be a rollback: export it "
                "there and restore it here, or make a new one in this process"
            )
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


class Guarded:
    """What a machine that is guarded has; it cannot be copied."""

    _guard: Guard

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a machine is not pickled or copied; export() seals its state under a key")


def guarded(
    method: Callable[Concatenate[Machine, Arguments], Result],
) -> Callable[Concatenate[Machine, Arguments], Result]:
    """The method, with the machine's guard around it."""

    @functools.wraps(method)
    def alone(self: Machine, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with self._guard:
            return method(self, *args, **kwargs)

    return alone
