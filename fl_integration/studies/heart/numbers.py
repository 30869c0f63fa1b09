"""Every number that came out, unrounded, for `results.json`.

>>> as_json({"auc": 0.5})
b'{\\n  "auc": 0.5\\n}\\n'
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any, Final

from fl_integration.studies.heart.choices import BITS, CLIP, MAX_WEIGHT, Choice
from fl_integration.studies.heart.costs import Cost
from fl_integration.studies.heart.federation.wires import engine_numbers
from fl_integration.studies.heart.findings import Act, Auc, Repeat, Row
from fl_integration.studies.heart.model import LOCAL

__all__ = ["as_json", "results", "versions"]

_PACKAGES: Final = (
    "secagg", "numpy", "cryptography", "gmpy2", "torch", "tenseal", "scikit-learn", "flwr", "nvflare",
)  # fmt: skip


def results(
    acts: tuple[Act, ...],
    costs: Mapping[Choice, Cost],
    repeats: tuple[Repeat, ...],
    refusals: Mapping[Choice, str],
) -> dict[str, Any]:
    """Every number, for `json.dump`."""
    return {
        "versions": versions(),
        "parameters": {
            "clip": CLIP,
            "bits": BITS,
            "max_weight": MAX_WEIGHT,
            "epochs": LOCAL.epochs,
            "batch_size": LOCAL.batch_size,
            "learning_rate": LOCAL.learning_rate,
            "weight_decay": LOCAL.weight_decay,
        },
        "acts": [_act(act) for act in acts],
        "other_splits": [
            {"site": r.site.value, "splits": r.splits, "low": r.low, "mean": r.mean, "high": r.high}
            for r in repeats
        ],
        "million_parameters": {
            choice.value: {
                "measured": cost.measured,
                "scaled": cost.scaled,
                "sent": cost.sent,
                "received": cost.received,
                "client_seconds": cost.client_seconds,
                "server_seconds": cost.server_seconds,
            }
            for choice, cost in costs.items()
        },
        "refused_among_three": {choice.value: reason for choice, reason in refusals.items()},
    }


def as_json(numbers: Mapping[str, Any]) -> bytes:
    """UTF-8 with a line feed at the end; a NaN is refused."""
    return (json.dumps(numbers, indent=2, allow_nan=False) + "\n").encode()


def versions() -> dict[str, str]:
    """The version of this package and of those that its figures depend on."""
    found = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _auc(value: Auc) -> dict[str, float]:
    return {"low": value.low, "value": value.value, "high": value.high}


def _act(act: Act) -> dict[str, Any]:
    return {
        "sites": {
            h.site.value: {
                "train": len(h.train_y),
                "test": len(h.test_y),
                "tested_diseased": int(h.test_y.sum()),
            }
            for h in act.hospitals
        },
        "rounds": act.rounds,
        "seed": act.seed,
        "lost": None if act.lost is None else {"site": act.lost[0].value, "round": act.lost[1] + 1},
        "rows": [_row(row) for row in act.rows],
        "engine": engine_numbers(act),
        "privacy": _privacy(act),
        "standardise": None
        if act.scaling is None
        else {
            "how": act.scaling.how.value,
            "fedavg_auc_together": _auc(act.scaling.this),
            "on_the_other_scale": _auc(act.scaling.other),
        },
        "gains": [
            {"site": g.site.value, "patients": g.patients, "low": g.low, "value": g.value, "high": g.high}
            for g in act.gains
        ],
    }


def _privacy(act: Act) -> dict[str, Any] | None:
    """What was promised, the noise for it, and what was spent."""
    if act.private is None:
        return None
    plan = act.private.plan
    return {
        "unit": plan.unit.value,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        "epsilon_by_round": list(plan.epsilon_by_round),
        "spent": act.private.spent,
        "sure_honest": plan.sure_honest,
        "contributors_factor": plan.contributors_factor,
        "noise_multiplier": plan.noise_multiplier,
        "sigma_total": plan.sigma_total,
        "sigma_client": plan.sigma_client,
        "clip": plan.clip,
        "steps": plan.steps,
        "ring_bits": plan.ring_bits,
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "title": row.title,
        "kind": row.kind,
        "auc": {site.value: _auc(value) for site, value in row.aucs.items()},
        "auc_together": _auc(row.overall),
        "auc_together_by_round": list(row.curve),
        "largest_difference_from_fedavg": row.difference,
        "usage": None
        if row.usage is None
        else {
            "sent": row.usage.sent,
            "received": row.usage.received,
            "setup_sent": row.usage.setup_sent,
            "client_seconds": row.usage.client_seconds,
            "server_seconds": row.usage.server_seconds,
        },
        "rounds": [
            {
                "round": report.number + 1,
                "contributors": sorted(report.contributors),
                "dropped": report.dropped,
                "total_weight": report.total_weight,
                "aborted": report.aborted,
                "epsilon": report.epsilon,
                "clipped": report.clipped,
                "sent": {party: traffic.sent for party, traffic in report.traffic.items()},
                "received": {party: traffic.received for party, traffic in report.traffic.items()},
                "seconds": report.seconds,
            }
            for report in row.history
        ],
    }
