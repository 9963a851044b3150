"""Published files of networks that learned without labels, MAE and SwAV, loaded strictly."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided_diffusion.runtime.checkpoint import read_content
from guided_diffusion.runtime.errors import CheckpointError
from guided_diffusion.runtime.files import digest


def read_published(path: str | Path, key: str, *, first: str, kind: str) -> dict[str, Tensor]:
    """Return the weights of a published file, those under `key` if it has that, without a leading `module.`.

    Raises CheckpointError if the file is missing, damaged, or has no weight `first` of `kind`. Code in it is never run.
    """
    # Training scripts keep their arguments beside the weights: a Namespace is plain values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = read_content(path)
    weights = content.get(key, content) if isinstance(content, Mapping) else None
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        found = f"neither weights by name nor a file that has them as {key!r}"
        raise CheckpointError.of(path, found, "use the published file")
    found = {str(name).removeprefix("module."): value for name, value in weights.items()}
    if first not in found:  # told before a network is built for it
        raise _another(path, kind, f"{first} is missing")
    return found


def _another(path: str | Path, kind: str, difference: str) -> CheckpointError:
    remedy = f"use the published weights of {kind}, or another extractor"
    return CheckpointError.of(path, f"not the weights of {kind} ({difference})", remedy)


def load_strictly(
    network: nn.Module, weights: Mapping[str, Tensor], *, unused: Sequence[str], path: str | Path, kind: str
) -> None:
    """Give `network` these weights, without those whose names begin as one of `unused`; names and shapes must agree.

    kind: of the network, for errors. Raises CheckpointError naming the first difference, or a broken weight.
    """
    found = {name: value for name, value in weights.items() if not name.startswith(tuple(unused))}
    expected = network.state_dict()
    lacking = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if lacking or unknown:
        raise _another(path, kind, f"{lacking[0]} is missing" if lacking else f"{unknown[0]} is no part of it")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            shapes = f"{name} has the shape {list(found[name].shape)}, not {list(value.shape)}"
            raise _another(path, kind, shapes)
        if found[name].is_floating_point() and not torch.isfinite(found[name]).all():
            raise CheckpointError.of(path, f"weight {name} has values that are not finite", "download it again")
    network.load_state_dict({name: found[name].to(expected[name].dtype) for name in expected}, assign=True)


def identity_of(path: str | Path) -> dict[str, Any]:
    """Return what tells a file of weights apart, for settings."""
    return {"checkpoint": digest(path)}
