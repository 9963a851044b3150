"""Models that make masks or pairs, from training to the folders that other actions read."""

from __future__ import annotations

import json
from pathlib import Path

import command_line
import numpy as np
import pytest
import torch
from cards import check_card
from error_lines import check_error, check_errors
from PIL import Image
from tiny import TINY

from guided_diffusion import load_pipeline
from guided_diffusion.data.lemons import BLEMISH, CLASSES, GANGRENE, MOULD, write_demo_dataset
from guided_diffusion.pipelines.generation import LEAST_PAIRS
from guided_diffusion.runtime.checkpoint import BEST, LAST, load_checkpoint
from guided_diffusion.runtime.files import digest

pytestmark = pytest.mark.slow

PAIRS, SAMPLES = 56, 6
TINY_PAIRS = {**TINY, "batch_size": 14, "max_epochs": 2, "ema_rate": [0.9, 0.99]}
SAMPLED = {"num_samples": SAMPLES, "steps": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def many_lemons(tmp_path_factory) -> Path:
    """A dataset of as many pairs as such a training needs, 24 px."""
    folder = tmp_path_factory.mktemp("data") / "many_lemons"
    write_demo_dataset(folder, num_train=PAIRS, num_test=6, size=24)
    return folder


def train(data: Path, folder: Path, **values) -> Path:
    assert command_line.run("train", **{**TINY_PAIRS, "data_dir": data, "output_dir": folder, **values}) == 0
    return folder


@pytest.fixture(scope="module")
def pair_run(many_lemons, tmp_path_factory) -> Path:
    """A finished run of pairs, with a preview after its second epoch."""
    preview = {"preview_interval": 2, "preview_samples": 5, "preview_images": 4, "preview_steps": 2}
    return train(many_lemons, tmp_path_factory.mktemp("runs") / "pairs", generates="pair", **preview)


@pytest.fixture(scope="module")
def mask_run(many_lemons, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "masks"
    return train(many_lemons, folder, generates="mask", mask_code="onehot", image_channels=1, space_to_depth=2)


@pytest.fixture
def sample(pair_run, tmp_path, isdm):
    """Run `sample`; `sample("name", key=value)` returns the results folder and the printed text."""

    def run(name: str, **values) -> tuple[Path, str]:
        base = {"model_path": pair_run, "results_path": tmp_path / name, **SAMPLED}
        code, shown, errors = isdm("sample", **{**base, **values})
        assert code == 0, errors
        return tmp_path / name, shown

    return run


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def bytes_of(folder: Path) -> dict[str, bytes]:
    names = ("images/*.png", "masks/*.png", "manifest.jsonl", "classes.json")
    files = [path for name in names for path in sorted(folder.glob(name))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- training ----------------------------------------------------------------------------------------------------


def test_the_checkpoint_says_what_is_generated(pair_run, mask_run):
    pair, mask = (load_checkpoint(folder / BEST) for folder in (pair_run, mask_run))
    assert (pair.config["generates"], mask.config["generates"]) == ("pair", "mask")
    assert not pair.config["learn_sigma"]
    assert pair.config["drop_rate"] == 0.1
    code = pair.generation["code"]
    bits = len(code["codes"][0])
    assert (len(code["codes"]), code["image_channels"], code["folding"], code["scale"]) == (5, 3, 1, 0.5)
    assert pair.model["input_blocks.0.0.weight"].shape[1] == len(pair.model["out.2.weight"]) == 3 + bits
    assert len(mask.model["out.2.weight"]) == 4 * 5
    assert sum(pair.generation["rules"]["class_mix"]) == pytest.approx(1)


def test_previews_show_a_row_for_each_class_and_measure_masks(pair_run):
    with Image.open(pair_run / "previews" / "epoch_0002.png") as picture:
        assert picture.width > 6 * 128 * 0.9  # mask and image of the raw weights and of two averages
    metrics = [json.loads(line) for line in (pair_run / "metrics.jsonl").read_text().splitlines()]
    (measured,) = [line for line in metrics if "preview_novelty" in line]
    assert measured["epoch"] == 2
    assert {"preview_obeyed", "preview_unseen", "preview_specks", "preview_near_copies"} < measured.keys()
    assert 0 <= measured["preview_image_copies"] <= 1
    assert "novelty" in (pair_run / "log.txt").read_text()


def test_an_interrupted_training_ends_with_the_same_weights(many_lemons, tmp_path):
    whole = train(many_lemons, tmp_path / "whole", generates="pair", max_epochs=2)
    train(many_lemons, tmp_path / "halves", generates="pair", max_epochs=1)
    halves = train(many_lemons, tmp_path / "halves", generates="pair", max_epochs=2)
    first, second = (load_checkpoint(folder / LAST) for folder in (whole, halves))
    assert all(torch.equal(first.model[name], value) for name, value in second.model.items())
    assert first.generation == second.generation


def test_finetuning_keeps_the_code_and_generates_the_same(pair_run, many_lemons, tmp_path, isdm):
    folder = tmp_path / "finetuned"
    values = {"data_dir": many_lemons, "resume_checkpoint": pair_run, "output_dir": folder, "batch_size": 14}
    code, _, errors = isdm("finetune", **values, max_epochs=1, preview_interval=0, tensorboard=False)
    assert code == 0, errors
    before, after = (load_checkpoint(path / BEST) for path in (pair_run, folder))
    assert after.generation["code"] == before.generation["code"]
    assert after.config["generates"] == "pair"
    assert not torch.equal(after.model["out.2.weight"], before.model["out.2.weight"])


# --- sampling ----------------------------------------------------------------------------------------------------


def test_pairs_have_the_layout_of_samples(sample):
    folder, _ = sample("pairs")
    lines = lines_of(folder)
    assert [line["index"] for line in lines] == list(range(SAMPLES))
    for line in lines:
        made = line["generated"]
        assert made["class"] in CLASSES
        assert 1 <= made["attempts"] <= 5
        assert 0 <= made["margin"] <= 1
        assert made["faults"] or made["cleaned"] <= 0.02
        with Image.open(folder / line["image"]) as image, Image.open(folder / line["mask"]) as mask:
            assert image.size == mask.size == (16, 16)
            assert np.asarray(mask).max() < len(CLASSES)
    assert (folder / "contact_sheet.png").exists()
    check_card(folder, SAMPLES, "one diffusion model made both", "No person drew or checked the masks")


def test_pairs_depend_on_seed_and_index_alone(sample):
    folders = [sample(f"batch{size}", batch_size=size)[0] for size in (1, SAMPLES)]
    fewer, _ = sample("fewer", num_samples=4)
    first, second = map(bytes_of, folders)
    pictures = {name: np.asarray(Image.open(folders[0] / name)).astype(int) for name in first if name.endswith("png")}
    assert len(pictures) == 2 * SAMPLES
    for name, picture in pictures.items():  # rounding may differ by batch: a gray level of the image, no class
        other = np.asarray(Image.open(folders[1] / name)).astype(int)
        assert np.abs(picture - other).max() <= name.startswith("images"), name
    assert first.keys() == second.keys()
    kept = [(line["seed"], line["generated"]["class"]) for line in lines_of(folders[0])]
    assert [(line["seed"], line["generated"]["class"]) for line in lines_of(fewer)] == kept[:4]
    again, _ = sample("again", batch_size=1)
    assert bytes_of(again) == first


def test_a_run_goes_on_where_it_stopped(sample):
    whole, _ = sample("whole")
    folder, _ = sample("stopped")
    lines = (folder / "manifest.jsonl").read_text().splitlines(keepends=True)
    (folder / "manifest.jsonl").write_text("".join(lines[:2]))
    (folder / "images" / "sample_000001.png").unlink()
    _, shown = sample("stopped")
    assert "1 is there already" in shown
    pictures = [name for name in bytes_of(whole) if name.startswith("masks")]
    assert len(pictures) == SAMPLES
    assert all((folder / name).read_bytes() == (whole / name).read_bytes() for name in pictures)


def test_classes_are_asked_for_in_turn(sample):
    folder, _ = sample("asked", class_names=["mould", "gangrene"])
    names = [line["generated"]["class"] for line in lines_of(folder)]
    assert names == ["mould", "gangrene"] * (SAMPLES // 2)


def test_masks_alone_are_read_by_sample(mask_run, trained, lemons, tmp_path, isdm):
    folder, target = tmp_path / "masks", tmp_path / "images"
    code, _, errors = isdm("sample", model_path=mask_run, results_path=folder, **SAMPLED)
    assert code == 0, errors
    assert not (folder / "images").exists()
    lines = lines_of(folder)
    assert all("image" not in line and line["generates"] == "mask" for line in lines)
    for mask_dir in (folder / "masks", folder):  # the second time, all samples are there already
        values = {"model_path": trained, "mask_dir": mask_dir, "results_path": target, "steps": 2}
        code, _, errors = isdm("sample", **values)
        assert code == 0, errors
    made = lines_of(target)
    assert {line["mask_checkpoint"] for line in made} == {digest(mask_run / BEST)}
    assert [Path(line["source_mask"]).name for line in made] == [Path(line["mask"]).name for line in lines]
    for line, source in zip(made, lines, strict=True):
        assert np.array_equal(
            *(np.asarray(Image.open(path)) for path in (target / line["mask"], folder / source["mask"]))
        )


def test_pairs_are_evaluated_filtered_and_checked(sample, many_lemons, tmp_path, isdm):
    folder, _ = sample("judged", split="train", num_samples=24, batch_size=24)
    values = {
        "data_dir": many_lemons, "synthetic_dir": folder, "output_dir": tmp_path / "evaluate", "image_size": 32,
        "architectures": "fpn", "encoder": "tu-lcnet_050", "encoder_weights": "none", "train_steps": 2, "batch_size": 2,
        "inception_weights": "none", "lpips_weights": "none", "ratios": [0.5], "seeds": 1, "filter_below": 0.001,
        "filtered_dir": tmp_path / "filtered",
    }  # fmt: skip
    code, _, errors = isdm("evaluate", **values)
    assert code == 0, errors
    record = json.loads((tmp_path / "evaluate" / "report.json").read_text())
    assert not any("masks that" in line or "not made from masks" in line for line in record["data"]["warnings"])
    for root in (folder, tmp_path / "filtered"):
        values = {"data_dir": root, "dataset_mode": "multi-class", "output_dir": tmp_path / f"check_{root.name}"}
        code, _, errors = isdm("check", **values, image_size=16)
        assert code == 0, errors
    assert lines_of(tmp_path / "filtered" / "train")[0]["generated"]["class"] in CLASSES


# --- from Python, and exported -----------------------------------------------------------------------------------


def test_the_pipeline_takes_classes(pair_run, tmp_path, isdm):
    pipeline = load_pipeline(pair_run, device="cpu")
    asked = ["mould", BLEMISH, None]
    made = pipeline(asked, [1, 2, 3], steps=3, s=1.5)
    assert made.image.shape == (3, 3, 16, 16)
    assert made.label.shape == made.margin.shape == (3, 16, 16)
    alone = pipeline([None], [3], steps=3, s=1.5, batch_size=1)
    assert torch.allclose(alone.image[0], made.image[2], atol=1e-4)
    path = tmp_path / "pairs.safetensors"
    code, _, errors = isdm("export", model_path=pair_run, export_path=path)
    assert code == 0, errors
    exported = load_pipeline(path, device="cpu")(asked, [1, 2, 3], steps=3, s=1.5)
    assert torch.equal(exported.label, made.label)
    assert torch.equal(exported.image, made.image)


def test_guidance_towards_a_class_changes_the_mask(pair_run):
    pipeline = load_pipeline(pair_run, device="cpu")
    raw = [pipeline([kind], [5], steps=3, s=3.0, clean=False).margin for kind in (MOULD, GANGRENE, None)]
    assert not torch.equal(raw[0], raw[1])
    assert not torch.equal(raw[0], raw[2])


# --- refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"data_dir": "."}, "data_dir"),
        ({"mask_dir": "."}, "mask_dir"),
        ({"augment_masks": True}, "augment_masks"),
        ({"unlabeled_to_zero": True}, "unlabeled_to_zero"),
        ({"class_names": ["rot"]}, "class_names"),
        ({"class_names": "background"}, "class_names"),  # no lemon is without one, so nothing was learned of it
        ({"dynamic_threshold": 0.9}, "dynamic_threshold"),
        ({"generates": "image"}, "generates"),
        ({"mask_scale": 1.0}, "mask_scale"),
        ({"inpaint": True}, "inpaint"),
    ],
)
def test_misfits_of_sampling_are_refused(values, key, pair_run, tmp_path, isdm):
    base = {"model_path": pair_run, "results_path": tmp_path / "out", **SAMPLED}
    code, _, errors = isdm("sample", **{**base, **values})
    assert code == 2
    check_error(errors[0], key)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.png"))


def test_a_model_of_pairs_needs_a_number_and_one_of_images_needs_masks(pair_run, trained, tmp_path, isdm):
    target = {"results_path": tmp_path / "out"}
    code, _, errors = isdm("sample", model_path=pair_run, mask_dir=".", **target)
    assert code == 2
    check_errors(errors, "mask_dir", "num_samples")
    code, _, errors = isdm("sample", model_path=trained, num_samples=2, **target)
    assert code == 2
    check_errors(errors, "data_dir")
    code, _, errors = isdm("sample", model_path=trained, mask_dir=".", class_names="mould", **target)
    assert code == 2
    check_errors(errors, "class_names")


def test_other_actions_name_what_the_model_makes(pair_run, many_lemons, tmp_path, isdm):
    values = {"model_path": pair_run, "data_dir": many_lemons, "good_dir": many_lemons, "results_path": tmp_path / "o"}
    code, _, errors = isdm("place", **values)
    assert code == 2
    check_error(errors[0], "model_path", "generates pair")
    code, _, errors = isdm("export", model_path=pair_run, export_path=tmp_path / "bare.pt")
    assert code == 2
    check_error(errors[0], "export_path", ".safetensors")
    assert not (tmp_path / "bare.pt").exists()


@pytest.mark.parametrize("values", [{"generates": "mask"}, {"generates": "pair", "space_to_depth": 2}], ids=str)
@pytest.mark.parametrize("ignored", [np.s_[:, [*range(4), *range(36, 40)]], np.s_[2:18:5, 20]], ids=["sides", "specks"])
def test_ignored_pixels_that_the_middle_of_the_images_does_not_show(values, ignored, tmp_path, isdm):
    """Random crops show them: at the sides, and between the pixels that the middle is reduced to."""
    rng = np.random.default_rng(0)
    for number in range(LEAST_PAIRS):
        label = np.zeros((20, 40), np.uint8)
        row, column = rng.integers(2, 12), rng.integers(12, 22)
        label[row : row + 5, column : column + 5] = 1
        label[ignored] = 255
        for kind, pixels in (("images", rng.integers(0, 256, (20, 40, 3), np.uint8)), ("masks", label)):
            path = tmp_path / "data/train" / kind / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    given = {**TINY_PAIRS, "data_dir": tmp_path / "data", "output_dir": tmp_path / "run", **values}
    code, _, errors = isdm("train", **{**given, "dataset_mode": "binary", "ignore_label": 255, "max_epochs": 1})
    assert code == 0, errors
    codes = load_checkpoint(tmp_path / "run" / LAST).generation["code"]["codes"]
    assert len(codes) == 3  # background, object and no class


def test_few_pairs_are_refused_and_the_way_out_is_named(tmp_path, isdm):
    data = tmp_path / "few"
    write_demo_dataset(data, num_train=40, num_test=1, size=16)
    values = {**TINY_PAIRS, "data_dir": data, "output_dir": tmp_path / "run", "generates": "pair"}
    code, _, errors = isdm("train", **values)
    assert code == 2
    (line,) = errors
    check_error(line, data, "40 pairs", LEAST_PAIRS, "main.py masks")


def test_few_pairs_and_many_passes_are_warned_of(many_lemons, tmp_path, isdm):
    base = {**TINY_PAIRS, "data_dir": many_lemons, "generates": "mask", "lr_anneal_steps": 1}
    code, shown, errors = isdm("train", **{**base, "output_dir": tmp_path / "a", "max_epochs": 3000})
    assert code == 0, errors
    assert f"{PAIRS} pairs are few" in shown
    assert "max_epochs" not in shown  # the annealing ends it long before


def test_a_mask_code_that_needs_more_channels_than_the_network_has(many_lemons, tmp_path, isdm):
    values = {**TINY_PAIRS, "data_dir": many_lemons, "output_dir": tmp_path / "run", "generates": "pair"}
    code, _, errors = isdm("train", **{**values, "space_to_depth": 4, "attention_resolutions": None})
    assert code == 2
    (line,) = errors
    check_error(line, "num_channels", "32", 16 * 7)


def test_options_that_the_checkpoint_fixes_are_not_changed_by_resuming(pair_run, many_lemons, isdm):
    base = {**TINY_PAIRS, "data_dir": many_lemons, "output_dir": pair_run, "max_epochs": 3}
    for values, key in (({"generates": "mask"}, "generates"), ({"generates": "pair", "mask_scale": 1.0}, "mask_scale")):
        code, _, errors = isdm("train", **{**base, **values})
        assert code == 2
        assert any(line.startswith(f"error: {key}") for line in errors), errors
