"""The batched ensemble gives the numbers of the published classifiers, one after another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from guided_diffusion.labeling.classifier import PixelEnsemble

CASES = ("classes5", "classes29", "classes30", "classes34")


@pytest.mark.parametrize("name", CASES)
def test_recorded_training(golden, ruled, name):
    record, arrays = golden("classifier")
    case = record["cases"][name]
    classes, dim = case["classes"], case["dim"]
    rng = np.random.default_rng(7)
    x = torch.from_numpy(rng.standard_normal((16, dim)).astype(np.float32))
    batches = torch.from_numpy(rng.standard_normal((8, 64, dim)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, classes, (8, 64)))
    # The recorded member is the second of three: the others must not change it.
    ensemble = PixelEnsemble(3, dim, classes)
    weights = ensemble.member_weights(1)
    assert {key: list(value.shape) for key, value in weights.items()} == case["state_dict"]
    assert list(weights) == list(case["state_dict"])
    ensemble.load_member(1, ruled(case["state_dict"]))
    before = ensemble.eval()(x.expand(3, -1, -1))[1]
    assert np.allclose(before.detach(), arrays[f"{name}_before"], atol=1e-5)
    optimizer = torch.optim.Adam(ensemble.parameters(), lr=1e-3, fused=True)
    ensemble.train()
    for batch, label, recorded in zip(batches, labels, arrays[f"{name}_losses"], strict=True):
        logits = ensemble(torch.stack([batch.flip(0), batch, 2 * batch]))
        losses = torch.stack([F.cross_entropy(each, label) for each in logits])
        assert losses[1].item() == pytest.approx(recorded, abs=1e-5)
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    after = ensemble.eval()(x.expand(3, -1, -1))[1]
    assert np.allclose(after.detach(), arrays[f"{name}_after"], atol=1e-5)
    assert int(ensemble.member_weights(1)["layers.2.num_batches_tracked"]) == 8


def test_members_begin_as_published_and_do_not_depend_on_their_number():
    ensemble = PixelEnsemble(3, 500, 30, seed=4)
    first, second = (ensemble.member_weights(member) for member in (0, 1))
    for layer in ("layers.0", "layers.3", "layers.6"):
        weight = first[f"{layer}.weight"]
        assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
        assert abs(float(weight.mean())) < 0.02 * 5 / weight.numel() ** 0.5
        assert not first[f"{layer}.bias"].any()
        assert not torch.equal(weight, second[f"{layer}.weight"])
    for norm in ("layers.2", "layers.5"):
        assert (first[f"{norm}.weight"] == 1).all()
        assert not first[f"{norm}.bias"].any()
    again = PixelEnsemble(1, 500, 30, seed=4).member_weights(0)
    assert all(torch.equal(again[name], first[name]) for name in first)
    other = PixelEnsemble(1, 500, 30, seed=5).member_weights(0)
    assert not torch.equal(other["layers.0.weight"], first["layers.0.weight"])


def test_standardization_is_folded_into_the_first_layer(ruled):
    ensemble = PixelEnsemble(2, 7, 4).eval()
    x, mean = 3 * torch.randn(2, 20, 7) + 1, torch.randn(7)
    scale = torch.rand(7) + 0.5
    wanted = ensemble((x - mean) * scale)
    ensemble.fold_standardization(mean, scale)
    assert torch.allclose(ensemble(x), wanted, atol=1e-5)
