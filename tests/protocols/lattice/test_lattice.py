"""LatticeSum's own promises: which key layers it takes, one set of contributors, sums that open or do not.

What every protocol promises is tried over both key layers in the conformance suite; the arithmetic below is
tried in the tests of `secagg.rlwe.scheme`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    NeedUpdate,
    PaillierSum,
    ParameterError,
    PeerViolation,
    PlainSum,
    Requirements,
    RoundAborted,
    Session,
    simulate,
)
from protocols.lattice import vector as vector_room
from protocols.lattice.client import LatticeClientSteps
from protocols.lattice.messages import Collect, Contribution, Result, Task, task_of
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from secagg.rlwe import scheme as rlwe
from secagg.vectors.linear_mac import PRIME, TAG_BYTES
from tests.protocols.conftest import TWO, World, assert_right, is_refusal, updates_of
from tests.protocols.lattice.layers import PAILLIER, both, lattice_of
from tests.protocols.liars import lying, retold, rewritten

pytestmark = pytest.mark.usefixtures("one_paillier_key")


# The key layer


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (PaillierSum(), "partial"),
        (None, "partial"),
        ("MaskedSum", "partial"),
        (LatticeSum, "no LatticeSum itself"),
        (partial(LatticeSum, keys=PAILLIER), "no LatticeSum itself"),
        (lambda **_: 7, "makes a int"),
        (dict, "makes a dict"),
        (lambda **given: MaskedSum(**given).exact(max_summand=164), "makes a ExactSum"),
        (lambda max_clients, requirements: PlainSum(max_clients=max_clients), "requirements of its own"),
        (lambda max_clients, requirements: PlainSum(requirements=requirements), "max_clients"),
    ],
)
def test_what_is_no_key_layer(keys: Any, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        LatticeSum(max_clients=5, requirements=TWO, keys=keys)


def test_a_key_layer_refuses_what_it_has_no_answer_to_in_its_own_words() -> None:
    malicious = Requirements(adversary=Adversary.MALICIOUS)
    with pytest.raises(ParameterError) as own:
        PAILLIER(requirements=malicious)
    with pytest.raises(ParameterError) as ours:
        LatticeSum(requirements=malicious, keys=PAILLIER)
    assert str(ours.value) == str(own.value)
    assert "PaillierSum withstands" in str(own.value)
    plans = [protocol(requirements=malicious).plan(10) for protocol in (LatticeSum, MaskedSum)]
    assert plans[0].quorum == plans[1].quorum > 0


def test_the_key_layer_is_built_with_what_was_given() -> None:
    protocol = LatticeSum(max_clients=7, requirements=TWO, keys=PAILLIER)
    assert protocol.key_layer == PaillierSum(max_clients=7, requirements=TWO, key_bits=2048)
    assert LatticeSum(max_clients=7).key_layer == MaskedSum(max_clients=7)


def test_the_digest_covers_the_key_layer_and_its_own_parameters() -> None:
    layers: list[Any] = [MaskedSum, CkksSum, PaillierSum, PAILLIER, PlainSum, partial(MaskedSum, bits=8)]
    protocols = [LatticeSum(max_clients=4, keys=keys) for keys in layers]
    digests = {each.suite.digest for each in protocols}
    digests |= {each.exact(max_summand=9).suite.digest for each in protocols}
    digests |= {MaskedSum(max_clients=4).suite.digest, PAILLIER(max_clients=4).suite.digest}
    assert len(digests) == 2 * len(layers) + 2
    # The layer's messages are under LatticeSum's digest: they are of no use in a session of its own.
    suite = protocols[0].suite
    assert isinstance(suite.client, LatticeClientSteps)
    assert suite.client._keys.digest == suite.digest
    again = LatticeSum(max_clients=4, keys=partial(PaillierSum, key_bits=2048))
    assert again.suite.digest == protocols[3].suite.digest


@pytest.mark.parametrize("keys", [MaskedSum, CkksSum, PAILLIER, PlainSum])
@pytest.mark.parametrize("adversary", [Adversary.SEMI_HONEST, Adversary.SEMI_MALICIOUS])
def test_exchanges_and_openers_are_the_key_layers(keys: Any, adversary: Adversary) -> None:
    named: dict[str, Any] = {"max_clients": 10, "requirements": Requirements(adversary=adversary)}
    protocol, layer = LatticeSum(keys=keys, **named), keys(**named)
    assert protocol.learns is layer.learns
    assert protocol.suite.learns is protocol.exact(max_summand=3).learns is layer.learns
    assert protocol.suite.exchanges == layer.suite.exchanges
    assert protocol.suite.collecting == layer.suite.collecting
    for first in (True, False):
        assert protocol.exchanges(first=first) == layer.exchanges(first=first)


@pytest.mark.parametrize(
    ("keys", "one_update", "post_quantum"),
    [
        (MaskedSum, "opens to nobody", True),
        (PAILLIER, "any client together with the server", False),
        (CkksSum, "any client together with the server", False),
        (PlainSum, "open to the server", None),
    ],
)
def test_the_plan_says_to_whom_one_update_opens(
    keys: Any, one_update: str, post_quantum: bool | None
) -> None:
    protocol, layer = LatticeSum(max_clients=10, keys=keys), keys(max_clients=10)
    plan, own = protocol.plan(10), layer.plan(10)
    assert one_update in plan.one_update
    assert plan.post_quantum is post_quantum
    assert plan.one_update in str(plan)
    # But for the vector's width and the key that travels with it, it is the layer's plan.
    assert replace(plan, ring_bits=own.ring_bits, client_sends=own.client_sends) == own
    vectors = lattice_of(protocol)
    assert plan.ring_bits == vectors.modulus_bits / vectors.digits == 24


@pytest.mark.parametrize("count", [3, 10])
def test_the_plan_says_what_a_client_sends_beside_its_vector(count: int) -> None:
    names = "abcdefghij"[:count]
    world = World(LatticeSum(max_clients=10), names)
    for number in range(2):
        world.play(updates_of(names, 5, seed=number))
    vector = lattice_of(world.protocol).packed_size(6)
    sent = sum(len(each.body) for each in world.log if not each.down and each.client == "a") - vector
    assert abs(sent - world.protocol.plan(count).client_sends) <= 64


def test_a_session_over_plain_sum_protects_nothing_and_adds_up() -> None:
    updates = updates_of("abc", 9)
    protocol = LatticeSum(max_clients=3, keys=PlainSum)
    assert_right(simulate(protocol, updates).sum, protocol, updates, "abc")


# One message, one set of contributors


def body_of(message: bytes) -> Contribution:
    return decode(Contribution, Envelope.decode(message).body)


def with_body(message: bytes, **changes: Any) -> bytes:
    """A contribution with other fields."""
    body = replace(body_of(message), **changes)
    return replace(Envelope.decode(message), body=encode(body)).encode()


def spoiling(change: Callable[[dict[str, bytes]], bytes], *, collecting: int) -> Any:
    """A reply hook: what is made of a's and b's contributions arrives instead of b's."""
    heard: dict[str, bytes] = {}

    def reply(exchange: int, name: str, message: bytes) -> bytes:
        if exchange != collecting:
            return message
        heard[name] = message
        return change(heard) if name == "b" else message

    return reply


