"""The tables of one run. Every figure in them was measured in it, or is marked as published by others."""

from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.published import EXPANSIONS, NAIVE
from bench.report_lattice import crossing_table, lattice_table, new_table
from bench.run import NotMeasured, Run, least, ratio
from bench.targets import TARGETS, expansion, graph_of

__all__ = ["print_report"]

PROTOCOLS = ("PlainSum", "MaskedSum", "LatticeSum", "CkksSum", "PaillierSum")
FLOAT32_BYTES = 4
PERCENTS = (0, 5, 10, 30)

ROUNDS_CAPTION = (
    "Client and server: processor time, least of the rounds; the client's is the mean over the clients and, "
    "for CkksSum and PaillierSum, includes opening the sum. Round: wall clock, all parties in turn. Bytes: "
    "a client's for each parameter, without the model's own way down; × f32: upload against 4 bytes. Error: "
    "of the mean, against the exact mean of the inputs; bound: what the protocol promises. Set-up: processor "
    "time of the dearest client in a session's first round, of 5,000 values."
)
TARGETS_CAPTION = (
    "Ratios: processor time by the value, contenders in turn in one process, minima. Floor: for each of the "
    "client's ten masks, AES-128-CTR of the same bytes into a reused buffer and one addition of uint32. "
    "k, t: degree and threshold. Many clients: grinding_bits=0 unless it says so."
)
PEERS_CAPTION = (
    "Processor time of a value. TenSEAL: CKKS 8192, primes 60/40/40, scale 2^40, encrypt + serialise and "
    "deserialise + decrypt, one thread. phe: one value a ciphertext. Ours: 16-bit values of 10 clients; the "
    "whole step is everything that a client does between its update and its message (or the mean)."
)
SCALE_CAPTION = (
    "Seconds of processor time, least of the rounds; 16 bits, 10^5 values unless it says so, γ = 0.2. δ: the "
    "dropouts that the plan bears; g: grinding_bits; k, t: degree and threshold. First: the server's time in "
    "a round with new keys and a new graph. Then steady rounds in which so many clients had answered "
    "everything before and send no vector. Client: mean over those who stayed; alone: clients that find "
    "every cache empty, as in a process of their own. Published: by others, on another machine, a round."
)
EXPANSION_CAPTION = (
    "Bytes that one client sends and receives in a steady round without the model, over 2 bytes a value. "
    "γ = δ = 0.05, semi-malicious. Floor: the bits of a sum of so many 16-bit values. Published: by others."
)
FLOWER_CAPTION = (
    "Rounds that take turns in one process. Client (mean), server and all parties: processor time, least of "
    "the rounds. Bytes: a client's for each value. k, t: degree and threshold. exch.: exchanges. Ratio: "
    "Flower's time over the row's, of all parties."
)


def print_report(run: Run, console: Console) -> None:
    """All tables of a run."""
    packages = ", ".join(f"{name} {found or 'absent'}" for name, found in run.machine["packages"].items())
    cpu = run.machine.get("cpu", {})
    console.print(f"{cpu.get('brand_raw', 'unknown processor')}, {cpu.get('count', '?')} cores; {packages}")
    tables = (
        rounds_table,
        lattice_table,
        crossing_table,
        scale_table,
        expansion_table,
        flower_table,
        targets_table,
        peers_table,
        primitives_table,
    )
    for table in (make(run) for make in tables):
        console.print()
        console.print(table)


