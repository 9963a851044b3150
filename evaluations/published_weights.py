"""Weights files of published networks, local or downloaded; none is trusted, and no code in them is run."""

from __future__ import annotations

import hashlib
import re
import socket
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor

from evaluations.errors import EvaluationError

_PATIENCE = 10.0  # seconds without an answer after which a download is given up
_LONGEST_REASON = 160  # characters


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
    try:
        digest, tensors = file_digest(path), _loaded(path)
    except Exception:  # a damaged archive, a pickle with code in it and a text file all fail in their own ways
        raise EvaluationError(
            f"{option}: {path}: not a readable weights file: it is damaged, or holds more than weights "
            f"(code is never loaded): {remedy}"
        ) from None
    named = isinstance(tensors, dict) and all(isinstance(key, str) for key in tensors)
    if not named or not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise EvaluationError(f"{option}: {path}: holds no weights by name: give a file with a network's state_dict")
    return Weights(tensors, path, digest)


def misfit(weights: Weights, option: str, network: str, error: RuntimeError) -> EvaluationError:
    """Return the one line that stands for the many of load_state_dict's error."""
    details = str(error).splitlines()
    reason = textwrap.shorten(
        details[1].rstrip(". ") if len(details) > 1 else details[0], _LONGEST_REASON, placeholder=" ..."
    )
    return EvaluationError(
        f'{option}: {weights.path}: not the weights of {network} ({reason}): give its own file, or "auto"'
    )


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


def _loaded(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _downloaded(url: str, option: str) -> Path:
    """Return the path of the file of `url` in the cache of torch.hub; there it is downloaded to if it is missing."""
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
        cause = error.reason if type(error) is URLError else error
        reason = textwrap.shorten(str(cause) or type(cause).__name__, _LONGEST_REASON, placeholder=" ...")
        raise EvaluationError(
            f"{option}: {url} could not be downloaded ({reason}): fetch it where there is a network "
            "and give the path of the file"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    return path
