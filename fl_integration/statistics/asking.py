"""`ask`: a question to several sites, answered through exact secure sums, each site under its own policy.

Every party is a sans-I/O half, `Asker` with the server and `Respondent` at a site, around the protocol's own
machines; here all of them run in this process, over their real bytes. A question is a session of its own: who
covers which column is summed first, then what the question asks for, one round a sum. Where the clients learn
the sums they make the answer, all the same one, and the server is told only how long the next sum is.

>>> from fl_integration.statistics.columns import Number
>>> from fl_integration.statistics.moments import Moments
>>> from protocols import MaskedSum
>>> tables = {name: {"age": [50.0 + i + len(name) for i in range(12)]} for name in ("basel", "bern", "wien")}
>>> answer = ask(MaskedSum(max_clients=3), tables, Moments((Number("age", low=0, high=128, unit=1),)), seed=1)
>>> int(answer.count[0]), round(float(answer.mean[0]), 3)
(36, 59.833)
"""

import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fl_integration.privacy.rows import RowLevel
from fl_integration.statistics.answer import Answer, Provenance
from fl_integration.statistics.course import Course
from fl_integration.statistics.encoding import decode_question, encode
from fl_integration.statistics.policy import SitePolicy, SmallCells
from fl_integration.statistics.question import Question
from fl_integration.statistics.refusal import QuestionRefusedError, by_reason
from fl_integration.statistics.request import Request
from fl_integration.statistics.respondent import Respondent, surface_of
from fl_integration.statistics.row_noise import RowNoise
from fl_integration.statistics.showing import load_special
from protocols.identity import SERVER, ClientId, Identity, Roster
from protocols.interface import IntegerSum, Learner, Outcome, Round
from protocols.machine.parameters import MachineProtocol
from protocols.run import run_round
from secagg.entropy import Entropy, SeededEntropy, draw
from secagg.errors import ParameterError, PeerViolation, RoundAborted, VerificationError
from secagg.numbers import plain

__all__ = ["Asker", "ask"]

_MOST_ROWS = 1 << 40