def world_over(keys: Any, names: str = "abcdefg") -> World:
    return World(LatticeSum(max_clients=len(names), requirements=TWO, keys=keys), names)


def collecting_of(world: World) -> int:
    number: int = world.protocol.suite.collecting  # type: ignore[attr-defined]
    return number


def noise(size: int) -> memoryview:
    """Random bytes; the last is zero, so that no bit behind the last coefficient is set."""
    return memoryview(hashlib.shake_256(b"noise").digest(size - 1) + b"\0")


MISMATCHED = {
    "another client's vector": lambda said: with_body(said["b"], vector=body_of(said["a"]).vector),
    "no vector": lambda said: with_body(said["b"], vector=memoryview(bytes(len(body_of(said["b"]).vector)))),
    "noise for a vector": lambda said: with_body(said["b"], vector=noise(len(body_of(said["b"]).vector))),
}


@pytest.mark.parametrize("change", MISMATCHED.values(), ids=MISMATCHED)
def test_a_key_that_does_not_match_its_vector_aborts_the_round(change: Any) -> None:
    world, updates = world_over(MaskedSum), updates_of("abcdefg")
    reason = "does not open"
    for _ in range(2):  # on the long path and on the short one
        with pytest.raises(RoundAborted) as aborted:
            world.play(updates, reply=spoiling(change, collecting=collecting_of(world)))
        assert reason in aborted.value.reason
        assert world.server.record().record.aborted == aborted.value.reason
        with pytest.raises(RoundAborted):
            world.server.outcome()
    outcome = world.play(updates)
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abcdefg")


