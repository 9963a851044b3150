from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.scan.scan import scan_dataset, scan_masks
from guided_diffusion.runtime.errors import DataError

SHAPE = (6, 8)


def mask(*values: int, dtype=np.uint8) -> np.ndarray:
    """Return a mask that holds exactly the values, the first one most often."""
    array = np.full(SHAPE, values[0], dtype)
    array.reshape(-1)[: len(values)] = values
    return array


def colored(*colors: tuple[int, int, int]) -> np.ndarray:
    array = np.full((*SHAPE, 3), colors[0], np.uint8)
    array.reshape(-1, 3)[: len(colors)] = colors
    return array


def scan(root: Path, mode: str = "multi-class", split: str = "train", **options):
    return scan_dataset(root, get_mode(mode), split, progress=False, **options)


def fatal(report) -> Problem:
    """Return the one fatal problem of a report."""
    (problem,) = report.fatal
    with pytest.raises(DataError) as caught:
        report.raise_if_fatal()
    assert caught.value.messages == (problem.line,)
    return problem


def test_a_background_of_another_number_is_told(build):
    masks = {"a": mask(0, 1, 2)}
    report = scan(build(masks, classes={"0": "crack", "1": "background", "2": "dent"}))
    (told,) = [problem for problem in report.warnings if problem.kind is ProblemKind.CLASSES_FILE]
    assert told.path.endswith("classes.json")
    assert "class 1 is called 'background', but class 0, 'crack'," in told.found


def test_a_sound_dataset(build):
    root = build(
        {"a": mask(0, 1), "b": mask(0), "sub/c": mask(0, 1, 2)}, classes={"0": "ground", "1": "hole", "2": "crack"}
    )
    report = scan(root)
    assert report.raise_if_fatal() == LabelEncoding(3, ("ground", "hole", "crack"), ((0,), (1,), (2,)))
    assert [stats.images for stats in report.classes] == [3, 2, 1]
    assert sum(stats.pixel_share for stats in report.classes) == pytest.approx(1)
    assert report.classes[2].pixel_share == pytest.approx(1 / 144)
    assert report.all_background == 1
    assert report.image_modes == ("RGB",) * 3
    table = report.table()
    assert "1 hole" in table
    assert "0.69 %" in table
    assert "3 pairs, width 8, height 6 pixels" in table
    assert "no problems found" in table


@pytest.mark.parametrize("value", [1, 128, 255])
def test_binary_finds_its_other_value(build, value):
    encoding = scan(build({"a": mask(0, value), "b": mask(0)}), "binary").raise_if_fatal()
    assert encoding.values == ((0,), (value,))
    assert encoding.binary


def test_binary_of_background_alone_is_a_warning(build):
    report = scan(build({"a": mask(0)}), "binary")
    assert report.raise_if_fatal().values == ((0,), (255,))
    assert {problem.kind for problem in report.warnings} == {ProblemKind.EMPTY_CLASS, ProblemKind.BACKGROUND}


def test_binary_with_classes_json_may_be_inverted(build):
    root = build({"a": mask(0, 255)}, classes={"0": {"name": "ground", "value": 255}, "1": "hole"})
    assert scan(root, "binary").raise_if_fatal().values == ((255,), (0,))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(mask(0, 1)), "grey8"),
        (Image.fromarray(mask(0, 1).astype(np.uint16)), "grey16"),
        (Image.fromarray(mask(0, 1).astype(bool)), "grey8"),
        (Image.fromarray(colored((0, 0, 0), (1, 1, 1))), "rgb"),
    ],
)
def test_masks_are_written_in_the_form_in_which_they_were_read(build, tmp_path, image, kind):
    root = build({"a": image})
    encoding = scan(root, num_classes=2).raise_if_fatal()
    assert encoding.kind == kind
    label = read_mask(root / "train/masks/a.png", encoding)
    assert label.tolist() == mask(0, 1).tolist()
    encoding.encode(label).save(tmp_path / "again.png")
    assert read_mask(tmp_path / "again.png", encoding).tolist() == label.tolist()
    assert Image.open(tmp_path / "again.png").mode == ("L" if image.mode == "1" else image.mode)


