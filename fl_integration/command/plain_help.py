"""Verbs whose help is plain text, and whole.

typer escapes "[required]" for rich's markup even where that is off, and leaves the backslash to the reader.
Under click 8.5, whose arguments have a help of their own, typer 0.20 loses what it was told of an argument,
and click lists the arguments a second time.
"""

from typing import Final

import click
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import ArgumentInfo
from typer.utils import get_params_from_function

__all__ = ["PlainCommand", "PlainGroup"]

_SENTENCE: Final = 400
"""The most characters of a first sentence: more than any has."""


class PlainCommand(TyperCommand):
    """One verb."""

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: typer has listed them among the options, and only newer versions of click ask for this."""

    def get_help(self, ctx: click.Context) -> str:
        """The help, without backslashes before brackets, and with what the verb says of its arguments."""
        if self.callback is not None:
            told = get_params_from_function(self.callback)
            for each in self.params:
                if isinstance(each, TyperArgument) and each.name in told:
                    declared = told[each.name].default
                    each.help = declared.help if isinstance(declared, ArgumentInfo) else each.help
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
