"""Private trainings: what leaves a site is its clipped summand and its noise, no more, and it is paid for."""

import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from fl_integration.loop.cohorts import Sampling
from fl_integration.loop.evaluation import Central, OnSites, Task
from fl_integration.loop.federated import federate
from fl_integration.loop.noised import NoisedSums
from fl_integration.loop.optimisers import FedAdam
from fl_integration.loop.rehearsal import Rehearsal
from fl_integration.loop.scaffold import Scaffold
from fl_integration.loop.watch import Progress, Watch, to_tensorboard
from fl_integration.privacy.adaptive import AdaptiveClip
from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.ledger import BudgetExceededError, BudgetLedger, roster_of
from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.rotation import Rotation
from fl_integration.privacy.rows import RowLevel
from fl_integration.site import per_patient
from fl_integration.site.training import LocalTraining
from fl_integration.statistics.asking import ask
from fl_integration.statistics.count import Count
from fl_integration.vectors.autoclip import AutoClip
from fl_integration.vectors.sharing import all_but, all_but_norms, only
from protocols import Adversary, MaskedSum, ParameterError, Requirements
from tests.fl_integration.loop.stage import (
    EACH,
    LOCAL,
    NAMES,
    in_the_clear,
    linear,
    pieces,
    protocol,
    sites,
    train,
)

STEP = LocalTraining(loss=mse_loss, learning_rate=0.5)
UNIT = PatientLevel(epsilon=8.0, delta=1e-3, rounds=3, denominator=48)
RATE, GRID = 0.5, 1024 * 48


def private(name="masked", data=None, *, privacy=UNIT, **options):
    return train(name, data, privacy=privacy, **{"local": STEP, "rounds": 3, **options})


def by_hand(
    weights: torch.Tensor, bias: torch.Tensor, x: torch.Tensor, y: torch.Tensor, clip=1.0
) -> np.ndarray:
    """Σ of the patients' gradients of (w·x + b - y)², each cut to the clip and to whole steps toward zero."""
    error = 2 * (x @ weights.T + bias - y).double().numpy()
    each = error * np.concatenate([x.double().numpy(), np.ones((len(x), 1))], axis=1)
    each *= np.minimum(1, clip / np.linalg.norm(each, axis=1, keepdims=True))
    return np.trunc(each / clip * 1024).sum(axis=0)


def noise_of(run, name: str, number: int, length: int = 3) -> np.ndarray:
    """The share of one site, whose randomness a rehearsal repeats."""
    entropy = Rehearsal(protocol_seed=1).entropy(f"noise/{number}/{name}", first_round=0)
    return run.privacy.noise.sample(length, entropy=entropy)


@pytest.mark.parametrize("name", [each for each in EACH if each != "plain"])
def test_what_was_opened_is_the_patients_clipped_gradients_and_everybodys_noise(name):
    """Without its noise, which the rehearsal repeats, each sum is that of the patients, to the last step."""
    means, states = {}, {-1: state(linear())}

    def follow(number, total, values):
        means[number], states[number] = total, {key: v.clone() for key, v in values.items()}

    run = private(name, watch=Watch(on_model=follow, progress=Progress.NEVER))
    assert [report.contributors for report in run.history] == [frozenset(NAMES)] * 3
    for number, total in means.items():
        opened = np.rint(total.mean / -RATE * GRID)
        np.testing.assert_allclose(total.mean, opened / GRID * -RATE, rtol=1e-12)
        noise = sum(noise_of(run, each, number) for each in NAMES)
        now = states[number - 1]
        truth = sum(by_hand(now["weight"], now["bias"], *pieces(each)[0]) for each in NAMES)
        assert np.abs(opened - noise - truth).max() <= 2  # float32 gradients, beside those in float64
        assert np.abs(noise).max() > 100
        moved = torch.cat([states[number][key].flatten() - now[key].flatten() for key in ("weight", "bias")])
        np.testing.assert_allclose(moved, total.mean, atol=1e-6)
        assert total.total_weight == 4
        assert total.metrics == {}


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# --- the account ------------------------------------------------------------------------------------------


