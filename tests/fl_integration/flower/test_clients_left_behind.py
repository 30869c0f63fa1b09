"""Clients that missed sums, lost their model, join or leave, where the clients learn the sum."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.member import SavedMachine
from fl_integration.embedding.own_model import COPY, file_of
from fl_integration.embedding.parcels import (
    Answer,
    Copy,
    Errand,
    Handover,
    Parcel,
    Place,
    Purpose,
    Step,
    decode_head,
    encode_head,
)
from fl_integration.embedding.records import array_digest
from fl_integration.flower import SiteModel
from fl_integration.flower.engine import BODY, HEAD, pack, records_of, unpack
from fl_integration.loop.optimisers import FedAdam, FedAvg
from fl_integration.site import handover
from fl_integration.site.sealed_folder import SealedFolder
from protocols import CkksSum, Identity, Requirements, Roster
from protocols.interface import Sum
from protocols.machine.client import KEPT_RESULTS, Request
from protocols.membership import RosterVersion
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode
from secagg.errors import ParameterError, PeerViolation
from secagg.secret import Secret
from tests.fl_integration.flower.learners import (
    KINDS,
    SHAPE,
    Clock,
    Course,
    Learners,
    clock,
    needles,
    reached_the_server,
    replayed,
    same,
    start,
    sums,
)
from tests.fl_integration.flower.loopback import Node
from tests.fl_integration.flower.stage import FIRST_NODE, context_of, record_of

__all__ = ["clock", "sums"]  # fixtures
LEFT = "the others moved on by sums that it cannot open"
NO_PEER = "it has no copy of the model as it is now, and no peer brought it along"


def errands(study: Learners, begin: int = 0) -> list[Errand]:
    """Which errands reached nodes, in order."""
    heads = (decode_head(message.content[HEAD]["head"]) for _, message, _ in study.grid.sent[begin:])
    return [Errand(head.errand) for head in heads if isinstance(head, Handover)]


def idle(node: Node, *refused: Errand) -> None:
    """This node's process dies in these errands, and does everything else."""
    real = node.app

    def app(message: Message, context: Any) -> Message:
        head = decode_head(message.content[HEAD]["head"])
        if isinstance(head, Handover) and Errand(head.errand) in refused:
            raise RuntimeError("out of memory")
        return real(message, context)

    node.app = app


def misses(course: Course, name: str, rounds: int) -> None:
    """So many rounds without this site."""
    node = course.study.node(name)
    node.connected = False
    for _ in range(rounds):
        assert course.train(*(each for each in course.study.names if each != name)), course.failures
    node.connected = True


def older(course: Course, name: str) -> None:
    """A round, after which this site's model is the one before it."""
    study = course.study
    files = study.enrol(name, context_of(0)).files()
    before = files.read(file_of(name, COPY))
    assert before is not None
    course.rounds(1)
    files.write(file_of(name, COPY), before)


def left_behind(course: Course, name: str) -> None:
    """The site missed a sum for good, and has found that out by the next one."""
    course.rounds(1)
    older(course, name)
    assert course.train()
    assert name in course.failures


# What was missed


def test_one_that_missed_as_many_sums_as_are_kept_opens_them_all(tmp_path: Path, sums: list[Sum]) -> None:
    study = Learners(tmp_path)
    course = Course(study, given={"rounds": 99})
    course.rounds(1)
    misses(course, "d", KEPT_RESULTS - 1)
    course.rounds(2)
    assert not errands(study)
    assert len(study.seen["d"]) == 3
    same(study.seen["d"][-1], study.seen["a"][-1])
    assert len({total.round for total in sums}) == KEPT_RESULTS + 1


