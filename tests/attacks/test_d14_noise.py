"""D14: noise that colluders subtract, that a lying server loses, that is drawn twice, or is paid for too
late.

Each site adds a share of the noise, so what hides a patient is what is left of it for those who attack:
corrupt clients take their own shares off, and a server chooses, as far as clients let it, whose shares are in
a sum at all. Two vectors of one round are two draws of noise around one secret. And a vector that left may
have been opened by a server that says its round was aborted.

The weakened copies plan the noise for all clients, or for all but the corrupt; do not insist on a cohort;
charge a round again without a word where it was charged before, or run it again after a crash; and pay when a
vector is made, or when a sum arrives. Everything else is the library's: machines, sites, ledger and loop.

What is measured is the noise that is left, beside what one trusted party would have added. It is that of many
values at once, so its standard deviation is known to a hundredth.
"""

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from torch.nn.functional import mse_loss

from fl_integration.loop import noised, rounds
from fl_integration.loop.federated import federate
from fl_integration.loop.in_process import InProcess
from fl_integration.loop.noised import Account, NoisedSite
from fl_integration.loop.parties import FederatedClient
from fl_integration.loop.report import TrainingAborted
from fl_integration.loop.serving import FederatedServer
from fl_integration.loop.watch import Progress, Watch
from fl_integration.privacy import planning
from fl_integration.privacy.ledger import BudgetLedger
from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.plan import PrivacyPlan
from fl_integration.site.site import SiteFailedError
from fl_integration.site.training import LocalTraining
from protocols import Identity, MaskedSum, ParameterError, Roster, Round, RoundAborted, Session, run_round
from protocols.interface import NeedUpdate
from protocols.masked.collecting import received_values
from protocols.masked.messages import MaskedInput
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode
from secagg.entropy import SeededEntropy
from secagg.secret import Secret
from tests.fl_integration.loop.stage import linear, protocol, sites

LENGTH = 20_000
NOUGHT = np.zeros(LENGTH, np.int64)
UNIT = PatientLevel(epsilon=2.0, delta=1e-4, rounds=3, denominator=48)
STEP = LocalTraining(loss=mse_loss, learning_rate=0.1)
QUIET_ROUND: dict[str, Any] = {
    "privacy": UNIT,
    "local": STEP,
    "rounds": 1,
    "watch": Watch(progress=Progress.NEVER),
}
SURE = 0.02
"""Four standard errors of a standard deviation of so many values."""

Vector = np.ndarray[Any, np.dtype[np.int64]]


def shares(plan: PrivacyPlan, names: Collection[str]) -> dict[str, Vector]:
    """What sites without patients send: their noise."""
    return {
        name: UNIT.noised(NOUGHT, plan=plan, entropy=SeededEntropy(b"noise", name.encode())) for name in names
    }


def left_over(plan: PrivacyPlan, names: str, *, corrupt: str, lost: str = "") -> float:
    """The noise in an opened sum without that of the corrupt, in parts of a trusted party's."""
    noise = shares(plan, names)
    drop = dict.fromkeys(lost, "MaskedInput")
    run = Session(plan.exact, names, seed=1).round(noise, drop=drop)
    assert run.contributors == set(names) - set(lost)
    found = run.sum.total - sum(noise[name] for name in corrupt)
    return float(found.std() / plan.sigma_trusted)


def planned_for(monkeypatch: pytest.MonkeyPatch, honest: int) -> None:
    """The weakened copy: a number of honest contributors that no plan promises."""
    ours = planning._base_plan

    def theirs(*args: Any) -> Any:
        return replace(ours(*args), sure_honest=honest)

    monkeypatch.setattr(planning, "_base_plan", theirs)


def test_colluders_that_take_their_own_noise_off_leave_what_one_trusted_party_adds(monkeypatch):
    left = left_over(UNIT.plan(4, length=LENGTH), "abcd", corrupt="d")
    assert left > 1 - SURE
    planned_for(monkeypatch, honest=4)
    left = left_over(UNIT.plan(4, length=LENGTH), "abcd", corrupt="d")
    assert left == pytest.approx(np.sqrt(3 / 4), abs=SURE)


def test_a_server_that_loses_shares_with_its_dropouts_leaves_what_one_trusted_party_adds(monkeypatch):
    """Three of ten vanish, or so it says, and two of the others are corrupt."""
    names = "abcdefghij"
    left = left_over(UNIT.plan(10, length=LENGTH), names, corrupt="ij", lost="abc")
    assert left > 1 - SURE
    planned_for(monkeypatch, honest=8)
    left = left_over(UNIT.plan(10, length=LENGTH), names, corrupt="ij", lost="abc")
    assert left == pytest.approx(np.sqrt(5 / 8), abs=SURE)