def rounds_table(run: Run) -> Table:
    """One row for each protocol, number of clients and model size."""
    table = new_table(
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
            table.add_row(f"{protocol}\n{_reason(run, 'round', protocol=protocol)}", end_section=True)
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


def scale_table(run: Run) -> Table:
    """The server and a client, by protocol, adversary and number of clients."""
    table = new_table(
        "Many clients",
        SCALE_CAPTION,
        "who",
        "δ",
        "g",
        "clients",
        "k, t",
        "first",
        *(f"{percent} %" for percent in PERCENTS),
        "client first",
        "client steady",
    )
    entries = sorted(run.all("scale"), key=lambda e: (_scale_group(e), e["clients"]))
    for _, rows in groupby(entries, key=_scale_group):
        for each in rows:
            _scale_row(table, each, f"{each['protocol']}, {each['adversary']}")
        table.add_section()
    for each in run.all("long vectors"):
        for protocol in each["server_seconds"]:
            times = {field: each[field][protocol] for field in ("server_seconds", "client_seconds")}
            _scale_row(table, {**each, **times}, f"{protocol}, {each['parameters']:,} values")
    table.add_section()
    for each in run.all("client alone"):
        _scale_row(table, each, f"{each['protocol']}, {each['adversary']}, client alone")
    table.add_section()
    table.add_row(
        f"published: {NAIVE.who}",
        "",
        "",
        str(NAIVE.clients),
        "",
        "",
        *(_seconds(NAIVE.server_seconds.get(percent)) for percent in PERCENTS),
        "–".join(f"{seconds:g}" for seconds in NAIVE.client_seconds),
        "",
    )
    return table


def _scale_group(entry: dict[str, Any]) -> tuple[str, str, int]:
    return entry["protocol"], entry["adversary"], entry["grinding_bits"]


def _scale_row(table: Table, entry: dict[str, Any], who: str) -> None:
    server, client = entry.get("server_seconds", {}), entry["client_seconds"]
    kinds = ["first", *(str(percent) for percent in PERCENTS)]
    table.add_row(
        who,
        f"{entry['dropout_fraction']:g}",
        str(entry["grinding_bits"]),
        f"{entry['clients']:,}",
        graph_of(entry),
        *(_seconds(min(server[kind]) if kind in server else None) for kind in kinds),
        _seconds(min(client["first"])),
        _seconds(min(client.get("0", client.get("30", ())))),
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def expansion_table(run: Run) -> Table:
    """What a client's control bytes add to its vector."""
    table = new_table(
        "Expansion",
        EXPANSION_CAPTION,
        "who",
        "clients",
        "values",
        "k, t",
        "sent B",
        "received B",
        "×",
        "floor",
    )
    ours = sorted(run.all("expansion"), key=lambda e: int(e["grinding_bits"]))
    if not ours:
        table.add_row(f"MaskedSum\n{_reason(run, 'expansion')}")
    for each in ours:
        table.add_row(
            f"MaskedSum, grinding_bits={each['grinding_bits']}",
            f"{each['clients']:,}",
            f"{each['parameters']:,}",
            graph_of(each),
            f"{each['sent']:,.0f}",
            f"{each['received']:,.0f}",
            f"{expansion(each):.3f}",
            f"{each['ring_bits'] / each['bits']:.3f}",
        )
    for other in EXPANSIONS:
        table.add_row(
            f"published: {other.who}",
            f"{other.clients:,}",
            f"{other.parameters:,}",
            "",
            "",
            "",
            f"{other.expansion:g}",
            f"{other.floor:g}",
        )
    return table


def flower_table(run: Run) -> Table:
    """Flower's SecAgg+ and MaskedSum on the same updates."""
    table = new_table(
        "MaskedSum and Flower's SecAgg+",
        FLOWER_CAPTION,
        "who",
        "clients × values",
        "k, t",
        "exch.",
        "client ms",
        "server ms",
        "all ms",
        "up B",
        "down B",
        "error",
        "ratio",
    )
    entries = sorted(run.all("flower"), key=lambda e: (e["clients"], e["parameters"]))
    if not entries:
        table.add_row(f"Flower\n{_reason(run, 'flower')}")
    for each in entries:
        size = each["parameters"]
        for who, laps in each["laps"].items():
            table.add_row(
                who,
                f"{each['clients']} × {size:,}",
                f"{each['degree'][who]}, {each['threshold'][who]}",
                str(each["exchanges"][who]),
                f"{1e3 * min(each['client_seconds'][who]):,.1f}",
                f"{1e3 * min(each['server_seconds'][who]):,.1f}",
                f"{1e3 * min(laps['cpu']):,.0f}",
                f"{each['up'][who] / size:.3f}",
                f"{each['down'][who] / size:.3f}",
                f"{each['max_error'][who]:.1e}",
                f"{ratio(each, 'Flower', who):.1f}",
            )
        table.add_section()
    return table


def targets_table(run: Run) -> Table:
    """Each target with what this run measured."""
    table = new_table(
        "Targets",
        TARGETS_CAPTION,
        "what, 16-bit values",
        "k, t",
        "measured",
        "target",
        "",
    )
    for target in TARGETS:
        limit, verdict = "", ""
        try:
            value = target.measure(run)
        except NotMeasured as reason:
            table.add_row(target.name, "", str(reason), "", "")
            continue
        if target.limit is not None:
            met = value >= target.limit if target.at_least else value <= target.limit
            limit = f"{'≥' if target.at_least else '≤'} {target.limit:,g}"
            verdict = "[green]met[/]" if met else "[red]missed[/]"
        graph = target.graph(run) if target.graph else ""
        measured = f"{value:,.{0 if value >= 100 else 2}f} {target.unit}"
        table.add_row(target.name, graph, measured, limit, verdict)
    return table


def peers_table(run: Run) -> Table:
    """Processor time and bytes of a value, ours and theirs."""
    table = new_table(
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
    rows += [
        ("LatticeSum, whole step, 10^6 values", "tenseal lattice", {}, "contribute", "open"),
        ("TenSEAL, symmetric key, 10^6 values", "tenseal lattice", {}, "TenSEAL encrypt", "TenSEAL decrypt"),
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
    table = new_table(
        "Primitives", "Processor time, least of the rounds.", "what", "values", "µs a call", "ns a value"
    )
    masking = [
        {"name": f"masks: {name}, 10 of 10^6 words", "values": laps["values"], "seconds": min(laps["cpu"])}
        for entry in run.all("masking")
        for name, laps in entry["laps"].items()
    ]
    masking += [
        {"name": f"masks: {name}, wall clock", "values": laps["values"], "seconds": min(laps["wall"])}
        for entry in run.all("threads")
        for name, laps in entry["laps"].items()
    ]
    for each in (*masking, *run.all("primitive")):
        micro, nano = 1e6 * each["seconds"], 1e9 * each["seconds"] / each["values"]
        table.add_row(each["name"], f"{each['values']:,}", f"{micro:,.1f}", f"{nano:,.2f}")
    return table


def _reason(run: Run, kind: str, **fields: Any) -> str:
    """Why there is no such benchmark here."""
    try:
        run.one(kind, **fields)
    except NotMeasured as reason:
        return str(reason)
    return ""
