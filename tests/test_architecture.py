"""The arrows of the house, read from the syntax tree and tried in fresh interpreters.

secagg <- protocols <- fl_integration; siblings under protocols do not know each other; each optional backend
stands behind one wrapper and loads on first use.
"""

import ast
import importlib.util
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.fresh import BLOCKER, ROOT, run

FLOORS = ("secagg", "protocols", "fl_integration")
SIBLINGS = ("plain", "masked", "lattice", "consortium")
MEETING_PLACES = {"composition", "advice"}
"""Where protocols are put together, and compared: above them all."""
FRONT_DOOR = "secagg/__init__.py"
"""The one file from which an arrow runs up, see its own words."""
TOP_LEVEL = {
    *(*FLOORS, "tests", "bench", "pyproject.toml", "README.md", "LICENSE"),
    *("CHANGELOG.md", "SECURITY.md", "Makefile", "constraints.txt"),
}
HEAVY = (
    "tenseal",
    "phe",
    "torch",
    "matplotlib",
    "flwr",
    "nvflare",
    "sklearn",
    "rich",
    "typer",
    "jinja2",
    "pandas",
    "logging",
)


def modules(floor: str) -> Iterator[tuple[str, Path]]:
    """(dotted name, path) of every module of a floor."""
    for path in sorted((ROOT / floor).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@cache
def imports(name: str, path: Path) -> set[str]:
    """Every module that a file imports anywhere in it, in functions and under conditions too."""
    found: set[str] = set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and is_dynamic_import(node):
            found.update(
                a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
            )
    return found


def is_dynamic_import(node: ast.Call) -> bool:
    called = node.func
    name = (
        called.id
        if isinstance(called, ast.Name)
        else called.attr
        if isinstance(called, ast.Attribute)
        else ""
    )
    return name in ("__import__", "import_module")


def importers(target: str) -> set[str]:
    """Files of the house, relative to its root, that import `target` or something in it."""
    return {
        str(path.relative_to(ROOT))
        for floor in FLOORS
        for name, path in modules(floor)
        if any(each == target or each.startswith(f"{target}.") for each in imports(name, path))
    }


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        textwrap.dedent(
            """
            import a.b as c
            from d import e
            from . import f
            from ..g import h
            def later():
                import i
                __import__("j")
                importlib.import_module("k")
            if False:
                from l.m import n
            """
        )
    )
    found = imports("house.room.module", path)
    assert found >= {
        "a.b",
        "d",
        "d.e",
        "house.room",
        "house.room.f",
        "house.g.h",
        "i",
        "j",
        "k",
        "l.m",
        "l.m.n",
    }


def test_every_floor_has_modules() -> None:
    assert all(len(list(modules(floor))) > 5 for floor in FLOORS)


def test_arrows_go_up_only() -> None:
    for above, below in (
        ("protocols", "secagg"),
        ("fl_integration", "secagg"),
        ("fl_integration", "protocols"),
    ):
        wrong = {file for file in importers(above) if file.startswith(f"{below}/")}
        assert wrong <= {FRONT_DOOR}, f"{below} knows {above}"


def test_the_front_door_names_what_stands_above_it_for_type_checkers_alone() -> None:
    tree = ast.parse((ROOT / FRONT_DOOR).read_text(encoding="utf-8"))
    found = 0
    for node in tree.body:
        for inner in ast.walk(node):
            if isinstance(inner, ast.ImportFrom) and inner.module in ("protocols", "fl_integration"):
                assert isinstance(node, ast.If)
                assert ast.unparse(node.test) == "TYPE_CHECKING"
                found += 1
    assert found == 2


