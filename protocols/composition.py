"""LatticeSum: homomorphic aggregation whose keys another protocol sums.

An RLWE mask hides a client's whole vector under a fresh key of 4,096 small numbers. Sums of such vectors open
with the sum of the keys, and with nothing less; so all that is left to sum securely is the keys, which any
other protocol does in the same messages. What that costs does not depend on the size of the model, and the
vectors do not care who drops out.

RLWE secure aggregation as in ACORN (Bell et al., USENIX Security 2023); LERNA (Li et al., ASIACRYPT 2023)
builds on the same idea with rounding in the place of noise. Sums are exact. `protocols/lattice/SPEC.md`
derives security, noise bound and rounding bound.

What it inherits from its key layer: the adversary that it withstands, who opens the sum, and whether recorded
traffic stays closed to a quantum computer (the vectors alone do).

* Over MaskedSum, the default, nobody ever holds a key that opens one client's vector, as far as its plan
  goes, and the whole is post-quantum as MaskedSum is.
* Over PaillierSum or CkksSum, ANY CLIENT THAT COLLUDES WITH THE SERVER READS EVERY UPDATE, and traffic
  recorded today opens to a quantum computer.
* Over PlainSum nothing is protected.

Not protected, beyond what the key layer does not: a contributor whose key and vector do not belong together
spoils the round, which is aborted, and is not named.

>>> import numpy as np
>>> from functools import partial
>>> from protocols import LatticeSum, PaillierSum, simulate
>>> updates = {name: np.full(3, value) for name, value in [("a", 0.0), ("b", 0.25), ("c", 0.5)]}
>>> [round(x, 3) for x in simulate(LatticeSum(max_clients=3), updates, seed=1).mean.tolist()]
[0.25, 0.25, 0.25]
>>> LatticeSum(max_clients=3, keys=partial(PaillierSum, key_bits=2048)).learns
<Learner.CLIENTS: 'clients'>
"""

from dataclasses import dataclass

from protocols.lattice import LatticeParameters
from protocols.lattice.protocol import KeyLayer
from protocols.masked import MaskedSum

__all__ = ["LatticeSum"]


@dataclass(frozen=True, kw_only=True, eq=False)  # equal as `LatticeParameters` are: by what `keys` makes
class LatticeSum(LatticeParameters):
    """The sum under an RLWE mask whose keys another protocol sums. Arguments are those of `Parameters`, and:

    Args:
        keys: the protocol class that sums the keys, or a `functools.partial` of one. It is built with the
            same `max_clients` and `requirements`; openers, adversary and post-quantum status are its.

    This is the one file in which two protocols meet; the rooms themselves do not know each other.
    """

    keys: KeyLayer = MaskedSum