def test_epsilon_is_in_the_report_the_table_the_frame_the_log_and_the_curves(caplog, capsys):
    curves = {}
    writer = SimpleNamespace(add_scalar=lambda tag, value, step: curves.setdefault(tag, []).append(value))
    watch = Watch(on_round=to_tensorboard(writer), progress=Progress.ALWAYS)
    with caplog.at_level("INFO", logger="secagg"):
        run = private(watch=watch)
    spent = [report.epsilon for report in run.history]
    np.testing.assert_allclose(spent, run.privacy.epsilon_by_round, rtol=1e-9)
    assert spent[-1] <= UNIT.epsilon
    assert curves["round/epsilon"] == spent
    assert list(run.to_frame()["epsilon"]) == spent
    assert str(run).splitlines()[0].split()[:4] == ["round", "summed", "weight", "ε"]
    assert f"private: ε {spent[-1]:.3g} is spent at the site that has spent most" in str(run)
    assert f"planned for {run.privacy.epsilon:.3g} at δ 0.001; one patient" in str(run)
    assert f"ε {spent[0]:.3g}" in repr(run.history[0])
    assert f"epsilon {spent[0]:.3g}" in caplog.messages[0]
    assert f"ε {spent[1]:.3g}" in capsys.readouterr().err.splitlines()[1]


def test_without_privacy_there_is_no_epsilon():
    run = train("masked", rounds=1)
    assert run.privacy is None
    assert run.history[0].epsilon is None
    assert "epsilon" not in run.to_frame()
    assert "ε" not in str(run)


def test_an_aborted_round_is_paid_for():
    """Its vectors left, and a lying server may have opened their sum."""
    drop = {1: dict.fromkeys("abc", "Unmask")}
    run = private(drop=drop)
    assert [bool(report.aborted) for report in run.history] == [False, True, False]
    np.testing.assert_allclose([report.epsilon for report in run.history], run.privacy.epsilon_by_round)


def test_what_may_fail_beside_the_noise_is_paid_for_too(tmp_path):
    with BudgetLedger(tmp_path / "ledger", epsilon=9.0, delta=1e-3) as ledger:
        run = private(privacy=replace(UNIT, ledger=ledger), rounds=1)
    with closing(sqlite3.connect(tmp_path / "ledger")) as file:
        assert file.execute("SELECT DISTINCT failure FROM charges").fetchall() == [(run.privacy.failure,)]
    assert run.privacy.failure > 0


def test_a_sample_is_of_all_patients_however_many_gradients_are_held_at_once(monkeypatch):
    unit = replace(UNIT, sampling_rate=0.5)
    at_once = private(privacy=unit, rounds=1).digest
    monkeypatch.setattr(per_patient, "_AT_ONCE", 5)
    assert private(privacy=unit, rounds=1).digest == at_once


def test_who_sends_nothing_pays_nothing():
    drop = {0: {"a": "MaskedInput"}}
    with BudgetLedger(None, epsilon=9.0, delta=1e-3) as ledger:
        private(privacy=replace(UNIT, ledger=ledger), rounds=1, drop=drop)
        assert [row.split()[0] for row in str(ledger).splitlines()[1:]] == ["b", "c", "d"]


def test_a_durable_ledger_goes_on_where_it_was_and_refuses_what_is_too_much_for_it(tmp_path):
    """A new training is a new session, and refills nothing; nothing is spent on rounds that cannot all be."""
    with BudgetLedger(tmp_path / "ledger", epsilon=UNIT.epsilon, delta=1e-3) as ledger:
        first = private(privacy=replace(UNIT, ledger=ledger), rounds=2)
    with BudgetLedger(tmp_path / "ledger", epsilon=UNIT.epsilon, delta=1e-3) as ledger:
        unit = replace(UNIT, ledger=ledger)
        with pytest.raises(
            BudgetExceededError, match=r"'a' has spent ε = .* leaves room for 1 of 3 rounds: plan"
        ):
            private(privacy=unit)
        assert ledger.rounds(site="a", roster=roster_of(NAMES)) == 2
        second = private(privacy=unit, rounds=1)
        assert second.history[0].epsilon == pytest.approx(first.privacy.epsilon_by_round[2])
        with pytest.raises(BudgetExceededError, match="leaves room for 0 of 1 rounds"):
            private(privacy=unit, rounds=1)
    with (
        BudgetLedger(None, epsilon=0.5, delta=1e-3) as small,
        pytest.raises(BudgetExceededError, match=r"spent ε = 0 of 0\.5 .* room for 0 of 3 rounds: .* raise"),
    ):
        private(privacy=replace(UNIT, ledger=small))


