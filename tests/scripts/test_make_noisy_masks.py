"""The noisy-mask benchmark: its three kinds of noise by other means, and whole datasets of several layouts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import make_noisy_masks
import numpy as np
import pytest
import torch
from error_lines import check_error
from make_noisy_masks import downsampled, near_boundary, random_pixels
from PIL import ExifTags, Image
from published_trees import LAYOUTS, STEMS, gray
from scipy import ndimage

from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.scan import scan_dataset

KINDS = ("downsample", "edge", "random")
Run = Callable[..., str]


def blocks(height: int, width: int, classes: int = 4, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, classes, (-(-height // 9), -(-width // 7)))
    return drawn.repeat(9, 0).repeat(7, 1)[:height, :width]


# Sides without a center between two pixels, where PIL's rounding decides.
@pytest.mark.parametrize(("height", "width", "size"), [(128, 96, 32), (60, 36, 12), (8, 9, 16)])
def test_downsampled_is_what_pil_makes(height: int, width: int, size: int) -> None:
    label = np.random.default_rng(0).integers(0, 250, (height, width), dtype=np.uint8)
    small = (min(size, width), min(size, height))
    nearest = Image.Resampling.NEAREST
    wanted = Image.fromarray(label).resize(small, nearest).resize((width, height), nearest)
    assert torch.equal(downsampled(torch.from_numpy(label), size), torch.from_numpy(np.array(wanted)))


@pytest.mark.parametrize(("length", "size"), [(90, 16), (33, 32), (683, 64), (41, 24)])
def test_downsampled_takes_the_value_at_the_center(length: int, size: int) -> None:
    def center(pixel: int, of: int, other: int) -> int:
        return math.floor((Fraction(pixel) + Fraction(1, 2)) / of * other)

    wanted = [center(center(pixel, length, size), size, length) for pixel in range(length)]
    found = downsampled(torch.arange(length)[None].expand(3, -1), size)
    assert found.tolist() == [wanted] * 3


@pytest.mark.parametrize("distance", [1, 2, 5])
def test_near_a_boundary_by_the_distance_transform(distance: int) -> None:
    label = blocks(60, 50)
    boundary = np.zeros(label.shape, bool)
    for row, column in np.ndindex(*label.shape):
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        inside = [(r, c) for r, c in around if 0 <= r < label.shape[0] and 0 <= c < label.shape[1]]
        boundary[row, column] = any(label[place] != label[row, column] for place in inside)
    wanted = ndimage.distance_transform_cdt(~boundary, metric="taxicab") <= distance
    assert 0 < wanted.mean() < 1
    np.testing.assert_array_equal(near_boundary(torch.from_numpy(label), distance).numpy(), wanted)


def test_maps_of_one_label_have_no_boundary() -> None:
    assert not near_boundary(torch.zeros(9, 9, dtype=torch.uint8), 2).any()


def test_random_pixels_have_the_share_and_depend_on_seed_and_name() -> None:
    first = random_pixels((300, 400), 0.1, 3, "a")
    deviation = (0.1 * 0.9 * first.numel()) ** 0.5
    assert abs(first.sum() - 0.1 * first.numel()) < 4 * deviation
    assert torch.equal(random_pixels((300, 400), 0.1, 3, "a"), first)
    for seed, name in ((4, "a"), (3, "b")):
        both = (random_pixels((300, 400), 0.1, seed, name) & first).float().mean()
        assert both == pytest.approx(0.01, abs=0.002)


@pytest.fixture
def noisy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the script into `tmp_path / "noisy"` (or `output`); returns what it printed, or its error."""

    def run(kind: str, data_dir: Path, mode: str, *options: str, output: str = "noisy") -> str:
        arguments = [kind, "--data-dir", str(data_dir), "--dataset-mode", mode, "--output", str(tmp_path / output)]
        try:
            make_noisy_masks.main([*arguments, *options])
        except SystemExit as end:
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            return "\n".join(lines) or str(end.code)
        return capsys.readouterr().out

    return run


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_a_dataset(kind: str, lemons: Path, noisy: Run, tmp_path: Path) -> None:
    printed = noisy(kind, lemons, "multi-class", "--size", "10", "--distance", "1")
    assert f"{kind} noise in 4 masks" in printed
    assert ("written as 255" in printed) == (kind != "downsample")
    mode = get_mode("multi-class")
    reports = [scan_dataset(folder, mode, "test", progress=False) for folder in (lemons, tmp_path / "noisy")]
    encodings = [report.raise_if_fatal() for report in reports]
    assert encodings[0].names == encodings[1].names
    assert [pair.stem for pair in reports[0].pairs] == [pair.stem for pair in reports[1].pairs]
    for clean, copy in zip(*(report.pairs for report in reports), strict=True):
        assert Path(clean.image).read_bytes() == Path(copy.image).read_bytes()
        before, after = (read_mask(p.mask, e) for p, e in zip((clean, copy), encodings, strict=True))
        wanted = {
            "downsample": downsampled(before, 10),
            "edge": before.masked_fill(near_boundary(before, 1), 5),
            "random": before.masked_fill(random_pixels(before.shape, 0.1, 0, clean.stem), 5),
        }[kind]
        assert torch.equal(after, wanted)
        assert not torch.equal(after, before)


