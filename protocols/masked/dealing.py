"""One dealing: a client shares out its round secret and its self-mask seed (CCS'17, Fig. 4, round 1).

The first dealing of an epoch agrees on channels and pair secrets as it goes; a later one, which rides on the
Unmask message of the round before, takes them from the ratcheted channels. See `keys` for why.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from protocols.machine.channels import first_seal_key, pair_bytes, ratchet
from protocols.machine.suite import ClientContext
from protocols.masked.epoch import Edge, Epoch, Prepared
from protocols.masked.keys import EpochKeys, MaskKeys, first_pair_secret, pairs_key
from protocols.masked.messages import SHARE_PAIR_BYTES, AdvertiseKeys, ShareKeys
from protocols.masked.transcript import SignedDealing, commitment, dealing_digest, edge_hash, share_hash
from protocols.messages.schema import U32, encode
from secagg import labels
from secagg.entropy import draw
from secagg.secret import Secret
from secagg.shamir import SHARE_BYTES, split
from secagg.standard.aead import seal
from secagg.standard.agreement import PrivateKey
from secagg.standard.kem import encapsulate

__all__ = ["PAIR_KEY", "SELF_MASK", "FirstDealing", "deal_first", "deal_next", "sealed_context"]

SELF_MASK, PAIR_KEY = 0, 1
"""Which secret a share belongs to."""


@dataclass(frozen=True, slots=True)
class FirstDealing:
    """What a client keeps of the first dealing until it hears from the others.

    Attributes:
        encapsulated: what it encapsulated to each neighbour's channel key.
        pair_secrets: those of the neighbours behind it in the cohort.
        own_shares: as in `Prepared`.
    """

    encapsulated: dict[U32, Secret]
    pair_secrets: dict[U32, Secret]
    own_shares: Secret


def deal_first(
    context: ClientContext,
    epoch: Epoch,
    *,
    me: int,
    secrets: EpochKeys,
    neighbours: Mapping[int, AdvertiseKeys],
) -> tuple[FirstDealing, ShareKeys]:
    """The first dealing of an epoch, to the neighbours that advertised keys."""
    channel, mask = PrivateKey(secrets.channel), MaskKeys(secrets.round_secret)
    seals: dict[int, Secret] = {}
    encapsulated: dict[int, Secret] = {}
    pair_secrets: dict[int, Secret] = {}
    to_channels, to_masks = [], []
    for place, keys in sorted(neighbours.items()):
        secret, ciphertext = encapsulate(keys.channel_encapsulation)
        seals[place] = first_seal_key(
            channel.agree(keys.channel_key, own=True),
            secret,
            ciphertext,
            epoch=epoch.digest,
            dealer=me,
            holder=place,
        )
        encapsulated[place] = secret
        to_channels.append(ciphertext)
        if place > me:
            secret, ciphertext = encapsulate(keys.mask_encapsulation)
            pair_secrets[place] = first_pair_secret(
                mask.agreement.agree(keys.mask_key, own=True),
                secret,
                ciphertext,
                epoch=epoch.digest,
                pair=pair_bytes(me, place),
            )
            to_masks.append(ciphertext)
    own, message = _deal(
        context,
        epoch,
        me=me,
        origin=epoch.round,
        round_secret=secrets.round_secret,
        self_mask_seed=secrets.self_mask_seed,
        seals=seals,
        pair_secrets=pair_secrets,
        encapsulations=b"".join(to_channels + to_masks),
    )
    return FirstDealing(encapsulated, pair_secrets, own), message


def deal_next(
    context: ClientContext, epoch: Epoch, *, me: int, chains: Mapping[int, Secret]
) -> tuple[Prepared, ShareKeys]:
    """The dealing for the next round, made in this context's, to neighbours whose channels are given."""
    origin = context.round + 1
    links = {
        place: ratchet(chain, epoch=epoch.digest, origin=origin) for place, chain in sorted(chains.items())
    }
    round_secret, seed = (Secret(draw(context.entropy, 32)) for _ in range(2))
    own, message = _deal(
        context,
        epoch,
        me=me,
        origin=origin,
        round_secret=round_secret,
        self_mask_seed=seed,
        seals={place: link.seals[me > place] for place, link in links.items()},
        pair_secrets={place: link.pair_secret for place, link in links.items()},
        encapsulations=b"",
    )
    edges = {
        place: Edge(link.pair_secret, link.seals[me < place], link.following) for place, link in links.items()
    }
    return Prepared(origin, edges, seed, own), message


