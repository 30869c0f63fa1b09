"""The same training with noise that hides each patient: what that costs, and what it changes of who learns
what.

One step of gradient descent a round, each patient's gradient cut to a norm of 1, the noise of one trusted
party split over the hospitals (`PatientLevel`). One row of the records is taken for one patient.

Nothing that the hospitals agree on beforehand may come from their patients. So measurements are scaled by
round figures of any textbook and not by a hospital's own mean and deviation, which each of its patients
moves; a gap is filled with the typical value; and the number of patients by which the sum is divided is a
guess of `EXPECTED` a hospital, whatever they have. The learning rate was chosen on these very records, which
are public: where they are not, that is a query too.

>>> from fl_integration.studies.heart.records import load_hospitals
>>> promise = Promise(epsilon=1.0)
>>> promise.unit(hospitals=3, rounds=20).denominator
600
>>> {each.site.value: each.train_x.shape for each in on_public_scale(load_hospitals(seed=1))}
{'cleveland': (242, 15), 'budapest': (235, 15), 'long-beach': (160, 15)}
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from torch.nn.functional import binary_cross_entropy_with_logits

from fl_integration.privacy.patient import PatientLevel
from fl_integration.privacy.units import check_epsilon_delta
from fl_integration.site.training import LocalTraining
from fl_integration.studies.heart.findings import Act, Row
from fl_integration.studies.heart.records import FEATURES, Hospital, Records, read_records

__all__ = ["DELTA", "EXPECTED", "STEP", "Promise", "on_public_scale", "private_sentences"]

DELTA: Final = 1e-4
"""Far below one over the patients of the study."""
EXPECTED: Final = 200
"""Training patients that a hospital is expected to have."""
STEP: Final = LocalTraining(loss=binary_cross_entropy_with_logits, learning_rate=1.0, batch_size=None)

_TYPICAL: Final[Mapping[str, tuple[float, float]]] = {
    "age": (55.0, 10.0),
    "trestbps": (130.0, 20.0),
    "chol": (240.0, 50.0),
    "thalch": (140.0, 25.0),
    "oldpeak": (1.0, 1.0),
}
"""A typical value and a typical deviation: years, mm Hg, mg/dl, beats a minute, mm."""
_ZERO_IS_MISSING: Final = ("trestbps", "chol")


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What every patient is promised.

    Args:
        epsilon, delta: of the whole training.

    Raises:
        ParameterError: a number is outside its range.
    """

    epsilon: float
    delta: float = DELTA

    def __post_init__(self) -> None:
        epsilon, delta = check_epsilon_delta(self.epsilon, self.delta)
        object.__setattr__(self, "epsilon", epsilon)
        object.__setattr__(self, "delta", delta)

    def unit(self, *, hospitals: int, rounds: int) -> PatientLevel:
        """The promise for a training of so many rounds."""
        return PatientLevel(
            epsilon=self.epsilon, delta=self.delta, rounds=rounds, denominator=EXPECTED * hospitals
        )


def on_public_scale(hospitals: tuple[Hospital, ...]) -> tuple[Hospital, ...]:
    """The same patients, split in the same way, with inputs that no other patient moves."""
    records = read_records()
    return tuple(_on_public_scale(each, records[each.site]) for each in hospitals)


def private_sentences(act: Act) -> list[str]:
    """What an act's private training has shown, and what its noise changes."""
    found = act.private
    if found is None:
        return []
    private, plain = (_row(act, kind) for kind in ("private", "steps"))
    plan = found.plan
    return [
        f"{private.title}, δ = {plan.delta:g}: one step a round, the gradient of each patient cut to a norm "
        f"of {plan.clip:g}, and noise of σ = {plan.sigma_total / plan.steps:.3g} in the sum of all "
        f"{plan.clients}, {plan.contributors_factor:.3g} times that of one trusted party. AUC "
        f"{private.overall.value:.3f}; the same steps without clip and noise have {plain.overall.value:.3f}.",
        f"After {len(private.history)} rounds ε = {found.spent:.3g} is spent of {plan.epsilon:.3g}.",
        "One row is one patient: nothing in the records tells whether two rows are of the same person, who "
        "is then hidden half as well.",
        *plan.meaning,
    ]


def _row(act: Act, kind: str) -> Row:
    return next(row for row in act.rows if row.kind == kind)


def _on_public_scale(hospital: Hospital, records: Records) -> Hospital:
    features = _features(records)
    place = {int(row): index for index, row in enumerate(records.ids)}
    train, test = (
        features[[place[int(row)] for row in ids]] for ids in (hospital.train_ids, hospital.test_ids)
    )
    return replace(hospital, train_x=train, test_x=test)


def _features(records: Records) -> npt.NDArray[np.float32]:
    """float32[n, f]: a gap is the typical value, a flag that is not known 0, of a code that is not known
    none."""
    columns = []
    for name in FEATURES:
        code = name.rpartition("_")
        if name in _TYPICAL:
            typical, spread = _TYPICAL[name]
            values = records.values[name]
            known = np.where(values == 0, np.nan, values) if name in _ZERO_IS_MISSING else values
            columns.append(np.nan_to_num((known - typical) / spread))
        elif name in records.values:
            columns.append(np.nan_to_num(records.values[name]))
        else:
            columns.append((records.values[code[0]] == float(code[2])).astype(np.float64))
    return np.column_stack(columns).astype(np.float32)
