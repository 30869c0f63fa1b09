"""Verbs whose help is plain text.

typer escapes "[required]" for rich's markup even where that is off, and leaves the backslash to the reader.
"""

import click
from typer.core import TyperCommand, TyperGroup

__all__ = ["PlainCommand", "PlainGroup"]


class PlainCommand(TyperCommand):
    """One verb."""

    def get_help(self, ctx: click.Context) -> str:
        """The help, without backslashes before brackets."""
        return super().get_help(ctx).replace("\\[", "[")


class PlainGroup(TyperGroup):
    """Verbs under one noun."""

    def get_help(self, ctx: click.Context) -> str:
        """The help, without backslashes before brackets."""
        return super().get_help(ctx).replace("\\[", "[")
