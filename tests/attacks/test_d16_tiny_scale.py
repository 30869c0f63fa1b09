"""D16: a scale so small that every value of every update is clipped: the sum tells signs, and so weights.

With `AutoClip` the server puts the scales of the updates into the model that goes down. They are public and
the same for all, so no binding of models (A9) stands against it. Under a tiny one a site's update becomes its
signs, and their sum, coordinate by coordinate, a sum of weights with signs. A few dozen coordinates have all
patterns of signs among three or four sites: the distances between their sums are twice each site's weight,
its number of examples.

The weakened copies are clients that divide and clip, as ours do, and do not look at how much was clipped, and
clients that do not remember the scales of the first round. The server is the library's, but for its scales;
the loop is the library's, over the protocols where the server makes the scales. Where the clients learn the
sum they make them.

**Partial.** Clients refuse other scales than the first that they were sent, and a scale under which more than
a twentieth of what moved in their update, or in one segment of at least twenty values, would be clipped; so
the attack fails at large, and in every large segment.
It **succeeds** in a segment of less than twenty values, a bias say, as long as that is less than a twentieth
of the whole, and in the twentieth that is put up with. Where the server is not to know the sites' sizes, the
remedy is a clip that the consortium agreed on in place of `AutoClip`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from fl_integration import (
    AutoClip,
    FederatedClient,
    FederatedRun,
    FederatedServer,
    LocalTraining,
    Rehearsal,
    Watch,
    federate,
)
from fl_integration.loop import rounds
from fl_integration.loop.in_process import InProcess
from fl_integration.loop.watch import Progress
from protocols import MaskedSum, ParameterError, PlainSum, RoundAborted, Rounding, Sum
from protocols.machine.client import Request
from protocols.masked.messages import CollectInput
from protocols.messages.envelope import Envelope
from protocols.messages.schema import decode, encode
from tests.fl_integration.loop.stage import MALICIOUS, seeded

SIZES = {"a": 11, "b": 23, "c": 48, "d": 101}
INPUTS = 40
TINY = 2.0**-60

Scales = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(params=[PlainSum, MaskedSum])
def protocol(request: Any) -> Any:
    more = MALICIOUS if request.param is MaskedSum else {}
    return request.param(bits=24, max_clients=4, max_weight=128, rounding=Rounding.NEAREST, **more)


def data() -> dict[str, Any]:
    """Each site has another truth, so that signs differ."""
    generator = torch.Generator().manual_seed(3)
    made = {}
    for name, size in SIZES.items():
        x = torch.randn(size, INPUTS, generator=generator)
        made[name] = [(x, x @ torch.randn(INPUTS, 2, generator=generator))]
    return made


class Trusting(AutoClip):
    """The weakened copy: a client that clips and does not look at how much."""

    def _refuse(self, what: str, count: int, size: int) -> None:
        pass


class Forgetful(FederatedClient):
    """A weakened copy: each round's scales are as good as the first."""

    def take_model(self, body: bytes) -> Any:
        self._scales = None
        return super().take_model(body)


def lying(
    monkeypatch: pytest.MonkeyPatch,
    lie: Callable[[Scales], Scales | None],
    *,
    since: int = 1,
    client: type[FederatedClient] = Forgetful,
) -> None:
    """From a round on the server sends other scales than those that were fixed."""
    monkeypatch.setattr(rounds, "FederatedClient", client)

    class Lying(FederatedServer):
        def send(self, scales: Scales | None) -> None:
            object.__setattr__(self.model, "scales", scales)
            self.model = self.model  # what goes down is made anew

        def round(self, number: int, *rest: Any) -> Any:
            assert self.model is not None
            true = self.model.scales
            if number >= since:
                self.send(lie(true))
            try:
                return super().round(number, *rest)
            finally:
                self.send(true)

    monkeypatch.setattr(rounds, "FederatedServer", Lying)


