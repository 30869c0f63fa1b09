"""SCAFFOLD (Karimireddy et al., ICML'20, Alg. 1): control variates as auxiliary entries of the same sum.

Sites whose data differ drift apart in many local steps. Each keeps c_i, the gradient as it finds it, the
whole has c, their mean, and every local gradient is moved by c - c_i: towards where all want to go. The
changes of c_i travel behind the update in the same vector, so an update is nearly twice as long, and nobody
sees a c_i, which is a gradient at one site, any more than an update.

The means are taken by weight, as the model's is (the paper weighs sites equally); c is then the weighted mean
of the c_i as long as all contribute. A site whose update is lost after it was sent has moved its c_i all the
same. The local step is SGD without momentum, from whose rate and number of steps c_i is read (option II).

>>> Scaffold().controls, Scaffold(learning_rate=0.5)
(True, Scaffold(learning_rate=0.5))
"""

from dataclasses import dataclass

from fl_integration.loop.optimisers import FedAvg

__all__ = ["Scaffold"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold(FedAvg):
    """SCAFFOLD's server: the mean times `learning_rate`, and control variates.

    Args:
        learning_rate: the paper's global step size, finite and above 0; or one for each round.
    """

    @property
    def controls(self) -> bool:
        return True
