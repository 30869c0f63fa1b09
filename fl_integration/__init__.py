"""Training: models, the loops that put a secure sum between them, and studies with real records.

This is the door: every name below comes from the room that makes it, and a room is loaded when one of its
names is first asked for. So `import fl_integration` needs no torch, and rooms may move behind it. A missing
backend raises `MissingExtraError`, which names the extra to install. The README in this folder is the map.

>>> from fl_integration import FedAdam
>>> FedAdam(learning_rate=0.1).momentum
0.9
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # fmt: off
    from fl_integration.loop.alarm import ClippingWarning
    from fl_integration.loop.asynchronous import run_round_async
    from fl_integration.loop.cohorts import Sampling
    from fl_integration.loop.evaluation import Better, Central, Custom, EarlyStopping, OnSites, Task
    from fl_integration.loop.federated import federate
    from fl_integration.loop.in_process import InProcess
    from fl_integration.loop.optimisers import BiasCorrection, FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi
    from fl_integration.loop.parties import FederatedClient, model_digest
    from fl_integration.loop.plain import fedavg
    from fl_integration.loop.rehearsal import Rehearsal
    from fl_integration.loop.report import FederatedRun, RoundReport, TrainingAborted
    from fl_integration.loop.scaffold import Scaffold
    from fl_integration.loop.serving import FederatedServer
    from fl_integration.loop.standardising import Standardisation, Standardise, standardised
    from fl_integration.loop.watch import Progress, Watch, to_tensorboard
    from fl_integration.privacy.adaptive import AdaptiveClip
    from fl_integration.privacy.client import ClientLevel
    from fl_integration.privacy.ledger import BudgetExceededError, BudgetLedger
    from fl_integration.privacy.patient import PatientLevel
    from fl_integration.privacy.plan import PrivacyPlan
    from fl_integration.privacy.rotation import Rotation
    from fl_integration.privacy.rows import RowLevel
    from fl_integration.privacy.units import Noise
    from fl_integration.site.keys import load_identity, load_public, save_identity
    from fl_integration.site.private_files import Existing, WithoutModes
    from fl_integration.site.public_identity import PublicIdentity, read_public
    from fl_integration.site.release_log import SqliteReleaseLog
    from fl_integration.site.roster_file import read_roster, write_roster
    from fl_integration.site.signed_rosters import Second, sign_roster
    from fl_integration.site.step import Trained
    from fl_integration.site.training import LocalTraining, predict
    from fl_integration.statistics.allele_test import AlleleTest, Association, Calls
    from fl_integration.statistics.asking import ask
    from fl_integration.statistics.cohort import TableOne
    from fl_integration.statistics.columns import Category, Genotypes, Number
    from fl_integration.statistics.correlation import Correlation
    from fl_integration.statistics.count import Count
    from fl_integration.statistics.cox_regression import CoxRegression, Ties
    from fl_integration.statistics.cross_table import CrossTable
    from fl_integration.statistics.histogram import Histogram
    from fl_integration.statistics.kaplan_meier import KaplanMeier
    from fl_integration.statistics.ledger import AnswerLedger
    from fl_integration.statistics.linear_regression import LinearRegression
    from fl_integration.statistics.logistic_regression import LogisticRegression
    from fl_integration.statistics.moments import Moments
    from fl_integration.statistics.pca import PCA
    from fl_integration.statistics.policy import SitePolicy, SmallCells
    from fl_integration.statistics.quantiles import Quantiles
    from fl_integration.statistics.question import Condition
    from fl_integration.statistics.refusal import QuestionRefusedError
    from fl_integration.statistics.roc_curve import RocCurve
    from fl_integration.statistics.table_one import table_one
    from fl_integration.vectors.autoclip import AutoClip
    from fl_integration.vectors.manifest import Manifest
    from fl_integration.vectors.sharing import adapters, all_but, all_but_norms, movable, only
    from fl_integration.vectors.vectorise import apply_delta, delta, flatten, manifest_of, segments, unflatten
    # fmt: on

# fmt: off
__all__ = [
    "PCA", "AdaptiveClip", "AlleleTest", "AnswerLedger", "Association", "AutoClip", "Better",
    "BiasCorrection", "BudgetExceededError", "BudgetLedger", "Calls", "Category", "Central",
    "ClientLevel", "ClippingWarning", "Condition", "Correlation", "Count", "CoxRegression", "CrossTable",
    "Custom", "EarlyStopping", "Existing", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedYogi",
    "FederatedClient", "FederatedRun", "FederatedServer", "Genotypes", "Histogram", "InProcess",
    "KaplanMeier", "LinearRegression", "LocalTraining", "LogisticRegression", "Manifest", "Moments",
    "Noise", "Number", "OnSites", "PatientLevel", "PrivacyPlan", "Progress", "PublicIdentity",
    "Quantiles", "QuestionRefusedError", "Rehearsal", "RocCurve", "Rotation", "RoundReport", "RowLevel",
    "Sampling", "Scaffold", "Second", "SitePolicy", "SmallCells", "SqliteReleaseLog", "Standardisation",
    "Standardise", "TableOne", "Task", "Ties", "Trained", "TrainingAborted", "Watch", "WithoutModes",
    "adapters", "all_but", "all_but_norms", "apply_delta", "ask", "delta", "fedavg", "federate",
    "flatten", "load_identity", "load_public", "manifest_of", "model_digest", "movable", "only",
    "predict", "read_public", "read_roster", "run_round_async", "save_identity", "segments",
    "sign_roster", "standardised", "table_one", "to_tensorboard", "unflatten", "write_roster",
]

_ROOMS = {
    "loop.alarm": ("ClippingWarning",),
    "loop.asynchronous": ("run_round_async",),
    "loop.cohorts": ("Sampling",),
    "loop.evaluation": ("Better", "Central", "Custom", "EarlyStopping", "OnSites", "Task"),
    "loop.federated": ("federate",),
    "loop.in_process": ("InProcess",),
    "loop.optimisers": ("BiasCorrection", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedYogi"),
    "loop.parties": ("FederatedClient", "model_digest"),
    "loop.plain": ("fedavg",),
    "loop.rehearsal": ("Rehearsal",),
    "loop.report": ("FederatedRun", "RoundReport", "TrainingAborted"),
    "loop.scaffold": ("Scaffold",),
    "loop.serving": ("FederatedServer",),
    "loop.standardising": ("Standardisation", "Standardise", "standardised"),
    "loop.watch": ("Progress", "Watch", "to_tensorboard"),
    "privacy.adaptive": ("AdaptiveClip",),
    "privacy.client": ("ClientLevel",),
    "privacy.ledger": ("BudgetExceededError", "BudgetLedger"),
    "privacy.patient": ("PatientLevel",),
    "privacy.plan": ("PrivacyPlan",),
    "privacy.rotation": ("Rotation",),
    "privacy.rows": ("RowLevel",),
    "privacy.units": ("Noise",),
    "site.keys": ("load_identity", "load_public", "save_identity"),
    "site.private_files": ("Existing", "WithoutModes"),
    "site.public_identity": ("PublicIdentity", "read_public"),
    "site.release_log": ("SqliteReleaseLog",),
    "site.roster_file": ("read_roster", "write_roster"),
    "site.signed_rosters": ("Second", "sign_roster"),
    "site.step": ("Trained",),
    "site.training": ("LocalTraining", "predict"),
    "statistics.allele_test": ("AlleleTest", "Association", "Calls"),
    "statistics.asking": ("ask",),
    "statistics.cohort": ("TableOne",),
    "statistics.columns": ("Category", "Genotypes", "Number"),
    "statistics.correlation": ("Correlation",),
    "statistics.count": ("Count",),
    "statistics.cox_regression": ("CoxRegression", "Ties"),
    "statistics.cross_table": ("CrossTable",),
    "statistics.histogram": ("Histogram",),
    "statistics.kaplan_meier": ("KaplanMeier",),
    "statistics.ledger": ("AnswerLedger",),
    "statistics.linear_regression": ("LinearRegression",),
    "statistics.logistic_regression": ("LogisticRegression",),
    "statistics.moments": ("Moments",),
    "statistics.pca": ("PCA",),
    "statistics.policy": ("SitePolicy", "SmallCells"),
    "statistics.quantiles": ("Quantiles",),
    "statistics.question": ("Condition",),
    "statistics.refusal": ("QuestionRefusedError",),
    "statistics.roc_curve": ("RocCurve",),
    "statistics.table_one": ("table_one",),
    "vectors.autoclip": ("AutoClip",),
    "vectors.manifest": ("Manifest",),
    "vectors.sharing": ("adapters", "all_but", "all_but_norms", "movable", "only"),
    "vectors.vectorise": ("apply_delta", "delta", "flatten", "manifest_of", "segments", "unflatten"),
}
# fmt: on

if not TYPE_CHECKING:  # a type checker knows the names, and says which ones are not there

    def __getattr__(name: str) -> object:
        for room, names in _ROOMS.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{room}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
