"""Which epoch of a training is the best."""

from __future__ import annotations

import math

import numpy as np
import pytest

from guided_diffusion.training.progress import BEST_IMAGES, Progress


def trained(losses, images: int, progress: Progress | None = None) -> Progress:
    """Return the progress after epochs of so many images with these losses."""
    progress = Progress(dataset_size=images) if progress is None else progress
    for loss in losses:
        progress.epoch += 1
        progress.history.append({"epoch": progress.epoch, "images": images, "loss": float(loss)})
        progress.find_best()
    return progress


def falling(epochs: int, images: int, seed: int) -> np.ndarray:
    """Return losses that fall as those of a training do; the noise is that of means of losses of so many images."""
    true = 1 + (np.arange(1, epochs + 1) * images / 400) ** -0.5
    return true * (1 + np.random.default_rng(seed).standard_normal(epochs) / math.sqrt(images))


@pytest.mark.parametrize("images", [pytest.param(20, marks=pytest.mark.slow), 60, 200])
def test_chance_does_not_choose_an_early_epoch(images):
    epochs = 56000 // images
    found = [trained(falling(epochs, images, seed), images).best_epoch / epochs for seed in range(20)]
    assert np.median(found) > 0.8
    # By the loss of an epoch alone it does.
    lowest = [(1 + falling(epochs, images, seed).argmin()) / epochs for seed in range(20)]
    assert np.median(lowest) < np.median(found) - 0.05
    assert min(lowest) < min(found) - 0.05


def test_epochs_of_many_images_are_compared_by_their_own_loss():
    progress = trained([3.0, 1.0, 2.0, 1.5], BEST_IMAGES)
    assert (progress.best_epoch, progress.best_loss) == (2, 1.0)


def test_a_rising_loss_leaves_the_best_epoch():
    losses = [*np.linspace(2, 1, 100), *np.linspace(1, 4, 100)]
    assert trained(losses, 400).best_epoch in range(100, 110)


def test_an_epoch_of_few_images_weighs_little():
    progress = trained([1.0] * 20, 400)
    assert trained([0.5], 4, progress).best_loss > 0.99


def test_epochs_without_a_finite_loss_are_left_out():
    assert trained([math.nan], 8).best_epoch == 0
    progress = trained([2.0, math.nan, 1.0], 8)
    assert (progress.best_epoch, progress.best_loss) == (3, 1.5)


def test_a_new_search_forgets_what_was_before():
    progress = trained([1.0] * 5, 8)
    progress.restart_search()
    assert (progress.best_epoch, progress.recent_loss) == (0, pytest.approx(math.nan, nan_ok=True))
    again = Progress.from_state(progress.state_dict())
    assert trained([9.0, 8.0], 8, again).best_loss == 8.5


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with():
    state = trained([4.0, 1.0, 3.0], 8).state_dict()
    for line in state["history"]:
        del line["images"]
    del state["searched_from"]
    state |= {"best_loss": 1.0, "best_epoch": 2}  # its own loss
    progress = Progress.from_state(state)
    assert progress.best_loss == 2.5
    assert trained([1.0], 8, progress).best_epoch == 4
