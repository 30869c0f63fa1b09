"""Identities in files: one file a key, under a password, with its public line on top.

    identity "Zürich" 6f0c… 91ab…  # QD3E 7XKA 22LM RT5V K4OO
    -----BEGIN ENCRYPTED PRIVATE KEY-----
    …

The first line is what others may know (`public_identity`): name, public key, the key's signature over both.
So the name belongs to the key, and who changes it is noticed, with or without the password. Below stands the
private key, encrypted under the password (`pkcs8`); other programs that read PEM skip the first line.

The file has mode 0600 and is refused with any other (`private_files`). It is never overwritten: a key that is
rotated gets a new file, and the old one signs the roster that replaces it. Who has the file *and* the
password is the client. Lost files and forgotten passwords are not restored by anybody; make a new identity.

>>> import tempfile, pathlib
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder) / "zurich.key"
...     save_identity(Identity.generate("Zürich"), path, password="correct horse battery")
...     load_identity(path, password="correct horse battery").client, load_public(path).client
('Zürich', 'Zürich')
"""

import os
import unicodedata
from typing import Final

from fl_integration.site.pkcs8 import BEGIN, opened, sealed
from fl_integration.site.private_files import Existing, WithoutModes, read_private, write_private
from fl_integration.site.public_identity import PublicIdentity
from protocols.identity import Identity
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret

__all__ = ["MAXIMUM_PASSWORD", "load_identity", "load_public", "save_identity"]

MINIMUM_PASSWORD: Final = 12
MAXIMUM_PASSWORD: Final = 1024
_MAXIMUM_FILE: Final = 4096


def save_identity(
    identity: Identity,
    path: str | os.PathLike[str],
    *,
    password: str,
    without_modes: WithoutModes = WithoutModes.REFUSE,
) -> None:
    """Writes a new file with the identity, under a password; takes a fifth of a second.

    Args:
        identity: with its private key.
        path: where nothing stands yet, in a folder that exists.
        password: 12 to 1024 characters. It is spelled in Unicode's form NFC before it is used, so that one
            keyboard's "ü" is another's.
        without_modes: what to do where file modes mean nothing, see `private_files`.

    Raises:
        ParameterError: an argument is anything else, a file stands there, or it cannot be written.
    """
    if not isinstance(identity, Identity):
        raise ParameterError(f"identity is an Identity, not {type(identity).__name__}")
    secret = _secret(_new(password))
    text = PublicIdentity.of(identity).line + "\n" + sealed(identity.key, secret)
    write_private(path, text.encode(), existing=Existing.REFUSE, without_modes=without_modes)


def load_identity(
    path: str | os.PathLike[str], *, password: str, without_modes: WithoutModes = WithoutModes.REFUSE
) -> Identity:
    """The identity of a file that `save_identity` wrote; takes a fifth of a second.

    Raises:
        ParameterError: there is no such file, others can read it, it is something else, or the password is
            another one.
        VerificationError: the name or the public key in the file is not the private key's.
    """
    public, sealed_key = _parts(path, without_modes)
    key = opened(sealed_key, _secret(password))
    if key.public_key != public.public_key:
        raise VerificationError(
            f"the private key in {os.fspath(path)!r} is not that of its first line; the file was changed"
        )
    return Identity(public.client, key)


def load_public(
    path: str | os.PathLike[str], *, without_modes: WithoutModes = WithoutModes.REFUSE
) -> PublicIdentity:
    """What others may know of the identity in a file; needs no password.

    Raises:
        ParameterError, VerificationError: as `load_identity`.
    """
    return _parts(path, without_modes)[0]


def _new(password: object) -> str:
    """A password that a new file may be put under."""
    if not isinstance(password, str):
        raise ParameterError(f"a password is a str, not {type(password).__name__}")
    if not MINIMUM_PASSWORD <= len(password) <= MAXIMUM_PASSWORD:
        raise ParameterError(
            f"the password is shorter than {MINIMUM_PASSWORD} characters or longer than {MAXIMUM_PASSWORD}; "
            "take several words"
        )
    return password


def _secret(password: object) -> Secret:
    if not isinstance(password, str) or not 1 <= len(password) <= MAXIMUM_PASSWORD:
        raise ParameterError(f"a password is a str of 1 to {MAXIMUM_PASSWORD} characters")
    try:
        return Secret(unicodedata.normalize("NFC", password).encode())
    except UnicodeEncodeError:
        raise ParameterError("the password holds half a character (a lone surrogate); type another") from None


def _parts(path: str | os.PathLike[str], without_modes: WithoutModes) -> tuple[PublicIdentity, str]:
    """The first line, verified, and the PEM below it."""
    data = read_private(path, maximum=_MAXIMUM_FILE, without_modes=without_modes)
    try:
        line, begin, rest = data.decode().partition("\n" + BEGIN)
    except UnicodeDecodeError:
        line = begin = rest = ""
    if not begin or "\n" in line:
        raise ParameterError(
            f"{os.fspath(path)!r} is no identity as `secagg identity new` writes it; name such a file"
        )
    return PublicIdentity.parse(line), BEGIN + rest
