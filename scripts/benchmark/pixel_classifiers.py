"""Measure the fit and the prediction of pixel classifiers on random feature maps; print a Markdown table.

    python -m scripts.benchmark.pixel_classifiers [--images 4 8] [--steps 20] [--size 256] [--channels 256] [--json F]

The maps have the layout of the published study: blocks 5, 6, 7, 8 and 12 of the network at three timesteps, 8,448
channels in all for 256 channels, kept in float16 at their native resolution. Each number of images is measured in a
process of its own, and so is the fit apart from prediction. Memory is the largest resident size of that process less
its size before the maps were made: the network that makes the maps is not in it. Beside the seconds of the clock are
those of all cores, which other programs lengthen less.

- fit: seconds of all steps of the recipe `fast`, from `--steps` measured ones; its peak memory, and from two numbers of
  images the memory of `--extrapolate` images.
- prediction: seconds of an image, beside those of the published way: maps upsampled to the size of the image,
  concatenated, and classified by one member after another. Their largest difference is of logits.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from guided_diffusion.labeling.classifier import PixelEnsemble
from guided_diffusion.labeling.fit import Fit
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.labeling.pixels import PixelPool
from guided_diffusion.labeling.predict import member_logits, predict
from guided_diffusion.labeling.recipes import FAST
from guided_diffusion.labeling.uncertainty import Answers, Prediction
from guided_diffusion.runtime.memory import keep_freed_memory, peak_memory_gib
from scripts.benchmark.fresh import in_fresh_process
from scripts.benchmark.run import positive
from scripts.benchmark.tables import machine
from scripts.benchmark.timing import resident_gib

BLOCKS = ((4, 8), (2, 8), (2, 8), (2, 4), (1, 2))
"""Channels, in `num_channels`, and stride of blocks 5, 6, 7, 8 and 12 of the published network."""


@dataclass(frozen=True)
class Case:
    """What one process measures. images: 0 for prediction alone. memmap: maps lie in files."""

    images: int
    size: int
    channels: int
    timesteps: int
    classes: int
    members: int
    steps: int
    rounds: int
    threads: int
    memmap: bool = False

    @property
    def dim(self) -> int:
        """Features of a pixel."""
        return self.timesteps * sum(self.channels * width for width, _ in BLOCKS)


@dataclass(frozen=True)
class Seconds:
    """How long something took: by the clock, and of all cores, which other programs lengthen less."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> tuple[Seconds, Any]:
    """Return how long `work` takes, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu), result


def median(measured: Sequence[Seconds]) -> Seconds:
    """Return the median of both kinds of seconds."""
    return Seconds(*(statistics.median(getattr(each, kind) for each in measured) for kind in ("wall", "cpu")))


def random_maps(case: Case, number: int, folder: Path) -> ImageMaps:
    """Return the maps of an image, float16 with channels last."""
    rng = np.random.default_rng(number)
    maps = []
    for index, (width, stride) in enumerate(BLOCKS * case.timesteps):
        shape = (case.size // stride, case.size // stride, case.channels * width)
        if case.memmap:
            stored = np.lib.format.open_memmap(folder / f"{number}_{index}.npy", "w+", np.float16, shape)
        else:
            stored = np.empty(shape, np.float16)
        for row in stored:  # row by row, so that no float32 copy counts as memory
            row[:] = rng.standard_normal(row.shape, dtype=np.float32)
        maps.append(stored.transpose(2, 0, 1))
    return ImageMaps(maps, (case.size, case.size))


def measure_fit(case: Case) -> dict[str, float]:
    """Return seconds of all steps of the recipe, memory in GiB and MiB of an image's maps."""
    before = resident_gib()
    with tempfile.TemporaryDirectory() as folder:
        images = [random_maps(case, number, Path(folder)) for number in range(case.images)]
        coarse = [np.random.default_rng(number).integers(0, case.classes, (8, 8)) for number in range(case.images)]
        labels = [torch.from_numpy(each.repeat(case.size // 8, 0).repeat(case.size // 8, 1)) for each in coarse]
        begun, fit = timed(lambda: Fit(images, PixelPool(labels, case.classes), FAST, members=case.members))
        steps = [timed(fit.train_step)[0] for _ in range(case.steps)]
        bytes_of_image = sum(table.numel() * table.element_size() for table in images[0].tables)
    step = median(steps[1:] or steps)  # the first makes the averages of the optimizer
    return {
        "fit_seconds": begun.wall + step.wall * FAST.steps,
        "fit_cpu_seconds": begun.cpu + step.cpu * FAST.steps,
        "peak_gib": peak_memory_gib(torch.device("cpu")) - before,
        "maps_mib": bytes_of_image / 2**20,
    }


@torch.inference_mode()
def measure_prediction(case: Case) -> dict[str, float]:
    """Return seconds of an image in our way and in the published one, memory, and their largest difference."""
    before = resident_gib()
    ensemble = PixelEnsemble(case.members, case.dim, case.classes).eval()
    for name, value in ensemble.named_parameters():
        if name.endswith("weight") and value.dim() == 3:  # logits of a trained size
            value.normal_(0, value.shape[2] ** -0.5)
    with tempfile.TemporaryDirectory() as folder:
        maps = random_maps(case, 0, Path(folder))
        predict(ensemble, [maps])  # the first run takes its memory from the system
        peak = peak_memory_gib(torch.device("cpu")) - before
        rounds = [
            (timed(lambda: predict(ensemble, [maps]))[0], timed(lambda: predict_upsampled(ensemble, maps))[0])
            for _ in range(case.rounds)
        ]
        ours, theirs = (median(each) for each in zip(*rounds, strict=True))
        differences, largest = [], 0.0
        for published, commuted in zip(upsampled_logits(ensemble, maps), member_logits(ensemble, maps), strict=True):
            differences.append(float((published - commuted.flatten(0, 1)).abs().max()))
            largest = max(largest, float(published.abs().max()))
    return {
        "prediction_seconds": ours.wall,
        "prediction_cpu_seconds": ours.cpu,
        "published_seconds": theirs.wall,
        "published_cpu_seconds": theirs.cpu,
        "speedup": theirs.wall / ours.wall,
        "cpu_speedup": theirs.cpu / ours.cpu,
        "largest_difference": max(differences),
        "largest_logit": largest,
        "prediction_peak_gib": peak,
        "published_peak_gib": peak_memory_gib(torch.device("cpu")) - before,
    }


def predict_upsampled(ensemble: PixelEnsemble, maps: ImageMaps) -> Prediction:
    """Return what `predict` does, from upsampled maps."""
    answers = Answers("mean")
    for logits in upsampled_logits(ensemble, maps):
        answers.add(logits.softmax(dim=-1).unflatten(0, maps.size))
    return answers.prediction()


def upsampled_logits(ensemble: PixelEnsemble, maps: ImageMaps) -> Iterator[Tensor]:
    """Yield the logits [H * W, classes] of each member as the published code computes them, from upsampled maps."""
    upsampled = []
    for table, side in zip(maps.tables, maps.sides, strict=True):
        native = table.float().unflatten(0, side).permute(2, 0, 1)[None].contiguous()
        upsampled.append(F.interpolate(native, size=maps.size, mode="bilinear"))
    features = torch.cat(upsampled, dim=1)[0]
    del upsampled
    features = features.permute(1, 2, 0).reshape(-1, maps.dim)
    for number in range(ensemble.members):
        alone = PixelEnsemble(1, ensemble.dim, ensemble.classes, ensemble.hidden).eval()
        alone.load_member(0, ensemble.member_weights(number))
        yield alone(features[None])[0]


def measure(case: Case) -> dict[str, float]:
    """Return what a process of its own measures of `case`; ChildProcessError if it fails."""
    try:
        return in_fresh_process(_measure_here, case)
    except ChildProcessError as error:
        raise ChildProcessError(f"{case.images} images: {error}") from error


def _measure_here(case: Case) -> dict[str, float]:
    torch.set_num_threads(case.threads)
    keep_freed_memory()  # as the actions do
    return measure_fit(case) if case.images else measure_prediction(case)


def extrapolated(peaks: dict[int, float], images: int) -> float | None:
    """Return the memory in GiB of so many images, along the line through the least and the most measured."""
    least, most = min(peaks), max(peaks)
    if least == most:
        return None
    return peaks[most] + (peaks[most] - peaks[least]) / (most - least) * (images - most)


def table(case: Case, fits: dict[int, dict[str, float]], prediction: dict[str, float], images: int) -> list[str]:
    """Return the lines of the Markdown table."""

    def seconds(measured: dict[str, float], name: str) -> str:
        return f"{measured[f'{name}_seconds']:.2f} s ({measured[f'{name}_cpu_seconds']:.2f} s of CPU)"

    rows = []
    for count, fit in fits.items():
        rows.append(
            (
                f"fit on {count} images, {FAST.steps} steps",
                f"{fit['fit_seconds']:.0f} s ({fit['fit_cpu_seconds']:.0f} s of CPU)",
            )
        )
        rows.append((f"peak memory of the fit on {count} images", f"{fit['peak_gib']:.2f} GiB"))
    peak = extrapolated({count: fit["peak_gib"] for count, fit in fits.items()}, images)
    if peak is not None:
        rows.append((f"peak memory of the fit on {images} images, extrapolated", f"{peak:.2f} GiB"))
    rows += [
        ("native maps of an image", f"{next(iter(fits.values()))['maps_mib']:.1f} MiB"),
        ("prediction of an image", seconds(prediction, "prediction")),
        ("upsampled, then classified", seconds(prediction, "published")),
        ("speedup", f"{prediction['speedup']:.1f} ({prediction['cpu_speedup']:.1f} of CPU)"),
        ("largest difference of logits", f"{prediction['largest_difference']:.1e}"),
        ("peak memory of prediction", f"{prediction['prediction_peak_gib']:.2f} GiB"),
        ("the same, upsampled", f"{prediction['published_peak_gib']:.2f} GiB"),
    ]
    title = f"{case.size} px, {case.dim} features, {case.classes} classes, {case.members} members"
    return [f"| {title}, {case.threads} threads | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=positive, default=[4, 8], help="numbers of labeled images")
    parser.add_argument("--size", type=positive, default=256, help="pixels of a side, a multiple of 8")
    parser.add_argument("--channels", type=positive, default=256, help="num_channels of the network")
    parser.add_argument("--timesteps", type=positive, default=3)
    parser.add_argument("--classes", type=positive, default=34)
    parser.add_argument("--members", type=positive, default=10)
    parser.add_argument("--steps", type=positive, default=20, help=f"measured ones, of {FAST.steps}")
    parser.add_argument("--rounds", type=positive, default=3, help="of prediction")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--memmap", action="store_true", help="maps lie in files")
    parser.add_argument("--extrapolate", type=positive, default=50, metavar="IMAGES")
    parser.add_argument("--json", metavar="FILE", help="where all numbers are written too")
    options = vars(parser.parse_args(arguments))
    if options["size"] % 8:
        parser.error(f"--size: {options['size']} is not a multiple of 8")
    case = Case(images=0, **{key: options[key] for key in Case.__dataclass_fields__ if key != "images"})
    counts = sorted(set(options["images"]))
    measured: dict[int, dict[str, Any]] = {}
    for count in tqdm([*counts, 0], desc="measuring", unit="case"):
        measured[count] = measure(replace(case, images=count))
    prediction = measured.pop(0)
    print(*table(case, measured, prediction, options["extrapolate"]), sep="\n")
    if options["json"]:
        path = Path(options["json"])
        path.parent.mkdir(parents=True, exist_ok=True)
        report = {"machine": machine(torch.device("cpu")), "case": asdict(case), "fit": measured}
        path.write_text(json.dumps({**report, "prediction": prediction}, indent=1) + "\n", encoding="utf-8")
        print(f"\n{path.resolve()}")


if __name__ == "__main__":
    main()
