"""Measure what few sampling steps cost in quality: samples of a trained model in many steps and in few, by statistics.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.actions.sample import find_masks, sampling_process
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import load_config
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.loader import stack_examples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.guidance import GuidedDenoiser
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.diffusion.samplers import SAMPLERS, Denoise, draw_noise
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.build import image_shape, model_from_checkpoint, options_of_checkpoint
from guided_diffusion.runtime.checkpoint import BEST, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import digest, write_text
from guided_diffusion.samples.writer import plan_samples
from scripts.benchmark.published_unet import PublishedUNet, guided
from scripts.measure.image_statistics import STATISTICS, Pixels, Statistics, compare, halves_of, sums_of, table

COLUMNS = 10  # of the picture
REFERENCE_IMAGES = 8


# --------------------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Setup:
    """A trained model and what it samples from, as the sample action would have them.

    options: those it was trained with. pairs: N of the split. real: their images as the model would see them, uint8
    [N, H, W, C]; condition: their maps, on the CPU.
    """

    checkpoint: Path
    options: Mapping[str, Any]
    model: UNetModel
    pairs: Sequence[Any]
    encoding: LabelEncoding
    real: Pixels
    condition: SemanticMap
    device: torch.device

    @staticmethod
    def of(arguments: argparse.Namespace, config: SampleConfig, images: int | None) -> Setup:
        """Return the setup for `images` pairs spread over the split, None for all of it."""
        device = choose_device(arguments.device)
        checkpoint = load_checkpoint(find_checkpoint(config.model_path, prefer=BEST))
        options = options_of_checkpoint(checkpoint, config)
        sources, encoding = find_masks(config, checkpoint, options)
        options["num_classes"] = encoding.num_classes
        pairs = visualize.spread(sources, len(sources) if images is None else images)
        if len(pairs) < 2:
            raise UserError(f"--images: statistics need at least 2 images, found {len(pairs)}: use more")
        dataset = SegmentationDataset(
            pairs,
            encoding,
            JointTransform(height_width(options["image_size"]), resize=options["resize"], train=False),
            image_channels=options["image_channels"],
            with_edges=not options["no_instance"],
        )
        image, condition = stack_examples(dataset, range(len(pairs)))
        model = model_from_checkpoint(checkpoint, options, config.weights).to(device).eval()
        real = visualize.quantize(image.numpy())
        return Setup(checkpoint.path, options, model, pairs, encoding, real, condition, device)

    def facts(self, config: SampleConfig) -> dict[str, Any]:
        """Return what the figures are of, for the record."""
        return {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, {self.device}, torch {torch.__version__}",
            "checkpoint": str(self.checkpoint.absolute()),
            "checkpoint_digest": digest(self.checkpoint),
            "weights": config.weights,
            "images": f"{len(self.pairs)} of {config.data_dir}, {config.data_split}",
            "s": config.s,
        }


def config_of(arguments: argparse.Namespace, setting: str) -> SampleConfig:
    """Return the configuration of the sample action for `sampler[:grid][:steps]`; ConfigError where there is none."""
    sampler, _, rest = setting.partition(":")
    grid, _, steps = rest.rpartition(":")
    values = {
        "model_path": arguments.run_folder,
        "data_dir": arguments.data_dir,
        "data_split": arguments.split,
        "results_path": "nothing is written there",
        "weights": arguments.weights,
        "s": arguments.s,
        "sampler": sampler,
        "time_grid": grid or None,
        "steps": int(steps) if steps.isdecimal() else steps or None,
    }
    return load_config("sample", values)


class Counted:
    """`denoise` that counts its calls and shows them."""

    def __init__(self, denoise: Denoise, bar: tqdm):
        self.denoise, self.bar, self.calls = denoise, bar, 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the model output."""
        self.calls += 1
        self.bar.update(len(x_t))
        return self.denoise(x_t, t)


@torch.inference_mode()
def sample(
    setup: Setup,
    sampler: str,
    process: GaussianDiffusion,
    build: Callable[[SemanticMap], Denoise],
    *,
    seed: int,
    batch: int,
    bar: tqdm,
) -> tuple[Tensor, int]:
    """Return images [N, C, H, W] on the CPU, those that the action `sample` makes of these masks; calls for a batch.

    seed: the run seed. build: makes the denoiser of a batch from its maps.
    """
    seeds = [planned.seed for planned in plan_samples(setup.pairs, None, seed)]
    images = []
    for start in range(0, len(seeds), batch):
        part = slice(start, start + batch)
        generators = [torch.Generator(setup.device).manual_seed(number) for number in seeds[part]]
        denoise = Counted(build(setup.condition[part].to(setup.device)), bar)
        noise = draw_noise(generators, image_shape(setup.options), setup.device)
        images.append(SAMPLERS[sampler](denoise, process, noise, generators=generators).cpu())
    return torch.cat(images), denoise.calls


