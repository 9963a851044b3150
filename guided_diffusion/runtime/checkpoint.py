"""Checkpoint files: written atomically, describing themselves, never unpickled.

A checkpoint is one dictionary of plain values and tensors:

    format, version     "isdm", number of the layout
    library             versions of the software that wrote it
    config              the resolved training options, architecture and preprocessing included
    encoding            the LabelEncoding
    lineage             the checkpoint that training started from, and whether masks were ever dropped
    generation          of a model that makes masks: their code, and the rules of the training masks
    latent              of a model of latents: the architecture of its autoencoder, and what its gate measured
    fingerprint         names and digests of the training pairs
    trained_on          of exported weights, in place of that: name, numbers and one digest of the training images
    progress            epoch, position in the epoch, step, best loss, history, counters of the random streams
    model               raw weights, by the published names
    ema                 rate -> averaged weights
    optimizer, scaler, timestep_sampler    only in `last.pt`, for resuming
    first_stage         only in the `last.pt` of a run whose autoencoder is in training: the state of that

Published weights, bare dictionaries of tensors, and `.safetensors` files load too. What an exported `.pt` file cannot
keep is in the record beside it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided_diffusion.runtime.errors import CheckpointError, lacks_memory
from guided_diffusion.runtime.files import atomic_write, digest, is_endless
from guided_diffusion.runtime.hub import fetch
from guided_diffusion.runtime.hub_address import is_address
from guided_diffusion.runtime.logs import library_versions

FORMAT = "isdm"
VERSION = 1
LAST = "last.pt"
BEST = "best.pt"
DESCRIBED = ("config", "encoding", "lineage", "generation", "latent", "trained_on")
"""The fields that a `.safetensors` file keeps, as JSON."""
MAPS = sys.platform != "win32"
"""Whether weights are left in their file until they are used: on Windows a training could not replace it meanwhile."""
ADDED = ("generation", "latent", "trained_on")
"""Those of them that are left out where they are empty."""


@dataclass
class Checkpoint:
    """The content of a file of weights; fields that the file lacks are empty."""

    path: Path
    model: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    latent: dict[str, Any] = field(default_factory=dict)
    trained_on: dict[str, Any] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    ema: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] | None = None
    timestep_sampler: dict[str, Any] | None = None
    first_stage: dict[str, Any] = field(default_factory=dict)

    @property
    def is_bare(self) -> bool:
        """True for weights alone, such as published ones, without the options they were trained with."""
        return not self.config

    @property
    def resumable(self) -> bool:
        """True if a training run can resume from this file exactly."""
        return self.optimizer is not None

    def forget_tensors(self) -> None:
        """Free the memory of weights and optimizer state, which were copied elsewhere."""
        self.model, self.ema, self.optimizer, self.first_stage = {}, {}, None, {}

    def weights(self, name: str) -> dict[str, Tensor]:
        """Return the weights "raw", "ema" (the slowest average) or of an EMA rate such as "0.999"; CheckpointError if
        there are none of that name, or only an autoencoder yet. Without averages, "ema" means "raw".
        """
        if self.first_stage:
            found = "only the autoencoder of the run has been trained"
            raise CheckpointError.of(self.path, found, "go on with the training, by the same command")
        if name == "raw" or (name == "ema" and not self.ema):
            return self.model
        if name == "ema":
            return self.ema[max(self.ema, key=float)]
        if name in self.ema:
            return self.ema[name]
        names = ", ".join(["raw", *(["ema"] if self.ema else []), *self.ema])
        raise CheckpointError.of(self.path, f"weights is {name!r}, but this file has {names}", "use one of those")


def find_checkpoint(path: str | Path, prefer: str = LAST) -> Path:
    """Return `path` if it is a file, or the checkpoint file of a run's folder; CheckpointError if there is none.

    prefer: which of a folder's two files to take: LAST to resume, BEST to use the weights. Of an address on the
    Hugging Face Hub it is the file in the cache.
    """
    if is_address(path):
        return fetch(path)
    path = Path(path)
    if path.is_dir():
        for name in (prefer, LAST, BEST):
            if (path / name).is_file():
                return path / name
        raise CheckpointError.of(
            path, f"no {LAST} or {BEST} in this folder", "give a run's folder or a checkpoint file"
        )
    _check_exists(path)
    return path


def _check_exists(path: Path) -> None:
    if not path.is_file():
        found = "a pipe or device, not a checkpoint file" if is_endless(path) else "no such checkpoint file"
        raise CheckpointError.of(path, found, "check the path")


def load_checkpoint(path: str | Path, *, lazily: bool = False) -> Checkpoint:
    """Read a checkpoint, bare published weights or a `.safetensors` file, onto the CPU.

    lazily: weights are read when they are used (not on Windows, see `MAPS`).
    Raises CheckpointError if the file is missing, corrupted, of a newer version, or something else.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        _check_exists(path)
        return _load_safetensors(path)
    content = read_content(path, lazily=lazily)
    remedy = "export the network's state_dict alone"
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        raise CheckpointError.of(path, "not a dictionary of weights by name", remedy)
    if content.get("format") == FORMAT:
        return _own_checkpoint(path, content)
    if all(isinstance(value, Tensor) for value in content.values()):
        return Checkpoint(path=path, model=_without_wrapper(content), **_recorded(path))
    other = next(key for key, value in content.items() if not isinstance(value, Tensor))
    found = f"neither a checkpoint of isdm nor bare weights: {other!r} is not a tensor"
    raise CheckpointError.of(path, found, remedy)


