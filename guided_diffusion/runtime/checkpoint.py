"""Checkpoint files: written atomically, describing themselves, never unpickled.

A checkpoint of ours is one dictionary of plain values and tensors:

    format, version     "isdm", the layout's number
    library             versions of what wrote it
    config              the resolved training options; they carry the architecture and the preprocessing
    encoding            classes, and what mask values stand for them
    lineage             which checkpoint training started from, and whether masks were ever dropped
    progress            epoch, position in the epoch, step, best loss, history, counters of the random streams
    model               raw weights, by the published names
    ema                 rate -> averaged weights
    optimizer, scaler, timestep_sampler    only in `last.pt`, for resuming

Published weights are bare dictionaries of tensors; they load too, and so do `.safetensors` files.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_diffusion.runtime.errors import CheckpointError
from guided_diffusion.runtime.files import atomic_write
from guided_diffusion.runtime.logs import library_versions

FORMAT = "isdm"
VERSION = 1
LAST = "last.pt"
BEST = "best.pt"
DESCRIBED = ("config", "encoding", "lineage")
"""What a file of weights alone can say of them, as JSON."""


@dataclass
class Checkpoint:
    """What a file of weights holds; fields a file does not have are empty."""

    path: Path
    model: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    ema: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    timestep_sampler: dict[str, Any] | None = None

    @property
    def is_bare(self) -> bool:
        """True for weights alone, such as published ones: nothing says how they were made."""
        return not self.config

    @property
    def resumable(self) -> bool:
        """True where a training run can go on from this file as if it had not been interrupted."""
        return self.optimizer is not None

    def forget_tensors(self) -> None:
        """Free the memory of weights and optimizer state once they have been copied elsewhere."""
        self.model, self.ema, self.optimizer = {}, {}, None

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return the weights called `name`: "raw", "ema" (the slowest average) or an EMA rate such as "0.999".

        Raises CheckpointError where there are none of that name. Bare weights answer to "raw" and "ema" alike.
        """
        if name == "raw" or (name == "ema" and not self.ema):
            return self.model
        if name == "ema":
            return self.ema[max(self.ema, key=float)]
        if name in self.ema:
            return self.ema[name]
        have = ", ".join(["raw", *(["ema"] if self.ema else []), *self.ema])
        raise CheckpointError(f"{self.path}: weights is {name!r}, but this file has {have}: use one of those")


def find_checkpoint(path: str | Path, prefer: str = LAST) -> Path:
    """Return the checkpoint file that `path`, a file or a run's folder, stands for.

    prefer: which of a folder's two files is meant: LAST to resume, BEST to use the weights.

    Raises CheckpointError where there is none.
    """
    path = Path(path)
    if path.is_dir():
        for name in (prefer, LAST, BEST):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"{path}: no {LAST} or {BEST} in this folder: give a run's folder or a checkpoint file")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file: check the path")
    return path


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of ours, bare published weights or a `.safetensors` file, onto the CPU.

    Raises CheckpointError where the file is missing, damaged, newer than this version, or no such thing.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file: check the path")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged zip, a pickle with code in it and a text file all fail in their own ways
        raise CheckpointError(
            f"{path}: not a readable checkpoint: it is damaged, or holds more than weights (code is never loaded)"
            + _other_of_run(path)
        ) from None
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise CheckpointError(f"{path}: holds no dictionary of weights by name: export the network's state_dict alone")
    if content.get("format") == FORMAT:
        return _own_checkpoint(path, content)
    if all(isinstance(value, Tensor) for value in content.values()):
        return Checkpoint(path=path, model=_without_wrapper(content))
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    raise CheckpointError(
        f"{path}: neither a checkpoint of isdm nor bare weights: {others[0]!r} is no tensor; "
        "export the network's state_dict alone"
    )


def _other_of_run(path: Path) -> str:
    """Return what to use in place of a damaged file of a run, "" where there is nothing."""
    other = path.with_name({LAST: BEST, BEST: LAST}.get(path.name, path.name))
    return f"; {other} is sound, and can be given in its place" if other != path and is_sound(other) else ""


def is_sound(path: Path) -> bool:
    """Return whether `path` is a checkpoint of ours that can be read; its tensors are not."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # see load_checkpoint
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _own_checkpoint(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        raise CheckpointError(f"{path}: layout {version} of a newer isdm, this one reads {VERSION}: update isdm")
    kept = {key: content[key] for key in Checkpoint.__dataclass_fields__ if key in content}
    if version != VERSION or not all(isinstance(kept.get(key), dict) for key in ("model", "config", "encoding")):
        raise CheckpointError(f"{path}: calls itself a checkpoint of isdm and lacks parts of one: it was tampered with")
    return Checkpoint(path=path, **kept)


def _load_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        described = {key: json.loads(metadata[key]) for key in DESCRIBED if key in metadata}
        # Other tools have a "config" of their own: then these are bare weights.
        if not all(isinstance(value, dict) for value in described.values()) or "encoding" not in described:
            described = {}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a readable .safetensors file ({error})") from None
    return Checkpoint(path=path, model=_without_wrapper(weights), **described)


def _without_wrapper(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefix that DistributedDataParallel puts before every name."""
    return {name.removeprefix("module."): value for name, value in weights.items()}


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write `content` as a checkpoint of ours, replacing `path` atomically; equal contents give equal bytes.

    Raises UserError where the disk is full or cannot be written; `path` is then as it was.
    """
    head = {"format": FORMAT, "version": VERSION, "library": library_versions()}
    # Not by name: the archive inside would be called like the temporary, with this process's number in it.
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save(_plain({**head, **content}, {}), file)


def _plain(value: Any, strings: dict[str, str]) -> Any:
    """Return plain containers around the tensors of `value`, and one object for equal strings, kept in `strings`.

    Pickle writes an object it has met before as a reference, so that its bytes tell equal from identical.
    """
    if isinstance(value, Mapping):
        return {_plain(key, strings): _plain(item, strings) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, strings) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return strings.setdefault(str(value), value) if type(value) is str else value


def save_weights(path: str | Path, weights: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Write bare weights to `path`: `.safetensors` with the checkpoint's description in it, else a `.pt` dictionary.

    Raises UserError where the file cannot be written.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with atomic_write(path) as temporary:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import save

            described = {key: json.dumps(getattr(checkpoint, key)) for key in DESCRIBED}
            # Saved by way of bytes: the library's own writer hides why it failed.
            temporary.write_bytes(save(weights, described))
        else:
            with open(temporary, "wb") as file:
                torch.save(_plain(weights, {}), file)
