"""On a machine with a GPU: what it trains and samples is what the CPU does; skipped everywhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ON_GPU

from guided_diffusion import load_pipeline
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

TRAININGS = {
    "fp32": {},
    "compiled": {"compile": True},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "holes": {"resize": "window", "inpaint": True, "augment": 0.4},
    "label diffusion": {"cond_diffuse": True, "cond_opt": "discrete_zero_classwise", "drop_rate": 0.0},
}
TOLERANCES = {"bf16": 3e-2, "fp16": 1e-2}
"""Relative, of the loss of each epoch; of full precision: a thousandth."""


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Convolutions in full precision: by default a GPU rounds their inputs to TensorFloat-32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in load_checkpoint(folder / LAST).progress["history"]]


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings(name, lemons, run, tmp_path):
    common = {**ON_GPU, "compile": False, **TRAININGS[name], "data_dir": lemons, "preview_interval": 0, "max_epochs": 2}
    run("train", **common | {"output_dir": tmp_path / "cpu", "device": "cpu", "compile": False, "precision": "fp32"})
    run("train", **common | {"output_dir": tmp_path / "gpu", "device": "cuda"})
    assert np.allclose(losses(tmp_path / "gpu"), losses(tmp_path / "cpu"), rtol=TOLERANCES.get(name, 1e-3))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++2m", "dpm++2m-sde"])
def test_samplers_with_the_same_noise(sampler, compiled, trained):
    maps = torch.randint(5, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    options = SamplerOptions(sampler=sampler, s=2.0, steps=4, guidance_interval=(0.1, 2.0), dynamic_threshold=0.9)
    images = []
    for device in ("cpu", "cuda"):
        pipeline = load_pipeline(trained, device=device, compile=compiled and device == "cuda")
        images.append(pipeline.begin(options, noise_device="cpu")(pipeline.condition_of(maps), [1, 2]))
    assert torch.allclose(*images, atol=2e-3)


def test_a_sample_does_not_depend_on_its_batch(trained, lemons, run, tmp_path):
    common = {"model_path": trained, "data_dir": lemons, "s": 1.5, "num_samples": 4, "steps": 4, "compile": False}
    for batch in (1, 4):
        run("sample", **common, results_path=tmp_path / str(batch), device="cuda", batch_size=batch)
    paths = sorted((tmp_path / "1").rglob("lemon*.png"))
    assert paths
    for path in paths:
        other = tmp_path / "4" / path.relative_to(tmp_path / "1")
        images = [np.asarray(Image.open(file)).astype(int) for file in (path, other)]
        assert np.abs(images[0] - images[1]).max() <= 1