def rooms_of(floor: str) -> dict[str, set[str]]:
    """The rooms of a floor, folders whole, and what each imports of its own floor."""
    arrows: dict[str, set[str]] = {}
    for name, path in modules(floor):
        if "quickstart" in path.parts:  # a user's app, which ships with the library and is no part of it
            continue
        here = room(str(path.relative_to(ROOT)))
        there = {each.split(".")[1] for each in imports(name, path) if each.startswith(f"{floor}.")}
        arrows.setdefault(here, set()).update(there - {here})
    return {here: there & arrows.keys() for here, there in arrows.items()}


# In fl_integration privacy and statistics are rooms of their own, each below what uses it.
@pytest.mark.parametrize(("floor", "floors"), [("secagg", 5), ("protocols", 7), ("fl_integration", 9)])
def test_the_rooms_of_a_floor_stand_on_few_floors_and_in_no_circle(floor: str, floors: int) -> None:
    left, found = rooms_of(floor), 0
    while left:
        ground = {here for here, there in left.items() if not there & left.keys()}
        assert ground, f"a circle among {sorted(left)}"
        left = {here: there for here, there in left.items() if here not in ground}
        found += 1
    assert found <= floors


def test_tables_of_contents_are_short_and_without_logic() -> None:
    for floor in FLOORS:
        for name, path in modules(floor):
            if path.name != "__init__.py" or str(path.relative_to(ROOT)) == FRONT_DOOR:
                continue
            text = path.read_text(encoding="utf-8")
            most = 180 if name == "fl_integration" else 75  # a door: each room twice, once for type checkers
            assert len(text.splitlines()) <= most
            defined = [each for each in ast.walk(ast.parse(text)) if isinstance(each, ast.FunctionDef)]
            assert not defined or name == "fl_integration"


def test_the_top_level_is_closed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout: what belongs to the project is not known")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {line.split("/")[0] for line in listed.splitlines()}
    assert {each for each in top if not each.startswith(".")} <= TOP_LEVEL


def test_tests_and_benchmarks_are_not_imported() -> None:
    for target in ("tests", "bench", "pytest", "hypothesis"):
        assert not importers(target)


def room(file: str) -> str:
    """The room under protocols/ that a file belongs to."""
    return Path(file).parts[1].removesuffix(".py")


@pytest.mark.parametrize("sibling", SIBLINGS)
def test_siblings_do_not_know_each_other(sibling: str) -> None:
    known_by = {room(file) for file in importers(f"protocols.{sibling}") if file.startswith("protocols/")}
    assert not known_by & (set(SIBLINGS) - {sibling})
    # The machinery does not know any protocol either; only the table of contents lists them.
    assert known_by <= {"__init__", sibling, *MEETING_PLACES}


def test_nobody_but_the_table_of_contents_knows_where_protocols_meet() -> None:
    for place in MEETING_PLACES:
        known_by = {room(file) for file in importers(f"protocols.{place}") if file.startswith("protocols/")}
        assert known_by <= {"__init__", "advice"}


@pytest.mark.parametrize("scheme", ["ckks", "paillier"])
def test_a_scheme_of_the_consortium_is_known_where_protocols_meet_alone(scheme: str) -> None:
    known_by = {file for file in importers(f"protocols.consortium.{scheme}") if file.startswith("protocols/")}
    assert known_by <= {"protocols/__init__.py", "protocols/advice/advice.py"}


@pytest.mark.parametrize(
    ("library", "file"), [("tenseal", "secagg/ckks/scheme.py"), ("phe", "secagg/paillier/phe.py")]
)
def test_a_backend_stands_behind_one_wrapper(library: str, file: str) -> None:
    assert importers(library) == {file}


@pytest.mark.parametrize(
    "library", ["torch", "flwr", "nvflare", "logging", "sklearn", "rich", "typer", "matplotlib", "jinja2"]
)
def test_training_and_logging_stay_on_their_floor(library: str) -> None:
    assert all(file.startswith("fl_integration/") for file in importers(library))


@pytest.mark.parametrize("library", ["typer", "click"])
def test_the_command_line_stays_in_its_room(library: str) -> None:
    assert all(file.startswith("fl_integration/command/") for file in importers(library))
    assert importers(library)


