"""Compare settings of models that make pairs (or masks) at equal training time: prediction, mask_code, mask_scale.

    python -m scripts.measure.pair_ablation RESULTS -c configs/config_pairs_lemons.json [--lemons 512] [--minutes 60]

Trains the network of a config of `train` once with each setting, in turns of `--every` epochs, until `--minutes` are
over (processor time on a CPU, which other work does not change; else time by the clock), then makes `--samples` masks
with the averaged weights and measures them twice: as they are decoded, and as `sample` writes them, cleaned and drawn
anew where they have faults. Settings: one choice at a time changed from the first of `--settings`, or those given.

--lemons: write so many pairs of the demo's lemons of the config's image_size into RESULTS/dataset and train on these.
It goes on where it was stopped: trainings are resumed, and what is measured is not measured again. The table is written
to RESULTS/table.md, a picture of each setting to RESULTS/<setting>.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluations.mask_novelty import NEAR, nearest_novelty
from evaluations.mask_statistics import MaskReference, mask_statistics
from guided_diffusion.config.load import load_config, read_config_file
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.lemons import write_demo_dataset
from guided_diffusion.data.mask_rules import MaskRules
from guided_diffusion.data.mirror import flip_pairs
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.generation import GenerationPipeline, preview_draw, read_training_masks
from guided_diffusion.pipelines.load import load_pipeline
from guided_diffusion.pipelines.mask_generation import MadeMask, accepted_masks
from guided_diffusion.pipelines.mask_preview import share_of_copies
from guided_diffusion.pipelines.training_data import open_training_data
from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.logs import read_json_lines
from guided_diffusion.samples.plan import AskedClass, plan_generated
from guided_diffusion.training.mask_preview import measure_masks, spread_classes
from scripts.measure.timed_training import train_for

SETTINGS = ("v:bits:0.5", "x0:bits:0.5", "v:onehot:0.5", "v:bits:1", "v:bits:0.25")
RESULTS = "results.jsonl"
SHOWN, STEPS, BATCH = 16, 20, 16


@dataclass(frozen=True)
class Setting:
    """One training, written as prediction:mask_code:mask_scale."""

    prediction: str
    mask_code: str
    mask_scale: float

    @classmethod
    def of(cls, text: str) -> Setting:
        prediction, mask_code, mask_scale = text.split(":")
        return cls(prediction, mask_code, float(mask_scale))

    @property
    def name(self) -> str:
        return f"{self.prediction}_{self.mask_code}_{self.mask_scale:g}"


def config_of(arguments: argparse.Namespace, setting: Setting, epochs: int) -> TrainConfig:
    values = {key: value for key, value in read_config_file(arguments.config).items() if key != "$schema"}
    values |= {"generates": "pair", **vars(setting), "max_epochs": epochs, "preview_interval": 0, "tensorboard": False}
    values |= {"output_dir": str(Path(arguments.results) / setting.name), "seed": arguments.seed}
    if arguments.generates:
        values["generates"] = arguments.generates
    if arguments.lemons:
        values |= {"data_dir": str(Path(arguments.results) / "dataset"), "dataset_mode": "multi-class"}
    return load_config("train", values)


# --- measuring ---------------------------------------------------------------------------------------------------


def reference_of(config: TrainConfig, training: np.ndarray, names: Sequence[str], background: int) -> MaskReference:
    """Return the training masks [M, H, W] that others are held against."""
    return MaskReference.of(
        list(training),
        names,
        background=background,
        flips=(config.augment.vertical_flip, config.augment.random_flip),
        flip_pairs=flip_pairs(names, config.source.flip_pairs),
    )


def statistics_of(
    labels: np.ndarray, asked: Sequence[int], rules: MaskRules, reference: MaskReference
) -> dict[str, Any]:
    """Return what is measured of masks [N, H, W]: that of previews, and the statistics of masks with their verdicts."""
    novelty = nearest_novelty(labels, reference.index)
    values = measure_masks(torch.from_numpy(labels), asked, rules, lambda _: novelty)
    found = mask_statistics(list(labels), reference, novelty=novelty)
    counts = {"judged": len(found.judged), "out": int(sum(line.is_out for line in found.judged))}
    return {**values, **counts, "far_out": len(found.far_out), "statistics": found.to_json()}


def measured(arguments: argparse.Namespace, setting: Setting, epochs: int, seconds: float) -> dict[str, Any]:
    """Return the record of one trained setting and write its picture."""
    config = config_of(arguments, setting, epochs)
    report = open_training_data(config)
    config = config.replaced(num_classes=report.encoding.num_classes)
    training = read_training_masks(config, report).labels
    pipeline = load_pipeline(Path(config.run.output_dir) / LAST)
    assert isinstance(pipeline, GenerationPipeline)
    names, rules = report.encoding.names, pipeline.rules
    reference = reference_of(config, training, names, rules.background)
    asked = spread_classes(rules.class_mix, arguments.samples, 0.5)
    plan = plan_generated(
        [AskedClass(index, names[index]) for index in asked],
        arguments.seed,
        with_images=config.generation.generates == "pair",
    )
    started = time.monotonic()
    raw = preview_draw(pipeline, STEPS, BATCH)(asked, [sample.seed for sample in plan])
    sampling_seconds = time.monotonic() - started
    run = pipeline.sampling.begin(SamplerOptions(steps=STEPS, time_grid="logsnr"), noise_device="cpu")
    made = {sample.index: mask for sample, mask in accepted_masks(pipeline, run, plan, BATCH)}
    kept = [made[index] for index in range(len(plan))]
    record = {
        "setting": setting.name,
        "epochs": epochs,
        "seconds": seconds,
        "classes": list(names),
        "seconds_a_sample": sampling_seconds / len(plan),
        "decoded": statistics_of(raw.label.numpy(), asked, rules, reference),
        "written": statistics_of(np.stack([mask.label for mask in kept]), asked, rules, reference),
        "attempts": float(np.mean([mask.attempts for mask in kept])),
        "with_faults": float(np.mean([bool(mask.faults) for mask in kept])),
        "margin": float(np.mean([mask.margin for mask in kept])),
        "training": real_numbers(training, rules, reference),
    }
    if kept[0].image is not None:
        record["image_copies"] = share_of_copies(config, report)(torch.stack([mask.image for mask in kept]))
    save_picture(Path(arguments.results) / f"{setting.name}.png", kept[:SHOWN], asked, names)
    return record


def real_numbers(training: np.ndarray, rules: MaskRules, reference: MaskReference) -> dict[str, float]:
    """Return the numbers of the training masks themselves, each against the others."""
    return {
        "novelty": float(np.median(reference.novelty)),
        "near_copies": float((reference.novelty < NEAR).mean()),
        "specks": float(np.mean([rules.count_specks(label) for label in training])),
    }


def save_picture(path: Path, kept: Sequence[MadeMask], asked: Sequence[int], names: Sequence[str]) -> None:
    """Write mask and image of some samples, as they are written."""
    palette = visualize.class_palette(len(names))
    cells = []
    for mask in kept:
        cells.append(visualize.colorize(mask.label, palette))
        if mask.image is not None:
            cells += visualize.to_pixels(mask.image.numpy()[None])
    rows = [cells[start : start + 8] for start in range(0, len(cells), 8)]
    legend = visualize.legend_of(names, [mask.label for mask in kept])
    visualize.save(visualize.grid(rows, legend=legend, title=path.stem), path)


def table_of(records: Sequence[dict[str, Any]]) -> str:
    """Return the records as a table in Markdown; before and after the arrow: as decoded, as written."""
    head = [
        "setting",
        "epochs",
        "class obeyed",
        "unseen sets",
        "specks",
        "novelty (< 0.1)",
        "statistics within",
        "within 1.5 times",
    ]
    head += ["attempts", "with faults", "image copies"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for record in records:
        both = [record["decoded"], record["written"]]
        cells = [
            record["setting"],
            str(record["epochs"]),
            " → ".join(f"{each['obeyed']:.0%}" for each in both),
            " → ".join(f"{each['unseen']:.0%}" for each in both),
            " → ".join(f"{each['specks']:.1f}" for each in both),
            f"{both[1]['novelty']:.2f} ({both[1]['near_copies']:.0%})",
            " → ".join(f"{each['judged'] - each['out']} of {each['judged']}" for each in both),
            " → ".join(f"{each['judged'] - each['far_out']}" for each in both),
            f"{record['attempts']:.2f}",
            f"{record['with_faults']:.0%}",
            f"{record['image_copies']:.0%}" if "image_copies" in record else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if records:
        own = records[-1]["training"]
        lines.append(
            f"\nTraining masks among themselves: novelty {own['novelty']:.2f} ({own['near_copies']:.0%} below 0.1), "
            f"{own['specks']:.1f} specks a mask."
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    parser.add_argument("-c", "--config", default="configs/config_pairs_lemons.json")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="prediction:mask_code:mask_scale, several")
    parser.add_argument("--generates", choices=("mask", "pair"), help="in place of what the config has")
    parser.add_argument("--lemons", type=int, default=0, help="pairs of the demo's lemons; 0: the config's data_dir")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, for each setting")
    parser.add_argument("--every", type=int, default=10, help="epochs in a turn, after which the time is looked at")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = Path(arguments.results)
    results.mkdir(parents=True, exist_ok=True)
    if arguments.lemons:
        (side,) = set(height_width(read_config_file(arguments.config)["image_size"]))
        write_demo_dataset(results / "dataset", num_train=arguments.lemons, num_test=64, size=side, seed=arguments.seed)
    path = results / RESULTS
    for setting in map(Setting.of, arguments.settings):
        epochs, seconds = train_for(arguments.minutes, partial(config_of, arguments, setting), every=arguments.every)
        records = read_json_lines(path) if path.exists() else []
        if any(record["setting"] == setting.name and record["epochs"] == epochs for record in records):
            continue
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(measured(arguments, setting, epochs, seconds)) + "\n")
        (results / "table.md").write_text(table_of(read_json_lines(path)), encoding="utf-8")
    print((results / "table.md").read_text(encoding="utf-8"))
    for written in (path, results / "table.md"):
        print(f"  {written.absolute()}")


if __name__ == "__main__":
    main()
