"""Features of InceptionV3 as FID uses it, and the reading of weights files that are not to be trusted."""

from __future__ import annotations

import hashlib
import io
import re
import socket
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3

from evaluations.errors import EvaluationError
from evaluations.sets import Pixels

_OPTION = "inception_weights"
_PATIENCE = 10.0  # seconds without an answer after which a download is given up
_LONGEST_REASON = 160  # characters


# ---------------------------------------------------------------------------------------------- weights files


@dataclass(frozen=True)
class Weights:
    """Tensors by name, the file they came from, and the first 16 hexadecimal digits of its SHA-256."""

    tensors: dict[str, Tensor]
    path: Path
    digest: str


def read_weights(weights: str, *, option: str, url: str) -> Weights:
    """Read a dictionary of tensors onto the CPU, without ever running code from the file.

    weights: a local file of torch.save or safetensors; "auto" for the file of `url` in the cache of torch.hub,
        downloaded when it is not there. The name in `url` ends in the first digits of its SHA-256.
    option: how messages call the option that `weights` is the value of.

    Raises EvaluationError where the file is missing, damaged or no such dictionary, or cannot be downloaded.
    """
    path = _downloaded(url, option) if weights == "auto" else Path(weights)
    if not path.is_file():
        raise EvaluationError(f'{option}: {path}: no such file: give the path of the weights file, or "auto"')
    remedy = "delete it, and it is downloaded anew" if weights == "auto" else "fetch it again, or use another file"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        tensors = _loaded(path)
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


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, networks may be built: neither their random first weights nor their warnings are seen outside."""
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


# -------------------------------------------------------------------------------------------------- Inception


@dataclass(frozen=True)
class InceptionFeatures:
    """InceptionV3 of the FID, with its weights.

    digest: first 16 hexadecimal digits of the SHA-256 of the weights file.
    description: one line with network, resizing, file and digest, for a report.
    """

    network: FeatureExtractorInceptionV3
    device: torch.device
    path: Path
    digest: str
    description: str

    @torch.inference_mode()
    def features(
        self, images: Pixels, batch_size: int, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float32]:
        """Return the features [N, 2048] after the last pooling, of images uint8 [N, H, W, 3] of any size.

        progress: called after each batch with the number of images done, and N.

        Raises EvaluationError where features are not finite: the weights are damaged.
        """
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert images.shape[3] == 3
        assert batch_size >= 1
        features = np.empty((len(images), 2048), np.float32)
        for start in range(0, len(images), batch_size):
            batch = torch.tensor(images[start : start + batch_size]).to(self.device).permute(0, 3, 1, 2)
            features[start : start + len(batch)] = self.network(batch)[0].cpu().numpy()
            if progress:
                progress(start + len(batch), len(images))
        if not np.isfinite(features).all():
            raise EvaluationError(f"{_OPTION}: {self.path}: its features are not finite: the weights are damaged")
        return features


def load_inception(weights: str, device: str | torch.device) -> InceptionFeatures:
    """Return the InceptionV3 of Heusel et al. 2017 as torch-fidelity has it, converted from TensorFlow's.

    weights: "auto" (the library's file, downloaded once) or a local file with the state_dict of torch-fidelity's
        FeatureExtractorInceptionV3.

    Raises EvaluationError, naming `inception_weights`, for weights that cannot be fetched, read or do not fit.
    """
    found = read_weights(weights, option=_OPTION, url=URL_INCEPTION_V3)
    # The library unpickles whatever is in the file that it is given. So it gets a copy of the tensors, made here.
    copy = io.BytesIO()
    torch.save(found.tensors, copy)
    copy.seek(0)
    try:
        with undisturbed():
            network = FeatureExtractorInceptionV3("inception-v3", ["2048"], feature_extractor_weights_path=copy)
    except RuntimeError as error:
        raise misfit(found, _OPTION, "torch-fidelity's InceptionV3", error) from None
    description = (
        f"InceptionV3 of torch-fidelity {version('torch-fidelity')}, 2048 features; images resized to 299 x 299 "
        f"bilinearly as in TensorFlow 1; weights {found.path.name}, SHA-256 {found.digest}"
    )
    device = torch.device(device)
    return InceptionFeatures(network.to(device), device, found.path, found.digest, description)
