"""State leaves the process between any two events and comes back; it stays secret and whole."""

from collections.abc import Callable

import numpy as np
import pytest

from protocols import (
    IntegerSum,
    Learner,
    MaskedSum,
    ParameterError,
    Requirements,
    RoundAborted,
    Rounding,
    SumProtocol,
)
from secagg.errors import VerificationError
from secagg.secret import Secret
from tests.protocols.conftest import (
    FAMILIES,
    STATE_KEY,
    TWO,
    Family,
    World,
    assert_right,
    updates_of,
)

pytestmark = pytest.mark.usefixtures("one_paillier_key")

WRONG_KEY = Secret(bytes(31) + b"\x01")


class Counter:
    """Calls `action` at the events that are chosen, and counts all of them."""

    def __init__(self, action: Callable[[], None], chosen: Callable[[int], bool]) -> None:
        self.count, self._action, self._chosen = 0, action, chosen

    def __call__(self) -> None:
        if self._chosen(self.count):
            self._action()
        self.count += 1


def world_of(family: Family) -> World:
    """MaskedSum needs six clients to go on in its steady state without one of them."""
    return World(
        family(
            max_weight=3,
            metrics={"loss": (0.0, 1.0)},
            requirements=TWO,
            max_clients=6 if family.masked else 4,
        ),
        "abcdef" if family.masked else "abcd",
    )


def two_rounds(world: World, event: Callable[[], None]) -> None:
    """A set-up round with a client that is lost on the way, and a steady one with another cohort."""
    protocol, names = world.protocol, world.names
    masked = "Unmask" in protocol.exchanges(first=True)
    exchanges = [len(protocol.exchanges(first=first)) for first in (True, False)]
    updates = updates_of(names, 6)
    metrics = {name: {"loss": place / 5} for place, name in enumerate(names)}
    gone = {names[-1]: exchanges[0] - 1}
    first = world.play(updates, weights={"a": 3}, metrics=metrics, model=b"m", gone=gone, event=event)
    contributors = frozenset(names if masked else names[:-1])
    assert first.contributors == contributors
    assert world.exchanges == exchanges[0]
    world.restart()
    assert_right(world.learn(world.server.outcome()), protocol, updates, contributors, {"a": 3})
    # MaskedSum goes on without the lost client in fewer exchanges; the others let it come back.
    cohort = names[:-1] if masked else names[1:]
    updates = updates_of(cohort, 4)
    second = world.play(updates, metrics={name: metrics[name] for name in cohort}, event=event)
    # Where the clients hold a key, whether the one that fell silent still has it is asked first.
    assert world.exchanges == exchanges[1] + asking_again(protocol)
    learnt = world.learn(second)
    assert_right(learnt, protocol, updates, cohort)
    mean = sum(metrics[name]["loss"] for name in cohort) / len(cohort)
    assert learnt.metrics["loss"] == pytest.approx(mean, abs=1e-3)


def asking_again(protocol: SumProtocol) -> int:
    """The exchanges that it takes to see that a client which was silent lost nothing."""
    return 1 if protocol.learns is Learner.CLIENTS else 0


def test_every_party_restarts_after_every_event(family: Family) -> None:
    world = world_of(family)
    two_rounds(world, world.restart)


@pytest.mark.parametrize("side", ["server", "clients"])
def test_one_side_restarts_after_every_event(family: Family, side: str) -> None:
    world = world_of(family)

    def restart() -> None:
        server, clients = world.save()
        if side == "server":
            world.server = world.protocol.restore_server(server, key=STATE_KEY)
        else:
            for name, blob in clients.items():
                world.clients[name] = world.protocol.restore_client(blob, key=STATE_KEY)

    two_rounds(world, restart)


@pytest.mark.slow
def test_every_party_restarts_after_one_event(family: Family) -> None:
    world = world_of(family)
    counter = Counter(lambda: None, lambda _: False)
    two_rounds(world, counter)
    assert counter.count > 10
    # The variants of one protocol share the events among them; where a round takes long, a part is enough.
    variants = [name for name in FAMILIES if name.split()[0] == family.kind]
    stride = 3 * len(variants) if family.heavy else len(variants)
    for place in range(variants.index(family.name), counter.count, stride):
        world = world_of(family)
        two_rounds(world, Counter(world.restart, place.__eq__))


def test_a_restored_round_ends_as_the_original_would(family: Family) -> None:
    # Rounding to nearest: the very same sums, total weights, drops and reasons.
    results = []
    for restarting in (False, True):
        world = World(family(rounding=Rounding.NEAREST, requirements=TWO), "abcd")
        outcome = world.play(updates_of("abcd"), gone={"c": 0}, event=world.restart if restarting else None)
        learnt = world.learn(outcome)
        results.append((learnt.mean.tolist(), learnt.total_weight, outcome.contributors, outcome.dropped))
    assert results[0] == results[1]


