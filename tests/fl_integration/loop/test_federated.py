"""The federated loop over every protocol, against the same loop in plain floating point."""

import copy
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from fl_integration.loop.federated import federate
from fl_integration.loop.in_process import InProcess
from fl_integration.loop.optimisers import FedAvg
from fl_integration.loop.parties import FederatedClient, Surroundings, model_digest
from fl_integration.loop.plain import fedavg
from fl_integration.loop.preparing import Prepared, prepare, site_of
from fl_integration.loop.rehearsal import Rehearsal
from fl_integration.loop.serving import FederatedServer
from fl_integration.loop.watch import Watch
from fl_integration.site.site import training_seed
from fl_integration.site.training import LocalTraining
from protocols import (
    Adversary,
    CkksSum,
    Identity,
    Learner,
    MaskedSum,
    PaillierSum,
    ParameterError,
    PeerViolation,
    PlainSum,
    Requirements,
    Roster,
    RoundAborted,
)

LOCAL = LocalTraining(loss=mse_loss, learning_rate=0.02, epochs=2, batch_size=4)
COUNTS = {"a": 5, "b": 9, "c": 7, "d": 4}
SHAPE = {"bits": 30, "clip": 4.0, "max_clients": 4, "max_weight": 16}
PROTOCOLS = {
    "plain": PlainSum(**SHAPE),
    "masked": MaskedSum(**SHAPE, requirements=Requirements(adversary=Adversary.MALICIOUS)),
    "ckks": CkksSum(**SHAPE),
    "paillier": PaillierSum(**SHAPE, key_bits=2048),
}
LATE = {name: "MaskedInput" if name == "masked" else "Contribute" for name in PROTOCOLS}


@pytest.fixture(params=PROTOCOLS)
def name(request):
    return request.param


def model() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return net


def loaders(clients: str = "abc") -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
    found = {}
    for index, client in enumerate(clients):
        x = torch.randn(COUNTS[client], 3, generator=torch.Generator().manual_seed(index)) + index / 2
        found[client] = [(x, x @ torch.tensor([[1.0], [-2.0], [0.5]]))]
    return found


def run(protocol, clients: str = "abc", *, rounds: int = 3, drop=None, protocol_seed=None, **options):
    return federate(
        protocol,
        model(),
        loaders(clients),
        **{"local": LOCAL, "rounds": rounds, "seed": 7, **options},
        rehearsal=Rehearsal(drop=drop or {}, protocol_seed=protocol_seed),
    )


def plain(clients: str = "abc", *, rounds: int = 3, **options):
    return fedavg(model(), loaders(clients), local=LOCAL, rounds=rounds, seed=7, **options)


def prepared(clients: str = "abc") -> Prepared:
    data = loaders(clients)
    return prepare(model(), data, local=LOCAL, rounds=3, seed=7, optimiser=FedAvg())


def distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


# --- the mean -------------------------------------------------------------------------------------


def test_fedavg_by_hand():
    """w' = Σ n_k w_k / Σ n_k over locally trained models, for one round (McMahan et al., Algorithm 1)."""
    total = None
    for client, loader in loaders().items():
        net = model()
        LOCAL(net, loader, seed=training_seed(seed=7, round=0, client=client))
        weighted = torch.cat([p.double().flatten() for p in net.parameters()]) * COUNTS[client]
        total = weighted if total is None else total + weighted
    found = torch.cat([p.double().flatten() for p in plain(rounds=1).model.parameters()])
    torch.testing.assert_close(found, total / 21, rtol=0, atol=1e-6)


def test_every_protocol_learns_what_fedavg_learns(name):
    found, truth = run(PROTOCOLS[name]), plain()
    assert distance(found.model, truth.model) < 1e-5
    assert distance(found.model, model()) > 0.05
    assert [report.total_weight for report in found.history] == [21, 21, 21]
    assert [report.total_weight for report in truth.history] == [21, 21, 21]


def test_a_coarse_grid_is_seen(name):
    """The comparison above can fail: eight bits are too few for it."""
    coarse = {**SHAPE, "bits": 8}
    protocol = type(PROTOCOLS[name])(**coarse, **({"key_bits": 2048} if name == "paillier" else {}))
    assert distance(run(protocol).model, plain().model) > 1e-4


