"""What the same protocols cost a model of a million parameters: real rounds among three clients.

Keys are set up in a first, tiny round, so that the second one shows what every later round costs. Processor
time is the smallest of several rounds, because a busy machine only ever adds to it; bytes are exact.

Paillier costs so much that it is measured on fewer parameters and scaled linearly: its work is one
ciphertext after another, and what a message holds besides is a few hundred bytes.

>>> from protocols import PlainSum
>>> cost = measure(PlainSum(max_clients=3), parameters=1000, measured=1000, repeats=1)
>>> cost.scaled, 1001 * 18 / 8 < cost.sent < 1001 * 18 / 8 + 200
(False, True)
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from fl_integration.studies.heart.choices import Choice
from protocols import Session
from protocols.machine.parameters import MachineProtocol
from secagg.errors import ParameterError

__all__ = ["CLIENTS", "PARAMETERS", "Cost", "cost_of", "measure"]

PARAMETERS: Final = 1_000_000
CLIENTS: Final = 3
_MEASURED: Final = {Choice.PAILLIER: 20_000}
_REPEATS: Final = {Choice.MASKED: 5, Choice.LATTICE: 5, Choice.PLAIN: 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One client's and the server's share of a round.

    Attributes:
        parameters: of the model.
        measured: parameters in the rounds that were run.
        sent, received: bytes of one client.
        client_seconds, server_seconds: processor seconds of cryptography.
    """

    parameters: int
    measured: int
    sent: int
    received: int
    client_seconds: float
    server_seconds: float

    @property
    def scaled(self) -> bool:
        """Whether the figures were scaled up from a smaller model."""
        return self.measured != self.parameters


def cost_of(choice: Choice) -> Cost:
    """The cost of the study's protocol for `PARAMETERS` parameters among `CLIENTS` clients."""
    return measure(
        choice.protocol(clients=CLIENTS),
        parameters=PARAMETERS,
        measured=_MEASURED.get(choice, PARAMETERS),
        repeats=_REPEATS.get(choice, 1),
    )


def measure(protocol: MachineProtocol, *, parameters: int, measured: int, repeats: int) -> Cost:
    """Runs `repeats` rounds of `measured` float32 parameters and scales them to `parameters`.

    Raises:
        ParameterError: a number is not an int of at least 1, or more would be measured than is asked.
    """
    for name, value in (("parameters", parameters), ("measured", measured), ("repeats", repeats)):
        if type(value) is not int or value < 1:
            raise ParameterError(f"{name} is {value!r}; it must be an int of at least 1")
    if measured > parameters:
        raise ParameterError(f"measured is {measured}; it must be at most parameters = {parameters}")
    names = tuple(f"client-{index}" for index in range(CLIENTS))
    rng = np.random.default_rng(1)
    updates = {name: rng.normal(0, 0.1, measured).astype(np.float32) for name in names}
    session = Session(protocol, names)
    session.round({name: update[:16] for name, update in updates.items()})
    rounds = [session.round(updates) for _ in range(repeats)]
    factor, client = parameters / measured, max(names, key=lambda name: rounds[0].traffic[name].sent)
    return Cost(
        parameters=parameters,
        measured=measured,
        sent=round(factor * rounds[0].traffic[client].sent),
        received=round(factor * rounds[0].traffic[client].received),
        client_seconds=factor * min(run.seconds[name] for run in rounds for name in names),
        server_seconds=factor * min(run.seconds["server"] for run in rounds),
    )
