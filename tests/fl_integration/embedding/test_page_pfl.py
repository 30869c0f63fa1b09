"""The training under pfl that the page tells of, where pfl is installed: its sums are right."""

import numpy as np
import pytest

from protocols import MaskedSum
from tests.fl_integration.embedding import page

pytest.importorskip("pfl")
torch = pytest.importorskip("torch")

from pfl.aggregate.simulate import SimulatedBackend  # noqa: E402 - behind the question whether there is a pfl
from pfl.aggregate.weighting import WeightByDatapoints  # noqa: E402
from pfl.algorithm.base import NNAlgorithmParams  # noqa: E402
from pfl.algorithm.federated_averaging import FederatedAveraging  # noqa: E402
from pfl.data.dataset import Dataset  # noqa: E402
from pfl.data.federated_dataset import FederatedDataset  # noqa: E402
from pfl.data.sampling import get_user_sampler  # noqa: E402
from pfl.hyperparam import NNTrainHyperParams  # noqa: E402
from pfl.metrics import Weighted  # noqa: E402
from pfl.model.pytorch import PyTorchModel  # noqa: E402
from sklearn.datasets import load_breast_cancer  # noqa: E402

ROUNDS, CUTS = 10, (100, 270)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(30, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))

    def loss(self, x, y, eval=False):
        return torch.nn.functional.binary_cross_entropy_with_logits(self.layers(x)[:, 0], y)

    def metrics(self, x, y, eval=False):
        return {"accuracy": Weighted(((self.layers(x)[:, 0] > 0) == (y > 0.5)).sum().item(), len(y))}


def trained(backend) -> Net:
    torch.manual_seed(1)
    net = Net()
    model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
    FederatedAveraging().run(
        NNAlgorithmParams(ROUNDS, evaluation_frequency=1000, train_cohort_size=3, val_cohort_size=None),
        backend,
        model,
        NNTrainHyperParams(local_num_epochs=2, local_learning_rate=0.5, local_batch_size=None),
        send_metrics_to_platform=False,
    )
    return net


def test_a_model_trained_under_our_sum_is_the_one_under_pfls_own() -> None:
    (block,) = page.blocks("python pfl")
    room = {}
    exec(compile(block, "EMBEDDING.md", "exec"), room)
    x, y = load_breast_cancer(return_X_y=True)
    x, y = ((x - x.mean(0)) / x.std(0)).astype(np.float32), y.astype(np.float32)
    raw = [
        tuple(map(torch.from_numpy, each)) for each in zip(np.split(x, CUTS), np.split(y, CUTS), strict=True)
    ]
    parts = {
        name: Dataset(each, user_id=name) for name, each in zip(("basel", "bern", "zurich"), raw, strict=True)
    }
    backend = room["SecureBackend"](MaskedSum(max_clients=3, max_weight=1000, clip=1.0), parts)
    ours = trained(backend)
    assert backend.round == ROUNDS
    data = FederatedDataset(parts.__getitem__, get_user_sampler("minimize_reuse", list(parts)))
    theirs = trained(SimulatedBackend(data, None, [WeightByDatapoints()]))
    apart = max(
        (a - b).abs().max().item() for a, b in zip(ours.parameters(), theirs.parameters(), strict=True)
    )
    assert apart < 1e-6, apart
    right = ours.metrics(*map(torch.cat, zip(*raw, strict=True)))["accuracy"].overall_value
    assert right > 0.95, right