def trained(protocol: Any, *, rounds: int = 2, **options: Any) -> tuple[FederatedRun, list[Sum]]:
    """The loop, and the sums that its server opened."""
    sums: list[Sum] = []
    run = federate(
        protocol,
        seeded(lambda: nn.Linear(INPUTS, 2)),
        data(),
        local=LocalTraining(loss=mse_loss, learning_rate=0.01, batch_size=64),
        rounds=rounds,
        watch=Watch(progress=Progress.NEVER, on_model=lambda number, total, model: sums.append(total)),
        rehearsal=Rehearsal(protocol_seed=1),
        **options,
    )
    return run, sums


def weights_read(total: Sum, where: slice = slice(None)) -> set[int]:
    """What the server reads: the halves of all distances between two sums of signed weights, and the rest.

    The largest sum is all sites together. The one site k apart from it is 2·w_k lower; sums of more are no
    smaller than that, so weights come out from the least one on, as in a subset sum with growing parts.
    """
    sums = sorted({round(value) for value in (total.mean[where] * total.total_weight).tolist()}, reverse=True)
    lower = {(total.total_weight - each) // 2 for each in sums}
    parts: set[int] = set()
    for each in sorted(lower - {0}):
        told = {0}
        for part in parts:
            told |= {part + other for other in told}
        if each not in told:
            parts.add(each)
    return parts


def test_clients_that_do_not_look_tell_their_weights(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, lambda scales: np.full_like(scales, TINY))
    with pytest.warns(UserWarning, match="clipped"):
        run, sums = trained(protocol, clip=Trusting())
    assert run.history[1].clipped_share == 1
    assert weights_read(sums[1]) == set(SIZES.values())


def test_ours_sit_out_and_say_why(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, lambda scales: np.full_like(scales, TINY))
    run, sums = trained(protocol, clip=AutoClip())
    assert len(sums) == 1
    assert run.history[1].contributors == set()
    for name in SIZES:
        assert "82 of 82 values of the update that moved lie above the scale" in run.history[1].dropped[name]


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 3.0, 1e-310, 1e300])
@pytest.mark.parametrize("rule", [AutoClip, Trusting])
def test_what_is_no_scale_moves_nobody(
    protocol: Any, rule: Any, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even who does not look at the share: NaN would compare as not clipped."""
    lying(monkeypatch, lambda scales: np.array([scale, scales[1]]))
    run, sums = trained(protocol, clip=rule())
    assert len(sums) == 1
    for name in SIZES:
        assert "scale is not" in run.history[1].dropped[name]


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda scales: None, "scales for updates that are not scaled, or lacks them"),
        (lambda scales: scales[:1], "1 scales for 2 segments"),
        (lambda scales: np.full(3, 1.0), "3 scales for 2 segments"),
    ],
    ids=["none", "one", "three"],
)
def test_another_number_of_scales(
    protocol: Any, lie: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, lie)
    run, sums = trained(protocol, clip=AutoClip())
    assert len(sums) == 1
    assert all(reason in run.history[1].dropped[name] for name in SIZES)


def test_scales_where_the_training_has_none(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, lambda scales: np.full(2, TINY))
    run, sums = trained(protocol)
    assert len(sums) == 1
    assert all("scales for updates that are not scaled" in run.history[1].dropped[name] for name in SIZES)


@pytest.mark.parametrize("lie", [lambda scales: scales / 2, lambda scales: np.array([scales[0], TINY])])
def test_scales_that_change_are_refused(protocol: Any, lie: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is clipped under them; the copies above would take them."""
    lying(monkeypatch, lie, client=FederatedClient)
    run, sums = trained(protocol, clip=AutoClip())
    assert len(sums) == 1
    assert all("changed the scales of this training" in run.history[1].dropped[name] for name in SIZES)


def test_a_tiny_scale_from_the_first_round_on_is_refused(
    protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is nothing to remember yet."""
    lying(monkeypatch, lambda scales: np.full_like(scales, TINY), since=0, client=FederatedClient)
    with pytest.raises(ParameterError, match="82 of 82 values of the update that moved lie above the scale"):
        trained(protocol, clip=AutoClip())


def test_one_large_segment_is_refused(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, lambda scales: np.array([TINY, scales[1]]))
    run, sums = trained(protocol, clip=AutoClip())
    assert len(sums) == 1
    assert all("80 of 82 values of the update" in run.history[1].dropped[name] for name in SIZES)


def test_a_segment_of_twenty_within_a_large_model_is_refused() -> None:
    update, parts = np.full(1020, 0.5), {"weight": slice(0, 1000), "bias": slice(1000, 1020)}
    with pytest.raises(ParameterError, match="20 of 20 values of 'bias'"):
        AutoClip().apply(update.copy(), np.array([1.0, TINY]), parts)
    assert Trusting().apply(update, np.array([1.0, TINY]), parts) == {"bias": 20}


def test_a_small_segment_tells_sums_of_signed_weights_and_that_is_said(
    protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The residue: two biases of 82 values. What they tell is loud, and stands in the threat model."""
    lying(monkeypatch, lambda scales: np.array([scales[0], TINY]), since=0, client=FederatedClient)
    with pytest.warns(UserWarning, match="bias 100%"):
        run, sums = trained(protocol, clip=AutoClip())
    assert run.history[1].contributors == set(SIZES)
    signed = {round(value) for value in (sums[1].mean[80:] * sums[1].total_weight).tolist()}
    patterns = {
        sum(size if mask >> i & 1 else -size for i, size in enumerate(SIZES.values())) for mask in range(16)
    }
    assert signed <= patterns
    said = (Path(__file__).parents[2] / "protocols" / "THREAT_MODEL.md").read_text()
    row = next(line for line in said.splitlines() if line.startswith("| D16 "))
    assert "less than twenty values" in row
    assert "**succeeds**" in row
    assert Path(__file__).stem in row


def test_the_sum_of_magnitudes_is_not_answered_under_bytes_that_are_no_model(
    protocol: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lying(FederatedServer):
        @property
        def body(self) -> bytes:
            return bytes(32) + super().body[32:]

    monkeypatch.setattr(rounds, "FederatedServer", Lying)
    with pytest.raises(RoundAborted) as found:
        trained(protocol, clip=AutoClip(), rounds=1)
    (report,) = found.value.history  # type: ignore[attr-defined]
    assert all("another architecture" in report.dropped[name] for name in SIZES)


class TwoFaced(InProcess):
    """The server's line to the clients: one of them is sent a model with scales of its own."""

    def _answer(self, client: str, request: bytes) -> bytes | None:
        envelope = Envelope.decode(request)
        if client == "b" and envelope.round == 1 and self._names[envelope.stage // 2] == "MaskedInput":
            told = decode(Request, envelope.body)
            asked = decode(CollectInput, told.body)
            at, size = 32 + 4, 8 * 2  # behind the manifest's digest and the count
            scales = np.frombuffer(asked.model[at : at + size], "<f8") * 4
            changed = asked.model[:at] + scales.tobytes() + asked.model[at + size :]
            told = replace(told, body=memoryview(encode(replace(asked, model=changed))))
            request = replace(envelope, body=encode(told)).encode()
        return super()._answer(client, request)


def test_scales_for_one_client_alone_are_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A9: its masks are made under another transcript, and the sum has nothing of it."""
    monkeypatch.setattr(rounds, "InProcess", TwoFaced)
    protocol = MaskedSum(bits=24, max_clients=4, max_weight=128, rounding=Rounding.NEAREST, **MALICIOUS)
    run, sums = trained(protocol, clip=AutoClip())
    assert run.history[0].contributors == set(SIZES)
    assert "b" not in run.history[1].contributors
    assert all("b" not in each.contributors for each in sums[1:])
