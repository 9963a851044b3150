"""Compare the seams of painted defects with those of the same defects pasted and Poisson-blended.

    python -m scripts.measure.seams RESULTS_OF_PLACE --out runs/seams [--rows NAME[#NUMBER] ...] [--seed 0]

For each hole, the rim jump is how much larger the steps across the rim of the hole are than in the untouched image
(`evaluations/seams.py`); 1 is no seam. Besides what was painted, each hole is filled with the pixels of the training
image that its mask came from, warped as the mask was: copied; copied with the brightness matched at the rim; the same
setting in over as many pixels as the painting does (`feather`); and Poisson-blended (`evaluations/blending.py`).

Four tables:
- `rim`: across the rim of the hole, away from the edges of the defect.
- `zone`: across all pixels over which the painting sets in, where feathering spreads a seam.
- `mask`: across the rim of the mask, where the defect's own edge is. The pastes replace the mask alone, as copy-paste
  usually does; "real" are the steps that the training image has there.
- `seen`: the same after all of these were reduced to the scale of the network (not at scale 1), where what is painted
  has its own pixels and is not enlarged.

Writes `seams.md`, `seams.json` and the picture `seams.png`, in which the mask alone is pasted: a defect of each class,
drawn by `--seed`, or those that `--rows` names by the pair's name and the number of the defect in it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from evaluations.blending import paste, poisson_blend
from evaluations.seams import RimJumps, rim_jump
from guided_diffusion.data import visualize
from guided_diffusion.data.area import reduce_image, reduce_label
from guided_diffusion.pipelines.holes import grow_hole
from guided_diffusion.pipelines.inpainting import feathered
from guided_diffusion.pipelines.placing.folder import PlacedFolder
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import write_text
from scripts.dataset_folders import run_script
from scripts.measure.placed import folder_arguments, open_folder
from scripts.measure.seam_picture import PictureRow, seam_picture

Image = NDArray[Any]  # uint8 or uint16, [H, W] or [H, W, C]
Mask = NDArray[np.bool_]
Under = Literal["hole", "mask"]
View = Literal["rim", "zone", "mask", "seen"]

FEATHERED = "feathered"
METHODS = ("ours", "pasted", "matched", FEATHERED, "Poisson-blended")
REAL = "real"
ALL_CLASSES = "all"
MOST_JUMP = 1.25  # the median that painted defects have to keep to
HEADINGS: dict[View, str] = {
    "rim": "Steps across the rim of the hole:",
    "zone": "Steps across the pixels over which the painting sets in:",
    "mask": "Steps across the rim of the mask; the pastes replace the mask alone:",
    "seen": "The same at the scale of the network:",
}
OF_MASK = ("mask", "seen")


@dataclass(frozen=True, eq=False)
class Placement:
    """A defect in a good image: arrays of a box inside it, one pixel wider than the hole where the image allows.

    hole: [h, w], what was painted. mask: [h, w], the defect. patch: [h, w] or [h, w, C], the pixels of the training
    image that come to lie there, in the units of the good image; NaN where unknown. weights: [h, w], how much of the
    painting each pixel got; None: all of it in the hole. zone: px from the rim over which it sets in.
    """

    class_name: str
    top: int
    left: int
    hole: Mask
    mask: Mask
    patch: Image
    weights: NDArray[np.float64] | None = None
    zone: int = 1

    def __post_init__(self) -> None:
        assert self.hole.shape == self.mask.shape == self.patch.shape[:2]

    def window(self, size: Sequence[int], margin: int) -> tuple[slice, slice]:
        """Return the box with `margin` pixels on each side, as far as an image of `size` (height, width) goes."""
        height, width = self.hole.shape
        rows = slice(max(self.top - margin, 0), min(self.top + height + margin, size[0]))
        return rows, slice(max(self.left - margin, 0), min(self.left + width + margin, size[1]))


@dataclass(frozen=True, eq=False)
class Case:
    """A good image, what became of it (of the same shape and type), and the defects that were painted at `scale`."""

    name: str
    good: Image
    result: Image
    placements: tuple[Placement, ...]
    scale: float = 1.0

    def __post_init__(self) -> None:
        assert self.good.shape == self.result.shape


@dataclass(frozen=True, eq=False)
class Filled:
    """A part of a good image around one hole, the same part as each method fills it, and what has the rim, [h, w]."""

    class_name: str
    good: Image
    images: dict[str, Image]
    rim: Mask

    def jumps(self, width: int = 1) -> dict[str, float | None]:
        """Return the rim jump of each method, over `width` px."""
        return {name: rim_jump(image, self.good, self.rim, width) for name, image in self.images.items()}

    def reduced(self, scale: float) -> Filled:
        """Return the same averaged down to `scale`, in floating point; the rim by the area rule."""
        size = (max(1, round(self.rim.shape[0] * scale)), max(1, round(self.rim.shape[1] * scale)))
        spans = (0, size[0]), (0, size[1])

        def smaller(image: Image) -> Image:
            planes = torch.from_numpy(np.atleast_3d(image).astype(np.float64).transpose(2, 0, 1))
            return reduce_image(planes, size, *spans).numpy().transpose(1, 2, 0)

        rim = reduce_label(torch.from_numpy(self.rim.astype(np.uint8)), size, *spans, background=0, null_id=2)
        images = {name: smaller(image) for name, image in self.images.items()}
        return Filled(self.class_name, smaller(self.good), images, rim.numpy().astype(np.bool_))


def fill(case: Case, placement: Placement, *, under: Under = "hole", margin: int = 1) -> Filled:
    """Fill the hole of a placement by all METHODS; returns the box and `margin` pixels around it.

    under: what the pastes replace, and whose rim it is. Of "mask" there is nothing feathered, but REAL, the defect in
    its training image. Other defects that lie in that part are there in ours only.
    """
    window = placement.window(case.good.shape, margin)
    good = case.good[window]
    top, left = placement.top - window[0].start, placement.left - window[1].start
    own = placement.hole if under == "hole" else placement.mask
    inside = slice(top, top + own.shape[0]), slice(left, left + own.shape[1])
    where = (good, placement.patch, own, top, left)
    matched = paste(*where, True)
    images = dict(zip(METHODS, (case.result[window], paste(*where, False), matched, good, good), strict=True))
    images[METHODS[-1]] = poisson_blend(*where)
    if under == "hole":
        images[FEATHERED] = _weighted(good, matched, placement.weights, inside)
    else:
        del images[FEATHERED]
        # With what surrounds it there, so that the steps across its rim are those of the training image.
        images[REAL] = paste(good, placement.patch, placement.hole, top, left, False)
    rim = np.zeros(good.shape[:2], np.bool_)
    rim[inside] = own
    return Filled(placement.class_name, good, images, rim)


def _weighted(good: Image, filled: Image, weights: NDArray[np.float64] | None, inside: tuple[slice, slice]) -> Image:
    if weights is None:
        return filled
    before = good[inside].astype(np.float64)
    change = weights.reshape(*weights.shape, *(1,) * (good.ndim - 2)) * (filled[inside] - before)
    mixed = filled.copy()
    mixed[inside] = np.round(before + change)
    return mixed


# ------------------------------------------------------------------------------------------------------ figures

Record = tuple[str, dict[str, float | None]]
"""The class of a defect, and the rim jump of each method."""


@dataclass(frozen=True)
class Row:
    """The rim jumps of one method for the defects of one class, or of all."""

    class_name: str
    method: str
    jumps: RimJumps


def records_of(case: Case) -> dict[View, list[Record]]:
    """Return a record of each defect of a case in each view."""
    found: dict[View, list[Record]] = {view: [] for view in HEADINGS}
    for each in case.placements:
        filled, of_mask = fill(case, each), fill(case, each, under="mask")
        jumps = {"rim": filled.jumps(), "zone": filled.jumps(each.zone), "mask": of_mask.jumps()}
        if case.scale < 1:
            around = fill(case, each, under="mask", margin=math.ceil(2 / case.scale))
            jumps["seen"] = around.reduced(case.scale).jumps()
        for view, jump in jumps.items():
            found[view].append((each.class_name, jump))
    return found


def rows_of(records: Sequence[Record], view: View = "rim") -> list[Row]:
    """Return the rows of all classes together, then class by class by name."""
    rows = []
    methods = (*(name for name in METHODS if name != FEATHERED), REAL) if view in OF_MASK else METHODS
    for name in (ALL_CLASSES, *sorted({class_name for class_name, _ in records})):
        chosen = [jumps for class_name, jumps in records if name in (ALL_CLASSES, class_name)]
        rows += [Row(name, method, RimJumps.of(jumps[method] for jumps in chosen)) for method in methods]
    return rows


def measure(cases: Iterable[Case]) -> dict[View, list[Row]]:
    """Return `rows_of` the defects of cases in each view, one case at a time."""
    records: dict[View, list[Record]] = {view: [] for view in HEADINGS}
    for case in cases:
        for view, found in records_of(case).items():
            records[view] += found
    return {view: rows_of(found, view) for view, found in records.items() if found or view != "seen"}


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table: a line for each class, medians and quartiles of the methods."""
    methods = list(dict.fromkeys(row.method for row in rows))
    lines = [f"| class | holes | {' | '.join(methods)} |", "|---" * (2 + len(methods)) + "|"]
    for name in dict.fromkeys(row.class_name for row in rows):
        jumps = {row.method: row.jumps for row in rows if row.class_name == name}
        ours = jumps[METHODS[0]]
        holes = f"{ours.count}" + (f" (and {ours.left_out} without a step)" if ours.left_out else "")
        lines.append(f"| {name} | {holes} | {' | '.join(_cell(jumps[method]) for method in methods)} |")
    return "\n".join(lines)


