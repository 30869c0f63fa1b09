"""Each patient's own gradient, against autograd on that patient's records alone."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from fl_integration.site import per_patient
from fl_integration.site.per_patient import Records, check_layers, gradients
from protocols import ParameterError
from tests.fl_integration.loop.stage import seeded

RECORDS = 40
X = torch.randn(RECORDS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = (X @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)).square()
WHOSE = np.random.default_rng(2).integers(0, 15, RECORDS)


class Tied(nn.Module):
    """A weight under two names, a frozen layer, and a buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.second.weight = self.first.weight
        self.last.requires_grad_(False)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x):
        return self.last(self.second(torch.tanh(self.first(x) + self.shift)))


def network() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.GroupNorm(2, 4), nn.Tanh(), nn.Linear(4, 1))
    ).double()


def moving(model: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, p in model.named_parameters() if p.requires_grad)


def taken(model: nn.Module, records: Records, *, loss=mse_loss, seed: int = 1, **options) -> np.ndarray:
    return np.concatenate(
        list(gradients(model, records, loss=loss, names=moving(model), seed=seed, **options))
    )


def by_hand(model: nn.Module, whose: np.ndarray) -> np.ndarray:
    """One backward pass a record, added up by person in the order of their ids."""
    found = []
    for person in np.unique(whose):
        total = 0
        for row in np.flatnonzero(whose == person):
            model.zero_grad()
            mse_loss(model(X[row : row + 1]), Y[row : row + 1]).backward()
            total = total + torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])
        found.append(total.numpy())
    return np.array(found)


@pytest.mark.parametrize("make", [network, lambda: seeded(Tied).double()], ids=["network", "tied"])
@pytest.mark.parametrize("whose", [None, WHOSE], ids=["one row each", "several"])
@pytest.mark.parametrize("held", [1, 7, 10**6])
def test_each_person_has_the_gradient_of_its_own_records(monkeypatch, make, whose, held):
    """Whatever is held at once, and however many records a person has."""
    model = make()
    length = sum(p.numel() for p in model.parameters() if p.requires_grad)
    monkeypatch.setattr(per_patient, "_HELD", held * length)
    records = Records.of([(X[:11], Y[:11]), (X[11:], Y[11:])], model, patients=whose)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = taken(model, records)
    np.testing.assert_allclose(
        found, by_hand(model, np.arange(RECORDS) if whose is None else whose), atol=1e-12
    )
    assert records.persons == len(found)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_no_more_is_held_at_once_than_was_said(monkeypatch):
    monkeypatch.setattr(per_patient, "_HELD", 5 * 4)
    model = nn.Linear(3, 1).double()
    records = Records.of([(X, Y)], model, patients=WHOSE)
    parts = list(gradients(model, records, loss=mse_loss, names=moving(model), seed=1))
    assert [len(part) for part in parts] == [5] * (records.persons // 5) + [records.persons % 5] * bool(
        records.persons % 5
    )


def test_what_is_not_finite_comes_as_it_is_and_spoils_no_other_row():
    model, x = nn.Linear(3, 1).double(), X.clone()
    x[4] = torch.inf
    records = Records.of([(x, Y)], model)
    found = taken(model, records)
    assert np.flatnonzero(~np.isfinite(found).all(axis=1)).tolist() == [4]


def test_ids_may_be_texts_and_a_half_precision_model_has_float32_rows():
    model = nn.Linear(3, 1).bfloat16()
    records = Records.of([(X[:3], Y[:3])], model, patients=["x-ray 7", "x-ray 1", "x-ray 7"])
    found = taken(model, records)
    assert (found.dtype, found.shape) == (np.float32, (2, 4))
    np.testing.assert_allclose(found[1], taken(model, Records.of([(X[[0, 2]], Y[[0, 2]])], model)).sum(0))


