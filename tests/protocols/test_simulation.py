"""Simulations and sessions: what they report, that a seed repeats, consortia whose members come and go."""

from collections import Counter

import numpy as np
import pytest

from protocols import (
    IntegerSum,
    MaskedSum,
    ParameterError,
    PlainSum,
    RoundAborted,
    Rounding,
    Session,
    Simulation,
    Sum,
    simulate,
)
from tests.protocols.conftest import (
    ONE_OF_SIX,
    STATE_KEY,
    TWO,
    Family,
    World,
    assert_right,
    exchange_of,
    updates_of,
)

# What is reported


def test_a_simulation_adds_up(family: Family) -> None:
    protocol = family(max_weight=4, clip=0.5)
    updates = updates_of("abcd", 20)
    run = simulate(protocol, updates, weights={"d": 4}, seed=5)
    assert_right(run.sum, protocol, updates, updates, {"d": 4}, clip=0.5)
    assert run.mean.dtype == np.float64
    assert (run.total_weight, run.contributors, run.dropped) == (7, frozenset("abcd"), {})
    assert run.clipped == {name: int((np.abs(update) > 0.5).sum()) for name, update in updates.items()}
    assert set(run.traffic) == set(run.seconds) == {"server", *updates}
    assert all(seconds >= 0 for seconds in run.seconds.values())
    sent: Counter[str] = Counter()
    received: Counter[str] = Counter()
    for message in run.transcript:
        assert "server" in (message.sender, message.receiver)
        assert message.sender != message.receiver
        sent[message.sender] += len(message.body)
        received[message.receiver] += len(message.body)
    assert {name: (each.sent, each.received) for name, each in run.traffic.items()} == {
        name: (sent[name], received[name]) for name in run.traffic
    }
    exchanges = list(dict.fromkeys(message.exchange for message in run.transcript))
    assert tuple(each for each in exchanges if each != "Result") == protocol.exchanges(first=True)
    assert ("Result" in exchanges) == family.opened_by_clients
    run.record.verify(run.record.public_key)
    assert run.record.record.contributors == run.contributors


def test_steady_rounds_take_fewer_exchanges(family: Family) -> None:
    session = Session(family(), "abc")
    for number in range(3):
        run = session.round(updates_of("abc", seed=number))
        names = family().exchanges(first=number == 0)
        assert run.exchanges == len(names)
        assert {message.exchange for message in run.transcript} - {"Result"} == set(names)
    steady = {
        "masked": ("MaskedInput", "Unmask"),
        "masked semi-honest": ("MaskedInput", "Unmask"),
        "masked malicious": ("MaskedInput", "ConsistencyCheck", "Unmask"),
    }
    masked = steady["masked"] if family.masked else ("Contribute",)
    assert family().exchanges(first=False) == steady.get(family.name, masked)


def test_dropping_by_name_and_by_number(family: Family) -> None:
    names = family().exchanges(first=True)
    for number, name in enumerate(names):
        by_name = simulate(family(requirements=TWO), updates_of("abcd"), drop={"d": name}, seed=1)
        by_number = simulate(family(requirements=TWO), updates_of("abcd"), drop={"d": number}, seed=1)
        assert by_name.dropped == by_number.dropped
        assert set(by_name.dropped) == {"d"}
        assert by_name.contributors == by_number.contributors
        assert not any(
            message.receiver == "d" and message.exchange in names[number:] for message in by_name.transcript
        )


def test_numbers_of_later_rounds_count_their_own_exchanges(consortium: Family) -> None:
    session = Session(consortium(), "abcd")
    session.round(updates_of("abcd"))
    run = session.round(updates_of("abcd"), drop={"d": 0})
    assert "Contribute" in run.dropped["d"]
    assert run.contributors == frozenset("abc")


def test_a_round_that_aborts_raises_and_the_session_goes_on(family: Family) -> None:
    session = Session(family(), "abc")
    with pytest.raises(RoundAborted):
        session.round(updates_of("abc"), drop={"a": 0})
    run = session.round(updates_of("abc"))
    assert_right(run.sum, family(), updates_of("abc"), "abc")


def test_arguments_are_not_changed(family: Family) -> None:
    updates = updates_of("abc")
    before = {name: update.copy() for name, update in updates.items()}
    for update in updates.values():
        update.setflags(write=False)
    weights: dict[str, int] = {"a": 1}
    drop: dict[str, int | str] = {}
    simulate(family(), updates, weights=weights, drop=drop)
    assert all(np.array_equal(updates[name], before[name]) for name in updates)
    assert (weights, drop) == ({"a": 1}, {})


def test_views_with_strides_are_summed(family: Family) -> None:
    updates = {name: update[::-3] for name, update in updates_of("abc", 31).items()}
    assert_right(simulate(family(), updates).sum, family(), updates, updates)


# Determinism


