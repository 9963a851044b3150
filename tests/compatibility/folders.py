"""What is done with folders of before: each step goes on with them by the command line and describes what comes out.

All paths are relative to the folder that the archive is unpacked into, which has to be the working directory.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from recording import Record, describe_report, describe_run, describe_samples, digest, tensor_row
from running import Values, isdm

HERE = Path(__file__).parent
ARCHIVE = HERE / "folders_d0a1d34.tar.xz"
CONTINUED = HERE / "continued_d0a1d34.json"

DATA = Path("data")
INTERRUPTED = Path("runs/interrupted")
FINETUNED = Path("runs/finetuned")
FINISHED = Path("samples/finished")
UNFINISHED = Path("samples/unfinished")
EVALUATION = Path("evaluation")

FINETUNE: Values = {
    "data_dir": str(DATA),
    "resume_checkpoint": str(INTERRUPTED),
    "max_epochs": 1,
    "batch_size": 3,
    "lr": 1e-3,
    "ema_rate": [0.5, 0.95],
    "preview_interval": 0,
    "tensorboard": False,
    "device": "cpu",
    "seed": 12,
}
SAMPLE: Values = {
    "data_dir": str(DATA),
    "model_path": str(FINETUNED),
    "steps": 4,
    "s": 1.5,
    "batch_size": 2,
    "device": "cpu",
    "seed": 13,
}
MORE = 11
"""Samples that the finished folder is enlarged to."""


def unpack_folders(target: Path) -> None:
    """Unpack the archive into `target`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(target, filter="data")


def state_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Return when each file below `folder` was written, and a digest of it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, digest(path.read_bytes())) for path in files}


def resume() -> Record:
    """Train the interrupted run to its end, by the config that it left in its folder."""
    isdm("train", INTERRUPTED / "config.json")
    return describe_run(INTERRUPTED)


def finetune_further() -> Record:
    """Train the finished finetuned run for one more epoch."""
    isdm("finetune", FINETUNED / "config.json", max_epochs=2)
    return describe_run(FINETUNED)


def finetune_anew() -> Record:
    """Finetune the best weights of the interrupted run."""
    isdm("finetune", **FINETUNE, output_dir="runs/anew")
    return describe_run(Path("runs/anew"))


def sample_anew() -> Record:
    """Sample from the finetuned run."""
    isdm("sample", **SAMPLE, results_path="samples/anew")
    return describe_samples(Path("samples/anew"))


def sample_interrupted() -> Record:
    """Sample raw weights from the last state of the run that is not finished."""
    values = {**SAMPLE, "model_path": str(INTERRUPTED / "last.pt"), "weights": "raw", "sampler": "ddim"}
    isdm("sample", **values, results_path="samples/anew")
    return describe_samples(Path("samples/anew"))


def sampled_with(folder: Path) -> Values:
    """Return the options that samples were made with.

    Of their config.json those that are null are left out: d0a1d34 writes null for text that is empty, and refuses it.
    """
    options = json.loads((folder / "config.json").read_text())
    return {key: value for key, value in options.items() if value is not None}


def finish_samples() -> Record:
    """Make the samples that the killed command left out."""
    isdm("sample", **sampled_with(UNFINISHED))
    return describe_samples(UNFINISHED)


def add_samples() -> Record:
    """Make the finished samples more."""
    folder = FINISHED / "train"
    isdm("sample", **{**sampled_with(folder), "num_samples": MORE})
    return describe_samples(folder)


def evaluate_again() -> Record:
    """Evaluate again with the segmenters that are there."""
    isdm("evaluate", EVALUATION / "config.json")
    return describe_report(EVALUATION / "report.json", Path.cwd())


def export() -> Record:
    """Export the averaged weights, and describe them as they are in the file."""
    isdm("export", model_path=str(FINETUNED), export_path="weights.pt")
    weights = torch.load("weights.pt", weights_only=True)
    return {"names": list(weights), "weights": [tensor_row(name, value) for name, value in weights.items()]}


def sample_exported() -> Record:
    """Sample from exported weights that say themselves what they are."""
    isdm("export", model_path=str(FINETUNED), export_path="weights.safetensors")
    isdm("sample", **{**SAMPLE, "model_path": "weights.safetensors"}, results_path="samples/anew")
    return describe_samples(Path("samples/anew"))


STEPS: Mapping[str, Callable[[], Record]] = {
    step.__name__: step
    for step in (
        resume,
        finetune_further,
        finetune_anew,
        sample_anew,
        sample_interrupted,
        finish_samples,
        add_samples,
        evaluate_again,
        export,
        sample_exported,
    )
}
