"""The server's half: who is behind which node, sessions, and one sum after the other over a carrier.

A `Carrier` is an engine's transport: it hands parcels to nodes and brings their answers. The coordinator
finds out who is there (`Attendance`) and runs rounds among the members that it is told. It waits for nobody
for ever: each exchange has a deadline, after which it goes on with whoever answered; the one in which clients
train has what the round has left.

Nothing here is believed that a member's machine does not check again. The coordinator is what an honest
server runs; a lying one can do what THREAT_MODEL.md allows it to, whatever stands here.

* A round that aborts is over; the next one starts from what the machines remember.
* A change of roster, read between rounds, or a lost state opens a new session: new keys, and a new ledger
  entry at each site.

With a folder for its state the server's machines are stored before each message leaves, and a coordinator
that starts again over the same folder goes on in the same session; the round that was open is aborted first.
With an archive each round that ends, well or not, leaves a signed record there, or the training stops.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Final

from fl_integration.embedding.archive import Archive
from fl_integration.embedding.attendance import Attendance
from fl_integration.embedding.bringing import Bringing
from fl_integration.embedding.carrier import Carrier, Node, Patience
from fl_integration.embedding.parcels import Parcel, Place, Purpose, Step, encode_head, purpose_session
from fl_integration.site.sealed_folder import SealedFolder
from protocols.identity import ClientId
from protocols.interface import Learner, Outcome, Round, Server
from protocols.machine.parameters import MachineProtocol
from protocols.membership import RosterVersion, session_id
from protocols.messages.schema import U8, U64, Key32, UpTo, decode, encode
from protocols.planning.requirements import ceil_fraction
from protocols.run import run_round
from secagg.errors import DecodeError, ParameterError, PeerViolation, RoundAborted
from secagg.wire import Buffer

__all__ = ["Coordinator"]

_LOG: Final = logging.getLogger("secagg")
_FILE: Final = "server"
KEPT_ROUNDS: Final = 16
"""Rounds whose binding digest is told with results: more than a mailbox keeps."""


@dataclass(frozen=True, slots=True)
class Saved:
    """The server's state, as it is stored before a message leaves."""

    epoch: U64
    roster: Key32
    moved: Annotated[bytes, UpTo(32)]
    signer: Annotated[bytes, UpTo(32)]
    rounds: dict[U8, U64]
    shown: dict[U8, dict[U64, bytes]]
    machines: Annotated[dict[U8, bytes], UpTo(8)] = field(repr=False)


