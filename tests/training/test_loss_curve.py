"""The loss curve of a run: a file, its gaps, its mark."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.training.loss_curve import loss_curve


class TestLossCurve:
    @pytest.mark.parametrize("epochs", [0, 1, 40])
    def test_is_written(self, tmp_path: Path, epochs: int) -> None:
        history = [
            {"epoch": e, "loss": 1 / (e + 1), **{f"loss_q{q}": (q + 1) / (e + 1) for q in range(4)}}
            for e in range(epochs)
        ]
        loss_curve(history, tmp_path / "run" / "loss.png", best_epoch=epochs - 1)
        with Image.open(tmp_path / "run" / "loss.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["loss.png"]

    def test_takes_gaps_and_marks_the_best_epoch(self, tmp_path: Path) -> None:
        history = [
            {"epoch": 1, "loss": 0.5, "loss_q0": None},
            {"epoch": 2, "loss": float("nan"), "loss_q0": 0.2, "loss_q3": float("inf")},
            {"epoch": 3, "loss": 0.0},
            {"epoch": 4, "loss": 0.1},
        ]
        marked = {}
        for best_epoch in (4, None):
            loss_curve(history, tmp_path / "loss.png", best_epoch=best_epoch)
            with Image.open(tmp_path / "loss.png") as image:
                marked[best_epoch] = (np.asarray(image.convert("RGB")) == (220, 20, 60)).all(axis=-1).sum()
        assert marked[4] > 20
        assert marked[None] == 0

    def test_opens_no_figure_of_pyplot(self, tmp_path: Path) -> None:
        loss_curve([{"epoch": 1, "loss": 1.0}], tmp_path / "loss.png")
        pyplot = sys.modules.get("matplotlib.pyplot")
        assert pyplot is None or not pyplot.get_fignums()
