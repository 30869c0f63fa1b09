"""The study over an engine, but for the engine: folders, journals, who follows a run, what it comes to."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fl_integration.loopback.processes import EngineFailedError
from fl_integration.site.keys import load_identity
from fl_integration.site.roster_file import read_roster
from fl_integration.site.site import Site as TrainingSite
from fl_integration.studies.heart import charts, numbers, report, study
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation import running, wires
from fl_integration.studies.heart.federation.folders import first_state, founded
from fl_integration.studies.heart.federation.journal import Event, Journal
from fl_integration.studies.heart.federation.local import trained
from fl_integration.studies.heart.model import LOCAL, HeartModel
from fl_integration.studies.heart.records import Site
from fl_integration.studies.heart.stage import Stage, auc_together, loader
from fl_integration.vectors.vectorise import flatten
from secagg.errors import ParameterError
from tests.fl_integration.studies.heart.following import FOUR, THREE, Heard, follow
from tests.fl_integration.studies.heart.one_process import GONE, REFUSED, Opener

pytestmark = pytest.mark.usefixtures("quick")

LOSS = (Site.BUDAPEST, 1)


def act_of(folder: Path, *, sites: int, killed=None):
    hospitals = FOUR if sites == 4 else THREE
    run = follow(folder, Opener(), hospitals=hospitals, killed=killed)
    return study.run_act(sites=sites, choices=(Choice.MASKED,), rounds=3, seed=1, lost=killed, engine=run)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return act_of(tmp_path_factory.mktemp("three"), sites=3)


@pytest.fixture(scope="module")
def three_less_one(tmp_path_factory):
    return act_of(tmp_path_factory.mktemp("three"), sites=3, killed=LOSS)


@pytest.fixture(scope="module")
def four_less_one(tmp_path_factory):
    return act_of(tmp_path_factory.mktemp("four"), sites=4, killed=LOSS)


# --- folders and journals ---------------------------------------------------------------------------------


def test_each_hospital_and_the_coordinator_have_files_and_keys_of_their_own(quick):
    federation = quick[THREE]
    rosters = set()
    for hospital in THREE:
        files = federation.at(hospital.site)
        identity = load_identity(files.identity, password=files.password.read_text())
        assert identity.client == hospital.site.value
        roster = read_roster(files.roster)
        rosters.add(files.roster.read_bytes())
        assert roster.roster.public_key(identity.client) == identity.key.public_key
        assert len(roster.signatures) == 3  # by all
        x, y = files.load_patients()
        assert np.array_equal(x, hospital.train_x)
        assert np.array_equal(y, hospital.train_y)
    assert len(rosters) == 1
    coordinator = federation.coordinator
    names = {"roster.txt", "identity.key", "password"}
    assert {path.name for path in coordinator.root.iterdir()} == names
    assert coordinator.load_identity().key.public_key not in dict(roster.roster.keys).values()
    assert federation.coordinator.roster.roster.members == tuple(each.site.value for each in THREE)


def test_nobody_else_reads_keys_passwords_and_patients(quick):
    for path in quick[THREE].root.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        expected = 0o700 if path.is_dir() else 0o644 if path.name == "roster.txt" else 0o600
        assert mode == expected, path


def test_no_test_patient_is_in_a_folder(quick):
    federation = quick[THREE]
    for hospital in THREE:
        rows = {row.tobytes() for row in federation.at(hospital.site).load_patients()[0]}
        tested = {row.tobytes() for row in hospital.test_x}
        twins = {row.tobytes() for row in hospital.train_x} & tested  # equal in every column: see `records`
        assert rows & tested == twins


def test_two_federations_have_no_key_in_common(quick):
    one, other = (quick[each].coordinator.roster for each in (THREE, FOUR))
    assert not {key for _, key in one.roster.keys} & {key for _, key in other.roster.keys}


@pytest.mark.parametrize("name", ["hospitals", "coordinator"])
def test_what_stands_there_is_not_overwritten(name, tmp_path):
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(ParameterError, match="is there already"):
        founded(tmp_path, hospitals=THREE)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_journal_is_read_up_to_its_last_whole_line(tmp_path):
    journal = Journal(tmp_path / "journal")
    assert journal.read() == []
    journal.add(Event.ASKED, round=0)
    with journal.path.open("ab") as file:
        file.write(b'{"event": "ended", "rou')
    assert journal.read() == [(Event.ASKED, {"round": 0})]
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


def test_a_journal_does_not_follow_a_link(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "journal").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic link"):
        Journal(tmp_path / "journal").add(Event.ASKED, round=0)
    assert (tmp_path / "elsewhere").read_text() == "kept"


def test_a_model_goes_through_a_journal_bit_for_bit(tmp_path):
    values = np.random.default_rng(1).normal(size=100).astype(np.float32)
    journal = Journal(tmp_path / "journal")
    journal.add(Event.ENDED, model=values.tolist())
    assert np.array_equal(np.array(journal.read()[0][1]["model"], np.float32), values)


# --- training ---------------------------------------------------------------------------------------------


def test_the_first_state_is_the_models_own():
    own = HeartModel().state_dict()
    assert list(first_state()) == list(own)
    assert all(np.array_equal(first_state()[name], own[name].numpy()) for name in own)
    assert all(first_state()[name].dtype == np.float32 for name in own)


def test_a_hospital_trains_as_it_does_in_one_process():
    hospital = THREE[1]
    values, manifest = flatten(HeartModel().state_dict())
    site = TrainingSite(
        hospital.site.value, model=HeartModel(), data=loader(hospital), local=LOCAL, manifest=manifest, seed=7
    )
    expected, said = site.train(values, values[:0], round=4)
    state, weight = trained(
        first_state(), (hospital.train_x, hospital.train_y), client=hospital.site.value, round=4, seed=7
    )
    assert np.array_equal(np.concatenate([state[name].ravel() for name in state]), expected)
    assert weight == said.weight == len(hospital.train_y)


# --- who follows a run ------------------------------------------------------------------------------------


def test_a_run_without_losses(tmp_path):
    opener, told = Opener(), Heard()
    run = follow(tmp_path, opener, told=told)
    assert [each.number for each in run.rounds] == [0, 1, 2]
    assert all(run.contributors(number) == run.sites for number in range(3))
    assert {each.total_weight for each in run.rounds} == {sum(len(h.train_y) for h in THREE)}
    assert [value for what, value in told.said if what == "ended"] == [0, 1, 2]
    assert told.said[0] == ("starting", None)
    assert opener.engine.finished
    assert run.before[Site.CLEVELAND].up > 0
    total = [run.before[site] for site in run.sites]
    for each in run.rounds:
        total = [one + each.carried[site] for one, site in zip(total, run.sites, strict=True)]
    assert total == [opener.engine.carried()[site] for site in run.sites]  # no byte is lost between rounds


@pytest.mark.parametrize(("hospitals", "aborted"), [(THREE, REFUSED), (FOUR, "")])
def test_one_that_is_killed_costs_the_round_of_three_and_not_of_four(tmp_path, hospitals, aborted):
    opener, told = Opener(), Heard()
    run = follow(tmp_path, opener, hospitals=hospitals, killed=LOSS, told=told)
    assert opener.engine.killed == [Site.BUDAPEST]
    found = run.rounds[1]
    assert found.aborted == aborted
    assert found.missing[Site.BUDAPEST] == GONE
    assert len(run.contributors(1)) == (0 if aborted else 3)
    assert run.contributors(2) == run.sites
    assert ("killed", LOSS) in told.said
    assert ("back", Site.BUDAPEST) in told.said
    assert wires.back_in(run) == 2
    before, after = run.rounds[0].state, found.state
    same = all(np.array_equal(before[name], after[name]) for name in before)
    assert same == bool(aborted)


def test_a_server_that_cannot_go_on_says_why(tmp_path):
    with pytest.raises(EngineFailedError, match="cannot go on: ValueError: no such protocol"):
        follow(tmp_path, Opener(fails=1))


def test_a_process_that_ends_is_noticed(tmp_path):
    with pytest.raises(EngineFailedError, match="out of memory"):
        follow(tmp_path, Opener(ends=True), rounds=50)


def test_nothing_is_awaited_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "STALL_SECONDS", 0.2)
    opener = Opener()
    monkeypatch.setattr("tests.fl_integration.studies.heart.one_process.OneProcess._run", lambda self: None)
    with pytest.raises(EngineFailedError, match="nothing has happened"):
        follow(tmp_path, opener)


# --- what it comes to -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three", "three_less_one", "four_less_one"])
def test_the_model_over_an_engine_is_fedavgs_in_the_clear(name, request):
    act = request.getfixturevalue(name)
    row = act.joint
    assert (row.kind, row.title) == ("engine", "MaskedSum over One")
    assert row.difference < 1e-6
    (secure,) = [each for each in act.rows if each.kind == "secure"]
    assert secure.difference < 1e-5
    assert row.curve == pytest.approx(secure.curve)
    assert row.curve[-1] == pytest.approx(auc_together(act.engine.rounds[-1].state, act.hospitals))
    told = [sorted(each.contributors) for each in row.history]
    assert told == [sorted(each.contributors) for each in secure.history]
    if name == "three_less_one":
        assert told[1] == []
        assert row.curve[1] == row.curve[0]


def test_the_report_shows_wires_and_the_kill(four_less_one):
    act = four_less_one
    said = " ".join(report.sentences(act, {Choice.MASKED: "2 contributors"}))
    assert "Budapest's node was killed while it trained in round 2, which ended with 3 hospitals" in said
    assert "it contributes again in round 3" in said
    assert "MaskedSum says '2 contributors'" in said
    assert report.title(act) == "Over One: four hospitals, and the computer of one fails"
    pictures = dict.fromkeys(("auc_by_round.png", "what_the_server_saw.png"), b"")
    page = report.html((act,), {}, (), {}, pictures)
    assert "What each hospital's wire carried" in page
    for row in wires.wire_rows(act):
        assert len(row) == len(wires.HEADINGS)
        assert all(f'<td class="number">{cell}</td>' in page for cell in row)
    found = json.loads(numbers.as_json(numbers.results((act,), {}, (), {})))["acts"][0]["engine"]
    assert found["killed"] == {"site": "budapest", "round": 2}
    assert found["rounds"][1]["missing"] == {"budapest": GONE}
    assert len(found["rounds"]) == 3


@pytest.mark.slow
def test_the_picture_says_who_was_killed(three_less_one, four_less_one):
    lost = [charts._loss(act, "Budapest", 1) for act in (three_less_one, four_less_one)]
    assert lost[0] == "Budapest's computer fails in round 2,\nwhich has no sum; it is back in round 3"
    assert (
        lost[1] == "Budapest's computer fails in round 2,\nwhich ends with 3 hospitals; it is back in round 3"
    )
    assert charts.auc_by_round(three_less_one).startswith(b"\x89PNG")


@pytest.mark.slow
def test_an_aborted_round_is_told_with_its_reason(three_less_one):
    said = " ".join(report.sentences(three_less_one, {}))
    assert f"in round 2, which was aborted ({REFUSED})" in said
    assert "Round 2 was aborted" not in said  # once is enough


def test_the_wires_of_three_rounds(three):
    (cleveland, *_) = wires.wire_rows(three)
    first, second, third = (each.carried[Site.CLEVELAND] for each in three.engine.rounds)
    assert cleveland[0] == "Cleveland"
    assert cleveland[3:5] == [f"{first.up:,}", f"{first.down:,}"]
    assert cleveland[5] == f"{(second.up + third.up) // 2:,}"
    alone = next(row.usage for row in three.rows if row.kind == "secure")
    assert cleveland[7:] == [f"{alone.sent:,}", f"{alone.received:,}"]
    usage = three.joint.usage
    later = [each.carried[site].up for each in three.engine.rounds[1:] for site in three.engine.sites]
    assert usage.sent == int(np.median(later))
    assert (usage.client_seconds, usage.server_seconds) == (None, None)
    cells = report.cells(three, three.joint)
    assert cells[-2:] == [f"{usage.sent:,}", ""]


def test_an_act_without_an_engine_has_no_wires():
    act = study.run_act(sites=3, choices=(), rounds=1, seed=1)
    assert (wires.wire_rows(act), wires.wire_note(act), wires.engine_sentences(act)) == ([], "", [])
    assert wires.engine_numbers(act) is None
    assert act.joint.kind == "plain"


def test_a_report_says_where_the_model_was_read_and_draws_what_was_seen(three):
    rounds = [replace(each, state=None if each.number < 2 else each.state) for each in three.engine.rounds]
    run = replace(three.engine, choice=Choice.CKKS, read_at=Site.CLEVELAND, rounds=tuple(rounds))
    stage = Stage(THREE, rounds=3, seed=1, tick=lambda title: None)
    row = stage.over_engine(run, HeartModel())
    act = replace(three, engine=run, rows=(*three.rows[:-1], row))
    (plain,) = [each for each in act.rows if each.kind == "plain"]
    assert act.joint.curve == (None, None, pytest.approx(plain.curve[2]))
    assert np.array_equal(np.isnan(charts._values(act.joint)), [True, True, False])
    said = wires.reading_of(run)
    assert said == (
        "Only the hospitals learn the model: it was read from Cleveland's own disk, as its operator could; "
        "after rounds 1 and 2 nobody looked in time."
    )
    assert said in report.sentences(act, {})
    found = json.loads(numbers.as_json(numbers.results((act,), {}, (), {})))["acts"][0]
    assert found["engine"]["model_not_seen_after"] == [1, 2]
    assert found["engine"]["model_read_at"] == "cleveland"
    assert [each["auc_together_by_round"] for each in found["rows"]][-1][:2] == [None, None]
