"""A hospital's app on Flower's engine: an ordinary ClientApp, but for its mod.

What decides how safe it is stands in the SuperNode's own configuration, which the hospital writes: its name,
its key, the roster, and the protocol. A run's settings come from the server, and one that might choose the
protocol would choose PlainSum. So the mod is made when a message comes, from what this node says.

torch is imported where somebody trains: Flower starts a process for each message, and most ask for no
training.
"""

import os
import time
from pathlib import Path
from typing import Any, Final

from fl_integration.flower import by_node_config, secure_aggregation
from fl_integration.flower.engine import (
    ClientApp,
    ClientAppCallable,
    Context,
    Message,
    MetricRecord,
    RecordDict,
    arrays_in,
    record_of,
)
from fl_integration.loopback.processes import FOLDER_VARIABLE
from fl_integration.studies.heart.choices import Choice
from fl_integration.studies.heart.federation.folders import Federation
from fl_integration.studies.heart.federation.journal import Event
from fl_integration.studies.heart.records import Site

__all__ = ["HELD", "app"]

HELD: Final = "held-in-round"
"""A node's setting: the round in which its app, once it has trained, waits to be killed."""
HELD_SECONDS: Final = 300.0


def _secured(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    config: Any = context.node_config
    protocol = Choice(config["protocol"]).protocol(clients=int(config["num-partitions"]))
    return secure_aggregation(protocol, by_node_config)(message, context, call_next)


app = ClientApp(mods=[_secured])


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round on this hospital's patients."""
    config: Any = context.node_config
    content: Any = message.content
    site, number = Site(config["hospital"]), int(content["config"]["server-round"]) - 1
    here = Federation(Path(os.environ[FOLDER_VARIABLE])).at(site)
    here.journal.add(Event.TRAINS, round=number)
    from fl_integration.studies.heart.federation.local import trained

    model, weight = trained(
        arrays_in(message.content, "the server"),
        here.load_patients(),
        client=site.value,
        round=number,
        seed=int(config["seed"]),
    )
    here.journal.add(Event.TRAINED, round=number)
    if number == config.get(HELD):
        time.sleep(HELD_SECONDS)
    metrics = MetricRecord({"num-examples": weight})
    return Message(RecordDict({"arrays": record_of(model), "metrics": metrics}), reply_to=message)
