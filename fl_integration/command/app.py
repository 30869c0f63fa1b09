"""The command `secagg` as a tree of verbs, and what becomes of errors.

Exit codes: 0 when all went well, 1 when the answer to what was asked is no, 2 when something cannot work and
standard error says why, 130 when it was interrupted. A traceback is a bug of ours.
"""

from typing import Annotated, Any, Final

import click
import typer

from fl_integration.command import advise, audit, describe, hospitals, identity, plan, roster, study
from fl_integration.command.plain_help import PlainCommand, PlainGroup
from secagg.errors import SecAggError
from secagg.release import RELEASE

__all__ = ["app", "command"]

_EPILOG: Final = """\
Exit codes: 0 all went well; 1 the answer is no; 2 it cannot work, and standard error says why;
130 interrupted. What a command is for is said by, for example, secagg roster sign --help.
"""
_ORDER: Final = ("identity", "roster", "plan", "advise", "study", "describe", "audit", "hospitals")


class _Refused(click.ClickException):
    """One line on standard error, and an exit code."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"secagg: {self.message}", file=file, err=file is None)


class _Interrupted(_Refused):
    exit_code = 130


class _Root(PlainGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SecAggError as error:
            raise _Refused(str(error)) from error
        except (click.Abort, KeyboardInterrupt, EOFError) as error:
            raise _Interrupted("interrupted") from error
        except BrokenPipeError:  # a reader that has seen enough, which click ends quietly
            raise
        except OSError as error:  # files are the library's, which has said it better: this is the output
            raise _Refused(f"the output cannot be written: {error.strerror}") from error


app = typer.Typer(
    cls=_Root,
    name="secagg",
    help="Secure aggregation for federated learning: keys, rosters, plans, advice, and a demonstration.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain text: it wraps, and pipes, and every console can write it
    pretty_exceptions_enable=False,  # theirs show local variables, passwords among them
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.add_typer(identity.app, name="identity")
app.add_typer(roster.app, name="roster")
app.add_typer(study.app, name="study")
app.command("plan", cls=PlainCommand, epilog=plan.EPILOG)(plan.plan)
app.command("advise", cls=PlainCommand, epilog=advise.EPILOG)(advise.advise)
app.command("describe", cls=PlainCommand, epilog=describe.EPILOG)(describe.describe)
app.command("audit", cls=PlainCommand, epilog=audit.EPILOG)(audit.audit)


@app.command(
    "hospitals",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def _hospitals(context: typer.Context) -> None:
    """Real hospitals train one model together; what `secagg-hospitals` does, with its options."""
    raise typer.Exit(hospitals.main(context.args))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"secagg {RELEASE}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version  # its callback has answered


def command() -> click.Command:
    """The tree, ready to run; with typer's options for shell completion."""
    return typer.main.get_command(app)
