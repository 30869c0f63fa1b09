"""D18: a site counts falsely in the first sum of magnitudes, and `AutoClip` makes scales far too large.

One lie in one small sum, of counts that nobody can look at. Under a scale far above all updates what the
others learn is rounded away by the protocol's grid, and the clip, which is what bounds a lie in the training
itself, is as wide as the scale: the liar alone says where the model goes.

The weakened copies are clients that do not look at what is left of their first update under the scales, a
rule that believes any number of counts, and a loop that forgets whose magnitudes it has seen. The liar is the
library's client, but for its counts and its update; it takes its place in every protocol, whoever learns the
sum.

**Partial.** All sites refuse scales under which the whole of their first update drowns, and nothing moves.
Counts of more values than there are abort the round; as such a sum was seen, the very same sites are asked
again. It **succeeds** in a part of the model, and each site says so; and it **succeeds** without a word as
far as the grid is fine enough: a scale that is too large by less than that leaves the others' updates some
steps, and the liar's reach in a round is its share of the weight times that scale.
"""

import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from fl_integration import AutoClip, ClippingWarning, FederatedClient, FederatedRun, LocalTraining
from fl_integration.loop import rounds
from fl_integration.loop.cohorts import Unmoved
from fl_integration.loop.side_sums import Count, Counts, Head, SideSums
from protocols import IntegerSum, ParameterError, RoundAborted
from protocols.machine.server import ServerMachine
from tests.fl_integration.loop.stage import QUIET, distance, protocol, seeded, train

LIAR, SITES, INPUTS = "d", "abcd", 40
BINS = 161
WEIGHT, BIAS = 0, 1
"""The segments of the model."""

Vector = np.ndarray[Any, Any]
Lie = Callable[[Counts], Counts]


@pytest.fixture(params=[pytest.param("plain", marks=pytest.mark.slow), "masked", "ckks"])
def name(request: Any) -> str:
    """A server that learns the sums, and clients that do; to this attack PlainSum is as MaskedSum is."""
    return str(request.param)


class Blind(AutoClip):
    """The weakened copy: it does not look at what is left of its update."""

    def drowned(self, update: Any, segments: Any, *, step: float) -> list[str]:
        return []


def says(exponent: int, *segments: int, count: int | None = None) -> Lie:
    """All values of these segments, or so many, are just below 2**exponent; the others are as they are."""

    def lie(counts: Counts) -> Counts:
        told = counts.reshape(-1, BINS).copy()
        for segment in segments:
            values = int(told[segment].sum()) if count is None else count
            told[segment] = 0
            told[segment, exponent + 80] = values
        return told.reshape(-1)

    return lie


def lying(
    monkeypatch: pytest.MonkeyPatch,
    lie: Lie,
    *,
    times: int = 1000,
    moves: Callable[[Vector], None] = lambda update: None,
) -> None:
    """One site counts falsely, so many times, and puts up with any scales; `moves` rewrites its updates."""
    told: list[int] = []

    class FalseCounts(SideSums):
        def run(self, number: int, cohort: Collection[str], count: Count, *, model: bytes, head: Head) -> Any:
            def counted(client: str, body: bytes) -> Counts:
                honest = count(client, body)
                if client != LIAR or len(told) >= times:
                    return honest
                told.append(number)
                return lie(honest)

            return super().run(number, cohort, counted, model=model, head=head)

    class Liar(FederatedClient):
        def _scaled(self, rule: AutoClip, update: Vector, scales: Vector) -> dict[str, int]:
            if self.name != LIAR:
                return super()._scaled(rule, update, scales)
            update /= np.repeat(scales, [INPUTS, 1])
            moves(update)
            return {}

    monkeypatch.setattr(rounds, "SideSums", FalseCounts)
    monkeypatch.setattr(rounds, "FederatedClient", Liar)


def data() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for client in SITES:
        x = torch.randn(12, INPUTS, generator=torch.Generator().manual_seed(ord(client)))
        made[client] = [(x, x.sum(1, keepdim=True) / 4 + 1)]
    return made


def start() -> nn.Module:
    return seeded(lambda: nn.Linear(INPUTS, 1))


