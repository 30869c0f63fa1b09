"""Traffic that is recorded today: what a quantum computer, or a client's memory, opens of it later.

**Quantum computer.** The oracle hands out the X25519 private key behind every public key that was ever on the
wire, which is what a large quantum computer makes of a recording. Each key of a round is a hybrid with
ML-KEM-768; in the weakened copy the encapsulated secrets are zeros, so that X25519 stands alone. There the
adversary opens the sealed shares, rebuilds the self-mask seeds, follows the ratchet through the steady rounds
and reads everybody in all of them. On ours the same procedure opens not one sealed share.

**Forward secrecy.** The adversary gets the whole state of every client after a round, and has recorded it.
In the weakened copy the ratchet stands still, so that the state's chains give the round's keys once more; the
round is read. Ours has moved on: no secret in any state, nor anything that the ratchet makes of one, opens
what an earlier round sealed, and the masks stay on.

Not covered: a quantum computer *during* a round, which forges Ed25519 signatures; a state taken before the
round ended, which opens that round.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from protocols import MaskedSum
from protocols.machine.channels import Link, chain_key, first_seal_key, pair_bytes, ratchet
from protocols.masked import dealing
from protocols.masked.keys import first_pair_secret
from protocols.masked.messages import columns
from protocols.masked.states import Advertised, Ready
from protocols.messages.schema import encode
from secagg import labels
from secagg.secret import Secret
from secagg.shamir import SHARE_BYTES
from secagg.standard.agreement import PrivateKey
from secagg.standard.kdf import hkdf
from secagg.standard.kem import CIPHERTEXT_BYTES, DecapsulationKey, encapsulate
from tests.attacks.recorded import Recorded, Recorder
from tests.attacks.unmasked import is_read, rebuild, revealed, strip
from tests.attacks.weakened import Curious, Stage, updates_of

NAMES = "abcde"
ZEROS = Secret(bytes(32))
ROUNDS = 3


@dataclass(frozen=True)
class Discrete:
    """A client's X25519 private keys, as discrete logarithms of its public ones."""

    channel: PrivateKey
    mask: PrivateKey


def recorded() -> tuple[Recorder, dict[str, Any], dict[str, Discrete], list[dict[str, Any]]]:
    """Three rounds of one epoch; the oracle's keys; and all clients' states after each round."""
    stage, updates = Stage(MaskedSum(max_clients=8), NAMES, server_steps=Curious()), updates_of(NAMES)
    recorder, oracle = Recorder(stage), dict[str, Discrete]()
    states: list[dict[str, Any]] = []

    def look(exchange: int, name: str, message: bytes) -> bytes:
        state = stage.clients[name]._state
        if isinstance(state, Advertised):
            oracle[name] = Discrete(
                PrivateKey(state.secrets.channel),
                PrivateKey(hkdf(state.secrets.round_secret, label=labels.MASK_KEY)),
            )
        return message

    for _ in range(ROUNDS):
        recorder.play(updates, request=look)
        states.append({name: client._state for name, client in stage.clients.items()})
    keys = recorder.rounds[0].keys
    assert {name: each.channel.public_key for name, each in oracle.items()} == {
        name: each.channel_key for name, each in keys.items()
    }
    assert {name: each.mask.public_key for name, each in oracle.items()} == {
        name: each.mask_key for name, each in keys.items()
    }
    assert all(each.view.epoch.round == 0 for each in recorder.rounds)
    return recorder, updates, oracle, states


# A quantum computer


@pytest.fixture
def no_ml_kem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dealing, "encapsulate", lambda key: (ZEROS, encapsulate(key)[1]))
    monkeypatch.setattr(DecapsulationKey, "decapsulate", lambda self, ciphertext: ZEROS)


@dataclass(frozen=True)
class Guess:
    """Keys of one round that would be right if the encapsulated secrets were zeros."""

    pair_secrets: Mapping[frozenset[str], Secret]
    seals: Mapping[tuple[str, str], Secret]


