"""SecureClients with records: the same archive as over Flower."""

from pathlib import Path

import pytest

from fl_integration.embedding.archive import archived, read_archived
from protocols import Identity
from secagg.errors import ParameterError
from tests.fl_integration.nvflare.stage import MASKED, Study, mean_of, moved, near

KEY = Identity.generate("coordinator")


def test_a_round_leaves_a_record_under_the_coordinators_key(tmp_path: Path) -> None:
    study = Study(tmp_path / "sites", protocol=MASKED)
    assert moved(study.train(records=tmp_path / "records", identity=KEY)) == near(mean_of(*"abc"))
    (path,) = archived(tmp_path / "records")
    found = read_archived(path)
    found.signed.verify(KEY.key.public_key)
    assert found.record.contributors == frozenset("abc")


def test_a_folder_without_a_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="records and identity go together"):
        Study(tmp_path / "sites").train(records=tmp_path / "records")
    assert not (tmp_path / "records").exists()
