"""From the JSON of one run to its tables and pictures. No figure stands in this file but the limits.

`Run` finds a benchmark by what it says about itself in `extra_info`; whatever was not measured is absent, and
its row says why: a package that is not installed, or a case that `--quick` left out.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["NotMeasured", "Run", "print_report"]

PROTOCOLS = ("PlainSum", "MaskedSum", "CkksSum", "PaillierSum")
NEEDS = {"CkksSum": "tenseal", "tenseal": "tenseal", "phe": "phe"}
FLOAT32_BYTES = 4
MILLION = 10**6


class NotMeasured(LookupError):
    """This run has no such benchmark; the text says why."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the suite, as pytest-benchmark wrote it."""

    machine: dict[str, Any]
    benchmarks: tuple[dict[str, Any], ...]

    @classmethod
    def load(cls, path: Path) -> "Run":
        """The run in a file of `--benchmark-json`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(data["machine_info"], tuple(data["benchmarks"]))

    def all(self, kind: str) -> Iterator[dict[str, Any]]:
        """`extra_info` of each benchmark of a kind, with the minimum of its own clock as `seconds`."""
        for each in self.benchmarks:
            if each["extra_info"].get("kind") == kind:
                yield {**each["extra_info"], "seconds": each["stats"]["min"]}

    def one(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The benchmark of this kind with these fields; `NotMeasured` if there is none."""
        for each in self.all(kind):
            if all(each.get(name) == value for name, value in fields.items()):
                return each
        package = NEEDS.get(fields.get("protocol", kind), "")
        if package and self.machine["packages"].get(package) is None:
            raise NotMeasured(f"{package} is not installed")
        raise NotMeasured("not in this run (--quick)" if self.machine.get("quick") else "not in this run")

    def largest_round(self, protocol: str, *, clients: int) -> dict[str, Any]:
        """The whole round of most parameters."""
        rounds = [e for e in self.all("round") if (e["protocol"], e["clients"]) == (protocol, clients)]
        if not rounds:
            return self.one("round", protocol=protocol, clients=clients)
        return max(rounds, key=lambda each: int(each["parameters"]))


def least(entry: dict[str, Any], contender: str, clock: str = "cpu") -> float:
    """Least seconds a value of a contender in a lap."""
    samples = entry["laps"][contender]
    return float(min(samples[clock])) / int(samples["values"])


def ratio(entry: dict[str, Any], contender: str, other: str, clock: str = "cpu") -> float:
    """How many times the other's time a contender takes, by the value; minima of one interleaved run."""
    return least(entry, contender, clock) / least(entry, other, clock)


# Targets


@dataclass(frozen=True, slots=True)
class Target:
    """One claim. `limit` None is a figure that is reported and not judged."""

    name: str
    unit: str
    measure: Callable[[Run], float]
    limit: float | None = None
    at_least: bool = False


def _masked(contender: str) -> Callable[[Run], float]:
    return lambda run: ratio(run.one("masked client"), contender, "floor")


def _masked_round(field: str) -> Callable[[Run], float]:
    def measure(run: Run) -> float:
        entry = run.one("round", protocol="MaskedSum", clients=10, parameters=MILLION)
        return float(entry["seconds"] if field == "seconds" else entry[field] / entry["parameters"])

    return measure


def _heavy_bytes(run: Run) -> float:
    entry = run.one("masked weights")
    return float(entry["up"]["500"] / entry["parameters"])


def _heavy_client(run: Run) -> float:
    seconds = run.one("masked weights")["client_seconds"]
    return float(min(seconds["500"]) / min(seconds["1"]))


def _phe(contender: str, key_bits: int) -> Callable[[Run], float]:
    return lambda run: ratio(run.one("phe", key_bits=key_bits), "phe encrypt", contender)


def _bytes_up(protocol: str) -> Callable[[Run], float]:
    def measure(run: Run) -> float:
        entry = run.largest_round(protocol, clients=10)
        return float(entry["up"] / entry["parameters"])

    return measure


def _tenseal(ours: str, opening: str, kind: str) -> Callable[[Run], float]:
    def measure(run: Run) -> float:
        entry = run.one("tenseal")
        theirs = least(entry, f"TenSEAL {kind} encrypt") + least(entry, f"TenSEAL {kind} decrypt")
        return (least(entry, ours) + least(entry, opening)) / theirs

    return measure


