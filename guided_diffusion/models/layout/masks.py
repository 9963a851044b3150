"""The masks of objects: regressed from class and style, refined from the features, and made into weights of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.conditions.base import Size
from guided_diffusion.models.layout.pasting import CELLS

Overlap = Literal["mean", "smallest"]

EPSILON = 1e-6
"""Added to the sum of masks, as published."""
SPREAD = 1e-5
"""Added to the variance of a channel of the regressor, as published."""


class MaskRegressor(nn.Module):
    """The mask of an object in its box, from class and style: logits of CELLS x CELLS cells (Sun & Wu 2020, LostGAN).

    features: numbers that describe an object. Here without spectral normalization.
    """

    def __init__(self, features: int, *, hidden: int = 256):
        super().__init__()
        self.fc = nn.Linear(features, hidden * (CELLS // 4) ** 2)
        # An instance normalization follows each, which a bias would not reach.
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(hidden, hidden, 3, padding=1, bias=False) for _ in range(3))
        self.out = nn.Conv2d(hidden, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [M, features] to [M, CELLS, CELLS]."""
        h = self.fc(features).unflatten(1, (-1, CELLS // 4, CELLS // 4))
        h = h.contiguous(memory_format=torch.channels_last)
        h = F.relu(F.instance_norm(self.conv1(h), eps=SPREAD))
        for conv in (self.conv2, self.conv3):
            h = F.interpolate(h, scale_factor=2, mode="bilinear")
            h = F.relu(F.instance_norm(conv(h), eps=SPREAD))
        return self.out(h)[:, 0]


@dataclass(frozen=True, eq=False)
class LevelMasks:
    """The objects at the size of one level.

    regressed: [N, O, H, W], their regressed masks. inside: [N, O, H, W], their boxes. weight: [N, H * W, O], see
    `ObjectMasks.weights`. Empty slots are zero in all.
    """

    regressed: Tensor
    inside: Tensor
    weight: Tensor

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.regressed, self.inside, self.weight)


@dataclass(frozen=True, eq=False)
class ObjectMasks:
    """The masks of all objects of a batch of layouts, at the sizes of all levels.

    label: [N, O] int64, any class in empty slots. refined: [N, O], how much of a mask is what a `MaskHead` says of it.
    front: [N, O] int64, the slots from the smallest object to the largest one; None for the mean of overlapping ones.
    slots: those that were given; there may be more empty ones behind. logits: [N, O, CELLS, CELLS], of the regressed
    masks in their boxes.
    """

    label: Tensor
    refined: Tensor
    front: Tensor | None
    levels: Mapping[Size, LevelMasks]
    slots: int
    logits: Tensor

    def weights(self, masks: Tensor) -> Tensor:
        """Return the share of each object in each pixel, [N, H * W, O], from masks [N, O, H, W]."""
        return object_weights(masks.flatten(2), self.front).transpose(1, 2).contiguous()

    def expand(self, n: int) -> ObjectMasks:
        """Return the masks of one layout repeated `n` times."""
        levels = {
            size: LevelMasks(*(tensor.expand(n, *tensor.shape[1:]) for tensor in level.tensors()))
            for size, level in self.levels.items()
        }
        label, refined = self.label.expand(n, -1), self.refined.expand(n, -1)
        logits = self.logits.expand(n, -1, -1, -1)
        return replace(
            self,
            label=label,
            refined=refined,
            front=None if self.front is None else self.front.expand(n, -1),
            levels=levels,
            logits=logits,
        )

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor."""
        yield from (self.label, self.refined, self.logits)
        if self.front is not None:
            yield self.front
        for level in self.levels.values():
            yield from level.tensors()


def object_weights(masks: Tensor, front: Tensor | None) -> Tensor:
    """Return the share of each object in each pixel, [N, O, P], from masks [N, O, P] in 0..1.

    front: None for masks over their sum, as published. Else [N, O], slots from front to back: each object covers those
    behind it as far as its mask goes, so that where the masks are 1 the first one is seen alone; what none covers
    stays as it is. With a background the shares add up to 1.
    """
    if front is None:
        return masks / (masks.sum(1, keepdim=True) + EPSILON)
    order = front[..., None].expand_as(masks)
    sorted_masks = masks.gather(1, order)
    uncovered = F.pad((1 - sorted_masks[:, :-1]).cumprod(1), (0, 0, 1, 0), value=1.0)
    return torch.zeros_like(masks).scatter(1, order, sorted_masks * uncovered)


class MaskHead(nn.Module):
    """What the output of a block says of the objects' masks: logits of each class in each pixel (Sun & Wu 2020)."""

    def __init__(self, channels: int, num_classes: int, *, hidden: int = 100, groups: int = 4):
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 3, padding=1)
        self.norm = nn.GroupNorm(groups, hidden)
        self.out = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, h: Tensor, label: Tensor) -> Tensor:
        """Map features [N, channels, H, W] and classes [N, O] to the logits of the objects, [N, O, H, W].

        Only the rows of the classes that occur are computed.
        """
        hidden = self.norm(self.conv(h)).relu_()
        weight = self.out.weight[:, :, 0, 0][label].to(hidden.dtype)
        logits = torch.baddbmm(self.out.bias[label][..., None].to(hidden.dtype), weight, hidden.flatten(2))
        return logits.unflatten(2, h.shape[2:])


class StageMasks:
    """The masks that one block is modulated with: the regressed ones mixed with what the head of the one before said.

    shown: [N, O, H, W] in 0..1, what the head said; doubled where plain upsampling is between the two blocks.
    """

    def __init__(self, shown: Tensor, objects: ObjectMasks):
        self._shown = shown
        self._objects = objects
        self._made: dict[Size, tuple[Tensor, Tensor]] = {}

    def at(self, size: Size, start: Size) -> tuple[Tensor, Tensor]:
        """Return masks [N, O, H, W] and weights [N, H * W, O] at `size` for a block whose input has the size `start`.

        They are mixed at `start`; an upsampling block, which ends at another size, scales them.
        """
        if size not in self._made:
            masks = self._mixed(size) if size == start else self._scaled(self.at(start, start)[0], size)
            self._made[size] = masks, self._objects.weights(masks)
        return self._made[size]

    def _mixed(self, size: Size) -> Tensor:
        level, share = self._objects.levels[size], self._objects.refined[..., None, None]
        shown = self._shown if self._shown.shape[2:] == size else F.interpolate(self._shown, size, mode="nearest")
        return level.regressed + share * (shown.to(level.inside.dtype) * level.inside - level.regressed)

    @staticmethod
    def _scaled(masks: Tensor, size: Size) -> Tensor:
        return F.interpolate(masks, size, mode="bilinear")
