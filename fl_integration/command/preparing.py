"""What is refused before a study begins: numbers that cannot be, no folder, what is not installed.

>>> check_run(rounds=0, seed=1, out=Path("out"))
Traceback (most recent call last):
    ...
secagg.errors.ParameterError: --rounds is 0; pass at least 1
"""

import importlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from fl_integration.privacy.units import LARGEST_EPSILON
from secagg.errors import MissingExtraError, ParameterError

__all__ = ["ACCOUNTING", "check_promise", "check_run", "need_packages"]

ACCOUNTING: Final = ("dp_accounting", "dp-accounting", "privacy")
"""What differential privacy needs: module, package and extra."""
MOST_EPSILON: Final = int(LARGEST_EPSILON)
MOST_DELTA: Final = 1e-3


def check_run(*, rounds: int, seed: int, out: Path) -> None:
    """Returns if these can be.

    Raises:
        ParameterError: they cannot; the text names the option.
    """
    if rounds < 1:
        raise ParameterError(f"--rounds is {rounds}; pass at least 1")
    if not 0 <= seed < 1 << 32:
        raise ParameterError(f"--seed is {seed}; pass a number in [0, 2**32)")
    if out.exists() and not out.is_dir():
        raise ParameterError(f"--out is {str(out)!r}, which is a file; name a folder")


def check_promise(epsilon: float | None, delta: float | None, *, protocols: Collection[str]) -> None:
    """Returns if a training can promise this, or if it is asked to promise nothing.

    Raises:
        ParameterError: it cannot; the text names the option.
    """
    if epsilon is None:
        if delta is not None:
            raise ParameterError("--delta goes with --epsilon, 1 for example; pass both, or neither")
        return
    if not 0 < epsilon <= MOST_EPSILON:
        raise ParameterError(
            f"--epsilon is {epsilon:g}; pass a number above 0, up to {MOST_EPSILON}: 1 is strict"
        )
    if delta is not None and not 0 < delta <= MOST_DELTA:
        raise ParameterError(
            f"--delta is {delta:g}; pass a number above 0, up to {MOST_DELTA:g}, one over the study's "
            "patients"
        )
    if next(iter(protocols)) == "plain":
        raise ParameterError(
            "--epsilon needs a sum that hides something; with plain the server sees every vector"
        )


def need_packages(protocols: Collection[str], more: Sequence[tuple[str, str, str]] = ()) -> None:
    """Imports what a study needs.

    Args:
        protocols: their names on the command line.
        more: module, package and extra of what else is needed; they come first.

    Raises:
        MissingExtraError: some are not installed; the text names the first, and the extras that
            bring all of them.
    """
    # One extra brings all but an engine, torch as well, so that one installation is enough.
    needed = [*more, ("torch", "torch", "demo"), ("sklearn", "scikit-learn", "demo")]
    needed += [(package, package, "demo") for package in ("rich", "matplotlib", "jinja2")]
    if "ckks" in protocols:
        needed.append(("tenseal", "tenseal", "demo"))
    missing: list[tuple[str, str, ImportError]] = []
    for module, package, extra in needed:
        try:
            importlib.import_module(module)
        except ImportError as error:
            missing.append((package, extra, error))
    if missing:
        extras = ",".join(dict.fromkeys(extra for _, extra, _ in missing))
        raise MissingExtraError(package=missing[0][0], extra=extras) from missing[0][2]
