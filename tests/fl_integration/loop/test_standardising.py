"""Scaled inputs: pooled figures equal those of one pile, trainings see them, and what cannot be is
refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fl_integration.loop.evaluation import Central, OnSites, Task
from fl_integration.loop.federated import federate
from fl_integration.loop.standardising import Standardisation, Standardise, standardised
from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.rows import RowLevel
from fl_integration.site.scaling import Scale, ScaledLoader, inputs_of, scaled
from fl_integration.site.step import size_of
from fl_integration.site.training import LocalTraining
from fl_integration.statistics.columns import Number
from fl_integration.statistics.refusal import QuestionRefusedError
from protocols import CkksSum, MaskedSum, PlainSum, Rounding
from secagg.errors import ParameterError
from tests.fl_integration.loop.stage import QUIET

NAMES = "abc"
COLUMNS = (
    Number("age", low=0, high=128, unit=1 / 16),
    None,
    Number("dose", low=-1000, high=1000, unit=1 / 16),
)
POOLED = Standardisation(columns=COLUMNS, max_rows=64)
SITE = Standardisation(columns=COLUMNS, how=Standardise.SITE)
LOCAL = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.1)
PLAIN = PlainSum(max_clients=3, max_weight=64, bits=24, rounding=Rounding.NEAREST)


def inputs(seed: int) -> torch.Tensor:
    """float32[20 + 5·seed, 3] on the grid of the columns: ages, a flag, doses; of other patients at each
    site."""
    rng, rows = np.random.default_rng(seed), 20 + 5 * seed
    ages, doses = (
        np.round(rng.normal(40 + 10 * seed, 8, rows)),
        np.round(rng.normal(300 * (seed - 1), 50, rows)),
    )
    return torch.tensor(np.stack([ages, rng.integers(0, 2, rows), doses], axis=1), dtype=torch.float32)


def sites() -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
    found = {}
    for seed, name in enumerate(NAMES):
        x = inputs(seed)
        found[name] = [(x[:7], x[:7, :1] / 100), (x[7:], x[7:, :1] / 100)]
    return found


def model() -> torch.nn.Module:
    made = torch.nn.Linear(3, 1)
    torch.nn.init.zeros_(made.weight)
    torch.nn.init.zeros_(made.bias)
    return made


def pile() -> np.ndarray:
    return np.concatenate([inputs_of(each, columns=3) for each in sites().values()])


# --- the figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [PLAIN, MaskedSum(max_clients=3)])
def test_pooled_figures_are_those_of_the_pile(protocol):
    on_scale, found = standardised(protocol, sites(), POOLED, seed=1)
    places = [0, 2]
    np.testing.assert_allclose(found.scale.mean[places], pile()[:, places].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        found.scale.deviation[places], pile()[:, places].std(axis=0, ddof=1), rtol=1e-12
    )
    assert (found.scale.mean[1], found.scale.deviation[1]) == (0, 1)
    together = np.concatenate([inputs_of(each, columns=3) for each in on_scale.values()])
    np.testing.assert_allclose(together[:, places].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(together[:, places].std(axis=0, ddof=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(together[:, 1], pile()[:, 1])
    assert found.answer.provenance.contributors == set(NAMES)
    assert len(set(map(id, found.scales.values()))) == 1


def test_own_figures_are_each_sites_own():
    on_scale, found = standardised(PLAIN, sites(), SITE)
    for name, data in on_scale.items():
        x = inputs_of(data, columns=3)
        np.testing.assert_allclose(x[:, [0, 2]].mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(x[:, [0, 2]].std(axis=0, ddof=1), 1, rtol=1e-6)
        assert found.scales[name].mean[0] == pytest.approx(inputs(NAMES.index(name))[:, 0].mean().item())
    assert found.answer is None
    with pytest.raises(ParameterError, match=r"a scale of its own .* take scales\[site\]"):
        found.scale  # noqa: B018 (to ask for it is the test)


def test_missing_constant_and_outlying_values():
    """NaN is in no figure and stays; a constant is not divided; what is beyond a bound counts as the
    bound."""
    given = {name: [(x := inputs(seed).clone(), x[:, :1])] for seed, name in enumerate(NAMES)}
    for data in given.values():
        data[0][0][0, 0] = torch.nan
        data[0][0][:, 1] = 5.0
    given["a"][0][0][1, 2] = 1e6
    columns = (COLUMNS[0], Number("flag", low=0, high=8), COLUMNS[2])
    on_scale, found = standardised(PLAIN, given, Standardisation(columns=columns))
    raw = np.concatenate([inputs_of(each, columns=3) for each in given.values()])
    assert found.scale.mean[0] == pytest.approx(np.nanmean(raw[:, 0]))
    assert found.scale.deviation[1] == 1
    assert found.scale.mean[2] == pytest.approx(np.clip(raw[:, 2], -1000, 1000).mean())
    x = on_scale["a"][0][0]
    assert x[0, 0].isnan()
    assert (x[:, 1] == 0).all()
    assert x[1, 2] > 1000  # scaled as it is


def test_scale_of_another_site_would_be_seen():
    """A planted mistake, the figures of one site for all, moves the mean."""
    _, found = standardised(PLAIN, sites(), SITE)
    x = found.scales["a"].apply(inputs(2))
    assert abs(x[:, 0].mean()) > 0.5


# --- the loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("standardise", [POOLED, SITE])
def test_federate_trains_on_the_scale(standardise):
    given = sites()
    on_scale, found = standardised(PLAIN, given, standardise)
    run = federate(PLAIN, model(), given, local=LOCAL, rounds=3, standardise=standardise, watch=QUIET)
    by_hand = federate(PLAIN, model(), on_scale, local=LOCAL, rounds=3, watch=QUIET)
    assert run.digest == by_hand.digest
    assert run.standardised.how is standardise.how
    assert run.standardised.digest == found.digest
    assert f"Standardise.{standardise.how.name}" in str(run)
    assert by_hand.standardised is None


def test_where_the_clients_learn_they_learn_the_figures():
    protocol = CkksSum(max_clients=3, max_weight=64, bits=24, rounding=Rounding.NEAREST)
    run = federate(protocol, model(), sites(), local=LOCAL, rounds=1, standardise=POOLED, watch=QUIET)
    np.testing.assert_allclose(run.standardised.scale.mean[0], pile()[:, 0].mean(), rtol=1e-12)


def test_evaluation_is_on_the_scale_too():
    evaluate = {
        "sites": OnSites(sites(), task=Task.REGRESSION, target_range=(-10, 10)),
        "central": Central([(inputs(1), inputs(1)[:, :1] / 100)], task=Task.REGRESSION),
    }
    for each in evaluate.values():
        run = federate(
            PLAIN, model(), sites(), local=LOCAL, rounds=10, standardise=POOLED, evaluate=each, watch=QUIET
        )
        assert run.history[-1].evaluation["rmse"] < 0.1


def test_loader_stays_a_loader():
    x = inputs(1)
    loader = DataLoader(TensorDataset(x, x[:, :1] / 100), batch_size=4, shuffle=True, drop_last=True)
    before = torch.random.get_rng_state()
    given = scaled(loader, Scale(mean=np.array([1.0, 0, 0]), deviation=np.array([2.0, 1, 1])))
    assert isinstance(given, ScaledLoader)
    assert inputs_of(loader, columns=3).shape == (24, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (len(given), size_of(given)) == (6, 24)
    passes = [torch.cat([piece for piece, _ in given])[:, 0] for _ in range(2)]
    assert not torch.equal(*passes)  # each pass is drawn anew
    assert set(passes[0].tolist()) <= set(((x[:, 0] - 1) / 2).tolist())
    data = dict.fromkeys(NAMES, loader)
    run = federate(PLAIN, model(), data, local=LOCAL, rounds=1, standardise=POOLED, watch=QUIET)
    assert run.history[0].total_weight == 72


def test_checkpoint_of_another_scale_is_refused(tmp_path):
    given = {"local": LOCAL, "watch": QUIET, "checkpoint": tmp_path}
    federate(PLAIN, model(), sites(), rounds=1, standardise=POOLED, **given)
    went_on = federate(PLAIN, model(), sites(), rounds=2, standardise=POOLED, **given)
    whole = federate(PLAIN, model(), sites(), rounds=2, standardise=POOLED, local=LOCAL, watch=QUIET)
    assert went_on.digest == whole.digest
    for other in (None, SITE):
        with pytest.raises(ParameterError, match=r"another standardise=, or of inputs with other means"):
            federate(PLAIN, model(), sites(), rounds=3, standardise=other, **given)


# --- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ()}, "columns names no column to scale; pass a Number"),
        ({"columns": (None, None)}, "columns names no column to scale"),
        ({"columns": ("age",)}, "columns holds a str; pass a Number with bounds for each column of x"),
        ({"columns": (COLUMNS[0], COLUMNS[0])}, "columns has a name twice"),
        ({"how": "pooled"}, r"how is a str; pass Standardise\.POOLED"),
        ({"max_rows": 0}, "max_rows is 0; it must be an int of at least 1"),
        ({"max_rows": 2.5}, r"max_rows is 2\.5"),
    ],
)
def test_standardisation_that_cannot_be(arguments, message):
    with pytest.raises(ParameterError, match=message):
        Standardisation(**{"columns": COLUMNS, **arguments})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(20, 3, 8, 8), r"of shape|x has the shape \[20, 3, 8, 8\].* scale images"),
        (torch.zeros(20), r"x has the shape \[20\]"),
        (torch.zeros(20, 2), r"x has 2 columns, and 3 are declared; name each in columns="),
        (torch.zeros(20, 3, dtype=torch.int64), r"x holds torch\.int64; standardised inputs are floating"),
        (torch.full((20, 3), torch.inf), "have an infinite value; make it missing"),
        ("text", r"x is a str; it must be an array or a tensor of shape \[rows, 3\]"),
    ],
)
@pytest.mark.parametrize("standardise", [POOLED, SITE])
def test_inputs_that_no_scale_fits(x, message, standardise):
    given = {**sites(), "b": [(x, torch.zeros(20, 1))]}
    with pytest.raises(ParameterError, match=message) as caught:
        standardised(PLAIN, given, standardise)
    assert "the inputs of 'b'" in str(caught.value)


def test_a_site_of_few_rows_is_not_told_apart():
    few = {**sites(), "b": [(inputs(1)[:9], torch.zeros(9, 1))]}
    with pytest.raises(
        QuestionRefusedError, match="2 of 3 sites have enough rows that count; at least 3 must"
    ):
        standardised(PLAIN, few, POOLED)
    _, found = standardised(PLAIN, few, SITE)
    assert found.scales["b"].mean[0] == pytest.approx(inputs(1)[:9, 0].mean().item())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (object(), "the data is a object, whose inputs nobody here can scale"),
        ([1], "a piece of the data is a int"),
    ],
)
def test_data_that_nobody_can_read(data, message):
    with pytest.raises(ParameterError, match=message):
        standardised(PLAIN, {**sites(), "b": data}, POOLED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"standardise": Standardise.POOLED},
            r"standardise is Standardise\.POOLED; pass Standardisation\(columns",
        ),
        ({"standardise": True}, "standardise is a bool"),
        (
            {"standardise": POOLED, "evaluate": lambda number, model: {}},
            "evaluate is a function, whose examples",
        ),
        (
            {
                "standardise": SITE,
                "evaluate": Central([(torch.zeros(2, 3), torch.zeros(2))], task=Task.BINARY),
            },
            r"Central\(…\) has examples of no site.* take Standardise\.POOLED",
        ),
    ],
)
def test_what_the_loop_refuses_before_anything_runs(arguments, message):
    def never(model, data, *, seed):
        raise AssertionError("nothing runs")

    with pytest.raises(ParameterError, match=message):
        federate(PLAIN, model(), sites(), local=never, rounds=1, watch=QUIET, **arguments)


@pytest.mark.parametrize(
    ("mean", "deviation", "message"),
    [
        ([0.0], [1.0, 1.0], r"both must be \[columns\]"),
        ([0.0], [0.0], "a deviation is not finite and above 0"),
        ([np.nan], [1.0], "a mean is not finite"),
    ],
)
def test_scale_that_is_none(mean, deviation, message):
    with pytest.raises(ParameterError, match=message):
        Scale(mean=np.array(mean), deviation=np.array(deviation))


# --- under differential privacy ---------------------------------------------------------------------------


def private(rounds: int = 2) -> dict[str, object]:
    pytest.importorskip("dp_accounting")
    unit = PatientLevel(epsilon=4.0, delta=1e-3, rounds=rounds, denominator=75)
    return {"local": LOCAL, "rounds": rounds, "privacy": unit, "watch": QUIET}


@pytest.mark.parametrize("standardise", [POOLED, SITE])
def test_exact_figures_are_refused_under_privacy(standardise):
    with pytest.raises(ParameterError, match=r"exact figures .* Standardisation\(privacy=RowLevel\(epsilon="):
        federate(MaskedSum(max_clients=3), model(), sites(), standardise=standardise, **private())


def test_noised_figures_are_no_part_of_a_checkpoint(tmp_path):
    """Asked for again they are others, so that the training would not go on; and they are paid for again."""
    noised = replace(POOLED, privacy=RowLevel(epsilon=8.0, delta=1e-3))
    with pytest.raises(ParameterError, match="that is taken up would ask for others, and pay again"):
        federate(
            MaskedSum(max_clients=3), model(), sites(), standardise=noised, checkpoint=tmp_path, **private()
        )


def test_noised_figures_go_with_privacy():
    given = private()
    noised = replace(POOLED, privacy=RowLevel(epsilon=8.0, delta=1e-3))
    run = federate(MaskedSum(max_clients=3), model(), sites(), standardise=noised, **given)
    assert run.standardised.answer.provenance.epsilon == pytest.approx(8.0, rel=1e-3)
    assert "on top of what training spends" in str(run)
    exact = pile()[:, 0].mean()
    assert 0 < abs(run.standardised.scale.mean[0] - exact) < 20


def test_noise_for_own_figures_is_refused():
    with pytest.raises(
        ParameterError, match=r"privacy= is of pooled figures, and Standardise\.SITE asks for none"
    ):
        replace(SITE, privacy=RowLevel(epsilon=1.0, delta=1e-3))