def test_a_run_ends_where_somebody_else_has_spent_what_was_left():
    """Another training of the same patients; the models so far are kept."""
    with BudgetLedger(None, epsilon=UNIT.epsilon, delta=1e-3) as ledger:
        unit = replace(UNIT, ledger=ledger)

        def spend(report):
            if report.number == 0:
                private(privacy=unit, rounds=2)

        run = private(privacy=unit, watch=Watch(on_round=spend, progress=Progress.NEVER))
    assert [bool(report.aborted) for report in run.history] == [False, True]
    assert "has spent ε" in run.history[1].dropped["a"]
    assert "'a' has spent ε" in run.stopped
    assert "stopped early: 'a' has spent" in str(run)
    assert run.history[1].epsilon > run.history[0].epsilon  # of both trainings


def test_a_budget_is_that_of_the_roster(tmp_path):
    """The same names are the same roster, in whatever order and under whatever keys."""
    with BudgetLedger(tmp_path / "ledger", epsilon=UNIT.epsilon, delta=1e-3) as ledger:
        unit = replace(UNIT, ledger=ledger)
        private(privacy=unit, rounds=2)
        again = private(data=sites("dcba"), privacy=unit, rounds=1)
        assert again.history[0].epsilon == pytest.approx(again.privacy.epsilon_by_round[2])
        other = private(data=sites("abc"), shape={"requirements": Requirements()}, privacy=unit, rounds=1)
        assert other.history[0].epsilon == pytest.approx(other.privacy.epsilon_by_round[0])


# --- interruptions ----------------------------------------------------------------------------------------


def interrupted_in(number: int, exchange: str):
    def listen(round, message):
        if (round, message.exchange) == (number, exchange):
            raise KeyboardInterrupt

    return Watch(on_message=listen, progress=Progress.NEVER)


def test_a_round_that_was_begun_is_not_run_again(tmp_path):
    """Its vectors may have left, and others would have other noise; it is paid for."""
    with pytest.raises(KeyboardInterrupt):
        private(checkpoint=tmp_path, watch=interrupted_in(1, "Unmask"))
    heard = []
    watch = Watch(on_message=lambda number, message: heard.append(number), progress=Progress.NEVER)
    run = private(checkpoint=tmp_path, watch=watch)
    assert [bool(report.aborted) for report in run.history] == [False, True, False]
    assert "interrupted in this round" in run.history[1].aborted
    assert set(heard) == {2}
    assert run.history[2].epsilon == pytest.approx(run.privacy.epsilon_by_round[2])


@pytest.mark.slow
def test_a_training_and_a_question_spend_one_budget():
    """Whoever asks and then trains on the same patients adds to what is spent, and does not begin anew."""
    ages = {name: {"age": np.arange(40.0, 60.0)} for name in NAMES}
    with BudgetLedger(None, epsilon=9.0, delta=1e-3) as ledger:
        question = RowLevel(epsilon=1.0, delta=1e-6, ledger=ledger)
        ask(MaskedSum(max_clients=len(NAMES)), ages, Count(), privacy=question, max_rows=100)
        asked = ledger.spent(site="a", roster=roster_of(NAMES))
        run = private(privacy=replace(UNIT, ledger=ledger), rounds=1)
        assert 0 < asked < run.history[0].epsilon == ledger.spent(site="a", roster=roster_of(NAMES))
        assert run.history[0].epsilon > run.privacy.epsilon_by_round[0]


