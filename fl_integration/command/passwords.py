"""Where a password comes from: a prompt, a private file, or a variable of the environment; never an argument.

Arguments stand in the list of processes, which every user of the machine can read, and in the shell's
history.
"""

import getpass
import os
import warnings
from pathlib import Path
from typing import Annotated, TypeAlias

import click
import typer

from fl_integration.site.keys import MAXIMUM_PASSWORD
from fl_integration.site.private_files import read_private
from secagg.errors import ParameterError

__all__ = ["PasswordEnv", "PasswordFile", "asked"]

PasswordFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        metavar="FILE",
        help="Read the password from the one line of a file that only you can read (mode 0600).",
    ),
]
PasswordEnv: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--password-env",
        metavar="NAME",
        help="Read the password from this variable of the environment. Other programs of yours can see it.",
    ),
]

_MAXIMUM_FILE = 4 * MAXIMUM_PASSWORD + 2


def asked(file: Path | None, variable: str | None, *, prompt: str, new: bool) -> str:
    """The password.

    Args:
        file, variable: where it is to be read; with neither, it is asked for.
        prompt: how it is asked for.
        new: whether a file is to be put under it: then it is asked for twice.

    Raises:
        ParameterError: both are given, or there is no password there.
    """
    if file is not None and variable is not None:
        raise ParameterError("a password comes from a file or from a variable; name one of the two")
    if file is not None:
        password = _from_file(file)
    elif variable is not None:
        password = os.environ.get(variable, "")
        if not password:
            raise ParameterError(
                f"the variable {variable!r} is not set, or empty; it should hold the password"
            )
    else:
        password = _typed(prompt, new=new)
    return password


def _typed(prompt: str, *, new: bool) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)  # else it would be typed in the open
        try:
            return str(click.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True))
        except getpass.GetPassWarning:
            raise ParameterError(
                "there is no terminal that hides what is typed; use --password-file or --password-env"
            ) from None
        except UnicodeDecodeError:  # which holds what was typed, and goes no further
            raise ParameterError(
                "the terminal sent a letter in another encoding than the one it says; use --password-file"
            ) from None


def _from_file(file: Path) -> str:
    data = read_private(file, maximum=_MAXIMUM_FILE)
    try:
        password = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        password = ""
    if not password or "\n" in password:
        raise ParameterError(
            f"{str(file)!r} holds no password; it should be one line of UTF-8, and not empty"
        )
    return password