def test_a_server_that_asks_fewer_clients_gets_no_vector():
    """Of four, three have to be honest in each sum; of three, whom a lying server may ask, two are."""
    plan = UNIT.plan(4, protocol=MaskedSum(max_clients=4), length=LENGTH)
    assert plan.sure_honest == 3
    with pytest.raises(RoundAborted, match=r"takes part among 4 to 4"):
        total_of_three(plan, policy=plan.policy)
    found = total_of_three(plan, policy=None) - shares(plan, "c")["c"]
    assert found.std() / plan.sigma_trusted == pytest.approx(np.sqrt(2 / 3), abs=SURE)


def total_of_three(plan: PrivacyPlan, *, policy: Any) -> Vector:
    identities = [Identity.generate(name) for name in "abcd"]
    around = {"roster": Roster.of(*identities), "session": bytes(16)}
    clients = {each.client: plan.exact.client(identity=each, policy=policy, **around) for each in identities}
    noise = shares(plan, "abc")

    def exchange(outbox):
        for name, request in outbox.items():
            answer = clients[name].receive(request)
            yield name, clients[name].contribute(noise[name]) if isinstance(answer, NeedUpdate) else answer

    server = plan.exact.server(**around)
    return run_round(server, Round(0, ("a", "b", "c"), LENGTH), exchange).total.total


@pytest.mark.parametrize("weakened", [False, True])
def test_the_clients_of_a_training_insist_on_the_planned_cohort(monkeypatch, weakened):
    if weakened:
        monkeypatch.setattr(PrivacyPlan, "policy", None)
    ours = FederatedServer.round

    def of_three(self, number, cohort, exchange):
        return ours(self, number, tuple(cohort)[:3], exchange)

    monkeypatch.setattr(FederatedServer, "round", of_three)
    if weakened:
        run = federate(MaskedSum(max_clients=4), linear(), sites(), **QUIET_ROUND)
        assert run.history[0].contributors == frozenset("abc")
        return
    with pytest.raises(TrainingAborted) as aborted:
        federate(MaskedSum(max_clients=4), linear(), sites(), **QUIET_ROUND)
    assert "takes part among 4 to 4" in aborted.value.history[0].dropped["a"]


# --- twice ------------------------------------------------------------------------------------------------


