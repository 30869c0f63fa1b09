"""Records in a folder: what is written, what is read again, and every way in which a file is not right."""

import dataclasses
import itertools
import os
import stat
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_integration.embedding import archive
from fl_integration.embedding.archive import Archive, ArchivedRound, Gap, archived, gaps, read_archived
from fl_integration.embedding.parcels import Place, Purpose, purpose_session
from protocols import Identity, MaskedSum, simulate
from protocols.messages.record import RoundRecord, SignedRecord
from protocols.messages.schema import encode
from secagg.entropy import SeededEntropy
from secagg.errors import DecodeError, ParameterError, VerificationError

KEY = Identity.generate("coordinator", entropy=SeededEntropy(b"archive"))
OTHER = Identity.generate("coordinator", entropy=SeededEntropy(b"other"))
PLACE = Place(b"heart", 3, bytes(range(32)), 1_800_000_000_000)


@cache
def some_record() -> RoundRecord:
    return simulate(MaskedSum(max_clients=3), {each: np.zeros(2) for each in "abc"}).record.record


def record(number: int = 0, *, place: Place = PLACE, purpose: Purpose = Purpose.TRAIN, **others: Any) -> Any:
    session = ArchivedRound(place, purpose.value, 0, signed=None).session  # type: ignore[arg-type]  # unused
    return dataclasses.replace(
        some_record(), session=purpose_session(session, purpose), round=number, **others
    )


def kept(folder: Path, number: int = 0, **others: Any) -> Path:
    """The file of one more round."""
    before = set(archived(folder)) if folder.exists() else set()
    signed = SignedRecord.sign(record(number, **others), KEY.key)
    Archive(folder, identity=KEY).keep(PLACE, Purpose.TRAIN, signed, ended=1_800_000_001.5)
    (path,) = set(archived(folder)) - before
    return path


def test_what_was_kept_is_read_again_and_nobody_else_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "records"
    path = kept(folder, 7, aborted="too few", opened=False)
    found = read_archived(path)
    assert found.record == record(7, aborted="too few", opened=False)
    assert (found.place, found.purpose, found.ended) == (PLACE, 1, 1_800_000_001_500)
    assert path.name == f"{found.session.hex()[:16]}-train-000007.record"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    found.signed.verify(KEY.key.public_key)
    assert [each.name for each in folder.iterdir()] == [path.name], "something half-written is left"


def test_the_same_record_again_is_no_second_one_and_another_one_is_refused(tmp_path: Path) -> None:
    path = kept(tmp_path)
    before = path.read_bytes()
    keeper = Archive(tmp_path, identity=KEY)
    keeper.keep(PLACE, Purpose.TRAIN, SignedRecord.sign(record(), KEY.key), ended=1_900_000_000)
    assert path.read_bytes() == before
    another = SignedRecord.sign(record(aborted="it was not so"), KEY.key)
    with pytest.raises(ParameterError, match="another record of the same round: the coordinator's state was"):
        keeper.keep(PLACE, Purpose.TRAIN, another, ended=1_900_000_000)
    assert path.read_bytes() == before


def test_a_link_in_the_place_is_not_written_through(tmp_path: Path) -> None:
    path = kept(tmp_path / "here")
    elsewhere = tmp_path / "elsewhere"
    path.unlink()
    path.symlink_to(elsewhere)
    with pytest.raises(ParameterError, match="cannot be opened"):
        kept(tmp_path / "here")
    assert not elsewhere.exists()


def test_only_what_the_own_key_signed_for_this_session_is_kept(tmp_path: Path) -> None:
    keeper = Archive(tmp_path, identity=KEY)
    with pytest.raises(VerificationError, match="another signer's key"):
        keeper.keep(PLACE, Purpose.TRAIN, SignedRecord.sign(record(), OTHER.key), ended=0)
    with pytest.raises(VerificationError, match="the head names another session"):
        keeper.keep(PLACE, Purpose.EVALUATE, SignedRecord.sign(record(), KEY.key), ended=0)
    assert archived(tmp_path) == []


@pytest.mark.parametrize("identity", [None, KEY.key, "coordinator"])
def test_nobody_who_could_sign(identity: Any, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="records are signed by an Identity, not"):
        Archive(tmp_path / "records", identity=identity)
    assert not (tmp_path / "records").exists()


def test_folders_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ParameterError, match="for records cannot be made: File exists"):
        Archive(tmp_path / "file", identity=KEY)
    with pytest.raises(ParameterError, match="cannot be read: No such file"):
        archived(tmp_path / "nothing")


def test_what_is_no_record_is_not_taken_for_one(tmp_path: Path) -> None:
    path = kept(tmp_path)
    (tmp_path / "notes.txt").write_text("to be kept for ten years")
    (tmp_path / f".{path.name}.0123456789abcdef.part").touch()
    (tmp_path / ".hidden.record").touch()
    assert archived(tmp_path) == [path]


