"""The error lines that users meet most, made by the commands that lead to them.

    PYTHONPATH=. python tests/support/record_messages.py    # after rewording one: writes tests/golden/messages.json

Paths stand in them as `{root}/...`, below which everything was made.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import command_line
from PIL import Image
from tiny import TINY

from guided_diffusion.data.lemons import write_demo_dataset

GOLDEN = Path(__file__).parents[1] / "golden" / "messages.json"

Values = dict[str, Any]
Mistake = Callable[[Path], tuple[str, Values]]


def _train(root: Path, **changes: Any) -> tuple[str, Values]:
    return "train", {**TINY, "data_dir": root / "data", "output_dir": root / "new", "max_epochs": 1, **changes}


def _finetune(root: Path, **changes: Any) -> tuple[str, Values]:
    return "finetune", {"data_dir": root / "data", "resume_checkpoint": root / "run", **changes}


def _sample(root: Path, **changes: Any) -> tuple[str, Values]:
    values = {"model_path": root / "run", "data_dir": root / "data", "results_path": root / "samples"}
    return "sample", {**values, **changes}


def _evaluate(root: Path, **changes: Any) -> tuple[str, Values]:
    values = {"data_dir": root / "data", "synthetic_dir": root / "samples", "output_dir": root / "evaluate"}
    return "evaluate", {**values, **changes}


def _spoiled(root: Path, spoil: Callable[[Path], object]) -> tuple[str, Values]:
    """Return the training on a copy of the dataset whose folder train `spoil` has changed."""
    data = root / "spoiled"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(root / "data", data)
    spoil(data / "train")
    return _train(root, data_dir=data)


def _paint(path: Path, size: tuple[int, int], value: int) -> None:
    Image.new("L", size, value).save(path)


def _cut(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes()[:200])
    return target


MISTAKES: dict[str, Mistake] = {
    "action that does not exist": lambda root: ("trian", {}),
    "key that does not exist": lambda root: _train(root, batchsize=4),
    "key that is missing": lambda root: _train(root, data_dir=""),
    "value of the wrong type": lambda root: _train(root, batch_size="many"),
    "value that is no choice": lambda root: _train(root, noise_schedule="sigmoid"),
    "dataset that does not exist": lambda root: _train(root, data_dir=root / "data" / "nowhere"),
    "folder with another name": lambda root: _spoiled(root, lambda train: (train / "masks").rename(train / "labels")),
    "image without mask": lambda root: _spoiled(root, lambda train: (train / "masks" / "lemon_0000.png").unlink()),
    "image of another size": lambda root: _spoiled(
        root, lambda train: _paint(train / "masks" / "lemon_0000.png", (30, 24), 0)
    ),
    "image that is damaged": lambda root: _spoiled(
        root, lambda train: _cut(train / "images" / "lemon_0001.png", train / "images" / "lemon_0000.png")
    ),
    "mask value of no class": lambda root: _spoiled(
        root, lambda train: _paint(train / "masks" / "lemon_0000.png", (24, 24), 9)
    ),
    "number of classes unknown": lambda root: _spoiled(root, lambda train: (train.parent / "classes.json").unlink()),
    "device that does not exist": lambda root: _train(root, device="gpu"),
    "run with other options": lambda root: _train(root, output_dir=root / "run", lr=0.5),
    "finetuning into its own folder": lambda root: _finetune(root, output_dir=root / "run"),
    "checkpoint that does not exist": lambda root: _sample(root, model_path=root / "none.pt"),
    "checkpoint that is damaged": lambda root: _sample(
        root, model_path=_cut(root / "run" / "best.pt", root / "cut.pt")
    ),
    "samples that do not exist": _evaluate,
}
"""Name of the message -> what to run below a folder with a dataset `data` and a trained `run`."""


def record(root: Path) -> dict[str, str]:
    """Return the first error line of each of MISTAKES, made in the empty folder `root`."""
    write_demo_dataset(root / "data", num_train=4, num_test=2, size=24)
    _lines(*_train(root, output_dir=root / "run"))
    found = {}
    for name, mistake in MISTAKES.items():
        line = next((line for line in _lines(*mistake(root)) if line.startswith("error: ")), "no error")
        found[name] = line.replace(str(root), "{root}").replace("\\", "/")
    return found


def _lines(action: str, values: Values) -> list[str]:
    """Return what a command writes to stderr."""
    shown = io.StringIO()
    with redirect_stderr(shown), redirect_stdout(io.StringIO()):
        command_line.run(action, **values)
    return shown.getvalue().splitlines()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        messages = record(Path(folder).resolve())
    GOLDEN.write_text(json.dumps(messages, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(messages)} messages: {GOLDEN}")
