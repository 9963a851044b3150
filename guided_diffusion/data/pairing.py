"""Pairs images and masks by their path relative to their folder, without the extension."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import blobfile as bf

from guided_diffusion.data.boxes.records import BoxedImage
from guided_diffusion.data.files import exists, is_folder, list_files
from guided_diffusion.data.modes import PICTURES, DatasetMode, FileRule
from guided_diffusion.data.scan.problems import Problem, ProblemKind, refuse_fatal
from guided_diffusion.runtime.errors import DataError

_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".npy", ".jp2")
_FOLDER_SYNONYMS = {
    "images": ("image", "img", "imgs", "jpegimages", "photos", "pictures"),
    "masks": ("mask", "label", "labels", "annotation", "annotations", "gt", "groundtruth", "segmentation"),
    "train": ("training", "trn"),
    "test": ("testing", "val", "valid", "validation"),
    "training": ("train", "trn"),
    "validation": ("val", "valid"),
    "val": ("valid", "validation"),
    "annotations": ("annotation", "masks", "labels", "sceneparsing"),
    "labels": ("label", "masks", "annotations"),
}
_OF_MASKS = frozenset({"masks", "mask", "labels", "annotations", "gt", "groundtruth", "ground_truth", "segmentation"})
"""Folders that hold masks, in lower case; `label` may be what an image shows."""
_ANY_PNG = FileRule("", (".png",))
_ANY_IMAGE = FileRule("", PICTURES)
_INSTANCE_MAP = "instance map"
GOOD_STEM, IMAGE_DIR_STEM = "good image: ", "image_dir: "
"""Before the stems of images beside a dataset, which may have names of its own; no file name has it on Windows."""


@dataclass(frozen=True)
class MaskEntry:
    """A mask to sample from, by paths; `stem` is its path in its folder, without the extension."""

    stem: str
    mask: str
    instance: str | None = None
    upright: bool = True  # read with EXIF orientations applied


@dataclass(frozen=True)
class Pair:
    """An image with its mask and instance map, by paths; `stem` is what their paths in their folders share.

    mask: None for an image that is trained on without one, by a network without a condition, or with `boxes`.
    """

    stem: str
    image: str
    mask: str | None
    instance: str | None = None
    upright: bool = True  # read with EXIF orientations applied
    boxes: BoxedImage | None = None


@dataclass(frozen=True)
class GoodImage:
    """An image without defects, by its path; `stem` is its path in its folder, without the extension.

    mask: its label map of ordinary classes, None if the whole image is background.
    """

    stem: str
    image: str
    mask: str | None = None
    upright: bool = True  # read with EXIF orientations applied


def index_pairs(
    data_dir: str | Path, mode: DatasetMode, split: str, *, with_instances: bool = True, first: int | None = None
) -> tuple[list[Pair], list[Problem]]:
    """Return the pairs of a split, sorted by stem, and every file that has no partner.

    Fatal problems: a mode without masks, missing or empty folders, images, masks or instance maps without partner, two
    files of one stem. with_instances: False ignores the mode's instance maps. first: so many pairs, None: all.
    """
    if mode.masks is None:
        remedy = "set it to the layout of a dataset with masks"
        return [], [Problem("dataset_mode", f"{mode.name}, which has no masks", remedy, ProblemKind.FOLDER)]
    rules = {"image": mode.images, "mask": mode.masks}
    if mode.instances is not None and with_instances:
        rules[_INSTANCE_MAP] = mode.instances
    folders = {what: mode.folder(rule, data_dir, split) for what, rule in rules.items()}
    files: dict[str, dict[str, str]] = {}
    problems: list[Problem] = []
    for what, rule in rules.items():
        beside = [other for each, other in rules.items() if each != what and folders[each] == folders[what]]
        files[what], new = index_folder(folders[what], what, rule, beside)
        if what == _INSTANCE_MAP and not files[what]:
            # Only edges need them.
            new = [replace(problem, remedy=f"{problem.remedy}, or set no_instance to true") for problem in new]
        # The missing folder may be a common parent (the data directory, the split): report it once.
        problems += [problem for problem in new if problem not in problems]
    if not all(files.values()):
        return [], problems
    explained: set[str] = set()
    for kind, what, partner in (
        (ProblemKind.IMAGE_WITHOUT_MASK, "image", "mask"),
        (ProblemKind.MASK_WITHOUT_IMAGE, "mask", "image"),
        (ProblemKind.MASK_WITHOUT_INSTANCES, "mask", _INSTANCE_MAP),
    ):
        if partner in rules:
            of_partner = files[partner], folders[partner], rules[partner]
            problems += _unpaired(kind, what, files[what], *of_partner, explained)
    images, masks, instances = files["image"], files["mask"], files.get(_INSTANCE_MAP, {})
    stems = sorted(images.keys() & masks.keys())[:first]
    pairs = [Pair(stem, images[stem], masks[stem], instances.get(stem)) for stem in stems]
    return pairs, problems


def list_pairs(data_dir: str | Path, mode: DatasetMode, split: str) -> list[Pair]:
    """Return the pairs of a split, without instance maps; DataError for fatal problems."""
    pairs, problems = index_pairs(data_dir, mode, split, with_instances=False)
    refuse_fatal(problems)
    return pairs


def count_pairs(data_dir: str | Path, mode: DatasetMode, split: str) -> int:
    """Return the number of pairs of a split, whose instance maps do not count; DataError for fatal problems."""
    return len(list_pairs(data_dir, mode, split))


def index_images(
    data_dir: str | Path, mode: DatasetMode, split: str, image_dir: str | Path = ""
) -> tuple[list[Pair], list[Problem]]:
    """Return the images of a split and then those below the folder `image_dir`, their masks left aside; "" is none.

    Fatal problems: missing or empty folders, two files of one stem, masks below `image_dir`.
    """
    files: dict[str, str] = {}
    problems: list[Problem] = []
    if data_dir:
        files, problems = index_folder(mode.folder(mode.images, data_dir, split), "image", mode.images)
        files = dict(sorted(files.items()))
    if image_dir:
        folder = str(image_dir)
        beside, new = index_folder(folder, "image", _ANY_IMAGE, key="image_dir")
        problems += new
        if nested := _in_mask_folders(beside):
            found = "is a mask, as its folder says, and would be trained on as an image"
            remedy = f"give the folder of the images, not {folder}"
            problems.append(Problem(nested[0], found, remedy, ProblemKind.FOLDER))
        files = files | {IMAGE_DIR_STEM + stem: path for stem, path in sorted(beside.items())}
    return [Pair(stem, path, None) for stem, path in files.items()], problems


def index_masks(
    folder: str | Path, mode: DatasetMode | None = None, *, with_instances: bool = False, key: str = "the path"
) -> tuple[list[MaskEntry], list[Problem]]:
    """Return the masks below a folder, sorted by stem, and problems (missing or empty folder, two files of one stem).

    mode: if any file has its name for masks, only such files are masks; otherwise every PNG is one.
    with_instances: add the instance maps found beside the masks, if the mode keeps them there. key: names the folder.
    """
    rule = None if mode is None else mode.masks
    masks, problems = ({}, []) if rule is None else index_folder(str(folder), "mask", rule, key=key)
    if rule is None or not masks:
        masks, problems = index_folder(str(folder), "mask", _ANY_PNG, key=key)
        return [MaskEntry(stem, masks[stem]) for stem in sorted(masks)], problems
    instances: dict[str, str] = {}
    if with_instances and mode.instances is not None and mode.instances.folder == rule.folder:
        instances, _ = index_folder(str(folder), _INSTANCE_MAP, mode.instances)
    return [MaskEntry(stem, masks[stem], instances.get(stem)) for stem in sorted(masks)], problems


def list_good_images(folder: str | Path, *, upright: bool = True) -> list[GoodImage]:
    """Return the good images in `<folder>/images`, with masks if there is `<folder>/masks`, sorted by stem; without
    images/ those in `folder` itself. Sub-folders count.
    Raises DataError for a missing or empty folder, two files of one stem, images without a mask beside masks/, and
    masks in a folder of another name.
    """
    root = str(folder)
    refuse_missing_folder(root, "good_dir")
    inside, of_masks = bf.join(root, "images"), bf.join(root, "masks")
    has_images = is_folder(inside)
    images, problems = index_folder(inside if has_images else root, "good image", _ANY_IMAGE)
    masks: dict[str, str] = {}
    if has_images and is_folder(of_masks):
        masks, new = index_folder(of_masks, "mask", _ANY_PNG)
        problems += new
        if images and masks:
            kind = ProblemKind.IMAGE_WITHOUT_MASK
            problems += _unpaired(kind, "image", images, masks, of_masks, _ANY_PNG, set())
    refuse_fatal(problems)
    if nested := _in_mask_folders(images):
        found = "is a mask, as its folder says, and would be taken for a good image"
        raise DataError.of(nested[0], found, f"give the folder that holds images/ and masks/, not {root}")
    if has_images and not masks:
        for name in (name.rstrip("/") for name in sorted(bf.listdir(root))):
            other = bf.join(root, name)
            if name.lower() in _OF_MASKS and is_folder(other) and index_folder(other, "mask", _ANY_PNG)[0]:
                remedy = "rename it to masks, or take it away if its masks do not count"
                raise DataError.of(other, "has masks of good images, which are read from masks/ alone", remedy)
    return [GoodImage(stem, images[stem], masks.get(stem), upright) for stem in sorted(images)]


def refuse_missing_folder(folder: str, key: str) -> None:
    """Raise DataError for a folder that does not exist; key: the option that names it."""
    if not is_folder(folder):
        refuse_fatal([_missing_folder(folder, key)])


def _in_mask_folders(images: Mapping[str, str]) -> list[str]:
    """Return the paths of images by stem that lie in a folder of masks, as its name says."""
    return [path for stem, path in images.items() if _OF_MASKS & set(stem.lower().split("/")[:-1])]


def index_folder(
    folder: str, what: str, rule: FileRule, beside: Sequence[FileRule] = (), *, key: str = "data_dir"
) -> tuple[dict[str, str], list[Problem]]:
    """Return stem -> path of the files that `rule` means in a folder, and what is wrong with the folder.

    beside: what else is meant to lie there. key: the option that names the folder, or one above it.
    """
    try:
        if not is_folder(folder):
            return {}, [_missing_folder(folder, key)]
        listed = list_files(folder)
    except DataError as error:
        return {}, [Problem.of(error, ProblemKind.FOLDER)]
    files: dict[str, str] = {}
    problems = []
    for relative, path in listed:
        stem = rule.stem(relative)
        if stem is None:
            continue
        stem = unicodedata.normalize("NFC", stem)  # macOS stores "é" as two code points
        if stem in files:
            remedy = f"keep one of them, or rename it and its partner: every {what} needs a name of its own"
            problems.append(
                Problem(path, f"a second {what} named {stem!r} beside {files[stem]}", remedy, ProblemKind.DUPLICATE)
            )
        else:
            files[stem] = path
    meant = (rule, *beside)
    others = [
        relative
        for relative, _ in listed
        if _is_picture(relative) and all(each.stem(relative) is None for each in meant)
    ]
    if not files:
        found = f"no {what} files ({', '.join('*' + rule.stem_suffix + suffix for suffix in rule.suffixes)}) found"
        if others:
            found += f", but {len(others)} files of other formats or names such as {others[0]}"
        problems.append(Problem(folder, found, f"put the {what}s there", ProblemKind.FOLDER))
    elif others and not rule.stem_suffix:
        found = f"{len(others)} files of other formats are not used (such as {others[0]})"
        remedy = f"convert them to {' or '.join(rule.suffixes)} if they are {what}s"
        problems.append(Problem(folder, found, remedy, ProblemKind.OTHER_FORMATS, fatal=False))
    return files, problems


def _is_picture(relative: str) -> bool:
    return relative.lower().endswith(_PICTURES)


def _missing_folder(folder: str, key: str) -> Problem:
    """Name the first folder of the path that does not exist, and the folders beside it; key: what names the path."""
    missing, parent = folder, bf.dirname(folder)
    while parent and not is_folder(parent) and bf.dirname(parent) != parent:
        missing, parent = parent, bf.dirname(parent)
    if exists(missing):
        return Problem(missing, "is a file, not a folder", f"check {key}", ProblemKind.FOLDER)
    if not parent or not is_folder(parent):
        return Problem(missing, "the folder does not exist", f"check {key}", ProblemKind.FOLDER)
    name = bf.basename(missing)
    entries = sorted(entry.rstrip("/") for entry in bf.listdir(parent))
    present = [entry for entry in entries if not entry.startswith(".") and is_folder(bf.join(parent, entry))]
    listing = f"{parent} has {', '.join(present[:8])}" if present else f"{parent} has no folders"
    layout = key == "data_dir"  # whose folders have names that are given
    wanted = _FOLDER_SYNONYMS.get(name.lower(), ()) if layout else ()
    alike = [entry for entry in present if entry.lower() == name.lower() or entry.lower() in wanted]
    by_lower = {entry.lower(): entry for entry in present}
    near = () if layout and name in _FOLDER_SYNONYMS else difflib.get_close_matches(name.lower(), by_lower, n=1)
    if alike and layout:
        remedy = f"rename {alike[0]!r} to {name!r}"
    elif near:
        remedy = f"did you mean {by_lower[near[0]]!r}?"
    elif not layout:
        remedy = f"check {key}"
    elif "images" in present and name not in _FOLDER_SYNONYMS["images"]:
        remedy = f"move its contents into {missing}, or point data_dir at the folder that holds {name!r}"
    else:
        remedy = f"check data_dir, or make {name!r}"
    return Problem(missing, f"the folder does not exist ({listing})", remedy, ProblemKind.FOLDER)


def _unpaired(
    kind: ProblemKind,
    what: str,
    files: Mapping[str, str],
    partners: Mapping[str, str],
    folder: str,
    rule: FileRule,
    explained: set[str],
) -> list[Problem]:
    """Return a problem for each of `files` without a partner, with the file that is probably meant if there is one.

    explained: files that an earlier problem has named as the one probably meant; the files named here are added.
    """
    unpaired = sorted(stem for stem in files.keys() - partners.keys() if files[stem] not in explained)
    if not unpaired:
        return []
    unused = sorted(partners.keys() - files.keys())
    by_lower = {stem.lower(): stem for stem in unused}
    other_format = {rel.rpartition(".")[0]: rel for rel, _ in list_files(folder) if rule.stem(rel) is None}
    problems = []
    for stem in unpaired:
        expected = f"{stem}{rule.stem_suffix}{rule.suffixes[-1]}"
        other = other_format.get(stem, "")
        if _is_picture(other) and bf.join(folder, other) != files[stem]:
            lossy = other.lower().endswith((".jpg", ".jpeg"))
            reason = "JPEG changes label values: export it" if lossy else "convert it"
            remedy = f"{other} is there, but {reason} as {expected}"
        elif (close := by_lower.get(stem.lower()) or _extended(stem, unused)) is not None:
            remedy = f"{partners[close]} is unpaired: rename it to {expected} if it is meant"
            explained.add(partners[close])
        else:
            remedy = f"add {bf.join(folder, expected)}, or remove the {what}"
        problems.append(Problem(files[stem], kind.value, remedy, kind))
    return problems


def _extended(stem: str, unused: Iterable[str]) -> str | None:
    """Return the one unused stem that is `stem` with something before or after it (`a` and `a_mask`), if any."""
    base = stem.rpartition("/")[2]
    ends = {other: other.rpartition("/")[2] for other in unused}
    alike = [other for other, end in ends.items() if end.startswith(base) or end.endswith(base) or base.startswith(end)]
    return alike[0] if len(alike) == 1 else None
