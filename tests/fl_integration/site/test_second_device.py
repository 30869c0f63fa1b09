"""Training on a second device, on machines that have none.

`Elsewhere` is a tensor that says it is on another device, and whose values are out of numpy's reach; the mode
`SecondDevice` lets it meet only its own kind, as a GPU does, and computes with the CPU's kernels. So what
is trained there equals what is trained here, bit for bit, and whatever mixes the two raises. (The name of
that device is "meta", the one other device that each build of torch has a guard for; autograd asks for it.)

What no test here sees is what only a GPU has: its kernels' rounding, its streams, its own generators.
"""

import inspect
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fl_integration.site import training
from fl_integration.site.step import run_step
from fl_integration.site.training import LocalTraining, predict

ELSEWHERE = torch.device("meta")
NUMPY = r"numpy\(\) is not supported"
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Elsewhere(torch.Tensor):
    """A tensor on another device."""

    @staticmethod
    def __new__(cls, values: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=ELSEWHERE
        )

    def __init__(self, values: torch.Tensor):
        self.values_there = values

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} outside of SecondDevice()")


def here(leaf):
    return leaf.values_there if isinstance(leaf, Elsewhere) else leaf


def elsewhere(leaf):
    return Elsewhere(leaf) if isinstance(leaf, torch.Tensor) else leaf


class SecondDevice(TorchDispatchMode):
    """While it is on, tensors may lie on `ELSEWHERE`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        with self:  # in inference mode operators come undivided, `to` among them
            divided = func.decompose(*args, **kwargs)
        if divided is not NotImplemented:
            return divided
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func not in COPIES:
            # As on a GPU, a number from the CPU (a tensor without axes) may come along, and row numbers may.
            indexed = func is torch.ops.aten.index.Tensor and isinstance(args[0], Elsewhere)
            meeting = tensors[:1] if indexed else tensors
            if (
                len(
                    {
                        isinstance(each, Elsewhere)
                        for each in meeting
                        if isinstance(each, Elsewhere) or each.ndim
                    }
                )
                > 1
            ):
                raise RuntimeError(f"two devices meet in {func}")
        device = kwargs.get("device")
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        result = func(*tree_map(here, args), **tree_map(here, kwargs))
        if func._schema.name.endswith("_"):
            return args[0]
        there = any(isinstance(t, Elsewhere) for t in tensors) if device is None else device == ELSEWHERE
        return tree_map(elsewhere, result) if there else result


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def moved(model: nn.Module) -> nn.Module:
    """What `model.to(device)` does; torch's own assigns `.data`, which a tensor of another type refuses."""
    for module in model.modules():
        for name, value in module._parameters.items():
            module._parameters[name] = nn.Parameter(value.detach().to(ELSEWHERE))
        for name, value in module._buffers.items():
            module._buffers[name] = value.to(ELSEWHERE)
    return model


X = np.random.default_rng(1).normal(size=(20, 3))
Y = (X.sum(1) > 0).astype(np.int64)
EVERYTHING = {
    "loss": functional.cross_entropy,
    "learning_rate": [0.05, 0.1],
    "epochs": 2,
    "batch_size": 6,
    "proximal": 0.3,
    "clip_gradient": 0.5,
    "class_weights": [1.0, 3.0],
}


def whole_path(module, model: nn.Module):
    """Trained as a site is, then asked."""
    done = run_step(module.LocalTraining(**EVERYTHING), model, [(X, Y)], seed=3, round=1)
    return done, module.predict(model, X, batch_size=7)


@pytest.mark.parametrize(
    "optimiser",
    [{}, {"momentum": 0.9}, {"optimiser": torch.optim.Adam}, {"optimiser": torch.optim.AdamW}],
)
def test_the_whole_path_on_a_second_device_is_that_of_the_first(optimiser):
    local = LocalTraining(**EVERYTHING, **optimiser)
    model = network()
    expected = run_step(local, model, [(X, Y)], seed=3, round=1), predict(model, X, batch_size=7)
    with SecondDevice():
        other = moved(network())
        found = run_step(local, other, [(X, Y)], seed=3, round=1), predict(other, X, batch_size=7)
        assert all(value.device == ELSEWHERE for value in other.state_dict().values())
        state = {name: value.cpu() for name, value in other.state_dict().items()}
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_pieces_that_lie_on_different_devices_are_brought_together():
    model, local = network(), LocalTraining(loss=functional.cross_entropy, learning_rate=0.1)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    local(model, [(x, y)], seed=1)
    with SecondDevice():
        for pieces in ([(x[:9], y[:9]), (x[9:].to(ELSEWHERE), y[9:].to(ELSEWHERE))], [(x.to(ELSEWHERE), y)]):
            for other in (network(), moved(network())):
                assert local(other, pieces, seed=1).weight == 20
                assert torch.equal(other[0].weight.detach().cpu(), model[0].weight)


@pytest.mark.parametrize(
    ("right", "forgotten"),
    [
        ("return values.to(device, ", "return values.to(values.device, "),
        (".float().cpu()", ".float()"),
        ("torch.stack(losses).cpu()", "torch.stack(losses)"),
        (".to(dtype).to(y.device)", ".to(dtype)"),
    ],
)
def test_a_device_that_is_forgotten_is_found_out(right, forgotten):
    source = inspect.getsource(training)
    assert source.count(right) == 1
    spoilt = types.ModuleType("spoilt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "spoilt", spoilt)
        exec(compile(source.replace(right, forgotten), "spoilt", "exec"), spoilt.__dict__)
        assert whole_path(spoilt, network())[0].weight == 20  # on one device nobody notices
        with SecondDevice(), pytest.raises(RuntimeError, match=f"two devices meet|{NUMPY}"):
            whole_path(spoilt, moved(network()))
    with SecondDevice():
        whole_path(training, moved(network()))
