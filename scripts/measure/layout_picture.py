"""Draw layout | image | predicted mask | true mask | real image of samples of the layouts of real masks.

    python -m scripts.measure.layout_picture SAMPLES PICTURE --model-path runs/boxes --data-dir data/magnetic_tile \
        [--split test] [--rows 2]

SAMPLES: the results_path of `sample` with layout_source `data`. For each class the first `--rows` samples with an
object of it, each of another mask.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.datasets import ExampleKey
from guided_diffusion.data.modes import get_mode
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.pipelines.dataset import scan_split, shown_dataset
from guided_diffusion.pipelines.load import encoding_of_checkpoint
from guided_diffusion.runtime.checkpoint import find_checkpoint, load_checkpoint
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import MANIFEST, ManifestLine, read_manifest

COLUMNS = ("layout", "image", "predicted mask", "true mask", "real image")
TILE = 128  # pixels of the longer side


def chosen_lines(lines: Sequence[ManifestLine], names: Sequence[str], rows: int) -> list[ManifestLine]:
    """Return the first `rows` samples of each class that it has objects of, no two of one mask."""
    chosen, taken = [], set()
    for name in names:
        with_class = [line for line in lines if name in {each.name for each in line.predicted.objects}]
        for line in with_class:
            (origin,) = line.lineage.masks
            if sum(name in {each.name for each in other.predicted.objects} for other in chosen) < rows:
                if origin.mask not in taken:
                    chosen.append(line)
                taken.add(origin.mask)
    return chosen


def draw(arguments: argparse.Namespace) -> Path:
    """Write the picture and return its path."""
    checkpoint = load_checkpoint(find_checkpoint(arguments.model_path))
    trained, encoding = options_of_checkpoint(checkpoint, TrainedConfig), encoding_of_checkpoint(checkpoint)
    source = trained.source.model_copy(update={"data_dir": arguments.data_dir})
    report = scan_split(source, trained.geometry, arguments.split, encoding=encoding)
    report.raise_if_fatal()
    number = {Path(pair.mask).absolute(): index for index, pair in enumerate(report.pairs)}
    real = shown_dataset(report.pairs, encoding, trained.geometry, get_mode(source.dataset_mode))
    palette = visualize.class_palette(encoding.num_classes)
    rows, labels = [], []
    for line in chosen_lines(read_manifest(arguments.samples / MANIFEST), encoding.names, arguments.rows):
        mask = Path(line.lineage.masks[0].mask).absolute()
        if mask not in number:
            raise DataError.of(mask, f"is not a mask of the split {arguments.split}", "give another split")
        example = real[ExampleKey(0, number[mask], 0, 1.0)]
        with Image.open(arguments.samples / line.image) as image, Image.open(arguments.samples / line.mask) as label:
            drawn, predicted = np.asarray(image), encoding.decode(label, line.mask)
        true = example["label"].numpy()
        labels += [predicted, true]
        (photograph,) = visualize.to_pixels(example["image"].numpy()[None])
        tiles = (drawn, *(visualize.colorize(each, palette) for each in (predicted, true)), photograph)
        objects = line.predicted.objects
        blank = np.zeros((*predicted.shape, 3), np.uint8)
        entries = [(each.name, palette[encoding.names.index(each.name)].tolist()) for each in objects]
        layout = visualize.draw_boxes(visualize.enlarged(blank, TILE), [each.box for each in objects], entries)
        rows.append((layout, *(visualize.enlarged(tile, TILE) for tile in tiles)))
    legend = visualize.legend_of(encoding.names, labels)
    beside = [sum(rows[start : start + 2], ()) for start in range(0, len(rows), 2)]  # two samples a row
    picture = visualize.grid(beside, column_titles=COLUMNS * min(2, len(rows)), legend=legend, scale=1)
    visualize.save(picture, arguments.picture)
    return arguments.picture


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("samples", type=Path)
    add("picture", type=Path)
    add("--model-path", required=True)
    add("--data-dir", required=True)
    add("--split", default="test")
    add("--rows", type=int, default=2, help="samples of each class")
    print(draw(parser.parse_args(argv)).absolute())


if __name__ == "__main__":
    main()
