"""B3: a holder reveals a wrong share, or a dealer deals wrong ones.

A rebuilt secret is a sum over t shares, so one wrong share makes all of it wrong: masks do not come off and
the sum is garbage, or the round is lost. Three things stand against it, and the weakened servers lack one
after the other: the hash of each share, which its dealer signed; the commitment to the secret; the check
words of the sum. Ours names the holder, leaves its shares out and goes on with the spare ones.

A dealer that lies is another matter: see `test_b03_lying_dealers`. So is a holder that complains of shares
that are fine. A weakened server takes its word and names the dealer; ours names none for as many complaints
as there may be corrupt clients, nor the dealer whose shares were wrong for so few.

Not covered: fewer honest holders than rebuild a secret; such a round ends without a sum.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest

from protocols import Adversary, MaskedSum, Requirements, RoundAborted
from protocols.masked import collecting, server, unmasking
from protocols.masked.messages import (
    SHARE_BYTES,
    MaskedInput,
    PairKeyShare,
    Reveal,
    SelfMaskShare,
    ShareKeys,
    Unmask,
)
from protocols.masked.server import MaskedServerSteps
from protocols.masked.server_states import Summing
from tests.attacks.weakened import Liar, Stage, Vector, body_of, rewrite, updates_of

NAMES = "abcdefm"
HONEST = "abcdef"
ORDERS = ["m" + HONEST, "abcmdef", HONEST + "m"]
PROTOCOL = MaskedSum(max_clients=8)
"""Of seven, five shares rebuild a secret and one client may be lost."""
EXACT = MaskedSum(max_clients=5).exact(max_summand=13107)
"""Five summands of up to 13107 add up to 2^16 - 1: every element of the ring could be a sum."""


def is_mean(outcome: Any, data: dict[str, Vector], names: Any) -> bool:
    truth = np.mean([data[name] for name in sorted(names)], axis=0)
    return bool(np.abs(outcome.total.mean - truth).max() < 1e-4)


def changed(share: bytes) -> bytes:
    return share[:-1] + bytes([share[-1] ^ 1])


def wrong_shares(context: Any, state: Any, message: Any) -> Any:
    """Reveals, for every other dealer, a share that it was not dealt; in round 0 or in round 1."""
    if not isinstance(message, Unmask):
        return message
    masked = getattr(state, "masked", state)
    reveals = [
        each if dealer == masked.view.me else type(each)(changed(each.share))
        for dealer, each in zip(sorted(masked.held), message.reveals(len(masked.held)), strict=True)
    ]
    return Unmask.of(reveals, following=message.next)


def in_round(number: int, lie: Callable[[Any, Any, Any], Any]) -> Liar:
    """A liar that waits for its round."""
    return Liar(
        lambda context, state, message: lie(context, state, message) if context.round == number else message
    )


@pytest.fixture
def no_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes every share for the one that was dealt."""
    monkeypatch.setattr(server, "check_reveals", lambda *_, **__: None)