MASKED = "MaskedSum, 10 clients × 10^6:"
CKKS = "CkksSum / TenSEAL as NVFlare sets it,"
TARGETS = (
    Target(f"{MASKED} masks alone (apply_masks) / floor", "×", _masked("apply_masks"), 2.0),
    Target(f"{MASKED} a client's whole contribute / floor", "×", _masked("contribute"), 2.0),
    Target(f"{MASKED} whole round in one process, wall clock", "s", _masked_round("seconds"), 0.5),
    Target(f"{MASKED} upload", "B/parameter", _masked_round("up"), 2.6),
    Target(f"{MASKED} upload with max_weight=500", "B/parameter", _heavy_bytes),
    Target(f"{MASKED} client's time, max_weight=500 / 1", "×", _heavy_client),
    Target(
        f"{MASKED} round's wall clock, max_weight=500 / 1",
        "×",
        lambda run: ratio(run.one("masked weights"), "max_weight=500", "max_weight=1", "wall"),
    ),
    *(
        target
        for bits in (2048, 3072)
        for target in (
            Target(f"phe {bits} / PaillierSum's encryption", "×", _phe("encrypt", bits), 2000, True),
            Target(
                f"phe {bits} / PaillierSum's whole contribute",
                "×",
                _phe("protocol contribute", bits),
                2000,
                True,
            ),
            Target(
                f"phe {bits} / PaillierSum, a key's first 10^4 values (makes its table)",
                "×",
                _phe("first encrypt", bits),
            ),
        )
    ),
    Target("PaillierSum 3072, 10 clients: upload", "B/parameter", _bytes_up("PaillierSum"), 5.2),
    Target("CkksSum, 10 clients: upload", "B/parameter", _bytes_up("CkksSum"), 31.0),
    *(
        target
        for kind in ("symmetric", "public")
        for target in (
            Target(f"{CKKS} {kind} key: encrypt + decrypt", "×", _tenseal("encrypt", "decrypt", kind), 0.8),
            Target(
                f"{CKKS} {kind} key: our contribute + open",
                "×",
                _tenseal("protocol contribute", "protocol open", kind),
                0.8,
            ),
        )
    ),
)


# Tables

ROUNDS_CAPTION = (
    "Client and server: processor time, least of the rounds; the client's is the mean over the clients and, "
    "for CkksSum and PaillierSum, includes opening the sum. Round: wall clock, all parties in turn. Bytes: "
    "a client's for each parameter, without the model's own way down; × f32: upload against 4 bytes. Error: "
    "of the mean, against the exact mean of the inputs; bound: what the protocol promises. Set-up: processor "
    "time of the dearest client in a session's first round, of 5,000 values."
)
TARGETS_CAPTION = (
    "Ratios: processor time by the value, contenders in turn in one process, minima. Floor: for each of the "
    "client's ten masks, AES-128-CTR of the same bytes into a reused buffer and one addition of uint32."
)
PEERS_CAPTION = (
    "Processor time of a value. TenSEAL: CKKS 8192, primes 60/40/40, scale 2^40, encrypt + serialise and "
    "deserialise + decrypt, one thread. phe: one value a ciphertext. Ours: 16-bit values of 10 clients; the "
    "whole step is everything that a client does between its update and its message (or the mean)."
)


def print_report(run: Run, console: Console) -> None:
    """All tables of a run."""
    packages = ", ".join(f"{name} {found or 'absent'}" for name, found in run.machine["packages"].items())
    cpu = run.machine.get("cpu", {})
    console.print(f"{cpu.get('brand_raw', 'unknown processor')}, {cpu.get('count', '?')} cores; {packages}")
    for table in (rounds_table(run), targets_table(run), peers_table(run), primitives_table(run)):
        console.print()
        console.print(table)


def _table(title: str, caption: str, *columns: str) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index > 0)
    return table


