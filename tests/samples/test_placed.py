"""The folder of pairs made from good images: lines, going on after a kill, what it refuses, reading it, its sheet."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_images import write_png
from PIL import Image
from pydantic import ValidationError

from guided_diffusion.data.components import Box
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import list_good_images
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import (
    MANIFEST,
    UNFINISHED,
    ManifestLine,
    PlacedDefect,
    PlaceSettings,
    SampleSettings,
    SkippedDefect,
    file_digest,
    read_manifest,
)
from guided_diffusion.samples.place_sheet import PlacedRow, place_sheet, placed_rows
from guided_diffusion.samples.plan import plan_samples
from guided_diffusion.samples.reader import find_samples, open_samples
from guided_diffusion.samples.writer import SyntheticFolder

SETTINGS = PlaceSettings(
    run_seed=0,
    sampler="ddim",
    steps=4,
    checkpoint="0" * 16,
    scale=0.5,
    hole_margin=4,
    feather=1.5,
    mask_source="bank",
    place="data",
    edit=0.5,
    defects_per_image=[1, 2],
    classes=["scratch"],
    inputs="1" * 16,
)
ENCODING = LabelEncoding(2, ("background", "scratch"), ((0,), (1,)))
SIZES = {"a": (20, 30), "sub/b": (24, 16)}
HOLE = Box(3, 4, 8, 12)


@pytest.fixture
def good_dir(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        write_png(tmp_path / f"good/images/{name}.png", rng.integers(0, 60000, (*size, 3), np.uint16))
    return tmp_path / "good"


@pytest.fixture
def fill(tmp_path, good_dir):
    """Write `count` pairs, as far as they are not there, with some settings; `until`: killed while writing this one."""

    def run(
        count: int, settings=SETTINGS, folder: str = "out", until: int | None = None
    ) -> tuple[SyntheticFolder, int]:
        plan = plan_samples(list_good_images(good_dir), count, seed=0)
        output = SyntheticFolder(tmp_path / folder, "", ENCODING, settings)
        done = output.begin(plan)
        for rank in range(2):
            output.open_part(rank)
            for sample in plan[rank::2]:
                if sample.index not in done:
                    write(output, sample, killed=sample.index == until)
            output.close_part()
        output.finish()
        return output, len(done)

    return run


def write(output: SyntheticFolder, sample, *, killed: bool = False) -> None:
    image = NativeImage.read(sample.source.image, 3)
    painted = torch.rand((3, *HOLE.size), generator=torch.Generator().manual_seed(sample.seed)) * 2 - 1
    image.put(HOLE, painted, np.ones(HOLE.size, bool))
    label = np.zeros(image.size, np.uint8)
    label[HOLE.slices] = 1

    def save(path: Path) -> None:
        image.save(path)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)

    skipped = [SkippedDefect(name="scratch", reason="no room")] if sample.repeat else []
    output.write_placed(sample, save, label, [PlacedDefect.of("scratch", HOLE, "train/masks/c.png")], skipped)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def test_lines_say_what_was_painted_on_which_image(fill, good_dir):
    output, _ = fill(3)
    lines = lines_of(output.folder)
    assert [line["image"] for line in lines] == ["images/a.png", "images/sub/b.png", "images/a_rep001.png"]
    first = lines[0]
    assert first["good_image"] == str(good_dir / "images/a.png")
    assert first["good_digest"] == file_digest(good_dir / "images/a.png")
    assert first["defects"] == [{"class": "scratch", "box": [4, 3, 12, 8], "source": "train/masks/c.png"}]
    assert [line["skipped"] for line in lines] == [[], [], [{"class": "scratch", "reason": "no room"}]]
    assert "source_mask" not in first
    assert {key: first[key] for key in SETTINGS.model_dump()} == SETTINGS.model_dump()
    assert not list(output.folder.glob(".*"))
    (read, *_) = read_manifest(output.manifest)
    assert read.defects[0].where == HOLE
    assert read.text() == json.dumps(first) + "\n"
    assert read.source == (first["good_image"], first["good_digest"])


def test_only_images_with_a_painted_defect_are_synthetic(tmp_path, good_dir):
    """A good image into which nothing could be painted is a photograph."""
    output = SyntheticFolder(tmp_path / "out", "", ENCODING, SETTINGS, mark=True)
    plan = plan_samples(list_good_images(good_dir), 2, seed=0)
    output.begin(plan)
    output.open_part(0)
    write(output, plan[0])
    image = NativeImage.read(plan[1].source.image, 3)
    output.write_placed(plan[1], image.save, np.zeros(image.size, np.uint8), [])
    output.close_part()
    lines = output.finish()
    assert [line.synthetic for line in lines] == [True, False]
    assert [b"DigitalSourceType" in (output.folder / line.image).read_bytes() for line in lines] == [True, False]
    assert not any(b"DigitalSourceType" in (output.folder / line.mask).read_bytes() for line in lines)


def test_pixels_outside_of_the_hole_are_those_of_the_good_image(fill, good_dir):
    output, _ = fill(2)
    for name, size in SIZES.items():
        before, after = (
            NativeImage.read(folder / f"images/{name}.png", 3).pixels for folder in (good_dir, output.folder)
        )
        assert after.dtype == np.uint16
        changed = (before != after).any(axis=2)
        assert changed[HOLE.slices].all()
        changed[HOLE.slices] = False
        assert not changed.any()
        with Image.open(output.folder / f"masks/{name}.png") as mask:
            assert mask.size == size[::-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("until", [0, 2, 3])
def test_a_killed_run_goes_on(fill, until):
    whole, _ = fill(5)
    child = os.fork()
    if not child:
        try:
            fill(5, folder="killed", until=until)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    killed = whole.root.with_name("killed")
    assert (killed / UNFINISHED).exists()
    with pytest.raises(DataError) as error:
        find_samples(killed)
    assert error.value.path == str(killed)
    _, done = fill(5, folder="killed")
    assert done == {0: 0, 2: 1, 3: 4}[until]  # the first process makes 0, 2 and 4, then the second 1 and 3
    assert bytes_of(killed) == bytes_of(whole.folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"scale": 1.0},
        {"hole_margin": 5},
        {"mask_source": "dir"},
        {"place": "anywhere"},
        {"edit": True},
        {"defects_per_image": None},
        {"classes": None},
        {"inputs": "2" * 16},
        {"steps": 5},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_pairs_of_other_settings_are_not_mixed(fill, changed):
    output, _ = fill(1)
    before = bytes_of(output.folder)
    with pytest.raises(DataError) as error:
        fill(2, SETTINGS.model_copy(update=changed))
    assert error.value.path == str(output.manifest)
    assert next(iter(changed)) in error.value.found
    assert bytes_of(output.folder) == before


def test_pairs_of_other_good_images_are_not_mixed(fill, good_dir):
    output, _ = fill(2)
    write_png(good_dir / "images/sub/b.png", np.zeros((24, 16, 3), np.uint16))
    with pytest.raises(DataError) as error:
        fill(2)
    assert error.value.path == str(output.manifest)
    assert str(good_dir / "images/sub/b.png") in error.value.found


def test_files_of_others_are_refused(fill):
    output, _ = fill(2)
    other = output.folder / "images/mine.png"
    other.write_bytes(b"mine")
    with pytest.raises(DataError) as error:
        fill(2)
    assert error.value.path == str(other)


def test_sampled_pairs_are_not_mixed_with_placed_ones(fill, tmp_path):
    output, _ = fill(2)
    with pytest.raises(DataError):
        fill(2, SampleSettings(run_seed=0))
    shutil.rmtree(output.folder)
    line = {"index": 0, "image": "images/a.png", "mask": "masks/a.png", "source_mask": "a.png", "source_digest": "0"}
    output.folder.mkdir()
    output.manifest.write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError):
        fill(2)


def test_a_damaged_pair_is_made_again(fill):
    output, _ = fill(3)
    whole = bytes_of(output.folder)
    image, mask = output.folder / "images/a.png", output.folder / "masks/sub/b.png"
    image.write_bytes(image.read_bytes()[:-20])
    mask.unlink()
    again, done = fill(3)
    assert (done, again.damaged) == (1, ["images/a.png", "masks/sub/b.png"])
    assert bytes_of(output.folder) == whole


def test_placed_pairs_are_read_as_samples(fill, good_dir):
    output, _ = fill(3)
    found = find_samples(output.folder)
    assert found.has_native_depth
    assert found.checkpoint == "0" * 16
    pairs = open_samples(found, ENCODING, 3)
    assert [found.line_of(pair).good_image for pair in pairs] == [
        str(good_dir / f"images/{name}.png") for name in ("a", "a", "sub/b")
    ]


@pytest.mark.parametrize(
    "damage",
    [
        {"good_digest": None, "good_image": None},
        {"defects": [{"class": "scratch", "box": [1, 2, 3], "source": ""}]},
        {"defects": [{"box": [1, 2, 3, 4], "source": ""}]},
        {"skipped": [{"class": 3, "reason": ""}]},
        {"scale": "0.5"},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_damaged_line_is_not_read(fill, damage):
    line = lines_of(fill(1)[0].folder)[0] | damage
    with pytest.raises(ValidationError):
        ManifestLine.model_validate({key: value for key, value in line.items() if value is not None})


def test_the_sheet_shows_pairs_in_the_range_of_the_good_image(fill):
    output, _ = fill(3)
    rows = list(placed_rows(output.folder, output.finish(), ENCODING, 3, "percentile"))
    for row in rows:
        outside = np.ones(row.label.shape, bool)
        outside[HOLE.slices] = False
        assert row.hole == HOLE
        assert row.good.dtype == np.uint8
        assert row.good.max() == 255  # of 60000
        assert np.array_equal(row.good[outside], row.result[outside])
        assert (row.label[HOLE.slices] == 1).all()
    sheet = place_sheet(rows, ENCODING.names)
    assert sheet.width > 5 * 240  # small images are enlarged


@pytest.mark.parametrize("orientation", [1, 6])
def test_the_sheet_shows_good_images_as_they_lie_in_their_pairs(fill, orientation):
    """Images that have got an orientation, which was not applied, as the sizes of their masks told."""
    output, _ = fill(1)
    lines = output.finish()
    path = Path(lines[0].source[0])
    write_png(path, np.asarray(Image.open(path)), orientation=orientation)
    (row,) = placed_rows(output.folder, lines, ENCODING, 3, "auto")
    assert row.good.shape == row.result.shape


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (40, 40), (256, 256), (257, 100), (1500, 2000)])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_of_any_size_fit(size, channels):
    image = np.full((*size, channels), 90, np.uint8)
    label = np.zeros(size, np.uint8)
    label[-1, -1] = 1
    hole = Box(size[0] - 1, size[1] - 1, *size)
    sheet = place_sheet(
        iter([PlacedRow(image, label, image, hole), PlacedRow(image, label, image, None)]), ENCODING.names
    )
    assert sheet.width <= 5 * 260
    counts = {color: count for count, color in sheet.getcolors(1 << 24)}
    assert (90, 90, 90) in counts
    # One pixel of the class is seen beside the legend's 12 x 12, however much the image is reduced.
    assert counts[240, 220, 66] > 12 * 12
