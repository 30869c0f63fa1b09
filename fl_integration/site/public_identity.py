"""The public half of an identity as one line of text, to be sent to the others.

    identity "Zürich" 6f0c…(64 hex digits) 91ab…(128 hex digits)  # QD3E 7XKA 22LM RT5V K4OO

The name in quotation marks, the public key, the key's own signature over both, and the key's fingerprint. The
signature says that the key's holder goes by this name: nobody else can put another name before the key. It
does not say that the holder *is* the hospital of that name. Compare the fingerprint by telephone.

In a name `\\"` and `\\\\` stand for a quotation mark and a backslash. There is one line for an identity, so a
reader accepts what the writer would have written and nothing else.

>>> from protocols.identity import Identity
>>> identity = Identity.generate("Zürich")
>>> PublicIdentity.parse(PublicIdentity.of(identity).line) == PublicIdentity.of(identity)
True
"""

import os
import re
from dataclasses import dataclass
from typing import Final, Self

from fl_integration.site.whole_files import file_path, read_whole
from protocols.identity import ClientId, Identity, check_client_id
from protocols.membership import fingerprint
from secagg import labels
from secagg.errors import ParameterError, VerificationError
from secagg.standard.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, verify
from secagg.wire import Writer

__all__ = ["NAME", "PublicIdentity", "quoted", "read_public", "unquoted"]

MAXIMUM_FILE: Final = 1 << 22
"""Bytes of a file of such lines: about ten thousand."""

NAME: Final = r'"((?:[^"\\]|\\["\\])*)"'
"""A regular expression for what `quoted` makes; its group is for `unquoted`."""

_LINE: Final = re.compile(
    rf"identity {NAME} ([0-9a-f]{{{2 * PUBLIC_KEY_BYTES}}}) ([0-9a-f]{{{2 * SIGNATURE_BYTES}}})"
    r"  # ([A-Z2-7 ]+)"
)


def quoted(client: ClientId) -> str:
    """A name between quotation marks, so that spaces and marks in it cannot be mistaken."""
    return '"' + re.sub(r'(["\\])', r"\\\1", client) + '"'


def unquoted(text: str) -> ClientId:
    """The name that stood between quotation marks, as `NAME` finds it.

    Raises:
        ParameterError: it may not name a client.
    """
    return check_client_id(re.sub(r'\\(["\\])', r"\1", text))


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """A name and a public key that signed it.

    Args:
        client: the client id.
        public_key: 32 bytes, Ed25519.
        signature: 64 bytes: the key's, over both.

    Raises:
        ParameterError: the name may be no client's, or a size is wrong.
        VerificationError: the key did not sign this name.
    """

    client: ClientId
    public_key: bytes
    signature: bytes

    def __post_init__(self) -> None:
        check_client_id(self.client)
        try:
            verify(
                self.public_key,
                self.signature,
                _statement(self.client, self.public_key),
                label=labels.PUBLIC_IDENTITY,
            )
        except VerificationError as error:
            raise VerificationError(
                f"the key did not sign the name {self.client!r}: the line was changed; ask for it again"
            ) from error

    @classmethod
    def of(cls, identity: Identity) -> Self:
        """What others may know of an identity.

        Raises:
            ParameterError: `identity` is no Identity.
        """
        if not isinstance(identity, Identity):
            raise ParameterError(f"identity is an Identity, not {type(identity).__name__}")
        key = identity.key
        signature = key.sign(_statement(identity.client, key.public_key), label=labels.PUBLIC_IDENTITY)
        return cls(identity.client, key.public_key, signature)

    @property
    def fingerprint(self) -> str:
        """Of the key: five groups of four letters and digits, see `protocols.membership.fingerprint`."""
        return fingerprint(self.public_key)

    @property
    def line(self) -> str:
        """The line, without its end."""
        name, key, signature = quoted(self.client), self.public_key.hex(), self.signature.hex()
        return f"identity {name} {key} {signature}  # {self.fingerprint}"

    @classmethod
    def parse(cls, line: str) -> Self:
        """The identity of a line, with or without its end.

        Raises:
            ParameterError: it is not such a line, or its fingerprint is another key's.
            VerificationError: the key did not sign the name.
        """
        if not isinstance(line, str):
            raise ParameterError(f"a line is a str, not {type(line).__name__}")
        text = line.removesuffix("\n")
        found = _LINE.fullmatch(text)
        if found is None:
            raise ParameterError(
                'this is no line of a public identity (identity "name" key signature  # fingerprint), as '
                "`secagg identity show` prints it"
            )
        name, key, signature, _ = found.groups()
        made = cls(unquoted(name), bytes.fromhex(key), bytes.fromhex(signature))
        if made.line != text:
            raise ParameterError(
                f"the fingerprint in the line of {made.client!r} is not its key's; the line was changed"
            )
        return made


def read_public(path: str | os.PathLike[str]) -> tuple[PublicIdentity, ...]:
    """The identities of a file of such lines, in its order.

    Raises:
        ParameterError: there is no such file, it has no line, or one is something else; with its number.
        VerificationError: a key did not sign its name.
    """
    place = file_path(path, "public identities")
    data, found = read_whole(place, maximum=MAXIMUM_FILE), []
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            found.append(PublicIdentity.parse(line.decode()))
        except (ParameterError, VerificationError, UnicodeDecodeError) as error:
            kind = type(error) if isinstance(error, VerificationError) else ParameterError
            said = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
            if line.endswith(b"\r"):
                said = "it ends in a carriage return, which mail or an editor added; ask for the file itself"
            raise kind(f"line {number} of {str(place)!r}: {said}") from error
    return tuple(found)


def _statement(client: ClientId, public_key: bytes) -> bytes:
    return Writer().text(client).fixed(public_key).finish()
