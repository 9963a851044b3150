"""Prediction from native maps equals upsampling, then classifying; and the recorded votes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guided_diffusion.labeling import predict as module
from guided_diffusion.labeling.classifier import PixelEnsemble
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.labeling.predict import member_logits, predict, predict_each
from guided_diffusion.labeling.uncertainty import ignore_uncertain

SHAPES = ((5, 4, 6), (3, 9, 7), (2, 4, 6), (2, 20, 75), (1, 1, 1))


@pytest.fixture
def ensemble(ruled) -> PixelEnsemble:
    """Two members with every weight drawn, those of the normalizations too."""
    made = PixelEnsemble(2, 13, 5).eval()
    for member in range(2):
        shapes = {name: value.shape for name, value in made.member_weights(member).items()}
        made.load_member(member, ruled(shapes, f"member{member}."))
    return made


@pytest.mark.parametrize("size", [(20, 75), (64, 64), (7, 3), (33, 130)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_commuted_equals_upsampled(random_maps, upsampled, ensemble, size, dtype):
    maps = [each.astype(dtype) for each in random_maps(*SHAPES)]
    wanted = ensemble.double()(upsampled(maps, size).expand(2, -1, -1)).unflatten(1, size)
    ensemble.float()
    found = torch.stack(list(member_logits(ensemble, ImageMaps(maps, (20, 75)), size)))
    assert found.shape == (2, *size, 5)
    assert torch.allclose(found.double(), wanted, atol=1e-4)


def test_tiles_of_a_gpu_give_the_same(random_maps, ensemble, monkeypatch):
    maps = ImageMaps(random_maps(*SHAPES), (40, 90))
    small = list(member_logits(ensemble, maps))
    monkeypatch.setattr(module, "CPU_TILE", module.GPU_TILE)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(small, member_logits(ensemble, maps), strict=True))


@pytest.mark.parametrize("vote", ["majority", "mean"])
def test_recorded_ensemble(golden, ruled, vote):
    record, arrays = golden("ensemble")
    height, width = record["size"]
    features = np.random.default_rng(7).standard_normal((height * width, record["dim"])).astype(np.float32)
    maps = ImageMaps([features.T.reshape(record["dim"], height, width)], (height, width))
    ensemble = PixelEnsemble(record["members"], record["dim"], record["classes"]).eval()
    for member in range(record["members"]):
        shapes = {name: value.shape for name, value in ensemble.member_weights(member).items()}
        ensemble.load_member(member, ruled(shapes, f"member{member}."))
    votes = [logits.argmax(dim=-1).numpy() for logits in member_logits(ensemble, maps)]
    assert np.array_equal(votes, arrays["votes"])
    found = predict(ensemble, [maps], vote)
    assert np.array_equal(found.label, arrays["label" if vote == "majority" else "mean_label"])
    assert arrays["tied"].sum() == 24
    assert np.allclose(found.uncertainty, arrays["js"], atol=1e-5)
    assert found.score == pytest.approx(record["score"], abs=1e-5)
    assert ((found.confidence > 0) & (found.confidence <= 1)).all()
    assert (ignore_uncertain(found, 0.05, 255) == 255).sum() == (arrays["js"] > 0.05).sum()


def test_views_are_averaged_member_by_member(random_maps, ensemble):
    views = [ImageMaps(random_maps(*SHAPES, seed=seed), (9, 9)) for seed in (0, 1)]
    singles = [torch.stack(list(member_logits(ensemble, view))).softmax(-1) for view in views]
    mean = sum(singles) / 2
    found = predict(ensemble, views)
    assert torch.equal(found.label, mean.mean(0).argmax(-1))
    assert torch.allclose(found.confidence, mean.mean(0).amax(-1), atol=1e-6)
    twice = predict(ensemble, [views[0], views[0]])
    assert torch.allclose(twice.uncertainty, predict(ensemble, views[:1]).uncertainty, atol=1e-6)


def test_members_that_agree_are_certain(random_maps, ensemble):
    ensemble.load_member(1, ensemble.member_weights(0))
    found = predict(ensemble, [ImageMaps(random_maps(*SHAPES), (9, 9))])
    assert float(found.uncertainty.max()) < 1e-6


def test_each_offset_is_what_a_changed_ensemble_says(random_maps, ensemble):
    views = [ImageMaps(random_maps(*SHAPES), (20, 75)) for _ in range(2)]
    offsets = torch.tensor([[0.0] * 5, [-0.5, 0, -1, 0.5, 0.5]])
    found = predict_each(ensemble, views, offsets)
    alone = [predict(ensemble, views)]
    ensemble.add_to_logits(offsets[1])
    alone.append(predict(ensemble, views))
    assert not torch.equal(alone[0].label, alone[1].label)
    for one, other in zip(found, alone, strict=True):
        assert (one.label == other.label).float().mean() > 0.999
        assert torch.allclose(one.uncertainty, other.uncertainty, atol=1e-5)
        assert torch.allclose(one.confidence, other.confidence, atol=1e-5)
