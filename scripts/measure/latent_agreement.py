"""Compare a model of given masks in latents with one in pixels after equal time: do samples follow their masks?

    python -m scripts.measure.latent_agreement RESULTS [--minutes 20] [--size 128] [--pairs 256] \
        [--encoder-weights weights/tf_efficientnet_lite0.safetensors]

Trains the same network on lemons of the quick start twice, for `--minutes` each (processor time on a CPU): "pixels",
and "latent" (`latent` 4), whose time has that of its autoencoder in it. Both draw images of the masks of 64 test pairs,
without guidance and with `--guidance`, in which a segmenter (U-Net) that was trained on the real training pairs looks
for the masks; its score on the real test images is beside it, and on these as they went through the autoencoder, which
is the best that its latents can do.

It goes on where it was stopped. Writes results.jsonl, results.md, pixels.png and latent.png.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evaluations.sets import ImageSet
from guided_diffusion.config.load import load_config
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.lemons import write_demo_dataset
from guided_diffusion.diffusion.latent import LatentCode
from guided_diffusion.pipelines.load import load_pipeline
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.runtime.checkpoint import LAST
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.logs import read_json_lines
from scripts.measure.augment import pixels_of
from scripts.measure.mask_agreement import Real, add_segmenter_options, read_real, real_segmenter, sampled, scored
from scripts.measure.timed_training import train_for

RESULTS, TABLE = "results.jsonl", "results.md"
TEST_PAIRS, SHOWN = 64, 6
NETWORK = {
    "dataset_mode": "multi-class",
    "random_flip": True,
    "num_channels": 32,
    "channel_mult": "1,2,2,2",
    "num_res_blocks": 1,
    "num_head_channels": 32,
    "resblock_updown": False,
    "learn_sigma": False,
    "noise_schedule": "cosine",
    "prediction": "v",
    "drop_rate": 0.1,
    "batch_size": 8,
    "lr": 0.0005,
    "ema_rate": "0.995",
    "preview_interval": 0,
    "tensorboard": False,
}
ARMS: dict[str, dict[str, Any]] = {
    "pixels": {},
    "latent": {
        "latent": 4,
        "autoencoder_channels": 32,
        "autoencoder_crop": 64,
        "autoencoder_steps": 1000,
        "autoencoder_batch_size": 8,
    },
}


def config_of(arguments: argparse.Namespace, arm: str, epochs: int) -> TrainConfig:
    """Return the configuration of a setting that ends after `epochs`."""
    values = {**NETWORK, **ARMS[arm], "image_size": arguments.size, "max_epochs": epochs, "seed": arguments.seed}
    lowest = arguments.size // values.get("latent", 1) // 8  # the side of the fourth level: both networks are the same
    values["attention_resolutions"] = str(lowest)
    values |= {"data_dir": str(arguments.results / "dataset"), "output_dir": str(arguments.results / arm)}
    return load_config("train", values)


def decoded(pipeline: SamplingPipeline, real: Real) -> ImageSet | None:
    """Return the real test images as they went through the autoencoder of a model of latents, None without one."""
    code = pipeline.code
    if not isinstance(code, LatentCode):
        return None
    images = 2 * torch.from_numpy(real.test.images).permute(0, 3, 1, 2).float() / 255 - 1
    with torch.inference_mode():
        back = code.decode_images(code.encode(images, None))
    return ImageSet(pixels_of(back), real.test.labels, real.test.names, real.test.num_classes)


def measure(arguments: argparse.Namespace, real: Real, arm: str) -> dict[str, Any]:
    """Train a setting and return its record."""
    epochs, seconds = train_for(arguments.minutes, partial(config_of, arguments, arm), every=arguments.every)
    pipeline = load_pipeline(arguments.results / arm / LAST, device="cpu")
    segmenter = real_segmenter(arguments, real)
    record: dict[str, Any] = {
        "arm": arm,
        "epochs": epochs,
        "minutes": seconds / 60,
        "real": scored(segmenter, real.test),
    }
    through = decoded(pipeline, real)
    if through is not None:
        record["decoded"] = scored(segmenter, through)
    for scale in (1.0, arguments.guidance):
        started = time.process_time()
        images = sampled(pipeline, real, scale, arguments.seed)
        record[f"s {scale:g}"] = {**scored(segmenter, images), "seconds": (time.process_time() - started) / TEST_PAIRS}
    visualize.save(visualize.grid([list(images.images[:SHOWN])], title=arm), arguments.results / f"{arm}.png")
    return record


def table_of(records: Sequence[dict[str, Any]]) -> str:
    """Return the records as a table in Markdown, in percent."""
    scales = sorted({key for record in records for key in record if key.startswith("s ")})
    titles = [
        "trained in",
        "epochs",
        "minutes",
        *(f"{name}, {scale}" for scale in scales for name in ("agreement", "mIoU")),
    ]
    lines = [f"| {' | '.join([*titles, 'seconds an image'])} |", "|---" * (len(titles) + 1) + "|"]
    for record in records:
        cells = [record["arm"], str(record["epochs"]), f"{record['minutes']:.0f}"]
        cells += [f"{100 * record[scale][key]:.1f}" for scale in scales for key in ("agreement", "miou")]
        cells.append(f"{record[scales[-1]]['seconds']:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    for name in ("real", "decoded"):
        for record in (record for record in records[-1:] if name in record):
            found = record[name]
            lines.append(
                f"\n{name} test images: agreement {100 * found['agreement']:.1f}, mIoU {100 * found['miou']:.1f}"
            )
    return "\n".join(lines) + "\n"


def main(given: Sequence[str] | None = None) -> None:
    """Train and measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, for each setting")
    parser.add_argument("--every", type=int, default=2, help="epochs in a turn, after which the time is looked at")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    add_segmenter_options(parser)
    arguments = parser.parse_args(given)
    results = arguments.results
    results.mkdir(parents=True, exist_ok=True)
    sizes = {"num_train": arguments.pairs, "num_test": TEST_PAIRS, "size": arguments.size}
    write_demo_dataset(results / "dataset", **sizes, seed=arguments.seed)
    records = read_json_lines(results / RESULTS) if (results / RESULTS).exists() else []
    real = read_real(config_of(arguments, "pixels", 1))
    for arm in ARMS:
        if all(record["arm"] != arm for record in records):
            records.append(measure(arguments, real, arm))
            with (results / RESULTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(records[-1]) + "\n")
    write_text(results / TABLE, table_of(records))
    print(table_of(records))
    for written in (RESULTS, TABLE):
        print(f"  {(results / written).absolute()}")


if __name__ == "__main__":
    main()