def test_palette_masks_keep_their_palette_and_large_indices(build, tmp_path):
    image = Image.fromarray(mask(0, 1, 255))
    image.putpalette([0, 0, 0, 255, 0, 0])
    encoding = scan(build({"a": image}), num_classes=2, ignore_label=255).raise_if_fatal()
    encoding.encode(np.array([[0, 1, 2]])).save(tmp_path / "p.png")
    written = Image.open(tmp_path / "p.png")
    assert written.mode == "P"
    assert np.asarray(written).tolist() == [[0, 1, 255]]
    assert written.getpalette()[:6] == [0, 0, 0, 255, 0, 0]


def test_rgb_masks_with_a_color_map(build):
    classes = {"0": {"name": "ground", "color": [0, 0, 0]}, "1": {"name": "hole", "color": [255, 0, 0]}}
    classes["ignore"] = {"color": [255, 255, 255]}
    root = build({"a": colored((0, 0, 0), (255, 0, 0), (255, 255, 255))}, classes=classes)
    report = scan(root)
    assert report.raise_if_fatal().kind == "rgb"
    assert report.ignored_share == pytest.approx(1 / 48)
    assert "(ignored)" in report.table()


def test_ignored_values_are_no_class(build):
    report = scan(build({"a": mask(0, 1, 255)}), num_classes=2, ignore_label=255)
    assert report.raise_if_fatal().ignore_values == (255,)
    assert [stats.images for stats in report.classes] == [1, 1]


CLASSES = {"0": "ground", "1": "hole"}
UNKNOWN = ProblemKind.UNKNOWN_VALUES


@pytest.mark.parametrize(
    ("masks", "options", "kind", "path", "tokens"),
    [
        ({"a": mask(0, 255)}, {"num_classes": 2}, UNKNOWN, "a.png", ["values 255 ", "dataset_mode to binary"]),
        ({"a": mask(0, 255)}, {}, ProblemKind.NUM_CLASSES, "num_classes", ["values 0, 255", "dataset_mode to binary"]),
        ({"a": mask(0, 1, 2)}, {}, ProblemKind.NUM_CLASSES, "num_classes", ["0..2", "num_classes to 3"]),
        (
            {"a": mask(0, 1), "b": mask(0, 1, 9), "c": mask(0, 1)},
            {},
            ProblemKind.NUM_CLASSES,
            "num_classes",
            ["9 in 1 of 3 masks", "masks/b.png", '"2": {"name": "class 2", "value": 9}'],
        ),
        ({"a": mask(0, 1, 9)}, {"num_classes": 2}, UNKNOWN, "a.png", ["values 9 ", '"ignore": {"values": [9]}']),
        ({"a": mask(1, 2), "b": mask(3)}, {"num_classes": 3}, UNKNOWN, "b.png", ["values 3 ", '"value": 1']),
        ({"a": mask(0, 1, 2)}, {"classes": CLASSES}, UNKNOWN, "a.png", ["values 2 ", "num_classes is 2"]),
        (
            {"a": mask(0, 1)},
            {"classes": CLASSES, "num_classes": 3},
            ProblemKind.NUM_CLASSES,
            "num_classes",
            ["3 found", "classes.json lists 2"],
        ),
        (
            {"a": mask(0, 1)},
            {"mode": "binary", "num_classes": 5},
            ProblemKind.NUM_CLASSES,
            "num_classes",
            ["5 found", "dataset_mode multi-class"],
        ),
        (
            {"a": mask(0)},
            {"mode": "binary", "classes": {"0": "a"}},
            ProblemKind.CLASSES_FILE,
            "classes.json",
            ["1 classes", "dataset_mode binary has 2"],
        ),
        (
            {"a": mask(0, 1), "b": mask(0, 255)},
            {"mode": "binary"},
            ProblemKind.BINARY_VALUES,
            "a.png",
            ["0, 1, 255", "classes.json"],
        ),
        ({"a": mask(1, 2)}, {"mode": "binary"}, ProblemKind.BINARY_VALUES, "a.png", ["1, 2"]),
        (
            {"a": mask(0, 255), "b": mask(0)},
            {"mode": "binary", "ignore_label": 255},
            ProblemKind.IGNORE_LABEL,
            "ignore_label",
            ["255", "nothing is left"],
        ),
        ({"a": mask(*range(40))}, {"mode": "binary"}, ProblemKind.BINARY_VALUES, "a.png", ["0..39", "JPEG"]),
        (
            {"a": mask(0, 1)},
            {"num_classes": 2, "ignore_label": 1},
            ProblemKind.CLASSES_FILE,
            "ignore_label",
            ["value 1 ", "class 1 ", "ignore"],
        ),
        (
            {"a": mask(0, 1)},
            {"num_classes": 2, "ignore_label": -1},
            ProblemKind.IGNORE_LABEL,
            "ignore_label",
            ["-1", "0..65535"],
        ),
        ({"a": mask(0, 1)}, {"num_classes": 99999}, ProblemKind.NUM_CLASSES, "num_classes", ["99999", "32767"]),
        (
            {"a": colored((0, 0, 0), (255, 0, 0))},
            {},
            ProblemKind.UNMAPPED_COLORS,
            "a.png",
            ["1 of 1 masks", "(255, 0, 0)", '"color": [255, 0, 0]'],
        ),
        (
            {"a": colored((0, 0, 0), (9, 9, 0))},
            {"classes": {"0": {"name": "a", "color": [0, 0, 0]}}},
            UNKNOWN,
            "a.png",
            ["colors (9, 9, 0) ", "classes.json"],
        ),
        ({"a": mask(0, 1)}, {"classes": '{"0": '}, ProblemKind.CLASSES_FILE, "classes.json", ["line 1, column"]),
        (
            {"a": mask(0, 1)},
            {"classes": {"0": "a", "1": {"name": "b", "value": 0}}},
            ProblemKind.CLASSES_FILE,
            "classes.json",
            ["value 0 ", "class 0 ", "class 1"],
        ),
    ],
)
def test_labels_that_do_not_fit(build, masks, options, kind, path, tokens):
    root = build(masks, classes=options.pop("classes", None))
    problem = scan(root, **options).fatal[0]
    assert (problem.kind, Path(problem.path).name) == (kind, path)
    assert all(token in f"{problem.found}; {problem.remedy}" for token in tokens), problem.line


