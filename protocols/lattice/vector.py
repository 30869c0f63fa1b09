"""The long vector of LatticeSum: a client hides it, whoever learns the sum of the keys opens the sum.

ACORN's RLWE secure aggregation (Bell et al., USENIX Security 2023): b_i = a·s_i + e_i + Δ·x_i. The arithmetic
is `secagg.rlwe.scheme`'s; here it meets a protocol's surface, its contributors and its tag.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.identity import ClientId
from protocols.interface import IntegerSum, Sum
from protocols.machine.summand import Summand, Surface
from protocols.messages.schema import Stream
from secagg import labels
from secagg.entropy import Entropy
from secagg.errors import RoundAborted
from secagg.rlwe import scheme as rlwe
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.vectors.linear_mac import TAG_BYTES, MacKey, Tagging

__all__ = ["hidden", "open_sum", "tagging_of", "vectors_of"]


def vectors_of(surface: Surface, *, max_clients: int) -> rlwe.Parameters:
    """The lattice parameters that carry the sums of a surface."""
    return rlwe.choose_parameters(
        sum_bound=surface.sum_bound, signed=surface.signed, max_summands=max_clients
    )


def tagging_of(common: Secret | None, *, seed: bytes, head: bytes) -> Tagging | None:
    """The tag of this round's vectors that answer `head`, if the clients have a secret in common.

    The key layer's own tag is under the same secret; the label keeps the two apart.
    """
    if common is None:
        return None
    return Tagging(MacKey(hkdf(common, label=labels.LATTICE_MAC)), context=seed + head)


def hidden(
    parameters: rlwe.Parameters,
    summand: Summand,
    *,
    seed: bytes,
    key: NDArray[np.uint64],
    tagging: Tagging | None,
    signer: ClientId,
    entropy: Entropy,
) -> tuple[Stream, Stream]:
    """A client's vector under its key, and its tag: made while the message is written, in this order."""
    count = summand.elements
    blocks = rlwe.mask_blocks(
        parameters,
        seed=seed,
        key=key,
        blocks=summand.blocks(size=parameters.digits * parameters.degree),
        count=count,
        entropy=entropy,
        packed=None if tagging is None else tagging.add,
    )
    vector = Stream(parameters.packed_size(count), parameters.ring.pack_stream(blocks))

    def tag() -> Iterator[bytes]:
        if tagging is not None:
            yield tagging.tag(signer.encode()).to_bytes(TAG_BYTES, "big")

    return vector, Stream(TAG_BYTES if tagging is not None else 0, tag())


def open_sum(
    parameters: rlwe.Parameters,
    surface: Surface,
    *,
    seed: bytes,
    keys: IntegerSum,
    total: NDArray[Any],
    length: int,
    tagging: Tagging | None = None,
    tag: int = 0,
) -> Sum:
    """The sum of the vectors, opened with the sum of the keys, every residue checked.

    Args:
        keys: the key layer's sum.
        total: the sum of the received vectors, over `parameters.ring`.
        length: values in an update.
        tagging, tag: the tag to check, where there is one.

    Raises:
        VerificationError: the keys, the vectors and the tag do not belong together; nothing was learnt.
        RoundAborted: they do, and the sum cannot have come from honest summands.
    """
    vector = rlwe.OpenedVector(
        parameters,
        seed=seed,
        key=keys.total,
        summands=len(keys.contributors),
        total=total,
        count=surface.elements(length),
        ring=surface.ring,
        packed=None if tagging is None else tagging.add,
    )
    outcome: Sum | RoundAborted
    try:
        outcome = surface.decode(vector, keys.contributors)
    except RoundAborted as error:  # it may be a doctored sum, and then that is what is wrong with it
        outcome = error
    vector.check_all()
    if tagging is not None:
        signers = [client.encode() for client in keys.contributors]
        tagging.verify(tag, signers=signers)
    if isinstance(outcome, RoundAborted):
        raise outcome
    return outcome