def test_the_model_that_is_passed_stays_as_it_is(name):
    mine = model()
    federate(PROTOCOLS[name], mine, loaders(), local=LOCAL, rounds=1, seed=7)
    assert distance(mine, model()) == 0


def test_with_a_protocol_seed_a_run_repeats_bit_for_bit(name):
    protocol = replace(PROTOCOLS[name], bits=16)
    digests = {run(protocol, rounds=2, protocol_seed=seed).digest for seed in (1, 1, 2)}
    assert len(digests) == 2  # stochastic rounding follows the seed


def test_on_model_is_called_once_for_each_mean_with_the_model_then(name):
    seen = []
    watch = Watch(on_model=lambda n, total, state: seen.append((n, total, model_digest(state))))
    found = run(PROTOCOLS[name], watch=watch)
    assert [number for number, _, _ in seen] == [0, 1, 2]
    assert seen[-1][2] == found.digest == model_digest(found.model.state_dict())
    assert all(total.contributors == {"a", "b", "c"} for _, total, _ in seen)


# --- losing clients -------------------------------------------------------------------------------


def test_a_client_lost_in_the_middle_of_a_round_is_back_in_the_next(name):
    found = run(PROTOCOLS[name], "abcd", drop={1: {"b": LATE[name]}})
    assert [len(report.contributors) for report in found.history] == [4, 3, 4]
    assert list(found.history[1].dropped) == ["b"]
    assert [report.total_weight for report in found.history] == [25, 16, 25]
    assert distance(found.model, plain("abcd", absent={1: {"b"}}).model) < 1e-5
    assert distance(found.model, plain("abcd").model) > 1e-4


def test_a_masked_client_lost_after_its_update_still_counts():
    found = run(PROTOCOLS["masked"], "abcd", drop={1: {"b": "Unmask"}})
    assert found.history[1].contributors == {"a", "b", "c", "d"}
    assert "b" in found.history[1].dropped
    assert distance(found.model, plain("abcd").model) < 1e-5


def test_an_aborted_round_is_recorded_and_leaves_the_model_alone(name):
    found = run(PROTOCOLS[name], drop={1: {"b": LATE[name]}})
    aborted = found.history[1]
    assert "at least 3" in aborted.aborted
    assert (aborted.contributors, aborted.total_weight) == (frozenset(), None)
    assert [report.aborted == "" for report in found.history] == [True, False, True]
    truth = plain(rounds=1).model
    reference = fedavg_from(truth, round=2)
    assert distance(found.model, reference) < 1e-5


def fedavg_from(start: nn.Module, *, round: int) -> nn.Module:
    """One round with the seeds of round `round`, from `start`."""
    moved = copy.deepcopy(start)
    for client, loader in loaders().items():
        net = copy.deepcopy(start)
        LOCAL(net, loader, seed=training_seed(seed=7, round=round, client=client))
        with torch.no_grad():
            for name, value in moved.state_dict().items():
                if value.is_floating_point():
                    value.add_(net.state_dict()[name] - start.state_dict()[name], alpha=COUNTS[client] / 21)
    return moved


def test_a_client_that_is_away_in_the_last_round_gets_the_last_model_too(name):
    found = run(PROTOCOLS[name], "abcd", drop={2: {"d": LATE[name]}})
    assert found.history[2].contributors == {"a", "b", "c"}
    assert found.handed_over == frozenset()


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_a_client_away_for_long_gets_the_model_from_a_peer(name):
    """Only the last few sealed sums are kept for an absentee."""
    away = {number: {"a": "AdvertiseKeys"} for number in range(1, 8)}
    found = run(PROTOCOLS[name], "abcd", rounds=11, drop=away)
    assert found.handed_over == {"a"}
    assert found.history[-1].contributors == {"a", "b", "c", "d"}
    absent = {report.number: {"a"} for report in found.history if "a" not in report.contributors}
    assert distance(found.model, plain("abcd", rounds=11, absent=absent).model) < 1e-5


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_a_client_lost_in_set_up_ends_with_the_same_model(name):
    found = run(PROTOCOLS[name], "abcd", rounds=2, drop={n: {"d": "AdvertiseKeys"} for n in range(2)})
    assert found.handed_over == {"d"}
    assert distance(found.model, plain("abcd", rounds=2, absent={0: {"d"}, 1: {"d"}}).model) < 1e-5


