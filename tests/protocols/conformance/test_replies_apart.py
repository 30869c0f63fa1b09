"""A large reply lies apart from the state, and is given again all the same."""

import numpy as np
import pytest

from protocols import LatticeSum, MaskedSum, NeedUpdate, Requirements, Roster, Round
from protocols.identity import Identity
from protocols.interface import Client, MemoryReleaseLog
from protocols.machine.parameters import MachineProtocol
from protocols.plain import PlainSum
from secagg.errors import DecodeError
from tests.protocols.conftest import STATE_KEY

VALUES = 40_000
PROTOCOLS: dict[str, MachineProtocol] = {
    "plain": PlainSum(max_clients=3),
    "masked": MaskedSum(max_clients=3),
    "lattice": LatticeSum(max_clients=3),
}
SMALL = 40_000
"""Bytes of a state without its vector; LatticeSum's has a short key in it."""


def answered(protocol: MachineProtocol, log: MemoryReleaseLog) -> tuple[Client, bytes, bytes]:
    """A client that sent its vector, the request for it, and its reply."""
    from protocols.interface import Policy

    ids = [Identity.generate(name) for name in "abc"]
    roster, session = Roster.of(*ids), bytes(32)
    server = protocol.server(roster=roster, session=session)
    clients = {
        each.client: protocol.client(
            identity=each,
            roster=roster,
            session=session,
            policy=Policy(release_log=log) if each.client == "a" else None,
        )
        for each in ids
    }
    outbox = server.start(Round(0, tuple("abc"), VALUES, b"model"))
    while True:
        last = outbox["a"]
        for name, message in outbox.items():
            reply = clients[name].receive(message)
            if isinstance(reply, NeedUpdate):
                reply = clients[name].contribute(np.full(VALUES, 0.25, np.float32))
                if name == "a":
                    return clients["a"], last, reply
            server.receive(name, reply)
        outbox = server.advance()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_state_is_small_and_the_reply_is_repeated(name: str) -> None:
    protocol, log, apart = PROTOCOLS[name], MemoryReleaseLog(), dict[bytes, bytes]()
    client, request, reply = answered(protocol, log)
    whole = client.export(key=STATE_KEY)
    small = client.export(key=STATE_KEY, apart=apart)
    assert list(apart.values()) == [reply]
    assert len(whole) > len(reply)
    assert len(small) < len(whole) - len(reply) + 1000 < SMALL
    again = protocol.restore_client(small, key=STATE_KEY, release_log=log, apart=apart)
    more = dict[bytes, bytes]()
    assert len(again.export(key=STATE_KEY, apart=more)) == len(small)
    assert not more  # it is stored already
    assert again.receive(request) == reply
    assert again.refusal is None
    assert len(again.export(key=STATE_KEY)) == len(whole)  # whoever asks for all gets all


@pytest.mark.parametrize("apart", [None, {}, {"other": b"another reply"}])
def test_a_reply_that_is_gone_or_was_changed_is_refused(apart: dict[str, bytes] | None) -> None:
    protocol, log, kept = PROTOCOLS["masked"], MemoryReleaseLog(), dict[bytes, bytes]()
    client, request, _ = answered(protocol, log)
    small = client.export(key=STATE_KEY, apart=kept)
    found = None if apart is None else dict.fromkeys(kept, apart["other"]) if apart else {}
    again = protocol.restore_client(small, key=STATE_KEY, release_log=log, apart=found)
    again.receive(request)
    assert again.refusal is not None
    assert "is gone" in again.refusal
    with pytest.raises(DecodeError, match="is gone"):
        again.export(key=STATE_KEY)


def test_small_replies_stay_where_they_are() -> None:
    apart = dict[bytes, bytes]()
    protocol = MaskedSum(max_clients=3, requirements=Requirements())
    identity = Identity.generate("a")
    others = [Identity.generate(name) for name in "bc"]
    client = protocol.client(identity=identity, roster=Roster.of(identity, *others), session=bytes(32))
    assert client.export(key=STATE_KEY, apart=apart)
    assert not apart
