"""`protocols/lattice/SPEC.md` is true: its numbers follow from its formulas, and the code has the same ones.

Every table is parsed and recomputed here from the definitions, exactly wherever a float would not do; the
parameters are compared with those that `secagg` chooses, too. No number in a table goes unread: a test fails
over a row that it does not expect.
"""

import math
import re
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest

from protocols import lattice
from protocols.machine.summand import FloatSurface
from secagg import labels
from secagg.rlwe.binomial import CENTRE, COINS, VARIANCE
from secagg.rlwe.negacyclic import MAXIMUM_ERROR, rounding_bound
from secagg.rlwe.parameters import (
    CHECK_BITS,
    DEGREES,
    MAXIMUM_COEFFICIENTS,
    SECURE_MODULUS_BITS,
    Parameters,
    choose_parameters,
)
from secagg.vectors.fixedpoint import FixedPoint

ROOM = Path(lattice.__file__).parent
SPEC = (ROOM / "SPEC.md").read_text(encoding="utf-8")
TEXT = " ".join(SPEC.split())
N = 4096
LARGEST = MAXIMUM_COEFFICIENTS + N
"""Coordinates of a key and the errors of the longest vector."""

CLIENTS = (3, 10, 100, 500, 1000, 10_000)
GRIDS = tuple((bits, weight) for bits in (8, 16, 24) for weight in (1, 500))

PUBLISHED = {1024: (25, 26), 2048: (51, 53), 4096: (101, 106), 8192: (202, 214)}
"""Ternary secrets, 128 bits: eprint 2019/939, quantum; eprint 2024/463, classical."""

Table = dict[str, list[str]]


def table(header: str) -> Table:
    """The rows under a header line, by their first cell."""
    lines = SPEC.splitlines()
    assert lines.count(header) == 1, header
    rows: Table = {}
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip() for cell in line.strip("|").split("|"))
        assert first not in rows
        rows[first] = rest
    return rows


def quantities(first: str) -> dict[str, str]:
    """The one table `| quantity | value |` whose first row is `first`, as a mapping."""
    _, _, rest = SPEC.partition(f"| quantity | value |\n|---|---|\n| {first} |")
    assert rest, first
    block = f"| {first} |{rest}".split("\n\n")[0]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in block.splitlines()]
    assert all(len(row) == 2 for row in rows)
    return {row[0]: row[1] for row in rows}


def power(log2: float) -> str:
    return f"2^{log2:.1f}"


def log2(value: Fraction) -> float:
    """log2 of a fraction that may be far below the smallest float."""
    return math.log2(value.numerator) - math.log2(value.denominator)


# Distributions


@cache
def ours() -> dict[int, Fraction]:
    return {k - CENTRE: Fraction(math.comb(COINS, k), 2**COINS) for k in range(COINS + 1)}


@cache
def gaussian() -> dict[int, float]:
    """The discrete Gaussian of the same variance parameter; beyond ±82 it has less than 2^-120."""
    weights = {k: math.exp(-k * k / (2 * VARIANCE)) for k in range(-CENTRE, CENTRE + 1)}
    total = math.fsum(weights.values())
    return {k: weight / total for k, weight in weights.items()}


@cache
def tabled() -> dict[int, Fraction]:
    """That Gaussian with probabilities rounded to 16 bits."""
    counts = {k: round(2**16 * p) for k, p in gaussian().items()}
    total = sum(counts.values())
    return {k: Fraction(count, total) for k, count in counts.items() if count}


def narrow(distribution: dict[int, Fraction], *, variance: Fraction) -> Fraction:
    """Pr[one of two summands, given their sum, has a variance below `variance`]."""
    low, high = min(distribution), max(distribution)
    found = Fraction(0)
    for total in range(2 * low, 2 * high + 1):
        joint = {
            k: distribution[k] * distribution[total - k]
            for k in range(max(low, total - high), min(high, total - low) + 1)
        }
        mass = sum(joint.values(), Fraction(0))
        mean = sum((k * p for k, p in joint.items()), Fraction(0)) / mass
        if sum(((k - mean) ** 2 * p for k, p in joint.items()), Fraction(0)) < variance * mass:
            found += mass
    return found