@pytest.mark.parametrize(
    ("masks", "named"),
    [
        ([(0, 1, 2), (0, 1, 2, 3), (0, 9), (0, 9)], "9 in 2 of 4 masks"),  # not 3, which is a class
        ([(0, 100, 200), (0, 100, 200), (0, 37, 100)], "37 in 1 of 3 masks"),
        ([(0, 1, 2), (0, 2), (0, 1)], "2 in 2 of 3 masks"),  # no gap: the highest
        ([(0, 1, 3, 9), (0, 1)], "9 in 1 of 2 masks"),
    ],
)
def test_the_value_that_may_be_a_slip_is_named(build, masks, named):
    report = scan(build({f"m{index}": mask(*values) for index, values in enumerate(masks)}))
    assert named in fatal(report).found


def test_the_lines_that_are_named_make_a_classes_file(build):
    remedy = fatal(scan(build({"a": mask(0, 1, 9), "b": mask(0, 4)}))).remedy
    lines = remedy[remedy.index("{") : remedy.rindex("}") + 1]
    root = build({"a": mask(0, 1, 9), "b": mask(0, 4)}, classes=lines)
    assert scan(root).raise_if_fatal().values == ((0,), (1,), (4,), (9,))


def test_all_mistakes_are_collected_with_a_line_each(build):
    root = build({name: mask(0, 1) for name in "abcdefg"})
    train = root / "train"
    (train / "images/a.png").unlink()
    (train / "masks/b.png").unlink()
    Image.new("RGB", SHAPE[::-1]).save(train / "images/c.jpg")
    (train / "images/d.png").write_bytes((train / "images/d.png").read_bytes()[:60])
    (train / "masks/e.png").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(train / "images/f.png")
    Image.fromarray(mask(0, 7)).save(train / "masks/g.png")
    report = scan(root, num_classes=2)
    assert {(problem.kind, Path(problem.path).relative_to(train).as_posix()) for problem in report.fatal} == {
        (ProblemKind.MASK_WITHOUT_IMAGE, "masks/a.png"),
        (ProblemKind.IMAGE_WITHOUT_MASK, "images/b.png"),
        (ProblemKind.DUPLICATE, "images/c.png"),
        (ProblemKind.UNREADABLE, "images/d.png"),
        (ProblemKind.UNREADABLE, "masks/e.png"),
        (ProblemKind.SIZES, "images/f.png"),
        (ProblemKind.UNKNOWN_VALUES, "masks/g.png"),
    }
    with pytest.raises(DataError) as caught:
        report.raise_if_fatal()
    assert caught.value.messages == tuple(problem.line for problem in report.fatal)


