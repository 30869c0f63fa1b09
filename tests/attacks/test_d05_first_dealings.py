"""D5: a dealer whose pair secrets nobody can use kills every round, and no one knows that it was the dealer.

In an epoch's first dealing the low end of an edge sends the high end a pair secret and signs its hash. A liar
signs zeros. Whoever stands behind it cannot make its masks and has to refuse; the server sees a round in
which honest clients refused, lists them as lost, and asks the same clients again. The weakened copy is the
library as it was: the server cannot judge, and every round dies, on every graph, under every adversary.

Ours refuses with an accusation and a proof: its own round secret K_u, from which the server makes the pair
secret as the accuser did. One of the two is guilty, whatever comes out, and is named; the next round ends
without it. What that opens is a door of its own, so the other half of this page attacks the accusation: liars
that accuse the honest, a client that accuses and contributes (after a rollback, A14), a server that makes
honest clients accuse and reads what their secrets open, also together with split views (A2).

Shares that do not open cannot be proved wrong without a channel key, so those who complain are counted, over
the session: a dealer that wrongs one client at a time is named once more have complained than may be corrupt.

Not covered: a dealer that wrongs no more victims than there may be liars, one of three for example. Nobody
but the two of them can know which lies; the last test shows that it goes on. Nor a server that lies about who
accused whom: its record is its own word.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_integration.site.release_log import SqliteReleaseLog
from protocols import (
    Adversary,
    LatticeSum,
    MaskedSum,
    MemoryReleaseLog,
    NeedUpdate,
    Outcome,
    PeerViolation,
    Policy,
    ReleaseLog,
    Requirements,
    RoundAborted,
)
from protocols.lattice.client import LatticeClientSteps
from protocols.lattice.server import LatticeServerSteps
from protocols.machine.suite import Declined, Judged, Replied
from protocols.masked import server as server_room
from protocols.masked.client import MaskedClientSteps
from protocols.masked.keys import MaskKeys
from protocols.masked.messages import (
    COMMITMENT_BYTES,
    SEALED_BYTES,
    CohortKeys,
    CollectInput,
    PairKeyShare,
    ShareKeys,
    Unmask,
)
from protocols.masked.server import MaskedServerSteps
from protocols.masked.states import Dealt, Idle
from protocols.messages.envelope import REFUSAL, Envelope, Refusal
from protocols.messages.schema import encode
from secagg import labels
from secagg.secret import Secret
from secagg.standard.kdf import hkdf
from secagg.standard.kem import CIPHERTEXT_BYTES, SEED_BYTES
from tests.attacks.recorded import Recorder, every_key, first_seal_of
from tests.attacks.stories import ASKED, Cohort, Story, cohort, rebuilt_from, smallest_opened
from tests.attacks.unmasked import is_read, pair_secrets, rebuild, revealed, strip
from tests.attacks.views import tell_stories
from tests.attacks.weakened import (
    AmnesicLog,
    Curious,
    Hook,
    Stage,
    Vector,
    Wire,
    body_of,
    channel_of,
    one_key_set,
    refused,
    request_of,
    updates_of,
)
from tests.protocols.liars import fields_of, signed_dealing, spoilt, zeros

KEY = Secret(bytes(range(32)))
LIAR = "m"
every_adversary = pytest.mark.parametrize("adversary", Adversary, ids=lambda each: each.value)
SENT = f"the pair secret that {LIAR!r} sent"
"""In the reason of everybody that it wronged."""


class FirstDealer(MaskedClientSteps):
    """A dealer that changes the first dealing of every epoch, and signs for it."""

    def __init__(self, change: Callable[[ShareKeys], ShareKeys]) -> None:
        self._change = signed_dealing(change)

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step = super().react(context, state, request)
        if isinstance(request, CohortKeys) and isinstance(step, Replied):
            return replace(step, message=self._change(context, step.state, step.message))
        return step


ZEROS = FirstDealer(fields_of(edges=zeros))
LAST_EDGE = FirstDealer(
    fields_of(edges=lambda column: spoilt(column, len(column) // COMMITMENT_BYTES - 1, COMMITMENT_BYTES))
)
"""Wrongs one client only, the last of the cohort."""
LAST_CIPHERTEXT = FirstDealer(
    fields_of(
        encapsulations=lambda column: spoilt(column, len(column) // CIPHERTEXT_BYTES - 1, CIPHERTEXT_BYTES)
    )
)


class NoJudge(MaskedServerSteps):
    """A server that keeps refusals as reasons."""

    def refused(self, context: Any, state: Any, client: str, refusal: Refusal) -> Judged:
        return Judged(state)


class NoProof(MaskedClientSteps):
    """A client that names whom it accuses, and reveals nothing."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step = super().react(context, state, request)
        if isinstance(step, Declined):
            raise PeerViolation(step.reason, culprit=step.accused)
        return step


RANDOM = Requirements(
    corrupt_fraction=0.05,
    dropout_fraction=0.2,
    min_contributors=2,
    security_bits=10,
    liveness_bits=5,
    grinding_bits=0,
)
CROWD = tuple(f"client {number:02}" for number in range(29))
"""With the liar thirty, on a random graph."""


def requirements(adversary: Adversary, **asked: Any) -> Requirements:
    # A round of two is one that must be asked for: three less the liar are two.
    return replace(Requirements(min_contributors=2), adversary=adversary, **asked)


def with_liar(n: int, place: int) -> tuple[str, ...]:
    """A cohort of n with the liar in this place."""
    honest = "abcdefghi"[: n - 1]
    return (*honest[:place], LIAR, *honest[place:])


def others(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name != LIAR)


def held_back(stage: Stage, name: str, *, until: int, over: list[str]) -> Hook:
    """One client's answer in an exchange comes last: after all the others of `over`."""
    late: list[bytes] = []
    waiting = set(over)

    def reply(exchange: int, client: str, message: bytes) -> bytes | None:
        if exchange != until:
            return message
        if client == name:
            late.append(message)
        else:
            with suppress(PeerViolation):
                stage.server.receive(client, message)
        waiting.discard(client)
        if not waiting and late:
            with suppress(PeerViolation):
                stage.server.receive(name, late.pop())
        return None

    return reply


def assert_right(outcome: Outcome, updates: Mapping[str, Vector], contributors: tuple[str, ...]) -> None:
    assert outcome.contributors == frozenset(contributors)
    assert outcome.total is not None
    truth = np.mean([updates[name] for name in contributors], axis=0)
    assert np.abs(outcome.total.mean - truth).max() < 1e-4


