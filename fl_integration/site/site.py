"""One site: its copy of the model, its examples and its step. What a round's training needs, and no protocol.

A site loads the global values into its module, trains, and says what changed. Entries that are not shared
stay in the module from round to round: heads (FedPer), BatchNorm (FedBN), whatever the predicate leaves out.
Entries that are shared but never summed (integer counters, constants that are not finite) begin each round as
they were at the very beginning, at every site alike.

Frozen entries that are not shared must be the same everywhere for ever; a step that writes to them fails, and
they are put back.

Whatever fails here, a loader, a disk, training that diverges, is `SiteFailedError`: the site sits the round
out, its own part is as it was before, and the next round finds it ready. `take_back` does the same for what
failed later, on the way into the sum. The text names the error of the site's own code and may hold what that
code wrote into it, so it is for this site's operator.

With control variates (SCAFFOLD, Karimireddy et al., ICML'20, Alg. 1) every gradient of a shared parameter is
moved by c - c_i, through hooks, so that the step itself knows nothing of it; afterwards c_i becomes option
II's c_i - c + (x - y_i)/(K·rate), and how far it is from c travels behind the update.

A site does not bound what its update reveals.

>>> training_seed(seed=1, round=0, client="basel") == training_seed(seed=1, round=0, client="wien")
False
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from fl_integration.site.step import Step, Trained, run_step
from fl_integration.site.training import LocalTraining
from fl_integration.vectors.arrays import Vector
from fl_integration.vectors.manifest import Manifest
from fl_integration.vectors.vectorise import changes, load, snapshot
from protocols.identity import ClientId
from secagg.errors import MissingExtraError, ParameterError, SecAggError
from secagg.numbers import plain
from secagg.wire import Writer

try:
    import torch
    from torch import nn
except ImportError as error:
    raise MissingExtraError(package="torch", extra="train") from error

__all__ = ["OwnPart", "Site", "SiteFailedError", "training_seed"]

_SEED: Final = b"secagg/1/local training"


class SiteFailedError(SecAggError):
    """A site cannot take part in this round; it may in the next.

    Attributes:
        reason: in the words of the error that stopped it, which is the cause of this one. What the site's own
            code wrote there may hold its data: it is for this site's operator.
        logged: what may stand in a log: this library's own words, or the kind of the error.
    """

    def __init__(self, reason: str, *, logged: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.logged = reason, reason if logged is None else logged

    @classmethod
    def of(cls, error: Exception) -> Self:
        """What stopped a site, whoever raised it."""
        if isinstance(error, SecAggError):
            return cls(str(error))
        kind = type(error).__name__
        return cls(f"{kind}: {error}", logged=f"{kind}, see the report")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OwnPart:
    """What a site keeps to itself from round to round: whoever resumes a training brings it back.

    Attributes:
        entries: the entries of its module that are not shared and can change.
        control: its control variate, [parameters], or empty.
    """

    entries: Mapping[str, Any]
    control: Vector


def training_seed(*, seed: int, round: int, client: ClientId) -> int:
    """The seed, in [0, 2**63), of one client's local training in one round.

    Args:
        seed: of the whole run, in [0, 2**63).
        round: in [0, 2**63).
        client: its id.
    """
    seed = plain(seed)
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise ParameterError(f"seed is {seed!r}; it must be an int in [0, 2**63)")
    place = Writer().fixed(_SEED).uint(seed, 8).uint(round, 8).text(client).finish()
    return int.from_bytes(hashlib.sha256(place).digest()[:8], "big") >> 1


class Site:
    """One site's model, examples and step.

    Args:
        name: its client id.
        model: architecture and initial values; it is copied.
        data: what its step is given.
        local: its step.
        manifest: of the entries that are shared.
        fixed: entries that are not shared and must not change, frozen parameters, with their values; they are
            not copied.
        controlled: names of the parameters that have control variates, in the order of the vector; none
            without SCAFFOLD.
        seed: of the whole run; see `training_seed`.

    Attributes:
        data: as passed in.
    """

    def __init__(
        self,
        name: ClientId,
        *,
        model: nn.Module,
        data: object,
        local: Step,
        manifest: Manifest,
        fixed: Mapping[str, Any] | None = None,
        controlled: tuple[str, ...] = (),
        seed: int = 0,
    ) -> None:
        self.data: Any = data
        self.name, self._local, self._seed = name, local, seed
        self._origin, self._module = model, copied(model)
        self._manifest, self._fixed = manifest, dict(fixed or {})
        shared = {entry.name for entry in manifest.entries}
        state = self._module.state_dict()
        self._forms = {name: _form(value) for name, value in state.items()}
        self._own = tuple(name for name in state if name not in shared and name not in self._fixed)
        kept = {entry.name for entry in manifest.entries if not entry.summed and not entry.tied}
        self._kept = snapshot({name: value for name, value in state.items() if name in kept})
        self._controlled, where = controlled, manifest.slices()
        length = sum(where[name].stop - where[name].start for name in controlled)
        self._update: Vector | None = None  # reused: a fresh one would cost as much as filling it
        self._control: Vector = np.zeros(length, manifest.dtype)
        self._before = self.own

    @property
    def own(self) -> OwnPart:
        """A copy of what it keeps to itself."""
        entries: Mapping[str, Any] = {}
        if self._own:
            state = self._module.state_dict()
            entries = snapshot({name: state[name] for name in self._own})
        return OwnPart(entries=entries, control=self._control.copy())

    @own.setter
    def own(self, part: OwnPart) -> None:
        if part.entries:
            self._module.load_state_dict(dict(part.entries), strict=False)
        self._control = part.control.copy()

    def load(self, values: Vector) -> nn.Module:
        """Its module with the global values in it; its own part as it is."""
        load(values, self._manifest, self._module.state_dict())
        if self._kept:
            self._module.load_state_dict(self._kept, strict=False)
        return self._module

    def train(self, values: Vector, control: Vector, *, round: int) -> tuple[Vector, Trained]:
        """One round's training from the global values.

        Args:
            values: [d], laid out by the manifest.
            control: the server's control variate, [parameters], or empty.
            round: its number; examples are drawn from (seed, round, name).

        Returns:
            What changed, [d], with how far its control variate is from the server's behind it if there is
            one, in memory that the next training overwrites; and what the step said. The own part has moved
            on; `take_back` undoes that.

        Raises:
            SiteFailedError: whatever failed; the own part is as it was.
        """
        self._before = self.own
        try:
            return self._trained(values, control, round=round)
        except Exception as error:  # the site's own code may raise anything
            self._rebuild()
            raise SiteFailedError.of(error) from error
        except BaseException:
            self._rebuild()
            raise

    def take_back(self) -> None:
        """The own part as it was before the last training: what came out of that could not be summed."""
        self.own = self._before

    def _rebuild(self) -> None:
        """A fresh module in place of one that a failed step may have left in any state."""
        self._module = copied(self._origin)
        self.own = self._before

    def _trained(self, values: Vector, control: Vector, *, round: int) -> tuple[Vector, Trained]:
        module = self.load(values)
        seed = training_seed(seed=self._seed, round=round, client=self.name)
        with self._corrected(control) as steps:
            trained = run_step(self._local, module, self.data, seed=seed, round=round)
        state = module.state_dict()
        self._check_form(state)
        self._check_fixed(state)
        if self._update is None:
            self._update = np.empty(len(values) + len(control), self._manifest.dtype)
        update = self._update
        changes(state, self._manifest, values, out=update[: len(values)])
        if len(control):
            self._move_control(control, update, steps=max(steps.values(), default=0), round=round)
        self._check_finite(update)
        return update, trained

    def _check_form(self, state: Mapping[str, Any]) -> None:
        for name, form in self._forms.items():
            if name not in state:
                raise ParameterError(f"the step removed {name!r} from the model; train it in place")
            if (found := _form(state[name])) != form:
                raise ParameterError(f"the step made {name!r} {found}; it was {form}: train it in place")
        for name in state:
            if name not in self._forms:
                raise ParameterError(f"the step added {name!r} to the model; build it before the training")

    def _check_fixed(self, state: Mapping[str, Any]) -> None:
        """By value: a step may write to a frozen entry what was there, or past autograd's counter."""
        for name, value in self._fixed.items():
            if _same(state[name], value):
                continue
            buffers = {found for found, _ in self._module.named_buffers(remove_duplicate=False)}
            remedy = (
                "keep its module in evaluation mode"
                if name in buffers
                else "let it require a gradient before the training begins"
            )
            raise ParameterError(
                f"the step changed {name!r}, which is frozen and so stays at each site: name it in "
                f"shared=, or {remedy}"
            )

    def _check_finite(self, update: Vector) -> None:
        """Cheap where all is well: one pass, no copy."""
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.dot(update, update)):
                return
        for name, part in self._manifest.slices().items():
            if not np.isfinite(update[part]).all():
                raise ParameterError(
                    f"training diverged: the update of {name!r} is not finite; lower the learning rate, or "
                    "look for NaN in the examples"
                )

    # --- control variates ---------------------------------------------------------------------------------

    @contextmanager
    def _corrected(self, control: Vector) -> Iterator[dict[str, int]]:
        """Gradients moved by c - c_i inside; how many steps each parameter took."""
        steps = dict.fromkeys(self._controlled, 0)
        parameters = dict(self._module.named_parameters(remove_duplicate=False))
        hooks, at = [], 0
        for name in self._controlled:
            parameter = parameters[name]
            part = slice(at, at + parameter.numel())
            moved_by = torch.from_numpy(control[part] - self._control[part]).reshape(parameter.shape)
            moved_by = moved_by.to(device=parameter.device, dtype=parameter.dtype)
            at = part.stop

            def correct(
                gradient: torch.Tensor, name: str = name, moved_by: torch.Tensor = moved_by
            ) -> torch.Tensor:
                steps[name] += 1
                return gradient + moved_by

            if parameter.requires_grad:
                hooks.append(parameter.register_hook(correct))  # type: ignore[no-untyped-call]
        try:
            yield steps
        finally:
            for hook in hooks:
                hook.remove()

    def _move_control(self, control: Vector, update: Vector, *, steps: int, round: int) -> None:
        """c_i+ = c_i - c + (x - y_i)/(K·rate) (Alg. 1, 12); c_i+ - c goes behind the update: `Scaffold`."""
        rate = self._local.at(round).learning_rate if isinstance(self._local, LocalTraining) else None
        if not isinstance(rate, float):
            raise ParameterError("control variates need LocalTraining's own SGD")
        scale = -1.0 / (max(steps, 1) * rate)
        where, changed = self._manifest.slices(), update[len(update) - len(control) :]
        at = 0
        for name in self._controlled:
            part = where[name]
            length = part.stop - part.start
            np.multiply(update[part], scale, out=changed[at : at + length], casting="same_kind")
            at += length
        changed -= control
        changed += self._control
        self._control = changed.copy()
        changed -= control


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal values; NaN is where NaN was."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one = one.to(other.device)
    if torch.equal(one, other):
        return True
    return one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a model, or a clear error.

    Raises:
        ParameterError: it cannot be copied; the text names what to do.
    """
    if not isinstance(model, nn.Module):
        raise ParameterError(f"the model is a {type(model).__name__}; it must be a torch.nn.Module")
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.requires_grad and not value.is_leaf:
                place = f"{name}.{key}" if name else key
                raise ParameterError(
                    f"{place!r} is a tensor that is computed from others and kept as an attribute, as "
                    "torch.nn.utils.weight_norm does it: such a model cannot be copied. Use "
                    "torch.nn.utils.parametrizations.weight_norm, or compute it in forward"
                )
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a module's own __deepcopy__ may raise anything
        raise ParameterError(
            f"the model cannot be copied, and each site needs one of its own: {type(error).__name__}: {error}"
        ) from error


def _form(value: Any) -> str:
    """What must not change in an entry: its dtype, shape and device; anything in extra state."""
    if not isinstance(value, torch.Tensor):
        return "extra state"
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)} on {value.device}"