def guesses(recorder: Recorder, oracle: Mapping[str, Discrete]) -> Iterator[Guess]:
    """For each round, from the recording and the oracle."""
    first = recorder.rounds[0]
    epoch, place = first.view.epoch.digest, first.view.epoch.members.index
    pair_secrets: dict[frozenset[str], Secret] = {}
    seals: dict[tuple[str, str], Secret] = {}
    chains: dict[tuple[str, str], Secret] = {}
    for dealer in NAMES:
        near = first.near(dealer)
        behind = [peer for peer in near if peer > dealer]
        ciphertexts = columns(first.dealt[dealer].encapsulations, CIPHERTEXT_BYTES)
        for peer, ciphertext in zip(near, ciphertexts, strict=False):
            shared = oracle[dealer].channel.agree(first.keys[peer].channel_key)
            seals[dealer, peer] = first_seal_key(
                shared, ZEROS, ciphertext, epoch=epoch, dealer=place(dealer), holder=place(peer)
            )
        for peer, ciphertext in zip(behind, ciphertexts[len(near) :], strict=True):
            pair = pair_bytes(place(dealer), place(peer))
            shared = oracle[dealer].mask.agree(first.keys[peer].mask_key)
            pair_secrets[frozenset({dealer, peer})] = first_pair_secret(
                shared, ZEROS, ciphertext, epoch=epoch, pair=pair
            )
            shared = oracle[dealer].channel.agree(first.keys[peer].channel_key)
            chains[dealer, peer] = chain_key(shared, ZEROS, ZEROS, epoch=epoch, pair=pair)
    yield Guess(pair_secrets, seals)
    for each in recorder.rounds[1:]:
        links = {edge: ratchet(chain, epoch=epoch, origin=each.number) for edge, chain in chains.items()}
        yield along(links)
        chains = {edge: link.following for edge, link in links.items()}


def along(links: Mapping[tuple[str, str], Link]) -> Guess:
    """The keys of a dealing from the links of all channels, by their low and high end."""
    return Guess(
        {frozenset(edge): link.pair_secret for edge, link in links.items()},
        {(low, high): link.seals[0] for (low, high), link in links.items()}
        | {(high, low): link.seals[1] for (low, high), link in links.items()},
    )


def opened_shares(played: Recorded, guess: Guess) -> dict[str, dict[str, bytes]]:
    """The sealed shares of self-mask seeds that open, by dealer and holder."""
    found: dict[str, dict[str, bytes]] = {name: {} for name in NAMES}
    for blob in played.blobs():
        if not blob.holder:
            continue
        opened = blob.open(guess.seals[blob.dealer, blob.holder])
        if opened is not None:
            found[blob.dealer][blob.holder] = opened.reveal()[:SHARE_BYTES]
    return found


def reads(recorder: Recorder, played: Recorded, guess: Guess, update: Any, client: str) -> bool:
    """Whether these keys open a client's vector of a round, with its self-mask seed if its shares open."""
    shares = opened_shares(played, guess)[client]
    threshold = played.view.epoch.threshold
    seed = rebuild(played.view, client, shares) if len(shares) >= threshold else None
    pairs = {peer: guess.pair_secrets[frozenset({client, peer})] for peer in NAMES if peer != client}
    vector = played.vectors[client]
    words = strip(recorder.stage, client, seed=seed, pairs=pairs, view=played.view, vector=vector)
    return is_read(recorder.stage, words, update)


@pytest.mark.usefixtures("no_ml_kem")
def test_without_ml_kem_a_quantum_computer_reads_every_round() -> None:
    recorder, updates, oracle, _ = recorded()
    for played, guess in zip(recorder.rounds, guesses(recorder, oracle), strict=True):
        for client in NAMES:
            assert reads(recorder, played, guess, updates[client], client)


def test_with_ml_kem_it_opens_not_one_share() -> None:
    recorder, updates, oracle, _ = recorded()
    for played, guess in zip(recorder.rounds, guesses(recorder, oracle), strict=True):
        assert not any(opened_shares(played, guess).values())
        for client in NAMES:
            assert not reads(recorder, played, guess, updates[client], client)


