"""Everything that can be refused before a private training runs, and what its parties agree on.

A training is private as a whole or not at all. Weights, metrics of training, the scales of `AutoClip` and
evaluations on the sites' own data are exact sums beside the noised one, so each is refused, with what to
change. So are steps that one patient could move twice: epochs, momentum, an optimiser of the site's own.

What is not noise is not moved by noise: every entry that travels is a parameter that requires a gradient. A
buffer's mean under noise is none (a variance may turn negative).

Nothing here can see where numbers came from. A learning rate, a clip or a denominator that was chosen by
looking at the sites' data, standardisation by their means, early stopping on their data: those were queries
too.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from fl_integration.loop.checkpoint import Saved
from fl_integration.loop.evaluation import Central, Evaluation, Metric, OnSites
from fl_integration.loop.noised import Account, NoisedSums
from fl_integration.loop.preparing import Prepared, Shared
from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.ledger import BudgetExceededError, BudgetLedger, roster_of
from fl_integration.privacy.patient import PatientLevel
from fl_integration.site.per_patient import check_layers, check_order
from fl_integration.site.site import SiteFailedError
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.sharing import OfModel
from protocols.identity import ClientId
from protocols.machine.parameters import MachineProtocol, Parameters
from secagg.errors import MissingExtraError, ParameterError

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Budget", "Privacy", "agreed", "check_beside", "following", "moving", "spent_in"]

Privacy = PatientLevel | ClientLevel
"""What `federate(privacy=)` takes."""

_SESSION_BYTES: Final = 16

_NO_PLACE: Final = {
    "epochs": (1, "a patient would be seen more than once a round: leave it out, and run more rounds"),
    "optimiser": (None, "the server takes the step: leave it out, and pass server_optimiser="),
    "momentum": (0.0, "the server takes the step: leave it out, and pass server_optimiser=FedAvgM(…)"),
    "weight_decay": (0.0, "the step is the gradient of the patients alone: leave it out"),
    "proximal": (0.0, "a round of one step does not drift: leave it out"),
    "clip_gradient": (None, "each patient's gradient is cut to PatientLevel(clip=…): leave it out"),
    "class_weights": (
        None,
        "a weight cancels in the mean over one record: leave it out, or weigh in your loss",
    ),
}
"""What of `LocalTraining` has no place in a private step: its value when left out, and what to do."""


def moving(model: object, shared: Shared | None, privacy: Privacy | None) -> Shared | None:
    """What travels where `shared` is left out: under a `PatientLevel`, what requires a gradient."""
    if shared is not None or not isinstance(privacy, PatientLevel) or not isinstance(model, nn.Module):
        return shared
    names = frozenset(model.state_dict())
    return OfModel(rule="trained", names=names, home=names - _trained(model))


def check_beside(
    privacy: object,
    protocol: MachineProtocol,
    prepared: Prepared,
    *,
    clip: object,
    sampling: object,
    evaluate: Evaluation | Metric | None,
) -> Parameters:
    """Refuses what is asked for beside a private training and would be no part of it; the protocol.

    Raises:
        ParameterError: says what, and what to change.
    """
    if not isinstance(privacy, PatientLevel | ClientLevel):
        raise ParameterError(
            f"privacy is a {type(privacy).__name__}; it must be a PatientLevel(…) or a ClientLevel(…)"
        )
    sites, rounds = prepared.sites, prepared.rounds
    if rounds > privacy.rounds:
        raise ParameterError(
            f"rounds is {rounds}, and the noise of privacy is planned for {privacy.rounds}; pass "
            f"{type(privacy).__name__}(rounds={rounds}, …), or ask for fewer"
        )
    if not isinstance(protocol, Parameters):
        raise ParameterError("the protocol sums integers; pass the protocol itself, not its exact surface")
    if protocol.metrics:
        raise ParameterError(
            f"the protocol sums the metrics {list(protocol.metrics)}, exactly: leave metrics out under "
            "privacy="
        )
    if clip is not None:
        raise ParameterError(
            "clip=AutoClip() looks at the sizes of updates without noise: leave it out, privacy has a clip "
            "of its own"
        )
    if isinstance(evaluate, OnSites):
        raise ParameterError(
            "evaluate=OnSites(…) opens exact counts on the sites' own data: under privacy= take Central(…) "
            "with other people's data, or evaluate each site's model at the site, where it stays"
        )
    if isinstance(evaluate, Central) and any(evaluate.data is data for data in sites.values()):
        raise ParameterError(
            "evaluate=Central(…) has a site's own data, and would tell exactly how the model does on them: "
            "take other people's data"
        )
    if isinstance(privacy, PatientLevel):
        _check_patient_level(privacy, prepared, sampling=sampling)
    return protocol


def _check_patient_level(privacy: PatientLevel, prepared: Prepared, *, sampling: object) -> None:
    local, sites = prepared.local, prepared.sites
    if sampling is not None:
        raise ParameterError(
            "sampling= asks a part of the sites, and PatientLevel draws patients at all of them: leave it "
            "out, and pass PatientLevel(sampling_rate=…)"
        )
    if not isinstance(local, LocalTraining):
        raise ParameterError(
            "PatientLevel takes each patient's gradient and the step itself: pass "
            "local=LocalTraining(loss=…, learning_rate=…); a step of your own goes with ClientLevel"
        )
    for name, (left_out, remedy) in _NO_PLACE.items():
        if (given := getattr(local, name)) != left_out:
            raise ParameterError(f"LocalTraining has {name}={given!r} under PatientLevel: {remedy}")
    if privacy.patients is not None:
        others = sorted(set(privacy.patients) ^ set(sites))
        if others:
            raise ParameterError(
                f"patients and sites differ in {others}; patients maps each site's id to its rows' patients"
            )
        for name, data in sites.items():
            try:
                check_order(data)
            except ParameterError as error:
                raise ParameterError(f"site {name!r} has {error}") from error
    check_layers(prepared.model)


def agreed(privacy: Privacy, protocol: Parameters, prepared: Prepared, *, cohort: int) -> NoisedSums:
    """What all parties of a private training agree on; `check_beside` found nothing.

    Args:
        cohort: sites that a round asks.

    Raises:
        ParameterError: an entry travels that no gradient moves, or the noise has no plan; what to change.
        MissingExtraError: dp-accounting is not installed.
    """
    if prepared.layout.optimiser.controls:
        raise ParameterError(
            "server_optimiser=Scaffold(…) sums control variates beside the updates: take another under "
            "privacy="
        )
    trained = _trained(prepared.model)
    names = tuple(entry.name for entry in prepared.layout.manifest.entries if entry.length)
    for name in names:
        if name not in trained:
            raise ParameterError(
                f"entry {name!r} travels and is no parameter that requires a gradient, so the noise would "
                "move it at random: leave it out with shared=, all_but_norms(model) for instance, or take "
                "torch.nn.GroupNorm in a BatchNorm's place"
            )
    if isinstance(privacy, PatientLevel):
        home = sorted(trained.difference(entry.name for entry in prepared.layout.manifest.entries))
        if home:
            raise ParameterError(
                f"parameter {home[0]!r} requires a gradient and stays at home, where PatientLevel would "
                "never move it: share it, or freeze it (requires_grad=False)"
            )
    plan = privacy.plan(cohort, protocol=protocol, length=prepared.layout.length, roster=len(prepared.sites))
    local = prepared.local if isinstance(prepared.local, LocalTraining) else None
    return NoisedSums(privacy=privacy, plan=plan, local=local, names=names, seed=prepared.seed)


def following(prepared: Prepared, privacy: Privacy | None) -> Prepared:
    """The same training with the first clip in its model, where the clip follows."""
    if privacy is None or privacy.adaptive is None:
        return prepared
    layout = replace(prepared.layout, adaptive=privacy.adaptive)
    start = replace(prepared.start, layout=layout)
    first = np.full(len(layout.segments), privacy.adaptive.initial)
    return replace(prepared, layout=layout, start=start.scaled(first))


class Budget:
    """What all sites of a training in one process have spent.

    Args:
        sums: what all agreed on.
        prepared: the training.
        saved: where it goes on from.

    Attributes:
        session: under which its rounds are paid for, those before an interruption too.
        saved: for the checkpoint: the session, and the identity of a durable ledger.

    Raises:
        BudgetExceededError: what is left does not do for the rounds that are to come; nothing was charged.
        ParameterError: its rounds so far were paid for in another ledger.
    """

    def __init__(self, sums: NoisedSums, prepared: Prepared, saved: Saved | None) -> None:
        privacy, roster = sums.privacy, roster_of(prepared.sites)
        ledger = privacy.ledger
        if ledger is None:  # it lasts as long as this training
            ledger = BudgetLedger(None, epsilon=privacy.epsilon, delta=privacy.delta)
        # Not of a rehearsal's randomness, either: two trainings are two, even if they draw alike.
        self.session = os.urandom(_SESSION_BYTES) if saved is None else saved.account[:_SESSION_BYTES]
        kept = b"" if privacy.ledger is None else privacy.ledger.identity
        self.saved = self.session + kept
        if saved is not None and saved.account != self.saved:
            raise ParameterError(
                "the checkpoint's rounds were paid for in another ledger than privacy has, or in none: pass "
                "that one, for this one has forgotten what is spent; or begin in another folder"
            )
        self._accounts = {
            name: Account(ledger=ledger, site=name, roster=roster, session=self.session)
            for name in prepared.sites
        }
        if saved is not None and privacy.ledger is None:
            for report in saved.history:  # all that were asked: who sent nothing in the end is not known
                for name in report.asked:
                    self._accounts[name].pay(sums.plan, round=report.number)
        left = prepared.rounds - (0 if saved is None else saved.next_round)
        for account in self._accounts.values():
            account.check(sums.plan, rounds=left)

    def account(self, site: ClientId) -> Account:
        """One site's."""
        return self._accounts[site]

    @property
    def spent(self) -> float:
        """ε of the site that has spent most."""
        return max(each.spent for each in self._accounts.values())


def spent_in(failures: Mapping[ClientId, SiteFailedError]) -> str:
    """Why a private training ends, if a site of a round had no budget left for it; else empty."""
    causes = (each.__cause__ for each in failures.values())
    return next((str(each) for each in causes if isinstance(each, BudgetExceededError)), "")


def _trained(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that require a gradient, all names of tied ones."""
    named = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in named if parameter.requires_grad)
