"""Answers that are none, and apps that fail: each costs its own site the round, and tells nobody why."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message

from fl_integration.embedding.member import SITS_OUT
from fl_integration.embedding.parcels import (
    NO_COPY,
    Answer,
    Hello,
    Parcel,
    Place,
    Refused,
    Step,
    Welcome,
    decode_head,
    encode_head,
)
from fl_integration.flower.engine import HEAD, pack, unpack
from protocols import PlainSum
from secagg.errors import ParameterError
from tests.fl_integration.flower.loopback import Node
from tests.fl_integration.flower.stage import (
    FIRST_NODE,
    PATIENCE,
    Study,
    app_of,
    average,
    by,
    context_of,
    four,
    mean_of,
    moved,
    near,
    said,
    zeros,
)
from tests.fl_integration.waiting import Time

A, B, C, D = range(FIRST_NODE, FIRST_NODE + 4)


@pytest.mark.parametrize(
    "head",
    [
        Welcome("stranger", bytes(32), NO_COPY, bytes(64)),
        Welcome("a", bytes(32), NO_COPY, bytes(64)),
        Answer(),
        Answer(failure="no"),
        Step(Place(b"study", 1, bytes(32), 0), 1),
    ],
    ids=lambda head: type(head).__name__,
)
def test_a_greeting_that_is_answered_by_anything_else_costs_nobody_else_a_round(
    head: Any, tmp_path: Path
) -> None:
    study = Study(tmp_path, names="abcd")
    study.grid.forge = lambda node, answer: (
        Message(pack(Parcel(encode_head(head), b"body")), reply_to=answer) if node == D else answer
    )
    assert moved(study.run(rounds=2)) == near(2 * mean_of("a", "b", "c"))


@pytest.mark.parametrize(
    "head",
    [
        Welcome("d", bytes(32), NO_COPY, bytes(64)),
        Answer(),
        Answer(failure="no"),
        Refused("no"),
        Step(Place(b"study", 1, bytes(32), 0), 1),
        Hello(Place(b"study", 1, bytes(32), 0), b"", bytes(16), ()),
        None,
    ],
    ids=lambda head: type(head).__name__,
)
def test_a_step_that_is_answered_by_anything_else_costs_nobody_else_a_round(
    head: Any, tmp_path: Path
) -> None:
    study = Study(tmp_path, names="abcd")

    def forge(node: int, answer: Message) -> Message:
        if node != D or not isinstance(decode_head(unpack(answer.content).head), Answer):
            return answer
        parcel = Parcel(b"garbage" if head is None else encode_head(head), b"body")
        return Message(pack(parcel), reply_to=answer)

    study.grid.forge = forge
    assert moved(study.run(four())) == near(mean_of("a", "b", "c"))


# Whose app fails


def raises(arrays: Any, message: Any, context: Any) -> Any:
    raise ValueError("patient 4711 has no weight")


def raises_ours(arrays: Any, message: Any, context: Any) -> Any:
    raise ParameterError("patient 4711 has no weight")


def with_nan(arrays: Any, message: Any, context: Any) -> Any:
    arrays["w"][3] = np.nan
    return arrays, {"num-examples": 10}


def with_infinity(arrays: Any, message: Any, context: Any) -> Any:
    return {"w": arrays["w"].astype(np.float64) + 1e300}, {"num-examples": 10}


def other_names(arrays: Any, message: Any, context: Any) -> Any:
    return {"patient 4711": arrays["w"]}, {"num-examples": 10}


def other_shape(arrays: Any, message: Any, context: Any) -> Any:
    return {"w": arrays["w"][:3]}, {"num-examples": 10}


def integers(arrays: Any, message: Any, context: Any) -> Any:
    return {"w": arrays["w"].astype(np.int64)}, {"num-examples": 10}


def no_arrays(arrays: Any, message: Any, context: Any) -> Any:
    return {}, {"num-examples": 10}


def weighing(weight: Any) -> Any:
    def step(arrays: Any, message: Any, context: Any) -> Any:
        return arrays, {"loss4711": 4711.0} if weight is None else {"num-examples": weight}

    return step


BAD_APPS = {
    "raises": raises,
    "raises an error of this library": raises_ours,
    "NaN": with_nan,
    "infinity": with_infinity,
    "other names": other_names,
    "other shape": other_shape,
    "integers for floats": integers,
    "no arrays": no_arrays,
    "no weight": weighing(None),
    "weight 0": weighing(0),
    "weight below 0": weighing(-4711),
    "weight above the cap": weighing(4711),
    "half an example": weighing(4711.5),
    "NaN examples": weighing(float("nan")),
    "infinitely many examples": weighing(float("inf")),
    "a list of weights": weighing([4711, 10]),
}


@pytest.mark.parametrize("bad", sorted(BAD_APPS))
def test_an_app_that_fails_sits_the_round_out_and_nobody_hears_why(
    bad: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    study = Study(tmp_path, names="abcd", protocol=PlainSum(max_weight=1000))
    study.join("d", D, BAD_APPS[bad])
    with caplog.at_level(logging.INFO):
        assert moved(study.run(four())) == near(mean_of("a", "b", "c"))
    answers = [decode_head(unpack(each.content).head) for each in study.heard(D)]
    failed = [each for each in answers if isinstance(each, Answer) and each.failure]
    # One and the same text, whatever it was: the server chose the model, and would read one site by it.
    assert [each.failure for each in failed] == [SITS_OUT]
    assert all(not unpack(each.content).body for each in study.heard(D))
    for secret in (b"4711", b"patient", b"is NaN", b"index", b"Error"):
        assert secret not in said(study.heard(D))
    assert "d sits round 0 out" in caplog.text


def test_a_whole_number_of_examples_may_be_a_float(tmp_path: Any) -> None:
    study = Study(tmp_path)
    for place, name in enumerate("abc"):
        study.join(name, FIRST_NODE + place, by(0.1 * (place + 1), float(10 * (place + 1))))
    assert moved(study.run()) == near(mean_of("a", "b", "c"))


def test_an_app_whose_enrolment_fails_says_no_word_of_it(tmp_path: Any) -> None:
    from fl_integration.flower import secure_aggregation

    def enrol(context: Any) -> Any:
        raise OSError("the password is 4711")

    study = Study(tmp_path)
    study.grid.nodes[D] = Node(
        app_of(by(1.0), mods=[secure_aggregation(study.protocol, enrol)]), context_of(D)
    )
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    (answer,) = study.heard(D)
    assert decode_head(unpack(answer.content).head) == Refused(
        "this site cannot take part; its own log says why"
    )
    assert b"4711" not in said([answer])


def test_a_message_in_the_clear_is_refused_by_the_mod(tmp_path: Any) -> None:
    # Whoever runs the strategy over Flower's own grid gets no training, and its model is of no use.
    study = Study(tmp_path)
    result = average().start(grid=study.grid, initial_arrays=zeros(), num_rounds=1)
    assert not result.arrays
    assert all(answer.error.code == 6 for node in (A, B, C) for answer in study.heard(node))


# What is not a message of this library


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"SAGP",
        b"SAGP\x02\x00",
        b"SAGP\x01\x09",
        b"SAGP\x01\x02garbage",
        encode_head(Refused("no")),
        b"\xff" * 99,
    ],
)
def test_a_parcel_that_is_none_is_refused_and_nothing_happens(head: bytes, tmp_path: Any) -> None:
    study = Study(tmp_path)
    node = study.node("a")
    message = Message(pack(Parcel(head, b"body")), dst_node_id=A, message_type="train")
    study.grid.push_messages([message])
    (answer,) = study.heard(A)
    assert isinstance(decode_head(unpack(answer.content).head), Refused)
    assert moved(study.run()) == near(mean_of("a", "b", "c"))
    assert node.received > 1


def test_records_that_are_not_what_they_should_be_are_refused(tmp_path: Any) -> None:
    study = Study(tmp_path)
    good = pack(Parcel(b"head", b"body"))
    for spoilt in (
        {HEAD: ConfigRecord({"head": "a text"})},
        {HEAD: ConfigRecord({})},
        {"secagg.body": ConfigRecord({"body": b""})},
        {"secagg.body": zeros()},
    ):
        content = pack(Parcel(b"head", b"body"))
        content.update(spoilt)
        study.grid.push_messages([Message(content, dst_node_id=A, message_type="train")])
        answer = study.heard(A)[-1]
        assert answer.error.code == 6
        assert "of another type" in answer.error.reason or "no parcel of secagg" in answer.error.reason
    assert sorted(good) == [HEAD, "secagg.body"]


@pytest.mark.parametrize(
    "array",
    [
        Array(dtype="float32", shape=(-1,), stype="numpy.ndarray", data=b""),
        Array(dtype="float32", shape=(1,), stype="numpy.ndarray", data=b"not an array"),
        Array(dtype="no dtype", shape=(1,), stype="no form", data=b""),
    ],
    ids=["shape", "bytes", "dtype"],
)
@pytest.mark.parametrize("name", ["w", "\ud800"], ids=["name", "no text"])
def test_arrays_of_a_hostile_server_are_refused_by_the_mod_and_not_by_an_accident(
    name: str, array: Array, tmp_path: Path
) -> None:
    study = Study(tmp_path, names="abcd")

    def hostile(node: int, message: Message) -> Message:
        if node == D and "arrays" in message.content:
            message.content["arrays"] = ArrayRecord({name: array})
        return message

    study.grid.tamper = hostile
    assert moved(study.run(four())) == near(mean_of("a", "b", "c"))
    # An exception that left the mod would tell the server its text.
    assert not [answer for answer in study.heard(D) if answer.has_error()]


def test_a_node_that_was_turned_away_is_asked_again_after_a_while(tmp_path: Path, time: Time) -> None:
    study = Study(tmp_path, names="abcd")
    own = study.node("d").app
    study.node("d").app = app_of(by(1.0))
    secure = study.secure(average())
    for _ in range(3):
        assert sorted(secure.get_node_ids()) == [A, B, C]
    assert study.node("d").received == 1, "it was asked again at once"
    study.node("d").app = own
    time.pause(PATIENCE.again)
    assert sorted(secure.get_node_ids()) == [A, B, C, D]
