"""`AutoClip`: what one clip ruins comes out right, over every protocol, and one scale is everybody's.

The rule itself, properties first; then whole trainings.
"""

import math
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from fl_integration import AutoClip, ClippingWarning, FederatedClient, FederatedRun, Sampling, segments
from fl_integration.loop.report import TrainingAborted
from fl_integration.loop.scaffold import Scaffold
from fl_integration.site.training import LocalTraining, predict
from fl_integration.vectors.autoclip import ScalesRefusedError
from fl_integration.vectors.vectorise import manifest_of
from protocols import ParameterError, Segment
from tests.fl_integration.loop.stage import (
    LOCAL,
    NAMES,
    PROTOCOLS,
    distance,
    in_the_clear,
    linear,
    pieces,
    seeded,
    sites,
    train,
)

# --- the rule ---------------------------------------------------------------------------------------------

PARTS = {"weight": slice(0, 30), "bias": slice(30, 31), "variance": slice(31, 40)}
LENGTH = 40


def updates(dtype: Any = np.float64, *, most: float = 2.0**79) -> st.SearchStrategy[Any]:
    """Values of all magnitudes, zeros and denormals among them."""
    width = np.dtype(dtype).itemsize * 8
    values = st.floats(-most, most, width=width, allow_subnormal=True)
    return arrays(dtype, (3, LENGTH), elements=values)


def scales_of(rule: AutoClip, sites: Any) -> Any:
    total = np.sum([rule.counts(each, PARTS) for each in sites], axis=0, dtype=np.uint64)
    return rule.scales(total, PARTS, sites=len(sites))


@given(
    sites=st.one_of(updates(), updates(np.float32)),
    share=st.sampled_from([0.0, 1e-3, 0.02, 0.1, 0.5]),
    headroom=st.sampled_from([1.0, 2.0, 1024.0]),
)
def test_at_most_a_share_lies_above_the_scale_and_half_of_it_would_not_do(
    sites: Any, share: float, headroom: float
) -> None:
    scales = scales_of(AutoClip(share=share, headroom=headroom), sites) / headroom
    for part, scale in zip(PARTS.values(), scales.tolist(), strict=True):
        values = np.abs(sites[:, part].astype(np.float64))
        moved = np.count_nonzero(values)
        if not moved:
            assert scale * headroom == 1
            continue
        assert math.frexp(scale)[0] == 0.5
        assert np.count_nonzero(values >= scale) <= share * moved
        assert scale == 2.0**-80 or np.count_nonzero(values >= scale / 2) > share * moved


@given(sites=st.one_of(updates(), updates(np.float32)))
def test_every_value_that_is_not_zero_is_counted_once_whoever_has_it(sites: Any) -> None:
    rule = AutoClip()
    counts = [rule.counts(each, PARTS) for each in sites]
    for each, update in zip(counts, sites, strict=True):
        assert each.dtype == np.uint64
        assert each.shape == (rule.length(PARTS),)
        assert each.max() <= rule.largest_count(PARTS)
        by_part = each.reshape(len(PARTS), -1).sum(axis=1)
        assert by_part.tolist() == [np.count_nonzero(update[part]) for part in PARTS.values()]
    merged = rule.counts(np.concatenate(list(sites)), {"all": slice(0, 3 * LENGTH)})
    assert (np.sum(counts, axis=0).reshape(len(PARTS), -1).sum(axis=0) == merged).all()


@given(sites=st.one_of(updates(), updates(np.float32, most=2.0**40)))
def test_multiplied_back_it_is_what_it_was(sites: Any) -> None:
    rule = AutoClip(share=0.0)
    scales = scales_of(rule, sites)
    for each in sites:
        scaled = each.copy()
        assert rule.apply(scaled, scales, PARTS) == {}
        assert np.abs(scaled).max() <= 1
        back = scaled.astype(np.float64)
        for part, scale in zip(PARTS.values(), scales.tolist(), strict=True):
            back[part] *= scale
            # What lies 2**126 below the scale may vanish in float32; no grid of a protocol sees it.
            exact = np.abs(each[part]) >= scale * 2.0**-120
            assert (back[part][exact] == each[part][exact]).all()