def dies(stage: Stage, names: tuple[str, ...]) -> RoundAborted:
    with pytest.raises(RoundAborted) as aborted:
        stage.play(updates_of(names))
    record = stage.server.record().record
    assert record.culprits == aborted.value.culprits
    assert record.contributors == frozenset()
    assert not any(wire.exchange > 2 for wire in stage.wire)  # nobody was asked to reveal a share
    return aborted.value


# A dealer of zeros


def every_round_dies(stage: Stage, names: tuple[str, ...], wronged: tuple[str, ...] | None) -> None:
    for _ in range(3):
        assert dies(stage, names).culprits == frozenset()
        lost = stage.server.record().record.dropped
        assert LIAR not in lost
        assert all(SENT in reason for reason in lost.values())
        if wronged is not None:
            assert lost.keys() == set(wronged)


@pytest.mark.parametrize("clients", [None, NoProof()], ids=["proofs", "no proofs"])
@pytest.mark.parametrize("n", [3, 4, 7, 10])
@every_adversary
def test_where_nobody_judges_every_round_dies_and_the_honest_look_lost(
    adversary: Adversary, n: int, clients: Any
) -> None:
    names = with_liar(n, 0)
    steps = dict.fromkeys(others(names), clients) if clients else {}
    protocol = MaskedSum(max_clients=n, requirements=requirements(adversary))
    stage = Stage(protocol, names, steps={**steps, LIAR: ZEROS}, server_steps=NoJudge())
    every_round_dies(stage, names, others(names))


@every_adversary
@pytest.mark.slow
def test_where_nobody_judges_a_random_graph_dies_too(adversary: Adversary) -> None:
    names = (LIAR, *CROWD)
    protocol = MaskedSum(max_clients=40, requirements=replace(RANDOM, adversary=adversary))
    stage = Stage(protocol, names, steps={LIAR: ZEROS}, server_steps=NoJudge())
    every_round_dies(stage, names, None)
    assert len(stage.server.record().record.dropped) == protocol.plan(len(names)).degree < len(CROWD)


def test_an_accusation_without_a_proof_would_convict_the_honest() -> None:
    """Why the proof goes with it: our server takes nobody's word."""
    names = with_liar(7, 0)
    steps = {**dict.fromkeys(others(names), NoProof()), LIAR: ZEROS}
    stage = Stage(MaskedSum(max_clients=7), names, steps=steps)
    assert dies(stage, names).culprits == frozenset(others(names))


@pytest.mark.parametrize(("n", "place"), [(3, 0), (3, 1), (4, 0), (4, 2), (7, 0), (7, 3), (10, 0), (10, 7)])
@every_adversary
def test_ours_names_the_liar_in_the_first_round_and_ends_the_next_without_it(
    adversary: Adversary, n: int, place: int
) -> None:
    names = with_liar(n, place)
    protocol = MaskedSum(max_clients=n, requirements=requirements(adversary))
    stage = Stage(protocol, names, steps={LIAR: ZEROS})
    assert dies(stage, names).culprits == {LIAR}
    lost = dict(stage.server.record().record.dropped)
    assert "another one than it signed for" in lost.pop(LIAR)
    assert lost.keys() == set(names[place + 1 :])
    assert all(SENT in reason for reason in lost.values())
    updates = updates_of(others(names), seed=2)
    outcome = stage.play(updates)
    assert not outcome.dropped
    assert not outcome.culprits
    assert_right(outcome, updates, others(names))


@pytest.mark.parametrize("place", [0, 12])
@every_adversary
@pytest.mark.slow
def test_ours_names_it_on_a_random_graph(adversary: Adversary, place: int) -> None:
    names = (*CROWD[:place], LIAR, *CROWD[place:])
    protocol = MaskedSum(max_clients=40, requirements=replace(RANDOM, adversary=adversary))
    stage = Stage(protocol, names, steps={LIAR: ZEROS})
    assert protocol.plan(len(names)).degree < len(CROWD)
    assert dies(stage, names).culprits == {LIAR}
    lost = dict(stage.server.record().record.dropped)
    assert "another one than it signed for" in lost.pop(LIAR)
    assert lost
    assert lost.keys() <= set(names[place + 1 :])
    assert all(SENT in reason for reason in lost.values())
    updates = updates_of(CROWD)
    assert_right(stage.play(updates), updates, CROWD)


@pytest.mark.parametrize("lie", [LAST_EDGE, LAST_CIPHERTEXT], ids=["hash", "ciphertext"])
@pytest.mark.parametrize("graph", ["complete", "random"])
@every_adversary
@pytest.mark.slow
def test_a_proof_that_comes_before_the_liars_vector_saves_the_round(
    adversary: Adversary, graph: str, lie: FirstDealer
) -> None:
    names = with_liar(10, 0) if graph == "complete" else (LIAR, *CROWD)
    asked = requirements(adversary) if graph == "complete" else replace(RANDOM, adversary=adversary)
    stage = Stage(MaskedSum(max_clients=40, requirements=asked), names, steps={LIAR: lie})
    updates = updates_of(names)
    outcome = stage.play(updates, reply=held_back(stage, LIAR, until=2, over=[*names]))
    (accuser,) = outcome.dropped.keys() - {LIAR}
    assert SENT in outcome.dropped[accuser]
    assert outcome.culprits == {LIAR}
    record = stage.server.record().record
    assert record.culprits == {LIAR}
    assert record.contributors == frozenset(names) - {LIAR, accuser}
    assert_right(outcome, updates, tuple(name for name in names if name not in (LIAR, accuser)))
    rest = updates_of(others(names), seed=2)
    assert_right(stage.play(rest), rest, others(names))  # with the accuser


def test_an_accusation_that_comes_too_late_is_found_by_the_sum() -> None:
    """The accuser is gone by then, and the holders of its shares give the server the same secret."""
    names = with_liar(10, 0)
    stage = Stage(MaskedSum(max_clients=10), names, steps={LIAR: LAST_EDGE})
    late: list[bytes] = []

    def straggler(exchange: int, name: str, message: bytes) -> bytes | None:
        if (exchange, name) == (2, names[-1]):
            late.append(message)
            return None
        if exchange == 3 and late:
            stage.server.receive(names[-1], late.pop())
        return message

    with pytest.raises(RoundAborted, match="another pair secret than it signed for") as aborted:
        stage.play(updates_of(names), reply=straggler)
    assert aborted.value.culprits == {LIAR}
    assert stage.server.record().record.dropped.keys() == {LIAR, names[-1]}


