"""`secagg audit`: the records that a coordinator keeps of its rounds, checked and shown."""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from fl_integration.command.tables import show
from fl_integration.embedding.archive import ArchivedRound, archived, gaps, read_archived
from fl_integration.embedding.parcels import Purpose
from fl_integration.site.public_identity import PublicIdentity, read_public
from protocols.membership import digest_fingerprint, fingerprint
from protocols.messages.record import RoundRecord
from secagg.errors import DecodeError, ParameterError, VerificationError

__all__ = ["EPILOG", "audit"]

EPILOG: Final = """\
\b
Examples:
  secagg audit records --key coordinator.pub
  secagg audit records

Exit code 0 if every record is whole, signed by the key and none is missing before another; 1 if not.
"""
PROTOCOLS: Final = {1: "PlainSum", 2: "MaskedSum", 3: "LatticeSum", 4: "CkksSum", 5: "PaillierSum"}
_PROVES: Final = """\
A record proves what the holder of the key said of a round: who was asked, who is in the sum, who was lost and
why, under which plan, and whether a sum was opened. It does not prove that this is true, nor what was trained
or on whose data. The times are by the coordinator's clock, and not signed. That none was taken away at the
end of a session it does not show: compare the last round with what the hospitals' logs say."""
_PLAIN: Final = "PlainSum protects nothing: the coordinator saw every update of these rounds."
_NOBODY: Final = (
    "Whose key that is, nobody looked: pass --key with the coordinator's public line, after its fingerprint "
    "was read to you on the telephone."
)


def audit(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the records lie.")],
    *,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="PUBLIC", help="The file with the coordinator's public line."),
    ] = None,
) -> None:
    """Check the signed records of rounds in FOLDER, show them, and say what they prove."""
    signer = None if key is None else _signer(key)
    paths = archived(folder)
    if not paths:
        raise ParameterError(f"the folder {str(folder)!r} holds no records (files that end in .record)")
    rounds, wrong = _read(paths, signer)
    rounds.sort(key=lambda each: (each.place.epoch, each.session, each.purpose, each.record.round))
    for _, group in itertools.groupby(rounds, key=_shared):
        _session(list(group))
    missing = [
        f"no record of {_what(gap.purpose)} {_numbers(gap.first, gap.end)} of session {gap.session.hex()[:8]}"
        for gap in gaps(rounds)
    ]
    for sentence in (*wrong, *missing):
        typer.echo(sentence)
    _sentences(rounds, signer)
    if wrong or missing:
        raise typer.Exit(1)


def _signer(path: Path) -> PublicIdentity:
    found = read_public(path)
    if len(found) != 1:
        raise ParameterError(
            f"{str(path)!r} has the public lines of {len(found)} identities; one key signs the records"
        )
    return found[0]


def _read(paths: Iterable[Path], signer: PublicIdentity | None) -> tuple[list[ArchivedRound], list[str]]:
    """The rounds that are right, and a sentence for each file that is not."""
    rounds, wrong = [], []
    for path in paths:
        try:
            found = read_archived(path)
            if signer is not None:
                found.signed.verify(signer.public_key)
        except (DecodeError, ParameterError, VerificationError) as error:
            wrong.append(_shown(f"WRONG {path.name!r}: {error}"))  # it may quote what stands in the file
        else:
            rounds.append(found)
    return rounds, wrong


def _session(rounds: Sequence[ArchivedRound]) -> None:
    """Rounds of one session under one plan: what they share, and a line for each."""
    each, record = rounds[0], rounds[0].record
    study = _shown(each.place.study.decode("utf-8", "replace"))
    protocol = PROTOCOLS.get(record.protocol, f"protocol {record.protocol}")
    shares = f"{record.threshold} of {record.degree + 1} shares rebuild a secret; " if record.degree else ""
    typer.echo(f"session {each.session.hex()[:8]} of {study!r}, opened {_time(each.place.epoch)} UTC")
    typer.echo(f"  protocol   {protocol}, parameters {record.parameters.hex()[:8]}")
    typer.echo(f"  plan       {shares}{record.corrupt} of {record.roster} members may be corrupt")
    typer.echo(f"  roster     {digest_fingerprint(each.place.roster)}")
    typer.echo(f"  signed by  {fingerprint(each.signed.public_key)}\n")
    show(
        ["round", "ended, UTC", "asked", "in the sum", "lost, and why", "end"],
        (
            [
                f"{_what(Purpose(each.purpose))} {each.record.round}",
                _time(each.ended),
                _shown(", ".join(each.record.cohort)),
                _shown(", ".join(sorted(each.record.contributors))) or "nobody",
                _lost(each.record),
                _end(each.record),
            ]
            for each in rounds
        ),
    )
    typer.echo()


def _shared(each: ArchivedRound) -> tuple[object, ...]:
    """What rounds have in common that stand in one table."""
    record = each.record
    plan = record.degree, record.threshold, record.corrupt, record.roster
    return each.place, record.protocol, record.parameters, plan, each.signed.public_key


def _lost(record: RoundRecord) -> str:
    return "\n".join(
        _shown(f"{name}{', WHO BROKE THE PROTOCOL' if name in record.culprits else ''}: {reason}")
        for name, reason in sorted(record.dropped.items())
    )


def _end(record: RoundRecord) -> str:
    opened = "opened" if record.opened else "not opened"
    return _shown(f"aborted, {opened}: {record.aborted}") if record.aborted else opened


def _sentences(rounds: Sequence[ArchivedRound], signer: PublicIdentity | None) -> None:
    by = "" if signer is None else f" by {signer.client} ({signer.fingerprint})"
    counted = "1 record is" if len(rounds) == 1 else f"{len(rounds)} records are"
    typer.echo(f"{counted} whole, and signed{by}.")
    if signer is None:
        typer.echo(_NOBODY)
    if any(PROTOCOLS.get(each.record.protocol) == "PlainSum" for each in rounds):
        typer.echo(_PLAIN)
    typer.echo(_PROVES)


def _shown(text: str) -> str:
    """Text that others wrote, without what would move the cursor and write another table over this one."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _what(purpose: Purpose) -> str:
    return purpose.name.lower()


def _numbers(first: int, end: int) -> str:
    return str(first) if end == first + 1 else f"{first} to {end - 1}"


def _time(milliseconds: int) -> str:
    """In UTC, to the second; a number that is no time as it stands."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return str(milliseconds)