def read_content(path: str | Path, *, lazily: bool = False) -> Any:
    """Read what a file of torch holds, plain values and tensors only, onto the CPU.

    lazily: tensors are read when they are used. Raises CheckpointError if the file is missing or corrupted.
    """
    path = Path(path)
    _check_exists(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=(lazily and MAPS) or None)
    except PermissionError as error:
        raise CheckpointError.of(path, f"cannot be read ({error.strerror})", "change its permissions") from None
    except Exception as error:  # a corrupted zip, a pickle with code in it and a text file all fail in their own ways
        if lacks_memory(error):
            raise
        found = "not a readable checkpoint: it is damaged, or holds more than weights (code is never loaded)"
        raise CheckpointError.of(path, found, _other_of_run(path) or "copy or export it again") from None


def _other_of_run(path: Path) -> str:
    """Return the remedy for a damaged file of a run where the run's other file is sound, else ""."""
    other = path.with_name({LAST: BEST, BEST: LAST}.get(path.name, path.name))
    return f"give {other} in its place, which is sound" if other != path and is_sound(other) else ""


def is_sound(path: Path) -> bool:
    """Return whether `path` is a readable checkpoint of isdm; its tensors are not read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # see load_checkpoint
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _own_checkpoint(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    version = content.get("version")
    if isinstance(version, int) and version > VERSION:
        found = f"layout {version} of a newer isdm, this one reads {VERSION}"
        raise CheckpointError.of(path, found, "update isdm")
    fields = {key: content[key] for key in Checkpoint.__dataclass_fields__ if key in content}
    described = all(isinstance(fields.get(key), dict) for key in ("model", "config", "encoding"))
    if version != VERSION or not described or not _are_averages(fields.get("ema", {})):
        raise CheckpointError.of(path, "a checkpoint of isdm that lacks parts", "copy it again")
    return Checkpoint(path=path, **fields)


def _are_averages(ema: Any) -> bool:
    """Return whether `ema` has weights by the text of a rate."""
    try:
        return all(0 <= float(rate) <= 1 and isinstance(weights, dict) for rate, weights in ema.items())
    except (AttributeError, TypeError, ValueError):
        return False


def _load_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        described = _described({key: json.loads(metadata[key]) for key in DESCRIBED if key in metadata})
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError.of(path, f"not a readable .safetensors file ({error})", "copy it again") from None
    return Checkpoint(path=path, model=_without_wrapper(weights), **described)


def record_path(weights: Path) -> Path:
    """Return the path of the record that `export` writes beside a file of weights."""
    return weights.with_name(weights.name + ".json")


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    """Return what the record beside weights says of them; nothing if there is none, or one of another file."""
    try:
        record = json.loads(record_path(path).read_text(encoding="utf-8"))
        if record["digest"] != digest(path):
            return {}
        return _described({key: record[key] for key in DESCRIBED if key in record})
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return {}


def _described(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the description of weights, nothing where it is another tool's, which may have a "config" of its own."""
    ours = all(isinstance(value, dict) for value in found.values()) and "encoding" in found
    return dict(found) if ours else {}


def _without_wrapper(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that DistributedDataParallel puts before every name."""
    return {name.removeprefix("module."): value for name, value in weights.items()}


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Replace the checkpoint `path` atomically, equal contents by equal bytes; UserError if it cannot be written."""
    head = {"format": FORMAT, "version": VERSION, "library": library_versions()}
    # Not by name: the archive would be named after the temporary file, which has the process's number in its name.
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        torch.save(_plain({**head, **content}, {}), file)


def _plain(value: Any, strings: dict[str, str]) -> Any:
    """Return `value` with plain containers and one object for equal strings, which are collected in `strings`.

    Pickle writes an object that it has met before as a reference, so its bytes tell equal objects from identical ones.
    """
    if isinstance(value, Mapping):
        return {_plain(key, strings): _plain(item, strings) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, strings) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return strings.setdefault(str(value), value) if type(value) is str else value


def save_weights(path: str | Path, weights: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Write weights to `path`: as `.safetensors` with the checkpoint's `DESCRIBED`, else as a bare `.pt` dictionary."""
    weights = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with atomic_write(path) as temporary:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import save

            described = {key: getattr(checkpoint, key) for key in DESCRIBED}
            described = {key: json.dumps(value) for key, value in described.items() if value or key not in ADDED}
            # As bytes: the library's own writer hides why it failed.
            temporary.write_bytes(save(weights, described))
        else:
            with open(temporary, "wb") as file:
                torch.save(_plain(weights, {}), file)
