"""Results wait until everybody has them, and not longer; the books agree with a slow search."""

import hashlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protocols.machine.client import KEPT_RESULTS
from protocols.machine.mailbox import Mailbox

MEMBERS = ("a", "b", "c")


def result_of(number: int) -> bytes:
    return b"the result of round %d" % number


def digest_of(number: int) -> bytes:
    return hashlib.sha256(result_of(number)).digest()


class SlowMailbox:
    """What each member was sent and has not fetched: a list for each, nothing counted."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[int]] = {member: [] for member in MEMBERS}

    def put(self, number: int) -> None:
        for member, numbers in self.waiting.items():
            self.waiting[member] = [*numbers, number][-KEPT_RESULTS:]

    def arrived(self, member: str, numbers: list[int]) -> None:
        self.waiting[member] = [number for number in self.waiting[member] if number not in numbers]

    @property
    def results(self) -> dict[int, bytes]:
        return {number: result_of(number) for numbers in self.waiting.values() for number in numbers}


arrivals = st.tuples(st.sampled_from(MEMBERS), st.lists(st.integers(0, 12), max_size=3), st.booleans())


@given(st.lists(st.just(None) | arrivals, max_size=30))
def test_the_books_are_those_of_a_slow_search(events: list[Any]) -> None:
    mailbox, slow, number = Mailbox(MEMBERS), SlowMailbox(), 0
    for event in events:
        if event is None:
            mailbox.put(number, result_of(number))
            slow.put(number)
            number += 1
        else:
            member, numbers, by_digest = event
            if by_digest:
                mailbox.acknowledged(member, tuple(digest_of(each) for each in numbers))
            else:
                mailbox.arrived(member, numbers)
            slow.arrived(member, numbers)
        # A mailbox of saved books goes on as the one that they were saved from.
        mailbox = Mailbox(MEMBERS, results=mailbox.results, owed=mailbox.owed)
        assert mailbox.results == slow.results
        for member, waiting in slow.waiting.items():
            assert mailbox.waiting(member) == tuple(waiting)
            assert mailbox.views(waiting) == tuple(result_of(each) for each in waiting)


def test_the_last_reader_takes_the_result_with_it() -> None:
    mailbox = Mailbox(MEMBERS)
    mailbox.put(0, result_of(0))
    for member in "ab":
        mailbox.arrived(member, (0,))
        mailbox.arrived(member, (0,))  # twice is once
        assert mailbox.results == {0: result_of(0)}
    mailbox.acknowledged("c", (digest_of(1), digest_of(0)))
    assert mailbox.results == {}
    mailbox.acknowledged("c", (digest_of(0),))
    assert mailbox.waiting("c") == ()


def test_a_member_that_never_fetches_keeps_the_last_few() -> None:
    mailbox = Mailbox(MEMBERS)
    for number in range(KEPT_RESULTS + 3):
        mailbox.put(number, result_of(number))
    assert mailbox.waiting("a") == tuple(range(3, KEPT_RESULTS + 3))
    assert set(mailbox.results) == set(range(3, KEPT_RESULTS + 3))


def test_results_are_not_copied() -> None:
    mailbox, result = Mailbox(MEMBERS), result_of(0)
    mailbox.put(0, result)
    (view,) = mailbox.views((0,))
    assert view.obj is result


def test_strangers_wait_for_nothing() -> None:
    mailbox = Mailbox(MEMBERS)
    mailbox.put(0, result_of(0))
    assert mailbox.waiting("dave") == ()
    mailbox.arrived("dave", (0,))
    assert set(mailbox.results) == {0}