def charged_again_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weakened copy: that a round was charged before is fine, it costs nothing more."""
    monkeypatch.setattr(BudgetLedger, "charge_once", BudgetLedger.charge)


class PutBack(InProcess):
    """A client's process comes back from before its vector left, and the server asks again."""

    vectors: ClassVar[list[bytes]] = []
    error: ClassVar[list[SiteFailedError]] = []

    def _answer(self, client, request):
        party = self._clients[client]
        if client != "a" or self._names[Envelope.decode(request).stage // 2] != "MaskedInput":
            return super()._answer(client, request)
        key = Secret(bytes(32))
        before = party._machine.export(key=key)
        reply = super()._answer(client, request)
        self.vectors.append(reply)
        now, party._machine = party._machine, party._noised.sums.plan.exact.restore_client(before, key=key)
        try:
            self.vectors.append(party.answer(request))
        except SiteFailedError as error:
            self.error.append(error)
        party._machine = now
        return reply


@pytest.fixture
def put_back(monkeypatch) -> type[PutBack]:
    PutBack.vectors, PutBack.error = [], []
    monkeypatch.setattr(rounds, "InProcess", PutBack)
    return PutBack


def private(**options: Any) -> Any:
    given = {"privacy": UNIT, "local": STEP, "rounds": 3, "watch": Watch(progress=Progress.NEVER), **options}
    return federate(protocol("masked"), linear(), sites(), **given)


def test_a_client_that_was_put_back_sends_no_second_vector(put_back):
    run = private(rounds=1)
    assert len(put_back.vectors) == 1
    assert "paid for before at 'a', and its vector may have left" in str(put_back.error[0])
    assert not run.history[0].aborted


def test_one_that_does_not_look_shows_two_draws_of_noise_around_one_secret(put_back, monkeypatch):
    charged_again_without_a_word(monkeypatch)
    run = private(rounds=1)
    surface = run.privacy.exact.suite.surface
    one, other = (
        received_values(surface, decode(MaskedInput, Envelope.decode(each).body), count=3).astype(np.int64)
        for each in put_back.vectors
    )
    # Under equal masks: what is left is noise alone, and the server knows what to add for half its variance.
    difference = surface.ring.centred(((one - other) % (1 << surface.ring.bits)).astype(surface.ring.dtype))
    assert difference.all()
    assert np.abs(difference).max() < 12 * run.privacy.sigma_client


@pytest.mark.parametrize("weakened", [False, True])
def test_a_training_that_is_taken_up_again_makes_no_second_vector_of_a_round(tmp_path, monkeypatch, weakened):
    if weakened:
        monkeypatch.setattr(rounds.Training, "_begin", lambda self, number: None)
    left: Counter[int] = Counter()

    def listen(number, message):
        if message.exchange == "MaskedInput" and message.sender == "a":
            left[number] += 1
        if message.exchange == "Unmask" and left == {0: 1, 1: 1}:
            raise KeyboardInterrupt

    watch = Watch(on_message=listen, progress=Progress.NEVER)
    with pytest.raises(KeyboardInterrupt):
        private(checkpoint=tmp_path, watch=watch)
    left[2] -= 1  # no interruption the next time
    run = private(checkpoint=tmp_path, watch=watch)
    left[2] += 1
    assert left == {0: 1, 1: 2 if weakened else 1, 2: 1}
    assert run.history[1].aborted == ("" if weakened else rounds._BEGUN)


# --- paid -------------------------------------------------------------------------------------------------


def paid_when_a_sum_arrives(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The weakened copy, and what it did not pay yet."""
    due: list[tuple[Account, PrivacyPlan, int]] = []
    monkeypatch.setattr(
        NoisedSite, "pay", lambda self, *, round: due.append((self.account, self.sums.plan, round))
    )
    ours = noised.NoisedSums.read

    def read(self, total):
        while due:
            account, plan, number = due.pop()
            account.pay(plan, round=number)
        return ours(self, total)

    monkeypatch.setattr(noised.NoisedSums, "read", read)
    return due


def vectors_until(budget: BudgetLedger, trainings: int) -> int:
    """A server that has all vectors and says that each round was lost; how many it gets of one site."""
    left = []

    def listen(number, message):
        if message.exchange == "MaskedInput" and message.sender == "a":
            left.append(number)

    lost = {number: dict.fromkeys("abc", "Unmask") for number in range(3)}
    for _ in range(trainings):
        with pytest.raises((TrainingAborted, ParameterError)):
            private(
                privacy=replace(UNIT, ledger=budget),
                watch=Watch(on_message=listen, progress=Progress.NEVER),
                rehearsal=rounds.Rehearsal(drop=lost),
            )
    return len(left)


class AskingAgain(InProcess):
    """A server that asks a client again which did not answer."""

    replies: ClassVar[list[bytes]] = []

    def _answer(self, client, request):
        reply = super()._answer(client, request)
        if reply is None:
            with suppress(SiteFailedError):
                self.replies.append(self._clients[client].answer(request))
        return reply


@pytest.mark.parametrize("weakened", [False, True])
def test_a_vector_that_cannot_be_paid_for_is_not_there_to_be_asked_for_again(monkeypatch, weakened):
    def paid_last(self, noised, asked, summand):
        reply = self._machine.contribute(noised.noised(summand, round=asked.round))
        noised.pay(round=asked.round)
        return reply

    if weakened:
        monkeypatch.setattr(FederatedClient, "_noised_and_paid", paid_last)
    monkeypatch.setattr(rounds, "InProcess", AskingAgain)
    monkeypatch.setattr(AskingAgain, "replies", [])
    monkeypatch.setattr(Account, "check", lambda *_, **__: None)  # as if it had been enough when it began
    said = r"'a' has spent ε = 0 of 0\.001"
    with (
        BudgetLedger(None, epsilon=0.001, delta=UNIT.delta) as budget,
        pytest.raises(ParameterError, match=said),
    ):
        private(privacy=replace(UNIT, ledger=budget), rounds=1)
    assert len(AskingAgain.replies) == (4 if weakened else 0)


def test_a_server_that_aborts_every_round_gets_no_more_vectors_than_the_budget_has(monkeypatch):
    with BudgetLedger(None, epsilon=UNIT.epsilon, delta=UNIT.delta) as budget:
        assert vectors_until(budget, trainings=3) == 3
    due = paid_when_a_sum_arrives(monkeypatch)
    with BudgetLedger(None, epsilon=UNIT.epsilon, delta=UNIT.delta) as budget:
        assert vectors_until(budget, trainings=3) == 9
        assert str(budget).count("\n") == 0  # nothing was ever paid
    due.clear()
    spent = [report.epsilon for report in private().history]
    assert spent == sorted(spent)  # where sums arrive, the weakened copy pays as ours does
    assert spent[0] > 0


def test_the_page_says_so() -> None:
    page = (Path(__file__).parents[2] / "protocols" / "THREAT_MODEL.md").read_text(encoding="utf-8")
    assert "| D14 noise that " in page
