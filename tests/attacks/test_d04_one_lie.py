"""D4, D11: one lie ends a training; a result that nobody can open blocks all behind it.

Where clients learn the sum, a contributor that tags its vector wrongly spoils the result, and nobody can say
whose fault it was. The server does not even see it. So a server whose digest of "all sums so far" moves over
such a result names a model that nobody has from then on, and a client that stops at the first result which
does not open never comes to the next. On a copy that does both (`Chained`, `Stubborn`), one lie of one client
in one round is the end. Here a client names what its update answers itself, and goes on over what does not
open, as all that have its bytes do. Eight such results are the end of a key: it is renewed before.

The last tests are of liars at large: whatever some of them do, below the planned share, in the rounds before,
the round behind the last lie ends, and all models are equal.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols import (
    Adversary,
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    PeerViolation,
    Requirements,
)
from protocols.consortium import messages as consortium
from protocols.lattice import messages as lattice
from protocols.machine.client import ClientMachine, Request
from protocols.machine.parameters import MachineProtocol
from protocols.masked import messages as masked
from protocols.messages.envelope import RESULT, Envelope
from protocols.messages.schema import decode, encode
from secagg.vectors.linear_mac import PRIME
from tests.attacks.trained import Lie, Refuses, Says, WithLiars
from tests.protocols.liars import (
    FOREIGN,
    fields_of,
    flipped,
    in_unmask,
    signed_dealing,
    signed_keys,
    spoilt,
    zeros,
)

torch = pytest.importorskip("torch")

from fl_integration.loop import rounds  # noqa: E402  # behind the question whether there is a torch
from fl_integration.loop.federated import federate  # noqa: E402
from fl_integration.loop.in_process import InProcess  # noqa: E402
from fl_integration.loop.parties import FederatedClient  # noqa: E402
from fl_integration.loop.rehearsal import Rehearsal  # noqa: E402
from fl_integration.loop.report import FederatedRun, RoundReport, TrainingAborted  # noqa: E402
from fl_integration.loop.serving import FederatedServer  # noqa: E402
from fl_integration.loop.watch import Watch  # noqa: E402
from fl_integration.site.training import LocalTraining  # noqa: E402

NAMES = "abcdefg"
"""Of seven, two may be corrupt."""
SHAPE: dict[str, Any] = {"bits": 24, "clip": 4.0, "max_clients": 7, "max_weight": 8}
ASKED = Requirements(dropout_fraction=0.0)
MALICIOUS = Requirements(dropout_fraction=0.0, adversary=Adversary.MALICIOUS)
PAILLIER = partial(PaillierSum, key_bits=2048)
CONSORTIA: dict[str, MachineProtocol] = {
    "ckks": CkksSum(**SHAPE),
    "paillier": PAILLIER(**SHAPE),
    "lattice over paillier": LatticeSum(**SHAPE, keys=PAILLIER),
}
PROTOCOLS: dict[str, MachineProtocol] = {
    "masked": MaskedSum(**SHAPE, requirements=ASKED),
    "masked malicious": MaskedSum(**SHAPE, requirements=MALICIOUS),
    "lattice": LatticeSum(**SHAPE, requirements=ASKED),
    **CONSORTIA,
}


def train(protocol: MachineProtocol, *, rounds: int, names: str = NAMES, **options: Any) -> FederatedRun:
    """A line through points that the clients share; all models are equal at the end, or this raises."""
    x = torch.linspace(-1, 1, 4 * len(names)).unsqueeze(1)
    loaders = {name: [(x[i :: len(names)], 2 * x[i :: len(names)])] for i, name in enumerate(names)}
    return federate(
        protocol,
        torch.nn.Linear(1, 1),
        loaders,
        local=LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.1),
        rounds=rounds,
        rehearsal=Rehearsal(protocol_seed=1),
        **options,
    )


def tried(protocol: MachineProtocol, **options: Any) -> tuple[RoundReport, ...]:
    """The rounds of a training whose clients may all stand still."""
    try:
        return train(protocol, **options).history
    except TrainingAborted as error:
        return error.history


def with_tag(tag: bytes) -> Says:
    return Says(consortium.Contribution, lambda context, state, message: replace(message, tag=tag))


def liar(protocol: MachineProtocol, rounds: range, *lies: Lie, name: str = "b") -> WithLiars:
    return WithLiars(protocol, {name: dict.fromkeys(rounds, lies)})


# One lie


class Chained(FederatedServer):
    """Says with each round what its updates answer: the digest of all results so far, whatever they are."""

    def round(self, number: int, cohort: Any, exchange: Any) -> Any:
        outcome = super().round(number, cohort, exchange)
        if outcome.result is not None and self.base is not None:
            self.base = hashlib.sha256(self.base + outcome.result).digest()
        return outcome


class Stubborn(FederatedClient):
    """Answers only a server that names its own copy, and opens one result after the other, or none."""

    chain: bytes

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.chain = self.base

    def catch_up(self) -> None:
        for result in self._machine.results:
            self._machine.open(result)
            self.chain = hashlib.sha256(self.chain + result).digest()
        self.own_copy.initial = self.chain  # type: ignore[union-attr]  # its clients learn


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_on_the_copy_one_lie_is_the_end(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FederatedServer", Chained)
    monkeypatch.setattr(rounds, "FederatedClient", Stubborn)
    honest = tried(WithLiars(CONSORTIA[name], {}), rounds=3, names="abc")
    assert not any(report.aborted for report in honest)  # without a lie the copy works
    history = tried(liar(CONSORTIA[name], range(1, 2), with_tag(bytes(16))), rounds=5, names="abc")
    assert [bool(report.aborted) for report in history] == [False, False, True, True, True]


@pytest.mark.parametrize("name", CONSORTIA)
def test_on_ours_it_costs_its_round(name: str) -> None:
    run = train(liar(CONSORTIA[name], range(1, 2), with_tag(bytes(16))), rounds=4, names="abc")
    assert not any(report.aborted for report in run.history)  # the server sees nothing
    assert [report.total_weight is not None for report in run.history] == [True, False, True, True]
    assert not run.handed_over


@pytest.mark.parametrize("name", CONSORTIA)
def test_a_key_under_which_too_much_did_not_open_is_renewed_by_itself(name: str) -> None:
    exchanges: dict[int, set[str]] = {}

    def see(number: int, message: Any) -> None:
        exchanges.setdefault(number, set()).add(message.exchange)

    lies = liar(CONSORTIA[name], range(12), with_tag(bytes(16)))
    run = train(lies, rounds=14, names="abc", watch=Watch(on_message=see))
    # Four failures and one round more, in which the contributors ask for another key; then again.
    assert [number for number, seen in exchanges.items() if "DistributeKey" in seen] == [0, 5, 10]
    assert [report.number for report in run.history if report.total_weight is not None] == [12, 13]
    assert not any(report.aborted or report.dropped for report in run.history)


def test_a_sum_out_of_range_under_a_valid_tag_does_not_count_against_the_key() -> None:
    """It shows nothing of the key: it opened. And it moves nobody."""
    protocol = CkksSum(**SHAPE)
    surface = protocol.surface

    class Beyond:
        """A summand of which one value is far beyond the clip."""

        def __init__(self, summand: Any) -> None:
            self._summand, self.elements, self.clipped = summand, summand.elements, 0

        def integers(self) -> Any:
            values = self._summand.integers()
            values[0] = 5 * surface.codec.largest_step * SHAPE["max_weight"]
            return values

    class Lies(type(protocol.suite.client)):  # type: ignore[misc]
        def fold(self, context: Any, state: Any, summand: Any) -> Any:
            return super().fold(context, state, Beyond(summand) if context.round < 10 else summand)

    class Protocol(WithLiars):
        def client(self, *, identity: Any, **given: Any) -> Any:
            machine: Any = super().client(identity=identity, **given)
            if identity.client == "b":
                machine._suite = replace(machine._suite, client=Lies(protocol.suite.client._scheme))  # type: ignore[attr-defined]
            return machine

    setups: list[int] = []
    run = train(
        Protocol(protocol, {}),
        rounds=12,
        names="abc",
        watch=Watch(
            on_message=lambda number, message: message.exchange == "DistributeKey" and setups.append(number)
        ),
    )
    assert set(setups) == {0}
    assert [report.number for report in run.history if report.total_weight is not None] == [10, 11]


# What cannot be opened in the queue


class FirstThingsFirst(FederatedClient):
    """Opens one result after the other, and waits at one that does not open."""

    def catch_up(self) -> None:
        if self._machine.results and not self._opens(self._machine.results[0]):
            return
        super().catch_up()

    def _opens(self, result: bytes) -> bool:
        try:
            self._machine.open(result)
        except PeerViolation:
            return False
        return True


@pytest.mark.parametrize("name", CONSORTIA)
@pytest.mark.parametrize("blocked", [True, False], ids=["copy", "ours"])
def test_what_does_not_decode_blocks_nothing(
    name: str, blocked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D11. It may be of any round, and the good result of that round opens behind it.

    The copy keeps in its queue what it could not open, and comes no further than that.
    """
    protocol = CONSORTIA[name]

    class Spoils(InProcess):
        """A server that puts something else before each result that it delivers."""

        def _answer(self, client: str, request: bytes) -> bytes | None:
            envelope = Envelope.decode(request)
            asked = decode(Request, envelope.body)
            if client == "a" and asked.results and envelope.stage != RESULT:
                bad = [_with_vector(name, bytes(result)) for result in asked.results]
                results = tuple(
                    memoryview(each) for pair in zip(bad, asked.results, strict=True) for each in pair
                )
                request = replace(envelope, body=encode(Request(results, asked.body))).encode()
            return super()._answer(client, request)

    monkeypatch.setattr(rounds, "InProcess", Spoils)
    if blocked:
        monkeypatch.setattr(ClientMachine, "_done_with", lambda self, digest: None)
        monkeypatch.setattr(rounds, "FederatedClient", FirstThingsFirst)
    run = train(protocol, rounds=4, names="abc")
    if blocked:
        assert [bool(report.aborted) for report in run.history] == [False, True, True, True]  # of three
        assert run.handed_over == {"a"}
        return
    assert all(report.total_weight is not None and not report.dropped for report in run.history)
    assert not run.handed_over


