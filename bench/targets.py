"""The claims that a run is held to: what is measured, in which unit, and its limit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log10
from typing import Any, Final

from bench.run import Run, least, ratio

__all__ = ["TARGETS", "Target", "expansion", "graph_of"]

MILLION: Final = 10**6


@dataclass(frozen=True, slots=True)
class Target:
    """One claim. `limit` None is a figure that is reported and not judged.

    `graph` says which degree and threshold it was measured with, where that is not obvious.
    """

    name: str
    unit: str
    measure: Callable[[Run], float]
    limit: float | None = None
    at_least: bool = False
    graph: Callable[[Run], str] | None = None


def _masked(contender: str) -> Callable[[Run], float]:
    return lambda run: ratio(run.one("masked client"), contender, "floor")


def _masked_round(field: str) -> Callable[[Run], float]:
    def measure(run: Run) -> float:
        entry = run.one("round", protocol="MaskedSum", clients=10, parameters=MILLION)
        return float(entry["seconds"] if field == "seconds" else entry[field] / entry["parameters"])

    return measure


def _heavy_bytes(run: Run) -> float:
    entry = run.one("masked weights")
    return float(entry["up"]["500"] / entry["parameters"])


def _heavy_client(run: Run) -> float:
    seconds = run.one("masked weights")["client_seconds"]
    return float(min(seconds["500"]) / min(seconds["1"]))


def _lattice(bits: int, max_weight: int) -> Callable[[Run], dict[str, Any]]:
    return lambda run: run.one("lattice vector", bits=bits, max_weight=max_weight)


def _lattice_targets(
    bits: int, max_weight: int, *, upload: float | None, nanoseconds: Mapping[str, float] | None = None
) -> tuple[Target, ...]:
    """The upload of ten clients, and the time of a value in each step, with their limits."""
    entry = _lattice(bits, max_weight)
    name = f"LatticeSum, {bits} bits, 10 × 10^6:"
    if max_weight > 1:
        name = f"LatticeSum, {bits} bits, max_weight={max_weight}, 10 × 10^6:"

    def step(contender: str) -> Callable[[Run], float]:
        return lambda run: 1e9 * least(entry(run), contender)

    limits = nanoseconds or {}
    return (
        Target(
            f"{name} upload", "B/parameter", lambda run: entry(run)["up"] / entry(run)["parameters"], upload
        ),
        *(
            Target(f"{name} {what}", "ns/value", step(contender), limits.get(contender))
            for contender, what in (
                ("contribute", "a client's whole contribute"),
                ("add", "adding a vector, unpacked already"),
                ("open", "opening, the server's whole last step"),
            )
        ),
    )


def _lattice_peer(contender: str, theirs: str) -> Callable[[Run], float]:
    return lambda run: ratio(run.one("tenseal lattice"), theirs, contender)


def _lattice_peer_bytes(run: Run) -> float:
    sizes = run.one("tenseal lattice")["bytes"]
    return float(sizes["TenSEAL encrypt"] / sizes["contribute"])


def _long_server(run: Run) -> float:
    seconds = run.one("long vectors")["server_seconds"]
    return float(min(seconds["LatticeSum"]["30"]) / min(seconds["MaskedSum"]["30"]))


def _long_vector(run: Run) -> float:
    seconds = run.one("long vectors")["vector_seconds"]["LatticeSum"]
    return float(min(seconds["30"]) / min(seconds["0"]))


def _phe(contender: str, key_bits: int) -> Callable[[Run], float]:
    return lambda run: ratio(run.one("phe", key_bits=key_bits), "phe encrypt", contender)


def _bytes_up(protocol: str) -> Callable[[Run], float]:
    def measure(run: Run) -> float:
        entry = run.largest_round(protocol, clients=10)
        return float(entry["up"] / entry["parameters"])

    return measure


def _tenseal(ours: str, opening: str, kind: str) -> Callable[[Run], float]:
    def measure(run: Run) -> float:
        entry = run.one("tenseal")
        theirs = least(entry, f"TenSEAL {kind} encrypt") + least(entry, f"TenSEAL {kind} decrypt")
        return (least(entry, ours) + least(entry, opening)) / theirs

    return measure


def graph_of(entry: Mapping[str, Any]) -> str:
    """Degree and threshold of a record."""
    return f"{entry['degree']}, {entry['threshold']}"


def expansion(entry: Mapping[str, Any]) -> float:
    """A client's bytes in both directions over those of its vector in the clear."""
    clear = entry["parameters"] * entry["bits"] / 8
    return float((entry["sent"] + entry["received"]) / clear)


def _server(
    adversary: str, clients: int, lost: str, limit: float | None, *, protocol: str = "MaskedSum"
) -> Target:
    """The server's time in a steady round that loses so many percent, on the published graph."""

    def entry(run: Run) -> dict[str, Any]:
        return run.one("scale", protocol=protocol, adversary=adversary, clients=clients, grinding_bits=0)

    return Target(
        f"{protocol}, {adversary}, {clients} × 10^5: server, {lost} % dropped",
        "s",
        lambda run: min(entry(run)["server_seconds"][lost]),
        limit,
        graph=lambda run: graph_of(entry(run)),
    )


def _client_alone(kind: str, what: str) -> Target:
    return Target(
        f"MaskedSum, malicious, 500 × 10^5: a client, {what}",
        "s",
        lambda run: min(run.one("client alone")["client_seconds"][kind]),
        0.2,
        graph=lambda run: graph_of(run.one("client alone")),
    )


