"""A site's half of a question, sans I/O: bytes of the server in, bytes for the server out.

It answers one question, which it has agreed to answer (its policy allows it and its table can), in a session
of its own, and refuses whatever is asked in that session and is no step of that question. **Every site must
take part in every sum**: its machine asks for as many contributors as there are sites. A sum without one
site, beside another with it, would tell that site's part (ATTACKS A10).

Where the clients learn the sums each follows the question for itself (`Course`): the server does not know
what is summed next. Where the server learns them, it says so, and a site can check the form of it, the
first step, the number of steps, and that the coverage which it is told does not contradict its own; **that
the coverage is true, and that a later step follows from the totals, is the server's word.** `STATISTICS.md`
says what that means.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_integration.statistics.course import Course, labels_of
from fl_integration.statistics.encoding import decode, encode
from fl_integration.statistics.ledger import Asked
from fl_integration.statistics.policy import SitePolicy
from fl_integration.statistics.question import Question, Step, Total, selected
from fl_integration.statistics.refusal import QuestionRefusedError
from fl_integration.statistics.request import Request, head_of
from fl_integration.statistics.row_names import contents_of
from fl_integration.statistics.row_noise import RowNoise
from fl_integration.statistics.rows import Rows
from protocols.identity import Identity, Roster
from protocols.interface import IntegerSum, Learner, NeedUpdate, Policy, SumProtocol
from protocols.machine.parameters import MachineProtocol
from secagg.entropy import Entropy, system_entropy
from secagg.errors import DecodeError, ParameterError, PeerViolation, RoundAborted

__all__ = ["Respondent", "surface_of"]


class Respondent:
    """One site.

    Args:
        question: as its bytes said.
        table: a pandas DataFrame, or a dict of arrays.
        policy: what it answers.
        protocol: whose integer surface sums; all sites and the server have the same.
        identity: this site's.
        roster, session: of this question.
        sites: who is asked, in the roster's order.
        max_rows: the most rows that a site may have.
        noise: in the sums; None: they are exact.
        entropy: this site's randomness.

    Attributes:
        seconds: processor seconds so far.
        refusal: why it does not go on; None while it does.

    Raises:
        QuestionRefusedError: the policy does not allow the question; its reasons may be told to who asks.
        ParameterError: the table does not fit the question, or has more rows than `max_rows`; or a part of a
            roster is asked under noise. What it says is for the site's own people: it may name a row. It
            counts as a sum of the ledger's.
    """

    def __init__(
        self,
        question: Question,
        *,
        table: Any,
        policy: SitePolicy,
        protocol: MachineProtocol,
        identity: Identity,
        roster: Roster,
        session: bytes,
        sites: Sequence[str],
        max_rows: int,
        noise: RowNoise | None = None,
        entropy: Entropy = system_entropy,
    ) -> None:
        since = time.process_time()
        self.name, self._policy = identity.client, policy
        # Sums are charged under a name that nobody chooses: none of another session passes for a repetition.
        self._charged_as = os.urandom(16)
        self._noise, self._entropy = noise, entropy
        self._clients_learn = protocol.learns is Learner.CLIENTS
        noised = noise is not None
        if noised and len(roster) != len(sites):
            raise ParameterError(
                f"{len(sites)} sites of a roster of {len(roster)} are asked under noise, which is planned "
                "for all of a roster, and charged to it: ask all of them, or give them a roster of their own"
            )
        policy.check(question, site=self.name, clients_learn=self._clients_learn, noised=noised)
        self._base = Request.first(question, max_rows=max_rows, sites=sites, noise=noise)
        self._labels = labels_of(question)
        least = 0 if noised else policy.min_rows  # under noise nothing but the sums depends on the rows
        try:
            self._rows, self._covers = _counted(question, table, least=least, max_rows=max_rows)
        except ParameterError:
            # A level left out of a category's, or a small max_rows: what does not fit tells what there is.
            policy.ledger.refuse(site=self.name, session=self._charged_as, max_answers=policy.max_answers)
            raise
        self._asked = _asked(self._base, self._rows, noised=noised)
        self._course = Course(question, max_rows=max_rows, sites=len(sites), noise=noise)
        self._first = next(question.asking(max_rows=max_rows))
        self._coverage: tuple[int, ...] = ()
        self._step: Step | None = None
        self._next = 0
        self._largest = question.largest(max_rows=max_rows)
        self.refusal: str | None = None
        surface = surface_of(question, max_rows=max_rows, protocol=protocol, noise=noise)
        self._machine = surface.client(
            identity=identity,
            roster=roster,
            session=session,
            policy=Policy(min_contributors=len(sites), max_length=policy.max_length),
            entropy=entropy,
        )
        self.seconds = time.process_time() - since

    @property
    def clipped(self) -> dict[str, int]:
        """By column, how many values were beyond the bounds; it leaves the site in no message."""
        return {name: count for name, count in self._rows.clipped.items() if count}

    @property
    def course(self) -> Course:
        """Where the question stands, where the clients learn the sums."""
        return self._course

    def answer(self, request: bytes) -> bytes:
        """The reply to one message of the server.

        Raises:
            QuestionRefusedError: this site does not answer. Nothing is sent, now and for the rest.
        """
        since = time.process_time()
        try:
            asked = self._machine.receive(request)
            self._open()
            if not isinstance(asked, NeedUpdate):
                self.refusal = self.refusal or self._machine.refusal
                return asked
            return self._contribute(asked)
        finally:
            self.seconds += time.process_time() - since

    def _contribute(self, asked: NeedUpdate) -> bytes:
        request = self._checked(asked)
        summand = self._summand(request)
        if (self._noise is None and summand.shape != (asked.length,)) or (
            len(summand) and int(np.abs(summand).max()) > self._largest
        ):
            raise ParameterError(
                f"a {type(request.question).__name__} counted {summand.shape} values at {self.name!r}, or "
                "some above its own largest; nothing was sent"
            )
        self._charge(request)
        if self._noise is not None:
            summand = self._noise.add(summand, entropy=self._entropy)
        head = head_of(request) if self._clients_learn else None
        reply = self._machine.contribute(summand, head=head)
        self._next = request.number + 1
        return reply

    def _charge(self, request: Request) -> None:
        """Writes down that a sum is answered, before its summand leaves."""
        try:
            self._policy.ledger.charge(
                self._asked,
                site=self.name,
                session=self._charged_as,
                number=request.number,
                min_difference=self._policy.min_difference,
                min_sites=self._policy.min_sites,
                max_answers=self._policy.max_answers,
                covered=dict(zip(self._labels, request.coverage, strict=False)),
            )
            if self._noise is not None:
                self._noise.charge(
                    site=self.name,
                    sites=self._base.sites,
                    session=self._charged_as,
                    number=request.number,
                    budget=self._policy.budget,
                )
        except QuestionRefusedError as error:
            self.refusal = error.reasons[self.name]
            raise

    def _checked(self, asked: NeedUpdate) -> Request:
        """What is asked for, if it is the next sum of the question."""
        if self.refusal is not None:
            raise self._refused(self.refusal)
        try:
            request = decode(Request, asked.model)
        except DecodeError as error:
            raise self._refused(f"what came with the request is no request: {error}") from error
        told = replace(request, number=0, coverage=(), step=None)
        if encode(told) != encode(self._base):
            raise self._refused("another question, or of other sites, than this one was asked to answer")
        if not request.number == asked.round == self._next:
            raise self._refused(f"sum {request.number} is asked for; the next one is {self._next}")
        if self._clients_learn:
            return self._own(request)
        self._check_step(request)
        return request

    def _own(self, request: Request) -> Request:
        """Where the clients learn the sums: what this one knows to be next."""
        if request.coverage or request.step is not None:
            raise self._refused("the server says what is summed, where the clients know it")
        course = self._course
        if course.number != request.number or course.length is None:
            raise self._refused(f"sum {request.number} is asked for, and {course.number} were opened here")
        self._check_coverage(course.coverage)
        return replace(request, coverage=course.coverage, step=course.step)

    def _check_step(self, request: Request) -> None:
        """Where the server says what is summed."""
        first = 1 if self._noise is None else 0
        if request.number < first:
            if request.coverage or request.step is not None:
                raise self._refused("values are asked for before it is known which sites have any")
            return
        if request.step is None or request.number - first >= request.question.most_sums:
            raise self._refused(
                f"sum {request.number} of a {type(request.question).__name__}, which takes "
                f"{request.question.most_sums} at most"
            )
        if request.number == first and request.step != self._first:
            raise self._refused("the first step is not that of the question")
        if not all(map(math.isfinite, request.step.parameters)):
            raise self._refused("a step with parameters that are not finite")
        if self._step is not None and not self._follows(request):
            raise self._refused("a step that does not follow from the one before, whatever its totals were")
        self._step = request.step
        if self._coverage and request.coverage != self._coverage:
            raise self._refused("another coverage than before")
        self._check_coverage(request.coverage)
        self._coverage = request.coverage

    def _follows(self, request: Request) -> bool:
        if self._step is None or request.step is None:
            return False
        try:
            return request.question.follows(self._step, request.step)
        except ParameterError as error:
            raise self._refused(str(error)) from error

    def _check_coverage(self, coverage: Sequence[int]) -> None:
        """A column that few sites have, or this one alone, is not summed."""
        if not coverage and (self._next == 0 or self._noise is not None):
            return
        if len(coverage) != len(self._labels):
            raise self._refused(f"the coverage of {len(coverage)} columns; there are {len(self._labels)}")
        sites = len(self._base.sites)
        for label, count, covers in zip(self._labels, coverage, self._covers, strict=True):
            if not 0 <= count <= sites or count < covers or count - covers > sites - 1:
                raise self._refused("a coverage that contradicts what this site has itself")
            if count < self._policy.min_sites:
                what = f"values in {label!r}" if label else "rows that count"
                raise self._refused(
                    f"{count} of {sites} sites have enough {what}; at least {self._policy.min_sites} must, "
                    "or few would be told apart: leave it out, or ask more sites"
                )

    def _summand(self, request: Request) -> Total:
        if request.step is None:
            return np.array(self._covers, dtype=np.int64)
        try:
            return request.question.summand(request.step, self._rows)
        except ParameterError as error:
            raise self._refused(str(error)) from error

    def _open(self) -> None:
        """Opens what the server brought, where the clients learn the sums."""
        for result in self._machine.results:
            try:
                total = self._machine.open(result)
            except (PeerViolation, RoundAborted) as error:
                self.refusal = self.refusal or f"a sum that did not open: {error}"
                continue
            if isinstance(total, IntegerSum) and total.round == self._course.number:
                self._course.take(total.total)

    def _refused(self, reason: str) -> QuestionRefusedError:
        self.refusal = reason
        return QuestionRefusedError({self.name: reason})


def surface_of(
    question: Question, *, max_rows: int, protocol: MachineProtocol, noise: RowNoise | None
) -> SumProtocol:
    """The integer surface that a question's sums need.

    Raises:
        ParameterError: they do not fit the protocol.
    """
    if noise is not None:
        return noise.plan.exact
    largest = question.largest(max_rows=max_rows)
    try:
        return protocol.exact(max_abs=largest)
    except ParameterError as error:
        raise ParameterError(
            f"a {type(question).__name__} over {max_rows} rows a site adds up to {largest} at each: {error}; "
            "lower max_rows, or take columns with coarser units"
        ) from error


def _counted(question: Question, table: Any, *, least: int, max_rows: int) -> tuple[Rows, tuple[int, ...]]:
    """The rows that a question counts here, and for each label whether there are enough.

    Rows that lack a value stay, for a question tells how many it left out; but where it leaves them out
    altogether, they are none of those that there must be enough of.
    """
    rows = Rows.of(table)
    if len(rows) > max_rows:
        raise ParameterError(f"the table has more rows than max_rows, {max_rows}; raise it at all sites")
    for column in question.columns:  # what is wrong with a column shows before anything is asked
        rows.present(column)
    rows = selected(rows, question.where)
    counted = _present(question, rows)
    counts = {name: int(np.count_nonzero(each)) for name, each in counted.items()}
    fewest = min([len(rows), *(counts.values() if question.complete_cases else ())])
    enough = {name: count >= least for name, count in counts.items()}
    if fewest < least:
        rows = rows.where(np.zeros(len(rows), dtype=np.bool_))
        enough = dict.fromkeys(enough, False)
    covers = (int(fewest >= least), *(int(each) for each in enough.values()))
    return rows.hiding([name for name, each in enough.items() if not each]), covers


def _present(question: Question, rows: Rows) -> dict[str, NDArray[np.bool_]]:
    """For each column the rows whose values in it count; those that lack none, where others are left out."""
    present = {column.name: rows.present(column) for column in question.columns}
    if not question.complete_cases:
        return present
    known = np.ones(len(rows), dtype=np.bool_)
    for each in present.values():
        known = known & each
    return dict.fromkeys(present, known)


def _asked(base: Request, rows: Rows, *, noised: bool) -> Asked:
    """What the ledger is told: the question, the sites, and which rows count, in all and by column."""
    if noised:  # what noise hides need not be compared
        empty = np.zeros((0, 1), dtype=np.uint8)
        return Asked(question=head_of(base), sites=base.sites, rows=empty, sets={})
    sets = {"": np.ones(len(rows), dtype=np.bool_), **_present(base.question, rows)}
    for condition in base.question.where:
        sets.setdefault(condition.column.name, sets[""])
    columns = (*base.question.columns, *(each.column for each in base.question.where))
    return Asked(
        question=head_of(base),
        sites=base.sites,
        rows=contents_of(rows),
        sets=sets,
        columns={column.name: encode(column) for column in columns},
    )
