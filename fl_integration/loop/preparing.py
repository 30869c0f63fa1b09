"""Everything that can be refused before a training runs, and what all its parties agree on.

A mistake that no site and no round can work with is found here, not after an hour: a predicate that matches
nothing, a schedule of the wrong length, a weight that the protocol does not admit, a model that cannot be
carried. Nothing has run when one of these raises.

>>> import torch
>>> local = LocalTraining(loss=torch.nn.functional.mse_loss, learning_rate=0.1)
>>> from fl_integration.loop.optimisers import FedAvg
>>> sites = {"basel": [(torch.ones(4, 2), torch.ones(4, 1))]}
>>> prepare(torch.nn.Linear(2, 1), sites, local=local, rounds=1, seed=0, optimiser=FedAvg()).layout.length
3
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from fl_integration.loop.alarm import warn
from fl_integration.loop.checkpoint import Fingerprint
from fl_integration.loop.cohorts import Sampling
from fl_integration.loop.global_model import GlobalModel, Layout
from fl_integration.loop.optimisers import ServerOptimiser
from fl_integration.loop.parties import State, model_digest, state_of
from fl_integration.privacy.client import ClientLevel
from fl_integration.privacy.patient import PatientLevel
from fl_integration.site.site import Site, copied, training_seed
from fl_integration.site.step import Step, check_data, size_of
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.arrays import is_dense
from fl_integration.vectors.autoclip import AutoClip
from fl_integration.vectors.manifest import Manifest
from fl_integration.vectors.memory import place_of
from fl_integration.vectors.sharing import movable
from fl_integration.vectors.vectorise import flatten, load, snapshot
from protocols.identity import ClientId, check_client_id
from protocols.machine.parameters import MachineProtocol
from protocols.machine.summand import FloatSurface
from secagg.errors import MissingExtraError, ParameterError
from secagg.wire import Writer

try:
    import torch
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["Prepared", "Shared", "check_adaptivity", "fingerprint_of", "prepare", "site_of", "surface_of"]

Shared: TypeAlias = Callable[[str], bool]
"""Whether the entry of this name travels."""

_KEPT = b"secagg/1/entries that do not travel"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """A training whose arguments were looked at.

    Attributes:
        model: as it was passed in; nobody writes to it.
        sites: each site's data.
        local: a site's step.
        rounds, seed: of the run.
        layout: what travels, and how a mean is applied.
        start: the global model before the first round.
        fixed: entries that stay at home and must not change, with their values.
        controlled: parameters with control variates.
        initial: a copy of the model's state.
    """

    model: nn.Module
    sites: Mapping[ClientId, object]
    local: Step
    rounds: int
    seed: int
    layout: Layout
    start: GlobalModel
    fixed: Mapping[str, Any]
    controlled: tuple[str, ...]
    initial: Mapping[str, Any]

    def state(self, model: GlobalModel) -> State:
        """The `state_dict` of a global model; what does not travel is as it was at the beginning."""
        return state_of(model, self.initial)

    def module(self, model: GlobalModel) -> nn.Module:
        """A module with the global values in it."""
        trained = copied(self.model)
        load(model.values, self.layout.manifest, trained.state_dict())
        return trained

    def digest_of(self, module: nn.Module) -> bytes:
        """`model_digest` of a module."""
        return model_digest(module.state_dict())


def prepare(
    model: nn.Module,
    sites: Mapping[ClientId, object],
    *,
    local: Step,
    rounds: int,
    seed: int,
    optimiser: ServerOptimiser,
    shared: Shared | None = None,
    surface: FloatSurface | None = None,
    clip: AutoClip | None = None,
) -> Prepared:
    """Looks at all that a training needs; arguments as of `federate`.

    Args:
        surface: the numbers that the protocol sums; None in the clear.

    Raises:
        ParameterError: an argument can never work.
    """
    if type(rounds) is not int or rounds < 1:
        raise ParameterError(f"rounds is {rounds!r}; it must be an int of at least 1")
    if not isinstance(sites, Mapping) or not sites:
        found = "empty" if isinstance(sites, Mapping) else f"a {type(sites).__name__}"
        raise ParameterError(f"sites is {found}; map each client's id to its data")
    training_seed(seed=seed, round=0, client="")
    for name, data in sites.items():
        check_client_id(name)
        check_data(name, data)
    _check_step(local, rounds=rounds)
    if not isinstance(optimiser, ServerOptimiser):
        raise ParameterError(
            f"server_optimiser is a {type(optimiser).__name__}; pass FedAvg(), FedAdam(…) or another of them"
        )
    optimiser.check(rounds=rounds)
    trial = copied(model)
    can_move = movable(model)
    if shared is None and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ParameterError(
            "the model has no parameter that requires a gradient; there is nothing to train together"
        )
    initial = snapshot(trial.state_dict())
    values, manifest = flatten(initial, shared=can_move if shared is None else shared)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    _check_finite(manifest, parameters, initial)
    _check_loading(trial, initial)
    layout = Layout(
        manifest=manifest, parameters=_runs(manifest, parameters), optimiser=optimiser, members=len(sites)
    )
    if not layout.movable:
        raise ParameterError("no entry that is shared is a parameter; there is nothing to train together")
    if optimiser.controls:
        _check_controls(local)
    if surface is not None:
        _check_surface(surface, layout, sites, local=local, clip=clip)
    names = {entry.name for entry in manifest.entries}
    return Prepared(
        model=model,
        sites=sites,
        local=local,
        rounds=rounds,
        seed=seed,
        layout=layout,
        start=GlobalModel.of(layout, values),
        fixed={
            name: value
            for name, value in initial.items()
            if name in parameters | buffers and name not in names and not can_move(name) and is_dense(value)
        },
        controlled=tuple(
            entry.name
            for entry in manifest.entries
            if optimiser.controls and entry.length and entry.name in parameters
        ),
        initial=initial,
    )


def surface_of(protocol: MachineProtocol) -> FloatSurface:
    """The numbers that a protocol sums.

    Raises:
        ParameterError: they are integers.
    """
    surface = protocol.suite.surface
    if not isinstance(surface, FloatSurface):
        raise ParameterError("the protocol sums integers; pass the protocol itself, not its exact surface")
    return surface


def site_of(name: ClientId, prepared: Prepared) -> Site:
    """One of the sites of a training."""
    return Site(
        name,
        model=prepared.model,
        data=prepared.sites[name],
        local=prepared.local,
        manifest=prepared.layout.manifest,
        fixed=prepared.fixed,
        controlled=prepared.controlled,
        seed=prepared.seed,
    )


def fingerprint_of(
    prepared: Prepared,
    protocol: MachineProtocol,
    sites: Mapping[ClientId, object],
    *,
    seed: int,
    clip: AutoClip | None,
    sampling: Sampling | None,
    standardised: str = "",
    privacy: PatientLevel | ClientLevel | None = None,
) -> Fingerprint:
    """What a checkpoint of this training is known by; `standardised` says by what its inputs were scaled.

    Raises:
        ParameterError: an entry that a site keeps to itself is no tensor, and cannot be written.
    """
    manifest = prepared.layout.manifest
    shared = {entry.name: entry for entry in manifest.entries}
    at_home = Writer().fixed(_KEPT)
    for name, value in prepared.initial.items():
        if name not in shared and name not in prepared.fixed and not isinstance(value, torch.Tensor):
            raise ParameterError(
                f"entry {name!r} stays at its site and is a {type(value).__name__}, which a checkpoint "
                "cannot hold; keep it out of state_dict, or pass no checkpoint="
            )
        if name not in shared:
            at_home.text(name).text(f"{value.dtype} {list(value.shape)}")
    still = {
        name: value
        for name, value in prepared.initial.items()
        if (name in shared and not shared[name].summed and not shared[name].tied) or name in prepared.fixed
    }
    return Fingerprint(
        model=hashlib.sha256(manifest.digest + at_home.finish()).hexdigest(),
        kept_model=_bytes_digest(still),
        protocol=f"{type(protocol).__name__} {protocol.suite.digest.hex()}",
        sites=str(list(sites)),
        server_optimiser=repr(prepared.layout.optimiser),
        clip=repr(clip),
        sampling=repr(sampling),
        standardised=standardised,
        seed=str(seed),
        privacy=_promise(privacy),
    )


def _promise(privacy: PatientLevel | ClientLevel | None) -> str:
    """What was promised to whom; patients' ids are none of a file's, or of an error's, business."""
    if isinstance(privacy, PatientLevel):
        rows = "one row is one patient" if privacy.patients is None else "rows by patient"
        return f"{replace(privacy, ledger=None, patients=None)!r}, {rows}"
    return "" if privacy is None else repr(replace(privacy, ledger=None))


