"""The scan before training: opens every file, collects every mistake, counts the classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.counting import value_counts
from guided_diffusion.data.datasets import image_tensor
from guided_diffusion.data.deep_color import stored_mode
from guided_diffusion.data.files import check_sizes, open_image, open_mask, orientation, read_bytes, turn_upright
from guided_diffusion.data.fingerprint import PairPrint, content_digest, pixel_digest
from guided_diffusion.data.intensity import ImageRange
from guided_diffusion.data.masks.classes_file import read_classes
from guided_diffusion.data.masks.encoding import LabelEncoding, RawMask, raw_mask
from guided_diffusion.data.masks.inference import ClassOptions, MaskFacts, infer_encoding, present_values
from guided_diffusion.data.masks.palettes import conflict_under
from guided_diffusion.data.modes import DatasetMode
from guided_diffusion.data.pairing import MaskEntry, Pair, index_masks, index_pairs
from guided_diffusion.data.scan.brightness import Brightness, brightness_problems, measure_brightness
from guided_diffusion.data.scan.duplicates import (
    MOST_COMPARED,
    find_twins,
    thumbnail,
    twin_problems,
    uncompared_problem,
)
from guided_diffusion.data.scan.images import color_problems, page_problems, short_batch_problems
from guided_diffusion.data.scan.lost_by_area import left_by_area, may_lose
from guided_diffusion.data.scan.lost_classes import (
    CodesLeft,
    MaskLoss,
    codes_left,
    count_losses,
    loss_note,
    loss_problems,
)
from guided_diffusion.data.scan.orientation import (
    Exif,
    Turned,
    instance_problems,
    orientation_problems,
    tagged_files,
    turned,
)
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.scan.report import ClassStats, ScanReport
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import DataError

_KEPT_COLORS = 4096  # of an RGB mask; a smoothed one may have any number
_MUCH_BACKGROUND = 0.5
_PAIR = "the pair"  # what goes if one of its files does
_AS_IN_TRAINING = (
    "use the values of the training masks, which fixed what values mean (in sampling, ignore_label adds a value of "
    "ignored pixels)"
)


@dataclass(frozen=True)
class _Facts:
    """What the scan learned of one pair, or of a mask alone."""

    problems: list[Problem]
    mask: MaskFacts | None = None  # None where the file cannot be used
    size: Size | None = None  # of the mask
    turned: Turned | None = None  # how EXIF orientations are read, None without any
    image_mode: str = ""
    digests: tuple[bytes, bytes] = (b"", b"")  # of the mask's and the instance map's bytes
    prints: PairPrint | None = None
    brightness: Brightness | None = None  # of the image
    left: CodesLeft | None = None  # what resizing leaves of the mask; None: everything
    undecided: bool = False  # what the area rule leaves depends on what the codes mean


def scan_dataset(
    data_dir: str | Path,
    mode: DatasetMode,
    split: str,
    *,
    num_classes: int | None = None,
    image_channels: Literal[1, 3] = 3,
    image_range: ImageRange = "auto",
    transform: JointTransform | None = None,
    batch_size: int | None = None,
    ignore_label: int | None = None,
    exif: Exif = None,
    encoding: LabelEncoding | None = None,
    with_instances: bool = True,
    look_alikes: bool = False,
    first: int | None = None,
    progress: bool = True,
) -> ScanReport:
    """Open every pair of a split; mistakes are not raised but reported.

    batch_size: over all processes; a smaller dataset gets a warning.
    exif: whether orientation tags are applied; None: as sizes tell.
    look_alikes: name images that are nearly the same, too, not only those of equal pixels.
    first: only so many pairs, by name; None: all.
    encoding: check the masks against this one (of a checkpoint or another split) instead of inferring one.
    transform: without augmentation; the classes that it loses are counted.
    """
    remedy = _AS_IN_TRAINING if encoding is not None else None
    if encoding is None and mode.num_classes is not None and not mode.binary:
        remedy = (
            f"dataset_mode {mode.name} has the values of {mode.num_classes} classes: correct the masks, or set "
            "ignore_label to the value that stands for no class"
        )
    pairs, problems = index_pairs(data_dir, mode, split, with_instances=with_instances, first=first)
    if look_alikes and len(pairs) > MOST_COMPARED:
        look_alikes = False
        problems.append(uncompared_problem(str(data_dir), len(pairs)))

    def scan_pair(pair: Pair) -> _Facts:
        return _scan_pair(pair, image_channels, image_range, exif, transform, with_thumbnail=look_alikes)

    facts = in_threads(scan_pair, pairs, "scanning pairs", progress)
    problems += [problem for fact in facts for problem in fact.problems]
    tagged = [(pair, fact.turned) for pair, fact in zip(pairs, facts, strict=True) if fact.turned is not None]
    problems += orientation_problems([(pair.mask, how) for pair, how in tagged])
    upright = {pair.stem: how.upright for pair, how in tagged}
    pairs = [replace(pair, upright=upright.get(pair.stem, exif != "ignore")) for pair in pairs]
    masks = [fact.mask for fact in facts if fact.mask is not None]
    if encoding is not None:
        problems += _palette_problems(masks, encoding)
    else:
        classes, mistakes = read_classes(data_dir)
        problems += mistakes
        if masks and not mistakes:
            encoding, undetermined = infer_encoding(mode, classes, masks, ClassOptions(num_classes, ignore_label))
            problems += undetermined
    problems += color_problems([fact.image_mode for fact in facts if fact.image_mode], image_channels)
    problems += brightness_problems([fact.brightness for fact in facts if fact.brightness], image_range)
    problems += short_batch_problems(str(data_dir), len(pairs), batch_size, "pairs")
    prints = tuple(fact.prints for fact in facts)
    problems += twin_problems(find_twins(pairs, prints, encoding), len(pairs))
    report = _report(pairs, facts, encoding, problems, remedy, transform, mode.background, progress=progress)
    return replace(report, prints=prints)


def scan_masks(
    folder: str | Path,
    encoding: LabelEncoding,
    *,
    mode: DatasetMode | None = None,
    exif: Exif = None,
    transform: JointTransform | None = None,
    with_instances: bool = False,
    progress: bool = True,
) -> ScanReport:
    """Open every mask below a folder and check its values against `encoding`; the report's pairs are MaskEntry.

    mode, with_instances: see `index_masks`. transform: see `scan_dataset`.
    """
    entries, problems = index_masks(folder, mode, with_instances=with_instances)
    entries = [replace(entry, upright=exif != "ignore") for entry in entries]
    facts = in_threads(lambda entry: _scan_mask(entry, transform), entries, "scanning masks", progress)
    problems += [problem for fact in facts for problem in fact.problems]
    problems += _palette_problems([fact.mask for fact in facts if fact.mask is not None], encoding)
    if exif is None:
        tagged = [entry.mask for entry, fact in zip(entries, facts, strict=True) if fact.turned]
        problems += tagged_files("masks", tagged)
    background = 0 if mode is None else mode.background
    return _report(entries, facts, encoding, problems, _AS_IN_TRAINING, transform, background, progress=progress)


@contextmanager
def _collecting(problems: list[Problem], kind: ProblemKind) -> Iterator[None]:
    """Add a DataError of the block to `problems`."""
    try:
        yield
    except DataError as error:
        problems.append(Problem.of(error, kind))


def _scan_pair(
    pair: Pair,
    channels: Literal[1, 3],
    image_range: ImageRange,
    exif: Exif,
    transform: JointTransform | None,
    *,
    with_thumbnail: bool,
) -> _Facts:
    """Open image, mask and instance map of a pair and compare their sizes."""
    problems: list[Problem] = []
    image = mask = how = None
    content = mask_content = b""
    with _collecting(problems, ProblemKind.UNREADABLE):
        mask_content = read_bytes(pair.mask, removed=_PAIR)
        mask = open_mask(pair.mask, mask_content, upright=False, removed=_PAIR)
    with _collecting(problems, ProblemKind.UNREADABLE):
        content = read_bytes(pair.image, removed=_PAIR)
        image = open_image(pair.image, content, upright=False, removed=_PAIR)
    if image is not None and mask is not None:
        how = turned(image, mask, exif)
        problems += page_problems(pair.image, image)
    upright = exif != "ignore" if how is None else how.upright
    entry = MaskEntry(pair.stem, pair.mask, pair.instance, upright)
    facts = _Facts(problems) if mask is None else _mask_facts(entry, mask, mask_content, transform, problems)
    if image is None:
        return facts
    if upright:
        turn_upright(image)
    with _collecting(problems, ProblemKind.UNREADABLE):
        facts = replace(facts, turned=how)
        if facts.size is not None:
            with _collecting(problems, ProblemKind.SIZES):
                check_sizes(pair.image, image.size[::-1], pair.mask, facts.size)
        seen = image_tensor(image, channels, pair.image, image_range)
        brightness = measure_brightness(pair.image, image, seen, image_range)
        facts = replace(facts, image_mode=stored_mode(image), brightness=brightness)
        pixels = seen.numpy()
        if facts.mask is not None:
            small = thumbnail(pixels) if with_thumbnail else None
            digests = content_digest(content), *facts.digests, pixel_digest(pixels)
            facts = replace(facts, prints=PairPrint(*digests, len(content), pixels.shape[1:], small))
    return facts


def _scan_mask(entry: MaskEntry, transform: JointTransform | None) -> _Facts:
    problems: list[Problem] = []
    with _collecting(problems, ProblemKind.UNREADABLE):
        content = read_bytes(entry.mask)
        mask = open_mask(entry.mask, content, upright=False)
        how = turned(mask, mask, None)
        return replace(_mask_facts(entry, mask, content, transform, problems), turned=how)
    return _Facts(problems)


def _mask_facts(
    entry: MaskEntry, mask: Image.Image, content: bytes, transform: JointTransform | None, problems: list[Problem]
) -> _Facts:
    """Count the codes of a mask, opened as stored; check that its instance map, if any, has the same size."""
    facts, tag = _Facts(problems), orientation(mask)
    problems += page_problems(entry.mask, mask)
    if entry.upright:
        turn_upright(mask)
    with _collecting(problems, ProblemKind.UNREADABLE):
        raw = raw_mask(mask, entry.mask)
        height, width = raw.values.shape
        digests = content_digest(content), b""
        counted = _count_codes(entry.mask, raw)
        facts = _Facts(problems, counted, (height, width), digests=digests)
        if transform is not None and transform.masks_by_area:
            facts = replace(facts, undecided=may_lose(raw.values, counted.raw.values, transform))
        elif transform is not None:
            facts = replace(facts, left=codes_left(raw.values, counted.raw.values, transform))
        if entry.instance is not None:
            content = read_bytes(entry.instance, removed=_PAIR)
            facts = replace(facts, digests=(digests[0], content_digest(content)))
            stored = open_mask(entry.instance, content, upright=False, removed=_PAIR)
            if entry.upright:
                problems += instance_problems(entry.mask, tag, entry.instance, orientation(stored))
                turn_upright(stored)
            instance = raw_mask(stored, entry.instance)
            with _collecting(problems, ProblemKind.SIZES):
                check_sizes(entry.mask, (height, width), entry.instance, instance.values.shape)
    return facts


def _count_codes(path: str, raw: RawMask) -> MaskFacts:
    """Return the distinct codes of a mask and how many pixels have each."""
    if raw.kind == "rgb":
        codes, counts = np.unique(raw.values, return_counts=True)
    else:
        table = value_counts(raw.values)
        counts, codes = table[table > 0], np.flatnonzero(table).astype(raw.values.dtype)
    if len(codes) > _KEPT_COLORS and raw.kind == "rgb":
        kept = np.sort(np.argsort(-counts, kind="stable")[:_KEPT_COLORS])
        codes, counts = codes[kept], counts[kept]
    return MaskFacts(path, replace(raw, values=codes), counts)


def _report(
    entries: Sequence[Pair] | Sequence[MaskEntry],
    facts: Sequence[_Facts],
    encoding: LabelEncoding | None,
    problems: list[Problem],
    remedy: str | None,
    transform: JointTransform | None,
    background: int,
    *,
    progress: bool,
) -> ScanReport:
    """Check the masks against the encoding, count classes, those that `transform` loses, and sizes.

    remedy: for codes of unknown meaning; None guesses from the codes what the mistake is.
    """
    masks = [fact.mask for fact in facts if fact.mask is not None]
    classes: list[ClassStats] = []
    losses: list[MaskLoss] = []
    ignored_share, all_background = 0.0, 0
    notes: tuple[str, ...] = ()
    if encoding is not None and masks:
        problems += _unexpected_codes(masks, encoding, remedy)
        pixels, images, all_background = _count_classes(masks, encoding)
        *shares, ignored_share = (pixels / max(1, pixels.sum())).tolist()
        decided = facts if transform is None else _decided(entries, facts, encoding, transform, progress)
        pairs_of_codes = [(fact.mask, fact.left) for fact in decided if fact.mask is not None]
        by_class, losses = count_losses(pairs_of_codes, encoding, background)
        counts = zip(encoding.names, shares, images[:-1].tolist(), by_class, strict=True)
        classes = [ClassStats(name, share, having, loss.scaling, loss.cropping) for name, share, having, loss in counts]
        problems += _class_warnings(classes, all_background, len(masks))
        if transform is not None:
            problems += loss_problems(by_class, encoding.names, background, transform)
            notes = (loss_note(by_class, encoding.names, background, transform),)
    return ScanReport(
        tuple(entries),
        encoding,
        tuple(problems),
        tuple(classes),
        ignored_share,
        all_background,
        tuple(fact.size for fact in facts if fact.size is not None),
        tuple(fact.image_mode for fact in facts if fact.image_mode),
        tuple(fact.brightness for fact in facts if fact.brightness is not None),
        tuple(losses),
        notes=tuple(filter(None, notes)),
    )


def _decided(
    entries: Sequence[Pair] | Sequence[MaskEntry],
    facts: Sequence[_Facts],
    encoding: LabelEncoding,
    transform: JointTransform,
    progress: bool,
) -> list[_Facts]:
    """Return the facts with what the area rule leaves of the masks whose codes alone do not tell; reads them again."""

    undecided = [(entry, fact) for entry, fact in zip(entries, facts, strict=True) if fact.undecided]

    def decide(known: tuple[Pair | MaskEntry, _Facts]) -> _Facts:
        entry, fact = known
        return replace(fact, left=left_by_area(entry.mask, entry.upright, fact.mask, encoding, transform))

    decided = iter(in_threads(decide, undecided, "reducing masks", progress) if undecided else ())
    return [next(decided) if fact.undecided else fact for fact in facts]


def _palette_problems(masks: Sequence[MaskFacts], encoding: LabelEncoding) -> list[Problem]:
    conflict = conflict_under(masks, encoding)
    return [] if conflict is None else [conflict]


def _unexpected_codes(masks: Sequence[MaskFacts], encoding: LabelEncoding, remedy: str | None) -> list[Problem]:
    """Return a problem for each mask with codes of unknown meaning; without a `remedy` it is guessed from all masks."""
    present = present_values(masks)
    problems = []
    for mask in masks:
        unexpected = mask.raw.values[encoding.lookup(mask.raw) < 0]
        if not unexpected.size:
            continue
        seen = mask.raw.values if mask.raw.kind == "rgb" else present
        found, guess = encoding.explain(mask.raw.kind, unexpected, seen)
        problems.append(Problem(mask.path, found, remedy or guess, ProblemKind.UNKNOWN_VALUES))
    return problems


def _count_classes(masks: Sequence[MaskFacts], encoding: LabelEncoding) -> tuple[np.ndarray, np.ndarray, int]:
    """Return pixels and images per class (the null id last), and how many masks are all class 0 or null."""
    pixels, images = (np.zeros(encoding.num_classes + 1, np.int64) for _ in range(2))
    all_background = 0
    for mask in masks:
        label = encoding.lookup(mask.raw)
        known = label >= 0
        np.add.at(pixels, label[known], mask.counts[known])
        present = np.unique(label[known])
        images[present] += 1
        all_background += bool(known.all() and np.isin(present, (0, encoding.num_classes)).all())
    return pixels, images, all_background


def _class_warnings(classes: Sequence[ClassStats], all_background: int, masks: int) -> list[Problem]:
    problems = []
    for index, stats in enumerate(classes):
        if not stats.images:
            remedy = "the model cannot learn it; add masks that have it, or check how the values map to classes"
            remedy += " (labels may start at 1)" if index == 0 else ""
            problems.append((f"class {index}", f"{stats.name!r} is in no mask", remedy, ProblemKind.EMPTY_CLASS))
    if len(classes) > 1 and all_background > _MUCH_BACKGROUND * masks:
        found = f"{all_background} of {masks} masks are all {classes[0].name!r}"
        remedy = "the model sees the other classes rarely; leave some of these pairs out"
        problems.append(("masks", found, remedy, ProblemKind.BACKGROUND))
    return [Problem(*problem, fatal=False) for problem in problems]
