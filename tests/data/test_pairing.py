from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion.data.modes import DatasetMode, FileRule, get_mode
from guided_diffusion.data.pairing import index_images, index_masks, index_pairs, list_good_images
from guided_diffusion.data.scan.problems import ProblemKind, problem_lines, refuse_fatal
from guided_diffusion.runtime.errors import DataError

MODE = get_mode("multi-class")
NAMES = st.text(string.ascii_letters + string.digits + " ._-éü", min_size=1, max_size=8).filter(
    lambda name: not name.startswith(".") and name.strip(" .") == name
)


def touch(*paths) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    folders=st.dictionaries(NAMES, st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6),
    sub=st.sampled_from(["", "sub", "a/b"]),
    suffix=st.sampled_from([".jpg", ".JPG", ".jpeg", ".png"]),
)
def test_pairs_are_exactly_the_common_stems(tmp_path_factory, folders, sub, suffix):
    root = tmp_path_factory.mktemp("pairs")
    # Names that differ only in case are one file on some systems.
    folders = {name.lower(): kinds for name, kinds in folders.items()}
    stems = {f"{sub}/{name}".lstrip("/"): kinds for name, kinds in folders.items()}
    (root / "train/images").mkdir(parents=True)
    (root / "train/masks").mkdir()
    for stem, (image, mask) in stems.items():
        touch(*([root / f"train/images/{stem}{suffix}"] * image), *([root / f"train/masks/{stem}.png"] * mask))
    pairs, problems = index_pairs(root, MODE, "train")
    if any(image for image, _ in stems.values()) and any(mask for _, mask in stems.values()):
        assert [pair.stem for pair in pairs] == sorted(stem for stem, kinds in stems.items() if all(kinds))
        unpaired = [f"{root}/train/images/{stem}{suffix}" for stem, kinds in stems.items() if kinds == (True, False)]
        masks = [f"{root}/train/masks/{stem}.png" for stem, kinds in stems.items() if kinds == (False, True)]
        assert {problem.path for problem in problems} >= set(unpaired)
        # A mask that was named as the one probably meant needs no line of its own.
        assert all(any(mask in problem.line for problem in problems) for mask in masks)
        assert len(unpaired) <= len(problems) <= len(unpaired + masks)
    else:
        assert not pairs
        assert any(problem.fatal for problem in problems)


def test_hidden_files_are_no_pairs(tmp_path):
    touch(tmp_path / "train/images/a.jpg", tmp_path / "train/images/._a.jpg", tmp_path / "train/images/.x/b.png")
    touch(tmp_path / "train/masks/a.png", tmp_path / "train/masks/.DS_Store")
    pairs, problems = index_pairs(tmp_path, MODE, "train")
    assert [pair.stem for pair in pairs] == ["a"]
    assert not problems


def test_composed_and_decomposed_names_pair(tmp_path):
    touch(tmp_path / "train/images/e\u0301.jpg", tmp_path / "train/masks/\u00e9.png")
    pairs, problems = index_pairs(tmp_path, MODE, "train")
    assert [pair.stem for pair in pairs] == ["\u00e9"]
    assert not problems