def test_a_durable_ledger_is_not_charged_again_for_what_a_checkpoint_says(tmp_path):
    with BudgetLedger(tmp_path / "ledger", epsilon=9.0, delta=1e-3) as ledger:
        unit = replace(UNIT, ledger=ledger)
        with pytest.raises(KeyboardInterrupt):
            private(privacy=unit, checkpoint=tmp_path, watch=interrupted_in(1, "MaskedInput"))
        run = private(privacy=unit, checkpoint=tmp_path)
        assert run.history[2].epsilon <= run.privacy.epsilon_by_round[2] * (1 + 1e-9)


def test_a_training_goes_on_with_the_ledger_that_paid_for_it(tmp_path):
    """One that was lost has forgotten, and a new one in its place would spend the budget again (D9)."""
    with BudgetLedger(tmp_path / "ledger", epsilon=9.0, delta=1e-3) as ledger:
        private(privacy=replace(UNIT, ledger=ledger), checkpoint=tmp_path, rounds=1)
    with BudgetLedger(tmp_path / "another", epsilon=9.0, delta=1e-3) as another:
        for other in (another, None):
            with pytest.raises(ParameterError, match="were paid for in another ledger"):
                private(privacy=replace(UNIT, ledger=other), checkpoint=tmp_path)
        assert another.rounds(site="a", roster=roster_of(NAMES)) == 0
    with BudgetLedger(tmp_path / "ledger", epsilon=9.0, delta=1e-3) as ledger:
        assert len(private(privacy=replace(UNIT, ledger=ledger), checkpoint=tmp_path).history) == 3


def test_a_training_goes_on_under_its_own_promise_alone(tmp_path):
    """Whose rows are whose is part of it; the ids are not in the file, nor in the error."""
    ids = replace(UNIT, patients={name: [f"Mrs {name}{row}" for row in range(12)] for name in NAMES})
    private(checkpoint=tmp_path, privacy=ids, rounds=1)
    assert b"Mrs" not in (tmp_path / "training.pt").read_bytes()
    for other in (None, UNIT, replace(ids, epsilon=9.0), replace(ids, sampling_rate=0.5)):
        with pytest.raises(ParameterError, match="the checkpoint is of another privacy=") as refused:
            train("masked", local=STEP, checkpoint=tmp_path, privacy=other)
        assert "Mrs" not in str(refused.value)


@pytest.mark.slow
def test_a_training_that_was_taken_up_again_is_the_one_that_was_not_interrupted(tmp_path):
    """In a rehearsal, whose noise repeats."""
    private(checkpoint=tmp_path, rounds=1)
    assert private(checkpoint=tmp_path).digest == private().digest


# --- patients ---------------------------------------------------------------------------------------------


def test_the_rows_of_one_person_count_as_one():
    """However many they are, and however long: no more than one clip."""
    data = {name: [(100 * x, y)] for name, [(x, y)] in sites().items()}
    sums = {}
    watch = Watch(on_model=lambda number, total, _: sums.setdefault(number, total), progress=Progress.NEVER)
    patients = {name: ["the same"] * 12 for name in NAMES}
    run = private(data=data, privacy=replace(UNIT, patients=patients), watch=watch)
    opened = np.rint(sums[0].mean / -RATE * GRID) - sum(noise_of(run, name, 0) for name in NAMES)
    assert 1024 < np.linalg.norm(opened) <= 4 * 1024