@pytest.fixture
def no_commitments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes every rebuilt secret for the one that was dealt."""
    monkeypatch.setattr(unmasking, "commitment", lambda *_, **__: ANY)


@pytest.fixture
def no_check_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (collecting, server):
        monkeypatch.setattr(module, "check_words", lambda bits: 0)


FIRST = "m" + HONEST
"""The roster puts the liar first, so that its share is among the ones that are combined."""


@pytest.mark.usefixtures("no_hashes")
def test_without_hashes_one_holder_spoils_the_round() -> None:
    stage = Stage(PROTOCOL, FIRST, steps={"m": Liar(wrong_shares)})
    with pytest.raises(RoundAborted, match="do not rebuild") as caught:
        stage.play(updates_of(FIRST))
    assert caught.value.culprits
    assert "m" not in caught.value.culprits  # somebody else looks guilty


@pytest.mark.usefixtures("no_hashes", "no_commitments")
def test_without_commitments_as_well_nobody_is_blamed() -> None:
    stage = Stage(PROTOCOL, FIRST, steps={"m": Liar(wrong_shares)})
    with pytest.raises(RoundAborted, match="do not cancel"):
        stage.play(updates_of(FIRST))


@pytest.mark.usefixtures("no_hashes", "no_commitments", "no_check_words")
def test_without_all_three_the_sum_is_garbage() -> None:
    stage = Stage(EXACT, "mabcd", steps={"m": Liar(wrong_shares)})
    generator = np.random.default_rng(3)
    data = {name: generator.integers(0, 13108, 24, dtype=np.uint64) for name in "mabcd"}
    total: Any = stage.play(data).total
    assert (total.total != np.sum(list(data.values()), axis=0)).mean() > 0.9


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("names", ORDERS)
@pytest.mark.parametrize("gone", [{}, {"d": 2}])
def test_ours_goes_on_and_names_the_holder(names: str, gone: dict[str, int], number: int) -> None:
    data = updates_of(names)
    stage = Stage(PROTOCOL, names, steps={"m": in_round(number, wrong_shares)})
    for _ in range(number):
        stage.play(data)
    outcome = stage.play(data, gone=gone)
    contributors = frozenset(names) - gone.keys()
    assert outcome.contributors == contributors  # its vector was good
    assert "differs from the one that was dealt" in outcome.dropped["m"]
    assert outcome.dropped.keys() == {"m", *gone}
    assert is_mean(outcome, data, contributors)
    assert stage.play(data).contributors == frozenset(names)


@pytest.mark.parametrize("adversary", list(Adversary))
def test_whatever_the_plan(adversary: Adversary) -> None:
    protocol = MaskedSum(max_clients=8, requirements=Requirements(adversary=adversary))
    data = updates_of(FIRST)
    outcome = Stage(protocol, FIRST, steps={"m": Liar(wrong_shares)}).play(data, gone={"d": 2})
    assert outcome.dropped.keys() == {"m", "d"}
    assert is_mean(outcome, data, "abcefm")


def bits(kinds: bytes) -> bytes:
    return bytes(each ^ 0b1111111 for each in kinds)


LIES: dict[str, Callable[[Unmask], Unmask]] = {
    "the other kind": lambda m: replace(m, kinds=bits(m.kinds)),
    "the other kind, for one": lambda m: replace(m, kinds=bytes([m.kinds[0] ^ 1])),
    "another dealer's": lambda m: replace(m, shares=m.shares[33:66] * 2 + m.shares[66:]),
    "all shifted by one": lambda m: replace(m, shares=m.shares[33:] + m.shares[:33]),
    "one too few": lambda m: replace(m, shares=m.shares[:-33]),
    "one too many": lambda m: replace(m, shares=m.shares + m.shares[-33:]),
    "too short": lambda m: replace(m, shares=m.shares[:-1]),
    "too long": lambda m: replace(m, shares=m.shares + b"\0"),
    "outside the field": lambda m: replace(m, shares=b"\xff" * len(m.shares)),
    "nothing at all": lambda m: replace(m, shares=b"", kinds=b""),
    "a bit behind the last": lambda m: replace(m, kinds=bytes([m.kinds[0] | 0x80])),
    "a byte behind the last": lambda m: replace(m, kinds=m.kinds + b"\0"),
    "no kinds": lambda m: replace(m, kinds=b""),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("names", [FIRST, NAMES])
def test_every_lie_of_a_holder(lie: str, names: str) -> None:
    def change(context: Any, state: Any, message: Any) -> Any:
        return LIES[lie](message) if isinstance(message, Unmask) else message

    data = updates_of(names)
    outcome = Stage(PROTOCOL, names, steps={"m": Liar(change)}).play(data)
    assert outcome.dropped.keys() == {"m"}
    assert is_mean(outcome, data, names)


@pytest.mark.parametrize("victims", ["a", HONEST])
def test_the_true_share_of_the_other_kind_is_refused_too(victims: str) -> None:
    """It has the hash that its dealer signed, and would spoil the secret that is to be rebuilt."""

    def change(context: Any, state: Any, message: Any) -> Any:
        if not isinstance(message, Unmask):
            return message
        names, reveals = state.view.epoch.cohort, message.reveals(len(state.held))
        for position, (dealer, shares) in enumerate(sorted(state.held.items())):
            if names[dealer] in victims:
                reveals[position] = PairKeyShare(shares.reveal()[SHARE_BYTES:])
        return Unmask.of(reveals, following=message.next)

    data = updates_of(FIRST)
    outcome = Stage(PROTOCOL, FIRST, steps={"m": Liar(change)}).play(data)
    assert outcome.dropped.keys() == {"m"}
    assert "the other kind" in outcome.dropped["m"]
    assert is_mean(outcome, data, FIRST)


# Complaints


def test_one_false_complaint_costs_nobody_anything() -> None:
    """A holder may say that somebody's shares did not open; alone it does not reach the threshold."""

    def complain(context: Any, state: Any, message: Any) -> Any:
        if isinstance(message, MaskedInput):
            return replace(message, unopened=state.view.epoch.members.bitmap("a"))
        if isinstance(message, Unmask):
            reveals = message.reveals(len(state.held))
            mine = [each for place, each in zip(sorted(state.held), reveals, strict=True) if place != 0]
            return Unmask.of(mine, following=message.next)
        return message

    outcome = Stage(PROTOCOL, NAMES, steps={"m": Liar(complain)}).play(updates_of(NAMES))
    assert outcome.contributors == frozenset(NAMES)
    assert not outcome.dropped