def _with_vector(name: str, result: bytes) -> bytes:
    """The same result around no vector at all."""
    if name.startswith("lattice"):
        return encode(replace(decode(lattice.Result, result), vector=memoryview(b"")))
    return encode(replace(decode(consortium.Result, result), vector=memoryview(b"")))


# A server that tells two clients different things


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_different_results_part_the_clients_for_a_round_and_no_longer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are true: any part of the tags is a tag of that part's sum. Nobody can tell; updates say what they
    answer, so the two sums are never mixed, and who is left behind takes the model from the others."""
    protocol = CONSORTIA[name]
    said: dict[str, Any] = {}
    public = [b""]

    class Parts(InProcess):
        def _answer(self, client: str, request: bytes) -> bytes | None:
            envelope = Envelope.decode(request)
            asked = decode(Request, envelope.body)
            if self._number == 2 and client == "a" and asked.results:
                other = _part(
                    protocol, decode(consortium.Result, asked.results[0]), said, public[0], "abcdef"
                )
                request = replace(envelope, body=encode(Request((memoryview(other),), asked.body))).encode()
            reply = super()._answer(client, request)
            answer = Envelope.decode(reply or b"") if reply else None
            if answer is not None and answer.stage == 3:
                public[0] = decode(consortium.DistributeKey, answer.body).public
            if answer is not None and answer.stage == 5 and self._number == 1:
                said[client] = decode(consortium.Contribution, answer.body)
            return reply

    monkeypatch.setattr(rounds, "InProcess", Parts)
    run = train(protocol, rounds=5)
    dropped = [dict(report.dropped) for report in run.history]
    assert "another head than the sum" in dropped[2].pop("a")
    assert dropped[3].keys() == {"a"}  # it heard that the others are elsewhere, and sits out
    assert not dropped[4]
    assert run.handed_over == {"a"}
    assert all(report.total_weight is not None for report in run.history)


def _part(protocol: Any, honest: Any, said: Mapping[str, Any], public: bytes, names: str) -> bytes:
    """The result of some of the contributions, with its tag."""
    scheme = protocol.scheme(protocol.surface)
    total = scheme.total(public, count=protocol.surface.elements(honest.length))
    for name in names:
        total.add(bytes(said[name].vector))
    tag = sum(int.from_bytes(said[name].tag, "big") for name in names) % PRIME
    return encode(
        replace(
            honest,
            contributors={name: said[name].minimum for name in names},
            tag=tag.to_bytes(16, "big"),
            vector=memoryview(total.to_bytes()),
        )
    )


# Liars at large


def random_vector(context: Any, state: Any, message: Any) -> Any:
    return replace(message, vector=memoryview(context.entropy(len(message.vector))))


def drained(context: Any, state: Any, message: Any) -> Any:
    """A vector that is no vector: bytes of the entropy's choice where a stream was."""
    stream = message.vector
    return replace(message, vector=memoryview(context.entropy(stream.nbytes)))


