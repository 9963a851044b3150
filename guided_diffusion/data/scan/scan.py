"""The scan before anything is trained: every file is opened, every mistake collected, the classes counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from guided_diffusion.data.datasets import image_tensor, size_mismatch
from guided_diffusion.data.files import open_image, open_mask, read_bytes
from guided_diffusion.data.fingerprint import PairPrint, content_digest, pixel_digest
from guided_diffusion.data.masks.classes_file import read_classes
from guided_diffusion.data.masks.encoding import LabelEncoding, RawMask, raw_mask
from guided_diffusion.data.masks.inference import ClassOptions, MaskFacts, infer_encoding, present_values
from guided_diffusion.data.modes import DatasetMode
from guided_diffusion.data.pairing import MaskEntry, Pair, index_masks, index_pairs
from guided_diffusion.data.scan.duplicates import (
    MOST_COMPARED,
    find_twins,
    thumbnail,
    twin_problems,
    uncompared_problem,
)
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.scan.report import ClassStats, ScanReport, SizeStats
from guided_diffusion.runtime.errors import DataError

# A smoothed RGB mask has any number of colors; more than these say nothing new.
_KEPT_CODES = 4096
_MUCH_BACKGROUND = 0.5
_DARK_16_BIT = 16384
_AS_IN_TRAINING = (
    "what masks mean was fixed by the training masks: write these in the same values as those (in sampling, "
    "ignore_label names one of no class)"
)

_Entry = TypeVar("_Entry", Pair, MaskEntry)


@dataclass(frozen=True)
class _Facts:
    """What is kept of one pair; None where a file could not be used."""

    mask: MaskFacts | None
    size: tuple[int, int] | None
    image_mode: str
    brightest: int  # of a 16-bit image, else 65535
    problems: tuple[Problem, ...]
    digests: tuple[bytes, bytes] = (b"", b"")  # of the mask's and the instance map's bytes
    prints: PairPrint | None = None


def scan_dataset(
    data_dir: str | Path,
    mode: DatasetMode,
    split: str,
    *,
    num_classes: int | None = None,
    image_channels: Literal[1, 3] = 3,
    batch_size: int | None = None,
    ignore_label: int | None = None,
    encoding: LabelEncoding | None = None,
    with_instances: bool = True,
    look_alikes: bool = False,
    progress: bool = True,
) -> ScanReport:
    """Open every pair of a split and return what was found, mistakes included; nothing is raised for those.

    batch_size: over all processes; a smaller dataset gets a warning.
    encoding: hold the masks against this one (a checkpoint's, another split's) instead of finding it.
    with_instances: open instance maps too, where the mode has them; without they need not be there.
    look_alikes: name images that are nearly the same, too, not only those of equal pixels.
    """
    remedy = _AS_IN_TRAINING if encoding is not None else None
    if encoding is None and mode.num_classes is not None and not mode.binary:
        remedy = (
            f"dataset_mode {mode.name} has the values of {mode.num_classes} classes: correct the masks, or set "
            "ignore_label to the value that stands for no class"
        )
    pairs, problems = index_pairs(data_dir, mode, split, with_instances=with_instances)
    if look_alikes and len(pairs) > MOST_COMPARED:
        look_alikes = False
        problems.append(uncompared_problem(str(data_dir), len(pairs)))
    facts = _in_threads(lambda pair: _scan_pair(pair, image_channels, look_alikes), pairs, "scanning pairs", progress)
    problems += [problem for fact in facts for problem in fact.problems]
    masks = [fact.mask for fact in facts if fact.mask is not None]
    if encoding is None:
        classes, found = read_classes(data_dir)
        problems += found
        if masks and not found:
            encoding, found = infer_encoding(mode, classes, masks, ClassOptions(num_classes, ignore_label))
            problems += found
    problems += _image_warnings(facts, image_channels)
    if batch_size is not None and 0 < len(pairs) < batch_size:
        found = f"{len(pairs)} pairs are fewer than a batch of {batch_size}"
        advice = f"training works, with one short batch an epoch; batch_size {len(pairs)} would say the same"
        problems.append(_warning(str(data_dir), found, advice, ProblemKind.SHORT_BATCH))
    prints = tuple(fact.prints for fact in facts)
    problems += twin_problems(find_twins(pairs, prints, encoding), len(pairs))
    return replace(_report(pairs, facts, encoding, problems, remedy), prints=prints)


def scan_masks(
    folder: str | Path,
    encoding: LabelEncoding,
    *,
    mode: DatasetMode | None = None,
    with_instances: bool = False,
    progress: bool = True,
) -> ScanReport:
    """Open every mask below a folder and hold its values against `encoding`; the report's pairs are MaskEntry.

    mode: names the masks, where the folder is one of its own; without it every PNG is a mask.
    with_instances: open the instance maps beside the masks too, where the mode has them there.
    """
    entries, problems = index_masks(folder, mode, with_instances=with_instances)
    facts = _in_threads(_scan_mask, entries, "scanning masks", progress)
    problems += [problem for fact in facts for problem in fact.problems]
    return _report(entries, facts, encoding, problems, _AS_IN_TRAINING)


def _in_threads(
    work: Callable[[_Entry], _Facts], entries: Sequence[_Entry], description: str, progress: bool
) -> list[_Facts]:
    """Return `work` of every entry, in their order; an interrupt does not wait for what is left."""
    executor = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 1))
    try:
        futures = [executor.submit(work, entry) for entry in entries]
        bar = tqdm(as_completed(futures), total=len(futures), desc=description, unit="file", disable=not progress)
        for future in bar:
            future.result()
        return [future.result() for future in futures]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _scan_pair(pair: Pair, channels: Literal[1, 3], with_thumbnail: bool) -> _Facts:
    """Open image, mask and instance map of a pair and compare their sizes (upright, as EXIF says)."""
    problems: list[Problem] = []
    mask_facts = _scan_mask(MaskEntry(pair.stem, pair.mask, pair.instance))
    problems += mask_facts.problems
    image: Image.Image | None = None
    prints: PairPrint | None = None
    brightest = 65535
    try:
        content = read_bytes(pair.image)
        image = open_image(pair.image, content)
        pixels = image_tensor(image, channels, pair.image).numpy()
        small = thumbnail(pixels) if with_thumbnail else None
        known = (content_digest(content), *mask_facts.digests, pixel_digest(pixels))
        prints = PairPrint(*known, len(content), pixels.shape[1:], small) if mask_facts.mask is not None else None
        if image.mode.startswith("I"):
            brightest = int(np.asarray(image).max())
    except DataError as error:
        problems.append(Problem.of(error, ProblemKind.UNREADABLE))
    if image is not None and mask_facts.size is not None and image.size[::-1] != mask_facts.size:
        problems.append(_size_problem(pair.image, image.size[::-1], pair.mask, mask_facts.size))
    mode = image.mode if image is not None else ""
    return _Facts(mask_facts.mask, mask_facts.size, mode, brightest, tuple(problems), prints=prints)


def _scan_mask(entry: MaskEntry) -> _Facts:
    """Count the codes of a mask; its instance map, if any, must be readable and of the same size."""
    try:
        content = read_bytes(entry.mask)
        image = open_mask(entry.mask, content)
        facts = _count_codes(entry.mask, raw_mask(image, entry.mask))
    except DataError as error:
        return _Facts(None, None, "", 65535, (Problem.of(error, ProblemKind.UNREADABLE),))
    size = image.size[::-1]
    digest, instance_digest = content_digest(content), b""
    problems: list[Problem] = []
    if entry.instance is not None:
        try:
            content = read_bytes(entry.instance)
            instance_digest = content_digest(content)
            instance = raw_mask(open_mask(entry.instance, content), entry.instance)
            if instance.values.shape != size:
                problems.append(_size_problem(entry.mask, size, entry.instance, instance.values.shape))
        except DataError as error:
            problems.append(Problem.of(error, ProblemKind.UNREADABLE))
    return _Facts(facts, size, "", 65535, tuple(problems), (digest, instance_digest))


def _count_codes(path: str, raw: RawMask) -> MaskFacts:
    """Return the distinct codes of a mask and how many pixels have each."""
    if raw.kind == "rgb":
        codes, counts = np.unique(raw.values, return_counts=True)
        kept = np.sort(np.argsort(-counts, kind="stable")[:_KEPT_CODES])
        codes, counts = codes[kept], counts[kept]
    else:
        every = np.bincount(raw.values.reshape(-1))
        codes = np.flatnonzero(every)
        counts, codes = every[codes], codes.astype(raw.values.dtype)
    return MaskFacts(path, RawMask(raw.kind, codes, raw.palette), counts)


def _size_problem(path: str, size: Sequence[int], other_path: str, other_size: Sequence[int]) -> Problem:
    remedy = "scale or crop one to the other's size (masks by nearest neighbor)"
    return Problem(path, size_mismatch(size, other_path, other_size), remedy, ProblemKind.SIZES)


def _warning(path: str, found: str, remedy: str, kind: ProblemKind) -> Problem:
    return Problem(path, found, remedy, kind, fatal=False)


def _image_warnings(facts: Sequence[_Facts], channels: int) -> list[Problem]:
    """Return warnings about what happens to the images' colors and depth."""
    modes = Counter(fact.image_mode for fact in facts if fact.image_mode)
    gray = sum(count for mode, count in modes.items() if mode in ("1", "L", "LA") or mode.startswith("I"))
    problems = []
    if channels == 3 and modes and gray == modes.total():
        remedy = "set image_channels to 1 to train a smaller, faster model"
        problems.append(_warning("image_channels", "3, but all images are gray", remedy, ProblemKind.IMAGE_COLORS))
    if channels == 1 and gray < modes.total():
        found = f"1, but {modes.total() - gray} of {modes.total()} images have colors"
        problems.append(
            _warning(
                "image_channels", found, "they are turned gray; set it to 3 to keep them", ProblemKind.IMAGE_COLORS
            )
        )
    brightest = [fact.brightest for fact in facts if fact.image_mode.startswith("I")]
    if brightest and max(brightest) < _DARK_16_BIT:
        found = f"16-bit images use values up to {max(brightest)} of 65535, so they are almost black"
        problems.append(
            _warning(
                "images", found, "stretch them to the full range, or save them with 8 bits", ProblemKind.IMAGE_DEPTH
            )
        )
    return problems


