"""A10: differencing. Two cohorts that differ in one client: the difference of two sums is its update.

**Partial, and no protocol can do more.** Each sum is correct and alone reveals no more than it should; it is
the pair that speaks (So et al., AAAI'23). The first tests show that it works on ours too: with everybody
honest, on both paths, and when a cohort shrinks by one each round in the steady state.

What stands against it today: a client's own minimum ends the shrinking where its policy says, also in the
middle of an epoch; whoever has the signed records sees each pair of sums that differs in too few clients, so
a ledger of cohorts follows from them. The weakened clients forget their policy, and are shrunk down to the
four of eight of whom two may be corrupt.

Not covered: a server that runs both cohorts above everybody's minimum before anybody reads the records. Only
noise (differential privacy) or clients that keep a ledger of their own answer that. The attack needs the
others' updates to stay as they were; clients that train between two rounds blur it, and must not rely on it.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from protocols import MaskedSum, Policy, RoundAborted
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import CollectInput
from protocols.messages.record import RoundRecord
from secagg.errors import VerificationError
from tests.attacks.weakened import Stage, Vector, request_of, updates_of

NAMES = "abcdefgh"
VICTIM = "h"
PROTOCOL = MaskedSum(max_clients=8)
POLICIES = dict.fromkeys(NAMES, Policy(min_contributors=7))


class Forgets(MaskedClientSteps):
    """A client that forgets its policy and takes part in whatever the protocol allows."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        least = context.suite.requirements.min_contributors
        return super().react(replace(context, min_contributors=least), state, request)


def total(outcome: Any) -> Vector:
    summed: Vector = outcome.total.mean * outcome.total.total_weight
    return summed


def without(data: dict[str, Vector], *names: str) -> dict[str, Vector]:
    return {name: update for name, update in data.items() if name not in names}


def is_update(difference: Vector, update: Vector, sums: int) -> bool:
    """Whether the difference of two sums of at most so many summands is this update."""
    return bool(np.abs(difference - update).max() <= 2 * sums * PROTOCOL.error_bound(sums))


def test_two_cohorts_that_differ_in_one_client_open_it_on_ours_too() -> None:
    """Everybody takes part in both, in two rounds of one epoch."""
    stage, data = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    everybody, others = stage.play(data), stage.play(without(data, VICTIM))
    assert next(wire.exchange for wire in stage.wire) == 2  # the second round was a steady one
    assert is_update(total(everybody) - total(others), data[VICTIM], 8)


def test_two_epochs_do_not_help() -> None:
    """New keys and a new graph change nothing: the sums are right, and that is the trouble."""
    stage, data = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    others, everybody = stage.play(without(data, VICTIM)), stage.play(data)
    assert next(wire.exchange for wire in stage.wire) == 0  # a newcomer: the long path
    assert is_update(total(everybody) - total(others), data[VICTIM], 8)


def test_a_lost_vector_is_the_same_attack() -> None:
    """The server need not choose a cohort: it may say that one client's vector never came."""
    stage, data = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    everybody, others = stage.play(data), stage.play(data, gone={VICTIM: 2})
    assert others.contributors == frozenset(NAMES) - {VICTIM}
    assert is_update(total(everybody) - total(others), data[VICTIM], 8)


def play_or_begin_anew(stage: Stage, data: dict[str, Vector]) -> Any:
    """A round; if the clients refuse it in the middle of an epoch, another one that begins a new epoch."""
    try:
        return stage.play(data)
    except RoundAborted:
        return stage.play(data)


def shrink(stage: Stage, data: dict[str, Vector]) -> dict[str, Vector]:
    """Round after round without the last client; what the differences open, until four or a refusal."""
    opened: dict[str, Vector] = {}
    before = total(stage.play(data))
    for size in range(len(NAMES) - 1, 3, -1):
        data = dict(list(data.items())[:size])
        try:
            now = total(play_or_begin_anew(stage, data))
        except RoundAborted:
            break
        opened[NAMES[size]] = before - now
        before = now
    return opened


