"""Compare ways to paint defects that are larger than a window: core by core, averaged, or in one larger window.

    python -m scripts.measure.large_defects RESULTS_OF_PLACE --out runs/large [--count 8] [--steps 10]

The holes are those of a folder of `place` that do not fit into one window; each is filled in every way with the same
network and number of steps:
- `raster`: windows are painted one after the other, from the upper left; each sees what is painted already beside it,
  and only its core, half of its sides, is kept.
- `averaged`: as `place` does (`pipelines/averaging.py`). All windows at once, overlapping by half; at every sampling
  step their predictions are averaged where they overlap (MultiDiffusion, Bar-Tal et al. 2023).
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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from evaluations.seams import RimJumps, rim_jump
from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data import visualize
from guided_diffusion.data.components import Box
from guided_diffusion.data.masks.encoding import edges_from_instances
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.pipelines.averaging import fill_frame, windows_of
from guided_diffusion.pipelines.holes import grow_hole
from guided_diffusion.pipelines.inpainting import PaintSettings, Patch
from guided_diffusion.pipelines.load import pipeline_of_checkpoint
from guided_diffusion.pipelines.placing.folder import PlacedFolder, PlacedScene
from guided_diffusion.pipelines.sampling import SamplingRun
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.seeding import Stream, derive_seed
from scripts.benchmark.run import positive
from scripts.dataset_folders import run_script
from scripts.measure.placed import folder_arguments, open_folder
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
    """Paint core by core."""
    known, hole, _ = patch.surroundings()
    canvas, unpainted, boxes = known.clone(), hole.clone(), []
    for number, (core, box) in enumerate(cores(hole.numpy(), patch.settings.window)):
        part = box.slices
        job = KnownRegion(canvas[:, *part].float()[None], unpainted[part].clone()[None])
        filled = run(_condition(run, patch, [box]), [derive_seed(Stream.PAINT, seed, number)], known=job)[0]
        inner = torch.zeros_like(hole)
        inner[core.slices] = True
        inner &= hole
        canvas[:, inner] = filled.double()[:, inner[part]]
        unpainted &= ~inner
        boxes.append(core)
    return canvas, len(boxes), _lines(boxes)


def cores(hole: NDArray[np.bool_], window: Size) -> Iterator[tuple[Box, Box]]:
    """Yield (core, window) in a frame whose `hole` [h, w] is to be filled: one window where it fits, else a raster."""
    spans = []
    for axis, length, full in zip((1, 0), window, hole.shape, strict=True):
        index = np.flatnonzero(hole.any(axis=axis))
        spans.append(list(_steps(int(index[0]), int(index[-1]) + 1, length, full)))
    for (core_top, core_bottom), top in spans[0]:
        for (core_left, core_right), left in spans[1]:
            core = Box(core_top, core_left, core_bottom, core_right)
            if hole[core.slices].any():
                yield core, Box(top, left, top + window[0], left + window[1])


def _steps(first: int, last: int, length: int, full: int) -> Iterator[tuple[Size, int]]:
    """Yield ((start, end) of a core, start of its window) along one axis, so that the cores cover first..last."""
    fits = full == length or last - first <= length - length // 4
    count = 1 if fits else -(-(last - first) // (length // 2))
    for number in range(count):
        start, end = (first + (last - first) * step // count for step in (number, number + 1))
        yield (start, end), min(max(0, (start + end - length) // 2), full - length)


def averaged(run: SamplingRun, patch: Patch, seed: int) -> tuple[Tensor, int, Lines]:
    """Paint all windows at once, averaged where they overlap."""
    known, hole, _ = patch.surroundings()
    filled = fill_frame(
        run,
        patch.label_of(Box(0, 0, *hole.shape)),
        KnownRegion(known[None].float(), hole[None]),
        seed=seed,
        batch_size=BATCH,
    )
    boxes = windows_of(hole, patch.settings.window)
    return torch.where(hole, filled.double(), known), len(boxes), _lines(boxes)


def whole(run: SamplingRun, patch: Patch, seed: int) -> tuple[Tensor, int, Lines]:
    """Paint the frame as one window; what it lacks to a multiple of FACTOR is shown as outside the image."""
    known, hole, _ = patch.surroundings()
    more = [-side % FACTOR for side in hole.shape]
    padding = (0, more[1], 0, more[0])
    region = KnownRegion(pad(known[None].float(), padding, value=-1.0), pad(hole[None], padding, value=False))
    condition = _condition(run, patch, [Box(0, 0, *hole.shape)], padding)
    with torch.inference_mode():
        denoise = run.denoiser(
            condition.to(run.pipeline.device), [seed], region.to(run.pipeline.device), run.x0_hooks()
        )
        filled = run.sample(denoise, region.image.shape[1:], [seed])[0].cpu()
    filled = filled[:, : hole.shape[0], : hole.shape[1]].double()
    return torch.where(hole, filled, known), 1, (set(), set())


def _condition(
    run: SamplingRun, patch: Patch, boxes: Sequence[Box], padding: Sequence[int] = (0, 0, 0, 0)
) -> SemanticMap:
    settings = patch.settings
    label = torch.stack([pad(patch.label_of(box), padding, value=settings.num_classes) for box in boxes])
    edge = torch.stack([edges_from_instances(each.int()) for each in label]) if run.pipeline.with_edges else None
    return SemanticMap(label.to(torch.uint8 if settings.num_classes < 256 else torch.int16), settings.num_classes, edge)


WAYS: dict[str, Way] = {"raster": raster, "averaged": averaged, "whole": whole}


def _lines(boxes: Sequence[Box]) -> Lines:
    """Return where boxes begin and end, without the outermost ones."""
    found = []
    for ends in ([(box.top, box.bottom) for box in boxes], [(box.left, box.right) for box in boxes]):
        places = {place for pair in ends for place in pair}
        found.append(places - {min(places), max(places)})
    return found[0], found[1]


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