@pytest.mark.parametrize(
    ("files", "kind", "remedy"),
    [
        (["images/b.jpg"], ProblemKind.IMAGE_WITHOUT_MASK, ["add ", "masks/b.png"]),
        (["masks/b.png"], ProblemKind.MASK_WITHOUT_IMAGE, ["add ", "images/b."]),
        (["images/a.png"], ProblemKind.DUPLICATE, ["rename"]),
        (["images/lemon.jpg", "masks/lemon_mask.png"], ProblemKind.IMAGE_WITHOUT_MASK, ["lemon_mask.png", "lemon.png"]),
        (["images/Lemon.jpg", "masks/lemon.png"], ProblemKind.IMAGE_WITHOUT_MASK, ["masks/lemon.png", "Lemon.png"]),
        (["images/b.jpg", "masks/b.jpg"], ProblemKind.IMAGE_WITHOUT_MASK, ["b.jpg", "JPEG", "b.png"]),
        (["images/b.jpg", "masks/b.tif"], ProblemKind.IMAGE_WITHOUT_MASK, ["b.tif", "convert", "b.png"]),
    ],
)
def test_what_does_not_pair(tmp_path, files, kind, remedy):
    touch(tmp_path / "train/images/a.jpg", tmp_path / "train/masks/a.png")
    touch(*(tmp_path / "train" / file for file in files))
    pairs, problems = index_pairs(tmp_path, MODE, "train")
    assert [pair.stem for pair in pairs] == ["a"]
    problem = next(problem for problem in problems if problem.fatal)
    assert (problem.kind, Path(problem.path)) == (kind, tmp_path / "train" / files[0])
    assert all(token in problem.remedy.replace("\\", "/") for token in remedy)


@pytest.mark.parametrize(
    ("files", "split", "folder", "found", "remedy"),
    [
        ([], "train", "nothing", "", "data_dir"),
        (["train/x.txt"], "val", "data/val", "has train)", ""),
        (["training/images/a.png"], "train", "data/train", "has training)", "'training' to 'train'"),
        (["train/img/a.png", "train/masks/a.png"], "train", "data/train/images", "img", "'img' to 'images'"),
        (["train/images/a.png", "train/labels/a.png"], "train", "data/train/masks", "labels", "'labels' to 'masks'"),
        (["train/Images/a.png", "train/masks/a.png"], "train", "data/train/images", "Images", "'Images' to 'images'"),
        (["images/a.png", "masks/a.png"], "train", "data/train", "has images, masks", "data/train"),
        (["train/images/a.png", "train/masks/a.txt"], "train", "data/train/masks", "*.png", "masks"),
        (["train/images/a.bmp", "train/masks/a.png"], "train", "data/train/images", "1 files", "images"),
    ],
)
def test_folders(tmp_path, files, split, folder, found, remedy):
    root = tmp_path / ("data" if files else "nothing")
    touch(*(root / file for file in files))
    pairs, problems = index_pairs(root, MODE, split)
    assert not pairs
    (problem,) = problems
    assert (problem.kind, Path(problem.path), problem.fatal) == (ProblemKind.FOLDER, tmp_path / folder, True)
    assert found in problem.found
    assert remedy in problem.remedy.replace("\\", "/")


def test_unused_formats_are_a_warning(tmp_path):
    touch(tmp_path / "train/images/a.jpg", tmp_path / "train/images/b.tif", tmp_path / "train/masks/a.png")
    _, problems = index_pairs(tmp_path, MODE, "train")
    assert [(problem.kind, problem.fatal) for problem in problems] == [(ProblemKind.OTHER_FORMATS, False)]
    assert "b.tif" in problems[0].found


def test_many_problems_of_a_kind_are_summarized(tmp_path):
    names = (
        f"f{index}/{index}.jpg" for index in range(30)
    )  # in folders of their own: each may have a cause of its own
    touch(tmp_path / "train/masks/a.png", *(tmp_path / "train/images" / name for name in names))
    _, problems = index_pairs(tmp_path, MODE, "train")
    shown = problem_lines(problems)
    alike = [problem.line for problem in problems if problem.kind is ProblemKind.IMAGE_WITHOUT_MASK]
    assert [line for line in shown if line in alike] == alike[:5]
    assert sum(line.startswith(f"{ProblemKind.IMAGE_WITHOUT_MASK.value}: 25 ") for line in shown) == 1


CITY = DatasetMode(
    "city",
    FileRule("left/{split}", (".png",), "_left"),
    FileRule("fine/{split}", (".png",), "_labelIds"),
    FileRule("fine/{split}", (".png",), "_instanceIds"),
    splits=(("test", "val"),),
)


