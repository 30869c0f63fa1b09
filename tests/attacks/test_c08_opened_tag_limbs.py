"""C8: slots that carry more than the sum.

A tag is a number below 2^127. To put it into plaintext slots it must be cut into limbs, and what a client
then opens is the sum of limbs *over the integers*: the carries between limbs, which say something about
single summands, are opened with it. The weakened copy sends limbs of 16 bits; a client that knows the MAC
key, as all do, tries candidates for another's update and finds the one that fits.

Ours sends tags beside the ciphertext; the server adds them modulo the prime, and the sum of tags is the same
for all inputs that have the same sum.

Not covered: a client that knows the key can forge any tag; the tag is against the server.
"""

import numpy as np
import pytest

from secagg.secret import Secret
from secagg.vectors.linear_mac import PRIME, MacKey

KEY = MacKey(Secret(bytes(range(32))))
ROUNDS = (b"round 1", b"round 2", b"round 3")
SUM = 4
A = 37
"""The update of client a; b's is SUM - A. Client c is the curious one and knows its own."""
CANDIDATES = range(-100, 101)


def tags(a: int, context: bytes) -> list[int]:
    updates = {b"a": a, b"b": SUM - a, b"c": 11}
    return [
        KEY.tag(np.array([value, -value, 0]), signer=name, context=context) for name, value in updates.items()
    ]


def opened_limbs(a: int, context: bytes) -> list[int]:
    """What the weakened copy opens: each limb summed over all clients."""
    return [sum(tag >> (16 * limb) & 0xFFFF for tag in tags(a, context)) for limb in range(8)]


def opened_beside(a: int, context: bytes) -> int:
    return sum(tags(a, context)) % PRIME


def test_opened_limbs_give_a_single_update_away() -> None:
    """One round leaves few candidates, and a few rounds of the same data leave one."""
    left = list(CANDIDATES)
    for context in ROUNDS:
        seen = opened_limbs(A, context)
        left = [a for a in left if opened_limbs(a, context) == seen]
        assert len(left) < len(CANDIDATES) / 10
    assert left == [A]


def test_the_sum_of_tags_fits_every_candidate() -> None:
    for context in ROUNDS:
        assert {opened_beside(a, context) for a in CANDIDATES} == {opened_beside(A, context)}


@pytest.mark.parametrize("a", [-100, 0, 37, 100])
def test_and_still_verifies(a: int) -> None:
    total = np.array([SUM + 11, -SUM - 11, 0])
    KEY.verify(total, opened_beside(a, ROUNDS[0]), signers=[b"a", b"b", b"c"], context=ROUNDS[0])
