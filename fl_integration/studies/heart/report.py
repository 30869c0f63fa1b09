"""What came out, in words and in a page.

The sentences here are made from the results, and the terminal and the page say the same ones. `report.html`
holds its pictures inside, loads nothing and runs nothing; every number, unrounded, is made by `numbers`.
"""

import base64
import os
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from fl_integration.loop.standardising import Standardise
from fl_integration.statistics.cohort import TableOne
from fl_integration.studies.heart.choices import BITS, CLIP, MAX_WEIGHT, Choice, short_name
from fl_integration.studies.heart.costs import CLIENTS, PARAMETERS, Cost
from fl_integration.studies.heart.federation.wires import (
    HEADINGS,
    engine_sentences,
    wire_note,
    wire_rows,
)
from fl_integration.studies.heart.findings import Act, Gain, Repeat, Row
from fl_integration.studies.heart.model import LOCAL
from fl_integration.studies.heart.numbers import versions
from fl_integration.studies.heart.private import private_sentences
from secagg.errors import MissingExtraError, ParameterError

__all__ = [
    "OVERALL",
    "WEIGHT_CAP",
    "act_two_sentences",
    "cells",
    "cost_cells",
    "cost_note",
    "gain_sentences",
    "headings",
    "html",
    "picture",
    "repeat_sentence",
    "row_cost",
    "scaling_note",
    "sentences",
    "setup_note",
    "small_sets",
    "title",
    "write",
]

OVERALL: Final = (
    "'All test patients' ranks them in one list, as if they had come to one hospital. It is not the mean of "
    "the columns: the hospitals' patients differ."
)
WEIGHT_CAP: Final = (
    "Weights are example counts, inside the sum. The hospitals agree beforehand on a cap, here "
    f"{MAX_WEIGHT}; a round number tells less about the largest of them than its count would."
)

_FEW: Final = 5
"""Patients of one kind in a test set below which its AUC is an anecdote."""

_WHO_LEARNS: Final[dict[Choice, tuple[str, str, str]]] = {
    Choice.MASKED: (
        "The weighted mean of all updates, the number of patients behind it, and who took part.",
        "The global model, which the server sends them.",
        "Two of the hospitals that pool what they know with the server. With one of them it learns no more "
        "than the sum of the others, at least two, even if it lies about who is still there.",
    ),
    Choice.LATTICE: (
        "The weighted mean of all updates, the number of patients behind it, and who took part.",
        "The global model, which the server sends them.",
        "What breaks MaskedSum, which sums its keys. And a hospital whose key and vector do not belong "
        "together costs the round, and is not named.",
    ),
    Choice.CKKS: (
        "Who took part and how large the messages are; no number of the model.",
        "The weighted mean and the number of patients behind it.",
        "One hospital that colludes with the server: every hospital holds the one key, and together they "
        "read every update.",
    ),
    Choice.PAILLIER: (
        "Who took part and how large the messages are; no number of the model.",
        "The weighted mean and the number of patients behind it.",
        "One hospital that colludes with the server, as with CkksSum. And a quantum computer, some day, "
        "opens what was recorded.",
    ),
    Choice.PLAIN: (
        "Every hospital's update and number of patients.",
        "The global model, which the server sends them.",
        "Everything: nothing is hidden. It is here to be compared with.",
    ),
}


def title(act: Act) -> str:
    """What an act is about."""
    number = {3: "three", 4: "four"}[len(act.hospitals)]
    if act.engine is not None:
        what = ", and the computer of one fails" if act.engine.killed is not None else ""
        return f"Over {act.engine.engine}: {number} hospitals{what}"
    if act.lost is not None:
        return f"Act two: {number} hospitals, and one vanishes"
    return f"Act one: {number} hospitals"


