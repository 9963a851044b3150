"""Pascal VOC: label maps in SegmentationClass, by the colors of labelmap.txt, or by their indices without one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.data.boxes.json_records import entry_problem
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.formats.annotated import IGNORED_ID, Annotated, Loss, LossKind, Picture, names_by_value
from guided_diffusion.data.formats.source_files import SourceFiles, first_names, normal_name, split_of
from guided_diffusion.data.formats.writers.voc import VOID
from guided_diffusion.data.masks.advice import describe_colors, describe_values
from guided_diffusion.data.masks.encoding import pack_colors, raw_mask
from guided_diffusion.data.masks.palettes import MaskFacts, palette_conflict, values_of_grays
from guided_diffusion.data.scan.problems import Problem, problem_lines
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.runtime.errors import DataError

FORM = "Pascal VOC"
MASKS, IMAGES, LABEL_MAP = "SegmentationClass", "JPEGImages", "labelmap.txt"
_VOID_INDEX = 255
_ROW = "write lines such as scratch:255,0,0::"


def bases(names: Sequence[str]) -> list[str]:
    """Return the folders, each "" or with a slash at its end, that have SegmentationClass."""
    split = (f"/{name}".partition(f"/{MASKS}/") for name in names)
    return sorted({f"{before}/".lstrip("/") for before, found, _ in split if found})


def read_voc(files: SourceFiles, classes: Sequence[str] = ()) -> Annotated:
    """Return the images that have a label map; classes in the order of labelmap.txt, else `classes` by index."""
    found = bases(sorted(files.files))
    if len(found) != 1:
        has = f"has {MASKS} in {' and in '.join(found)}" if found else f"has no folder {MASKS}"
        raise DataError.of(files.root, has, f"give the folder that has {MASKS} and {IMAGES}")
    base = found[0]
    label_map = files.files.get(f"{base}{LABEL_MAP}")
    colors = _read_label_map(label_map) if label_map else {}
    names = tuple(colors) or names_by_value(classes)
    if not colors and not classes:
        line = f"has no {LABEL_MAP} that says what the indices of the masks mean"
        raise DataError.of(files.root, line, "set classes to the names by index, the background first, or add it")
    by_color = all(colors.values()) if colors else False
    table = {color: index for index, color in enumerate(colors.values())} if by_color else None
    problems: list[Problem] = []
    folder = f"{base}{IMAGES}/" if files.root == files.image_root else ""
    images = _by_stem(files.pictures, normal_name(folder), "image", problems)
    masks = _by_stem(files.files, f"{base}{MASKS}/", "mask", problems)
    splits = _splits(files, base, (masks, images), problems)
    pictures, losses = [], []
    for stem, mask in sorted(masks.items()):
        if stem not in images:
            line, remedy = f"has no image of its name in {IMAGES}", "put it there, or set image_dir"
            problems.append(entry_problem(files.files[mask], "mask", line, remedy))
            continue
        read = partial(_labels, files.files[mask], len(names), table)
        path, split = files.pictures[images[stem]], splits.get(stem, "")
        pictures.append(Picture(images[stem], path, labels=read, split=split, file=files.files[mask]))
    if problems:
        raise DataError(problem_lines(problems))
    if table is None:
        _refuse_other_palettes([picture.file for picture in pictures])
    losses = [Loss(LossKind.UNLISTED, files.pictures[n], n) for stem, n in images.items() if stem not in masks]
    return Annotated(FORM, names, tuple(pictures), tuple(losses), complete=True)


def _by_stem(paths: Mapping[str, str], folder: str, what: str, problems: list[Problem]) -> dict[str, str]:
    """Return the names in `paths` of the files of a folder by their names below it, without extensions."""
    stems: dict[str, str] = {}
    for name in sorted(name for name in paths if name.startswith(folder)):
        stem = normal_name(name[len(folder) :].rpartition(".")[0])
        if stems.setdefault(stem, name) != name:
            found = f"is a second {what} named {stem}, beside {stems[stem]}"
            problems.append(entry_problem(paths[name], what, found, "take one of the two away"))
    return stems


def _read_label_map(path: str) -> dict[str, tuple[int, int, int] | None]:
    """Return the color of each class, None where the line has none; DataError for lines that are none."""
    colors: dict[str, tuple[int, int, int] | None] = {}
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = file.read().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split(":")
        name, text = fields[0].strip(), fields[1].strip() if len(fields) > 1 else ""
        parts = [part.strip() for part in text.split(",")] if text else []
        right = not parts or (len(parts) == 3 and all(part.isdecimal() and int(part) < 256 for part in parts))
        if not name or not right or len(fields) < 2:
            raise DataError.of(f"{path}: line {number}", f"is {line[:40]!r}", _ROW)
        if name in colors:
            raise DataError.of(f"{path}: line {number}", f"has {name!r} again", "name each class once")
        colors[name] = (int(parts[0]), int(parts[1]), int(parts[2])) if parts else None
    given = [color for color in colors.values() if color]
    bare = next((name for name, color in colors.items() if color is None), "")
    if not colors or len(set(given)) < len(given) or (given and bare):
        what = "has two classes of one color" if colors else "has no class"
        what = f"has colors, but none for {bare!r}" if given and bare else what
        raise DataError.of(path, what, _ROW)
    return colors


def _splits(files: SourceFiles, base: str, known: Sequence[Collection[str]], problems: list[Problem]) -> dict[str, str]:
    """Return the split of each listed stem. known: the stems of masks, and of images."""
    splits: dict[str, str] = {}
    start = f"{base}ImageSets/Segmentation/"
    for name in (name for name in files.files if name.startswith(start) and name.endswith(".txt")):
        split = split_of(name[len(start) :])
        if not split:
            continue  # trainval, default
        with open(files.files[name], encoding="utf-8-sig", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
        listed = {line: _listed(line, known) for line in lines}
        for stem in filter(None, listed.values()):
            if splits.setdefault(stem, split) != split:
                found, remedy = f"has {stem!r}, which {splits[stem]} has, too", "keep it in one of them"
                problems.append(entry_problem(files.files[name], split, found, remedy))
        if lacking := [line for line, stem in listed.items() if stem is None]:
            found, remedy = f"has {first_names(lacking)}: no mask or image of that name", "correct the list"
            problems.append(entry_problem(files.files[name], split, found, remedy))
    return splits


def _listed(line: str, known: Sequence[Collection[str]]) -> str | None:
    """Return the stem that a line names, whole or by its first field, as it is or with quotes or an extension.

    None where it names nothing. An image without a mask is named, and counted as lost.
    """
    names = [normal_name(text.strip("'\"")) for text in (line, line.split()[0])]
    names = [each for name in names for each in (name, name.rpartition(".")[0])]
    return next((name for stems in known for name in names if name in stems), None)


def _refuse_other_palettes(paths: Sequence[str]) -> None:
    facts = in_threads(MaskFacts.of_file, sorted(paths), "reading masks", True)
    if conflict := palette_conflict(facts, values_of_grays(facts)):
        remedy = f"add {LABEL_MAP} with a color for each class, or save all masks with one palette"
        raise DataError.of(conflict.path, conflict.found, remedy)


def _labels(path: str, count: int, table: Mapping[tuple[int, int, int], int] | None) -> NDArray[np.int32]:
    """Return the label map of a file. table: class by color; None: indices are classes."""
    raw = raw_mask(open_mask(path), path)
    if table is None:
        if raw.class_values is None:
            raise DataError.of(path, f"has colors, and there is no {LABEL_MAP}", "add it, with a color for each class")
        labels = raw.class_values.astype(np.int32)
        labels[labels == _VOID_INDEX] = IGNORED_ID
        if labels.max() >= count:
            found = f"has the indices {describe_values(np.unique(labels[labels >= count]))}, of {count} classes"
            raise DataError.of(path, found, "name all classes by classes, the background first")
        return labels
    colors = raw.colors
    assert colors is not None
    codes = np.unique(colors)  # without the positions, for which it would sort so many numbers of 64 bits
    by_code = {int(pack_colors(color)): index for color, index in table.items()}
    by_code.setdefault(int(pack_colors(VOID)), IGNORED_ID)
    unknown = [code for code in codes.tolist() if code not in by_code]
    if unknown:
        found = f"has the colors {describe_colors(unknown)}, which {LABEL_MAP} does not have"
        raise DataError.of(path, found, f"add their classes to {LABEL_MAP}")
    return np.array([by_code[code] for code in codes.tolist()], np.int32)[np.searchsorted(codes, colors)]
