"""Models of latents, from both phases of their training to the folders that other actions read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from error_lines import check_error
from PIL import Image
from safetensors.torch import save_file
from tiny import TWO_LEVELS

from guided_diffusion import load_pipeline
from guided_diffusion.data.area import AreaReduction
from guided_diffusion.data.lemons import write_demo_dataset
from guided_diffusion.models.autoencoder_kl import AutoencoderKL, KLShape
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint

pytestmark = pytest.mark.slow

PAIRS = 56
TINY_LATENT = {
    **TWO_LEVELS, "batch_size": 14, "max_epochs": 2, "latent": 4, "image_size": 32, "attention_resolutions": [4],
    "autoencoder_channels": 8, "autoencoder_steps": 4, "autoencoder_batch_size": 4, "gate": 0, "allow_thin": True,
}  # fmt: skip
TINY_PRETRAINED = {key: value for key, value in TINY_LATENT.items() if not key.startswith("autoencoder_")}
SAMPLED = {"num_samples": 4, "steps": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def many_lemons(tmp_path_factory) -> Path:
    """A dataset of as many pairs as a training of masks needs, 32 px."""
    folder = tmp_path_factory.mktemp("data") / "many_lemons"
    write_demo_dataset(folder, num_train=PAIRS, num_test=4, size=32)
    return folder


def train(data: Path, folder: Path, **values) -> Path:
    assert command_line.run("train", **{**TINY_LATENT, "data_dir": data, "output_dir": folder, **values}) == 0
    return folder


@pytest.fixture(scope="module")
def image_run(many_lemons, tmp_path_factory) -> Path:
    """A finished run of images, with a preview after its second epoch."""
    preview = {"preview_interval": 2, "preview_images": 2, "preview_steps": 2}
    return train(many_lemons, tmp_path_factory.mktemp("runs") / "images", drop_rate=0.2, **preview)


@pytest.fixture(scope="module")
def pair_run(many_lemons, tmp_path_factory) -> Path:
    preview = {"preview_interval": 2, "preview_samples": 3, "preview_images": 2, "preview_steps": 2}
    return train(many_lemons, tmp_path_factory.mktemp("runs") / "pairs", generates="pair", **preview)


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def pictures_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.glob("*s/*.png"))}


# --- training ----------------------------------------------------------------------------------------------------


def test_one_checkpoint_has_network_autoencoder_and_statistics(image_run, pair_run):
    for folder, channels in ((image_run, 3), (pair_run, 3 + 3)):
        checkpoint = load_checkpoint(folder / BEST)
        assert checkpoint.latent["kind"] == "own"
        shape = checkpoint.latent["shape"]
        assert shape["image_channels"] + shape["label_channels"] >= channels
        assert checkpoint.model["input_blocks.0.0.weight"].shape[1] == len(checkpoint.model["out.2.weight"]) == 4
        assert not checkpoint.config["learn_sigma"]
        assert not checkpoint.first_stage
        for weights in (checkpoint.model, *checkpoint.ema.values()):
            assert weights["first_stage.mean"].shape == weights["first_stage.std"].shape == (4,)
            assert (weights["first_stage.std"] > 0).all()
            assert torch.equal(
                weights["first_stage.autoencoder.encoder.0.weight"],
                checkpoint.model["first_stage.autoencoder.encoder.0.weight"],
            )
        network = [name for name in checkpoint.model if not name.startswith("first_stage.")]
        assert len(load_checkpoint(folder / LAST).optimizer["state"]) == len(network)
        assert (folder / "previews" / "epoch_0002.png").exists()
    assert load_checkpoint(pair_run / BEST).generation["code"]["scale"] == 1


def test_latents_of_the_training_images_are_standardized(image_run, many_lemons):
    pipeline = load_pipeline(image_run, device="cpu")
    images = [np.asarray(Image.open(path)) for path in sorted((many_lemons / "train" / "images").glob("*"))]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    z = pipeline.model.first_stage.encode(x)
    assert z.shape == (PAIRS, 4, 8, 8)
    assert z.mean((0, 2, 3)).abs().max() < 1e-3
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.01


def test_the_gate_stops_the_run_names_the_class_and_lets_it_go_on(pair_run, many_lemons, tmp_path, isdm):
    values = {**TINY_LATENT, "data_dir": many_lemons, "output_dir": tmp_path / "run", "generates": "pair"}
    code, _, errors = isdm("train", **{**values, "gate": 0.95})
    assert code == 2
    (line,) = errors
    check_error(line, tmp_path / "run", "blemish", "autoencoder_steps", "gate")
    stopped = load_checkpoint(tmp_path / "run" / LAST)
    assert stopped.first_stage["step"] == 4
    assert not (tmp_path / "run" / BEST).exists()
    for action, more in (
        ("sample", {"results_path": tmp_path / "s", **SAMPLED}),
        ("export", {"export_path": tmp_path / "a.safetensors"}),
    ):
        code, _, errors = isdm(action, model_path=tmp_path / "run", **more)
        assert code == 2, "there is nothing to sample from yet"
        check_error(errors[0], tmp_path / "run" / LAST, "autoencoder")
    code, _, errors = isdm("train", **{**values, "group_pattern": r"(\d)$"})
    assert code == 2, "other images would measure it, some of which it has seen"
    check_error(errors[0], "group_pattern")
    code, _, errors = isdm("train", **values)
    assert code == 0, errors
    first, second = (load_checkpoint(folder / LAST) for folder in (pair_run, tmp_path / "run"))
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())


def test_pairs_of_one_object_are_held_out_together_and_what_no_pair_measures_is_said(many_lemons, tmp_path):
    """Of one object each tenth pair; then all pairs are of one, so that none is held out."""
    for pattern, held_out in ((r"(\d)$", 5), ("(lemon)", 0)):
        folder = train(many_lemons, tmp_path / str(held_out), max_epochs=1, autoencoder_steps=1, group_pattern=pattern)
        text = (folder / "log.txt").read_text()
        (trained_on,) = [int(number) for number in re.findall(r"(\d+) images to train on", text)]
        (measured,) = [int(number) for number in re.findall(r"(\d+) to measure it", text)]
        assert trained_on + measured == PAIRS
        assert measured in ((5, 6, 11, 12) if held_out else (0,))
        assert ("warning: gate" in text) == (not held_out)


def test_an_interrupted_second_phase_ends_with_the_same_weights(image_run, many_lemons, tmp_path):
    halves = train(many_lemons, tmp_path / "halves", drop_rate=0.2, max_epochs=1)
    train(many_lemons, halves, drop_rate=0.2, max_epochs=2)
    first, second = (load_checkpoint(folder / LAST) for folder in (image_run, halves))
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())
    assert first.latent == second.latent


def test_finetuning_keeps_the_autoencoder(pair_run, many_lemons, tmp_path, isdm):
    folder = tmp_path / "finetuned"
    values = {"data_dir": many_lemons, "resume_checkpoint": pair_run, "output_dir": folder, "batch_size": 14}
    code, shown, errors = isdm("finetune", **values, max_epochs=1, preview_interval=0, tensorboard=False)
    assert code == 0, errors
    assert "step 1/" not in shown, "it trained an autoencoder"
    before, after = (load_checkpoint(path / BEST) for path in (pair_run, folder))
    assert after.latent == before.latent
    stage = [name for name in before.model if name.startswith("first_stage.")]
    assert stage
    assert all(torch.equal(after.model[name], before.model[name]) for name in stage)
    assert not torch.equal(after.model["out.2.weight"], before.model["out.2.weight"])


def test_a_pretrained_autoencoder_takes_the_place_of_a_trained_one(many_lemons, tmp_path, isdm):
    torch.manual_seed(0)
    path = tmp_path / "vae.safetensors"
    save_file(AutoencoderKL(KLShape(3, 2, (32, 32, 32), 1, True, True)).state_dict(), path)
    values = {**TINY_PRETRAINED, "data_dir": many_lemons, "output_dir": (folder := tmp_path / "run")}
    assert command_line.run("train", **{**values, "autoencoder": str(path), "max_epochs": 1}) == 0
    checkpoint = load_checkpoint(folder / BEST)
    assert checkpoint.latent["kind"] == "kl"
    assert len(checkpoint.model["out.2.weight"]) == 2
    path.unlink()  # the checkpoint has it
    made = load_pipeline(folder, device="cpu")(np.zeros((1, 32, 32), np.int64), [0], steps=2)
    assert made.shape == (1, 3, 32, 32)


# --- sampling ----------------------------------------------------------------------------------------------------


def test_images_follow_given_masks_of_their_own_size(image_run, many_lemons, tmp_path, isdm):
    folders = []
    for size in (1, 4):
        folder = tmp_path / f"batch{size}"
        values = {"model_path": image_run, "data_dir": many_lemons, "results_path": folder, "steps": 3, "s": 1.5}
        code, _, errors = isdm("sample", **values, batch_size=size)
        assert code == 0, errors
        folders.append(folder)
    lines = lines_of(folders[0])
    assert len(lines) == 4
    for line in lines:
        with Image.open(folders[0] / line["image"]) as image, Image.open(folders[0] / line["mask"]) as mask:
            assert image.size == mask.size == (32, 32)
            assert np.array_equal(np.asarray(mask), np.asarray(Image.open(line["source_mask"])))
        images = [np.asarray(Image.open(folder / line["image"])).astype(int) for folder in folders]
        assert np.abs(images[0] - images[1]).max() <= 1  # rounding may differ by batch


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++2m", "dpm++2m-sde"])
def test_every_sampler_and_guidance_work_on_latents(image_run, sampler):
    pipeline = load_pipeline(image_run, device="cpu")
    label = np.zeros((2, 32, 32), np.int64)
    label[:, 8:24, 8:24] = 1
    plain, guided = (pipeline(label, [1, 2], steps=3, sampler=sampler, s=s) for s in (1.0, 3.0))
    assert plain.shape == (2, 3, 32, 32)
    assert plain.abs().max() <= 1
    assert not torch.equal(plain, guided)


def test_the_network_sees_maps_reduced_by_area(image_run):
    pipeline = load_pipeline(image_run, device="cpu")
    label = torch.zeros(1, 32, 32, dtype=torch.uint8)
    label[0, 4:8, 5] = 2  # a quarter of its cell
    label[0, 12:16, 4:6] = 3  # half of it
    condition = pipeline.condition_of_network(pipeline.condition_of(label))
    assert condition.size == (8, 8)
    assert condition.label[0, 3, 1] == 3
    assert condition.label.sum() == 3
    assert torch.equal(condition.label, AreaReduction(4, 0)(pipeline.condition_of(label)).label)


def test_label_diffusion_and_edges_work_on_reduced_maps(many_lemons, tmp_path, isdm):
    folder = train(many_lemons, tmp_path / "run", cond_diffuse=True, no_instance=False, max_epochs=1)
    pipeline = load_pipeline(folder, device="cpu")
    label = np.zeros((1, 32, 32), np.int64)
    label[0, 10:20, 10:20] = 1
    condition = pipeline.condition_of_network(pipeline.condition_of(label))
    assert condition.edge.shape == (1, 8, 8)
    assert condition.edge[0, 2, 2]
    assert not condition.edge[0, 3, 3]  # inside of the square
    assert pipeline(label, [1], steps=2, s=1.0).shape == (1, 3, 32, 32)


def test_images_alone_come_from_latents(many_lemons, tmp_path, isdm):
    values = {key: value for key, value in TINY_LATENT.items() if key not in ("dataset_mode", "allow_thin")}
    values |= {"image_dir": many_lemons / "train" / "images", "output_dir": tmp_path / "run", "max_epochs": 1}
    code, _, errors = isdm("train", **values)
    assert code == 0, errors
    folder = tmp_path / "samples"
    code, _, errors = isdm("sample", model_path=tmp_path / "run", results_path=folder, **SAMPLED)
    assert code == 0, errors
    assert len(pictures_of(folder)) == 4


def test_pairs_come_from_latents(pair_run, tmp_path, isdm):
    folder = tmp_path / "pairs"
    code, _, errors = isdm("sample", model_path=pair_run, results_path=folder, **SAMPLED)
    assert code == 0, errors
    lines = lines_of(folder)
    assert len(lines) == 4
    for line in lines:
        with Image.open(folder / line["image"]) as image, Image.open(folder / line["mask"]) as mask:
            assert image.size == mask.size == (32, 32)
            assert np.asarray(mask).max() < 5
    again = tmp_path / "again"
    assert isdm("sample", model_path=pair_run, results_path=again, **SAMPLED)[0] == 0
    assert pictures_of(again) == pictures_of(folder)


def test_exported_weights_sample_the_same(image_run, pair_run, tmp_path, isdm):
    for run in (image_run, pair_run):
        code, _, errors = isdm("export", model_path=run, export_path=tmp_path / "bare.pt")
        assert code == 2
        check_error(errors[0], "export_path", ".safetensors")
        path = tmp_path / f"{run.name}.safetensors"
        assert isdm("export", model_path=run, export_path=path)[0] == 0
    label = np.zeros((1, 32, 32), np.int64)
    first, second = (load_pipeline(each, device="cpu") for each in (image_run, tmp_path / "images.safetensors"))
    assert torch.equal(first(label, [5], steps=3), second(label, [5], steps=3))
    first, second = (load_pipeline(each, device="cpu") for each in (pair_run, tmp_path / "pairs.safetensors"))
    made = [pipeline(["mould"], [5], steps=3) for pipeline in (first, second)]
    assert torch.equal(made[0].image, made[1].image)
    assert torch.equal(made[0].label, made[1].label)
    assert made[0].margin.shape == (1, 32, 32)
    assert 0 <= made[0].margin.min() <= made[0].margin.max() <= 1


def test_masks_alone_come_from_latents(many_lemons, tmp_path, isdm):
    folder = train(many_lemons, tmp_path / "run", generates="mask", latent=8, latent_channels=3, max_epochs=1)
    checkpoint = load_checkpoint(folder / BEST)
    assert len(checkpoint.model["out.2.weight"]) == 3
    assert checkpoint.latent["gate"]["psnr"] is None
    code, _, errors = isdm("sample", model_path=folder, results_path=tmp_path / "masks", **SAMPLED)
    assert code == 0, errors
    assert not (tmp_path / "masks" / "images").exists()
    assert len(list((tmp_path / "masks" / "masks").glob("*.png"))) == 4


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"image_size": 30}, "image_size"),
        ({"image_size": 36, "latent": 8}, "image_size"),
        ({"learn_sigma": True}, "learn_sigma"),
        ({"inpaint": True}, "inpaint"),
        ({"augment": 0.1}, "augment"),
        ({"resize": "window"}, "resize"),
        ({"generates": "pair", "mask_scale": 0.25}, "mask_scale"),
        ({"generates": "pair", "space_to_depth": 2}, "space_to_depth"),
        ({"generates": "pair", "mask_weight": 2.0}, "mask_weight"),
        ({"generates": "pair", "autoencoder": "vae.safetensors"}, "autoencoder"),
        ({"autoencoder_crop": 18}, "autoencoder_crop"),
        ({"autoencoder_crop": 64}, "autoencoder_crop"),
        ({"latent": None, "autoencoder_channels": 8, "gate": 0.95, "autoencoder_steps": 20000}, "autoencoder_channels"),
    ],
)
def test_misfits_of_training_are_refused(values, key, lemons, tmp_path, isdm):
    base = {**TINY_LATENT, "data_dir": lemons, "output_dir": tmp_path / "run"}
    code, _, errors = isdm("train", **{**base, **values})
    assert code == 2
    assert sum(line.startswith(f"error: {key}") for line in errors) == 1, errors
    if values.get("latent", 4) is not None:
        assert len(errors) == 1
    assert not (tmp_path / "run" / LAST).exists()


def test_an_autoencoder_of_other_channels_is_refused(many_lemons, tmp_path, isdm):
    path = tmp_path / "vae.safetensors"
    save_file(AutoencoderKL(KLShape(1, 4, (32, 32, 32), 1, True, False)).state_dict(), path)
    values = {**TINY_PRETRAINED, "data_dir": many_lemons, "output_dir": tmp_path / "run"}
    code, _, errors = isdm("train", **values, autoencoder=str(path))
    assert code == 2
    (line,) = errors
    check_error(line, path, "image_channels", 1, 3)


def test_the_gate_of_a_pretrained_autoencoder_names_a_way_out(many_lemons, tmp_path, isdm):
    path = tmp_path / "vae.safetensors"
    save_file(AutoencoderKL(KLShape(3, 4, (32, 32, 32), 1, True, False)).state_dict(), path)
    values = {**TINY_PRETRAINED, "data_dir": many_lemons, "output_dir": tmp_path / "run", "gate": 0.95}
    code, _, errors = isdm("train", **values, autoencoder=str(path))
    assert code == 2
    (line,) = errors
    check_error(line, tmp_path / "run", "blemish", "image_size", "gate")
    assert "latent 4" not in line, "it is 4"


def test_thin_classes_are_refused_before_training_and_by_check(many_lemons, tmp_path, isdm):
    values = {**TINY_LATENT, "data_dir": many_lemons, "output_dir": tmp_path / "run", "allow_thin": False}
    code, _, errors = isdm("train", **values)
    assert code == 2
    (line,) = errors
    check_error(line, many_lemons, "blemish", "px", "latent")
    assert not (tmp_path / "run" / LAST).exists()
    checked = {"data_dir": many_lemons, "dataset_mode": "multi-class", "image_size": 32, "preview_images": 0}
    code, shown, _ = isdm("check", **checked, output_dir=tmp_path / "check", latent=4)
    assert code == 2
    assert "thickness" in shown
    assert "blemish" in shown
    code, shown, _ = isdm("check", **checked, output_dir=tmp_path / "allowed", latent=4, allow_thin=True)
    assert code == 0
    assert "warning: with latent 4" in shown
    code, shown, _ = isdm("check", **checked, output_dir=tmp_path / "plain")
    assert code == 0
    assert "thickness" not in shown


def test_other_keys_than_those_of_the_training_are_refused(image_run, many_lemons, tmp_path, isdm):
    sampled = {"model_path": image_run, "data_dir": many_lemons, "results_path": tmp_path / "out", "steps": 3}
    for key, value in (("latent", 8), ("latent_channels", 3), ("dynamic_threshold", 0.9)):
        code, _, errors = isdm("sample", **sampled, **{key: value})
        assert code == 2
        check_error(errors[0], key)
    placed = {"model_path": image_run, "data_dir": many_lemons, "good_dir": many_lemons, "results_path": tmp_path / "o"}
    code, _, errors = isdm("place", **placed)
    assert code == 2
    check_error(errors[0], "model_path", "latent")
