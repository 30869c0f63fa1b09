"""Tables that fit: rich draws them, no cell is cut off, no text is taken for markup."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["show"]

_WIDE: Final = 124
"""Columns of an output that is no terminal."""


def show(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> None:
    """Writes a table to standard output; a narrow console gets more lines, not fewer letters.

    Args:
        numbers: whether the columns after the first are aligned to the right.
    """
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if numbers and place else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    console.print(table)
