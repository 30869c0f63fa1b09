"""A9: different models to different clients, so that the sum is one client's update.

Pasquini, Francati, Ateniese, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency"
(CCS'22): all but the victim get a model in which gradients vanish, so that the honest sum of honest updates
is the victim's alone. No mask or cipher is broken. The digest of the model is bound into every mask seed and
every tag, so that vectors that answer different models do not add up to anything.

The weakened copy leaves the digest out. Clients train truthfully on what they were given.

Not covered: a model that is the same for all and malicious for all.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import CkksSum, MaskedSum, PaillierSum, PeerViolation, RoundAborted
from protocols.consortium import client as consortium_client
from protocols.consortium.messages import Collect, Contribution, Result, mac_context
from protocols.masked import collecting, server
from protocols.masked.messages import CollectInput, MaskedInput, Quorum
from protocols.masked.server import MaskedServerSteps
from protocols.masked.transcript import mask_transcript
from protocols.messages.schema import encode
from secagg.vectors.linear_mac import PRIME, TAG_BYTES
from tests.attacks.weakened import (
    LENGTH,
    Stage,
    Vector,
    believe_all_stories,
    body_of,
    refused,
    request_of,
    updates_of,
)

NAMES = "abcd"
VICTIM = "b"
DEAD, LIVE = b"a model without gradients", b"the model"


def train(name: str, model: bytes, data: Mapping[str, Vector]) -> Vector:
    """Honest training: nothing to learn where nothing has a gradient."""
    return np.zeros(LENGTH) if model == DEAD else data[name]


def contributions(
    stage: Stage, outbox: Mapping[str, bytes], kind: Any, data: Mapping[str, Vector]
) -> dict[str, bytes]:
    """What the clients answer when only the victim gets the live model."""
    answers = {}
    for name, message in outbox.items():
        model = LIVE if name == VICTIM else DEAD
        request = stage.request(2, replace(request_of(kind, message), model=model))
        answers[name] = stage.tell(name, request, train(name, model, data))
    return answers


class NoQuestions(MaskedServerSteps):
    """A lying server: it adds whatever comes, whatever transcript it was made and signed under."""

    def check(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        if not isinstance(reply, MaskedInput):
            return super().check(context, state, sender, reply)
        return replace(reply, unopened=bytes(len(reply.unopened)))


def isolated(data: Mapping[str, Vector], *, steady: bool = False) -> Vector | None:
    """What a lying server takes for the victim's update, if it gets a sum at all."""
    stage = Stage(MaskedSum(max_clients=4), NAMES, server_steps=NoQuestions())
    if steady:
        stage.play(data, model=DEAD)
    outbox = stage.open(data, until=2, model=DEAD)
    for name, answer in contributions(stage, outbox, CollectInput, data).items():
        stage.server.receive(name, answer)
    for name, message in stage.server.advance().items():
        # It tells everybody of the model that this client was given.
        told = stage.quorum(name, NAMES, model=LIVE if name == VICTIM else DEAD)
        request = request_of(Quorum, message)
        assert request.survivors == told.survivors
        stage.server.receive(name, stage.tell(name, stage.request(3, told)))
    try:
        stage.server.advance()
    except RoundAborted:
        return None
    total = stage.server.outcome().total
    assert total is not None
    return total.mean * len(NAMES)


@pytest.mark.parametrize("steady", [False, True])
def test_masks_that_ignore_the_model_isolate_the_victim(
    monkeypatch: pytest.MonkeyPatch, steady: bool
) -> None:
    def unbound(**named: Any) -> bytes:
        return mask_transcript(**{**named, "model": bytes(32)})

    for module in (collecting, server):
        monkeypatch.setattr(module, "mask_transcript", unbound)
    data = updates_of(NAMES)
    found = isolated(data, steady=steady)
    assert found is not None
    assert np.abs(found - data[VICTIM]).max() < 1e-3


@pytest.mark.parametrize("steady", [False, True])
def test_our_masks_do_not_cancel(monkeypatch: pytest.MonkeyPatch, steady: bool) -> None:
    """Not even where clients do not ask under which transcript their neighbours made their masks."""
    assert isolated(updates_of(NAMES), steady=steady) is None
    believe_all_stories(monkeypatch)
    assert isolated(updates_of(NAMES), steady=steady) is None


def test_a_client_reveals_nothing_for_another_model_than_its_own() -> None:
    data = updates_of(NAMES)
    stage = Stage(MaskedSum(max_clients=4), NAMES)
    stage.open(data, until=3, model=LIVE)
    for name in NAMES:
        assert refused(stage.tell(name, stage.request(3, stage.quorum(name, NAMES, model=DEAD))))
        assert not refused(stage.tell(name, stage.request(3, stage.quorum(name, NAMES, model=LIVE))))


def test_an_honest_server_names_who_was_told_another_model() -> None:
    data = updates_of(NAMES)
    stage = Stage(MaskedSum(max_clients=4), NAMES)
    outbox = stage.open(data, until=2, model=DEAD)
    answers = contributions(stage, outbox, CollectInput, data)
    with pytest.raises(PeerViolation, match="another transcript") as caught:
        stage.server.receive(VICTIM, answers[VICTIM])
    assert caught.value.culprit == VICTIM


# Under a consortium key


def opened(protocol: Any, data: Mapping[str, Vector]) -> list[Vector | None]:
    """What each client takes for the mean of the round, from a server that lied about the model."""
    stage = Stage(protocol, NAMES)
    outbox = stage.open(data, until=2, model=DEAD)
    bodies = {
        name: body_of(Contribution, answer)
        for name, answer in contributions(stage, outbox, Collect, data).items()
    }
    total = protocol.scheme(protocol.surface).total(
        stage.view.consortium.public, count=protocol.surface.elements(LENGTH)
    )
    for body in bodies.values():
        total.add(body.vector)
    tag = sum(int.from_bytes(body.tag, "big") for body in bodies.values()) % PRIME
    first = bodies["a"]
    means: list[Vector | None] = []
    for name in NAMES:
        for model in {body.model for body in bodies.values()}:
            result = Result(
                0,
                first.key_id,
                {name: body.minimum for name, body in bodies.items()},
                LENGTH,
                model,
                model,  # which is the head too, where the application names no other
                tag.to_bytes(TAG_BYTES, "big"),
                memoryview(total.to_bytes()),
            )
            try:
                means.append(stage.clients[name].open(encode(result)).mean * len(NAMES))
            except PeerViolation:
                means.append(None)
    return means


SCHEMES = [
    pytest.param(CkksSum(max_clients=4), id="ckks"),
    pytest.param(PaillierSum(max_clients=4, key_bits=2048), id="paillier"),
]


@pytest.mark.parametrize("protocol", SCHEMES)
def test_tags_that_ignore_the_model_isolate_the_victim(
    protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unbound(**named: Any) -> bytes:
        return mac_context(**{**named, "model": bytes(32), "head": bytes(32)})

    monkeypatch.setattr(consortium_client, "mac_context", unbound)
    data = updates_of(NAMES)
    means = [mean for mean in opened(protocol, data) if mean is not None]
    assert means
    assert all(np.abs(mean - data[VICTIM]).max() < 1e-3 for mean in means)


@pytest.mark.parametrize("protocol", SCHEMES)
def test_our_tags_do_not_verify_and_nothing_is_returned(protocol: Any) -> None:
    assert opened(protocol, updates_of(NAMES)) == [None] * (2 * len(NAMES))