@given(sites=updates(np.float32, most=float(np.finfo(np.float32).max)))
def test_whatever_float32_holds_what_comes_out_is_a_finite_number_within_the_clip(sites: Any) -> None:
    rule = AutoClip(most_clipped=1 - 1e-9)
    scales = scales_of(rule, sites)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in sites:
            scaled = each.copy()
            try:
                clipped = rule.apply(scaled, scales, PARTS)
            except ParameterError:
                continue  # every value clipped
            assert np.isfinite(scaled).all()
            assert np.abs(scaled).max() <= 1
            for name, part in PARTS.items():
                scale = scales[list(PARTS).index(name)]
                assert clipped.get(name, 0) == np.count_nonzero(np.abs(each[part].astype(np.float64)) > scale)
            assert (np.sign(scaled)[scaled != 0] == np.sign(each)[scaled != 0]).all()


def test_one_giant_among_denormals_is_cut_and_not_infinite() -> None:
    update = np.full(100, 1e-45, np.float32)
    update[7] = -3e38
    parts = {"all": slice(0, 100)}
    rule = AutoClip()
    scales = np.array([2.0**-80])
    assert rule.apply(update, scales, parts) == {"all": 1}
    assert update[7] == -1
    assert (np.delete(update, 7) > 0).all()


def test_by_hand() -> None:
    rule = AutoClip(share=0.0, headroom=1.0)
    counts = rule.counts(np.array([0.0, 0.5, 0.75, 1.0, -3.0]), {"a": slice(0, 4), "b": slice(4, 5)})
    assert counts.sum() == 4
    assert rule.scales(counts, {"a": slice(0, 4), "b": slice(4, 5)}, sites=1).tolist() == [2.0, 4.0]
    assert AutoClip(share=0.34, headroom=4.0).scales(
        rule.counts(np.array([0.0, 0.5, 0.75, 1.0]), {"a": slice(0, 4)}), {"a": slice(0, 4)}, sites=1
    ).tolist() == [4.0]


@pytest.mark.parametrize(
    "scale", [0.0, -1.0, math.nan, math.inf, 3.0, 1e-300, 2.0**-81, 2.0**112, 1e300, 2.0**-1074]
)
def test_what_no_rule_makes_is_no_scale(scale: float) -> None:
    update = np.ones(LENGTH, np.float32)
    with pytest.raises(ParameterError, match="not a power of two"):
        AutoClip().apply(update, np.array([4.0, scale, 4.0]), PARTS)
    assert (update == 1).all()


@pytest.mark.parametrize("count", [0, 2, 4])
def test_one_scale_for_each_segment(count: int) -> None:
    with pytest.raises(ParameterError, match="one for each segment"):
        AutoClip().apply(np.ones(LENGTH), np.full(count, 4.0), PARTS)


def test_twentieth_of_all_values_and_of_each_segment_of_twenty() -> None:
    rule, parts = AutoClip(), {"large": slice(0, 200), "twenty": slice(200, 220), "small": slice(220, 239)}
    scales = np.array([1.0, 1.0, 1.0])

    def tried(*runs: slice) -> dict[str, int]:
        update = np.full(239, 0.5)
        for run in runs:
            update[run] = 3
        return rule.apply(update, scales, parts)

    assert tried(slice(0, 10)) == {"large": 10}
    with pytest.raises(ParameterError, match="11 of 200 values of 'large' that moved"):
        tried(slice(0, 11))
    assert tried(slice(200, 201)) == {"twenty": 1}
    with pytest.raises(ParameterError, match="2 of 20 values of 'twenty'"):
        tried(slice(200, 202))
    assert tried(slice(220, 231)) == {"small": 11}
    with pytest.raises(ParameterError, match="12 of 239 values of the update"):
        tried(slice(220, 232))


