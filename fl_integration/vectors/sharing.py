"""Which entries of a model its sites share: predicates for `shared=`, each with the paper that asks for it.

What a predicate leaves out stays home: it is in no manifest and no vector, it is never sent, and nothing
overwrites a site's own values. All sites must leave out the same; the manifest's digest says whether they do.
A pattern that fits no entry is refused when a manifest is made, so that no misspelt head is sent.

* `all_but("head.*")`: a common body, each site with a head of its own (FedPer: Arivazhagan et al., 2019;
  FedRep: Collins et al., ICML'21, which trains head and body one after the other besides).
* `only("head.*")`: the reverse, a common head on each site's own body (LG-FedAvg: Liang et al., 2020).
* `all_but_norms(model)`: each site keeps its batch norms, so that its scanner's contrast and brightness are
  its own (FedBN: Li et al., ICLR'21). Other norms have no statistics of the site and travel.
* `adapters()`: low-rank adapters alone (LoRA: Hu et al., ICLR'22), by PEFT's names. The means of A and of B
  do not multiply to the mean of BA; with A frozen, `only("*.lora_B.*")` is exact (FFA-LoRA: Sun et al.,
  ICLR'24).
* `movable(model)`: all that training can change. What is frozen is equal everywhere and need not travel.

None of this hides what is shared: fewer values in the sum are fewer values that it tells, and no more.

>>> all_but("head.*")
all_but('head.*')
>>> [name for name in ("body.0.weight", "head.weight") if all_but("head.*")(name)]
['body.0.weight']
>>> only("haed.*").check(["body.0.weight", "head.weight"])
Traceback (most recent call last):
    ...
secagg.errors.ParameterError: no entry fits the pattern 'haed.*'; there are 'body.0.weight', 'head.weight'
"""

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fl_integration.vectors.states import some
from secagg.errors import MissingExtraError, ParameterError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Adapters",
    "AllBut",
    "OfModel",
    "Only",
    "adapters",
    "all_but",
    "all_but_norms",
    "movable",
    "only",
]

_ADAPTER = "lora_"
"""How a part of a name begins under which PEFT keeps an adapter: lora_A, lora_B, lora_embedding_A, …"""