def trained(
    name: str, *, rule: AutoClip, number: int = 2, sites: dict[str, Any] | None = None
) -> FederatedRun:
    local = LocalTraining(loss=mse_loss, learning_rate=0.02, batch_size=None)
    return train(name, sites or data(), model=start(), local=local, rounds=number, clip=rule, watch=QUIET)


def quietly(name: str, **options: Any) -> FederatedRun:
    """A training in which nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return trained(name, **options)


def at(target: float, segment: int, scale: float) -> Callable[[Vector], None]:
    """The liar's update brings the mean of a segment to a target, within the scale."""

    def moves(update: Vector) -> None:
        update[:] = 0
        update[[slice(0, INPUTS), slice(INPUTS, None)][segment]] = target * len(SITES) / scale

    return moves


# --- all of it --------------------------------------------------------------------------------------------


def test_clients_that_do_not_look_train_nothing_and_are_told_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, says(40, WEIGHT, BIAS), moves=lambda update: update.fill(0))
    run = quietly(name, rule=Blind())
    assert all(report.contributors == set(SITES) for report in run.history)
    assert distance(run.model, start()) == 0


@pytest.mark.parametrize("target", [1000.0, -1.0e7])
def test_and_go_where_the_liar_says(name: str, target: float, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, says(29, WEIGHT, BIAS), moves=at(target, WEIGHT, 2.0**30))
    weight = quietly(name, rule=Blind(), number=1).model.state_dict()["weight"]
    assert weight.numpy() == pytest.approx(target, abs=100)


def test_ours_refuse_and_say_why(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, says(40, WEIGHT, BIAS))
    with (
        pytest.warns(ClippingWarning, match="a, b, c refused the scales"),
        pytest.raises(RoundAborted) as found,
    ):
        trained(name, rule=AutoClip())
    for report in found.value.history:  # type: ignore[attr-defined]
        assert report.contributors == set()
        for client in "abc":
            assert "another site's first update was far larger" in report.dropped[client]


# --- more than there is -----------------------------------------------------------------------------------


class Gullible(AutoClip):
    """The weakened copy: any number of values is believed."""

    def scales(self, total: Any, segments: Any, *, sites: int) -> Any:
        return super().scales(total, segments, sites=1 << 30)


MANY = 0.3
"""A share that one liar of four does not reach with the values that it has."""


def test_counts_that_add_up_move_no_more_than_the_share(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = trained(name, rule=AutoClip(share=MANY, headroom=8.0))
    lying(monkeypatch, says(40, WEIGHT, BIAS))
    run = trained(name, rule=AutoClip(share=MANY, headroom=8.0))
    assert all(report.contributors == set(SITES) for report in run.history)
    assert 0 < distance(run.model, start()) < 2 * distance(true.model, start())


def test_more_counts_than_values_outvote_the_others_where_they_are_believed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, says(29, BIAS, count=INPUTS), moves=at(1.0e6, BIAS, 2.0**32))
    with pytest.warns(ClippingWarning, match="in bias"):
        run = trained(name, rule=Gullible(share=MANY, headroom=8.0), number=1)
    assert run.model.state_dict()["bias"].item() == pytest.approx(1.0e6, abs=1000)


def test_ours_aborts_that_round_and_the_next_one_asks_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, says(29, BIAS, count=INPUTS), times=1)
    run = quietly(name, rule=AutoClip(), number=3)
    assert "somebody counted falsely" in run.history[0].aborted
    assert run.history[0].contributors == set()
    assert [report.contributors for report in run.history[1:]] == [set(SITES)] * 2


# --- what is left -----------------------------------------------------------------------------------------


def test_in_a_part_of_the_model_it_succeeds_and_each_site_says_so(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, says(29, BIAS), moves=at(1.0e6, BIAS, 2.0**30))
    with pytest.warns(ClippingWarning, match="below a few steps of the grid, in bias"):
        run = trained(name, rule=AutoClip(), number=1)
    state = run.model.state_dict()
    assert state["bias"].item() == pytest.approx(1.0e6, abs=100)
    assert 0 < float((state["weight"] - start().state_dict()["weight"]).abs().max()) < 1


