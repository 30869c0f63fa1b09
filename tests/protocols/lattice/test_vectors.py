"""LatticeSum on the wire, pinned over both key layers: sessions, what is behind their vectors, bad messages.

`vectors/lattice_masked.json` and `vectors/lattice_paillier.json` are sessions of three clients on the integer
surface with two rounds, written as `test_masked_vectors` writes MaskedSum's: everything random is
`SeededEntropy` of the seed in the file, and ML-KEM encapsulations are recorded. Beside the messages stand the
numbers with which another implementation can be checked step by step: the public seed, a public polynomial,
each client's key, packed plaintext and vector, the sums of keys and of vectors. A slow truth, which knows the
definitions of `secagg.rlwe.scheme` and not its code, is held against them here.

`vectors/lattice_bad.json` holds messages of those sessions with edits, each with the way in which the reason
begins for which it is refused. Whoever changes the wire on purpose raises the wire version and calls
`record()`:

    .venv/bin/python -c "from tests.protocols.lattice.test_vectors import record; record()"
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from protocols import IntegerSum, LatticeSum, PaillierSum, PeerViolation, RoundAborted
from protocols.lattice.client import LatticeClientSteps
from protocols.lattice.messages import Contribution, Result, public_seed, task_of
from protocols.masked import dealing
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from secagg import labels
from secagg.rlwe import scheme as rlwe
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.standard.kem import encapsulate
from tests.protocols.conftest import STATE_KEY, Sent, World, is_refusal
from tests.protocols.masked.test_vectors import (
    LENGTH,
    MOST,
    NAMES,
    VECTORS,
    Encapsulated,
    Encapsulating,
    described,
    load,
    model_of_round,
    replaying,
    unwrapped,
    updates_of_round,
    with_field,
    wrapped,
)

SESSIONS: dict[str, Any] = {
    "lattice_masked": LatticeSum,
    "lattice_paillier": partial(LatticeSum, keys=partial(PaillierSum, key_bits=2048)),
}
sessions = pytest.mark.parametrize("session", SESSIONS)


# Sessions


@dataclass
class Behind:
    """What one client drew and packed for one vector."""

    seed: bytes
    counts: NDArray[np.uint64]
    packed: list[NDArray[np.int64]] = field(default_factory=list)


@dataclass
class Played:
    """One round of a session."""

    log: list[Sent]
    total: IntegerSum
    result: bytes | None
    behind: list[Behind]


def world_of(session: str) -> World:
    """The parties of a session before its first round."""
    protocol = SESSIONS[session](max_clients=len(NAMES)).exact(max_summand=MOST)
    return World(protocol, NAMES, seed=session.encode())


def vectors_of(world: World) -> rlwe.Parameters:
    steps = world.protocol.suite.client  # type: ignore[attr-defined]
    assert isinstance(steps, LatticeClientSteps)
    return steps._vectors


@contextmanager
def watched(encapsulating: Encapsulating, behind: list[Behind]) -> Iterator[None]:
    """Recorded encapsulations; and keys and plaintexts of vectors are noted where they are made."""
    mask_blocks = rlwe.mask_blocks

    def masking(parameters: Any, *, seed: bytes, key: Any, packed: Any = None, **named: Any) -> Any:
        mine = Behind(seed, key.copy())
        behind.append(mine)

        def noting(block: Any, start: int) -> None:
            mine.packed.append(block.copy())
            if packed is not None:
                packed(block, start)

        return mask_blocks(parameters, seed=seed, key=key, packed=noting, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "encapsulate", encapsulating)
        patch.setattr(rlwe, "mask_blocks", masking)
        yield


def play(session: str, world: World, encapsulating: Encapsulating, **hooks: Any) -> Iterator[Played]:
    """Both rounds. Hooks are those of `World.play`, with the round's number in front."""
    for number in range(2):
        behind: list[Behind] = []
        with watched(encapsulating, behind):
            mine: dict[str, Any] = {name: partial(hook, number) for name, hook in hooks.items()}
            outcome = world.play(updates_of_round(number), model=model_of_round(number), **mine)
        total: Any = world.learn(outcome)
        yield Played(world.log, total, outcome.result, behind)


def digest(value: Any) -> str:
    return hashlib.sha256(bytes(value)).hexdigest()