def _bytes_digest(state: Mapping[str, Any]) -> str:
    hashed = hashlib.sha256(_KEPT)
    for name, value in state.items():
        array = np.ascontiguousarray(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        hashed.update(Writer().text(name).text(str(value.dtype)).blob(array.tobytes()).finish())
    return hashed.hexdigest()


def _check_step(local: object, *, rounds: int) -> None:
    if not callable(local):
        raise ParameterError(
            f"local is a {type(local).__name__}; pass LocalTraining(loss=…, learning_rate=…), or a function "
            "local(model, data, *, seed) that trains the model in place and returns its weight"
        )
    if isinstance(local, LocalTraining):
        local.check(rounds=rounds)


def _check_controls(local: object) -> None:
    if (
        not isinstance(local, LocalTraining)
        or local.optimiser is not None
        or local.momentum
        or local.proximal
        or local.clip_gradient is not None
    ):
        raise ParameterError(
            "control variates (Scaffold) need LocalTraining with its own SGD, without momentum, proximal and "
            "clip_gradient: what a gradient was is read from the learning rate"
        )


def _check_finite(manifest: Manifest, parameters: set[str], initial: Mapping[str, Any]) -> None:
    for entry in manifest.entries:
        if entry.constant and entry.name in parameters:
            raise ParameterError(
                f"parameter {entry.name!r} is not finite before the training begins; repair the initial model"
            )
        if entry.constant and bool(initial[entry.name].isnan().any()):
            warn(
                f"buffer {entry.name!r} holds NaN: it is taken for a constant, and stays as it is everywhere"
            )


def _check_loading(trial: nn.Module, initial: Mapping[str, Any]) -> None:
    """Whether the values of a state reach the module: a `state_dict` may have been bent by hooks."""
    one, other = trial.state_dict(), trial.state_dict()
    for name, value in one.items():
        if place_of(value) != place_of(other.get(name)):
            raise ParameterError(
                f"state_dict() makes a new {name!r} at each call, so that a value written into it does not "
                "reach the model; remove the hook that copies it"
            )
    try:
        trial.load_state_dict(dict(initial))
    except Exception as error:  # a module's own hooks may raise anything
        raise ParameterError(f"the model cannot load its own state_dict: {error}") from error


def _runs(manifest: Manifest, parameters: set[str]) -> tuple[slice, ...]:
    """The runs of the vector that are parameters, neighbours joined."""
    runs: list[slice] = []
    for name, part in manifest.slices().items():
        if name not in parameters or part.start == part.stop:
            continue
        if runs and runs[-1].stop == part.start:
            runs[-1] = slice(runs[-1].start, part.stop)
        else:
            runs.append(part)
    return tuple(runs)


def _check_surface(
    surface: FloatSurface,
    layout: Layout,
    sites: Mapping[ClientId, object],
    *,
    local: Step,
    clip: AutoClip | None,
) -> None:
    if clip is not None and not isinstance(clip, AutoClip):
        raise ParameterError(
            f"clip is a {type(clip).__name__}; pass AutoClip(), or leave it out and name a clip to the "
            "protocol"
        )
    if clip is not None and surface.codec.clip != 1.0:
        raise ParameterError(
            "clip=AutoClip() scales updates to the protocol's clip of 1.0, and this protocol has another "
            "one; leave its clip= out"
        )
    names = [name for name, _, _ in surface.metrics]
    if isinstance(local, LocalTraining) and set(names) - {"loss"}:
        raise ParameterError(
            f"the protocol sums the metrics {names}, and LocalTraining knows its 'loss' alone; take a step "
            "of your own that returns Trained(weight=…, metrics={…}), or leave them out"
        )
    surface.check_length(layout.length)
    if isinstance(local, LocalTraining):
        _check_weights(surface, sites)
    if clip is None:  # else it is asked when there are scales
        given = surface.codec.clip
        widest = given if isinstance(given, float) else max(each.clip for each in given)
        check_adaptivity(layout.optimiser, step=widest / surface.codec.largest_step)


def _check_weights(surface: FloatSurface, sites: Mapping[ClientId, object]) -> None:
    sizes = {name: size for name, data in sites.items() if (size := size_of(data)) is not None}
    largest = max(sizes, key=lambda name: sizes[name], default=None)
    most = min(surface.max_weight, surface.max_total_weight)
    if largest is not None and sizes[largest] > most:
        limit = "max_weight" if surface.max_weight <= surface.max_total_weight else "max_total_weight"
        raise ParameterError(
            f"{largest!r} is the largest site and has {sizes[largest]} examples, its weight in the mean; the "
            f"protocol admits {limit} = {most}: pass {limit}={sizes[largest]} to it, or more"
        )


def check_adaptivity(optimiser: ServerOptimiser, *, step: float) -> None:
    """A warning where rounding to the grid, whose widest step this is, would be taken for a gradient."""
    if optimiser.adaptivity is not None and optimiser.adaptivity < step:
        warn(
            f"adaptivity is {optimiser.adaptivity:g}, below a step of the protocol's grid ({step:.2g}): "
            "rounding alone moves coordinates that stand still. Raise it, or the protocol's bits"
        )
