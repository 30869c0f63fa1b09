"""`secagg-hospitals`: real hospitals train one model; see what each way costs and what it hides.

Act one trains with three hospitals: each alone, all rows in one pile, federated in the clear, and through
each secure sum. Act two adds a fourth and loses one in the middle of a round. Exit code 2 and one line on
standard error when something cannot work.

>>> build_parser().parse_args(["--rounds", "5"]).rounds
5
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from fl_integration.command.console import degrade
from fl_integration.command.preparing import ACCOUNTING, check_promise, check_run, need_packages
from fl_integration.command.showing import described, output, progress, ticker, write_and_show
from secagg.errors import SecAggError

if TYPE_CHECKING:
    from fl_integration.studies.heart.findings import Act, Repeat

__all__ = ["build_parser", "main"]

_PROG: Final = "secagg-hospitals"
_CHOICES: Final = ("masked", "lattice", "ckks", "paillier", "plain")
_SECURE: Final = _CHOICES[:-1]
SPLITS: Final = 5
_EXAMPLES: Final = """\
examples:
  secagg-hospitals                       both acts, all four secure sums, into ./secagg-hospitals-out
  secagg-hospitals --protocol masked     MaskedSum alone beside training in the clear
  secagg-hospitals --sites 4 --seed 7    only act two, another split
  secagg-hospitals --rounds 5 --out x    a short run, results in ./x
  secagg-hospitals --epsilon 1           with a training beside it that hides each patient in noise

what it writes into DIR:
  report.html                everything on one page, nothing loaded from elsewhere
  auc_by_round.png           how well each way of training does (dropout.png: act two)
  what_the_server_saw.png    one hospital's update, the bytes that the server got, the mean (MaskedSum)
  results.json               every number
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{_PROG}: {message} (see {_PROG} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog=_PROG,
        description="Real hospitals train one heart-disease model together. Shows what joining brings, that\n"
        "the secure sums learn the same model as training in the clear, and what they cost.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--protocol",
        choices=_CHOICES,
        help="only this one, beside training in the clear (default: the secure ones)",
    )
    parser.add_argument(
        "--rounds", type=int, default=20, metavar="N", help="rounds of training (default: 20)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="of the split into training and test patients, of "
        "training and of this demonstration's keys (default: 1)",
    )
    parser.add_argument(
        "--sites",
        type=int,
        choices=(3, 4),
        help="3: only act one; 4: only act two, in which one hospital is lost (default: both)",
    )
    parser.add_argument(
        "--standardise",
        choices=("site", "pooled"),
        default="site",
        help="scale measurements by each hospital's own mean and deviation (default), or by those of all "
        "training patients, from secure sums",
    )
    parser.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="train with differential privacy as well: what all rounds tell of one patient, 1 is strict",
    )
    parser.add_argument(
        "--delta", type=float, metavar="D", help="the chance that epsilon does not hold (default: 1e-4)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("secagg-hospitals-out"), metavar="DIR",
        help="where the results go; made if it is not there (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demonstration; the exit code."""
    degrade(sys.stdout, sys.stderr)
    logging.getLogger("secagg").addHandler(logging.NullHandler())  # the report says who was lost, and when
    arguments = build_parser().parse_args(argv)
    written: list[Path] = []
    try:
        _run(arguments, written)
    except SecAggError as error:
        sys.stderr.write(f"{_PROG}: {error}\n")
        return 2
    except KeyboardInterrupt:
        what = f"the results are in {arguments.out}" if written else "nothing was written"
        sys.stderr.write(f"{_PROG}: interrupted; {what}\n")
        return 130
    return 0


def _run(arguments: argparse.Namespace, written: list[Path]) -> None:
    """Trains, writes the files, and shows what is in them, in this order; `written` says how far it came."""
    names = (arguments.protocol,) if arguments.protocol else _SECURE
    check_run(rounds=arguments.rounds, seed=arguments.seed, out=arguments.out)
    check_promise(arguments.epsilon, arguments.delta, protocols=names)
    need_packages(names, [] if arguments.epsilon is None else [ACCOUNTING])
    import torch

    from fl_integration.loop.standardising import Standardise
    from fl_integration.studies.heart import report, study
    from fl_integration.studies.heart.choices import Choice
    from fl_integration.studies.heart.costs import cost_of
    from fl_integration.studies.heart.private import DELTA, Promise

    torch.set_num_threads(1)  # sums in one order: the same figures on every run
    console = output()
    promise = None
    if arguments.epsilon is not None:
        delta = DELTA if arguments.delta is None else arguments.delta
        promise = Promise(epsilon=arguments.epsilon, delta=delta)
    choices, rounds, seed = tuple(Choice(name) for name in names), arguments.rounds, arguments.seed
    standardise = Standardise(arguments.standardise)
    both, lost = arguments.sites is None, None
    if arguments.sites != 3:
        lost = study.loss_in_act_two(rounds)
    report.write(arguments.out, {})
    acts: list[Act] = []
    repeats: tuple[Repeat, ...] = ()
    refusals: dict[Choice, str] = {}
    with progress() as bars:
        costs = {}
        task = bars.add_task("what a million parameters cost", total=len(choices))
        for choice in choices:
            bars.update(task, description=f"a million parameters: {choice.title}")
            costs[choice] = cost_of(choice)
            bars.advance(task)
        if both or arguments.sites == 3:
            total = study.ticks(sites=3, choices=choices, rounds=rounds, promise=promise)
            tick = ticker(bars, "act one", total)
            acts.append(
                study.run_act(
                    sites=3,
                    choices=choices,
                    rounds=rounds,
                    seed=seed,
                    standardise=standardise,
                    promise=promise,
                    tick=tick,
                )
            )
            tick = ticker(bars, "other splits", SPLITS)
            repeats = study.repeat_gains(
                splits=SPLITS, rounds=rounds, seed=seed, standardise=standardise, tick=tick
            )
        if lost is not None:
            total = study.ticks(sites=4, choices=choices, rounds=rounds, promise=promise)
            tick = ticker(bars, "act two", total)
            acts.append(
                study.run_act(
                    sites=4,
                    choices=choices,
                    rounds=rounds,
                    seed=seed,
                    lost=lost,
                    standardise=standardise,
                    promise=promise,
                    tick=tick,
                )
            )
            refusals = {choices[0]: study.refusal_among_three(choices[0], seed=seed)}
        cohort = described(bars, sites=len(acts[-1].hospitals), seed=seed)
    write_and_show(
        console, tuple(acts), costs, repeats, refusals, folder=arguments.out, written=written, cohort=cohort
    )


if __name__ == "__main__":
    sys.exit(main())
