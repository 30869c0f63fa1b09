"""The two doors: every public name under one import, the same object as in its room, nothing early."""

import rlcompleter
import subprocess
import sys
import textwrap
from importlib import import_module, metadata
from pathlib import Path

import pytest

import fl_integration
import protocols
import secagg
from tests.fresh import BLOCKER, ROOT, run

TRAINING = {
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "LocalTraining",
    "fedavg",
    "federate",
}
NEEDS_NO_TORCH = {
    "RocCurve",
    "LogisticRegression",
    "KaplanMeier",
    "Ties",
    "CoxRegression",
    "Calls",
    "Association",
    "AlleleTest",
    "Correlation",
    "CrossTable",
    "LinearRegression",
    "PCA",
    "AnswerLedger",
    "Category",
    "Condition",
    "Count",
    "Genotypes",
    "Histogram",
    "Moments",
    "Number",
    "Quantiles",
    "QuestionRefusedError",
    "SitePolicy",
    "SmallCells",
    "ask",
    "AdaptiveClip",
    "AutoClip",
    "BiasCorrection",
    "BudgetExceededError",
    "BudgetLedger",
    "ClientLevel",
    "Existing",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedYogi",
    "Manifest",
    "Noise",
    "PatientLevel",
    "PrivacyPlan",
    "Progress",
    "PublicIdentity",
    "Rotation",
    "RowLevel",
    "Scaffold",
    "Second",
    "SqliteReleaseLog",
    "TableOne",
    "Watch",
    "WithoutModes",
    "adapters",
    "all_but",
    "all_but_norms",
    "apply_delta",
    "delta",
    "flatten",
    "load_identity",
    "load_public",
    "manifest_of",
    "movable",
    "only",
    "read_public",
    "read_roster",
    "run_round_async",
    "save_identity",
    "segments",
    "sign_roster",
    "table_one",
    "to_tensorboard",
    "unflatten",
    "write_roster",
}
NEEDS_TORCH = {*fl_integration.__all__} - NEEDS_NO_TORCH


def test_the_front_door_has_what_protocols_and_training_have() -> None:
    assert set(secagg.__all__) == {*protocols.__all__, *TRAINING}
    assert set(fl_integration.__all__) >= TRAINING
    assert secagg.__all__ == sorted(secagg.__all__)


def test_the_version_is_the_distributions() -> None:
    assert secagg.__version__ == metadata.version("secagg")


@pytest.mark.parametrize("name", secagg.__all__)
def test_a_name_of_the_front_door_is_the_same_object_as_its_origin(name: str) -> None:
    if name in TRAINING:
        pytest.importorskip("torch")
    origin = fl_integration if name in TRAINING else protocols
    assert getattr(secagg, name) is getattr(origin, name)


@pytest.mark.parametrize("name", fl_integration.__all__)
def test_a_name_of_the_training_door_is_the_same_object_as_in_its_room(name: str) -> None:
    if name in NEEDS_TORCH:
        pytest.importorskip("torch")
    rooms = [room for room, names in fl_integration._ROOMS.items() if name in names]
    assert len(rooms) == 1
    room = import_module(f"fl_integration.{rooms[0]}")
    assert getattr(fl_integration, name) is getattr(room, name)
    assert name in room.__all__


@pytest.mark.parametrize("door", [secagg, fl_integration], ids=lambda door: door.__name__)
def test_names_are_listed_and_completed(door: object) -> None:
    pytest.importorskip("torch")  # the completer looks at what it completes
    names = dir(door)
    assert set(door.__all__) <= set(names)  # type: ignore[attr-defined]
    assert names == sorted(set(names))
    completer = rlcompleter.Completer({"door": door})
    assert (completer.complete("door.feder", 0) or "").startswith("door.federate")


def test_names_that_are_not_there_raise_attribute_errors() -> None:
    said = run(
        """
        import sys
        import secagg, fl_integration
        rooms = ["ckks", "paillier", "rlwe", "standard", "vectors", "wire", "shamir", "masked", "machine",
                 "run", "simulation", "loop", "site", "studies", "nothing", "__wrapped__"]
        for door in (secagg, fl_integration):
            for name in rooms:
                try:
                    getattr(door, name)
                except AttributeError as error:
                    assert name in str(error) and door.__name__ in str(error)
                else:
                    print(door.__name__, name)
        print(sorted(set(sys.modules) & {"protocols", "numpy", "torch", "tenseal", "gmpy2", "cryptography"}))
        """
    )
    assert said == "[]"


def test_a_room_still_opens_beside_its_door() -> None:
    said = run(
        """
        import secagg, secagg.ckks.parameters, fl_integration.vectors.vectorise
        from secagg import errors
        print(secagg.ckks.parameters.__name__, errors.SecAggError is secagg.SecAggError)
        """
    )
    assert said == "secagg.ckks.parameters True"


def test_a_protocol_through_the_door_loads_no_torch_and_no_backend() -> None:
    said = run(
        """
        import sys
        import secagg
        secagg.MaskedSum(max_clients=3)
        print(sorted(set(sys.modules) & {"torch", "tenseal", "gmpy2", "phe", "fl_integration"}))
        secagg.PaillierSum(max_clients=3)
        print("gmpy2" in sys.modules)
        """
    )
    assert said == "[]\nTrue"


def test_importing_protocols_loads_the_machinery_of_none() -> None:
    """What a table of contents costs: the machines and steps of a protocol come with the first one made."""
    said = run(
        """
        import sys
        import protocols
        rooms = ["masked.client", "consortium.client", "lattice.client", "machine.client"]
        late = {"gmpy2", "secagg.rlwe.scheme", *(f"protocols.{room}" for room in rooms)}
        print(sorted(late & set(sys.modules)))
        """
    )
    assert said == "[]"


@pytest.mark.parametrize("door", ["secagg", "fl_integration"])
def test_without_torch_training_names_the_extra(door: str) -> None:
    said = run(
        BLOCKER.format(library="torch")
        + textwrap.dedent(f"""
        import {door} as door
        from secagg.errors import MissingExtraError
        for name in {sorted(TRAINING - NEEDS_NO_TORCH if door == "secagg" else NEEDS_TORCH)!r}:
            try:
                getattr(door, name)
            except MissingExtraError as error:
                assert "secagg[train]" in str(error), error
            else:
                print(name)
        """)
    )
    assert said == ""


@pytest.mark.slow
def test_a_type_checker_knows_the_names(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import fl_integration\nimport secagg\n"
        "reveal_type(secagg.MaskedSum(max_clients=3))\n"
        "reveal_type(secagg.LocalTraining)\nreveal_type(fl_integration.SqliteReleaseLog)\n"
        "secagg.MaskedSun\nfl_integration.federated_\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=ROOT,
    )
    assert 'Revealed type is "protocols.masked.protocol.MaskedSum"' in done.stdout
    assert "LocalTraining" in done.stdout
    assert "SqliteReleaseLog" in done.stdout
    assert 'Module has no attribute "MaskedSun"' in done.stdout
    assert 'Module has no attribute "federated_"' in done.stdout
