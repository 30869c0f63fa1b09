"""The tables of LatticeSum: what its long vector costs, and where it crosses MaskedSum."""

from rich.table import Table

from bench.run import Run, least

__all__ = ["crossing_table", "lattice_table", "new_table"]

LATTICE_CAPTION = (
    "Ten clients, 10^6 values, processor time of a value. Contribute: a client's whole step from the update "
    "to the message. Add: one addition of unpacked vectors. Unpack + add: of a packed one. Receive: all that "
    "the server does with a client's message, hashing included. Open: the server's last step, which unmasks "
    "the sum of the keys and opens the sum of the vectors. Key layer: MaskedSum."
)
CROSSING_CAPTION = (
    "LatticeSum over MaskedSum, steady rounds of 16-bit values in turn, default requirements: below 1 "
    "LatticeSum is cheaper. Client, server: processor time, least of the rounds. Lost: the same server when "
    "that many clients vanish before their vector. Bytes: a client's in both directions, without the model. "
    "Figures are LatticeSum's, ratios are LatticeSum's over MaskedSum's."
)


def new_table(title: str, caption: str, *columns: str) -> Table:
    """An empty table; all columns but the first are numbers."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index > 0)
    return table


def lattice_table(run: Run) -> Table:
    """What a value of LatticeSum's long vector costs in each step."""
    table = new_table(
        "LatticeSum's long vector",
        LATTICE_CAPTION,
        "values",
        "contribute ns",
        "add ns",
        "unpack + add ns",
        "receive ns",
        "open ns",
        "B/parameter",
    )
    for each in run.all("lattice vector"):
        steps = ("contribute", "add", "unpack and add", "receive", "open")
        table.add_row(
            f"{each['bits']} bits, weights up to {each['max_weight']}",
            *(f"{1e9 * least(each, step):.2f}" for step in steps),
            f"{each['up'] / each['parameters']:.3f}",
        )
    return table


def crossing_table(run: Run) -> Table:
    """From which model on LatticeSum is cheaper than MaskedSum."""
    table = new_table(
        "The crossing of LatticeSum and MaskedSum",
        CROSSING_CAPTION,
        "clients",
        "values",
        "client ms",
        "ratio",
        "server ms",
        "ratio",
        "lost",
        "server ms",
        "ratio",
        "bytes",
        "ratio",
    )
    for each in sorted(run.all("crossing"), key=lambda e: int(e["clients"])):
        lattice, masked = each["points"]["LatticeSum"], each["points"]["MaskedSum"]
        for length in lattice:
            cells: list[str] = []
            for field in ("client_seconds", "server_seconds", "server_seconds_lossy"):
                ours, other = lattice[length][field], masked[length][field]
                if field == "server_seconds_lossy":
                    cells.append(str(each["lost"]) if ours else "")
                cells += [f"{1e3 * min(ours):.1f}", f"{min(ours) / min(other):.2f}"] if ours else ["", ""]
            ours, other = lattice[length]["bytes"], masked[length]["bytes"]
            cells += [f"{ours:,.0f}", f"{ours / other:.2f}"]
            last = length == list(lattice)[-1]
            table.add_row(str(each["clients"]), f"{int(length):,}", *cells, end_section=last)
    return table
