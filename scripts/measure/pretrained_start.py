"""Measure whether images without masks are a good start for a model that takes masks, at equal total steps.

    python -m scripts.measure.pretrained_start RESULTS --data-dir data/magnetic_tile \
        --image-dir data/magnetic_tile_good --encoder-weights weights/tf_efficientnet_lite0.safetensors \
        [--steps 4000] [--seeds 3] [--until 240]

Two settings for each seed, of the network in `--config`. "scratch": trained with masks for `--steps` steps.
"pretrained": trained for `--share` of the steps without masks on the images of the pairs and those below
`--image-dir`/train, then, from the converted weights, with masks on the pairs for the rest.

After every turn of `--every` steps with masks, and at the end, the averaged weights are measured on the pairs of the
test split: the mean squared error of the prediction at fixed timesteps with fixed noise. At the end images are drawn of
the test masks, without guidance and with `--guidance`, and a segmenter (U-Net) that was trained on the real training
pairs looks for the masks in them; its score on the real test images is beside it.

It goes on where it was stopped; trainings are resumed, and what is measured is not measured again. With `--until`
minutes it stops by itself after the turn in which they are over. Writes results.jsonl and results.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided_diffusion.actions import train
from guided_diffusion.config.load import load_config, parse_overrides, read_config_file
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.pipelines.load import load_pipeline
from guided_diffusion.runtime.checkpoint import LAST, load_checkpoint
from scripts.measure.augment import TIMESTEPS, losses
from scripts.measure.mask_agreement import Real, add_segmenter_options, read_real, real_segmenter, sampled, scored

RESULTS, TABLE = "results.jsonl", "results.md"
ARMS = ("scratch", "pretrained")
DROPPED = 0.1
"""Share of dropped masks in all trainings with masks, so that guidance can be measured."""


@dataclass(frozen=True)
class Stage:
    """One training: `steps` from the weights in `start` ("" for new ones), with or without masks."""

    folder: Path
    steps: int
    masks: bool
    start: str = ""


def stages_of(arguments: argparse.Namespace, arm: str, seed: int) -> list[Stage]:
    """Return the trainings of a setting, of `--steps` steps in all."""
    folder = Path(arguments.results) / f"{arm}_seed_{seed}"
    if arm == "scratch":
        return [Stage(folder, arguments.steps, True)]
    before = Stage(folder.with_name(f"{folder.name}_images"), round(arguments.share * arguments.steps), False)
    return [before, Stage(folder, arguments.steps - before.steps, True, str(before.folder / LAST))]


def config_of(arguments: argparse.Namespace, stage: Stage, seed: int, max_epochs: int) -> TrainConfig:
    """Return the configuration of a stage that ends after `max_epochs`, or when all its steps are done."""
    shown = {"data_dir": arguments.data_dir, "output_dir": str(stage.folder), "seed": seed}
    shown |= {"preview_interval": 0, "tensorboard": False, "lr_anneal_steps": stage.steps, "max_epochs": max_epochs}
    shown |= {"resume_checkpoint": stage.start or "auto", "drop_rate": DROPPED if stage.masks else 0.0}
    if not stage.masks:
        images = Path(arguments.image_dir)
        shown |= {"condition": "none", "image_dir": str(images / "train" if (images / "train").is_dir() else images)}
    values = {key: value for key, value in read_config_file(arguments.config).items() if key != "$schema"}
    return load_config("train", {**values, **shown, **parse_overrides(arguments.set, TrainConfig)})


def turns(arguments: argparse.Namespace, stage: Stage, seed: int, measure: Callable[[int], None]) -> Iterator[None]:
    """Train a stage in turns of about `--every` steps, calling `measure` with the steps done after each with masks."""
    while True:
        epochs, steps = progress_of(stage)
        if stage.masks and steps:
            measure(steps)
        if steps >= stage.steps:
            return
        if steps:
            yield
        more = max(1, round(arguments.every * epochs / steps)) if steps else 1
        train.run(config_of(arguments, stage, seed, epochs + more))


def progress_of(stage: Stage) -> tuple[int, int]:
    """Return epochs and steps that a stage is trained for already."""
    last = stage.folder / LAST
    progress = load_checkpoint(last, lazily=True).progress if last.exists() else {"epoch": 0, "step": 0}
    return progress["epoch"], progress["step"]


# ---------------------------------------------------------------------------------------------------- measuring


def measure(arguments: argparse.Namespace, real: Real, arm: str, seed: int, stage: Stage, steps: int) -> dict[str, Any]:
    """Return the record of a setting after `steps` steps with masks."""
    pipeline = load_pipeline(stage.folder / LAST, device="cpu")
    checkpoint = load_checkpoint(stage.folder / LAST, lazily=True)
    assert options_of_checkpoint(checkpoint).model.condition == "mask"
    record: dict[str, Any] = {"arm": arm, "seed": seed, "steps": steps, "of": stage.steps}
    record |= {"before": arguments.steps - stage.steps, "test": losses(pipeline, real.shown)}
    if steps >= stage.steps:
        segmenter = real_segmenter(arguments, real)
        record["real"] = scored(segmenter, real.test)
        for scale in (1.0, arguments.guidance):
            record[f"s {scale:g}"] = scored(segmenter, sampled(pipeline, real, scale, seed))
    return record


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return the measurements of the finished settings: losses and agreement, mean and deviation over the seeds."""
    finished = [record for record in records if "real" in record]
    scales = sorted({key for record in finished for key in record if key.startswith("s ")})
    titles = ["setting", "seeds", "test loss", *(f"at t {step}" for step in TIMESTEPS)]
    titles += [f"{name}, {scale}" for scale in scales for name in ("agreement", "mIoU")]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for arm in ARMS:
        group = [record for record in finished if record["arm"] == arm]
        if not group:
            continue
        cells = [arm, str(len(group)), _mean([statistics.fmean(record["test"]) for record in group], 5)]
        cells += [_mean([record["test"][row] for record in group], 5) for row in range(len(TIMESTEPS))]
        cells += [
            _mean([record[scale][key] for record in group], 3) for scale in scales for key in ("agreement", "miou")
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if finished:
        real = finished[0]["real"]
        lines.append(f"\nreal test images: agreement {real['agreement']:.3f}, mIoU {real['miou']:.3f}")
    return "\n".join(lines)


def _mean(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def main(given: Sequence[str] | None = None) -> None:
    """Train and measure what is not there yet, as long as the time allows, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="folder of the trainings, results.jsonl and results.md")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--image-dir", required=True, help="images without masks, or a folder with train/ of these")
    parser.add_argument("--config", default="configs/magnetic_tile/train.json", help="of the training with masks")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="another value of --config")
    parser.add_argument("--steps", type=int, default=4000, help="of a setting, in all")
    parser.add_argument("--share", type=float, default=0.5, help="of the steps that are without masks")
    parser.add_argument("--every", type=int, default=400, help="steps of a turn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--guidance", type=float, default=1.5)
    add_segmenter_options(parser)
    parser.add_argument("--until", type=float, default=float("inf"), help="minutes")
    arguments = parser.parse_args(given)
    folder, started = Path(arguments.results), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(record["arm"], record["seed"], record["steps"]) for record in records}
    real = read_real(config_of(arguments, stages_of(arguments, "scratch", 0)[0], 0, 1))

    def note(arm: str, seed: int, stage: Stage, steps: int) -> None:
        if (arm, seed, steps) not in done:
            records.append(measure(arguments, real, arm, seed, stage, steps))
            done.add((arm, seed, steps))
            with path.open("a") as file:
                file.write(json.dumps(records[-1]) + "\n")

    def all_turns() -> Iterator[None]:
        for seed in range(arguments.seeds):
            for arm in ARMS:
                for stage in stages_of(arguments, arm, seed):
                    yield from turns(arguments, stage, seed, lambda steps, to=(arm, seed, stage): note(*to, steps))

    for _ in all_turns():
        if time.monotonic() - started > 60 * arguments.until:
            print(f"stopped after {arguments.until:g} minutes; the same command goes on")
            break
    (folder / TABLE).write_text(table(records) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