def test_two_liars_cost_a_round_each() -> None:
    names = tuple("lmabcdefgh")
    stage = Stage(MaskedSum(max_clients=10), names, steps={"l": ZEROS, "m": ZEROS})
    left = names
    for liar in "lm":
        assert dies(stage, left).culprits == {liar}  # who accuses names the first that wronged it
        left = tuple(name for name in left if name != liar)
    updates = updates_of(left)
    assert_right(stage.play(updates), updates, left)


# False accusers

TEN = tuple("abcdemfghi")
"""The liar has clients before it, which it may accuse, and behind it."""
TEN_OTHERS = others(TEN)


class Accuser(MaskedClientSteps):
    """A client that accuses somebody in the place of contributing, with a proof of its choice."""

    def __init__(self, accused: Callable[[Dealt], str], proof: Callable[[Dealt], bytes]) -> None:
        self._accused, self._proof = accused, proof

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step = super().react(context, state, request)
        if isinstance(request, CollectInput) and isinstance(state, Dealt):
            return Declined(Idle(), "it did it", self._accused(state), self._proof(state))
        return step


def real(state: Dealt) -> bytes:
    return state.secrets.round_secret.reveal()


PROOFS: dict[str, Callable[[Dealt], bytes]] = {
    "its round secret": real,
    "another secret": lambda state: bytes(range(32)),
    "zeros": lambda state: bytes(32),
    "nothing": lambda state: b"",
    "one byte less": lambda state: real(state)[:-1],
    "one byte more": lambda state: real(state) + b"\0",
    "64 bytes": lambda state: bytes(64),
    "its channel key": lambda state: state.secrets.channel.reveal(),
    "its self-mask seed": lambda state: state.secrets.self_mask_seed.reveal(),
    "its X25519 mask key": lambda state: hkdf(state.secrets.round_secret, label=labels.MASK_KEY).reveal(),
    "its half of the pair secret": lambda state: state.dealing.encapsulated[0].reveal(),
}


def convicts_only_the_accuser(steps: Accuser, *, gone: str = "") -> str:
    stage = Stage(MaskedSum(max_clients=10), TEN, steps={LIAR: steps})
    updates, left = updates_of(TEN), tuple(name for name in TEN_OTHERS if name not in gone)
    outcome = stage.play(updates, gone=dict.fromkeys(gone, 1))
    assert outcome.culprits == {LIAR}
    assert stage.server.record().record.culprits == {LIAR}
    assert outcome.dropped.keys() == {LIAR, *gone}
    assert_right(outcome, updates, left)
    return outcome.dropped[LIAR]


@pytest.mark.parametrize("proof", PROOFS)
@pytest.mark.parametrize("accused", ["a", "e"], ids=["the first", "the one before"])
def test_who_accuses_an_honest_client_convicts_itself(accused: str, proof: str) -> None:
    reason = convicts_only_the_accuser(Accuser(lambda state: accused, PROOFS[proof]))
    assert f"it accuses {accused!r}" in reason
    if proof == "its round secret":
        assert f"of a pair secret that is as {accused!r} signed for it" in reason


NOBODY_OF_ITS = {
    "one behind it": "f",
    "the last": "i",
    "itself": LIAR,
    "a stranger": "nobody",
    "a name of no letters": "\u202e'\"\\",
    "the longest name": "x" * 64,
}


@pytest.mark.parametrize("accused", NOBODY_OF_ITS)
def test_it_accuses_somebody_that_sent_it_no_pair_secret(accused: str) -> None:
    reason = convicts_only_the_accuser(Accuser(lambda state: NOBODY_OF_ITS[accused], real))
    assert "from which it got no pair secret" in reason


def test_it_accuses_a_client_that_vanished_before_it_dealt() -> None:
    reason = convicts_only_the_accuser(Accuser(lambda state: "a", real), gone="a")
    assert "from which it got no pair secret" in reason


@every_adversary
def test_it_accuses_one_before_it_that_is_no_neighbour(adversary: Adversary) -> None:
    def stranger(state: Dealt) -> str:
        view = state.view
        return next(view.epoch.cohort[p] for p in range(view.me) if p not in view.neighbours)

    names = (*CROWD, LIAR)
    protocol = MaskedSum(max_clients=40, requirements=replace(RANDOM, adversary=adversary))
    stage = Stage(protocol, names, steps={LIAR: Accuser(stranger, real)})
    updates = updates_of(names)
    outcome = stage.play(updates)
    assert outcome.culprits == outcome.dropped.keys() == {LIAR}
    assert "from which it got no pair secret" in outcome.dropped[LIAR]
    assert_right(outcome, updates, CROWD)


@every_adversary
def test_all_liars_together_accuse_one_client(adversary: Adversary) -> None:
    names, liars = tuple("abcdefghlm"), frozenset("lm")
    protocol = MaskedSum(max_clients=10, requirements=requirements(adversary))
    assert protocol.plan(10).corrupt == len(liars)
    stage = Stage(protocol, names, steps=dict.fromkeys(liars, Accuser(lambda state: "a", real)))
    updates = updates_of(names)
    for _ in range(3):
        outcome = stage.play(updates)
        assert outcome.culprits == outcome.dropped.keys() == liars
        assert_right(outcome, updates, tuple("abcdefgh"))


def accusation(stage: Stage, name: str, accused: str, proof: bytes = bytes(32)) -> bytes:
    """A refusal as a liar may write it, whatever it is asked."""
    return Envelope(
        protocol=stage.protocol.suite.code,
        session=stage.session,
        round=stage.number,
        stage=REFUSAL,
        sender=name,
        body=encode(Refusal("it did it", accused, proof)),
    ).encode()


class Remembers(MaskedClientSteps):
    """Keeps K_u for later."""

    proof = bytes(32)

    def react(self, context: Any, state: Any, request: Any) -> Any:
        if isinstance(state, Dealt):
            self.proof = real(state)
        return super().react(context, state, request)


