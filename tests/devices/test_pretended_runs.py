"""Training, sampling and evaluating on a pretended GPU: nothing is on the wrong device, and the results are a CPU's."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pretended_cuda import pretended_cuda
from tiny import ON_GPU

from guided_diffusion import load_pipeline
from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint
from guided_diffusion.training.trainer import Trainer

pytestmark = pytest.mark.slow

# Each operation takes its time on a pretended device: one network has two levels, all have attention in the middle.
FLAT = {"channel_mult": [1], "attention_resolutions": []}
TRAININGS = {
    "fp32": {"preview_interval": 2, "preview_steps": 2, "preview_images": 2},
    "bf16": {**FLAT, "precision": "bf16", "schedule_sampler": "loss-second-moment", "microbatch": 2},
    "holes": {**FLAT, "resize": "window", "inpaint": True, "augment": 0.4, "preview_interval": 1, "preview_steps": 2},
    "latents": {
        **FLAT, "latent": 4, "image_size": 32, "autoencoder_channels": 8, "autoencoder_steps": 2,
        "autoencoder_crop": 16, "gate": 0, "allow_thin": True, "preview_interval": 1, "preview_steps": 2,
    },
    "label diffusion": {**FLAT, "cond_diffuse": True, "cond_opt": "discrete_zero_classwise", "drop_rate": 0.0},
}  # fmt: skip
SAMPLINGS = {
    "ddpm": {"sampler": "ddpm", "steps": 4, "guidance_interval": [0.1, 2.0]},
    "dpm++2m-sde": {"sampler": "dpm++2m-sde", "steps": 4, "dynamic_threshold": 0.9, "precision": "bf16"},
}


@pytest.fixture
def reads_of_steps(monkeypatch):
    """Return a function from a pretended device to what each training step reads back from it."""

    def watch(gpu) -> list[list[str]]:
        seen, step = [], Trainer.train_step

        def watched(trainer, batch):
            gpu.clear()
            step(trainer, batch)
            seen.append(list(gpu.read_backs))

        monkeypatch.setattr(Trainer, "train_step", watched)
        return seen

    return watch


def history(folder: Path) -> list[list[float]]:
    """Return loss and gradient norm of each epoch; what is on disk must be readable on a machine without a GPU."""
    checkpoint = load_checkpoint(folder / LAST)
    tensors = [
        *checkpoint.model.values(),
        *(v for state in checkpoint.optimizer["state"].values() for v in state.values()),
    ]
    assert {type(tensor) for tensor in tensors} == {torch.Tensor}
    return [[line["loss"], line["grad_norm"]] for line in checkpoint.progress["history"]]


@pytest.mark.parametrize("name", TRAININGS)
def test_trainings(name, lemons, run, reads_of_steps, tmp_path):
    """The second epoch is that of a resumed run, so that the optimizer's state goes to the disk and back."""
    common = {**ON_GPU, "batch_size": 5, **TRAININGS[name], "data_dir": lemons}  # two steps, a short one last
    epochs = 2 if name == "fp32" else 1
    run("train", **common | {"output_dir": tmp_path / "cpu", "device": "cpu", "max_epochs": epochs})
    common |= {"output_dir": tmp_path / "gpu", "device": "cuda"}
    with pretended_cuda() as gpu:
        steps = reads_of_steps(gpu)
        for epoch in range(epochs):
            run("train", **common | {"max_epochs": epoch + 1})
        assert gpu.pinned > 0
    assert [len(reads) for reads in steps] == [1] * (2 * epochs), steps
    assert np.allclose(history(tmp_path / "gpu"), history(tmp_path / "cpu"), rtol=1e-2 if name == "bf16" else 1e-4)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_samplings(name, trained, lemons, run, tmp_path):
    common = {"model_path": trained, "data_dir": lemons, "s": 1.5, "num_samples": 4, "batch_size": 2, **SAMPLINGS[name]}
    run("sample", **common, results_path=tmp_path / "cpu", device="cpu")
    with pretended_cuda() as gpu:
        run("sample", **common, results_path=tmp_path / "gpu", device="cuda", compile=False)
        assert len(gpu.read_backs) == 2, Counter(gpu.read_backs)
    for path in sorted((tmp_path / "cpu").rglob("lemon*.png")):
        other = tmp_path / "gpu" / path.relative_to(tmp_path / "cpu")
        images = [np.asarray(Image.open(file)).astype(int) for file in (path, other)]
        assert np.abs(images[0] - images[1]).max() <= (8 if name == "dpm++2m-sde" else 1)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++2m", "dpm++2m-sde"])
def test_no_step_of_sampling_reads_anything_back(sampler, trained):
    maps = torch.randint(5, (2, 16, 16), generator=torch.Generator().manual_seed(0))
    options = {"s": 2.0, "steps": 4, "sampler": sampler, "guidance_interval": [0.1, 2.0], "dynamic_threshold": 0.9}
    expected = load_pipeline(trained, device="cpu")(maps, [1, 2], **options)
    with pretended_cuda() as gpu:
        pipeline = load_pipeline(trained, device="cuda", compile=False)
        gpu.clear()
        steps: list[int] = []
        images = pipeline(maps, [1, 2], progress=lambda done, total: steps.append(len(gpu.read_backs)), **options)
        assert steps == [0] * 4, gpu.read_backs
        assert len(gpu.read_backs) == 1  # the images
    assert torch.allclose(images, expected, atol=1e-3)


def test_an_evaluation_with_a_given_segmenter(trained, lemons, segmenter, run, tmp_path):
    (tmp_path / "labels.json").write_text("[0, 1, 2, 3, 4]")
    samples = {"model_path": trained, "data_dir": lemons, "data_split": "train", "split": "train", "steps": 1}
    run("sample", **samples, num_samples=16, batch_size=16, results_path=tmp_path / "samples")
    common = {"data_dir": lemons, "synthetic_dir": tmp_path / "samples", "image_size": 32, "report_images": 1}
    common |= {"architectures": "fpn", "encoder": "resnet18", "encoder_weights": "none", "ratios": [1], "seeds": 1}
    common |= {"synthetic_only": False, "baselines": False, "train_steps": 1, "batch_size": 2}
    common |= {"inception_weights": "none", "lpips_weights": "none"}
    common |= {
        "segmenter": segmenter,
        "segmenter_model": "smp/fpn/resnet18",
        "segmenter_labels": tmp_path / "labels.json",
    }
    run("evaluate", **common, output_dir=tmp_path / "cpu", device="cpu")
    with pretended_cuda():
        run("evaluate", **common, output_dir=tmp_path / "gpu", device="cuda")
    records = [json.loads((tmp_path / place / "report.json").read_text()) for place in ("cpu", "gpu")]
    for key in ("agreement", "memorisation", "study"):
        assert numbers(records[0][key]) == pytest.approx(numbers(records[1][key]), rel=1e-4), key


def numbers(record: object) -> list[float]:
    """Return all numbers in a record, in order."""
    if isinstance(record, dict | list):
        return [
            found for value in (record.values() if isinstance(record, dict) else record) for found in numbers(value)
        ]
    return [float(record)] if isinstance(record, int | float) else []