def transcribed(session: str, encapsulating: Encapsulating) -> dict[str, Any]:
    """A session as it stands in its file."""
    encapsulations: list[dict[str, str]] = []

    def noting(key: bytes) -> Encapsulated:
        secret, ciphertext = encapsulating(key)
        each = {"key": digest(key), "secret": secret.reveal().hex()}
        encapsulations.append({**each, "ciphertext": ciphertext.hex()})
        return secret, ciphertext

    world = world_of(session)
    vectors = vectors_of(world)
    rounds = [
        {
            "model": model_of_round(number).hex(),
            "task": task_of(length=LENGTH, model=model_of_round(number)).hex(),
            "updates": {name: each.tolist() for name, each in updates_of_round(number).items()},
            "contributors": sorted(played.total.contributors),
            "sum": played.total.total.tolist(),
            **arithmetic(world, played),
            "messages": [described(world, sent) for sent in played.log],
        }
        for number, played in enumerate(play(session, world, noting))
    ]
    return {
        "max_clients": len(NAMES),
        "max_summand": MOST,
        "seed": session,
        "session": world.session.hex(),
        "parameters": world.protocol.suite.digest.hex(),  # type: ignore[attr-defined]
        "roster": {name: world.roster.public_key(name).hex() for name in NAMES},
        "lattice": {
            name: getattr(vectors, name)
            for name in (
                *("degree", "modulus_bits", "scale_bits", "base", "digits", "signed", "noise_bound"),
                *("limb_bits", "limbs", "max_summands", "key_norm_bound", "check_coefficients"),
            )
        },
        "encapsulations": encapsulations,
        "rounds": rounds,
    }


def contributions(world: World, log: list[Sent]) -> dict[str, Contribution]:
    collecting = world.protocol.suite.collecting  # type: ignore[attr-defined]
    return {
        sent.client: decode(Contribution, Envelope.decode(sent.body).body)
        for sent in log
        if not sent.down and sent.exchange == collecting
    }


def arithmetic(world: World, played: Played) -> dict[str, Any]:
    """The numbers of a round, long ones by their SHA-256: counts as bytes, others as little-endian words."""
    vectors = vectors_of(world)
    said = contributions(world, played.log)
    [seed] = {each.seed for each in played.behind}
    total = sum_of(vectors, said)
    return {
        "public_seed": seed.hex(),
        "public_polynomial_0": digest(slow_polynomial(vectors, seed).astype("<u8").tobytes()),
        "clients": {
            name: {
                "key_counts": each.counts[:8].tolist(),
                "key_counts_digest": digest(each.counts.astype(np.uint8).tobytes()),
                "packed": np.concatenate(each.packed).tolist(),
                "vector": bytes(said[name].vector).hex(),
                "tag": bytes(said[name].tag).hex(),
            }
            for name, each in zip(said, played.behind, strict=True)
        },
        "key_counts_sum_digest": digest(sum_of_keys(played).astype("<u2").tobytes()),
        "vector_sum": bytes(vectors.ring.pack(total)).hex(),
        "packed_sum": np.sum([np.concatenate(each.packed) for each in played.behind], axis=0).tolist(),
    }


def sum_of_keys(played: Played) -> NDArray[np.uint64]:
    total: NDArray[np.uint64] = np.sum([each.counts for each in played.behind], axis=0, dtype=np.uint64)
    return total


def sum_of(vectors: rlwe.Parameters, said: Mapping[str, Contribution]) -> NDArray[np.uint64]:
    count = vectors.coefficients(LENGTH)
    words = [vectors.ring.unpack(each.vector, count) for each in said.values()]
    total: NDArray[np.uint64] = np.sum(words, axis=0, dtype=np.uint64)
    return np.bitwise_and(total, np.uint64(2**vectors.modulus_bits - 1))


def record() -> None:
    """Writes the files of the sessions anew; encapsulations to keys that are the same as before are kept."""
    for session in SESSIONS:
        known: dict[str, list[Mapping[str, str]]] = {}
        if (VECTORS / f"{session}.json").exists():
            for each in load(session)["encapsulations"]:
                known.setdefault(each["key"], []).append(each)

        def encapsulating(key: bytes, known: dict[str, list[Mapping[str, str]]] = known) -> Encapsulated:
            if not (again := known.get(digest(key))):
                return encapsulate(key)
            each = again.pop(0)
            return Secret(bytes.fromhex(each["secret"])), bytes.fromhex(each["ciphertext"])

        text = json.dumps(transcribed(session, encapsulating), indent=1)
        (VECTORS / f"{session}.json").write_text(text + "\n", encoding="utf-8")


# The slow truth, from the definitions


