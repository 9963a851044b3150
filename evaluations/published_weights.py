"""Weights files, local or downloaded; none is trusted, and no code in them is run."""

from __future__ import annotations

import hashlib
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file
from torch import Tensor

from evaluations.errors import EvaluationError

_PATIENCE = 10.0  # seconds without an answer after which a download is given up


@dataclass(frozen=True)
class Weights:
    """Tensors by name, the file they came from, and the first 16 hexadecimal digits of its SHA-256."""

    tensors: dict[str, Tensor]
    path: Path
    digest: str


def read_weights(weights: str, *, option: str, url: str) -> Weights:
    """Return the tensors by name of a local file, or with "auto" of the file of `url`, downloaded once by torch.hub.

    option: how messages call the option that `weights` is the value of. The name in `url` ends in its SHA-256's start.
    Raises EvaluationError where the file is missing, damaged or holds anything else, or cannot be downloaded.
    """
    path = _downloaded(url, option) if weights == "auto" else Path(weights)
    if not path.is_file():
        raise EvaluationError(f'{option}: {path}: no such file: give the path of the weights file, or "auto"')
    remedy = "delete it, and it is downloaded anew" if weights == "auto" else "fetch it again, or use another file"
    return Weights(read_state(path, option, remedy), path, file_digest(path))


def read_state(path: Path, option: str, remedy: str = "save a state dictionary of tensors alone") -> dict[str, Tensor]:
    """Return the state dictionary in a file, without the wrapping and the prefixes that trainers add.

    Raises EvaluationError, naming `option`, for a file that is damaged or holds anything else; no code in it is run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            safe = path.suffix.lower() == ".safetensors"
            state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in zip, pickle, json or torch
        raise EvaluationError(
            f"{option}: {path}: could not be read as weights ({type(error).__name__}): it is damaged, or holds more "
            f"than weights (code is never loaded): {remedy}"
        ) from None
    for wrapping in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise EvaluationError(f"{option}: {path}: holds no state dictionary: save one of tensors alone")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def misfit(weights: Weights, option: str, network: str, error: RuntimeError) -> EvaluationError:
    """Return the one line that stands for the many of load_state_dict's error."""
    heading, *details = str(error).splitlines()
    reason = one_line(details[0] if details else heading)
    return EvaluationError(
        f'{option}: {weights.path}: not the weights of {network} ({reason}): give its own file, or "auto"'
    )


def one_line(error: BaseException | str) -> str:
    """Return the first line of an error, at most 200 characters."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".;: ")[:200] if text else type(error).__name__


def file_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Keep the random state of the CPU and silence warnings while networks with random weights are built."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _downloaded(url: str, option: str) -> Path:
    """Return the path of the file of `url` in the cache of torch.hub; there it is downloaded to if it is missing.

    Not load_state_dict_from_url: of its errors one cannot tell a failed download from a damaged file, and it prints.
    """
    name = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if path.is_file():
        return path
    hash_prefix = re.search(r"-([0-9a-f]{8,})\.", name)
    assert hash_prefix
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # torch.hub sets none, and a silent server would hold us for minutes
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix[1])
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: its SHA-256 is not that of its name
        reason = one_line(error.reason if type(error) is URLError else error)
        raise EvaluationError(
            f"{option}: {url} could not be downloaded ({reason}): fetch it where there is a network "
            "and give the path of the file"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    return path
