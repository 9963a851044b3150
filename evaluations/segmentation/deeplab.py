"""DeepLabV3-ResNet101 trained on samples alone, as published with DatasetDDPM (Baranchuk et al. 2022).

Adam, batches of 8, cross-entropy, no augmentation; after each epoch it is scored on the real training images, and the
best state is scored on the test images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import ResNet101_Weights
from torchvision.models.segmentation import deeplabv3_resnet101

from evaluations.errors import EvaluationError
from evaluations.metrics.segmentation import Counts, count, published_miou, scores
from evaluations.published_weights import Weights, first_detail, preserve_rng, read_weights
from evaluations.segmentation.training import check_finite, network_input, predict
from evaluations.sets import ImageSet

OPTION = "deeplab_weights"
BATCH, LEARNING_RATE = 8, 1e-3


def backbone_weights(weights: str) -> Weights | None:
    """Return the ImageNet weights of a ResNet-101: of a local file, or with "auto" downloaded; None for "none".

    Raises EvaluationError for a file that cannot be used and for a failed download.
    """
    if weights in ("", "none"):
        return None
    return read_weights(weights, option=OPTION, url=ResNet101_Weights.IMAGENET1K_V1.url)


class DeepLab(nn.Module):
    """The network of torchvision, without its auxiliary head: images float32 [N, 3, H, W] -> logits [N, C, H, W]."""

    def __init__(self, num_classes: int, backbone: Weights | None, seed: int):
        """Draw the weights by `seed`, and take those of the backbone; EvaluationError where they do not fit."""
        super().__init__()
        with preserve_rng():
            torch.manual_seed(seed)
            self.network = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=num_classes)
        if backbone is None:
            return
        tensors = {name: value for name, value in backbone.tensors.items() if not name.startswith("fc.")}
        try:
            self.network.backbone.load_state_dict(tensors)
        except RuntimeError as error:
            found = f"not the weights of a ResNet-101 of torchvision ({first_detail(error)})"
            raise EvaluationError(OPTION, found, 'give its file, "auto" or "none"', path=backbone.path) from error

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["out"]


@dataclass(frozen=True)
class DeepLabScores:
    """Scores of a model on some images: counts of pixels for ours, and mIoU and IoU [C] as published."""

    counts: Counts
    published_miou: float
    published_iou: tuple[float, ...]

    @property
    def miou(self) -> float:
        """Our mIoU: over the classes that are there, without ignored pixels."""
        return scores(self.counts).miou

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for `from_json`."""
        own = {"published_miou": self.published_miou, "published_iou": list(self.published_iou)}
        return {"counts": self.counts.to_json(), **own}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DeepLabScores:
        counts = Counts.from_json(content["counts"])
        return cls(counts, content["published_miou"], tuple(content["published_iou"]))


def score(model: nn.Module, images: ImageSet, device: torch.device) -> DeepLabScores:
    """Return the scores of a model in evaluation mode."""
    predicted = predict(model, images.images, BATCH, device)
    classes = images.num_classes
    miou, iou = published_miou(images.labels, predicted, classes, ignored=classes)
    return DeepLabScores(count(images.labels, predicted, classes), miou, tuple(iou.tolist()))


class DeepLabTraining:
    """A training, epoch by epoch: order and dropout of an epoch depend on (seed, epoch) alone."""

    def __init__(self, model: nn.Module, training: ImageSet, validation: ImageSet, *, seed: int, device: torch.device):
        assert len(training) > 1, "batch normalization needs two images"
        self.model = model.to(device=device, memory_format=torch.channels_last)
        self.training, self.validation, self.seed, self.device = training, validation, seed, device
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self.history: list[float] = []
        """mIoU as published on the validation images after each epoch."""
        self.best: dict[str, Tensor] = {}

    @property
    def best_epoch(self) -> int:
        """Number of the best epoch, from 1."""
        return int(np.argmax(self.history)) + 1

    @property
    def steps(self) -> int:
        """Of an epoch; a last batch of one image is left out."""
        return len(self.training) // BATCH + (len(self.training) % BATCH > 1)

    def run_epoch(self, progress: Callable[[float], None] = lambda loss: None) -> None:
        """Train for an epoch and score it; progress: called with the loss of each step."""
        epoch, null = len(self.history), self.training.num_classes
        words = np.random.SeedSequence([self.seed, epoch]).generate_state(2, np.uint64)
        order = np.random.default_rng(int(words[0])).permutation(len(self.training))
        self.model.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(words[1] >> np.uint64(1)))  # of dropout
            for step in range(self.steps):
                chosen = order[step * BATCH : (step + 1) * BATCH]
                images = torch.from_numpy(self.training.images[chosen])
                labels = torch.from_numpy(self.training.labels[chosen].astype(np.int64)).to(self.device)
                logits = self.model(network_input(images, self.device))
                summed = nn.functional.cross_entropy(logits, labels, ignore_index=null, reduction="sum")
                loss = summed / (labels != null).sum().clamp(min=1)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                progress(loss.item())
        check_finite(loss, (epoch + 1) * self.steps)
        self.history.append(score(self.model, self.validation, self.device).published_miou)
        if self.best_epoch == len(self.history):
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def finish(self, test: ImageSet) -> DeepLabScores:
        """Return the scores of the best epoch on the test images; the model has its state from then on."""
        self.model.load_state_dict(self.best)
        return score(self.model.eval(), test, self.device)

    def state(self) -> dict[str, Any]:
        """Return all that a training goes on with, plain values and tensors."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": list(self.history),
            "best": self.best,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.best = list(state["history"]), dict(state["best"])
