"""What LatticeSum adds to the messages of its key layer: only the collecting exchange says more.

The key layer's messages travel whole inside ours, or, in all other exchanges, are ours. What it takes for the
round's model is `Task`, so that whatever it binds to its model (mask seeds, tags) is bound to the length and
the model of the long vector (ATTACKS A9, A13).
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

from protocols.identity import Roster
from protocols.messages.schema import U64, Body, Key32, UpTo, encode
from secagg import labels
from secagg.errors import DecodeError
from secagg.vectors.linear_mac import PRIME, TAG_BYTES
from secagg.wire import Buffer, Writer

__all__ = ["Collect", "Contribution", "Result", "Tag", "Task", "public_seed", "tag_of", "task_of"]

Tag = Annotated[memoryview, UpTo(TAG_BYTES)]
"""A tag of `TAG_BYTES`, or nothing where the clients have no secret in common."""


@dataclass(frozen=True, slots=True)
class Task:
    """What the key layer has for a model: how long the vector is, and the digest of the model it answers."""

    length: U64
    model: Key32


@dataclass(frozen=True, slots=True)
class Collect:
    """Down: the key layer's collecting request, and the model."""

    keys: Body
    model: bytes


@dataclass(frozen=True, slots=True)
class Contribution:
    """Up: the key layer's reply, which holds this client's key, and the vector under that key (b_i).

    One message: who is in the sum of the keys is in the sum of the vectors.
    """

    keys: Body
    vector: Body
    tag: Tag


@dataclass(frozen=True, slots=True)
class Result:
    """Where the clients learn the sum: the key layer's result, and the sum of the vectors."""

    keys: Body
    task: Task
    vector: Body
    tag: Tag


def public_seed(*, parameters: bytes, session: bytes, round: int, roster: Roster, task: bytes) -> bytes:
    """32 bytes from which everybody expands the round's public polynomials (a).

    Nobody sends it. The server chooses the model and may try many, but each gives polynomials of a random
    oracle's choice: none of them is zero, and none has a trapdoor.
    """
    writer = Writer().fixed(parameters).blob(session).uint(round, 8).fixed(roster.digest).blob(task)
    return hashlib.sha256(labels.LATTICE_SEED + writer.finish()).digest()


def tag_of(field: Buffer, *, tagged: bool) -> int:
    """The number in a tag's field, 0 where there is no tag.

    Raises:
        DecodeError: the field has another length than it must, or holds no element of the tags' field.
    """
    if len(field) != (TAG_BYTES if tagged else 0):
        raise DecodeError(f"a tag of {len(field)} bytes; {TAG_BYTES if tagged else 0} belong here")
    tag = int.from_bytes(field, "big")
    if tag >= PRIME:
        raise DecodeError("a tag outside its field")
    return tag


def task_of(*, length: int, model: bytes) -> bytes:
    """The encoded `Task` of a round."""
    return encode(Task(length, hashlib.sha256(model).digest()))