def distance(distribution: dict[int, Fraction]) -> float:
    """Statistical distance from the discrete Gaussian."""
    return math.fsum(abs(float(distribution.get(k, 0)) - p) for k, p in gaussian().items()) / 2


def divergence() -> float:
    """Kullback-Leibler, ours from the discrete Gaussian, in nats."""
    return math.fsum(float(p) * math.log(float(p) / gaussian()[k]) for k, p in ours().items())


def hypergeometric_variance(heads: int) -> Fraction:
    """Of the heads in 164 of 328 coins when there are `heads` in all."""
    share = Fraction(heads, 2 * COINS)
    return COINS * share * (1 - share) * Fraction(COINS, 2 * COINS - 1)


def test_given_the_hint_a_binomial_is_hypergeometric() -> None:
    for heads in (0, 1, 47, 164, 301):
        drawn = range(max(0, heads - COINS), min(COINS, heads) + 1)
        joint = [ours()[k - CENTRE] * ours()[heads - k - CENTRE] for k in drawn]
        expected = [Fraction(math.comb(heads, k) * math.comb(2 * COINS - heads, COINS - k)) for k in drawn]
        assert [p / sum(joint) for p in joint] == [p / math.comb(2 * COINS, COINS) for p in expected]
        mean = sum(k * p for k, p in zip(drawn, joint, strict=True)) / sum(joint)
        variance = sum((k - mean) ** 2 * p for k, p in zip(drawn, joint, strict=True)) / sum(joint)
        assert variance == hypergeometric_variance(heads)


# Why it hides


def smoothing(coordinates: int) -> float:
    """log2 of the ε with which σ0/√2 = σ/√8 smooths Z^coordinates, from the theta series itself."""
    tail = math.fsum(2 * math.exp(-2 * math.pi**2 * (VARIANCE / 8) * j**2) for j in range(1, 6))
    return math.log2(math.expm1(coordinates * math.log1p(tail)))