def test_what_stands_still_is_no_cover() -> None:
    """An embedding of which a site moves three rows of a hundred: all that moved would be clipped."""
    update, parts = np.zeros(1000), {"embedding": slice(0, 1000)}
    update[:30] = 0.3
    with pytest.raises(ParameterError, match="30 of 30 values of the update that moved"):
        AutoClip().apply(update.copy(), np.array([2.0**-20]), parts)
    assert AutoClip().apply(update, np.array([1.0]), parts) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 1.0}, {"share": -0.1}, {"share": math.nan}, {"share": "0"}, {"headroom": 3.0},
        {"headroom": 0.5}, {"headroom": 2.0**32}, {"headroom": math.inf}, {"most_clipped": 0},
        {"most_clipped": 1}, {"most_clipped": None},
    ],
)  # fmt: skip
def test_a_rule_that_is_none(wrong: Any) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        AutoClip(**wrong)


def test_counts_of_another_model() -> None:
    with pytest.raises(ParameterError, match="segments"):
        AutoClip().scales(np.zeros(7, np.uint64), PARTS, sites=3)


def counted(**values: float) -> Any:
    """Counts of a site all of whose values in a part are these; others stand still."""
    update = np.zeros(LENGTH)
    for part, value in values.items():
        update[PARTS[part]] = value
    return AutoClip().counts(update, PARTS)


def test_more_values_than_the_sites_have_were_counted_falsely() -> None:
    rule, three = AutoClip(), 3 * counted(weight=0.3, bias=0.3)
    assert rule.scales(three, PARTS, sites=3).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ParameterError, match=r"90 values were counted in 'weight', where 2 sites have 60"):
        rule.scales(three, PARTS, sites=2)
    one_more = three.copy()
    one_more[rule.length({"": slice(0)}) + 160] += 1  # in the bias, whose one value each has counted
    with pytest.raises(ParameterError, match=r"4 values were counted in 'bias', where 3 sites have 3"):
        rule.scales(one_more, PARTS, sites=3)


def test_what_drowns_is_named_and_all_that_moved_is_refused() -> None:
    rule, step = AutoClip(), 2.0**-10
    update = np.zeros(LENGTH)
    assert rule.drowned(update, PARTS, step=step) == []  # nothing moved, nothing is lost
    update[3], update[30] = -8 * step, 8 * step
    assert rule.drowned(update, PARTS, step=step) == []
    update[30] = 7.9 * step
    assert rule.drowned(update, PARTS, step=step) == ["bias"]
    update[3] = -7.9 * step
    with pytest.raises(ScalesRefusedError, match="another site's first update was far larger"):
        rule.drowned(update, PARTS, step=step)
    update[31:] = 1.0
    assert rule.drowned(update, PARTS, step=step) == ["weight", "bias"]


# --- the two disasters ------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        pytest.param(each, marks=[pytest.mark.slow] if each in ("lattice", "paillier") else [])
        for each in PROTOCOLS
    ]
)
def name(request: Any) -> str:
    return str(request.param)


def costs() -> tuple[dict[str, Any], dict[str, Any], Any]:
    """A regression in Euros: a training's arguments, its data and R2 on what it was not trained on."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(240, 3)).astype(np.float32)
    y = 150 + 70 * x @ np.array([[1.0], [-0.5], [0.3]]) + 60 * generator.normal(size=(240, 1))
    local = LocalTraining(loss=mse_loss, learning_rate=0.05, batch_size=12)
    options = {"model": seeded(lambda: nn.Linear(3, 1)), "local": local, "rounds": 6}
    data = {each: [(x[i::5], y[i::5])] for i, each in enumerate(NAMES)}
    return options, data, lambda model: r2_score(y[4::5], predict(model, x[4::5]))


def pixels() -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Digits with raw values up to 255 under BatchNorm; accuracy on what it was not trained on."""
    digits = load_digits(n_class=4)
    x, y = (digits.data[:, 18:46] * 15.9).astype(np.float32), digits.target
    local = LocalTraining(loss=cross_entropy, learning_rate=0.1, batch_size=36)
    net = seeded(lambda: nn.Sequential(nn.BatchNorm1d(28), nn.Linear(28, 4)))
    data = {each: [(x[i::5], y[i::5])] for i, each in enumerate(NAMES)}
    return (
        {"model": net, "local": local, "rounds": 3},
        data,
        lambda model: float((predict(model, x[4::5]).argmax(1) == y[4::5]).mean()),
    )


