"""`protocols/masked/SPEC.md` is true: its diagrams are the table's, and the table is what machines do.

The machines here are the real ones. What they pass through is recorded at the steps of MaskedSum: which state
met which message, and which state came out of it.
"""

import re
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from protocols import Adversary, MaskedSum, Requirements
from protocols.machine.suite import ClientContext, Finished, ServerContext
from protocols.masked import server_states, states, table
from protocols.masked.client import MaskedClientSteps
from protocols.masked.messages import (
    AdvertiseKeys,
    Announcement,
    CohortKeys,
    CollectInput,
    ConsistencyCheck,
    MaskedInput,
    Quorum,
    ShareKeys,
    Survivors,
    Unmask,
)
from protocols.masked.server import MaskedServerSteps
from protocols.masked.table import Edge, When
from secagg import labels
from secagg.errors import ParameterError, PeerViolation
from tests.protocols.conftest import World, updates_of

ROOM = Path(table.__file__).parent
ROOT = ROOM.parents[1]
SPEC = (ROOM / "SPEC.md").read_text(encoding="utf-8")
BEGIN = "<!-- from here on printed by `python -m protocols.masked.table` -->\n"
END = "<!-- up to here -->\n"
DOWN = (Announcement, CohortKeys, CollectInput, Survivors, Quorum)
UP = (AdvertiseKeys, ShareKeys, MaskedInput, ConsistencyCheck, Unmask)
ADVERSARIES = (Adversary.SEMI_HONEST, Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS)


