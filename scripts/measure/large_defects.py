"""Compare ways to paint defects that are larger than a window: core by core, averaged, or in one larger window.

    python -m scripts.measure.large_defects RESULTS_OF_PLACE --out runs/large [--count 8] [--steps 10]

The holes are those of a folder of `place` that do not fit into one window; each is filled in every way with the same
network and number of steps:
- `raster`: as `place` does (`pipelines/inpainting.py`). Windows are painted one after the other, each sees what is
  painted already beside it, and only its core is kept.
- `averaged`: all windows at once, overlapping by half; at every sampling step their predictions are averaged where
  they overlap (MultiDiffusion, Bar-Tal et al. 2023).
- `whole`: the hole and its surroundings as one window, larger than those of the training.

The table has medians and quartiles. Border jump: the steps across the lines where cores (of `averaged`: windows) meet,
over those across all other lines in the hole; "wide" compares the means of 4 pixels on each side, which shows patches
of different brightness. Rim jump: see `seams.py`. Writes `large.md`, `large.json` and the picture `large.png`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluations.seams import RimJumps, rim_jump
from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data import visualize
from guided_diffusion.data.components import Box
from guided_diffusion.data.masks.encoding import edges_from_instances
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.diffusion.denoiser import Denoiser
from guided_diffusion.diffusion.guidance import GuidedNetwork
from guided_diffusion.diffusion.samplers import SAMPLERS, draw_noise
from guided_diffusion.diffusion.x0_hooks import clip
from guided_diffusion.pipelines.holes import grow_hole
from guided_diffusion.pipelines.inpainting import PaintSettings, Patch, cores, fill_windows
from guided_diffusion.pipelines.load import pipeline_of_checkpoint
from guided_diffusion.pipelines.placed import PlacedFolder, PlacedScene
from guided_diffusion.pipelines.sampling import SamplingRun
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import write_text
from scripts.benchmark.run import positive
from scripts.measure.placed import folder_arguments, open_folder, run_script
from scripts.measure.seam_picture import PictureRow, seam_picture

WIDE = 4  # pixels on each side of a line
FACTOR = 16  # the sides of a larger window are multiples of it
BATCH = 8

Lines = tuple[set[int], set[int]]
"""Rows and columns before which something begins."""


class LargeHole(NamedTuple):
    """A hole that does not fit into one window."""

    scene: PlacedScene
    number: int  # of the defect in the scene

    def patch(self, settings: PaintSettings) -> tuple[NativeImage, Patch]:
        """Return a new copy of the good image, and the surroundings of the hole in it."""
        good, finished = self.scene.good, self.scene.finished
        image = replace(good, pixels=good.pixels.copy())
        own = grow_hole(finished.holes[self.number], settings.native_margin, good.size)
        return image, Patch(image, finished.label, own, (), settings)


Way = Callable[[SamplingRun, Patch, int], tuple[Tensor, int, Lines]]
"""(run, patch, seed) -> (painting [C, *] of the frame, number of windows, where cores or windows meet)."""


def raster(run: SamplingRun, patch: Patch, seed: int) -> tuple[Tensor, int, Lines]:
    """Paint core by core, as `place` does."""
    painted: list[Tensor] = []
    painting = _Kept(patch, painted)
    list(fill_windows(run, patch.settings, [(None, painting.paint(seed))], 1, lambda: None))
    _, hole, _ = patch.surroundings()
    boxes = [core for core, _ in cores(hole.numpy(), patch.settings.window)]
    return painted[0], len(boxes), _lines(boxes)


class _Kept(Patch):
    """A patch whose painting is kept, and not put into the image."""

    def __init__(self, patch: Patch, painted: list[Tensor]):
        super().__init__(patch.image, patch.label, patch.own, patch.others, patch.settings)
        self._painted = painted

    def put(self, known: Tensor, painted: Tensor) -> None:
        self._painted.append(painted)


def averaged(run: SamplingRun, patch: Patch, seed: int) -> tuple[Tensor, int, Lines]:
    """Paint all windows at once, averaged where they overlap."""
    window, (_, hole, _) = patch.settings.window, patch.surroundings()
    height, width = hole.shape
    boxes = [
        Box(top, left, top + window[0], left + window[1])
        for top, left in product(_starts(height, window[0]), _starts(width, window[1]))
    ]
    boxes = [box for box in boxes if hole[box.slices].any()]
    return _sampled(run, patch, boxes, seed), len(boxes), _lines(boxes)


def whole(run: SamplingRun, patch: Patch, seed: int) -> tuple[Tensor, int, Lines]:
    """Paint the frame as one window; what it lacks to a multiple of FACTOR is shown as outside the image."""
    _, hole, _ = patch.surroundings()
    height, width = (-(-side // FACTOR) * FACTOR for side in hole.shape)
    return _sampled(run, patch, [Box(0, 0, height, width)], seed), 1, (set(), set())


WAYS: dict[str, Way] = {"raster": raster, "averaged": averaged, "whole": whole}


def _starts(full: int, length: int) -> list[int]:
    """Return where windows begin that cover an axis and overlap by half."""
    count = -(-(full - length) // (length // 2)) + 1
    return [round(number * (full - length) / max(1, count - 1)) for number in range(count)]


def _lines(boxes: Sequence[Box]) -> Lines:
    """Return where boxes begin and end, without the outermost ones."""
    found = []
    for ends in ([(box.top, box.bottom) for box in boxes], [(box.left, box.right) for box in boxes]):
        places = {place for pair in ends for place in pair}
        found.append(places - {min(places), max(places)})
    return found[0], found[1]


class AveragedDenoiser:
    """The x0 of a large image: the mean of what the network predicts in windows."""

    def __init__(self, run: SamplingRun, patch: Patch, boxes: Sequence[Box]):
        self._boxes = [boxes[start : start + BATCH] for start in range(0, len(boxes), BATCH)]
        self._frame: Size = (max(box.bottom for box in boxes), max(box.right for box in boxes))
        known, hole, _ = patch.surroundings()
        self._shown: Size = (hole.shape[0], hole.shape[1])
        extended = _extended(known, self._frame, -1.0).float()
        self.known = KnownRegion(extended[None], _extended(hole[None], self._frame, False))
        self._denoisers = [self._of_windows(run, patch, part) for part in self._boxes]

    def _of_windows(self, run: SamplingRun, patch: Patch, boxes: Sequence[Box]) -> Denoiser:
        settings = patch.settings
        frame = patch.label_of(Box(0, 0, *self._shown))[None]
        label = torch.stack([_extended(frame, self._frame, settings.num_classes)[0][box.slices] for box in boxes])
        edge = torch.stack([edges_from_instances(each.int()) for each in label]) if settings.with_edges else None
        kind = torch.uint8 if settings.num_classes < 256 else torch.int16
        parts = [(..., *box.slices) for box in boxes]
        known = KnownRegion(
            torch.stack([self.known.image[0][part] for part in parts]),
            torch.stack([self.known.hole[0][part] for part in parts]),
        ).to(run.pipeline.device)
        network = GuidedNetwork(
            run.pipeline.model,
            run.process,
            SemanticMap(label.to(kind), settings.num_classes, edge).to(run.pipeline.device),
            scale=run.sampler.s,
            interval=run.sampler.guidance_interval,
            amp_dtype=run.pipeline.amp_dtype,
            known=known,
        )
        return Denoiser(network, run.process, [clip])

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted x0 [1, C, H, W] of `x` at `t` [1], with the known pixels in place."""
        total, count = torch.zeros_like(x), torch.zeros_like(x[:, :1])
        for boxes, denoise in zip(self._boxes, self._denoisers, strict=True):
            parts = [(0, slice(None), *box.slices) for box in boxes]
            found = denoise(torch.stack([x[part] for part in parts]), t.expand(len(boxes)))
            for part, window in zip(parts, found, strict=True):
                total[part] += window
                count[part] += 1
        return self.known.to(x.device).keep(total / count.clamp(min=1), x, t)