def test_a_loader_that_shuffles_does_not_say_whose_its_rows_are():
    def data(**options):
        return {name: DataLoader(TensorDataset(*pieces(name)[0]), batch_size=5, **options) for name in NAMES}

    patients = {name: [row // 2 for row in range(12)] for name in NAMES}
    unit = replace(UNIT, patients=patients)
    with pytest.raises(ParameterError, match="site 'a' has a DataLoader with an order of its own"):
        private(data=data(shuffle=True), privacy=unit)
    assert private(data=data(), privacy=unit, rounds=1).digest == private(privacy=unit, rounds=1).digest
    before = torch.get_rng_state()
    private(data=data(shuffle=True), rounds=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_sample_and_a_site_without_patients_send_noise():
    """Nobody is told which sites have somebody in a round."""
    data = sites(a=[(torch.zeros(0, 2), torch.zeros(0, 1))])
    sums = {}
    watch = Watch(on_model=lambda number, total, _: sums.setdefault(number, total), progress=Progress.NEVER)
    rare = replace(UNIT, sampling_rate=1e-9)
    run = private(data=data, privacy=rare, watch=watch, rounds=1)
    assert run.history[0].contributors == frozenset(NAMES)
    opened = np.rint(sums[0].mean / -RATE * 1e-9 * GRID)
    np.testing.assert_array_equal(opened, sum(noise_of(run, name, 0) for name in NAMES))


def test_who_is_drawn_does_not_follow_from_the_seed_of_the_run():
    """That one is public. A rehearsal's randomness is another in each round, and for each site."""
    drawn = []

    class Noticing(PatientLevel):
        def sample(self, count, **options):
            drawn.append(tuple(super().sample(count, **options)))
            return np.array(drawn[-1])

    unit = Noticing(epsilon=8.0, delta=1e-3, rounds=3, denominator=48, sampling_rate=0.5)
    private(privacy=unit, protocol_seed=None, seed=7, rounds=1)
    private(privacy=unit, protocol_seed=None, seed=7, rounds=1)
    assert drawn[:4] != drawn[4:]  # 48 fair bits
    assert len(set(drawn)) > 4  # two of eight may be alike, of 12 bits each


def test_a_gradient_that_is_not_finite_counts_as_none_and_costs_nobody_a_round():
    [(x, y)] = pieces("a")
    x = x.clone()
    x[0] = torch.nan
    run = private(data=sites(a=[(x, y)]), rounds=1)
    assert run.history[0].contributors == frozenset(NAMES)
    assert torch.isfinite(run.model.weight).all()


@pytest.mark.parametrize("name", ["masked", "ckks"])
def test_a_clip_follows_the_noised_share_of_gradients_that_it_left_whole(name):
    """The same at all who open the sum; a round's mean is in units of its clip."""
    rule = AdaptiveClip(initial=16.0, learning_rate=1.0)
    unit = PatientLevel(epsilon=8.0, delta=1e-3, rounds=3, denominator=48, adaptive=rule)
    before, clips = flat(state(linear())), []

    def follow(number, total, values):
        nonlocal before
        [clip] = np.unique(np.round((flat(values) - before) / total.mean, 3))
        clips.append(clip)
        before = flat(values)

    run = private(name, privacy=unit, watch=Watch(on_model=follow, progress=Progress.NEVER))
    assert clips[0] == 16.0
    for number in (0, 1):
        within = run.history[number].metrics["within the clip"]
        assert clips[number + 1] == pytest.approx(rule.next(clips[number], fraction=within), abs=2e-3)


def flat(values):
    return np.concatenate([values[name].numpy().ravel() for name in ("weight", "bias")]).astype(np.float64)


def test_any_server_optimiser_takes_the_step():
    run = private(server_optimiser=FedAdam(learning_rate=0.1), rounds=1)
    moved = run.model.weight.detach() - linear().weight.detach()
    np.testing.assert_allclose(moved.abs(), 0.1, atol=0.02)  # Adam's first step, whatever the gradient


# --- whole updates ----------------------------------------------------------------------------------------

WHOLE = ClientLevel(epsilon=8.0, delta=1e-3, rounds=3, clip=4.0)


@pytest.mark.parametrize("name", ["masked", "ckks"])
@pytest.mark.parametrize("rotation", [Rotation.OFF, Rotation.ON])
def test_a_clients_whole_update_is_in_the_sum_once_whatever_its_weight(name, rotation):
    """Local training of any kind, the mean of four updates, and the noise of all: turned back with the
    mean."""
    unit = replace(WHOLE, rotation=rotation)
    means = {}
    watch = Watch(on_model=lambda number, total, _: means.setdefault(number, total), progress=Progress.NEVER)
    data = sites(a=[(x[:3], y[:3]) for x, y in pieces("a")])
    local = LocalTraining(loss=mse_loss, learning_rate=0.05, epochs=3, momentum=0.5, batch_size=4)
    run = private(name, data, privacy=unit, local=local, watch=watch, rounds=1)
    truth = np.zeros(3)
    for each, [(x, y)] in data.items():
        alone = in_the_clear({each: [(x, y)]}, local=local, rounds=1)
        truth += (flat(state(alone.model)) - flat(state(linear()))) / 4
    length = run.privacy.length
    noise = sum(noise_of(run, each, 0, length) for each in NAMES)
    sums = NoisedSums(privacy=unit, plan=run.privacy, local=None, names=(), seed=7)
    drawn = unit.mean(noise, contributors=4, plan=run.privacy, round_seed=sums.rotation(0))
    steps = 4.0 / run.privacy.steps
    np.testing.assert_allclose(means[0].mean, truth + drawn, atol=steps)
    assert np.abs(drawn).max() > 4 * steps
    assert means[0].total_weight == 4


def test_a_clip_of_whole_updates_follows_too():
    unit = ClientLevel(epsilon=8.0, delta=1e-3, rounds=3, adaptive=AdaptiveClip(initial=2.0))
    run = private(privacy=unit)
    assert all("within the clip" in report.metrics for report in run.history)


def test_a_sample_of_the_clients_is_planned_for_as_one():
    run = private(privacy=WHOLE, sampling=Sampling(size=3), rounds=1)
    assert len(run.history[0].contributors) == 3
    assert (run.privacy.clients, run.privacy.roster) == (3, 4)


def test_noise_on_a_running_variance_is_refused_and_norms_may_stay_at_home():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    with pytest.raises(ParameterError, match=r"entry '1.running_mean' travels and is no parameter"):
        private(privacy=WHOLE, model=model, local=LOCAL)
    run = private(privacy=WHOLE, model=model, local=LOCAL, shared=all_but_norms(model), rounds=1)
    assert not run.history[0].aborted


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"privacy": 1.0}, "privacy is a float; it must be a PatientLevel(…) or a ClientLevel(…)"),
        (
            {"rounds": 4},
            "rounds is 4, and the noise of privacy is planned for 3; pass PatientLevel(rounds=4, …)",
        ),
        ({"shape": {"metrics": {"loss": (0, 1)}}}, "the protocol sums the metrics ['loss'], exactly"),
        ({"clip": AutoClip()}, "clip=AutoClip() looks at the sizes of updates without noise"),
        (
            {"evaluate": OnSites(sites(), task=Task.REGRESSION, target_range=(-9, 9))},
            "evaluate=OnSites(…) opens",
        ),
        ({"sampling": Sampling(size=3)}, "pass PatientLevel(sampling_rate=…)"),
        ({"server_optimiser": Scaffold()}, "server_optimiser=Scaffold(…) sums control variates"),
        ({"local": lambda model, data, *, seed: 1}, "pass local=LocalTraining(loss=…, learning_rate=…)"),
        (
            {"local": replace(STEP, epochs=2)},
            "epochs=2 under PatientLevel: a patient would be seen more than once",
        ),
        (
            {"local": replace(STEP, momentum=0.5)},
            "momentum=0.5 under PatientLevel: the server takes the step",
        ),
        ({"local": replace(STEP, weight_decay=0.5)}, "weight_decay=0.5 under PatientLevel"),
        ({"local": replace(STEP, proximal=0.5)}, "proximal=0.5 under PatientLevel"),
        ({"local": replace(STEP, clip_gradient=1.0)}, "cut to PatientLevel(clip=…)"),
        (
            {"local": replace(STEP, optimiser=torch.optim.Adam)},
            "under PatientLevel: the server takes the step",
        ),
        ({"local": replace(STEP, class_weights=(1, 2))}, "a weight cancels in the mean over one record"),
        (
            {"privacy": replace(UNIT, patients={"a": [1] * 12})},
            "patients and sites differ in ['b', 'c', 'd']",
        ),
        (
            {
                "privacy": replace(UNIT, patients=dict.fromkeys(NAMES, [1] * 12)),
                "data": sites(b=DataLoader(TensorDataset(*pieces("b")[0]), shuffle=True)),
            },
            "site 'b' has a DataLoader with an order of its own",
        ),
        (
            {"model": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))},
            "layer '1' is a BatchNorm1d",
        ),
        (
            {"model": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), "shared": all_but("1.*")},
            "stays at home",
        ),
    ],
)
def test_what_is_no_part_of_a_private_training_is_refused(options, said):
    with pytest.raises(ParameterError, match=re.escape(said)):
        private(**options)