def sentences(act: Act, refusals: Mapping[Choice, str]) -> list[str]:
    """What an act has shown."""
    if act.engine is not None:
        return [*engine_sentences(act), *_why_three(refusals), *gain_sentences(act)]
    return gain_sentences(act) if act.lost is None else act_two_sentences(act, refusals)


def gain_sentences(act: Act) -> list[str]:
    """For each hospital, whether joining helped its own patients; and a last one that sums up."""
    found = [_gain_sentence(gain, act) for gain in act.gains]
    better = [short_name(gain.site) for gain in act.gains if gain.low > 0]
    worse = [short_name(gain.site) for gain in act.gains if gain.high < 0]
    open_ = [short_name(gain.site) for gain in act.gains if gain.low <= 0 <= gain.high]
    parts = [
        f"{_list(names)} {'does' if len(names) == 1 else 'do'} {what}"
        for names, what in (
            (better, "better together"),
            (worse, "worse together"),
            (open_, "about as well alone: test sets this small show no difference either way"),
        )
        if names
    ]
    return [*found, f"So on their own patients {'; '.join(parts)}."]


def repeat_sentence(repeats: tuple[Repeat, ...]) -> str:
    """What other splits say about the same question."""
    parts = [
        f"{short_name(r.site)} {r.mean:+.3f} ({r.low:+.3f} to {r.high:+.3f}, better in {r.better})"
        for r in repeats
    ]
    return (
        f"In {repeats[0].splits} other splits of the same patients, three hospitals in the clear, joint "
        f"model minus own, mean and range: {', '.join(parts)}."
    )


def act_two_sentences(act: Act, refusals: Mapping[Choice, str]) -> list[str]:
    """What happened when a hospital vanished, and why this takes four."""
    if act.lost is None:
        return []
    site, number = act.lost
    name, found = short_name(site), []
    for row in act.rows:
        if row.choice is None:
            continue
        report, following = row.history[number], row.history[number + 1 :]
        back = next((r.number + 1 for r in following if site.value in r.contributors), None)
        ended = (
            f"ended with {len(report.contributors)} hospitals ({report.total_weight} patients)"
            if not report.aborted
            else f"was aborted ({report.aborted})"
        )
        returned = f"it contributes again in round {back}" if back is not None else "it did not come back"
        moment = row.choice.worst_moment
        found.append(
            f"{row.title}: {name} vanished at {moment} in round {number + 1}, which {ended}; {returned}."
        )
    found.append(
        f"FedAvg in the clear lost {name} in the same round: what differs is the cryptography alone."
    )
    return [*found, *_why_three(refusals)]


def _why_three(refusals: Mapping[Choice, str]) -> list[str]:
    return [
        f"With three hospitals the same loss ends the round: {choice.title} says '{reason}'. Of two who are "
        "left each subtracts its own part from the sum and reads the other's, so min_contributors is 3 and "
        "the round is not worth that."
        for choice, reason in refusals.items()
    ]


def headings(act: Act) -> list[str]:
    """The heads of the columns of `cells` and `cost_cells`."""
    sites = [short_name(hospital.site).replace(" ", "\n") for hospital in act.hospitals]
    return [
        *sites,
        "all test\npatients",
        "largest\ndiff.",
        "bytes\na round",
        "CPU ms\na round",
        "MB sent,\n10⁶ par.",
        "CPU s,\n10⁶ par.",
    ]


def cells(act: Act, row: Row) -> list[str]:
    """A row's figures as text: AUCs, then a protocol's difference from FedAvg and its cost."""
    aucs = [f"{row.aucs[hospital.site].value:.3f}" for hospital in act.hospitals]
    aucs.append(f"{row.overall.value:.3f}")
    if row.usage is None or row.difference is None:
        return [*aucs, "", "", ""]
    client, server = row.usage.client_seconds, row.usage.server_seconds
    milliseconds = "" if client is None or server is None else f"{1e3 * client:.1f} + {1e3 * server:.1f}"
    return [*aucs, f"{row.difference:.0e}" if row.difference else "0", f"{row.usage.sent:,}", milliseconds]


