"""The stage on which every protocol is tried: its parties, a transport that tests can spoil, and the truth.

Nothing here looks into a machine. `World` makes the parties and plays rounds message by message; the truth is
computed from the updates themselves, in extended precision, and never from anything that the library says.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from protocols import (
    Adversary,
    CkksSum,
    Client,
    Identity,
    LatticeSum,
    Learner,
    MaskedSum,
    NeedUpdate,
    Outcome,
    PaillierSum,
    PeerViolation,
    PlainSum,
    Policy,
    ReleaseLog,
    Requirements,
    Roster,
    Round,
    Server,
    Sum,
    SumProtocol,
)
from protocols.machine.client import ClientMachine
from protocols.machine.suite import ClientSteps, Suite
from protocols.messages.envelope import REFUSAL, Envelope
from secagg.entropy import Entropy, SeededEntropy
from secagg.paillier import scheme as paillier
from secagg.secret import Secret


def masked_against(adversary: Adversary) -> Callable[..., MaskedSum]:
    """MaskedSum that is planned against this adversary, whatever else is asked of it."""

    def build(*, requirements: Any = None, **parameters: Any) -> MaskedSum:
        asked = requirements if requirements is not None else Requirements()
        if isinstance(asked, Requirements):
            asked = replace(asked, adversary=adversary)
        return MaskedSum(requirements=asked, **parameters)

    return build


FAMILIES: dict[str, Callable[..., Any]] = {
    "plain": PlainSum,
    "masked": MaskedSum,
    "masked semi-honest": masked_against(Adversary.SEMI_HONEST),
    "masked malicious": masked_against(Adversary.MALICIOUS),
    "ckks": CkksSum,
    "paillier": partial(PaillierSum, key_bits=2048),
    "lattice": LatticeSum,
    "lattice over paillier": partial(LatticeSum, keys=partial(PaillierSum, key_bits=2048)),
}
MASKED = tuple(name for name in FAMILIES if name.startswith("masked"))
TWO = Requirements(min_contributors=2, corrupt_fraction=0.0)
"""A sum of two may be opened and nobody is corrupt, so that as many as possible may be lost.

That is all but two, but MaskedSum needs a majority of the cohort where the server may lie: 3 of 3 or 4.
"""
ONE_OF_SIX = Requirements(corrupt_fraction=0.16)
"""One client of six may be corrupt, so that any three of them are a cohort."""
STATE_KEY = Secret(bytes(range(32)))

Vector = NDArray[Any]
Hook = Callable[[int, str, bytes], bytes | None]
"""(exchange on the wire, client, message) to what arrives instead; None for nothing."""


@dataclass(frozen=True)
class Family:
    """One protocol class and its name; `family(...)` makes a protocol."""

    name: str
    build: Callable[..., Any]

    def __call__(self, **parameters: Any) -> Any:
        return self.build(**{"max_clients": 6, **parameters})

    @property
    def kind(self) -> str:
        """The protocol's name without its variant."""
        return self.name.split()[0]

    @property
    def layer(self) -> str:
        """The protocol whose exchanges and openers these are: for LatticeSum that of its key layer."""
        return {"lattice": "masked", "lattice over paillier": "paillier"}.get(self.name, self.kind)

    @property
    def masked(self) -> bool:
        return self.layer == "masked"

    @property
    def opened_by_clients(self) -> bool:
        return self.layer in ("ckks", "paillier")

    @property
    def heavy(self) -> bool:
        """Whether one round takes as long as many of the others; where machines are shared, few will do."""
        return self.name == "lattice over paillier"

    @property
    def collecting(self) -> int:
        """The number on the wire of the exchange that asks for updates."""
        number: int = self().suite.collecting
        return number


SLOW = {
    "lattice over paillier": "its layers are tried by themselves, and it has tests of its own",
    "masked semi-honest": "the same machine with a lower threshold",
}
"""Families whose turn in every conformance test comes with the slow tests, and why that will do."""


def param(name: str) -> Any:
    """A family as a parameter of a test or a fixture."""
    return pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.fixture(params=[param(name) for name in FAMILIES])
