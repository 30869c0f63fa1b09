"""What travels, and what a site says for itself: round trips and the litany of what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable

from fl_integration.embedding.parcels import Parcel
from fl_integration.nvflare.filters_delivered import settings_digest
from fl_integration.nvflare.filters_letters import Letter, Model, Shown, contribution_of, letter_in
from fl_integration.nvflare.filters_settings import SiteFile, protocol_of
from fl_integration.nvflare.here import Here
from fl_integration.site.keys import save_identity
from fl_integration.site.roster_file import write_roster
from protocols import CkksSum, LatticeSum
from protocols.identity import Identity, Roster
from protocols.membership import RosterVersion
from protocols.planning.requirements import Adversary
from secagg.errors import DecodeError, ParameterError, VerificationError
from secagg.vectors.fixedpoint import Rounding, Segment

DTYPES = some.sampled_from(["f2", "f4", "f8", "i1", "i8", "u4", "?", ">f4", ">i8"])
ENTRIES = some.one_of(
    DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))),
    some.booleans(),
    some.integers(-(2**63), 2**63 - 1),
    some.floats(),
    some.floats(width=32).map(np.float32),
)


@settings(max_examples=20)
@given(some.dictionaries(some.text(max_size=5), ENTRIES, max_size=5))
def test_a_model_comes_back_as_it_was(weights: dict[str, Any]) -> None:
    weights = {**weights, "floats": np.zeros(1)}
    model = Model.of(weights)
    again = Model.from_bytes(model.to_bytes(), forms=model.forms).values()
    assert list(again) == list(weights)
    for name, value in weights.items():
        assert type(again[name]) is type(value)
        assert np.shape(again[name]) == np.shape(value)
        np.testing.assert_array_equal(again[name], value)
        if isinstance(value, np.ndarray):
            assert again[name].dtype == value.dtype.newbyteorder("=")


def test_a_model_is_not_the_callers() -> None:
    given = {"w": np.zeros(3)}
    model = Model.of(given)
    model.values()["w"] += 1
    given["w"] += 1
    assert model.values()["w"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([np.zeros(3)], "the model is a list; a DXO's data is a dict of arrays by name"),
        ({1: np.zeros(3)}, "a DXO's data is a dict of arrays by name"),
        ({"w": "text"}, "entry 'w' is a str; arrays of numpy and numbers are summed"),
        ({"w": np.zeros(3), "n": 2**63}, "entry 'n' is an integer that does not fit in 64 bits"),
        ({"w": np.zeros(3, complex)}, "complex128; float16, bfloat16, float32 and float64 can be summed"),
        ({"w": np.array(["a"])}, "float64 can be summed"),
        ({"n": 1}, "the state has no finite floating values; there is nothing to sum"),
        ({}, "the state has no finite floating values; there is nothing to sum"),
    ],
)
def test_what_no_model_is(weights: Any, message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        Model.of(weights)
    assert message in str(caught.value)


@given(some.binary(max_size=60))
def test_bytes_that_are_no_model(data: bytes) -> None:
    try:
        Model.from_bytes(data, forms={})
    except DecodeError:
        return


def test_an_array_of_objects_is_never_made() -> None:
    data = Model.of({"w": np.zeros(1)}).to_bytes().replace(b"float64", b"|O      "[:7])
    with pytest.raises(DecodeError, match=r"no array|numeric dtype"):
        Model.from_bytes(data, forms={})


def test_a_letter_comes_back() -> None:
    shown = Shown("train", 3, 9, {"n": 2})
    letter = Letter(Parcel(b"head", b"body", shows=True), bytes(16), shown, b"arrays")
    assert letter_in(letter.put(Shareable())) == letter


def test_a_form_that_there_is_not() -> None:
    with pytest.raises(DecodeError, match="an entry of a form that there is not"):
        Shown("train", 0, 1, {"n": 9}).named_forms()


def test_a_weight_of_numpys_counts() -> None:
    made = DXO(DataKind.WEIGHT_DIFF, {"w": np.ones(2)}, {"n": np.int64(3)})
    contribution = contribution_of(made, Model.of({"w": np.zeros(2)}), weighted_by="n")
    assert contribution.weight == 3
    assert contribution.update.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "weight", [None, 0, -1, 1.5, float("nan"), float("inf"), True, "3", np.float64(2.5), [3], 1j]
)
def test_what_no_weight_is(weight: object) -> None:
    made = DXO(DataKind.WEIGHT_DIFF, {"w": np.ones(2)}, {"n": weight})
    with pytest.raises(ParameterError, match="the result's meta has no positive integer under 'n'"):
        contribution_of(made, Model.of({"w": np.zeros(2)}), weighted_by="n")


def test_a_weight_beyond_all_floats_is_the_protocols_to_refuse() -> None:
    made = DXO(DataKind.WEIGHT_DIFF, {"w": np.ones(2)}, {"n": 10**400})
    assert contribution_of(made, Model.of({"w": np.zeros(2)}), weighted_by="n").weight == 10**400


def test_a_file_of_the_configuration_is_bound_whatever_its_folder_is_called(tmp_path: Path) -> None:
    digests = []
    for content in (b"0.1", b"0.2"):
        (tmp_path / "config" / "__pycache__").mkdir(parents=True, exist_ok=True)
        (tmp_path / "config" / "__pycache__" / "rate.json").write_bytes(content)
        digests.append(settings_digest(tmp_path))
    assert digests[0] != digests[1]


def test_what_python_keeps_beside_a_jobs_code_is_each_sites_own(tmp_path: Path) -> None:
    (tmp_path / "custom" / "__pycache__").mkdir(parents=True)
    (tmp_path / "custom" / "train.py").write_text("step = 1")
    before = settings_digest(tmp_path)
    (tmp_path / "custom" / "__pycache__" / "train.cpython-311.pyc").write_bytes(b"with its own time")
    assert settings_digest(tmp_path) == before
    (tmp_path / "custom" / "train.py").write_text("step = 2")
    assert settings_digest(tmp_path) != before


def test_a_diff_may_come_back_flat_and_in_another_float() -> None:
    made = DXO(DataKind.WEIGHT_DIFF, {"w": np.ones(4)})
    contribution = contribution_of(made, Model.of({"w": np.zeros((2, 2), np.float32)}), weighted_by="")
    assert contribution.weight == 1
    assert contribution.update.dtype == np.float32


# A site's own file, and a protocol as a job writes it


def here(folder: Path, name: str = "site-1", *, simulated: bool = True) -> Here:
    return Here(
        name=name,
        caller="server",
        simulated=simulated,
        startup=folder / "startup",
        local=folder,
        job=folder / "job",
        config=folder / "job" / "app" / "config",
        props={},
        published=(),
    )


def said(folder: Path, what: object) -> SiteFile:
    (folder / "secagg.json").write_text(what if isinstance(what, str) else json.dumps(what))
    return SiteFile.of(here(folder))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds a list; it is an object of JSON"),
        ({"password": "x"}, "says 'password'; it may say identity, max_sessions"),
    ],
)
def test_a_file_that_says_something_else(tmp_path: Path, what: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        said(tmp_path, what)


def test_a_file_that_is_not_there_or_lacks_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match=r"secagg\.json"):
        SiteFile.of(here(tmp_path))
    with pytest.raises(ParameterError, match="the site's file lacks 'roster', a path"):
        said(tmp_path, {}).roster  # noqa: B018 - what is read is not there
    monkeypatch.delenv("SECAGG_PASSWORD", raising=False)
    with pytest.raises(ParameterError, match="password-file"):
        said(tmp_path, {"identity": "x.pem", "roster": "r", "state": "s"}).enrolment()


def test_a_file_that_leads_into_the_job_or_that_others_write(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="'roster' leads into the folder of the job"):
        said(tmp_path, {"roster": "job/roster.txt"}).roster  # noqa: B018 - what is read is the server's
    file = said(tmp_path, {})
    (tmp_path / "secagg.json").chmod(0o666)
    with pytest.raises(ParameterError, match=r"secagg\.json can be written by others"):
        SiteFile.of(file.here)


@pytest.mark.usefixtures("quick_passwords")
def test_a_site_its_kit_and_its_identity_have_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = Identity.generate("site-2")
    save_identity(identity, tmp_path / "x.pem", password="a word of twenty letters")
    write_roster(RosterVersion(Roster.of(identity, Identity.generate("site-1"))), tmp_path / "r")
    monkeypatch.setenv("SECAGG_PASSWORD", "a word of twenty letters")
    file = said(
        tmp_path, {"identity": "x.pem", "roster": "r", "state": "s", "policy": {"min_contributors": 5}}
    )
    with pytest.raises(VerificationError, match="NVFlare's name of this site is 'site-1'"):
        file.enrolment()
    found = SiteFile.of(here(tmp_path, "site-2")).enrolment()
    assert found.policy.min_contributors == 5
    outside = here(tmp_path, "site-2", simulated=False)
    file = SiteFile.of(replace(outside, job=tmp_path / "workspace" / "job"))
    with pytest.raises(VerificationError, match=r"startup kit has no client\.crt"):
        file.enrolment()


def test_a_variable_names_one_file_for_each_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECAGG_SITE_FILE", str(tmp_path / "{site}.json"))
    (tmp_path / "site-2.json").write_text('{"roster": "of site 2"}')
    assert SiteFile.of(here(tmp_path / "nowhere", "site-2")).said["roster"] == "of site 2"


def test_a_site_may_run_one_protocol_alone(tmp_path: Path) -> None:
    mine = {"name": "LatticeSum", "keys": {"name": "PaillierSum", "key_bits": 2048}, "max_clients": 3}
    file = said(tmp_path, {"protocol": mine})
    file.allows(protocol_of(mine))
    with pytest.raises(ParameterError, match="this site runs LatticeSum"):
        file.allows(protocol_of({"name": "CkksSum", "max_clients": 3}))


def test_a_protocol_is_read_with_all_its_parameters() -> None:
    protocol = protocol_of(
        {
            "name": "CkksSum",
            "clip": [[2, 0.5], [3, 1.0]],
            "rounding": "NEAREST",
            "requirements": {"min_contributors": 4, "adversary": "SEMI_HONEST"},
            "max_clients": 5,
        }
    )
    assert isinstance(protocol, CkksSum)
    assert protocol.clip == (Segment(length=2, clip=0.5), Segment(length=3, clip=1.0))
    assert protocol.rounding is Rounding.NEAREST
    assert protocol.requirements.adversary is Adversary.SEMI_HONEST
    assert protocol.requirements.min_contributors == 4
    assert isinstance(protocol_of({"name": "LatticeSum", "keys": {"name": "PaillierSum"}}), LatticeSum)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("CkksSum", "protocol is a str; it is an object with names of parameters"),
        ({}, "the protocol's name is None; the filter pair runs CkksSum, LatticeSum, PaillierSum"),
        ({"name": "MaskedSum"}, "the protocol's name is 'MaskedSum'"),
        ({"name": "CkksSum", "clipp": 1}, "a parameter that there is not"),
        ({"name": "CkksSum", "metrics": {"loss": [0, 1]}}, "the filter pair sums no metrics"),
        ({"name": "CkksSum", "rounding": "UP"}, "rounding is 'UP'; it is one of"),
        ({"name": "CkksSum", "requirements": []}, "requirements is a list"),
        ({"name": "CkksSum", "requirements": {"adversary": 1}}, "adversary is 1; it is one of"),
        ({"name": "CkksSum", "clip": [1.0]}, r"a part of clip is \[length, clip\]"),
        ({"name": "LatticeSum"}, "takes more than one exchange a round"),
        ({"name": "LatticeSum", "keys": "PaillierSum"}, "keys is a str"),
        (
            {"name": "LatticeSum", "keys": {"name": "LatticeSum"}},
            "keys of a LatticeSum are summed by 'L",
        ),
        (
            {"name": "LatticeSum", "keys": {"name": "MaskedSum"}},
            "keys of a LatticeSum are summed by 'M",
        ),
    ],
)
def test_what_no_protocol_is(what: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        protocol_of(what)