@pytest.mark.parametrize("client", NAMES)
def test_even_with_the_self_masks_off_the_pair_masks_stay(client: str) -> None:
    """The server has all survivors' self-mask seeds anyway; only ML-KEM is between it and the inputs."""
    recorder, updates, oracle, _ = recorded()
    for played, guess in zip(recorder.rounds, guesses(recorder, oracle), strict=True):
        view = played.view
        seed = rebuild(view, client, revealed(view, played.unmasked, client))
        pairs = {peer: guess.pair_secrets[frozenset({client, peer})] for peer in NAMES if peer != client}
        vector = played.vectors[client]
        words = strip(recorder.stage, client, seed=seed, pairs=pairs, view=view, vector=vector)
        assert not is_read(recorder.stage, words, updates[client])


# A client's memory


@pytest.fixture
def still_ratchet(monkeypatch: pytest.MonkeyPatch) -> None:
    def still(chain: Secret, *, epoch: bytes, origin: int) -> Link:
        link = ratchet(chain, epoch=epoch, origin=origin)
        return Link(link.pair_secret, link.seals, chain)

    monkeypatch.setattr(dealing, "ratchet", still)


def remembered(state: Any) -> list[Secret]:
    """Every secret in a client's state between rounds."""
    assert isinstance(state, Ready)
    prepared = state.prepared
    found = [prepared.self_mask_seed]
    for edge in prepared.edges.values():
        found += [edge.pair_secret, edge.incoming, edge.chain]
    return found


def links_from(states: Mapping[str, Any], played: Recorded) -> Guess:
    """The keys of an earlier round, as if the chains in the states had stood still since."""
    place = played.view.epoch.members.index
    links = {}
    for low in NAMES:
        for high in played.near(low):
            if low < high:
                chain = states[low].prepared.edges[place(high)].chain
                links[low, high] = ratchet(
                    chain, epoch=played.view.epoch.digest, origin=played.view.dealings.origin
                )
    return along(links)


@pytest.mark.usefixtures("still_ratchet")
def test_where_the_ratchet_stands_still_later_states_open_earlier_rounds() -> None:
    recorder, updates, _, states = recorded()
    played = recorder.rounds[1]
    for later in states[1:]:
        guess = links_from(later, played)
        for client in NAMES:
            assert reads(recorder, played, guess, updates[client], client)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(ROUNDS))
def test_the_states_after_a_round_do_not_open_it(number: int) -> None:
    recorder, updates, _, states = recorded()
    played = recorder.rounds[number]
    epoch = played.view.epoch
    for later in states[number:]:
        guess = links_from(later, played)
        for client in NAMES:
            assert not reads(recorder, played, guess, updates[client], client)
        secrets = [secret for state in later.values() for secret in remembered(state)]
        keys = [*secrets]
        for secret in secrets:
            for origin in range(ROUNDS + 1):
                link = ratchet(secret, epoch=epoch.digest, origin=origin)
                keys += [link.pair_secret, *link.seals, link.following]
        used = {blob for each in recorder.rounds[: number + 1] for blob in each.blobs()}
        assert not used & recorder.opened_by({key.reveal(): key for key in keys}.values())


def test_the_states_do_open_the_round_that_they_are_for() -> None:
    """The same search over the next round's dealings finds what each holder needs, so it can find."""
    recorder, _, _, states = recorded()
    keys = [secret for state in states[0].values() for secret in remembered(state)]
    opened = {(blob.round, bool(blob.holder)) for blob in recorder.opened_by(keys)}
    assert opened == {(1, True)}


def test_no_private_key_outlives_its_epochs_first_vector() -> None:
    """Once the masks are on, the keys that were advertised are gone from the state."""
    stage, updates = Stage(MaskedSum(max_clients=8), NAMES), updates_of(NAMES)
    secrets: dict[str, bytes] = {}

    def look(exchange: int, name: str, message: bytes) -> bytes:
        state: Any = stage.clients[name]._state
        if isinstance(state, Advertised):
            drawn = state.secrets
            secrets[name] = b"".join(
                each.reveal() for each in (drawn.channel, drawn.channel_seed, drawn.round_secret)
            )
        return message

    stage.open(updates, until=3, request=look)
    assert secrets.keys() == set(NAMES)
    for name in NAMES:
        saved = encode(stage.clients[name]._state)
        assert len(secrets[name]) == 128
        assert not any(secrets[name][at : at + 32] in saved for at in range(0, 128, 32))
