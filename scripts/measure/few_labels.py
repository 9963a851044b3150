"""Measure segmentation from a few labeled images: features of a diffusion model, the pixel alone, and a U-Net.

    python -m scripts.measure.few_labels RESULTS --data-dir data/magnetic_tile --model-path runs/images/best.pt \
        --encoder-weights weights/tf_efficientnet_lite0.safetensors [--amounts 10 20 60] [--seeds 3] [--steps 1000]

For each seed, nested subsets of the training pairs in which classes are as frequent as in all of them. On each:
"features", the pixel classifiers of `segment` on the features of a diffusion model that has seen images alone;
"values", the same classifiers on the values of the pixel; "unet", a U-Net with a pretrained encoder, trained by crops
with the usual augmentation. All are measured on the test images at `--scale`, as the study measures: the mean IoU of
the defects.

It goes on where it was stopped; several commands with other `--methods` may share a folder. Writes a file for each
result, few_labels.md and few_labels.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tqdm import tqdm

from evaluations.segmentation.crop_training import Checkpoint, CropTrainingPlan, train_on_crops
from evaluations.segmentation.crops import CropPlan
from evaluations.segmentation.defect_scores import measure_defects
from evaluations.segmentation.models import build_segmenter, input_form
from evaluations.segmentation.sliding import predict_whole
from evaluations.sets import Labels
from evaluations.whole_images import WholeImages
from guided_diffusion.conditions.base import Size
from guided_diffusion.config.load import load_config, parse_overrides
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data.area import reduce_label, reduced_size
from guided_diffusion.data.datasets import read_image
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import Pair
from guided_diffusion.labeling.classifier import PixelEnsemble
from guided_diffusion.labeling.recipes import recipe_of
from guided_diffusion.pipelines.features import feature_store
from guided_diffusion.pipelines.segment.folds import Trainer, predict_tiles
from guided_diffusion.pipelines.segment.labeled import LabeledImages, open_labeled
from guided_diffusion.pipelines.segment.reader import ImageReader, open_reader
from guided_diffusion.pipelines.study.amounts import nested_order, read_presence, subset_of, write_subset
from guided_diffusion.pipelines.study.images import StudyView
from guided_diffusion.runtime.files import write_text
from scripts.dataset_folders import mistakes_in_lines
from scripts.measure.whole_splits import open_splits

FEATURES, VALUES, UNET = METHODS = ("features", "values", "unet")
NAMES = {
    FEATURES: "features of the diffusion model",
    VALUES: "values of the pixel alone",
    UNET: "U-Net, pretrained encoder",
}
TEST_BATCH = 16


@dataclass(frozen=True)
class Data:
    """Training pairs with the order of each seed, and the test pairs as the study sees them."""

    pairs: Sequence[Pair]
    orders: Sequence[NDArray[np.int64]]
    test_pairs: Sequence[Pair]
    test: WholeImages
    view: StudyView

    @property
    def encoding(self) -> LabelEncoding:
        return self.view.encoding


def read_data(arguments: argparse.Namespace) -> Data:
    """Return the images that the arguments name; UserError for what is wrong with them."""
    training, test, view = open_splits(arguments)
    presence = read_presence(training, view.encoding, view.background)
    orders = [nested_order(presence, seed) for seed in range(arguments.seeds)]
    return Data(training, orders, test, view.read_pairs(test, "test"), view)


def result_file(arguments: argparse.Namespace, method: str, amount: int, seed: int) -> Path:
    """Return where the scores of one training are written."""
    return arguments.results / f"{method}-{amount}-{seed}.json"


def keep(arguments: argparse.Namespace, data: Data, method: str, amount: int, seed: int, predict: Callable) -> None:
    """Measure a model on the test images and write its scores."""
    found = measure_defects(predict, data.test).summary(data.encoding.names)
    record = {"method": method, "amount": amount, "seed": seed, "steps": arguments.steps, **found}
    write_text(result_file(arguments, method, amount, seed), json.dumps(record, indent=1) + "\n")
    print(f"{method}, {amount} images, seed {seed}: mIoU {100 * found['miou']:.1f} %")


# ------------------------------------------------------------------------------------------------ pixel classifiers


@dataclass(frozen=True)
class Fitted:
    """Classifiers of one subset, and what reads the images for them."""

    method: str
    amount: int
    reader: ImageReader
    ensemble: PixelEnsemble
    trainer: Trainer


def classify(arguments: argparse.Namespace, data: Data, seed: int, device: torch.device) -> None:
    """Train the pixel classifiers of a seed on all amounts, then read each test image once for all of them."""
    missing = [
        (method, amount)
        for amount in arguments.amounts
        for method in (FEATURES, VALUES)
        if method in arguments.methods and not result_file(arguments, method, amount, seed).exists()
    ]
    fitted = [fit(arguments, data, method, amount, seed, device) for method, amount in missing]
    predictions: list[list[Labels]] = [[] for _ in fitted]
    for pair in tqdm(data.test_pairs if fitted else (), f"test images, seed {seed}", unit="image"):
        reader = fitted[0].reader  # of all the same channels
        image = read_image(pair.image, reader.channels, upright=pair.upright, image_range=reader.image_range)
        size = (image.shape[1], image.shape[2])
        read: dict[int, Any] = {}
        for found, each in zip(predictions, fitted, strict=True):
            found.append(predict_pair(pair, size, each, data.view, read))
    for found, each in zip(predictions, fitted, strict=True):
        keep(arguments, data, each.method, each.amount, seed, lambda _, found=found: found)


def fit(arguments: argparse.Namespace, data: Data, method: str, amount: int, seed: int, device: torch.device) -> Fitted:
    """Return the classifiers of `segment`, trained on the subset."""
    folder = arguments.results / f"subset-{amount}-{seed}"
    write_subset(subset_of(data.pairs, data.orders[seed], amount), arguments.data_dir, folder)
    values = {
        "data_dir": str(folder),
        "dataset_mode": arguments.dataset_mode,
        "model_path": arguments.model_path,
        "output_dir": str(arguments.results / "segment"),
        "folds": 0,
        "seed": seed,
        "device": arguments.device,
        "allow_absent": True,
    }
    config: SegmentConfig = load_config("segment", {**values, **parse_overrides(arguments.set, SegmentConfig)})
    reader = open_reader(config, device)
    labeled = open_labeled(config, reader, progress=False)
    if method == VALUES:
        reader = reader.values()
    trainer = Trainer(config, labeled, reader, recipe_of(config.classifier), device)
    store = filled(config, labeled, reader)
    state = arguments.results / f"{method}-{amount}-{seed}.pt"
    trained = trainer.train(store, range(len(labeled)), state, f"{method}, {amount} images, seed {seed}")
    ensemble = trained.favoring(config.classifier.favors[0])
    state.unlink(missing_ok=True)
    return Fitted(method, amount, reader, ensemble, trainer)


def filled(config: SegmentConfig, labeled: LabeledImages, reader: ImageReader) -> Any:
    """Return the maps of the labeled images, in memory."""
    store = feature_store(config.features, reader.extractor, labeled.tile_names(), Path(config.output_dir))
    with tqdm(total=len(store), desc="reading features", unit="tile") as bar:
        store.fill(lambda rows: labeled.read_tiles(reader, rows), progress=lambda done, total: bar.update(done - bar.n))
    return store


def predict_pair(pair: Pair, size: Size, fitted: Fitted, view: StudyView, read: dict[int, Any]) -> Labels:
    """Return the label map of a test image of `size` at the study's scale; read: maps by number of features."""
    reader = fitted.reader
    kind = sum(reader.extractor.dims)
    tiles = reader.tiles(size)
    if kind not in read:
        read[kind] = reader.views(
            reader.pixels(pair.image, tiles, upright=pair.upright), range(len(tiles)), tiles, flip=False
        )
    found = predict_tiles(fitted.ensemble, read[kind], tiles, size, fitted.trainer.recipe.vote)
    height, width = small = reduced_size(size, view.scale)
    null_id = view.encoding.num_classes
    spans = (0, height), (0, width)
    return reduce_label(found.label, small, *spans, background=view.background, null_id=null_id).numpy()