@pytest.mark.parametrize("protocol", KINDS)
def test_one_that_missed_more_is_brought_along_and_the_server_reads_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: Any
) -> None:
    study = Learners(tmp_path, protocol=protocol, optimiser=FedAdam(learning_rate=0.1))
    course = Course(study)
    course.rounds(1)
    misses(course, "d", KEPT_RESULTS + 1)
    assert course.train()
    assert LEFT in course.failures["d"]
    trained, sent = len(study.seen["d"]), len(study.grid.sent)
    with caplog.at_level(logging.INFO, logger="secagg"):
        course.rounds(1)
    assert errands(study, sent) == [Errand.ASK, *[Errand.VOUCH] * 3, Errand.GIVE, Errand.TAKE]
    assert "d was brought along by a peer" in caplog.messages
    assert len(study.seen["d"]) == trained + 1
    same(study.seen["d"][-1], study.seen["a"][-1])
    study.agree("abcd")
    said = reached_the_server(study) + b"".join(
        message.content[BODY]["body"].data for _, message, _ in study.grid.sent[sent:]
    )
    for name, value in study.seen["a"][-1].items():
        if value.dtype.kind == "f":
            assert not any(needle in said for needle in needles(value)), name


def test_one_that_was_left_behind_stays_so_over_restarts_of_all(tmp_path: Path) -> None:
    """Its folder remembers; a new session does not make it forget, nor begin a model of its own."""
    study = Learners(tmp_path)
    left_behind(Course(study), "d")
    for name in study.names:
        study.enter(name)
    trained = len(study.seen["d"])
    course = Course(study)
    course.rounds(1)
    assert len(study.seen["d"]) == trained + 1
    study.agree("abcd")


