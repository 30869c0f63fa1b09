"""One letter at work at a site, while NVFlare calls the executor in between.

`Member.answer` calls the application when the machine asks for an update, and NVFlare calls the application
between two filters. So the member works on a thread of its own: the first filter waits until it shows a
model, the second gives it what the executor made of that and waits for the answer. A turn that nobody
finishes is given up: the member then sits the round out, and nothing leaves.
"""

from collections.abc import Callable
from queue import Queue
from threading import Lock, Thread
from typing import TypeAlias

from fl_integration.embedding.delivery import Contribution
from fl_integration.embedding.member import UNABLE, refused
from fl_integration.embedding.parcels import Parcel
from fl_integration.nvflare.engine import DXO
from fl_integration.nvflare.filters_letters import Model, contribution_of
from secagg.errors import ParameterError

__all__ = ["Ask", "Turn"]

Ask: TypeAlias = Callable[[Model], Contribution]
"""Shows a model to the executor, and gives what it made of it."""


class Turn:
    """A letter that a member answers.

    Args:
        work: the member at work; it calls its argument when the executor's turn has come.
        weighted_by: see `contribution_of`.
    """

    def __init__(self, work: Callable[[Ask], Parcel], *, weighted_by: str) -> None:
        self._work, self._weighted_by = work, weighted_by
        self._model: Model | None = None
        self._out: Queue[Model | Parcel] = Queue()
        self._made: Queue[DXO | None] = Queue()
        self._over, self._ending = False, Lock()
        Thread(target=self._run, name="secagg-turn", daemon=True).start()

    def first(self) -> Model | Parcel:
        """What the executor is to be shown, or the answer if it has no part in it."""
        first = self._out.get()
        if isinstance(first, Parcel):
            self._ends()
        return first

    def finish(self, made: DXO | None) -> Parcel:
        """The answer to the letter.

        Args:
            made: what the executor made of the model; None: nothing, and this site sits the round out.

        Raises:
            ParameterError: the turn is over.
        """
        if not self._ends():
            raise ParameterError("this turn is over: one task has one result")
        self._made.put(made)
        answer = self._out.get()
        return answer if isinstance(answer, Parcel) else refused(UNABLE)

    def give_up(self) -> None:
        """Ends it without the executor's part, if it is not over; nobody waits for the answer."""
        if self._ends():
            self._made.put(None)

    def _ends(self) -> bool:
        """Whether it ends now; the end of a run may meet the end of a task."""
        with self._ending:
            ends, self._over = not self._over, True
        return ends

    def _run(self) -> None:
        answer = refused(UNABLE)
        try:
            answer = self._work(self._ask)
        finally:
            self._out.put(answer)

    def _ask(self, model: Model) -> Contribution:
        if self._model is not None:
            raise ParameterError("one letter shows one model")
        self._model = model
        self._out.put(model)
        made = self._made.get()
        if made is None:
            raise ParameterError("the executor ended without a result that could be summed")
        return contribution_of(made, model, weighted_by=self._weighted_by)