@pytest.mark.parametrize("exchange", [0, 1, 3, 4])
def test_it_accuses_when_there_is_nothing_to_judge(exchange: int) -> None:
    protocol, steps = MaskedSum(max_clients=10, requirements=requirements(Adversary.MALICIOUS)), Remembers()
    stage = Stage(protocol, TEN, steps={LIAR: steps})

    def reply(number: int, name: str, message: bytes) -> bytes:
        if (number, name) != (exchange, LIAR):
            return message
        return accusation(stage, LIAR, "a", steps.proof)

    updates = updates_of(TEN)
    outcome = stage.play(updates, reply=reply)
    assert not outcome.culprits  # its place in the round is all that this costs it
    assert outcome.dropped.keys() == {LIAR}
    assert "it did it" in outcome.dropped[LIAR]
    assert_right(outcome, updates, TEN_OTHERS if exchange < 2 else TEN)


@pytest.mark.parametrize("accused", ["server", LIAR, "nobody", "a"])
def test_it_writes_its_own_refusal(accused: str) -> None:
    """Of the server too, whose faults a client of ours puts into words."""
    steps = Remembers()
    stage = Stage(MaskedSum(max_clients=10), TEN, steps={LIAR: steps})

    def reply(exchange: int, name: str, message: bytes) -> bytes:
        return accusation(stage, LIAR, accused, steps.proof) if (exchange, name) == (2, LIAR) else message

    updates = updates_of(TEN)
    outcome = stage.play(updates, reply=reply)
    assert outcome.culprits == outcome.dropped.keys() == {LIAR}
    assert f"it accuses {accused!r}" in outcome.dropped[LIAR]
    assert_right(outcome, updates, TEN_OTHERS)


def test_it_accuses_after_it_has_contributed() -> None:
    """It has vouched for its edges then."""
    steps = Remembers()
    stage = Stage(MaskedSum(max_clients=10), TEN, steps={LIAR: steps})

    def reply(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) != (2, LIAR):
            return message
        stage.server.receive(LIAR, message)
        return accusation(stage, LIAR, "a", steps.proof)

    updates = updates_of(TEN)
    outcome = stage.play(updates, reply=reply)
    assert not outcome.culprits
    assert outcome.dropped.keys() == {LIAR}
    assert_right(outcome, updates, TEN)


@pytest.mark.parametrize("before", [1, 2])
def test_it_accuses_in_a_steady_round(before: int) -> None:
    steps = Remembers()
    stage, updates = Stage(MaskedSum(max_clients=10), TEN, steps={LIAR: steps}), updates_of(TEN)
    for _ in range(before):
        stage.play(updates)

    def reply(exchange: int, name: str, message: bytes) -> bytes:
        return accusation(stage, LIAR, "a", steps.proof) if (exchange, name) == (2, LIAR) else message

    outcome = stage.play(updates, reply=reply)
    assert min(wire.exchange for wire in stage.wire) == 2
    assert not outcome.culprits
    assert outcome.dropped.keys() == {LIAR}
    assert_right(outcome, updates, TEN_OTHERS)


def test_it_accuses_everybody_in_turn() -> None:
    """One accusation is judged, and it is out."""
    steps = Remembers()
    stage = Stage(MaskedSum(max_clients=10), TEN, steps={LIAR: steps})

    def reply(exchange: int, name: str, message: bytes) -> bytes:
        if (exchange, name) != (2, LIAR):
            return message
        for accused in "abcde":
            stage.server.receive(LIAR, accusation(stage, LIAR, accused, steps.proof))
        return message  # and its vector comes too late

    updates = updates_of(TEN)
    outcome = stage.play(updates, reply=reply)
    assert outcome.culprits == outcome.dropped.keys() == {LIAR}
    assert "accuses 'a'" in outcome.dropped[LIAR]
    assert_right(outcome, updates, TEN_OTHERS)


def test_who_sends_anothers_accusation_is_out_itself() -> None:
    """Every byte of it is right, and the proof is real; it saw both on the network."""
    names = (LIAR, *"abcdefghl")
    stage = Stage(MaskedSum(max_clients=10), names, steps={LIAR: LAST_EDGE})
    order = [*names[1:-1]]

    def reply(exchange: int, name: str, message: bytes) -> bytes | None:
        if exchange == 2 and name == "l":
            with pytest.raises(PeerViolation, match="another party's name") as found:
                stage.server.receive(order[-1], message)
            assert found.value.culprit == order[-1]
        return None if exchange == 2 and name in (LIAR, order[-1]) else message

    updates = updates_of(names)
    outcome = stage.play(updates, reply=reply)
    assert outcome.culprits == {LIAR, order[-1]}
    assert_right(outcome, updates, tuple(order[:-1]))


# What the proof opens


def accused_in_time(
    *, names: tuple[str, ...], adversary: Adversary
) -> tuple[Recorder, dict[str, Vector], Secret]:
    """A round that ends without the liar and the client that it wronged, the last; and the proof."""
    protocol = MaskedSum(max_clients=10, requirements=requirements(adversary))
    stage = Stage(protocol, names, steps={LIAR: LAST_EDGE}, server_steps=Curious())
    recorder, updates, proofs = Recorder(stage), updates_of(names), []

    def reply(exchange: int, name: str, message: bytes) -> bytes | None:
        if exchange == 2 and refused(message):
            proofs.append(Secret(body_of(Refusal, message).proof))
        return None if (exchange, name) == (2, LIAR) else message

    recorder.play(updates, reply=reply)
    (proof,) = proofs
    return recorder, updates, proof


def derived(recorder: Recorder, client: str, proof: Secret) -> Iterator[Secret]:
    """What the library makes of such a secret, and what it would if mask keys were channel keys."""
    yield from every_key(recorder, client, proof)
    played = recorder.rounds[0]
    seed = hkdf(proof, label=labels.MASK_ENCAPSULATION, size=SEED_BYTES)
    for dealer in played.near(client):
        yield first_seal_of(played, dealer, client, hkdf(proof, label=labels.MASK_KEY), seed)