def family(request: pytest.FixtureRequest) -> Family:
    """Each protocol in turn."""
    return Family(request.param, FAMILIES[request.param])


@pytest.fixture(params=[param(name) for name in MASKED])
def masked(request: pytest.FixtureRequest) -> Family:
    """MaskedSum against each adversary in turn."""
    return Family(request.param, FAMILIES[request.param])


@pytest.fixture(params=[param(name) for name in ("ckks", "paillier", "lattice over paillier")])
def consortium(request: pytest.FixtureRequest) -> Family:
    """Each protocol whose clients learn the sum, in turn."""
    return Family(request.param, FAMILIES[request.param])


@pytest.fixture(params=["plain", "masked", "lattice"])
def to_server(request: pytest.FixtureRequest) -> Family:
    """Each protocol whose server learns the sum, in turn."""
    return Family(request.param, FAMILIES[request.param])


@dataclass(frozen=True)
class Sent:
    """One message on the wire: to a client where `down`, from it otherwise."""

    down: bool
    exchange: int
    client: str
    body: bytes


@dataclass
class World:
    """All parties of one session.

    Args:
        protocol: whose machines they are.
        names: the clients, in the roster's order.
        policies: what a client insists on, by name.
        steps: for a client that does not follow the protocol, the steps that it runs instead.
        seed: separates the randomness of worlds; parties that are restored draw from the system.
    """

    protocol: SumProtocol
    names: Sequence[str] = ("a", "b", "c")
    policies: Mapping[str, Policy] = field(default_factory=dict)
    steps: Mapping[str, ClientSteps] = field(default_factory=dict)
    seed: bytes = b"world"

    def __post_init__(self) -> None:
        self.names = tuple(self.names)
        self.identities = {
            name: Identity.generate(name, entropy=self.entropy(f"identity/{name}")) for name in self.names
        }
        self.server_identity = Identity.generate("archive", entropy=self.entropy("archive"))
        self.roster = Roster.of(*self.identities.values())
        self.session = self.entropy("session")(16)
        self.server: Server = self.protocol.server(
            roster=self.roster,
            session=self.session,
            identity=self.server_identity,
            entropy=self.entropy("server"),
        )
        self.clients: dict[str, Client] = {name: self.make_client(name) for name in self.names}
        self.log: list[Sent] = []
        self.exchanges = 0
        self.began = -1
        self.number = -1

    def entropy(self, purpose: str) -> SeededEntropy:
        return SeededEntropy(self.seed, purpose.encode())

    def make_client(self, name: str) -> Client:
        suite: Suite = self.protocol.suite  # type: ignore[attr-defined]
        return ClientMachine(
            replace(suite, client=self.steps.get(name, suite.client)),
            identity=self.identities[name],
            roster=self.roster,
            session=self.session,
            policy=self.policies.get(name),
            entropy=self.entropy(f"client/{name}"),
        )

    # Saved states

    def save(self) -> tuple[bytes, dict[str, bytes]]:
        """Every party as bytes."""
        return self.server.export(key=STATE_KEY), {
            name: client.export(key=STATE_KEY) for name, client in self.clients.items()
        }

    def restore(
        self, saved: tuple[bytes, Mapping[str, bytes]], *, logs: Mapping[str, ReleaseLog] | None = None
    ) -> None:
        """Every party from bytes."""
        self.server = self.protocol.restore_server(saved[0], key=STATE_KEY)
        for name, blob in saved[1].items():
            self.clients[name] = self.protocol.restore_client(
                blob, key=STATE_KEY, release_log=(logs or {}).get(name)
            )

    def restart(self) -> None:
        """Every party in a fresh process."""
        self.restore(self.save())

    # Rounds

    def play(
        self,
        updates: Mapping[str, Vector],
        *,
        weights: Mapping[str, int] | None = None,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
        model: bytes = b"",
        gone: Mapping[str, int] | None = None,
        request: Hook | None = None,
        reply: Hook | None = None,
        event: Callable[[], None] | None = None,
        cohort: Iterable[str] | None = None,
        order: str = "",
    ) -> Outcome:
        """One round.

        Args:
            updates: the cohort and what each member contributes.
            gone: for a client, the exchange on the wire from which on it neither hears nor answers.
            request, reply: see and replace messages.
            event: called after each thing that happened to any party.
            order: in which the clients are reached; that of the outbox if left out.
        """
        self.number += 1
        self.exchanges = 0
        self.log = []
        length = len(next(iter(updates.values())))
        members = tuple(updates if cohort is None else cohort)
        outbox = self.server.start(Round(self.number, members, length, model))
        self.began = min(map(exchange_of, outbox.values()))
        return self.resume(
            outbox,
            updates,
            weights=weights,
            metrics=metrics,
            gone=gone,
            request=request,
            reply=reply,
            event=event,
            order=order,
        )

    def resume(
        self,
        outbox: Mapping[str, bytes],
        updates: Mapping[str, Vector],
        *,
        weights: Mapping[str, int] | None = None,
        metrics: Mapping[str, Mapping[str, float]] | None = None,
        gone: Mapping[str, int] | None = None,
        request: Hook | None = None,
        reply: Hook | None = None,
        event: Callable[[], None] | None = None,
        order: str = "",
    ) -> Outcome:
        """A round from an open exchange on."""
        happened = event or (lambda: None)
        happened()
        while outbox:
            self.exchanges += 1
            for name, message in sorted(outbox.items(), key=lambda each: order.find(each[0])):
                exchange = exchange_of(message)
                if (gone or {}).get(name, 1000) <= exchange:
                    continue
                self.log.append(Sent(True, exchange, name, message))
                arrived = message if request is None else request(exchange, name, message)
                if arrived is None:
                    continue
                answer = self.clients[name].receive(arrived)
                happened()
                if isinstance(answer, NeedUpdate):
                    if answer.length > 10**6:
                        continue  # nobody trains that
                    given = updates[name]
                    answer = self.clients[name].contribute(
                        given if len(given) == answer.length else np.zeros(answer.length, given.dtype),
                        weight=(weights or {}).get(name, 1),
                        metrics=(metrics or {}).get(name),
                    )
                    happened()
                self.log.append(Sent(False, exchange, name, answer))
                back = answer if reply is None else reply(exchange, name, answer)
                if back is None:
                    continue
                with suppress(PeerViolation):
                    self.server.receive(name, back)
                happened()
            outbox = self.server.advance()
            happened()
        return self.server.outcome()

    def learn(self, outcome: Outcome) -> Sum:
        """The sum, from whoever learns it; where clients do, all contributors that can open it must agree."""
        if self.protocol.learns is Learner.SERVER:
            assert outcome.total is not None
            assert outcome.result is None
            return outcome.total
        assert outcome.total is None
        assert outcome.result is not None
        sums = [self.clients[name].open(outcome.result) for name in sorted(outcome.contributors)]
        assert all(np.array_equal(each.mean, sums[0].mean) for each in sums)
        assert all(each.contributors == outcome.contributors for each in sums)
        assert {each.total_weight for each in sums} == {sums[0].total_weight}
        return sums[0]