# ------------------------------------------------------------------------------------------------ the U-Net


def train_unet(arguments: argparse.Namespace, data: Data, amount: int, seed: int, device: torch.device) -> None:
    """Train the U-Net on one subset and measure it, unless that is done."""
    if result_file(arguments, UNET, amount, seed).exists():
        return
    pairs = subset_of(data.pairs, data.orders[seed], amount)
    training = data.view.read_pairs(pairs, f"{amount} images of seed {seed}")
    form = input_form(arguments.encoder)
    model = build_segmenter(
        "unet",
        arguments.encoder,
        num_classes=data.encoding.num_classes,
        encoder_weights=arguments.encoder_weights,
        seed=seed,
    )
    state = arguments.results / f"{UNET}-{amount}-{seed}.pt"
    with tqdm(total=arguments.steps, unit="step", desc=f"U-Net, {amount} images, seed {seed}") as bar:
        train_on_crops(
            model,
            training,
            CropPlan(arguments.crop),
            CropTrainingPlan(arguments.steps, form=form),
            seed=seed,
            device=device,
            checkpoint=Checkpoint(state, every=50),
            callback=lambda step: bar.update(step - bar.n),
        )
    predict = partial(predict_whole, model, window=arguments.crop, batch_size=TEST_BATCH, device=device, form=form)
    keep(arguments, data, UNET, amount, seed, predict)
    state.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------ the report


