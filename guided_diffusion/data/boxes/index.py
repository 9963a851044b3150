"""The pictures of a split with what annotations say of them."""

from __future__ import annotations

import fnmatch
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote

import blobfile as bf

from guided_diffusion.data.boxes.classes import with_classes
from guided_diffusion.data.boxes.coco import read_coco
from guided_diffusion.data.boxes.coco_stuff import read_coco_stuff
from guided_diffusion.data.boxes.json_records import entry_problem, file_problem
from guided_diffusion.data.boxes.records import AnnotationFile, BoxedImage
from guided_diffusion.data.boxes.vott import read_vott_assets, read_vott_export
from guided_diffusion.data.boxes.vott_csv import read_vott_csv
from guided_diffusion.data.files import is_folder, list_files
from guided_diffusion.data.masks.classes_file import read_classes
from guided_diffusion.data.modes import DatasetMode
from guided_diffusion.data.pairing import Pair, index_folder
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.runtime.errors import DataError

_COCO_STUFF = "coco-stuff"
_FRAME = re.compile(r"#t=[0-9.]+$")  # what VoTT appends to the name of a video


@dataclass(frozen=True)
class BoxIndex:
    """The annotated pictures of a split, sorted by name; `boxes` of the pairs are as annotated, not yet checked."""

    pairs: tuple[Pair, ...] = ()
    file: AnnotationFile | None = None
    problems: tuple[Problem, ...] = ()
    unlisted: int = 0
    """Pictures in the folder that the annotations do not name."""


def index_boxes(
    data_dir: str | Path,
    mode: DatasetMode,
    split: str,
    *,
    names: Sequence[str] | None = None,
    num_classes: int | None = None,
) -> BoxIndex:
    """Return the pictures of a split that annotations name, and what is wrong with the files and their entries.

    names: the classes of the training, None: those of classes.json or the annotations.
    """
    assert mode.boxes is not None
    folder = mode.folder(mode.images, data_dir, split)
    files, problems = index_folder(folder, "image", mode.images)
    paths, wrong = _annotation_files(data_dir, mode, split)
    problems += [problem for problem in wrong if problem not in problems]
    if not paths or not files:
        return BoxIndex(problems=tuple(problems))
    file = _read(paths)
    if mode.num_classes is not None and num_classes not in (None, mode.num_classes):
        found = f"{num_classes}, but dataset_mode {mode.name} has {mode.num_classes} classes"
        problems.append(Problem("num_classes", found, "leave it out", ProblemKind.NUM_CLASSES))
    if mode.num_classes is None:
        declared, mistakes = names, []
        if declared is None:
            classes, mistakes = read_classes(data_dir)
            declared = None if classes is None else classes.names
        problems += mistakes
        _, file = with_classes(file, declared, num_classes)
    problems += file.problems
    doubled = {problem.path for problem in problems if problem.kind is ProblemKind.DUPLICATE}
    pairs, wrong = _paired(file, folder, files, doubled)
    problems += wrong
    unlisted = len(files) - len({pair.stem for pair in pairs})
    return BoxIndex(tuple(pairs), file, tuple(problems), unlisted)


def _read(paths: Mapping[str, list[str]]) -> AnnotationFile:
    ((kind, found),) = paths.items()
    if kind == _COCO_STUFF:
        return read_coco_stuff(*found)
    if kind == "vott assets":
        return read_vott_assets(found)
    return {"coco": read_coco, "vott": read_vott_export, "vott csv": read_vott_csv}[kind](found[0])