def everybody(context: Any, state: Any, message: Any) -> Any:
    """Complaints about all neighbours."""
    near = state.view.epoch.among(state.view.neighbours, state.active.places)
    return replace(message, unopened=state.view.epoch.members.bitmap_of(near))


EDGES = signed_dealing(fields_of(edges=zeros))
MASKED_LIES: dict[str, Lie] = {
    "edge hashes": Says(masked.ShareKeys, EDGES),
    "one edge hash": Says(
        masked.ShareKeys, signed_dealing(fields_of(edges=lambda e: spoilt(e, 0, 16) if e else e))
    ),
    "sealed shares": Says(masked.ShareKeys, signed_dealing(fields_of(sealed=zeros))),
    "one sealed share": Says(masked.ShareKeys, signed_dealing(fields_of(sealed=flipped))),
    "share hashes": Says(masked.ShareKeys, signed_dealing(fields_of(hashes=zeros))),
    "left pairs": Says(masked.ShareKeys, signed_dealing(fields_of(pairs=flipped))),
    "encapsulations": Says(masked.ShareKeys, signed_dealing(fields_of(encapsulations=zeros))),
    "a foreign mask key": Says(masked.AdvertiseKeys, signed_keys(mask_key=FOREIGN.public_key)),
    "a foreign channel key": Says(masked.AdvertiseKeys, signed_keys(channel_key=FOREIGN.public_key)),
    "masks": Says(masked.MaskedInput, drained),
    "complaints": Says(masked.MaskedInput, everybody),
    "another transcript": Says(masked.MaskedInput, lambda c, s, m: replace(m, transcript=bytes(32))),
    "revealed shares": Says(masked.Unmask, lambda c, s, m: replace(m, shares=flipped(m.shares))),
    "next edges": Says(masked.Unmask, in_unmask(EDGES)),
    "next shares": Says(masked.Unmask, in_unmask(signed_dealing(fields_of(sealed=zeros)))),
    "next hashes": Says(masked.Unmask, in_unmask(signed_dealing(fields_of(hashes=zeros)))),
    "survivors unsigned": Says(masked.ConsistencyCheck, lambda c, s, m: replace(m, signature=bytes(64))),
    **{f"refuses {kind.__name__}": Refuses(kind) for kind in (masked.CohortKeys, masked.CollectInput)},
    "accuses": Refuses(masked.CollectInput, "d", lambda state: bytes(32)),
    "refuses Quorum": Refuses(masked.Quorum, "d"),
}
CONSORTIUM_LIES: dict[str, Lie] = {
    "tag": with_tag(bytes(16)),
    "vector": Says(consortium.Contribution, random_vector),
    "head": Says(consortium.Contribution, lambda c, s, m: replace(m, head=c.entropy(32))),
    "minimum": Says(consortium.Contribution, lambda c, s, m: replace(m, minimum=len(NAMES))),
    "renew": Says(consortium.Contribution, lambda c, s, m: replace(m, renew=True)),
    "no key": Says(
        consortium.DistributeKey,
        lambda c, s, m: replace(m, sealed={name: zeros(each) for name, each in m.sealed.items()}),
    ),
    "a key for some": Says(
        consortium.DistributeKey,
        lambda c, s, m: replace(
            m, sealed={name: each if name < "d" else zeros(each) for name, each in m.sealed.items()}
        ),
    ),
    "nobody's key": Says(consortium.DistributeKey, lambda c, s, m: replace(m, sealed={})),
    "refuses Collect": Refuses(consortium.Collect, "c"),
    "refuses Distribute": Refuses(consortium.Distribute, "c"),
}
LATTICE_LIES: dict[str, Lie] = {"long vector": Says(lattice.Contribution, drained)}
LIES = {
    "masked": MASKED_LIES,
    "masked malicious": MASKED_LIES,
    "lattice": MASKED_LIES | LATTICE_LIES,
    "ckks": CONSORTIUM_LIES,
    "paillier": CONSORTIUM_LIES,
    "lattice over paillier": CONSORTIUM_LIES | LATTICE_LIES,
}


