"""A client's own copy of the model: how it moves, what comes twice, and its bytes."""

import hashlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_integration.loop.global_model import GlobalModel, Layout
from fl_integration.loop.optimisers import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, ServerOptimiser
from fl_integration.loop.own_copy import OwnCopy
from fl_integration.loop.scaffold import Scaffold
from fl_integration.vectors.vectorise import flatten
from protocols import DecodeError, ParameterError, PeerViolation, RoundAborted, Sum
from protocols.identity import SERVER

OPTIMISERS: list[ServerOptimiser] = [
    FedAvg(),
    FedAvg(learning_rate=[1.0, 0.5, 0.25, 0.5, 1.0]),
    FedAvgM(),
    FedAdagrad(),
    FedAdam(),
    FedYogi(momentum=0.0),
    Scaffold(),
]
WIDTHS = (np.float32, np.float64)


def layout(optimiser: ServerOptimiser | None = None, *, dtype: Any = np.float32, size: int = 4) -> Layout:
    """Two entries, of which the second is a buffer in its middle."""
    _, manifest = flatten([np.zeros(size, dtype), np.zeros(3, dtype)])
    runs = (slice(0, size), slice(size + 2, size + 3))
    return Layout(manifest=manifest, parameters=runs, optimiser=optimiser or FedAvg(), members=4)


def started(optimiser: ServerOptimiser | None = None, **other: Any) -> OwnCopy:
    form = layout(optimiser, **other)
    values = np.linspace(-1, 1, form.values).astype(form.manifest.dtype)
    return OwnCopy(GlobalModel.of(form, values))


def summed(own: OwnCopy, number: int | None, *, head: bytes | None = None) -> Sum:
    """A sum that answers this copy, or another one."""
    mean = np.random.default_rng(number or 0).normal(size=own.model.layout.length)
    return Sum(mean, 7, frozenset("abc"), {}, round=number, head=own.base if head is None else head)


def sealed(number: int) -> bytes:
    return b"sealed %d" % number


def moved(own: OwnCopy, *numbers: int) -> OwnCopy:
    for number in numbers:
        assert own.apply(summed(own, number), sealed=sealed(number))
    return own


def everything(own: OwnCopy) -> list[Any]:
    """All that a copy holds, by its bits."""
    model = own.model
    arrays = [model.values, model.control, *model.state.moments]
    arrays += [] if model.scales is None else [model.scales]
    bits = [(each.dtype.str, each.tobytes()) for each in arrays]
    return [bits, model.state.steps, own.initial, own.base, own.opened, own.last, own.stranded]


# --- how it moves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=repr)
def test_equal_sums_make_equal_copies(optimiser: ServerOptimiser) -> None:
    one, other = moved(started(optimiser), 0, 1, 4), moved(started(optimiser), 0, 1, 4)
    assert everything(one) == everything(other)
    assert one.digest() == other.digest()
    assert (one.opened, one.last) == (3, 4)
    assert one.base != one.initial


@pytest.mark.parametrize("change", ["sum", "order", "scales", "initial"])
def test_the_base_tells_copies_apart(change: str) -> None:
    one, other = started(), started(size=4 if change != "initial" else 5)
    scales = np.array([2.0, 0.5])
    one.take_scales(scales)
    other.take_scales(scales if change != "scales" else scales[::-1])
    same = summed(one, 1).mean
    for own, names in ((one, (1, 2)), (other, (1, 2) if change != "order" else (2, 1))):
        for number, name in enumerate(names):
            mean = np.resize(same, own.model.layout.length)
            total = Sum(mean, 7, frozenset("abc"), {}, round=number, head=own.base)
            another = change == "sum" and own is other and number == 1
            assert own.apply(total, sealed=sealed(3 if another else name))
    assert one.base != other.base
    assert one.digest() != other.digest()


def test_the_base_is_the_chain_that_it_is_said_to_be() -> None:
    own = started()
    initial = own.base
    scales = np.array([2.0, 0.5])
    own.take_scales(scales)
    chained = hashlib.sha256(b"secagg/1/scales applied" + initial + scales.astype("<f8").tobytes()).digest()
    assert own.base == chained
    moved(own, 0)
    named = hashlib.sha256(sealed(0)).digest()
    assert own.base == hashlib.sha256(b"secagg/1/sums applied" + chained + named).digest()


def test_a_sum_that_answers_another_base_strands() -> None:
    own = moved(started(), 0, 1)
    before = everything(own)
    assert not own.apply(summed(own, 2, head=bytes(32)), sealed=sealed(2))
    assert own.stranded
    assert everything(own) == [*before[:-1], True]


