"""What travels: one body for all, small heads, nothing that has to be in one piece."""

import os
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fl_integration.embedding.parcels import Parcel, Refused, decode_head, encode_head
from fl_integration.flower.engine import pack, unpack
from secagg.errors import DecodeError
from tests.fl_integration.flower.loopback import LoopbackGrid
from tests.fl_integration.flower.stage import MASKED, Study

VALUES = 200_000
CHUNK = 5 << 20
"""Bytes of an array in one of Flower's objects, at most."""
HEADER = 1 << 10


def objects_of(message: Message) -> dict[str, int]:
    """What a message is made of: the name of each object, by its content, and its size."""
    return {name: len(each.deflate()) for name, each in get_all_nested_objects(message).items()}


def test_a_model_goes_to_the_link_once_for_all_clients(tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=MASKED, names="abcdefgh")
    study.run(arrays=ArrayRecord([np.ones(VALUES, np.float32)]), rounds=1)
    rounds = [message for _, message, _ in study.grid.sent if "arrays" in message.content]
    assert len(rounds) == len(study.names)
    parts = [objects_of(message) for message in rounds]
    together = {name: size for each in parts for name, size in each.items()}
    model = 4 * VALUES
    assert model < sum(together.values()) < 1.25 * model
    shared = set.intersection(*(set(each) for each in parts))
    own = [sum(size for name, size in each.items() if name not in shared) for each in parts]
    assert max(own) < 32 * HEADER


def test_only_the_exchange_in_which_clients_train_carries_the_model(tmp_path: Path) -> None:
    study = Study(tmp_path, protocol=MASKED)
    study.run(arrays=ArrayRecord([np.ones(VALUES, np.float32)]), rounds=2)
    sizes = [sum(objects_of(message).values()) for _, message, _ in study.grid.sent]
    heavy = [size for size in sizes if size > VALUES]
    assert len(heavy) == 2 * len(study.names)
    assert max(size for size in sizes if size not in heavy) < 32 * HEADER


@pytest.mark.parametrize("size", [0, 1, 2 * CHUNK + 17])
def test_a_body_of_any_size_is_cut_into_pieces_that_are_small(size: int) -> None:
    body = os.urandom(size)
    head = encode_head(Refused("nothing"))
    LoopbackGrid()  # a message names the process that made it
    message = Message(pack(Parcel(head, body)), dst_node_id=1, message_type="train")
    pieces = objects_of(message)
    assert max(pieces.values()) <= CHUNK + HEADER
    assert sum(pieces.values()) < size + 8 * HEADER
    found = unpack(message.content)
    assert (bytes(found.head), bytes(found.body), found.shows) == (head, body, False)


def test_bodies_need_not_be_bytes_and_what_is_no_parcel_is_refused() -> None:
    head = encode_head(Refused("nothing"))
    found = unpack(pack(Parcel(head, memoryview(b"abcdef")[2:4])))
    assert bytes(found.body) == b"cd"
    assert decode_head(found.head) == Refused("nothing")
    content = pack(Parcel(head, b""))
    del content["secagg.body"]
    with pytest.raises(DecodeError, match="no parcel"):
        unpack(content)
