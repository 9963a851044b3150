"""Large holes, filled in many windows at once: what is made does not depend on how many of them there are at a time."""

from __future__ import annotations

import command_line
import pytest
import torch
from tiny import TINY

from guided_diffusion import load_pipeline
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.averaging import fill_frame, windows_of

pytestmark = pytest.mark.slow

LENGTH = 288
"""Pixels of a frame of more windows than those whose modulations are kept."""


@pytest.fixture(scope="module")
def painter(lemons, tmp_path_factory):
    """A pipeline that fills holes, with label diffusion."""
    folder = tmp_path_factory.mktemp("runs") / "painter"
    values = {**TINY, "data_dir": lemons, "output_dir": folder, "max_epochs": 1, "cond_diffuse": True}
    assert command_line.run("train", **values, resize="window", inpaint=True) == 0
    return load_pipeline(folder, device="cpu")


@pytest.mark.parametrize("noisy_labels", [False, True])
@pytest.mark.parametrize("extrapolation", [None, 0.8])
def test_the_batch_size_changes_nothing(painter, noisy_labels, extrapolation):
    painter.options = painter.options.replaced(cond_diffuse=noisy_labels)
    label, hole = torch.zeros(16, LENGTH, dtype=torch.int64), torch.zeros(16, LENGTH, dtype=torch.bool)
    label[4:12, 6:-6], hole[2:14, 4:-4] = 1, True
    assert len(windows_of(hole, (16, 16))) > 33
    known = KnownRegion(torch.zeros(1, 3, 16, LENGTH), hole[None])

    def filled(batch_size: int) -> torch.Tensor:
        run = painter.begin(SamplerOptions(sampler="ddim", steps=3).resolve(), extrapolation=extrapolation)
        return fill_frame(run, label, known, seed=3, batch_size=batch_size)

    torch.testing.assert_close(filled(1), filled(16), rtol=0, atol=1e-4)
