"""C4: the holders of the key are asked to open something that is no sum.

The server hands out one client's ciphertext, or 2c - c, or a subset, or an old sum, under a contributor list
that it wrote itself. A list proves nothing. In ours a tag under a key that the server has not got binds the
sum, the list, the round, the length and the model; a client that finds it wrong returns nothing. And of two
results of one round, both genuine, a client opens one, or their difference would be somebody's update.

The weakened clients do not look at the tag, or forget what they opened.

Not covered: a lying server may give two clients two different genuine results; only if they compare notes,
or one of them colludes, is anybody's update in danger (C1).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gmpy2
import numpy as np
import pytest

from protocols import CkksSum, PaillierSum, PeerViolation
from protocols.consortium.messages import Contribution, Result
from protocols.machine.client import ClientMachine
from protocols.messages.schema import decode, encode
from secagg.ckks import scheme as ckks
from secagg.paillier import scheme as paillier
from secagg.vectors.linear_mac import PRIME, TAG_BYTES, MacKey
from tests.attacks.weakened import LENGTH, Stage, updates_of

NAMES = "abcd"
VICTIM = "b"
WEIGHTS = {"a": 1, "b": 7, "c": 1, "d": 2}
CONSORTIA = [
    pytest.param(CkksSum(max_clients=4, max_weight=10), id="ckks"),
    pytest.param(PaillierSum(max_clients=4, max_weight=10, key_bits=2048), id="paillier"),
]


class Server:
    """A lying server after an honest round: it holds every ciphertext, every tag and the result."""

    def __init__(self, protocol: Any, stage: Stage, updates: Mapping[str, Any]) -> None:
        outcome = stage.play(updates, weights=WEIGHTS)
        self.protocol, self.stage, self.updates = protocol, stage, updates
        self.result = decode(Result, outcome.result or b"")
        self.sent = stage.answers(2, Contribution)
        self.public = stage.view.consortium.public

    def add(self, names: str) -> bytes:
        count = self.protocol.surface.elements(LENGTH)
        total = self.protocol.scheme(self.protocol.surface).total(self.public, count=count)
        for name in names:
            total.add(self.sent[name].vector)
        return bytes(total.to_bytes())

    def tag(self, names: str) -> bytes:
        total = sum(int.from_bytes(self.sent[name].tag, "big") for name in names) % PRIME
        return total.to_bytes(TAG_BYTES, "big")

    def minus(self, body: bytes, name: str) -> bytes:
        """`body` without one client's ciphertext."""
        other = bytes(self.sent[name].vector)
        if isinstance(self.protocol, CkksSum):
            parameters = self.protocol.scheme(self.protocol.surface).parameters
            context = ckks.PublicContext.from_parameters(parameters)._context
            left, right = (ckks._load(context, parameters, memoryview(each)) for each in (body, other))
            left.sub_(right)
            return ckks._block_of(left, parameters)
        key = paillier.PublicKey.decode(self.public)
        square, size = key.n**2, key.ciphertext_bytes
        out = b""
        for at in range(0, len(body), size):
            left, right = (int.from_bytes(each[at : at + size], "big") for each in (body, other))
            out += int(left * gmpy2.invert(right, square) % square).to_bytes(size, "big")
        return out

    def forged(self, **changes: Any) -> bytes:
        return encode(replace(self.result, **changes))


def one_ciphertext(server: Server) -> bytes:
    return server.forged(vector=memoryview(server.sent[VICTIM].vector))


def one_ciphertext_and_its_tag(server: Server) -> bytes:
    return server.forged(vector=memoryview(server.sent[VICTIM].vector), tag=server.tag(VICTIM))


def twice_less_once(server: Server) -> bytes:
    return server.forged(vector=memoryview(server.minus(server.add(VICTIM * 2), VICTIM)))


def all_less_the_others(server: Server) -> bytes:
    body = server.add(NAMES)
    for name in NAMES:
        if name != VICTIM:
            body = server.minus(body, name)
    return server.forged(vector=memoryview(body))


ORACLES = [one_ciphertext, one_ciphertext_and_its_tag, twice_less_once, all_less_the_others]


def prepared(protocol: Any, machine: type[ClientMachine] = ClientMachine) -> Server:
    stage = Stage(protocol, NAMES, machine=dict.fromkeys(NAMES, machine))
    return Server(protocol, stage, updates_of(NAMES))


