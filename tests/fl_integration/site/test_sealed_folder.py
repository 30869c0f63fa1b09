"""Sealed files in a folder: what is refused, and that an unreadable folder is not taken for an empty one.

That each file is its owner's alone, whole or not there, is tested where sites use them, in `flower`.
"""

from pathlib import Path
from typing import Any

import pytest

from fl_integration.site.sealed_folder import SealedFolder
from secagg.errors import ParameterError, VerificationError
from secagg.secret import Secret

KEY = Secret(bytes(32))


def folder(path: Path) -> SealedFolder:
    return SealedFolder(path / "state", key=KEY)


def test_what_was_written_last_is_read_and_what_was_removed_is_not(tmp_path: Path) -> None:
    files = folder(tmp_path)
    assert files.read("a") is None
    for data in (b"first", b""):
        files.write("a", data)
        assert files.read("a") == data
    files.remove("a")
    files.remove("a")
    assert files.read("a") is None


def test_a_file_opens_under_its_own_name_and_key_alone(tmp_path: Path) -> None:
    files = folder(tmp_path)
    files.write("a", b"of a")
    sealed = files.get("a")
    assert sealed is not None
    assert b"of a" not in sealed
    files.put("b", sealed)
    with pytest.raises(VerificationError, match="does not open"):
        files.read("b")
    with pytest.raises(VerificationError, match="does not open"):
        SealedFolder(files.path, key=Secret(bytes([1]) * 32)).read("a")


@pytest.mark.parametrize("key", [bytes(32), Secret(bytes(31)), None])
def test_a_key_is_a_secret_of_32_bytes(key: Any, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="sealed under a Secret of 32 bytes"):
        SealedFolder(tmp_path, key=key)


def test_a_folder_that_cannot_be_looked_into_is_not_one_without_the_file(tmp_path: Path) -> None:
    files = folder(tmp_path)
    files.path.rmdir()
    files.path.write_text("a file in the folder's place")
    with pytest.raises(ParameterError, match="cannot be read: Not a directory"):
        files.read("a")
    with pytest.raises(ParameterError, match="cannot be removed: Not a directory"):
        files.remove("a")


def test_a_link_that_leads_nowhere_is_no_missing_file(tmp_path: Path) -> None:
    files = folder(tmp_path)
    files.write("a", b"state")
    (place,) = files.path.glob("*.sealed")
    place.unlink()
    place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="cannot be opened"):
        files.read("a")
