"""The hospitals' study under differential privacy: its inputs, its rows, and what its page says."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from fl_integration.command.hospitals import main
from fl_integration.studies.heart import costs, numbers, report, study
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.private import Promise, on_public_scale, private_sentences
from fl_integration.studies.heart.records import Records, load_hospitals, read_records
from fl_integration.studies.heart.stage import Stage
from secagg.errors import ParameterError

ROUNDS = 2
PROMISE = Promise(epsilon=1.0)


def quiet(title: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage(on_public_scale(load_hospitals(seed=1)), rounds=ROUNDS, seed=1, tick=quiet)


def test_no_patient_moves_what_another_is_to_the_model(monkeypatch):
    """The split is that of the other rows; an input is its patient's alone."""
    hospitals = load_hospitals(seed=1)
    whole = on_public_scale(hospitals)
    records = read_records()

    def changed() -> dict[object, Records]:
        found = {}
        for site, each in records.items():
            values = {name: column.copy() for name, column in each.values.items()}
            for column in values.values():
                column[1:] = 3.0
            found[site] = replace(each, values=values)
        return found

    monkeypatch.setattr("fl_integration.studies.heart.private.read_records", changed)
    for before, after, hospital in zip(whole, on_public_scale(hospitals), hospitals, strict=True):
        first = int(records[hospital.site].ids[0])
        for name in ("train", "test"):
            ids = getattr(hospital, f"{name}_ids")
            assert len(getattr(before, f"{name}_x")) == len(ids)
            for place in np.flatnonzero(ids == first):
                one, other = (getattr(each, f"{name}_x")[place] for each in (before, after))
                np.testing.assert_array_equal(one, other)


def test_the_private_row_and_the_same_steps_without_noise(stage):
    row, private = stage.private(PROMISE, Choice.MASKED, {})
    plain = stage.steps()
    assert (row.title, row.kind, plain.kind) == ("MaskedSum, ε = 1", "private", "steps")
    assert [report.epsilon for report in row.history] == sorted(private.plan.epsilon_by_round)
    assert private.spent == pytest.approx(private.plan.epsilon, rel=1e-9)
    assert private.plan.sure_honest == 2
    assert len(row.curve) == len(plain.curve) == ROUNDS
    assert 0.5 < row.overall.value < 1
    again, _ = stage.private(PROMISE, Choice.MASKED, {})
    assert again.overall == row.overall  # the demonstration's randomness repeats


@pytest.mark.slow
def test_the_study_shows_the_plan_and_what_noise_changes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(costs, "PARAMETERS", 2000)
    monkeypatch.setattr("fl_integration.command.hospitals.SPLITS", 1)
    out = tmp_path / "out"
    given = ["--protocol", "masked", "--rounds", "2", "--epsilon", "2", "--delta", "1e-5", "--out", str(out)]
    assert main(given) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    page = (out / "report.html").read_text()
    for said in (
        "MaskedSum, ε = 2",
        "the same steps, no noise",
        "One row is one patient",
        "After 2 rounds ε = 2 is spent of 2.",
        "Two that pool what they know",
        "sure and honest at least 2 contributors of every sum that is opened",
    ):
        assert said in printed
        assert said in re.sub(r"\s+", " ", page)
    assert "nor does its epsilon cover them" in printed  # pooled figures, and Table 1, are exact
    assert "It is exact: the epsilon of the private training below does not cover it" in re.sub(
        r"\s+", " ", page
    )
    assert page.count("With noise that hides each patient") == 2
    assert "which this run does not use" not in page
    acts = json.loads((out / "results.json").read_text())["acts"]
    assert [act["privacy"]["sure_honest"] for act in acts] == [2, 2]
    for act in acts:
        assert act["privacy"]["delta"] == 1e-5
        [row] = (row for row in act["rows"] if row["kind"] == "private")
        assert row["rounds"][1]["epsilon"] == pytest.approx(2.0, rel=1e-6)


def test_without_a_promise_nothing_is_said_of_noise():
    act = study.run_act(sites=3, choices=(), rounds=1, seed=1)
    assert act.private is None
    assert private_sentences(act) == []
    page = report.html((act,), {}, (), {}, {report.picture(act, of=1): b""})
    assert "With noise" not in page
    assert "differential privacy, which this run does not use" in page
    assert numbers.results((act,), {}, (), {})["acts"][0]["privacy"] is None
    assert study.ticks(sites=3, choices=(), rounds=5) + 10 == study.ticks(
        sites=3, choices=(), rounds=5, promise=PROMISE
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--epsilon", "0"], "--epsilon is 0; pass a number above 0, up to 20: 1 is strict"),
        (["--epsilon", "nan"], "--epsilon is nan; pass a number above 0"),
        (["--epsilon", "1", "--delta", "0.5"], "--delta is 0.5; pass a number above 0, up to 0.001"),
        (["--delta", "1e-5"], "--delta goes with --epsilon"),
        (["--epsilon", "1", "--protocol", "plain"], "--epsilon needs a sum that hides something"),
    ],
)
def test_options_that_cannot_be(options, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(options) == 2
    assert said in capsys.readouterr().err


def test_a_promise_is_a_promise():
    with pytest.raises(ParameterError, match=r"epsilon is 21; it must be a number in \(0, 20\]"):
        Promise(epsilon=21)