def fingerprint(run: Simulation) -> tuple[object, ...]:
    """What repeats with a seed, beside the sizes of messages."""
    return (
        run.mean.tolist(),
        run.total_weight,
        run.contributors,
        run.dropped,
        run.exchanges,
        run.clipped,
        [(m.exchange, m.sender, m.receiver) for m in run.transcript],
    )


def assert_sizes_repeat(first: Simulation, second: Simulation) -> None:
    """Whatever a library draws for itself, no size follows from it."""
    assert [len(each.body) for each in first.transcript] == [len(each.body) for each in second.transcript]


def test_a_seed_repeats_means_drops_and_sizes(family: Family) -> None:
    updates = updates_of("abcd", 40)
    drop = {"d": family().exchanges(first=True)[-1]}
    runs = [simulate(family(requirements=TWO), updates, drop=drop, seed=seed) for seed in (7, 7, 8)]
    assert fingerprint(runs[0]) == fingerprint(runs[1])
    assert_sizes_repeat(runs[0], runs[1])
    assert runs[0].mean.tolist() != runs[2].mean.tolist()  # stochastic rounding follows the seed
    if family.name in ("plain", "paillier"):  # TenSEAL and ML-KEM draw their own randomness
        assert runs[0].transcript == runs[1].transcript
    if family.masked:  # the keys are those of the seed, what is encapsulated to them is not
        first, second = (
            [message for message in run.transcript if message.exchange == "AdvertiseKeys"] for run in runs[:2]
        )
        assert first == second


def test_without_a_seed_nothing_repeats(family: Family) -> None:
    first, second = (simulate(family(), updates_of("abc")) for _ in range(2))
    assert not {m.body for m in first.transcript} & {m.body for m in second.transcript}


def test_a_session_repeats_with_its_seed(family: Family) -> None:
    def play() -> list[Simulation]:
        session = Session(family(), "abcd", seed=2**127)
        return [session.round(updates_of(cohort, 9)) for cohort in ("abc", "abcd", "bcd")]

    for first, second in zip(play(), play(), strict=True):
        assert fingerprint(first) == fingerprint(second)
        assert_sizes_repeat(first, second)


# Members that come and go


def test_many_rounds_with_newcomers_and_returners(family: Family) -> None:
    session = Session(family(requirements=TWO, max_weight=9), "abcdef", seed=4)
    last = family().exchanges(first=False)[-1]
    plan: list[tuple[str, dict[str, int | str]]] = [
        ("abc", {}),
        ("abcd", {"b": last}),
        ("cdef", {}),
        ("abef", {"e": 0}),
        ("fedcba", {}),
        ("be", {}),
        ("abcdef", {"a": 0, "c": 0}),
    ]
    for number, (cohort, drop) in enumerate(plan):
        updates, weights = updates_of(cohort, 4, seed=number), {cohort[0]: 9}
        run = session.round(updates, weights=weights, drop=drop)
        assert set(run.dropped) == set(drop)
        late = {"Unmask"}
        expected = frozenset(name for name in cohort if drop.get(name, "Unmask") in late)
        assert run.contributors == expected
        assert_right(run.sum, family(), updates, expected, weights)


def test_newcomers_get_the_key_when_they_come(consortium: Family) -> None:
    session = Session(consortium(), "abcd")
    assert session.round(updates_of("abc")).exchanges == 3
    assert session.round(updates_of("abc")).exchanges == 1
    updates = updates_of("bcd")
    run = session.round(updates)
    assert run.exchanges == 3
    assert {m.receiver for m in run.transcript if m.exchange == "AdvertiseKeys"} >= {"d"}
    assert not any(m.receiver in "bc" and m.exchange == "AdvertiseKeys" for m in run.transcript)
    assert_right(run.sum, consortium(), updates, "bcd")
    assert session.round(updates_of("abcd")).exchanges == 1


def test_newcomers_without_anybody_who_holds_the_key(consortium: Family) -> None:
    session = Session(consortium(requirements=ONE_OF_SIX), "abcdef")
    session.round(updates_of("abc"))
    with pytest.raises(ParameterError, match="'a', 'b', 'c'"):
        session.round(updates_of("def"))
    assert session.round(updates_of("adef")).contributors == frozenset("adef")


def test_the_next_custodian_takes_over(consortium: Family) -> None:
    # a is gone before it is asked for the key, b after; c makes it. Both come back.
    session = Session(consortium(requirements=TWO), "abcde")
    updates = updates_of("abcde")
    run = session.round(updates, drop={"a": "DistributeKey", "b": "DistributeKey"})
    assert run.contributors == frozenset("cde")
    assert set(run.dropped) == {"a", "b"}
    assert_right(run.sum, consortium(), updates, "cde")
    run = session.round(updates)
    assert run.dropped == {}
    assert_right(run.sum, consortium(), updates, "abcde")
    assert session.round(updates).exchanges == 1


