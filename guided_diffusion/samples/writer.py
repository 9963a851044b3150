"""A synthetic dataset on disk: which samples it will have, which it has, and how they are written.

Sample i of a dataset uses mask i modulo the number of masks and the seed (run seed, i): what it is depends neither on
how many are made, nor on batches or processes. `manifest.jsonl` has a line for each finished pair; while a run goes
on, each process keeps its own `.manifest-<rank>.jsonl`, and the lines are merged when it starts and ends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.datasets import read_condition
from guided_diffusion.data.masks.classes_file import FILE_NAME, classes_text
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.transforms import JointTransform, augment_mask
from guided_diffusion.data.visualize import quantize
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import (
    atomic_write,
    is_temporary,
    make_folder,
    remove_leftovers,
    reporting_os_errors,
    write_text,
)
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.samples.manifest import (
    FOLDERS,
    MANIFEST,
    PART,
    UNFINISHED,
    ManifestLine,
    SampleSettings,
    mask_digest,
    read_manifest,
    stays_inside,
    write_manifest,
)

PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class PlannedSample:
    """One pair to be made: its name (without extension, with sub-folders), the mask it is made from, its seed."""

    index: int
    name: str
    source: Pair | MaskEntry
    repeat: int
    seed: int

    @property
    def image(self) -> str:
        """Where the image will lie, relative to the manifest."""
        return f"images/{self.name}.png"

    @property
    def mask(self) -> str:
        """Where the mask will lie, relative to the manifest."""
        return f"masks/{self.name}.png"

    @property
    def files(self) -> tuple[str, str]:
        """Image and mask."""
        return self.image, self.mask


def plan_samples(sources: Sequence[Pair | MaskEntry], num_samples: int | None, seed: int) -> list[PlannedSample]:
    """Return `num_samples` samples (None: one for each mask) that use the masks in turn.

    The first use of a mask keeps its name, the n-th further use appends `_rep<n>`.
    Raises DataError where two samples would have one name, and for a name that means another file on Windows.
    """
    count = len(sources) if num_samples is None else num_samples
    plan = []
    for index in range(count):
        source, repeat = sources[index % len(sources)], index // len(sources)
        name = source.stem if not repeat else f"{source.stem}_rep{repeat:03d}"
        plan.append(PlannedSample(index, name, source, repeat, derive_seed(Stream.SAMPLE, seed, index)))
    taken: dict[str, PlannedSample] = {}
    for sample in plan:
        other = taken.setdefault(sample.name, sample)
        if other is not sample:
            raise DataError(
                f"{sample.source.mask}: its repeat would be called {sample.name}, as {other.source.mask} is: rename one"
            )
        if not stays_inside(sample.image):
            raise DataError(
                f"{sample.source.mask}: has a backslash in its name, which Windows takes for a folder: rename it"
            )
    return plan


def read_conditions(
    samples: Sequence[PlannedSample],
    encoding: LabelEncoding,
    transform: JointTransform,
    *,
    augment: bool,
    with_edges: bool,
) -> SemanticMap:
    """Return the maps of `samples` as the network will see them, [N, H, W].

    augment: flip and, where the size is square, turn every use of a mask but the first at random.
    """
    labels, edges = [], []
    for sample in samples:
        label, edge = read_condition(sample.source, encoding, transform, with_edges=with_edges)
        if augment and sample.repeat:
            generator = torch.Generator().manual_seed(derive_seed(Stream.MASK, sample.seed))
            square = label.shape[0] == label.shape[1]
            label, edge = augment_mask(label, generator, edge=edge, vertical_flip=True, rotate90=square)
        labels.append(label)
        edges.append(edge)
    return SemanticMap(torch.stack(labels), encoding.num_classes, torch.stack(edges) if with_edges else None)


def to_picture(image: Tensor) -> Image.Image:
    """Return an image [1 or 3, H, W] in [-1, 1] as an 8-bit gray or RGB picture."""
    (pixels,) = quantize(image.cpu().numpy()[None])
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _is_whole_png(path: Path) -> bool:
    """Return whether a PNG file has its first and its last bytes; what a full disk or a power cut leaves has not."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(PNG_START))
            file.seek(-len(PNG_END), os.SEEK_END)
            return start == PNG_START and file.read() == PNG_END
    except OSError:
        return False