def read_results(folder: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Return the records of all trainings by method and number of images."""
    results: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*-*-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        results.setdefault((record["method"], record["amount"]), []).append(record)
    return results


def table(results: dict[tuple[str, int], list[dict[str, Any]]]) -> str:
    """Return a Markdown table in percent: means over seeds, and the deviation of the mIoU."""
    names = list(next(iter(results.values()))[0]["classes"])
    head = ["images", "method", "seeds", "mIoU", *names]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method, amount in sorted(results, key=lambda key: (key[1], METHODS.index(key[0]))):
        records = results[method, amount]
        scores = [100 * record["miou"] for record in records]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        classes = [statistics.mean(100 * (record["classes"][name]["iou"] or 0) for record in records) for name in names]
        cells = [str(amount), NAMES[method], str(len(records)), f"{statistics.mean(scores):.1f}{spread}"]
        lines.append(f"| {' | '.join([*cells, *(f'{score:.0f}' for score in classes)])} |")
    return "\n".join(lines)


def draw(results: dict[tuple[str, int], list[dict[str, Any]]], path: Path) -> None:
    """Write the picture: the mean IoU over the number of labeled images, a dot for each training."""
    figure = Figure(figsize=(6, 3.8), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, color in zip(METHODS, ("#1f6feb", "#8a8f98", "#d1495b"), strict=True):
        amounts = sorted(amount for found, amount in results if found == method)
        if not amounts:
            continue
        scores = [[100 * record["miou"] for record in results[method, amount]] for amount in amounts]
        axes.plot(amounts, [statistics.mean(each) for each in scores], color=color, label=NAMES[method])
        for amount, each in zip(amounts, scores, strict=True):
            axes.plot([amount] * len(each), each, "o", color=color, markersize=3)
    axes.set_xlabel("labeled images")
    axes.set_ylabel("mean IoU of the defects, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("results", type=Path, help="a folder for the results")
    add("--data-dir", required=True, help="the dataset, as data_dir of a configuration")
    add("--dataset-mode", default="multi-class")
    add("--model-path", default="", help="the diffusion model whose features are read; needed for features and values")
    add("--encoder", default="tu-tf_efficientnet_lite0")
    add("--encoder-weights", default="none", help="of the U-Net: a local file, a name to download or none")
    add("--amounts", type=int, nargs="+", default=[10, 20, 60], help="numbers of labeled images")
    add("--seeds", type=int, default=3)
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="other values of keys of segment")
    add("--steps", type=int, default=1000, help="of the U-Net's training")
    add("--scale", type=float, default=0.5, help="at which all methods are measured, and the U-Net is trained")
    add("--crop", type=int, default=128, help="side in pixels of the U-Net's crops and windows")
    add("--channels", type=int, choices=(1, 3), default=1)
    add("--device", default="cpu")
    arguments = parser.parse_args(argv)
    if not arguments.model_path and {FEATURES, VALUES} & set(arguments.methods):
        parser.error("--model-path is missing: give the diffusion model, or --methods unet")
    device = torch.device(arguments.device)
    with mistakes_in_lines():
        arguments.results.mkdir(parents=True, exist_ok=True)
        data = read_data(arguments)
        for seed in range(arguments.seeds):
            if {FEATURES, VALUES} & set(arguments.methods):
                classify(arguments, data, seed, device)
            for amount in arguments.amounts if UNET in arguments.methods else ():
                train_unet(arguments, data, amount, seed, device)
    results = read_results(arguments.results)
    write_text(arguments.results / "few_labels.md", table(results) + "\n")
    draw(results, arguments.results / "few_labels.png")
    print(table(results))


if __name__ == "__main__":
    main()
