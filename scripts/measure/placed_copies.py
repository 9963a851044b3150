"""Look for copies of training defects among placed ones.

    python -m scripts.measure.placed_copies RESULTS_OF_PLACE --out runs/copies [--count 300]

By the texture inside the mask (`evaluations/defect_copies.py`; evaluations/README.md says how well that finds copies).
The same rule is applied to each training defect among the others, and to the real defects of the test split. Two
figures say whether the network repeats its training defects:
- flagged: the share of copies. No more may be flagged than of real defects: the verdict is a one-sided exact test of
  Fisher at 5 % against each of the two kinds of real defects.
- source: how often the nearest training defect is the one that the mask was made of, of all whose class has several.
  A mask alone also leads there at times: of masks with the texture of the good tile in it, 8 to 10 % do.

Writes `copies.md`, `copies.json` and, where any defect is flagged, the picture `copies.png` of the most similar ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from tqdm import tqdm

from evaluations.defect_copies import FEWEST_DEFECTS, DefectCopies, DefectTextures, defect_texture, find_defect_copies
from guided_diffusion.data import visualize
from guided_diffusion.data.components import find_components
from guided_diffusion.data.pairing import Pair
from guided_diffusion.pipelines.placing.folder import PlacedFolder
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import write_text
from scripts.benchmark.run import positive
from scripts.dataset_folders import run_script
from scripts.measure.placed import folder_arguments, open_folder

CHANCE = 0.05  # of a verdict of "copies" where there are none
SHOWN = 6
SIDE = 128  # px of a picture


@dataclass(frozen=True, eq=False)
class Defect:
    """A defect, its picture uint8 [h, w, C] of the box around it, and what it was made of (or is), `name#index`."""

    class_id: int
    source: str
    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def textures_of(defects: Sequence[Defect]) -> DefectTextures:
    """Return the textures of at least one defect."""
    textures = [defect_texture(each.pixels, each.mask) for each in defects]
    return DefectTextures.of(textures, [each.class_id for each in defects])


def placed_defects(folder: PlacedFolder, count: int) -> list[Defect]:
    """Return at most `count` defects of a folder of `place`, of evenly spread images."""
    found = []
    for scene in tqdm(folder.scenes(), total=len(folder.samples.lines), unit="image", desc="placed defects"):
        span = max(scene.good.high - scene.good.low, 1)
        for defect in scene.finished.defects:
            shown = (scene.result[defect.box.slices].astype(np.float64) - scene.good.low) / span * 255
            pixels = np.clip(np.round(shown), 0, 255).astype(np.uint8)
            found.append(Defect(defect.class_id, defect.source, pixels, defect.mask))
    return visualize.evenly_spaced(found, count)


def real_defects(folder: PlacedFolder, pairs: dict[str, Pair], classes: Sequence[int]) -> Iterator[Defect]:
    """Yield the defects of real pairs."""
    for stem, pair in tqdm(pairs.items(), unit="image", desc="real defects"):
        image, label = folder.read_pair(pair)
        for index, part in enumerate(find_components(label, classes)):
            yield Defect(part.class_id, f"{stem}#{index}", image[part.box.slices], part.mask)


def judged_of(defects: DefectTextures, training: DefectTextures) -> int:
    """Return how many of real defects the rule can judge."""
    classes = np.unique(training.classes).tolist()
    known = (class_id for class_id in classes if len(training.indices_of(class_id)) >= FEWEST_DEFECTS)
    return sum(len(defects.indices_of(class_id)) for class_id in known)


def figures(
    copies: DefectCopies, placed: Sequence[Defect], training: Sequence[Defect], judged_real: tuple[int, int]
) -> dict[str, Any]:
    """Return the figures and the verdict; judged_real: how many training and test defects the rule can judge."""
    judged = np.flatnonzero(np.isfinite(copies.score))
    own = [training[copies.index[number]].source == placed[number].source for number in judged]
    real = {"training": (copies.training_share, judged_real[0]), "test": (copies.real_share, judged_real[1])}
    beyond = [
        name
        for name, (share, count) in real.items()
        if share is not None and exceeds(len(copies.flagged), copies.judged, round(share * count), count)
    ]
    return {
        **copies.to_json(),
        "nearest_is_source": float(np.mean(own)) if own else None,
        "beyond": beyond,
        "accepted": not beyond and bool(copies.judged),
    }


def exceeds(flagged: int, count: int, real_flagged: int, real_count: int) -> bool:
    """Return whether more placed defects are flagged than chance has it where they are as the real ones."""
    table = [[flagged, count - flagged], [real_flagged, real_count - real_flagged]]
    return bool(stats.fisher_exact(table, alternative="greater").pvalue < CHANCE)


def summary(found: dict[str, Any]) -> str:
    """Return the figures as Markdown."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.1f} %"

    verdict = "no copies beyond what real defects are to each other"
    if found["beyond"]:
        verdict = f"MORE copies than among real defects ({' and '.join(found['beyond'])})"
    elif not found["judged"]:
        verdict = "none can be judged"
    return "\n".join(
        [
            "| defects | flagged | nearest is the source |",
            "|---|---|---|",
            f"| placed, {found['judged']} of {found['placed']} judged | {percent(found['share'])} | "
            f"{percent(found['nearest_is_source'])} |",
            f"| real, training among the others | {percent(found['training_share'])} | |",
            f"| real, test | {percent(found['real_share'])} | |",
            "",
            f"Verdict: {verdict}.",
        ]
    )