def _report(
    entries: Sequence[Pair] | Sequence[MaskEntry],
    facts: Sequence[_Facts],
    encoding: LabelEncoding | None,
    problems: list[Problem],
    remedy: str | None,
) -> ScanReport:
    """Hold the masks against the encoding, count classes and sizes.

    remedy: for codes that stand for no class; None judges by the codes what the mistake is.
    """
    masks = [fact.mask for fact in facts if fact.mask is not None]
    classes: tuple[ClassStats, ...] = ()
    ignored_share, all_background = 0.0, 0
    if encoding is not None and masks:
        problems += _unexpected_codes(masks, encoding, remedy)
        pixels, images, all_background = _count_classes(masks, encoding)
        total = max(1, int(pixels.sum()))
        classes = tuple(
            ClassStats(name, int(count) / total, int(having))
            for name, count, having in zip(encoding.names, pixels[:-1], images[:-1], strict=True)
        )
        ignored_share = int(pixels[-1]) / total
        problems += _class_warnings(classes, all_background, len(masks))
    sizes = [fact.size for fact in facts if fact.size is not None]
    modes = Counter(fact.image_mode for fact in facts if fact.image_mode)
    return ScanReport(
        tuple(entries),
        encoding,
        tuple(problems),
        classes,
        ignored_share,
        all_background,
        SizeStats.of(sizes) if sizes else None,
        dict(modes.most_common()),
    )