@pytest.mark.slow
def test_where_no_peer_answers_it_stays_behind_and_the_others_go_on(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    left_behind(course, "d")
    real = {name: study.node(name).app for name in "abc"}
    for name in "abc":
        idle(study.node(name), Errand.GIVE, Errand.VOUCH)
    for _ in range(2):
        assert course.train()
        assert course.failures == {"d": NO_PEER}
    study.agree("abc")
    for name in "abc":
        study.node(name).app = real[name]
    assert course.train()
    course.rounds(1)
    study.agree("abcd")


def test_fewer_vouchers_than_needed_are_no_copy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    left_behind(course, "d")
    for name in "bc":
        idle(study.node(name), Errand.VOUCH)
    assert course.train()
    assert course.failures["d"].startswith(f"{NO_PEER}: 1 of ")
    assert any("d takes no peer's copy: 1 of " in line and "members" in line for line in caplog.messages)
    study.agree("abc")


@pytest.mark.slow
def test_one_that_is_behind_whatever_is_done_costs_the_others_ever_less(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    left_behind(course, "d")
    idle(study.node("d"), Errand.TAKE)
    asked = []
    for _ in range(7):
        sent = len(study.grid.sent)
        assert course.train("a", "b", "c", "d")
        assert course.failures["d"].startswith(NO_PEER)
        asked.append(Errand.ASK in errands(study, sent))
    assert asked == [True, True, False, True, False, False, True]


def test_a_voucher_of_any_length_is_in_nobodys_way(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    left_behind(course, "d")

    def pads(node: int, answer: Message) -> Message:
        _, asked, _ = study.grid.sent[-1]
        head = decode_head(asked.content[HEAD]["head"])
        if node == FIRST_NODE + 1 and isinstance(head, Handover) and Errand(head.errand) is Errand.VOUCH:
            answer.content = pack(Parcel(unpack(answer.content).head, bytes(10**6)))
        return answer

    study.grid.forge = pads
    sent = len(study.grid.sent)
    course.rounds(1)
    study.agree("abcd")
    takes = [
        unpack(message.content)
        for _, message, _ in study.grid.sent[sent:]
        if decode_head(message.content[HEAD]["head"]) == Handover(place_of(study), Errand.TAKE.value)
    ]
    assert len(takes) == 1
    assert len(takes[0].body) < 10**5


def place_of(study: Learners) -> Place:
    """The session of the last step."""
    heads = (decode_head(message.content[HEAD]["head"]) for _, message, _ in study.grid.sent)
    return [head.place for head in heads if isinstance(head, Step)][-1]


def test_arrays_that_no_round_binds_replace_nothing(tmp_path: Path) -> None:
    """A server that says TAKE brings arrays of its own along, and no copy that anybody vouches for."""
    study = Learners(tmp_path, names="abc")
    course = Course(study)
    course.rounds(1)
    trained = study.agree("abc")
    course.secure.renew()
    course.secure.get_node_ids()
    place = course.secure._rounds.coordinator._attendance.place
    other = RecordDict({"arrays": record_of({"w": np.zeros(3, np.float32)})})
    for errand, body in ((Errand.TAKE, b""), (Errand.ASK, b""), (Errand.TAKE, b"no copy")):
        shows = errand is Errand.TAKE
        parcel = Parcel(encode_head(Handover(place, errand.value)), body, shows=shows)
        content = pack(parcel, other if shows else None)
        study.grid.push_messages([Message(content, dst_node_id=FIRST_NODE, message_type="train")])
        assert isinstance(decode_head(unpack(study.heard(FIRST_NODE)[-1].content).head), Answer)
    same(study.model("a"), trained)
    with pytest.raises(ParameterError, match="holds no such model"):
        study.model("a", SiteModel.BEFORE)


@pytest.mark.slow
def test_a_peer_that_dies_on_the_errand_is_passed_over(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    left_behind(course, "d")
    idle(study.node("a"), Errand.GIVE)
    assert course.train()
    assert "d" not in course.failures
    study.agree("bcd")


def test_a_doctored_copy_is_refused_its_giver_named_and_the_next_one_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    left_behind(course, "d")
    honest = handover.answer

    def lies(request: Any, *, identity: Identity, copy: bytes, **place: Any) -> bytes:
        told = copy[:-4] + b"\0\0\x80\x3f" if identity.client == "a" else copy  # its last value is 1
        return honest(request, identity=identity, copy=told, **place)

    monkeypatch.setattr(handover, "answer", lies)
    sent = len(study.grid.sent)
    course.rounds(1)
    assert errands(study, sent).count(Errand.TAKE) == 2
    assert any(line.startswith("d takes no peer's copy: a: ") for line in caplog.messages)
    study.agree("abcd")
    assert study.model("d")["bias"] != 1.0


def test_a_copy_is_taken_by_who_was_left_behind_alone(tmp_path: Path) -> None:
    """Whatever its peers vouch for: a server that parted them would choose whose model a site has (D19)."""
    study = Learners(tmp_path)
    course = Course(study, given={"rounds": 99})
    course.rounds(2)
    before = study.model("d")
    misses(course, "d", 1)
    coordinator, sent = course.secure._rounds.coordinator, len(study.grid.sent)
    asked = coordinator._bringing._errands(Errand.ASK, {"d": b""})
    course.secure._carrier.begin("train", "", RecordDict({"arrays": course.arrays}))
    coordinator._bringing._hand_over("d", asked["d"], ["a", "b", "c"], began=bytes(32))
    course.secure._carrier.end()
    assert Errand.TAKE in errands(study, sent)
    assert "it was not left behind" in coordinator.reasons["d"]
    same(study.model("d"), before)
    assert study.model("a")["bias"] != before["bias"]
    course.rounds(1)
    same(study.seen["d"][-1], study.seen["a"][-1])


def test_nobody_begins_a_second_training_while_those_who_have_the_model_are_away(tmp_path: Path) -> None:
    few = CkksSum(**SHAPE, requirements=Requirements(corrupt_fraction=0.1))
    study = Learners(tmp_path, names="abcdef", protocol=few)
    course = Course(study)
    there(study, "abc")
    course.rounds(2)
    there(study, "def")
    assert not course.train()
    assert course.failures == dict.fromkeys("def", NO_PEER)
    there(study, "abcdef")
    for name in "abc":  # they are there, and answer nothing
        study.node(name).deaf = lambda nth: True
    assert not course.train("d", "e", "f")
    assert course.failures == dict.fromkeys("def", NO_PEER)
    for name in "abc":
        study.node(name).deaf = lambda nth: False
    course.rounds(1)
    study.agree("abcdef")
    same(study.seen["f"][0], study.seen["a"][2])


def test_one_liar_that_says_it_was_moved_keeps_nobody_from_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    course.secure.get_node_ids()
    coordinator, arrays = course.secure._rounds.coordinator, records_of(RecordDict({"arrays": course.arrays}))
    said = Copy(array_digest(arrays["arrays"]), moved=True)
    coordinator._attendance._copies["d"] = said
    course.rounds(1)
    study.agree("abcd")
    assert "d alone say that their models were moved already; 1 may be corrupt, so the others begin" in (
        caplog.messages
    )


def there(study: Learners, names: str) -> None:
    """These sites are connected, and no others."""
    for name in study.names:
        study.node(name).connected = name in names


def test_a_first_round_that_was_lost_to_most_leaves_nobody_behind(tmp_path: Path) -> None:
    """One has begun, and nobody can vouch for it; as no sum moved it, the others begin where it did."""
    study = Learners(tmp_path, names="abc")
    course = Course(study)
    for name in "bc":
        study.node(name).deaf = lambda nth: nth > 1
    assert not course.train()
    assert len(study.seen["a"]) == 1
    for name in "bc":
        study.node(name).deaf = lambda nth: False
    assert course.train()
    assert not errands(study)
    study.agree("abc")


# What was lost, or is another


@pytest.mark.parametrize("spoilt", [False, True])
def test_one_whose_model_is_gone_gets_it_from_its_peers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: bool
) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    course.rounds(2)
    files = study.enrol("d", context_of(0)).files()
    if spoilt:  # or sealed under a key that the site has no more
        files.put(file_of("d", COPY), bytes(1000))
    else:
        files.remove(file_of("d", COPY))
    assert course.train()
    assert "it holds no model, and the arrays to begin from did not travel" in course.failures["d"]
    assert any("d: its model does not open" in line for line in caplog.messages) is spoilt
    course.rounds(2)
    study.agree("abcd")


@pytest.mark.slow
def test_one_whose_model_is_an_older_one_gets_it_from_its_peers(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    left_behind(course, "d")
    assert study.model("d")["bias"] != study.model("a")["bias"]
    sent = len(study.grid.sent)
    course.rounds(1)
    assert Errand.TAKE in errands(study, sent)
    same(study.seen["d"][-1], study.seen["a"][-1])
    study.agree("abcd")


def test_a_site_whose_whole_folder_is_an_older_one_says_nothing_twice(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    course.rounds(1)
    shutil.copytree(tmp_path / "d", tmp_path / "older")
    course.rounds(2)
    for each in (tmp_path / "older").glob("*.sealed"):  # the release log stands elsewhere
        shutil.copy(each, tmp_path / "d" / each.name)
    for _ in range(3):
        assert course.train()
    assert not course.failures
    study.agree("abcd")


def test_another_training_in_one_session_is_refused_and_in_the_next_it_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = Learners(tmp_path, names="abc")
    first = Course(study)
    first.rounds(2)
    trained = study.agree("abc")
    other = record_of({"w": np.zeros(3, np.float32)})
    first.arrays, honest = other, first.arrays
    assert not first.train()
    assert all("another training is another session" in why for why in first.failures.values())
    same(study.agree("abc"), trained)
    first.arrays = honest
    second = Course(study, arrays=other)  # a grid of its own opens a session
    second.rounds(1)
    assert [*study.agree("abc")] == ["w"]
    same(study.model("a", SiteModel.BEFORE), trained)
    assert "a keeps its model of another training aside" in caplog.messages


@pytest.mark.slow
def test_a_training_that_never_moved_takes_no_place_of_one_that_did(tmp_path: Path) -> None:
    study = Learners(tmp_path, names="abc")
    Course(study).rounds(2)
    trained = study.agree("abc")
    for length in (3, 4):
        course = Course(study, arrays=record_of({"w": np.zeros(length, np.float32)}))
        for name in "bc":  # what it answers to the collecting message is lost, behind a greeting and a key
            study.node(name).mute = (study.node(name).received + 2).__eq__
        assert not course.train()
        assert [len(each["w"]) for each in (study.model(name) for name in "abc")] == [length] * 3
    same(study.model("a", SiteModel.BEFORE), trained)


def test_an_optimiser_of_ones_own_is_in_no_sum_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sums: list[Sum]
) -> None:
    study = Learners(tmp_path, optimiser=FedAdam(learning_rate=0.1))
    study.enter("d", server_optimiser=FedAvg())
    course = Course(study)
    assert course.train()
    assert "d" in course.failures
    for _ in range(3):
        assert course.train()
        assert "d" in course.failures
    assert any(
        line.startswith("d takes no peer's copy") and "for another optimiser" in line
        for line in caplog.messages
    )
    of_a = [total for total in sums if total.contributors == frozenset("abc")]
    assert {total.contributors for total in sums} == {frozenset("abc")}
    found = list({total.round: total for total in of_a}.values())
    same(study.agree("abc"), replayed(study.optimiser, start(), found))


def test_a_model_begins_from_what_the_round_binds_alone(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study)

    def other(node: int, message: Message) -> Message:
        if study.grid.nodes[node] is study.node("d") and "arrays" in message.content:
            arrays = start() | {"bias": np.array([9.0], np.float32)}
            message.content = RecordDict({**message.content, "arrays": record_of(arrays)})
        return message

    study.grid.tamper = other
    assert course.train()
    assert "is not what the round binds" in course.failures["d"]
    with pytest.raises(ParameterError, match="'d' holds no such model"):
        study.model("d")
    study.grid.tamper = lambda node, message: message
    course.rounds(2)
    study.agree("abcd")


# Restarts


def test_a_supernode_that_was_restarted_is_in_the_next_round(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study)
    course.rounds(2)
    study.enter("d")
    course.rounds(2)
    assert not errands(study)
    study.agree("abcd")


@pytest.mark.parametrize("keeps", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_server_that_was_restarted_goes_on_with_the_clients_model(
    tmp_path: Path, sums: list[Sum], keeps: bool
) -> None:
    study = Learners(tmp_path)
    given = {"state_dir": tmp_path / "server", "state_key": Secret(bytes(32))} if keeps else {}
    before = Course(study, given=given)
    before.rounds(2)
    after = Course(study, given=given)
    assert (after.secure._rounds.coordinator.session == before.secure._rounds.coordinator.session) is keeps
    after.rounds(2)
    assert not errands(study)
    assert len(study.seen["d"]) == 4
    same(study.agree("abcd"), replayed(FedAvg(), start(), sums[::4]))


@pytest.mark.slow
@pytest.mark.parametrize("joins", [False, True])
def test_a_server_that_was_restarted_remembers_that_there_is_a_model(tmp_path: Path, joins: bool) -> None:
    """Also over the next roster: those who never trained wait for those who did."""
    few = CkksSum(**SHAPE, requirements=Requirements(corrupt_fraction=0.1))
    line = Line(tmp_path, names="abcde", protocol=few)
    given = {"state_dir": tmp_path / "server", "state_key": Secret(bytes(32))}
    there(line.study, "abc")
    Course(line.study, given={"roster": line.version, **given}).rounds(2)
    if joins:
        line.change("abcdef")
        line.study.enter("f")
        there(line.study, "def")
    else:
        there(line.study, "cde")
        shutil.rmtree(tmp_path / "c")
    after = Course(line.study, given={"roster": line.version, **given})
    assert not after.train()
    assert set(after.failures.values()) == {NO_PEER}


@pytest.mark.parametrize(("step", "what"), [("write", COPY), ("put", Purpose.TRAIN.name)])
def test_a_disk_that_fails_at_one_of_two_stores_loses_no_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, what: str
) -> None:
    """The model is stored first: what it has, it passes over; a machine does not open a sum again."""
    study = Learners(tmp_path)
    course = Course(study, given={"rounds": 99})
    course.rounds(2)
    real, broken = getattr(SealedFolder, step), []

    def fails(self: SealedFolder, name: str, data: bytes) -> None:
        if name == file_of("d", what) and not broken:
            broken.append(name)
            raise ParameterError("the disk is full")
        real(self, name, data)

    monkeypatch.setattr(SealedFolder, step, fails)
    assert course.train()
    assert broken
    assert "d" in course.failures
    assert "full" not in course.failures["d"]  # what its disk says is its own affair
    course.rounds(2)
    assert not errands(study)
    same(study.seen["d"][-1], study.seen["a"][-1])


# Rosters


def successor(study: Learners, before: RosterVersion, members: str) -> RosterVersion:
    """The next version, of these members, signed by all of the one before."""
    for name in members:
        if name not in study.ids:
            study.ids[name] = Identity.generate(name)
    made = before.successor(Roster.of(*(study.ids[name] for name in members)))
    for name in before.roster.members:
        made = made.signed(study.ids[name])
    return made


class Line:
    """A study whose roster changes: of the server, and of all sites but those with one of their own."""

    def __init__(self, folder: Path, **others: Any) -> None:
        self.study = Learners(folder, **others)
        self.version = self.study.roster = RosterVersion(self.study.roster)
        self.course = Course(self.study, given={"roster": lambda: self.version, "rounds": 99})

    def change(self, members: str) -> None:
        self.version = self.study.roster = successor(self.study, self.version, members)
        self.study.names = members


def results(study: Learners, begin: int, end: int) -> list[bytes]:
    """The sealed sums in what reached nodes, of training and of evaluation, each once."""
    found: dict[bytes, None] = {}
    for _, message, _ in study.grid.sent[begin:end]:
        body = message.content[BODY]["body"].data
        if body and isinstance(decode_head(message.content[HEAD]["head"]), Step):
            found |= dict.fromkeys(map(bytes, decode(Request, Envelope.decode(body).body).results))
    return list(found)


def machine_of(study: Learners, enrolment: Enrolment, log: Any) -> Any:
    """A site's machine as it lies in its folder."""
    data = enrolment.files().get(file_of(enrolment.identity.client, Purpose.TRAIN.name))
    assert data is not None
    saved = decode(SavedMachine, data)
    return study.protocol.restore_client(saved.machine, key=enrolment.sealing_key, release_log=log)


def opens(study: Learners, enrolment: Enrolment, result: bytes) -> bool:
    """Whether this site's keys open a sealed sum that somebody recorded."""
    with enrolment.opened_log() as log:
        machine = machine_of(study, enrolment, log)
        machine._opened, machine._failed = {}, frozenset()  # it forgets what it opened before
        try:
            machine.open(result)
        except PeerViolation:
            return False
        return True


def test_a_joiner_gets_the_model_and_trains_in_the_next_round_and_opens_nothing_older(tmp_path: Path) -> None:
    line = Line(tmp_path)
    line.course.rounds(2)
    before = len(line.study.grid.sent)
    older = results(line.study, 0, before)
    assert len(older) == 2
    old_enrolment = line.study.enrol("a", context_of(0))
    assert all(opens(line.study, old_enrolment, each) for each in older)
    line.change("abcde")
    line.study.enter("e")
    line.course.rounds(1)
    assert len(line.study.seen["e"]) == 1
    same(line.study.seen["e"][0], line.study.seen["a"][-1])
    line.study.agree("abcde")
    newer = results(line.study, before, len(line.study.grid.sent))
    for name in "ae":  # a's old keys are gone from its folder, too
        enrolment = line.study.enrol(name, context_of(0))
        assert not any(opens(line.study, enrolment, each) for each in older)
        assert all(opens(line.study, enrolment, each) for each in newer)


def test_a_leaver_neither_takes_part_nor_opens_what_comes_after(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line = Line(tmp_path, names="abcde")
    line.course.rounds(2)
    before, old = len(line.study.grid.sent), line.version
    line.study.rosters["e"] = old
    line.change("abcd")
    line.course.rounds(2)
    assert len(line.study.seen["e"]) == 2
    reached = [
        decode_head(message.content[HEAD]["head"])
        for node, message, _ in line.study.grid.sent[before:]
        if line.study.grid.nodes[node] is line.study.node("e")
    ]
    assert reached
    assert not any(isinstance(head, Step | Handover) for head in reached)
    assert any(old.fingerprint in line_ and line.version.fingerprint in line_ for line_ in caplog.messages)
    newer = results(line.study, before, len(line.study.grid.sent))
    assert len(newer) == 2
    leaver = line.study.enrol("e", context_of(0))
    assert all(opens(line.study, leaver, each) for each in results(line.study, 0, before))
    assert not any(opens(line.study, leaver, each) for each in newer)
    line.study.agree("abcd")


def test_what_waits_is_handed_out_before_the_session_changes_and_not_to_who_leaves(
    tmp_path: Path, clock: Clock
) -> None:
    line = Line(tmp_path, names="abcde")
    line.course.rounds(1)
    for name in "de":
        line.study.node(name).connected = False
    assert line.course.train("a", "b", "c")
    for name in "de":
        line.study.node(name).connected = True
        line.study.rosters[name] = line.version  # they have not heard of the change yet
    before = len(line.study.grid.sent)
    line.change("abcd")
    list(line.course.secure.get_node_ids())
    same(line.study.agree("abc"), line.study.model("d"))
    assert not np.array_equal(line.study.model("d")["bias"], line.study.model("e")["bias"])
    assert len(results(line.study, before, len(line.study.grid.sent))) == 1
    del line.study.rosters["d"]
    clock.now += 1.0  # and it is greeted again
    line.course.rounds(2)
    assert not errands(line.study)
    line.study.agree("abcd")


@pytest.mark.slow
def test_no_sum_is_lost_with_a_session_whose_sites_have_the_next_roster_already(
    tmp_path: Path, sums: list[Sum]
) -> None:
    """They take no message of the old session any more, so each sum was handed out in its own round."""
    line = Line(tmp_path)
    line.course.rounds(2)
    found = list({total.round: total for total in sums}.values())
    assert len(found) == 2
    line.change("abcde")
    line.course.rounds(1)
    same(line.study.seen["a"][-1], replayed(FedAvg(), start(), found))


@pytest.mark.slow
def test_cohorts_may_change_from_round_to_round(tmp_path: Path) -> None:
    """Keys are made anew for who is in none yet; whoever was not asked opens the sum all the same."""
    study = Learners(tmp_path, names="abcde")
    course = Course(study)
    for cohort in ("abcd", "bcde", "abcd", "abce", "abcde"):
        assert course.train(*cohort)
        assert not course.failures
    study.agree("abcde")


@pytest.mark.slow
def test_a_new_session_over_the_same_roster_hands_out_what_waits_first(tmp_path: Path) -> None:
    study = Learners(tmp_path)
    course = Course(study, given={"rounds": 99})
    course.rounds(2)
    course.secure.renew()
    course.rounds(1)
    same(study.seen["a"][-1], study.agree("abcd"))
    assert len(study.seen["a"]) == 3
    assert not np.array_equal(study.seen["a"][2]["bias"], study.seen["a"][1]["bias"])