class Asker:
    """The server's half of one question, sans I/O.

    Args:
        question: what is asked.
        protocol: whose integer surface sums.
        roster, session: of this question.
        sites: who is asked, members of the roster; all of them must answer every sum.
        max_rows: the most rows that a site may have.
        noise: in the sums; None: they are exact.
        entropy: the server's randomness.

    Attributes:
        server: the protocol's machine: `run_round(asker.server, asker.round, exchange)`.

    Raises:
        ParameterError: sums as large as this question's do not fit the protocol.
    """

    def __init__(
        self,
        question: Question,
        *,
        protocol: MachineProtocol,
        roster: Roster,
        session: bytes,
        sites: Sequence[ClientId],
        max_rows: int,
        noise: RowNoise | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._learns = protocol.learns
        self._base = Request.first(question, max_rows=max_rows, sites=sites, noise=noise)
        self._course = Course(question, max_rows=max_rows, sites=len(sites), noise=noise)
        surface = surface_of(question, max_rows=max_rows, protocol=protocol, noise=noise)
        self.server = surface.server(roster=roster, session=session, entropy=entropy)
        self._number, self._length = 0, self._course.length

    @property
    def round(self) -> Round | None:
        """The next round; None when all is done."""
        if self._length is None:
            return None
        request = replace(self._base, number=self._number)
        if self._learns is Learner.SERVER:
            request = replace(request, coverage=self._course.coverage, step=self._course.step)
        return Round(self._number, self._base.sites, self._length, encode(request))

    @property
    def course(self) -> Course:
        """Where the question stands, where the server learns the sums."""
        return self._course

    def ended(self, outcome: Outcome, *, wanted: Mapping[ClientId, int | None] | None = None) -> None:
        """How the round ended.

        Args:
            outcome: of the machine.
            wanted: where the clients learn the sums: for each of them `Respondent.course.length` after the
                result was delivered to it.

        Raises:
            RoundAborted: somebody's rows are not in the sum.
            VerificationError: the clients do not want the same.
        """
        if missing := set(self._base.sites) - outcome.contributors:
            raise RoundAborted(f"{', '.join(sorted(missing))} did not take part, and all sites must")
        self._number += 1
        if self._learns is Learner.CLIENTS:
            lengths = set((wanted or {}).values())
            if len(lengths) != 1 or set(wanted or {}) != set(self._base.sites):
                raise VerificationError("the clients do not want one and the same sum next")
            self._length = lengths.pop()
            return
        if not isinstance(outcome.total, IntegerSum):
            raise RoundAborted("a round without a sum of integers")
        self._course.take(outcome.total.total)
        self._length = self._course.length


class _Wire:
    """The transport of one process: an exchange function that counts bytes and keeps who refused, and why."""

    def __init__(self, respondents: Mapping[ClientId, Respondent]) -> None:
        self._respondents = respondents
        self.refusals: dict[ClientId, str] = {}
        self.sent = dict.fromkeys([SERVER, *respondents], 0)

    def __call__(self, outbox: Mapping[ClientId, bytes]) -> Iterator[tuple[ClientId, bytes]]:
        for site, request in outbox.items():
            self.sent[SERVER] += len(request)
            respondent = self._respondents[site]
            try:
                reply = respondent.answer(request)
            except QuestionRefusedError as error:
                self.refusals |= error.reasons
                continue
            if respondent.refusal is not None:
                self.refusals[site] = respondent.refusal
            self.sent[site] += len(reply)
            yield site, reply


def ask(
    protocol: MachineProtocol,
    tables: Mapping[ClientId, Any],
    question: Question,
    *,
    policy: SitePolicy | Mapping[ClientId, SitePolicy] | None = None,
    max_rows: int = 100_000,
    privacy: RowLevel | None = None,
    seed: int | None = None,
) -> Answer:
    """Asks all sites a question, through secure sums of their own, in this process.

    Args:
        protocol: any protocol whose integer surface can sum; who learns its sums makes the answer.
        tables: each site's rows, by client id: a pandas DataFrame, or a dict of arrays of equal length.
        question: what is asked.
        policy: what the sites answer, one for all or one for each. None: `SitePolicy(small_cells=OPENED)`,
            made for this call: few rows and lonely columns are left out, but nothing is remembered of earlier
            calls. A site with real patients has a policy of its own, with a ledger in a file.
        max_rows: the most rows that a site may have; public, and the ring is as large as it makes it.
        privacy: noise in every sum, so that no row shows in them; for `Count`, `Moments`, `Histogram` and
            `Quantiles`. Then who covers what is not asked, nothing is left out for want of rows, and answers
            are not compared: all of that would depend on the rows. See `row_noise`.
        seed: with one, everything repeats, and everything is as secret as the seed: for demonstrations.

    Returns:
        The answer, with its provenance. Values outside their bounds are warned of, by site and column.

    Raises:
        ParameterError: an argument, or a site's table, can never work, and nothing has run; or the sums have
            no such answer, as where predictors separate the outcomes.
        BudgetExceededError: a site's budget does not allow the next sum.
        MissingExtraError: dp-accounting is not installed, with `privacy`; or scipy is not, and the answer has
            p-values.
        QuestionRefusedError: a site does not answer.
        RoundAborted: a round failed.
        VerificationError: the clients did not find the same answer.
    """
    since = time.process_time()
    policies = _policies(policy, tables)
    max_rows, question = _checked(question, max_rows)
    seed = plain(seed)
    if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 128):
        raise ParameterError(f"seed is {seed!r}; it must be None or an integer in [0, 2**128)")
    identities = [Identity.generate(site, entropy=_entropy(seed, f"identity/{site}")) for site in tables]
    if privacy is not None and not isinstance(privacy, RowLevel):
        raise ParameterError(
            f"privacy is a {type(privacy).__name__}; it must be RowLevel(epsilon=…, delta=…)"
        )
    noise = None
    if privacy is not None:
        noise = RowNoise(privacy, question, max_rows=max_rows, sites=len(tables), protocol=protocol)
    given: dict[str, Any] = {
        "protocol": protocol,
        "roster": Roster.of(*identities),
        "session": draw(_entropy(seed, "session"), 16),
        "sites": tuple(tables),
        "max_rows": max_rows,
        "noise": noise,
    }
    asker = Asker(question, entropy=_entropy(seed, f"machine/{SERVER}"), **given)
    respondents = _respondents(question, identities, tables=tables, policies=policies, seed=seed, given=given)
    wire, rounds = _Wire(respondents), 0
    while (round := asker.round) is not None:
        _run(asker, round, wire, respondents, learns=protocol.learns)
        rounds += 1
    if protocol.learns is Learner.SERVER:
        course = asker.course
    else:
        if len({each.course.digest for each in respondents.values()}) > 1:
            raise VerificationError("the clients opened different sums; nobody has an answer")
        course = next(iter(respondents.values())).course
    if course.answer is None:
        raise RoundAborted("the question ended without an answer")
    _say_clipped(respondents)
    seconds = {site: each.seconds for site, each in respondents.items()}
    seconds[SERVER] = max(time.process_time() - since - sum(seconds.values()), 0.0)
    sent = {site: count for site, count in wire.sent.items() if site != SERVER}
    provenance = Provenance(
        contributors=frozenset(tables),
        sums=rounds,
        sent=sent,
        seconds=seconds,
        left_out=course.left_out,
        epsilon=None if noise is None else noise.plan.epsilon,
        delta=None if noise is None else noise.plan.delta,
        noise=0.0 if noise is None else noise.of_a_count,
    )
    return replace(course.answer, provenance=provenance)


