"""A9 and A13 over LatticeSum: different models, or lengths, to different clients.

As in `test_a09_different_models` (Pasquini, Francati, Ateniese, CCS'22): all but the victim get a model in
which gradients vanish, so that the sum is the victim's update. LatticeSum has two things to bind: the public
polynomials, and the sum of the keys. Polynomials follow from a seed that has the length and the model in it;
the key layer gets the same two for a model, and binds them as it binds any.

The weakened copy leaves them out of both. One of the two is enough: with keys that add up and vectors under
different polynomials the server has samples of RLWE, and with vectors that add up and keys that do not it has
no key.

Not covered: a model that is the same for all and malicious for all.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from protocols import LatticeSum, PeerViolation, RoundAborted
from protocols.consortium import client as consortium_client
from protocols.consortium.messages import Contribution as KeyContribution
from protocols.consortium.messages import Result as KeyResult
from protocols.consortium.messages import mac_context
from protocols.lattice import client as lattice_client
from protocols.lattice.messages import Collect, Contribution, Result, Task
from protocols.masked import collecting, server
from protocols.masked.messages import MaskedInput, Quorum
from protocols.masked.server import MaskedServerSteps
from protocols.masked.transcript import mask_transcript
from protocols.messages.schema import decode, encode
from secagg.vectors.linear_mac import PRIME, TAG_BYTES
from tests.attacks.weakened import (
    LENGTH,
    Vector,
    believe_all_stories,
    body_of,
    refused,
    request_of,
    updates_of,
)
from tests.attacks.weakened_lattice import (
    LAYERS,
    OVER_MASKED,
    OVER_PAILLIER,
    LatticeStage,
    server_over,
    unbind_seed,
)

NAMES = "abcd"
VICTIM = "b"
DEAD, LIVE = b"a model without gradients", b"the model"


def model_of(name: str) -> bytes:
    return LIVE if name == VICTIM else DEAD


def contributions(
    stage: LatticeStage, outbox: Mapping[str, bytes], data: Mapping[str, Vector]
) -> dict[str, bytes]:
    """What the clients answer when only the victim gets the live model. They train truthfully."""
    answers, kind = {}, stage.keys.requests[stage.keys.collecting]
    for name, message in outbox.items():
        collect, model = request_of(Collect, message), model_of(name)
        asked: Any = decode(kind, collect.keys)
        keys = replace(asked, model=stage.task(model))
        request = stage.request(stage.keys.collecting, Collect(memoryview(encode(keys)), model))
        update = data[name] if model == LIVE else np.zeros(LENGTH)
        answers[name] = stage.tell(name, request, update)
        assert not refused(answers[name])
    return answers


# Over masked keys


class NoQuestions(MaskedServerSteps):
    """A lying server: it adds whatever comes, whatever transcript it was made and signed under."""

    def check(self, context: Any, state: Any, sender: str, reply: Any) -> Any:
        if not isinstance(reply, MaskedInput):
            return super().check(context, state, sender, reply)
        return replace(reply, unopened=bytes(len(reply.unopened)))


def isolated(data: Mapping[str, Vector], *, steady: bool = False) -> Vector | None:
    """What a lying server takes for the victim's update, if it gets a sum at all."""
    steps = server_over(OVER_MASKED, NoQuestions())
    stage = LatticeStage(OVER_MASKED, NAMES, server_steps=steps)
    if steady:
        stage.play(data, model=DEAD)
    outbox = stage.open(data, until=2, model=DEAD)
    for name, answer in contributions(stage, outbox, data).items():
        stage.server.receive(name, answer)
    for name, message in stage.server.advance().items():
        # It tells everybody of the model that this client was given.
        told = stage.quorum(name, NAMES, model=stage.task(model_of(name)))
        assert request_of(Quorum, message).survivors == told.survivors
        stage.server.receive(name, stage.tell(name, stage.request(3, told)))
    try:
        stage.server.advance()
    except RoundAborted:
        return None
    total = stage.server.outcome().total
    assert total is not None
    return total.mean * len(NAMES)


def unbind_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks that do not depend on the task."""

    def unbound(**named: Any) -> bytes:
        return mask_transcript(**{**named, "model": bytes(32)})

    for module in (collecting, server):
        monkeypatch.setattr(module, "mask_transcript", unbound)


def unbind_polynomials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Public seeds that do not depend on the task."""
    unbind_seed(monkeypatch, task=b"")


@pytest.mark.parametrize("steady", [False, True])
def test_polynomials_and_masks_that_ignore_the_model_isolate_the_victim(
    monkeypatch: pytest.MonkeyPatch, steady: bool
) -> None:
    unbind_keys(monkeypatch)
    unbind_polynomials(monkeypatch)
    data = updates_of(NAMES)
    found = isolated(data, steady=steady)
    assert found is not None
    assert np.abs(found - data[VICTIM]).max() < 1e-3


@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.parametrize("weaken", [unbind_keys, unbind_polynomials, believe_all_stories, None])
def test_over_masked_keys_either_is_enough(
    weaken: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch, steady: bool
) -> None:
    """Not even where clients do not ask under which transcript their neighbours made their masks."""
    if weaken:
        weaken(monkeypatch)
    assert isolated(updates_of(NAMES), steady=steady) is None


