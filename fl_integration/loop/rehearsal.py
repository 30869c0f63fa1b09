"""What only tests and demonstrations need: clients that vanish on purpose, and randomness that repeats.

A protocol whose randomness repeats protects nothing from whoever knows the seed. It stands apart from the
arguments of a training, so that nobody passes it by the way.

>>> Rehearsal(drop={1: {"basel": "Unmask"}}).protocol_seed is None
True
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from fl_integration.loop.in_process import Drop
from secagg.entropy import Entropy, SeededEntropy
from secagg.errors import ParameterError
from secagg.numbers import plain

__all__ = ["Rehearsal", "RehearsedEntropy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """What only tests and demonstrations need.

    Args:
        drop: who vanishes, when: round (from 0) -> client -> the first exchange that it does not answer.
        protocol_seed: with one, in [0, 2**128), the protocol's randomness repeats, and is as secret as it.

    Raises:
        ParameterError: the seed is outside its range.
    """

    drop: Drop = field(default_factory=dict)
    protocol_seed: int | None = None

    def __post_init__(self) -> None:
        seed = plain(self.protocol_seed)
        if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 128):
            raise ParameterError(f"protocol_seed is {seed!r}; it must be None or an int in [0, 2**128)")
        object.__setattr__(self, "protocol_seed", seed)
        if not isinstance(self.drop, Mapping) or not all(
            isinstance(lost, Mapping) for lost in self.drop.values()
        ):
            raise ParameterError("drop maps a round to {client: the first exchange that it does not answer}")

    def entropy(self, purpose: str, *, first_round: int) -> Entropy:
        """A party's randomness, from this seed if there is one.

        Args:
            purpose: whose, and for what; another one gives another stream.
            first_round: of a training that was taken up again, 0 else.
        """
        if self.protocol_seed is None:
            return os.urandom
        return RehearsedEntropy(self.protocol_seed, purpose, first_round=first_round)


class RehearsedEntropy:
    """Randomness that repeats, and whose stream for an update depends on the round alone.

    How much a machine drew before depends on whether a round is the first of its session; the rounding of an
    update must not, or a training that was taken up again would differ from one that was not interrupted.

    Args:
        seed: in [0, 2**128).
        purpose, first_round: see `Rehearsal.entropy`.
    """

    def __init__(self, seed: int, purpose: str, *, first_round: int) -> None:
        self._seed, self._purpose = seed.to_bytes(16, "big"), purpose
        self._stream = SeededEntropy(self._seed, f"{purpose}/{first_round}".encode())

    def __call__(self, size: int) -> bytes:
        return self._stream(size)

    def at(self, round: int) -> None:
        """What is drawn from here on belongs to this round's update."""
        self._stream = SeededEntropy(self._seed, f"{self._purpose}/update/{round}".encode())
