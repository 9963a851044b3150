"""Measure the quality of few sampling steps: statistics of samples with many and with few steps.

    python -m scripts.measure.few_steps RUN_FOLDER --data-dir data/magnetic_tile [--short dpm++2m:logsnr:20 ...]
    python -m scripts.measure.few_steps RUN_FOLDER --data-dir data/magnetic_tile --reference

Samples the masks of a split with a long reference and with each short setting, from the same masks and seeds, and holds
each set against the real images of these masks, at the size that the model sees, by the mean, the standard deviation
and the gradient magnitude of each channel (`image_statistics.py` defines them and their errors).

"worse" is the error over the reference's, less 1. Where the reference's error is near 0 this says nothing; so the
differences stand beside it, and the error that halves of the real images have against each other (the mean over random
halves): differences far below that are of no consequence. With `--seeds` above 1 everything is the mean over the seeds,
with the standard deviation over them behind it, which for a mean has to be divided by the root of their number.

`--reference` is another measurement: the images of this project's path (lookup, shared encoder) beside those of the
published computation (`published_unet.py`) with the same weights and noise, in 50 ancestral steps.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import read_config
from guided_diffusion.config.pipeline import SamplingConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.loader import collate_examples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.diffusion.denoiser import NetworkFunction
from guided_diffusion.diffusion.guidance import ConditionFn
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.pipelines.dataset import shown_dataset
from guided_diffusion.pipelines.load import encoding_of_checkpoint, pipeline_of_checkpoint
from guided_diffusion.pipelines.masks import find_masks
from guided_diffusion.pipelines.sampling import SamplingPipeline, SamplingRun
from guided_diffusion.runtime.checkpoint import BEST, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import digest, write_text
from guided_diffusion.samples.plan import plan_samples
from scripts.benchmark.published_unet import PublishedUNet, guided
from scripts.dataset_folders import mistakes_in_lines, positive
from scripts.measure.image_statistics import STATISTICS, Pixels, Statistics, compare, halves_of, sums_of, table

COLUMNS = 10  # of the picture
REFERENCE_IMAGES = 8


# --------------------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Setup:
    """A trained model and its conditions, as the action `sample` has them."""

    checkpoint: Path
    pipeline: SamplingPipeline
    pairs: Sequence[Any]  # N of the split
    encoding: LabelEncoding
    real: Pixels  # their images as the model would see them, uint8 [N, H, W, C]
    condition: SemanticMap  # their maps, on the CPU

    @staticmethod
    def of(arguments: argparse.Namespace, images: int | None) -> Setup:
        """Return the setup for `images` pairs spread over the split, None for all of it."""
        checkpoint = load_checkpoint(find_checkpoint(arguments.run_folder, prefer=BEST))
        if checkpoint.is_bare:
            raise UserError(
                f"{checkpoint.path}: bare weights do not say what they were trained with: give a run folder"
            )
        trained = options_of_checkpoint(checkpoint).replaced(data_dir=arguments.data_dir)
        sources, encoding, *_ = find_masks(
            trained.source, trained.geometry, split=arguments.split, encoding=encoding_of_checkpoint(checkpoint)
        )
        pairs = visualize.evenly_spaced(sources, len(sources) if images is None else images)
        if len(pairs) < 2:
            raise UserError(f"--images: statistics need at least 2 images, found {len(pairs)}: use more")
        dataset = shown_dataset(pairs, encoding, trained.geometry, get_mode(trained.source.dataset_mode))
        image, condition = collate_examples(dataset, range(len(pairs)))
        device = choose_device(arguments.device)
        pipeline = pipeline_of_checkpoint(checkpoint, trained, encoding.names, weights=arguments.weights, device=device)
        real = visualize.quantize(image.numpy())
        return Setup(checkpoint.path, pipeline, pairs, encoding, real, condition)

    def facts(self, arguments: argparse.Namespace) -> dict[str, Any]:
        """Return the settings of the measurement."""
        return {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {self.pipeline.device}, torch {torch.__version__}",
            "checkpoint": str(self.checkpoint.absolute()),
            "checkpoint_digest": digest(self.checkpoint),
            "weights": arguments.weights,
            "images": f"{len(self.pairs)} of {arguments.data_dir}, {arguments.split}",
            "s": arguments.s,
        }


def sampler_of(arguments: argparse.Namespace, setting: str) -> SamplerOptions:
    """Return the options of `sampler[:grid][:steps]`; ConfigError where there are none."""
    sampler, _, rest = setting.partition(":")
    grid, _, steps = rest.rpartition(":")
    values = {
        "s": arguments.s,
        "sampler": sampler,
        "time_grid": grid or None,
        "steps": int(steps) if steps.isdecimal() else steps or None,
    }
    return read_config(SamplingConfig, values).sampler


def sample(setup: Setup, run: SamplingRun, *, seed: int, batch: int, bar: tqdm) -> Tensor:
    """Return images [N, C, H, W] on the CPU, those that the action `sample` makes of these masks.

    seed: the run seed.
    """
    seeds = [planned.seed for planned in plan_samples(setup.pairs, None, seed)]
    images, before = [], bar.n
    for start in range(0, len(seeds), batch):
        part, done_before = slice(start, start + batch), before + start * run.num_steps
        images.append(
            run(
                setup.condition[part],
                seeds[part],
                progress=lambda done, _, before=done_before: bar.update(before + done - bar.n),
            )
        )
    return torch.cat(images)


# ----------------------------------------------------------------------------------------------- measurements


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table, draw the picture and return the figures."""
    samplers = [sampler_of(arguments, setting) for setting in (arguments.long, *arguments.short)]
    setup = Setup.of(arguments, arguments.images)
    runs: dict[str, SamplingRun] = {}
    for options in samplers:
        run = setup.pipeline.begin(options)
        name = f"{options.sampler}:{options.time_grid}:{run.num_steps}"
        if name in runs:
            raise UserError(f"--short: {name} is asked for twice: leave one out")
        runs[name] = run
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    total = sum(run.num_steps for run in runs.values()) * len(setup.pairs) * len(seeds)
    sets: dict[str, list[Statistics]] = {name: [] for name in runs}
    shown: dict[str, Pixels] = {}
    with tqdm(total=total, unit="call", desc="network calls x images") as bar:
        for seed, (name, run) in itertools.product(seeds, runs.items()):
            bar.set_postfix_str(f"{name}, seed {seed}")
            images = sample(setup, run, seed=seed, batch=arguments.batch, bar=bar)
            pixels = visualize.quantize(images.numpy())
            sets[name].append(sums_of(pixels).statistics())
            shown.setdefault(name, pixels)
    calls = {name: run.num_steps for name, run in runs.items()}  # every sampler calls the network once a step
    sums = sums_of(setup.real)
    real, halves = sums.statistics(), halves_of(sums)
    rows = compare(sets, real)
    facts = {**setup.facts(arguments), "seeds": list(seeds)}
    print("; ".join(f"{key} {value}" for key, value in facts.items()), table(rows, calls, real, halves), sep="\n\n")
    if arguments.picture:
        draw(setup, shown, arguments.picture)
    return {
        **facts,
        "network_calls": calls,
        "real": {name: getattr(real, name).tolist() for name in STATISTICS},
        "real_halves": {name: errors.tolist() for name, errors in halves.items()},
        "rows": [asdict(row) for row in rows],
    }


