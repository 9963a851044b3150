"""Time and memory of painting one small defect into a small and into a large good image.

    python -m scripts.measure.place_sizes --runs 9

The work should depend on the hole, not on the image: the ratio of the times beside reading and writing the file is to
be at most 1.5. The network is small and untrained, so that what depends on the image shows. Runs of the two sizes take
turns; memory is how much higher the peak of a process is with the large image, in copies of it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.data.deep_color import write_deep_png
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.placing.bank import DefectBank
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.data.placing.scene import plan_scene
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.build import build_network
from guided_diffusion.pipelines.holes import Hole
from guided_diffusion.pipelines.inpainting import PaintSettings, fill_windows, paint_image
from guided_diffusion.pipelines.sampling import SamplingPipeline, SamplingRun
from guided_diffusion.runtime.memory import keep_freed_memory, peak_memory_gib
from scripts.benchmark.fresh import in_fresh_process

SMALL, LARGE = (256, 256), (3000, 4000)
MOST_RATIO = 1.5
NAMES = ("background", "spot")
WINDOW = 64
SPOT = 12  # px, the diameter of the defect


@dataclass(frozen=True)
class Seconds:
    """Of one image."""

    reading: float
    painting: float  # with the plan of its defects and the label map
    writing: float


@dataclass(frozen=True)
class Result:
    """Medians for both sizes, and the memory that the large image needs."""

    small: Seconds
    large: Seconds
    copies: float

    @property
    def ratio(self) -> float:
        return self.large.painting / self.small.painting


def make_run(channels: int, window: int, steps: int) -> SamplingRun:
    """Return a run of a small untrained inpainting network."""
    options = TrainedConfig.from_flat(
        {
            "image_size": window,
            "image_channels": channels,
            "num_classes": len(NAMES),
            "num_channels": 32,
            "channel_mult": (1, 1, 1),
            "num_res_blocks": 1,
            "attention_resolutions": (16,),
            "resize": "window",
            "inpaint": True,
            "dataset_mode": "binary",
        }
    )
    torch.manual_seed(0)
    model = build_network(options).eval()
    return SamplingPipeline(model, options, NAMES, torch.device("cpu"), None, None).begin(SamplerOptions(steps=steps))


def make_bank() -> DefectBank:
    rows, columns = np.ogrid[:64, :64]
    spot = ((rows - 32) ** 2 + (columns - 32) ** 2 <= (SPOT / 2) ** 2).astype(np.uint8)
    return DefectBank.build([("mask", spot)], NAMES)


def write_image(path: Path, size: tuple[int, int], channels: int, *, deep: bool) -> None:
    """Write noise as a camera has it."""
    rng = np.random.default_rng(0)
    if deep:
        write_deep_png(path, rng.normal(30000, 500, (*size, channels)).astype(np.uint16))
    else:
        pixels = rng.normal(120, 4, (*size, channels)).astype(np.uint8)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path, compress_level=1)


def place_one(
    path: Path, run: SamplingRun, bank: DefectBank, settings: PaintSettings, seed: int, *, writing: bool = True
) -> Seconds:
    """Read an image, paint a defect into it and write the pair beside it, as `place` does, if `writing`."""
    began = time.perf_counter()
    image = NativeImage.read(path, run.pipeline.image_shape[0])
    read = time.perf_counter()
    rng, options = np.random.default_rng(seed), PlacingOptions(defects_per_image=1)
    scene = plan_scene(bank, image.size, rng, options, apart=2 * settings.native_margin)
    label = np.zeros(image.size, np.uint8)
    scene.paint_label(label)
    holes = [Hole(defect.box, defect.mask) for defect in scene.placements]
    assert len(holes) == 1
    painting = paint_image(image, label, holes, settings, seed)
    assert list(fill_windows(run, settings, [(path, painting)], 1, lambda: None)) == [path]
    painted = time.perf_counter()
    if writing:
        image.save(path.with_suffix(".out.png"))
        LabelEncoding.identity(len(NAMES), NAMES).encode(label).save(path.with_suffix(".mask.png"))
    return Seconds(read - began, painted - read, time.perf_counter() - painted)


def settings_at(scale: float) -> PaintSettings:
    return PaintSettings(
        window=(WINDOW, WINDOW),
        scale=scale,
        margin=6,
        feather=3,
        num_classes=len(NAMES),
        background=0,
    )


def memory_of(paths: Sequence[Path], channels: int, scale: float, steps: int) -> float:
    """Return by how many bytes the peak of this process grows from the first image to the second."""
    torch.set_num_threads(1)
    run, bank, peaks = make_run(channels, WINDOW, steps), make_bank(), []
    for path in paths:
        place_one(path, run, bank, settings_at(scale), 0)
        peaks.append(peak_memory_gib(torch.device("cpu")) * 2**30)
    return peaks[1] - peaks[0]


def measure(
    folder: Path,
    *,
    runs: int,
    scale: float,
    channels: int = 1,
    deep: bool = False,
    steps: int = 4,
    writing: bool = True,
) -> Result:
    """Return the medians of `runs` interleaved runs with files in `folder`, and the memory of a run that writes, too.

    writing: whether pairs are written in the runs whose times are taken, which is most of a run.
    """
    paths = [folder / "small.png", folder / "large.png"]
    for path, size in zip(paths, (SMALL, LARGE), strict=True):
        write_image(path, size, channels, deep=deep)
    grown = in_fresh_process(memory_of, paths, channels, scale, steps)
    copies = grown / (np.prod(LARGE) * channels * (1 + deep))
    run, bank, settings = make_run(channels, WINDOW, steps), make_bank(), settings_at(scale)
    for path in paths:
        place_one(path, run, bank, settings, 0, writing=writing)
    timings = [[place_one(path, run, bank, settings, seed, writing=writing) for path in paths] for seed in range(runs)]
    medians = [
        Seconds(*(statistics.median(getattr(pair[index], key) for pair in timings) for key in Seconds.__annotations__))
        for index in range(2)
    ]
    return Result(*medians, float(copies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--deep", action="store_true", help="16 bits per channel")
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), **vars(arguments))
    for (height, width), seconds in ((SMALL, result.small), (LARGE, result.large)):
        print(
            f"{width:5d} x {height:4d}: reading {seconds.reading:.3f} s, painting {seconds.painting:.3f} s, "
            f"writing {seconds.writing:.3f} s"
        )
    verdict = "" if result.ratio <= MOST_RATIO else f", which is more than {MOST_RATIO}"
    print(f"painting takes {result.ratio:.2f} times as long in the large image{verdict}")
    print(f"peak memory: {result.copies:.1f} copies of the large image")


if __name__ == "__main__":
    main()
