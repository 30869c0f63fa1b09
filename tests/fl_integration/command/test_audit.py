"""`secagg audit`: what it shows, what it finds wrong, and what others cannot write into its table."""

import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from fl_integration.command.app import app
from fl_integration.command.audit import PROTOCOLS
from fl_integration.embedding.archive import Archive, ArchivedRound, archived
from fl_integration.embedding.parcels import Place, Purpose, purpose_session
from fl_integration.site.public_identity import PublicIdentity
from protocols import CkksSum, Identity, LatticeSum, MaskedSum, PaillierSum, PlainSum, simulate
from protocols.membership import digest_fingerprint
from protocols.messages.record import RoundRecord, SignedRecord

KEY, OTHER = Identity.generate("coordinator"), Identity.generate("coordinator")
PLACE = Place(b"heart", 1, bytes(range(32)), 1_800_000_000_000)


@cache
def some_record(protocol: type[Any] = MaskedSum) -> RoundRecord:
    updates = {each: np.zeros(2) for each in ("Basel", "Graz", "Wien")}
    return simulate(protocol(max_clients=3), updates).record.record


def keep(
    folder: Path, *numbers: int, key: Identity = KEY, protocol: type[Any] = MaskedSum, **others: Any
) -> None:
    place = others.pop("place", PLACE)
    session = ArchivedRound(place, 1, 0, signed=None).session  # type: ignore[arg-type]  # unused
    for number in numbers:
        record = dataclasses.replace(
            some_record(protocol),
            session=purpose_session(session, Purpose.TRAIN),
            round=number,
            **others,
        )
        signed = SignedRecord.sign(record, key.key)
        Archive(folder, identity=key).keep(place, Purpose.TRAIN, signed, ended=1_800_000_060 + number)


def audit(folder: Path, *options: object) -> Result:
    return CliRunner().invoke(app, ["audit", str(folder), *map(str, options)])


def squeezed(result: Result) -> str:
    """Without what the table needs to look like one."""
    return re.sub(r"[\s─]+", " ", result.stdout)


@pytest.fixture
def public(tmp_path: Path) -> Path:
    path = tmp_path / "coordinator.pub"
    path.write_text(PublicIdentity.of(KEY).line + "\n", encoding="utf-8")
    return path


def test_what_is_right_is_shown_with_its_times_plan_and_signer(tmp_path: Path, public: Path) -> None:
    keep(tmp_path / "records", 0, 1)
    done = audit(tmp_path / "records", "--key", public)
    assert done.exit_code == 0
    said = squeezed(done)
    assert "of 'heart', opened 2027-01-15 08:00:00 UTC protocol MaskedSum, parameters" in said
    assert PublicIdentity.of(KEY).fingerprint in said
    assert f"2 records are whole, and signed by coordinator ({PublicIdentity.of(KEY).fingerprint})." in said
    assert "2027-01-15 08:01:01" in said
    for word in (
        "train 0",
        "train 1",
        "Basel, Graz, Wien",
        "3 of 3 shares rebuild a secret; 1 of 3",
        "opened",
    ):
        assert word in said
    assert all(group in said for group in digest_fingerprint(PLACE.roster).split())
    assert "It does not prove that this is true" in said
    assert "PlainSum" not in said


def test_without_a_key_it_says_that_nobody_knows_whose_it_is(tmp_path: Path) -> None:
    keep(tmp_path, 0)
    done = audit(tmp_path)
    assert done.exit_code == 0
    assert "Whose key that is, nobody looked" in done.stdout
    assert "signed." in done.stdout


def test_who_was_lost_and_who_lied_and_why_a_round_ended_stand_there(tmp_path: Path) -> None:
    lost = {"Graz": "did not answer in ShareKeys", "Wien": "a share that is none"}
    keep(
        tmp_path, 0, dropped=lost, culprits=frozenset({"Wien"}), opened=False, contributors=frozenset(),
        aborted="too few",
    )  # fmt: skip
    said = squeezed(audit(tmp_path))
    for word in (
        "nobody",
        "Graz: did not answer",
        "Wien, WHO BROKE THE PROTOCOL: a share",
        "not opened: too few",
    ):
        assert word in said


