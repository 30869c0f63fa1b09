"""The server judges who lied about the pair secret of an edge, in an epoch's first dealing.

There one end encapsulates to the other's mask key and signs the hash of the pair secret that it means. The
other end, which finds another one, refuses and reveals its round secret K_u (`collecting.prepare_first`). Its
mask keys follow from K_u and stand under its own signature; ciphertext and hash stand under the dealer's. So
the server can make the pair secret as the accuser did, and one of the two is guilty whatever it finds: a
single accusation suffices, where counting accusers could not (on a random graph no dealer has as many
neighbours as may be corrupt, and among three a liar needs one victim only).

Nobody is framed. K_u that does not give the advertised keys proves nothing but its sender's lie. With the
right one, the pair secret is a function of what both ends signed, and the hash is right or it is not.
"""

from protocols.identity import ClientId
from protocols.machine.channels import SECRET_BYTES, pair_bytes
from protocols.masked.epoch import Epoch
from protocols.masked.keys import MaskKeys, first_pair_secret
from protocols.masked.messages import COMMITMENT_BYTES
from protocols.masked.relay import Dealings, layout_of
from protocols.masked.transcript import edge_hash
from secagg.secret import Secret
from secagg.standard.kem import CIPHERTEXT_BYTES

__all__ = ["agreed_secret", "judge"]


def judge(
    epoch: Epoch,
    dealings: Dealings,
    active: frozenset[int],
    *,
    accuser: ClientId,
    accused: ClientId,
    proof: bytes,
) -> tuple[ClientId, str]:
    """Which of the two is guilty, and of what. The accuser was asked to contribute, with these dealings."""
    high = epoch.members.index(accuser)
    low = epoch.members.index(accused) if accused in epoch.members else high
    if low not in active or high not in layout_of(epoch, dealings.present).behind.holders_of(low):
        return accuser, f"it accuses {accused!r}, from which it got no pair secret"
    if len(proof) != SECRET_BYTES:
        return accuser, f"it accuses {accused!r} without a proof"
    mask = MaskKeys(Secret(proof))
    if mask.advertised != dealings.mask_keys[high]:
        return accuser, f"it accuses {accused!r} with another round secret than its mask keys come from"
    secret, promised = agreed_secret(epoch, dealings, low=low, high=high, mask=mask)
    if edge_hash(epoch.context(dealings.origin), low=low, high=high, secret=secret) == promised:
        return accuser, f"it accuses {accused!r} of a pair secret that is as {accused!r} signed for it"
    return accused, f"the pair secret that it sent {accuser!r} is another one than it signed for"


def agreed_secret(
    epoch: Epoch, dealings: Dealings, *, low: int, high: int, mask: MaskKeys
) -> tuple[Secret, bytes]:
    """The pair secret of an edge of a first dealing, made at its high end, and the hash the low end signed.

    Args:
        mask: the high end's mask keys.
    """
    layout = layout_of(epoch, dealings.present)
    position = layout.behind.positions(low)[high]
    made = dealings.made[low]
    start = (layout.neighbours.count(low) + position) * CIPHERTEXT_BYTES
    ciphertext = made.encapsulations[start : start + CIPHERTEXT_BYTES]
    secret = first_pair_secret(
        mask.agreement.agree(dealings.mask_keys[low][0], own=True),
        mask.encapsulation.decapsulate(ciphertext),
        ciphertext,
        epoch=epoch.digest,
        pair=pair_bytes(low, high),
    )
    promised = made.edges[position * COMMITMENT_BYTES :][:COMMITMENT_BYTES]
    return secret, promised
