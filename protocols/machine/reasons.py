"""Why a round was aborted, for people: what was missing, who was lost, and what most of them said.

What a client says of itself is a peer's words, and whoever reads a log should see that. They are quoted, kept
to printable characters and cut, so that no client can break a line, hide another's name or fill a disk. The
same clients lost for the same reasons give the same text, in the order of the cohort.

Parties with different parameters are the most frequent reason of all in a first round, and the digest that
they compare says only that there is a difference. Parameters are no secret: a client that refuses says what
its own are, and the server names those that are not like that here.

>>> lost = {"a": "refused: AdvertiseKeys: a\\tcohort of 2", "b": "did not answer in AdvertiseKeys"}
>>> print(summarised("0 clients advertised keys, at least 3 are needed", exchange="AdvertiseKeys", answered=0,
...                  cohort=("a", "b", "c"), dropped=lost))
0 clients advertised keys, at least 3 are needed; 3 were asked, 0 answered AdvertiseKeys, 2 are lost: \
'a' (refused: 'AdvertiseKeys: a?cohort of 2'), 'b' (did not answer in AdvertiseKeys)
"""

from collections.abc import Mapping, Sequence
from typing import Final

from protocols.identity import ClientId
from protocols.machine.suite import Suite

__all__ = ["compared", "described", "listed", "printable", "summarised"]

REFUSED: Final = "refused: "
"""Begins what is kept of a client that refused; its own words follow."""
OWN: Final = "; its own: "
"""Stands between why a client refuses other parameters than its own and these."""
CORE: Final = 800
REASONS: Final = 3
NAMES: Final = 4
WORDS: Final = 320
NAME: Final = 64
VALUE: Final = 32
"""The most characters of the reason itself, reasons, names and characters of one reason, of a name and of a
parameter: together less than what a record keeps."""


def printable(text: str, most: int) -> str:
    """`text` on one line of at most `most` characters and an ellipsis."""
    shown = "".join(each if each.isprintable() else "?" for each in text[: most + 1])
    return shown if len(shown) <= most else f"{shown[:most]}…"


def summarised(
    reason: str,
    *,
    exchange: str,
    answered: int,
    cohort: tuple[ClientId, ...],
    dropped: Mapping[ClientId, str],
) -> str:
    """`reason`, and what became of those who were asked.

    Args:
        reason: why the round was aborted, by the server's own word.
        exchange: the one that could not be closed well.
        answered: how many answered it well.
        cohort: who was asked in this round, in the roster's order.
        dropped: why each of them was lost who was; empty if nobody was.
    """
    core = printable(reason, CORE)
    lost = [client for client in cohort if client in dropped]
    if not lost:
        return core
    said = f"{core}; {len(cohort)} were asked, {answered} answered {exchange}, {len(lost)} are lost: "
    return said + listed(lost, dropped, known=reason)


def listed(lost: Sequence[ClientId], dropped: Mapping[ClientId, str], *, known: str = "") -> str:
    """Clients with the most frequent of their reasons.

    Args:
        lost: the clients, all of them in `dropped`, in an order that decides between reasons as frequent.
        dropped: reason by client.
        known: a reason that was told already.
    """
    by_reason: dict[str, list[ClientId]] = {}
    for client in lost:
        by_reason.setdefault(dropped[client], []).append(client)
    # A stable sort: of reasons that are as frequent, the one whose first client comes first in the roster.
    most = sorted(by_reason.items(), key=lambda each: -len(each[1]))
    shown = [f"{_names(clients)}{_because(why, known)}" for why, clients in most[:REASONS]]
    rest = sum(len(clients) for _, clients in most[REASONS:])
    return ", ".join(shown) + (f", and {rest} more for other reasons" if rest else "")


def _names(clients: list[ClientId]) -> str:
    names = ", ".join(repr(printable(client, NAME)) for client in clients[:NAMES])
    return names + (f" and {len(clients) - NAMES} more" if len(clients) > NAMES else "")


def _because(why: str, known: str) -> str:
    if why == known:  # the culprits of an abort are lost for it, and it was said
        return ""
    if why.startswith(REFUSED):
        return f" ({REFUSED}{printable(why.removeprefix(REFUSED), WORDS)!r})"
    return f" ({printable(why, WORDS)})"


def described(suite: Suite) -> str:
    """A party's public parameters in one line, for another one to compare with its own."""
    return f"{suite.name}({', '.join(f'{name}={value}' for name, value in suite.public.items())})"


def compared(suite: Suite, words: str) -> str:
    """What is kept of a refusal: where a client lists other parameters, those that are not as here.

    The words are a peer's, and only looked at: a name of ours, an equals sign, and what stands up to the next
    name of ours. What is not of this form is kept as it is.
    """
    said, found, theirs = words.partition(OWN)
    if not found:
        return words
    name, _, listed = theirs.removesuffix(")").partition("(")
    if name != suite.name:
        return f"{said}; it runs {printable(name, VALUE)!r}, this server {suite.name}"
    different = []
    values = _values(listed, tuple(suite.public))
    for each, value in suite.public.items():
        if values.get(each) != value:
            there = repr(printable(values[each], VALUE)) if each in values else "not said"
            different.append(f"{each} is {value} here, there {there}")
    return f"{said}; {', '.join(different)}" if different else words


def _values(listed: str, names: tuple[str, ...]) -> dict[str, str]:
    """The values in a list of parameters, as far as it holds these names in this order."""
    values: dict[str, str] = {}
    rest = f", {listed}"
    for name, following in zip(names, (*names[1:], None), strict=True):
        if not rest.startswith(f", {name}="):
            break
        rest = rest[len(f", {name}=") :]
        end = len(rest) if following is None else rest.find(f", {following}=")
        values[name], rest = (rest, "") if end < 0 else (rest[:end], rest[end:])
    return values
