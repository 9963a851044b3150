"""A synthetic dataset on disk: the folder, and writing.

`manifest.jsonl` has a line for each finished pair; during a run each process appends to a `.manifest-<rank>.jsonl` of
its own, and these are merged when a run starts and ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.datasets import read_condition
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import GoodImage
from guided_diffusion.data.transforms import JointTransform, augment_mask
from guided_diffusion.data.visualize import quantize
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import (
    atomic_write,
    is_temporary,
    make_folder,
    remove_leftovers,
)
from guided_diffusion.runtime.logs import read_run_record
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.samples.manifest import (
    FOLDERS,
    GOOD_KEYS,
    MASK_KEYS,
    GeneratedMask,
    ManifestLine,
    MaskLineage,
    PasteSettings,
    PlacedDefect,
    PredictedMask,
    SampleSettings,
    SkippedDefect,
    file_digest,
    is_whole_png,
    read_manifest,
)
from guided_diffusion.samples.mark import SourceType, mark_of, write_mark
from guided_diffusion.samples.plan import PlannedSample
from guided_diffusion.samples.written_folder import WrittenFolder, keep_classes


def read_conditions(
    samples: Sequence[PlannedSample],
    encoding: LabelEncoding,
    transform: JointTransform,
    *,
    augment: bool,
    with_edges: bool,
) -> tuple[SemanticMap, Tensor | None]:
    """Return the N maps of `samples` for the network, and which pixels [N, H, W] are no border (None: all).

    augment: all but the first use of a mask are augmented.
    """
    labels, edges, insides = [], [], []
    for sample in samples:
        window = torch.Generator().manual_seed(derive_seed(Stream.WINDOW, sample.seed))
        label, edge, inside = read_condition(sample.source, encoding, transform, with_edges=with_edges, window=window)
        if inside is None:
            inside = torch.ones(label.shape, dtype=torch.bool)
        if augment and sample.repeat:
            seed = derive_seed(Stream.MASK, sample.seed)
            _, inside = augment_mask(label, inside, torch.Generator().manual_seed(seed))
            label, edge = augment_mask(label, edge, torch.Generator().manual_seed(seed), transform.flip_pairs)
        labels.append(label)
        edges.append(edge)
        insides.append(inside)
    condition = SemanticMap(torch.stack(labels), encoding.num_classes, torch.stack(edges) if with_edges else None)
    inside = torch.stack(insides)
    return condition, None if inside.all() else inside


def to_picture(image: Tensor) -> Image.Image:
    """Return an image [1 or 3, H, W] in [-1, 1] as an 8-bit gray or RGB picture."""
    (pixels,) = quantize(image.cpu().numpy()[None])
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))


def _source_type(sample: PlannedSample, settings: SampleSettings, notes: Mapping[str, Any]) -> SourceType | None:
    """Return what made the pixels of a sample; None for a good image into which no defect could be put."""
    if not isinstance(sample.source, GoodImage):
        return "trainedAlgorithmicMedia"
    if not notes.get("defects"):
        return None
    return "compositeCapture" if isinstance(settings, PasteSettings) else "compositeWithTrainedAlgorithmicMedia"


class SyntheticFolder(WrittenFolder):
    """`<root>/<split>/{images,masks}` with their manifest; `<root>/classes.json` serves all splits."""

    def __init__(
        self,
        root: str | Path,
        split: str,
        encoding: LabelEncoding | None,
        settings: SampleSettings,
        lineages: Mapping[str, MaskLineage] | None = None,
        *,
        mark: bool = False,
        with_edges: bool = False,
    ):
        """Take the `results_path` and what is written there.

        encoding: None for images alone, which have no classes. lineages: of masks made from others, by their paths.
        mark: image files say that they are synthetic, see `mark_of`. with_edges: images follow instance edges, too.
        """
        self.mark = mark
        self.with_edges = with_edges
        self.lineages = dict(lineages or {})
        self.root = Path(root)
        super().__init__(self.root / split if split else self.root)
        self.encoding = encoding
        self.settings = settings
        self._digests: dict[str, str] = {}

    @property
    def places(self) -> list[Path]:
        """The folders of images and masks, and the manifest."""
        return [*(self.folder / f"{kind}s" for kind in self.settings.kinds), self.manifest]

    def begin(self, plan: Sequence[PlannedSample]) -> dict[int, ManifestLine]:
        """Prepare the folder and return the manifest lines of the samples that it has already, by index.

        To be called in one process before any process writes. A damaged folder is repaired: images without a line are
        made again, and so are samples whose line or files cannot be read. Raises DataError if the folder holds samples
        of other settings or sources, or files that are not samples.
        """
        lines = self._lines()
        self._refuse_other_settings(lines)
        self._refuse_other_sources(lines, plan)
        if not self._unfinished.exists():
            # In a folder that the same action made, a file with the name of a sample is one, even without a line.
            self._refuse_foreign_files(lines, plan if lines or self._is_ours else ())
        if self.encoding is not None:
            keep_classes(self.root, self.encoding)
        for kind in self.settings.kinds:
            make_folder(self.folder / f"{kind}s")
        for folder in {self.folder, *((self.folder / file).parent for sample in plan for file in sample.files)}:
            remove_leftovers(folder)
        finished = not self._unfinished.exists()
        self._mark_unfinished()
        whole = self._merge()
        self._find_damage({sample.index: sample.files for sample in plan}, lines, whole, finished=finished)
        return whole

    def _refuse_other_settings(self, lines: Mapping[int, ManifestLine]) -> None:
        for line in lines.values():
            for key, value in self.settings:
                if key != "hub" and getattr(line, key) != value:  # another commit may have the same weights
                    before, now = json.dumps(getattr(line, key)), json.dumps(value)
                    found = f"holds samples with {key} {before}, these would have {now}"
                    if key == "inputs":  # a digest, which tells nobody anything
                        found = "holds pairs of other inputs (training data, classes, label maps, placements, regions)"
                    raise DataError.of(self.manifest, found, "choose another results_path")

    def _refuse_other_sources(self, lines: Mapping[int, ManifestLine], plan: Sequence[PlannedSample]) -> None:
        for sample in plan:
            line = lines.get(sample.index)
            if line and (line.image, line.source[1]) != (sample.image, self._digest(sample.source_file)):
                found = (
                    f"the {'good images' if isinstance(sample.source, GoodImage) else 'masks'} have changed: sample "
                    f"{sample.index} was made from {line.source[0]}, it would now be made from {sample.source_file}"
                )
                raise DataError.of(self.manifest, found, "choose another results_path")
            if self.with_edges and line and line.instance_digest not in (None, self._digest(sample.instance_file)):
                found = f"the instance maps have changed: sample {sample.index} was made with other edges of"
                raise DataError.of(self.manifest, f"{found} {sample.source_file}", "choose another results_path")

    def _refuse_foreign_files(self, lines: Mapping[int, ManifestLine], plan: Sequence[PlannedSample]) -> None:
        """Refuse files that were not sampled: they would be overwritten, or taken for samples.

        plan: samples whose files may be there without a line.
        """
        named = {file for entry in (*lines.values(), *plan) for file in entry.files}
        for kind in FOLDERS:
            for path in sorted((self.folder / kind).rglob("*")):
                foreign = path.is_file() and path.relative_to(self.folder).as_posix() not in named
                if foreign and not is_temporary(path):
                    found = "is in no manifest, so it was not sampled"
                    raise DataError.of(path, found, "choose an empty results_path")

    def _digest(self, path: str) -> str:
        """Return the digest of a file that samples are made from; "" where there is none."""
        if path and path not in self._digests:
            self._digests[path] = file_digest(path)
        return self._digests.get(path, "")

    @property
    def _is_ours(self) -> bool:
        """True if the action of the settings made the folder."""
        action = read_run_record(self.folder, "environment.json").get("action")
        return self._unfinished.exists() or action == self.settings.action

    def _lines(self) -> dict[int, ManifestLine]:
        """Return the lines of the manifest and of the processes' parts, sorted by index."""
        lines: dict[int, ManifestLine] = {}
        for path in [self.manifest, *self._parts]:
            if path.exists():
                sound = read_manifest(path, sound_only=True)
                if not sound and not self._is_ours:
                    sound = read_manifest(path)  # refuses what is no manifest at all
                lines.update({line.index: line for line in sound})
        return dict(sorted(lines.items()))

    def _merge(self) -> dict[int, ManifestLine]:
        """Merge the processes' parts into the manifest; return the lines whose files are whole, and keep only these."""

        def complete(line: ManifestLine) -> bool:
            return all(is_whole_png(self.folder / file) for file in line.files)

        lines = {index: line for index, line in self._lines().items() if complete(line)}
        self._replace_manifest("".join(line.text() for line in lines.values()))
        return lines

    def write(self, sample: PlannedSample, image: Tensor, label: Tensor | None) -> None:
        """Write one pair, [C, H, W] in [-1, 1] and [H, W] class ids (None: no mask), then its line of the manifest."""
        lineage = self.lineages.get(sample.source_file)
        notes = {} if lineage is None else {"lineage": lineage.model_dump()}
        mask = None if label is None else label.cpu().numpy()
        self._write_files(sample, partial(to_picture(image).save, format="PNG"), mask, notes)

    def write_generated(
        self, sample: PlannedSample, image: Tensor | None, label: np.ndarray, generated: GeneratedMask
    ) -> None:
        """Write the mask [H, W] of class ids that a model made, its image if it made one, and their line."""
        save_image = None if image is None else partial(to_picture(image).save, format="PNG")
        self._write_files(sample, save_image, label, {"generated": generated.model_dump(by_alias=True)})

    def write_predicted(
        self,
        sample: PlannedSample,
        image: Tensor,
        label: Tensor,
        predicted: PredictedMask,
        lineage: Mapping[str, Any] | None,
    ) -> None:
        """Write the image of a layout, its predicted mask [H, W] of class ids, and their line."""
        notes: dict[str, Any] = {"predicted": predicted.model_dump(by_alias=True)}
        if lineage is not None:
            notes["lineage"] = dict(lineage)
        self._write_files(sample, partial(to_picture(image).save, format="PNG"), label.cpu().numpy(), notes)

    def write_placed(
        self,
        sample: PlannedSample,
        save_image: Callable[[Path], None],
        label: np.ndarray,
        defects: Sequence[PlacedDefect],
        skipped: Sequence[SkippedDefect] = (),
        lineage: MaskLineage | None = None,
    ) -> None:
        """Write the pair of a good image, then its line of the manifest.

        save_image: writes the image as PNG (`NativeImage.save`). label: [H, W] class ids, of the image's own size.
        lineage: of the masks whose shapes the defects have, where these are new.
        """
        notes = {
            "defects": [defect.model_dump(by_alias=True) for defect in defects],
            "skipped": [defect.model_dump(by_alias=True) for defect in skipped],
            **({} if lineage is None else {"lineage": lineage.model_dump()}),
        }
        self._write_files(sample, save_image, label, notes)

    def _write_files(
        self,
        sample: PlannedSample,
        save_image: Callable[[Path], None] | None,
        label: np.ndarray | None,
        notes: Mapping[str, Any],
    ) -> None:
        """Write image and mask, each None where the sample has none, then their line of the manifest."""
        save_mask = None if label is None else partial(self.encoding.encode(label).save, format="PNG")
        made = _source_type(sample, self.settings, notes)
        files = {}
        for kind, file, save in (("image", sample.image, save_image), ("mask", sample.mask, save_mask)):
            assert bool(file) == (save is not None)
            if save is not None:
                files[kind] = file
                with atomic_write(self.folder / file) as temporary:
                    save(temporary)
                    if kind == "image" and self.mark and made is not None:
                        write_mark(temporary, mark_of(made, self.settings, sample.seed))
        source: dict[str, str] = {}
        if sample.source is not None:
            keys = GOOD_KEYS if isinstance(sample.source, GoodImage) else MASK_KEYS
            source = dict(zip(keys, (sample.source_file, self._digest(sample.source_file)), strict=True))
        if self.with_edges:
            source["instance_digest"] = self._digest(sample.instance_file)
        line = ManifestLine(
            index=sample.index,
            **files,
            **source,
            seed=sample.seed,
            synthetic=made is not None,
            **notes,
            **self.settings.model_dump(),
        )
        # The line comes last: a pair without a line is made again, a line without its pair would be wrong.
        self._add_line(line.text())

    def written(self) -> list[ManifestLine]:
        """Return the lines of what all processes have written, by index."""
        return list(self._lines().values())

    def finish(self) -> list[ManifestLine]:
        """Merge all parts, in one process after all have closed theirs; return the manifest's lines by index."""
        lines = self._merge()
        self._unfinished.unlink(missing_ok=True)
        return list(lines.values())

    def labels(self, lines: Iterable[ManifestLine]) -> Iterator[np.ndarray]:
        """Yield the label maps [H, W] of written samples that have masks."""
        for line in lines:
            with Image.open(self.folder / line.mask) as file:
                yield self.encoding.decode(file, line.mask)

    def tiles(self, lines: Iterable[ManifestLine]) -> Iterator[tuple[np.ndarray | None, np.ndarray | None]]:
        """Yield (image uint8 [H, W] or [H, W, 3], label [H, W]) of written samples, None for what one has not."""
        for line in lines:
            image = label = None
            if line.image:
                with Image.open(self.folder / line.image) as file:
                    image = np.asarray(file)
            if line.mask:
                with Image.open(self.folder / line.mask) as file:
                    label = self.encoding.decode(file, line.mask)
            yield image, label