def rounds_table(run: Run) -> Table:
    """One row for each protocol, number of clients and model size."""
    table = _table(
        "Whole rounds, all parties in one process (set-up excluded)",
        ROUNDS_CAPTION,
        "protocol",
        "clients",
        "parameters",
        "client ms",
        "server ms",
        "round s",
        "up B",
        "down B",
        "× f32",
        "error",
        "bound",
        "set-up ms",
    )
    for protocol in PROTOCOLS:
        rounds = [each for each in run.all("round") if each["protocol"] == protocol]
        if not rounds:
            table.add_row(f"{protocol}\n{_reason(run, protocol)}", end_section=True)
        for each in sorted(rounds, key=lambda e: (e["clients"], e["parameters"])):
            size = each["parameters"]
            table.add_row(
                protocol,
                str(each["clients"]),
                f"{size:,}",
                f"{1e3 * min(each['client_seconds']):.2f}",
                f"{1e3 * min(each['server_seconds']):.2f}",
                f"{each['seconds']:.3f}",
                f"{each['up'] / size:.3f}",
                f"{each['down'] / size:.3f}",
                f"{each['up'] / size / FLOAT32_BYTES:.2f}",
                f"{each['max_error']:.1e}",
                f"{each['error_bound']:.1e}",
                f"{1e3 * each['set_up_seconds']:.0f}",
                end_section=each is rounds[-1],
            )
    return table


def targets_table(run: Run) -> Table:
    """Each target with what this run measured."""
    table = _table(
        "Targets",
        TARGETS_CAPTION,
        "what, 16-bit values",
        "measured",
        "target",
        "",
    )
    for target in TARGETS:
        limit, verdict = "", ""
        try:
            value = target.measure(run)
        except NotMeasured as reason:
            table.add_row(target.name, str(reason), "", "")
            continue
        if target.limit is not None:
            met = value >= target.limit if target.at_least else value <= target.limit
            limit = f"{'≥' if target.at_least else '≤'} {target.limit:,g}"
            verdict = "[green]met[/]" if met else "[red]missed[/]"
        table.add_row(target.name, f"{value:,.{0 if value >= 100 else 2}f} {target.unit}", limit, verdict)
    return table


def peers_table(run: Run) -> Table:
    """Processor time and bytes of a value, ours and theirs."""
    table = _table(
        "Peers, in the same run",
        PEERS_CAPTION,
        "who",
        "encrypt ns",
        "decrypt ns",
        "B/parameter",
        "× float32",
    )
    rows: list[tuple[str, str, dict[str, int], str, str]] = [
        ("CkksSum's encryption", "tenseal", {}, "encrypt", "decrypt"),
        ("CkksSum, whole step", "tenseal", {}, "protocol contribute", "protocol open"),
        *(
            (
                f"TenSEAL as NVFlare sets it, {key} key",
                "tenseal",
                {},
                f"TenSEAL {key} encrypt",
                f"TenSEAL {key} decrypt",
            )
            for key in ("symmetric", "public")
        ),
    ]
    for bits in (2048, 3072):
        fields = {"key_bits": bits}
        rows += [
            (f"PaillierSum {bits}'s encryption", "phe", fields, "encrypt", "decrypt"),
            (f"PaillierSum {bits}, whole step", "phe", fields, "protocol contribute", ""),
            (f"phe {bits}", "phe", fields, "phe encrypt", "phe decrypt"),
        ]
    for who, kind, fields, encrypt, decrypt in rows:
        try:
            entry = run.one(kind, **fields)
        except NotMeasured as reason:
            table.add_row(who, str(reason))
            continue
        size = entry["bytes"].get(encrypt)
        table.add_row(
            who,
            f"{1e9 * least(entry, encrypt):,.0f}",
            f"{1e9 * least(entry, decrypt):,.0f}" if decrypt else "",
            f"{size:,.2f}" if size else "",
            f"{size / FLOAT32_BYTES:,.2f}" if size else "",
        )
    return table


def primitives_table(run: Run) -> Table:
    """Each primitive alone."""
    table = _table(
        "Primitives", "Processor time, least of the rounds.", "what", "values", "µs a call", "ns a value"
    )
    masking = [
        {"name": f"masks: {name}, 10 of 10^6 words", "values": laps["values"], "seconds": min(laps["cpu"])}
        for entry in run.all("masking")
        for name, laps in entry["laps"].items()
    ]
    for each in (*masking, *run.all("primitive")):
        micro, nano = 1e6 * each["seconds"], 1e9 * each["seconds"] / each["values"]
        table.add_row(each["name"], f"{each['values']:,}", f"{micro:,.1f}", f"{nano:,.2f}")
    return table


def _reason(run: Run, protocol: str) -> str:
    """Why a protocol has no rounds here."""
    try:
        run.one("round", protocol=protocol)
    except NotMeasured as reason:
        return str(reason)
    return ""
