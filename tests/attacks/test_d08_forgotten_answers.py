"""D8: a client forgets which model it answered, and then opens a sum that answers another one.

A server tells one client another model than the others, and hands it their sum. The client knows what it
answered and refuses. Where that memory holds eight rounds and no more, the same sum is opened in the ninth;
where a key that is delivered again brings an empty memory, it is opened at once, and results that did not
verify under a key are forgotten with it. Both work on the copy (`forgetful`). Ours refuses what is older than
its memory, and remembers whatever key it is given.
"""

from dataclasses import replace
from typing import Any

import pytest

from protocols import CkksSum, PaillierSum, PeerViolation
from protocols.consortium import client as steps
from protocols.consortium.client import KEPT_ROUNDS, History
from protocols.consortium.messages import Collect, Result
from protocols.consortium.server import Custody, Idle
from protocols.machine.client import Request
from protocols.machine.parameters import MachineProtocol
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from tests.attacks.weakened import Stage, request_of, updates_of

NAMES = "abcd"
PROTOCOLS: dict[str, MachineProtocol] = {
    "ckks": CkksSum(max_clients=4),
    "paillier": PaillierSum(max_clients=4, key_bits=2048),
}


@pytest.fixture(params=PROTOCOLS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def collected(message: bytes, **changes: Any) -> bytes:
    """A request for an update with other fields."""
    envelope = Envelope.decode(message)
    request = decode(Request, envelope.body)
    told = replace(decode(Collect, request.body), **changes)
    return replace(envelope, body=encode(Request(request.results, memoryview(encode(told))))).encode()


def two_models(stage: Stage) -> bytes:
    """A round in which a is told another model than the others; the sealed sum of the others."""

    def told(exchange: int, client: str, message: bytes) -> bytes:
        return collected(message, model=b"for a alone") if (exchange, client) == (2, "a") else message

    outcome = stage.play(updates_of(NAMES), model=b"for all others", request=told)
    assert outcome.contributors == frozenset("bcd")
    assert outcome.result is not None
    return outcome.result


def opens(stage: Stage, result: bytes) -> bool:
    try:
        return stage.clients["a"].open(result).contributors == frozenset("bcd")
    except PeerViolation:
        return False


def on(rounds: int, stage: Stage) -> None:
    for number in range(rounds):
        outcome = stage.play(updates_of(NAMES, seed=number))
        assert outcome.result is not None
        stage.clients["a"].open(outcome.result)


def without_a_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory of eight rounds, and of nothing before."""
    honest = History.with_round
    monkeypatch.setattr(
        History, "with_round", lambda self, round, model: replace(honest(self, round, model), forgotten=0)
    )


def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory that a new key empties."""
    monkeypatch.setattr(steps, "_history", lambda state: History())


def test_the_ninth_round_on_the_copy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_a_floor(monkeypatch)
    stage = Stage(PROTOCOLS[name], NAMES)
    result = two_models(stage)
    assert not opens(stage, result)
    on(KEPT_ROUNDS - 1, stage)
    assert not opens(stage, result)
    on(1, stage)
    assert opens(stage, result)


def test_the_ninth_round_on_ours(name: str) -> None:
    stage = Stage(PROTOCOLS[name], NAMES)
    result = two_models(stage)
    for _ in range(KEPT_ROUNDS + 2):
        assert not opens(stage, result)
        on(1, stage)
    assert not opens(stage, result)


def key_by_b(stage: Stage) -> None:
    """The next round begins with another key, which b makes: a is given it. A server may always say so."""
    stage.server._state = Idle(None, Custody(failed=frozenset("a")))


@pytest.mark.parametrize("weak", [True, False], ids=["copy", "ours"])
def test_a_key_delivered_again(name: str, weak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if weak:
        forgetful(monkeypatch)
    stage = Stage(PROTOCOLS[name], NAMES)
    kept: list[Any] = []

    def told(exchange: int, client: str, message: bytes) -> bytes:
        if (exchange, client) != (2, "a"):
            return message
        asked = request_of(Collect, message)
        kept.append((asked.key_id, asked.delivery))
        return collected(message, model=b"for a alone")

    key_by_b(stage)
    outcome = stage.play(updates_of(NAMES), model=b"for all others", request=told)
    assert outcome.result is not None
    assert not opens(stage, outcome.result)
    key_by_b(stage)  # and another key
    on(1, stage)
    (key_id, delivery) = kept[0]

    def bring_back(exchange: int, client: str, message: bytes) -> bytes:
        return collected(message, key_id=key_id, delivery=delivery) if client == "a" else message

    stage.play(updates_of(NAMES), request=bring_back)
    assert stage.clients["a"]._state.key_id == key_id
    assert opens(stage, outcome.result) is weak


@pytest.mark.parametrize("weak", [True, False], ids=["copy", "ours"])
def test_failures_under_a_key_come_back_with_it(weak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight are all that a server may try under one key, however often it delivers it."""
    if weak:
        forgetful(monkeypatch)
    stage = Stage(PROTOCOLS["ckks"], NAMES)
    kept: list[Any] = []

    def keep(exchange: int, client: str, message: bytes) -> bytes:
        if (exchange, client) == (2, "a"):
            asked = request_of(Collect, message)
            kept.append((asked.key_id, asked.delivery))
        return message

    def spoilt(result: bytes | None) -> bytes:
        return encode(replace(decode(Result, result or b""), tag=bytes(16)))

    def tried(result: bytes) -> bool:
        """Whether the key was used on it."""
        with pytest.raises(PeerViolation) as violation:
            stage.clients["a"].open(result)
        return "does not verify" in violation.value.reason

    key_by_b(stage)
    found = [tried(spoilt(stage.play(updates_of(NAMES), request=keep).result)) for _ in range(9)]
    assert found == [True] * 8 + [False]
    late = stage.play(updates_of(NAMES)).result
    key_by_b(stage)
    on(1, stage)
    (key_id, delivery) = kept[0]

    def bring_back(exchange: int, client: str, message: bytes) -> bytes:
        return collected(message, key_id=key_id, delivery=delivery) if client == "a" else message

    stage.play(updates_of(NAMES), request=bring_back)
    assert tried(spoilt(late)) is weak


def test_a_delivery_of_the_key_at_hand_changes_nothing(name: str) -> None:
    stage = Stage(PROTOCOLS[name], NAMES)
    key_by_b(stage)
    kept: list[Any] = []

    def again(exchange: int, client: str, message: bytes) -> bytes:
        if (exchange, client) != (2, "a"):
            return message
        asked = request_of(Collect, message)
        kept.append(asked.delivery or kept[0])
        return collected(message, delivery=kept[0])

    result = stage.play(updates_of(NAMES), request=again).result
    history = stage.clients["a"]._state.history
    stage.play(updates_of(NAMES), request=again)
    assert history.answered.items() < stage.clients["a"]._state.history.answered.items()
    assert result is not None
    assert stage.clients["a"].open(result).contributors == frozenset(NAMES)
