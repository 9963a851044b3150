"""LPIPS diversity: the mean distance of the samples of one mask from each other."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar, Literal, NamedTuple

import lpips
import numpy as np
import torch
from torch import Tensor
from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights
from tqdm import tqdm

from evaluations.errors import EvaluationError
from evaluations.metrics.base import BATCH, EvaluationSets, FeatureExtractor, Measurement, Metric, Skipped
from evaluations.metrics.fidelity import HEADING
from evaluations.origins import map_key
from evaluations.published_weights import Weights, damaged, misfit, preserve_rng, read_weights
from evaluations.report.page import Section
from evaluations.sets import Images, Labels

Net = Literal["alex", "vgg", "squeeze"]

NAME = "LPIPS diversity"
PUBLISHED_SAMPLES = 10  # of a mask, in the protocol of SDM

_OPTION = "lpips_weights"
_URLS = {
    "alex": AlexNet_Weights.IMAGENET1K_V1.url,
    "vgg": VGG16_Weights.IMAGENET1K_V1.url,
    "squeeze": SqueezeNet1_1_Weights.IMAGENET1K_V1.url,
}
_BACKBONES = {"alex": "AlexNet", "vgg": "VGG16", "squeeze": "SqueezeNet 1.1"}
_SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}  # pixels a side; a smaller image vanishes in the poolings


class Diversity(NamedTuple):
    """Mean and standard deviation (N - 1; 0 for one mask) over masks of the mean distance among a mask's samples.

    samples_per_mask: of the mask with the fewest.
    """

    mean: float
    std: float
    masks: int
    samples_per_mask: int


@dataclass(frozen=True)
class PerceptualDistance:
    """LPIPS as a map into a space in which it is the squared Euclidean distance; `description` is for the report."""

    network: lpips.LPIPS
    net: Net
    device: torch.device
    weights: Weights
    description: str

    @torch.inference_mode()
    def embed(self, images: Images) -> Tensor:
        """Return [N, E] such that LPIPS of two images uint8 [N, H, W, 3] is |e1 - e2|^2.

        E is large: for images of 256 x 256, 2.5 MB an image with alex and 32 MB with vgg.
        Raises EvaluationError for images too small for the network, and for distances that are not finite.
        """
        assert images.dtype == np.uint8
        height, width = images.shape[1:3]
        smallest = _SMALLEST[self.net]
        if min(height, width) < smallest:
            found = f"{self.net} takes images of {smallest} x {smallest} pixels or more, found {height} x {width}"
            remedy = f"use larger images, or another lpips_net (vgg takes {_SMALLEST['vgg']})"
            raise EvaluationError("lpips_net", found, remedy)
        embedded = torch.cat([self._embed_batch(batch) for batch in torch.from_numpy(images).split(BATCH)])
        if not embedded.isfinite().all():
            raise damaged(self.weights, _OPTION)
        return embedded

    def _embed_batch(self, images: Tensor) -> Tensor:
        batch = images.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        layers = self.network.net(self.network.scaling_layer(batch))
        parts = []
        # LPIPS (Zhang et al. 2018, eq. 1) sums 1 / (H_l W_l) sum_hw |w_l * (y1 - y2)|^2 over layers, for features y of
        # unit length; the library's factors are the squares of w_l. So y * sqrt(factor / (H_l W_l)) is such a space.
        for features, linear in zip(layers, self.network.lins, strict=True):
            factor = linear.model[-1].weight / features[0, 0].numel()  # [1, C, 1, 1]
            parts.append((lpips.normalize_tensor(features) * factor.sqrt()).flatten(start_dim=1))
        return torch.cat(parts, dim=1)


def load_lpips(net: Net, weights: str, device: str | torch.device) -> PerceptualDistance:
    """Return LPIPS 0.1 with the backbone `net` and the linear layers that the library ships.

    weights: "auto" (torchvision's ImageNet weights, downloaded once) or a local file with torchvision's state_dict.
    Raises EvaluationError, naming `lpips_weights`, for weights that cannot be fetched, read or do not fit.
    """
    loaded = read_weights(weights, option=_OPTION, url=_URLS[net])
    with preserve_rng():
        network = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    _load_backbone(network, net, loaded)
    network.requires_grad_(False)
    assert all((linear.model[-1].weight >= 0).all() for linear in network.lins)
    description = (
        f"LPIPS 0.1 of lpips {version('lpips')} on {_BACKBONES[net]} of torchvision; images in [-1, 1], at "
        f"the size they are given in; backbone weights {loaded.path.name}, SHA-256 {loaded.digest}"
    )
    device = torch.device(device)
    return PerceptualDistance(network.to(device), net, device, loaded, description)


def _load_backbone(network: lpips.LPIPS, net: Net, weights: Weights) -> None:
    """Load torchvision's `features.N.*`, which lpips calls `sliceM.N.*`."""
    names = {key: f"features.{key.split('.', 1)[1]}" for key in network.net.state_dict()}
    state = {key: weights.tensors[name] for key, name in names.items() if name in weights.tensors}
    try:
        network.net.load_state_dict(state)
    except RuntimeError as error:
        named = RuntimeError(re.sub(r"\bslice\d\.", "features.", str(error)))
        raise misfit(weights, _OPTION, f"torchvision's {_BACKBONES[net]}", named) from None


@torch.inference_mode()
def pairwise_diversity(model: PerceptualDistance, groups: Iterable[Images]) -> Diversity:
    """Return the mean LPIPS distance over all pairs of samples of a mask, then over masks (SDM, Wang et al. 2022).

    groups: for each mask its samples, uint8 [K, H, W, 3] with K >= 2 of any size; one group is in memory at a time.
    """
    distances, counts = [], []
    for images in groups:
        assert len(images) >= 2, "diversity needs two samples of a mask"
        embedded = model.embed(images)
        # One image against the rest at a time: all pairs at once would take K / 2 times the memory.
        pairs = [(embedded[i + 1 :] - embedded[i]).square().sum(dim=1) for i in range(len(images) - 1)]
        distances.append(torch.cat(pairs).double().mean().item())
        counts.append(len(images))
    std = float(np.std(distances, ddof=1)) if len(distances) > 1 else 0.0
    return Diversity(float(np.mean(distances)), std, len(distances), min(counts))


def groups_of_one_mask(labels: Iterable[Labels]) -> tuple[tuple[int, ...], ...]:
    """Return the indices of equal label maps, for each that occurs more than once: at most 10, as SDM compares."""
    return groups_of_one(map(map_key, labels))


def groups_of_one(keys: Iterable[Hashable]) -> tuple[tuple[int, ...], ...]:
    """Return the indices of equal keys, for each that occurs more than once: at most 10, as SDM compares."""
    found: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return tuple(tuple(group[:PUBLISHED_SAMPLES]) for group in found.values() if len(group) > 1)


def feature_diversity(extractor: FeatureExtractor, groups: Iterable[Images]) -> Diversity:
    """Return what `pairwise_diversity` does, with 1 - cosine of the features of two images in place of LPIPS."""
    distances, counts = [], []
    for images in groups:
        features = np.asarray(extractor.compute(images, ""), np.float64)
        features /= np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
        pairs = np.triu_indices(len(images), 1)
        distances.append(float((1 - features @ features.T)[pairs].mean()))
        counts.append(len(images))
    std = float(np.std(distances, ddof=1)) if len(distances) > 1 else 0.0
    return Diversity(float(np.mean(distances)), std, len(distances), min(counts))


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class DiversityMetric(Metric):
    """How much the samples of one mask, or of one layout of boxes, differ from each other.

    features: a network whose features tell it of layouts where LPIPS is missing.
    """

    key: ClassVar = "diversity"

    network: PerceptualDistance | Skipped
    features: FeatureExtractor | Skipped

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return the diversity of the samples of all masks or layouts that have several."""
        # Published for masks is LPIPS alone.
        of_layouts = sets.layouts is not None and sets.layouts.predicted
        if isinstance(self.network, Skipped) and (isinstance(self.features, Skipped) or not of_layouts):
            return self.network.measurement(HEADING, NAME)
        groups = sets.find_groups()
        if not groups.sizes:
            remedy = "and augment_masks false, " if groups.what == "mask" else ""
            return Skipped(
                f"not measured: no {groups.what} has two samples; sample with num_samples 10 times the number of "
                f"{groups.what}s {remedy}and give its results_path as diversity_dir"
            ).measurement(HEADING, NAME)
        images = map(groups.load, tqdm(range(len(groups.sizes)), desc="diversity", unit=groups.what))
        if not isinstance(self.network, Skipped):
            name, description = NAME, self.network.description
            diversity = pairwise_diversity(self.network, images)
        elif isinstance(self.features, FeatureExtractor):
            name, description = (
                "Diversity",
                f"mean 1 - cosine of features, as LPIPS is missing; {self.features.description}",
            )
            diversity = feature_diversity(self.features, images)
        record = {
            **diversity._asdict(),
            "of": groups.what,
            "images": sum(groups.sizes),
            "folder": groups.folder,
            "network": description,
            "image_size": list(sets.size),
            "resampling": sets.resampling,
        }
        counts = f"{diversity.masks} {groups.what}s, at least {diversity.samples_per_mask} samples of each"
        text = (
            f"{name} {diversity.mean:.3f} (standard deviation over {groups.what}s {diversity.std:.3f}), "
            f"{record['images']} samples of {counts}; {description}. {sets.resampling}."
        )
        return Measurement(record, Section(HEADING, [text]), (f"{name} {diversity.mean:.3f} over {counts}",))
