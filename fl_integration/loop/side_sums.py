"""Exact sums beside the rounds of a training: the first scales, and evaluations on the sites' own test data.

They run on the integer surface of the same protocol (`SumProtocol.exact`), between machines of their own: the
same roster, another session, set up when first needed and kept for the next. What goes down with the request,
the model for instance, is bound as a round's model is (ATTACKS A9). Who learns the sums learns these too.

Two such sums of different sites can be subtracted from each other, like all sums. Counts of the same examples
in round after round are: when a site is missing from one of them, the difference says what that site counts.
"""

import time
from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.loop.in_process import InProcess
from fl_integration.site.site import SiteFailedError
from protocols.identity import ClientId, Identity, Roster
from protocols.interface import Client, IntegerSum, Learner, NeedUpdate, Round
from protocols.machine.parameters import MachineProtocol
from protocols.run import run_round
from protocols.simulation import Message, Traffic
from secagg.entropy import Entropy, draw
from secagg.errors import ParameterError, PeerViolation, RoundAborted

__all__ = ["Counts", "SideSums"]

Counts: TypeAlias = npt.NDArray[np.uint64]

Count: TypeAlias = Callable[[ClientId, bytes], Counts]
"""`count(client, model)`: what one client adds, given what came down with the request."""

Head: TypeAlias = Callable[[ClientId], bytes]
"""What a client's counts answer, where the clients learn the sum: see `Client.contribute`."""


class _Respondent:
    """A client's machine, and what it contributes when it is asked."""

    def __init__(self, name: ClientId, machine: Client) -> None:
        self._name, self.machine = name, machine
        self.seconds = 0.0
        self.count: Count | None = None
        self.head: Head | None = None

    def answer(self, request: bytes) -> bytes:
        """The reply to one message of the server."""
        since = time.process_time()
        asked = self.machine.receive(request)
        self.seconds += time.process_time() - since
        if not isinstance(asked, NeedUpdate) or self.count is None:
            return asked if isinstance(asked, bytes) else b""
        counts = self.count(self._name, asked.model)
        since = time.process_time()
        try:
            return self.machine.contribute(counts, head=self.head(self._name) if self.head else None)
        except ParameterError as error:
            raise SiteFailedError.of(error) from error
        finally:
            self.seconds += time.process_time() - since


class SideSums:
    """Exact sums of one kind, all parties in this process.

    Args:
        protocol: of the training.
        max_summand: the largest count.
        length: counts of one client.
        identities: of all clients.
        entropy: `entropy(purpose)` gives a party's randomness.
        on_message: sees every message.

    Raises:
        ParameterError: counts that large do not fit.
    """

    def __init__(
        self,
        protocol: MachineProtocol,
        *,
        max_summand: int,
        length: int,
        identities: Collection[Identity],
        entropy: Callable[[str], Entropy],
        on_message: Callable[[int, Message], None] | None = None,
    ) -> None:
        exact = protocol.exact(max_summand=max_summand)
        roster, session = Roster.of(*identities), draw(entropy("session"), 16)
        self._learns, self._length = protocol.learns, length
        self._server = exact.server(roster=roster, session=session, entropy=entropy("machine/server"))
        self._respondents = {
            each.client: _Respondent(
                each.client,
                exact.client(
                    identity=each,
                    roster=roster,
                    session=session,
                    entropy=entropy(f"machine/{each.client}"),
                ),
            )
            for each in identities
        }
        self._exchange = InProcess(exact.exchanges(first=True), self._respondents, on_message=on_message)

    def run(
        self, number: int, cohort: Collection[ClientId], count: Count, *, model: bytes, head: Head
    ) -> tuple[dict[ClientId, IntegerSum], dict[str, Traffic]]:
        """One sum.

        Args:
            number: above those of all earlier sums of this kind.
            cohort: who is asked.
            count: what a client adds; `SiteFailedError` where it cannot.
            model: what goes down with the request.
            head: what a client's counts answer; asked only where the clients learn the sum.

        Returns:
            The sum, by each client that opened it (by every client where the server learns it); and bytes by
            party. Who could not count, and why, is in `failures`.

        Raises:
            RoundAborted: too few were left.
        """
        for respondent in self._respondents.values():
            respondent.count = count
            respondent.head = head if self._learns is Learner.CLIENTS else None
        self._exchange.begin(number, {})
        try:
            outcome = run_round(
                self._server, Round(number, tuple(cohort), self._length, model), self._exchange
            )
        except RoundAborted as error:
            if reasons := {**self._exchange.refusals, **self._exchange.failures}:
                said = "; ".join(f"{name}: {getattr(each, 'logged', each)}" for name, each in reasons.items())
                # Behind the cause the server says who was lost, in the dark about why, which is known here.
                cause = error.reason.partition("; ")[0]
                raise RoundAborted(
                    f"{cause} ({said})", culprits=error.culprits, opened=error.opened
                ) from error
            raise
        if self._learns is Learner.SERVER:
            found = dict.fromkeys(self._respondents, outcome.total)
        else:
            for sender, reply in self._exchange(self._server.deliver()):
                self._server.receive(sender, reply)
            found = {name: _opened(each.machine, number) for name, each in self._respondents.items()}
        traffic, _ = self._exchange.costs()
        sums = {name: total for name, total in found.items() if isinstance(total, IntegerSum)}
        return sums, traffic

    @property
    def traffic(self) -> dict[str, Traffic]:
        """Bytes of the last sum, by party."""
        return self._exchange.costs()[0]

    @property
    def failures(self) -> dict[ClientId, SiteFailedError]:
        """What kept sites from the last sum."""
        return dict(self._exchange.failures)

    @property
    def refusals(self) -> dict[ClientId, str]:
        """Why clients did not go along with the last sum."""
        return dict(self._exchange.refusals)

    @property
    def missing(self) -> dict[ClientId, str]:
        """Who was asked and is not in the last sum, and why."""
        return self._missing({name: each.reason for name, each in self._exchange.failures.items()})

    @property
    def missing_in_a_log(self) -> dict[ClientId, str]:
        """The same, without the words of a site's own code."""
        return self._missing({name: each.logged for name, each in self._exchange.failures.items()})

    def _missing(self, failed: Mapping[ClientId, str]) -> dict[ClientId, str]:
        record = self._server.record().record
        reasons = {**record.dropped, **self._exchange.refusals, **failed}
        return {name: reason for name, reason in reasons.items() if name not in record.contributors}

    def remember(self, contributors: Collection[ClientId], *, model: bytes) -> None:
        """The last sum was opened and leads to nothing: the next one is not nearly the same (ATTACKS A10)."""
        if self._learns is Learner.SERVER:  # where the clients do, the machine remembers every sum
            self._server.remember(contributors, model=model)


def _opened(machine: Client, number: int) -> object:
    """The sum of round `number`, if it opens here; else None. One of an earlier round may open first."""
    found = None
    for result in machine.results:
        try:
            total = machine.open(result)
        except (PeerViolation, RoundAborted, ParameterError):
            continue
        if total.round == number:
            found = total
    return found
