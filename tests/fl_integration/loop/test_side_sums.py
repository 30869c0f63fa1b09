"""Exact sums beside the rounds: totals, traffic, who is missing, and what each count answers."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl_integration.loop.side_sums import Counts, SideSums
from fl_integration.site.site import SiteFailedError
from protocols import Identity, Learner, ParameterError, RoundAborted
from protocols.machine.integers import IntegerSurface
from protocols.messages.envelope import RESULT, Envelope
from secagg.entropy import SeededEntropy
from tests.fl_integration.loop.stage import EACH, NAMES, PROTOCOLS, protocol

LENGTH = 5
MODEL = b"the model of this round, which all count with"


@pytest.fixture(params=EACH)
def name(request: Any) -> str:
    return str(request.param)


def side_sums(name: str, *, max_summand: int = 100, names: str = NAMES, on_message: Any = None) -> SideSums:
    return SideSums(
        protocol(name),
        max_summand=max_summand,
        length=LENGTH,
        identities=[
            Identity.generate(each, entropy=SeededEntropy(bytes(16), each.encode())) for each in names
        ],
        entropy=lambda purpose: SeededEntropy(bytes(16), purpose.encode()),
        on_message=on_message,
    )


def counts(client: str, number: int = 0) -> Counts:
    return np.array([ord(client) - 97, 100, 0, number, 7], np.uint64)


def total(names: str, number: int = 0) -> list[int]:
    return [int(each) for each in np.sum([counts(client, number) for client in names], axis=0)]


def run(
    sums: SideSums,
    number: int = 0,
    cohort: str = NAMES,
    count: Callable[[str, bytes], Counts] | None = None,
    *,
    model: bytes = MODEL,
    head: Callable[[str], bytes] | None = None,
) -> Any:
    """One sum; in each round the clients have another model."""
    return sums.run(
        number,
        tuple(cohort),
        count or (lambda client, _: counts(client, number)),
        model=model,
        head=head or (lambda _: number.to_bytes(32, "big")),
    )


def failing(*lost: str) -> Callable[[str, bytes], Counts]:
    def count(client: str, _: bytes) -> Counts:
        if client in lost:
            raise SiteFailedError("no test set")
        return counts(client)

    return count


def test_totals_are_exact_round_after_round(name: str) -> None:
    sums = side_sums(name)
    for number in (0, 1, 5):
        found, _ = run(sums, number)
        assert found.keys() == set(NAMES)
        for each in found.values():
            assert each.total.tolist() == total(NAMES, number)
            assert each.total.dtype == np.uint64
            assert (each.round, each.contributors) == (number, set(NAMES))


def test_everybody_counts_with_the_model_that_came(name: str) -> None:
    seen: dict[str, bytes] = {}

    def count(client: str, body: bytes) -> Counts:
        seen[client] = bytes(body)
        return counts(client)

    run(side_sums(name), count=count)
    assert seen == dict.fromkeys(NAMES, MODEL)


def test_whoever_fails_is_named_and_missing_from_that_sum_alone(name: str) -> None:
    sums = side_sums(name)
    found, _ = run(sums, 0, count=failing("b"))
    assert {each.contributors for each in found.values()} == {frozenset("acd")}
    assert all(each.total.tolist() == total("acd") for each in found.values())
    assert {client: each.reason for client, each in sums.failures.items()} == {"b": "no test set"}
    found, _ = run(sums, 1)
    assert all(each.total.tolist() == total(NAMES, 1) for each in found.values())
    assert sums.failures == {}


def test_too_many_failures_abort_with_their_reasons_and_the_next_sum_is_fine(name: str) -> None:
    sums = side_sums(name)
    with pytest.raises(RoundAborted, match=r"at least 3.*b: no test set; c: no test set"):
        run(sums, 0, count=failing("b", "c"))
    assert sums.traffic["server"].sent > 0
    found, _ = run(sums, 1)
    assert all(each.total.tolist() == total(NAMES, 1) for each in found.values())


def test_after_an_aborted_sum_no_earlier_one_is_taken_for_it(name: str) -> None:
    sums = side_sums(name)
    run(sums, 0)
    with pytest.raises(RoundAborted):
        run(sums, 1, count=failing(*"abcd"))
    found, _ = run(sums, 2, "acd")
    assert {tuple(each.total.tolist()) for each in found.values()} == {tuple(total("acd", 2))}
    assert {each.round for each in found.values()} == {2}


def test_a_result_that_does_not_arrive_is_no_sum_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients learn the sum; the result of round 0 reaches b with round 1, that of round 1 never."""
    sums: Any = side_sums("ckks")
    carry = sums._exchange._answer

    def lossy(client: str, request: bytes) -> bytes | None:
        lost = client == "b" and Envelope.decode(request).stage == RESULT
        return None if lost else carry(client, request)

    monkeypatch.setattr(sums._exchange, "_answer", lossy)
    for number in (0, 1):
        found, _ = run(sums, number)
        assert found.keys() == set("acd")
        assert {each.round for each in found.values()} == {number}