def test_other_peoples_data_may_say_how_good_the_model_is_and_a_sites_may_not():
    data = sites()
    with pytest.raises(ParameterError, match=re.escape("evaluate=Central(…) has a site's own data")):
        private(data=data, evaluate=Central(data["b"], task=Task.REGRESSION))
    run = private(data=data, evaluate=Central(pieces("z"), task=Task.REGRESSION), rounds=1)
    assert "mse" in run.history[0].evaluation


def test_what_no_gradient_moves_does_not_travel():
    class Shifted(nn.Linear):
        def __init__(self):
            super().__init__(2, 1)
            self.register_buffer("shift", torch.zeros(1))

    run = private(model=Shifted(), rounds=1)
    assert not run.model.shift.any()
    with pytest.raises(
        ParameterError, match="entry 'shift' travels and is no parameter that requires a gradient"
    ):
        private(model=Shifted(), shared=only("*"))


def test_sums_that_hide_nothing_and_surfaces_are_refused():
    with pytest.raises(ParameterError, match="PlainSum shows each client's vector"):
        private("plain")
    with pytest.raises(ParameterError, match="the protocol sums integers; pass the protocol itself"):
        federate(
            protocol("masked").exact(max_summand=1), linear(), sites(), local=STEP, rounds=1, privacy=UNIT
        )


