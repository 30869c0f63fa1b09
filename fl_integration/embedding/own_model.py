"""A site's own model on its disk, where the clients learn the sum: how it begins, and how it is handed over.

`HeldModel` is the model; here is when one begins from the server's arrays, what becomes of one of another
training, and the errands by which a client is brought along that was left behind. What peers say is checked
by `fl_integration.site.handover`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fl_integration.embedding.delivery import Delivery
from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.held_model import HeldModel
from fl_integration.embedding.parcels import (
    NO_COPY,
    Answer,
    Brought,
    Copy,
    Errand,
    Handover,
    Parcel,
    encode_head,
    said,
)
from fl_integration.loop.optimisers import ServerOptimiser
from fl_integration.site import handover
from fl_integration.site.sealed_folder import SealedFolder
from protocols.identity import ClientId
from protocols.interface import ReleaseLog
from protocols.messages.schema import decode
from protocols.planning.requirements import ceil_fraction
from secagg.errors import DecodeError, PeerViolation, VerificationError
from secagg.secret import Secret

__all__ = ["BEFORE", "COPY", "PENDING", "Open", "OwnModel", "file_of", "standing"]

_LOG: Final = logging.getLogger("secagg")
COPY: Final = "copy"
BEFORE: Final = "copy before"
PENDING: Final = "pending"


@dataclass(frozen=True, slots=True)
class Open:
    """The session that a message belongs to, while nobody else works on this site's state."""

    session: bytes
    files: SealedFolder
    log: ReleaseLog


class OwnModel:
    """What a site does with its model.

    Args:
        enrolment: the site's part in the study.
        optimiser: turns a mean into a step, at all clients alike.
        corrupt_share: of the roster, that may be corrupt.
    """

    def __init__(self, enrolment: Enrolment, *, optimiser: ServerOptimiser, corrupt_share: float) -> None:
        self._enrolment, self._optimiser, self._corrupt_share = enrolment, optimiser, corrupt_share
        self._me = enrolment.identity.client

    def write(self, held: HeldModel, here: Open) -> None:
        """Stores the model."""
        here.files.write(self._file(COPY), held.to_bytes(session=here.session))

    def holds(self, withheld: Mapping[str, bytes], delivery: Delivery, held: HeldModel | None) -> bool:
        """Whether what did not travel is the model that this site holds, and no more.

        A digest may stand for anything else, too: a configuration that the others' applications are shown,
        and this one is not (A9).
        """
        return held is not None and [*withheld.values()] == [held.began] and delivery.arrays() is None

    def read(self, here: Open) -> HeldModel | None:
        """The model as it lies on this site's disk; None if there is none."""
        try:
            data = here.files.read(self._file(COPY))
        except VerificationError:
            _LOG.warning("%s: its model does not open, and counts as gone; peers may hand it over", self._me)
            return None
        if data is None:
            return None
        return HeldModel.from_bytes(data, session=here.session, optimiser=self._optimiser)

    def began(self, held: HeldModel, delivery: Delivery, withheld: Mapping[str, bytes] | None = None) -> bool:
        """Whether a model began from the arrays that this training begins from."""
        shown = delivery.arrays()
        return held.began in ((withheld or {}).values() if shown is None else (shown[1],))

    def begin(self, delivery: Delivery, *, instead_of: HeldModel | None) -> HeldModel | None:
        """A model that begins from the server's arrays; None if they did not travel."""
        shown = delivery.arrays()
        if shown is None:
            return None
        if instead_of is not None and instead_of.own.opened:
            raise VerificationError(
                "this session's training began from other arrays, and sums moved it since; another "
                "training is another session"
            )
        _LOG.info("%s begins a model of its own, from the server's arrays", self._me)
        return HeldModel.begin(shown[0], began=shown[1], optimiser=self._optimiser)

    def set_aside(self, held: HeldModel | None, here: Open) -> None:
        """Keeps the model of the training before; one that never moved is no loss, and takes no place."""
        if held is not None and held.moved:
            here.files.write(self._file(BEFORE), held.to_bytes(session=here.session))
            _LOG.warning("%s keeps its model of another training aside", self._me)

    def errand(self, head: Handover, parcel: Parcel, delivery: Delivery, here: Open) -> Parcel:
        """One errand of bringing a client along that was left behind, this one or another."""
        roster, held, body = self._enrolment.version.roster, self.read(here), b""
        try:
            errand = Errand(head.errand)
        except ValueError:
            raise DecodeError("an errand that there is not") from None
        if errand is Errand.ASK:
            asked = handover.ask(identity=self._enrolment.identity, roster=roster, session=here.session)
            here.files.write(self._file(PENDING), asked.pending.reveal())
            body = asked.request
        elif errand is Errand.TAKE:
            try:
                held = self._taken(parcel, delivery, held, here)
            except (DecodeError, VerificationError, PeerViolation) as error:  # another peer's copy may do
                why = said(str(error))
                _LOG.warning("%s takes no peer's copy: %s", self._me, why)
                return Parcel(encode_head(Answer(standing(held), why)))
        elif held is None or held.own.stranded:
            raise VerificationError("it has no copy to vouch for")
        else:
            tell = handover.answer if errand is Errand.GIVE else handover.vouch
            body = tell(
                parcel.body,
                identity=self._enrolment.identity,
                base=held.own.base,
                copy=held.own.for_peer(),
                roster=roster,
                session=here.session,
            )
        return Parcel(encode_head(Answer(standing(held))), body)

    def _taken(self, parcel: Parcel, delivery: Delivery, held: HeldModel | None, here: Open) -> HeldModel:
        goes_on = held is not None and self.began(held, delivery)
        if goes_on and held is not None and held.moved and not held.own.stranded:
            # Or a server that parted the peers would move this model from one part's to the other's at will.
            raise VerificationError("it goes on with its own copy: it was not left behind")
        pending = here.files.read(self._file(PENDING))
        if pending is None:
            raise VerificationError("it asked for nothing")
        roster = self._enrolment.version.roster
        brought = decode(Brought, parcel.body)
        copy = handover.accept(
            Secret(pending),
            roster=roster,
            session=here.session,
            answer=brought.given,
            vouchers=brought.vouchers,
            needed=1 + ceil_fraction(self._corrupt_share, len(roster)),
        )
        # No round binds the arrays that came with this: only a copy that began from them replaces anything.
        begun = held if goes_on else self.begin(delivery, instead_of=held)
        if begun is None:
            raise VerificationError("it has no arrays to begin from")
        taken = begun.handed_over(copy)
        self.set_aside(None if goes_on else held, here)
        self.write(taken, here)
        here.files.remove(self._file(PENDING))
        _LOG.info("%s was brought along by a peer", self._me)
        return taken

    def _file(self, what: str) -> str:
        return file_of(self._me, what)


def standing(held: HeldModel | None) -> Copy:
    """How a model stands, as the server is told."""
    return NO_COPY if held is None else Copy(held.began, held.own.stranded, held.moved)


def file_of(client: ClientId, what: str) -> str:
    """The name of one of a client's files in its folder."""
    return f"{client}/{what}"
