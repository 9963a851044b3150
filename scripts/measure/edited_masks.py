"""Measure new masks made by editing: their statistics beside the floors, what they keep of their bases, and their cost.

    python -m scripts.measure.edited_masks --data-dir data/tiles --dataset-mode multi-class --out runs/edited --size 64

Masks are those of the training split, squashed to `--size`, or at their own sizes without it. Prints a table in
Markdown, also written to `edited_masks.md`; `edited_masks.json` has all statistics. Times are of this process alone,
whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluations.mask_novelty import NEAR, NoveltyIndex
from evaluations.mask_statistics import MARGIN, MaskReference, MaskStatistics, mask_statistics
from guided_diffusion.data.components import find_components
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.mirror import FlipPairs, flip_pairs
from guided_diffusion.data.modes import DatasetMode, get_mode
from guided_diffusion.data.placing.mask_editor import EditedMask, MaskEditor
from guided_diffusion.data.placing.options import MaskOptions
from guided_diffusion.data.placing.shapes import Label, ShapeBank
from guided_diffusion.data.scan.scan import scan_dataset
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.files import write_text
from scripts.dataset_folders import run_script


@dataclass(frozen=True)
class Masks:
    """The masks of both splits, and what they mean."""

    training: list[Label]
    test: list[Label]
    encoding: LabelEncoding
    mode: DatasetMode
    exchanged: FlipPairs


def main(arguments: argparse.Namespace) -> None:
    masks, options = read_masks(arguments), MaskOptions()
    mode, count = masks.mode, arguments.masks
    names = [str(number) for number in range(len(masks.training))]
    start = time.process_time()
    bank = ShapeBank.build(
        names,
        lambda number: masks.training[number],
        masks.encoding.num_classes,
        background=mode.background,
        unlabeled=mode.unlabeled_classes(masks.encoding.names),
        is_scene=mode.scenes,
    )
    index = NoveltyIndex(
        masks.training, masks.encoding.num_classes, background=mode.background, flip_pairs=masks.exchanged
    )
    editor = MaskEditor(bank, options, lambda label: index.nearest(label)[0], masks.exchanged)
    prepared = time.process_time() - start
    start = time.process_time()
    made = [editor.edit(arguments.seed, number) for number in range(count)]
    seconds = (time.process_time() - start) / count
    reference = MaskReference.of(
        masks.training,
        masks.encoding.names,
        background=mode.background,
        test=masks.test,
        flips=(options.vertical_flip, options.random_flip),
        flip_pairs=masks.exchanged,
        index=index,
    )
    statistics = mask_statistics([mask.label for mask in made], reference)
    held_out = _worst(mask_statistics(masks.test, reference)) if masks.test else "none"
    facts = _facts(made, masks, bank) | {
        "largest ratios of the test masks": held_out,
        "preparation, s": f"{prepared:.1f}",
        "masks/s": f"{1 / seconds:.0f}",
    }
    text = _table(statistics, facts)
    print(text)
    record = {"facts": facts, **statistics.to_json()}
    write_text(arguments.out / "edited_masks.json", json.dumps(record, indent=2) + "\n")
    write_text(arguments.out / "edited_masks.md", text)


def read_masks(arguments: argparse.Namespace) -> Masks:
    """Return the masks that the arguments name; UserError for what cannot be read."""
    mode = get_mode(arguments.dataset_mode)
    report = scan_dataset(arguments.data_dir, mode, "train", with_instances=False)
    encoding = report.raise_if_fatal()
    test = scan_dataset(arguments.data_dir, mode, "test", encoding=encoding, with_instances=False)
    test.raise_if_fatal()
    size = arguments.size
    transform = JointTransform((size, size), "squash", train=False) if size else None

    def read(pairs: Sequence) -> list[Label]:
        labels = [read_mask(pair.mask, encoding, upright=pair.upright) for pair in pairs]
        if transform is not None:
            labels = [transform.place(tuple(each.shape)).label(each, encoding.num_classes) for each in labels]
        return [label.numpy() for label in labels]

    return Masks(read(report.pairs), read(test.pairs), encoding, mode, flip_pairs(encoding.names))


def _facts(made: Sequence[EditedMask], masks: Masks, bank: ShapeBank) -> dict[str, str]:
    """Return how many masks keep the classes of their base, the number of moved components, and ignored pixels."""
    kept: Counter[str] = Counter()
    null_id = masks.encoding.num_classes
    for mask in made:
        base = masks.training[mask.base.number]
        kept["class set kept"] += set(np.unique(mask.label)) == set(np.unique(base))
        counts = [Counter(part.class_id for part in find_components(each, bank.movable)) for each in (mask.label, base)]
        kept["moved components kept"] += counts[0] == counts[1]
        kept["ignored pixels kept"] += np.array_equal(mask.label == null_id, base == null_id)
    return {name: f"{count} of {len(made)}" for name, count in kept.items()}


def _worst(statistics: MaskStatistics) -> str:
    worst = sorted(statistics.judged, key=lambda line: -line.ratio)[:3]
    return ", ".join(f"{line.class_name} {line.name}".strip() + f" {line.ratio:.2f}" for line in worst)


def _table(statistics: MaskStatistics, facts: dict[str, str]) -> str:
    judged = statistics.judged
    within = [line.ratio <= limit for limit in (1, MARGIN) for line in judged]
    rows = {
        "statistics within 95 % of the floor": f"{sum(within[: len(judged)])} of {len(judged)}",
        f"within {MARGIN:g} times": f"{sum(within[len(judged) :])} of {len(judged)}",
        "largest ratios": _worst(statistics),
        "novelty, median": f"{np.median(statistics.novelty):.2f}",
        "of the training masks among the others": f"{np.median(statistics.training_novelty):.2f}",
        f"novelty below {NEAR:g}": f"{100 * (statistics.novelty < NEAR).mean():.1f} %",
        "of the training masks among the others ": f"{100 * (statistics.training_novelty < NEAR).mean():.1f} %",
        **facts,
    }
    return "".join([f"| {name} | {value} |\n" for name, value in rows.items()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--dataset-mode", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--size", type=int, help="side in px to which masks are squashed; without it, their own sizes")
    parser.add_argument("--masks", type=int, default=624)
    parser.add_argument("--seed", type=int, default=0)
    run_script(main, parser.parse_args())