def _cell(jumps: RimJumps) -> str:
    return f"{jumps.median:.2f} ({jumps.lower:.2f} to {jumps.upper:.2f})" if jumps.median is not None else ""


def figures(rows: dict[View, list[Row]]) -> dict[str, Any]:
    """Return plain values for a JSON file; accepted: the median of ours over all rims of holes is at most 1.25."""
    (ours,) = (row.jumps for row in rows["rim"] if (row.class_name, row.method) == (ALL_CLASSES, METHODS[0]))
    plain = {
        view: [{"class": row.class_name, "method": row.method, **asdict(row.jumps)} for row in found]
        for view, found in rows.items()
    }
    return {"most_jump": MOST_JUMP, "accepted": ours.median is not None and ours.median <= MOST_JUMP, **plain}


# ------------------------------------------------------------------------------------------------------ cases


def cases_of(folder: PlacedFolder) -> Iterator[Case]:
    """Yield a case for each pair of a folder of `place`; DataError where masks do not come from training defects."""
    settings, patch_of = folder.settings, folder.patches()
    zone = math.ceil(settings.native_feather) + 1  # with the step to the first pixel that gets all of it
    for scene in folder.scenes():
        placements = []
        for defect, hole in zip(scene.finished.defects, scene.finished.holes, strict=True):
            if defect.edited is None:
                found = "its masks do not come from training defects, so there is nothing to paste"
                raise DataError.of(folder.samples.folder, found, "use a folder of place with mask_source bank or file")
            grown = grow_hole(hole, settings.native_margin, scene.good.size)
            box, patch = grown.box, patch_of(defect, grown.box, scene.good)
            weights = feathered(grown, settings.native_feather) * grown.hole
            name = folder.encoding.names[defect.class_id]
            placements.append(Placement(name, box.top, box.left, grown.hole, grown.mask, patch, weights, zone))
        yield Case(scene.name, scene.good.pixels, scene.result, tuple(placements), settings.scale)