def cost_cells(cost: Cost | None) -> list[str]:
    """Bytes and processor seconds for the large model; * marks what was scaled up."""
    if cost is None:
        return ["", ""]
    star = "*" if cost.scaled else ""
    return [
        f"{cost.sent / 1e6:.2f}{star}",
        f"{_short(cost.client_seconds)} + {_short(cost.server_seconds)}{star}",
    ]


def row_cost(row: Row, costs: Mapping[Choice, Cost]) -> list[str]:
    """The same of a row's protocol; nothing where an engine is in between, which was not measured so."""
    return cost_cells(None if row.choice is None or row.kind == "engine" else costs.get(row.choice))


def cost_note(costs: Mapping[Choice, Cost]) -> str:
    """How the figures for the large model were measured."""
    scaled = [(choice, cost) for choice, cost in costs.items() if cost.scaled]
    note = (
        f"10⁶ parameters: real rounds among {CLIENTS} clients in this process, the same {BITS}-bit grid, "
        f"key set-up left out, {PARAMETERS:,} float32 values each."
    )
    for choice, cost in scaled:
        note += f" * {choice.title} was measured on {cost.measured:,} and scaled linearly."
    if Choice.LATTICE in costs:
        note += (
            " LatticeSum's vector grows with the model; the key that goes with it does not, and is most of "
            "its bytes for the 16 parameters here. To make up for a lost hospital is work on keys alone."
        )
    return note


def setup_note(act: Act) -> str:
    """What the figures of `cells` are, and what the first round costs more."""
    note = (
        "Largest diff.: of any parameter from FedAvg in the clear. Bytes: sent by one hospital. CPU: of the "
        "cryptography alone, hospital + server. Bytes and CPU are medians of rounds after the first."
    )
    parts = [
        f"{row.title} {row.usage.setup_sent:,}"
        for row in act.rows
        if row.kind != "engine" and row.usage is not None and row.choice in (Choice.CKKS, Choice.PAILLIER)
    ]
    if parts:
        note += f" In the first a key is set up; its maker sends so many bytes more: {', '.join(parts)}."
    here = [row for row in act.rows if row.kind != "engine"]
    linked = [row.title for row in here if row.choice is not None and row.choice.makes_channels]
    if linked:
        note += (
            f" {_list(linked)} {'makes' if len(linked) == 1 else 'make'} channels in the first round, and "
            "again with a hospital that was lost before; the keys of every other round ride on the round "
            "before it and are in its figures."
        )
    if act.engine is not None:
        note += f" The bytes of {act.joint.title} are those of a hospital's wire, see below."
    return note


def scaling_note(act: Act) -> str:
    """Whose figures the measurements were scaled by, and what the others would have brought."""
    if (scaling := act.scaling) is None:
        return ""
    provenance = scaling.asked.provenance
    cost = "secure sums"
    if provenance is not None:
        sent = max(provenance.sent.values(), default=0)
        cost = f"{provenance.sums} secure sums ({sent:,} bytes a hospital)"
    found = (
        f"FedAvg in the clear has an AUC of {scaling.this.value:.3f} on all test patients, and with {{}} "
        f"{scaling.other.value:.3f}."
    )
    if act.private is not None:
        found += " They are exact; the private training does not use them, nor does its epsilon cover them."
    if scaling.how is Standardise.SITE:
        other = f"the pooled figures of all training patients, from {cost},"
        return "Measurements are scaled by each hospital's own mean and deviation: " + found.format(other)
    return (
        f"Measurements are scaled by the mean and deviation of all training patients, from {cost}, which "
        "whoever learns sums knows: " + found.format("each hospital's own")
    )