def test_an_aborted_round_stays_aborted_when_restored(family: Family) -> None:
    world = World(family())
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of("abc"), gone={"a": 0})
    signed = world.server.record()
    world.restart()
    for call in (world.server.advance, world.server.outcome):
        with pytest.raises(RoundAborted) as again:
            call()
        assert again.value.reason == aborted.value.reason
    assert world.server.record() == signed
    assert_right(world.learn(world.play(updates_of("abc"))), world.protocol, updates_of("abc"), "abc")


def test_an_outcome_survives_a_restart(family: Family) -> None:
    world = World(family())
    outcome = world.play(updates_of("abc"))
    world.restart()
    again = world.server.outcome()
    assert again.record == outcome.record
    assert again.result == outcome.result
    assert (again.round, again.contributors, again.dropped) == (0, outcome.contributors, outcome.dropped)
    if outcome.total is not None:
        assert again.total is not None
        assert np.array_equal(again.total.mean, outcome.total.mean)


def test_the_integer_surface_survives_a_restart(family: Family) -> None:
    world = World(family(max_clients=3).exact(max_summand=2**40))
    updates = {name: np.array([0, 2**40, 7], dtype=np.uint64) for name in "abc"}
    learnt = world.learn(world.play(updates, event=world.restart))
    assert learnt.total.tolist() == [0, 3 * 2**40, 21]  # type: ignore[attr-defined]
    if not family.opened_by_clients:
        world.restart()
        assert world.server.outcome().total.total.tolist() == [0, 3 * 2**40, 21]  # type: ignore[union-attr]


@pytest.mark.parametrize("surface", [{"max_abs": 2**40}, {"bits": 17}], ids=["signed", "modular"])
def test_surfaces_of_either_sign_survive_a_restart(family: Family, surface: dict[str, int]) -> None:
    base = family(max_clients=3)
    if "bits" in surface and not base.sums_residues:
        return
    world = World(base.modular(**surface) if "bits" in surface else base.exact(**surface))
    updates = {name: np.array([-1, -(2**40), 7]) for name in "abc"}
    expected = [-3, 0 if "bits" in surface else -3 * 2**40, 21]
    assert world.learn(world.play(updates, event=world.restart)).total.tolist() == expected  # type: ignore[attr-defined]
    if not family.opened_by_clients:
        world.restart()
        total = world.server.outcome().total
        assert isinstance(total, IntegerSum)
        assert (total.total.dtype, total.total.tolist()) == (np.int64, expected)


# Errors


def saved_blobs(family: Family) -> tuple[World, dict[str, bytes]]:
    world = World(family())
    world.play(updates_of("abc"))
    server, clients = world.save()
    return world, {"server": server, "client": clients["a"]}


def restorer(world: World, role: str) -> Callable[..., object]:
    return world.protocol.restore_server if role == "server" else world.protocol.restore_client


@pytest.mark.parametrize("role", ["server", "client"])
def test_a_wrong_key_does_not_open_a_state(family: Family, role: str) -> None:
    world, blobs = saved_blobs(family)
    with pytest.raises(VerificationError):
        restorer(world, role)(blobs[role], key=WRONG_KEY)
    restorer(world, role)(blobs[role], key=STATE_KEY)


@pytest.mark.parametrize("key", [Secret(bytes(16)), Secret(b""), bytes(32), None])
def test_a_state_key_is_a_secret_of_32_bytes(family: Family, key: object) -> None:
    world, blobs = saved_blobs(family)
    for role, blob in blobs.items():
        with pytest.raises(ParameterError, match="32"):
            restorer(world, role)(blob, key=key)
    for machine in (world.server, world.clients["a"]):
        with pytest.raises(ParameterError, match="32"):
            machine.export(key=key)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["server", "client"])