def _sampled(run: SamplingRun, patch: Patch, boxes: Sequence[Box], seed: int) -> Tensor:
    """Return the painting [C, *] of the frame, by averaging what the network predicts in `boxes`."""
    device, generator = run.pipeline.device, torch.Generator().manual_seed(seed)
    with torch.inference_mode():
        denoise = AveragedDenoiser(run, patch, boxes)
        shape = denoise.known.image.shape[1:]
        noise = draw_noise([generator], shape, device)
        image = SAMPLERS[run.sampler.sampler](denoise, run.process, noise, generators=[generator])[0].cpu().double()
    known, hole, _ = patch.surroundings()
    return torch.where(hole, image[:, : hole.shape[0], : hole.shape[1]], known)


def _extended(values: Tensor, size: Size, border: Any) -> Tensor:
    """Return values [C, h, w] of the upper left part of an image of `size`."""
    extended = values.new_full((len(values), *size), border)
    extended[:, : values.shape[1], : values.shape[2]] = values[:, : size[0], : size[1]]
    return extended


# ------------------------------------------------------------------------------------------------------ figures


def border_jump(values: NDArray[np.floating], inside: NDArray[np.bool_], lines: Lines, reach: int = 1) -> float | None:
    """Return the mean step across `lines`, which is |mean of `reach` px before - mean of as many after|, over that
    across all other lines; where all these pixels are `inside`. values: [C, H, W]; None without any such step."""
    sums = np.zeros((2, 2))  # [at the lines or elsewhere, sum and count]
    for axis, chosen in enumerate(lines):
        image = values if axis == 0 else values.transpose(0, 2, 1)
        allowed = inside if axis == 0 else inside.T
        for place in range(reach, len(allowed) - reach + 1):
            known = allowed[place - reach : place + reach].all(axis=0)
            before, after = image[:, place - reach : place].mean(axis=1), image[:, place : place + reach].mean(axis=1)
            steps = np.abs(after - before)[:, known]
            sums[int(place not in chosen)] += steps.sum(), steps.size
    (at, count), (elsewhere, others) = sums
    return float(at / count / (elsewhere / others)) if count and others and elsewhere else None