def test_a_custodian_whose_answer_is_lost_comes_back(consortium: Family) -> None:
    # It made a key that nobody else got. The next custodian's key is the session's; it must take that one.
    world = World(consortium(requirements=TWO), "abcd")
    updates = updates_of("abcd")
    outcome = world.play(
        updates, reply=lambda exchange, name, message: None if (exchange, name) == (1, "a") else message
    )
    assert outcome.contributors == frozenset("bcd")
    assert set(outcome.dropped) == {"a"}
    assert_right(world.learn(outcome), world.protocol, updates, "bcd")
    for _ in range(2):
        outcome = world.play(updates)
        assert outcome.dropped == {}
        assert_right(world.learn(outcome), world.protocol, updates, "abcd")


def test_a_round_cut_off_after_the_key_was_made(consortium: Family) -> None:
    # The server starts anew while the custodian's answer is on its way: everybody can still take part.
    world = World(consortium(requirements=TWO), "abc")
    updates = updates_of("abc")

    class Cut(Exception):
        """The server was restarted."""

    def cut(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == 1:
            raise Cut
        return message

    with pytest.raises(Cut):
        world.play(updates, reply=cut)
    for _ in range(2):
        outcome = world.play(updates)
        assert outcome.dropped == {}
        assert_right(world.learn(outcome), world.protocol, updates, "abc")


def test_a_lost_delivery_waits_while_others_come(consortium: Family) -> None:
    world = World(consortium(requirements=TWO), "abcde")
    outcome = world.play(updates_of("abcd"), gone={"d": 2})
    assert outcome.contributors == frozenset("abc")
    updates = updates_of("abcde")  # e is new; the key for d was made in the round before
    outcome = world.play(updates)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcde")


def test_a_key_whose_delivery_was_lost_is_delivered_again(consortium: Family) -> None:
    world = World(consortium(requirements=TWO), "abcd")
    updates = updates_of("abcd")
    outcome = world.play(updates, gone={"d": 2})
    assert outcome.contributors == frozenset("abc")
    world.restart()
    outcome = world.play(updates)
    assert outcome.dropped == {}
    assert world.exchanges == 2, "it was asked whether it lost its key, and nobody needed to seal it again"
    assert_right(world.learn(outcome), world.protocol, updates, "abcd")


# Privacy of what goes over the wire


def test_the_wire_shows_no_update_but_plain_sums(family: Family) -> None:
    # One constant update, to the nearest point: its bits recur in every value of a plain vector.
    protocol = family(rounding=Rounding.NEAREST)
    updates = {name: np.full(512, value) for name, value in zip("abc", (0.5, -0.25, 0.125), strict=True)}
    run = simulate(protocol, updates, seed=3)
    uploads = [m.body for m in run.transcript if m.sender == "a" and len(m.body) > 512]
    assert uploads
    period = protocol.plan(3).ring_bits  # so many bytes hold eight values
    repeated = any(
        u[at : at + 2 * period] == u[at + period : at + 3 * period] for u in uploads for at in range(600)
    )
    assert repeated == (family.name == "plain")


def test_masks_are_fresh_every_round() -> None:
    session = Session(MaskedSum(max_clients=3), "abc", seed=1)
    updates = {name: np.zeros(64) for name in "abc"}
    runs = [session.round(updates) for _ in range(3)]
    vectors = [
        m.body[-150:]
        for run in runs
        for m in run.transcript
        if m.exchange == "MaskedInput" and m.sender != "server"
    ]
    assert len(set(vectors)) == 9
    assert all(vector.count(0) < 20 for vector in vectors)


def test_plain_sum_is_the_plain_sum() -> None:
    updates = {name: np.full(3, value) for name, value in zip("abc", (0.0, 0.25, 0.5), strict=True)}
    run = simulate(PlainSum(max_clients=3), updates)
    assert np.allclose(run.mean, 0.25, atol=1e-4)
    assert {exchange_of(m.body) for m in run.transcript} == {0}


def test_parties_of_a_session_export(family: Family) -> None:
    session = Session(family(), "abc")
    session.round(updates_of("abc"))
    assert session.roster.members == ("a", "b", "c")
    for machine in (session.server, *session.clients.values()):
        assert isinstance(machine.export(key=STATE_KEY), bytes)  # type: ignore[attr-defined]


def test_sums_are_equal_by_their_values() -> None:
    """As two of one round are that different clients opened; arrays do not compare by themselves."""
    one, other = (Sum(np.array([0.5, 1.0]), 3, frozenset("abc"), {"loss": 0.5}) for _ in range(2))
    assert one == other
    assert one != Sum(np.array([0.5, 2.0]), 3, frozenset("abc"), {"loss": 0.5})
    assert one != Sum(np.array([0.5, 1.0]), 4, frozenset("abc"), {"loss": 0.5})
    assert one != Sum(np.array([0.5, 1.0]), 3, frozenset("abc"), {})
    assert one != "a sum"
    exact = [
        IntegerSum(one.mean, 3, one.contributors, {}, np.array([1, last], dtype=np.uint64))
        for last in (2, 2, 3)
    ]
    assert exact[0] == exact[1] != exact[2]
    assert exact[0] != Sum(one.mean, 3, one.contributors, {})
