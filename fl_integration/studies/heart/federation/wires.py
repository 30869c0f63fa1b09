"""What happened over an engine, and what the hospitals' wires carried, in words and in a table.

Two counts stand beside each other. *Wire* is what a hospital's connections to the server carried, counted at
a relay on the way (`fl_integration.loopback.meter`): TLS, the engine's own protocol, polling, the app's code,
the model and the secure sum. *Protocol* is the bytes of this library's messages alone, the model among them,
of the same rounds in one process.
"""

from typing import Any, Final

import numpy as np

from fl_integration.loopback.meter import Carried
from fl_integration.studies.heart.choices import short_name
from fl_integration.studies.heart.federation.outcome import EngineRun
from fl_integration.studies.heart.findings import Act
from fl_integration.studies.heart.records import Site

__all__ = [
    "HEADINGS",
    "back_in",
    "engine_numbers",
    "engine_sentences",
    "reading_of",
    "wire_note",
    "wire_rows",
]

HEADINGS: Final = (
    "hospital",
    "start\nup",
    "start\ndown",
    "round 1\nup",
    "round 1\ndown",
    "later round\nup",
    "later round\ndown",
    "protocol\nup",
    "protocol\ndown",
)


def wire_rows(act: Act) -> list[list[str]]:
    """One row for each hospital under `HEADINGS`; none where there is no engine."""
    if (run := act.engine) is None:
        return []
    alone = next((row.usage for row in act.secure if row.kind != "engine"), None)
    protocol = ["", ""] if alone is None else [f"{alone.sent:,}", f"{alone.received:,}"]
    return [
        [short_name(site), *_both(run.before[site]), *_both(run.rounds[0].carried[site]), *later, *protocol]
        for site in run.sites
        for later in [_both(_later(run, site)) if len(run.rounds) > 1 else ["", ""]]
    ]


def wire_note(act: Act) -> str:
    """How the bytes of `wire_rows` are counted."""
    if (run := act.engine) is None:
        return ""
    return (
        "Bytes, up from the hospital and down to it, counted at a relay between its node and the server: "
        f"everything that {run.engine} and TLS sent, polling, the app's code and the model among it, without "
        "the headers of TCP and IP. Start: until the first round was asked for. Later round: medians of the "
        "rounds after the first that nobody missed. Protocol: of this library's messages alone, the model "
        "among them, in one process, medians over the same rounds and all hospitals."
    )


def engine_sentences(act: Act) -> list[str]:
    """What happened: how long it took, who was killed, who was missing, whether the model is the same."""
    if (run := act.engine) is None:
        return []
    row = next(row for row in act.rows if row.kind == "engine")
    seconds = [each.seconds for each in run.rounds]
    found = [
        f"{row.title}: {len(run.sites)} hospitals and a coordinator, each in processes of its own, over TLS; "
        f"{run.start_seconds:.0f} s until the first round, then {np.median(seconds):.1f} s a round (median), "
        f"{sum(seconds):.0f} s for all {len(seconds)}."
    ]
    found += [_killed(run, *run.killed)] if run.killed is not None else []
    for each in run.rounds:
        missing = [site for site in each.missing if (site, each.number) != run.killed]
        if not each.aborted:
            found += [
                f"{short_name(site)} was missing from round {each.number + 1} ({each.missing[site]})."
                for site in missing
            ]
        elif run.killed is None or each.number != run.killed[1]:
            found.append(f"Round {each.number + 1} was aborted ({each.aborted}).")
    if (reading := reading_of(run)) != "":
        found.append(reading)
    if row.difference is not None:
        same = "with the same hospitals in the same rounds"
        found.append(
            f"Its model differs from that of FedAvg in the clear, {same}, by at most {row.difference:.0e} in "
            "any parameter."
            if row.difference
            else f"Its model is that of FedAvg in the clear, {same}, bit for bit."
        )
    if run.records is not None:
        found.append(
            f"The coordinator signed a record of each round: who was asked, who is in the sum, who was lost. "
            f"They lie in {run.records.place}, with its public line beside them."
        )
    return found


def reading_of(run: EngineRun) -> str:
    """Where the model was read, where the hospitals alone learn it; else nothing."""
    if run.read_at is None:
        return ""
    name = short_name(run.read_at)
    said = f"Only the hospitals learn the model: it was read from {name}'s own disk, as its operator could"
    *most, last = ("", *(str(each + 1) for each in run.unseen))
    if not last:
        return f"{said}."
    rounds = f"rounds {', '.join(most[1:])} and {last}" if len(most) > 1 else f"round {last}"
    return f"{said}; after {rounds} nobody looked in time."


def back_in(run: EngineRun) -> int | None:
    """The round (from 0) in which the one who was killed contributes again."""
    if run.killed is None:
        return None
    site, number = run.killed
    later = range(number + 1, len(run.rounds))
    return next((each for each in later if site in run.contributors(each)), None)


def engine_numbers(act: Act) -> dict[str, Any] | None:
    """The same, unrounded, for a file of JSON."""
    if (run := act.engine) is None:
        return None
    return {
        "engine": run.engine,
        "protocol": run.choice.value,
        "start_seconds": run.start_seconds,
        "start_bytes": {site.value: _numbers(each) for site, each in run.before.items()},
        "model_read_at": None if run.read_at is None else run.read_at.value,
        "model_not_seen_after": [each + 1 for each in run.unseen],
        "records": None if run.records is None else str(run.records.place),
        "killed": None if run.killed is None else {"site": run.killed[0].value, "round": run.killed[1] + 1},
        "rounds": [
            {
                "round": each.number + 1,
                "seconds": each.seconds,
                "total_weight": each.total_weight,
                "aborted": each.aborted,
                "missing": {site.value: reason for site, reason in each.missing.items()},
                "wire_bytes": {site.value: _numbers(bytes_) for site, bytes_ in each.carried.items()},
            }
            for each in run.rounds
        ],
    }


def _killed(run: EngineRun, site: Site, number: int) -> str:
    name, found, back = short_name(site), run.rounds[number], back_in(run)
    ended = (
        f"was aborted ({found.aborted})"
        if found.aborted
        else f"ended with {len(run.contributors(number))} hospitals"
        + (f" ({found.total_weight} patients)" if found.total_weight is not None else "")
    )
    returned = f"it contributes again in round {back + 1}" if back is not None else "it did not come back"
    return (
        f"{name}'s node was killed while it trained in round {number + 1}, which {ended} after "
        f"{found.seconds:.0f} s; {returned}."
    )


def _later(run: EngineRun, site: Site) -> Carried:
    steady = [each for each in run.rounds[1:] if not each.missing] or list(run.rounds[1:])
    return Carried(
        up=int(np.median([each.carried[site].up for each in steady])),
        down=int(np.median([each.carried[site].down for each in steady])),
    )


def _both(carried: Carried) -> list[str]:
    return [f"{carried.up:,}", f"{carried.down:,}"]


def _numbers(carried: Carried) -> dict[str, int]:
    return {"up": carried.up, "down": carried.down}
