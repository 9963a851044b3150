"""Checkpoints that do not fit: one line that names file or key, what was found and what to do; exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.runtime.checkpoint import BEST, load_checkpoint, save_weights

Break = Callable[[Path], dict]


def gray(path: Path, array) -> None:
    Image.fromarray(np.asarray(array)).save(path)


def first(data: Path, kind: str) -> Path:
    return data / "train" / kind / "lemon_0000.png"


def no_such_file(trained, tmp_path):
    return {"model_path": str(tmp_path / "none.pt")}, "none.pt: no such checkpoint file"


def folder_without_a_run(trained, tmp_path):
    return {"model_path": str(tmp_path)}, "no last.pt or best.pt"


def damaged_file(trained, tmp_path):
    path = tmp_path / "half.pt"
    path.write_bytes((trained / BEST).read_bytes()[:5000])
    return {"model_path": str(path)}, "half.pt: not a readable checkpoint"


def text_file(trained, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("hello")
    return {"model_path": str(path)}, "weights.pt: not a readable checkpoint"


def other_network(trained, tmp_path):
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "resnet.pt")
    options = {"image_size": 16, "dataset_mode": "multi-class", "num_head_channels": 32}
    return {"model_path": str(tmp_path / "resnet.pt"), **options}, "resnet.pt: "


def bare_weights_alone(trained, tmp_path):
    path = tmp_path / "bare.pt"
    checkpoint = load_checkpoint(trained / BEST)
    save_weights(path, checkpoint.model, checkpoint)
    return {"model_path": str(path)}, "image_size cannot be seen in the bare weights"


def optimizer_beside_weights(trained, tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "step": 3}, tmp_path / "wrapped.pt")
    return {"model_path": str(tmp_path / "wrapped.pt")}, "neither a checkpoint of isdm nor bare weights"


def other_architecture(trained, tmp_path):
    return {"model_path": str(trained), "num_channels": 64}, "num_channels differs from"


def other_image_size(trained, tmp_path):
    return {"model_path": str(trained), "image_size": 32}, "image_size differs from"


def unknown_weights(trained, tmp_path):
    return {"model_path": str(trained), "weights": "0.5"}, "weights is '0.5', but this file has raw, ema, 0.9, 0.99"


def no_such_device(trained, tmp_path):
    return {"model_path": str(trained), "device": "gpu"}, "device is 'gpu': use auto, cpu, cuda"


def too_many_steps(trained, tmp_path):
    return {"model_path": str(trained), "steps": 51}, "steps is 51, but the model's noise process has 50"


def no_masks(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    return {"model_path": str(trained), "data_dir": "", "mask_dir": str(tmp_path / "empty")}, "empty"


def foreign_results(trained, tmp_path):
    (tmp_path / "out" / "images").mkdir(parents=True)
    gray(tmp_path / "out" / "images" / "mine.png", np.zeros((4, 4), np.uint8))
    return {"model_path": str(trained)}, "is in no manifest, so it was not sampled"


SAMPLES = [
    no_such_file,
    folder_without_a_run,
    damaged_file,
    text_file,
    other_network,
    bare_weights_alone,
    optimizer_beside_weights,
    other_architecture,
    other_image_size,
    unknown_weights,
    no_such_device,
    too_many_steps,
    no_masks,
    foreign_results,
]


@pytest.mark.parametrize("mistake", SAMPLES, ids=lambda mistake: mistake.__name__)
def test_wrong_checkpoints_and_sampling_options(mistake, trained, lemons, tmp_path, isdm):
    options, said = mistake(trained, tmp_path)
    values = {"data_dir": str(lemons), "results_path": str(tmp_path / "out"), "steps": 2, **options}
    code, _, errors = isdm("sample", **values)
    assert code == 2
    assert any(said in line for line in errors), errors
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_weights_that_are_not_finite_are_not_sampled_from(trained, lemons, tmp_path, isdm):
    content = torch.load(trained / BEST, weights_only=True)
    content["ema"]["0.99"]["out.2.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    values = {"model_path": str(tmp_path / "nan.pt"), "data_dir": str(lemons), "results_path": str(tmp_path / "out")}
    code, _, errors = isdm("sample", **values, steps=2)
    assert code == 2
    assert "out.2.bias has values that are not finite" in errors[0]
