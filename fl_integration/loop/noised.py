"""The sums of a private training: what all its parties agree on, and a site's half.

Noise is added by the sites, inside the secure sum, and by nobody else. So what is opened is private, and so
is all that follows from it alone: the server's step, the model, its evaluation on other people's data.

* `PatientLevel`: one step a round. A site takes the gradient of each of its patients (`per_patient`), cuts it
  to the clip, adds up those in the round's Poisson sample and adds its share of the noise. The mean gradient
  is what was opened over a public number of patients, and -learning rate times it is what the server
  optimiser takes for the mean of a round.
* `ClientLevel`: local training as ever; what changed is cut to the clip and noised, and each client counts
  once.

A site whose data make its training fail sends noise all the same: that it stayed away would tell of them.

The sample, dropout and the noise come from a site's own entropy, never from the run's seed, which is public.

**One vector a round.** What leaves is paid for before the machine has it, whatever becomes of the round.
Whoever asks a machine again gets the reply that is there; and one that was put back to before its reply finds
that its round was paid for, and sends nothing. Two vectors of one round are two draws of noise around one
secret, and their mean has half of its variance.

>>> plan = PatientLevel(epsilon=8.0, delta=1e-3, rounds=1, denominator=100).plan(3, length=2)
>>> unit = ClientLevel(epsilon=8.0, delta=1e-3, rounds=1)
>>> sums = NoisedSums(privacy=unit, plan=plan, local=None, names=(), seed=7)
>>> sums.length, sums.rotation(0) == sums.rotation(1)
(2, False)
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fl_integration.loop.global_model import WITHIN, Delivered
from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.ledger import BudgetLedger
from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.plan import PrivacyPlan
from fl_integration.site.per_patient import Records, gradients
from fl_integration.site.site import Site, SiteFailedError
from fl_integration.site.step import isolated
from fl_integration.site.training import LocalTraining
from protocols.identity import ClientId
from protocols.interface import IntegerSum, Sum
from secagg.entropy import Entropy, draw
from secagg.errors import ParameterError
from secagg.wire import Writer

__all__ = ["Account", "NoisedSite", "NoisedSums", "Summand"]

Summand: TypeAlias = npt.NDArray[np.int64]
"""A vector on the grid, with noise or without."""

_ROTATION: Final = b"secagg/1/rotation of a private round"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoisedSums:
    """What all parties of a private training agree on.

    Attributes:
        privacy: whom it protects, and how well.
        plan: the noise.
        local: of a `PatientLevel`: its loss and its learning rates are used. None with a `ClientLevel`.
        names: the parameters that move, in the order of the vector.
        seed: of the run, in [0, 2**63). It is public, and so are the rotations that are drawn from it.
    """

    privacy: PatientLevel | ClientLevel
    plan: PrivacyPlan
    local: LocalTraining | None
    names: tuple[str, ...]
    seed: int

    @property
    def length(self) -> int:
        """Values of one vector."""
        return self.plan.length

    def rotation(self, round: int) -> bytes:
        """The public seed (32 bytes) of a round's rotation."""
        place = Writer().fixed(_ROTATION).uint(self.seed, 8).uint(round, 8).finish()
        return hashlib.sha256(place).digest()

    def read(self, total: Sum) -> Sum:
        """What the server optimiser takes for a round's mean: the same for all who open this round's sum.

        Raises:
            ParameterError: it is no sum of a round on the integer surface.
        """
        if not isinstance(total, IntegerSum) or total.round is None:
            raise ParameterError("no sum of a round on the integer surface")
        privacy, plan, number, who = self.privacy, self.plan, total.round, total.contributors
        # A clip that follows is the model's scale: the mean is in units of it, and the model multiplies it.
        clip = None if privacy.adaptive is None else 1.0
        if isinstance(privacy, PatientLevel):
            mean = privacy.mean(total.total, plan=plan, clip=clip) * -self.rate(number)
        else:
            rotation = self.rotation(number)
            mean = privacy.mean(total.total, contributors=len(who), plan=plan, round_seed=rotation, clip=clip)
        metrics: dict[str, float] = {}
        if privacy.adaptive is not None:
            metrics[WITHIN] = self._within(total.total, contributors=len(who))
        return Sum(mean, len(who), who, metrics, round=number, head=total.head)

    def _within(self, total: Summand, *, contributors: int) -> float:
        if isinstance(self.privacy, PatientLevel):
            return self.privacy.fraction(total, plan=self.plan)
        return self.privacy.fraction(total, contributors=contributors, plan=self.plan)

    def rate(self, round: int) -> float:
        """The step's length in one round, of a `PatientLevel`."""
        rate = None if self.local is None else self.local.at(round).learning_rate
        if not isinstance(rate, float):
            raise ParameterError("the step of a private round is LocalTraining's learning_rate")
        return rate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Account:
    """Where one site's rounds are paid for.

    Attributes:
        ledger: of the site.
        site, roster: whose budget: the site's id, and a digest of the roster.
        session: under which rounds are counted once.
    """

    ledger: BudgetLedger
    site: ClientId
    roster: bytes
    session: bytes

    def pay(self, plan: PrivacyPlan, *, round: int) -> None:
        """Pays for one round, durably, the first time.

        Raises:
            BudgetExceededError: more than is left; nothing was charged.
            ParameterError: the round was paid for before, so that its vector may have left.
        """
        self.ledger.charge_once(
            site=self.site,
            roster=self.roster,
            session=self.session,
            round=round,
            releases=(plan.release,),
            failure=plan.failure,
        )

    def check(self, plan: PrivacyPlan, *, rounds: int) -> None:
        """Refuses rounds to come that are too many for what is left.

        Raises:
            BudgetExceededError: they are; nothing was charged.
        """
        self.ledger.check(
            site=self.site, roster=self.roster, release=plan.release, rounds=rounds, failure=plan.failure
        )

    @property
    def spent(self) -> float:
        """ε that is spent."""
        return self.ledger.spent(site=self.site, roster=self.roster)