def test_the_loss_of_the_reduction() -> None:
    sigma = math.sqrt(VARIANCE)
    assert VARIANCE == Fraction(COINS, 4) == sum(k * k * p for k, p in ours().items())
    width = math.sqrt(1 / (2 * (1 / sigma**2 + 1 / sigma**2)))  # the theorem's σ0, with B = 1
    assert width == pytest.approx(sigma / 2)
    million = Parameters.coefficients(
        choose_parameters(sum_bound=327_670, signed=True, max_summands=10), 10**6
    )
    blocks = -(-million // N)
    assert quantities("σ") == {
        "σ": f"{sigma:.3f}",
        "σ0": f"{width:.4f}",
        "ε, one polynomial": power(smoothing(N)),
        "ε, 2^28 + 4096 coordinates": power(smoothing(LARGEST)),
        "distance 2ε, 10^6 values, m = 2": power(1 + smoothing(N * (1 + blocks))),
        "distance 2ε, 2^28 + 4096 coordinates": power(1 + smoothing(LARGEST)),
    }


def test_the_closed_form_of_the_smoothing_parameter_agrees() -> None:
    # Micciancio and Regev: η_ε(Z^D) <= sqrt(ln(2D(1 + 1/ε)) / π) for exp(-πx²/s²), s = √(2π) times the width.
    for coordinates in (N, LARGEST):
        epsilon = 2 ** smoothing(coordinates)
        eta = math.sqrt(math.log(2 * coordinates * (1 + 1 / epsilon)) / math.pi)
        assert math.sqrt(2 * math.pi) * math.sqrt(VARIANCE / 8) == pytest.approx(eta, rel=1e-9)


def test_two_discrete_gaussians_add_up_to_the_hinted_one() -> None:
    # The lemma's second step, seen: at a width where ε is not small, the distance is there and under 2ε.
    width = 0.6
    epsilon = math.fsum(2 * math.exp(-2 * math.pi**2 * (width**2 / 2) * j**2) for j in range(1, 20))
    assert 0.03 < epsilon < 0.1

    def discrete(sigma: float, centre: float) -> dict[int, float]:
        weights = {k: math.exp(-((k - centre) ** 2) / (2 * sigma**2)) for k in range(-40, 41)}
        total = math.fsum(weights.values())
        return {k: p / total for k, p in weights.items()}

    for centre in (0.0, 0.5):
        first, second = discrete(width, 0.0), discrete(width, centre)
        target = discrete(math.sqrt(2) * width, centre)
        total = {z: math.fsum(first[k] * second[z - k] for k in range(-20, 21)) for z in range(-20, 21)}
        assert 0 < math.fsum(abs(total[z] - target[z]) for z in total) / 2 <= 2 * epsilon


def parity_bias(heads: int) -> Fraction:
    """|Pr[even] - Pr[odd]| of the heads among one's own coins, given those of both."""
    ways = [
        (-1) ** k * math.comb(COINS, k) * math.comb(COINS, heads - k)
        for k in range(max(0, heads - COINS), min(COINS, heads) + 1)
    ]
    return abs(Fraction(sum(ways), math.comb(2 * COINS, heads)))


def test_what_is_known_of_hypergeometric_coefficients() -> None:
    width = Fraction(VARIANCE, 4)
    least = min(heads for heads in range(2 * COINS + 1) if hypergeometric_variance(heads) >= width)
    outside = Fraction(2 * sum(math.comb(2 * COINS, heads) for heads in range(least)), 2 ** (2 * COINS))
    assert outside == narrow(ours(), variance=width)
    parity = sum((-1) ** (k % 2) * p for k, p in ours().items())
    assert parity_bias(COINS) == Fraction(math.comb(COINS, CENTRE), math.comb(2 * COINS, COINS))
    blocks = (2**28 + 4096) * COINS // 8 // 16
    assert power(2 * math.log2(blocks) - 129).startswith("2^-72")
    assert quantities("standard deviation at T = 164") == {
        "standard deviation at T = 164": f"{math.sqrt(hypergeometric_variance(COINS)):.3f}",
        "standard deviation is below σ0 for T below": str(least),
        f"Pr[T < {least} or T > {2 * COINS - least}]": power(log2(outside)),
        "the same, anywhere in 2^28 + 4096 coordinates": power(log2(outside) + math.log2(LARGEST)),
        "a coefficient's bias to be even, before the hint": str(parity),
        f"a coefficient's bias to be even, given {least} <= T <= {2 * COINS - least}, at most": power(
            max(
                log2(parity_bias(heads))
                for heads in range(least, 2 * COINS - least + 1)
                if parity_bias(heads)
            )
        ),
    }


def test_which_distributions_keep_their_width() -> None:
    width = Fraction(VARIANCE, 4)
    binomial, table16 = narrow(ours(), variance=width), narrow(tabled(), variance=width)
    ternary = {k: Fraction(1, 3) for k in (-1, 0, 1)}
    rows = table(
        "| distribution | statistical distance | Pr[width, given the hint, is under σ0] "
        "| among 2^28 coefficients |"
    )
    assert rows == {
        "ours": [
            power(math.log2(distance(ours()))),
            power(log2(binomial)),
            power(log2(binomial) + 28),
        ],
        "Gaussian table of 16-bit probabilities": [
            power(math.log2(distance(tabled()))),
            power(log2(table16)),
            f"{float(table16 * 2**28):.0f}",
        ],
        "ternary": ["–", str(narrow(ternary, variance=width)), "all"],
    }
    assert max(tabled()) == -min(tabled()) == 27
    assert "it ends at ±27" in TEXT
    numbers = (
        f"{divergence():.3g} nats",
        f"{2 * N * divergence():.3f} for one key",
        f"{LARGEST * divergence():.0f} for",
    )
    assert [number for number in numbers if number not in TEXT] == []


def test_what_extreme_sums_disclose() -> None:
    rows = table(
        "| n | ternary: one coefficient | ternary: some of 4096 "
        "| ours: one coefficient | ours: some of 4096 |"
    )
    expected = {}
    for n in (2, 3, 10):
        ternary = Fraction(2, 3**n)
        extreme = 2 * min(ours().values()) ** n
        assert extreme == Fraction(2, 2 ** (COINS * n))
        shown = float(ternary)
        expected[str(n)] = [
            f"{shown:.4f}" if shown > 0.01 else f"{shown:.7f}",
            f"{-math.expm1(N * math.log1p(-shown)):.3f}",
            power(log2(extreme)),
            power(log2(extreme) + 12),  # a union bound
        ]
    assert rows == expected


def test_the_modulus_is_far_below_what_is_secure() -> None:
    rows = table("| N | 2018, classical | 2018, quantum | 2024, classical | K at most |")
    assert tuple(map(int, rows)) == DEGREES
    for degree, cells in rows.items():
        classical, quantum, guideline, most = map(int, cells)
        assert (quantum, guideline) == PUBLISHED[int(degree)]
        assert classical == SECURE_MODULUS_BITS[int(degree)]
        assert most == min(64, classical)
    limits = [int(cell) for cell in rows[str(N)][:3]]
    assert f"the margin is {min(limits) - 64} bits or more" in TEXT
    assert f"= {8 / math.sqrt(2 * math.pi):.2f}" in TEXT
    assert math.sqrt(VARIANCE) / 2 > 8 / math.sqrt(2 * math.pi)
    assert MAXIMUM_COEFFICIENTS // N == 2**16


# Why the sum is exact


def bound_of(bits: int, weight: int, n: int) -> int:
    return n * weight * ((1 << bits - 1) - 1)


def noise_of(n: int) -> int:
    """The least E with 2·exp(-2·(E + 1)²/(164·n)) < 2^-68, by counting up from below."""
    noise = 0
    while 2 * (noise + 1) ** 2 / (COINS * n) <= 69 * math.log(2):
        noise += 1
    return noise


def scale_of(noise: int) -> int:
    return next(d for d in range(64) if 32 * (2 * noise + 1) <= 31 * 2**d)


def packing_of(sum_bound: int, n: int) -> tuple[int, int]:
    """(m, K) by trying all that are below 64 bits, from the condition that nothing wraps."""
    noise = noise_of(n)
    scale = 2 ** scale_of(noise)
    found = []
    for m in range(1, 64):
        largest = ((2 * sum_bound + 1) ** m - 1) // 2
        modulus = next((K for K in range(1, 65) if largest * scale + noise < 2 ** (K - 1)), None)
        if modulus is None:
            break
        modulus = {39: 40, 47: 48, 54: 56, 55: 56, 62: 64, 63: 64}.get(modulus, modulus)
        found.append((Fraction(modulus, m), m, modulus))
    _, m, modulus = min(found)
    return m, modulus


def exact_tail(n: int, noise: int) -> float:
    """log2 Pr[|heads of 164·n coins - 82·n| > noise]."""
    coins, centre = COINS * n, CENTRE * n
    # Beyond four times the bound there is nothing that a float can add.
    logs = [
        math.lgamma(coins + 1) - math.lgamma(centre + k + 1) - math.lgamma(centre - k + 1)
        for k in range(noise + 1, min(centre, 4 * noise) + 1)
    ]
    total = math.fsum(math.exp(each - logs[0]) for each in logs)
    return (logs[0] + math.log(2 * total)) / math.log(2) - coins


def code(bits: int, weight: int, n: int) -> Parameters:
    return choose_parameters(sum_bound=bound_of(bits, weight, n), signed=True, max_summands=n)


def test_the_noise_has_room() -> None:
    rows = table("| n | E | d | (2E + 1)/Δ | Pr[a sum of errors is beyond E], exact |")
    expected = {}
    for n in CLIENTS:
        noise = noise_of(n)
        scale = scale_of(noise)
        tail = exact_tail(n, noise)
        assert tail + 28 < -40
        # Residues that are known to be even, or odd, pass with (E + 1)·2/Δ at most, and that fits too.
        assert 32 * (2 * noise + 2) <= 31 * 2**scale
        chosen = code(16, 1, n)
        assert (chosen.noise_bound, chosen.scale_bits) == (noise, scale)
        expected[str(n)] = [str(noise), str(scale), f"{(2 * noise + 1) / 2**scale:.3f}", power(tail)]
    assert rows == expected


def test_how_values_are_packed() -> None:
    header = "| bits, weight | " + " | ".join(f"n = {n}" for n in CLIENTS) + " |"
    expected = {}
    for bits, weight in GRIDS:
        cells = []
        for n in CLIENTS:
            m, modulus = packing_of(bound_of(bits, weight, n), n)
            chosen = code(bits, weight, n)
            assert (chosen.digits, chosen.modulus_bits) == (m, modulus)
            assert chosen.base == 2 * bound_of(bits, weight, n) + 1
            cells.append(f"{m} in {modulus}: {modulus / m / 8:.2f}")
        expected[f"{bits}, {weight}"] = cells
    assert table(header) == expected


@pytest.mark.parametrize(("bits", "weight"), GRIDS)
def test_the_surface_has_the_sums_of_the_specification(bits: int, weight: int) -> None:
    surface = FloatSurface(
        codec=FixedPoint(bits=bits, clip=1.0),
        max_clients=10,
        max_weight=weight,
        max_total_weight=10 * weight,
        ring_weight=10 * weight,
    )
    assert (surface.sum_bound, surface.signed) == (bound_of(bits, weight, 10), True)


def test_a_wrong_key_is_found() -> None:
    assert f"a full block with {power(N * math.log2(31 / 32))} at" in TEXT
    assert "2^c <= 164·n, so there are as many as bring (2E + 1 + 328·n)/2^K under 2^-128" in TEXT
    for bits, weight in GRIDS:
        for n in CLIENTS:
            chosen = code(bits, weight, n)
            passing = math.log2(2 * chosen.noise_bound + 1 + 2 * COINS * n) - chosen.modulus_bits
            checks = chosen.check_coefficients
            assert checks * passing < -128 <= (checks - 1) * passing


def test_an_ideal_that_is_odd_somewhere_holds_two() -> None:
    # In Z[X]/(X^4 + 1) modulo 4, all of them: the claim of which the bound for check coefficients is made.
    degree, q = 4, 4
    all_of_them = [[number // q**j % q for j in range(degree)] for number in range(q**degree)]
    two = [2] + [0] * (degree - 1)
    holds = {
        tuple(delta): any(negacyclic(factor, delta, q) == two for factor in all_of_them)
        for delta in all_of_them
    }
    assert sum(holds.values()) > 200
    for delta, found in holds.items():
        if any(each % 2 for each in delta):
            assert found, delta


def negacyclic(a: list[int], b: list[int], q: int) -> list[int]:
    product = [0] * len(a)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            sign = 1 if i + j < len(a) else -1
            product[(i + j) % len(a)] += sign * x * y
    return [each % q for each in product]


# The product


def squared_norm_of(n: int) -> int:
    t = 64 * math.log(2)
    return math.ceil(VARIANCE * n * (N + 2 * math.sqrt(N * t) + 2 * t))


def error_of(limb_bits: int, squared_norm: int) -> float:
    """The bound as the specification writes it, with k = 11."""
    u, beta = 2.0**-53, 2.0**-52
    growth = 33 * math.log1p(u) + 37 * math.log1p(u * math.sqrt(5)) + 36 * math.log1p(beta)
    return math.sqrt(N) * 2.0 ** (limb_bits - 1) * math.sqrt(squared_norm) * math.expm1(growth)


def test_the_product_is_exact() -> None:
    assert N // 2 == 2**11
    rows = table("| n, bits | K | ‖S‖ at most | limbs | w | bound |")
    expected = {}
    for n, bits in ((10, 8), (10, 16), (10, 24), (1000, 16), (10_000, 16), (10_000, 8)):
        chosen = code(bits, 1, n)
        squared_norm = squared_norm_of(n)
        limbs = next(
            L
            for L in range(1, 65)
            if -(-chosen.modulus_bits // L) <= 32
            and error_of(-(-chosen.modulus_bits // L), squared_norm) < MAXIMUM_ERROR
        )
        width = -(-chosen.modulus_bits // limbs)
        bound = error_of(width, squared_norm)
        assert (chosen.limbs, chosen.limb_bits, chosen.key_norm_bound) == (limbs, width, squared_norm)
        assert bound == pytest.approx(
            rounding_bound(degree=N, limb_bits=width, squared_norm=squared_norm), rel=1e-9
        )
        expected[f"{n}, {bits}"] = [
            str(chosen.modulus_bits),
            f"{math.sqrt(squared_norm):.0f}",
            str(limbs),
            str(width),
            f"{bound:.4f}",
        ]
    assert rows == expected
    assert MAXIMUM_ERROR == 1 / 4


# The text


def test_the_constants_in_the_text() -> None:
    levels = (N // 2).bit_length() - 1
    coefficient_bits = 40 + MAXIMUM_COEFFICIENTS.bit_length() - 1
    for words in (
        f"N = {N}; q = 2^K with K <= 64",
        f"{COINS} fair coins, less {CENTRE}: mean 0, variance {VARIANCE}",
        f"as counts s_i + {CENTRE} in [0, {COINS}]",
        f"σ = √{VARIANCE}: **σ0 = σ/2**",
        f"the {2 * COINS} coins of two summands",
        f"{COINS} drawn from {2 * COINS} of which T count",
        f"There are at most 2^{(MAXIMUM_COEFFICIENTS // N).bit_length() - 1} blocks",
        f"gives less than 2^-{coefficient_bits}: over 2^{coefficient_bits - 40} coefficients",
        f"(1 + u)^{3 * levels}·(1 + u√5)^{3 * levels + 4}·(1 + β)^{3 * levels + 3} - 1)",
        f"2^k, k = {levels}, of limb and key",
        f"Pr[‖S‖² > {VARIANCE}n·(N + 2√(Nt) + 2t)]",
        "t = 64·ln 2",
        "2E + 1 <= (31/32)·Δ",
        "by chance with at most 31/32",
        f"bring (2E + 1 + 328·n)/2^K under 2^-{CHECK_BITS}",
        f"2^c <= {COINS}·n",
        "with probability less than 2^-40",
        "makes K/m least with K <= 64",
        f"one of ±{2 * max(tabled())} a single one",
        f"between {math.sqrt(hypergeometric_variance(COINS)):.3f} and σ0",
        "u = 2^-53, β = 2^-52",
    ):
        assert words in TEXT
    # The binomial's variance in the exponent of Hoeffding's bound, and in the width that smooths.
    assert f"2·exp(-2t²/({COINS}n))" in TEXT
    assert "exp(-2π²·(σ²/8)·j²)" in TEXT


def test_every_label_is_specified() -> None:
    used = set()
    for path in (*ROOM.glob("*.py"), *(ROOM.parents[1] / "secagg/rlwe").glob("*.py")):
        used |= set(re.findall(r"\blabels\.([A-Z_]+)", path.read_text(encoding="utf-8")))
    assert {"LATTICE_KEY", "LATTICE_NOISE", "LATTICE_PUBLIC"} <= used
    for name in used:
        text = getattr(labels, name).decode().removeprefix("secagg/1/")
        assert f"`{text}`" in SPEC, name


def test_every_table_is_read_or_has_no_numbers() -> None:
    headers = [
        line
        for line, below in zip(SPEC.splitlines(), SPEC.splitlines()[1:], strict=False)
        if line.startswith("|") and re.fullmatch(r"\|(---\|)+", below)
    ]
    source = Path(__file__).read_text(encoding="utf-8")
    words = ("| here | symbol |", "| key layer | who learns", "| bits, weight |", "| quantity | value |")
    unread = [header for header in headers if not header.startswith(words) and header[:40] not in source]
    assert unread == []
    assert headers.count("| quantity | value |") == 2


def test_the_specification_is_short() -> None:
    lines = SPEC.splitlines()
    assert len(lines) <= 310
    assert all(len(line) <= 125 for line in lines if not line.startswith("|"))