# ------------------------------------------------------------------------------------------------------ picture


class _Shown:
    """Which defects the picture shows: those of `names`, in their order; without any, one of each class at random."""

    def __init__(self, names: Sequence[str], seed: int):
        self._names = {_full(name): order for order, name in enumerate(names)}
        self._rng = np.random.default_rng(seed)
        self._seen: dict[str, int] = {}
        self._rows: dict[Any, PictureRow] = {}

    def offer(self, case: Case) -> None:
        for number, placement in enumerate(case.placements):
            key = self._names.get(f"{case.name}#{number}") if self._names else self._drawn(placement.class_name)
            if key is not None:
                self._rows[key] = _picture_row(case, placement, number)

    def _drawn(self, class_name: str) -> str | None:
        """Return the class if the next one of it is to be shown: each of them is as likely (reservoir sampling)."""
        self._seen[class_name] = self._seen.get(class_name, 0) + 1
        return class_name if self._rng.integers(self._seen[class_name]) == 0 else None

    def rows(self) -> list[PictureRow]:
        """Return what is shown; DataError for a name that no defect has."""
        missing = [name for name, order in self._names.items() if order not in self._rows]
        if missing:
            raise DataError.of("--rows", f"no defect is called {', '.join(missing)}", "see manifest.jsonl")
        return [self._rows[key] for key in sorted(self._rows)]


def _full(name: str) -> str:
    return name if "#" in name else f"{name}#0"


def _picture_row(case: Case, placement: Placement, number: int) -> PictureRow:
    margin = max(case.good.shape[:2])
    filled, of_mask = (fill(case, placement, under=under, margin=margin) for under in ("hole", "mask"))
    images = {
        "good": filled.good,
        "pasted": of_mask.images["pasted"],
        "Poisson-blended": filled.images["Poisson-blended"],
        "ours": filled.images["ours"],
    }
    return PictureRow(f"{case.name}#{number}", placement.class_name, images, of_mask.rim)


# ------------------------------------------------------------------------------------------------------ command


def run(arguments: argparse.Namespace) -> None:
    """Measure a folder and write tables and picture."""
    folder = open_folder(arguments)
    shown = _Shown(arguments.rows, arguments.seed)

    def cases() -> Iterator[Case]:
        for case in tqdm(cases_of(folder), total=len(folder.samples.lines), unit="image", desc="filling"):
            shown.offer(case)
            yield case

    rows = measure(cases())
    record = figures(rows)
    text = [part for view, heading in HEADINGS.items() if view in rows for part in (heading, table(rows[view]))]
    text.append(
        f"Ours within {MOST_JUMP:g} across the rim of the hole (median): {'yes' if record['accepted'] else 'NO'}"
    )
    out = arguments.out
    write_text(out / "seams.json", json.dumps(record, indent=1) + "\n")
    write_text(out / "seams.md", "\n\n".join(text) + "\n")
    print("\n\n".join(text))
    files = ["seams.md", "seams.json"]
    if picked := shown.rows():
        visualize.save(seam_picture(picked), out / "seams.png")
        print(f"shown: {' '.join(row.name for row in picked)}")
        files.append("seams.png")
    for name in files:
        print(f"  {(out / name).absolute()}")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder_arguments(parser)
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME[#NUMBER]", help="defects of the picture")
    parser.add_argument("--seed", type=int, default=0, help="of the picture's defects")
    run_script(run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
