"""An Ed25519 key under a password: PKCS #8, encrypted as PBES2 with scrypt and AES-256-CBC.

`cryptography` encrypts PKCS #8 with PBKDF2 and 2048 iterations and takes no other number (version 50): a
stolen file would fall to a graphics card. So the encrypting is done here, over its scrypt and its AES, in the
form of RFC 5958, RFC 8018 and RFC 7914; the decrypting is its own. scrypt runs at N = 2¹⁴, r = 8, p = 5, a
fifth of a second: OWASP's Password Storage Cheat Sheet lists these as equal to N = 2¹⁷, p = 1, and of its
list they are the ones that `openssl pkey` still opens, which allows 32 MiB.

The reader takes this one form and no other, so that no file names a work factor that takes all memory, or
none. CBC is not authenticated: whoever reads a key from here checks it against a public key that is known.

>>> from secagg.standard.signing import SigningKey
>>> key = SigningKey.generate()
>>> opened(sealed(key, Secret(b"a long password")), Secret(b"a long password")).public_key == key.public_key
True
"""

import base64
import os
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import load_der_private_key

from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.standard.signing import SigningKey

__all__ = ["BEGIN", "opened", "sealed"]

BEGIN: Final = "-----BEGIN ENCRYPTED PRIVATE KEY-----"
_END: Final = "-----END ENCRYPTED PRIVATE KEY-----"
_LINE: Final = 64

_N, _R, _P = 1 << 14, 8, 5
_SALT, _BLOCK = 16, 16
_CIPHERTEXT: Final = 64
_SALT_AT, _VECTOR_AT, _CIPHERTEXT_AT = 35, 76, 94
"""Where the three stand in the DER, in which everything else is constant."""

_BARE: Final = bytes.fromhex("302e020100300506032b657004220420")
"""What stands before the 32 bytes of an Ed25519 key in PKCS #8 (RFC 8410, section 7)."""


def _der(tag: int, *parts: bytes) -> bytes:
    """One value in DER, of fewer than 256 bytes."""
    body = b"".join(parts)
    return bytes([tag] if len(body) < 128 else [tag, 0x81]) + bytes([len(body)]) + body


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


_PBES2: Final = _der(0x06, bytes.fromhex("2a864886f70d01050d"))
_SCRYPT: Final = _der(0x06, bytes.fromhex("2b06010401da47040b"))
_AES_256_CBC: Final = _der(0x06, bytes.fromhex("60864801650304012a"))


def _encoded(salt: bytes, vector: bytes, ciphertext: bytes) -> bytes:
    """EncryptedPrivateKeyInfo, see RFC 8018 (A.4) and RFC 7914 (section 7)."""
    derivation = _sequence(_SCRYPT, _sequence(_der(0x04, salt), _integer(_N), _integer(_R), _integer(_P)))
    encryption = _sequence(_AES_256_CBC, _der(0x04, vector))
    return _sequence(_sequence(_PBES2, _sequence(derivation, encryption)), _der(0x04, ciphertext))


def sealed(key: SigningKey, password: Secret) -> str:
    """The key under a password, as PEM with a newline at its end. Fresh salt and vector each time."""
    salt, vector = os.urandom(_SALT), os.urandom(_BLOCK)
    derived = Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(password.reveal())
    padder = PKCS7(8 * _BLOCK).padder()
    padded = padder.update(_BARE + key.secret.reveal()) + padder.finalize()
    encryptor = Cipher(algorithms.AES256(derived), modes.CBC(vector)).encryptor()
    return _pem(_encoded(salt, vector, encryptor.update(padded) + encryptor.finalize()))


def opened(pem: str, password: Secret) -> SigningKey:
    """The key of what `sealed` wrote.

    Raises:
        ParameterError: the text is anything else, or the password is another one.
    """
    data = _data(pem)
    private: object
    try:
        private = load_der_private_key(data, password.reveal())
    except (ValueError, UnsupportedAlgorithm):  # the latter: changed bytes may name any kind of key
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise ParameterError("the password does not open the key, or the file was changed")
    return SigningKey.from_secret(Secret(private.private_bytes_raw()))


def _pem(data: bytes) -> str:
    text = base64.b64encode(data).decode("ascii")
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join([BEGIN, *lines, _END, ""])


def _data(pem: str) -> bytes:
    """The DER in a PEM, if the two have our form and our work factor, byte for byte."""
    try:
        data = base64.b64decode("".join(pem.splitlines()[1:-1]), validate=True)
    except ValueError:
        data = b""
    parts = data[_SALT_AT:][:_SALT], data[_VECTOR_AT:][:_BLOCK], data[_CIPHERTEXT_AT:]
    if len(parts[2]) != _CIPHERTEXT or _encoded(*parts) != data or _pem(data) != pem:
        raise ParameterError("this is no encrypted key as `secagg identity new` writes it, or it was changed")
    return data
