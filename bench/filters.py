"""The filter pair against NVFlare's homomorphic-encryption filters: `python -m bench filters`.

A million float32 in 62 layers, three sites. What runs is the own code of the filters, generators and
aggregators, with NVFlare's parameters for CKKS (degree 8192, moduli of 60, 40 and 40 bits, scale 2**40), in
one process, over the bytes that FOBS makes of each task and result. Training is one addition. Bytes are of
one site in one round, as they would go over the wire; seconds are processor time of a whole round, of all
four parties one after the other. Ours has in it what NVFlare's does without: signatures, sealed state and a
log on disk.

The contenders take turns; least times of the rounds after the first, which makes keys. Read the ratios.
"""

import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.aggregators.intime_accumulate_model_aggregator import (
    InTimeAccumulateWeightedAggregator,
)
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.shareablegenerators.full_model_shareable_generator import FullModelShareableGenerator
from nvflare.fuel.utils import fobs
from rich.table import Table

from bench.filter_wire import SITES, job

__all__ = ["CONTENDERS", "Row", "measure", "table_of"]

LAYERS: Final = 62
VALUES: Final = 10**6
ROUNDS: Final = 4
STEP: Final = 0.01
HE: Final = "NVFlare's HE filters (TenSEAL)"
CLEAR: Final = "in the clear"
WEIGHTS: Final = {"max_clients": len(SITES), "max_weight": 100, "clip": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A contender.

    Attributes:
        contender: its name.
        up, down: bytes of one site in one round.
        seconds: processor time of a round, of all parties.
        error: the largest error of a value of the model, a round.
    """

    contender: str
    up: int
    down: int
    seconds: float
    error: float


@dataclass(slots=True)
class Round:
    """What one round cost."""

    up: int
    down: int
    seconds: float


Run = Callable[[], Round]


def model() -> dict[str, np.ndarray]:
    """A million values in 62 layers of unequal sizes, most of them small."""
    sizes = np.geomspace(100, 100_000, LAYERS)
    sizes = np.floor(sizes * VALUES / sizes.sum()).astype(int)
    sizes[-1] += VALUES - sizes.sum()
    return {f"layer{place}": np.zeros(size, np.float32) for place, size in enumerate(sizes)}


def trained(site: str, dxo: DXO) -> Shareable:
    """A result of full weights, one step on."""
    moved = {name: np.asarray(value, np.float32) + np.float32(STEP) for name, value in dxo.data.items()}
    return DXO(DataKind.WEIGHTS, moved, {MetaKey.NUM_STEPS_CURRENT_ROUND: 10}).to_shareable()


@contextmanager
def ours(protocol: dict[str, Any]) -> Iterator[tuple[Run, Callable[[], np.ndarray]]]:
    """A job under the filter pair."""
    with (
        tempfile.TemporaryDirectory(prefix="secagg-filters-") as folder,
        job(Path(folder), model(), protocol=protocol, train=trained, rounds=99) as made,
    ):

        def run() -> Round:
            made.wire.seen.clear()
            began = time.process_time()
            made.round()
            seconds = time.process_time() - began
            if made.accepted != dict.fromkeys(SITES, True):
                raise RuntimeError("a round without a sum")
            up = sum(len(data) for sender, _, data in made.wire.seen if sender == SITES[0])
            down = sum(len(data) for _, to, data in made.wire.seen if to == SITES[0])
            return Round(up, down, seconds)

        def held() -> np.ndarray:
            shown = from_shareable(made.sites[SITES[0]].executor.shown[-1]).data
            return np.concatenate([np.ravel(each) for each in shown.values()])

        yield run, held


@contextmanager
def nvflares(*, encrypted: bool) -> Iterator[tuple[Run, Callable[[], np.ndarray]]]:
    """NVFlare's own components, in the clear or with its HE filters."""
    aggregator: Any = InTimeAccumulateWeightedAggregator(expected_data_kind=DataKind.WEIGHTS)
    generator: Any = FullModelShareableGenerator()
    incoming: list[Any] = []
    outgoing: list[Any] = []
    if encrypted:
        aggregator, generator, incoming, outgoing = _he()
    context = FLContext()
    context.set_prop(AppConstants.CURRENT_ROUND, 0, private=True, sticky=False)
    peer = FLContext()
    peer.set_prop(ReservedKey.IDENTITY_NAME, "peer", private=False, sticky=False)
    context.set_peer_context(peer)
    aggregator.handle_event(EventType.START_RUN, context)
    shapes = {name: each.shape for name, each in model().items()}
    state = {"model": make_model_learnable(model(), {}), "shown": np.empty(0)}
    numbers = iter(range(99))

    def run() -> Round:
        began, number, up, down = time.process_time(), next(numbers), 0, 0
        context.set_prop(AppConstants.CURRENT_ROUND, number, private=True, sticky=False)
        context.set_prop(AppConstants.GLOBAL_MODEL, state["model"], private=True, sticky=False)
        task = generator.learnable_to_shareable(state["model"], context)
        for site in SITES:
            down = len(data := fobs.dumps(task))
            shown = fobs.loads(data)
            for each in incoming:
                shown = each.process(shown, context)
            dxo = from_shareable(shown)
            dxo.data = {
                name: np.asarray(each, np.float32).reshape(shapes[name]) for name, each in dxo.data.items()
            }
            state["shown"] = np.concatenate([each.ravel() for each in dxo.data.values()])
            result = trained(site, dxo)
            for each in outgoing:
                result = each.process(result, context)
            up = len(data := fobs.dumps(result))
            arrived = fobs.loads(data)
            arrived.set_peer_props({ReservedKey.IDENTITY_NAME: site})
            arrived.add_cookie(AppConstants.CONTRIBUTION_ROUND, number)
            if not aggregator.accept(arrived, context):
                raise RuntimeError("a result that was not accepted")
        state["model"] = generator.shareable_to_learnable(aggregator.aggregate(context), context)
        aggregator.reset(context)
        return Round(up, down, time.process_time() - began)

    yield run, lambda: state["shown"]


def _he() -> tuple[Any, Any, list[Any], list[Any]]:
    import tenseal as ts
    from nvflare.app_opt.he.intime_accumulate_model_aggregator import HEInTimeAccumulateWeightedAggregator
    from nvflare.app_opt.he.model_decryptor import HEModelDecryptor
    from nvflare.app_opt.he.model_encryptor import HEModelEncryptor
    from nvflare.app_opt.he.model_shareable_generator import HEModelShareableGenerator
    from nvflare.lighter.impl.he import HEBuilder

    builder = HEBuilder()  # whose contexts are symmetric: ciphertexts half as large as under a public key
    builder.initialize(None, None)
    secret = ts.context_from(builder.get_serialized_context(is_client=True))
    public = ts.context_from(builder.get_serialized_context())
    generator, decryptor, encryptor = HEModelShareableGenerator(), HEModelDecryptor(), HEModelEncryptor()
    generator.tenseal_context = public
    decryptor.tenseal_context = encryptor.tenseal_context = secret
    encryptor.encrypt_layers = [True]  # as its START_RUN does
    aggregator = HEInTimeAccumulateWeightedAggregator(expected_data_kind=DataKind.WEIGHTS)
    return aggregator, generator, [decryptor], [encryptor]


Opened = AbstractContextManager[tuple[Run, Callable[[], np.ndarray]]]
CONTENDERS: Final[dict[str, Callable[[], Opened]]] = {
    CLEAR: lambda: nvflares(encrypted=False),
    HE: lambda: nvflares(encrypted=True),
    "CkksSum": lambda: ours({"name": "CkksSum", **WEIGHTS}),
    "LatticeSum over PaillierSum": lambda: ours(
        {"name": "LatticeSum", "keys": {"name": "PaillierSum"}, **WEIGHTS}
    ),
}


def measure(*, rounds: int = ROUNDS) -> list[Row]:
    """A row for each contender.

    Args:
        rounds: of each, the first of which is not counted.
    """
    logging.disable(
        logging.ERROR
    )  # NVFlare narrates every layer, and misses the engine that a filter may ask for
    try:
        with ExitStack() as stack:
            stack.enter_context(_stdout_unheard())
            opened = {name: stack.enter_context(make()) for name, make in CONTENDERS.items()}
            spent: dict[str, list[Round]] = {name: [] for name in opened}
            for _ in range(rounds):
                for name, (run, _) in opened.items():
                    spent[name].append(run())
            errors = {
                name: float(np.abs(held() - STEP * (rounds - 1)).max()) / (rounds - 1)
                for name, (_, held) in opened.items()
            }
    finally:
        logging.disable(logging.NOTSET)
    return [
        Row(
            contender=name,
            up=each[-1].up,
            down=each[-1].down,
            seconds=min(one.seconds for one in each[1:]),
            error=errors[name],
        )
        for name, each in spent.items()
    ]


@contextmanager
def _stdout_unheard() -> Iterator[None]:
    """TenSEAL's library warns on standard output of every vector that is longer than a ciphertext."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def table_of(rows: list[Row]) -> Table:
    """The rows, with ratios to ours of the least bytes."""
    table = Table(
        title=f"{VALUES:,} values in {LAYERS} layers, {len(SITES)} sites, a round", title_justify="left"
    )
    table.add_column("contender")
    for heading in ("MB up", "MB down", "s, all parties", "× in the clear", "error"):
        table.add_column(heading, justify="right")
    clear = next(row.seconds for row in rows if row.contender == CLEAR)
    for row in rows:
        table.add_row(
            row.contender,
            f"{row.up / 1e6:.1f}",
            f"{row.down / 1e6:.1f}",
            f"{row.seconds:.2f}",
            f"{row.seconds / clear:.1f}",
            f"{row.error:.0e}",
        )
    return table
