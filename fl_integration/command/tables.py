"""Tables that fit: rich draws them, no cell is cut off, no text is taken for markup."""

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Final

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

__all__ = ["show"]

_WIDE: Final = 124
"""Columns of an output that is no terminal."""
_GAP: Final = 3
"""Columns between two of a table's."""


def show(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> None:
    """Writes a table to standard output; a narrow console gets more lines, not fewer letters.

    Args:
        numbers: whether the columns after the first are aligned to the right, and no word is cut in two: a
            console that is narrower than the words breaks the lines itself.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDE)
    found = [tuple(row) for row in rows]
    widths: list[int | None] = [None] * len(heads)
    pad = 1
    if numbers:
        if _total(_widths(heads, found)) > console.width:
            found = _narrowed(found, wide=console.width // 4)
        fitted = _fitted(heads, found, console.width)
        if _total(fitted) > console.width:
            pad, fitted = 0, _fitted(heads, found, console.width, gap=1)
        console = Console(highlight=False, width=max(console.width, _total(fitted, gap=1 + 2 * pad)))
        widths = [*fitted]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, pad), show_edge=False, pad_edge=False)
    for place, head in enumerate(heads):
        justify: JustifyMethod = "right" if numbers and place else "left"
        table.add_column(Text(head), justify=justify, overflow="fold", width=widths[place])
    for row in found:
        table.add_row(*map(Text, row))
    console.print(table)


def _fitted(heads: Sequence[str], rows: list[tuple[str, ...]], wide: int, *, gap: int = _GAP) -> list[int]:
    """Widths of the columns that fit into `wide`, if no word needs more; the first has whole lines."""
    widths = _widths(heads, rows)
    least = [max(map(_longest_word, cells)) for cells in zip(heads, *rows, strict=True)]
    least[0] = widths[0]
    while _total(widths, gap=gap) > wide and widths != least:
        most = max(range(len(widths)), key=lambda place: widths[place] - least[place])
        widths[most] -= 1
    return widths


def _widths(heads: Sequence[str], rows: list[tuple[str, ...]]) -> list[int]:
    """Of each column's longest line."""
    return [
        max(len(line) for cell in cells for line in cell.split("\n"))
        for cells in zip(heads, *rows, strict=True)
    ]


def _total(widths: Sequence[int], *, gap: int = _GAP) -> int:
    return sum(widths) + gap * (len(widths) - 1)


def _narrowed(rows: list[tuple[str, ...]], *, wide: int) -> list[tuple[str, ...]]:
    """The same rows, their first cells in lines of whole words, so wide or as wide as the longest word."""
    wide = max([wide, *(len(_indent(first)) + _longest_word(first) for first, *_ in rows)])
    return [("\n".join(_lines(first, wide)), *others) for first, *others in rows]


def _lines(text: str, wide: int) -> list[str]:
    return wrap(text.strip(), wide, initial_indent=_indent(text), subsequent_indent=_indent(text)) or [text]


def _indent(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)