@pytest.mark.parametrize("library", ["flwr", "nvflare"])
def test_a_framework_is_imported_in_at_most_one_file(library: str) -> None:
    # A quickstart is a user's app, which ships with the library and is no part of it.
    assert len({file for file in importers(library) if "/quickstart/" not in file}) <= 1


@pytest.mark.parametrize(
    "library", ["socket", "threading", "asyncio", "pickle", "random", "subprocess", "requests"]
)
def test_no_io_threads_pickles_or_weak_generators(library: str) -> None:
    lower = {file for file in importers(library) if not file.startswith("fl_integration/")}
    assert lower <= ({"protocols/machine/guard.py"} if library == "threading" else set())
    if library == "pickle":
        assert not importers(library)
    if library == "random":  # it draws nothing: it seeds the site's generators, and puts them back
        assert importers(library) == {"fl_integration/site/step.py"}


def test_only_the_simulation_looks_at_a_clock() -> None:
    lower = {
        file for file in importers("time") | importers("datetime") if not file.startswith("fl_integration/")
    }
    assert lower <= {"protocols/simulation.py"}


def test_names_and_print_and_assert() -> None:
    for floor in ("secagg", "protocols"):
        for name, path in modules(floor):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                assert not isinstance(node, ast.Assert), f"{name}:{node.lineno} asserts"
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("print", "eval", "exec"), f"{name}:{node.lineno}"
            assert ast.get_docstring(tree), f"{name} has no essay"
            assert path.stem not in ("utils", "helpers", "common")


# In fresh interpreters


def test_importing_the_library_loads_no_backend() -> None:
    loaded = run(
        f"""
        import sys
        import secagg, protocols
        from protocols import *
        import secagg.ckks.scheme, secagg.paillier.scheme, secagg.paillier.packing
        print(sorted(set({HEAVY!r}) & set(sys.modules)))
        """
    )
    assert loaded == "[]"


def test_paillier_and_masks_run_without_any_backend() -> None:
    loaded = run(
        f"""
        import sys
        import numpy as np
        from protocols import MaskedSum, PaillierSum, PlainSum, simulate
        updates = {{name: np.zeros(3) for name in "abc"}}
        for protocol in (PlainSum, MaskedSum, PaillierSum):
            simulate(protocol(max_clients=3), updates)
        print(sorted(set({HEAVY!r}) & set(sys.modules)))
        """
    )
    assert loaded == "[]"


def test_without_tenseal_ckks_names_the_extra() -> None:
    said = run(
        BLOCKER.format(library="tenseal")
        + textwrap.dedent(
            """
            import numpy as np
            from protocols import CkksSum, MaskedSum, simulate
            from secagg.errors import MissingExtraError, SecAggError
            updates = {name: np.zeros(3) for name in "abc"}
            simulate(MaskedSum(max_clients=3), updates)
            try:
                simulate(CkksSum(max_clients=3), updates)
            except MissingExtraError as error:
                assert isinstance(error, SecAggError) and isinstance(error, ImportError)
                print(error)
            """
        )
    )
    assert "tenseal" in said
    assert "secagg[ckks]" in said


def test_without_phe_the_interop_names_the_extra() -> None:
    said = run(
        BLOCKER.format(library="phe")
        + textwrap.dedent(
            """
            import secagg.paillier.phe as interop
            from secagg.paillier import scheme as paillier
            from secagg.entropy import SeededEntropy
            from secagg.errors import MissingExtraError
            key = paillier.generate_key(key_bits=2048, entropy=SeededEntropy(b"a test"))
            try:
                interop.to_phe_private_key(key)
            except MissingExtraError as error:
                print(error)
            """
        )
    )
    assert "phe" in said
    assert "secagg[phe]" in said


def test_import_linter_agrees() -> None:
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is a development extra")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
    assert "0 kept" not in done.stdout, "no contract was checked"
