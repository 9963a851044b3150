"""On a machine with a GPU: what it trains and samples is what the CPU does; skipped everywhere else."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ON_GPU

from evaluations.segmentation.crop_training import CropTrainingPlan, _optimizer, _PlainStep
from evaluations.segmentation.graphed_step import GraphedStep
from evaluations.segmentation.models import build_segmenter
from evaluations.segmentation.training import SegmentationLoss, rate_share
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


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """Convolutions in full precision: by default a GPU rounds their inputs to TensorFloat-32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize(("kind", "tolerance"), [("fp32", 1e-3), ("compiled", 1e-3), ("bf16", 5e-2), ("fp16", 1e-2)])
def test_loss_and_gradients(kind, tolerance, trained):
    """Of a network that has learned a little; relative to the norm of the gradients."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(5, (3, 16, 16), generator=generator)
    found = []
    for device in ("cpu", "cuda"):
        pipeline = load_pipeline(trained, device=device, compile=kind == "compiled" and device == "cuda")
        model = pipeline.model.train()
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind)
        x, goal = (torch.randn(3, *pipeline.image_shape, generator=generator.manual_seed(n)).to(device) for n in (1, 2))
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None and device == "cuda"):
            output = model(x, torch.tensor([5.0, 300.0, 900.0], device=device), pipeline.condition_of(maps).to(device))
        loss = (output[:, : x.shape[1]].float() - goal).square().mean()
        loss.backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        found.append((loss.item(), gradient))
    (loss, gradient), (other_loss, other) = found
    assert other_loss == pytest.approx(loss, rel=tolerance)
    assert (gradient - other).norm() < tolerance * gradient.norm()


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_go_on_where_they_stopped(name, lemons, run, tmp_path):
    """What they draw differs from a CPU's, so what they learn is compared loosely."""
    common = {**ON_GPU, "compile": False, **TRAININGS[name], "data_dir": lemons, "preview_interval": 0}
    other = {"output_dir": tmp_path / "cpu", "device": "cpu", "compile": False, "precision": "fp32", "max_epochs": 2}
    run("train", **common | other)
    for epochs in (1, 2):
        run("train", **common | {"output_dir": tmp_path / "gpu", "device": "cuda", "max_epochs": epochs})
    histories = [load_checkpoint(tmp_path / place / LAST).progress["history"] for place in ("gpu", "cpu")]
    losses = [[line["loss"] for line in history] for history in histories]
    assert len(losses[0]) == 2
    assert np.allclose(*losses, rtol=0.3)


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


def test_a_segmenter_learns_the_same_by_a_graph(monkeypatch):
    """Against steps without a graph, dropout included."""
    losses = []
    for kind in (_PlainStep, GraphedStep):
        model = build_segmenter("deeplabv3plus", "resnet18", num_classes=4, seed=0).cuda()
        optimizer = _optimizer(model, CropTrainingPlan(12))
        step = kind(model, optimizer, SegmentationLoss(4), "imagenet")
        generator = torch.Generator().manual_seed(0)
        model.train()
        losses.append([])
        for number in range(12):
            images = torch.randint(256, (4, 64, 64, 3), generator=generator, dtype=torch.uint8)
            labels = (images[..., 0] // 64).long()
            step.set_rates(rate_share(number, 12))
            torch.manual_seed(number)
            losses[-1].append(step(images, labels).item())
        if kind is GraphedStep:
            assert step._graph is not None
    assert np.allclose(*losses, rtol=2e-2)
    assert losses[0][-1] < losses[0][0]


def test_the_examination_of_doctor():
    from guided_diffusion.pipelines.doctor.self_test import self_test

    part = self_test(torch.device("cuda", 0), deadline=time.monotonic() + 600)
    assert not part.failed, part.failed
