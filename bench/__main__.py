"""`python -m bench`: measure, print, draw. See README.md for how to read what it says."""

import argparse
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.pictures import (
    draw_bytes,
    draw_clients,
    draw_crossing,
    draw_dropouts,
    draw_lattice,
    draw_time,
)
from bench.report import print_report
from bench.run import Run

HERE = Path(__file__).parent


def main() -> int:
    """Runs the suite and reports; the exit code is pytest's."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What the cryptography costs.")
    parser.add_argument(
        "page",
        nargs="?",
        choices=["flamby", "epsilon", "engines", "filters", "statistics", "privacy"],
        help="instead: FLamby's table of accuracies, see FLAMBY.md; the same patients under differential "
        "privacy, see EPSILON.md; rounds on the engines themselves; the filter pair against NVFlare's HE "
        "filters; questions to several sites; what noise costs a client",
    )
    parser.add_argument(
        "--deployment",
        action="store_true",
        help="engines: SuperLink and SuperNodes in place of the simulation",
    )
    parser.add_argument(
        "--nvflare",
        action="store_true",
        help="engines: NVFlare's simulator in place of Flower's",
    )
    parser.add_argument("--quick", action="store_true", help="leave out what takes many seconds")
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out"), help="folder for JSON, text and pictures"
    )
    parser.add_argument("--json", type=Path, help="report on this earlier run instead of measuring")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.page == "flamby":
        return show_flamby(options.out)
    if options.page == "epsilon":
        return show_epsilon(options.out, quick=options.quick)
    if options.page == "engines":
        engines = {"DEPLOYMENT": options.deployment, "NVFLARE": options.nvflare}
        named = next((name for name, wanted in engines.items() if wanted), "SIMULATION")
        return show_engines(options.out, named, quick=options.quick)
    if options.page == "filters":
        return show_filters(options.out, quick=options.quick)
    if options.page == "privacy":
        return show_privacy(options.out)
    if options.page == "statistics":
        return show_statistics(options.out)
    source = options.json or options.out / "benchmark.json"
    code = 0 if options.json else measure(source, quick=options.quick)
    if not source.exists():
        return code
    run = Run.load(source)  # what was measured is shown, whether or not all of it was
    print_report(run, Console(width=None if sys.stdout.isatty() else 132))
    with (options.out / "report.txt").open("w", encoding="utf-8") as file:
        print_report(run, Console(file=file, width=132))
    draw_time(run, options.out / "time.png")
    draw_bytes(run, options.out / "bytes.png")
    draw_dropouts(run, options.out / "dropouts.png")
    draw_clients(run, options.out / "clients.png")
    draw_lattice(run, options.out / "lattice.png")
    draw_crossing(run, options.out / "crossing.png")
    return code


def show_flamby(out: Path) -> int:
    """Trains FLamby's table in the clear and under MaskedSum, prints it, and leaves it as `flamby.md`."""
    from bench.flamby import scales
    from bench.flamby.table import HEADERS, MASKED, lines_of, markdown_of, reproduce, table_of

    lines = lines_of(reproduce(), reproduce(protocol=MASKED))
    on_scales = scales.lines_of(scales.measure())
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table_of(lines))
    console.print(scales.table_of(on_scales))
    text = f"{markdown_of(HEADERS, lines)}\n{markdown_of(scales.HEADERS, on_scales)}"
    (out / "flamby.md").write_text(text, encoding="utf-8")
    return 0


def show_epsilon(out: Path, *, quick: bool) -> int:
    """Trains FLamby's model by ε, prints the tables, and leaves `epsilon.md` and `epsilon.png`."""
    from bench.flamby import epsilon, membership
    from bench.flamby.table import markdown_of

    rows = epsilon.measure(runs=epsilon.QUICK_RUNS) if quick else epsilon.measure()
    lines, attacked = epsilon.lines_of(rows), membership.lines_of(membership.measure(rows))
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(epsilon.table_of(lines, runs=len(rows[-1].first.accuracy)))
    console.print(membership.table_of(attacked))
    text = f"{markdown_of(epsilon.HEADERS, lines)}\n{markdown_of(membership.HEADERS, attacked)}"
    (out / "epsilon.md").write_text(text, encoding="utf-8")
    epsilon.draw(rows, out / "epsilon.png")
    return 0


def show_engines(out: Path, named: str, *, quick: bool) -> int:
    """Times rounds on an engine, prints the table, and leaves it as `engines.txt`."""
    from bench.engines import Engine, table_of
    from bench.engines import measure as measure_engine

    engine = Engine[named]
    table = table_of(engine, measure_engine(engine, quick=quick))
    Console(width=None if sys.stdout.isatty() else 132).print(table)
    with (out / "engines.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=132).print(table)
    return 0


def show_filters(out: Path, *, quick: bool) -> int:
    """Times rounds of the filter pair beside NVFlare's, prints the table, and leaves it as `filters.txt`."""
    from bench.filters import measure as measure_filters
    from bench.filters import table_of as table_of_filters

    table = table_of_filters(measure_filters(rounds=2) if quick else measure_filters())
    Console(width=None if sys.stdout.isatty() else 132).print(table)
    with (out / "filters.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=132).print(table)
    return 0


def show_statistics(out: Path) -> int:
    """Times questions to several sites, prints the table, and leaves it as `statistics.txt`."""
    from bench.statistics import measure as measure_statistics
    from bench.statistics import table_of as table_of_statistics

    table = table_of_statistics(measure_statistics())
    Console(width=None if sys.stdout.isatty() else 132).print(table)
    with (out / "statistics.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=132).print(table)
    return 0


def show_privacy(out: Path) -> int:
    """Times a client with noise beside one without, prints the table, and leaves it as `privacy.txt`."""
    from bench.privacy import measure as measure_privacy
    from bench.privacy import table_of as table_of_privacy

    table = table_of_privacy(measure_privacy())
    Console(width=None if sys.stdout.isatty() else 132).print(table)
    with (out / "privacy.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=132).print(table)
    return 0


def measure(json_path: Path, *, quick: bool) -> int:
    """Runs all benchmarks of this folder into a JSON file, which grows with each of them."""
    json_path.unlink(missing_ok=True)  # an earlier run's
    arguments = [
        str(HERE),
        "--override-ini=addopts=--import-mode=importlib",
        "--no-header",
        "-qq",
        "--benchmark-only",
        "--benchmark-quiet",
        "--benchmark-disable-gc",
        "--benchmark-max-time=0.5",
        "--benchmark-columns=min,rounds",
        f"--results={json_path}",
    ]
    if quick:
        arguments += ["-m", "not lengthy"]
    return int(pytest.main(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
