"""What an application answered, as what it adds to a sum.

An application that knows nothing of secagg answers with the arrays that it came to and with numbers by name.
Summed is what changed, weighted by the examples, and of the numbers those that the protocol names; the rest
stays at the site.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from fl_integration.embedding.delivery import Contribution
from fl_integration.vectors.arrays import Vector
from fl_integration.vectors.vectorise import delta, manifest_of
from protocols.machine.parameters import Parameters
from secagg.errors import ParameterError

__all__ = ["contribution_of"]

_LOG: Final = logging.getLogger("secagg")


def contribution_of(
    new: Mapping[str, Any] | None,
    metrics: Mapping[str, Any],
    *,
    old: Mapping[str, Any],
    protocol: Parameters,
    weighted_by_key: str,
) -> Contribution:
    """What an answer adds to the sum of a purpose.

    Args:
        new: the arrays of the answer, by name; None: of an evaluation, which has none.
        metrics: its numbers, by name.
        old: the arrays that the application was shown; of an evaluation unused.
        protocol: of the purpose.
        weighted_by_key: where the number of examples stands.

    Raises:
        ParameterError: the answer has no number of examples, lacks a metric that is summed, or its arrays are
            others than those that were shown.
    """
    weight = metrics.get(weighted_by_key)
    # Engines let an app say 32.0 examples; a fraction of one is nothing that a sum has.
    if isinstance(weight, float) and weight.is_integer():
        weight = int(weight)
    if not isinstance(weight, int) or weight < 1:
        raise ParameterError(
            f"the app's metrics have no positive integer under {weighted_by_key!r}: the number of "
            "examples, by which its answer is weighted"
        )
    update: Vector = np.zeros(1, np.float32)  # of an evaluation; its metrics are what is summed
    if new is not None:
        if new.keys() != old.keys():
            odd = sorted(new.keys() ^ old.keys())[0]
            raise ParameterError(
                f"only one of the server and the app has an array {odd!r}; answer with the same"
            )
        fitting = {name: _like(old[name], value) for name, value in new.items()}
        update = delta(fitting, old, manifest=manifest_of(old))
    return Contribution(update=update, weight=weight, metrics=_summed(protocol, metrics))


def _summed(protocol: Parameters, metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that the protocol names, each within its range; the others stay here."""
    found: dict[str, float] = {}
    for name, low, high in protocol.surface.metrics:
        value = metrics.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ParameterError(
                f"the protocol sums the metric {name!r}, and the app answers with {sorted(metrics)}; it "
                "must be one number"
            )
        found[name] = min(max(float(value), low), high)
        if found[name] != value:
            _LOG.warning("metric %r is outside its range [%s, %s] and counts as its end", name, low, high)
    return found


def _like(reference: Any, value: Any) -> Any:
    """A value in the dtype that was sent: an app may answer in double precision what came in single.

    Integers stay integers, because they are kept and not summed. An integer where a float was sent stays what
    it is, and is refused: its change is no small number, and would be clipped without a word.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # whoever sums looks for what is not finite
        if reference.dtype.kind == "f" and value.dtype.kind == "f":
            return value.astype(reference.dtype, copy=False)
        if reference.dtype.kind in "iub" and value.dtype.kind in "iubf":
            return value.astype(reference.dtype, copy=False)
    return value
