"""Faults that a review found: what an engine, a disk or a stranger could make of a site's words."""

import pickle
import re
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, Error, Message, RecordDict

from fl_integration.embedding.carrier import Patience
from fl_integration.embedding.member import UNABLE
from fl_integration.embedding.parcels import Hello, Parcel, Place, Refused, Step, decode_head, encode_head
from fl_integration.flower import engine, mod
from fl_integration.flower.engine import pack, unpack
from secagg.errors import ParameterError
from secagg.secret import Secret
from tests.fl_integration.flower.loopback import Node
from tests.fl_integration.flower.stage import (
    FIRST_NODE,
    PATIENCE,
    Study,
    app_of,
    average,
    by,
    context_of,
    mean_of,
    moved,
    near,
    said,
    zeros,
)
from tests.fl_integration.waiting import Time

A, D = FIRST_NODE, FIRST_NODE + 3


def test_a_site_enrols_once_a_message(tmp_path: Any) -> None:
    # It opens the identity's file, which a password makes slow on purpose.
    study, enrolled = Study(tmp_path), []

    def enrol(context: Any) -> Any:
        enrolled.append(context)
        return study.enrol("a", context)

    mods = [mod.secure_aggregation(study.protocol, enrol)]
    study.grid.nodes[A] = Node(app_of(by(0.1), mods=mods), context_of(A))
    assert moved(study.run()) > 0
    assert len(enrolled) == len(study.heard(A))


def test_a_release_log_that_fails_in_its_own_words_keeps_them_at_the_site(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Flower tells the server the text of whatever leaves the mod."""

    class Elsewhere:
        identity = bytes(16)

        def insert(self, session: bytes, round: int, step: int, digest: bytes) -> bytes:
            raise OSError("/ward-4711/releases is not mounted")

        def count(self, session: bytes) -> int:
            raise OSError("/ward-4711/releases is not mounted")

    study = Study(tmp_path, names="abcd")
    enrolment = replace(study.enrol("d", context_of(D)), release_log=Elsewhere())
    mods = [mod.secure_aggregation(study.protocol, lambda context: enrolment)]
    study.grid.nodes[D] = Node(app_of(by(0.1), mods=mods), context_of(D))
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    (answer,) = study.heard(D)
    assert b"4711" not in said([answer])
    assert decode_head(unpack(answer.content).head) == Refused(UNABLE)
    assert "/ward-4711/releases is not mounted" in caplog.text


def test_an_error_in_place_of_a_message_is_refused(tmp_path: Any) -> None:
    study = Study(tmp_path)
    message = Message(zeros_content(), dst_node_id=A, message_type="train")
    message.__dict__["_content"], message.__dict__["_error"] = None, Error(0, "an engine's")
    answer = study.node("a").app(message, context_of(A))
    assert answer.error.code == 6


def zeros_content() -> RecordDict:
    return RecordDict({"arrays": zeros()})


@pytest.mark.parametrize(
    "data",
    [b"", b"\x93NUMPY", b"PK\x05\x06" + bytes(18), pickle.dumps([1]), b"\x93NUMPY\x01\x00\x02\x00{}"],
    ids=["nothing", "no header", "an archive", "a pickle", "an empty header"],
)
@pytest.mark.parametrize("form", ["numpy.ndarray", "another"])
def test_an_array_that_is_none_is_refused_as_what_it_is(data: bytes, form: str) -> None:
    array = Array(dtype="float32", shape=(2,), stype=form, data=data)
    content = RecordDict({"arrays": ArrayRecord({"w": array})})
    with pytest.raises(ParameterError, match="the server sends an array that is none"):
        engine.arrays_in(content, "the server")


def test_a_server_writes_no_lines_of_a_sites_log(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    study = Study(tmp_path)
    version = study.enrol("a", context_of(A)).version
    place = Place(b"study", version.version, version.digest, 1)
    hello = Hello(place, bytes(8), bytes(16), ("train: \x1b[2K\nb enters session 0", "weights"))
    study.grid.push_messages([Message(pack(Parcel(encode_head(hello))), dst_node_id=A, message_type="train")])
    (line,) = [each for each in caplog.messages if "the server goes by train: " in each]
    assert line.isprintable()


def test_a_server_that_no_longer_sums_an_evaluation_goes_on_without_it(tmp_path: Any) -> None:
    state = {"state_dir": tmp_path / "server", "state_key": Secret(bytes(32))}
    study = Study(tmp_path / "sites")
    for metrics in ({"accuracy": (0.0, 1.0)}, None):
        study.evaluate_metrics = metrics
        for place, name in enumerate("abc"):
            study.join(name, FIRST_NODE + place, by(0.1 * (place + 1), 10 * (place + 1)), accuracy=0.5)
        result = study.run(average(fraction_evaluate=0.0 if metrics is None else 1.0), **state)
        assert moved(result) == near(mean_of("a", "b", "c"))
    assert len({head.place for head in steps_sent(study)}) == 1


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan"), True, "3", None])
def test_nobody_is_waited_for_without_an_end(seconds: Any, tmp_path: Any) -> None:
    words = rf"is {re.escape(repr(seconds))}; it is seconds: a finite number above zero"
    for name in ("exchange", "hello", "connect", "again", "first_look", "last_look"):
        with pytest.raises(ParameterError, match=f"patience.{name} {words}"):
            Patience(**{name: seconds})
    if seconds is not None:
        study = Study(tmp_path)
        secure = study.secure(average())
        asked = [Message(zeros_content(), dst_node_id=A, message_type="train")]
        with pytest.raises(ParameterError, match=f"timeout {words}"):
            secure.send_and_receive(asked, timeout=seconds)
        assert study.grid.sent == []


def test_strangers_that_come_under_ever_new_names_fill_no_memory(tmp_path: Any, time: Time) -> None:
    study = Study(tmp_path)
    secure = study.secure(average())
    stranger = Node(app_of(by(0.1)), context_of(D))
    for node in range(D, D + 20):
        study.grid.nodes[node] = stranger
        secure.get_node_ids()
        del study.grid.nodes[node]
        time.now += PATIENCE.again
    assert len(secure._rounds.coordinator._attendance._turned_away) <= 2


def steps_sent(study: Study) -> list[Step]:
    heads = (decode_head(unpack(message.content).head) for _, message, _ in study.grid.sent)
    return [head for head in heads if isinstance(head, Step)]


def test_a_node_that_was_started_anew_in_mid_round_is_not_waited_for(
    tmp_path: Any, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Flower delivers no message twice, and never saw a node offline that came back within a minute.
    monkeypatch.setattr("fl_integration.flower.carrier.LOOK_SECONDS", -1.0)
    study = Study(tmp_path, names="abcd")
    node = study.node("d")
    node.mute = lambda nth: isinstance(decode_head(unpack(study.grid.sent[-1][1].content).head), Step)

    def pause(seconds: float) -> None:
        time.now += seconds
        if node.received > 1:
            node.activated = "later"

    monkeypatch.setattr(time, "pause", pause)
    secure = study.secure(average())
    assert len(list(secure.get_node_ids())) == 4
    monkeypatch.setattr(secure._rounds.coordinator, "_pause", pause)
    monkeypatch.setattr(secure._rounds.coordinator._attendance, "_pause", pause)
    asked = [Message(zeros_content(), dst_node_id=each, message_type="train") for each in study.grid.nodes]
    answers = list(secure.send_and_receive(asked, timeout=3600.0))
    assert time.now < 60.0
    reasons = [str(answer.error.reason) for answer in answers if answer.has_error()]
    assert any("started anew" in reason for reason in reasons), reasons