def test_who_complains_of_more_than_may_be_corrupt_is_named() -> None:
    def complain(context: Any, state: Any, message: Any) -> Any:
        if isinstance(message, MaskedInput):
            return replace(message, unopened=state.view.epoch.members.bitmap(HONEST))
        return message

    outcome = Stage(PROTOCOL, NAMES, steps={"m": Liar(complain)}).play(updates_of(NAMES))
    assert outcome.contributors == frozenset(HONEST)
    assert outcome.culprits == {"m"}


class BlamesAtOnce(MaskedServerSteps):
    """A server for which one complaint proves that the dealer is to blame."""

    def close(self, context: Any, state: Any, present: frozenset[str]) -> Any:
        if isinstance(state, Summing):
            state = replace(state, epoch=replace(state.epoch, corrupt=0))
        return super().close(context, state, present)


def framed(steps: MaskedServerSteps | None, liars: str) -> frozenset[str]:
    """Who is named when as many vanish as may, and these complain of the first client, which did nothing."""
    names = "abcdefghij"
    protocol = MaskedSum(max_clients=10)
    plan = protocol.plan(10)
    assert (plan.threshold, plan.min_survivors, plan.corrupt) == (7, 7, 2)

    def complain(exchange: int, name: str, message: bytes) -> bytes:
        if exchange != 2 or name not in liars:
            return message
        return rewrite(message, replace(body_of(MaskedInput, message), unopened=b"\x01\0"))

    stage = Stage(protocol, names, server_steps=steps)
    with pytest.raises(RoundAborted, match=f"{len(liars)} complain") as caught:
        stage.play(updates_of(names), gone=dict.fromkeys("bcd", 2), reply=complain)
    return caught.value.culprits


@pytest.mark.parametrize("liars", ["j", "ij"])
def test_where_complaints_are_proof_corrupt_clients_frame_a_dealer(liars: str) -> None:
    assert framed(BlamesAtOnce(), liars) == {"a"}


@pytest.mark.parametrize("liars", ["j", "ij"])
def test_as_many_complaints_as_there_may_be_liars_blame_nobody(liars: str) -> None:
    """The round is lost, which a client could have had by vanishing as well."""
    assert framed(None, liars) == frozenset()


def test_a_complaint_cannot_be_taken_back_or_made_afterwards() -> None:
    """A holder reveals of exactly those whose shares it has by its own word."""

    def complain(context: Any, state: Any, message: Any) -> Any:
        return replace(message, unopened=b"\x01") if isinstance(message, MaskedInput) else message

    def forget(context: Any, state: Any, message: Any) -> Any:
        if not isinstance(message, Unmask):
            return message
        return Unmask.of(message.reveals(len(state.held))[1:], following=message.next)

    for lie in (complain, forget):
        outcome = Stage(PROTOCOL, NAMES, steps={"m": Liar(lie)}).play(updates_of(NAMES))
        assert outcome.contributors == frozenset(NAMES)
        assert outcome.dropped.keys() == {"m"}


@pytest.mark.parametrize(
    ("unopened", "reason"),
    [
        (b"\x40", "complaint"),
        (b"\x41", "complaint"),
        (b"\x80", "behind the last"),
        (b"", "bytes"),
        (b"\0\0", "left over"),
    ],
    ids=["of itself", "of itself and another", "of nobody", "no bitmap", "two bytes"],
)
def test_impossible_complaints_are_refused(unopened: bytes, reason: str) -> None:
    def complain(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) != (2, "m"):
            return message
        return rewrite(message, replace(body_of(MaskedInput, message), unopened=unopened))

    outcome = Stage(PROTOCOL, NAMES).play(updates_of(NAMES), reply=complain)
    assert outcome.contributors == frozenset(HONEST)
    assert reason in outcome.dropped["m"]


def test_enough_complaints_name_the_dealer() -> None:
    """As many as leave too few shares: the round ends before anybody reveals anything."""

    def complain(exchange: int, name: str, message: bytes) -> bytes:
        if exchange != 2 or name not in "def":
            return message
        return rewrite(message, replace(body_of(MaskedInput, message), unopened=b"\x01"))

    stage = Stage(PROTOCOL, NAMES)
    with pytest.raises(RoundAborted, match="3 complain") as caught:
        stage.play(updates_of(NAMES), reply=complain)
    assert caught.value.culprits == {"a"}
    assert all(wire.exchange <= 2 for wire in stage.wire)


def test_kinds_of_reveals_survive_the_wire() -> None:
    """What a message says of each dealer is what its holder said."""
    reveals: list[Reveal] = [SelfMaskShare(b"a" * 33), PairKeyShare(b"b" * 33), SelfMaskShare(b"c" * 33)] * 3
    nothing = ShareKeys(b"", b"", b"", b"", b"", bytes(32), bytes(32), bytes(64))
    assert Unmask.of(reveals, following=nothing).reveals(9) == reveals
