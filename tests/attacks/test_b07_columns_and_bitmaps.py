"""B7: MaskedSum's columns and bitmaps, of another size or with bits that mean nobody.

Its messages say things of many neighbours in columns, whose pieces have no names: a column of another size,
or a bitmap with one bit more, would shift what belongs to whom. Every request with one field changed is
refused by a client, which stays as it was; every such answer costs its maker, and nobody else, its place.

Not covered: columns of the right size with wrong content; see A12 and B3.
"""

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from protocols import (
    Adversary,
    MaskedSum,
    Requirements,
)
from protocols.masked.messages import (
    CollectInput,
    MaskedInput,
    ShareKeys,
    Unmask,
)
from tests.attacks.weakened import Stage, body_of, refused, request_of, rewrite, updates_of

PROTOCOLS = {
    "masked": MaskedSum(max_clients=6),
    "malicious": MaskedSum(max_clients=6, requirements=Requirements(adversary=Adversary.MALICIOUS)),
}
FIVE = "abcde"


def mutants(body: Any) -> Iterator[tuple[str, Any]]:
    """The body with one field of another size or form; nothing that a server could have meant."""
    for each in fields(body):
        value: Any = getattr(body, each.name)
        changes: list[Any] = []
        if each.name in ("advertised", "active", "survivors", "signers"):
            padding = value[:-1] + bytes([value[-1] | 0x80])
            changes = [b"", value + b"\0", padding, b"\xff" * len(value), bytes(1 << 17)]
            if any(value):
                changes.append(bytes(len(value)))
        elif each.name in ("root", "parameters", "model") and not isinstance(body, CollectInput):
            changes = [bytes(32), value[::-1]]  # CollectInput has the model itself, which may be any bytes
        elif each.name == "origin":
            changes = [value + 1, (1 << 64) - 1]
        elif each.name == "length":
            changes = [0, (1 << 64) - 1]
        elif each.name == "cohort":
            changes = [(), value[::-1], value + value[-1:], (*value, "zoe")]
        elif each.name in ("path", "keys"):
            changes = [(), value[:-1], value[1:], value + value[-1:]]
            changes += [value[::-1]] if len(value) > 1 else []
        elif each.name in ("sealed", "hashes", "edges", "encapsulations", "inputs", "signatures"):
            changes = [value[:-1], value[1:], value + b"\0", value * 2] if value else []
            changes += [b"", bytes(1 << 20)] if value else [b"\0", bytes(1 << 20)]
        for change in changes:
            yield each.name, replace(body, **{each.name: change})


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("before", [0, 1])
def test_no_client_takes_columns_or_bitmaps_of_another_size(name: str, before: int) -> None:
    """Every request with one field changed is refused and changes nothing; then the real one is answered."""
    suite, data = PROTOCOLS[name].suite, updates_of(FIVE)
    for exchange in range(2 if before else 0, len(suite.exchanges)):
        for client in "ae":
            stage = Stage(PROTOCOLS[name], FIVE)
            for _ in range(before):
                stage.play(data)
            message = stage.open(data, until=exchange)[client]
            machine = stage.clients[client]
            state, tried = machine._state, set()
            body: Any = request_of(suite.requests[exchange], message)
            for field, hostile in mutants(body):
                tried.add(field)
                assert refused(stage.tell(client, stage.request(exchange, hostile), data[client])), field
                assert machine._state is state, field
            assert tried == {each.name for each in fields(body)} - {
                "model" if isinstance(body, CollectInput) else ""
            }
            assert not refused(stage.tell(client, message, data[client]))


def resized(value: bytes, how: str) -> bytes:
    return {
        "empty": b"",
        "a byte too few": value[:-1],
        "a byte too many": value + b"\0",
        "twice": value * 2,
    }[how]


SIZES = ["empty", "a byte too few", "a byte too many", "twice"]
DEALING = ["sealed", "hashes", "edges", "pairs", "encapsulations"]


@pytest.mark.parametrize("how", SIZES)
@pytest.mark.parametrize("field", DEALING)
@pytest.mark.parametrize("first", [True, False])
def test_no_server_takes_a_dealing_of_another_size(first: bool, field: str, how: str) -> None:
    """As it comes, with a first dealing or with Unmask: its maker is named, and the round goes on."""

    def spoil(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) != (1 if first else 3, "e"):
            return message
        if first:
            dealing = body_of(ShareKeys, message)
            return rewrite(message, spoilt(dealing))
        answer = body_of(Unmask, message)
        return rewrite(message, Unmask(answer.kinds, answer.shares, spoilt(answer.next)))

    def spoilt(dealing: ShareKeys) -> ShareKeys:
        value: Any = {field: resized(getattr(dealing, field), how) or b""}
        if value[field] == getattr(dealing, field):  # a later dealing has no encapsulations
            value[field] = b"\0"
        return replace(dealing, **value)

    outcome = Stage(PROTOCOLS["masked"], FIVE).play(updates_of(FIVE), reply=spoil)
    assert outcome.dropped.keys() == {"e"}
    assert f"bytes of {field}" in outcome.dropped["e"]
    assert outcome.contributors == frozenset("abcd" if first else FIVE)


@pytest.mark.parametrize("how", SIZES)
@pytest.mark.parametrize("field", ["vector", "unopened", "kinds", "shares"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_server_takes_another_vector_or_other_reveals(name: str, field: str, how: str) -> None:
    stage = Stage(PROTOCOLS[name], FIVE)
    kind: Any = MaskedInput if field in ("vector", "unopened") else Unmask

    def spoil(exchange: int, client: str, message: bytes) -> bytes:
        if (exchange, client) != (2 if kind is MaskedInput else stage.unmasking, "e"):
            return message
        body: Any = body_of(kind, message)
        value = resized(bytes(getattr(body, field)), how)
        return rewrite(message, replace(body, **{field: memoryview(value) if field == "vector" else value}))

    outcome = stage.play(updates_of(FIVE), reply=spoil)
    assert outcome.dropped.keys() == {"e"}
    assert outcome.contributors == frozenset("abcd" if kind is MaskedInput else FIVE)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("before", [0, 1])
def test_no_server_takes_a_vector_that_its_maker_did_not_sign(name: str, before: int) -> None:
    """Relayed, the signature would make all neighbours of its maker refuse, and blame the server."""

    def spoil(exchange: int, client: str, message: bytes) -> bytes:
        if (exchange, client) != (2, "e"):
            return message
        return rewrite(message, replace(body_of(MaskedInput, message), signature=bytes(64)))

    stage = Stage(PROTOCOLS[name], FIVE)
    for _ in range(before):
        stage.play(updates_of(FIVE))
    outcome = stage.play(updates_of(FIVE), reply=spoil)
    assert outcome.contributors == frozenset("abcd")
    assert outcome.dropped.keys() == {"e"}
    assert "signature" in outcome.dropped["e"]


def peak_of(call: Callable[[], object]) -> int:
    """Bytes that a call holds at most, beyond what was there before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_columns_that_are_huge_cost_what_they_weigh() -> None:
    """Sizes are compared before anything is cut into pieces."""
    stage = Stage(PROTOCOLS["masked"], FIVE)
    message = stage.open(updates_of(FIVE), until=2)["a"]
    body = request_of(CollectInput, message)
    hostile = stage.request(2, replace(body, sealed=bytes(1 << 24)))
    assert peak_of(lambda: stage.clients["a"].receive(hostile)) < 2 * len(hostile)
    assert "active neighbours" in str(stage.clients["a"].refusal)
