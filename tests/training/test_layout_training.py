"""A training step on layouts: its gradients, in parts, in bf16, compiled, and where there is nothing to draw."""

from __future__ import annotations

import math

import pytest
import torch

from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.models.compilation import compile_network

BOXES = {"condition": "boxes", "style_dim": 4, "label_dim": 8, "image_size": 8, "learn_sigma": False, "grad_clip": 0.0}
BOXES |= {"channel_mult": [1, 1], "attention_resolutions": [4], "batch_size": 4, "mask_supervision": 0.5}


def gradients(trainer) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])


def step(trainer) -> torch.Tensor:
    trainer.train_step(next(iter(trainer.loader.epoch(0))))
    return gradients(trainer)


@pytest.mark.parametrize("more", [{}, {"stage_masks": False}, {"background": False, "overlap": "mean"}])
def test_every_weight_has_a_gradient_where_all_layouts_are_dropped(more, trainer_for):
    """Data-parallel training waits for each of them."""
    trainer = trainer_for(**BOXES, drop_rate=1.0, **more)
    step(trainer)
    assert all(parameter.grad is not None for parameter in trainer.model.parameters())
    assert "mask_loss" not in trainer.progress.sums.means()


@pytest.mark.slow
def test_masks_learn_and_are_logged_by_themselves(trainer_for):
    found = []
    for weight in (0.0, 0.5):
        trainer = trainer_for(f"weight{weight}", **{**BOXES, "mask_supervision": weight})
        batch = next(iter(trainer.loader.epoch(0)))
        assert isinstance(batch.condition, LayoutCondition)
        trainer.train_step(batch)
        found.append((trainer.progress.sums.means(), trainer.model.conditioner.regressor.out.weight.grad.norm()))
    (without, no_gradient), (with_masks, gradient) = found
    assert without["loss"] == pytest.approx(with_masks["loss"], rel=1e-6)
    assert "mask_loss" not in without
    assert 0.5 < with_masks["mask_loss"] < 4
    assert gradient > 3 * no_gradient


@pytest.mark.slow
def test_microbatches_give_the_same_gradient(trainer_for):
    found = [step(trainer_for(f"micro{size}", **BOXES, drop_rate=0.3, microbatch=size)) for size in (-1, 1, 3)]
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_half_precision(trainer_for):
    full, half = (step(trainer_for(kind, **BOXES, precision=kind)) for kind in ("fp32", "bf16"))
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.98


@pytest.mark.slow
def test_compiled(trainer_for):
    torch.compiler.reset()
    values = {**BOXES, "channel_mult": [1], "attention_resolutions": []}
    plain = step(trainer_for("plain", **values))
    trainer = trainer_for("compiled", **values)
    encode = trainer.model.encode
    compile_network(trainer.model, backend="eager")
    trainer.model.encode = encode  # which knows nothing of layouts
    assert torch.allclose(step(trainer), plain, rtol=1e-3, atol=1e-5)
    assert math.isfinite(trainer.progress.sums.means()["mask_loss"])
    torch.compiler.reset()
