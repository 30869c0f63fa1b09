"""The entry of the command `secagg`, which needs the extra `cli` and says so in one line where it is missing.

>>> import sys
>>> main(["--version"])  # doctest: +ELLIPSIS
secagg ...
0
"""

import sys
from collections.abc import Sequence

from fl_integration.command.console import degrade
from secagg.errors import MissingExtraError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit code: 0, 1 (the answer is no), 2 (wrong use), 130 (interrupted).

    Args:
        arguments: without the program's name; None for those of the process.
    """
    degrade(sys.stdout, sys.stderr)
    try:
        import rich
        import typer
    except ImportError as error:
        missing = (error.name or "typer").partition(".")[0]
        sys.stderr.write(f"secagg: {MissingExtraError(package=missing, extra='cli')}\n")
        return 2
    del rich, typer  # they are there; the app imports what it needs
    from fl_integration.command.app import command

    try:
        command().main(None if arguments is None else list(arguments), prog_name="secagg")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
