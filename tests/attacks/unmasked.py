"""Taking the masks off one client's vector, with secrets that an attack came by.

A vector of MaskedSum is the input, plus a mask from the client's self-mask seed (b_u), plus or minus one from
each pair secret with an active neighbour (CCS'17, section 4). `rebuild` and `pair_secrets` turn revealed
shares into these secrets, as the server does; `strip` takes away the masks that follow from any of them.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from protocols.machine.channels import SECRET_BYTES, pair_bytes
from protocols.masked.keys import MaskKeys, first_pair_secret, pair_mask_seed, pairs_key, self_mask_seed
from protocols.masked.messages import SHARE_BYTES, MaskedInput, SelfMaskShare, Unmask, columns
from secagg.errors import VerificationError
from secagg.secret import Secret
from secagg.shamir import Share, combine
from secagg.standard.aead import open_sealed
from secagg.standard.kem import CIPHERTEXT_BYTES
from secagg.vectors.masking import apply_masks
from tests.attacks.weakened import Stage, Vector


def rebuild(view: Any, dealer: str, shares: Mapping[str, bytes]) -> Secret:
    """The secret behind shares of `dealer`'s that were revealed, by holder; `view` is `Stage.summing`."""
    epoch = view.epoch
    holders = epoch.graph.holders(epoch.members.index(dealer))
    place = {epoch.cohort[holder]: index + 1 for index, holder in enumerate(holders)}
    decoded = [Share.decode(place[holder], share) for holder, share in shares.items()]
    return combine(decoded, threshold=epoch.threshold)


def revealed(
    view: Any, answers: Mapping[str, Unmask], dealer: str, kind: type = SelfMaskShare
) -> dict[str, bytes]:
    """The shares of one kind that holders revealed of `dealer`'s secrets."""
    epoch, found = view.epoch, {}
    for holder, answer in answers.items():
        place = epoch.members.index(holder)
        held = [
            each
            for each in epoch.among(epoch.graph.holders(place), view.active)
            if each not in view.unopened.get(place, ())
        ]
        for each, reveal in zip(held, answer.reveals(len(answer.shares) // SHARE_BYTES), strict=True):
            if epoch.cohort[each] == dealer and isinstance(reveal, kind):
                found[holder] = reveal.share
    return found


def pair_secrets(view: Any, client: str, round_secret: Secret) -> dict[str, Secret]:
    """What whoever rebuilds a client's round secret opens with it: its pair secrets, by neighbour."""
    epoch, dealings, me = view.epoch, view.dealings, view.epoch.members.index(client)

    def near(place: int) -> tuple[int, ...]:
        there: tuple[int, ...] = epoch.among(epoch.graph.neighbours(place), dealings.present)
        return there

    bound = epoch.context(dealings.origin)
    left = open_sealed(
        pairs_key(round_secret, context=bound), dealings.made[me].pairs, associated_data=bound
    ).reveal()
    known = [place for place in near(me) if place > me or not dealings.first]
    secrets = {place: Secret(each) for place, each in zip(known, columns(left, SECRET_BYTES), strict=True)}
    mask = MaskKeys(round_secret)
    for place in near(me):
        if place in secrets or place not in dealings.made:
            continue
        # First round: the neighbour stands before, and encapsulated to this client's mask key.
        behind = [each for each in near(place) if each > place]
        position = len(near(place)) + behind.index(me)
        ciphertext = columns(dealings.made[place].encapsulations, CIPHERTEXT_BYTES)[position]
        with suppress(VerificationError):  # the same key again, at a client that copied it (D6)
            secrets[place] = first_pair_secret(
                mask.agreement.agree(dealings.mask_keys[place][0]),
                mask.encapsulation.decapsulate(ciphertext),
                ciphertext,
                epoch=epoch.digest,
                pair=pair_bytes(me, place),
            )
    return {epoch.cohort[place]: secret for place, secret in secrets.items()}


def strip(
    stage: Stage,
    victim: str,
    *,
    seed: Secret | None = None,
    round_secret: Secret | None = None,
    pairs: Mapping[str, Secret] | None = None,
    view: Any = None,
    vector: Any = None,
) -> Vector:
    """The victim's masked vector without the masks that follow from these secrets.

    Args:
        seed: its self-mask seed (b_u).
        round_secret: its round secret (K_u).
        pairs: pair secrets with these neighbours, where they come from elsewhere.
        view: the server's knowledge, if not that of the stage's round.
        vector: its packed vector, if not that of the stage's round.
    """
    view = stage.summing if view is None else view
    words = stage.words(stage.answers(2, MaskedInput)[victim].vector if vector is None else vector)
    epoch, me = view.epoch, view.epoch.members.index(victim)
    known = dict(pairs or {})
    if round_secret is not None:
        known.update(pair_secrets(view, victim, round_secret))
    add: list[Secret] = []
    subtract: list[Secret] = []
    if seed is not None:
        subtract.append(self_mask_seed(seed, transcript=view.transcript, client=me))
    for peer, secret in known.items():
        place = epoch.members.index(peer)
        if place in view.active:
            mask = pair_mask_seed(secret, transcript=view.transcript, pair=pair_bytes(me, place))
            (subtract if me > place else add).append(mask)
    apply_masks(words, ring=stage.ring, add=add, subtract=subtract)
    return words


def is_read(stage: Stage, words: Vector, update: Vector) -> bool:
    """Whether `words` are the update, to within quantisation, on a clip of 1."""
    surface: Any = stage.protocol.suite.surface
    steps = stage.values(words, len(update))[: len(update)]
    return bool(np.abs(steps / surface.codec.largest_step - update).max() <= stage.protocol.error_bound(1))
