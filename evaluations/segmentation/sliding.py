"""Prediction of whole images by overlapping windows of the size of the crops that a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from evaluations.metrics.segmentation import Counts, count, joined
from evaluations.segmentation.crops import cut_image
from evaluations.segmentation.models import InputForm, check_size
from evaluations.segmentation.training import network_input
from evaluations.sets import Images, Labels
from evaluations.whole_images import WholeImages

OVERLAP = 0.5  # of neighboring windows, at least


def window_starts(length: int, window: int) -> list[int]:
    """Return where windows begin on an axis of `length` pixels: evenly spaced, from border to border.

    Neighbors share at least `OVERLAP` of a window. A shorter axis has one window around it.
    """
    spare = length - window
    if spare <= 0:
        return [spare // 2]
    count = 1 + int(np.ceil(spare / max(1, window * (1 - OVERLAP)) - 1e-9))
    return np.linspace(0, spare, count).round().astype(int).tolist()


def window_weights(window: int) -> Tensor:
    """Return the weights of a window's pixels, float32 [window, window]: positive, and largest in its center.

    They are squared sines of both axes; those of windows that overlap by half sum to 1.
    """
    wave = torch.sin(torch.pi * (torch.arange(window) + 0.5) / window) ** 2
    return torch.outer(wave, wave)


@torch.inference_mode()
def sliding_logits(
    model: nn.Module,
    image: Images,
    *,
    window: int,
    batch_size: int,
    device: torch.device,
    form: InputForm = "imagenet",
) -> Tensor:
    """Return the logits, float32 [C, H, W] on the device, of an image [H, W, 3]: means over windows, by weight.

    The model is on the device and in evaluation mode. An image smaller than a window is reflected at its borders; if
    one window covers an image, its logits are exactly those of the window.
    """
    height, width = image.shape[:2]
    rows, columns = (window_starts(length, window) for length in (height, width))
    corners = [(top, left) for top in rows for left in columns]
    weights = window_weights(window).to(device)
    summed: Tensor | None = None
    for start in range(0, len(corners), batch_size):
        chunk = corners[start : start + batch_size]
        cut = np.stack([cut_image(image, *corner, window) for corner in chunk])
        logits = model(network_input(torch.from_numpy(cut), device, form)).float()
        if summed is None:
            summed = torch.zeros(logits.shape[1] + 1, height, width, device=device)  # the last: of the weights
        for (top, left), each in zip(chunk, logits, strict=True):
            there, here = zip(_shared(top, height, window), _shared(left, width, window), strict=True)
            if len(corners) == 1:
                return each[:, *here].contiguous()
            summed[:-1, *there] += (each * weights)[:, *here]
            summed[-1, *there] += weights[here]
    assert summed is not None
    return summed[:-1] / summed[-1]


def _shared(start: int, length: int, window: int) -> tuple[slice, slice]:
    """Return what an axis and a window that begins at `start` share, as a part of either."""
    first, last = max(start, 0), min(start + window, length)
    return slice(first, last), slice(first - start, last - start)


def predict_whole(
    model: nn.Module,
    images: Iterable[Images],
    *,
    window: int,
    batch_size: int,
    device: torch.device,
    form: InputForm = "imagenet",
) -> Iterator[Labels]:
    """Return the most likely class of each pixel, int16 [H, W], of images [H, W, 3]; arguments as `sliding_logits` has.

    Each image is predicted when it is asked for. Raises EvaluationError for a window that does not fit the model.
    """
    check_size(window, window, model, option="crop")
    model.to(device).eval()
    options = {"window": window, "batch_size": batch_size, "device": device, "form": form}
    return (sliding_logits(model, image, **options).argmax(0).short().cpu().numpy() for image in images)


def whole_counts(images: WholeImages, predictions: Iterable[Labels]) -> Counts:
    """Return the pixel counts of predictions [H, W] on each of `images`."""
    return joined(
        [
            count(label[None], predicted[None], images.num_classes)
            for label, predicted in zip(images.labels, predictions, strict=True)
        ]
    )
