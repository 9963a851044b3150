"""Classes of crops: what can be learned is found, and what is wrong is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layout_sets import image_set, layout_sets, one_each

from evaluations.errors import EvaluationError
from evaluations.metrics.crop_classes import CropClassesMetric, CropPlan, build_classifier, class_accuracy
from evaluations.objects import Crops, LayoutSets

LEVELS = {1: 60, 2: 200}
CLASSES = [1, 2] * 4
PLAN = CropPlan("test_resnet", 8, 1)


def pictures(classes: list[int], seed: int) -> np.ndarray:
    """Return images whose middle has the gray level of a class, with noise."""
    images = np.random.default_rng(seed).integers(0, 256, (len(classes), 16, 16, 3), np.uint8)
    for image, class_id in zip(images, classes, strict=True):
        image[4:12, 4:12] = LEVELS[class_id] + image[4:12, 4:12] // 8
    return images


def measure(shown: list[int], plan: CropPlan = PLAN, *, with_training: bool = True, classes: list[int] = CLASSES):
    training, test = image_set(pictures(classes, 0)), image_set(pictures(classes, 1))
    objects = one_each(classes)
    layouts = LayoutSets(objects if with_training else None, objects, one_each(CLASSES))
    samples = image_set(pictures(shown, 2))
    sets = layout_sets(training if with_training else None, test, samples, layouts, has_masks=False)
    return CropClassesMetric(plan, 0, torch.device("cpu")).measure(sets)


@pytest.fixture(scope="module")
def good():
    return measure(CLASSES)


@pytest.mark.slow
def test_what_samples_show_is_learned(good):
    for name in ("samples_on_test", "training_on_test", "training_on_samples"):
        assert good.record[name]["balanced"] == 1, name
    assert good.record["samples_on_test"]["classes"] == {"background": None, "round": 1, "square": 1}
    assert "100.0 %" in good.findings[0]


@pytest.mark.slow
def test_exchanged_classes_are_learned_as_they_are_shown():
    record = measure([3 - class_id for class_id in CLASSES]).record
    assert record["samples_on_test"]["balanced"] == 0
    assert record["training_on_samples"]["balanced"] == 0
    assert record["training_on_test"]["balanced"] == 1


@pytest.mark.slow
def test_a_seed_decides_everything(good):
    few = CropPlan("test_resnet", 2, 2)
    assert measure(CLASSES, few).record == measure(CLASSES, few).record
    alone = measure(CLASSES, with_training=False).record
    assert "training_on_test" not in alone
    assert alone["samples_on_test"] == good.record["samples_on_test"]


def test_balanced_accuracy_is_the_mean_over_classes():
    """A model that always says class 1 has 3 of 4 crops right, and one of two classes."""

    class Says1(torch.nn.Module):
        def forward(self, images):
            return torch.eye(3)[[1] * len(images)]

    crops = Crops(np.zeros((4, 32, 32, 3), np.uint8), np.array([1, 1, 1, 2]))
    found = class_accuracy(Says1(), crops, 3, torch.device("cpu"))
    assert found[1:].tolist() == [1, 0]
    assert np.isnan(found[0])


def test_what_cannot_be_measured():
    assert "one class" in measure(CLASSES, classes=[1] * 4).record["skipped"]


@pytest.mark.parametrize("name", ["resnet", "hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp", "vit_tiny_patch16_224"])
def test_networks_that_cannot_be_used(name):
    with pytest.raises(EvaluationError) as raised:
        build_classifier(name, 2, 0)
    assert raised.value.key == "crop_net"
