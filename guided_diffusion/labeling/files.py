"""Files of pixel classifiers: `classifier.pt`, which describes itself, and folders of the published form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from guided_diffusion.labeling.classifier import PixelEnsemble
from guided_diffusion.labeling.uncertainty import Vote
from guided_diffusion.runtime.checkpoint import read_content, save_checkpoint
from guided_diffusion.runtime.errors import CheckpointError
from guided_diffusion.runtime.files import digest

FORMAT = "isdm_pixel_classifier"
_OPTIONS = {
    "timesteps": "feature_steps, as timesteps of the model,",
    "blocks": "feature_blocks",
    "maps": "feature_maps",
    "runs_in": "precision",
}
"""The keys that people write, by the names in `features` that are others."""
_PUBLISHED_NAME = re.compile(r"model_(\d+)\.pth")


@dataclass
class PixelClassifier:
    """An ensemble and what it needs to be used again.

    vote: how members are joined. features: how the maps were made (network, steps, blocks, noise), plain values.
    encoding: what the classes are. training: recipe, seed, images, plain values.
    """

    ensemble: PixelEnsemble
    vote: Vote = "mean"
    features: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Replace `path` atomically; equal classifiers give equal bytes."""
        described = {key: getattr(self, key) for key in ("vote", "features", "encoding", "training")}
        members = [_on_cpu(self.ensemble.member_weights(member)) for member in range(self.ensemble.members)]
        save_checkpoint(path, {"format": FORMAT, **described, "members": members})

    def refuse_other_features(self, path: Path, features: Mapping[str, Any], dim: int) -> None:
        """Raise CheckpointError naming `path`, the classifier's file, unless it was trained on such features.

        features: as in the field; of a classifier that has none, as of published files, only `dim` is compared.
        """
        remedy = "give the network and settings it was trained with, or train another classifier"
        own, here = _by_options(self.features), _by_options(features)
        other = [key for key in {**own, **here} if own.get(key) != here.get(key)]
        if self.features and other:
            found = f"a classifier of features with {other[0]} {own.get(other[0])}"
            raise CheckpointError.of(path, f"{found}, but here it is {here.get(other[0])}", remedy)
        if self.ensemble.dim != dim:
            found = f"a classifier of {self.ensemble.dim} features, but a pixel has {dim}"
            raise CheckpointError.of(path, found, remedy)


def _by_options(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return how maps were made by the names that options have for it; without what follows from these."""
    named = {_OPTIONS.get(key, key): value for key, value in features.items() if key not in ("dims", "joined")}
    return named | {"feature_rgb": "joined" in features}


def load_classifier(path: Path) -> PixelClassifier:
    """Read a classifier.pt, or a folder of published files `model_0.pth`, ..., which vote by majority.

    Raises CheckpointError if it is missing, damaged or something else.
    """
    if path.is_dir():
        return PixelClassifier(load_published(path), vote="majority", training={"recipe": "published"})
    content = read_content(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError.of(path, "not a pixel classifier", "give the classifier.pt that segment wrote")
    try:
        described = {key: content[key] for key in ("vote", "features", "encoding", "training")}
        return PixelClassifier(_ensemble(path, content["members"]), **described)
    except KeyError as error:
        raise CheckpointError.of(path, f"a pixel classifier without {error}", "copy it again") from None


def classifier_digest(path: Path) -> str:
    """Return the digest of the file of a classifier, or of all files of published ones."""
    if path.is_file():
        return digest(path)
    parts = [digest(each) for each in sorted(path.glob("model_*.pth"))]
    return sha256("".join(parts).encode()).hexdigest()[:16]


def load_published(folder: Path) -> PixelEnsemble:
    """Read the members `model_0.pth`, `model_1.pth`, ... of a folder; CheckpointError for any that cannot be used."""
    numbers = sorted(int(found[1]) for path in folder.iterdir() if (found := _PUBLISHED_NAME.fullmatch(path.name)))
    if not numbers or numbers != list(range(len(numbers))):
        found = f"has the members {numbers} of a pixel classifier" if numbers else "has no model_0.pth"
        raise CheckpointError.of(folder, found, "give a folder with model_0.pth, model_1.pth, ... and no gap")
    members = []
    for path in (folder / f"model_{number}.pth" for number in numbers):
        content = read_content(path)
        weights = content.get("model_state_dict") if isinstance(content, dict) else None
        if not isinstance(weights, dict):
            raise CheckpointError.of(path, "has no model_state_dict", "give published pixel classifiers")
        members.append({name.removeprefix("module."): value for name, value in weights.items()})
    return _ensemble(folder, members)


def _ensemble(path: Path, members: list[Mapping[str, Tensor]]) -> PixelEnsemble:
    """Return the ensemble of weights by published names; its sizes are those of the first member."""
    try:
        (first, dim), (second, classes) = (
            members[0]["layers.0.weight"].shape,
            members[0]["layers.6.weight"].T.shape,
        )
        ensemble = PixelEnsemble(len(members), dim, classes, (first, second))
    except (KeyError, IndexError, ValueError, AttributeError):
        raise CheckpointError.of(path, "not the weights of pixel classifiers", "give published ones") from None
    known = ensemble.member_weights(0)
    for number, weights in enumerate(members):
        wrong = [name for name in {**known, **weights} if _shape(known, name) != _shape(weights, name)]
        if wrong:
            found = f"member {number} has {wrong[0]} of shape {_shape(weights, wrong[0])}"
            raise CheckpointError.of(path, f"{found}, not {_shape(known, wrong[0])}", "copy it again")
        ensemble.load_member(number, weights)
    return ensemble.eval()


def _shape(weights: Mapping[str, Any], name: str) -> list[int] | None:
    value = weights.get(name)
    return list(value.shape) if isinstance(value, Tensor) else None


def _on_cpu(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in weights.items()}
