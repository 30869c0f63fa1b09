"""A2: half of the clients hear that the victim survived, the other half that it dropped.

Each half says only what it may, and together they open the victim: Bonawitz et al., CCS'17, section 6, ask
for a signed survivor set against this, and Bell et al., CCS'20, for 2t above the holders. MaskedSum has
neither. The attack therefore works on the library as it is, and this page says so; what is tested beside it
is that nobody gets MaskedSum by asking for protection against it.

Not covered: there is no protocol here yet that withstands a server that lies.
"""

import pytest

from protocols import Adversary, MaskedSum, ParameterError, Requirements
from protocols.masked.messages import PairKeyShare, Survivors, Unmask
from tests.attacks.weakened import Stage, body_of, is_read, rebuild, revealed, strip, updates_of

NAMES = "abcdef"
VICTIM = "f"


def test_a_lying_server_reads_the_victim() -> None:
    stage, updates = Stage(MaskedSum(max_clients=8), NAMES), updates_of(NAMES)
    stage.open(updates, until=3)
    alive = stage.request(3, Survivors(frozenset(NAMES)))
    dropped = stage.request(3, Survivors(frozenset(NAMES) - {VICTIM}))
    half = {name: body_of(Unmask, stage.tell(name, alive)) for name in ("a", "b", VICTIM)}
    other = {name: body_of(Unmask, stage.tell(name, dropped)) for name in "cde"}
    seed = rebuild(stage.view, revealed(half, VICTIM))
    round_secret = rebuild(stage.view, revealed(other, VICTIM, PairKeyShare))
    words = strip(stage, VICTIM, seed=seed, round_secret=round_secret)
    assert is_read(stage, words, updates[VICTIM])


@pytest.mark.parametrize("adversary", [Adversary.SEMI_MALICIOUS, Adversary.MALICIOUS])
def test_protection_against_it_cannot_be_had_by_asking(adversary: Adversary) -> None:
    with pytest.raises(ParameterError, match="SEMI_HONEST"):
        MaskedSum(max_clients=8, requirements=Requirements(adversary=adversary))


def test_the_protocol_says_so() -> None:
    import protocols.masked.protocol as module

    assert module.__doc__ is not None
    assert "lies about who survived" in " ".join(module.__doc__.split())
