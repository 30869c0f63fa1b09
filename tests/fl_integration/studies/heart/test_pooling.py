"""The study on pooled figures: they are those of one pile, and the report says which were used."""

import re

import numpy as np
import pytest

from fl_integration.command.main import main
from fl_integration.loop.standardising import Standardise
from fl_integration.studies.heart import report, study
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.declared import MEASUREMENTS
from fl_integration.studies.heart.pooling import ask_figures, figures_of
from fl_integration.studies.heart.records import Site, load_hospitals, read_records, training_values


def pile(name: str, *, sites: int) -> np.ndarray:
    values = [training_values(read_records()[site], name, seed=1) for site in tuple(Site)[:sites]]
    together = np.concatenate(values)
    return together[~np.isnan(together)]


@pytest.mark.parametrize("sites", [3, 4])
def test_figures_are_those_of_the_pile(sites):
    figures = figures_of(ask_figures(Choice.MASKED.protocol(clients=sites), sites=sites, seed=1))
    for column in MEASUREMENTS:
        values = pile(column.name, sites=sites)
        assert figures[column.name] == pytest.approx((values.mean(), values.std()), rel=1e-9)


def test_hospitals_on_pooled_figures():
    """What is known of each hospital's rows is scaled by the pile's figures; what Switzerland lacks says
    nothing."""
    figures = {column.name: (pile(column.name, sites=4).mean(), 2.0) for column in MEASUREMENTS}
    own, pooled = load_hospitals(sites=4, seed=1), load_hospitals(sites=4, seed=1, figures=figures)
    for before, after in zip(own, pooled, strict=True):
        np.testing.assert_array_equal(before.train_ids, after.train_ids)
        np.testing.assert_array_equal(before.train_x[:, 5:], after.train_x[:, 5:])
        ages = training_values(read_records()[after.site], "age", seed=1)
        np.testing.assert_allclose(after.train_x[:, 0], (ages - figures["age"][0]) / 2, rtol=1e-5, atol=1e-5)
    assert (pooled[3].train_x[:, 2] == 0).all()


@pytest.fixture(scope="module")
def acts():
    return {
        how: study.run_act(sites=3, choices=(Choice.PLAIN,), rounds=1, seed=1, standardise=how)
        for how in Standardise
    }


@pytest.mark.slow
def test_each_choice_is_told_beside_the_other(acts):
    site, pooled = acts[Standardise.SITE].scaling, acts[Standardise.POOLED].scaling
    assert (site.this, site.other) == (pooled.other, pooled.this)
    assert site.this != site.other
    assert (site.how, pooled.how) == (Standardise.SITE, Standardise.POOLED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Standardise.SITE, "Measurements are scaled by each hospital's own mean and deviation: "),
        (
            Standardise.POOLED,
            "Measurements are scaled by the mean and deviation of all training patients, from ",
        ),
    ],
)
def test_the_note_says_which(acts, how, said):
    act = acts[how]
    note = report.scaling_note(act)
    assert note.startswith(said)
    assert f"{act.scaling.this.value:.3f}" in note
    assert f"{act.scaling.other.value:.3f}" in note
    assert re.search(r"\([\d,]+ bytes a hospital\)", note)


def test_an_engine_prepares_alone(capsys):
    assert main(["study", "heart", "--engine", "flower", "--standardise", "pooled"]) == 2
    assert "--standardise pooled is for a run in one process" in capsys.readouterr().err


@pytest.mark.slow
def test_other_splits_are_on_the_same_scale():
    given = {"splits": 2, "rounds": 2, "seed": 1}
    own, pooled = (study.repeat_gains(standardise=how, **given) for how in Standardise)
    assert own != pooled
    assert [each.site for each in own] == [each.site for each in pooled]
