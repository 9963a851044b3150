"""Training of one segmentation model: it learns, repeats itself, and keeps its best state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from shapes import shapes

from evaluations.metrics.segmentation import scores
from evaluations.segmentation.models import build_segmenter
from evaluations.segmentation.training import (
    SegmentationLoss,
    TrainingPlan,
    evaluate_segmenter,
    predict,
    train_segmenter,
)
from evaluations.sets import ImageSet

CPU = torch.device("cpu")


def model(seed: int = 0, encoder: str = "tu-lcnet_050") -> torch.nn.Module:
    return build_segmenter("fpn", encoder, num_classes=3, seed=seed)


@pytest.mark.slow
def test_it_learns_what_is_to_be_seen():
    plan = TrainingPlan(steps=40, batch_size=4, learning_rate=2e-3, validations=4)
    trained = train_segmenter(model(encoder="resnet18"), shapes(12), shapes(6, seed=1), plan, seed=0, device=CPU)
    found = scores(evaluate_segmenter(trained.model, shapes(10, seed=2), 4, CPU))
    assert found.miou > 0.7
    assert trained.validation_miou > 0.7
    assert not trained.model.training


@pytest.mark.slow
def test_the_best_state_is_kept(monkeypatch):
    # The learning rate of the last third ruins the model, so that the best state is an earlier one.
    plan = TrainingPlan(steps=45, batch_size=4, learning_rate=2e-3, validations=9)
    monkeypatch.setattr("evaluations.segmentation.training.rate_share", lambda step, steps: 1.0 if step < 30 else 1e4)
    validation = shapes(6, seed=1)
    trained = train_segmenter(model(), shapes(12), validation, plan, seed=0, device=CPU)
    assert trained.best_step <= 30
    assert scores(evaluate_segmenter(trained.model, validation, 4, CPU)).miou == pytest.approx(trained.validation_miou)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_and_steps_are_counted():
    plan = TrainingPlan(steps=3, batch_size=2, learning_rate=1e-3, validations=1)
    steps = []
    runs = [
        train_segmenter(
            model(), shapes(5), shapes(2), plan, seed=seed, device=CPU, callback=lambda: steps.append(1)
        ).model.state_dict()
        for seed in (0, 0, 1)
    ]
    assert len(steps) == 9
    assert all(torch.equal(first, second) for first, second in zip(runs[0].values(), runs[1].values(), strict=True))
    assert any(not torch.equal(first, other) for first, other in zip(runs[0].values(), runs[2].values(), strict=True))


def test_augmentation_sees_every_image_of_a_batch():
    seen = []

    def augment(image, label, generator):
        assert image.shape == (3, 32, 32)
        assert image.dtype == torch.uint8
        assert label.dtype == torch.int64
        seen.append(float(torch.rand((), generator=generator)))
        return image, label

    plan = TrainingPlan(steps=2, batch_size=3, learning_rate=1e-3, validations=1)
    train_segmenter(model(), shapes(3), shapes(2), plan, seed=0, device=CPU, augment=augment)
    assert len(set(seen)) == 6


def test_images_enter_in_the_form_of_the_encoder_in_training_and_validation():
    images = shapes(3)
    images.images[:, 0], images.images[:, 1] = 0, 255
    seen, watched = [], model()
    watched.register_forward_pre_hook(lambda _, given: seen.append((float(given[0].min()), float(given[0].max()))))
    plan = TrainingPlan(steps=2, batch_size=3, learning_rate=1e-3, validations=1, form="symmetric")
    train_segmenter(watched, images, images, plan, seed=0, device=CPU)
    assert seen == [(-1, 1)] * 3


def test_ignored_pixels_move_nothing():
    loss_of, generator = SegmentationLoss(3), torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (2, 8, 8), generator=generator)
    labels[:, :4] = 3
    other = logits.clone()
    other[:, :, :4] += torch.randn(2, 3, 4, 8, generator=generator)
    assert loss_of(logits, labels) == pytest.approx(float(loss_of(other, labels)), rel=1e-6)
    assert loss_of(logits, labels) > 0
    assert float(loss_of(logits, torch.full_like(labels, 3))) == 0


def test_a_diverging_loss_is_told():
    plan = TrainingPlan(steps=1, batch_size=2, learning_rate=1e-3, validations=1)
    broken = model()
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"\b1 step"):
        train_segmenter(broken, shapes(3), shapes(2), plan, seed=0, device=CPU)


def test_predictions_do_not_depend_on_the_batch():
    images, net = shapes(5).images, model().eval()
    assert np.array_equal(predict(net, images, 1, CPU), predict(net, images, 5, CPU))


def test_a_subset_and_a_union_of_images():
    both = shapes(3).joined(shapes(2, seed=5, prefix="other"))
    assert len(both) == 5
    chosen = both.subset([4, 0, 0])
    assert chosen.names == ("other1", "shape0", "shape0")
    assert isinstance(chosen, ImageSet)
    assert np.array_equal(chosen.images[1], both.images[0])