# ----------------------------------------------------------------------------------------------- measurements


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table, draw the picture and return the figures."""
    configs = [config_of(arguments, setting) for setting in (arguments.long, *arguments.short)]
    setup = Setup.of(arguments, configs[0], arguments.images)
    settings = {}
    for config in configs:
        process = sampling_process(config, setup.options)
        name = f"{config.sampler}:{config.time_grid}:{process.num_timesteps}"
        if name in settings:
            raise UserError(f"--short: {name} is asked for twice: leave one out")
        settings[name] = (config.sampler, process)
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    total = sum(process.num_timesteps for _, process in settings.values()) * len(setup.pairs) * len(seeds)
    sets: dict[str, list[Statistics]] = {name: [] for name in settings}
    calls, shown = {}, {}
    with tqdm(total=total, unit="call", desc="network calls x images") as bar:
        for seed, (name, (sampler, process)) in itertools.product(seeds, settings.items()):
            bar.set_postfix_str(f"{name}, seed {seed}")
            build = partial(GuidedDenoiser, setup.model, process, scale=arguments.s)
            images, calls[name] = sample(setup, sampler, process, build, seed=seed, batch=arguments.batch, bar=bar)
            pixels = visualize.quantize(images.numpy())
            sets[name].append(sums_of(pixels).statistics())
            shown.setdefault(name, pixels)
    sums = sums_of(setup.real)
    real, halves = sums.statistics(), halves_of(sums)
    rows = compare(sets, real)
    facts = {**setup.facts(configs[0]), "seeds": list(seeds)}
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
    columns = visualize.spread(range(len(setup.pairs)), COLUMNS)
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
    """Print how far this project's images are from those of the published computation, and return it."""
    config = config_of(arguments, "ddpm:uniform:50")
    setup = Setup.of(arguments, config, arguments.images or REFERENCE_IMAGES)
    process = sampling_process(config, setup.options)
    published = PublishedUNet(setup.model)

    def build_published(condition: SemanticMap) -> Denoise:
        one_hot = condition.one_hot()
        return lambda x_t, t: guided(published, x_t, process.model_t(t), one_hot, arguments.s)

    builds = {"ours": partial(GuidedDenoiser, setup.model, process, scale=arguments.s), "published": build_published}
    images = {}
    with tqdm(total=2 * process.num_timesteps * len(setup.pairs), unit="call", desc="network calls x images") as bar:
        for name, build in builds.items():
            bar.set_postfix_str(name)
            images[name], _ = sample(setup, "ddpm", process, build, seed=arguments.seed, batch=arguments.batch, bar=bar)
    ours, theirs = images.values()
    difference = np.abs(np.subtract(*(visualize.quantize(each.numpy()).astype(int) for each in (ours, theirs))))
    found = {
        "largest_difference": int(difference.max()),
        "share_of_pixels_that_differ": float((difference > 0).mean()),
        "largest_difference_before_rounding": float((ours - theirs).abs().max() * 127.5),
    }
    facts = {**setup.facts(config), "seed": arguments.seed}
    print("; ".join(f"{key} {value}" for key, value in facts.items()), end="\n\n")
    print(
        f"largest difference: {found['largest_difference']} of 255 grey levels "
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
        "--images", type=_positive, help="pairs of the split, spread over it; default: all, --reference: 8"
    )
    parser.add_argument("--batch", type=_positive, default=16)
    parser.add_argument("--s", type=float, default=1.5, help="guidance scale")
    parser.add_argument("--weights", default="ema")
    parser.add_argument("--long", default="ddpm:1000", metavar="SETTING", help="sampler[:grid][:steps]")
    default = SamplerOptions.model_fields["sampler"].default
    parser.add_argument("--short", nargs="+", default=[default], metavar="SETTING", help="default: that of `sample`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=_positive, default=1, help="seeds from --seed on")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--picture", metavar="FILE", help="write a picture for the eye")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    parser.add_argument("--reference", action="store_true", help="measure against the published computation instead")
    arguments = parser.parse_args(argv)
    if arguments.picture and not arguments.picture.lower().endswith((".png", ".jpg")):
        parser.error("--picture: must end in .png or .jpg")
    try:
        found = measure_reference(arguments) if arguments.reference else measure(arguments)
        if arguments.json:
            write_text(arguments.json, json.dumps(found, indent=2) + "\n")
            print(Path(arguments.json).absolute())
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


if __name__ == "__main__":
    main()