class Coordinator:
    """One study's server.

    Args:
        carrier: the engine's transport.
        sums: the protocol for each purpose.
        study: 1 to 255 bytes that name the training, and are no other's.
        roster: gives the roster's version that holds now; it is asked between rounds.
        terms: what both sides must agree on, as texts.
        patience: how long it waits.
        files: where the state is stored; None: nowhere, and a new coordinator opens a new session.
        archive: where the records of rounds are kept, and who signs them; None: nowhere, and nobody asks.
        clock, monotonic, pause: seconds since 1970; a clock for deadlines; waits so many seconds.
        member_at: where an engine names nodes as the roster names members: who alone may prove to be there.

    Attributes:
        reasons: why clients did not answer since the members were asked for, in their sites' words or the
            engine's.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        sums: Mapping[Purpose, MachineProtocol],
        study: bytes,
        roster: Callable[[], RosterVersion],
        terms: tuple[str, ...],
        patience: Patience,
        files: SealedFolder | None = None,
        archive: Archive | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        member_at: Callable[[Node], ClientId] | None = None,
    ) -> None:
        self._member_at = member_at
        self._carrier, self._sums, self._study, self._roster = carrier, dict(sums), study, roster
        self._terms, self._patience, self._files, self._archive = terms, patience, files, archive
        self._clock, self._monotonic, self._pause = clock, monotonic, pause
        self._version = roster()
        self._epoch = 0
        self._machines: dict[Purpose, Server] = {}
        self._rounds: dict[Purpose, int] = {}
        self._shown: dict[Purpose, dict[int, bytes]] = {}
        self._moved = b""  # digest of the arrays of the training that a sum was handed out for
        if self._restore():
            self._meet()
        else:
            self._open()

    # Sessions

    @property
    def version(self) -> RosterVersion:
        """The version of the roster that the open session is over."""
        return self._version

    @property
    def session(self) -> bytes:
        """The id of the open session, 32 bytes."""
        return session_id(self._study, self._version, self._epoch)

    def renew(self) -> None:
        """Opens a new session over the same roster: new keys, a new entry in each site's ledger."""
        self._leave(self._version)
        self._open()

    def _leave(self, version: RosterVersion) -> None:
        """Hands out what waits in the open session, to those who stay under `version`."""
        for purpose in self._machines:
            if self._sums[purpose].learns is Learner.CLIENTS:
                self.deliver(purpose, to=version.roster.members)

    def _open(self) -> None:
        self._epoch = max(int(self._clock() * 1000), self._epoch + 1)
        # Rounds go on counting: schedules of the clients' optimisers read their numbers.
        self._machines, self._shown = {}, {}
        self._meet()
        _LOG.info(
            "session %s opens over version %d of the roster (%s), %d members",
            self.session.hex()[:8], self._version.version, self._version.fingerprint,
            len(self._version.roster),
        )  # fmt: skip

    def _meet(self) -> None:
        """Begins to find out who is there, in the open session."""
        roster = self._version.roster
        self._attendance = Attendance(
            self._carrier,
            place=Place(self._study, self._version.version, self._version.digest, self._epoch),
            roster=roster,
            terms=self._terms,
            patience=self._patience,
            monotonic=self._monotonic,
            pause=self._pause,
            member_at=self._member_at,
        )
        share = max(protocol.suite.requirements.corrupt_fraction for protocol in self._sums.values())
        self._bringing = Bringing(
            self._attendance,
            roster=roster,
            corrupt=ceil_fraction(share, len(roster)),
            seconds=self._patience.exchange,
        )

    def _look_at_the_roster(self) -> None:
        """Between rounds: another version of the roster closes the session and opens one over itself."""
        version = self._roster()
        if version.digest == self._version.digest:
            return
        if version.version <= self._version.version:
            raise ParameterError(
                f"the roster is now version {version.version} ({version.fingerprint}); the open session is "
                f"over version {self._version.version} ({self._version.fingerprint}), and versions go up"
            )
        self._leave(version)
        self._version = version
        self._open()

    def _machine(self, purpose: Purpose) -> Server:
        if purpose not in self._machines:
            self._machines[purpose] = self._sums[purpose].server(
                roster=self._version.roster,
                session=purpose_session(self.session, purpose),
                identity=None if self._archive is None else self._archive.identity,
            )
        return self._machines[purpose]

    # The state

    def _restore(self) -> bool:
        data = None if self._files is None else self._files.read(_FILE)
        if data is None or self._files is None:
            return False
        try:
            saved = decode(Saved, data)
        except DecodeError as error:
            raise ParameterError(
                "the server's saved state is another release's; move its folder away, and this one opens a "
                "session of its own"
            ) from error
        self._epoch, self._moved = saved.epoch, saved.moved
        self._rounds = {Purpose(each): number for each, number in saved.rounds.items()}
        # A machine signs under the key that it began with: another key is another session.
        if saved.roster != self._version.digest or saved.signer != self._signer:
            return False
        self._shown = {Purpose(each): shown for each, shown in saved.shown.items()}
        for each, blob in saved.machines.items():
            if Purpose(each) not in self._sums:  # it was summed before, and is not any more
                continue
            machine = self._sums[Purpose(each)].restore_server(blob, key=self._files.key)
            # Whatever was asked in a round that was open, its answers went elsewhere: nobody answered.
            with suppress(RoundAborted, ParameterError):
                while machine.advance():
                    continue
            self._machines[Purpose(each)] = machine
            self._keep(Purpose(each))
        _LOG.info("session %s goes on", self.session.hex()[:8])
        return True

    def _store(self) -> None:
        if self._files is None:
            return
        saved = Saved(
            epoch=self._epoch,
            roster=self._version.digest,
            moved=self._moved,
            signer=self._signer,
            rounds={each.value: number for each, number in self._rounds.items()},
            shown={each.value: shown for each, shown in self._shown.items()},
            machines={
                each.value: machine.export(key=self._files.key) for each, machine in self._machines.items()
            },
        )
        self._files.write(_FILE, encode(saved))

    # Records

    @property
    def _signer(self) -> bytes:
        """The public key that signs the records; empty if each session draws its own."""
        return b"" if self._archive is None else self._archive.identity.key.public_key

    def _keep(self, purpose: Purpose) -> None:
        """Puts the record of the purpose's last round into the archive, if one ended."""
        if self._archive is None:
            return
        try:
            signed = self._machines[purpose].record()
        except ParameterError:  # none has ended yet
            return
        place = Place(self._study, self._version.version, self._version.digest, self._epoch)
        self._archive.keep(place, purpose, signed, ended=self._clock())

    def pause(self) -> None:
        """Waits as long as between two looks."""
        self._pause(self._patience.last_look)

    # Members

    def members(self) -> dict[Node, ClientId]:
        """The nodes that are there and proved to be members of the roster; new ones are greeted first.

        It waits for nodes that were not met before, as long as `patience.hello` says; for nobody else.
        """
        self._look_at_the_roster()
        self._attendance.reasons.clear()
        return self._attendance.members()

    @property
    def reasons(self) -> dict[ClientId, str]:
        """Why clients did not answer since the members were asked for: their sites' words or the engine's."""
        return self._attendance.reasons

    def settings(self, cohort: Collection[ClientId]) -> bytes:
        """The digest of the run's settings as most of a cohort have them.

        A client that has others will refuse the round: what is bound is bound at each client.
        """
        return self._attendance.settings(cohort)

    # Sums

    def sum(
        self,
        purpose: Purpose,
        cohort: Sequence[ClientId],
        *,
        length: int,
        model: bytes,
        withheld: Mapping[str, bytes],
        seconds: float,
        began: bytes = b"",
    ) -> Outcome:
        """One round of the purpose's protocol.

        Args:
            purpose: what the sum is for.
            cohort: members that `members` named.
            length: values in each update.
            model: the digest that the round binds.
            withheld: digests of array records that do not travel with it.
            seconds: for the whole round.
            began: digest of the arrays that the training began from, where clients learn the sum.

        Raises:
            ParameterError: the round can never work; nothing was sent.
            RoundAborted: too few clients were left.
        """
        machine = self._machine(purpose)
        number = self._rounds.get(purpose, 0)
        self._rounds[purpose] = number + 1
        shown = self._shown.setdefault(purpose, {})
        shown[number] = model
        for old in sorted(shown)[:-KEPT_ROUNDS]:
            del shown[old]
        self._attendance.reasons.clear()
        end = self._monotonic() + seconds

        def exchange(outbox: Mapping[ClientId, bytes]) -> Iterator[tuple[ClientId, Buffer]]:
            self._store()
            return self._exchange(purpose, outbox, frozenset(cohort), withheld, end=end)

        try:
            outcome = run_round(machine, Round(number, tuple(cohort), length, model), exchange)
            if purpose is Purpose.TRAIN and outcome.result is not None:
                self._moved = began
            return outcome
        finally:
            # The state first: a coordinator that dies in between finds the record in it.
            self._store()
            self._keep(purpose)

    def _exchange(
        self,
        purpose: Purpose,
        outbox: Mapping[ClientId, bytes],
        awaited: frozenset[ClientId],
        withheld: Mapping[str, bytes],
        *,
        end: float,
    ) -> Iterator[tuple[ClientId, Buffer]]:
        """Hands the outbox out and yields the answers, until all who are awaited answered or time is up."""
        collecting = self._machine(purpose).collecting
        learns = self._sums[purpose].learns is Learner.CLIENTS
        parcels = {}
        for client, body in outbox.items():
            shows = collecting and client in awaited
            head = Step(
                self._attendance.place,
                purpose.value,
                dict(withheld) if shows else {},
                self._shown.get(purpose, {}) if learns else {},
            )
            parcels[client] = Parcel(encode_head(head), body, shows=shows)
        until = self._until(purpose, collecting=collecting, end=end)
        return self._attendance.ask(parcels, awaited, seconds=until - self._monotonic())

    def _until(self, purpose: Purpose, *, collecting: bool, end: float) -> float:
        """When this exchange closes: training has what the exchanges behind it will not need."""
        now, each = self._monotonic(), self._patience.exchange
        if not collecting:
            return min(now + each, end)
        suite = self._sums[purpose].suite
        return max(end - each * (len(suite.exchanges) - suite.collecting - 1), now + min(each, end - now))

    # Where clients learn the sum

    def deliver(self, purpose: Purpose, *, to: Collection[ClientId] | None = None) -> None:
        """Hands out the results that wait for the next round, now; to these members, or to all."""
        machine = self._machine(purpose)
        waiting = machine.deliver()
        if outbox := {client: body for client, body in waiting.items() if to is None or client in to}:
            end = self._monotonic() + self._patience.exchange
            for sender, reply in self._exchange(purpose, outbox, frozenset(outbox), {}, end=end):
                with suppress(PeerViolation):  # the server has noted the culprit
                    machine.receive(sender, reply)
            self._store()

    def withholds(self, cohort: Collection[ClientId], began: bytes) -> bool:
        """Whether all of a cohort have a model of their own that began from the arrays of this digest."""
        return self._bringing.all_hold(cohort, began)

    def bring_along(self, cohort: Collection[ClientId], *, began: bytes) -> dict[ClientId, str]:
        """Lets peers hand their copy to those of a cohort who were left behind; who is behind still, and why.

        See `Bringing.along`.
        """
        self._attendance.reasons.clear()
        return self._bringing.along(cohort, began=began, moved=self._moved == began)