def draw(setup: Setup, shown: Mapping[str, Pixels], path: str) -> None:
    """Write a picture of masks, real images and samples (by setting), spread over the split, and print its path."""
    columns = visualize.evenly_spaced(range(len(setup.pairs)), COLUMNS)
    palette = visualize.class_palette(setup.encoding.num_classes)
    masks = [visualize.colorize(setup.condition.label[column].numpy(), palette) for column in columns]
    rows = [[images[column] for column in columns] for images in (setup.real, *shown.values())]
    titles = ["mask", "real", *(name.replace(":", " ") for name in shown)]
    sheet = visualize.grid(
        [masks, *rows], row_titles=titles, legend=visualize.legend_of(setup.encoding.names, setup.condition.label)
    )
    visualize.save(sheet, path)
    print(f"\n{Path(path).absolute()}")


def measure_reference(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print and return the difference between our images and those of the published computation."""
    setup = Setup.of(arguments, arguments.images or REFERENCE_IMAGES)
    options = sampler_of(arguments, "ddpm:uniform:50")
    ours = setup.pipeline.begin(options)
    published = PublishedUNet(setup.pipeline.model)

    def build_published(condition: SemanticMap, condition_fn: ConditionFn | None) -> NetworkFunction:
        def network(x_t: Tensor, t: Tensor) -> Tensor:
            maps = condition if condition_fn is None else condition_fn(condition, t)
            return guided(published, x_t, ours.process.model_t(t).to(x_t.device), maps.one_hot(), arguments.s)

        return network

    runs = {"ours": ours, "published": setup.pipeline.begin(options, network=build_published)}
    images = {}
    with tqdm(total=2 * ours.num_steps * len(setup.pairs), unit="call", desc="network calls x images") as bar:
        for name, run in runs.items():
            bar.set_postfix_str(name)
            images[name] = sample(setup, run, seed=arguments.seed, batch=arguments.batch, bar=bar)
    difference = np.abs(np.subtract(*(visualize.quantize(each.numpy()).astype(int) for each in images.values())))
    found = {
        "largest_difference": int(difference.max()),
        "share_of_pixels_that_differ": float((difference > 0).mean()),
        "largest_difference_before_rounding": float((images["ours"] - images["published"]).abs().max() * 127.5),
    }
    facts = {**setup.facts(arguments), "seed": arguments.seed}
    print("; ".join(f"{key} {value}" for key, value in facts.items()), end="\n\n")
    print(
        f"largest difference: {found['largest_difference']} of 255 gray levels "
        f"({found['largest_difference_before_rounding']:.2g} before rounding; "
        f"{100 * found['share_of_pixels_that_differ']:.3g} % of the pixels differ); at most 1: "
        f"{'yes' if found['largest_difference'] <= 1 else 'no'}"
    )
    return {**facts, **found}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder", help="run folder or checkpoint file")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--split", default="test", choices=["train", "test"])
    parser.add_argument(
        "--images", type=positive, help="pairs of the split, spread over it; default: all, --reference: 8"
    )
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--s", type=float, default=1.5, help="guidance scale")
    parser.add_argument("--weights", default="ema")
    parser.add_argument("--long", default="ddpm:1000", metavar="SETTING", help="sampler[:grid][:steps]")
    default = SamplerOptions.model_fields["sampler"].default
    parser.add_argument("--short", nargs="+", default=[default], metavar="SETTING", help="default: that of `sample`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=positive, default=1, help="seeds from --seed on")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--picture", metavar="FILE", help="write a picture")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument("--reference", action="store_true", help="measure against the published computation instead")
    arguments = parser.parse_args(argv)
    if arguments.picture and not arguments.picture.lower().endswith((".png", ".jpg")):
        parser.error("--picture: must end in .png or .jpg")
    with mistakes_in_lines():
        found = measure_reference(arguments) if arguments.reference else measure(arguments)
        if arguments.json:
            write_text(arguments.json, json.dumps(found, indent=2) + "\n")
            print(Path(arguments.json).absolute())


if __name__ == "__main__":
    main()
