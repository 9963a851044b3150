"""Prediction of whole images by overlapping windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from whole import SmallSegmenter, whole_shapes

from evaluations.errors import EvaluationError
from evaluations.metrics.segmentation import count
from evaluations.segmentation.models import build_segmenter, to_input
from evaluations.segmentation.sliding import predict_whole, sliding_logits, whole_counts, window_starts, window_weights

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def logits_of(model: nn.Module, image: np.ndarray, window: int, batch_size: int = 4) -> torch.Tensor:
    return sliding_logits(model.eval(), image, window=window, batch_size=batch_size, device=CPU)


def direct(model: nn.Module, image: np.ndarray) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(to_input(torch.from_numpy(image[None])))[0]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 95, 96, 97, 128, 200, 1000])
def test_windows_go_from_border_to_border_and_overlap_by_half(length: int):
    starts = window_starts(length, 64)
    if length <= 64:
        assert starts == [(length - 64) // 2]
    else:
        assert starts[0] == 0
        assert starts[-1] == length - 64
        assert min(np.diff(starts)) >= 1
        assert max(np.diff(starts)) <= 32
        assert len(starts) == 1 + -(-(length - 64) // 32)


def test_weights_are_positive_largest_in_the_center_and_sum_to_one():
    weights = window_weights(16)
    assert (weights > 0).all()
    assert weights.argmax() in (7 * 16 + 7, 7 * 16 + 8, 8 * 16 + 7, 8 * 16 + 8)
    quarters = weights[:8, :8] + weights[8:, :8] + weights[:8, 8:] + weights[8:, 8:]
    assert torch.allclose(quarters, torch.ones(8, 8), atol=1e-6)


def test_an_image_that_one_window_covers_has_exactly_the_logits_of_a_direct_pass():
    model = build_segmenter("unet", "tu-lcnet_050", num_classes=3, seed=0)
    image = noise(64, 64)
    assert torch.equal(logits_of(model, image, 64), direct(model, image))


def test_a_smaller_image_is_reflected():
    model, image = SmallSegmenter(kernel=5), noise(21, 30)
    wide = np.pad(image, ((6, 5), (1, 1), (0, 0)), mode="reflect")
    assert torch.equal(logits_of(model, image, 32), direct(model, wide)[:, 6:27, 1:31])


@pytest.mark.parametrize("size", [(80, 70), (20, 70), (33, 32)])
def test_a_model_that_sees_single_pixels_has_the_logits_of_a_direct_pass(size: tuple[int, int]):
    model, image = SmallSegmenter(kernel=1), noise(*size)
    found = logits_of(model, image, 32)
    assert found.shape == (3, *size)
    assert torch.allclose(found, direct(model, image), atol=1e-5)


def test_predictions_do_not_depend_on_the_batch():
    model, image = SmallSegmenter(), noise(90, 75)
    first, second = (logits_of(model, image, 32, batch_size) for batch_size in (1, 16))
    assert torch.allclose(first, second, atol=1e-5)


def test_seams_between_windows_are_smoothed():
    # A model that is sure of class 1 near the borders of its window, and of class 2 elsewhere.
    class Unsure(SmallSegmenter):
        def forward(self, images):
            logits = torch.zeros(len(images), 3, *images.shape[2:])
            logits[:, 1] = 1
            logits[:, 2, 4:-4, 4:-4] = 2
            return logits

    (predicted,) = predict_whole(Unsure(), [noise(96, 96)], window=32, batch_size=8, device=CPU)
    assert (predicted[8:-8, 8:-8] == 2).all()


def test_counts_are_those_of_each_image():
    images = whole_shapes(3)
    predictions = list(predict_whole(SmallSegmenter(), images.images, window=32, batch_size=4, device=CPU))
    assert [each.shape for each in predictions] == [label.shape for label in images.labels]
    counts = whole_counts(images, predictions)
    assert len(counts) == 3
    for index in range(3):
        single = count(images.labels[index][None], predictions[index][None], 3)
        assert np.array_equal(counts.false_negative[index], single.false_negative[0])
        assert np.array_equal(counts.true_positive[index], single.true_positive[0])


def test_a_window_that_does_not_fit_the_model_is_told():
    model = build_segmenter("unet", "tu-lcnet_050", num_classes=3, seed=0)
    with pytest.raises(EvaluationError) as error:
        predict_whole(model, [noise(40, 40)], window=40, batch_size=4, device=CPU)
    assert error.value.key == "crop"
