"""What a training step learns of a batch: the clean image x0, and the condition that the network is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guided_diffusion.conditions.base import Condition, Prepared, Size
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.loader import Prepare, TrainBatch
from guided_diffusion.data.mask_rules import STATED_POWER
from guided_diffusion.diffusion.label_diffusion import LabelDiffusion, draw_uniform
from guided_diffusion.diffusion.latent import Code, LatentCode
from guided_diffusion.diffusion.pixel_weights import pixel_weights
from guided_diffusion.runtime.seeding import Stream, step_generators

StepKey = tuple[int, int, int]
"""Run seed, epoch, batch in the epoch."""


@dataclass(frozen=True)
class Goal:
    """What is learned of n images."""

    x0: Tensor
    """[n, C, H, W] float32."""
    condition: Condition
    """n conditions of size [H, W]; none of them dropped yet."""
    prepared: Prepared | None = None
    """What the network precomputed from `condition`."""
    known: KnownRegion | None = None
    """What an inpainting network is given."""
    weight: Tensor | None = None
    """How much channels and pixels count, [n or 1, C or 1, H or 1, W or 1]; None: alike."""
    augment: Tensor | None = None
    """[n, P] float32, the `AUGMENT_PARAMETERS` of the images."""
    label: Tensor | None = None
    """[n, H, W] class ids, what masks of objects are learned from where there is supervision."""


class Target(Protocol):
    """Makes goals of batches; random draws depend on the key of the step and the position in the batch alone."""

    def __call__(self, batch: TrainBatch, part: slice, t: Tensor, key: StepKey) -> Goal:
        """Return the goal of `part` of a batch at the timesteps `t` [n], on their device."""


@dataclass(frozen=True)
class ImageTarget:
    """Images of given masks; with `label_diffusion`, masks whose pixels are null the noisier the image is.

    latent: the latents of the images are learned, and the maps have their size already; None: the images.
    """

    label_diffusion: LabelDiffusion | None = None
    latent: LatentCode | None = None

    def __call__(self, batch: TrainBatch, part: slice, t: Tensor, key: StepKey) -> Goal:
        condition, prepared = batch.condition[part], None
        if self.label_diffusion is not None:  # it changes the maps, so nothing was prepared of them
            generators = step_generators(Stream.LABEL, key, batch.batch_index[part].tolist(), condition.device)
            uniform = draw_uniform(generators, condition.size, condition.device)
            condition = self.label_diffusion.diffuse(condition, t, uniform)
        elif batch.prepared is not None:
            prepared = batch.prepared[part]
        x0 = batch.image[part]
        inside, hole, augment, label = (
            None if values is None else values[part]
            for values in (batch.inside, batch.hole, batch.augment, batch.label)
        )
        if self.latent is not None:
            return Goal(self.latent.encode(x0, None), condition, prepared)
        known = None if hole is None else KnownRegion(x0, hole)
        return Goal(x0, condition, prepared, known, pixel_weights(inside, hole), augment, label)


class MaskTarget:
    """Masks, or pairs of image and mask, told one of their classes ("contains c")."""

    def __init__(
        self,
        code: Code,
        *,
        frequency: Tensor,
        background: int,
        balance: float,
        mask_weight: float,
        size: Size,
        prepare: Prepare | None,
        device: torch.device | str = "cpu",
    ):
        """Take the code of the masks and what their classes are drawn by; see `MaskCounts` and `image_weights`.

        frequency: [K], the share of training masks with each class. size: height and width that the network sees.
        """
        self._code = code
        self._num_classes = num_classes = len(frequency)
        self._background = background
        # Of an image that was drawn for its rare classes, these are stated more often, likewise.
        self._stated = (frequency.double() ** (STATED_POWER - balance)).to(torch.float32)
        self._weight = code.loss_weight(mask_weight, device)
        every_class = class_condition(torch.arange(num_classes), num_classes, size)
        prepared = None if prepare is None else prepare(every_class)
        self._conditions = every_class.to(device)
        self._prepared = None if prepared is None else prepared.to(device)

    def __call__(self, batch: TrainBatch, part: slice, t: Tensor, key: StepKey) -> Goal:
        label = batch.condition.label[part]
        stated = self.draw_classes(label, key, batch.batch_index[part].tolist()).to(label.device)
        prepared = None if self._prepared is None else self._prepared[stated]
        x0 = self._code.encode(batch.image[part], label)
        return Goal(x0, self._conditions[stated], prepared, weight=self._weight)

    def draw_classes(self, label: Tensor, key: StepKey, batch_indices: list[int]) -> Tensor:
        """Return the class that is stated for each label map [n, H, W], [n] int64 on the CPU."""
        present = torch.stack([(label == kind).flatten(1).any(1) for kind in range(self._num_classes)], dim=1)
        weights = present.cpu() * self._stated
        weights[:, self._background] = 0
        weights[~weights.any(1), self._background] = 1
        uniform = draw_uniform(step_generators(Stream.CLASS, key, batch_indices), (1, 1)).view(-1, 1)
        ends = weights.double().cumsum(1)
        return (uniform * ends[:, -1:] >= ends).sum(1)


def class_condition(classes: Tensor, num_classes: int, size: Size) -> SemanticMap:
    """Return the condition "contains class c" of `classes` [N], maps of one class everywhere; `num_classes` is null."""
    kind = torch.uint8 if num_classes < 256 else torch.int16
    label = classes.to(kind).view(-1, 1, 1).expand(-1, *size).contiguous()
    return SemanticMap(label, num_classes)