@pytest.mark.parametrize("change", MISMATCHED.values(), ids=MISMATCHED)
def test_where_clients_open_a_mismatch_opens_for_none_of_them(change: Any) -> None:
    world, updates = world_over(PAILLIER, "abc"), updates_of("abc")
    outcome = world.play(updates, reply=spoiling(change, collecting=collecting_of(world)))
    for name in "abc":
        with pytest.raises(PeerViolation, match="does not verify"):
            world.clients[name].open(outcome.result or b"")
    updates = updates_of("abc", seed=2)
    assert_right(world.learn(world.play(updates)), world.protocol, updates, "abc")


@both
@pytest.mark.parametrize("size", [0, 1, -1, 8, -8])
def test_who_sends_a_vector_of_another_size_is_named_and_its_key_is_not_summed(keys: Any, size: int) -> None:
    world, updates = world_over(keys), updates_of("abcdefg")

    def resized(said: dict[str, bytes]) -> bytes:
        vector = bytes(body_of(said["b"]).vector)
        return with_body(
            said["b"], vector=memoryview((vector + bytes(8))[: len(vector) + size] if size else b"")
        )

    outcome = world.play(updates, reply=spoiling(resized, collecting=collecting_of(world)))
    assert set(outcome.dropped) == {"b"}
    assert outcome.contributors == frozenset("acdefg")
    # Were its key in the sum of the keys, nothing would open.
    assert_right(world.learn(outcome), world.protocol, updates, "acdefg")


@both
def test_bits_behind_the_last_coefficient_are_refused(keys: Any) -> None:
    # 17 bits, 7 clients: coefficients of 49 bits, whose packing leaves bits over for some length.
    protocol = LatticeSum(max_clients=7, bits=17, requirements=TWO, keys=keys)
    for length in range(1, 9):
        world, updates = World(protocol, "abcdefg"), updates_of("abcdefg", length)
        vectors = lattice_of(world.protocol)
        spare = -vectors.coefficients(length + 1) * vectors.modulus_bits % 8
        if spare:
            break
    else:
        pytest.fail("whole bytes for every length; choose other lengths")

    def padded(said: dict[str, bytes]) -> bytes:
        vector = bytearray(body_of(said["b"]).vector)
        vector[-1] |= 0x80
        return with_body(said["b"], vector=memoryview(vector))

    outcome = world.play(updates, reply=spoiling(padded, collecting=collecting_of(world)))
    assert set(outcome.dropped) == {"b"}
    assert_right(world.learn(outcome), world.protocol, updates, "acdefg")


@pytest.mark.parametrize(
    ("keys", "tag"),
    [
        (MaskedSum, bytes(TAG_BYTES)),
        (MaskedSum, b"\x00"),
        (PAILLIER, b""),
        (PAILLIER, bytes(TAG_BYTES - 1)),
        (PAILLIER, PRIME.to_bytes(TAG_BYTES, "big")),
        (PAILLIER, b"\xff" * TAG_BYTES),
    ],
)
def test_tags_that_no_client_makes_name_their_sender(keys: Any, tag: bytes) -> None:
    world, updates = world_over(keys), updates_of("abcdefg")
    outcome = world.play(
        updates,
        reply=spoiling(
            lambda said: with_body(said["b"], tag=memoryview(tag)), collecting=collecting_of(world)
        ),
    )
    assert set(outcome.dropped) == {"b"}
    assert "tag" in outcome.dropped["b"]
    assert_right(world.learn(outcome), world.protocol, updates, "acdefg")


def test_a_foreign_tag_opens_for_nobody() -> None:
    world, updates = world_over(PAILLIER, "abc"), updates_of("abc")
    outcome = world.play(
        updates,
        reply=spoiling(
            lambda said: with_body(said["b"], tag=body_of(said["a"]).tag), collecting=collecting_of(world)
        ),
    )
    for name in "abc":
        with pytest.raises(PeerViolation, match="does not verify"):
            world.clients[name].open(outcome.result or b"")


