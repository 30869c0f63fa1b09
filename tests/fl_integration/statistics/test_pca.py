"""Components of pooled rows are scikit-learn's, with signs of their own."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA as Reference
from sklearn.preprocessing import StandardScaler

from fl_integration.statistics.columns import Category, Number
from fl_integration.statistics.pca import PCA, Matrix
from fl_integration.statistics.question import Step
from fl_integration.statistics.rows import Rows
from secagg.errors import ParameterError
from tests.fl_integration.statistics.pooled import pooled

NUMBERS = tuple(Number(name, low=-64, high=64, unit=2.0**-10) for name in "abcd")
EXACT = 1e-12


def table_of(rng, rows):
    mixed = rng.normal(0, 1, (rows, 4)) @ rng.normal(0, 1, (4, 4)) * [1, 2, 4, 8] + [9, -9, 3, 0]
    return pd.DataFrame(np.rint(np.clip(mixed, -64, 64) * 2**10) / 2**10, columns=list("abcd"))


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(11)
    tables = [table_of(rng, rows) for rows in (150, 0, 80)]
    tables[0].iloc[::20, 2] = np.nan
    return tables


def up_to_sign(loadings, reference):
    return loadings * np.sign((loadings * reference).sum(axis=1))[:, None]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_components_of_the_covariance_are_scikit_learns(tables, count):
    found = pooled(PCA(NUMBERS, count), tables)
    everybody = pd.concat(tables).dropna().to_numpy()
    reference = Reference(n_components=count, svd_solver="full").fit(everybody)
    assert (found.count, found.incomplete) == (222, 8)
    assert found.mean == pytest.approx(reference.mean_, rel=EXACT)
    assert found.variances == pytest.approx(reference.explained_variance_, rel=EXACT)
    assert found.ratios == pytest.approx(reference.explained_variance_ratio_, rel=EXACT)
    assert up_to_sign(found.loadings, reference.components_) == pytest.approx(
        reference.components_, rel=EXACT, abs=EXACT
    )
    mine = found.scores(everybody)
    assert np.abs(mine) == pytest.approx(np.abs(reference.transform(everybody)), abs=1e-10)


def test_components_of_the_correlation_are_those_of_standardised_columns(tables):
    found = pooled(PCA(NUMBERS, 4, Matrix.CORRELATION), tables)
    everybody = pd.concat(tables).dropna().to_numpy()
    standard = StandardScaler().fit_transform(everybody)
    reference = Reference(svd_solver="full").fit(standard)
    rows = len(everybody)
    assert found.variances == pytest.approx(reference.explained_variance_ * (rows - 1) / rows, rel=EXACT)
    assert found.variances.sum() == pytest.approx(4, rel=EXACT)
    assert up_to_sign(found.loadings, reference.components_) == pytest.approx(
        reference.components_, rel=EXACT, abs=EXACT
    )
    assert found.scale == pytest.approx(everybody.std(axis=0, ddof=1), rel=EXACT)
    assert found.scores(everybody).var(axis=0, ddof=1) == pytest.approx(found.variances, rel=1e-10)


def test_the_largest_loading_is_positive(tables):
    loadings = pooled(PCA(NUMBERS, 4), tables).loadings
    assert (np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_a_column_that_does_not_vary_has_no_correlation_but_a_covariance():
    table = {"a": [1.0, 2.0, 4.0], "b": [5.0, 5.0, 5.0]}
    found = pooled(PCA(NUMBERS[:2], 2), [table])
    assert found.variances == pytest.approx([7 / 3, 0])
    assert found.loadings.tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ParameterError, match="column 'b' is the same in all complete rows: leave it out"):
        pooled(PCA(NUMBERS[:2], 2, Matrix.CORRELATION), [table])


def test_rows_that_do_not_vary_at_all_have_no_shares():
    found = pooled(PCA(NUMBERS[:2], 1), [{"a": [1.0, 1.0], "b": [5.0, 5.0]}])
    assert found.variances.tolist() == [0]
    assert np.isnan(found.ratios).all()


def test_a_single_row_has_no_components():
    with pytest.raises(ParameterError, match="1 rows have all 2 values; a PCA takes at least 2"):
        pooled(PCA(NUMBERS[:2], 1), [{"a": [1.0, np.nan], "b": [5.0, 5.0]}])


def test_scores_need_all_columns_and_miss_where_a_value_does(tables):
    found = pooled(PCA(NUMBERS, 1), tables)
    assert np.isnan(found.scores(np.array([[1.0, 2.0, np.nan, 4.0]]))).all()
    with pytest.raises(ParameterError, match=r"values of shape \(2, 3\); pass \[rows, 4\]"):
        found.scores(np.ones((2, 3)))


def test_it_is_a_frame_and_draws_itself(tables):
    found = pooled(PCA(NUMBERS, 2), tables)
    frame = found.to_frame()
    assert frame.columns.tolist() == ["variance", "share", "a", "b", "c", "d"]
    assert frame.loc["PC2", "c"] == found.loadings[1, 2]
    axes = found.draw()
    assert [bar.get_height() for bar in axes.patches] == found.ratios.tolist()
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(found.ratios.sum())
    assert str(found).endswith("222 complete rows, 8 were left out")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((NUMBERS[:1], 1), "a tuple of at least 2 Number"),
        (((NUMBERS[0], Category("sex", ("f", "m"))), 1), "a tuple of at least 2 Number"),
        ((NUMBERS, 0), "components is 0; of these columns there are 1 to 4"),
        ((NUMBERS, 5), "components is 5; of these columns there are 1 to 4"),
        ((NUMBERS, 1.5), "components is 1.5"),
        ((NUMBERS, True), "components is True"),
        ((NUMBERS, 2, "correlation"), "matrix is 'correlation'; it must be a Matrix"),
    ],
)
def test_what_is_no_pca(arguments, match):
    with pytest.raises(ParameterError, match=match):
        PCA(*arguments)


def test_numpys_integers_are_numbers():
    assert type(PCA(NUMBERS, np.int64(2)).components) is int


def test_a_step_of_another_question_is_refused():
    with pytest.raises(ParameterError, match="this question has 'products' of 16 and none"):
        PCA(NUMBERS).summand(Step("products", 17), Rows.of({name: [] for name in "abcd"}))