def test_changed_and_cut_states_are_refused(family: Family, role: str) -> None:
    world, blobs = saved_blobs(family)
    blob = blobs[role]
    places = sorted({*range(120), *range(0, len(blob), max(1, len(blob) // 150)), len(blob) - 1})
    for place in places:
        changed = bytearray(blob)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises((ParameterError, VerificationError)):
            restorer(world, role)(changed, key=STATE_KEY)
        with pytest.raises((ParameterError, VerificationError)):
            restorer(world, role)(blob[:place], key=STATE_KEY)
    with pytest.raises(VerificationError):
        restorer(world, role)(blob + b"\x00", key=STATE_KEY)
    changed = bytearray(blob)
    changed[-1] ^= 1
    with pytest.raises(VerificationError):
        restorer(world, role)(changed, key=STATE_KEY)


@pytest.mark.parametrize(
    "other",
    [
        {"clip": 2.0},
        {"bits": 15},
        {"max_clients": 5},
        {"max_weight": 2},
        {"max_total_weight": 5},
        {"metrics": {"loss": (0.0, 1.0)}},
        {"rounding": Rounding.NEAREST},
        {"requirements": TWO},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_parameters_do_not_restore_a_state(family: Family, other: dict[str, object]) -> None:
    _, blobs = saved_blobs(family)
    stranger = family(**other)
    with pytest.raises(ParameterError, match="parameters"):
        stranger.restore_server(blobs["server"], key=STATE_KEY)
    with pytest.raises(ParameterError, match="parameters"):
        stranger.restore_client(blobs["client"], key=STATE_KEY)
    # Equal parameters are enough: it need not be the same object.
    family().restore_server(blobs["server"], key=STATE_KEY)
    family().restore_client(blobs["client"], key=STATE_KEY)


def test_other_protocols_and_roles_do_not_restore_a_state(family: Family) -> None:
    world, blobs = saved_blobs(family)
    other = MaskedSum(max_clients=6) if not family.masked else world.protocol.exact(max_summand=1)
    for protocol, server, client in (
        (other, blobs["server"], blobs["client"]),
        (world.protocol, blobs["client"], blobs["server"]),
        (world.protocol.exact(max_summand=1), blobs["server"], blobs["client"]),
        (world.protocol, b"", b""),
        (world.protocol, b"not a state", b"not a state"),
        (world.protocol, "text", None),
    ):
        with pytest.raises(ParameterError):
            protocol.restore_server(server, key=STATE_KEY)  # type: ignore[arg-type]
        with pytest.raises(ParameterError):
            protocol.restore_client(client, key=STATE_KEY)  # type: ignore[arg-type]


def test_equal_protocols_restore_each_other(family: Family) -> None:
    # Equal parameters, written differently: 1 and 1.0, a numpy float, metrics in another order.
    ways = [
        {
            "clip": 1,
            "metrics": {"a": (0, 1), "b": (2, 3)},
            "requirements": Requirements(corrupt_fraction=0, dropout_fraction=0),
        },
        {
            "clip": np.float64(1.0),
            "metrics": {"b": (2.0, 3.0), "a": (0.0, 1.0)},
            "requirements": Requirements(corrupt_fraction=0.0, dropout_fraction=np.float64(0.0)),
        },
    ]
    first, second = (family(**way) for way in ways)
    world = World(first)
    metrics = {name: {"a": 0.5, "b": 2.5} for name in "abc"}
    world.play(updates_of("abc"), metrics=metrics)
    assert first == second
    second.restore_server(world.save()[0], key=STATE_KEY)
    second.restore_client(world.save()[1]["a"], key=STATE_KEY)


# Secrecy


def test_a_state_shows_no_secret_and_never_repeats(family: Family) -> None:
    world = World(family(), "abc")
    secrets = [identity.key.secret.reveal() for identity in world.identities.values()]
    secrets += [world.server_identity.key.secret.reveal(), STATE_KEY.reveal()]
    # The known private bytes: the first secrets that each client draws are read off a twin of its entropy.
    for name in "abc":
        twin = world.entropy(f"client/{name}")
        secrets += [twin(32) for _ in range(8)]
    updates, model = updates_of("abc", 64), b"a model that nobody else needs to see"
    secrets += [model, *(update.tobytes()[:32] for update in updates.values()), world.session]
    blobs: list[bytes] = []

    def keep() -> None:
        server, clients = world.save()
        blobs.extend((server, *clients.values()))

    outcome = world.play(updates, model=model, event=keep)
    keep()
    if outcome.total is not None:
        secrets.append(outcome.total.mean.tobytes()[:64])
    assert len(blobs) == len(set(blobs))
    for blob in blobs:
        for secret in secrets:
            assert secret not in blob
    # The search finds what it looks for where it is in clear.
    assert any(model in sent.body for sent in world.log)


def test_the_same_state_is_sealed_under_a_fresh_nonce(family: Family) -> None:
    world = World(family())
    for machine in (world.server, world.clients["a"]):
        blobs = {machine.export(key=STATE_KEY) for _ in range(3)}
        assert len(blobs) == 3
        assert len({len(blob) for blob in blobs}) == 1