@pytest.mark.skipif(os.name == "nt", reason="no colons in names there")
def test_punctuation_in_a_path_is_part_of_the_path(build):
    root = build({"a: b; c": mask(0)})
    path = root / "train/masks/a: b; c.png"
    path.write_bytes(b"")
    (problem,) = scan(root, num_classes=2).fatal
    assert (problem.path, problem.kind) == (str(path), ProblemKind.UNREADABLE)
    assert "0 bytes" in problem.found


def test_sizes_are_compared_upright(build):
    exif = Image.Exif()
    exif[0x0112] = 6
    root = build({"a": mask(0, 1)})
    Image.new("RGB", SHAPE).save(root / "train/images/a.png")
    problem = fatal(scan(root, num_classes=2))
    assert (problem.kind, problem.path) == (ProblemKind.SIZES, str(root / "train/images/a.png"))
    assert "EXIF" in problem.found
    Image.new("RGB", SHAPE).save(root / "train/images/a.png", exif=exif)
    scan(root, num_classes=2).raise_if_fatal()


def test_warnings_do_not_stop(build):
    gray = {f"{name}.png": np.arange(48, dtype=np.uint8).reshape(SHAPE) * 5 for name in "ab"}
    root = build({"a": mask(1), "b": mask(1)}, images=gray, classes={"0": "ground", "1": "hole", "2": "crack"})
    report = scan(root, batch_size=16)
    report.raise_if_fatal()
    assert {(problem.kind, problem.path) for problem in report.problems} == {
        (ProblemKind.EMPTY_CLASS, "class 0"),
        (ProblemKind.EMPTY_CLASS, "class 2"),
        (ProblemKind.SHORT_BATCH, str(root)),
        (ProblemKind.IMAGE_COLORS, "image_channels"),
        (ProblemKind.REPEATED_IMAGE, str(root / "train/images/b.png")),
    }
    text = report.table()
    assert "labels may start at 1" in text
    assert all(f"warning: {problem.line}" in text for problem in report.warnings)
    dark = {"a.png": np.full(SHAPE, 4000, np.uint16)}
    Image.fromarray(dark["a.png"]).save(root / "train/images/a.png")
    (depth,) = (problem for problem in scan(root).warnings if problem.kind is ProblemKind.IMAGE_DEPTH)
    assert depth.path == "images"
    assert "4000" in depth.found
    assert ProblemKind.IMAGE_COLORS not in {problem.kind for problem in scan(root, image_channels=1).warnings}


def test_another_split_is_held_against_a_given_encoding(build):
    encoding = scan(build({"a": mask(0, 255)}), "binary").raise_if_fatal()
    root = build({"t": mask(0, 1)}, split="test")
    problem = fatal(scan(root, "binary", "test", encoding=encoding))
    assert (problem.kind, problem.path) == (UNKNOWN, str(root / "test/masks/t.png"))
    assert "values 1 " in problem.found


def test_masks_alone(build):
    root = build({"a": mask(0, 1), "sub/b": mask(0, 2)})
    report = scan_masks(root / "train/masks", LabelEncoding.identity(3), progress=False)
    report.raise_if_fatal()
    assert [entry.stem for entry in report.pairs] == ["a", "sub/b"]
    assert "2 masks" in report.table()
    problem = fatal(scan_masks(root / "train/masks", LabelEncoding.identity(2), progress=False))
    assert (problem.kind, problem.path) == (UNKNOWN, str(root / "train/masks/sub/b.png"))
    assert "values 2 " in problem.found
    problem = fatal(scan_masks(root / "nowhere", LabelEncoding.identity(2), progress=False))
    assert (problem.kind, problem.path) == (ProblemKind.FOLDER, str(root / "nowhere"))


def test_missing_split_is_one_line(build):
    root = build({"a": mask(0, 1)})
    problem = fatal(scan(root, split="valid"))
    assert (problem.kind, problem.path) == (ProblemKind.FOLDER, str(root / "valid"))
    assert "has train)" in problem.found