def _annotation_files(
    data_dir: str | Path, mode: DatasetMode, split: str
) -> tuple[dict[str, list[str]], list[Problem]]:
    """Return the annotation files of a split by their format, of which there is one, or none and the problem."""
    rule = mode.boxes
    of_split = dict(mode.splits).get(split, split)
    folder = bf.join(str(data_dir), rule.folder.format(split=of_split))
    patterns = [(pattern.format(split=of_split), kind) for pattern, kind in rule.files]
    try:
        listed = [name for name, _ in list_files(folder) if "/" not in name] if is_folder(folder) else []
    except DataError as error:
        return {}, [Problem.of(error, ProblemKind.FOLDER)]
    found: dict[str, list[str]] = {}
    for pattern, kind in patterns:
        found.setdefault(kind, []).extend(bf.join(folder, name) for name in listed if fnmatch.fnmatch(name, pattern))
    found = {kind: paths for kind, paths in found.items() if paths}
    every = [path for paths in found.values() for path in paths]
    if rule.together:
        missing = [name for name, _ in patterns if name not in listed]
        problems = [file_problem(bf.join(folder, name), "the file does not exist", "put it there") for name in missing]
        return (found, []) if not missing else ({}, problems)
    if not every:
        wanted = " or ".join(pattern for pattern, _ in patterns)
        remedy = f"put the annotations there, as {wanted}"
        if any(name.endswith(".vott") for name in listed):
            remedy = f"a .vott file has no regions: export VoTT JSON from it, and put it there as {wanted}"
        if others := [name for name in listed if name.endswith(".json")]:
            remedy += f" (beside it is {others[0]})"
        return {}, [file_problem(folder, "no annotation file found", remedy)]
    if len(found) > 1 or (len(every) > 1 and "vott assets" not in found):
        names = ", ".join(os.path.basename(path) for path in every[:4])
        return {}, [file_problem(folder, f"several annotation files: {names}", "keep one of them in the folder")]
    return found, []


def _paired(
    file: AnnotationFile, folder: str, files: Mapping[str, str], doubled: Collection[str]
) -> tuple[list[Pair], list[Problem]]:
    """Return a pair for each picture that the annotations name and that is there, and a problem for each other one.

    doubled: paths of pictures that are left out because another one has their stem, which is said already.
    """

    def relative(path: str) -> str:
        own = folder if path.startswith(folder) else os.path.abspath(folder)  # local files are listed by these
        return unicodedata.normalize("NFC", path[len(own) :].replace(os.sep, "/").lstrip("/"))

    by_name = {relative(path): stem for stem, path in files.items()}
    left_out = {relative(path) for path in doubled}
    by_lower = {name.lower(): name for name in by_name}
    named: dict[str, str] = {}
    pairs, problems = [], []
    for image in file.images:
        entry = f"image {image.path}"
        stem = _stem_of(image.path, by_name, files)
        if stem is None and image.path in left_out:
            continue
        if stem is None:
            problems.append(entry_problem(file.path, entry, f"is not in {folder}", _where(image, by_lower)))
        elif stem in named:
            same = "" if named[stem] == image.path else f", as {named[stem]} is the same picture"
            problems.append(entry_problem(file.path, entry, f"is there twice{same}", "list every picture once"))
        else:
            named[stem] = image.path
            pairs.append(Pair(stem, files[stem], None, boxes=replace(image, path=files[stem])))
    if not file.images and not file.problems:
        problems.append(file_problem(file.path, "no picture is labeled", "label some, and export again"))
    return sorted(pairs, key=lambda pair: pair.stem), problems


def _stem_of(name: str, by_name: Mapping[str, str], files: Mapping[str, str]) -> str | None:
    """Return the stem of the picture that is meant; names of VoTT may be URL-encoded, those of frames lack a suffix."""
    for spelled in (name, unquote(name)):
        spelled = unicodedata.normalize("NFC", spelled)
        if spelled in by_name:
            return by_name[spelled]
        if _FRAME.search(spelled) and spelled in files:
            return spelled
    return None


def _where(image: BoxedImage, by_lower: Mapping[str, str]) -> str:
    """Return the remedy for a picture that is not there."""
    if _FRAME.search(image.path):
        return f"a frame of a video: save it there as {image.path}.png, or remove its entry"
    near = by_lower.get(image.path.lower())
    if near is None:
        last = image.path.lower().rpartition("/")[2]
        same = [name for lower, name in by_lower.items() if lower.rpartition("/")[2] == last]
        near = same[0] if len(same) == 1 else None
    return "put it there, or remove its entry" if near is None else f"{near} is there: write it so"
