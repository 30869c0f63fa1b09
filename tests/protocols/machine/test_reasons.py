"""What the text of an abort says: who was asked, who was lost and why; and which parameters differ."""

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import (
    CkksSum,
    LatticeSum,
    MaskedSum,
    PaillierSum,
    PlainSum,
    Policy,
    Requirements,
    RoundAborted,
)
from protocols.machine.reasons import OWN, compared, described, listed, summarised
from tests.protocols.conftest import STATE_KEY as KEY
from tests.protocols.conftest import Family, World, updates_of

pytestmark = pytest.mark.usefixtures("one_paillier_key")

COHORT = ("wien", "graz", "linz", "bern", "basel")


def test_the_most_frequent_reasons_come_first() -> None:
    dropped = {
        "wien": "did not answer in ShareKeys",
        "graz": "refused: ShareKeys: too few",
        "linz": "refused: ShareKeys: too few",
    }
    assert summarised(
        "2 clients dealt shares, at least 3 are needed",
        exchange="ShareKeys",
        answered=2,
        cohort=COHORT,
        dropped=dropped,
    ) == (
        "2 clients dealt shares, at least 3 are needed; 5 were asked, 2 answered ShareKeys, 3 are lost: "
        "'graz', 'linz' (refused: 'ShareKeys: too few'), 'wien' (did not answer in ShareKeys)"
    )


def test_reasons_as_frequent_come_in_the_cohorts_order_whatever_came_first() -> None:
    dropped = {name: f"reason of {name}" for name in reversed(COHORT)}
    said = summarised("core", exchange="Contribute", answered=0, cohort=COHORT, dropped=dropped)
    assert said.endswith(
        "'wien' (reason of wien), 'graz' (reason of graz), 'linz' (reason of linz), "
        "and 2 more for other reasons"
    )


def test_what_nobody_was_lost_for_is_as_it_was() -> None:
    assert summarised("core", exchange="Unmask", answered=5, cohort=COHORT, dropped={}) == "core"


def test_the_reason_of_the_abort_is_not_told_twice() -> None:
    said = summarised(
        "'graz' lied", exchange="Unmask", answered=4, cohort=COHORT, dropped={"graz": "'graz' lied"}
    )
    assert said.count("lied") == 1


def test_of_many_names_a_few_are_shown() -> None:
    assert listed([str(each) for each in range(9)], dict.fromkeys(map(str, range(9)), "gone")) == (
        "'0', '1', '2', '3' and 5 more (gone)"
    )


@settings(max_examples=50)
@given(st.text(max_size=9), st.text(max_size=9), st.integers(1, 300), st.integers(0, 12))
def test_a_peers_words_break_no_line_and_fill_no_disk(core: str, words: str, times: int, count: int) -> None:
    names = [f"{place}{words * 9}" for place in range(count)]
    core, words = core * times, words * times
    dropped = {name: f"refused: {words}{place % 5}" for place, name in enumerate(names)}
    said = summarised(core, exchange="Unmask", answered=0, cohort=tuple(names), dropped=dropped)
    assert said.isprintable()
    assert len(said) < 5000


def test_a_peers_words_are_quoted() -> None:
    words = "refused: x), 'linz' (broke the protocol"
    assert listed(["wien"], {"wien": words}) == f"'wien' (refused: {words.removeprefix('refused: ')!r})"


# Parameters that differ

OURS = MaskedSum(max_clients=6, clip=0.5, metrics={"loss": (0.0, 1.0)}).suite


def words_of(protocol: Any) -> str:
    return f"AdvertiseKeys: other parameters{OWN}{described(protocol.suite)}"


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (MaskedSum(max_clients=6, metrics={"loss": (0.0, 1.0)}), "clip is 0.5 here, there '1.0'"),
        (
            MaskedSum(
                max_clients=6, clip=0.5, metrics={"loss": (0.0, 1.0)},
                requirements=Requirements(corrupt_fraction=0.1),
            ),
            "corrupt_fraction is 0.2 here, there '0.1'",
        ),
        (
            MaskedSum(max_clients=6, clip=0.5, max_weight=2, metrics={"loss": (0.0, 1.0)}),
            "max_total_weight is 6 here, there '12', max_weight is 1 here, there '2'",
        ),
        (MaskedSum(max_clients=6, clip=0.5), "metrics is [('loss', (0.0, 1.0))] here, there '[]'"),
        (PlainSum(), "it runs 'PlainSum', this server MaskedSum"),
    ],
)  # fmt: skip
def test_only_what_differs_is_named(theirs: Any, said: str) -> None:
    assert compared(OURS, words_of(theirs)) == f"AdvertiseKeys: other parameters; {said}"


