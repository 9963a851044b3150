"""Measure how many defects a segmenter still finds in images that `place` has healed (`erase`).

    python -m scripts.measure.healed RESULTS_OF_ERASING --out runs/healed [--good-dir FOLDER] \
        [--encoder tu-tf_efficientnet_lite0 --encoder-weights weights/tf_efficientnet_lite0.safetensors]

A segmenter (U-Net) is trained on crops of real images at the scale of the network, as those of `study` are, and asked
about whole images at that scale. There are two: each is trained on one half of the training pairs and asked about the
other half, whose defects it has not seen. With few steps or without pretrained weights (`--encoder-weights`) it finds
nothing anywhere; the original images say whether it is good enough.

A defect is found if the segmenter sees a defect, of whichever class, in at least a quarter of its pixels. The same
places are looked at in the original images, in the healed ones and, by way of comparison, in good images, where the
masks are laid in turn: what is found there are false alarms. Prints a table in Markdown, also written to `healed.md`;
`healed.json` has the numbers, `healed.png` the pairs in which the healed defects are seen best.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from evaluations.segmentation.crop_training import CropTrainingPlan, train_on_crops
from evaluations.segmentation.crops import CropPlan
from evaluations.segmentation.models import InputForm, build_segmenter, input_form
from evaluations.segmentation.sliding import predict_whole
from guided_diffusion.data import visualize
from guided_diffusion.data.components import Box
from guided_diffusion.data.mirror import exchanged, flip_pairs
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.scan.good_images import list_upright
from guided_diffusion.pipelines.placing.folder import PlacedFolder
from guided_diffusion.pipelines.study.images import StudyView
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import write_text
from scripts.benchmark.run import positive
from scripts.dataset_folders import run_script
from scripts.measure.placed import folder_arguments

FOUND = 0.25  # of the pixels of a defect
BATCH = 8  # crops a step takes
LEAST = 0.5  # of the original defects that a segmenter has to find for the measure to say anything
KINDS = ("original", "healed", "good")
SHOWN = 6
SIDE = 200  # px of a picture


@dataclass
class Tally:
    """What is found of the defects of one class in one kind of image."""

    defects: int = 0
    found: int = 0
    pixels: int = 0
    found_pixels: int = 0

    def add(self, seen: NDArray[np.bool_]) -> None:
        """Count a defect; seen: which of its pixels the segmenter takes for one, [N]."""
        self.defects += 1
        self.found += int(seen.mean() >= FOUND)
        self.pixels += seen.size
        self.found_pixels += int(seen.sum())


def _each_kind() -> dict[str, Tally]:
    return {kind: Tally() for kind in KINDS}


@dataclass
class Tallies:
    """The tallies of each class by name and each kind of image."""

    of: dict[str, dict[str, Tally]] = field(default_factory=lambda: defaultdict(_each_kind))

    def add(self, class_name: str, kind: str, seen: NDArray[np.bool_]) -> None:
        for name in ("all", class_name):
            self.of[name][kind].add(seen)

    @property
    def is_telling(self) -> bool:
        """Whether enough of the original defects are found to learn anything from what is not found in healed ones."""
        original = self.of["all"]["original"]
        return original.found >= LEAST * original.defects

    def table(self) -> str:
        """Return a Markdown table: defects found, and the share of defect pixels, in each kind of image."""
        lines = [f"| class | defects | {' | '.join(f'{kind}: found (pixels)' for kind in KINDS)} |"]
        lines.append("|---" * (2 + len(KINDS)) + "|")
        for name in ("all", *sorted(self.of.keys() - {"all"})):
            kinds = self.of[name]
            lines.append(f"| {name} | {kinds[KINDS[0]].defects} | {' | '.join(_cell(kinds[kind]) for kind in KINDS)} |")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {name: {kind: vars(tally) for kind, tally in kinds.items()} for name, kinds in self.of.items()}


def _cell(tally: Tally) -> str:
    if not tally.defects:
        return ""
    return f"{100 * tally.found / tally.defects:.0f} % ({100 * tally.found_pixels / tally.pixels:.0f} %)"


# ---------------------------------------------------------------------------------------------------- segmenter


def view_of(folder: PlacedFolder) -> StudyView:
    """Return how images are seen at the scale of the network."""
    geometry = folder.trained.geometry
    background = get_mode(folder.trained.source.dataset_mode).background
    channels, image_range = geometry.image_channels, geometry.image_range
    return StudyView(folder.encoding, channels, geometry.scale, image_range, background)


@dataclass(frozen=True)
class Seer:
    """What a segmenter sees of `classes` in whole images, by windows of the size of its crops."""

    model: nn.Module
    view: StudyView
    classes: tuple[int, ...]
    crop: int
    form: InputForm = "imagenet"

    def defects(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which pixels of an image [H, W, C] it takes for a defect, [H, W]."""
        size = image.shape[0], image.shape[1]
        reduced = self.view.reduced_image(image)
        settings = {"window": self.crop, "batch_size": BATCH, "device": choose_device("auto"), "form": self.form}
        (label,) = predict_whole(self.model, [reduced], **settings)
        rows, columns = (np.arange(old) * new // old for old, new in zip(size, label.shape, strict=True))
        return np.isin(label, self.classes)[rows[:, None], columns]


def train_seer(
    folder: PlacedFolder, pairs: Sequence[Pair], classes: Sequence[int], arguments: argparse.Namespace, seed: int
) -> Seer:
    """Return a segmenter trained on crops of real pairs."""
    view = view_of(folder)
    exchanges = flip_pairs(folder.encoding.names, folder.trained.source.flip_pairs)
    relabel = partial(exchanged, pairs=exchanges) if exchanges else None
    form = input_form(arguments.encoder)
    model = build_segmenter(
        "unet",
        arguments.encoder,
        num_classes=folder.encoding.num_classes,
        encoder_weights=arguments.encoder_weights,
        seed=seed,
    )
    with tqdm(total=arguments.steps, desc="segmenter", unit="step") as bar:
        trained = train_on_crops(
            model,
            view.read_pairs(pairs, "training"),
            CropPlan(arguments.crop, relabel=relabel),
            CropTrainingPlan(arguments.steps, BATCH, form=form),
            seed=seed,
            device=choose_device("auto"),
            callback=lambda step: bar.update(step - bar.n),
        )
    return Seer(trained.model, view, tuple(classes), arguments.crop, form)


# ------------------------------------------------------------------------------------------------------ command


def in_8_bits(pixels: NDArray[np.integer], good: NativeImage) -> NDArray[np.uint8]:
    """Return stored pixels [H, W, C] as the network sees them, black and white being those of the good image."""
    scaled = (pixels.astype(np.float64) - good.low) / max(good.high - good.low, 1) * 255
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)


