"""A version of a roster in one text file that people can read, diff and send.

    secagg roster 1
    version 2
    previous 9b1f…(64 hex digits; "none" for version 1)
    member "Cleveland" 6f0c…  # QD3E 7XKA 22LM RT5V K4OO
    member "Zürich" 02d4…  # 7M2A VV5T …
    signature 6f0c… 4be2…

One line a member, in the roster's order, with the fingerprint of its key; one line a signature, in the order
of the public keys. A version has one spelling, byte for byte: what `write_roster` would not have written is
refused, with the number of the line. So two that are the same are the same file, and the fingerprints, which
are what people look at, cannot be another key's.

Nothing in the file is secret, and reading it verifies no signature and trusts nobody: compare
`RosterVersion.fingerprint` by telephone, or ask `RosterVersion.check_succeeds` about the version before.

>>> import tempfile, pathlib
>>> from protocols.identity import Identity, Roster
>>> alice, bob = Identity.generate("alice"), Identity.generate("bob")
>>> version = RosterVersion(Roster.of(alice, bob)).signed(alice)
>>> with tempfile.TemporaryDirectory() as folder:
...     write_roster(version, pathlib.Path(folder) / "roster.txt")
...     read_roster(pathlib.Path(folder) / "roster.txt") == version
True
"""

import os
import re
from typing import Final, NoReturn

from fl_integration.site.public_identity import NAME, quoted, unquoted
from fl_integration.site.whole_files import Existing, file_path, read_whole, written_whole
from protocols.identity import Roster
from protocols.membership import RosterVersion, fingerprint
from secagg.errors import ParameterError

__all__ = ["parse_roster", "read_roster", "roster_text", "write_roster"]

MAXIMUM_FILE: Final = 1 << 22
"""Bytes: about ten thousand members who all signed."""

_HEAD: Final = "secagg roster 1"
_READABLE: Final = 0o644
_VERSION: Final = re.compile(r"version ([1-9][0-9]{0,18})")
_PREVIOUS: Final = re.compile(r"previous (none|[0-9a-f]{64})")
_TOP: Final = (
    (re.compile(_HEAD), repr(_HEAD)),
    (_VERSION, "'version' and its number"),
    (_PREVIOUS, "'previous' and a digest or 'none'"),
)
_MEMBER: Final = re.compile(rf"member {NAME} ([0-9a-f]{{64}})  # ([A-Z2-7 ]+)")
_SIGNATURE: Final = re.compile(r"signature ([0-9a-f]{64}) ([0-9a-f]{128})")


def roster_text(version: RosterVersion) -> str:
    """The one spelling of a version, as in the file."""
    lines = [_HEAD, f"version {version.version}", f"previous {version.previous.hex() or 'none'}"]
    lines += [f"member {quoted(name)} {key.hex()}  # {fingerprint(key)}" for name, key in version.roster.keys]
    lines += [f"signature {key.hex()} {signature.hex()}" for key, signature in version.signatures]
    return "".join(f"{line}\n" for line in lines)


def parse_roster(text: str, *, source: str = "the roster") -> RosterVersion:
    """The version whose spelling `text` is.

    Args:
        source: how errors call the text, such as a file's name.

    Raises:
        ParameterError: it is no version's spelling; the error says which line is wrong, and why.
    """

    def refuse(number: int, why: str) -> NoReturn:
        raise ParameterError(f"line {number} of {source}: {why}")

    lines = text.split("\n")
    if lines.pop() or not lines:
        refuse(len(lines) + 1, "the file ends in the middle of a line; fetch it again")
    for number, line in enumerate(lines, 1):
        if line.endswith("\r"):
            refuse(number, "it ends in a carriage return; keep the file as it is (git: *.txt -text)")
    for number, (pattern, what) in enumerate(_TOP, 1):
        if number > len(lines) or pattern.fullmatch(lines[number - 1]) is None:
            refuse(number, f"{what} belongs here; this is no roster, or one of another release")
    keys: dict[str, bytes] = {}
    signatures: list[tuple[bytes, bytes]] = []
    known: set[str] = set()
    for number, line in enumerate(lines[3:], 4):
        if (found := _MEMBER.fullmatch(line)) and not signatures:
            quotation, key, shown = found.groups()
            if shown != fingerprint(bytes.fromhex(key)):
                refuse(number, "the fingerprint is not this key's; one of the two was changed")
            try:
                name = unquoted(quotation)
            except ParameterError as error:
                refuse(number, str(error))
            if name in keys or key in known:
                refuse(number, "this name or this key stands above already; each member has its own")
            keys[name] = bytes.fromhex(key)
            known.add(key)
        elif found := _SIGNATURE.fullmatch(line):
            signatures.append((bytes.fromhex(found[1]), bytes.fromhex(found[2])))
            if len(signatures) > 1 and signatures[-2][0] >= signatures[-1][0]:
                refuse(number, "signatures stand in the order of their keys, each key once")
        else:
            refuse(
                number,
                'it is neither a member (member "name" key  # fingerprint) nor, below them, a '
                "signature (signature key value)",
            )
    previous = lines[2].removeprefix("previous ")
    try:
        return RosterVersion(
            Roster.from_mapping(keys),
            version=int(lines[1].removeprefix("version ")),
            previous=b"" if previous == "none" else bytes.fromhex(previous),
            signatures=tuple(signatures),
        )
    except ParameterError as error:
        raise ParameterError(f"{source}: {error}") from error


def write_roster(
    version: RosterVersion, path: str | os.PathLike[str], *, existing: Existing = Existing.REPLACE
) -> None:
    """Writes the version's text, whole or not at all.

    Args:
        version: at most about ten thousand members.
        path: in a folder that exists.
        existing: whether a file that stands there is replaced.

    Raises:
        ParameterError: an argument is anything else, a file stands there and is not to be replaced, or the
            file cannot be written.
    """
    if not isinstance(version, RosterVersion):
        raise ParameterError(f"a roster's file holds a RosterVersion, not {type(version).__name__}")
    if not isinstance(existing, Existing):
        raise ParameterError("existing is a member of Existing: Existing.REPLACE or Existing.REFUSE")
    data = roster_text(version).encode()
    if len(data) > MAXIMUM_FILE:
        raise ParameterError(f"the roster takes {len(data)} bytes; a file has at most {MAXIMUM_FILE}")
    place = file_path(path, "a roster")
    try:
        with written_whole(place, mode=_READABLE, existing=existing) as file:
            file.write(data)
    except FileExistsError as error:
        raise ParameterError(
            f"{str(place)!r} is there already and is not overwritten; name another file"
        ) from error
    except OSError as error:
        raise ParameterError(f"{str(place)!r} cannot be written: {error.strerror}") from error


def read_roster(path: str | os.PathLike[str]) -> RosterVersion:
    """The version in a file that `write_roster` wrote.

    Raises:
        ParameterError: there is no such file, or it is anything else; with the number of the line.
    """
    place = file_path(path, "a roster")
    data = read_whole(place, maximum=MAXIMUM_FILE)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ParameterError(f"line {line} of {str(place)!r}: it is not UTF-8") from None
    return parse_roster(text, source=repr(str(place)))