def test_the_seed_decides(lemons: Path, noisy: Run, tmp_path: Path) -> None:
    outputs = {}
    for output, seed in (("one", "1"), ("same", "1"), ("other", "2")):
        noisy("random", lemons, "multi-class", "--seed", seed, "--masks-only", output=output)
        outputs[output] = digests(tmp_path / output)
    assert outputs["one"] == outputs["same"]
    assert outputs["one"].keys() == outputs["other"].keys()
    assert all(outputs["one"][name] != outputs["other"][name] for name in outputs["one"])


def test_masks_alone_at_the_size_of_the_network(lemons: Path, noisy: Run, tmp_path: Path) -> None:
    noisy("edge", lemons, "multi-class", "--masks-only", "--image-size", "12", "16")
    sizes = {Image.open(path).size for path in (tmp_path / "noisy").glob("*.png")}
    assert sizes == {(16, 12)}
    assert len(digests(tmp_path / "noisy")) == 4


def published_tree(mode: str, root: Path) -> dict[str, Path]:
    """Write one pair of 80 x 96 px in a published layout; returns its files, relative to `root`."""
    paths = [Path(template.format(STEMS[mode][1])) for template in LAYOUTS[mode]["test"]]
    files = dict(zip(("image", "mask", "instance"), paths, strict=False))
    gray(root / files["image"], np.random.default_rng(1).integers(0, 255, (80, 96, 3), dtype=np.uint8))
    gray(root / files["mask"], (blocks(80, 96, 5) + 3).astype(np.uint8))
    if "instance" in files:
        deep = mode == "cityscapes"
        instance = blocks(80, 96, 9, seed=2) * (1000 if deep else 1)
        gray(root / files["instance"], instance.astype(np.uint16 if deep else np.uint8))
    return files


# The mask value of unlabeled pixels: the largest free one where there is no such class.
UNLABELED = {"cityscapes": 0, "ade20k": 0, "celeba": 255, "coco": 255}


def test_instance_maps_keep_palette_and_colors(noisy: Run, tmp_path: Path) -> None:
    files = published_tree("coco", tmp_path / "data")
    numbers = blocks(80, 96, 9, seed=2).astype(np.uint8)
    palette = Image.fromarray(numbers)
    palette.putpalette(np.random.default_rng(3).integers(0, 255, 768, dtype=np.uint8).tobytes())
    for number, picture in enumerate((palette, palette.convert("RGB"))):
        picture.save(tmp_path / "data" / files["instance"])
        noisy("downsample", tmp_path / "data", "coco", output=f"noisy{number}")
        copy = Image.open(tmp_path / f"noisy{number}" / files["instance"])
        assert copy.mode == picture.mode
        wanted = Image.fromarray(downsampled(torch.from_numpy(numbers), 64).numpy())
        wanted.putpalette(palette.getpalette())
        np.testing.assert_array_equal(np.array(copy.convert("RGB")), np.array(wanted.convert("RGB")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", UNLABELED)
def test_published_layouts(mode: str, kind: str, noisy: Run, tmp_path: Path) -> None:
    files = published_tree(mode, tmp_path / "data")
    printed = noisy(kind, tmp_path / "data", mode)
    assert f"{kind} noise in 1 masks" in printed
    before, after = (np.array(Image.open(tmp_path / side / files["mask"])) for side in ("data", "noisy"))
    changed = before != after
    assert 0 < changed.mean() < 1
    if kind != "downsample":
        assert set(after[changed].tolist()) == {UNLABELED[mode]}
    for name in files.keys() - {"mask"}:
        source, copy = tmp_path / "data" / files[name], tmp_path / "noisy" / files[name]
        if name == "instance" and kind == "downsample":
            wanted = downsampled(torch.from_numpy(np.array(Image.open(source)).astype(np.int32)), 64)
            np.testing.assert_array_equal(np.array(Image.open(copy)), wanted)
        else:
            assert copy.read_bytes() == source.read_bytes()


def test_a_class_that_stands_for_unlabeled(lemons: Path, noisy: Run, tmp_path: Path) -> None:
    printed = noisy("edge", lemons, "multi-class", "--unlabeled", "0", "--masks-only")
    assert "class 0" in printed
    assert max(np.array(Image.open(path)).max() for path in (tmp_path / "noisy").glob("*.png")) < 5


def test_a_mask_is_read_as_the_scan_decides(noisy: Run, tmp_path: Path) -> None:
    """A tag of the mask alone does not count where only the pixels as they are stored fit the image."""
    label = blocks(12, 20)
    for folder, array in (("images", np.zeros((12, 20, 3), np.uint8)), ("masks", label.astype(np.uint8))):
        path = tmp_path / "data" / "test" / folder / "a.png"
        path.parent.mkdir(parents=True)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6 if folder == "masks" else 1
        Image.fromarray(array).save(path, exif=exif)
    noisy("random", tmp_path / "data", "multi-class", "--num-classes", "4", "--share", "0.01", "--masks-only")
    noise = random_pixels((12, 20), 0.01, 0, "a").numpy()
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "noisy" / "a.png")), np.where(noise, 255, label))


