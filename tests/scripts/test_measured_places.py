"""The measures of `place` on a small folder of it, and their parts on data whose answer is known."""

from __future__ import annotations

import json
import shutil
from dataclasses import astuple, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import command_line
import numpy as np
import pytest
import torch
from odd_images import write_png
from parts import BACKGROUND, SIZE, SPOT, defects, noise, write_good, write_parts
from tiny import TINY

from evaluations.defect_copies import find_defect_copies
from guided_diffusion import load_pipeline
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.components import Box
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.averaging import windows_of
from guided_diffusion.pipelines.holes import Hole, grow_hole
from guided_diffusion.pipelines.inpainting import Patch
from guided_diffusion.pipelines.placing.folder import PlacedFolder
from guided_diffusion.pipelines.study.images import StudyView
from guided_diffusion.runtime.errors import DataError
from scripts.measure import healed, large_defects, placed_copies, seams
from scripts.measure.large_defects import border_jump
from scripts.measure.placed_copies import Defect, exceeds, figures, judged_of, summary, textures_of

WINDOWS = {**TINY, "resize": "window", "inpaint": True, "image_channels": 1, "max_epochs": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_parts(tmp_path_factory.mktemp("data") / "parts")


@pytest.fixture(scope="module")
def painter(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "painter"
    assert command_line.run("train", **{**WINDOWS, "data_dir": data, "output_dir": folder}) == 0
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write_good(tmp_path_factory.mktemp("data") / "good", {"a": SIZE, "sub/b": SIZE, "c": (44, 60), "d": SIZE})


def place(folder: Path, **values) -> Path:
    base = {"results_path": folder, "steps": 2, "hole_margin": 3, "feather": 2}
    assert command_line.run("place", **{**base, **values}) == 0
    return folder


@pytest.fixture(scope="module")
def results(data, painter, good, tmp_path_factory) -> Path:
    """Placed where they were seen, unedited: patches are those of the training images."""
    folder = tmp_path_factory.mktemp("results") / "placed"
    return place(folder, model_path=painter, data_dir=data, good_dir=good, num_samples=6, edit=False, place="keep")


@pytest.fixture(scope="module")
def edited(data, painter, good, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "edited"
    return place(folder, model_path=painter, data_dir=data, good_dir=good, num_samples=4)


@pytest.fixture(scope="module")
def erased(data, painter, tmp_path_factory) -> Path:
    return place(tmp_path_factory.mktemp("results") / "erased", model_path=painter, data_dir=data, erase=True)


@pytest.fixture
def copied(results, tmp_path) -> Path:
    return shutil.copytree(results, tmp_path / "copied")


# ------------------------------------------------------------------------------------------------------ placed


@pytest.mark.slow
@pytest.mark.parametrize("which", ["results", "edited", "erased"])
def test_the_plan_is_that_of_the_run(which, request):
    folder = PlacedFolder.open(request.getfixturevalue(which))
    scenes = list(folder.scenes())
    assert [scene.line.index for scene in scenes] == list(range(len(folder.samples.lines)))
    for scene in scenes:
        written = [(defect.where, defect.source) for defect in scene.line.defects]
        assert written == [(defect.box, defect.source) for defect in scene.finished.defects]
        changed = (scene.result != scene.good.pixels).any(-1)
        inside = np.zeros_like(changed)
        for hole in scene.finished.holes:
            grown = grow_hole(hole, folder.settings.native_margin, scene.good.size)
            inside[grown.box.slices] |= grown.hole
        assert changed.any()
        assert not changed[~inside].any()


@pytest.mark.slow
def test_patches_are_the_pixels_of_the_training_image(results):
    folder = PlacedFolder.open(results)
    patch_of, pairs = folder.patches(), folder.pairs("train")
    count = 0
    for scene in folder.scenes():
        for defect in scene.finished.defects:
            image, label = folder.read_pair(pairs[defect.edited.part.name])
            down, across = (new - old for new, old in zip(scene.good.size, SIZE, strict=True))
            if (down, across) == (0, 0):
                box = Box(*(edge + step for edge, step in zip(astuple(defect.box), (-3, -2, 1, 4), strict=True)))
                stretched = image[box.slices] / 255 * (scene.good.high - scene.good.low) + scene.good.low
                np.testing.assert_allclose(patch_of(defect, box, scene.good), stretched, atol=1e-3)
                assert (label[defect.box.slices][defect.mask] == defect.class_id).all()
                count += 1
    assert count > 3


def test_what_has_changed_is_said(copied, data, good, tmp_path):
    line = json.loads((copied / "manifest.jsonl").read_text().splitlines()[0])
    mask = np.full(SIZE, BACKGROUND, np.uint8)
    write_png(copied / line["mask"], mask)
    with pytest.raises(DataError) as caught:
        list(PlacedFolder.open(copied).scenes())
    assert caught.value.path == str(copied / line["mask"])

    others = shutil.copytree(good, tmp_path / "others")
    write_png(others / "a.png", noise(SIZE, 999))
    with pytest.raises(DataError) as caught:
        list(PlacedFolder.open(copied, good_dir=str(others)).scenes())
    assert caught.value.path == str(others / "a.png")

    changed = shutil.copytree(data, tmp_path / "changed")
    write_png(changed / "train" / "masks" / "part_2.png", defects(3))
    with pytest.raises(DataError) as caught:
        PlacedFolder.open(copied, data_dir=str(changed))
    assert caught.value.path == str(copied)


def test_folders_that_are_not_of_place(data, tmp_path, capsys):
    with pytest.raises(DataError):
        PlacedFolder.open(data / "train")
    with pytest.raises(SystemExit, match="2"):
        seams.main([str(tmp_path / "missing"), "--out", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'missing'}")


def test_folders_that_have_moved(results, data, good, painter, tmp_path):
    moved = {key: shutil.copytree(path, tmp_path / key) for key, path in (("data_dir", data), ("good_dir", good))}
    record = json.loads((results / "config.json").read_text())
    copy = shutil.copytree(results, tmp_path / "results")
    (copy / "config.json").write_text(json.dumps({**record, "data_dir": "/nowhere", "good_dir": "/nowhere"}))
    assert len(list(PlacedFolder.open(copy, **{key: str(path) for key, path in moved.items()}).scenes())) == 6


# ------------------------------------------------------------------------------------------------------- seams


def test_seams_of_a_folder(edited, tmp_path, capsys):
    seams.main([str(edited), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "seams.json").read_text())
    lines = [json.loads(line) for line in (edited / "manifest.jsonl").read_text().splitlines()]
    count = sum(len(line["defects"]) for line in lines)
    for view in seams.HEADINGS.keys() - {"seen"}:  # at scale 1 that is the mask again
        (ours,) = (row for row in found[view] if (row["class"], row["method"]) == (seams.ALL_CLASSES, "ours"))
        assert ours["count"] + ours["left_out"] == count
    assert {row["method"] for row in found["mask"]} - {row["method"] for row in found["rim"]} == {seams.REAL}
    assert (tmp_path / "out" / "seams.png").stat().st_size > 1000
    assert (tmp_path / "out" / "seams.md").read_text() in capsys.readouterr().out


def test_rows_of_the_picture_are_chosen(results, tmp_path, capsys):
    line = json.loads((results / "manifest.jsonl").read_text().splitlines()[1])
    name = line["image"].removeprefix("images/").removesuffix(".png")
    seams.main([str(results), "--out", str(tmp_path), "--rows", name])
    assert f"shown: {name}#0\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        seams.main([str(results), "--out", str(tmp_path), "--rows", name, "unknown#3"])
    assert "unknown#3" in capsys.readouterr().err


def test_nothing_to_paste_is_said(erased, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        seams.main([str(erased), "--out", str(tmp_path)])
    assert "nothing to paste" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ copies


def grainy(seed: int, class_id: int = 1, source: str = "") -> Defect:
    pixels = np.random.default_rng(seed).integers(0, 255, (14, 17, 1), np.uint8)
    return Defect(class_id, source or f"part_{seed}#0", pixels, np.ones((14, 17), bool))


def judged(placed: list[Defect], training: list[Defect], test: list[Defect]) -> dict:
    of_training, of_test = textures_of(training), textures_of(test)
    copies = find_defect_copies(textures_of(placed), of_training, of_test)
    return figures(copies, placed, training, (judged_of(of_training, of_training), judged_of(of_test, of_training)))


def test_copies_are_told_from_new_defects():
    training, test = [grainy(seed) for seed in range(12)], [grainy(seed) for seed in range(50, 60)]
    repeated = judged([grainy(seed % 12) for seed in range(20)], training, test)
    assert (repeated["share"], repeated["nearest_is_source"], repeated["accepted"]) == (1, 1, False)
    assert repeated["beyond"] == ["training", "test"]
    assert "MORE" in summary(repeated)
    new = judged([grainy(seed, source=f"part_{seed % 12}#0") for seed in range(100, 120)], training, test)
    assert (new["share"], new["accepted"], new["beyond"]) == (0, True, [])
    assert new["nearest_is_source"] < 0.5
    json.dumps(new, allow_nan=False)


def test_chance_is_allowed_for():
    assert not exceeds(1, 17, 18, 300)
    assert not exceeds(18, 300, 18, 300)
    assert exceeds(40, 300, 18, 300)


def test_defects_without_texture_are_not_judged():
    flat = [
        Defect(1, f"part_{number}#0", np.full((9, 9, 1), 7, np.uint8), np.ones((9, 9), bool)) for number in range(5)
    ]
    found = judged(flat, flat, flat)
    assert (found["judged"], found["accepted"]) == (0, False)
    assert "none can be judged" in summary(found)


def test_copies_of_a_folder(edited, tmp_path, capsys):
    placed_copies.main([str(edited), "--out", str(tmp_path), "--count", "3"])
    found = json.loads((tmp_path / "copies.json").read_text())
    assert found["placed"] == 3
    assert "Verdict" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- large


def test_border_jumps():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (1, 40, 40))
    inside = np.ones((40, 40), bool)
    lines = {10, 20, 30}, {20}
    for reach in (1, 4):
        assert border_jump(values, inside, lines, reach) == pytest.approx(1, abs=0.35)
    patched = values.copy()
    patched[:, 20:] += 3
    assert border_jump(patched, inside, (set(), {20}), 1) < 1.2
    assert border_jump(patched, inside, ({20}, set()), 1) > 2
    assert border_jump(patched, inside, ({20}, set()), 4) > 3
    inside[:20] = False  # the step is at the rim of the hole, not in it
    assert border_jump(patched, inside, ({20}, {20}), 1) == pytest.approx(1, abs=0.35)
    assert border_jump(values, inside, (set(), set())) is None


def test_steps_at_lines_by_hand():
    values = np.array([[[0.0, 1, 2, 7, 8]]])
    inside = np.ones((1, 5), bool)
    assert border_jump(values, inside, (set(), {3})) == 5
    assert border_jump(values, inside, (set(), {3}), 2) == pytest.approx((7.5 - 1.5) / (4.5 - 0.5))


@pytest.mark.parametrize("full", [16, 17, 24, 40, 41])
def test_windows_cover_the_frame_and_overlap_by_half(full: int):
    windows = windows_of(torch.ones(full, 16, dtype=torch.bool), (16, 16))
    starts = [window.top for window in windows]
    assert (starts[0], starts[-1]) == (0, full - 16)
    assert all(0 < after - before <= 8 for before, after in pairwise(starts))
    assert {window.size for window in windows} == {(16, 16)}


def patch_of(size: tuple[int, int], hole: Box, settings) -> Patch:
    label = np.zeros(size, np.uint8)
    label[hole.slices] = SPOT
    image = NativeImage(noise(size, 5), None, 0, 255)
    own = grow_hole(Hole(hole, np.ones(hole.size, bool)), settings.native_margin, size)
    return Patch(image, label, own, (), settings)


def test_one_window_is_painted_as_a_run_paints_it(painter, results):
    settings = replace(PlacedFolder.open(results).settings, margin=1)
    run = load_pipeline(painter, device="cpu").begin(SamplerOptions(sampler="dpm++2m", steps=3))
    patch = patch_of((30, 30), Box(12, 13, 15, 16), settings)
    known, hole, _ = patch.surroundings()
    assert hole.shape == (16, 16)
    condition = SemanticMap(patch.label_of(Box(0, 0, 16, 16))[None].to(torch.uint8), settings.num_classes, None)
    expected = run(condition, [7], known=KnownRegion(known[None].float(), hole[None]))[0]
    found, _, _ = large_defects.averaged(run, patch, 7)
    torch.testing.assert_close(found.float(), expected)
    for way in large_defects.WAYS.values():
        painted, windows, _ = way(run, patch, 7)
        assert windows == 1
        torch.testing.assert_close(painted[:, ~hole], known[:, ~hole])


@pytest.mark.slow
def test_large_holes_are_painted_in_every_way(painter, results):
    settings = PlacedFolder.open(results).settings
    run = load_pipeline(painter, device="cpu").begin(SamplerOptions(sampler="dpm++2m", steps=2))
    patch = patch_of((50, 60), Box(10, 12, 32, 30), settings)
    known, hole, _ = patch.surroundings()
    for name, way in large_defects.WAYS.items():
        painted, windows, lines = way(run, patch, 3)
        assert (windows > 1) == (name != "whole") == any(lines)
        assert not torch.equal(painted[:, hole], known[:, hole])
        assert torch.equal(painted[:, ~hole], known[:, ~hole])
        assert painted.abs().max() <= 1
    np.testing.assert_array_equal(patch.image.pixels, noise((50, 60), 5))  # nothing is put into the image


def test_large_defects_of_a_folder(results, tmp_path, capsys):
    large_defects.main([str(results), "--out", str(tmp_path), "--count", "1", "--steps", "2"])
    found = json.loads((tmp_path / "large.json").read_text())
    assert found["raster"]["rim jump"]["count"] == found["whole"]["rim jump"]["count"] == 1
    assert (tmp_path / "large.png").stat().st_size > 1000


# ------------------------------------------------------------------------------------------------------ healed


def test_what_is_found_is_counted():
    tallies = healed.Tallies()
    for seen in (np.array([1, 0, 0, 0]), np.array([0] * 7 + [1])):
        tallies.add("spot", "original", seen.astype(bool))
    tallies.add("crack", "original", np.ones(3, bool))
    record = tallies.to_json()
    assert record["spot"]["original"] == {"defects": 2, "found": 1, "pixels": 12, "found_pixels": 2}
    assert record["all"]["original"] == {"defects": 3, "found": 2, "pixels": 15, "found_pixels": 5}
    assert "| all | 3 | 67 % (33 %) |  |  |" in tallies.table()


def test_a_segmenter_that_sees_too_little_tells_nothing():
    tallies = healed.Tallies()
    tallies.add("spot", "original", np.ones(4, bool))
    tallies.add("spot", "original", np.zeros(4, bool))
    assert tallies.is_telling
    tallies.add("spot", "original", np.zeros(4, bool))
    assert not tallies.is_telling


def test_masks_are_laid_into_other_images():
    assert healed.moved(Box(10, 20, 14, 26), (40, 60), (80, 30)) == Box(22, 8, 26, 14)
    assert healed.moved(Box(0, 54, 4, 60), (40, 60), (20, 30)) == Box(0, 24, 4, 30)
    assert healed.moved(Box(0, 0, 40, 6), (40, 60), (20, 60)) == Box(0, 0, 40, 6)


def test_a_segmenter_sees_whole_images():
    class Bright(torch.nn.Module):
        """Sees the second class where it is bright."""

        encoder = SimpleNamespace(output_stride=1)

        def forward(self, x):
            return torch.stack([-x[:, 0], x[:, 0]], dim=1)

    image = np.zeros((50, 34, 1), np.uint8)
    image[10:20, 4:12] = 255
    for scale in (1.0, 0.5):
        view = StudyView(LabelEncoding.identity(2), 1, scale)
        seen = healed.Seer(Bright(), view, (1,), 32).defects(image)
        np.testing.assert_array_equal(seen, image[..., 0] > 0)


@pytest.mark.slow
def test_healed_images_are_looked_at(erased, good, tmp_path):
    options = ["--good-dir", str(good), "--steps", "2", "--crop", "32"]
    healed.main([str(erased), "--out", str(tmp_path), *options])
    found = json.loads((tmp_path / "healed.json").read_text())["classes"]
    assert {kind: tally["defects"] for kind, tally in found["all"].items()} == {
        kind: found["spot"][kind]["defects"] + found["crack"][kind]["defects"] for kind in healed.KINDS
    }
    assert found["all"]["original"]["defects"] == 9
    assert (tmp_path / "healed.png").stat().st_size > 1000


def test_other_folders_are_not_healed(results, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        healed.main([str(results), "--out", str(tmp_path)])
    assert "not made with erase" in capsys.readouterr().err