class NoisedSite:
    """A site's half of a private training.

    Args:
        sums: what all agreed on.
        site: its model and examples; its step, with a `ClientLevel`.
        account: where its rounds are paid for.
        entropy: `entropy(purpose)` gives this site's secret randomness for one purpose in one round.
    """

    def __init__(
        self, sums: NoisedSums, *, site: Site, account: Account, entropy: Callable[[str], Entropy]
    ) -> None:
        self.sums, self.account = sums, account
        self._site, self._entropy = site, entropy

    def summand(self, delivered: Delivered, *, round: int) -> Summand:
        """What this site adds to a round's sum, before its noise.

        Raises:
            SiteFailedError: the site's own code or data failed. A gradient that is not finite is no failure.
        """
        privacy, plan, entropy = self.sums.privacy, self.sums.plan, self._entropy(f"sample/{round}")
        if isinstance(privacy, ClientLevel):
            update, _ = self._site.train(delivered.values, delivered.control, round=round)
            rotation = self.sums.rotation(round)
            return privacy.summand(
                update, plan=plan, entropy=entropy, round_seed=rotation, clip=_clip_of(delivered)
            )
        try:
            return self._of_patients(privacy, delivered, entropy)
        except Exception as error:  # the site's own code and data may raise anything
            raise SiteFailedError.of(error) from error

    def _of_patients(self, privacy: PatientLevel, delivered: Delivered, entropy: Entropy) -> Summand:
        sums, local = self.sums, self.sums.local
        if local is None:
            raise ParameterError("a gradient needs a loss")
        module = self._site.load(delivered.values)
        patients = None if privacy.patients is None else privacy.patients[self._site.name]
        seed = int.from_bytes(draw(entropy, 8), "big") >> 1
        with isolated(module, seed=seed):  # a loader may draw, an augmentation for instance
            records = Records.of(self._site.data, module, patients=patients)
        sampled = privacy.sample(records.persons, entropy=entropy)
        total = self.nothing()
        at = 0
        for rows in gradients(module, records, loss=local.loss, names=sums.names, seed=seed):
            drawn = sampled[at : at + len(rows)]
            total += privacy.summand(rows, plan=sums.plan, sampled=drawn, clip=_clip_of(delivered))
            at += len(rows)
        return total

    def nothing(self) -> Summand:
        """The summand of a site whose training failed."""
        return np.zeros(self.sums.length, np.int64)

    def noised(self, summand: Summand, *, round: int) -> Summand:
        """The summand with this site's share of the noise. Each call draws another: see `pay`."""
        return self.sums.privacy.noised(summand, plan=self.sums.plan, entropy=self._entropy(f"noise/{round}"))

    def pay(self, *, round: int) -> None:
        """As `Account.pay`; what was noised may leave afterwards, once."""
        self.account.pay(self.sums.plan, round=round)


def _clip_of(delivered: Delivered) -> float | None:
    """The round's clip, where it follows. Whatever it is, a unit moves the sum by no more than planned."""
    return None if delivered.scales is None else float(delivered.scales[0])
