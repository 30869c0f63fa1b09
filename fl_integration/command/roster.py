"""`secagg roster`: the members and their keys, version by version, signed by the members."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from fl_integration.command.passwords import PasswordEnv, PasswordFile, asked
from fl_integration.command.plain_help import PlainCommand, PlainGroup
from fl_integration.command.tables import show
from fl_integration.site.keys import load_identity
from fl_integration.site.public_identity import PublicIdentity, read_public
from fl_integration.site.roster_file import read_roster, write_roster
from fl_integration.site.signed_rosters import Second, sign_roster
from fl_integration.site.whole_files import Existing, check_free
from protocols.identity import Roster
from protocols.membership import RosterVersion, fingerprint, quorum
from protocols.planning.requirements import Requirements, ceil_fraction
from secagg.errors import ParameterError, VerificationError

__all__ = ["app"]

app = typer.Typer(
    cls=PlainGroup,
    help="Who takes part, under which keys: make a roster, change it, sign it, check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RosterFile = Annotated[Path, typer.Argument(metavar="ROSTER", help="The file with the roster.")]
PublicFiles = Annotated[
    list[Path],
    typer.Argument(
        metavar="PUBLIC...", help="Files with public lines, as `secagg identity show` prints them."
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The new roster; it must not exist.")]

_NEW: Final = """\
\b
Example:
  secagg roster new cleveland.pub budapest.pub zurich.pub --out roster-1.txt

The order of the files is the order of the members; all must hold the same file.
"""
_ADD: Final = """\
\b
Examples:
  secagg roster add roster-1.txt basel.pub --out roster-2.txt
  secagg roster add --replace roster-1.txt zurich-2.pub --out roster-2.txt
"""
_REMOVE: Final = """\
\b
Example:
  secagg roster remove roster-1.txt "Zürich" --out roster-2.txt
"""
_SIGN: Final = """\
\b
Examples:
  secagg roster sign roster-1.txt --key zurich.key
  secagg roster sign roster-1.txt --collect from-budapest.txt --collect from-cleveland.txt

Look before you sign: secagg roster check, with --previous where there is a version before.

A key signs one successor of a roster: two that are both signed by a quorum would split you. What it signed
stands in the private file KEY.signed; keep the two together.
"""
_CHECK: Final = """\
\b
Examples:
  secagg roster check roster-1.txt
  secagg roster check roster-1.txt --fingerprint "ABCD EFGH IJKL MNOP QRST UVWX YZ23 4567"
  secagg roster check roster-2.txt --previous roster-1.txt --corrupt-fraction 0.2

Exit code 0 if all that was asked holds, 1 if not. With neither --previous nor --fingerprint the question is
whether every member has signed.
"""


@app.command("new", cls=PlainCommand, epilog=_NEW)
def new(public: PublicFiles, out: Out) -> None:
    """Make version 1 of a roster from files with the members' public lines, PUBLIC."""
    check_free(out, "a roster")
    members = [each for path in public for each in read_public(path)]
    _write(RosterVersion(Roster(tuple((each.client, each.public_key) for each in members))), out)


@app.command("add", cls=PlainCommand, epilog=_ADD)
def add(
    roster: RosterFile,
    public: PublicFiles,
    *,
    out: Out,
    replace: Annotated[
        bool, typer.Option("--replace", help="The lines are new keys of members, in place of their old ones.")
    ] = False,
) -> None:
    """Make the version after the file ROSTER: with new members at the end, or new keys of members.

    PUBLIC are files with public lines, as `secagg identity show` prints them.
    """
    check_free(out, "a roster")
    version = read_roster(roster)
    named: dict[str, PublicIdentity] = {}
    for each in (each for path in public for each in read_public(path)):
        _check_place(version.roster, each, replace=replace)
        if (other := named.get(each.client)) is not None:  # none is taken because its file came last
            raise ParameterError(
                f"{each.client!r} stands in these files twice, under the keys {other.fingerprint} and "
                f"{each.fingerprint}; ask on the telephone which is theirs, and pass that line alone"
            )
        named[each.client] = each
    keys = dict(version.roster.keys) | {name: each.public_key for name, each in named.items()}
    _write(version.successor(Roster.from_mapping(keys)), out)


def _check_place(roster: Roster, public: PublicIdentity, *, replace: bool) -> None:
    """A key is replaced by whoever says so, and never by whoever believes that somebody joins."""
    name = public.client
    if replace and name not in roster:
        raise ParameterError(
            f"{name!r} is not in the roster, so its key is not replaced; leave --replace out"
        )
    if not replace and name in roster:
        raise ParameterError(
            f"{name!r} is in the roster already, under the key {fingerprint(roster.public_key(name))}; this "
            f"one is {public.fingerprint}. If they say on the telephone that it is new, pass --replace"
        )


@app.command("remove", cls=PlainCommand, epilog=_REMOVE)
def remove(
    roster: RosterFile,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Members who leave.")],
    out: Out,
) -> None:
    """Make the version after the file ROSTER, without the members NAME."""
    check_free(out, "a roster")
    version = read_roster(roster)
    leaving = set(version.roster.order(names))
    _write(
        version.successor(Roster(tuple(pair for pair in version.roster.keys if pair[0] not in leaving))), out
    )


