"""What is refused before a study begins: numbers that cannot be, no folder, what is not installed.

>>> check_run(rounds=0, seed=1, out=Path("out"))
Traceback (most recent call last):
    ...
secagg.errors.ParameterError: --rounds is 0; pass at least 1
"""

import importlib
from collections.abc import Collection, Sequence
from pathlib import Path

from secagg.errors import MissingExtraError, ParameterError

__all__ = ["check_run", "need_packages"]


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