def test_a_mode_is_a_record(tmp_path):
    for kind in (
        "left/val/ulm/a_left",
        "fine/val/ulm/a_labelIds",
        "fine/val/ulm/a_instanceIds",
        "fine/val/ulm/a_color",
    ):
        touch(tmp_path / f"{kind}.png")
    ((pair,), problems) = index_pairs(tmp_path, CITY, "test")
    assert not problems
    assert pair.stem == "ulm/a"
    assert pair.instance.endswith("a_instanceIds.png")
    (tmp_path / "fine/val/ulm/a_instanceIds.png").unlink()
    touch(tmp_path / "fine/val/ulm/b_instanceIds.png")
    assert [problem.kind for problem in index_pairs(tmp_path, CITY, "test")[1]] == [ProblemKind.MASK_WITHOUT_INSTANCES]


def test_masks_alone(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "b.png")
    touch(tmp_path / "sub/a.png", tmp_path / "note.txt")
    entries, problems = index_masks(tmp_path)
    assert [entry.stem for entry in entries] == ["b", "sub/a"]
    assert not problems
    assert [problem.kind for problem in index_masks(tmp_path / "no")[1]] == [ProblemKind.FOLDER]


def test_masks_alone_of_a_mode_that_names_them(tmp_path):
    for kind in ("a_labelIds", "a_instanceIds", "a_color", "b_labelIds"):
        touch(tmp_path / "ulm" / f"{kind}.png")
    entries, problems = index_masks(tmp_path, CITY)
    assert [(entry.stem, entry.instance) for entry in entries] == [("ulm/a", None), ("ulm/b", None)]
    assert not problems
    entries, _ = index_masks(tmp_path, CITY, with_instances=True)
    assert [entry.instance and entry.instance.rpartition("/")[2] for entry in entries] == ["a_instanceIds.png", None]
    # Masks from elsewhere are called as they like.
    for kind in ("a", "b"):
        (tmp_path / f"ulm/{kind}_labelIds.png").unlink()
    assert [entry.stem for entry in index_masks(tmp_path, CITY)[0]] == ["ulm/a_color", "ulm/a_instanceIds"]


@pytest.mark.parametrize(
    ("data_dir", "hint"),
    [("magnetic_tyle", "did you mean 'magnetic_tile'?"), ("Magnetik-Tile", "did you mean 'magnetic_tile'?"), ("x", "")],
)
def test_a_mistyped_folder_gets_the_near_name(tmp_path, data_dir, hint):
    for name in ("magnetic_tile", "magnetic_tile_good"):
        (tmp_path / name).mkdir()
    problem = index_pairs(tmp_path / data_dir, get_mode("multi-class"), "train")[1][0]
    assert (problem.kind, Path(problem.path)) == (ProblemKind.FOLDER, tmp_path / data_dir)
    assert hint in problem.remedy
    assert bool(hint) == ("did you mean" in problem.remedy)


def test_a_mistyped_folder_of_the_layout_is_not_asked_for(tmp_path):
    (tmp_path / "trian").mkdir()
    problem = index_pairs(tmp_path, get_mode("multi-class"), "train")[1][0]
    assert Path(problem.path) == tmp_path / "train"
    assert "did you mean" not in problem.remedy


LISTED = {
    "good_dir": list_good_images,
    "image_dir": lambda folder: refuse_fatal(index_images("", get_mode("images"), "train", folder)[1]),
    "mask_dir": lambda folder: refuse_fatal(index_masks(folder, key="mask_dir")[1]),
}


@pytest.mark.parametrize("key", LISTED)
@pytest.mark.parametrize(("name", "hint"), [("goods", "did you mean 'good'?"), ("images", "")])
def test_folders_beside_the_dataset_get_the_near_name_too(tmp_path, key, name, hint):
    """They have no layout, so nobody is told to rename, move or make anything."""
    for there in ("good", "data"):
        (tmp_path / there).mkdir()
    with pytest.raises(DataError) as error:
        LISTED[key](tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert str(error.value).endswith(hint or f"check {key}")
