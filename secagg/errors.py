"""Every error of this library, in one tree.

Three kinds matter to a caller, and they are different classes so that nobody has to read text:

* `ParameterError` is *yours*: an argument that can never work. Nothing has run, nothing has changed.
* `PeerViolation` is *theirs*: another party's message breaks the protocol. It names the culprit.
* `RoundAborted` is *nobody's*: too few parties are left to end this round. The next one may start.

Text says what was found, what was allowed and what to do. It never contains a value that came out of a
secret or out of somebody's update. Any exception outside this tree that escapes the library is a bug. All of
them pickle and copy, so that a pool of processes hands them on unchanged.

>>> issubclass(DecodeError, SecAggError)
True
>>> str(PeerViolation("a message of another round", culprit="cleveland"))
'cleveland: a message of another round'
"""

__all__ = [
    "DecodeError",
    "MissingExtraError",
    "ParameterError",
    "PeerViolation",
    "RoundAborted",
    "SecAggError",
    "VerificationError",
]


class SecAggError(Exception):
    """The root of the tree."""

    def __reduce__(self) -> tuple[object, ...]:
        # What a constructor here asks for is not what an exception keeps: it is restored, not made anew.
        _, args, *state = tuple(super().__reduce__())
        return _restored, (type(self), args), *state

    def _restore(self, args: tuple[object, ...]) -> None:
        super().__init__(*args)


def _restored(kind: type[SecAggError], args: tuple[object, ...]) -> SecAggError:
    error = kind.__new__(kind)
    error._restore(args)
    return error


class ParameterError(SecAggError, ValueError):
    """The caller's own argument, or a call made at the wrong moment, is refused before anything happened."""


class MissingExtraError(SecAggError, ImportError):
    """An optional backend is not installed; the text names the extra to install."""

    def __init__(self, *, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'secagg[{extra}]'", name=package)


class DecodeError(SecAggError, ValueError):
    """Bytes that are not the canonical encoding of what was expected. Nothing else ever leaves a decoder."""


class VerificationError(SecAggError):
    """Well-formed bytes that do not verify: a tag, a signature, a public key, a rebuilt secret."""


class PeerViolation(SecAggError):
    """Another party broke the protocol.

    Attributes:
        reason: what was found and what was allowed.
        culprit: the client id of the party, or `"server"`.
    """

    def __init__(self, reason: str, *, culprit: str) -> None:
        super().__init__(f"{culprit}: {reason}")
        self.reason = reason
        self.culprit = culprit


class RoundAborted(SecAggError):
    """The round cannot end with a sum that the requirements allow.

    Attributes:
        reason: why.
        culprits: clients whose fault it is, where it is somebody's and can be told.
        opened: the contributors of a sum that was seen and then refused, because honest summands cannot add
            up to it, or that must be taken for seen, because shares for it were revealed; empty otherwise.
            Another sum for the same model, of nearly the same contributors, would tell their difference
            (ATTACKS A10).
    """

    def __init__(
        self, reason: str, *, culprits: frozenset[str] = frozenset(), opened: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.culprits = culprits
        self.opened = opened