def test_a_sum_without_a_round_or_a_first_one_of_another_base_strands() -> None:
    own, other = started(), started()
    assert not own.apply(summed(own, None), sealed=b"?")
    assert not other.apply(summed(other, 0, head=bytes(32)), sealed=b"?")
    assert own.stranded
    assert other.stranded


def test_only_taking_over_ends_being_stranded() -> None:
    own = started()
    first = summed(own, 0)
    assert own.apply(first, sealed=sealed(0))
    own.apply(summed(own, 1, head=bytes(32)), sealed=sealed(1))
    assert not own.apply(first, sealed=sealed(0))
    assert own.stranded
    assert own.apply(summed(own, 2), sealed=sealed(2))
    assert own.stranded


def test_the_last_round_never_falls() -> None:
    """Rounds rise; a sum that says otherwise was forged by who holds the key, and blinds nobody."""
    own = moved(started(), 5, 3)
    assert own.last == 5
    assert not own.apply(summed(own, 4, head=bytes(32)), sealed=sealed(4))
    assert not own.stranded


def test_what_is_in_the_copy_is_passed_over_however_long_ago_it_was() -> None:
    """Over thousands of rounds neither the copy nor its bytes grow."""
    own = started()
    totals, sizes = [], set()
    for number in range(0, 6000, 2):
        totals.append(summed(own, number))
        assert own.apply(totals[-1], sealed=sealed(number))
        if number % 500 == 0:
            sizes.add(len(own.to_bytes()))
    before = everything(own)
    for number in (0, 34, 1000, 5996, 5998):
        assert not own.apply(totals[number // 2], sealed=sealed(number))
    assert everything(own) == before
    assert len(sizes) == 1


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30))
def test_a_copy_that_is_apart_is_stranded_by_the_next_sum_that_moves_the_others(
    arrivals: list[tuple[int, bool]],
) -> None:
    """The others' copy, from which this one may have parted, is moved by rounds that rise.

    Each sum comes to this client at once, or when it comes at all; in any order.
    """
    own, others, late, number = started(), started(), [], 0
    for gap, arrives in arrivals:
        number += gap + 1
        total = summed(others, number)
        others.apply(total, sealed=sealed(number))
        late.append((total, number))
        if arrives:
            for each, at in reversed(late):  # the newest first: what is late is late
                own.apply(each, sealed=sealed(at))
            late.clear()
            assert own.stranded or own.base == others.base
        if own.stranded:
            own.take_over(others)
            late.clear()
        if own.base == others.base:
            assert own.digest() == others.digest()


def test_a_sum_that_was_taken_over_before_it_arrived_moves_nothing() -> None:
    giver = moved(started(FedAdam()), 0)
    late = [summed(giver, 1)]
    giver.apply(late[0], sealed=sealed(1))
    late.append(summed(giver, 2))
    giver.apply(late[1], sealed=sealed(2))
    own = moved(started(FedAdam()), 0)
    own.apply(summed(own, 3, head=bytes(32)), sealed=sealed(3))
    assert own.stranded
    own.take_over(giver)
    assert not own.stranded
    for number, total in enumerate(late, start=1):
        assert not own.apply(total, sealed=sealed(number))
    assert everything(own) == everything(giver)
    assert moved(own, 4).digest() == moved(giver, 4).digest()


@pytest.mark.parametrize(
    "other",
    [
        started(FedAdam(learning_rate=0.2)),
        started(FedAdam(), size=5),
        OwnCopy(moved(started(FedAdam()), 0).model),
    ],
    ids=["optimiser", "architecture", "initial model"],
)
def test_a_copy_of_another_training_is_not_taken_over(other: OwnCopy) -> None:
    own = started(FedAdam())
    before = everything(own)
    with pytest.raises(ParameterError, match="another training"):
        own.take_over(other)
    assert everything(own) == before


def test_a_step_that_the_optimiser_cannot_take_changes_nothing() -> None:
    own = moved(started(FedAvg(learning_rate=[1.0, 0.5])), 0)
    before = everything(own)
    with pytest.raises(ParameterError, match="beyond the schedule"):
        own.apply(summed(own, 2), sealed=sealed(2))
    with pytest.raises(ParameterError, match="a mean of 2 values"):
        own.apply(Sum(np.zeros(2), 1, frozenset("abc"), {}, round=1, head=own.base), sealed=sealed(1))
    with pytest.raises(ParameterError, match="3 scales for 2 segments"):
        own.take_scales(np.ones(3))
    assert everything(own) == before


