"""Reads the model at one hospital, where the hospitals alone learn it, from that hospital's own disk.

Its operator could do the same, and nobody else: the file is sealed under the hospital's key. Here whoever
runs the study made all keys.

**Which round's model it is.** A hospital opens the sum of a round when the next one begins, in the message in
which it also trains; the site's lock is held for that long. So while the hospital's journal says that it has
trained in round r, before and after a reading, what was read is the model after round r - 1: an earlier
message cannot come again, and a later one would have left its line before it let go of the lock. Whoever
looks too late for a round has missed it. The last sum is handed out before the last round ends.
"""

from dataclasses import dataclass, field

from fl_integration.embedding.enrolment import Enrolment
from fl_integration.embedding.site_model import site_model
from fl_integration.site.roster_file import read_roster
from fl_integration.studies.heart.federation.folders import HospitalFiles, State
from fl_integration.studies.heart.federation.journal import Event

__all__ = ["OwnDisk"]


@dataclass(slots=True)
class OwnDisk:
    """One hospital's model, as its operator reads it.

    Args:
        files: the hospital's.
    """

    files: HospitalFiles
    _enrolment: Enrolment = field(init=False)

    def __post_init__(self) -> None:
        # Now, and not when it is read first: a key is opened in a fifth of a second, and a round may be over.
        self._enrolment = Enrolment(
            identity=self.files.load_identity(),
            roster=read_roster(self.files.roster),
            state_dir=self.files.state,
        )

    def trained_in(self) -> int | None:
        """The round (from 0) in which the hospital has trained, and begun no other; None while it trains."""
        events = self.files.journal.read()
        if not events or events[-1][0] is not Event.TRAINED:
            return None
        return int(events[-1][1]["round"])

    def model_before(self, number: int) -> State | None:
        """The model that the hospital trained from in this round; None once a later one has begun.

        Raises:
            ParameterError: the site holds no model, or is at work for half a minute.
        """
        if self.trained_in() != number:
            return None
        model = self.model()
        return model if self.trained_in() == number else None

    def model(self) -> State:
        """The model as it stands.

        Raises:
            ParameterError: as `model_before`.
        """
        return site_model(self._enrolment)