def _deal(
    context: ClientContext,
    epoch: Epoch,
    *,
    me: int,
    origin: int,
    round_secret: Secret,
    self_mask_seed: Secret,
    seals: Mapping[int, Secret],
    pair_secrets: Mapping[int, Secret],
    encapsulations: bytes,
) -> tuple[Secret, ShareKeys]:
    """Shares for all who are there, hashed, sealed and signed; and the share that stays here."""
    # Fig. 4, round 1: t-out-of-n shares of s_u^SK (here: of the secret behind it) and of b_u. A share's index
    # is its holder's place among this client's holders, fixed by the graph, never chosen by a party (B4).
    holders = epoch.graph.holders(me)
    there = epoch.among(holders, {*seals, me})
    indices = [holders.index(place) + 1 for place in there]
    self_shares = split(self_mask_seed, threshold=epoch.threshold, indices=indices, entropy=context.entropy)
    pair_shares = split(round_secret, threshold=epoch.threshold, indices=indices, entropy=context.entropy)
    bound = epoch.context(origin)
    sealed, hashes, own = [], [], Secret(b"")
    for place, self_share, pair_share in zip(there, self_shares, pair_shares, strict=True):
        plain = self_share.encode() + pair_share.encode()
        hashes.append(share_hashes(bound, dealer=me, holder=place, plain=plain))
        if place == me:
            own = Secret(plain)
            continue
        # Fig. 4, round 1: e_{u,v} = AE.enc(KA.agree(c_u^SK, c_v^PK), u || v || shares).
        associated = sealed_context(bound, dealer=me, holder=place)
        sealed.append(seal(seals[place], plain, associated_data=associated, entropy=context.entropy))
    edges = [
        edge_hash(bound, low=min(me, place), high=max(me, place), secret=secret)
        for place, secret in sorted(pair_secrets.items())
    ]
    left = b"".join(secret.reveal() for _, secret in sorted(pair_secrets.items()))
    unsigned = ShareKeys(
        b"".join(sealed),
        b"".join(hashes),
        b"".join(edges),
        seal(pairs_key(round_secret, context=bound), left, associated_data=bound, entropy=context.entropy),
        encapsulations,
        commitment(bound, dealer=me, kind=SELF_MASK, secret=self_mask_seed),
        commitment(bound, dealer=me, kind=PAIR_KEY, secret=round_secret),
        bytes(64),
    )
    present = epoch.members.bitmap_of({*seals, me})
    return own, sign_dealing(context, epoch, unsigned, origin=origin, present=present)


def sign_dealing(
    context: ClientContext, epoch: Epoch, dealing: ShareKeys, *, origin: int, present: bytes
) -> ShareKeys:
    """The dealing with this client's signature: shares of it that turn out wrong are its maker's."""
    statement = SignedDealing(epoch.digest, origin, context.me, present, dealing_digest(dealing))
    signature = context.identity.key.sign(encode(statement), label=labels.DEALING)
    return ShareKeys(
        dealing.sealed,
        dealing.hashes,
        dealing.edges,
        dealing.pairs,
        dealing.encapsulations,
        dealing.self_commitment,
        dealing.round_commitment,
        signature,
    )


def share_hashes(bound: bytes, *, dealer: int, holder: int, plain: bytes) -> bytes:
    """The hashes of a holder's two shares."""
    if len(plain) != SHARE_PAIR_BYTES:
        return b""
    first, second = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
    return share_hash(bound, dealer, holder, SELF_MASK, first) + share_hash(
        bound, dealer, holder, PAIR_KEY, second
    )


def sealed_context(bound: bytes, *, dealer: int, holder: int) -> bytes:
    """The associated data of a sealed pair of shares."""
    return bound + dealer.to_bytes(4, "big") + holder.to_bytes(4, "big")
