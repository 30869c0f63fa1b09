"""What a site keeps: a restart goes on from it; and what happens when it is gone, older, or another's."""

import logging
import os
import shutil
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fl_integration.embedding import member
from fl_integration.embedding.parcels import (
    Parcel,
    Place,
    Purpose,
    Refused,
    Step,
    decode_head,
    encode_head,
)
from fl_integration.flower.engine import pack, unpack
from fl_integration.site.sealed_folder import SealedFolder
from protocols import MaskedSum
from secagg.errors import ParameterError
from tests.fl_integration.flower.stage import (
    FIRST_NODE,
    MASKED,
    PLAIN,
    Study,
    app_of,
    average,
    by,
    four,
    mean_of,
    moved,
    near,
    steps,
    zeros,
)

A, B, C, D = range(FIRST_NODE, FIRST_NODE + 4)
FIRST, STEADY = (len(MASKED.exchanges(first=each)) for each in (True, False))


class Between:
    """A training whose rounds run one by one over one SecureGrid, so that something may happen in between."""

    def __init__(self, study: Study, **others: Any) -> None:
        self.study, self.strategy = study, four() if len(study.names) == 4 else average()
        self.secure = study.secure(self.strategy, **others)
        self.arrays = zeros()

    def round(self) -> float:
        """How far this round moved the arrays."""
        before = self.arrays["w"].numpy()
        result = self.strategy.start(grid=self.secure, initial_arrays=self.arrays, num_rounds=1)
        if not result.arrays:
            return 0.0
        self.arrays = result.arrays
        return float((self.arrays["w"].numpy() - before).mean())


ALL = mean_of(*"abc")


def files_of(study: Study, name: str) -> list[Path]:
    """The sealed files of a site: of its session, and of its machines."""
    return sorted((study.folder / name).glob("*.sealed"))


def forget(study: Study, node: int) -> None:
    """A restart of the SuperNode: it keeps what an app remembers in memory alone."""
    study.grid.nodes[node].context.state = RecordDict()


def test_a_restarted_supernode_goes_on_from_its_files(tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=MASKED)
    training = Between(study)
    assert training.round() == near(ALL)
    forget(study, A)
    assert training.round() == near(ALL)
    assert len(steps(study, A)) == FIRST + STEADY, "it had to make its keys anew"


def test_what_the_engine_remembers_is_small_and_no_secret(tmp_path: Path) -> None:
    study = Study(tmp_path)
    Between(study).round()
    (record,) = study.node("a").context.state.values()
    assert all(isinstance(value, bytes) and len(value) <= 128 for value in record.values())


@pytest.mark.parametrize(
    "lost",
    ["machine", "all", "older", "of another site", "of another key", "spoilt", "spoilt, and not remembered"],
)
def test_a_file_that_does_not_go_on_is_a_fresh_join_that_costs_one_round_at_most(
    lost: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path)
    training = Between(study)
    assert training.round() == near(ALL)
    folder, backup = study.folder / "a", tmp_path / "backup"
    machine = max(files_of(study, "a"), key=lambda path: path.stat().st_size)
    if lost == "machine":
        machine.unlink()
    elif lost == "all":
        for path in files_of(study, "a"):
            path.unlink()
    elif lost == "older":
        shutil.copytree(folder, backup)
        assert training.round() == near(ALL)
        shutil.copy(backup / machine.name, machine)
    elif lost == "of another site":
        theirs = max(files_of(study, "b"), key=lambda path: path.stat().st_size)
        shutil.copy(theirs, machine)
    elif lost == "of another key":
        from secagg.secret import Secret

        SealedFolder(folder, key=Secret(bytes(32))).write("a", b"anything")
    else:
        if "remembered" in lost:
            forget(study, A)
        data = bytearray(machine.read_bytes())
        data[-1] ^= 1
        machine.write_bytes(data)
    caplog.clear()
    with caplog.at_level(logging.INFO, "secagg"):
        found = [training.round() for _ in range(3)]
    assert "it joins afresh" in caplog.text
    assert found[1:] == [near(ALL), near(ALL)]
    assert found[0] in (near(ALL), 0.0)