def test_a_site_whose_data_make_it_fail_sends_noise_all_the_same():
    """Who stays away because of one patient's record tells of it. Its operator sees why."""
    unit = replace(UNIT, patients={name: [0] * (11 if name == "a" else 12) for name in NAMES})
    sums = {}
    watch = Watch(on_model=lambda number, total, _: sums.setdefault(number, total), progress=Progress.NEVER)
    run = private(privacy=unit, rounds=1, watch=watch)
    assert run.history[0].contributors == frozenset(NAMES)
    assert run.history[0].dropped == {"a": ANY}
    assert "int64[11] for 12 records" in run.history[0].dropped["a"]
    whole = private(data=sites(a=[]), privacy=replace(unit, patients={**unit.patients, "a": []}), rounds=1)
    assert run.digest == whole.digest


def test_a_client_whose_training_diverges_sends_noise_all_the_same():
    def local(model, data, *, seed):
        [(x, y)] = data
        rate = 1e30 if len(x) == 3 else 0.05
        return LocalTraining(loss=mse_loss, learning_rate=rate, epochs=9)(model, [(x, y)], seed=seed)

    data = sites(a=[(x[:3], y[:3]) for x, y in pieces("a")])
    run = private(data=data, privacy=WHOLE, local=local, rounds=1)
    assert run.history[0].contributors == frozenset(NAMES)
    assert "it sent noise alone, for its training failed: training diverged" in run.history[0].dropped["a"]


def test_if_nobody_has_more_than_noise_the_training_ends_at_once():
    unit = replace(UNIT, patients=dict.fromkeys(NAMES, [0] * 11))
    with pytest.raises(ParameterError, match=r"no site can take part: 'a': .* int64\[11\] for 12 records"):
        private(privacy=unit)


def test_noise_of_a_random_graph_is_planned_for_the_worst_cohort_that_a_server_may_announce():
    """Of 489 clients in a roster of 500 three are sure and honest, of some smaller cohorts two."""
    most = MaskedSum(max_clients=500, requirements=Requirements(adversary=Adversary.MALICIOUS))
    plan = WHOLE.plan(489, protocol=most, length=10, roster=500)
    assert (most.plan(489, roster=500).sure_honest, plan.sure_honest) == (3, 2)
    assert plan.policy.min_contributors == most.plan(489, roster=500).min_survivors