def test_a_count_that_is_too_large_keeps_its_site_out(name: str) -> None:
    sums = side_sums(name)

    def count(client: str, _: bytes) -> Counts:
        return np.full(LENGTH, 101, np.uint64) if client == "a" else counts(client)

    found, _ = run(sums, count=count)
    assert {each.contributors for each in found.values()} == {frozenset("bcd")}
    assert "101" in sums.failures["a"].reason or "max_summand" in sums.failures["a"].reason


@pytest.mark.parametrize(
    "bad", [np.zeros(LENGTH + 1, np.uint64), np.zeros(LENGTH), np.zeros((1, LENGTH), "u8")]
)
def test_counts_of_another_form_keep_their_site_out(bad: Any) -> None:
    sums = side_sums("masked")
    found, _ = run(sums, count=lambda client, _: bad if client == "a" else counts(client))
    assert {each.contributors for each in found.values()} == {frozenset("bcd")}
    assert sums.failures.keys() == {"a"}


def test_another_error_of_a_count_is_not_swallowed(name: str) -> None:
    def count(client: str, _: bytes) -> Counts:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(side_sums(name), count=count)


def test_every_byte_is_counted(name: str) -> None:
    sent: Counter[str] = Counter()
    numbers: set[int] = set()

    def see(number: int, message: Any) -> None:
        numbers.add(number)
        sent[message.sender] += len(message.body)

    sums = side_sums(name, on_message=see)
    for number in (3, 4):
        sent.clear()
        _, traffic = run(sums, number)
        assert {party: each.sent for party, each in traffic.items()} == dict(sent)
        assert traffic["server"].received == sum(traffic[client].sent for client in NAMES)
        assert sums.traffic == traffic
    assert numbers == {3, 4}


def test_a_round_counts_up(name: str) -> None:
    sums = side_sums(name)
    run(sums, 2)
    with pytest.raises(ParameterError, match="round"):
        run(sums, 2)


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_counts_that_answer_another_model_are_not_in_the_sum(name: str) -> None:
    assert protocol(name).learns is Learner.CLIENTS
    sums = side_sums(name)
    found, _ = run(sums, head=lambda client: bytes(32) if client != "b" else b"\x01" * 32)
    assert {each.contributors for each in found.values()} == {frozenset("acd")}
    assert all(each.head == bytes(32) for each in found.values())
    with pytest.raises(RoundAborted, match="other heads"):
        run(sums, 1, head=lambda client: bytes(32) if client in "ab" else b"\x01" * 32)


def handing_another_model(sums: Any, victim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server hands one client another model than the rest, of the same length."""
    answer = sums._exchange._answer

    def lying(client: str, request: bytes) -> bytes | None:
        assert request.count(MODEL) <= 1
        return answer(client, request.replace(MODEL, MODEL[::-1]) if client == victim else request)

    monkeypatch.setattr(sums._exchange, "_answer", lying)


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "plain"])
def test_a_server_that_hands_one_site_another_model_gets_no_count_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a client adds is bound to the model that it was handed (ATTACKS A9)."""
    sums = side_sums(name)
    handing_another_model(sums, "b", monkeypatch)
    found, _ = run(sums)
    assert {tuple(each.total.tolist()) for each in found.values()} == {tuple(total("acd"))}
    assert "model" in sums_record(sums)["b"] or "transcript" in sums_record(sums)["b"]


def sums_record(sums: Any) -> dict[str, str]:
    dropped: dict[str, str] = sums._server.record().record.dropped
    return dropped


def test_plain_sums_bind_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above can fail: without masks the other model is counted like any."""
    sums = side_sums("plain")
    handing_another_model(sums, "b", monkeypatch)
    found, _ = run(sums)
    assert {tuple(each.total.tolist()) for each in found.values()} == {tuple(total(NAMES))}


def test_an_abort_after_opening_says_whose_sum_was_seen_whoever_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the failures' reasons in it, the error forgot of whom a sum had been opened."""

    def refused(self: Any, total: Any, contributors: Any) -> Any:
        raise RoundAborted("a sum above what its contributors may add up to", opened=contributors)

    monkeypatch.setattr(IntegerSurface, "decode", refused)
    with pytest.raises(RoundAborted, match="b: no test set") as found:
        run(side_sums("masked"), count=failing("b"))
    assert found.value.opened == set("acd")


def test_whoever_is_missing_is_named_with_what_a_log_may_say(name: str) -> None:
    sums = side_sums(name)

    def count(client: str, _: bytes) -> Counts:
        if client == "b":
            raise SiteFailedError.of(ValueError("row 17: born 1961"))
        return counts(client)

    run(sums, 0, count=count)
    assert sums.missing_in_a_log == {"b": "ValueError, see the report"}
    run(sums, 1)
    assert sums.missing_in_a_log == {}


def test_counts_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(ParameterError):
        side_sums(name, max_summand=1 << 70)


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_clients_add_up_no_second_time_for_one_model(name: str) -> None:
    """Two sums for one head over other clients would tell the counts of those in which they differ (A10)."""
    sums = side_sums(name)
    run(sums, 0, count=failing("b"), head=lambda _: bytes(32))
    with pytest.raises(RoundAborted, match="a sum for this model was seen"):
        run(sums, 1, head=lambda _: bytes(32))
