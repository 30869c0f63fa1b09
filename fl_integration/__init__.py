"""Training: models, the loops that put a secure sum between them, and studies with real records.

This is the door: every name below comes from the room that makes it, and a room is loaded when one of its
names is first asked for. So `import fl_integration` needs no torch, and rooms may move behind it. A missing
backend raises `MissingExtraError`, which names the extra to install. The README in this folder is the map.

>>> from fl_integration import LocalTraining
>>> LocalTraining(learning_rate=0.1).epochs
1
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_integration.loop.federated import FederatedRun, InProcess, RoundReport, fedavg, federate
    from fl_integration.loop.parties import FederatedClient, FederatedServer, model_digest
    from fl_integration.site.release_log import SqliteReleaseLog
    from fl_integration.site.training import LocalTraining, predict, train_locally
    from fl_integration.vectors.manifest import Manifest
    from fl_integration.vectors.sharing import adapters, all_but, all_but_norms, movable, only
    from fl_integration.vectors.vectorise import apply_delta, delta, flatten, manifest_of, unflatten

__all__ = [
    "FederatedClient",
    "FederatedRun",
    "FederatedServer",
    "InProcess",
    "LocalTraining",
    "Manifest",
    "RoundReport",
    "SqliteReleaseLog",
    "adapters",
    "all_but",
    "all_but_norms",
    "apply_delta",
    "delta",
    "fedavg",
    "federate",
    "flatten",
    "manifest_of",
    "model_digest",
    "movable",
    "only",
    "predict",
    "train_locally",
    "unflatten",
]

_ROOMS = {
    "loop.federated": ("FederatedRun", "InProcess", "RoundReport", "fedavg", "federate"),
    "loop.parties": ("FederatedClient", "FederatedServer", "model_digest"),
    "site.release_log": ("SqliteReleaseLog",),
    "site.training": ("LocalTraining", "predict", "train_locally"),
    "vectors.manifest": ("Manifest",),
    "vectors.sharing": ("adapters", "all_but", "all_but_norms", "movable", "only"),
    "vectors.vectorise": ("apply_delta", "delta", "flatten", "manifest_of", "unflatten"),
}

if not TYPE_CHECKING:  # a type checker knows the names, and says which ones are not there

    def __getattr__(name: str) -> object:
        for room, names in _ROOMS.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{room}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