@pytest.mark.parametrize("protocol", CONSORTIA)
@pytest.mark.parametrize("oracle", ORACLES)
def test_without_the_tag_any_client_opens_the_victim(
    protocol: Any, oracle: Callable[[Server], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MacKey, "verify", lambda *_, **__: None)
    server = prepared(protocol)
    opened = server.stage.clients["c"].open(oracle(server))
    assert opened.total_weight == WEIGHTS[VICTIM]
    assert np.abs(opened.mean - server.updates[VICTIM]).max() <= protocol.error_bound(1)


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_ours_opens_nothing_but_the_sum(protocol: Any) -> None:
    server = prepared(protocol)
    for name, oracle in zip(NAMES, ORACLES, strict=True):
        client = server.stage.clients[name]
        with pytest.raises(PeerViolation, match="not verify") as caught:
            client.open(oracle(server))
        assert caught.value.culprit == "server"
        # One use of the key for a round: whoever lies has spent it, and the lie cannot be varied.
        with pytest.raises(PeerViolation, match="second, different"):
            client.open(encode(server.result))
    honest = prepared(protocol)
    opened = honest.stage.clients["c"].open(encode(honest.result))
    assert opened.total_weight == sum(WEIGHTS.values())


def lists(server: Server) -> dict[str, dict[str, Any]]:
    minimum = next(iter(server.result.contributors.values()))
    three = memoryview(server.add("abc"))
    return {
        "a subset under the full list": {"vector": three},
        "a subset with its tag under the full list": {"vector": three, "tag": server.tag("abc")},
        "the sum under a subset's list": {"contributors": dict.fromkeys("abc", minimum)},
        "the sum of another round": {"round": server.result.round + 1},
        "the sum of another model": {"model": bytes(32)},
        "one twice": {"vector": memoryview(server.add("abcc")), "tag": server.tag("abcc")},
        "another tag": {"tag": (1).to_bytes(TAG_BYTES, "big")},
    }


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_lists_rounds_models_and_lengths_that_do_not_fit(protocol: Any) -> None:
    server = prepared(protocol)
    for place, (_, changes) in enumerate(lists(server).items()):
        client = server.stage.clients[NAMES[place % len(NAMES)]]
        with pytest.raises(PeerViolation):
            client.open(server.forged(**changes))


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_small_or_foreign_lists_are_not_even_tried(protocol: Any) -> None:
    """They cost none of the few openings that may fail."""
    server = prepared(protocol)
    client = server.stage.clients["a"]
    minimum = next(iter(server.result.contributors.values()))
    pair: dict[str, Any] = {"vector": memoryview(server.add("ab")), "tag": server.tag("ab")}
    changed: list[dict[str, Any]] = [
        {**pair, "contributors": dict.fromkeys("ab", minimum)},
        {"contributors": {}},
        {"contributors": dict.fromkeys("abz", minimum)},
        {"contributors": {"a": minimum, "b": minimum, "c": 4}},
        {"length": 0},
        {"key_id": bytes(32)},
    ]
    for changes in changed:
        for _ in range(3):
            with pytest.raises(PeerViolation):
                client.open(server.forged(**changes))
    assert client.open(encode(server.result)).contributors == frozenset(NAMES)


# Two genuine results of one round


class Forgets(ClientMachine):
    """A client that does not remember what it opened."""

    def open(self, result: Any) -> Any:
        self._opened.clear()
        return super().open(result)


def two_results(server: Server) -> list[bytes]:
    """The sum of all, and the sum of all but the victim, each with its own tag and list."""
    few = NAMES.replace(VICTIM, "")
    rest = {name: minimum for name, minimum in server.result.contributors.items() if name != VICTIM}
    fewer = server.forged(contributors=rest, vector=memoryview(server.add(few)), tag=server.tag(few))
    return [encode(server.result), fewer]


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_a_client_that_opens_both_can_subtract_them(protocol: Any) -> None:
    server = prepared(protocol, Forgets)
    every, fewer = (server.stage.clients["c"].open(each) for each in two_results(server))
    difference = every.mean * every.total_weight - fewer.mean * fewer.total_weight
    assert np.abs(difference / WEIGHTS[VICTIM] - server.updates[VICTIM]).max() < 1e-3


@pytest.mark.parametrize("protocol", CONSORTIA)
@pytest.mark.parametrize("first", [0, 1])
def test_ours_opens_one_result_of_a_round(protocol: Any, first: int) -> None:
    server = prepared(protocol)
    results = two_results(server)
    client = server.stage.clients["c"]
    opened = client.open(results[first])
    with pytest.raises(PeerViolation, match="second, different"):
        client.open(results[1 - first])
    assert client.open(results[first]).total_weight == opened.total_weight


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_openings_that_fail_are_counted_and_then_there_are_no_more(protocol: Any) -> None:
    """Whether a doctored ciphertext opens may tell something of the key, so this oracle runs dry."""
    server = prepared(protocol)
    client = server.stage.clients["d"]
    for attempt in range(8):
        with pytest.raises(PeerViolation, match="verify"):
            client.open(server.forged(round=100 + attempt))
        with pytest.raises(PeerViolation, match="second, different"):
            client.open(server.forged(round=100 + attempt, tag=bytes(TAG_BYTES)))
    with pytest.raises(PeerViolation, match="used no more"):
        client.open(encode(server.result))