@dataclass(frozen=True, slots=True, repr=False)
class Only:
    """The entries whose name fits one of the patterns; see `only`."""

    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_patterns(self.patterns)

    def __call__(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def check(self, names: Collection[str]) -> None:
        """Refuse a state in which some pattern fits nothing.

        Raises:
            ParameterError: names the pattern and a few of the entries.
        """
        _require_fit(self.patterns, names)

    def __repr__(self) -> str:
        return f"only({', '.join(map(repr, self.patterns))})"


@dataclass(frozen=True, slots=True, repr=False)
class AllBut:
    """The entries whose name fits none of the patterns; see `all_but`."""

    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_patterns(self.patterns)

    def __call__(self, name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def check(self, names: Collection[str]) -> None:
        """Refuse a state in which some pattern fits nothing.

        Raises:
            ParameterError: names the pattern and a few of the entries.
        """
        _require_fit(self.patterns, names)

    def __repr__(self) -> str:
        return f"all_but({', '.join(map(repr, self.patterns))})"


@dataclass(frozen=True, slots=True, repr=False)
class Adapters:
    """The entries of low-rank adapters; see `adapters`."""

    def __call__(self, name: str) -> bool:
        return any(part.startswith(_ADAPTER) for part in name.split("."))

    def check(self, names: Collection[str]) -> None:
        """Refuse a state without adapters.

        Raises:
            ParameterError: names a few of the entries.
        """
        if not any(map(self, names)):
            raise ParameterError(f"no entry's name has a part {_ADAPTER}*; there are {some(names)}")

    def __repr__(self) -> str:
        return "adapters()"


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class OfModel:
    """What a rule chose in one model; see `all_but_norms` and `movable`.

    Attributes:
        rule: its name.
        names: all entries of the model's `state_dict`.
        home: those of them that stay home.
    """

    rule: str
    names: frozenset[str]
    home: frozenset[str]

    def __call__(self, name: str) -> bool:
        return name in self.names and name not in self.home

    def check(self, names: Collection[str]) -> None:
        """Refuse a state of another model.

        Raises:
            ParameterError: names an entry that the model did not have.
        """
        for name in names:
            if name not in self.names:
                raise ParameterError(
                    f"{self.rule} was asked about a model without the entry {name!r}; "
                    "ask it about the one whose state is shared"
                )

    def __repr__(self) -> str:
        return f"{self.rule}({len(self.names) - len(self.home)} of {len(self.names)} entries)"


def only(*patterns: str) -> Only:
    """Shares the entries that fit a pattern: `only("head.*")`.

    Args:
        patterns: at least one glob (case-sensitive, `fnmatch`'s rules: a star also fits dots).

    Raises:
        ParameterError: there is none, or one is not a str.
    """
    return Only(patterns)


def all_but(*patterns: str) -> AllBut:
    """Shares the entries that fit no pattern: `all_but("head.*")` is FedPer's and FedRep's body.

    Args:
        patterns: as for `only`.

    Raises:
        ParameterError: as `only`.
    """
    return AllBut(patterns)


def adapters() -> Adapters:
    """Shares LoRA's matrices: a part of the entry's name, between dots, begins with `lora_`, as in PEFT."""
    return Adapters()


def all_but_norms(model: "nn.Module") -> OfModel:
    """Shares all but batch norms, parameters and running values (FedBN).

    By the modules' type: BatchNorm1d to 3d, SyncBatchNorm and what is derived from them. LayerNorm, GroupNorm
    and InstanceNorm are not among them; name them with `all_but` to keep them home too.

    Raises:
        ParameterError: `model` is no torch module, or has no batch norm.
    """
    names = frozenset(_module(model).state_dict())
    from torch.nn.modules.batchnorm import _BatchNorm

    paths = [
        path for path, each in model.named_modules(remove_duplicate=False) if isinstance(each, _BatchNorm)
    ]
    if not paths:
        raise ParameterError("the model has no batch norm; name other norms with all_but, or leave it out")
    prefixes = tuple(f"{path}." if path else "" for path in paths)
    return OfModel(
        rule="all_but_norms", names=names, home=frozenset(n for n in names if n.startswith(prefixes))
    )


def movable(model: "nn.Module") -> OfModel:
    """Shares what training can change.

    At home stay parameters with `requires_grad` off, the buffers of modules whose own parameters are all
    frozen (a frozen batch norm), and modules' extra state. A module with buffers and no parameter of its own
    is shared.

    Args:
        model: read now; what is frozen later goes on travelling.

    Raises:
        ParameterError: `model` is no torch module.
    """
    names = frozenset(_module(model).state_dict())
    moving: set[str] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        moving.update(prefix + name for name, parameter in own.items() if parameter.requires_grad)
        if not own or any(parameter.requires_grad for parameter in own.values()):
            buffers = module.named_buffers(recurse=False, remove_duplicate=False)
            moving.update(prefix + name for name, _ in buffers)
    return OfModel(rule="movable", names=names, home=names - moving)


def _module(model: "nn.Module") -> "nn.Module":
    try:
        from torch import nn
    except ImportError as error:
        raise MissingExtraError(package="torch", extra="train") from error
    if not isinstance(model, nn.Module):
        raise ParameterError(f"the model is a {type(model).__name__}; it must be a torch module")
    return model


def _require_patterns(patterns: tuple[str, ...]) -> None:
    if not patterns:
        raise ParameterError("there is no pattern; give at least one, such as 'head.*'")
    for pattern in patterns:
        if type(pattern) is not str:
            raise ParameterError(f"a pattern is a {type(pattern).__name__}; it must be a str")


def _require_fit(patterns: tuple[str, ...], names: Collection[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ParameterError(f"no entry fits the pattern {pattern!r}; there are {some(names)}")
