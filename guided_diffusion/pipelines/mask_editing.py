"""The dataset of `masks`: its masks, read, what makes new ones of them, and what these are compared with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluations.mask_novelty import NoveltyIndex
from evaluations.mask_statistics import MaskReference, MaskStatistics, mask_statistics
from guided_diffusion.config.masks import MasksConfig
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.files import is_folder
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.mirror import flip_pairs, in_words
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.placing.bank import class_ids
from guided_diffusion.data.placing.mask_editor import MaskEditor
from guided_diffusion.data.placing.shapes import Label, ShapeBank
from guided_diffusion.data.scan.problems import ProblemKind, problem_lines
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.visualize import evenly_spaced
from guided_diffusion.pipelines.box_masks import open_drawer
from guided_diffusion.pipelines.dataset import scan_as_stored
from guided_diffusion.runtime.memory import available_memory
from guided_diffusion.samples.manifest import MaskOrigin, file_digest
from guided_diffusion.samples.mask_folder import NewMask

_MOST_COMPARED = 20, 1000, 3e8  # masks of each kind that the statistics take, and pixels of all of them
_CACHE_SHARE = 1 / 8  # of the memory that is available
_ABOUT_MASKS = (
    ProblemKind.PALETTES,
    ProblemKind.ORIENTATION,
    ProblemKind.BACKGROUND,
    ProblemKind.TWO_MASKS,
    ProblemKind.BINARY_VALUES,
)


class MaskMaker(Protocol):
    """Makes new masks."""

    def edit(self, seed: int, number: int) -> NewMask:
        """Return the mask of a number, a function of the seed and this number."""


@dataclass(frozen=True)
class MaskSource:
    """A split whose masks new ones are made of."""

    pairs: tuple[Pair, ...]
    encoding: LabelEncoding
    editor: MaskMaker
    summary: str
    """What is done with the masks, for people."""
    settings: Mapping[str, Any]
    """Of a model that draws them, and how many masks are bent as a whole because classes fill them."""
    mean_pixels: float
    """Of the masks."""
    index: NoveltyIndex
    read: Callable[[int], Label]
    digests: tuple[str, ...]
    """Of the files of the masks."""

    @property
    def origins(self) -> dict[str, MaskOrigin]:
        """The masks by their names, for a manifest."""
        masks = zip(self.pairs, self.digests, strict=True)
        return {pair.stem: MaskOrigin(mask=pair.mask, digest=digest) for pair, digest in masks}

    @property
    def most_compared(self) -> int:
        """How many masks the statistics take of each kind: describing one takes about 10 ms for 0.1 megapixels."""
        least, most, pixels = _MOST_COMPARED
        return int(np.clip(pixels / self.mean_pixels, least, most))

    @property
    def inputs(self) -> str:
        """A digest of the masks and of what they mean, by which a folder is known to be made of them."""
        content = [self.encoding.to_dict(), [pair.stem for pair in self.pairs], self.digests]
        return sha256(json.dumps(content).encode()).hexdigest()[:16]


def open_masks(config: MasksConfig, *, progress: bool) -> MaskSource:
    """Scan the split and read its masks, for what makes new ones of them; UserError for what cannot be used."""
    mode = get_mode(config.source.dataset_mode)
    drawer = open_drawer(config) if config.method == "boxes" else None
    known = None if drawer is None else drawer.encoding
    report = scan_as_stored(config.source, mode, config.data_split, encoding=known, progress=progress)
    encoding = report.raise_if_fatal()
    if progress:
        for line in problem_lines(problem for problem in report.warnings if problem.kind in _ABOUT_MASKS):
            print(f"warning: {line}")
    pairs, names = report.pairs, encoding.names
    exchanged = flip_pairs(names, config.source.flip_pairs)
    if progress and exchanged:
        print(f"mirrored masks have these classes exchanged: {in_words(names, exchanged)} (flip_pairs)")
    read = _reader(pairs, encoding, report)

    def shown(numbers: range, what: str = "taking masks apart") -> Any:
        return tqdm(numbers, desc=what, unit="mask", disable=not progress)

    def novelty(label: Label) -> float:
        return index.nearest(label)[0]

    if drawer is None:
        bank = _bank(config, pairs, read, encoding, shown)
        editor: MaskMaker = MaskEditor(bank, config.masks, novelty, exchanged)
        filled = sum(mask.is_filled for mask in bank.masks)
        # Folders from before such masks were told apart lack this, and are not gone on with.
        summary, settings = _moved(bank, names, filled), {"filled": filled} if filled else {}
    else:
        editor = drawer.maker(config, pairs, read, novelty, exchanged)
        summary, settings = drawer.summary, drawer.settings
    labels = (read(number) for number in shown(range(len(pairs)), "indexing masks"))
    index = NoveltyIndex(labels, encoding.num_classes, background=mode.background, flip_pairs=exchanged)
    digests = tuple(file_digest(pair.mask) for pair in pairs)
    mean = float(np.mean([height * width for height, width in report.sizes]))
    return MaskSource(pairs, encoding, editor, summary, settings, mean, index, read, digests)


def _bank(
    config: MasksConfig,
    pairs: Sequence[Pair],
    read: Callable[[int], Label],
    encoding: LabelEncoding,
    shown: Callable[[range], Any],
) -> ShapeBank:
    """Take the masks apart; ConfigError for classes that cannot be moved."""
    mode, names = get_mode(config.source.dataset_mode), encoding.names
    movable = class_ids("movable", config.masks.movable, names, ground=mode.background) or None
    return ShapeBank.build(
        [pair.stem for pair in pairs],
        read,
        encoding.num_classes,
        background=mode.background,
        unlabeled=mode.unlabeled_classes(names),
        movable=movable,
        is_scene=mode.scenes,
        progress=shown,
    )


def _moved(bank: ShapeBank, names: Sequence[str], filled: int) -> str:
    present = sorted({class_id for mask in bank.masks for kind in mask.shapes for class_id, _ in kind})
    if not present:
        return "no class is moved alone, the maps are bent as a whole"
    shown = ", ".join(names[class_id] for class_id in present[:8])
    others = f" and {len(present) - 8} others" if len(present) > 8 else ""
    return f"moved: {shown}{others}{f'; filled masks, bent as a whole: {filled}' if filled else ''}"


def _reader(pairs: Sequence[Pair], encoding: LabelEncoding, report: ScanReport) -> Callable[[int], Label]:
    """Return what reads a mask by its number, and keeps those that were read if they fit into memory."""
    size = sum(height * width for height, width in report.sizes) * np.dtype(encoding.dtype).itemsize
    cache: dict[int, Label] | None = {} if size <= available_memory() * _CACHE_SHARE else None

    def read(number: int) -> Label:
        if cache is not None and number in cache:
            return cache[number]
        pair = pairs[number]
        label = read_mask(pair.mask, encoding, upright=pair.upright).numpy()
        if cache is not None:
            label.setflags(write=False)
            cache[number] = label
        return label

    return read


def compare_masks(
    config: MasksConfig, source: MaskSource, masks: Sequence[NDArray[np.integer]], novelty: Sequence[float]
) -> MaskStatistics:
    """Return the statistics of new masks against the split that they were made from, beside the test masks.

    Of more than `most_compared` masks of a split these many are taken, evenly spread.
    """
    mode, names = get_mode(config.source.dataset_mode), source.encoding.names
    numbers = evenly_spaced(range(len(source.pairs)), source.most_compared)
    training = [source.read(number) for number in numbers]
    options = config.masks
    reference = MaskReference.of(
        training,
        names,
        background=mode.background,
        test=_test_masks(config, source),
        flips=(options.vertical_flip, options.random_flip),
        flip_pairs=flip_pairs(names, config.source.flip_pairs),
        # Of all masks: a copy of any of them is a copy, of a new mask and of a training mask.
        index=source.index,
        numbers=numbers,
        seed=config.seed,
        progress=lambda labels: tqdm(labels, desc="describing masks", unit="mask"),
    )
    return mask_statistics(masks, reference, novelty=np.array(novelty))


def _test_masks(config: MasksConfig, source: MaskSource) -> list[Label]:
    """Return masks of the test split, none if it has none or cannot be read: they are a yardstick, no more."""
    encoding = source.encoding
    mode, data_dir = get_mode(config.source.dataset_mode), config.source.data_dir
    if config.data_split == "test" or not is_folder(mode.folder(mode.masks, data_dir, "test")):
        return []
    report = scan_as_stored(config.source, mode, "test", encoding=encoding, progress=False)
    if report.fatal:
        print(f"note: the test masks are not compared: {problem_lines(report.fatal)[0]}")
        return []
    pairs = evenly_spaced(report.pairs, source.most_compared)
    return [read_mask(pair.mask, encoding, upright=pair.upright).numpy() for pair in pairs]
