"""How defects look in sets of pairs: those that `place` painted beside those of the training split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from evaluations.defect_looks import FARTHEST, Look, Looks, differs, look_of, strength_ratio
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.components import find_components
from guided_diffusion.data.files import open_image
from guided_diffusion.data.intensity import stored_samples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair, index_pairs
from guided_diffusion.data.scan.good_images import as_turned
from guided_diffusion.pipelines.study.images import StudyView
from guided_diffusion.runtime.card_file import plain
from guided_diffusion.samples.manifest import ManifestLine

MOST_IMAGES = 100  # of a set
_MANY = 2.0  # seconds from which on reading shows a progress bar


def looks_by_class(
    pairs: Iterable[tuple[NDArray[np.uint8], NDArray[np.integer]]], defects: Sequence[int], num_classes: int
) -> dict[int, Looks | None]:
    """Return how the components of each class of `defects` look in images [H, W, C] with label maps [H, W], whose ids
    from `num_classes` on are of no class.
    """
    found: dict[int, list[Look]] = {class_id: [] for class_id in defects}
    for image, label in pairs:
        ground = ~np.isin(label, defects) & (label < num_classes)
        for component in find_components(label, defects):
            around = component.box.grown(FARTHEST).inside(label.shape)
            mask = np.zeros(around.size, bool)
            mask[component.box.within(around).slices] = component.mask
            look = look_of(image[around.slices], mask, ground[around.slices])
            if look is not None:
                found[component.class_id].append(look)
    return {class_id: Looks.of(looks) for class_id, looks in found.items()}


@dataclass(frozen=True)
class ComparedLooks:
    """How placed defects and those of the training split look, by the names of their classes."""

    placed: Mapping[str, Looks | None]
    real: Mapping[str, Looks | None]
    by_image: bool = False  # the model sees each image by its own percentiles

    def ratio(self, name: str) -> float | None:
        """Return how many times as much the placed defects of a class stand out; None where that cannot be judged."""
        return strength_ratio(self.placed[name], self.real[name])

    def warnings(self, s: float) -> list[str]:
        """Return a line for each class that stands out much more or less than in the training images; s: of `place`."""
        lines = []
        for name in self.placed:
            ratio, placed, real = self.ratio(name), self.placed[name], self.real[name]
            if ratio is not None and placed is not None and real is not None and differs(ratio):
                lines.append(f"{name} stands out {_times(placed, real, ratio)}: {self._remedy(ratio, s)}")
        return lines

    def _remedy(self, ratio: float, s: float) -> str:
        if self.by_image:
            ranges = "with image_range percentile good images have another range than those with defects"
            return f"{ranges}; train with a fixed one, [black, white]"
        if ratio > 1:
            return "a lower s paints it fainter" if s > 1 else "the network needs more steps, or more images of it"
        return "a higher s paints it stronger, and so may more training steps"

    def card_lines(self) -> list[str]:
        """Return the lines of a section of the dataset card."""
        text = "How much brighter or darker defects are than the pixels around them: median and quartiles."
        lines = [text, "", "| class | placed | training images | how many times as much |", "|---|---|---|---:|"]
        for name in self.placed:
            ratio = self.ratio(name)
            cells = (_contrast(self.placed[name]), _contrast(self.real[name]), "" if ratio is None else f"{ratio:.2f}")
            lines.append(f"| {plain(name)} | {' | '.join(cells)} |")
        return lines


def compare_looks(
    config: PlaceConfig, trained: TrainedConfig, encoding: LabelEncoding, folder: Path, lines: Sequence[ManifestLine]
) -> ComparedLooks | None:
    """Return how the defects in the pairs `lines` of `folder` look beside those of the training split, at the scale of
    the model and in the values of the files; None where there is no training split. Reads up to MOST_IMAGES of each.
    """
    mode = get_mode(trained.source.dataset_mode)
    names = {defect.name for line in lines for defect in line.defects or ()}
    defects = [class_id for class_id, name in enumerate(encoding.names) if name in names]
    if not config.source.data_dir or not defects:
        return None
    pairs, problems = index_pairs(config.source.data_dir, mode, "train", with_instances=False)
    if any(problem.fatal for problem in problems):
        return None
    geometry, exif = trained.geometry, trained.source.exif
    by_image = geometry.image_range == "percentile"
    view = StudyView(encoding, geometry.image_channels, geometry.scale, geometry.image_range, mode.background)
    placed = [Pair(line.mask, str(folder / line.image), str(folder / line.mask)) for line in lines]

    def read(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        # Percentiles of an image hide that its whole range is another; contrast is the same whatever value is white.
        of_file = replace(view, image_range=(0, _brightest(pair.image))) if by_image else view
        return of_file.read(pair)

    sets = []
    for name, chosen in (("placed", placed), ("training", pairs)):
        shown = visualize.evenly_spaced(chosen, MOST_IMAGES)
        if name == "training":
            shown = [as_turned(pair, exif) for pair in shown]
        bar = tqdm(shown, f"looking at {name} defects", unit="image", delay=_MANY)
        found = looks_by_class(map(read, bar), defects, encoding.num_classes)
        sets.append({encoding.names[class_id]: looks for class_id, looks in found.items()})
    return ComparedLooks(*sets, by_image=by_image)


def _brightest(path: str) -> int:
    return max(1, int(stored_samples(open_image(path), path)[0].max()))


def _times(synthetic: Looks, real: Looks, ratio: float) -> str:
    return (
        f"{ratio:.1f} times as much as in the training images (by {synthetic.strength:.0%} of the brightness around "
        f"it, there {real.strength:.0%}; medians)"
    )


def _contrast(looks: Looks | None) -> str:
    if looks is None:
        return ""
    low, middle, high = looks.contrast
    return f"{middle:+.0%} ({low:+.0%} to {high:+.0%}), {looks.count} defects"
