"""Features of InceptionV3 as FID uses it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from tqdm import tqdm

from evaluations.errors import EvaluationError
from evaluations.metrics.base import BATCH, FeatureExtractor
from evaluations.published_weights import misfit, preserve_rng, read_weights
from evaluations.sets import Images

_OPTION = "inception_weights"


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
        self, images: Images, batch_size: int, progress: Callable[[int, int], None] | None = None
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

    def extractor(self) -> FeatureExtractor:
        """Return the network as metrics share it."""

        def compute(images: Images, progress: str) -> NDArray[np.float32]:
            with tqdm(total=len(images), desc=progress, unit="image") as bar:
                return self.features(images, BATCH, lambda done, total: bar.update(done - bar.n))

        return FeatureExtractor(self.description, compute)


def load_inception(weights: str, device: str | torch.device) -> InceptionFeatures:
    """Return the InceptionV3 of Heusel et al. 2017 as torch-fidelity has it, converted from TensorFlow's.

    weights: "auto" (the library's file, downloaded once) or a local file with the state_dict of its network.
    Raises EvaluationError, naming `inception_weights`, for weights that cannot be fetched, read or do not fit.
    """
    found = read_weights(weights, option=_OPTION, url=URL_INCEPTION_V3)
    # The library unpickles whatever is in the file that it is given. So it gets a copy of the tensors, made here.
    copy = io.BytesIO()
    torch.save(found.tensors, copy)
    copy.seek(0)
    try:
        with preserve_rng():
            network = FeatureExtractorInceptionV3("inception-v3", ["2048"], feature_extractor_weights_path=copy)
    except RuntimeError as error:
        raise misfit(found, _OPTION, "torch-fidelity's InceptionV3", error) from None
    description = (
        f"InceptionV3 of torch-fidelity {version('torch-fidelity')}, 2048 features; images resized to 299 x 299 "
        f"bilinearly as in TensorFlow 1; weights {found.path.name}, SHA-256 {found.digest}"
    )
    device = torch.device(device)
    return InceptionFeatures(network.to(device), device, found.path, found.digest, description)