@pytest.mark.parametrize(("made", "good", "bad"), [(costs, 0.55, -1.0), (pixels, 0.88, 0.6)])
def test_what_the_default_clip_ruins_with_a_warning_autoclip_cures(
    name: str, made: Any, good: float, bad: float
) -> None:
    options, data, score = made()
    truth = score(in_the_clear(data, **options).model)
    assert truth > good
    options["shape"] = {"max_weight": 256}
    with pytest.warns(ClippingWarning, match=r"AutoClip\(\)"):
        assert score(train(name, data, **options).model) < bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cured = train(name, data, clip=AutoClip(), **options)
    assert score(cured.model) == pytest.approx(truth, abs=0.01)


# --- one scale for all ------------------------------------------------------------------------------------


def steep(names: str = NAMES) -> dict[str, Any]:
    """Targets in the hundreds: the bias moves by far more than one in a round."""
    return {each: [(x, 300 * y + 500) for x, y in pieces(each)] for each in names}


class Watched:
    """The clients of a training, and the scales under which each update left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clients: dict[str, FederatedClient] = {}
        self.scales: dict[str, list[Any]] = {each: [] for each in NAMES}
        contributed, made = FederatedClient._contributed, FederatedClient.__init__

        def register(client: FederatedClient, *args: Any, **named: Any) -> None:
            made(client, *args, **named)
            self.clients[client.name] = client

        def note(client: FederatedClient, asked: Any, delivered: Any, *rest: Any) -> bytes:
            self.scales[client.name].append(delivered.scales.tolist())
            return contributed(client, asked, delivered, *rest)

        monkeypatch.setattr(FederatedClient, "__init__", register)
        monkeypatch.setattr(FederatedClient, "_contributed", note)


def test_the_scales_are_powers_of_two_the_same_for_all_and_fixed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    run = train(name, steep(), clip=AutoClip())
    (first, *_), *_ = watched.scales.values()
    assert len(first) == 2
    assert all(math.frexp(scale)[0] == 0.5 and scale > 16 for scale in first)
    assert watched.scales == {each: [first] * 3 for each in NAMES}
    # Nothing but the grid's step lies between this and the mean in the clear.
    assert distance(run.model, in_the_clear(steep()).model) < 4 * max(first) * 2.0**-17
    assert run.history[0].side_traffic
    assert not any(report.side_traffic for report in run.history[1:])


def test_the_scales_are_those_of_the_first_updates_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, rule = Watched(monkeypatch), AutoClip(headroom=1.0, share=0.0)
    train("masked", steep(), clip=rule, rounds=1)
    lone = {each: in_the_clear(steep(each), rounds=1).model for each in NAMES}
    bias = max(abs(float((model.bias - linear().bias).detach())) for model in lone.values())
    assert watched.scales["a"][0][1] == 2.0 ** math.floor(math.log2(bias) + 1)


class Counting:
    """A step that remembers: it trains further each time it is called, and counts how often that was."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()

    def __call__(self, model: nn.Module, data: Any, *, seed: int) -> int:
        self.calls[id(data)] += 1
        with torch.no_grad():
            model.bias += 10.0 * self.calls[id(data)]
        return 12


