"""C4 over LatticeSum on PaillierSum: clients are asked to open one client's vector, or a changed sum.

The server hands out one client's key and vector, or 2c - c, under a list that it wrote itself; or it keeps
the genuine keys and adds numbers of its own to the sum of the vectors, as anybody can to a hidden vector: Δ·v
more is v more, and no residue shows it. Two homomorphic tags answer that. The key layer's binds the sum of
the keys, the list, the round, the length and the model; LatticeSum's own binds the packed sum of the vectors,
under another key that follows from the same secret. A client that finds either wrong returns nothing.

The weakened copies look at no tag, or at one of the two: that of the keys alone lets a server add to the sum.

A client that colludes with the server needs no oracle: it holds the key (C1). That succeeds on ours.

Not covered: two genuine results of one round, for two clients of whom one colludes.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import gmpy2
import numpy as np
import pytest

from protocols import LatticeSum, PaillierSum, PeerViolation
from protocols.consortium.messages import ConsortiumSecret
from protocols.consortium.messages import Contribution as KeyContribution
from protocols.consortium.messages import Result as KeyResult
from protocols.lattice import vector as lattice_vector
from protocols.lattice.messages import Result
from protocols.messages.schema import decode, encode
from secagg.paillier import scheme as paillier
from secagg.rlwe.binomial import CENTRE
from secagg.vectors.linear_mac import PRIME, TAG_BYTES, MacKey, Tagging
from tests.attacks.weakened import updates_of
from tests.attacks.weakened_lattice import Coefficients, LatticeStage

NAMES = "abcd"
VICTIM = "b"
WEIGHTS = {"a": 1, "b": 7, "c": 1, "d": 2}
PROTOCOL = LatticeSum(max_clients=4, max_weight=10, keys=partial(PaillierSum, key_bits=2048))
UPDATES = updates_of(NAMES)
ADDED = 1000
"""Steps of the grid that the server adds to a value of its choice."""


class Server:
    """A lying server after an honest round: it holds every key, encrypted, every vector and every tag."""

    def __init__(self) -> None:
        self.stage = LatticeStage(PROTOCOL, NAMES)
        self.result = decode(Result, self.stage.play(UPDATES, weights=WEIGHTS).result or b"")
        self.keys = decode(KeyResult, self.result.keys)
        self.sent = self.stage.sent()
        self.key_of = {name: decode(KeyContribution, each.keys) for name, each in self.sent.items()}
        self.hidden = self.stage.hidden()
        self.public = paillier.PublicKey.decode(self.stage.view.consortium.public)

    def result_of(
        self, keys: bytes | memoryview, vector: Coefficients, *, tags: Iterable[str] | None = None
    ) -> bytes:
        """A result of these two sums, with the genuine tags or the sums of those of some clients."""
        ring = self.stage.vectors.ring
        packed = ring.pack(vector.astype(ring.dtype))
        told = replace(self.keys, vector=memoryview(keys))
        tag = bytes(self.result.tag)
        if tags is not None:
            told = replace(told, tag=_sum(self.key_of[name].tag for name in tags))
            tag = _sum(self.sent[name].tag for name in tags)
        whole = replace(self.result, keys=memoryview(encode(told)), vector=memoryview(packed))
        return encode(replace(whole, tag=memoryview(tag)))

    def combined(self, *terms: tuple[bytes | memoryview, int], offset: int = 0) -> bytes:
        """The encrypted sum of encrypted keys, each so many times, and of a constant in each coefficient."""
        n, size = self.public.n, self.public.ciphertext_bytes
        square, packing = n * n, self.stage.keys.client._scheme.packing  # type: ignore[attr-defined]
        degree, out = self.stage.vectors.degree, b""
        for at in range(0, len(terms[0][0]), size):
            there = min(packing.slots, degree - at // size * packing.slots)
            constant = sum(offset << (packing.slot_bits * slot) for slot in range(there))
            product = gmpy2.mpz(1 + n * constant)  # encrypts the constant, with randomness 1
            for body, times in terms:
                ciphertext = int.from_bytes(body[at : at + size], "big")
                product = product * gmpy2.powmod(ciphertext, times, square) % square
            out += int(product).to_bytes(size, "big")
        return out

    @property
    def total(self) -> Coefficients:
        total: Coefficients = np.add.reduce(list(self.hidden.values()))
        return total


def _sum(tags: Iterable[bytes | memoryview]) -> bytes:
    return (sum(int.from_bytes(tag, "big") for tag in tags) % PRIME).to_bytes(TAG_BYTES, "big")


Oracle = Callable[[Server], bytes]
LACKING = (len(NAMES) - 1) * CENTRE
"""What counts of one key lack to be those of four; a server can add it to an encrypted key."""


def one_key_and_its_vector(server: Server) -> bytes:
    keys = server.combined((server.key_of[VICTIM].vector, 1), offset=LACKING)
    return server.result_of(keys, server.hidden[VICTIM])


def with_its_tags(server: Server) -> bytes:
    keys = server.combined((server.key_of[VICTIM].vector, 1), offset=LACKING)
    return server.result_of(keys, server.hidden[VICTIM], tags=VICTIM)


def twice_less_once(server: Server) -> bytes:
    mine, vector = server.key_of[VICTIM].vector, server.hidden[VICTIM]
    keys = server.combined((mine, 2), (mine, -1), offset=LACKING)
    return server.result_of(keys, 2 * vector - vector)


def all_less_the_others(server: Server) -> bytes:
    others = [name for name in NAMES if name != VICTIM]
    terms = ((server.keys.vector, 1), *((server.key_of[name].vector, -1) for name in others))
    vector = server.total - np.add.reduce([server.hidden[name] for name in others])
    return server.result_of(server.combined(*terms, offset=LACKING), vector)


ORACLES = [one_key_and_its_vector, with_its_tags, twice_less_once, all_less_the_others]


def blind_to_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not look at the key layer's tag."""
    monkeypatch.setattr(MacKey, "verify", lambda *_, **__: None)