def test_contributors_are_those_of_the_key_layer() -> None:
    # Gone after its vector arrived: the key layer unmasks its key without it, and the vector stays.
    world, updates = world_over(MaskedSum), updates_of("abcdefg")
    collecting = collecting_of(world)
    outcome = world.play(updates, gone={"a": collecting, "g": collecting + 1})
    assert outcome.contributors == frozenset("bcdefg")
    assert set(outcome.dropped) == {"a", "g"}
    assert_right(world.learn(outcome), world.protocol, updates, "bcdefg")


# What a lying server says


def opening_world() -> tuple[World, Any, dict[str, Any]]:
    """Three clients of LatticeSum over PaillierSum, a round's outcome, and its updates."""
    world, updates = world_over(PAILLIER, "abc"), updates_of("abc")
    return world, world.play(updates), updates


def shifted(world: World, vector: memoryview, change: int, *, place: int = 0) -> memoryview:
    """The sum of the vectors with a number added to one coefficient."""
    vectors = lattice_of(world.protocol)
    count = vectors.coefficients(world.protocol.suite.surface.elements(5))  # type: ignore[attr-defined]
    total = vectors.ring.unpack(vector, count)
    total[place] = (int(total[place]) + change) % 2**vectors.modulus_bits
    return memoryview(vectors.ring.pack(total))


@pytest.mark.parametrize("place", [0, 2, -1])
@pytest.mark.parametrize("steps", [1, -1, 1000])
def test_a_server_that_adds_a_number_is_caught_by_every_client(place: int, steps: int) -> None:
    world, outcome, updates = opening_world()
    result = decode(Result, outcome.result)
    delta = steps << lattice_of(world.protocol).scale_bits
    lie = encode(replace(result, vector=shifted(world, result.vector, delta, place=place)))
    for name in "abc":
        with pytest.raises(PeerViolation) as violation:
            world.clients[name].open(lie)
        assert violation.value.culprit == "server"
    assert_right(world.learn(world.play(updates)), world.protocol, updates, "abc")


def test_a_server_that_changes_the_noise_alone_changes_no_sum() -> None:
    world, outcome, updates = opening_world()
    result = decode(Result, outcome.result)
    other = encode(replace(result, vector=shifted(world, result.vector, 1)))
    assert_right(world.clients["a"].open(other), world.protocol, updates, "abc")


def test_a_server_that_swaps_the_tag_is_caught_by_every_client() -> None:
    world, outcome, updates = opening_world()
    result = decode(Result, outcome.result)
    world.learn(outcome)
    then = world.play(updates)
    following = decode(Result, then.result or b"")
    tags = [result.tag, memoryview(bytes(TAG_BYTES)), memoryview(b""), memoryview(bytes(TAG_BYTES - 1))]
    for name, tag in zip("abca", tags, strict=True):
        with pytest.raises(PeerViolation):
            world.clients[name].open(encode(replace(following, tag=tag)))


@pytest.mark.parametrize(
    "change",
    [
        lambda result, old: replace(result, vector=old.vector, tag=old.tag),
        lambda result, old: replace(result, keys=old.keys),
        lambda result, old: replace(result, vector=old.vector),
        lambda result, old: replace(result, task=replace(result.task, length=6)),
        lambda result, old: replace(result, task=replace(result.task, length=4)),
        lambda result, old: replace(result, task=replace(result.task, model=bytes(32))),
        lambda result, old: replace(result, vector=memoryview(b"")),
        lambda result, old: replace(result, vector=memoryview(bytes(len(result.vector)))),
        lambda result, old: replace(result, vector=result.vector[:-1]),
    ],
    ids=[
        "old vector and tag",
        "old keys",
        "old vector",
        "longer",
        "shorter",
        "model",
        "none",
        "zeros",
        "cut",
    ],
)
def test_results_of_parts_that_do_not_belong_together(change: Any) -> None:
    world, outcome, updates = opening_world()
    old = decode(Result, outcome.result)
    world.learn(outcome)
    result = decode(Result, world.play(updates, model=b"m").result or b"")
    for name in "abc":
        with pytest.raises(PeerViolation) as violation:
            world.clients[name].open(encode(change(result, old)))
        assert violation.value.culprit == "server"


