"""The loss curve of a run: a file, its gaps, its mark."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.training.loss_curve import loss_curve

BLACK, CRIMSON = (0, 0, 0), (220, 20, 60)


def drawn(history: list[dict[str, Any]], folder: Path, **more: Any) -> np.ndarray:
    loss_curve(history, folder / "loss.png", **more)
    with Image.open(folder / "loss.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def pixels_of(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((picture == color).all(axis=-1).sum())


class TestLossCurve:
    @pytest.mark.parametrize("epochs", [0, 1, 40])
    def test_is_written_whatever_the_number_of_epochs(self, tmp_path: Path, epochs: int) -> None:
        history = [
            {"epoch": e, "loss": 1 / (e + 1), **{f"loss_q{q}": (q + 1) / (e + 1) for q in range(4)}}
            for e in range(epochs)
        ]
        picture = drawn(history, tmp_path / "run", best_epoch=epochs - 1)
        assert min(picture.shape[:2]) > 300
        assert (pixels_of(picture, CRIMSON) > 20) == (epochs > 0)
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["loss.png"]

    @pytest.mark.parametrize("best_epoch", [4, None])
    def test_marks_the_best_epoch(self, tmp_path: Path, best_epoch: int | None) -> None:
        history = [{"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, 6)]
        picture = drawn(history, tmp_path, best_epoch=best_epoch)
        assert (pixels_of(picture, CRIMSON) > 20) == (best_epoch is not None)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "missing", [float("nan"), *(pytest.param(value, marks=pytest.mark.slow) for value in (float("inf"), 0.0, -1.0))]
    )
    def test_what_cannot_be_shown_leaves_a_gap(self, tmp_path: Path, missing: float) -> None:
        def with_middle(value: float | None) -> np.ndarray:
            losses = [0.5] * 10 + [value] * 10 + [0.1] * 10
            return drawn([{"epoch": e, "loss": loss, "loss_q0": loss} for e, loss in enumerate(losses)], tmp_path)

        gap = with_middle(None)
        np.testing.assert_array_equal(with_middle(missing), gap)
        assert pixels_of(with_middle(0.3), BLACK) > pixels_of(gap, BLACK) + 100

    @pytest.mark.filterwarnings("error")
    def test_a_run_without_a_loss_to_show_has_a_picture(self, tmp_path: Path) -> None:
        assert drawn([{"epoch": 0, "loss": 0.0}, {"epoch": 1, "loss": float("nan")}], tmp_path).size

    def test_opens_no_figure_of_pyplot(self, tmp_path: Path) -> None:
        loss_curve([{"epoch": 1, "loss": 1.0}], tmp_path / "loss.png")
        pyplot = sys.modules.get("matplotlib.pyplot")
        assert pyplot is None or not pyplot.get_fignums()