def test_the_first_update_is_not_trained_twice(name: str) -> None:
    local, data = Counting(), steep()
    run = train(name, data, local=local, clip=AutoClip(headroom=4.0))
    assert local.calls == {id(each): 3 for each in data.values()}
    assert float(run.model.bias.detach()) == pytest.approx(float(linear().bias.detach()) + 60, abs=1e-2)


def test_with_control_variates_and_with_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    run = train("masked", steep(), clip=AutoClip(headroom=8.0), server_optimiser=Scaffold())
    assert len(watched.scales["a"][0]) == 4
    truth = in_the_clear(steep(), server_optimiser=Scaffold())
    assert distance(run.model, truth.model) < 0.05
    sampled = train(
        "plain", steep(), clip=AutoClip(), sampling=Sampling(size=3), shape={"max_clients": 4}, rounds=4
    )
    assert [len(report.contributors) for report in sampled.history] == [3] * 4


def test_a_protocol_with_another_clip_is_refused() -> None:
    manifest = manifest_of(linear().state_dict())
    for clip in (0.5, 2.0, segments(manifest, clip=1.0), segments(manifest, clip=1.0, overrides={"bias": 9})):
        with pytest.raises(ParameterError, match=r"leave its clip= out"):
            train("masked", clip=AutoClip(), shape={"clip": clip})
    for wrong in (True, 1.0, AutoClip, "auto"):
        with pytest.raises(ParameterError, match=r"pass AutoClip\(\)"):
            train("masked", clip=wrong)  # type: ignore[arg-type]


def test_segments_with_one_clip_of_1_are_another_clip_too() -> None:
    with pytest.raises(ParameterError, match="leave its clip= out"):
        train("masked", clip=AutoClip(), shape={"clip": (Segment(length=3, clip=1.0),)})


# --- false counts, and scales that do not fit -------------------------------------------------------------


BOTH = ("plain", "ckks")
"""One whose server learns the sum, and one whose clients do."""


def lying(monkeypatch: pytest.MonkeyPatch, lie: Any, *, times: int = 1) -> None:
    """The first site that counts tells `lie(counts, segments)` instead, in the first sums of magnitudes."""
    real, calls = AutoClip.counts, Counter[str]()

    def told(self: AutoClip, update: Any, parts: Any) -> Any:
        calls["all"] += 1
        counts = real(self, update, parts)
        if calls["all"] in range(1, len(NAMES) * times + 1, len(NAMES)):
            rows = counts.reshape(len(parts), -1)
            lie(rows, parts)
        return counts

    monkeypatch.setattr(AutoClip, "counts", told)


def enormous(rows: Any, parts: Any) -> None:
    """As many values as it has, all in the highest bin."""
    rows[:] = 0
    rows[:, -1] = [part.stop - part.start for part in parts.values()]


def enormous_bias(rows: Any, parts: Any) -> None:
    rows[1:] = 0
    rows[1:, -1] = 1


def too_many(rows: Any, parts: Any) -> None:
    rows[:, -1] = 2


def quiet_warnings(said: Any, of: str) -> list[str]:
    return [str(each.message) for each in said if of in str(each.message)]