def small_sets(act: Act) -> list[str]:
    """A warning for each test set with too few patients of one kind to say anything."""
    found = []
    for hospital in act.hospitals:
        diseased, tested = int(hospital.test_y.sum()), len(hospital.test_y)
        fewest = min(diseased, tested - diseased)
        if fewest < _FEW:
            kind = "with" if diseased < tested - diseased else "without"
            found.append(
                f"Only {fewest} of the {tested} test patients of {short_name(hospital.site)} are {kind} the "
                "disease: its column says next to nothing."
            )
    return found


def html(
    acts: tuple[Act, ...],
    costs: Mapping[Choice, Cost],
    repeats: tuple[Repeat, ...],
    refusals: Mapping[Choice, str],
    pictures: Mapping[str, bytes],
    *,
    cohort: TableOne | None = None,
) -> str:
    """The page, with everything that it needs inside; `cohort` is its Table 1."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(package="jinja2", extra="demo") from error
    text = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    choices = list(dict.fromkeys(row.choice for act in acts for row in act.rows if row.choice is not None))
    return environment.from_string(text).render(
        acts=[
            {
                "act": act,
                "headings": headings(act),
                "rows": [
                    (row, cells(act, row), _intervals(act, row), row_cost(row, costs)) for row in act.rows
                ],
                "title": title(act),
                "sentences": sentences(act, refusals),
                "private": private_sentences(act),
                "wire": {"headings": HEADINGS, "rows": wire_rows(act), "note": wire_note(act)},
                "setup": " ".join([*small_sets(act), scaling_note(act), setup_note(act)]),
                "picture": picture(act, of=len(acts)),
                "tests": ", ".join(f"{short_name(h.site)} {len(h.test_y)}" for h in act.hospitals),
                "training": ", ".join(f"{short_name(h.site)} {len(h.train_y)}" for h in act.hospitals),
            }
            for act in acts
        ],
        pictures={name: base64.b64encode(data).decode("ascii") for name, data in pictures.items()},
        learns=[(choice.title, *_WHO_LEARNS[choice]) for choice in choices],
        cohort=cohort,
        repeats=repeat_sentence(repeats) if repeats else "",
        overall=OVERALL,
        weight_cap=WEIGHT_CAP,
        cost_note=cost_note(costs),
        seed=acts[0].seed,
        rounds=acts[0].rounds,
        settings=LOCAL,
        bits=BITS,
        clip=CLIP,
        versions=versions(),
    )


def picture(act: Act, *, of: int) -> str:
    """The file of an act's AUC by round, in a run of `of` acts."""
    return "dropout.png" if act.lost is not None and of > 1 else "auc_by_round.png"


def write(folder: Path, files: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Writes files into `folder`, which is made if it is not there; each appears whole or not at all.

    Raises:
        ParameterError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
            try:
                with os.fdopen(handle, "wb") as stream:
                    stream.write(data)
                os.chmod(temporary, 0o644)
                os.replace(temporary, folder / name)
            except BaseException:
                os.unlink(temporary)
                raise
    except OSError as error:
        raise ParameterError(
            f"cannot write to {str(folder)!r}: {error.strerror}; choose another --out"
        ) from error
    return tuple(folder / name for name in files)


def _gain_sentence(gain: Gain, act: Act) -> str:
    joint = act.joint
    alone = next(row for row in act.rows if row.site is gain.site)
    verdict = (
        "better together" if gain.low > 0 else "worse together" if gain.high < 0 else "no clear difference"
    )
    together, apart = joint.aucs[gain.site].value, alone.aucs[gain.site].value
    return (
        f"{short_name(gain.site)}: on its {gain.patients} test patients the joint model has {together:.3f}, "
        f"its own {apart:.3f} ({gain.value:+.3f}, 95 % from {gain.low:+.3f} to {gain.high:+.3f}): {verdict}."
    )


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"


def _intervals(act: Act, row: Row) -> list[str]:
    found = [*(row.aucs[hospital.site] for hospital in act.hospitals), row.overall]
    return [f"{each.low:.2f}–{each.high:.2f}" for each in found]
