"""One machine, one process, one caller at a time.

A server may hand messages to its machine from many threads. Steps change state in place, and two at once
would make a false sum without an error; two contributions at once would put two vectors under one mask. So
calls on one machine are put one after the other, and what costs time and needs no state (hashes, decoding,
signatures) is done outside. What is answered once stays answered, whoever asks at the same time.

A copy of a machine is a rollback: two copies would answer one request twice, with other randomness (ATTACKS
A14). So a machine is neither copied nor pickled, and after a fork the child's copy refuses; `export` and
`restore_client` or `restore_server` move a machine. This is the floor's only use of threads.

>>> Guard().alone(sum, [1, 2])
3
"""

import functools
import os
import threading
from collections.abc import Callable
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

from secagg.errors import ParameterError

__all__ = ["Guard", "Guarded", "guarded"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Machine = TypeVar("Machine", bound="Guarded")


class Guard:
    """A lock that knows the process in which it was made, and that its holder is busy."""

    __slots__ = ("_busy", "_home", "_lock")

    def __init__(self) -> None:
        self._home = os.getpid()
        # The lock itself is the context manager below: an interrupt between two lines of Python would leave
        # it locked for ever. It lets its own thread in again, so that a signal handler is told what is wrong.
        self._lock = threading.RLock()
        self._busy = False

    def alone(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Calls a function when nobody else is inside.

        Raises:
            ParameterError: this is another process than the guard's; it does not wait there, because the lock
                may have been held by a thread that the copy lacks. Or the call comes from inside another one,
                from a signal handler, say, that would see a step half done.
        """
        if os.getpid() != self._home:
            raise ParameterError(
                "this machine was made in another process, and a copy of it would be a rollback: export it "
                "there and restore it here, or make a new one in this process"
            )
        with self._lock:
            if self._busy:
                raise ParameterError(
                    "this machine was called from inside one of its own calls, by a signal handler, for "
                    "example; a step is half done, call it again from outside"
                )
            try:
                self._busy = True
                return function(*args, **kwargs)
            finally:
                self._busy = False


class Guarded:
    """What a machine that is guarded has; it cannot be copied."""

    _guard: Guard

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a machine is not pickled or copied; export() seals its state under a key")


def guarded(
    method: Callable[Concatenate[Machine, Arguments], Result],
) -> Callable[Concatenate[Machine, Arguments], Result]:
    """The method, with the machine's guard around it; guarded methods do not call each other."""

    @functools.wraps(method)
    def alone(self: Machine, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return self._guard.alone(method, self, *args, **kwargs)

    return alone
