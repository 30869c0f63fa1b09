"""Verbs whose help is plain text.

typer escapes "[required]" for rich's markup even where that is off, and leaves the backslash to the reader.
"""

from typing import Final

import click
from typer.core import TyperCommand, TyperGroup

__all__ = ["PlainCommand", "PlainGroup"]

_SENTENCE: Final = 400
"""The most characters of a first sentence: more than any has."""


class PlainCommand(TyperCommand):
    """One verb."""

    def get_help(self, ctx: click.Context) -> str:
        """The help, without backslashes before brackets."""
        return super().get_help(ctx).replace("\\[", "[")


class PlainGroup(TyperGroup):
    """Verbs under one noun."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, each with the first sentence of its help; click cuts it at the end of the line."""
        verbs = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(_SENTENCE)) for name, verb in verbs if verb])

    def get_help(self, ctx: click.Context) -> str:
        """The help, without backslashes before brackets."""
        return super().get_help(ctx).replace("\\[", "[")
