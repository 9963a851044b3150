"""Training on holes, windows and told augmentation: the same gradient in parts, resumed bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from test_trainer import assert_identical, final_state

from guided_diffusion.conditions.known_region import KnownRegion

WINDOWS = {"resize": "window", "scale": 0.8, "inpaint": True, "augment": 0.4, "brightness": 0.1, "drop_rate": 0.3}


def stirred(trainer):
    """Give every weight a value: a new network has layers of zeros, which hold back all gradients."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw), alpha=0.05)
    return trainer


def gradients(trainer, batch) -> torch.Tensor:
    trainer.model.train()
    t = torch.arange(len(batch)) * 7
    trainer._forward_backward(batch, t, torch.full((1, len(batch)), 1 / len(batch)), (0, 0, 0))
    assert all(weight.grad is not None for weight in trainer.model.parameters())  # DDP would wait for these forever
    return torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"learn_sigma": True}, {"learn_sigma": True, "use_kl": True}])
def test_microbatches_have_the_gradient_of_the_batch(trainer_for, more):
    found = []
    for size in (-1, 1, 2):
        trainer = stirred(trainer_for(f"micro{size}", microbatch=size, **{**WINDOWS, "learn_sigma": False, **more}))
        batch = next(iter(trainer.loader.epoch(0)))
        assert batch.hole.any()
        assert batch.augment.any()
        found.append(gradients(trainer, batch))
    for gradient in found[1:]:
        assert (gradient - found[0]).norm() < 1e-4 * found[0].norm()


def test_what_lies_in_a_border_is_trained_on_nowhere(trainer_for):
    trainer = stirred(trainer_for(**WINDOWS))
    batch = next(iter(trainer.loader.epoch(0)))
    trainer.train_step(replace(batch, inside=torch.zeros_like(batch.inside)))  # nothing but padding
    assert trainer.progress.sums.loss == 0
    assert trainer.progress.sums.bad_steps == 0
    assert math.isfinite(trainer.progress.sums.grad_norm)
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())


def test_the_network_is_given_the_known_image_and_told_of_augmentation(trainer_for, monkeypatch):
    trainer = trainer_for(**WINDOWS)
    batch, seen = next(iter(trainer.loader.epoch(0))), []
    forward = trainer.model.forward
    monkeypatch.setattr(trainer.model, "forward", lambda *given: seen.append(given) or forward(*given))
    trainer.train_step(batch)
    ((x, _, _, _, augment),) = seen
    assert torch.equal(x[:, 3:], KnownRegion(batch.image, batch.hole).channels())
    assert torch.equal(augment, batch.augment)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"cond_diffuse": True, "dropout": 0.1, "schedule_sampler": "loss-second-moment"}])
def test_interrupted_and_resumed_equals_uninterrupted(trainer_for, more):
    options = {**WINDOWS, **more, "diffusion_steps": 30}
    whole = trainer_for("whole", **options, max_epochs=2)
    whole.fit()
    trainer_for("parts", **options, max_epochs=1).fit()
    second = trainer_for("parts", **options, max_epochs=2)
    assert second.progress.step == 3
    second.fit()
    assert_identical(final_state(whole), final_state(second))
    assert whole.model.augment_embed.weight.abs().max() > 0