def assert_recovers(name: str, told: Mapping[str, Mapping[int, tuple[str, ...]]], *, last: int) -> None:
    """All lies are in rounds up to `last`; the next round ends, and with it all models are equal.

    A dealing for the next round is a lie in that one, whenever it was dealt.
    """
    dealt_ahead = any(lie.startswith("next") for by_round in told.values() for lie in by_round.get(last, ()))
    last += dealt_ahead
    lies = {
        client: {number: tuple(LIES[name][lie] for lie in kinds) for number, kinds in by_round.items()}
        for client, by_round in told.items()
    }
    run = train(WithLiars(PROTOCOLS[name], lies), rounds=last + 2)
    final = run.history[last + 1]
    assert not final.aborted
    assert final.total_weight is not None
    for report in run.history:
        assert report.culprits <= told.keys()


OF_BOTH = {"long vector", "no key", "tag"}
"""Of lattice over paillier: what its two layers have to tell each other. The rest each has of its own."""

QUICK = {"masked", "masked malicious", "ckks"}
"""The others are made of the same rooms."""


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        pytest.param(name, lie, marks=() if name in QUICK else pytest.mark.slow)
        for name in LIES
        for lie in LIES[name]
        if name != "lattice over paillier" or lie in OF_BOTH
    ],
)
def test_each_lie_of_two_liars_costs_its_rounds_at_most(name: str, lie: str) -> None:
    """In the round that sets up and in the one behind it, whatever that one is."""
    told = {client: {0: (lie,), 1: (lie,)} for client in "be"}
    assert_recovers(name, told, last=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in PROTOCOLS if name != "lattice over paillier"]
)  # rooms of both
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_liars_did_the_next_round_ends(name: str, data: Any) -> None:
    liars = data.draw(st.sets(st.sampled_from(NAMES), min_size=1, max_size=2))
    kinds = st.lists(st.sampled_from(sorted(LIES[name])), max_size=2, unique=True).map(tuple)
    rounds = st.dictionaries(st.integers(0, 3), kinds, max_size=4)
    told = {client: data.draw(rounds) for client in sorted(liars)}
    assert_recovers(name, told, last=3)
