"""Two sites on different releases: refused at the first message, with both wire versions in the reason."""

from collections.abc import Callable

import numpy as np
import pytest

import secagg
from protocols import ParameterError, PeerViolation, Round, RoundAborted
from protocols.messages.envelope import VERSION
from tests.protocols.conftest import STATE_KEY, Family, World, is_refusal, updates_of

Change = Callable[[bytes], bytes]


def of_version(message: bytes, version: int) -> bytes:
    """The message as another release would begin it: magic, then the version."""
    assert message[4] == VERSION
    return message[:4] + bytes([version]) + message[5:]


@pytest.mark.parametrize("theirs", [0, VERSION + 1, 255])
def test_a_client_refuses_another_versions_server_at_the_first_message(family: Family, theirs: int) -> None:
    world = World(family())
    for name, message in world.server.start(Round(0, ("a", "b", "c"), 5)).items():
        reply = world.clients[name].receive(of_version(message, theirs))
        assert is_refusal(reply)
        assert f"wire version {theirs}; secagg {secagg.__version__} reads version {VERSION}" in str(
            world.clients[name].refusal
        )


def test_a_server_names_a_client_of_another_version_and_both_versions(family: Family) -> None:
    world, names = World(family(max_clients=9), tuple("abcde")), tuple("abcde")

    def newer(exchange: int, name: str, message: bytes) -> bytes:
        return of_version(message, VERSION + 1) if name == "e" else message

    try:
        outcome = world.play(updates_of(names), reply=newer)
        dropped = outcome.dropped
    except RoundAborted:  # where the plan needs all five
        dropped = world.server.record().record.dropped
    assert f"wire version {VERSION + 1}; secagg {secagg.__version__} reads version {VERSION}" in dropped["e"]


def test_the_refusal_of_another_version_is_understood_as_one_of_it(family: Family) -> None:
    world = World(family())
    outbox = world.server.start(Round(0, ("a", "b", "c"), 5))
    name, message = next(iter(outbox.items()))
    refusal = world.clients[name].receive(of_version(message, VERSION + 1))
    assert isinstance(refusal, bytes)
    with pytest.raises(PeerViolation, match=f"wire version {VERSION + 1}.*reads version {VERSION}"):
        world.server.receive(name, of_version(refusal, VERSION + 1))


def test_a_state_of_another_version_names_both(family: Family) -> None:
    world = World(family())
    for restore, saved in (
        (world.protocol.restore_client, world.clients["a"].export(key=STATE_KEY)),
        (world.protocol.restore_server, world.server.export(key=STATE_KEY)),
    ):
        with pytest.raises(
            ParameterError, match=f"wire version {VERSION + 1}; secagg .* reads version {VERSION}"
        ):
            restore(of_version(saved, VERSION + 1), key=STATE_KEY)
        restore(saved, key=STATE_KEY)
    assert np.isfinite(world.protocol.error_bound(3))
