"""Every dropout pattern of small cohorts: the sum is right, or the round aborts exactly where it must.

What must happen is predicted here by counting who is left at each exchange.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np
import pytest

from protocols import ParameterError, PeerViolation, Requirements, Round, RoundAborted
from tests.protocols.conftest import TWO, Family, World, assert_right, is_refusal, updates_of

pytestmark = pytest.mark.usefixtures("one_paillier_key")

NEVER = 99
Pattern = dict[str, int]
Fate = tuple[int, frozenset[str] | None]
"""How many exchanges are run, and who contributed; None when the round aborts after them."""


def alive(pattern: Pattern, exchange: int) -> set[str]:
    """Who answers in that exchange; `pattern` says from which exchange on a client is gone."""
    return {client for client, gone in pattern.items() if gone > exchange}


def plain_fate(pattern: Pattern, protocol: Any) -> Fate:
    contributors = alive(pattern, 0)
    return 1, frozenset(contributors) if len(contributors) >= protocol.plan(
        len(pattern)
    ).min_survivors else None


def masked_fate(pattern: Pattern, protocol: Any) -> Fate:
    """CCS'17, Fig. 4: enough in U_1, U_2 and U_3, a quorum that signs, and t in the last round.

    On the complete graph everybody who is left holds a share of everybody's secrets, its own ones included.
    """
    plan, exchanges = protocol.plan(len(pattern)), len(protocol.exchanges(first=True))
    for exchange in (0, 1, 2):
        if len(alive(pattern, exchange)) < plan.min_survivors:
            return exchange + 1, None
    if len(alive(pattern, 3)) < plan.quorum:
        return 4, None
    enough = len(alive(pattern, exchanges - 1)) >= plan.threshold
    return exchanges, frozenset(alive(pattern, 2)) if enough else None


def consortium_fate(pattern: Pattern, protocol: Any) -> Fate:
    """The first client present makes the key; while it vanishes the next is asked, in one exchange more."""
    least = protocol.plan(len(pattern)).min_survivors
    present = sorted(alive(pattern, 0))
    if len(present) < least:
        return 1, None
    exchanges = 2
    while pattern[present[0]] <= 1:
        present = present[1:]
        if len(present) < least:
            return exchanges, None
        exchanges += 1
    contributors = frozenset(present) & alive(pattern, 2)
    return exchanges + 1, contributors if len(contributors) >= least else None


FATES: dict[str, Callable[[Pattern, Any], Fate]] = {
    "plain": plain_fate,
    "masked": masked_fate,
    "ckks": consortium_fate,
    "paillier": consortium_fate,
}


def patterns(family: Family, exchanges: int, count: int) -> Iterable[tuple[int, ...]]:
    """From which exchange on each client is gone.

    Variants of MaskedSum differ in who is needed, not in who is who: of four clients they see each number of
    losses at each exchange, the first of the cohort gone first and gone last. So does LatticeSum, of three
    clients too: its losses are those of its key layer.
    """
    moments = [*range(exchanges), NEVER]
    if (count < 4 and family.kind != "lattice") or family.name == family.layer:
        return product(moments, repeat=count)
    ordered = list(combinations_with_replacement(moments, count))
    return ordered + [each[::-1] for each in ordered if each[0] != each[-1]]


def try_patterns(family: Family, count: int, requirements: Requirements) -> None:
    fate_of = FATES[family.layer]
    protocol = family(max_clients=4, requirements=requirements, max_weight=9)
    exchanges = len(protocol.exchanges(first=True))
    names = "abcd"[:count]
    updates = updates_of(names, 3)
    weights = {"a": 9, "c": 2}
    survived = 0
    for gone in patterns(family, exchanges, count):
        pattern = dict(zip(names, gone, strict=True))
        run, contributors = fate_of(pattern, protocol)
        world = World(protocol, names, seed=repr(gone).encode())
        if contributors is None:
            with pytest.raises(RoundAborted) as aborted:
                world.play(updates, weights=weights, gone=pattern)
            assert world.exchanges == run, pattern
            check_absorbed(world, aborted.value.reason)
            continue
        outcome = world.play(updates, weights=weights, gone=pattern)
        survived += 1
        assert world.exchanges == run, pattern
        assert outcome.contributors == contributors, pattern
        lost = {client for client in names if pattern[client] < exchanges}
        asked = (
            lost
            if not family.opened_by_clients
            else lost & (set(outcome.dropped) | set(names) - contributors)
        )
        assert set(outcome.dropped) == asked, pattern
        assert_right(world.learn(outcome), protocol, updates, contributors, weights)
    assert survived > 0


def check_absorbed(world: World, reason: str) -> None:
    """An aborted round stays aborted, for the same reason, and leaves a record that says so."""
    for _ in range(2):
        with pytest.raises(RoundAborted) as again:
            world.server.advance()
        assert again.value.reason == reason
        with pytest.raises(RoundAborted) as again:
            world.server.outcome()
        assert again.value.reason == reason
    signed = world.server.record()
    signed.verify(world.server_identity.key.public_key)
    assert signed.record.aborted == reason
    assert reason
    assert signed.record.contributors == again.value.opened


@pytest.mark.parametrize(
    "requirements",
    [
        pytest.param(Requirements(), id="three"),
        pytest.param(Requirements(min_contributors=2), id="two", marks=pytest.mark.slow),
        pytest.param(TWO, id="two and none corrupt", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("count", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_every_dropout_pattern(family: Family, count: int, requirements: Requirements) -> None:
    if requirements not in (Requirements(), TWO) and not (family.masked and count == 3):
        pytest.skip("who is corrupt matters to shares only, and three show it")
    halves = {"masked malicious": Requirements(), "masked semi-honest": TWO}
    if count == 4 and requirements != halves.get(family.name, requirements):
        pytest.skip("all run the same machines; each takes one half")
    if count == 4 and family.name in {"ckks", "paillier", "lattice over paillier"}:
        pytest.skip("any dropout is survived there, and three show it")
    try_patterns(family, count, requirements)


def test_a_masked_round_survives_drops_at_every_exchange_at_once(masked: Family) -> None:
    # One more vanishes at each exchange: the sum holds those that vanished after contributing.
    protocol = masked(max_clients=13, requirements=TWO)
    exchanges = len(protocol.exchanges(first=True))
    names = "abcdefghijklm"[: 2 * exchanges + 3]
    world, updates = World(protocol, names), updates_of(names, 9)
    gone = {names[2 * exchange]: exchange for exchange in range(exchanges)}
    outcome = world.play(updates, gone=gone)
    assert outcome.contributors == set(names) - {name for name, exchange in gone.items() if exchange < 3}
    assert set(outcome.dropped) == set(gone)
    assert_right(world.learn(outcome), protocol, updates, outcome.contributors)


def test_who_dropped_after_contributing_stands_in_both(masked: Family) -> None:
    for exchange, exchange_name in list(enumerate(masked().exchanges(first=True)))[3:]:
        world, updates = World(masked(max_clients=4), "abcd"), updates_of("abcd")
        outcome = world.play(updates, gone={"b": exchange})
        assert outcome.contributors == frozenset("abcd")
        assert set(outcome.dropped) == {"b"}
        assert exchange_name in outcome.dropped["b"]
        assert_right(world.learn(outcome), world.protocol, updates, "abcd")


def test_reasons_name_the_exchange(family: Family) -> None:
    for exchange, name in enumerate(World(family()).protocol.exchanges(first=True)):
        world = World(family(requirements=TWO), "abcd")
        outcome = world.play(updates_of("abcd"), gone={"a": exchange})
        assert name in outcome.dropped["a"]


def test_the_round_after_an_abort_works(family: Family) -> None:
    world = World(family(max_clients=4), "abcd")
    exchanges = len(world.protocol.exchanges(first=True))
    updates = updates_of("abcd")
    for exchange in range(exchanges):
        everybody = dict.fromkeys("abcd", exchange)
        if family.opened_by_clients and exchange < 2 and exchange:
            everybody["d"] = 0
        with pytest.raises(RoundAborted):
            world.play(updates, gone=everybody)
    outcome = world.play(updates)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcd")


def test_a_new_round_ends_the_open_one(family: Family) -> None:
    world, updates = World(family()), updates_of("abc")
    first = world.server.start(Round(0, ("a", "b", "c"), 5))
    world.number = 0
    outcome = world.play(updates)
    assert outcome.round == 1
    assert_right(world.learn(outcome), world.protocol, updates, "abc")
    stale = world.clients["a"].receive(first["a"])
    assert is_refusal(stale)


def test_a_finished_round_absorbs(family: Family) -> None:
    world = World(family())
    outcome = world.play(updates_of("abc"))
    for sent in [sent for sent in world.log if not sent.down]:
        world.server.receive(sent.client, sent.body)  # identical: ignored
        different = bytearray(sent.body)
        different[-1] ^= 1
        with pytest.raises(PeerViolation):
            world.server.receive(sent.client, different)
    for _ in range(2):
        assert world.server.advance() == {}
        assert world.server.outcome() == outcome


def test_nothing_to_say_before_the_first_round(family: Family) -> None:
    world = World(family())
    for call in (world.server.advance, world.server.outcome, world.server.record):
        with pytest.raises(ParameterError):
            call()
    assert world.server.deliver() == {}
    with pytest.raises(PeerViolation) as violation:
        world.server.receive("a", b"hello")
    assert violation.value.culprit == "a"
    with pytest.raises(ParameterError):
        world.clients["a"].contribute(np.zeros(5))


# Contributors are fixed when the collecting exchange closes


def test_a_late_vector_is_not_in_the_sum(masked: Family) -> None:
    world = World(masked(max_clients=4, requirements=TWO), "abcd")
    updates, late = updates_of("abcd"), []

    def hold_back(exchange: int, name: str, message: bytes) -> bytes | None:
        if (exchange, name) == (2, "b"):
            late.append(message)
            return None
        if exchange == 3 and late:
            with pytest.raises(PeerViolation) as violation:
                world.server.receive("b", late.pop())
            assert violation.value.culprit == "b"
        return message

    outcome = world.play(updates, reply=hold_back)
    assert outcome.contributors == frozenset("acd")
    assert_right(world.learn(outcome), world.protocol, updates, "acd")


def test_a_violation_after_contributing_leaves_the_contribution(family: Family) -> None:
    world = World(family(requirements=TWO), "abcd")
    updates = updates_of("abcd")

    def then_misbehave(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) == (family.collecting, "b"):
            world.server.receive("b", message)
            with pytest.raises(PeerViolation) as violation:
                world.server.receive("b", message + b"!")
            assert violation.value.culprit == "b"
        return message

    outcome = world.play(updates, reply=then_misbehave)
    assert "b" in outcome.dropped
    assert outcome.contributors == frozenset("abcd")
    assert_right(world.learn(outcome), world.protocol, updates, "abcd")


def test_only_the_cohort_is_ever_dropped(family: Family) -> None:
    world = World(family(), "abcd")
    updates = updates_of("abc")

    def outsider(exchange: int, name: str, message: bytes) -> bytes:
        # d is in the roster and was not asked; it answers all the same, and refuses as well.
        for body in (message, world.clients["d"].receive(b"what?"), b""):
            with suppress(PeerViolation):
                world.server.receive("d", body)  # type: ignore[arg-type]
        return message

    outcome = world.play(updates, reply=outsider)
    assert outcome.dropped == {}
    assert outcome.contributors == frozenset("abc")
    assert_right(world.learn(outcome), world.protocol, updates, "abc")
