"""What the demonstration sums with: the protocols to choose from and the parameters that all of them share.

Nothing here needs torch, which an engine's processes would load for every message.

>>> Choice("masked").title, Choice.CKKS.worst_moment
('MaskedSum', 'Contribute')
"""

from enum import Enum
from typing import Final

from fl_integration.studies.heart.records import Site
from protocols import Adversary, CkksSum, LatticeSum, MaskedSum, PaillierSum, PlainSum, Requirements
from protocols.machine.parameters import Parameters

__all__ = ["BITS", "CLIP", "MAX_WEIGHT", "Choice", "short_name"]

CLIP: Final = 1.0
BITS: Final = 24
MAX_WEIGHT: Final = 256
"""The cap on example counts, agreed beforehand as the roster is: the next power of two above what the largest
hospital expects, which says less about that hospital than its count. A larger count would be refused."""
SURE: Final = 3
"""Hospitals of whom none may be lost, whatever is signed: a sum is of at least so many."""


class Choice(Enum):
    """A protocol of the demonstration; the value is its name on the command line."""

    MASKED = "masked"
    LATTICE = "lattice"
    CKKS = "ckks"
    PAILLIER = "paillier"
    PLAIN = "plain"

    @property
    def title(self) -> str:
        """The protocol's public name."""
        return _CLASSES[self].__name__

    def protocol(self, *, clients: int) -> Parameters:
        """The protocol with the study's parameters, for so many hospitals."""
        # A survivor set that a quorum signs lets four hospitals bear the loss of one even if the server lies;
        # without it all four would have to stay. Three have to stay with it or without, and save an exchange.
        signed = Requirements(adversary=Adversary.MALICIOUS)
        return _CLASSES[self](
            clip=CLIP,
            bits=BITS,
            max_clients=clients,
            max_weight=MAX_WEIGHT,
            requirements=signed if self.makes_channels and clients > SURE else Requirements(),
        )

    @property
    def makes_channels(self) -> bool:
        """Whether every two hospitals share secrets, as in MaskedSum, which also sums LatticeSum's keys."""
        return self in (Choice.MASKED, Choice.LATTICE)

    @property
    def hospitals_learn(self) -> bool:
        """Whether the hospitals alone open the sum, and the server never has a model."""
        return self in (Choice.CKKS, Choice.PAILLIER)

    @property
    def worst_moment(self) -> str:
        """The exchange whose loss costs most: secrets are shared out already, and the update never comes."""
        return "MaskedInput" if self.makes_channels else "Contribute"


def short_name(site: Site) -> str:
    """What a table's head has room for."""
    return site.value.replace("-", " ").title()


_CLASSES: Final[dict[Choice, type[Parameters]]] = {
    Choice.MASKED: MaskedSum,
    Choice.LATTICE: LatticeSum,
    Choice.CKKS: CkksSum,
    Choice.PAILLIER: PaillierSum,
    Choice.PLAIN: PlainSum,
}