def moved(box: Box, size: Sequence[int], other: Sequence[int]) -> Box:
    """Return where a box of an image of `size` lies in another one: with its center at the same share of the sides.

    It may reach out of an image that is too small for it.
    """
    corner = []
    for first, length, old, new in zip((box.top, box.left), box.size, size, other, strict=True):
        start = round((first + length / 2) * new / old - length / 2)
        corner.append(max(0, min(start, new - length)))
    return Box(corner[0], corner[1], corner[0] + box.size[0], corner[1] + box.size[1])


def _good_images(folder: PlacedFolder, good_dir: str) -> Iterator[NDArray[np.uint8] | None]:
    """Yield good images [H, W, C] over and over; None where there is no folder."""
    images = list_upright(good_dir, folder.trained.source.exif) if good_dir else []
    while True:
        for good in images:
            yield folder.read_image(good.image)
        if not images:
            yield None


@dataclass(frozen=True, eq=False)
class _Shown:
    class_name: str
    share: float  # of the healed defect that is still seen
    tiles: list[visualize.Pixels]


def _tiles(box: Box, images: Sequence[NDArray[np.uint8]]) -> list[visualize.Pixels]:
    """Return the surroundings of a defect in each of the images, enlarged by a whole number."""
    side = max(48, 2 * max(box.size))
    view = box.framed((side, side), images[0].shape[:2])
    factor = max(1, SIDE // side)
    step = -(-side // SIDE)
    return [image[view.slices][::step, ::step].repeat(factor, axis=0).repeat(factor, axis=1) for image in images]


def compare(folder: PlacedFolder, seers: Mapping[str, Seer], good_dir: str) -> tuple[Tallies, list[_Shown]]:
    """Return what is found, and the healed defects that are seen best. seers: by the stem of the training pair."""
    tallies, shown = Tallies(), []
    goods = _good_images(folder, good_dir)
    for scene in tqdm(folder.scenes(), total=len(folder.samples.lines), unit="image", desc="looking"):
        if not scene.finished.defects:
            continue
        seer = seers[scene.finished.defects[0].source.rsplit("#", 1)[0]]
        original, healed = (in_8_bits(pixels, scene.good) for pixels in (scene.good.pixels, scene.result))
        images = dict(zip(KINDS, (original, healed, next(goods)), strict=True))
        seen = {kind: seer.defects(image) for kind, image in images.items() if image is not None}
        for defect in scene.finished.defects:
            name, box = folder.encoding.names[defect.class_id], defect.box
            for kind, found in seen.items():
                where = moved(box, original.shape[:2], found.shape) if kind == "good" else box
                part = found[where.slices]
                own = part[defect.mask[: part.shape[0], : part.shape[1]]]
                if own.size:
                    tallies.add(name, kind, own)
            share = float(seen["healed"][box.slices][defect.mask].mean())
            shown.append(_Shown(name, share, _tiles(box, (original, healed))))
            shown = sorted(shown, key=lambda each: -each.share)[:SHOWN]
    return tallies, shown


def run(arguments: argparse.Namespace) -> None:
    """Train the segmenters, look for defects and write what is found."""
    folder = PlacedFolder.open(arguments.folder, data_dir=arguments.data_dir, model_path=arguments.model_path)
    if not folder.config.erase:
        found = "was not made with erase"
        raise DataError.of(folder.samples.folder, found, "give the results_path of place with erase true")
    names = folder.encoding.names
    lines = folder.samples.lines.values()
    classes = sorted({names.index(defect.name) for line in lines for defect in line.defects or ()})
    pairs = list(folder.pairs("train").values())
    seers = {}
    for half in (0, 1):
        seer = train_seer(folder, pairs[half::2], classes, arguments, half)
        seers |= {pair.stem: seer for pair in pairs[1 - half :: 2]}
    tallies, shown = compare(folder, seers, arguments.good_dir)
    out, table = arguments.out, tallies.table()
    if not tallies.is_telling:
        found = f"The segmenter finds less than {100 * LEAST:.0f} % of the original defects"
        table += f"\n\n{found}: use pretrained weights or more --steps."
    write_text(out / "healed.md", table + "\n")
    settings = {name: getattr(arguments, name) for name in ("encoder", "encoder_weights", "crop", "steps")}
    write_text(out / "healed.json", json.dumps({**settings, "classes": tallies.to_json()}, indent=1) + "\n")
    sheet = visualize.grid(
        [each.tiles for each in shown],
        column_titles=("original", "healed"),
        row_titles=[f"{each.class_name}, {100 * each.share:.0f} % seen" for each in shown],
        scale=1,
    )
    visualize.save(sheet, out / "healed.png")
    print(table)
    for name in ("healed.md", "healed.json", "healed.png"):
        print(f"  {(out / name).absolute()}")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder_arguments(parser)
    parser.add_argument("--steps", type=positive, default=800, help="of the training of each segmenter")
    parser.add_argument("--crop", type=positive, default=128, help="side of its crops at the scale of the network")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--encoder-weights", default="none", help="a local file, a name to download, or none")
    run_script(run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
