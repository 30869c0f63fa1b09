"""B2: an input that lies, hidden by the mask.

**Partial.** What is masked cannot be looked at. An honest client's code clips, so that a wrong update, as it
comes from a broken training run, moves the mean by no more than 2·clip·w / Σw: without the clip (the weakened
copy) one client decides the model. A corrupt client may send any vector inside the clip, and that passes.

Worse, it may break the clip: its vector is any element of the ring, and the server sees only the sum. Three
lies are seen: a sum beyond what its total weight may add up to within the clip (D2), a weight that leaves the
range of sums, and check words that are not zero, as from masks that do not follow from the dealt secrets. All
three abort the round and name nobody, because the sum does not say whose lie it was. The weakened server has
no check words and returns garbage. What stays in the range of honest sums passes, and the tests show what it
does on ours, as what it is.

Not covered: proofs that an input is well-formed, norm bounds, robust aggregation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from protocols import Adversary, MaskedSum, ParameterError, Requirements, RoundAborted
from protocols.masked import collecting, server
from protocols.masked.client import MaskedClientSteps
from protocols.masked.keys import pair_mask_seed
from secagg.secret import Secret
from tests.attacks.weakened import LENGTH, Breaks, Stage, Vector, updates_of

NAMES = "abcdm"
HONEST = "abcd"
PROTOCOL = MaskedSum(max_clients=8)


def mean_of(data: dict[str, Vector], names: str) -> Vector:
    mean: Vector = np.mean([data[name] for name in names], axis=0)
    return mean


# The clip


def exploding(size: float) -> dict[str, Vector]:
    """Four honest updates and one that exploded in training."""
    return {**updates_of(NAMES), "m": np.full(LENGTH, size)}


def test_without_a_clip_one_update_is_the_mean() -> None:
    """A clip that nothing reaches is none."""
    data = exploding(1e6)
    total = Stage(MaskedSum(max_clients=8, clip=1e7, bits=32), NAMES).play(data).total
    assert total is not None
    assert np.abs(total.mean).min() > 1e5


@pytest.mark.parametrize("size", [1.0, 10.0, 1e6, -1e300])
def test_the_clip_bounds_what_one_update_can_do(size: float) -> None:
    data = exploding(size)
    stage = Stage(PROTOCOL, NAMES)
    total = stage.play(data).total
    assert total is not None
    moved = np.abs(total.mean - mean_of(data, HONEST) * 4 / 5)
    assert moved.max() <= 1 / 5 + PROTOCOL.error_bound(5)
    assert stage.clients["m"].clipped == (LENGTH if abs(size) > 1 else 0)  # it is told, and nobody else


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_before_it_is_masked(bad: float) -> None:
    stage, data = Stage(PROTOCOL, NAMES), updates_of(NAMES)
    box = stage.open(data, until=2)
    stage.clients["m"].receive(box["m"])
    with pytest.raises(ParameterError):
        stage.clients["m"].contribute(np.where(np.arange(LENGTH) == 3, bad, data["m"]))
    assert stage.clients["m"].contribute(data["m"])  # nothing was spent on it


def test_a_poisoned_vector_inside_the_clip_passes() -> None:
    """Not covered: the opposite of what all others say, as large as the clip allows."""
    data = updates_of(NAMES)
    data["m"] = -np.sign(mean_of(data, HONEST))
    total = Stage(PROTOCOL, NAMES).play(data).total
    assert total is not None
    assert np.abs(total.mean - mean_of(data, NAMES)).max() < 1e-4
    assert (np.sign(total.mean) != np.sign(mean_of(data, HONEST))).any()


# A client that breaks the clip


def broken(change: Callable[[Vector], None], protocol: MaskedSum = PROTOCOL) -> Stage:
    """A stage on which m puts into the ring what it likes, check words included."""
    return Stage(protocol, NAMES, steps={"m": Breaks(protocol.suite.client, change)})


def large(block: Vector) -> None:
    """Three clips in each place, with an honest weight and honest check words."""
    block[:LENGTH] = 3 << (PROTOCOL.bits - 1)


def weighty(block: Vector) -> None:
    block[LENGTH] = 1000


def weightless(block: Vector) -> None:
    block[LENGTH] = 0


def checked(block: Vector) -> None:
    block[LENGTH + 1] = 1


def test_a_broken_clip_passes_where_the_sum_stays_within_five_clips() -> None:
    """Not covered. Nobody can tell; an honest client with this update would have been clipped to a fifth."""
    data = {name: update / 4 for name, update in updates_of(NAMES).items()}
    outcome = broken(large).play(data)
    assert outcome.total is not None
    assert not outcome.dropped
    assert np.abs(outcome.total.mean - mean_of(data, HONEST) * 4 / 5 - 3 / 5).max() < 1e-3


def test_a_sum_beyond_five_clips_aborts_the_round() -> None:
    """The same lie, where honest updates fill their clip."""
    stage = broken(large)
    with pytest.raises(RoundAborted, match="broke the clip") as caught:
        stage.play(updates_of(NAMES))
    assert not caught.value.culprits
    assert caught.value.opened == frozenset(NAMES)
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)


@pytest.mark.parametrize("change", [weighty, weightless])
def test_a_weight_that_no_sum_can_have_aborts_the_round(change: Callable[[Vector], None]) -> None:
    stage = broken(change)
    with pytest.raises(RoundAborted, match="total weight") as caught:
        stage.play(updates_of(NAMES))
    assert not caught.value.culprits  # the sum does not say whose it was
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)


# Check words


@pytest.mark.parametrize("adversary", list(Adversary))
def test_broken_check_words_abort_the_round_and_the_next_one_works(adversary: Adversary) -> None:
    protocol = MaskedSum(max_clients=8, requirements=Requirements(adversary=adversary))
    stage = broken(checked, protocol)
    with pytest.raises(RoundAborted, match="do not cancel") as caught:
        stage.play(updates_of(NAMES))
    assert not caught.value.culprits
    # If no more than the check words were wrong, the server has the sum: it must be taken for opened.
    assert caught.value.opened == frozenset(NAMES)
    assert stage.server.record().record.contributors == frozenset(NAMES)
    assert stage.play(updates_of(HONEST)).contributors == frozenset(HONEST)


EXACT = MaskedSum(max_clients=5).exact(max_summand=13107)
"""Five summands of up to 13107 add up to 2^16 - 1: every element of the ring could be a sum."""


class OtherMasks(MaskedClientSteps):
    """A client that makes its pair masks from other secrets than the ones that it agreed on and dealt."""

    def react(self, context: Any, state: Any, request: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                collecting, "pair_mask_seed", lambda _, **bound: pair_mask_seed(Secret(bytes(32)), **bound)
            )
            return super().react(context, state, request)


def integers() -> dict[str, Vector]:
    generator = np.random.default_rng(2)
    return {name: generator.integers(0, 13108, LENGTH, dtype=np.uint64) for name in NAMES}


def test_without_check_words_masks_that_do_not_cancel_are_a_wrong_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (collecting, server):
        monkeypatch.setattr(module, "check_words", lambda bits: 0)
    data = integers()
    total: Any = Stage(EXACT, NAMES, steps={"m": OtherMasks()}).play(data).total
    truth = np.sum(list(data.values()), axis=0)
    assert (total.total != truth).mean() > 0.9  # uniform garbage, and nothing says so


@pytest.mark.parametrize("first", NAMES)
def test_our_server_sees_it_and_opens_nothing(first: str) -> None:
    """Wherever the liar stands. It is not named; a server that suspects somebody asks without it."""
    names = first + NAMES.replace(first, "")
    stage, data = Stage(EXACT, names, steps={"m": OtherMasks()}), integers()
    with pytest.raises(RoundAborted, match="do not cancel") as caught:
        stage.play({name: data[name] for name in names})
    assert not caught.value.culprits
    total: Any = stage.play({name: data[name] for name in names if name != "m"}).total
    assert (total.total == np.sum([data[name] for name in HONEST], axis=0)).all()
