"""One hash for a list, and a short proof for each of its items: the tree of RFC 6962, section 2.1.

The shape is that of Certificate Transparency: neighbours are hashed in pairs, level by level, and the last of
an odd level goes up as it is. Hashes are SHA-256. Leaves and inner nodes have labels of their own, so that no
leaf can pass for a node (the second-preimage attack on plain Merkle trees).

One thing differs from RFC 6962: every inner node also hashes the number of leaves. There, a root alone does
not say how long the list is, and one proof verifies for several (index, count) pairs; here a root fixes the
count, and with it the one place in the list that a proof speaks of. (A tree that grows, which is what that
freedom is for, has no use here.)

Against who writes the list, the proofs and the root: nobody finds two different leaves for one index under
one root without a collision of SHA-256. Nothing is hidden: a proof shows hashes of other leaves, which who
can guess a leaf can confirm. And a root is as good as where it came from; nobody signs it here.

>>> tree = Tree([b"ada", b"bea", b"cyd"])
>>> len(tree.root), len(tree.path(0)), len(tree.path(2))
(32, 2, 1)
>>> verify_path(tree.root, leaf=b"cyd", index=2, count=3, path=tree.path(2))
>>> verify_path(tree.root, leaf=b"cyd", index=1, count=2, path=tree.path(2))
Traceback (most recent call last):
    ...
secagg.errors.VerificationError: the leaf is not at this index under this root; refuse who sent its path
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from secagg import labels
from secagg.errors import ParameterError, VerificationError

__all__ = ["HASH_BYTES", "MAXIMUM_LEAVES", "Tree", "verify_path"]

HASH_BYTES: Final = 32
MAXIMUM_LEAVES: Final = 2**64 - 1
"""The count is hashed as 8 bytes."""


class Tree:
    """The whole tree over a list, for who makes proofs: 64 bytes and two hashes for each leaf.

    Args:
        leaves: at least one, each of any length.

    Attributes:
        root: `HASH_BYTES`. It fixes every leaf, their order and their number.

    Raises:
        ParameterError: no leaves, or one that is not bytes.
    """

    __slots__ = ("_levels", "root")
    root: bytes

    def __init__(self, leaves: Sequence[bytes]) -> None:
        if not leaves:
            raise ParameterError("a tree without leaves has no root; give at least one")
        # A level is the hashes of its nodes, end to end, so that two siblings are one slice.
        level = b"".join(map(_leaf, leaves))
        prefix = _node_prefix(len(leaves))
        self._levels = [level]
        while len(level) > HASH_BYTES:
            level = _level_above(level, prefix)
            self._levels.append(level)
        self.root = level

    def path(self, index: int) -> tuple[bytes, ...]:
        """The sibling of each node from the leaf up to the root; at most ⌈log2(count)⌉ hashes.

        A node without a sibling, the last of an odd level, adds none (RFC 6962, section 2.1.1).

        Raises:
            ParameterError: `index` is not an int in [0, count).
        """
        count = len(self._levels[0]) // HASH_BYTES
        if type(index) is not int or not 0 <= index < count:
            raise ParameterError(f"index is {index!r}; an int in [0, {count}) is needed")
        siblings = []
        for height, level in enumerate(self._levels):
            start = ((index >> height) ^ 1) * HASH_BYTES
            if start < len(level):
                siblings.append(level[start : start + HASH_BYTES])
        # The root's own level has one node, whose sibling would be past its end.
        return tuple(siblings)


def verify_path(root: bytes, *, leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> None:
    """Checks that `leaf` is at `index` of the `count` leaves under `root`.

    Args:
        root: `HASH_BYTES`, from a source that the caller trusts or checks elsewhere.
        leaf: the item itself, not its hash.
        index: in [0, count).
        count: in [1, MAXIMUM_LEAVES].
        path: what `Tree.path` gives, `HASH_BYTES` each.

    Raises:
        ParameterError: a wrong type.
        VerificationError: it is not, whatever the reason: a wrong value of any argument.
    """
    for name, value in (("root", root), ("leaf", leaf), *(("a hash of path", each) for each in path)):
        if type(value) is not bytes:
            raise ParameterError(f"{name} is of type {type(value).__name__}; bytes are needed")
    if type(index) is not int or type(count) is not int:
        raise ParameterError("index and count are ints")
    if not 0 <= index < count <= MAXIMUM_LEAVES:
        raise VerificationError("an index outside the list of leaves; refuse who sent it")
    if len(path) != _path_length(index, count) or any(len(each) != HASH_BYTES for each in path):
        raise VerificationError("a path of a wrong size for this index and count; refuse who sent it")
    prefix, siblings = _node_prefix(count), iter(path)
    node, width = _leaf(leaf), count
    while width > 1:
        if index ^ 1 < width:
            sibling = next(siblings)
            node = _node(prefix, sibling + node if index & 1 else node + sibling)
        index, width = index >> 1, (width + 1) >> 1
    if node != root:
        raise VerificationError("the leaf is not at this index under this root; refuse who sent its path")


def _path_length(index: int, count: int) -> int:
    """How many nodes from this leaf up to the root have a sibling."""
    length = 0
    while count > 1:
        length += index ^ 1 < count
        index, count = index >> 1, (count + 1) >> 1
    return length


def _leaf(leaf: bytes) -> bytes:
    if type(leaf) is not bytes:
        raise ParameterError(f"a leaf is of type {type(leaf).__name__}; bytes are needed")
    return sha256(labels.MERKLE_LEAF + leaf).digest()


def _node_prefix(count: int) -> bytes:
    return labels.MERKLE_NODE + count.to_bytes(8, "big")


def _node(prefix: bytes, children: bytes) -> bytes:
    return sha256(prefix + children).digest()


def _level_above(level: bytes, prefix: bytes) -> bytes:
    """The parents of a level's pairs; a last node without a sibling goes up unchanged."""
    pairs = [level[start : start + 2 * HASH_BYTES] for start in range(0, len(level), 2 * HASH_BYTES)]
    return b"".join(_node(prefix, pair) if len(pair) == 2 * HASH_BYTES else pair for pair in pairs)