def test_sums_that_do_not_open_move_nobody_and_the_others_are_told() -> None:
    own, seen = started(), []
    first = summed(own, 0)
    after = moved(started(), 0)
    totals: dict[bytes, Sum | Exception] = {
        b"spoilt": PeerViolation("spoilt", culprit=SERVER),
        sealed(0): first,
        b"refused": RoundAborted("beyond the clip"),
        b"no key": ParameterError("no key yet"),
        sealed(1): summed(after, 1),
    }

    def opened(result: bytes) -> Sum:
        if isinstance(found := totals[result], Exception):
            raise found
        return found

    machine = SimpleNamespace(results=tuple(totals), open=opened)
    own.catch_up(machine, on_model=lambda number, total, model: seen.append((number, total, model)))
    assert (own.opened, own.stranded) == (2, False)
    assert [(number, total) for number, total, _ in seen] == [(0, first), (1, totals[sealed(1)])]
    assert seen[1][2] is own.model


# --- its bytes --------------------------------------------------------------------------------------------


def grown(optimiser: ServerOptimiser, dtype: Any, *, scales: bool) -> OwnCopy:
    own = started(optimiser, dtype=dtype)
    if scales:
        own.take_scales(np.linspace(0.5, 3, len(own.model.layout.segments)))
    return moved(own, 0, 3)


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=repr)
def test_it_comes_back_to_the_bit_and_goes_on_alike(
    optimiser: ServerOptimiser, dtype: Any, scales: bool
) -> None:
    own = grown(optimiser, dtype, scales=scales)
    data = own.to_bytes()
    again = OwnCopy.from_bytes(memoryview(bytearray(data)), layout=own.model.layout)
    assert everything(again) == everything(own)
    assert again.to_bytes() == data
    assert again.digest() == own.digest()
    assert everything(moved(again, 4)) == everything(moved(own, 4))