def test_scales_under_which_all_is_lost_are_refused_by_every_site(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One site's lie would freeze the model: each update would be rounded to nothing."""
    lying(monkeypatch, enormous)
    with (
        pytest.warns(ClippingWarning, match="round 0: a, b, c, d refused the scales"),
        pytest.raises(ParameterError, match=r"no site can take part: 'a': nothing .* few steps of the grid"),
    ):
        train(name, steep(), clip=AutoClip(), rounds=50)


def test_one_whose_first_update_is_far_below_the_others_sits_out_until_it_is_not(name: str) -> None:
    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        calls[id(data)] += 1
        small = data is theirs["b"] and calls[id(data)] < 3
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(2.0**-20 if small else 0.3)
        return 12

    calls, theirs = Counter[int](), sites()
    with pytest.warns(ClippingWarning, match="b refused the scales"):
        run = train(name, theirs, local=local, clip=AutoClip())
    assert [report.contributors for report in run.history] == [set("acd"), set("acd"), set(NAMES)]
    assert "few steps of the grid" in run.history[0].dropped["b"]


@pytest.mark.parametrize("name", BOTH)
def test_one_part_that_is_lost_is_said_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lying(monkeypatch, enormous_bias)
    with pytest.warns(ClippingWarning) as said:
        run = train(name, steep(), clip=AutoClip())
    assert [report.contributors for report in run.history] == [set(NAMES)] * 3
    [once] = quiet_warnings(said, "grid")
    assert "below a few steps of the grid, in bias: another site's" in once
    assert float((run.model.bias - linear().bias).detach().abs()) < 1e-6  # what is lost is lost


@pytest.mark.parametrize("name", BOTH)
def test_counts_of_more_values_than_there_are_cost_the_round_and_say_why(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, too_many)
    run = train(name, steep(), clip=AutoClip())
    assert run.history[0].aborted.startswith("the scales were not fixed: ")
    assert "somebody counted falsely" in run.history[0].aborted
    assert [report.contributors for report in run.history[1:]] == [set(NAMES)] * 2


@pytest.mark.parametrize("name", BOTH)
def test_after_false_counts_no_sum_of_nearly_the_same_counts_follows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The false sum was seen; one without b would tell, by the difference, what b counted (ATTACKS A10)."""
    lying(monkeypatch, too_many)
    data = steep()
    run = train(name, data, local=Flaky({id(data["b"]): {2}}), clip=AutoClip(), rounds=4)
    assert "somebody counted falsely" in run.history[0].aborted
    assert "a sum for this model was seen" in run.history[1].aborted
    assert [report.contributors for report in run.history[2:]] == [set(NAMES)] * 2


def test_sites_that_refuse_the_scales_are_said_once() -> None:
    """The first learning rate is tiny, and so are the scales."""
    local = LocalTraining(loss=mse_loss, learning_rate=[1e-5, 0.05, 0.05, 0.05], batch_size=4)
    with pytest.warns(ClippingWarning) as said:
        run = train("masked", steep(), local=local, clip=AutoClip(), rounds=4)
    assert [bool(report.aborted) for report in run.history] == [False, True, True, True]
    [once] = [str(each.message) for each in said]
    assert once.startswith("round 1: a, b, c, d refused the scales that AutoClip fixed and sat out")
    assert "AutoClip(headroom=…)" in once


# --- faults on the way ------------------------------------------------------------------------------------

LEARN = [each for each in PROTOCOLS if each in ("ckks", "paillier")]


class Flaky:
    """A step that fails when it is called for the n-th time by these data."""

    def __init__(self, bad: Mapping[int, Collection[int]]) -> None:
        self._bad, self.calls = bad, Counter[int]()

    def __call__(self, model: nn.Module, data: Any, *, seed: int) -> Any:
        self.calls[id(data)] += 1
        if self.calls[id(data)] in self._bad.get(id(data), ()):
            raise OSError("the disk is gone")
        return LOCAL(model, data, seed=seed)


def test_a_site_that_fails_in_the_sum_of_magnitudes_takes_part_as_soon_as_it_can(name: str) -> None:
    data = steep()
    run = train(name, data, local=Flaky({id(data["b"]): {1}}), clip=AutoClip())
    assert [report.contributors for report in run.history] == [set(NAMES)] * 3
    assert distance(run.model, in_the_clear(steep()).model) < 0.05
    data = steep()
    run = train(name, data, local=Flaky({id(data["b"]): {1, 2}}), clip=AutoClip())
    assert [report.contributors for report in run.history] == [set("acd"), set(NAMES), set(NAMES)]
    assert "the disk is gone" in run.history[0].dropped["b"]


def test_a_sum_of_magnitudes_that_aborts_costs_its_round_and_is_tried_again(name: str) -> None:
    data = steep()
    local = Flaky({id(data["b"]): {1}, id(data["c"]): {1}})
    run = train(name, data, local=local, clip=AutoClip())
    first, *rest = run.history
    assert "the scales were not fixed" in first.aborted
    assert first.contributors == set()
    assert first.total_weight is None
    assert {each: "disk is gone" in first.dropped[each] for each in "bc"} == {"b": True, "c": True}
    assert first.side_traffic["server"].sent > 0
    assert [report.contributors for report in rest] == [set(NAMES)] * 2
    assert not any(report.aborted for report in rest)


def test_if_it_aborts_in_every_round_the_training_raises_with_its_history() -> None:
    data = steep()
    local = Flaky({id(data[each]): set(range(9)) for each in "bc"})
    with pytest.raises(TrainingAborted, match="the scales were not fixed") as found:
        train("masked", data, local=local, clip=AutoClip())
    assert len(found.value.history) == 3


def test_if_no_site_can_train_it_raises_at_once(name: str) -> None:
    data = steep()
    local = Flaky({id(each): set(range(99)) for each in data.values()})
    with pytest.raises(ParameterError, match=r"no site can take part: 'a': OSError: the disk is gone"):
        train(name, data, local=local, clip=AutoClip(), rounds=50)
    assert set(local.calls.values()) == {1}


@pytest.mark.parametrize("deaf", ["d", "bd", "bcd"])
@pytest.mark.parametrize("protocol", LEARN)
def test_who_missed_the_sum_of_magnitudes_is_brought_along(
    protocol: str, deaf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many missed it: those who opened it are right."""
    take = FederatedClient.take_scales

    def some_take(client: FederatedClient, scales: Any) -> None:
        if client.name not in deaf:
            take(client, scales)

    monkeypatch.setattr(FederatedClient, "take_scales", some_take)
    run = train(protocol, steep(), clip=AutoClip(), rounds=2)
    assert [report.contributors for report in run.history] == [set(NAMES)] * 2
    assert run.handed_over == set(deaf)
    assert distance(run.model, in_the_clear(steep(), rounds=2).model) < 0.05


@pytest.mark.parametrize("protocol", LEARN)
def test_a_client_with_other_scales_is_not_summed(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers another head; the others' sum has nothing of it, and it takes the model from them."""
    answer, told = FederatedClient._contributed, []

    def with_its_own(client: FederatedClient, *args: Any) -> bytes:
        if client.name == "d" and not told:
            told.append(client)
            client.take_scales(client.model.scales * 4)
        return answer(client, *args)

    monkeypatch.setattr(FederatedClient, "_contributed", with_its_own)
    run = train(protocol, steep(), clip=AutoClip(), rounds=3)
    assert run.history[0].contributors == set("abc")
    assert run.handed_over == {"d"}
    assert run.history[2].contributors == set(NAMES)
    assert distance(run.model, in_the_clear(steep(), absent={0: {"d"}}).model) < 60


def rounds_of(run: FederatedRun) -> Iterator[tuple[bool, float]]:
    return ((bool(report.aborted), report.clipped_share) for report in run.history)


def test_one_that_outgrows_its_scale_sits_out_with_the_remedy() -> None:
    """Its data are others from the second round on."""

    def local(model: nn.Module, data: Any, *, seed: int) -> int:
        calls[id(data)] += 1
        with torch.no_grad():
            model.bias += 1000.0 if data is theirs["b"] and calls[id(data)] > 1 else 1.0
            model.weight += 1000.0 if data is theirs["b"] and calls[id(data)] > 1 else 0.1
        return 12

    calls: Counter[int] = Counter()
    theirs = sites()
    run = train("masked", theirs, local=local, clip=AutoClip())
    assert [report.contributors for report in run.history] == [set(NAMES), set("acd"), set("acd")]
    assert "AutoClip(headroom=…)" in run.history[1].dropped["b"]
    assert list(rounds_of(run)) == [(False, 0.0)] * 3