def _run(
    asker: Asker, round: Round, wire: _Wire, respondents: Mapping[ClientId, Respondent], *, learns: Learner
) -> None:
    """One round, its result at the clients where they learn it."""
    wanted = None
    try:
        outcome = run_round(asker.server, round, wire)
        if learns is Learner.CLIENTS:
            for site, reply in wire(asker.server.deliver()):
                with suppress(PeerViolation):  # the server has noted the culprit
                    asker.server.receive(site, reply)
            wanted = {site: each.course.length for site, each in respondents.items()}
        if wire.refusals:
            raise QuestionRefusedError(wire.refusals)
        asker.ended(outcome, wanted=wanted)
    except RoundAborted as error:
        if wire.refusals:
            raise QuestionRefusedError(wire.refusals) from error
        raise


def _say_clipped(respondents: Mapping[ClientId, Respondent]) -> None:
    """Warns of values outside their bounds: who calls `ask` has the tables, and may have a wrong unit."""
    found = {
        site: ", ".join(f"{count} of {name!r}" for name, count in each.clipped.items() if count)
        for site, each in respondents.items()
        if any(each.clipped.values())
    }
    if found:
        warnings.warn(
            f"values outside their column's bounds count as the nearer bound: {by_reason(found)}. Look at "
            "the unit, or agree on wider bounds",
            stacklevel=3,
        )


def _respondents(
    question: Question,
    identities: Sequence[Identity],
    *,
    tables: Mapping[ClientId, Any],
    policies: Mapping[ClientId, SitePolicy],
    seed: int | None,
    given: Mapping[str, Any],
) -> dict[ClientId, Respondent]:
    """All sites' halves; if some cannot or will not, all of their reasons."""
    found: dict[ClientId, Respondent] = {}
    wrong: dict[ClientId, str] = {}
    refusals: dict[ClientId, str] = {}
    body = encode(question)
    for identity in identities:
        site = identity.client
        try:
            found[site] = Respondent(
                decode_question(body),
                table=tables[site],
                policy=policies[site],
                identity=identity,
                entropy=_entropy(seed, f"machine/{site}"),
                **given,
            )
        except QuestionRefusedError as error:
            refusals |= error.reasons
        except ParameterError as error:
            wrong[site] = str(error)
    if wrong:
        raise ParameterError(by_reason(wrong))
    if refusals:
        raise QuestionRefusedError(refusals)
    return found


def _policies(
    policy: SitePolicy | Mapping[ClientId, SitePolicy] | None, tables: object
) -> dict[ClientId, SitePolicy]:
    """Each site's policy."""
    if not isinstance(tables, Mapping) or not tables:
        raise ParameterError("tables maps each site's id to its table; it is empty or no mapping")
    if len(tables) < 2:
        raise ParameterError(
            f"tables is of {next(iter(tables))!r} alone, whose rows a sum would tell; pass those of at least "
            "2 sites, better 3"
        )
    if policy is None:
        policy = SitePolicy(small_cells=SmallCells.OPENED)
    if isinstance(policy, SitePolicy):
        return dict.fromkeys(tables, policy)
    if not isinstance(policy, Mapping) or not all(isinstance(each, SitePolicy) for each in policy.values()):
        raise ParameterError(
            f"policy is a {type(policy).__name__}; it must be a SitePolicy(…), or map each site to its own"
        )
    if set(policy) != set(tables):
        raise ParameterError(
            f"policy names the sites {sorted(policy)}, and the tables are of {sorted(tables)}; each has one"
        )
    return dict(policy)


def _checked(question: object, max_rows: object) -> tuple[int, Question]:
    if not isinstance(question, Question):
        raise ParameterError(
            f"question is a {type(question).__name__}; it must be one such as Count() or Moments(…)"
        )
    max_rows = plain(max_rows)
    if type(max_rows) is not int or not 1 <= max_rows <= _MOST_ROWS:
        raise ParameterError(f"max_rows is {max_rows!r}; it must be an int in [1, 2**40]")
    if question.needs_scipy:  # found out now, and not when sums were opened and are spent
        load_special()
    return max_rows, question


def _entropy(seed: int | None, purpose: str) -> Entropy:
    return os.urandom if seed is None else SeededEntropy(seed.to_bytes(16, "big"), purpose.encode())
