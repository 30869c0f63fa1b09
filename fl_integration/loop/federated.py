"""The federated loop over any `SumProtocol`, whoever learns the sum.

FedAvg (McMahan et al., AISTATS'17) with the weighted mean taken inside a secure sum, and any server optimiser
over the mean (Reddi et al., ICLR'21). In each round a client trains from the global model and contributes
what changed, weighted by its number of examples; the weights are in the sum too, so nobody learns another's.
The loop drives the protocol's own machines through `run_round`; what moves the bytes is one `exchange`
function, here `InProcess`, and may be replaced.

* `Learner.SERVER`: the model goes down with the request for the update, and the server applies the mean.
* `Learner.CLIENTS`: the server never knows the model. All clients begin from the same one; a round's sealed
  sum rides on the next start, and each client opens it and moves its own copy before it trains again. One
  that was away catches up when it is back. With its update each names the copy that it trained from, and the
  largest group is summed; whoever the others left behind takes the model from one of them.

Nothing in it is silent. A site that cannot train sits the round out, with its reason in the report. A round
that fails costs that round; if all fail, the training raises. Values that are clipped are counted by entry,
and a warning says what to do. A client that an aborted round names as the culprit is not asked again, as long
as enough are left without it. A sum that was opened and then refused (`RoundAborted.opened`) is tried again
with its very contributors: with one of them less, the two sums would tell that one's update.

Every client draws its batches from (seed, round, client), so two runs from equal models train equally,
whatever protocol is between them: `fedavg` is the same loop without one, in plain floating point.

Not protected: what the mean itself says, round after round. With three clients each can subtract its own part
and sees the sum of the other two. `privacy=` puts noise inside the sum, so that it says little about any one
patient, or any one client (`private`, `noised`). An update that lies is not detected.

>>> import torch
>>> from protocols import MaskedSum
>>> x = torch.linspace(-1, 1, 12).unsqueeze(1)
>>> sites = {name: [(x[i::3], 2 * x[i::3])] for i, name in enumerate(["basel", "graz", "wien"])}
>>> local = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.2)
>>> protocol = MaskedSum(max_clients=3, max_weight=4)
>>> run = federate(protocol, torch.nn.Linear(1, 1), sites, local=local, rounds=40)
>>> bool(abs(run.model.weight.item() - 2) < 0.05), run.history[0].total_weight
(True, 12)
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from fl_integration.loop.checkpoint import Checkpoint
from fl_integration.loop.cohorts import Sampling
from fl_integration.loop.evaluating import Evaluator
from fl_integration.loop.evaluation import Evaluation, Metric
from fl_integration.loop.in_process import check_drop
from fl_integration.loop.optimisers import FedAvg, ServerOptimiser
from fl_integration.loop.preparing import Shared, fingerprint_of, prepare, surface_of
from fl_integration.loop.private import Privacy, agreed, check_beside, following, moving
from fl_integration.loop.rehearsal import Rehearsal
from fl_integration.loop.report import FederatedRun
from fl_integration.loop.rounds import Training
from fl_integration.loop.standardising import (
    Standardisation,
    check_standardise,
    evaluation_on,
    standardised,
)
from fl_integration.loop.watch import Watch
from fl_integration.site.step import Step
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.autoclip import AutoClip
from protocols.identity import ClientId, Identity, Roster
from protocols.machine.parameters import MachineProtocol
from secagg.errors import MissingExtraError, ParameterError
from secagg.numbers import plain

try:
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["LocalTraining", "federate"]

Sites: TypeAlias = Mapping[ClientId, object]
"""Each site's data, as its step takes them: for `LocalTraining` a DataLoader, or a list of pairs (x, y)."""


