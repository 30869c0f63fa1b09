"""Identities in files: the round trip, what a thief, a forger and a careless copy meet, other programs."""

import base64
import os
import re
import stat
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_integration import load_identity, save_identity
from fl_integration.site import pkcs8, private_files
from fl_integration.site.keys import load_public
from fl_integration.site.pkcs8 import BEGIN
from fl_integration.site.private_files import WithoutModes
from fl_integration.site.public_identity import PublicIdentity
from protocols.identity import Identity, check_client_id
from secagg.entropy import SeededEntropy
from secagg.errors import ParameterError, VerificationError

pytestmark = pytest.mark.usefixtures("quick_passwords")

PASSWORD = "correct horse battery"
ZURICH = Identity.generate('Zürich "B" \\ 1', entropy=SeededEntropy(b"test", b"zurich"))
OTHER = Identity.generate("basel", entropy=SeededEntropy(b"test", b"basel"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("keys") / "zurich.key"
    save_identity(ZURICH, path, password=PASSWORD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text(encoding="utf-8")


def put(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "zurich.key"
    path.write_text(text, encoding="utf-8", newline="")
    path.chmod(0o600)
    return path


def test_an_identity_comes_back_and_its_public_half_needs_no_password(text: str, tmp_path: Path) -> None:
    path = put(tmp_path, text)
    again = load_identity(path, password=PASSWORD)
    assert again.client == ZURICH.client
    assert again.key.secret == ZURICH.key.secret
    assert load_public(path) == PublicIdentity.of(ZURICH)


def test_the_file_shows_no_secret_and_is_another_each_time(text: str, tmp_path: Path) -> None:
    secret = ZURICH.key.secret.reveal()
    save_identity(ZURICH, tmp_path / "again.key", password=PASSWORD)
    again = (tmp_path / "again.key").read_text(encoding="utf-8")
    assert again.splitlines()[0] == text.splitlines()[0]
    assert again.splitlines()[3:-1] != text.splitlines()[3:-1]
    for each in (text, again):
        assert secret.hex() not in each
        assert PASSWORD not in each


def test_the_password_is_one_however_it_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "k"
    save_identity(OTHER, path, password="Zu\u0308rich am See")
    assert load_identity(path, password="Z\u00fcrich am See").client == "basel"


@pytest.mark.parametrize("password", ["correct horse batterz", "Correct horse battery", "x", PASSWORD + " "])
def test_another_password(password: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="the password does not open the key") as caught:
        load_identity(put(tmp_path, text), password=password)
    assert password not in str(caught.value) or len(password) == 1


def test_a_file_is_never_overwritten(text: str, tmp_path: Path) -> None:
    path = put(tmp_path, text)
    with pytest.raises(ParameterError, match="is there already and is not overwritten"):
        save_identity(OTHER, path, password=PASSWORD)
    assert path.read_text(encoding="utf-8") == text


def test_a_file_that_others_read_is_refused(text: str, tmp_path: Path) -> None:
    path = put(tmp_path, text)
    path.chmod(0o640)
    for load in (load_public, lambda path: load_identity(path, password=PASSWORD)):
        with pytest.raises(ParameterError, match=r"mode 0640.*chmod 600"):
            load(path)


def test_a_name_belongs_to_its_key(text: str, tmp_path: Path) -> None:
    path = put(tmp_path, text.replace("Zürich", "Bern", 1))
    for load in (load_public, lambda path: load_identity(path, password=PASSWORD)):
        with pytest.raises(VerificationError, match="the key did not sign the name 'Bern"):
            load(path)


def test_the_line_of_another_identity_above_the_key(text: str, tmp_path: Path) -> None:
    path = put(tmp_path, PublicIdentity.of(OTHER).line + "\n" + text.split("\n", 1)[1])
    assert load_public(path).client == "basel"
    with pytest.raises(VerificationError, match="is not that of its first line"):
        load_identity(path, password=PASSWORD)


def test_every_changed_letter_that_costs_no_work_is_noticed(text: str, tmp_path: Path) -> None:
    path = put(tmp_path, text)
    key_at = text.index(BEGIN) + len(BEGIN)
    for place in [
        *range(0, key_at - 1, 5),
        *range(key_at + 1, key_at + 48),
        *range(len(text) - 38, len(text)),
    ]:
        letter = "B" if text[place] == "A" else "A"
        path.write_text(text[:place] + letter + text[place + 1 :], encoding="utf-8")
        with pytest.raises((ParameterError, VerificationError)):
            load_identity(path, password=PASSWORD)


@pytest.mark.parametrize("place", [*range(35, 51), *range(76, 92), *range(94, 158)])
def test_every_changed_byte_of_the_key_is_noticed(place: int, text: str, tmp_path: Path) -> None:
    head, _, pem = text.partition("\n")
    data = bytearray(base64.b64decode("".join(pem.splitlines()[1:-1])))
    data[place] ^= 1 << place % 8
    path = put(tmp_path, f"{head}\n{pkcs8._pem(bytes(data))}")
    with pytest.raises(
        (ParameterError, VerificationError), match=r"does not open the key|not that of its first"
    ):
        load_identity(path, password=PASSWORD)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "# a remark\n" + text,
        lambda text: text.replace("\n", "\n\n", 1),
        lambda text: text.split("\n", 1)[1],
        lambda text: text.split("\n", 1)[0] + "\n",
        lambda text: text.replace("ENCRYPTED PRIVATE", "PRIVATE"),
        lambda text: text + text,
        lambda text: "x" * 5000,
    ],
)
def test_files_that_are_something_else(change: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError):
        load_identity(put(tmp_path, change(text)), password=PASSWORD)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = put(tmp_path, "")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ParameterError, match="is no identity as `secagg identity new` writes it"):
        load_public(path)


@pytest.mark.parametrize(
    ("password", "named"),
    [
        ("", "shorter than 12"),
        ("x" * 11, "shorter than 12"),
        ("x" * 1025, "longer than 1024"),
        (b"correct horse battery", "a password is a str, not bytes"),
        (None, "a password is a str, not NoneType"),
        ("\ud800" * 12, "half a character"),
    ],
)
def test_passwords_that_are_refused(password: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=re.escape(named)):
        save_identity(OTHER, tmp_path / "k", password=password)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("password", ["", None, b"bytes", "x" * 1025])
def test_passwords_that_open_nothing(password: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="a password is a str of 1 to 1024"):
        load_identity(put(tmp_path, text), password=password)


def test_only_identities_are_saved(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="is an Identity, not SigningKey"):
        save_identity(OTHER.key, tmp_path / "k", password=PASSWORD)  # type: ignore[arg-type]


def test_without_modes_the_folder_has_to_be_trusted(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_files, "_MODES_HOLD", False)
    path = put(tmp_path, text)
    with pytest.raises(ParameterError, match="TRUST_THE_FOLDER"):
        load_public(path)
    with pytest.raises(ParameterError, match="TRUST_THE_FOLDER"):
        save_identity(OTHER, tmp_path / "k", password=PASSWORD)
    trusted = WithoutModes.TRUST_THE_FOLDER
    assert load_public(path, without_modes=trusted).client == ZURICH.client
    assert load_identity(path, password=PASSWORD, without_modes=trusted).client == ZURICH.client


# --- the public line ------------------------------------------------------------------------------


def valid(name: str) -> bool:
    try:
        return bool(check_client_id(name))
    except ParameterError:
        return False


NAMES = (
    st.text(st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=16)
    .map(lambda name: unicodedata.normalize("NFC", name))
    .filter(valid)
)


@given(NAMES | st.text('"\\ #ab', min_size=1, max_size=60))
def test_every_name_comes_back_from_its_line(name: str) -> None:
    public = PublicIdentity.of(Identity.generate(name, entropy=SeededEntropy(b"test", b"names")))
    for line in (public.line, public.line + "\n"):
        assert PublicIdentity.parse(line) == public


def test_every_changed_letter_of_a_line_is_noticed() -> None:
    line = PublicIdentity.of(ZURICH).line
    for place in range(len(line)):
        for letter in "aA2":
            changed = line[:place] + letter + line[place + 1 :]
            if changed != line:
                with pytest.raises((ParameterError, VerificationError)):
                    PublicIdentity.parse(changed)


def test_a_line_is_known() -> None:
    line = PublicIdentity.of(OTHER).line
    key = OTHER.key.public_key.hex()
    assert re.fullmatch(
        rf'identity "basel" {key} [0-9a-f]{{128}}  # [A-Z2-7]{{4}}( [A-Z2-7]{{4}}){{4}}', line
    )


@pytest.mark.parametrize("line", ["", "identity", "\n", None, b"", 7])
def test_lines_that_are_none(line: Any) -> None:
    with pytest.raises(ParameterError, match=r"no line of a public identity|a line is a str"):
        PublicIdentity.parse(line)


def test_a_name_that_its_key_never_signed() -> None:
    public = PublicIdentity.of(ZURICH)
    with pytest.raises(VerificationError, match="did not sign the name 'basel'"):
        PublicIdentity("basel", public.public_key, public.signature)
    with pytest.raises(ParameterError, match="is an Identity"):
        PublicIdentity.of(public)  # type: ignore[arg-type]
    if os.name == "posix":
        assert ZURICH.key.secret.reveal().hex() not in repr(public)
