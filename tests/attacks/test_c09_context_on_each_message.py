"""C9: the scheme's context travels with every message.

Seen in a shipped system: 663 kB a layer, mostly public and relinearisation keys. The weakened copy attaches
what TenSEAL serialises by default. Ours sends no context at all for CKKS, since both sides build it from the
parameters, and Paillier's public key once, in set-up; the rest of a message is under 400 bytes.

Not covered: the model goes down with every request; it is not ours to compress.
"""

from typing import Any

import pytest

from protocols import CkksSum, PaillierSum
from protocols.consortium.messages import Contribution, DistributeKey
from protocols.machine.client import Request
from secagg.ckks import scheme as ckks
from tests.attacks.weakened import Stage, body_of, updates_of

CONSORTIA = [
    pytest.param(CkksSum(max_clients=4), id="ckks"),
    pytest.param(PaillierSum(max_clients=4, key_bits=2048), id="paillier"),
]


def test_a_context_is_larger_than_the_update() -> None:
    tenseal = pytest.importorskip("tenseal")
    parameters = ckks.choose_parameters(bound=4 * 32767, max_summands=4)
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=4096,
        coeff_mod_bit_sizes=[parameters.data_prime_bits, 20],
    )
    attached = len(context.serialize(save_secret_key=False, save_relin_keys=True))
    stage = Stage(CkksSum(max_clients=4), "abc")
    stage.play(updates_of("abc"))
    largest = max(len(each.message) for each in stage.wire if each.exchange == 2 and not each.down)
    assert attached > 2 * largest


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_ours_adds_a_few_hundred_bytes(protocol: Any) -> None:
    stage = Stage(protocol, "abc")
    for _ in range(2):
        stage.play(updates_of("abc"))
    assert {each.exchange for each in stage.wire} == {2}  # the second round has no set-up
    for each in stage.wire:
        if each.down:  # the last round's sum rides on the request
            payload = sum(map(len, body_of(Request, each.message).results))
        else:
            payload = len(body_of(Contribution, each.message).vector)
        assert payload > 0
        assert len(each.message) - payload < 400


@pytest.mark.parametrize("protocol", CONSORTIA)
def test_the_public_part_travels_once(protocol: Any) -> None:
    stage = Stage(protocol, "abcd")
    stage.play(updates_of("abcd"))
    (distributed,) = stage.answers(1, DistributeKey).values()
    public = bytes(distributed.public)
    if isinstance(protocol, CkksSum):
        assert public == b""
        return
    carrying = [(w.exchange, w.down) for w in stage.wire if public[:64] in w.message]
    assert carrying == [(1, False)] + [(2, True)] * 3  # up once, then to each newcomer with its sealed key
    stage.play(updates_of("abcd"))
    assert not [w for w in stage.wire if public[:64] in w.message]