class Witness:
    """The steps that real machines took, and one state (with its context) and message of each kind there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.client: set[tuple[str, str, str]] = set()
        self.server: set[tuple[str, str, str]] = set()
        self.client_states: dict[type, tuple[ClientContext, Any]] = {}
        self.server_states: dict[type, tuple[ServerContext, Any]] = {}
        self.messages: dict[type, Any] = {}
        react, fold = MaskedClientSteps.react, MaskedClientSteps.fold
        begin, absorb, close = MaskedServerSteps.begin, MaskedServerSteps.absorb, MaskedServerSteps.close

        def reacting(steps: MaskedClientSteps, context: ClientContext, state: Any, request: Any) -> Any:
            self.client_states.setdefault(type(state), (context, state))
            self.messages.setdefault(type(request), request)
            step = react(steps, context, state, request)
            self.client.add((name_of(state), name_of(request), name_of(step.state)))
            return step

        def folding(steps: MaskedClientSteps, context: ClientContext, state: Any, summand: Any) -> Any:
            self.client_states.setdefault(type(state), (context, state))
            step = fold(steps, context, state, summand)
            self.client.add((name_of(state), "contribute", name_of(step.state)))
            return step

        def beginning(steps: MaskedServerSteps, context: ServerContext, state: Any, cohort: Any) -> Any:
            self.server_states.setdefault(type(state), (context, state))
            step = begin(steps, context, state, cohort)
            path = "long path" if step.exchange == 0 else "steady"
            self.server.add((name_of(state), f"start, {path}", name_of(step.state)))
            return step

        def absorbing(
            steps: MaskedServerSteps, context: ServerContext, state: Any, sender: str, reply: Any
        ) -> Any:
            self.server_states.setdefault(type(state), (context, state))
            self.messages.setdefault(type(reply), reply)
            after = absorb(steps, context, state, sender, reply)
            self.server.add((name_of(state), name_of(reply), name_of(after)))
            return after

        def closing(steps: MaskedServerSteps, context: ServerContext, state: Any, present: Any) -> Any:
            step = close(steps, context, state, present)
            assert isinstance(step, Finished) == isinstance(step.state, server_states.Idle)
            self.server.add((name_of(state), "close", name_of(step.state)))
            return step

        patch.setattr(MaskedClientSteps, "react", reacting)
        patch.setattr(MaskedClientSteps, "fold", folding)
        patch.setattr(MaskedServerSteps, "begin", beginning)
        patch.setattr(MaskedServerSteps, "absorb", absorbing)
        patch.setattr(MaskedServerSteps, "close", closing)


def name_of(value: object) -> str:
    return type(value).__name__


@cache
def witnessed(adversary: Adversary) -> Witness:
    """A long path, a steady round, and a newcomer, with whom those who had prepared start anew."""
    with pytest.MonkeyPatch.context() as patch:
        witness = Witness(patch)
        world = World(MaskedSum(max_clients=5, requirements=Requirements(adversary=adversary)), "abcde")
        for cohort in ("abcd", "abcd", "abcde"):
            assert world.play(updates_of(cohort)).dropped == {}
        return witness


def expected(edges: list[Edge], adversary: Adversary) -> set[tuple[str, str, str]]:
    """The edges that exist under an adversary and are ever walked."""
    other = When.OTHERWISE if adversary is Adversary.MALICIOUS else When.MALICIOUS
    there = {(each.source, each.by, each.target) for each in edges if each.when is not other}
    reached = {"Idle"}
    while new := {target for source, _, target in there if source in reached} - reached:
        reached |= new
    return {edge for edge in there if edge[0] in reached}


@pytest.fixture(params=ADVERSARIES, ids=lambda adversary: adversary.value)
def adversary(request: pytest.FixtureRequest) -> Adversary:
    chosen: Adversary = request.param
    return chosen


# The diagrams


def test_the_diagrams_in_the_specification_are_the_printed_ones() -> None:
    _, begin, rest = SPEC.partition(BEGIN)
    block, end, _ = rest.partition(END)
    assert (begin, end) == (BEGIN, END)
    assert block.strip() == table.diagrams().strip()


def test_the_module_prints_them() -> None:
    command = [sys.executable, "-m", "protocols.masked.table"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True)
    assert printed.stdout == table.diagrams()


def test_machines_take_every_edge_and_no_other(adversary: Adversary) -> None:
    client_edges, server_edges = table.client_edges(), table.server_edges()
    witness = witnessed(adversary)
    assert witness.client == expected(client_edges, adversary)
    assert witness.server == expected(server_edges, adversary)


def test_every_edge_is_taken_under_some_adversary() -> None:
    assert {(each.source, each.by, each.target) for each in table.client_edges()} == set().union(
        *(expected(table.client_edges(), adversary) for adversary in ADVERSARIES)
    )
    assert {(each.source, each.by, each.target) for each in table.server_edges()} == set().union(
        *(expected(table.server_edges(), adversary) for adversary in ADVERSARIES)
    )


def test_what_is_not_in_the_clients_table_is_refused(adversary: Adversary) -> None:
    # Real states of every class that a round under this adversary knows meet real requests of every class.
    legal = {(source, by) for source, by, _ in expected(table.client_edges(), adversary)}
    met, requests = witnessed(adversary).client_states, witnessed(Adversary.MALICIOUS).messages
    assert set(MaskedClientSteps.states) - set(met) == (
        set() if adversary is Adversary.MALICIOUS else {states.Confirmed}
    )
    refused = 0
    for context, state in met.values():
        for kind in DOWN:
            if (name_of(state), kind.__name__) not in legal:
                expected_text = f"^server: {kind.__name__} came where this client is {name_of(state)}"
                with pytest.raises(PeerViolation, match=expected_text):
                    MaskedClientSteps().react(context, state, requests[kind])
                refused += 1
    assert refused == (7 * 5 - 7 if adversary is Adversary.MALICIOUS else 6 * 5 - 6)


def test_what_is_not_in_the_servers_table_is_refused(adversary: Adversary) -> None:
    legal = {(source, by) for source, by, _ in expected(table.server_edges(), adversary)}
    met, replies = witnessed(adversary).server_states, witnessed(Adversary.MALICIOUS).messages
    assert set(MaskedServerSteps.states) - set(met) == (
        set() if adversary is Adversary.MALICIOUS else {server_states.Confirming}
    )
    refused = 0
    for context, state in met.values():
        for kind in UP:
            if (name_of(state), kind.__name__) not in legal:
                with pytest.raises(PeerViolation, match=f"^a: {kind.__name__} came while {name_of(state)}"):
                    MaskedServerSteps().absorb(context, state, "a", replies[kind])
                refused += 1
    assert refused == (6 * 5 - 5 if adversary is Adversary.MALICIOUS else 5 * 5 - 4)
    with pytest.raises(ParameterError, match="no exchange is open"):
        MaskedServerSteps().close(*met[server_states.Idle], frozenset())


def test_each_state_of_the_machines_is_in_a_diagram() -> None:
    for edges, known in (
        (table.client_edges(), MaskedClientSteps.states),
        (table.server_edges(), MaskedServerSteps.states),
    ):
        assert {name for each in edges for name in (each.source, each.target)} == {
            each.__name__ for each in known
        }


# The reader of tables


def no_match(state: Any, request: Any) -> None:
    return None


def strange_guard(state: Any, request: Any) -> None:
    match state, request:
        case states.Idle(), Announcement() if request.length > 1:
            return


def with_a_wildcard(state: Any, request: Any) -> None:
    match state, request:
        case _, Announcement():
            return


def with_a_dotted_name(state: Any) -> None:
    match state:
        case states.Idle():
            return


@pytest.mark.parametrize("foreign", [no_match, strange_guard, with_a_wildcard, with_a_dotted_name])
def test_a_table_of_another_form_is_an_error_and_not_a_smaller_diagram(foreign: Any) -> None:
    with pytest.raises(ParameterError):
        table.rows(foreign)


# The text


@pytest.mark.parametrize("message", [*DOWN, *UP], ids=lambda each: each.__name__)
def test_every_field_of_every_message_is_specified(message: type) -> None:
    # In the table of messages each begins with its name in bold, and a row for each field follows.
    section = re.search(rf"^\| \*\*{message.__name__}\*\*.*?(?=^\| \*\*|^$)", SPEC, re.MULTILINE | re.DOTALL)
    assert section is not None
    named = re.findall(r"^\| `(\w+)`", section[0], re.MULTILINE)
    assert named == [each.name for each in fields(message)]


def test_every_label_that_masks_depend_on_is_specified() -> None:
    used = set()
    for path in (
        *Path(table.__file__).parent.glob("*.py"),
        ROOT / "protocols/machine/channels.py",
        ROOT / "secagg/standard/merkle.py",
    ):
        used |= set(re.findall(r"\blabels\.([A-Z_]+)", path.read_text(encoding="utf-8")))
    assert len(used) > 10
    for name in used:
        text = getattr(labels, name).decode().removeprefix("secagg/1/")
        assert f"`{text}`" in SPEC, name


def test_every_message_of_the_protocol_is_in_the_table() -> None:
    suite = MaskedSum(max_clients=3, requirements=Requirements(adversary=Adversary.MALICIOUS)).suite
    assert (suite.requests, suite.replies) == (DOWN, UP)


def test_the_specification_is_short() -> None:
    assert len(SPEC.splitlines()) <= 310