def test_long_values_differ_by_their_digest() -> None:
    ours, theirs = (
        MaskedSum(metrics={f"metric {each}": (0.0, high) for each in range(9)}).suite for high in (1.0, 2.0)
    )
    said = compared(ours, f"no{OWN}{described(theirs)}")
    assert said.startswith("no; metrics is [('metric 0', (0.0, …#")
    assert len(said) < 120


def test_a_key_layers_parameters_are_compared_too() -> None:
    ours, theirs = (
        LatticeSum(max_clients=6, keys=partial(PaillierSum, key_bits=bits)).suite for bits in (2048, 3072)
    )
    assert compared(ours, f"no{OWN}{described(theirs)}") == "no; keys.key_bits is 2048 here, there '3072'"
    exact = MaskedSum(max_clients=6)
    said = compared(exact.exact(max_summand=5).suite, f"no{OWN}{described(exact.exact(max_summand=9).suite)}")
    assert said == "no; max_summand is 5 here, there '9'"


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=40))
def test_whatever_a_peer_says_its_parameters_are_stays_a_few_printable_words(words: str) -> None:
    words *= 20
    for said in (f"no{OWN}{words}", f"no{OWN}MaskedSum({words})", f"no{OWN}MaskedSum(adversary={words})"):
        found = compared(OURS, said)
        assert found.isprintable()
        assert found.startswith("no; ")
        assert len(found) < 2048


@pytest.mark.parametrize("kind", [PlainSum, MaskedSum, LatticeSum, CkksSum])
def test_parties_with_different_parameters_are_told_which(kind: Any) -> None:
    world = World(kind(max_clients=6), "abc")
    other = kind(max_clients=6, bits=12)
    for name in world.names:
        world.clients[name] = other.client(
            identity=world.identities[name], roster=world.roster, session=world.session
        )
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of("abc"))
    text = str(aborted.value)
    assert "3 were asked, 0 answered" in text
    assert "3 are lost: 'a', 'b', 'c' (refused: " in text
    assert "bits is 16 here, there '12'" in text
    record = world.server.record().record
    assert text == aborted.value.reason == record.aborted
    assert all("bits is 16 here, there '12'" in reason for reason in record.dropped.values())
    assert "its own: " in str(world.clients["a"].refusal)
    assert "bits=12" in str(world.clients["a"].refusal)


def test_parties_of_different_protocols_are_told_so() -> None:
    world = World(MaskedSum(max_clients=6), "abc")
    for name in world.names:
        world.clients[name] = PlainSum(max_clients=6).client(
            identity=world.identities[name], roster=world.roster, session=world.session
        )
    with pytest.raises(
        RoundAborted, match="another protocol, number 1 on the wire; this server runs MaskedSum"
    ):
        world.play(updates_of("abc"))
    assert "number 2 on the wire; this client runs PlainSum, number 1" in str(world.clients["a"].refusal)


def test_the_longest_parameters_fit_a_refusal() -> None:
    """With the longest numbers, a refusal still holds all of them: what is cut could not be compared."""
    protocol = LatticeSum(
        max_clients=999, max_weight=1 << 20, clip=0.12345678901234567, metrics={"m" * 90: (0.0, 1.0)},
        keys=partial(PaillierSum, key_bits=8192),
        requirements=Requirements(corrupt_fraction=0.12345678901234567),
    )  # fmt: skip
    assert len(words_of(protocol)) < 900


def test_every_protocol_tells_who_was_lost(family: Family) -> None:
    world = World(family(), "abcd", policies={"b": Policy(min_contributors=5)})
    with pytest.raises(RoundAborted) as aborted:
        world.play(updates_of("abcd", 5), gone={"a": 0, "c": 0})
    text = aborted.value.reason
    assert "4 were asked, " in text
    assert "3 are lost: 'a', 'c' (did not answer in " in text
    assert "'b' (refused: '" in text
    assert "a cohort of 4; this client takes part among 5 to 6" in text
    assert "at least" in text
    restored = world.protocol.restore_server(world.server.export(key=KEY), key=KEY)
    with pytest.raises(RoundAborted) as again:
        restored.advance()
    assert again.value.reason == text == restored.record().record.aborted