def test_an_honest_server_names_who_was_told_another_model() -> None:
    data = updates_of(NAMES)
    stage = LatticeStage(OVER_MASKED, NAMES)
    outbox = stage.open(data, until=2, model=DEAD)
    answers = contributions(stage, outbox, data)
    with pytest.raises(PeerViolation, match="another transcript") as caught:
        stage.server.receive(VICTIM, answers[VICTIM])
    assert caught.value.culprit == VICTIM


# Under a consortium key


def means(data: Mapping[str, Vector]) -> list[Vector | None]:
    """What each client takes for the sum, from a server that lied about the model and says either."""
    stage = LatticeStage(OVER_PAILLIER, NAMES)
    outbox = stage.open(data, until=2, model=DEAD)
    sent = {
        name: body_of(Contribution, answer) for name, answer in contributions(stage, outbox, data).items()
    }
    keys = {name: decode(KeyContribution, each.keys) for name, each in sent.items()}
    scheme: Any = stage.keys.server
    total = scheme._scheme.total(stage.view.consortium.public, count=stage.vectors.degree)
    for each in keys.values():
        total.add(each.vector)
    vector = np.add.reduce([stage.coefficients(each) for each in sent.values()])
    packed = stage.vectors.ring.pack(vector.astype(stage.vectors.ring.dtype))
    found: list[Vector | None] = []
    for name in NAMES:
        model = model_of(name)
        result = KeyResult(
            stage.number,
            keys["a"].key_id,
            {client: each.minimum for client, each in keys.items()},
            stage.vectors.degree,
            hashlib.sha256(stage.task(model)).digest(),
            hashlib.sha256(model).digest(),
            _sum_of(each.tag for each in keys.values()),
            memoryview(total.to_bytes()),
        )
        whole = Result(
            memoryview(encode(result)),
            Task(LENGTH, hashlib.sha256(model).digest()),
            memoryview(packed),
            memoryview(_sum_of(each.tag for each in sent.values())),
        )
        try:
            found.append(stage.clients[name].open(encode(whole)).mean * len(NAMES))
        except PeerViolation:
            found.append(None)
    return found


def _sum_of(tags: Any) -> bytes:
    return (sum(int.from_bytes(tag, "big") for tag in tags) % PRIME).to_bytes(TAG_BYTES, "big")


def unbind_tags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags that do not depend on the task, or on what is answered."""

    def unbound(**named: Any) -> bytes:
        return mac_context(**{**named, "model": bytes(32), "head": bytes(32)})

    monkeypatch.setattr(consortium_client, "mac_context", unbound)
    monkeypatch.setattr(lattice_client, "tagging_of", partial(_headless, lattice_client.tagging_of))


def _headless(tagging_of: Any, common: Any, *, seed: bytes, head: bytes) -> Any:
    return tagging_of(common, seed=seed, head=bytes(len(head)))


def test_polynomials_and_tags_that_ignore_the_model_isolate_the_victim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbind_tags(monkeypatch)
    unbind_polynomials(monkeypatch)
    data = updates_of(NAMES)
    for found in means(data):
        assert found is not None
        assert np.abs(found - data[VICTIM]).max() < 1e-3


@pytest.mark.parametrize("weaken", [unbind_tags, unbind_polynomials, None])
def test_over_encrypted_keys_either_is_enough(
    weaken: Callable[[pytest.MonkeyPatch], None] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weaken:
        weaken(monkeypatch)
    assert means(updates_of(NAMES)) == [None] * len(NAMES)


# The client's own check


@pytest.mark.parametrize("protocol", LAYERS)
@pytest.mark.parametrize(
    ("model", "bound", "length"),
    [(LIVE, DEAD, LENGTH), (LIVE, LIVE, 0), (LIVE, LIVE, 1 << 50)],
    ids=["another model than the keys are bound to", "no values", "too many"],
)
def test_a_client_refuses_a_task_that_does_not_fit(
    protocol: LatticeSum, model: bytes, bound: bytes, length: int
) -> None:
    stage = LatticeStage(protocol, NAMES)
    outbox = stage.open(updates_of(NAMES), until=2, model=LIVE)
    kind = stage.keys.requests[stage.keys.collecting]
    keys: Any = decode(kind, request_of(Collect, outbox[VICTIM]).keys)
    lie = replace(keys, model=stage.task(bound, length))
    answer = stage.tell(VICTIM, stage.request(2, Collect(memoryview(encode(lie)), model)))
    assert refused(answer)
    # It is not spoilt for the truth.
    assert not refused(stage.tell(VICTIM, outbox[VICTIM], updates_of(NAMES)[VICTIM]))


@pytest.mark.parametrize("protocol", LAYERS)
def test_other_lengths_give_other_polynomials(protocol: LatticeSum) -> None:
    """A server that asks the victim for two more values than the others has vectors that do not add up."""
    stage, longer = LatticeStage(protocol, NAMES), LENGTH + 2
    outbox = stage.open(updates_of(NAMES), until=2)
    kind = stage.keys.requests[stage.keys.collecting]
    keys: Any = decode(kind, request_of(Collect, outbox[VICTIM]).keys)
    lie = replace(keys, model=stage.task(b"", longer))
    answer = stage.tell(
        VICTIM, stage.request(2, Collect(memoryview(encode(lie)), b"")), updates_of(NAMES, longer)[VICTIM]
    )
    assert not refused(answer)
    assert stage.round_seed(length=longer) != stage.round_seed()
    with pytest.raises(PeerViolation) as caught:
        stage.server.receive(VICTIM, answer)
    assert caught.value.culprit == VICTIM
