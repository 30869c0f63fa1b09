"""Where the hospitals alone learn the model it is read at one of them; and the records of a run."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from fl_integration.embedding.archive import Archive, archived, read_archived
from fl_integration.embedding.parcels import Place, Purpose, purpose_session
from fl_integration.loopback.processes import until
from fl_integration.site.public_identity import read_public
from fl_integration.studies.heart import report
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation import own_disk
from fl_integration.studies.heart.federation.folders import Federation, first_state
from fl_integration.studies.heart.federation.journal import Event
from fl_integration.studies.heart.federation.own_disk import OwnDisk
from fl_integration.studies.heart.records import Site
from protocols import MaskedSum, simulate
from protocols.interface import Learner
from protocols.membership import digest_session_id
from protocols.messages.record import SignedRecord
from tests.fl_integration.studies.heart.following import THREE, Heard, follow
from tests.fl_integration.studies.heart.one_process import Disk, Opener

pytestmark = pytest.mark.usefixtures("quick")

# --- where the hospitals alone learn the model ------------------------------------------------------------


def test_which_protocols_tell_the_hospitals_alone():
    for choice in Choice:
        assert choice.hospitals_learn == (choice.protocol(clients=3).learns is Learner.CLIENTS)


def until_read(told: Heard, *rounds: int):
    """Whoever trains waits in these rounds until the model of the round before was read."""

    def trained(number: int) -> None:
        if number in rounds:
            until(lambda: ("read", number - 1) in told.said, seconds=10, what="it is read")

    return trained


def test_each_model_is_read_at_a_hospital_while_the_next_round_is_on(tmp_path):
    told = Heard()
    blind = follow(tmp_path / "a", Opener(trained=until_read(told, 1, 2)), told=told, choice=Choice.CKKS)
    seen = follow(tmp_path / "b", Opener())
    assert (blind.read_at, blind.unseen, seen.read_at) == (Site.CLEVELAND, (), None)
    for one, other in zip(blind.rounds, seen.rounds, strict=True):
        assert all(np.array_equal(one.state[name], other.state[name]) for name in first_state())
        assert one.total_weight is None
    assert [number for what, number in told.said if what == "read"] == [0, 1, 2]


def test_a_last_sum_that_is_there_early_is_not_taken_for_the_one_before(tmp_path):
    told = Heard()
    opener = Opener(trained=until_read(told, 1, 2), hands_out_early=True)
    run = follow(tmp_path, opener, told=told, choice=Choice.PAILLIER)
    assert run.unseen == (1,)
    assert run.rounds[2].state is not None


def test_a_model_is_of_no_round_when_the_next_began_meanwhile(quick, tmp_path, monkeypatch):
    shutil.copytree(quick[THREE].root, tmp_path, dirs_exist_ok=True)
    files = Federation(tmp_path).at(Site.CLEVELAND)
    disk = Disk(files)
    disk.hand_out(first_state())
    reader = OwnDisk(files)
    assert reader.model_before(1) is None
    for event in (Event.TRAINS, Event.TRAINED):
        assert reader.trained_in() is None
        files.journal.add(event, round=1)
    assert reader.trained_in() == 1
    assert np.array_equal(reader.model_before(1)["linear.bias"], np.zeros(1))
    real = own_disk.site_model

    def begins_meanwhile(enrolment):
        files.journal.add(Event.TRAINS, round=2)
        return real(enrolment)

    monkeypatch.setattr(own_disk, "site_model", begins_meanwhile)
    assert reader.model_before(1) is None


# --- signed records ---------------------------------------------------------------------------------------


def signed_rounds(coordinator, *, epoch: int, rounds: int) -> None:
    """Puts records into a coordinator's folder, as its server does."""
    identity = coordinator.load_identity()
    done = simulate(MaskedSum(max_clients=3), {each: np.zeros(2) for each in "abc"})
    place = Place(b"heart", 1, bytes(32), epoch)
    session = purpose_session(digest_session_id(place.study, place.roster, epoch), Purpose.TRAIN)
    for number in range(rounds):
        record = SignedRecord.sign(replace(done.record.record, session=session, round=number), identity.key)
        Archive(coordinator.records, identity=identity).keep(place, Purpose.TRAIN, record, ended=1.0)


def test_records_of_two_runs_lie_in_folders_of_their_own(quick, tmp_path):
    for epoch in (1, 2):
        shutil.copytree(quick[THREE].root, tmp_path / str(epoch))
        coordinator = Federation(tmp_path / str(epoch)).coordinator
        assert coordinator.signed_records() is None
        signed_rounds(coordinator, epoch=epoch, rounds=2)
        found = coordinator.signed_records()
        report.write(tmp_path / "out" / found.place, found.files)
    folders = sorted((tmp_path / "out" / "records").iterdir())
    assert len(folders) == 2
    for folder in folders:
        (line,) = read_public(folder / "coordinator.pub")
        rounds = [read_archived(path) for path in archived(folder)]
        assert [each.record.round for each in rounds] == [0, 1]
        assert {each.session.hex()[:8] for each in rounds} == {folder.name}
        assert all(each.signed.verify(line.public_key) is None for each in rounds)
        assert all(b"PRIVATE" not in path.read_bytes() for path in folder.iterdir())