def test_masks_in_arrays_stay_arrays(noisy: Run, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "real" / "test"
    gray(folder / "a.png", np.zeros((12, 20, 3), np.uint8))
    np.save(folder / "a.npy", blocks(12, 20))
    noisy("edge", tmp_path / "data", "ddpmseg", "--num-classes", "4", "--unlabeled", "0", "--distance", "1")
    wanted = np.where(near_boundary(torch.from_numpy(blocks(12, 20)), 1), 0, blocks(12, 20))
    np.testing.assert_array_equal(np.load(tmp_path / "noisy" / "real" / "test" / "a.npy"), wanted)


class TestMistakes:
    def test_nothing_would_change(self, lemons: Path, noisy: Run) -> None:
        (line,) = noisy("downsample", lemons, "multi-class").splitlines()
        check_error(line, "--size", "64", "24")

    def test_output_in_the_dataset(self, lemons: Path, noisy: Run) -> None:
        (line,) = noisy("edge", lemons, "multi-class", output=str(lemons / "test")).splitlines()
        check_error(line, "--output", lemons / "test")

    def test_output_that_is_there(self, lemons: Path, noisy: Run, tmp_path: Path) -> None:
        noisy("edge", lemons, "multi-class")
        (line,) = noisy("random", lemons, "multi-class").splitlines()
        check_error(line, tmp_path / "noisy" / "test" / "masks" / "lemon_0000.png", "--output")

    @pytest.mark.parametrize("name", ["test/images/lemon_0001.png", "classes.json"])
    def test_other_files_of_an_output_stay(self, lemons: Path, noisy: Run, tmp_path: Path, name: str) -> None:
        path = tmp_path / "noisy" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        (line,) = noisy("edge", lemons, "multi-class").splitlines()
        check_error(line, path, "--output")
        assert path.read_text() == "mine"
        assert not (tmp_path / "noisy" / "test" / "masks").exists()

    def test_unknown_class(self, lemons: Path, noisy: Run) -> None:
        (line,) = noisy("edge", lemons, "multi-class", "--unlabeled", "sky").splitlines()
        check_error(line, "--unlabeled", "'sky'")

    def test_dataset_that_is_not_there(self, tmp_path: Path, noisy: Run) -> None:
        (line,) = noisy("edge", tmp_path / "nothing", "multi-class").splitlines()
        check_error(line, tmp_path / "nothing")
        (line,) = noisy("edge", tmp_path / "data", "multi-clas").splitlines()
        check_error(line, "dataset_mode", "'multi-clas'", "'multi-class'")

    @pytest.mark.parametrize("options", [("--share", "0"), ("--size", "0"), ("--image-size", "8"), ("--resize", "pad")])
    def test_options_that_cannot_be(self, lemons: Path, noisy: Run, options: tuple[str, str]) -> None:
        assert noisy("edge", lemons, "multi-class", *options) == "2"