def test_a_restart_with_an_older_file_is_noticed_by_the_release_log(tmp_path: Path) -> None:
    # Nobody's memory says that the file is older, but the log stands beside the files.
    study = Study(tmp_path)
    training = Between(study)
    training.round()
    copies = {path: path.read_bytes() for path in files_of(study, "a")}
    training.round()
    for path, data in copies.items():
        path.write_bytes(data)
    forget(study, A)
    bodies = len(study.heard(A))
    found = [training.round() for _ in range(3)]
    assert found[1:] == [near(ALL), near(ALL)]
    assert len(study.heard(A)) > bodies


def test_without_its_release_log_a_site_takes_part_in_no_session_that_its_state_knows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, names="abcd")
    training = Between(study)
    assert training.round() == near(mean_of(*"abcd"))
    (study.folder / "d" / "releases.sqlite").unlink()
    heard = len(study.heard(D))
    assert training.round() == near(mean_of(*"abc"))
    (answer,) = study.heard(D)[heard:]
    head = decode_head(unpack(answer.content).head)
    assert isinstance(head, Refused)
    assert (
        "its release log lost that entry: find the log, or let the server open a new session" in head.reason
    )
    assert "find the log" in caplog.text
    assert Between(study).round() == near(mean_of(*"abcd")), "a new session admits it"


def test_a_closed_session_never_opens_again(tmp_path: Path) -> None:
    study = Study(tmp_path)
    old = Between(study)
    assert old.round() == near(ALL)
    assert Between(study).round() == near(ALL)
    assert old.round() == 0.0
    heads = [decode_head(unpack(each.content).head) for each in study.heard(A)]
    (refusal,) = [head for head in heads if isinstance(head, Refused)]
    assert "closed all before it" in refusal.reason


@pytest.mark.parametrize("restored", ["files", "files and memory"])
def test_a_closed_session_does_not_open_again_whatever_is_restored_but_the_log(
    restored: str, tmp_path: Path
) -> None:
    study = Study(tmp_path)
    old = Between(study)
    old.round()
    copies = {path: path.read_bytes() for path in files_of(study, "a")}
    remembered = study.node("a").context.state
    Between(study).round()
    for path in files_of(study, "a"):
        path.unlink()
    for path, data in copies.items():
        path.write_bytes(data)
        path.chmod(0o600)
    study.node("a").context.state = remembered if restored == "files and memory" else RecordDict()
    assert old.round() == 0.0
    heads = [decode_head(unpack(each.content).head) for each in study.heard(A)]
    assert isinstance(heads[-1], Refused)


def test_sessions_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path, enrols={"max_sessions": 2})
    assert [Between(study).round() for _ in range(2)] == [near(ALL), near(ALL)]
    secure = study.secure(average())
    assert list(secure.get_node_ids()) == []
    assert "the server opens session 3 over version 1 of the roster; this site admits 2" in caplog.text


@pytest.mark.parametrize("protocol", [PLAIN, MASKED], ids=["plain", "masked"])
def test_all_files_are_their_owners_alone(protocol: Any, tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=protocol)
    before = os.umask(0)
    try:
        study.run()
    finally:
        os.umask(before)
    folder = study.folder / "a"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.glob("*.sealed")}
    assert len(modes) == 2
    assert set(modes.values()) == {0o600}
    # Whoever can open a database can keep its owner waiting.
    others = {path.name for path in folder.iterdir() if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert others == set()


def test_a_file_that_others_can_read_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path)
    training = Between(study)
    training.round()
    for path in files_of(study, "a"):
        path.chmod(0o640)
    assert training.round() == 0.0
    assert "a does not take part" in caplog.text


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_where_the_disk_refuses_nothing_leaves_and_nothing_is_half_written(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, protocol=PLAIN)
    training = Between(study)
    assert training.round() == near(ALL)
    contents = {path: path.read_bytes() for path in files_of(study, "a")}
    full = OSError(28, "No space left on device")
    real, broken = getattr(os, call), str(study.folder / "a")

    def refusing(first: Any, *others: Any, **named: Any) -> Any:
        place = os.readlink(f"/proc/self/fd/{first}") if call == "fsync" else str(first)
        if place.startswith(broken):
            raise full
        return real(first, *others, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, refusing)
        heard = len(study.heard(A))
        assert training.round() == 0.0
    for answer in study.heard(A)[heard:]:
        assert isinstance(decode_head(unpack(answer.content).head), Refused)
        assert not unpack(answer.content).body
    assert {path: path.read_bytes() for path in files_of(study, "a")} == contents
    assert not list((study.folder / "a").glob(".*"))
    found = [training.round() for _ in range(2)]
    assert found[-1] == near(ALL)