def blind_to_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not look at LatticeSum's tag."""

    class Blind(Tagging):
        def verify(self, tag: int, *, signers: Iterable[bytes]) -> None:
            pass

    monkeypatch.setattr(lattice_vector, "Tagging", Blind)


@pytest.mark.parametrize("oracle", ORACLES)
def test_without_tags_any_client_opens_the_victim(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    blind_to_keys(monkeypatch)
    blind_to_vectors(monkeypatch)
    server = Server()
    opened = server.stage.clients["c"].open(oracle(server))
    assert opened.total_weight == WEIGHTS[VICTIM]
    assert np.abs(opened.mean - UPDATES[VICTIM]).max() <= PROTOCOL.error_bound(1)


@pytest.mark.parametrize("weaken", [blind_to_keys, blind_to_vectors, None])
def test_either_tag_keeps_the_victim_shut(
    weaken: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weaken:
        weaken(monkeypatch)
    server = Server()
    for name, oracle in zip(NAMES, ORACLES, strict=True):
        client = server.stage.clients[name]
        with pytest.raises(PeerViolation, match="the tag does not belong") as caught:
            client.open(oracle(server))
        assert caught.value.culprit == "server"
        # One use of the key for a round: the lie cannot be varied.
        with pytest.raises(PeerViolation, match="second, different"):
            client.open(encode(server.result))


# Adding to a sum


def added_to(server: Server, index: int) -> bytes:
    """The genuine result, and `ADDED` steps more in one value."""
    vectors = server.stage.vectors
    columns = -(-PROTOCOL.surface.elements(len(UPDATES[VICTIM])) // vectors.digits)
    digit, place = divmod(index, columns)
    vector = server.total
    vector[place] += np.uint64(ADDED * vectors.base**digit << vectors.scale_bits)
    return server.result_of(server.keys.vector, vector)


def shift(server: Server, index: int) -> float:
    """How far the mean that a client takes is from the truth in one value."""
    mean = server.stage.clients["a"].open(added_to(server, index)).mean
    truth = np.average([UPDATES[name] for name in NAMES], axis=0, weights=[WEIGHTS[n] for n in NAMES])
    assert np.abs(np.delete(mean - truth, index)).max() < 1e-4
    return float((mean - truth)[index])


@pytest.mark.parametrize("index", [0, 5, 23])
def test_the_tag_of_the_keys_alone_lets_a_server_add_to_the_sum(
    index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To any value, as much as it likes; the keys are the genuine ones."""
    blind_to_vectors(monkeypatch)
    expected = ADDED / PROTOCOL.surface.codec.largest_step / sum(WEIGHTS.values())
    assert abs(shift(Server(), index) - expected) < 1e-4


def test_ours_takes_no_sum_that_was_added_to() -> None:
    server = Server()
    tag = int.from_bytes(server.result.tag, "big")
    forged = [
        added_to(server, 0),
        added_to(server, 23),
        encode(replace(server.result, tag=memoryview(((tag + 1) % PRIME).to_bytes(TAG_BYTES, "big")))),
        encode(replace(server.result, tag=memoryview(bytes(TAG_BYTES)))),
    ]
    for name, result in zip(NAMES, forged, strict=True):
        with pytest.raises(PeerViolation, match="the tag does not belong"):
            server.stage.clients[name].open(result)


def test_the_tags_of_keys_and_of_vectors_are_under_different_keys() -> None:
    """Neither passes for the other, and no client's two are alike."""
    server = Server()
    swapped = replace(
        server.result,
        keys=memoryview(encode(replace(server.keys, tag=bytes(server.result.tag)))),
        tag=memoryview(server.keys.tag),
    )
    with pytest.raises(PeerViolation, match="the tag does not belong"):
        server.stage.clients["a"].open(encode(swapped))
    assert all(bytes(server.sent[name].tag) != server.key_of[name].tag for name in NAMES)


def test_an_honest_result_opens() -> None:
    server = Server()
    opened = server.stage.clients["c"].open(encode(server.result))
    assert opened.contributors == frozenset(NAMES)
    assert opened.total_weight == sum(WEIGHTS.values())


def test_a_vector_that_belongs_to_other_keys_is_not_opened_even_without_tags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sum of all keys does not open a part of the vectors: this needs no tag."""
    blind_to_keys(monkeypatch)
    blind_to_vectors(monkeypatch)
    server = Server()
    for name in NAMES:
        with pytest.raises(PeerViolation, match="does not open"):
            server.stage.clients[name].open(server.result_of(server.keys.vector, server.hidden[name]))


# One key for everyone (C1)


def test_a_client_that_colludes_reads_every_update() -> None:
    """Succeeds on ours, as on every protocol under a consortium's key: that is what MaskedSum is for."""
    server = Server()
    stage = server.stage
    state: Any = stage.clients["c"]._state
    scheme: Any = stage.keys.client._scheme  # type: ignore[attr-defined]
    private = scheme.open_key(decode(ConsortiumSecret, state.secret.reveal()).private_key)
    for name in NAMES:
        counts = private.decrypt(server.key_of[name].vector, count=stage.vectors.degree, summands=1)
        found = stage.opened(server.hidden[name], seed=stage.round_seed(), key=counts.astype(np.uint64))
        assert found is not None
        assert np.abs(found / WEIGHTS[name] - UPDATES[name]).max() <= PROTOCOL.error_bound(1)
