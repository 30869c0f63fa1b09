"""The state diagrams of MaskedSum, drawn from the table itself: `python -m protocols.masked.table`.

Which message is legal in which state stands in one `match` each: in `MaskedClientSteps.react` and in
`MaskedServerSteps.absorb`; which exchanges can be closed, in `MaskedServerSteps.close`. This module reads the
cases of those three from their source and prints them as Mermaid diagrams, which `SPEC.md` holds. A case that
is added there without a place here is an error, and a `SPEC.md` with other diagrams fails a test.

A `match` does not say where a case leads: each step makes its next state itself. `LEADS_TO`, `BEGINS` and
`FOLLOWS` say it here, and the tests compare them with the states that real machines pass through.

>>> [(row.states, row.message) for row in rows(MaskedClientSteps.react)][:2]
[(('Idle', 'Ready'), 'Announcement'), (('Advertised',), 'CohortKeys')]
>>> sorted(edge.target for edge in client_edges() if edge.source == "Masked")
['Confirmed', 'Ready']
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from protocols.masked import server_states, states
from protocols.masked.client import MaskedClientSteps
from protocols.masked.server import MaskedServerSteps
from secagg.errors import ParameterError

__all__ = ["Edge", "Row", "When", "client_edges", "diagrams", "rows", "server_edges"]


class When(Enum):
    """Under which adversary of the requirements an edge exists; the value is what its label says of it."""

    ALWAYS = ""
    MALICIOUS = " if MALICIOUS"
    OTHERWISE = " unless MALICIOUS"


@dataclass(frozen=True, slots=True)
class Row:
    """One case of a table: in these states this message is taken; it is empty where a case asks for none."""

    states: tuple[str, ...]
    message: str
    when: When


@dataclass(frozen=True, slots=True)
class Edge:
    """One step: from a state, by what, to which state."""

    source: str
    by: str
    target: str
    when: When = When.ALWAYS


LEADS_TO: Final = {
    "Announcement": states.Advertised,
    "CohortKeys": states.Dealt,
    "CollectInput": states.Collecting,
    "Survivors": states.Confirmed,
    "Quorum": states.Ready,
}
"""The client's state behind each request that it took."""
CONTRIBUTED: Final = states.Masked
"""The client's state once the update that `CollectInput` asked for is masked."""
BEGINS: Final = {"start, long path": server_states.Advertising, "start, steady": server_states.Summing}
"""The server's state after a round was started."""
FOLLOWS: Final[Mapping[str, Mapping[type, When]]] = {
    "Advertising": {server_states.Sharing: When.ALWAYS},
    "Sharing": {server_states.Summing: When.ALWAYS},
    "Summing": {server_states.Confirming: When.MALICIOUS, server_states.Unmasking: When.OTHERWISE},
    "Confirming": {server_states.Unmasking: When.ALWAYS},
    "Unmasking": {server_states.Idle: When.ALWAYS},
}
"""The server's state after an exchange was closed."""

GUARDS: Final = {"malicious": When.MALICIOUS, "not malicious": When.OTHERWISE}


def rows(table: Callable[..., Any]) -> list[Row]:
    """The cases of the one `match` in this function, in order.

    Raises:
        ParameterError: it has none, or several, or a case of a form that this module does not read.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(table)))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Match)]
    if len(found) != 1:
        raise ParameterError(f"{len(found)} match statements in a table; it is one")
    return [_row(case) for case in found[0].cases]


def _row(case: ast.match_case) -> Row:
    guard = "" if case.guard is None else ast.unparse(case.guard)
    if guard and guard not in GUARDS:
        raise ParameterError(f"a case with the guard {guard!r}; {sorted(GUARDS)} are read")
    when = GUARDS[guard] if guard else When.ALWAYS
    match case.pattern:
        case ast.MatchSequence(patterns=[sources, message]):
            (name,) = _classes(message)
            return Row(_classes(sources), name, when)
        case pattern:
            return Row(_classes(pattern), "", when)


def _classes(pattern: ast.pattern) -> tuple[str, ...]:
    """The names of a class pattern, or of alternatives of such."""
    match pattern:
        case ast.MatchClass(cls=ast.Name(id=name), patterns=[], kwd_patterns=[]):
            return (name,)
        case ast.MatchOr(patterns=patterns):
            return tuple(name for each in patterns for name in _classes(each))
    raise ParameterError(f"a case {ast.unparse(pattern)}; class patterns without arguments are read")


def client_edges() -> list[Edge]:
    """Every step of a client."""
    edges = [
        Edge(state, row.message, LEADS_TO[row.message].__name__, row.when)
        for row in rows(MaskedClientSteps.react)
        for state in row.states
    ]
    return [*edges, Edge(LEADS_TO["CollectInput"].__name__, "contribute", CONTRIBUTED.__name__)]


def server_edges() -> list[Edge]:
    """Every step of the server: a round's start, answers that are taken, exchanges that are closed."""
    edges = [Edge(server_states.Idle.__name__, by, target.__name__) for by, target in BEGINS.items()]
    edges += [
        Edge(state, row.message, state, row.when)
        for row in rows(MaskedServerSteps.absorb)
        for state in row.states
    ]
    for row in rows(MaskedServerSteps.close):
        for state in row.states:
            edges += [Edge(state, "close", target.__name__, when) for target, when in FOLLOWS[state].items()]
    return edges


def _diagram(edges: Iterable[Edge], *, first: str) -> str:
    drawn = [f"    {edge.source} --> {edge.target}: {edge.by}{edge.when.value}" for edge in edges]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {first}", *drawn, "```"])


def diagrams() -> str:
    """Both diagrams as they stand in `SPEC.md`."""
    parts = ["Client:", _diagram(client_edges(), first=states.Idle.__name__)]
    parts += ["Server:", _diagram(server_edges(), first=server_states.Idle.__name__)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(diagrams())
