"""Checkpoints that do not fit: one line that names file or key, what was found and what to do; exit code 2."""

from __future__ import annotations

import pytest
import torch
from error_lines import check_error
from PIL import Image

from guided_diffusion.runtime.checkpoint import BEST, load_checkpoint, save_weights

# Each returns options of `sample`, the key or path that the line is about, and what it shows beside that.


def no_such_file(trained, tmp_path):
    path = tmp_path / "none.pt"
    return {"model_path": path}, path


def folder_without_a_run(trained, tmp_path):
    return {"model_path": tmp_path}, tmp_path, "last.pt", "best.pt"


def damaged_file(trained, tmp_path):
    path = tmp_path / "half.pt"
    path.write_bytes((trained / BEST).read_bytes()[:5000])
    return {"model_path": path}, path


def text_file(trained, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("hello")
    return {"model_path": path}, path


def other_network(trained, tmp_path):
    path = tmp_path / "resnet.pt"
    torch.save({"conv.weight": torch.zeros(3, 3)}, path)
    options = {"image_size": 16, "dataset_mode": "multi-class", "num_head_channels": 32}
    return {"model_path": path, **options}, path, "time_embed.0.weight"


def bare_weights_alone(trained, tmp_path):
    path = tmp_path / "bare.pt"
    checkpoint = load_checkpoint(trained / BEST)
    save_weights(path, checkpoint.model, checkpoint)
    return {"model_path": path}, "image_size", path


def optimizer_beside_weights(trained, tmp_path):
    path = tmp_path / "wrapped.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "step": 3}, path)
    return {"model_path": path}, path, "'state_dict'"


def other_architecture(trained, tmp_path):
    return {"model_path": trained, "num_channels": 64}, "num_channels", trained / BEST, "64", "32"


def other_image_size(trained, tmp_path):
    return {"model_path": trained, "image_size": 32}, "image_size", trained / BEST, "[32, 32]", "[16, 16]"


def unknown_weights(trained, tmp_path):
    return {"model_path": trained, "weights": "0.5"}, trained / BEST, "weights", "'0.5'", "raw, ema, 0.99"


def no_such_device(trained, tmp_path):
    return {"model_path": trained, "device": "gpu"}, "device", "'gpu'", "cuda"


def too_many_steps(trained, tmp_path):
    return {"model_path": trained, "steps": 51}, "steps", "51", "50"


def no_masks(trained, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return {"model_path": trained, "data_dir": "", "mask_dir": folder}, folder, "*.png"


def foreign_results(trained, tmp_path):
    path = tmp_path / "out" / "images" / "mine.png"
    path.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(path)
    return {"model_path": trained}, path, "results_path"


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
    options, subject, *shown = mistake(trained, tmp_path)
    values = {"data_dir": lemons, "results_path": tmp_path / "out", "steps": 2, **options}
    code, _, errors = isdm("sample", **values)
    assert code == 2
    check_error(errors[0], subject, *shown)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_weights_that_are_not_finite_are_not_sampled_from(trained, lemons, tmp_path, isdm):
    content = torch.load(trained / BEST, weights_only=True)
    content["ema"]["0.99"]["out.2.bias"][0] = float("nan")
    torch.save(content, tmp_path / "nan.pt")
    values = {"model_path": str(tmp_path / "nan.pt"), "data_dir": str(lemons), "results_path": str(tmp_path / "out")}
    code, _, errors = isdm("sample", **values, steps=2)
    assert code == 2
    check_error(errors[0], tmp_path / "nan.pt", "out.2.bias")