@given(st.binary(min_size=28, max_size=28), st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_every_value_comes_back_even_those_that_are_none(bits: bytes, scale: float) -> None:
    """NaNs with their payload, both zeros, subnormals."""
    form = layout()
    own = OwnCopy(GlobalModel.of(form, np.frombuffer(bits, "<f4").astype(np.float32)))
    own.take_scales(np.array([scale, 1.0]))
    assert everything(OwnCopy.from_bytes(own.to_bytes(), layout=form)) == everything(own)


def test_the_arrays_are_its_own() -> None:
    own = grown(FedAdam(), np.float32, scales=True)
    data = bytearray(own.to_bytes())
    again = OwnCopy.from_bytes(data, layout=own.model.layout)
    data[:] = bytes(len(data))
    assert everything(again) == everything(own)


def test_being_stranded_is_stored_and_is_nobody_elses() -> None:
    own, peer = moved(started(), 0), moved(started(), 0)
    own.apply(summed(own, 1, head=bytes(32)), sealed=sealed(1))
    assert OwnCopy.from_bytes(own.to_bytes(), layout=own.model.layout).stranded
    assert own.to_bytes() != peer.to_bytes()
    assert own.digest() == peer.digest()


def test_a_stranded_copy_is_given_to_nobody() -> None:
    own = moved(started(), 0)
    assert own.for_peer() == own.to_bytes()
    own.apply(summed(own, 1, head=bytes(32)), sealed=sealed(1))
    with pytest.raises(ParameterError, match="the others went on without this copy"):
        own.for_peer()


@pytest.mark.parametrize("stranded", [False, True])
def test_the_next_session_goes_on_from_it_and_names_no_digest_of_its_values(stranded: bool) -> None:
    own = moved(started(FedAdam()), 7)
    own.stranded = stranded
    later = own.carried_on()
    assert later.model.equals(own.model)
    assert (later.base, later.initial, later.stranded) == (own.base, own.initial, stranded)
    assert later.base not in (later.model.digest(), later.digest())
    assert (later.opened, later.last) == (0, None)
    assert everything(OwnCopy.from_bytes(later.to_bytes(), layout=own.model.layout)) == everything(later)


@pytest.mark.parametrize("stranded", [False, True])
def test_in_the_next_session_a_sum_of_a_low_number_moves_it_or_leaves_it_behind(stranded: bool) -> None:
    own = moved(started(), 7).carried_on()
    head = bytes(32) if stranded else own.base
    assert own.apply(summed(own, 0, head=head), sealed=sealed(0)) is not stranded
    assert own.stranded is stranded


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("dtype", WIDTHS)
def test_values_are_read_whatever_moves_them(optimiser: ServerOptimiser, dtype: Any) -> None:
    own = moved(started(optimiser, dtype=dtype), 0)
    data, manifest = own.to_bytes(), own.model.layout.manifest
    if optimiser.controls:  # which stand behind the values
        with pytest.raises(DecodeError):
            OwnCopy.values_in(data, manifest=manifest)
        return
    found = OwnCopy.values_in(data, manifest=manifest)
    assert found.dtype == dtype
    assert found.tobytes() == own.model.values.tobytes()
    found[:] = 0  # they are the caller's
    for bad in (b"", data[:20], data[1:], data[:-1], data + b"\0"):
        with pytest.raises(DecodeError):
            OwnCopy.values_in(bad, manifest=manifest)
    other = flatten([np.zeros(7, dtype)])[1]
    with pytest.raises(DecodeError, match="another architecture"):
        OwnCopy.values_in(data, manifest=other)


def test_the_bytes_are_pinned() -> None:
    """A change to them makes every copy on a disk unreadable, and needs another version."""
    form = layout(FedAvgM())
    model = GlobalModel.of(form, np.arange(7, dtype=np.float32))
    own = OwnCopy(model)
    own.take_scales(np.array([2.0, 0.5]))
    own.apply(
        Sum(np.arange(7.0) / 8, 7, frozenset("abc"), {}, round=2, head=own.base), sealed=b"a sealed sum"
    )
    pinned = "e2d7a244afc2b9f71a382b211c69b58fc2c6f37452014433f4adcf9929a4354f"
    assert hashlib.sha256(own.to_bytes()).hexdigest() == pinned


def test_no_other_bytes_are_a_copy() -> None:
    """Cut, longer, or one byte changed: refused, or another copy whose bytes these are."""
    own = grown(FedAdam(), np.float32, scales=True)
    form, data = own.model.layout, own.to_bytes()
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            OwnCopy.from_bytes(data[:size], layout=form)
    with pytest.raises(DecodeError, match="left over"):
        OwnCopy.from_bytes(data + b"\0", layout=form)
    refused = 0
    for place in range(len(data)):
        for bit in (1, 0x80):
            changed = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            try:
                found = OwnCopy.from_bytes(changed, layout=form)
            except DecodeError:
                refused += 1
            else:
                assert found.to_bytes() == changed
                assert found.digest() != own.digest() or found.stranded != own.stranded
    assert refused > 2 * 4


@given(st.binary(max_size=300))
def test_nothing_but_a_decode_error_leaves(data: bytes) -> None:
    form = layout(FedAdam())
    head = started(FedAdam()).to_bytes()[:37]
    for each in (data, head + data):
        with pytest.raises(DecodeError):
            OwnCopy.from_bytes(each, layout=form)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda d: b"SAGX" + d[4:], "no copy of a global model"),
        (lambda d: d[:4] + b"\2" + d[5:], "a copy of format 2; this version reads 1"),
        (lambda d: d[:5] + bytes(32) + d[37:], "another architecture, or for another optimiser"),
        (lambda d: d[:109] + b"\x80" + bytes(6) + b"\1" + d[117:], "a round's number is too large"),
        (lambda d: d[:117] + b"\2" + d[118:], "a flag is neither 0 nor 1"),
        (lambda d: d[:126] + b"\xff" + d[127:], "the model is of another architecture"),
        (lambda d: d[:161] + b"\7" + d[162:], "7 scales for 2 segments"),
        (lambda d: d[:162] + np.array([np.inf]).tobytes() + d[170:], "a scale is not finite and above zero"),
        (lambda d: d[:162] + bytes(8) + d[170:], "a scale is not finite and above zero"),
    ],
)
def test_what_is_wrong_is_said(spoil: Any, match: str) -> None:
    own = grown(FedAvg(), np.float32, scales=True)
    with pytest.raises(DecodeError, match=match):
        OwnCopy.from_bytes(spoil(own.to_bytes()), layout=own.model.layout)


def other_forms() -> Iterator[Any]:
    form = layout()
    yield pytest.param(layout(FedAvg(learning_rate=0.5)), id="rate")
    yield pytest.param(layout(Scaffold()), id="optimiser")
    yield pytest.param(layout(FedAvgM()), id="moments")
    yield pytest.param(layout(size=3), id="shape")
    yield pytest.param(layout(dtype=np.float64), id="width")
    fields = {"manifest": form.manifest, "parameters": form.parameters, "optimiser": form.optimiser}
    yield pytest.param(Layout(**fields, members=5), id="members")
    yield pytest.param(Layout(**{**fields, "parameters": (slice(0, 5),)}, members=4), id="parameters")


@pytest.mark.parametrize("form", other_forms())
def test_a_copy_of_another_form_is_refused(form: Layout) -> None:
    with pytest.raises(DecodeError, match="another architecture, or for another optimiser"):
        OwnCopy.from_bytes(moved(started(), 0).to_bytes(), layout=form)


@pytest.mark.parametrize("data", ["text", None, 7, np.zeros((2, 2))[:, :1]])
def test_what_is_no_buffer_is_refused(data: Any) -> None:
    with pytest.raises(DecodeError, match="not a contiguous buffer"):
        OwnCopy.from_bytes(data, layout=layout())