def federate(
    protocol: MachineProtocol,
    model: nn.Module,
    sites: Sites,
    *,
    local: Step,
    rounds: int,
    server_optimiser: ServerOptimiser = FedAvg(),
    shared: Shared | None = None,
    clip: AutoClip | None = None,
    standardise: Standardisation | None = None,
    privacy: Privacy | None = None,
    evaluate: Evaluation | Metric | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    watch: Watch = Watch(),
    rehearsal: Rehearsal = Rehearsal(),
) -> FederatedRun:
    """Trains one model on everybody's examples, all parties in this process.

    Args:
        protocol: any protocol; its `max_weight` must admit the largest number of examples. A metric `loss` of
            its `metrics` is the training loss.
        model: architecture and initial values; it is left alone.
        sites: each client's data; the order of the keys is the roster's.
        local: what a site does in a round: `LocalTraining(loss=…, learning_rate=…)`, or a step of your own,
            `local(model, data, *, seed) -> weight`, which trains the model in place.
        rounds: at least 1, those of a checkpoint included.
        server_optimiser: what a mean does to the model.
        shared: which entries of the model travel, a predicate on their names (see `sharing`); the rest stays
            at its site. Left out: all but frozen parameters and what only they move.
        clip: `AutoClip()` gives each entry of the update a public scale of its own, fixed by one small exact
            sum before the first round; the protocol's clip is then 1.0.
        standardise: `Standardisation(columns=…)` scales inputs [rows, columns] by the mean and deviation of
            all sites' rows, found by one exact sum before the first round, or by each site's own; test
            examples of `evaluate` are scaled alike, and the run says by what (`standardised`). Left out,
            inputs are as they are.
        privacy: `PatientLevel(…)` or `ClientLevel(…)` noises each sum. It runs over the protocol's integer
            surface: clip, bits, weights and rounding of the protocol are not used. With `PatientLevel` a
            round is one step: `local` is a `LocalTraining` of which loss and learning rate are used
            (batch_size is not: the sample is `PatientLevel`'s), a round's "mean" is -learning_rate · the
            noised mean gradient, and `server_optimiser` takes it as any other.
        evaluate: `OnSites(…)`, `Central(…)`, or a callback `(round, model) -> {name: figure}`.
        checkpoint: a folder; written after each round, and taken up if it holds this training.
        sampling: `Sampling(size=…)` asks so many sites a round; everybody if left out.
        seed: of local training and sampling, in [0, 2**63).
        watch: callbacks, and the progress bar, which shows on a terminal.
        rehearsal: what only tests need.

    Raises:
        ParameterError: an argument can never work (nothing has run), or no site can train.
        QuestionRefusedError: too few sites have values in a column that is to be standardised.
        RoundAborted: no round had a mean; its `history` says why, round by round.
        MissingExtraError: privacy needs dp-accounting, which is not installed.
        VerificationError: the parties did not end with identical models.
        OSError: a checkpoint could not be written; the one before is still there.
    """
    rounds, seed = plain(rounds), plain(seed)
    _check_kinds(protocol, sampling=sampling, checkpoint=checkpoint, watch=watch, rehearsal=rehearsal)
    prepared = prepare(
        model,
        sites,
        local=local,
        rounds=rounds,
        seed=seed,
        optimiser=server_optimiser,
        shared=moving(model, shared, privacy),
        surface=surface_of(protocol) if privacy is None else None,
        clip=clip,
    )
    if sampling is not None:
        sampling.check(protocol, sites)
    cohort = len(sites) if sampling is None else sampling.size
    _check_parties(protocol, sites, cohort=cohort)
    sums = None
    if privacy is not None:
        summing = check_beside(privacy, protocol, prepared, clip=clip, sampling=sampling, evaluate=evaluate)
        prepared = following(prepared, privacy)
        sums = agreed(privacy, summing, prepared, cohort=cohort)
    check_drop(rehearsal.drop, rounds=rounds, names=protocol.exchanges(first=True), clients=sites)
    if clip is not None:
        protocol.exact(max_summand=clip.largest_count(prepared.layout.segments))
    check_standardise(standardise, evaluate, private=privacy is not None, checkpointed=checkpoint is not None)
    evaluator = Evaluator(evaluate, rounds=rounds, sites=sites, protocol=protocol)
    found = None
    if standardise is not None:
        on_scale, found = standardised(protocol, sites, standardise, seed=rehearsal.protocol_seed)
        prepared = replace(prepared, sites=on_scale)
        evaluator = Evaluator(evaluation_on(evaluate, found), rounds=rounds, sites=sites, protocol=protocol)
    disk, saved = None, None
    if checkpoint is not None:
        told = fingerprint_of(
            prepared,
            protocol,
            sites,
            seed=seed,
            clip=clip,
            sampling=sampling,
            privacy=privacy,
            standardised="" if found is None else f"{found.how.name} {found.digest}",
        )
        disk = Checkpoint(checkpoint, told)
        saved = disk.load(prepared.start)
        if saved is not None and saved.next_round > rounds:
            raise ParameterError(
                f"the checkpoint is of a training after {saved.next_round} rounds, and rounds is {rounds}; "
                "ask for more, or name another folder"
            )
    training = Training(
        protocol,
        prepared,
        saved,
        disk=disk,
        evaluator=evaluator,
        clip=clip,
        sampling=sampling,
        sums=sums,
        watch=watch,
        rehearsal=rehearsal,
    )
    return replace(training.run(), standardised=found)


def _check_kinds(
    protocol: object, *, sampling: object, checkpoint: object, watch: object, rehearsal: object
) -> None:
    """Refuses objects of another kind than their arguments'; what is in them is looked at elsewhere."""
    if not isinstance(protocol, MachineProtocol):
        found = protocol.__name__ if isinstance(protocol, type) else f"a {type(protocol).__name__}"
        raise ParameterError(
            f"protocol is {found}; pass an instance of one, such as MaskedSum(max_clients=…, max_weight=…)"
        )
    for name, given, kind in (
        ("sampling", sampling, Sampling),
        ("watch", watch, Watch),
        ("rehearsal", rehearsal, Rehearsal),
    ):
        if not isinstance(given, kind) and not (name == "sampling" and given is None):
            raise ParameterError(f"{name} is a {type(given).__name__}; it must be a {kind.__name__}(…)")
    if checkpoint is not None and (not isinstance(checkpoint, str | os.PathLike) or not str(checkpoint)):
        raise ParameterError(
            f"checkpoint is {checkpoint!r}; it must be the path of a folder, a str or a Path, or None"
        )


def _check_parties(protocol: MachineProtocol, sites: Sites, *, cohort: int) -> None:
    """Refuses a roster that this protocol has no machines for, and a cohort that it has no plan for."""
    roster = Roster.of(*(Identity.generate(name) for name in sites))
    protocol.server(roster=roster, session=bytes(16))
    if cohort > protocol.suite.max_clients:
        raise ParameterError(
            f"a round asks {cohort} sites, max_clients is {protocol.suite.max_clients}; pass "
            f"max_clients={cohort} to the protocol, or ask fewer with sampling="
        )
    protocol.plan(cohort, roster=len(sites))