def picture(copies: DefectCopies, placed: Sequence[Defect], training: Sequence[Defect]) -> Any:
    """Return the most similar flagged defects beside the training defects that they are near to."""
    worst = sorted(copies.flagged.tolist(), key=lambda number: copies.score[number])[:SHOWN]
    rows = [[_tile(placed[number]), _tile(training[copies.index[number]])] for number in worst]
    titles = [f"{copies.score[number]:.2f}" for number in worst]
    return visualize.grid(rows, column_titles=("placed", "nearest"), row_titles=titles, scale=1)


def _tile(defect: Defect) -> visualize.Pixels:
    """Return a defect in the middle of a square of at most SIDE px."""
    height, width = defect.mask.shape
    step = -(-max(height, width) // SIDE)
    pixels = visualize.to_rgb(defect.pixels)[::step, ::step]
    enlarge = max(1, SIDE // max(pixels.shape[:2]))
    return pixels.repeat(enlarge, axis=0).repeat(enlarge, axis=1)


def run(arguments: argparse.Namespace) -> None:
    """Look for copies in a folder and write what is found."""
    folder = open_folder(arguments)
    placed = placed_defects(folder, arguments.count)
    classes = sorted({each.class_id for each in placed})
    training = list(real_defects(folder, folder.pairs("train"), classes))
    if not placed or not training:
        raise DataError.of(folder.samples.folder, "has no placed or no training defects", "use another folder of place")
    test = list(real_defects(folder, folder.pairs("test"), classes))
    of_training, of_test = textures_of(training), textures_of(test) if test else None
    copies = find_defect_copies(textures_of(placed), of_training, of_test)
    judged = judged_of(of_training, of_training), judged_of(of_test, of_training) if of_test is not None else 0
    found = figures(copies, placed, training, judged)
    out = arguments.out
    write_text(out / "copies.json", json.dumps(found, indent=1) + "\n")
    write_text(out / "copies.md", summary(found) + "\n")
    print(summary(found))
    if len(copies.flagged):
        visualize.save(picture(copies, placed, training), out / "copies.png")
    for path in sorted(out.glob("copies.*")):
        print(f"  {path.absolute()}")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder_arguments(parser)
    parser.add_argument("--count", type=positive, default=300, help="most placed defects to compare")
    run_script(run, parser.parse_args(argv))


if __name__ == "__main__":
    main()
