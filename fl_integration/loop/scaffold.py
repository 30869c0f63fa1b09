"""SCAFFOLD (Karimireddy et al., ICML'20, Alg. 1): control variates as auxiliary entries of the same sum.

Sites whose data differ drift apart in many local steps. Each keeps c_i, the gradient as it finds it, the
whole has c, their mean, and every local gradient is moved by c - c_i: towards where all want to go. What a
site tells of c_i travels behind its update in the same vector, so an update is nearly twice as long, and
nobody sees a c_i, which is a gradient at one site, any more than an update.

**Where this is not Algorithm 1.** A site sends c_i's new value less c, not less c_i's old one. With everybody
there the sum is the same. There, c moves by changes alone: one update that is lost after c_i has moved, an
aborted round, a clipped value or a lie leaves c apart from the mean of the c_i for good, and the training
ends beside its optimum. Here, c becomes the mean of the c_i of those who are there (of a share s of the
sites, it goes the share s of the way to it), so that such faults are forgotten. The means are taken by
weight, as the model's is; the paper weighs sites equally.

The local step is SGD without momentum, from whose rate and number of steps c_i is read (option II). A c_i is
as large as a gradient: take `clip=AutoClip()` with it.

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