def test_within_what_the_grid_bears_it_succeeds_without_a_word_and_that_is_said(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the false counts the very update moves nothing by more than the true scale."""
    scale = 2.0**10
    reach = scale / len(SITES) * 0.9
    lying(monkeypatch, lambda counts: counts, moves=at(reach, WEIGHT, scale))
    true = quietly(name, rule=AutoClip(), number=1)
    assert distance(true.model, start()) < 1
    lying(monkeypatch, says(9, WEIGHT, BIAS), moves=at(reach, WEIGHT, scale))
    run = quietly(name, rule=AutoClip(), number=1)
    assert run.history[0].contributors == set(SITES)
    assert distance(run.model, start()) == pytest.approx(reach, abs=1)
    page = (Path(__file__).parents[2] / "protocols" / "THREAT_MODEL.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| D18 "))
    assert Path(__file__).stem in row
    assert "**succeeds**" in row


@pytest.mark.parametrize("bits", [16, 24])
def test_how_far_that_is(bits: int) -> None:
    """Eight steps of the grid are asked of a site's largest value: a factor of 2**(bits - 4)."""
    step = 1 / protocol("plain", bits=bits).suite.surface.codec.largest_step  # type: ignore[union-attr]
    rule, parts = AutoClip(), {"weight": slice(0, 2)}
    update = np.array([1.0, 0.1])
    assert rule.drowned(update / 2.0 ** (bits - 5), parts, step=step) == []
    with pytest.raises(ParameterError, match="a few steps of the grid"):
        rule.drowned(update / 2.0 ** (bits - 3), parts, step=step)


# --- a sum of magnitudes that came to nothing, and was seen ------------------------------------------------


class Late(list[Any]):
    """A site's examples, which are not there in its first round."""

    asked = 0

    def __iter__(self) -> Any:
        self.asked += 1
        if self.asked == 2:  # its size is asked for before
            raise OSError("the disk is away")
        return super().__iter__()


def magnitudes_asked_twice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[FederatedRun, list[IntegerSum], Counts]:
    """`d` lies once, and `a` is away just then: a training, the sums of magnitudes, and what `a` counts."""
    seen: dict[int, IntegerSum] = {}
    mine: list[Counts] = []

    def noted(monkeypatch: pytest.MonkeyPatch) -> None:
        class Noted(rounds.SideSums):  # type: ignore[name-defined, misc]
            def run(self, number: int, cohort: Any, count: Count, **rest: Any) -> Any:
                def counted(client: str, body: bytes) -> Counts:
                    counts = count(client, body)
                    mine.extend([counts] if client == "a" else [])
                    return counts

                found = super().run(number, cohort, counted, **rest)
                seen[number] = next(iter(found[0].values()))
                return found

        monkeypatch.setattr(rounds, "SideSums", Noted)

    lying(monkeypatch, says(29, BIAS, count=INPUTS), times=1)
    noted(monkeypatch)
    given = data()
    run = trained(name, rule=AutoClip(), number=5, sites={**given, "a": Late(given["a"])})
    return run, list(seen.values()), (mine or [np.empty(0, np.uint64)])[0]


def test_the_next_one_with_one_site_more_tells_its_magnitudes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weakened copy: a loop, and a server, that forget what they have seen."""
    monkeypatch.setattr(Unmoved, "_chosen", lambda self, wanted, culprits, seen: wanted)
    monkeypatch.setattr(ServerMachine, "_put_off_near", lambda *_: None)
    _, (first, second), mine = magnitudes_asked_twice(name, monkeypatch)
    assert (first.contributors, second.contributors) == (set("bcd"), set("abcd"))
    # Only of the part that `d` lied about it knows what it said.
    weight = slice(0, BINS)
    assert (second.total[weight] - first.total[weight]).tolist() == mine[weight].tolist()


def test_ours_asks_the_very_same_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, (first, second), mine = magnitudes_asked_twice(name, monkeypatch)
    assert first.contributors == second.contributors == set("bcd")
    assert len(mine) == 0
    assert "counted falsely" in run.history[0].aborted
    assert run.history[-1].contributors == set(SITES)  # the model moved, and everybody is back


def test_nor_does_its_server_open_another_one_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody of those is away now."""
    monkeypatch.setattr(Unmoved, "_chosen", lambda self, wanted, culprits, seen: wanted)
    run, sums, _ = magnitudes_asked_twice("masked", monkeypatch)
    assert ["put off" in report.aborted for report in run.history] == [False, True, True, False, False]
    assert len(sums) == 2