@pytest.mark.parametrize("data", [[], [(X[:0], Y[:0])]])
@pytest.mark.parametrize("patients", [None, []])
def test_a_site_without_patients_has_no_gradient_and_does_not_fail(data, patients):
    model = network()
    records = Records.of(data, model, patients=patients)
    assert records.persons == 0
    assert list(gradients(model, records, loss=mse_loss, names=moving(model), seed=1)) == []


def test_dropout_draws_for_each_record_from_its_own_seed_and_the_global_generator_stands_still():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 1)).double()
    records = Records.of([(X[:1].expand(RECORDS, 3), Y[:1].expand(RECORDS, 1))], model)
    before = torch.get_rng_state()
    one, same, other = (taken(model, records, seed=seed) for seed in (1, 1, 2))
    assert len(np.unique(one, axis=0)) > 1
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_of_classes():
    model = nn.Linear(3, 4).double()
    records = Records.of([(X, torch.arange(RECORDS) % 4)], model)
    found = taken(model, records, loss=cross_entropy)
    assert found.shape == (RECORDS, 16)
    np.testing.assert_allclose(found[:, 12:].sum(axis=1), 0, atol=1e-12)  # probabilities less the one that is


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (nn.BatchNorm1d(4), "layer '1' is a BatchNorm1d"),
        (nn.SyncBatchNorm(4), "layer '1' is a SyncBatchNorm"),
        (nn.BatchNorm1d(4, affine=False), "layer '1' is a BatchNorm1d"),
        (nn.InstanceNorm1d(4, track_running_stats=True), "layer '1' is a InstanceNorm1d"),
    ],
)
def test_a_layer_that_mixes_records_is_named(layer, named):
    with pytest.raises(ParameterError, match=re.escape(named) + ".*GroupNorm"):
        check_layers(nn.Sequential(nn.Linear(3, 4), layer))


def test_a_frozen_batch_norm_mixes_nothing():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).requires_grad_(False), nn.Linear(4, 1)).double()
    check_layers(model)
    records = Records.of([(X, Y)], model)
    model.eval()
    want = by_hand(model, np.arange(RECORDS))
    model.train()
    np.testing.assert_allclose(taken(model, records), want, atol=1e-12)
    assert not model[1].running_mean.any()


@pytest.mark.parametrize(
    "order",
    [
        {"shuffle": True},
        {"shuffle": True, "batch_size": None},
        {"sampler": RandomSampler(X)},
        {"batch_sampler": BatchSampler(RandomSampler(X), 8, drop_last=False)},
        {"batch_sampler": [range(RECORDS - 1, -1, -1)]},
    ],
)
def test_ids_go_with_no_loader_that_has_an_order_of_its_own(order):
    """They would be other records' ids, so that records of one person were cut apart from each other."""
    loader = DataLoader(TensorDataset(X, Y), **order)
    with pytest.raises(ParameterError, match=r"order of its own, beside patients=.*take shuffle=False"):
        Records.of(loader, network(), patients=WHOSE)
    plain = Records.of(DataLoader(TensorDataset(X, Y), batch_size=8), network(), patients=WHOSE)
    assert torch.equal(plain.y, Records.of([(X, Y)], network(), patients=WHOSE).y)


def test_bad_arguments():
    model = network()
    for patients, found in (
        ([1, 2], "int64[2]"),
        (WHOSE / 2, "float64[40]"),
        (np.ones((40, 2), int), "[40, 2]"),
    ):
        with pytest.raises(ParameterError, match=re.escape(found) + ".*one id for each record"):
            Records.of([(X, Y)], model, patients=patients)
    records = Records.of([(X, Y)], model)
    with pytest.raises(ParameterError, match=r"the loss of one record is \[1, 1\]|a tensor of one value"):
        taken(model, records, loss=lambda prediction, y: torch.stack([prediction, y]))
    with pytest.raises(ParameterError, match="the loss of one record is a float"):
        taken(model, records, loss=lambda prediction, y: 1.0)