class SyntheticFolder:
    """`<root>/<split>/{images,masks}` with `manifest.jsonl` beside them; existing samples are never written again.

    `<root>/classes.json` serves all splits. A folder that was begun with other settings is refused.
    """

    def __init__(self, root: str | Path, split: str, encoding: LabelEncoding, settings: SampleSettings):
        self.root = Path(root)
        self.folder = self.root / split if split else self.root
        self.encoding = encoding
        self.settings = settings
        self._part: TextIO | None = None
        self._digests: dict[str, str] = {}

    @property
    def manifest(self) -> Path:
        """The manifest's path."""
        return self.folder / MANIFEST

    def begin(self, plan: Sequence[PlannedSample]) -> dict[int, ManifestLine]:
        """Prepare the folder for `plan` and return the manifest lines of the samples that are there already, by index.

        To be called in one process, before any of them writes. What two runs at once, or a full disk, left damaged is
        mended: images without a line are made again, and so are those whose line or whose files cannot be read.

        Raises DataError where the folder holds samples of other settings or other masks, or files of another origin.
        """
        known = self._lines()
        self._refuse_other_settings(known)
        self._refuse_other_masks(known, plan)
        if not self._begun.exists():
            # In a folder of ours, what is called like a sample is one, or was to become one.
            self._refuse_foreign_files(known, plan if known or self._is_ours else ())
        self._share_classes()
        for kind in FOLDERS:
            make_folder(self.folder / kind)
        for folder in {self.folder, *((self.folder / file).parent for sample in plan for file in sample.files)}:
            remove_leftovers(folder)
        with reporting_os_errors(self._begun):
            self._begun.touch()
        return self._merge()

    def _refuse_other_settings(self, lines: Mapping[int, ManifestLine]) -> None:
        for line in lines.values():
            for key, value in self.settings:
                if getattr(line, key) != value:
                    raise DataError(
                        f"{self.manifest}: holds samples with {key} {json.dumps(getattr(line, key))}, these would have "
                        f"{json.dumps(value)}: choose another results_path"
                    )

    def _refuse_other_masks(self, lines: Mapping[int, ManifestLine], plan: Sequence[PlannedSample]) -> None:
        for sample in plan:
            line = lines.get(sample.index)
            if line and (line.image, line.source_digest) != (sample.image, self._source_digest(sample)):
                raise DataError(
                    f"{self.manifest}: sample {sample.index} was made from {line.source_mask}, it would now be made "
                    f"from {sample.source.mask}: the masks are others than they were; choose another results_path"
                )

    def _refuse_foreign_files(self, lines: Mapping[int, ManifestLine], plan: Sequence[PlannedSample]) -> None:
        """Refuse what this folder did not get from here: it would be overwritten, or taken for samples.

        plan: whose files may be there without a line.
        """
        named = {file for entry in (*lines.values(), *plan) for file in entry.files}
        for kind in FOLDERS:
            for path in sorted((self.folder / kind).rglob("*")):
                foreign = path.is_file() and path.relative_to(self.folder).as_posix() not in named
                if foreign and not is_temporary(path):
                    raise DataError(f"{path}: is in no manifest, so it was not sampled: choose an empty results_path")

    def _share_classes(self) -> None:
        """Write `classes.json`, or find it there as it would be written."""
        path = self.root / FILE_NAME
        text = classes_text(self.encoding)
        if not path.exists():
            write_text(path, text)
        elif path.read_bytes() != text.encode():
            raise DataError(f"{path}: belongs to another dataset: choose an empty results_path")

    def _source_digest(self, sample: PlannedSample) -> str:
        """Return the digest of a sample's mask file, read once for all samples of it."""
        path = sample.source.mask
        if path not in self._digests:
            self._digests[path] = mask_digest(path)
        return self._digests[path]

    @property
    def _begun(self) -> Path:
        # Tells the files of a killed run from those of another origin.
        return self.folder / UNFINISHED

    @property
    def _is_ours(self) -> bool:
        return self._begun.exists() or read_run_record(self.folder, "environment.json").get("action") == "sample"

    @property
    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(PART.format("*")))

    def _lines(self) -> dict[int, ManifestLine]:
        """Return the lines of the manifest and of the processes' parts, by index and in its order."""
        lines: dict[int, ManifestLine] = {}
        for path in [self.manifest, *self._parts]:
            if path.exists():
                sound = read_manifest(path, sound_only=True)
                if not sound and not self._is_ours:
                    sound = read_manifest(path)  # refuses what is no manifest at all
                lines.update({line.index: line for line in sound})
        return dict(sorted(lines.items()))

    def _merge(self) -> dict[int, ManifestLine]:
        """Take the processes' lines into the manifest; return, and keep there, those whose files exist."""
        there = {index: line for index, line in self._lines().items() if self._is_there(line)}
        if there:
            write_manifest(self.manifest, there.values())
        for path in self._parts:
            path.unlink()
        return there

    def _is_there(self, line: ManifestLine) -> bool:
        return all(_is_whole_png(self.folder / file) for file in line.files)

    def open_part(self, rank: int) -> None:
        """Begin this process's part of the manifest."""
        path = self.folder / PART.format(rank)
        with reporting_os_errors(path):
            self._part = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, sample: PlannedSample, image: Tensor, label: Tensor) -> None:
        """Write one pair ([C, H, W] in [-1, 1] and [H, W] class ids), then its line of the manifest."""
        mask = self.encoding.encode(label.cpu().numpy())
        for file, picture in ((sample.image, to_picture(image)), (sample.mask, mask)):
            with atomic_write(self.folder / file) as temporary:
                picture.save(temporary, format="PNG")
        line = ManifestLine(
            index=sample.index,
            image=sample.image,
            mask=sample.mask,
            source_mask=str(sample.source.mask),
            source_digest=self._source_digest(sample),
            seed=sample.seed,
            **self.settings.model_dump(),
        )
        # The line comes last: a pair without one is made again, a line without its pair cannot be.
        with reporting_os_errors(self.manifest):
            self._part.write(line.text())
            self._part.flush()

    def close_part(self) -> None:
        """End this process's part of the manifest."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def finish(self) -> list[ManifestLine]:
        """Merge all parts, in one process after the others are done; return the manifest's lines by index."""
        lines = self._merge()
        self._begun.unlink(missing_ok=True)
        return list(lines.values())

    def tiles(self, lines: Iterable[ManifestLine]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (image uint8 [H, W] or [H, W, 3], label [H, W]) of written samples, for pictures of them."""
        for line in lines:
            with Image.open(self.folder / line.image) as image, Image.open(self.folder / line.mask) as mask:
                yield np.asarray(image), self.encoding.decode(mask, line.mask)
