"""A key under a password, with the whole work of scrypt: other programs, the work factor, what is refused."""

import re
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fl_integration.site.pkcs8 import opened, sealed
from secagg.errors import ParameterError
from secagg.secret import Secret
from secagg.standard.signing import SigningKey

PASSWORD = Secret(b"correct horse battery")
KEY = SigningKey.from_secret(Secret(bytes(range(32))))


@pytest.fixture(scope="module")
def pem() -> str:
    return sealed(KEY, PASSWORD)


def test_it_opens_under_its_password_and_no_other(pem: str) -> None:
    assert opened(pem, PASSWORD).secret == KEY.secret
    with pytest.raises(ParameterError, match="the password does not open the key, or the file was changed"):
        opened(pem, Secret(b"correct horse batterz"))


def test_other_programs_open_it(pem: str) -> None:
    """With a line above the key, as the files of identities have."""
    text = b"identity\n" + pem.encode()
    private = load_pem_private_key(text, PASSWORD.reveal())
    assert isinstance(private, Ed25519PrivateKey)
    assert private.private_bytes_raw() == KEY.secret.reveal()
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    done = subprocess.run(
        ["openssl", "pkey", "-passin", "pass:correct horse battery", "-pubout", "-outform", "DER"],
        input=text,
        capture_output=True,
        check=True,
    )
    assert done.stdout[-32:] == KEY.public_key


def test_the_work_factor_is_what_the_module_says(pem: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    done = subprocess.run(["openssl", "asn1parse"], input=pem.encode(), capture_output=True, check=True)
    found = re.findall(r"(?:OBJECT|INTEGER) +:(\S+)", done.stdout.decode())
    assert found == ["PBES2", "scrypt", "4000", "08", "05", "aes-256-cbc"]


def test_salt_and_vector_are_fresh(pem: str) -> None:
    again = sealed(KEY, PASSWORD)
    assert [mine != other for mine, other in zip(pem.split("\n"), again.split("\n"), strict=True)] == [
        *(False, True, True, True, True, False, False)
    ]


def test_other_work_factors_are_refused_before_any_work(pem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that asks for all memory, or for no work: `cryptography` would do as it is told."""
    weak = Ed25519PrivateKey.from_private_bytes(KEY.secret.reveal()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.reveal())
    )
    assert load_pem_private_key(weak, PASSWORD.reveal())
    with monkeypatch.context() as patch:
        patch.setattr("fl_integration.site.pkcs8._N", 1 << 8)
        quick = sealed(KEY, PASSWORD)
    with pytest.raises(ParameterError, match="no encrypted key as `secagg identity new` writes it"):
        opened(weak.decode(), PASSWORD)
    with pytest.raises(ParameterError, match="no encrypted key as `secagg identity new` writes it"):
        opened(quick, PASSWORD)


@pytest.mark.parametrize("text", ["", "\n", "a", "a\nb\nc\n", "a\n====\nc\n", "a\nü\nc\n"])
def test_texts_that_are_no_key(text: str) -> None:
    with pytest.raises(ParameterError, match="no encrypted key"):
        opened(text, PASSWORD)