def measure(hole: LargeHole, run: SamplingRun, settings: PaintSettings, seed: int) -> dict[str, dict[str, Any]]:
    """Paint a hole in every way; return of each the figures and the image (`pixels`) that it becomes."""
    found = {}
    for name, way in WAYS.items():
        image, patch = hole.patch(settings)
        known, inside, _ = patch.surroundings()
        start = time.perf_counter()
        painted, windows, lines = way(run, patch, seed)
        seconds = time.perf_counter() - start
        patch.put(known, painted)
        whole_hole = np.zeros(image.size, bool)
        whole_hole[patch.own.box.slices] = patch.own.hole
        jumps = {
            key: border_jump(painted.numpy(), inside.numpy(), lines, reach)
            for key, reach in (("border jump", 1), ("wide", WIDE))
        }
        rim = rim_jump(image.pixels, hole.scene.good.pixels, whole_hole)
        spent = {"seconds": seconds, "windows": windows}
        found[name] = {**jumps, "rim jump": rim, **spent, "pixels": image.pixels}
    return found


def table(found: Sequence[dict[str, dict[str, Any]]]) -> str:
    """Return a Markdown table of what `measure` found in at least one hole."""
    keys = list(found[0]["raster"])
    lines = [f"| way | {' | '.join(keys)} |", "|---" * (1 + len(keys)) + "|"]
    for way in WAYS:
        cells = [_cell(RimJumps.of(each[way][key] for each in found)) for key in keys]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: RimJumps) -> str:
    return "" if values.median is None else f"{values.median:.2f} ({values.lower:.2f} to {values.upper:.2f})"


# ------------------------------------------------------------------------------------------------------ command


def large_holes(folder: PlacedFolder) -> Iterator[LargeHole]:
    """Yield the holes of a folder that do not fit into one window."""
    for scene in folder.scenes():
        for number in range(len(scene.finished.holes)):
            hole = LargeHole(scene, number)
            _, inside, _ = hole.patch(folder.settings)[1].surroundings()
            if len(list(cores(inside.numpy(), folder.settings.window))) > 1:
                yield hole


def run(arguments: argparse.Namespace) -> None:
    """Paint large holes in every way and write tables and picture."""
    folder = open_folder(arguments)
    config, settings, names = folder.config, folder.settings, folder.encoding.names
    pipeline = pipeline_of_checkpoint(
        folder.checkpoint,
        folder.trained.replaced(num_classes=folder.encoding.num_classes),
        names,
        weights=config.weights.weights,
        device=choose_device(config.precision.device),
        precision=config.precision.precision,
    )
    sampling = pipeline.begin(config.sampler.model_copy(update={"steps": arguments.steps}))
    found, rows = [], []
    for index, hole in zip(range(arguments.count), large_holes(folder), strict=False):
        ways = measure(hole, sampling, settings, arguments.seed + index)
        found.append(ways)
        defect = hole.scene.finished.defects[hole.number]
        mask = np.zeros(hole.scene.good.size, bool)
        mask[defect.box.slices] = defect.mask
        images = {"good": hole.scene.good.pixels} | {way: each.pop("pixels") for way, each in ways.items()}
        rows.append(PictureRow(f"{hole.scene.name}#{hole.number}", names[defect.class_id], images, mask))
        seconds = ", ".join(f"{way} {each['seconds']:.0f} s" for way, each in ways.items())
        print(f"{rows[-1].name} ({rows[-1].class_name}): {seconds}", flush=True)
        write(arguments.out, found, rows, sampling.num_steps)
    if not found:
        raise DataError.of(folder.samples.folder, "has no defect that is larger than a window", "use another folder")
    print(table(found))
    for name in ("large.md", "large.json", "large.png"):
        print(f"  {(arguments.out / name).absolute()}")


def write(out: Path, found: Sequence[dict[str, dict[str, Any]]], rows: Sequence[PictureRow], steps: int) -> None:
    """Write what is found so far: it takes long, and may be stopped."""
    write_text(out / "large.md", f"{len(found)} defects larger than a window, {steps} steps\n\n{table(found)}\n")
    summary = {
        way: {key: asdict(RimJumps.of(each[way][key] for each in found)) for key in found[0][way]} for way in WAYS
    }
    write_text(out / "large.json", json.dumps({"steps": steps, **summary}, indent=1) + "\n")
    visualize.save(seam_picture(rows), out / "large.png")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder_arguments(parser)
    parser.add_argument("--count", type=positive, default=8, help="most defects to paint")
    parser.add_argument("--steps", type=positive, default=10, help="of sampling")
    parser.add_argument("--seed", type=int, default=0)
    run_script(run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