@every_adversary
def test_with_one_key_set_a_proof_opens_what_all_had_sealed_to_the_accuser(
    adversary: Adversary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not ours: channel keys that follow from the round secret (A17)."""
    one_key_set(monkeypatch)
    names = (LIAR, *"abcdefghi")
    recorder, _, proof = accused_in_time(names=names, adversary=adversary)
    played, accuser = recorder.rounds[0], names[-1]
    keys = [first_seal_of(played, dealer, accuser, *channel_of(proof)) for dealer in names[:-1]]
    opened = {(blob.dealer, blob.holder) for blob in recorder.opened_by(keys)}
    assert opened == {(dealer, accuser) for dealer in names[:-1]}


@every_adversary
def test_ours_opens_the_pair_secrets_of_a_vector_that_was_never_sent(adversary: Adversary) -> None:
    names = (LIAR, *"abcdefghi")
    recorder, updates, proof = accused_in_time(names=names, adversary=adversary)
    stage, played, accuser = recorder.stage, recorder.rounds[0], names[-1]
    assert MaskKeys(proof).agreement.public_key == played.keys[accuser].mask_key  # it is the real one
    assert accuser not in played.vectors
    keys = {key.reveal(): key for key in derived(recorder, accuser, proof)}
    assert len(keys) > 600
    opened = {(blob.dealer, blob.holder) for blob in recorder.opened_by(keys.values())}
    assert opened == {(accuser, "")}
    # Each contributor's vector without the mask that it shares with the accuser, and without its own, which
    # the holders opened for the sum: what it shares with the other contributors is still on it.
    pairs = pair_secrets(played.view, accuser, proof)
    for name in played.vectors:
        shares = revealed(played.view, played.unmasked, name)
        seed = rebuild(played.view, name, shares)
        for known in (None, seed):
            words = strip(stage, name, seed=known, pairs={accuser: pairs[name]})
            assert not is_read(stage, words, updates[name])
    assert_right(stage.server.outcome(), updates, tuple(played.vectors))


def test_the_holders_of_a_client_that_vanished_give_the_same_secret() -> None:
    """So a proof opens nothing that silence would not have opened."""
    recorder, _, proof = accused_in_time(names=(LIAR, *"abcdefghi"), adversary=Adversary.SEMI_MALICIOUS)
    played = recorder.rounds[0]
    assert rebuild(played.view, "i", revealed(played.view, played.unmasked, "i", PairKeyShare)) == proof


# Accusing and contributing

SEVEN = tuple("abcdefg")
VICTIM = "e"
MASKED = MaskedSum(max_clients=8)


class Tricked:
    """A lying server has two requests for the victim: as it should be, and with hashes that are spoilt."""

    def __init__(self, log: ReleaseLog | None) -> None:
        self.log = log
        self.updates = updates_of(SEVEN)
        policies = {VICTIM: Policy(release_log=log)}
        self.stage = Stage(MASKED, SEVEN, policies=policies, server_steps=Curious())
        self.outbox = self.stage.open(self.updates, until=2)
        asked = request_of(CollectInput, self.outbox[VICTIM])
        self.good = self.outbox[VICTIM]
        self.bad = self.stage.request(2, replace(asked, edges=bytes(len(asked.edges))))
        self.saved = self.stage.clients[VICTIM].export(key=KEY)

    def tell(self, message: bytes) -> bytes:
        return self.stage.tell(VICTIM, message, self.updates[VICTIM])

    def roll_back(self) -> None:
        restored = MASKED.restore_client(self.saved, key=KEY, release_log=self.log)
        self.stage.clients[VICTIM] = restored  # type: ignore[assignment]

    def both(self, *, accuses_first: bool) -> tuple[bytes, bytes]:
        """What it answers to the bad request and to the good one, with a rollback in between."""
        order = [self.bad, self.good] if accuses_first else [self.good, self.bad]
        answers = [self.tell(order[0])]
        self.roll_back()
        answers.append(self.tell(order[1]))
        return (answers[0], answers[1]) if accuses_first else (answers[1], answers[0])

    def finish(self, vector: bytes) -> Any:
        """The round as it would go on with the victim's vector; what the others reveal of b_u."""
        stage = self.stage
        for name in SEVEN:
            answer = vector if name == VICTIM else stage.tell(name, self.outbox[name], self.updates[name])
            stage.wire.append(Wire(False, 2, name, answer))
            stage.server.receive(name, answer)
        asked = stage.server.advance()
        told = {name: body_of(Unmask, stage.tell(name, asked[name])) for name in SEVEN if name != VICTIM}
        return revealed(stage.server._state.sum, told, VICTIM)


@pytest.mark.parametrize("accuses_first", [True, False], ids=["accuses first", "contributes first"])
@pytest.mark.parametrize("log", [None, AmnesicLog()], ids=["no log", "a log that forgets"])
def test_where_nothing_is_remembered_who_is_rolled_back_accuses_and_contributes(
    log: ReleaseLog | None, accuses_first: bool
) -> None:
    """K_u from the proof, b_u from the holders, who were told that it survived: its vector is read."""
    victim = Tricked(log)
    accusation, vector = victim.both(accuses_first=accuses_first)
    proof = Secret(body_of(Refusal, accusation).proof)
    shares = victim.finish(vector)
    stage, view = victim.stage, victim.stage.server._state.sum
    words = strip(stage, VICTIM, seed=rebuild(view, VICTIM, shares), round_secret=proof, view=view)
    assert is_read(stage, words, victim.updates[VICTIM])


@pytest.fixture(params=["memory", "file"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ReleaseLog]:
    """A log that is not rolled back with the state."""
    if request.param == "memory":
        yield MemoryReleaseLog()
        return
    with SqliteReleaseLog(tmp_path / "releases") as kept:
        yield kept


def test_with_the_log_who_has_accused_does_not_contribute(log: ReleaseLog) -> None:
    victim = Tricked(log)
    accusation, vector = victim.both(accuses_first=True)
    assert len(body_of(Refusal, accusation).proof) == 32
    assert "answered before by a later state" in body_of(Refusal, vector).reason
    # In the next epoch, which has other secrets, it does.
    updates = updates_of(SEVEN, seed=2)
    assert_right(victim.stage.play(updates), updates, SEVEN)


def test_with_the_log_who_has_contributed_does_not_accuse(log: ReleaseLog) -> None:
    victim = Tricked(log)
    accusation, vector = victim.both(accuses_first=False)
    assert not refused(vector)
    said = body_of(Refusal, accusation)
    assert "answered before by a later state" in said.reason
    assert not said.proof
    assert not said.accused


def test_who_has_accused_has_nothing_left_to_contribute_with() -> None:
    """Without a rollback: no request of this epoch finds a secret in it, whatever its round is called."""
    victim = Tricked(None)
    stage = victim.stage
    victim.tell(victim.bad)
    assert stage.clients[VICTIM]._state == Idle()
    asked = request_of(CollectInput, victim.good)
    for number in (0, 1, 2):
        for message in (
            stage.request(2, asked, round=number),
            stage.request(2, replace(asked, encapsulations=b"", edges=b""), round=number),
            stage.request(3, stage.quorum(VICTIM, SEVEN), round=number),
            stage.request(3, stage.survivors(SEVEN), round=number),
        ):
            answer = victim.tell(message)
            assert refused(answer)
            assert not body_of(Refusal, answer).proof


def test_who_waits_to_contribute_does_not_accuse() -> None:
    """Both requests in one round, the bad one while the update is being made."""
    victim = Tricked(None)
    assert isinstance(victim.stage.clients[VICTIM].receive(victim.good), NeedUpdate)
    answer = victim.tell(victim.bad)
    assert not body_of(Refusal, answer).proof
    assert not refused(victim.stage.clients[VICTIM].contribute(victim.updates[VICTIM]))


def test_a_repeated_request_gets_the_same_accusation(log: ReleaseLog) -> None:
    """Also after a crash before the new state was saved: the same bytes, which tell nothing new."""
    victim = Tricked(log)

    def asked_again() -> bytes:
        answer, client = victim.tell(victim.bad), victim.stage.clients[VICTIM]
        assert client.refusal is not None
        assert "the pair secret that 'a' sent" in client.refusal
        return answer

    first = asked_again()
    said = body_of(Refusal, first)
    assert said.accused == "a"
    assert said.proof.hex() not in repr(said)
    assert asked_again() == first
    victim.roll_back()
    assert asked_again() == first
    victim.saved = victim.stage.clients[VICTIM].export(key=KEY)  # the state behind it
    victim.roll_back()
    assert asked_again() == first
    # Another lie would get another accusation: it gets none.
    victim = Tricked(log=None)
    asked = request_of(CollectInput, victim.good)
    victim.tell(victim.bad)
    other = victim.stage.request(2, replace(asked, edges=b"\1" * len(asked.edges)))
    assert not body_of(Refusal, victim.tell(other)).proof


def test_an_honest_server_that_is_made_to_look_at_such_an_accusation_names_the_accuser() -> None:
    """Whoever spoils requests on their way costs the receiver its round: transports must keep them whole."""
    victim = Tricked(None)
    stage = victim.stage
    stage.server.receive(VICTIM, victim.tell(victim.bad))
    for name in SEVEN:
        if name != VICTIM:
            stage.server.receive(name, stage.tell(name, victim.outbox[name], victim.updates[name]))
    stage.server.advance()
    assert "of a pair secret that is as 'a' signed for it" in stage.server._dropped[VICTIM]


@pytest.mark.parametrize("first", [True, False], ids=["the liar first", "the liar last"])
@every_adversary
def test_a_server_that_is_saved_and_restored_after_every_message(adversary: Adversary, first: bool) -> None:
    names = with_liar(10, 0)
    protocol = MaskedSum(max_clients=10, requirements=requirements(adversary))
    stage = Stage(protocol, names, steps={LIAR: LAST_EDGE})
    inner = held_back(stage, LIAR, until=2 if not first else 99, over=[*names])

    def reply(exchange: int, name: str, message: bytes) -> bytes | None:
        blob = stage.server.export(key=KEY)
        stage.server = protocol.restore_server(blob, key=KEY)  # type: ignore[assignment]
        return inner(exchange, name, message)

    updates = updates_of(names)
    if first:
        with pytest.raises(RoundAborted) as aborted:
            stage.play(updates, reply=reply)
        assert aborted.value.culprits == {LIAR}
    else:
        outcome = stage.play(updates, reply=reply)
        assert outcome.culprits == {LIAR}
        assert_right(outcome, updates, names[1:-1])


# Through LatticeSum


def of_lattice(protocol: LatticeSum, steps: MaskedClientSteps) -> LatticeClientSteps:
    """A client whose key layer runs these steps."""
    honest: Any = protocol.suite.client
    return LatticeClientSteps(replace(honest._keys, client=steps), honest._vectors)


@pytest.mark.parametrize("weakened", [True, False], ids=["nobody judges", "ours"])
def test_lattice_sum_passes_accusations_to_its_key_layer(weakened: bool) -> None:
    protocol, names = LatticeSum(max_clients=8), with_liar(7, 0)
    honest: Any = protocol.suite.server
    no_judge = LatticeServerSteps(replace(honest._keys, server=NoJudge()), honest._vectors)
    steps = {LIAR: of_lattice(protocol, ZEROS)}
    stage = Stage(protocol, names, steps=steps, server_steps=no_judge if weakened else None)
    for _ in range(2):
        assert dies(stage, names).culprits == (frozenset() if weakened else {LIAR})
        assert all(SENT in stage.server.record().record.dropped[name] for name in others(names))
    updates = updates_of(others(names))
    assert_right(stage.play(updates), updates, others(names))


def test_lattice_sum_convicts_who_accuses_an_honest_client() -> None:
    protocol = LatticeSum(max_clients=10)
    stage = Stage(protocol, TEN, steps={LIAR: of_lattice(protocol, Accuser(lambda state: "a", real))})
    updates = updates_of(TEN)
    outcome = stage.play(updates)
    assert outcome.culprits == outcome.dropped.keys() == {LIAR}
    assert_right(outcome, updates, TEN_OTHERS)


# A server that makes honest clients accuse


class TrickedCohort(Cohort):
    """A small cohort in which the last honest clients were made to accuse: they contribute nothing.

    Their neighbours have no signature of theirs on any story, and reveal nothing where they are to have
    survived; whether they are lost or inactive, the masks with them are known, and they count as missing.
    """

    def __init__(self, plan: Any, count: int) -> None:
        super().__init__(plan)
        self.tricked = frozenset(self.honest[len(self.honest) - count :])
        self.honest = self.honest[: len(self.honest) - count]
        self.everybody = self.everybody - self.tricked
        self.holders = dict.fromkeys(self.names, self.everybody)
        self.neighbours = {name: self.everybody - {name} for name in self.names}
        self.needs = dict.fromkeys(self.honest, max(plan.threshold - plan.corrupt, 0))


@pytest.mark.parametrize("n", range(4, 10))
@pytest.mark.parametrize("asked", ASKED)
def test_no_trick_opens_fewer_than_the_plan_promises(asked: str, n: int) -> None:
    each = cohort(asked, n)
    for count in range(1, n - each.plan.min_survivors + 2):
        tricked = TrickedCohort(each.plan, count)
        assert tricked.worst(each.promised - 1) is None


def opened_by_trick(each: Cohort, stories: dict[str, Story], tricked: str, most: int) -> int | None:
    """As `Cohort.opened`, where one client accused; nothing but what the machines check is assumed of it."""
    # It signed no story at all: whoever hears that it survived asks for its signature in vain.
    heard = {**stories, tricked: Story(frozenset(), frozenset())}
    seeds, round_secrets = rebuilt_from(heard, needs=each.needs, holders=each.holders)
    assert tricked not in seeds
    left = {name: story for name, story in stories.items() if name != tricked}
    found = smallest_opened(
        left,
        seeds=seeds,
        round_secrets=round_secrets | {tricked},
        neighbours=each.neighbours,
        most=most,
    )
    return None if found is None else len(found)


@pytest.mark.parametrize(
    ("asked", "n"), [("default", 4), ("default", 5), ("default", 6), ("nobody corrupt, two contributors", 4)]
)
def test_brute_force_finds_no_smaller_group(asked: str, n: int) -> None:
    """Every story to every client, whether it calls the tricked one a survivor, lost or inactive."""
    each = cohort(asked, n)
    tricked = each.honest[-1]
    found = {opened_by_trick(each, stories, tricked, n) for stories in each.every_story()}
    sizes = {size for size in found if size is not None}
    assert all(size >= each.promised for size in sizes)
    if each.plan.min_survivors < n:
        assert sizes
        worst = TrickedCohort(each.plan, 1).worst(n)
        assert worst == min(sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "n"), [("nobody corrupt, two contributors", 6), ("nobody corrupt", 7)])
def test_nor_do_stories_by_chance_where_two_may_be_missing(asked: str, n: int) -> None:
    each, draws = cohort(asked, n), np.random.default_rng(1)
    tricked, spare, free = each.honest[-1], n - each.plan.min_survivors, list(each.honest[:-1])
    assert spare >= 2
    sizes = set()
    for _ in range(1500):
        # Two groups hear of others that are missing, or inactive; the tricked one is missing in all stories.
        missing = [{str(name) for name in draws.permutation(free)[: spare - 1]} for _ in range(2)]
        inactive = [draws.random() < 0.2 for _ in range(2)]
        stories = {}
        for name in each.honest:
            group = int(draws.random() < 0.4)
            gone = missing[group] - {name} | {tricked}
            active = each.everybody - (missing[group] - {name} if inactive[group] else set())
            stories[name] = Story(active, each.everybody - gone)
        sizes.add(opened_by_trick(each, stories, tricked, n) or n)
    assert min(sizes) >= each.promised
    assert len(sizes) > 1


@pytest.mark.parametrize("n", [8, 10])
def test_what_a_trick_opens_on_paper_is_opened_on_the_machines(n: int) -> None:
    """The smallest group that is left to a server that tricks one client; and no smaller one of any kind."""
    plan = cohort("default", n).plan
    each, promised = TrickedCohort(plan, 1), cohort("default", n).promised
    size = each.worst(n)
    assert size is not None
    assert size >= promised
    stories = next(stories for stories in each.splits() if each.opened(stories, size) == size)
    seeds, round_secrets = rebuilt_from(stories, needs=each.needs, holders=each.holders)
    group = smallest_opened(
        stories, seeds=seeds, round_secrets=round_secrets, neighbours=each.neighbours, most=size
    )
    assert group is not None
    told = {name: Story(story.active | each.tricked, story.survivors) for name, story in stories.items()}
    stage, updates = Stage(MaskedSum(max_clients=n), each.names), updates_of(each.names)
    corrupt = each.names[n - plan.corrupt :]
    coalition = tell_stories(stage, updates, told, corrupt, tricked=each.tricked)
    assert not coalition.refused
    assert coalition.seeds.keys() & set(each.honest) == seeds
    assert not coalition.seeds.keys() & each.tricked
    assert coalition.round_secrets.keys() >= each.tricked | round_secrets
    assert coalition.opens(group, updates)
    for fewer in range(1, promised):
        assert not any(coalition.opens(some, updates) for some in combinations(each.honest, fewer))


@every_adversary
def test_nobody_reveals_the_self_mask_of_a_tricked_client(adversary: Adversary) -> None:
    """It is called a survivor, so that its vector, had it sent one before a rollback, would be read."""
    n = 10
    protocol = MaskedSum(max_clients=n, requirements=requirements(adversary))
    each = Cohort(protocol.plan(n))
    tricked = frozenset(each.honest[-1])
    stories = {name: Story(each.everybody, each.everybody) for name in each.honest if name not in tricked}
    stage, updates = Stage(protocol, each.names), updates_of(each.names)
    coalition = tell_stories(stage, updates, stories, each.names[len(each.honest) :], tricked=tricked)
    assert coalition.refused.keys() == stories.keys()
    (victim,) = tricked
    assert all(
        f"{victim!r} did not sign this client's story" in why or "signers of the survivor set" in why
        for why in coalition.refused.values()
    )
    assert victim not in coalition.seeds
    assert coalition.round_secrets[victim]


@every_adversary
def test_the_first_of_a_cohort_cannot_be_made_to_accuse(adversary: Adversary) -> None:
    """Nobody sends it a pair secret, and no other lie to anybody is answered with a proof."""
    protocol = MaskedSum(max_clients=8, requirements=requirements(adversary))
    stage, updates = Stage(protocol, SEVEN), updates_of(SEVEN)
    outbox = stage.open(updates, until=2)
    for name in SEVEN:
        asked = request_of(CollectInput, outbox[name])
        lies: dict[str, Any] = {
            "origin": asked.origin + 1,
            "length": asked.length + 1,
            "active": stage.bitmap(set(SEVEN) - {name}),
            "sealed": asked.sealed[SEALED_BYTES:],
            "hashes": asked.hashes[1:],
            "edges": asked.edges + bytes(COMMITMENT_BYTES),
            "encapsulations": asked.encapsulations[CIPHERTEXT_BYTES:],
        }
        for field, lie in lies.items():
            said = body_of(Refusal, stage.tell(name, stage.request(2, replace(asked, **{field: lie}))))
            assert not said.proof
            assert not said.accused
    asked = request_of(CollectInput, outbox["a"])
    spoiled = replace(asked, edges=bytes(len(asked.edges)))
    assert not refused(stage.tell("a", stage.request(2, spoiled), updates["a"]))


# Counting those who complain


class WrongsOne(MaskedClientSteps):
    """A dealer that seals rubbish to one client, another one whenever it likes."""

    victim = 0

    def react(self, context: Any, state: Any, request: Any) -> Any:
        step: Any = super().react(context, state, request)
        if isinstance(request, CohortKeys) and isinstance(step, Replied):
            # On the complete graph, where the column has a piece for everybody else.
            position = self.victim - (self.victim > step.state.view.me)
            lie = fields_of(sealed=lambda column: spoilt(column, position, SEALED_BYTES))
            message = signed_dealing(lie)(context, step.state, step.message)
            return replace(step, message=message)
        return step


def in_this_round_only(state: Any, dealer: int, complaints: int) -> frozenset[str]:
    """Complaints are forgotten with their round."""
    named = complaints > state.epoch.corrupt_neighbours
    return frozenset([state.epoch.cohort[dealer]] if named else [])


COUNTED = {7: Requirements(corrupt_fraction=0.1), 10: Requirements()}
"""By size of the cohort: what makes one complaint end a round in which as many vanish as may."""


def wrong_one_at_a_time(n: int, rounds: int) -> list[frozenset[str]]:
    """Who is named in each round, in which another client is wronged; the server is restored in between."""
    names = with_liar(n, n // 2)
    protocol, steps = MaskedSum(max_clients=n, requirements=COUNTED[n]), WrongsOne()
    plan = protocol.plan(n)
    assert plan.threshold == plan.min_survivors
    stage, named = Stage(protocol, names, steps={LIAR: steps}), []
    for number in range(rounds):
        victim = others(names)[number % (n - 1)]
        steps.victim = names.index(victim)
        spare = [name for name in others(names) if name != victim][: n - plan.min_survivors]
        with pytest.raises(RoundAborted, match=f"could open what {LIAR!r} dealt.*1 complain") as aborted:
            stage.play(updates_of(names), gone=dict.fromkeys(spare, 2))
        named.append(aborted.value.culprits)
        blob = stage.server.export(key=KEY)
        stage.server = protocol.restore_server(blob, key=KEY)  # type: ignore[assignment]
    updates = updates_of(others(names))
    assert_right(stage.play(updates), updates, others(names))
    return named


@pytest.mark.parametrize("n", COUNTED)
def test_where_complaints_are_forgotten_one_victim_at_a_time_is_never_enough(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_room, "blamed", in_this_round_only)
    assert wrong_one_at_a_time(n, n - 1) == [frozenset()] * (n - 1)


@pytest.mark.parametrize("n", COUNTED)
def test_ours_names_it_when_more_have_complained_than_may_be_corrupt(n: int) -> None:
    corrupt = MaskedSum(max_clients=n, requirements=COUNTED[n]).plan(n).corrupt
    assert wrong_one_at_a_time(n, corrupt + 1) == [frozenset()] * corrupt + [{LIAR}]


class Complains(MaskedClientSteps):
    """A client that says that it could not open what some dealt, and keeps to it."""

    def __init__(self) -> None:
        self.targets: frozenset[str] = frozenset()

    def fold(self, context: Any, state: Any, summand: Any) -> Replied:
        cohort_of = state.view.epoch.cohort
        held = {place: both for place, both in state.held.items() if cohort_of[place] not in self.targets}
        return super().fold(context, replace(state, held=held), summand)


@pytest.mark.parametrize("kind", ["one after the other", "all at once", "by chance"])
def test_as_many_liars_as_are_planned_for_complain_of_the_honest_in_vain(kind: str) -> None:
    """Over many epochs and steady rounds, with as many lost as may be, so that complaints end rounds."""
    names, liars = tuple("abcdefghlm"), "lm"
    protocol = MaskedSum(max_clients=10)
    steps, draws = Complains(), np.random.default_rng(1)
    assert protocol.plan(10).corrupt == len(liars)
    stage = Stage(protocol, names, steps=dict.fromkeys(liars, steps))
    ended = aborted = steady = 0
    for number in range(18):
        chosen = {"one after the other": names[number % 8], "all at once": "abcdefgh"}
        steps.targets = frozenset(chosen.get(kind, map(str, draws.choice(list("abcdefgh"), 2))))
        some = draws.permutation(list("abcdefgh"))[: draws.integers(0, 4) if number % 3 else 0]
        missing = [str(name) for name in some]
        updates = updates_of(names, seed=number)
        with suppress(RoundAborted):
            stage.play(updates, gone=dict.fromkeys(missing, 2))
        record = stage.server.record().record
        assert record.culprits <= set(liars)  # who has complained of more than may lie is named instead
        if record.aborted:
            aborted += 1
            continue
        ended += 1
        steady += min(wire.exchange for wire in stage.wire) == 2
        assert_right(stage.server.outcome(), updates, tuple(sorted(record.contributors)))
    assert ended > 3
    assert aborted > 3
    assert steady or kind == "all at once"


def test_liars_of_different_cohorts_complain_of_an_honest_client_in_vain() -> None:
    """Those who may be corrupt are counted in the roster: one in each cohort, and more than that in all."""
    roster, liars = tuple("abcdefghijklmnopqrst"), "qrst"
    protocol = MaskedSum(max_clients=20)
    assert protocol.plan(10, roster=20).corrupt == len(liars)
    steps = Complains()
    steps.targets = frozenset("a")
    stage = Stage(protocol, roster, steps=dict.fromkeys(liars, steps))
    for number, liar in enumerate(liars):
        cohort_of = tuple(sorted({*"abcdefghi", liar}))
        updates = updates_of(cohort_of)
        plan = protocol.plan(10, roster=20)
        lost = "bcdefghi"[: 10 - plan.min_survivors]
        with suppress(RoundAborted):
            assert_right(
                stage.play(updates, gone=dict.fromkeys(lost, 2)),
                updates,
                tuple(name for name in cohort_of if name not in lost),
            )
        assert not stage.server.record().record.culprits, number


def test_of_three_a_liar_that_wrongs_the_same_one_again_and_again_goes_on() -> None:
    """On ours. Its victim complains, and might as well be the liar: the two must part out of band."""
    names = ("a", LIAR, "b")
    protocol, steps = MaskedSum(max_clients=3), WrongsOne()
    stage = Stage(protocol, names, steps={LIAR: steps})
    for _ in range(4):
        with pytest.raises(RoundAborted, match=f"what {LIAR!r} dealt, 3 must; 1 complain") as aborted:
            stage.play(updates_of(names))
        assert aborted.value.culprits == frozenset()
    steps.victim = names.index("b")
    with pytest.raises(RoundAborted) as aborted:
        stage.play(updates_of(names))
    assert aborted.value.culprits == {LIAR}
