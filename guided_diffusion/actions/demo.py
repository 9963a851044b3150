"""`demo`: every action from check to evaluate on a built-in dataset, by the same code as a user's run."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guided_diffusion.config import demo
from guided_diffusion.config.demo import DemoConfig
from guided_diffusion.config.load import load_config
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.lemons import write_demo_dataset, write_good_lemons
from guided_diffusion.data.loader import collate_examples
from guided_diffusion.data.modes import get_mode
from guided_diffusion.pipelines.dataset import scan_split, shown_dataset
from guided_diffusion.pipelines.output import refuse_other_record
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.lock import folder_lock
from guided_diffusion.samples.manifest import MANIFEST, read_manifest
from guided_diffusion.samples.place_sheet import placed_rows

SHOWN = 5  # rows of the picture
SCALE = 2  # of its tiles


def run(config: DemoConfig) -> int:
    """Make the dataset and run every stage on it; a stage that is done already is not repeated."""
    with folder_lock(config.output_dir, "demo"):
        return _run(config)


def plan(config: DemoConfig) -> list[str]:
    """Return the stages and where their results go; UserError for a folder that has those of other runs."""
    root, stages = Path(config.output_dir), demo.demo_stages(config)
    _refuse_other_runs(root, root / "dataset", stages)
    pairs = f"{demo.TRAIN_PAIRS} training and {demo.TEST_PAIRS} test pairs, {demo.GOOD_IMAGES} good images"
    lines = [f"dataset: {pairs} of {demo.FILE_SIZE} x {demo.FILE_SIZE} px"]
    for stage, values in stages.items():
        folder = _results(values).absolute()
        begun = "; there already, and goes on if it is not finished" if folder.exists() else ""
        lines.append(f"{stage}: {folder}{begun}")
    return lines


def _run(config: DemoConfig) -> int:
    started = time.monotonic()
    root = Path(config.output_dir)
    data_dir, good_dir = root / "dataset", root / "dataset_good"
    stages = demo.demo_stages(config)
    _refuse_other_runs(root, data_dir, stages)
    write_demo_dataset(
        data_dir, num_train=demo.TRAIN_PAIRS, num_test=demo.TEST_PAIRS, size=demo.FILE_SIZE, seed=config.seed
    )
    write_good_lemons(good_dir, count=demo.GOOD_IMAGES, size=demo.FILE_SIZE, seed=config.seed)
    for stage, values in stages.items():
        action = stage.partition("_")[0]
        path = root / "configs" / f"{stage}.json"
        write_text(path, json.dumps(values, indent=2) + "\n")
        print(f"\n--- {stage}: main.py {action} -c {path}", flush=True)
        import_module(f"guided_diffusion.actions.{action}").run(load_config(action, values))
    studio = root / "configs" / "studio.json"
    write_text(studio, json.dumps(demo.demo_studio(config), indent=2) + "\n")
    picture = root / "demo.png"
    visualize.save(
        comparison(load_config("train", stages["train"]), root / "samples", root / "placed" / "train"), picture
    )
    print(f"\nfinished in {(time.monotonic() - started) / 60:.1f} minutes")
    for name, path in {
        "dataset": data_dir,
        "configs": root / "configs",
        "trained model": root / "train",
        "finetuned model": root / "finetune",
        "good images": good_dir,
        "placed defects": root / "placed",
        "synthetic pairs": root / "synthetic",
        "picture": picture,
        "report": root / "evaluate" / "report.html",
    }.items():
        print(f"  {name:16} {path.absolute()}")
    print(f"paint lemons of your own, and see what the model makes of them: main.py studio -c {studio}")
    return 0


def _refuse_other_runs(root: Path, data_dir: Path, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError for another action's folder, and for results without the demo dataset that they would be of."""
    refuse_other_record("output_dir", root, "demo")
    if data_dir.exists():
        return
    for values in stages.values():
        folder = _results(values)
        if folder.exists():
            line = f"output_dir is {root}, which has a {folder.name} that is not of a demo: give a new folder"
            raise ConfigError.of_keys(("output_dir", line))


def _results(values: Mapping[str, Any]) -> Path:
    """Return where a stage writes."""
    return Path(values.get("output_dir") or values["results_path"])


def comparison(config: TrainConfig, samples: Path, placed: Path) -> Image.Image:
    """Return one sheet: real | mask | sample of the first test pairs, as the network of `config` sees them, beside
    good | mask | result of the first placed pairs at their own size, which is a multiple of that of the network.
    """
    report = scan_split(config.source, config.geometry, "test")
    encoding, pairs = report.encoding, report.pairs[:SHOWN]
    shown = shown_dataset(pairs, encoding, config.geometry, get_mode(config.source.dataset_mode))
    images, condition = collate_examples(shown, range(len(pairs)))
    lines = read_manifest(placed / MANIFEST)[:SHOWN]
    placed_pairs = list(placed_rows(placed, lines, encoding, config.geometry.image_channels, "auto"))
    palette = visualize.class_palette(encoding.num_classes)
    enlarged = placed_pairs[0].label.shape[0] // condition.label.shape[1]
    rows = []
    for pair, real, label, row in zip(
        pairs, visualize.to_pixels(images.numpy()), condition.label.numpy(), placed_pairs, strict=False
    ):
        with Image.open(samples / "images" / f"{pair.stem}.png") as sample:
            left = real, visualize.colorize(label, palette), visualize.to_rgb(np.asarray(sample))
        right = row.good, visualize.colorize(row.label, palette), row.result
        rows.append([tile.repeat(enlarged, axis=0).repeat(enlarged, axis=1) for tile in left] + list(right))
    labels = [condition.label.numpy(), *(row.label for row in placed_pairs)]
    return visualize.grid(
        rows,
        column_titles=("real", "mask", "sample", "good", "mask", "placed"),
        legend=visualize.legend_of(encoding.names, labels),
        title="drawn from masks of the test split | painted on good images",
        scale=SCALE,
    )
