"""Windows of large images from `check` to `evaluate`, and the mistakes that are refused with one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from large_images import CLASSES, SIZE, write_large_images
from PIL import Image
from tiny import TWO_LEVELS

from guided_diffusion.data.area import reduce_label
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.pipelines.evaluation.data import View
from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint

WINDOWS = {"resize": "window", "scale": 0.5, "image_size": 32, "image_channels": 1, "num_classes": CLASSES}
MEASURED = {"study": False, "agreement": False, "inception_weights": "none", "lpips_weights": "none"}


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("large")
    write_large_images(root)
    return root


@pytest.fixture
def copied(large, tmp_path) -> Path:
    return Path(shutil.copytree(large, tmp_path / "copy"))


def training(root: Path, output: Path, **options) -> dict:
    values = {**TWO_LEVELS, **WINDOWS, "data_dir": root / "data", "good_dir": root / "good", "output_dir": output}
    return {**values, "attention_resolutions": [16], "max_epochs": 1, **options}


def checking(root: Path, output: Path, **options) -> dict:
    values = {**WINDOWS, "dataset_mode": "multi-class", "data_dir": root / "data", "good_dir": root / "good"}
    return {**values, "output_dir": output, "preview_images": 4, **options}


def reduced(path: Path) -> np.ndarray:
    """Return a mask at half size by the area rule."""
    label = torch.from_numpy(np.array(Image.open(path)))
    size = (label.shape[0] // 2, label.shape[1] // 2)
    return reduce_label(label, size, (0, size[0]), (0, size[1]), background=0, null_id=CLASSES).numpy()


def is_part(window: np.ndarray, whole: np.ndarray) -> bool:
    views = np.lib.stride_tricks.sliding_window_view(whole, window.shape)
    return bool((views == window).all(axis=(2, 3)).any())


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for kind in ("images", "masks") for path in sorted((folder / kind).iterdir())}


@pytest.mark.slow
def test_train_sample_and_evaluate_with_windows(large, tmp_path, isdm):
    run, options = tmp_path / "run", training(large, tmp_path / "run", max_epochs=2, preview_interval=2)
    code, shown, errors = isdm("train", **options, preview_steps=2, preview_images=2)
    assert (code, errors) == (0, [])
    assert "6 pairs and 3 good images" in shown
    assert [path.name for path in (run / "previews").iterdir()] == ["epoch_0002.png"]

    sampled = {"model_path": run, "data_dir": large / "data", "num_samples": 7, "steps": 2}
    for name, batch in (("samples", 5), ("again", 1)):
        assert isdm("sample", **sampled, results_path=tmp_path / name, batch_size=batch)[0] == 0
    assert files(tmp_path / "samples") == files(tmp_path / "again")
    records = [json.loads(line) for line in (tmp_path / "samples/manifest.jsonl").read_text().splitlines()]
    assert len(records) == 7
    seen = set()
    for record in records:
        image, mask = (np.array(Image.open(tmp_path / "samples" / record[kind])) for kind in ("image", "mask"))
        assert image.shape == mask.shape == (32, 32)
        source = reduced(large / "data/test/masks" / f"{Path(record['mask']).stem.partition('_rep')[0]}.png")
        assert is_part(mask, source)
        seen |= set(np.unique(mask).tolist())
    assert seen == {0, 1, 2}

    evaluated = {"data_dir": large / "data", "synthetic_dir": tmp_path / "samples", **MEASURED}
    code, _, errors = isdm("evaluate", **evaluated, output_dir=tmp_path / "report")
    assert (code, errors) == (0, [])
    record = json.loads((tmp_path / "report/report.json").read_text())
    assert record["data"]["image_size"] == [32, 32]
    code, _, errors = isdm("evaluate", **evaluated, scale=0.25, output_dir=tmp_path / "other")
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith("error: scale: ")


@pytest.mark.slow
def test_good_images_belong_to_the_data_of_a_training(copied, tmp_path, isdm):
    options = training(copied, tmp_path / "run")
    assert isdm("train", **options)[0] == 0
    assert len(load_checkpoint(tmp_path / "run" / LAST).fingerprint["stems"].split("\0")) == 9
    picture = Image.open(copied / "good/good_0.png").rotate(180)
    picture.save(copied / "good/good_0.png")
    more = {**options, "max_epochs": 2}
    code, _, errors = isdm("train", **more)
    assert (code, len(errors)) == (2, 1)
    assert "good_0" in errors[0]
    assert "allow_changed_data" in errors[0]
    (copied / "good").rename(copied / "moved")
    code, shown, errors = isdm("train", **{**more, "good_dir": copied / "moved"}, allow_changed_data=True)
    assert (code, errors) == (0, [])
    assert any("good_0" in line for line in shown.splitlines() if line.startswith("warning: "))
    # A folder that moved is no other data.
    (copied / "moved").rename(copied / "good")
    code, shown, errors = isdm("train", **{**options, "max_epochs": 3})
    assert (code, errors) == (0, [])
    assert "allow_changed_data" not in shown


def test_check_says_what_windows_will_show(large, tmp_path, isdm):
    code, _, errors = isdm("check", **checking(large, tmp_path / "check"))
    assert (code, errors) == (0, [])
    text = (tmp_path / "check/report.txt").read_text()
    assert "3 good images" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.startswith("class ")}
    assert "class" in rows
    spots, cracks = (line.split() for line in text.splitlines() if line.startswith(("class 1 ", "class 2 ")))
    windows = 9 * 0.8 / 2
    assert spots[2:] == ["6", f"{windows:.1f}", f"{windows / 6:.3g}", "0.22", "0.22", "0"]
    assert cracks[2:] == ["6", f"{windows:.1f}", f"{windows / 6:.3g}", "0.78", "0.78", "0"]
    assert (tmp_path / "check/train.png").exists()
    assert (tmp_path / "check/test.png").exists()
    assert "windows" not in text[text.index("test: ") :]


def test_check_counts_good_images_of_the_dataset_itself(copied, tmp_path, isdm):
    (copied / "data/train/good").mkdir()
    (copied / "good").rename(copied / "data/train/good/images")
    code, shown, _ = isdm("check", **checking(copied, tmp_path / "check", good_dir=""))
    assert code == 0
    assert "3 good images" in shown


def spoil(root: Path, what: str) -> tuple[dict, str]:
    """Make a mistake; return options, and how the error line begins."""
    data, good = root / "data", root / "good"
    if what == "windows larger than all images":
        return {"image_size": 256, "scale": 0.25, "attention_resolutions": [128]}, "image_size: "
    if what == "no folder of good images":
        return {"good_dir": root / "none"}, f"{root / 'none'}: "
    if what == "no good images":
        (root / "empty").mkdir()
        return {"good_dir": root / "empty"}, f"{root / 'empty'}: "
    if what == "a good image that is damaged":
        (good / "good_1.png").write_bytes((good / "good_1.png").read_bytes()[:2000])
        return {}, f"{good / 'good_1.png'}: "
    if what == "a good image with a mask that says otherwise":
        shutil.copy(data / "train/images/train_2.png", good / "copy.png")
        return {}, f"{good / 'copy.png'}: "
    if what == "a mask of a good image with unknown values":
        for kind in ("images", "masks"):
            (good / kind).mkdir()
        (good / "good_0.png").rename(good / "images/a.png")
        Image.fromarray(np.full(SIZE, 77, np.uint8)).save(good / "masks/a.png")
        return {}, f"{good / 'masks/a.png'}: "
    if what == "a mask of a good image with another size":
        for kind in ("images", "masks"):
            (good / kind).mkdir()
        (good / "good_0.png").rename(good / "images/a.png")
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(good / "masks/a.png")
        return {}, f"{good / 'images/a.png'}: "
    raise AssertionError(what)


MISTAKES = (
    "windows larger than all images",
    "no folder of good images",
    "no good images",
    "a good image that is damaged",
    "a good image with a mask that says otherwise",
    "a mask of a good image with unknown values",
    "a mask of a good image with another size",
)


@pytest.mark.slow
@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_one_line_in_train_and_check(what, copied, tmp_path, isdm):
    options, begin = spoil(copied, what)
    code, _, errors = isdm("train", **{**training(copied, tmp_path / "run"), **options})
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith(f"error: {begin}")
    assert not (tmp_path / "run" / LAST).exists()
    options.pop("attention_resolutions", None)
    code, shown, errors = isdm("check", **{**checking(copied, tmp_path / "check"), **options})
    assert (code, len(errors)) == (2, 1)
    assert begin in shown or errors[0].startswith(f"error: {begin}")


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("window_focus", {"window_focus": 1.1}),
        ("window_focus", {"window_focus": -0.1}),
        ("hole_shares", {"hole_shares": [1, 1]}),
        ("hole_shares", {"hole_shares": [0, 0, 0]}),
        ("hole_shares", {"hole_shares": [1, -1, 1]}),
        ("scale", {"scale": 0}),
        ("scale", {"scale": 1.5}),
        ("rotate90", {"rotate90": True, "image_size": [32, 64], "attention_resolutions": [16]}),
    ],
)
def test_options_of_windows_that_cannot_be(key, options, large, tmp_path, isdm):
    code, _, errors = isdm("train", **{**training(large, tmp_path / "run"), **options})
    assert (code, len(errors)) == (2, 1)
    assert errors[0].startswith(f"error: {key}")


def test_images_of_which_some_are_smaller_are_padded(copied, tmp_path, isdm):
    small = Image.open(copied / "good/good_0.png").crop((0, 0, 30, 40))
    small.save(copied / "good/good_0.png")
    code, shown, errors = isdm("check", **checking(copied, tmp_path / "second"))
    assert (code, errors) == (0, [])
    assert "1 of 9 images are smaller than a window" in shown


@pytest.mark.slow
def test_good_images_in_colors_beside_gray_ones_are_warned_of(copied, tmp_path, isdm):
    gray = np.array(Image.open(copied / "good/good_1.png"))
    Image.fromarray(np.stack([gray, gray // 2, gray // 3], -1)).save(copied / "good/good_1.png")
    code, shown, _ = isdm("check", **checking(copied, tmp_path / "check", image_channels=3))
    assert code == 0
    warnings = [line for line in shown.splitlines() if line.startswith(f"warning: {copied / 'good'}: ")]
    assert len(warnings) == 1
    assert "1 of 3 good images" in warnings[0]
    code, shown, _ = isdm("check", **checking(copied, tmp_path / "gray"))
    assert not [line for line in shown.splitlines() if line.startswith(f"warning: {copied / 'good'}: ")]


class Folder:
    """A folder of samples that are windows."""

    def __init__(self, size: int, windows: bool = True, depth: bool = False):
        self.config, self.holds_windows, self.has_native_depth = {"image_size": size}, windows, depth


def test_real_windows_have_the_size_of_the_samples_before_both_are_enlarged(large):
    """Models need multiples of 32: windows of 24 px are enlarged, and show what those of 24 px do."""
    from guided_diffusion.config.evaluate import ViewOptions

    pairs, _ = index_pairs(large / "data", get_mode("multi-class"), "test")
    options = ViewOptions(image_size=48, image_channels=1, image_range="auto", resize="window", scale=0.5)
    encoding = LabelEncoding.identity(CLASSES)
    plain = View(encoding, options.model_copy(update={"image_size": 24}), 0, Folder(24)).read(pairs)
    doubled = View(encoding, options, 0, Folder(24)).read(pairs)
    assert doubled.images.shape == (3, 48, 48, 3)
    assert np.array_equal(doubled.labels, plain.labels.repeat(2, 1).repeat(2, 2))
    # Whole images, as `place` writes them, are cut as the real ones are.
    folder = Folder(24, windows=False)
    whole = View(encoding, options, 0, folder).read(pairs, samples=folder)
    assert whole.images.shape == (3, 48, 48, 3)
    assert np.array_equal(whole.labels, View(encoding, options, 0, Folder(48)).read(pairs).labels)


@pytest.mark.slow
def test_the_border_of_a_small_mask_is_black_in_the_sample(copied, tmp_path, isdm):
    run = tmp_path / "run"
    assert isdm("train", **training(copied, run))[0] == 0
    (copied / "small").mkdir()
    mask = np.zeros((40, 200), np.uint8)
    mask[10:20, 90:110] = 1
    Image.fromarray(mask).save(copied / "small/a.png")
    sampled = {"model_path": run, "mask_dir": copied / "small", "steps": 2, "num_samples": 4, "augment_masks": True}
    assert isdm("sample", **sampled, results_path=tmp_path / "samples")[0] == 0
    for path in sorted((tmp_path / "samples/masks").iterdir()):
        border = np.array(Image.open(path)) == 255
        image = np.array(Image.open(tmp_path / "samples/images" / path.name))
        assert border.sum() == 12 * 32
        assert (image[border] == 0).all()
        assert image[~border].max() > 0
