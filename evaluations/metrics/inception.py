"""Features of InceptionV3 as FID uses it."""

from __future__ import annotations

import io
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from tqdm import tqdm

from evaluations.metrics.base import BATCH, FeatureExtractor
from evaluations.published_weights import damaged, misfit, preserve_rng, read_weights
from evaluations.sets import Images

_OPTION = "inception_weights"


def load_inception(weights: str, device: str | torch.device) -> FeatureExtractor:
    """Return the InceptionV3 of Heusel et al. 2017, converted by torch-fidelity: 2048 features after the last pooling.

    weights: "auto" (the library's file, downloaded once) or a local file with the state_dict of its network.
    Raises EvaluationError, naming `inception_weights`, for weights that cannot be fetched or read or do not fit.
    """
    loaded = read_weights(weights, option=_OPTION, url=URL_INCEPTION_V3)
    # The library unpickles any file that it is given, so it gets a copy of the tensors that were read safely.
    copy = io.BytesIO()
    torch.save(loaded.tensors, copy)
    copy.seek(0)
    try:
        with preserve_rng():
            network = FeatureExtractorInceptionV3("inception-v3", ["2048"], feature_extractor_weights_path=copy)
    except RuntimeError as error:
        raise misfit(loaded, _OPTION, "torch-fidelity's InceptionV3", error) from None
    network.to(device)

    @torch.inference_mode()
    def compute(images: Images, progress: str) -> NDArray[np.float32]:
        features = np.empty((len(images), 2048), np.float32)
        for start in tqdm(range(0, len(images), BATCH), desc=progress, unit="batch"):
            batch = torch.tensor(images[start : start + BATCH]).to(device).permute(0, 3, 1, 2)
            features[start : start + BATCH] = network(batch)[0].cpu().numpy()
        if not np.isfinite(features).all():
            raise damaged(loaded, _OPTION)
        return features

    description = (
        f"InceptionV3 of torch-fidelity {version('torch-fidelity')}, 2048 features; images resized to 299 x 299 "
        f"bilinearly as in TensorFlow 1; weights {loaded.path.name}, SHA-256 {loaded.digest}"
    )
    return FeatureExtractor(description, compute)
