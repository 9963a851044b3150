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

State = dict[str, Tensor]

_PATIENCE = 10.0  # seconds without an answer after which a download fails


@dataclass(frozen=True)
class Weights:
    """Tensors by name, the file they came from, and the first 16 hexadecimal digits of its SHA-256."""

    tensors: State
    path: Path
    digest: str


def read_weights(weights: str, *, option: str, url: str) -> Weights:
    """Return the tensors in a local file, or with "auto" in the file of `url`, downloaded once by torch.hub.

    option: the option that messages name. The name in `url` ends in the start of the file's SHA-256.
    Raises EvaluationError for a file that is missing, damaged or not of weights, and for a failed download.
    """
    path = _downloaded(url, option) if weights == "auto" else Path(weights)
    if not path.is_file():
        raise EvaluationError(option, "no such file", 'give the path of the weights file, or "auto"', path=path)
    remedy = "delete it to have it downloaded again" if weights == "auto" else "fetch it again, or use another file"
    return Weights(read_state(path, option, remedy), path, file_digest(path))


def read_state(path: Path, option: str, remedy: str = "save a state dictionary that has only tensors") -> State:
    """Return the state dictionary in a file, without the wrapping and the prefixes that trainers add.

    Raises EvaluationError, naming `option`, for a file that is damaged or holds anything else. No code in it is run.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            safe = path.suffix.lower() == ".safetensors"
            state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in zip, pickle, json or torch
        reason = f"({type(error).__name__}): it is damaged, or holds more than weights (code is never loaded)"
        raise EvaluationError(option, f"could not be read as weights {reason}", remedy, path=path) from None
    for wrapping in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise EvaluationError(option, "has no state dictionary", "save one that has only tensors", path=path)
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def misfit(weights: Weights, option: str, network: str, error: RuntimeError) -> EvaluationError:
    """Return the error for weights that load_state_dict refused."""
    found = f"not the weights of {network} ({first_detail(error)})"
    return EvaluationError(option, found, 'give its own file, or "auto"', path=weights.path)


def damaged(weights: Weights, option: str) -> EvaluationError:
    """Return the error for a network whose output is not finite."""
    found = "the features of its network are not finite, so the weights are damaged"
    return EvaluationError(option, found, "fetch it again, or use another file", path=weights.path)


def one_line(error: BaseException | str) -> str:
    """Return the first line of an error, at most 200 characters."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".;: ")[:200] if text else type(error).__name__


def first_detail(error: BaseException) -> str:
    """Return the first of the reasons that load_state_dict lists below a heading, as one line."""
    heading, *details = str(error).splitlines() or [""]
    return one_line(details[0] if details else heading)


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
    """Return the path of the file of `url` in the cache of torch.hub, downloaded if it is missing there.

    Not load_state_dict_from_url: it prints, and its errors do not tell a failed download from a damaged file.
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
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the SHA-256 is not the one in the name
        reason = one_line(error.reason if type(error) is URLError else error)
        remedy = "download it on a machine with a network and give the path of the file"
        raise EvaluationError(option, f"could not be downloaded ({reason})", remedy, path=url) from None
    finally:
        socket.setdefaulttimeout(patience)
    return path
