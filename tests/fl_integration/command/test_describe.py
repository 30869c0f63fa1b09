"""`secagg describe`: the hospitals' Table 1 is that of one pile, under every hospital's policy."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from fl_integration.command.app import app
from fl_integration.command.main import main
from fl_integration.command.tables import show
from fl_integration.statistics.cohort import CategoryLine, TableOne
from fl_integration.studies.heart import describing
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.declared import CODES, DISEASE, MEASUREMENTS, tables
from fl_integration.studies.heart.describing import MIN_ROWS, cohort


@pytest.fixture(scope="module")
def table() -> TableOne:
    return cohort(Choice.PLAIN, sites=4, seed=1)


def rows(column: str, disease: int) -> pd.Series:
    """Known values of the hospitals that have at least `MIN_ROWS` of them in this group."""
    found = []
    for each in tables(sites=4).values():
        values = pd.Series(each[column][each[DISEASE.name] == disease]).dropna()
        found += [values] if len(values) >= MIN_ROWS else []
    return pd.concat(found)


def test_it_is_the_table_of_the_pile(table):
    assert table.rows.tolist() == [920, 411, 509]
    for line in table.lines:
        groups = [rows(line.column.name, disease) for disease in (0, 1)]
        if isinstance(line, CategoryLine):
            counts = np.array([[(each == level).sum() for each in groups] for level in line.column.levels])
            np.testing.assert_array_equal(line.counts[:, 1:], counts)
            assert line.p_value == pytest.approx(stats.chi2_contingency(counts, correction=False).pvalue)
            continue
        assert line.count.tolist()[1:] == [len(each) for each in groups]
        if line.median:
            np.testing.assert_array_equal(
                line.centre[1:], [np.quantile(each, 0.5, method="inverted_cdf") for each in groups]
            )
        else:
            assert line.centre[1:] == pytest.approx([each.mean() for each in groups])
            assert line.spread[1:, 0] == pytest.approx([each.std() for each in groups])
            assert line.p_value == pytest.approx(stats.ttest_ind(*groups, equal_var=False).pvalue)
    assert [line.column for line in table.lines] == [*MEASUREMENTS, *CODES]


def test_switzerland_is_in_no_figure_of_what_it_lacks(table):
    notes = " ".join(table.notes)
    assert (
        "Serum cholesterol, mg/dl, disease: 1 site has too few values, and none of them is counted." in notes
    )
    assert "Serum cholesterol, mg/dl, no disease: 1 site has too few values" in notes
    assert rows("chol", 1).eq(0).sum() == 0


def test_no_count_below_the_policys_is_printed(table):
    shown = [cell for row in table.cells() for cell in row[1:-1]]
    counts = [int(cell.split()[0].replace(",", "")) for cell in shown if re.match(r"^[\d,]+( \(|$)", cell)]
    assert counts
    assert all(each == 0 or each >= MIN_ROWS for each in counts)
    assert f"<{MIN_ROWS}" in shown  # two electrocardiograms are missing


@pytest.mark.slow
def test_masks_change_nothing(table):
    assert cohort(Choice.MASKED, sites=4, seed=1).cells() == table.cells()


@pytest.mark.slow
def test_the_command_shows_it():
    done = CliRunner().invoke(app, ["describe", "heart", "--sites", "3"])
    assert done.exit_code == 0
    text = re.sub(r"\s+", " ", done.stdout)
    assert "no disease" in text
    assert re.search(r"Age, years 53\.\d \(\d\.\d\)", text)
    assert re.search(r"From \d+ secure sums of 3 sites; each sent at most [\d,]+ bytes\.", text)


def test_plain_says_that_it_hides_nothing(monkeypatch):
    monkeypatch.setattr(describing, "_COLUMNS", (MEASUREMENTS[0], CODES[0]))
    monkeypatch.setattr(describing, "_SKEWED", ())
    done = CliRunner().invoke(app, ["describe", "heart", "--protocol", "plain"])
    assert "PlainSum hides nothing" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sites", "2"], "--sites is 2; 3 or 4 hospitals can take part"),
        (["--min-rows", "0"], "--min-rows is 0; pass at least 1"),
        (["lungs"], "Invalid value"),
        (["--protocol", "none"], "Invalid value"),
    ],
)
def test_what_cannot_be_is_one_line_and_code_2(capsys, options, message):
    assert main(["describe", *options]) == 2
    assert message in capsys.readouterr().err


def test_hospitals_that_ask_for_more_rows_than_they_have_refuse(capsys):
    """With three hospitals each must have enough in every group, or two would be told apart."""
    assert main(["describe", "heart", "--sites", "3", "--min-rows", "60"]) == 2
    assert "sites have enough rows that count; at least 3 must" in capsys.readouterr().err


@pytest.mark.parametrize(("columns", "lines"), [(200, 4), (60, 8), (20, 8)])
def test_a_narrow_terminal_cuts_no_word_in_two(columns, lines, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    heads = ("", "all\n(n = 920)", "no disease\n(n = 411)", "disease\n(n = 509)", "missing", "p")
    row = ("Serum cholesterol, mg/dl", "246.8 (58.5)", "240.2 (55.8)", "254.0 (60.6)", "202", "<.001")
    show(heads, [row], numbers=True)
    said = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    words = said.split()
    assert all(words.count(word) for cell in (*heads, *row) for word in cell.split())
    assert len(said.splitlines()) == lines
    assert max(map(len, said.splitlines())) <= max(columns, 60)
