"""What a round of MaskedSum costs on the wire beside vector and model, from the messages themselves."""

from functools import lru_cache

from protocols.masked.messages import (
    COMMITMENT_BYTES,
    HASHES_BYTES,
    SEALED_BYTES,
    SHARE_BYTES,
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    Quorum,
    ShareKeys,
    Survivors,
    Unmask,
)
from protocols.masked.relay import PAIR_SECRET_BYTES
from protocols.messages.envelope import Envelope
from protocols.messages.schema import encode
from protocols.planning.requirements import Adversary, Plan
from secagg.standard.aead import OVERHEAD
from secagg.standard.signing import SIGNATURE_BYTES

__all__ = ["control_bytes"]

TYPICAL = Envelope(protocol=2, session=bytes(16), round=0, stage=0, sender="8 letter")
REQUEST_FRAME = 8
"""The count of results and the length of the body, in every request."""


@lru_cache(maxsize=256)
def control_bytes(plan: Plan) -> tuple[int, int]:
    """(sent, received) by one client in a steady round in which nobody vanishes.

    Vector and model are left out; a session of 16 bytes and ids of 8 bytes are assumed.
    """
    k, n = plan.degree, plan.clients
    holders = k + 1 if k == n - 1 else k
    bitmap = bytes(-(-n // 8))
    dealing = ShareKeys(
        bytes(SEALED_BYTES * k),
        bytes(HASHES_BYTES * holders),
        bytes(COMMITMENT_BYTES * k),
        bytes(PAIR_SECRET_BYTES * k + OVERHEAD),
        b"",
        bytes(32),
        bytes(32),
        bytes(SIGNATURE_BYTES),
    )
    up: list[object] = [
        MaskedInput(bytes(32), bytes(SIGNATURE_BYTES), bitmap, memoryview(b"")),
        Unmask(bytes(-(-holders // 8)), bytes(SHARE_BYTES * holders), dealing),
    ]
    signatures = bytes(SIGNATURE_BYTES * plan.quorum)
    down: list[object] = [
        CollectInput(0, 0, bitmap, bytes(SEALED_BYTES * k), bytes(HASHES_BYTES * k), b"", b"", b""),
        Quorum(bitmap, bytes(32), bytes(SIGNATURE_BYTES * k), bitmap, signatures),
    ]
    if plan.adversary is Adversary.MALICIOUS:
        up.append(ConsistencyCheck(bytes(SIGNATURE_BYTES)))
        down.append(Survivors(bitmap, bytes(32)))
    frame = len(TYPICAL.encode())
    return (
        sum(frame + len(encode(message)) for message in up),
        sum(frame + REQUEST_FRAME + len(encode(message)) for message in down),
    )
