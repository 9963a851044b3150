"""Find the length of a segmenter's training: the mean IoU of the defects over optimization steps.

    python -m scripts.measure.segmenter_curve --data-dir data/magnetic_tile --good-dir data/magnetic_tile_good \
        --encoder-weights weights/tf_efficientnet_lite0.safetensors --steps 1500 3000 --output curve

Models are trained on real images alone, with and without the usual augmentation, once for each number of steps: the
learning rate falls to 0 at the end of each, so that a point inside a longer training is lower than a training of that
length would be. They are tested on whole images by overlapping windows: by default on a fifth of the training images
that is held out, so that the test images do not choose the length; `--on test` takes those. Rerun, it goes on where it
was stopped. Writes curve.json, curve.md and curve.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from evaluations.segmentation.crop_training import Checkpoint, Checks, CropTrainingPlan, train_on_crops
from evaluations.segmentation.crops import CropPlan
from evaluations.segmentation.defect_scores import measure_defects
from evaluations.segmentation.models import build_segmenter, input_form
from evaluations.segmentation.sliding import predict_whole
from evaluations.study.training_sets import split_validation
from evaluations.whole_images import WholeImages
from guided_diffusion.data.groups import groups_of
from guided_diffusion.data.pairing import list_good_images
from scripts.dataset_folders import mistakes_in_lines
from scripts.measure.whole_splits import open_splits

HELD_OUT = 0.2  # of the training images
ARMS = {"plain": "no augmentation", "augmented": "usual augmentation"}
TEST_BATCH = 16


# ------------------------------------------------------------------------------------------------------- images


@dataclass(frozen=True)
class Data:
    """The images of training, and those with and without defects on which models are measured."""

    training: WholeImages
    measured: WholeImages
    good: WholeImages | None
    class_names: tuple[str, ...]


def read_data(arguments: argparse.Namespace) -> Data:
    """Return the images that the arguments name; UserError for what is wrong with them."""
    pairs, test, view = open_splits(arguments, with_test=arguments.on == "test")
    training, encoding = view.read_pairs(pairs, "training"), view.encoding
    good, good_training = None, None
    if arguments.good_dir:
        good_training = view.read_good(list_good_images(str(arguments.good_dir / "train")), "good images")
    if arguments.on == "test":
        measured = view.read_pairs(test, "test")
        if arguments.good_dir:
            good = view.read_good(list_good_images(str(arguments.good_dir / "test")), "good test images")
    else:
        groups = groups_of(arguments.group_pattern, training.names)
        chosen, held = split_validation(training.labels, encoding.num_classes, HELD_OUT, 0, groups)
        training, measured = training.subset(chosen), training.subset(held)
        if good_training is not None:
            groups = groups_of(arguments.group_pattern, good_training.names)
            chosen, held = split_validation(good_training.labels, encoding.num_classes, HELD_OUT, 0, groups)
            good, good_training = good_training.subset(held), good_training.subset(chosen)
    if arguments.train_on_good and good_training is not None:
        training = training.joined(good_training)
    return Data(training, measured, good, tuple(encoding.names))


# ------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """One training: its arm, its length, how long it took, and what `DefectTest.summary` said at its steps."""

    arm: str
    steps: int
    seconds: float
    records: tuple[tuple[int, dict[str, Any]], ...]


def train_curves(data: Data, arguments: argparse.Namespace) -> Iterator[Curve]:
    """Yield the curves of all lengths, the shortest first, and arms; those that are finished are read from disk."""
    device = torch.device(arguments.device)
    form = input_form(arguments.encoder)
    predict = {"window": arguments.crop, "batch_size": TEST_BATCH, "device": device, "form": form}

    def record(model: nn.Module) -> dict[str, Any]:
        return measure_defects(partial(predict_whole, model, **predict), data.measured, data.good).summary(
            data.class_names
        )

    for steps in sorted(set(arguments.steps)):
        for arm in arguments.arms:
            model = build_segmenter(
                arguments.architecture,
                arguments.encoder,
                num_classes=data.training.num_classes,
                encoder_weights=arguments.encoder_weights,
                seed=arguments.seed,
            )
            plan = CropTrainingPlan(
                steps,
                batch_size=arguments.batch_size,
                encoder_rate=arguments.encoder_rate,
                decoder_rate=arguments.decoder_rate,
                form=form,
            )
            with tqdm(total=steps, unit="step", desc=f"{arm}, {steps} steps") as bar:

                def show(step: int, bar: Any = bar) -> None:
                    bar.update(step - bar.n)

                trained = train_on_crops(
                    model,
                    data.training,
                    CropPlan(arguments.crop, augment=arm == "augmented"),
                    plan,
                    seed=arguments.seed,
                    device=device,
                    checks=Checks.evenly(arguments.checks, steps, record),
                    checkpoint=Checkpoint(arguments.output / f"{arm}-{steps}.pt", every=25),
                    workers=arguments.workers,
                    callback=show,
                )
            yield Curve(arm, steps, trained.seconds, trained.records)


def table(curves: Sequence[Curve], class_names: Sequence[str]) -> str:
    """Return a Markdown table with a line for each point of the curves, in percent."""
    names = class_names[1:]
    head = ["training", "steps", "mIoU", "with good images", "good images with a false alarm", *names, "minutes"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for curve in curves:
        for step, record in curve.records:
            shares = [record["miou"], record.get("miou_with_good"), record.get("false_alarm_images")]
            shares += [record["classes"][name]["iou"] for name in names]
            minutes = f"{curve.seconds * step / curve.steps / 60:.1f}"
            cells = [f"{ARMS[curve.arm]}, {curve.steps} steps", str(step), *map(_percent, shares), minutes]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Write the picture: a line for each training, a dot at its end; dashed where good images are counted, too."""
    figure = Figure(figsize=(7, 4.2), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = dict(zip(ARMS, ("#8a8f98", "#1f6feb"), strict=True))
    for curve in curves:
        steps = [step for step, _ in curve.records]
        for key, style in (("miou", "-"), ("miou_with_good", "--")):
            values = [record.get(key) for _, record in curve.records]
            if any(value is not None for value in values):
                percent = [np.nan if value is None else 100 * value for value in values]
                axes.plot(steps, percent, style, color=colors[curve.arm], linewidth=1.2)
                axes.plot(steps[-1:], percent[-1:], "o", color=colors[curve.arm], markersize=4)
    for arm in dict.fromkeys(curve.arm for curve in curves):
        axes.plot([], [], "-", color=colors[arm], label=ARMS[arm])
    if any("miou_with_good" in record for curve in curves for _, record in curve.records):
        axes.plot([], [], "--", color="black", label="good images counted")
    axes.set_xlabel("optimization steps (a dot is the end of a training)")
    axes.set_ylabel("mean IoU of the defects, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def write(curves: Sequence[Curve], class_names: Sequence[str], output: Path) -> None:
    """Write the curves as JSON, table and picture into a folder."""
    content = [asdict(curve) for curve in curves]
    (output / "curve.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (output / "curve.md").write_text(table(curves, class_names) + "\n", encoding="utf-8")
    draw(curves, output / "curve.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data-dir", required=True, help="the dataset, as data_dir of a configuration")
    add("--dataset-mode", default="multi-class")
    add("--good-dir", type=Path, help="a folder with good images in train and test; theirs count as false positives")
    add("--group-pattern", default="", help="images of one object by their names; one is held out whole")
    add("--train-on-good", action="store_true", help="train on good images, too")
    add("--on", choices=("validation", "test"), default="validation", help="what models are measured on")
    add("--output", type=Path, required=True, help="a folder for the results and the checkpoints")
    add("--scale", type=float, default=0.5)
    add("--channels", type=int, choices=(1, 3), default=1, help="of the images; gray ones are repeated")
    add("--architecture", default="unet")
    add("--encoder", default="tu-tf_efficientnet_lite0")
    add("--encoder-weights", default="none", help="a local file, a name to download or none")
    add("--steps", type=int, nargs="+", default=[1500], help="lengths of training")
    add("--checks", type=int, default=6, help="points on each curve")
    add("--arms", nargs="+", choices=tuple(ARMS), default=list(ARMS))
    add("--crop", type=int, default=128, help="side in pixels, of crops and of the windows of testing")
    add("--batch-size", type=int, default=8)
    add("--encoder-rate", type=float, default=CropTrainingPlan.encoder_rate)
    add("--decoder-rate", type=float, default=CropTrainingPlan.decoder_rate)
    add("--seed", type=int, default=0)
    add("--device", default="cpu")
    add("--workers", type=int, default=0, help="processes that draw crops ahead")
    arguments = parser.parse_args(argv)
    with mistakes_in_lines():
        data = read_data(arguments)
        print(f"{len(data.training)} images for training, {len(data.measured)} with defects to measure on")
        arguments.output.mkdir(parents=True, exist_ok=True)
        curves: list[Curve] = []
        for curve in train_curves(data, arguments):
            curves.append(curve)
            write(curves, data.class_names, arguments.output)
    print(table(curves, data.class_names))


if __name__ == "__main__":
    main()