def slow_polynomial(vectors: rlwe.Parameters, seed: bytes) -> NDArray[np.uint64]:
    """The public polynomial of block 0, modulo 2**64, in memory order."""
    key = hkdf(Secret(seed), label=labels.LATTICE_PUBLIC, size=16).reveal()
    size = vectors.limbs * vectors.degree * 4
    stream = Cipher(algorithms.AES128(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))
    words = np.frombuffer(stream, dtype="<i4").reshape(vectors.limbs, -1).astype(np.int64)
    limbs = words >> (32 - vectors.limb_bits)
    shifted = limbs << (vectors.limb_bits * np.arange(vectors.limbs)[:, np.newaxis])
    total: NDArray[np.int64] = shifted.sum(axis=0)
    return total.view(np.uint64)


def slow_product(a: NDArray[np.uint64], counts: NDArray[np.uint64], *, keys: int) -> NDArray[np.uint64]:
    """a·s modulo X^N + 1 and 2**64, schoolbook; position p of memory is coefficient p//2 + (p % 2)·N/2."""
    degree = len(a)
    place = np.arange(degree)
    place = place // 2 + place % 2 * (degree // 2)
    left, right = np.empty_like(a), np.empty_like(counts)
    left[place] = a
    right[place] = counts - np.uint64(82 * keys)
    total = np.zeros(degree, dtype=np.uint64)
    for power, factor in enumerate(right):
        total[power:] += left[: degree - power] * factor
        total[:power] -= left[degree - power :] * factor
    return total[place]