def test_a_log_that_cannot_be_written_lets_nothing_out(tmp_path: Path) -> None:
    study = Study(tmp_path)
    training = Between(study)
    training.round()
    heard = len(study.heard(A))
    with sqlite3.connect(study.folder / "a" / "releases.sqlite") as log:
        log.execute("CREATE TRIGGER full BEFORE INSERT ON releases BEGIN SELECT RAISE(ABORT, 'full'); END")
    assert training.round() == 0.0
    assert all(not unpack(answer.content).body for answer in study.heard(A)[heard:])


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    study = Study(tmp_path, names="abcd")
    study.run(four())
    node = study.node("d")
    node.app = app_of(by(0.4, 40), mods=[study.mod("d", study="another")])
    before = {path: path.read_bytes() for path in files_of(study, "d") if path.suffix == ".sealed"}
    version = study.enrol("d", node.context).version
    place = Place(b"another", version.version, version.digest, int(time.time() * 1000) + 60_000)
    parcel = Parcel(encode_head(Step(place, Purpose.TRAIN.value)))
    study.grid.push_messages([Message(pack(parcel), dst_node_id=D, message_type="train")])
    said = decode_head(unpack(study.heard(D)[-1].content).head)
    assert said == Refused("the state folder of this site is another study's; each has its own")
    assert before == {path: path.read_bytes() for path in files_of(study, "d") if path.suffix == ".sealed"}


def test_two_processes_at_once_on_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(member, "PATIENCE_SECONDS", 0.05)
    study = Study(tmp_path)
    training = Between(study)
    training.round()
    # Another process of the site that is in the middle of an answer holds what `alone` holds.
    with study.enrol("a", study.node("a").context).files().alone("a", patience=1.0):
        assert training.round() == 0.0
    assert "two nodes with one identity and one folder? Give each its own" in caplog.text
    assert training.round() == near(ALL)


@pytest.mark.parametrize("what", ["a folder where the lock belongs", "no folder at all"])
def test_a_folder_that_cannot_be_used_is_refused_in_words(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, names="abcd")
    if what == "no folder at all":
        (study.folder / "d").write_text("a file")
    else:
        study.run(four())
        (lock,) = (study.folder / "d").glob("*.lock")
        lock.unlink()
        lock.mkdir()
    assert moved(study.run()) in (near(mean_of(*"abc")),)
    assert "node 103 takes no part: " in caplog.text
    # What its folders are called is the site's own affair.
    assert decode_head(unpack(study.heard(D)[-1].content).head) == Refused(member.UNABLE)


@pytest.mark.slow
def test_a_million_values_are_kept_while_an_update_is_asked_and_little_afterwards(tmp_path: Path) -> None:
    protocol = MaskedSum(max_weight=1000)
    study = Study(tmp_path, protocol=protocol)
    length = 10**6
    sizes: list[int] = []

    def step(arrays: Any, message: Any, context: Any) -> Any:
        sizes.append(sum(path.stat().st_size for path in files_of(study, "a")))
        return {"w": arrays["w"] + np.float32(0.1)}, {"num-examples": 10}

    study.join("a", A, step)
    study.run(arrays=zeros(length), rounds=2)
    after = sum(path.stat().st_size for path in files_of(study, "a"))
    # The last reply: 26 bits a value. The model itself is stored nowhere.
    assert after <= protocol.plan(3).ring_bits / 8 * length + 100_000
    assert max(sizes) <= after + 100_000


def test_a_step_without_a_greeting_is_answered_like_any_newcomers(tmp_path: Path) -> None:
    # A node whose disk was replaced behind the greeting.
    study = Study(tmp_path)
    training = Between(study)
    training.round()
    shutil.rmtree(study.folder / "a")
    forget(study, A)
    assert training.round() in (near(ALL), 0.0)
    assert training.round() == near(ALL)
    assert all(isinstance(decode_head(unpack(m.content).head), Step) for m in steps(study, A))


def test_a_state_under_another_key_is_refused(tmp_path: Path) -> None:
    from secagg.secret import Secret

    study = Study(tmp_path)
    study.run()
    study.enrols["state_key"] = Secret(bytes(16))
    with pytest.raises(ParameterError, match=r"state_key is a secagg\.secret\.Secret of 32 bytes"):
        study.enrol("a", study.node("a").context)
