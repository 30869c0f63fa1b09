"""`secagg identity`: a key of one's own, in a file under a password, and the line that the others get."""

from pathlib import Path
from typing import Annotated, Final

import typer

from fl_integration.command.passwords import PasswordEnv, PasswordFile, asked
from fl_integration.command.plain_help import PlainCommand, PlainGroup
from fl_integration.site.keys import load_identity, load_public, save_identity
from fl_integration.site.public_identity import PublicIdentity
from fl_integration.site.whole_files import check_free
from protocols.identity import Identity, check_client_id

__all__ = ["app"]

app = typer.Typer(
    cls=PlainGroup,
    help="Your long-term signing key: make it, show its public half, replace it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

KeyFile = Annotated[Path, typer.Argument(metavar="KEY", help="The file with your identity.")]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The new file; it must not exist.")]

_NEW: Final = """\
\b
Examples:
  secagg identity new "Zürich" --out zurich.key > zurich.pub
  secagg identity new basel --out basel.key --password-file basel.password

Send the line that is printed to the others, and read its fingerprint to them on the telephone.
"""
_SHOW: Final = """\
\b
Example:
  secagg identity show zurich.key > zurich.pub
"""
_ROTATE: Final = """\
\b
Example:
  secagg identity rotate zurich.key --out zurich-2.key > zurich-2.pub

Keep the old key until all use the roster with the new one: it signs that roster.
"""
_NEXT: Final = """\
The new private key is in {out!r}; its fingerprint is {fingerprint}. What comes next:
1. Send the line to the others; one of you makes the next roster of it: secagg roster add --replace
2. Sign that roster with the old key, {key!r}, and with the new one: secagg roster sign
3. When all of you use it, delete the old key.
If others may know the old key, tell all members at once: until then it speaks for you.\
"""


@app.command("new", cls=PlainCommand, epilog=_NEW)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="How the roster calls you: 1 to 64 bytes.")],
    *,
    out: Out,
    password_file: PasswordFile = None,
    password_env: PasswordEnv = None,
) -> None:
    """Make a key for NAME and write it to a new file, under a password; print its public line.

    NAME is how the roster calls you, 1 to 64 bytes. The password has at least 12 characters.
    """
    check_client_id(name)
    check_free(out, "an identity")
    password = asked(password_file, password_env, prompt="New password", new=True)
    identity = Identity.generate(name)
    save_identity(identity, out, password=password)
    public = PublicIdentity.of(identity)
    _print(public)
    typer.echo(
        f"The private key is in {str(out)!r}, for you alone. Send the line to the others, "
        f"and read them this fingerprint on the telephone: {public.fingerprint}",
        err=True,
    )


@app.command("show", cls=PlainCommand, epilog=_SHOW)
def show(key: KeyFile) -> None:
    """Print the public line of the identity in the file KEY, for the others; asks for no password."""
    _print(load_public(key))


@app.command("rotate", cls=PlainCommand, epilog=_ROTATE)
def rotate(
    key: KeyFile,
    *,
    out: Out,
    password_file: PasswordFile = None,
    password_env: PasswordEnv = None,
    new_password_file: Annotated[
        Path | None,
        typer.Option(
            "--new-password-file", metavar="FILE", help="The same for the password of the new file."
        ),
    ] = None,
    new_password_env: Annotated[
        str | None,
        typer.Option("--new-password-env", metavar="NAME", help="The same for the password of the new file."),
    ] = None,
) -> None:
    """Make a new key for the name in the file KEY; that file stays, for it signs the next roster."""
    check_free(out, "an identity")
    old = load_identity(key, password=asked(password_file, password_env, prompt="Password", new=False))
    password = asked(new_password_file, new_password_env, prompt="New password", new=True)
    identity = Identity.generate(old.client)
    save_identity(identity, out, password=password)
    public = PublicIdentity.of(identity)
    _print(public)
    typer.echo(_NEXT.format(out=str(out), key=str(key), fingerprint=public.fingerprint), err=True)


def _print(public: PublicIdentity) -> None:
    """In UTF-8 whatever the console speaks: mostly it goes into a file, and a changed name is refused."""
    typer.echo(public.line.encode())