@sessions
def test_vectors_are_what_the_definition_says(session: str) -> None:
    """b = a·s + e + Δ·x modulo 2**K: with a·s and Δ·x taken off, noise is left; so for the sums."""
    world = world_of(session)
    vectors = vectors_of(world)
    for number, played in enumerate(play(session, world, replaying(load(session)))):
        a = slow_polynomial(vectors, played.behind[0].seed)
        said = contributions(world, played.log)
        count, updates = vectors.coefficients(LENGTH), updates_of_round(number)
        assert played.behind[0].seed == public_seed(
            parameters=world.protocol.suite.digest,  # type: ignore[attr-defined]
            session=world.session,
            round=number,
            roster=world.roster,
            task=task_of(length=LENGTH, model=model_of_round(number)),
        )
        for (name, contribution), behind in zip(said.items(), played.behind, strict=True):
            columns = -(-LENGTH // vectors.digits)
            digits = np.zeros(columns * vectors.digits, dtype=np.int64)
            digits[:LENGTH] = updates[name].astype(np.int64)
            powers = vectors.base ** np.arange(vectors.digits)
            packed = np.zeros(count, dtype=np.int64)
            packed[:columns] = powers @ digits.reshape(vectors.digits, columns)
            assert np.array_equal(np.concatenate(behind.packed), packed)
            b = vectors.ring.unpack(contribution.vector, count)
            noise = noise_of(vectors, b, a, behind.counts, packed, keys=1)
            assert 0 < np.abs(noise).max() <= 82
        packed = np.sum([np.concatenate(each.packed) for each in played.behind], axis=0)
        keys = sum_of_keys(played)
        noise = noise_of(vectors, sum_of(vectors, said), a, keys, packed, keys=len(said))
        assert 0 < np.abs(noise).max() <= vectors.noise_bound


def noise_of(
    vectors: rlwe.Parameters, b: Any, a: Any, counts: Any, packed: NDArray[np.int64], *, keys: int
) -> NDArray[np.int64]:
    """b - a·s - Δ·x, centred."""
    plain = (packed << vectors.scale_bits).view(np.uint64)
    rest: NDArray[np.uint64] = b - slow_product(a, counts, keys=keys)[: len(b)] - plain
    spare = 64 - vectors.modulus_bits
    centred: NDArray[np.int64] = (rest << np.uint64(spare)).view(np.int64) >> spare
    return centred


# The pinned sessions


@sessions
def test_a_session_byte_for_byte(session: str) -> None:
    vector = load(session)
    found = transcribed(session, replaying(vector))
    for ours, theirs in zip(found["rounds"], vector["rounds"], strict=True):
        for message, as_pinned in zip(ours["messages"], theirs["messages"], strict=True):
            assert message == as_pinned
    assert found == vector
    for each in vector["rounds"]:
        updates = np.array([each["updates"][name] for name in each["contributors"]])
        assert each["sum"] == updates.sum(axis=0).tolist()


def test_no_key_seed_or_vector_is_pinned_twice() -> None:
    rounds = [each for session in SESSIONS for each in load(session)["rounds"]]
    clients = [client for each in rounds for client in each["clients"].values()]
    assert len({each["public_seed"] for each in rounds}) == len(rounds) == 4
    for name in ("key_counts_digest", "vector"):
        assert len({each[name] for each in clients}) == len(clients) == 12
    assert {len(bytes.fromhex(each["tag"])) for each in clients} == {0, 16}


def test_the_files_stay_small() -> None:
    assert len(list(VECTORS.glob("lattice_*.json"))) == 3
    assert sum(path.stat().st_size for path in VECTORS.glob("lattice_*.json")) < 200_000


# Messages that must be refused


@cache
def clean(session: str) -> list[Played]:
    """A pinned session, by round."""
    return list(play(session, world_of(session), replaying(load(session))))


def edited(world: World, bad: Mapping[str, Any], content: Any) -> Any:
    """A message with all edits of an entry.

    They are those of `test_masked_vectors.edited` that change a field, but "like" says whose message of the
    same kind the bytes come from, and from which field if it is another one.
    """
    for edit in bad["edits"]:
        change = edit
        if other := edit.get("like"):
            source = content_of(world, bad, round=other["round"], client=other["client"])
            change = {"set": bytes(getattr(source, other.get("field", edit["field"])))}
        content = with_field(content, edit["field"].split("."), change)
    return content


def content_of(world: World, bad: Mapping[str, Any], *, round: int, client: str) -> Any:
    """The message of the same kind of another round or client."""
    if bad["kind"] == "Result":
        return decode(Result, clean(bad["session"])[round].result or b"")
    collecting, down = world.protocol.suite.collecting, bad["kind"] == "Collect"  # type: ignore[attr-defined]
    [found] = [
        sent
        for sent in clean(bad["session"])[round].log
        if (sent.down, sent.exchange, sent.client) == (down, collecting, client)
    ]
    return unwrapped(world, collecting, found.body, down=down)


BAD = load("lattice_bad")


def reason_of(bad: Mapping[str, Any]) -> str:
    """Why a bad message is refused that is delivered in its place; what is otherwise said is as pinned."""
    world, reasons = world_of(bad["session"]), list[str]()
    if bad["kind"] == "Result":
        result = edited(world, bad, content_of(world, bad, round=bad["round"], client=bad["client"]))
        client = world.protocol.restore_client(unopened(bad["session"])[bad["client"]], key=STATE_KEY)
        with pytest.raises(PeerViolation) as violation:
            client.open(encode(result))
        assert violation.value.culprit == "server"
        return violation.value.reason
    collecting = world.protocol.suite.collecting  # type: ignore[attr-defined]

    def deliver(down: bool, number: int, exchange: int, name: str, message: bytes) -> bytes | None:
        due = (number, exchange, name) == (bad["round"], collecting, bad["client"])
        if not due or bad["kind"] != ("Collect" if down else "Contribution"):
            return message
        content = edited(world, bad, unwrapped(world, exchange, message, down=down))
        wrong = wrapped(message, content, down=down)
        assert wrong != message
        if down:
            assert is_refusal(world.clients[name].receive(wrong))
            reasons.append(str(world.clients[name].refusal))
            return message
        with pytest.raises(PeerViolation) as violation:
            world.server.receive(name, wrong)
        assert violation.value.culprit == name
        reasons.append(violation.value.reason)
        return None

    rounds = play(
        bad["session"],
        world,
        replaying(load(bad["session"])),
        request=partial(deliver, True),
        reply=partial(deliver, False),
    )
    if bad["kind"] == "Collect":  # it is as if the message had never come
        assert [each.log for each in rounds] == [each.log for each in clean(bad["session"])]
    else:
        with pytest.raises(RoundAborted):  # three clients are as few as may be summed
            list(rounds)
        found = world.server.record().record
        assert (found.round, set(found.dropped)) == (bad["round"], {bad["client"]})
    [reason] = reasons
    return reason


@cache
def unopened(session: str) -> dict[str, bytes]:
    """The clients' states after both rounds, of which they have opened no result."""
    world = world_of(session)
    for number in range(2):
        world.play(updates_of_round(number), model=model_of_round(number))
    return world.save()[1]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(
            each, id=each["name"], marks=[pytest.mark.slow] if each["session"] == "lattice_paillier" else []
        )
        for each in BAD
    ],
)
def test_a_bad_message_is_refused(bad: Mapping[str, Any]) -> None:
    assert reason_of(bad).startswith(bad["error"])


def test_each_kind_of_message_has_bad_twins() -> None:
    tried = {(each["session"], each["kind"]) for each in BAD}
    kinds = {(session, kind) for session in SESSIONS for kind in ("Collect", "Contribution")}
    assert tried == kinds | {("lattice_paillier", "Result")}
    assert len({each["name"] for each in BAD}) == len(BAD) >= 20
