"""A site's own model, read from its folder: where the clients learn the sum, nobody else has it.

The server's arrays stay the initial ones, so what a training came to is taken at the sites. Their copies are
equal, bit for bit, once the last sum was delivered to all; a site that was away for it holds an earlier
model, and is brought along when the training goes on. Nothing here changes the site's state, and no optimiser
is needed: values are read as they stand.
"""

from enum import Enum
from typing import Any

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.held_model import arrays_in
from fl_integration.embedding.member import PATIENCE_SECONDS, SavedSession
from fl_integration.embedding.own_model import BEFORE, COPY, file_of
from fl_integration.embedding.parcels import DEFAULT_STUDY, study_of
from protocols.membership import session_id
from protocols.messages.schema import decode
from secagg.errors import ParameterError

__all__ = ["SiteModel", "site_model"]


class SiteModel(Enum):
    """Which of the models in a site's folder; the values name files."""

    LATEST = COPY
    """Of the training that goes on, or went on last."""
    BEFORE = BEFORE
    """Of the training before it, which was kept aside when this one began from other arrays."""


def site_model(
    enrolment: Enrolment, *, study: str = DEFAULT_STUDY, which: SiteModel = SiteModel.LATEST
) -> dict[str, Any]:
    """The model that a site holds, where the clients learn the sum.

    Args:
        enrolment: as the site takes part with.
        study: names the training, as in `secure_aggregation`.
        which: of which training.

    Returns:
        Arrays by name, with the shapes and dtypes of those that the training began from; the caller's own.

    Raises:
        ParameterError: the site holds no such model, took part in another study, or is at work right now.
        VerificationError: a file was changed, or is sealed under another key.
        DecodeError: a file is of another version of this library.
    """
    if not isinstance(which, SiteModel):
        raise ParameterError("which is SiteModel.LATEST or SiteModel.BEFORE")
    name = study_of(study)
    me, files = enrolment.identity.client, enrolment.files()
    with files.alone(me, patience=PATIENCE_SECONDS):
        entered, data = files.read(me), files.read(file_of(me, which.value))
    if entered is not None:
        saved = decode(SavedSession, entered)
        if session_id(name, saved.roster_version, saved.epoch) != saved.session:
            raise ParameterError(
                f"this folder is not of the study {study!r}: pass the name that secure_aggregation was given"
            )
    if entered is None or data is None:
        raise ParameterError(
            f"{me!r} holds no such model in this folder; a site has one from the first round on in which it "
            "trained, where the clients learn the sum"
        )
    return arrays_in(data)
