"""What `federate` costs beyond the sites' steps and the protocol's machines: `python -m bench.loop`.

Processor time in ns a parameter, three sites, one thread: of a training of one round (it makes the sites'
copies of the model and ends with a digest) and of each further round. Least of several runs.
"""

import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from fl_integration import LocalTraining, Progress, Watch, federate
from fl_integration.site import site as room
from protocols import MaskedSum, PlainSum

RUNS = 3
FURTHER = 4


class Big(nn.Module):
    """Eleven million parameters in 62 entries, as ResNet-18 has, of which a step moves three."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(2, 1)
        self.rest = nn.ParameterList([nn.Parameter(torch.randn(512, 352)) for _ in range(62)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.small(x)


def overhead(protocol: Any, *, rounds: int) -> float:
    """Seconds of one training, less those of its steps and machines."""
    model, x, spent, step = Big(), torch.randn(8, 2), [0.0], room.run_step

    def timed(*given: Any, **options: Any) -> Any:
        since = time.process_time()
        try:
            return step(*given, **options)
        finally:
            spent[0] += time.process_time() - since

    room.run_step = timed
    try:
        since = time.process_time()
        run = federate(
            protocol,
            model,
            {name: [(x, x[:, :1])] for name in "abc"},
            local=LocalTraining(loss=nn.functional.mse_loss, learning_rate=0.1),
            rounds=rounds,
            watch=Watch(progress=Progress.NEVER),
        )
        elapsed = time.process_time() - since
    finally:
        room.run_step = step
    return elapsed - spent[0] - sum(sum(report.seconds.values()) for report in run.history)


def main() -> None:
    """Measures and prints."""
    torch.set_num_threads(1)
    parameters = sum(each.numel() for each in Big().parameters())
    overhead(PlainSum(max_clients=3, max_weight=8), rounds=1)  # what only the first pays
    table = Table("protocol", "one round, ns a parameter", "each further round")
    for kind in (PlainSum, MaskedSum):
        protocol = kind(max_clients=3, max_weight=8)
        one, more = (
            min(overhead(protocol, rounds=rounds) for _ in range(RUNS)) for rounds in (1, 1 + FURTHER)
        )
        scale = 1e9 / parameters
        table.add_row(kind.__name__, f"{one * scale:.1f}", f"{(more - one) / FURTHER * scale:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