def _expansion(grinding: int, limit: float | None) -> Target:
    return Target(
        f"MaskedSum, 2^10 × 2^20: expansion, grinding_bits={grinding}",
        "×",
        lambda run: expansion(run.one("expansion", grinding_bits=grinding)),
        limit,
        graph=lambda run: graph_of(run.one("expansion", grinding_bits=grinding)),
    )


def _flower(clients: int, parameters: int, who: str = "MaskedSum") -> Target:
    def entry(run: Run) -> dict[str, Any]:
        return run.one("flower", clients=clients, parameters=parameters)

    return Target(
        f"Flower's SecAgg+ / {who}, {clients} × 10^{round(log10(parameters))}: all parties' time",
        "×",
        lambda run: ratio(entry(run), "Flower", who),
        graph=lambda run: f"{entry(run)['degree']['MaskedSum']}, {entry(run)['threshold']['MaskedSum']}",
    )


MASKED = "MaskedSum, 10 clients × 10^6:"
CKKS = "CkksSum / TenSEAL as NVFlare sets it,"
NVFLARE = "TenSEAL as NVFlare sets it, symmetric key / LatticeSum:"
LONG = "LatticeSum, malicious, 500 × 10^6, 30 % dropped: server"
TARGETS = (
    Target(f"{MASKED} masks alone (apply_masks) / floor", "×", _masked("apply_masks"), 2.0),
    Target(f"{MASKED} a client's whole contribute / floor", "×", _masked("contribute"), 2.0),
    Target(f"{MASKED} whole round in one process, wall clock", "s", _masked_round("seconds"), 0.5),
    Target(f"{MASKED} upload", "B/parameter", _masked_round("up"), 2.6),
    Target(f"{MASKED} upload with max_weight=500", "B/parameter", _heavy_bytes),
    Target(f"{MASKED} client's time, max_weight=500 / 1", "×", _heavy_client),
    Target(
        f"{MASKED} round's wall clock, max_weight=500 / 1",
        "×",
        lambda run: ratio(run.one("masked weights"), "max_weight=500", "max_weight=1", "wall"),
    ),
    *_lattice_targets(16, 1, upload=3.1, nanoseconds={"contribute": 45, "add": 0.6, "open": 45}),
    *_lattice_targets(24, 1, upload=4.1),
    *_lattice_targets(8, 1, upload=1.8),
    *_lattice_targets(16, 500, upload=None),
    Target(f"{NVFLARE} encrypt", "×", _lattice_peer("contribute", "TenSEAL encrypt"), 18, True),
    Target(f"{NVFLARE} open", "×", _lattice_peer("open", "TenSEAL decrypt"), 9, True),
    Target(f"{NVFLARE} upload", "×", _lattice_peer_bytes, 14, True),
    *(
        target
        for bits in (2048, 3072)
        for target in (
            Target(f"phe {bits} / PaillierSum's encryption", "×", _phe("encrypt", bits), 2000, True),
            Target(
                f"phe {bits} / PaillierSum's whole contribute",
                "×",
                _phe("protocol contribute", bits),
                2000,
                True,
            ),
            Target(
                f"phe {bits} / PaillierSum, a key's first 10^4 values (makes its table)",
                "×",
                _phe("first encrypt", bits),
            ),
        )
    ),
    Target("PaillierSum 3072, 10 clients: upload", "B/parameter", _bytes_up("PaillierSum"), 5.2),
    Target("CkksSum, 10 clients: upload", "B/parameter", _bytes_up("CkksSum"), 31.0),
    *(
        target
        for kind in ("symmetric", "public")
        for target in (
            Target(f"{CKKS} {kind} key: encrypt + decrypt", "×", _tenseal("encrypt", "decrypt", kind), 0.8),
            Target(
                f"{CKKS} {kind} key: our contribute + open",
                "×",
                _tenseal("protocol contribute", "protocol open", kind),
                0.8,
            ),
        )
    ),
    *(
        _server(adversary, clients, str(lost), limit)
        for adversary, clients, limits in (
            ("malicious", 500, {0: 1.0, 10: 3.0, 30: 6.0}),
            ("malicious", 1000, {0: 2.0, 10: 5.0, 30: 12.0}),
            ("semi-malicious", 500, {0: 1.0, 5: 1.5}),
            ("semi-malicious", 1000, {0: 2.0, 5: 3.0}),
        )
        for lost, limit in limits.items()
    ),
    *(
        _server("malicious", 1000, str(lost), limit, protocol="LatticeSum")
        for lost, limit in {0: 2.0, 10: 4.0, 30: 8.0}.items()
    ),
    Target(
        f"{LONG} / MaskedSum's", "×", _long_server, 0.25, graph=lambda run: graph_of(run.one("long vectors"))
    ),
    Target(f"{LONG}'s work on each vector / at 0 %", "×", _long_vector, 1.05),
    _client_alone("first", "first round"),
    _client_alone("0", "steady round"),
    _expansion(0, 1.65),
    _expansion(40, None),
    *(
        _flower(clients, parameters, f"MaskedSum{grid}{round}")
        for clients, parameters in ((3, MILLION), (10, MILLION), (30, 10**5))
        for grid in ("", " on Flower's grid")
        for round in ("", ", first round")
    ),
)