@app.command("sign", cls=PlainCommand, epilog=_SIGN)
def sign(
    roster: RosterFile,
    *,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="KEY", help="The file with the identity that signs.")
    ] = None,
    collect: Annotated[
        list[Path] | None,
        typer.Option("--collect", metavar="ROSTER", help="Take the signatures of another copy. Repeatable."),
    ] = None,
    given_up: Annotated[
        bool,
        typer.Option(
            "--given-up", help="All members gave up the other successor of this version that the key signed."
        ),
    ] = False,
    password_file: PasswordFile = None,
    password_env: PasswordEnv = None,
) -> None:
    """Add your signature to the file ROSTER, or signatures that stand in other copies of it."""
    if key is None and not collect:
        raise ParameterError("name a --key that signs, or copies to --collect signatures from")
    version = read_roster(roster)
    for path in collect or ():
        version = version.with_signatures(read_roster(path))
    if key is not None:
        typer.echo(f"Version {version.version}, fingerprint {version.fingerprint}", err=True)
        identity = load_identity(
            key, password=asked(password_file, password_env, prompt="Password", new=False)
        )
        # One key has one memory, whatever link led to it.
        memory = Path(f"{os.path.realpath(key)}.signed")
        version = sign_roster(
            version, identity, memory, second=Second.GIVEN_UP if given_up else Second.REFUSE
        )
        if identity.client not in version.signers:
            typer.echo(
                f"This roster does not hold {identity.client!r} under this key. The signature counts if the "
                "version before does.",
                err=True,
            )
    # Another member may have signed the file while the password was typed, or put another roster there.
    version = version.with_signatures(read_roster(roster))
    write_roster(version, roster)
    typer.echo(f"{len(version.signers)} of {len(version.roster)} members have signed {str(roster)!r}")


@app.command("check", cls=PlainCommand, epilog=_CHECK)
def check(
    roster: RosterFile,
    *,
    previous: Annotated[
        Path | None,
        typer.Option("--previous", metavar="ROSTER", help="The version before, which you hold and trust."),
    ] = None,
    corrupt_fraction: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Of the members of the version before: how many may be corrupt."),
    ] = Requirements().corrupt_fraction,
    fingerprint_: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="TEXT", help="What somebody else has read from their copy."),
    ] = None,
) -> None:
    """Show who is in the file ROSTER, under which keys, and who signed; say whether it is what you expect."""
    version = read_roster(roster)
    before = None if previous is None else read_roster(previous)
    _table(version, before)
    typer.echo(f"\nversion {version.version}, fingerprint {version.fingerprint}")
    answers = []
    if before is not None:
        answers.append(_succeeds(version, before, corrupt_fraction))
    if fingerprint_ is not None:
        same = "".join(fingerprint_.split()).upper() == version.fingerprint.replace(" ", "")
        answers.append((same, f"the fingerprint is {'the same' if same else 'ANOTHER ONE'}"))
    if not answers:
        count, members = len(version.signers), len(version.roster)
        answers.append((count == members, f"{count} of {members} members have signed"))
    for _, sentence in answers:
        typer.echo(sentence)
    if not all(good for good, _ in answers):
        raise typer.Exit(1)


def _succeeds(version: RosterVersion, before: RosterVersion, fraction: float) -> tuple[bool, str]:
    members = len(before.roster)
    corrupt = ceil_fraction(Requirements(corrupt_fraction=fraction).corrupt_fraction, members)
    try:
        version.check_succeeds(before, corrupt=corrupt)
    except VerificationError as error:
        return False, str(error)
    signed, needed = len(version.signers_among(before.roster)), quorum(members, corrupt)
    return True, (
        f"it succeeds version {before.version} ({before.fingerprint}): {signed} of its {members} members "
        f"signed, {needed} are needed if {corrupt} of them may be corrupt"
    )


def _table(version: RosterVersion, before: RosterVersion | None) -> None:
    """The members and, with the version before, what is new, who leaves, and who signed under which key."""
    old = () if before is None else before.roster.keys
    signed = set(version.signers)
    signed_before = set() if before is None else set(version.signers_among(before.roster))
    rows = []
    for name, key in version.roster.keys:
        row = [name, fingerprint(key), "yes" if name in signed else "no"]
        if before is not None:
            row += [_change(name, key, dict(old)), "yes" if name in signed_before else "no"]
        rows.append(row)
    for name, key in old:
        if name not in version.roster:
            rows.append([name, fingerprint(key), "", "leaves", "yes" if name in signed_before else "no"])
    heads = ["member", "key", "signed"]
    show(heads if before is None else [*heads, "change", "signed with the key before"], rows)


def _change(name: str, key: bytes, old: dict[str, bytes]) -> str:
    if name not in old:
        return "joins"
    return "" if old[name] == key else "NEW KEY"


def _write(version: RosterVersion, out: Path) -> None:
    write_roster(version, out, existing=Existing.REFUSE)
    _table(version, None)
    typer.echo(f"\nversion {version.version}, fingerprint {version.fingerprint}")
    typer.echo(
        f"Written to {str(out)!r}. Send it to all members. Each compares the fingerprint with the others on "
        "the telephone, and signs: secagg roster sign",
        err=True,
    )
