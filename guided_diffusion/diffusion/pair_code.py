"""Image and label map as one x0: analog bits or one-hot channels for the labels, squares of pixels as channels.

Analog bits: Chen et al. 2023 (Bit Diffusion), section 3; smaller values of the labels than +-1: Chen 2023 (On the
Importance of Noise Scheduling), as Christensen 2025 uses it for masks: with values +-b their log-SNR is lower by
2 log(1 / b), so that the image is decided first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST_BORDER = 0.01
"""Share of the border of a class below which another class does not count as its neighbor."""
_TIE = 1e-4
"""By which a class has to be nearer than one of a lower number; rounding is a hundredth of it."""


class Decoded(NamedTuple):
    """What was decoded of N samples."""

    image: Tensor | None
    """[N, image channels, H, W] in [-1, 1]; None for masks alone."""
    label: Tensor
    """[N, H, W] int64 in `0..num_classes`, the last being the null id."""
    margin: Tensor
    """[N, H, W] float32 in [0, 1]: 1 where the channels are those of the class, 0 where another class is as near."""


@dataclass(frozen=True, eq=False)
class PairCode:
    """How images and label maps become the x0 of one diffusion model, and back. Immutable.

    codes: [num_classes or, with null pixels, num_classes + 1; M] of -1 and 1. image_channels: 0 for masks alone.
    scale: b, labels are +-b. folding: p, squares of p x p pixels become p * p channels, without loss.
    """

    codes: Tensor
    num_classes: int
    image_channels: int
    scale: float
    folding: int

    def __post_init__(self) -> None:
        assert self.codes.ndim == 2
        assert len(self.codes) in (self.num_classes, self.num_classes + 1)
        assert len(torch.unique(self.codes, dim=0)) == len(self.codes), "two classes have one code"
        assert bool((self.codes.abs() == 1).all())
        assert 0 < self.scale <= 1

    @property
    def has_null(self) -> bool:
        """Whether null pixels (ignored, or the border of a padded image) have a code."""
        return len(self.codes) > self.num_classes

    @property
    def label_channels(self) -> int:
        """Channels of a label map before pixels become channels."""
        return self.codes.shape[1]

    @property
    def channels(self) -> int:
        """Channels C of x0."""
        return (self.image_channels + self.label_channels) * self.folding**2

    def shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Return the shape (C, H / p, W / p) of the x0 of an image of `size` (H, W)."""
        return self.channels, size[0] // self.folding, size[1] // self.folding

    def encode(self, image: Tensor | None, label: Tensor) -> Tensor:
        """Return x0 [N, C, H / p, W / p] float32 of images [N, image channels, H, W] and labels [N, H, W].

        image: in [-1, 1]; not looked at for masks alone. label: in `0..num_classes`; the null id needs `has_null`.
        """
        coded = self.codes.to(label.device)[label.long()].permute(0, 3, 1, 2) * self.scale
        parts = [coded] if not self.image_channels else [image, coded]
        return F.pixel_unshuffle(torch.cat(parts, dim=1), self.folding)

    def decode(self, x: Tensor) -> Decoded:
        """Return images, labels and margins of `x` [N, C, H / p, W / p]; each pixel gets the class of the nearest code.

        One image at a time, as there is a number for each pixel and class.
        """
        pixels = F.pixel_shuffle(x.float(), self.folding)
        image, coded = pixels[:, : self.image_channels], pixels[:, self.image_channels :] / self.scale
        codes = self.codes.to(x.device)
        decided = [_nearest(each, codes) for each in coded]
        label, margin = (torch.stack(each) for each in zip(*decided, strict=True))
        return Decoded(image.clamp(-1, 1) if self.image_channels else None, label, margin)

    def clip(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return `x0` with image channels clamped to [-1, 1] and label channels to [-b, b]: a hook of sampling."""
        limit = self._per_channel(1.0, self.scale, x0.device)
        return torch.minimum(torch.maximum(x0, -limit), limit)

    def loss_weight(self, mask_weight: float, device: torch.device | str = "cpu") -> Tensor:
        """Return weights [1, C, 1, 1] by which a mean over all channels becomes the mean over the image channels plus
        `mask_weight` times the mean over the label channels.
        """
        total = self.image_channels + self.label_channels
        image = total / self.image_channels if self.image_channels else 0.0
        return self._per_channel(image, mask_weight * total / self.label_channels, device)

    def _per_channel(self, image: float, label: float, device: torch.device | str) -> Tensor:
        values = [image] * self.image_channels + [label] * self.label_channels
        # `pixel_unshuffle` puts the channels made of one channel side by side.
        return torch.tensor(values, device=device).repeat_interleave(self.folding**2).view(1, -1, 1, 1)

    def to_state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {
            "codes": self.codes.int().tolist(),
            "num_classes": self.num_classes,
            "image_channels": self.image_channels,
            "scale": self.scale,
            "folding": self.folding,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PairCode:
        """Return the code that a checkpoint stores."""
        return cls(**{**state, "codes": torch.tensor(state["codes"], dtype=torch.float32)})


def _nearest(coded: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return class and margin, [H, W] each, of label channels [M, H, W] in units of b."""
    # All codes have one length: |x - c|^2 differs between classes by -2 x.c alone.
    closeness = torch.einsum("mhw,km->khw", coded, codes)
    if len(codes) == 1:
        return closeness.argmax(0), torch.ones_like(closeness[0])
    # With the bits of two classes a pixel is as near to one as to the other: rounding, which depends on the batch, may
    # not decide.
    lead = _TIE * torch.arange(len(codes), device=codes.device)[:, None, None]
    order = (closeness - lead).topk(2, dim=0).indices
    best = closeness.gather(0, order)
    # Channels of the nearest code differ from the second in so many places, each worth 2 where x is a code.
    differing = (codes[order[0]] != codes[order[1]]).sum(-1)
    return order[0], ((best[0] - best[1]) / (2 * differing)).clamp(0, 1)


# --- codes of classes --------------------------------------------------------------------------------------------


def one_hot_codes(count: int) -> Tensor:
    """Return [count, count] of 1 on the diagonal and -1 elsewhere; of two classes one channel, [2, 1]."""
    if count == 2:
        return torch.tensor([[-1.0], [1.0]])
    return 2 * torch.eye(count) - 1


def adjacency_codes(touching: Tensor, background: int) -> Tensor:
    """Return codes [K, M] of -1 and 1 in which classes that touch differ in few bits; the background is all -1.

    touching: [K, K], how many pixels of a class touch those of another, counted symmetrically. A pixel that is half
    decided between two codes that differ in one bit reads as one of the two, and never as a third class. M is the
    least number of bits, or one more where a class touches more classes than there are bits.
    """
    count = len(touching)
    assert count > 1, "one class alone has nothing to decide"
    touching = touching.double().clone().fill_diagonal_(0)
    bits = max(1, math.ceil(math.log2(count)))
    borders = touching > _LEAST_BORDER * touching.sum(1, keepdim=True)
    if int(borders.sum(1).max()) > bits:
        bits += 1
    distance = _distances(2**bits)
    # How many codes that are taken lie between two codes, the second of these included where it is taken.
    between = torch.zeros_like(distance)
    set_bits, numbers = distance[0], {background: 0}
    while True:
        taken, newest = sorted(numbers), next(reversed(numbers.values()))
        between += distance[:, newest, None] + distance[newest] == distance
        if len(numbers) == count:
            break
        # The class with the longest common border goes next, while there is a choice.
        border = touching[:, taken].sum(1)
        border[taken] = -1
        chosen = int(border.argmax())
        codes = [numbers[index] for index in taken]
        # At its borders: the bits beyond one, and the codes of other classes between, the neighbor's not counted.
        misread = (distance[:, codes] - 1 + between[:, codes] - 1).double()
        cost = misread @ touching[chosen, taken]
        cost[list(numbers.values())] = math.inf
        best = (cost == cost.min()).nonzero().flatten().tolist()
        numbers[chosen] = min(best, key=lambda number: (int(set_bits[number]), number))
    codes = torch.tensor([[numbers[index] >> bit & 1 for bit in range(bits)] for index in range(count)])
    return 2.0 * codes - 1


def _distances(count: int) -> Tensor:
    """Return in how many bits each of the first `count` numbers differs from each other, int64 [count, count]."""
    numbers = torch.arange(count)
    differing = numbers[:, None] ^ numbers
    return sum(differing >> bit & 1 for bit in range(count.bit_length()))
