"""Plans of whole rosters, pinned: what was planned before a cohort could be a part of its roster.

The digests were made by this file's own `line` at the last commit that knew no roster, when every plan was
for the cohort alone. A cohort that is the whole roster is planned as it was then, to the last number. Floats
are written to six digits, so that another processor's logarithm changes none.
"""

import hashlib
from typing import Any

import pytest

from protocols import Adversary, ParameterError, Requirements
from protocols.planning.planner import plan_masked

SIZES = (*range(2, 261), 300, 500, 1_000, 2_000)
FIELDS = (
    "clients",
    "adversary",
    "degree",
    "threshold",
    "min_survivors",
    "min_neighbours",
    "corrupt",
    "quorum",
    "ring_bits",
    "security_failure",
    "liveness_failure",
    "sure_contributors",
    "exposure",
)
SEMI_HONEST, SEMI_MALICIOUS, MALICIOUS = Adversary
ASKED: dict[str, dict[str, Any]] = {
    "default": {},
    "a tenth corrupt": {"corrupt_fraction": 0.1},
    "three tenths corrupt": {"corrupt_fraction": 0.3},
    "nobody vanishes": {"dropout_fraction": 0.0},
    "a tenth vanishes": {"dropout_fraction": 0.1},
    "two contributors": {"min_contributors": 2},
}
PINNED = {
    SEMI_HONEST: {
        "default": "af9ec1383540b5e8fb517d19c8cd93559d8ed60712fdb3baa9f8ce2ec58dd2ba",
        "a tenth corrupt": "08b575ae25f6fd5a46647f91f3bf78379b654132311ee171d86b2a50b085241e",
        "three tenths corrupt": "ec8ced87d88e00a7a2fe09fac3e33f6ef777826a8f6ab921a8c582f5c2a91257",
        "nobody vanishes": "aa257ef89c530cdf696680655581dce0372e677c4f3cbe05f3f46e7aed09bedf",
        "a tenth vanishes": "d331ab2bab6b99e02130419e08f73a976e2ac967ba085f087cdd371a0a418317",
        "two contributors": "fc1e25c95c13776bca3891fb852d9100cc6ddf13913a1f8b9032fef4255e68fb",
    },
    SEMI_MALICIOUS: {
        "default": "d105fc0d22a5b93cfe25841091fb364f0e1d66469db9f0603475096d49b5bb41",
        "a tenth corrupt": "3759307102013f8efc285d633c81fef6a9a25177e3c8e96860642ad03f14d6b2",
        "three tenths corrupt": "e6b0fc23f7a73c12ec1e018a2ff5bbe221ccc511e9e5f3641212a00dcd3b5102",
        "nobody vanishes": "e1c967be7b8a2af1d65a3a34ec7787195f78a15ddf551c79354d0e9270a80c6a",
        "a tenth vanishes": "48bb2f811d9cd9b2bc6c025f134592164abde7fdb75e773623e5b301ac629dd1",
        "two contributors": "badabfa9c96edcd181e7c53d238c1859b7263d2decffd62003d7a1db71a65321",
    },
    MALICIOUS: {
        "default": "beaabf54540c213f8500b9dd640d8093a53008a2e0ab27d960bedfad431c1779",
        "a tenth corrupt": "06f6afab8c546b0cc341cb8b0b50af567cfd45aff7595152636e4ad41c43a06c",
        "three tenths corrupt": "cacac8998042988ce9085f93b3ddf958115d1fd74fbaab4a438a7a66123244b8",
        "nobody vanishes": "983f89c7ecea7500334e736d04c1d8fd305d12cb4d4c87871be309c7c3dd13ee",
        "a tenth vanishes": "bcafed4ceef69a34ab8867a1c70e4acc6eae3fead41fc41aca86aa0515dc1441",
        "two contributors": "c00db121abc3b83c6bbb104833bad72a7a7d005aea45cfef5964cab3376f6841",
    },
}
"""SHA-256 of one line for each of `SIZES`, by adversary and by what is asked."""


def line(n: int, requirements: Requirements) -> str:
    """The plan for n clients in canonical text."""
    try:
        plan = plan_masked(n, requirements, ring_bits=20)
    except ParameterError:
        return f"{n}: refused"
    values = (getattr(plan, name) for name in FIELDS)
    written = (
        f"{value:.6g}"
        if isinstance(value, float)
        else value.value
        if isinstance(value, Adversary)
        else str(value)
        for value in values
    )
    return f"{n}: " + " ".join(written)


@pytest.mark.parametrize("adversary", PINNED)
@pytest.mark.parametrize("asked", ASKED)
def test_whole_rosters_are_planned_as_ever(adversary: Adversary, asked: str) -> None:
    requirements = Requirements(adversary=adversary, **ASKED[asked])
    text = "\n".join(line(n, requirements) for n in SIZES)
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED[adversary][asked]


@pytest.mark.parametrize(
    ("n", "adversary", "expected"),
    # clients, adversary, k, t, m, neighbours, c, q, ring, security, liveness, sure, exposure
    [
        (2, SEMI_HONEST, "2: refused"),
        (3, SEMI_MALICIOUS, "3: 3 semi-malicious 2 3 3 2 1 0 20 0 1 3 0"),
        (4, MALICIOUS, "4: 4 malicious 3 2 3 2 1 3 20 0 1 3 0"),
        (10, SEMI_HONEST, "10: 10 semi-honest 9 3 4 3 2 0 20 0 0 4 0"),
        (10, SEMI_MALICIOUS, "10: 10 semi-malicious 9 7 7 6 2 0 20 0 0 4 0"),
        (300, SEMI_HONEST, "300: 300 semi-honest 98 47 210 47 60 0 20 8.48024e-14 7.58768e-07 210 0"),
    ],
)
def test_some_of_them_in_clear(n: int, adversary: Adversary, expected: str) -> None:
    assert line(n, Requirements(adversary=adversary)) == expected