def test_a_cohort_that_shrinks_by_one_each_round_opens_one_each_round() -> None:
    """Clients that forget their policy are asked until four are left; all but those are opened."""
    data = updates_of(NAMES)
    stage = Stage(PROTOCOL, NAMES, steps=dict.fromkeys(NAMES, Forgets()), policies=POLICIES)
    opened = shrink(stage, data)
    assert opened.keys() == set("efgh")
    assert all(is_update(difference, data[name], 8) for name, difference in opened.items())


def test_a_policy_ends_the_shrinking_where_it_says() -> None:
    data = updates_of(NAMES)
    stage = Stage(PROTOCOL, NAMES, policies=POLICIES)
    opened = shrink(stage, data)
    assert opened.keys() == {"h"}  # eight, seven, and no six
    assert is_update(opened["h"], data["h"], 8)
    assert all("takes part among 7" in str(stage.clients[name].refusal) for name in "abcdef")
    assert stage.play(without(data, "h")).contributors == frozenset("abcdefg")


def test_a_policy_holds_in_the_middle_of_an_epoch() -> None:
    """One client asks for all eight. It refuses a steady round of seven, and so does whoever knows it."""
    stage = Stage(PROTOCOL, NAMES, policies={"a": Policy(min_contributors=8)})
    data = updates_of(NAMES)
    stage.play(data)
    box = stage.open(data, until=2)
    seven = [name for name in NAMES if name != VICTIM]
    for name in seven:
        body = request_of(CollectInput, box[name])
        request = stage.request(2, replace(body, active=stage.bitmap(seven)))
        assert b"7 clients dealt shares; 8 are needed" in stage.tell(name, request)


def test_within_an_epoch_the_cohort_cannot_shrink_below_its_plan() -> None:
    """A server that asks fewer for their vectors, on keys that are prepared, is refused by each of them."""
    stage, data = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    stage.play(data)
    least = stage.protocol.plan(len(NAMES)).min_survivors
    few = NAMES[: least - 1]
    box = stage.open(data, until=2)
    before = {name: stage.clients[name]._state for name in few}
    for name in few:
        body = request_of(CollectInput, box[name])
        assert b"needed" in stage.tell(name, stage.request(2, replace(body, active=stage.bitmap(few))))
        assert stage.clients[name]._state is before[name]  # nothing was spent on it


# What the records say


def close_pairs(records: Iterable[RoundRecord], least: int) -> list[tuple[int, int, frozenset[str]]]:
    """The ledger that the records are: pairs of sums that differ in fewer than `least` clients."""
    ended = [record for record in records if not record.aborted]
    found = []
    for first, second in combinations(ended, 2):
        apart = first.contributors ^ second.contributors
        if 0 < len(apart) < least:
            found.append((first.round, second.round, apart))
    return found


def test_the_signed_records_show_each_pair_that_differs_in_too_few() -> None:
    stage, data = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    signed = [
        stage.play(data).record,
        stage.play(data).record,
        stage.play(without(data, VICTIM)).record,
        stage.play(without(data, "a", "b")).record,
        stage.play(data, gone={"c": 2}).record,
    ]
    key = stage.server._key.public_key
    for each in signed:
        each.verify(key)
    found = close_pairs([each.record for each in signed], 2)
    assert found == [
        (0, 2, frozenset(VICTIM)),
        (0, 4, frozenset("c")),
        (1, 2, frozenset(VICTIM)),
        (1, 4, frozenset("c")),
    ]


def test_a_record_cannot_hide_who_was_in_the_sum() -> None:
    """Changed afterwards it does not verify; the weakened archive keeps records without their signatures."""
    stage, data = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    full, short = stage.play(data).record, stage.play(without(data, VICTIM)).record
    doctored = replace(full.record, contributors=short.record.contributors)
    assert close_pairs([doctored, short.record], 2) == []  # nobody would see it
    with pytest.raises(VerificationError):
        replace(full, record=doctored).verify(stage.server._key.public_key)