# --- what is counted ------------------------------------------------------------------------------


def test_every_byte_is_counted_and_seen(name):
    seen = []
    found = run(PROTOCOLS[name], rounds=2, watch=Watch(on_message=lambda *said: seen.append(said)))
    for report in found.history:
        for client in "abc":
            bodies = [len(m.body) for n, m in seen if n == report.number and m.sender == client]
            assert report.traffic[client].sent == sum(bodies) > 0
        sent = sum(report.traffic[client].sent for client in "abc")
        assert report.traffic["server"].received == sent
        assert set(report.seconds) == {"a", "b", "c", "server"}
        assert min(report.seconds.values()) >= 0


def test_training_is_not_counted_as_cryptography():
    class Slow(nn.Linear):
        """Burns a tenth of a second of processor time in every step."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            until = time.process_time() + 0.1
            while time.process_time() < until:
                pass
            return super().forward(x)

    slow = Slow(3, 1)
    one_step = LocalTraining(loss=mse_loss, learning_rate=0.1, batch_size=None)
    since = time.process_time()
    found = federate(PROTOCOLS["plain"], slow, loaders(), local=one_step, rounds=1)
    assert time.process_time() - since > 0.3
    assert max(found.history[0].seconds.values()) < 0.1


def test_a_server_whose_clients_learn_the_sum_never_gets_the_model():
    """The search finds a model where there is one to find: in what the server of PlainSum sends."""
    needle = np.float32(next(iter(model().state_dict().values())).numpy().ravel()[:2]).tobytes()

    def found_in(name: str) -> bool:
        seen = []
        run(PROTOCOLS[name], rounds=1, watch=Watch(on_message=lambda n, message: seen.append(message.body)))
        return any(needle in body for body in seen)

    assert [found_in(name) for name in ("plain", "masked", "ckks", "paillier")] == [True, True, False, False]


# --- parties --------------------------------------------------------------------------------------


def parties(protocol, clients: str = "abc"):
    identities = [Identity.generate(client) for client in clients]
    roster, session = Roster.of(*identities), bytes(16)
    training = prepared(clients)
    found = {
        each.client: FederatedClient(
            protocol.client(identity=each, roster=roster, session=session),
            site=site_of(each.client, training),
            start=training.start,
            around=Surroundings(learns=protocol.learns, surface=protocol.surface),
        )
        for each in identities
    }
    machine = protocol.server(roster=roster, session=session)
    if protocol.learns is Learner.SERVER:
        server = FederatedServer.knowing(machine, start=training.start)
    else:
        server = FederatedServer.blind(machine, length=37, base=training.start.digest())
    return server, found


def test_any_function_can_be_the_exchange_and_may_deliver_twice(name):
    server, clients = parties(PROTOCOLS[name])

    def exchange(outbox):
        for client, request in outbox.items():
            replies = [clients[client].answer(request) for _ in range(2)]
            yield from ((client, reply) for reply in replies)

    outcomes = [server.round(number, "abc", exchange) for number in range(3)]
    assert all(outcome.contributors == {"a", "b", "c"} for outcome in outcomes)


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_a_sum_that_is_delivered_twice_is_applied_once(name):
    """The reply to the delivery is lost, so the server delivers again."""
    server, clients = parties(PROTOCOLS[name], "abcd")
    lost: set[str] = set()

    def exchange(outbox):
        for client, request in outbox.items():
            reply = clients[client].answer(request)
            if client not in lost:
                yield client, reply

    for number, now in enumerate([set(), {"d"}, set(), set()]):
        lost = now
        server.round(number, "abcd", exchange)
    assert {client.opened for client in clients.values()} == {3}
    assert len({client.model.digest() for client in clients.values()}) == 1


@pytest.mark.parametrize("name", ["ckks", "paillier"])
def test_a_client_with_another_model_sits_the_round_out(name):
    server, clients = parties(PROTOCOLS[name], "abcd")
    exchange = InProcess(PROTOCOLS[name].exchanges(first=True), clients)
    server.round(0, "abcd", exchange)
    clients["b"].own_copy.base = bytes(32)
    outcome = server.round(1, "abcd", exchange)
    assert outcome.contributors == {"a", "c", "d"}
    assert clients["b"].stranded
    clients["b"].take_over(clients["a"])
    assert server.round(2, "abcd", exchange).contributors == {"a", "b", "c", "d"}
    assert clients["b"].model.digest() == clients["a"].model.digest()


@pytest.mark.parametrize(
    "tamper", [lambda body: body[:-1], lambda body: body + b"x", lambda body: bytes(len(body))]
)
def test_a_server_that_sends_another_architecture_is_named(tamper):
    server, clients = parties(PROTOCOLS["plain"])
    assert clients["a"].take_model(server.body).values.tolist() == prepared().start.values.tolist()
    with pytest.raises(PeerViolation, match="server: "):
        clients["a"].take_model(tamper(server.body))


# --- refusals -------------------------------------------------------------------------------------


def test_a_weight_cap_that_is_too_small_names_the_value_to_pass(name):
    small = {**SHAPE, "max_weight": 6}
    protocol = type(PROTOCOLS[name])(**small, **({"key_bits": 2048} if name == "paillier" else {}))
    with pytest.raises(
        ParameterError, match=r"'b' is the largest site and has 9 examples.*pass max_weight=9"
    ):
        run(protocol, watch=Watch(on_message=lambda *_: pytest.fail("something ran")))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": True}, "rounds is True"),
        ({"seed": -1}, "seed is -1"),
        ({"rehearsal": Rehearsal(drop={3: {"a": "Contribute"}})}, "round 3"),
        ({"rehearsal": Rehearsal(drop={0: {"z": "Contribute"}})}, "'z'"),
        ({"rehearsal": Rehearsal(drop={0: {"a": "Unmask"}})}, "'Unmask'"),
        ({"sites": {}}, "empty"),
        ({"sites": {"a": loaders()["a"]}}, "min_contributors"),
    ],
)
def test_bad_arguments_are_refused(options, text):
    arguments = {"sites": loaders(), "rounds": 1, "seed": 7, **options}
    with pytest.raises(ParameterError, match=text):
        federate(PROTOCOLS["plain"], model(), local=LOCAL, **arguments)


@pytest.mark.parametrize("number", [0, 1])
def test_a_round_of_fedavg_without_anybody_leaves_the_model_as_it_was(number):
    """As a secure sum's that was aborted; the first round is no other."""
    run = plain(absent={number: {"a", "b", "c"}})
    assert run.history[number].aborted == "every site is absent"
    assert run.history[number].total_weight is None
    assert run.history[1 - number].contributors == {"a", "b", "c"}
    assert run.digest != plain().digest


def test_fedavg_without_anybody_in_any_round_is_no_training():
    with pytest.raises(RoundAborted, match="had a mean"):
        plain(absent={number: {"a", "b", "c"} for number in range(3)})


def test_diverged_training_everywhere_names_the_sites_and_the_remedy():
    wild = LocalTraining(loss=mse_loss, learning_rate=1e30, epochs=5)
    with pytest.raises(ParameterError, match=r"no site can take part: 'a': .*lower the learning rate"):
        federate(PROTOCOLS["masked"], model(), loaders(), local=wild, rounds=1)


def test_two_contributors_must_be_asked_for():
    two = MaskedSum(**SHAPE, requirements=Requirements(min_contributors=2, dropout_fraction=0.0))
    assert run(two, "ab", rounds=1).history[0].contributors == {"a", "b"}


def test_training_seeds_differ_in_every_part():
    seeds = {
        training_seed(seed=seed, round=number, client=client)
        for seed in (0, 1)
        for number in (0, 1)
        for client in ("a", "b")
    }
    assert len(seeds) == 8
    assert all(0 <= seed < 1 << 63 for seed in seeds)