def _unexpected_codes(masks: Sequence[MaskFacts], encoding: LabelEncoding, remedy: str | None) -> list[Problem]:
    """Return a problem for each mask with codes that stand for no class; a remedy not given is judged on all masks."""
    present = present_values(masks)
    problems = []
    for mask in masks:
        unexpected = mask.raw.values[encoding.lookup(mask.raw) < 0]
        if not unexpected.size:
            continue
        seen = mask.raw.values if mask.raw.kind == "rgb" else present
        found, judged = encoding.explain(mask.raw.kind, unexpected, seen)
        problems.append(Problem(mask.path, found, remedy or judged, ProblemKind.UNKNOWN_VALUES))
    return problems


def _count_classes(masks: Sequence[MaskFacts], encoding: LabelEncoding) -> tuple[np.ndarray, np.ndarray, int]:
    """Return pixels and images per class (the null id last), and how many masks are all class 0 or null."""
    pixels, images = (np.zeros(encoding.num_classes + 1, np.int64) for _ in range(2))
    all_background = 0
    for mask in masks:
        found = encoding.lookup(mask.raw)
        known = found >= 0
        np.add.at(pixels, found[known], mask.counts[known])
        present = np.unique(found[known])
        images[present] += 1
        all_background += bool(known.all() and np.isin(present, (0, encoding.num_classes)).all())
    return pixels, images, all_background


def _class_warnings(classes: Sequence[ClassStats], all_background: int, masks: int) -> list[Problem]:
    problems = []
    for index, stats in enumerate(classes):
        if not stats.images:
            remedy = "the model cannot learn it; add masks that have it, or check how the values map to classes"
            if index == 0:
                remedy += " (labels may start at 1)"
            problems.append(
                _warning(f"class {index}", f"{stats.name!r} is in no mask", remedy, ProblemKind.EMPTY_CLASS)
            )
    if len(classes) > 1 and all_background > _MUCH_BACKGROUND * masks:
        found = f"{all_background} of {masks} masks are all {classes[0].name!r}"
        remedy = "the model sees the other classes rarely; leave some of these pairs out"
        problems.append(_warning("masks", found, remedy, ProblemKind.BACKGROUND))
    return problems