def exchange_of(message: bytes) -> int:
    """The exchange on the wire that a message of a server or a client belongs to."""
    return Envelope.decode(message).stage // 2


def is_refusal(reply: object) -> bool:
    """Whether a client's answer is a refusal and nothing else."""
    return isinstance(reply, bytes) and Envelope.decode(reply).stage == REFUSAL


def is_long(world: World) -> bool:
    """Whether the last round of MaskedSum took the long path: it began with fresh keys."""
    assert world.began in (0, 2)
    return world.began == 0


def updates_of(
    names: Iterable[str], length: int = 5, *, seed: int = 1, clip: float = 1.0
) -> dict[str, Vector]:
    """One vector a client, uniform within the clip, float32 and float64 in turn."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.uniform(-clip, clip, length).astype(np.float32 if place % 2 else np.float64)
        for place, name in enumerate(names)
    }


def truth(
    updates: Mapping[str, Vector],
    contributors: Iterable[str],
    weights: Mapping[str, int] | None = None,
    clip: float | Vector = 1.0,
) -> tuple[Vector, int]:
    """(weighted mean of the clipped updates, total weight), in extended precision."""
    names = sorted(contributors)
    heavy = {name: int((weights or {}).get(name, 1)) for name in names}
    total = sum(heavy.values())
    mean: Any = (
        sum(np.clip(updates[name].astype(np.longdouble), -clip, clip) * heavy[name] for name in names) / total
    )
    return mean, total


def assert_right(
    learnt: Sum,
    protocol: SumProtocol,
    updates: Mapping[str, Vector],
    contributors: Iterable[str],
    weights: Mapping[str, int] | None = None,
    clip: float | Vector = 1.0,
) -> None:
    """The sum is of exactly these contributors, and within the error that the protocol promises."""
    expected = frozenset(contributors)
    mean, total = truth(updates, expected, weights, clip)
    assert learnt.contributors == expected
    assert learnt.total_weight == total
    assert learnt.mean.dtype == np.float64
    assert learnt.mean.shape == mean.shape
    assert np.abs(learnt.mean - mean).max() <= protocol.error_bound(len(expected), total_weight=total)


def values_of(kind: Any, names: Sequence[str] = ("a", "b", "c")) -> st.SearchStrategy[Any]:
    """Values of an annotation of `protocols.messages.schema`, well typed and otherwise arbitrary."""
    bound = None
    if get_origin(kind) is Annotated:
        kind, bound = get_args(kind)[0], get_args(kind)[1]
    inside = [values_of(each, names) for each in get_args(kind) if each is not Ellipsis]
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind, include_extras=True)
        return st.builds(kind, **{each.name: values_of(hints[each.name], names) for each in fields(kind)})
    if kind in (bytes, memoryview):
        size = getattr(bound, "size", None)
        most = min(getattr(bound, "maximum", 40), 40)
        data = st.binary(min_size=size or 0, max_size=most if size is None else size)
        return data if kind is bytes else data.map(memoryview)
    if kind is Secret:
        return st.binary(max_size=40).map(Secret)
    if kind is str:
        return st.sampled_from([*names, "stranger"]) | st.text(
            st.characters(exclude_categories=["Cs"]), max_size=16
        )
    if kind in (bool, int):
        small = st.integers(0, 2 ** (8 * getattr(bound, "size", 8)) - 1) | st.integers(0, 6)
        return st.booleans() if kind is bool else small
    if kind is type(None):
        return st.none()
    if get_origin(kind) is np.ndarray:
        dtype = get_args(get_args(kind)[1])[0]
        dtype = np.float64 if dtype is Any else dtype
        return arrays(dtype, st.integers(0, 5))
    if get_origin(kind) is tuple:
        most = min(getattr(bound, "maximum", 4), 4)
        return (
            st.lists(inside[0], max_size=most).map(tuple)
            if Ellipsis in get_args(kind)
            else st.tuples(*inside)
        )
    if get_origin(kind) is frozenset:
        return st.frozensets(inside[0], max_size=4)
    if get_origin(kind) is dict:
        return st.dictionaries(*inside, max_size=4)
    return st.one_of(*inside)  # a union


@pytest.fixture
def one_paillier_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many Paillier sessions share one key of full length; making and checking it are tested elsewhere."""
    decode = paillier.PrivateKey.decode

    def decode_once(secret: Secret) -> paillier.PrivateKey:
        known = [key for key in _KEYS.values() if key.encode() == secret]
        return known[0] if known else decode(secret)

    def generate_once(*, key_bits: int, entropy: Entropy) -> paillier.PrivateKey:
        if key_bits not in _KEYS:
            _KEYS[key_bits] = generate(key_bits=key_bits, entropy=SeededEntropy(b"a Paillier key for tests"))
        return _KEYS[key_bits]

    generate = paillier.generate_key
    monkeypatch.setattr(paillier, "generate_key", generate_once)
    monkeypatch.setattr(paillier.PrivateKey, "decode", staticmethod(decode_once))


_KEYS: dict[int, paillier.PrivateKey] = {}