def test_a_sum_that_was_seen_and_refused_says_so(tmp_path: Path) -> None:
    keep(tmp_path, 0, aborted="beyond the clip", opened=True)
    assert "aborted, opened:" in squeezed(audit(tmp_path))


def test_rounds_of_plain_sums_are_called_what_they_are(tmp_path: Path) -> None:
    keep(tmp_path, 0)
    keep(tmp_path, 1, protocol=PlainSum)
    assert (
        "PlainSum protects nothing: the coordinator saw every update of these rounds."
        in audit(tmp_path).stdout
    )


def test_another_key_is_wrong(tmp_path: Path, public: Path) -> None:
    keep(tmp_path / "records", 0)
    keep(tmp_path / "records", 1, key=OTHER)
    assert (
        audit(tmp_path / "records").exit_code == 1
    )  # a session has one key, and round 0 none under this one
    done = audit(tmp_path / "records", "--key", public)
    assert done.exit_code == 1
    assert re.search(r"WRONG '\w+-train-000001\.record': the record names another signer's key", done.stdout)
    assert "1 record is whole" in done.stdout


def test_a_file_that_was_changed_is_wrong_and_the_others_are_shown(tmp_path: Path) -> None:
    keep(tmp_path, 0, 1)
    path = archived(tmp_path)[0]
    path.write_bytes(path.read_bytes().replace(b"Graz", b"Linz"))
    done = audit(tmp_path)
    assert done.exit_code == 1
    assert f"WRONG {path.name!r}" in done.stdout
    assert "train 1" in done.stdout
    assert "Linz" not in done.stdout


def test_rounds_that_are_missing_are_named(tmp_path: Path) -> None:
    keep(tmp_path, 0, 2, 6)
    done = audit(tmp_path)
    assert done.exit_code == 1
    assert "no record of train 1 of session" in done.stdout
    assert "no record of train 3 to 5 of session" in done.stdout


def test_nothing_to_look_at_is_no_answer(tmp_path: Path, public: Path) -> None:
    for arguments, said in (
        ((tmp_path,), "holds no records (files that end in .record)"),
        ((tmp_path / "nothing",), "cannot be read: No such file or directory"),
        ((tmp_path, "--key", tmp_path / "nobody.pub"), "cannot be opened: No such file or directory"),
    ):
        done = audit(*arguments)
        assert done.exit_code == 2
        assert said in done.stderr
    public.write_text(public.read_text() * 2)
    keep(tmp_path, 0)
    done = audit(tmp_path, "--key", public)
    assert done.exit_code == 2
    assert "the public lines of 2 identities; one key signs" in done.stderr


def test_texts_of_others_move_no_cursor(tmp_path: Path) -> None:
    hostile = "\x1b[2J\x1b[Hall is well\r\nopened\x9b1A\u202e"
    keep(
        tmp_path,
        0,
        dropped={"Gr\x1baz": hostile},
        aborted=hostile,
        place=Place(hostile.encode(), 1, bytes(32), 5),
    )
    done = audit(tmp_path)
    assert done.exit_code == 0
    for letter in "\x1b\r\x9b\u202e":
        assert letter not in done.output


def test_times_that_are_none_are_shown_as_they_stand(tmp_path: Path) -> None:
    keep(tmp_path, 0, place=dataclasses.replace(PLACE, epoch=(1 << 63) - 1))
    assert "9223372036854775807" in audit(tmp_path).stdout


def test_the_protocols_have_the_numbers_that_they_have_on_the_wire() -> None:
    for kind in (PlainSum, MaskedSum, LatticeSum, PaillierSum, CkksSum):
        try:
            number = kind(max_clients=3).suite.code
        except ImportError:
            continue
        assert PROTOCOLS[number] == kind.__name__
