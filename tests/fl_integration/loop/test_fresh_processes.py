"""Each message finds a fresh process: machine and own copy come from bytes, and go back into them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from fl_integration.loop.optimisers import FedAdam, FedAvg
from fl_integration.loop.own_copy import OwnCopy
from fl_integration.loop.parties import FederatedClient, Surroundings
from fl_integration.loop.preparing import Prepared, prepare, site_of
from fl_integration.loop.serving import FederatedServer
from protocols import (
    Identity,
    LatticeSum,
    Learner,
    PaillierSum,
    ParameterError,
    PeerViolation,
    Roster,
    Rounding,
)
from protocols.machine.parameters import MachineProtocol
from secagg.secret import Secret
from tests.fl_integration.loop.stage import LOCAL, NAMES, SHAPE, linear, protocol, sites

KEY = Secret(bytes(32))


class Party:
    """A client that lives on a disk: for each message it is made anew, and then it is gone again."""

    def __init__(
        self, identity: Identity, roster: Roster, session: bytes, start: Prepared, summing: MachineProtocol
    ) -> None:
        self.protocol, self.name, self.start = summing, identity.client, start
        machine = self.protocol.client(identity=identity, roster=roster, session=session)
        self.machine, self.copy = machine.export(key=KEY), OwnCopy(start.start).to_bytes()
        self.older: list[tuple[bytes, bytes]] = []

    def awake(self) -> tuple[Any, FederatedClient]:
        machine = self.protocol.restore_client(self.machine, key=KEY)
        own = OwnCopy.from_bytes(self.copy, layout=self.start.layout)
        around = Surroundings(learns=Learner.CLIENTS, surface=self.protocol.suite.surface)  # type: ignore[arg-type]
        site = site_of(self.name, self.start)
        return machine, FederatedClient(machine, site=site, start=own.model, around=around, own_copy=own)

    def answer(self, request: bytes) -> bytes | None:
        self.older.append((self.machine, self.copy))
        machine, client = self.awake()
        try:
            return client.answer(request)
        except PeerViolation:
            return None
        finally:
            self.copy, self.machine = client.own_copy.to_bytes(), machine.export(key=KEY)  # type: ignore[union-attr]

    @property
    def own(self) -> OwnCopy:
        return OwnCopy.from_bytes(self.copy, layout=self.start.layout)


def session_of_parties(
    summing: MachineProtocol | None = None,
) -> tuple[FederatedServer, dict[str, Party]]:
    data, summing = sites(), summing or protocol("ckks")
    surface = summing.suite.surface
    start = prepare(linear(), data, local=LOCAL, rounds=4, seed=7, optimiser=FedAdam(), surface=surface)
    identities = [Identity.generate(name) for name in NAMES]
    roster, session = Roster.of(*identities), bytes(16)
    parties = {each.client: Party(each, roster, session, start, summing) for each in identities}
    machine = summing.server(roster=roster, session=session)
    base = parties["a"].own.initial
    return FederatedServer.blind(machine, length=start.layout.length, base=base), parties


def run(server: FederatedServer, parties: dict[str, Party], number: int, *, lost: str = "") -> frozenset[str]:
    def exchange(outbox: Any) -> Iterator[tuple[str, bytes]]:
        for name, request in outbox.items():
            if name not in lost and (reply := parties[name].answer(request)) is not None:
                yield name, reply

    return server.round(number, NAMES, exchange).contributors


def deliver(server: FederatedServer, parties: dict[str, Party], *, unheard: str = "") -> None:
    """Of some the server never hears that they have the sum."""
    for name, request in server.machine.deliver().items():
        if (reply := parties[name].answer(request)) is not None and name not in unheard:
            server.machine.receive(name, reply)


def lattice_over_paillier() -> MachineProtocol:
    return LatticeSum(**SHAPE, rounding=Rounding.NEAREST, keys=partial(PaillierSum, key_bits=2048))


@pytest.mark.parametrize(
    "made",
    [
        partial(protocol, "ckks"),
        pytest.param(partial(protocol, "paillier"), marks=pytest.mark.slow),
        pytest.param(lattice_over_paillier, marks=pytest.mark.slow),
    ],
    ids=["ckks", "paillier", "lattice over paillier"],
)
def test_copies_that_live_on_disks_stay_in_step(made: Callable[[], MachineProtocol]) -> None:
    server, parties = session_of_parties(made())
    for number in range(2):
        assert run(server, parties, number) == set(NAMES)
    deliver(server, parties)
    assert {party.own.opened for party in parties.values()} == {2}
    assert len({party.copy for party in parties.values()}) == 1


def test_a_copy_that_was_stored_before_its_machine_passes_over_what_it_has() -> None:
    """The process died between the two writes: the machine opens the sum once more."""
    server, parties = session_of_parties()
    run(server, parties, 0)
    deliver(server, parties, unheard="b")
    late = parties["b"]
    late.machine = late.older[-1][0]
    assert run(server, parties, 1) == set(NAMES)
    assert (late.own.opened, late.own.stranded) == (1, False)


def test_an_older_copy_is_stranded_by_the_next_sum_and_sits_out() -> None:
    server, parties = session_of_parties()
    run(server, parties, 0)
    run(server, parties, 1)
    parties["b"].copy = parties["b"].older[0][1]
    assert run(server, parties, 2) == {"a", "c", "d"}
    assert parties["b"].own.stranded
    own = parties["b"].own
    own.take_over(OwnCopy.from_bytes(parties["a"].own.for_peer(), layout=own.model.layout))
    parties["b"].copy = own.to_bytes()
    assert run(server, parties, 3) == set(NAMES)


def test_where_the_server_learns_the_sums_there_is_no_copy() -> None:
    data, summing = sites(), protocol("plain")
    start = prepare(linear(), data, local=LOCAL, rounds=1, seed=7, optimiser=FedAvg())
    identities = [Identity.generate(name) for name in NAMES]
    machine = summing.client(identity=identities[0], roster=Roster.of(*identities), session=bytes(16))
    around = Surroundings(learns=Learner.SERVER, surface=summing.suite.surface)  # type: ignore[arg-type]
    given = {"site": site_of("a", start), "start": start.start, "around": around}
    client = FederatedClient(machine, **given)
    assert (client.own_copy, client.base, client.opened, client.stranded) == (None, b"", 0, False)
    for act in (client.catch_up, lambda: client.take_over(client), lambda: client.take_scales(np.ones(2))):
        with pytest.raises(ParameterError, match="the server learns the sums"):
            act()
    with pytest.raises(ParameterError, match="leave own_copy out"):
        FederatedClient(machine, **given, own_copy=OwnCopy(start.start))