def test_each_byte_that_is_changed_is_noticed_but_for_those_of_the_time(tmp_path: Path) -> None:
    path = kept(tmp_path)
    data = path.read_bytes()
    head = len(archive.MAGIC) + 1 + len(encode(PLACE)) + 1
    unsigned = set(range(head, head + 8))
    version = set(range(data.index(b"heart") + 5, data.index(b"heart") + 13))
    for place in [*range(head + 64), *range(head + 64, len(data), 3)]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        if place in unsigned | version:
            assert read_archived(path).record == record()
        else:
            with pytest.raises((DecodeError, VerificationError)):
                read_archived(path)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda data: b"", DecodeError, "no record of a round"),
        (lambda data: b"SAGR", DecodeError, "a record of version none; this release reads 01"),
        (lambda data: b"SAGR\x02" + data[5:], DecodeError, "a record of version 02; this release reads 01"),
        (lambda data: data[:-1], DecodeError, "more bytes|ends|short|left"),
        (lambda data: data + b"\0", DecodeError, "1 bytes are left over"),
        (lambda data: data[:5] + data[5:].replace(b"heart", b"lungs"), VerificationError, "another session"),
    ],
)
def test_files_that_are_refused(spoil: Any, error: Any, said: str, tmp_path: Path) -> None:
    path = kept(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(error, match=said):
        read_archived(path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"place": dataclasses.replace(PLACE, study=b"")}, "the head names no session: prefix must be"),
        ({"place": dataclasses.replace(PLACE, epoch=1 << 63)}, "the head names no session: epoch is"),
        ({"purpose": 9}, "a sum for purpose 9"),
    ],
)
def test_heads_that_name_nothing(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = kept(tmp_path)
    made = dataclasses.replace(read_archived(path), **changed)
    path.write_bytes(archive.MAGIC + b"\x01" + encode(made))
    with pytest.raises(VerificationError, match=said):
        read_archived(path)


def test_a_record_under_another_rounds_name_hides_nothing(tmp_path: Path) -> None:
    first, second = kept(tmp_path, 0), kept(tmp_path, 1)
    first.replace(second)
    with pytest.raises(VerificationError, match=r"what belongs into '.*-train-000000\.record'"):
        read_archived(second)


def test_a_pipe_does_not_keep_the_reader(tmp_path: Path) -> None:
    path = kept(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ParameterError, match="no regular file"):
        read_archived(path)


def rounds_of(numbers: Any, purpose: Purpose = Purpose.TRAIN) -> list[ArchivedRound]:
    signed = SignedRecord.sign(record(), KEY.key)
    return [
        ArchivedRound(PLACE, purpose.value, 0, dataclasses.replace(signed, record=record(number)))
        for number in numbers
    ]


@given(st.sets(st.integers(0, 60), min_size=1))
def test_what_is_missing_in_between_is_found(numbers: set[int]) -> None:
    found = list(itertools.chain.from_iterable(range(gap.first, gap.end) for gap in gaps(rounds_of(numbers))))
    assert found == [each for each in range(max(numbers)) if each not in numbers]


def test_rounds_go_on_counting_in_the_next_session() -> None:
    def of(place: Place, numbers: Any) -> list[ArchivedRound]:
        return [dataclasses.replace(each, place=place) for each in rounds_of(numbers)]

    later = dataclasses.replace(PLACE, epoch=PLACE.epoch + 1)
    other = dataclasses.replace(later, study=b"lungs")
    assert gaps(of(later, [3, 4]) + of(PLACE, [0, 1, 2])) == []
    assert gaps(of(later, [0, 1]) + of(PLACE, [0, 1, 2])) == []  # the coordinator's state was lost
    (gap,) = gaps(of(later, [5]) + of(PLACE, [0, 1, 2]))
    assert (gap.first, gap.end) == (3, 5)
    assert gap.session == of(later, [5])[0].session
    (gap,) = gaps(of(other, [2]) + of(PLACE, [0, 1]))
    assert (gap.first, gap.end) == (0, 2)


def test_a_round_under_another_key_fills_no_gap() -> None:
    """Whoever holds the folder takes a record away, and signs one in its place."""
    rounds = rounds_of([0, 1, 2])
    forged = dataclasses.replace(rounds[1].signed, public_key=OTHER.key.public_key)
    rounds[1] = dataclasses.replace(rounds[1], signed=forged)
    found = [(gap.first, gap.end) for gap in gaps(rounds)]
    assert sorted(found) == [(0, 1), (1, 2)]


def test_purposes_are_counted_apart_and_a_great_gap_costs_nothing() -> None:
    rounds = rounds_of([0, 1]) + rounds_of([5, (1 << 62)], Purpose.EVALUATE)
    session = rounds[0].session
    assert gaps(rounds) == [
        Gap(session, Purpose.EVALUATE, 0, 5),
        Gap(session, Purpose.EVALUATE, 6, 1 << 62),
    ]
