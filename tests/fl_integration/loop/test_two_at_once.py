"""A client is handed one message twice, by two threads at once: there is one update, and it is right."""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fl_integration.loop.optimisers import FedAvg
from fl_integration.loop.parties import FederatedClient, Surroundings
from fl_integration.loop.preparing import prepare, site_of
from fl_integration.loop.scaffold import Scaffold
from fl_integration.loop.serving import FederatedServer
from fl_integration.site.training import LocalTraining
from protocols import Identity, Learner, MemoryReleaseLog, Policy, Roster
from protocols.messages.envelope import REFUSAL, Envelope
from secagg.entropy import SeededEntropy
from tests.fl_integration.loop.stage import EACH, linear, pieces, protocol, sites

NAMES, STEPS, MOVE = "abcd", 8, 1 / 64


class Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(32))


class Slowly:
    """A step that lets others run between its parts, and counts its calls by site."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def __call__(self, model: nn.Module, data: Any, *, seed: int) -> int:
        self.calls[data] = self.calls.get(data, 0) + 1
        for _ in range(STEPS):
            with torch.no_grad():
                model.w += MOVE
            time.sleep(1e-4)
        return 4


def parties(name: str, session: bytes, step: Slowly) -> tuple[FederatedServer, dict[str, FederatedClient]]:
    summed = protocol(name)
    start = prepare(Many(), {each: each for each in NAMES}, local=step, rounds=1, seed=0, optimiser=FedAvg(),
                    surface=summed.suite.surface)  # fmt: skip
    identities = [Identity.generate(each, entropy=SeededEntropy(session, each.encode())) for each in NAMES]
    roster = Roster.of(*identities)
    around = Surroundings(learns=summed.learns, surface=summed.suite.surface)  # type: ignore[arg-type]
    clients = {
        each.client: FederatedClient(
            summed.client(identity=each, roster=roster, session=session),
            site=site_of(each.client, start), start=start.start, around=around,
        )
        for each in identities
    }  # fmt: skip
    machine = summed.server(roster=roster, session=session)
    if summed.learns is Learner.SERVER:
        return FederatedServer.knowing(machine, start=start.start), clients
    base = clients["a"].base
    return FederatedServer.blind(machine, length=start.layout.length, base=base), clients


def twice(clients: Mapping[str, FederatedClient], outbox: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """A transport that delivers at least once."""
    with ThreadPoolExecutor(2) as pool:
        for client, request in outbox.items():
            one, other = pool.map(clients[client].answer, [request] * 2)
            assert bytes(one) == bytes(other)
            yield client, one


@pytest.mark.parametrize("name", EACH)
def test_one_request_in_two_threads_is_one_update(name: str) -> None:
    for trial in range(4):
        step = Slowly()
        server, clients = parties(name, bytes([trial + 1] * 16), step)

        outcome = server.round(0, tuple(NAMES), partial(twice, clients))
        assert step.calls == dict.fromkeys(NAMES, 1)
        assert outcome.contributors == set(NAMES)
        total = outcome.total
        if total is None:
            assert outcome.result is not None
            total = clients["a"]._machine.open(outcome.result)
        assert total.total_weight == 16
        np.testing.assert_allclose(total.mean, STEPS * MOVE, rtol=0, atol=1e-5)


def test_a_second_device_that_its_log_refuses_keeps_its_control_variate() -> None:
    """Two machines of one site share a log; the second one's update goes nowhere, and moves nothing there."""
    summed, log = protocol("plain"), MemoryReleaseLog()
    data = sites()
    local = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.05, batch_size=None)
    start = prepare(linear(), data, local=local, rounds=1, seed=0, optimiser=Scaffold(),
                    surface=summed.suite.surface)  # fmt: skip
    identities = [Identity.generate(each) for each in NAMES]
    roster, session = Roster.of(*identities), bytes(range(16))
    around = Surroundings(learns=summed.learns, surface=summed.suite.surface)  # type: ignore[arg-type]

    def device(given: Any) -> FederatedClient:
        machine = summed.client(
            identity=identities[0], roster=roster, session=session, policy=Policy(release_log=log)
        )
        site = site_of("a", start)
        site.data = given
        return FederatedClient(machine, site=site, start=start.start, around=around)

    first, second = device(pieces("a")), device(pieces("e"))
    server = FederatedServer.knowing(summed.server(roster=roster, session=session), start=start.start)
    requests: list[bytes] = []

    def exchange(outbox: Mapping[str, bytes]) -> Iterable[tuple[str, bytes]]:
        requests.append(outbox["a"])
        return ()

    with pytest.raises(Exception, match="0 contributors"):
        server.round(0, tuple(NAMES), exchange)
    assert Envelope.decode(first.answer(requests[0])).stage != REFUSAL
    assert np.abs(first.site.own.control).max() > 0
    assert Envelope.decode(second.answer(requests[0])).stage == REFUSAL
    assert second.trained
    assert not second.site.own.control.any()
