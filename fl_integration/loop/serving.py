"""The server of a federated training, with or without the model.

It wraps its half of a `SumProtocol`: `FederatedServer.round` takes whatever `exchange` function moves the
bytes. Where the server learns the sums it has the global model, sends it down with each round and applies
each mean to it. Where the clients do, it is blind: it knows how long a vector is, and a digest of the model
that all began from.

>>> FederatedServer.blind(None, length=3, base=bytes(32)).model is None
True
"""

from collections.abc import Collection
from dataclasses import replace
from typing import Self

from fl_integration.loop.global_model import GlobalModel
from fl_integration.loop.noised import NoisedSums
from protocols.identity import ClientId
from protocols.interface import Outcome, Round, Server
from protocols.run import Exchange, run_round

__all__ = ["FederatedServer"]


class FederatedServer:
    """The server of a training: its protocol machine and, only if it learns the sums, the global model.

    Make it with `knowing` or `blind`.

    Attributes:
        base: digest (32 bytes) of the initial model; None if it knows the model.
    """

    def __init__(
        self,
        machine: Server,
        *,
        length: int,
        model: GlobalModel | None,
        base: bytes | None,
        sums: NoisedSums | None = None,
    ) -> None:
        self.machine, self.base = machine, base
        self._length, self._model, self._sums = length, model, sums
        self._body = b""

    @classmethod
    def knowing(cls, machine: Server, *, start: GlobalModel, sums: NoisedSums | None = None) -> Self:
        """For `Learner.SERVER`: begins from `start` and applies each mean to it.

        Args:
            sums: how a private training reads its sums; None without privacy.
        """
        length = start.layout.length if sums is None else sums.length
        return cls(machine, length=length, model=start, base=None, sums=sums)

    @classmethod
    def blind(cls, machine: Server, *, length: int, base: bytes) -> Self:
        """For `Learner.CLIENTS`: knows the number of values and the digest of the initial model."""
        return cls(machine, length=length, model=None, base=base)

    @property
    def body(self) -> bytes:
        """What goes down with a round: the model, or the digest of the one that all began from."""
        if self._model is None:
            return self.base or b""
        if not self._body:
            self._body = self._model.body()
        return self._body

    @property
    def model(self) -> GlobalModel | None:
        """The global model, if this server knows it."""
        return self._model

    @model.setter
    def model(self, model: GlobalModel) -> None:
        self._model, self._body = model, b""

    def round(self, number: int, cohort: Collection[ClientId], exchange: Exchange) -> Outcome:
        """Runs one round and applies its mean.

        Raises:
            ParameterError: the round can never work; nothing was sent.
            RoundAborted: too few clients were left; the model is as it was.
        """
        outcome = run_round(self.machine, Round(number, tuple(cohort), self._length, self.body), exchange)
        if outcome.total is not None and self._sums is not None:
            outcome = replace(outcome, total=self._sums.read(outcome.total))
        if outcome.total is not None and self._model is not None:
            self.model = self._model.moved(outcome.total, round=number)
        return outcome