@pytest.mark.parametrize("length", [0, 2**28, 2**40, 2**63, 2**64 - 1])
def test_a_result_of_a_huge_vector_is_refused_before_any_key_is_used(length: int) -> None:
    world, outcome, updates = opening_world()
    result = decode(Result, outcome.result)
    lie = encode(replace(result, task=Task(length, result.task.model)))
    with pytest.raises(PeerViolation, match="does not decode"):
        world.clients["a"].open(lie)
    assert_right(world.learn(outcome), world.protocol, updates, "abc")  # nothing was used up


def test_a_sum_that_says_another_contributor_does_not_open() -> None:
    world = World(LatticeSum(max_clients=4, requirements=TWO, keys=PAILLIER), "abcd")
    outcome = world.play(updates_of("abcd"), gone={"d": collecting_of(world)})
    minima = dict.fromkeys("abc", 2)
    for contributors in ({**minima, "d": 2}, dict.fromkeys("ab", 2), dict.fromkeys("abd", 2)):
        lie = lying(world, outcome.result, contributors=contributors)
        with pytest.raises(PeerViolation):
            world.clients["a"].open(lie)


# The task


@both
@pytest.mark.parametrize(
    "task",
    [
        task_of(length=0, model=b"m"),
        task_of(length=2**41, model=b"m"),
        task_of(length=2**63, model=b"m"),
        task_of(length=5, model=b"another"),
        task_of(length=5, model=b""),
        task_of(length=5, model=b"m")[:-1],
        task_of(length=5, model=b"m") + b"\0",
        b"",
        b"m",
    ],
)
def test_tasks_that_a_client_refuses(keys: Any, task: bytes) -> None:
    refuse_all(keys, lambda world, message: retold(world, message, model=task))


@both
def test_another_model_than_the_task_says(keys: Any) -> None:
    refuse_all(
        keys, lambda world, message: rewritten(Collect, message, lambda told: replace(told, model=b"n"))
    )


@both
def test_keys_of_another_length(keys: Any) -> None:
    for length in (1, 4095):
        refuse_all(keys, lambda world, message: retold(world, message, length=length))  # noqa: B023


def refuse_all(keys: Any, lie: Callable[[World, bytes], bytes]) -> None:
    """Every client refuses the lie when it is asked for its update, and the round goes on."""
    world, updates, tried = world_over(keys, "abc"), updates_of("abc"), []

    def ask(exchange: int, name: str, message: bytes) -> bytes:
        if exchange == collecting_of(world):
            tried.append(name)
            assert is_refusal(world.clients[name].receive(lie(world, message)))
        return message

    outcome = world.play(updates, model=b"m", request=ask)
    assert tried == ["a", "b", "c"]
    assert outcome.dropped == {}
    assert_right(world.learn(outcome), world.protocol, updates, "abc")


@both
def test_a_client_that_was_asked_for_another_length_is_not_summed(keys: Any) -> None:
    """Four values and a weight take as much room as five: nothing but the task tells the two apart."""
    world, updates = world_over(keys), updates_of("abcdefg", 4)
    vectors = lattice_of(world.protocol)
    assert vectors.packed_size(5) == vectors.packed_size(6)

    def lie(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) != (collecting_of(world), "b"):
            return message
        return retold(world, message, model=task_of(length=5, model=b""))

    outcome = world.play(updates, request=lie)
    assert set(outcome.dropped) == {"b"}
    assert_right(world.learn(outcome), world.protocol, updates, "acdefg")


# What is kept


