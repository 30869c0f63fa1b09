"""A SecureGrid with records: each round that ends leaves one, whatever became of it, and of the server."""

from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fl_integration.embedding.archive import ArchivedRound, archived, gaps, read_archived
from protocols import Identity
from secagg.errors import ParameterError
from secagg.secret import Secret
from tests.fl_integration.flower.stage import MASKED, Study, average, mean_of, moved, near

KEY, OTHER = Identity.generate("coordinator"), Identity.generate("coordinator")


class Dies(BaseException):
    """The server's process ends here."""


def found(folder: Path) -> list[ArchivedRound]:
    rounds = [read_archived(path) for path in archived(folder)]
    return sorted(rounds, key=lambda each: (each.place.epoch, each.purpose, each.record.round))


def test_each_round_leaves_a_record_under_the_coordinators_key(tmp_path: Path) -> None:
    study = Study(tmp_path / "sites", protocol=MASKED)
    study.run(rounds=2, records=tmp_path / "records", identity=KEY, study="study")
    rounds = found(tmp_path / "records")
    assert [each.record.round for each in rounds] == [0, 1]
    for each in rounds:
        each.signed.verify(KEY.key.public_key)
        assert each.record.contributors == frozenset("abc")
        assert (each.place.study, each.record.opened, each.record.aborted) == (b"study", True, "")


def test_an_aborted_round_leaves_one_that_says_why(tmp_path: Path) -> None:
    study = Study(tmp_path / "sites", protocol=MASKED)
    study.node("c").mute = lambda nth: nth > 1  # it answers the greeting
    assert moved(study.run(records=tmp_path / "records", identity=KEY)) == 0.0
    (each,) = found(tmp_path / "records")
    assert "c" in each.record.dropped
    assert (each.record.contributors, each.record.opened) == (frozenset(), False)
    assert "2 answered ShareKeys, 1 are lost: 'c'" in each.record.aborted


@pytest.mark.parametrize("after", [1, 4])
def test_a_round_in_which_the_server_dies_is_recorded_when_it_comes_back(after: int, tmp_path: Path) -> None:
    study, seen = Study(tmp_path / "sites", protocol=MASKED), []

    def dying(node: int, answer: Message) -> Message:
        seen.append(node)
        if len(seen) == 3 + after:  # behind the greetings
            raise Dies
        return answer

    state: Any = {"state_dir": tmp_path / "server", "state_key": Secret(bytes(32))}
    state |= {"records": tmp_path / "records", "identity": KEY}
    study.grid.forge = dying
    with pytest.raises(Dies):
        study.run(**state)
    assert found(tmp_path / "records") == []
    study.grid.forge = lambda node, answer: answer
    assert moved(study.run(**state)) == near(mean_of(*"abc"))
    rounds = found(tmp_path / "records")
    assert [(each.record.round, bool(each.record.aborted)) for each in rounds] == [(0, True), (1, False)]
    assert len({each.session for each in rounds}) == 1
    assert gaps(rounds) == []


def test_a_server_that_dies_before_it_wrote_the_record_finds_it_in_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(tmp_path / "sites", protocol=MASKED)
    state: Any = {"state_dir": tmp_path / "server", "state_key": Secret(bytes(32))}
    state |= {"records": tmp_path / "records", "identity": KEY}
    study.run(**state)
    (path,) = archived(tmp_path / "records")
    before = read_archived(path)
    path.unlink()
    study.secure(average(), **state)
    assert read_archived(path).signed == before.signed


def test_under_another_key_the_server_opens_another_session(tmp_path: Path) -> None:
    study = Study(tmp_path / "sites", protocol=MASKED)
    state: Any = {"state_dir": tmp_path / "server", "state_key": Secret(bytes(32))}
    for identity in (None, KEY, OTHER):
        kept = {} if identity is None else {"records": tmp_path / "records", "identity": identity}
        assert moved(study.run(**state, **kept)) == near(mean_of(*"abc"))
    first, second = found(tmp_path / "records")
    assert first.session != second.session
    first.signed.verify(KEY.key.public_key)
    second.signed.verify(OTHER.key.public_key)


def test_a_training_that_cannot_write_its_records_stops(tmp_path: Path) -> None:
    study, folder = Study(tmp_path / "sites", protocol=MASKED), tmp_path / "records"

    def gone(node: int, answer: Message) -> Message:
        if folder.exists():
            folder.rmdir()
        return answer

    study.grid.forge = gone
    with pytest.raises(ParameterError, match="cannot be written: No such file"):
        study.run(rounds=2, records=folder, identity=KEY)
    assert len({message.metadata.group_id for _, message, _ in study.grid.sent}) <= 2, "it went on"


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    study = Study(tmp_path / "sites")
    study.run()
    assert [each.name for each in tmp_path.iterdir()] == ["sites"]
