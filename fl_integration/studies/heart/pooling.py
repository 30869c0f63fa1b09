"""The figures that all hospitals scale by alike, if they agree to: from one sum over their training rows.

A hospital's own mean and deviation keep what differs between the hospitals' patients out of the model; pooled
ones keep it in, and whoever learns the sum learns them. Missing values are in neither.

>>> from fl_integration.studies.heart.choices import Choice
>>> asked = ask_figures(Choice.PLAIN.protocol(clients=3), sites=3, seed=1)
>>> {name: (round(mean), round(spread)) for name, (mean, spread) in figures_of(asked).items()}
{'age': (53, 9), 'trestbps': (132, 18), 'chol': (247, 61), 'thalch': (140, 25), 'oldpeak': (1, 1)}
"""

from fl_integration.statistics.asking import ask
from fl_integration.statistics.moments import Moments, MomentsAnswer
from fl_integration.studies.heart.choices import MAX_WEIGHT
from fl_integration.studies.heart.declared import MEASUREMENTS
from fl_integration.studies.heart.records import Figures, Site, read_records, training_values
from protocols.machine.parameters import MachineProtocol

__all__ = ["ask_figures", "figures_of"]


def ask_figures(protocol: MachineProtocol, *, sites: int, seed: int) -> MomentsAnswer:
    """Mean and deviation of each measurement over the training rows of the first `sites` hospitals.

    Args:
        protocol: that sums.
        sites: 3 or 4.
        seed: of the split, and of this demonstration's keys.
    """
    records = read_records()
    answer = ask(
        protocol,
        {
            site.value: {
                each.name: training_values(records[site], each.name, seed=seed) for each in MEASUREMENTS
            }
            for site in tuple(Site)[:sites]
        },
        Moments(MEASUREMENTS),
        max_rows=MAX_WEIGHT,
        seed=seed,
    )
    if not isinstance(answer, MomentsAnswer):
        raise TypeError("a question was answered with another's answer; this is a fault")
    return answer


def figures_of(answer: MomentsAnswer) -> Figures:
    """What `load_hospitals` takes; with n in the denominator, as a hospital's own have it."""
    return {
        each.name: (float(mean), float(spread))
        for each, mean, spread in zip(answer.numbers, answer.mean, answer.population_sd, strict=True)
    }