@both
def test_saved_states_hold_neither_key_nor_noise(keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, plain = list[bytes](), list[bytes]()
    draw_key = rlwe.draw_key

    def drawing(entropy: Any, *, degree: int) -> Any:
        def noted(size: int) -> bytes:
            drawn.append(entropy(size))
            return drawn[-1]

        key = draw_key(noted, degree=degree)
        drawn.extend((key.tobytes()[:64], key.astype(np.uint8).tobytes()[:32]))
        return key

    mask_blocks = rlwe.mask_blocks

    def masking(*given: Any, entropy: Any, **named: Any) -> Any:
        def noted(size: int) -> bytes:
            drawn.append(entropy(size))
            return drawn[-1]

        return mask_blocks(*given, entropy=noted, **named)

    monkeypatch.setattr(rlwe, "draw_key", drawing)
    monkeypatch.setattr(rlwe, "mask_blocks", masking)
    world = world_over(keys, "abc")

    def look() -> None:
        server: Any = world.server
        frozen = server._suite.server.freeze(server._context(server._round), server._state)
        plain.extend(encode(state) for state in (frozen, *(each._state for each in world.clients.values())))  # type: ignore[attr-defined]

    for number in range(2):
        world.play(updates_of("abc", seed=number), event=look)
    assert len(drawn) == 2 * 3 * 4  # a key's seed, the key in two forms and the noise's seed for each client
    assert len(plain) > 50
    for secret in drawn:
        assert len(secret) >= 32
        assert not any(secret in state for state in plain)
    waiting = encode(Task(5, bytes(32)))[:8]
    assert any(waiting in state for state in plain)  # the search looks at what a state says


def test_keys_and_noise_are_fresh_for_every_vector() -> None:
    for keys in (MaskedSum, PAILLIER):
        session = Session(LatticeSum(max_clients=3, keys=keys), "abc", seed=1)
        updates = {name: np.zeros(600) for name in "abc"}
        vectors = []
        for _ in range(2):
            run = session.round(updates)
            names = ("MaskedInput", "Contribute")
            sent = [m for m in run.transcript if m.sender != "server" and m.exchange in names]
            vectors += [bytes(body_of(each.body).vector) for each in sent]
        assert len(vectors) == 6
        windows = [each[at : at + 8] for each in vectors for at in range(0, len(each) - 8, 8)]
        assert len(set(windows)) == len(windows)


@both
def test_messages_have_one_size_whatever_they_hold(keys: Any) -> None:
    world = World(LatticeSum(max_clients=4, max_weight=9, requirements=TWO, keys=keys), "abcd")
    updates = {"a": np.zeros(40), "b": np.ones(40), "c": -np.ones(40), "d": np.linspace(-1, 1, 40)}
    world.play(updates, weights={"a": 1, "b": 9, "c": 1, "d": 5})
    said = [s for s in world.log if not s.down and s.exchange == collecting_of(world)]
    assert len({len(each.body) for each in said}) == 1
    assert len({len(body_of(each.body).vector) for each in said}) == 1
    size = len(body_of(said[0].body).vector)
    assert size == lattice_of(world.protocol).packed_size(41)


def test_an_integer_surface_that_is_too_wide_is_told_its_own_remedy() -> None:
    with pytest.raises(ParameterError, match="max_summand"):
        LatticeSum(max_clients=6).exact(max_summand=(2**55 - 1) // 6 + 1)


@pytest.mark.parametrize("own", [{"max_clients": 4}, {"requirements": Requirements()}])
def test_a_partial_with_what_belongs_to_the_lattice_is_refused(own: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="of its own"):
        LatticeSum(max_clients=5, keys=partial(PaillierSum, key_bits=2048, **own))


def test_a_release_with_other_lattice_parameters_has_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    protocols = (LatticeSum(max_clients=5), LatticeSum(max_clients=5).exact(max_summand=9))
    before = [each.suite.digest for each in protocols]
    chosen = vector_room.vectors_of
    monkeypatch.setattr(
        vector_room, "vectors_of", lambda surface, max_clients: chosen(surface, max_clients=200)
    )
    after = [each.suite.digest for each in protocols]
    assert len({*before, *after}) == 4


@both
def test_a_task_does_not_outlive_its_round(keys: Any) -> None:
    """A client that still waits for an update when the next round begins forgets the old length and model."""
    world, updates = world_over(keys, "abc"), updates_of("abc", 5)
    collecting = collecting_of(world)

    def stop(exchange: int, name: str, message: bytes) -> bytes | None:
        if exchange == collecting:
            assert isinstance(world.clients[name].receive(message), NeedUpdate)
            return None
        return message

    with pytest.raises(RoundAborted):
        world.play(updates, request=stop)
    updates = updates_of("abc", 7, seed=3)
    assert_right(world.learn(world.play(updates)), world.protocol, updates, "abc")
