"""Prediction without upsampled features: the first layer is applied to the native maps, and its result upsampled.

A linear layer commutes with bilinear upsampling, whose weights sum to 1: W up(f) = up(W f). Maps of one resolution are
one matrix, so that a few maps of the hidden width are upsampled in place of thousands of channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from guided_diffusion.labeling.classifier import FoldedMember, PixelEnsemble
from guided_diffusion.labeling.maps import ImageMaps, axis
from guided_diffusion.labeling.uncertainty import Answers, Prediction, Vote

CPU_TILE = (32, 32)
"""Rows and columns of the image that are upsampled at once: with 256 hidden channels they fit a core's cache."""
GPU_TILE = (256, 256)
AT_ONCE = 5
"""Members whose first layer is one product; more are no faster, and take more memory."""


class _NativeImage:
    """The maps of an image by resolution: tables [h * w, channels] in float32, and which features they hold."""

    def __init__(self, maps: ImageMaps, device: torch.device):
        ends = torch.tensor(maps.dims).cumsum(0).tolist()
        self.sides = sorted(set(maps.sides))
        self.tables: list[Tensor] = []
        self.columns: list[Tensor] = []
        for side in self.sides:
            chosen = [number for number, other in enumerate(maps.sides) if other == side]
            self.tables.append(torch.cat([maps.tables[number].to(device).float() for number in chosen], dim=1))
            parts = [torch.arange(ends[number] - maps.dims[number], ends[number]) for number in chosen]
            self.columns.append(torch.cat(parts).to(device))

    def first_layers(self, members: Sequence[FoldedMember]) -> Iterator[list[Tensor]]:
        """Yield the first layer of each member at each resolution, [h, w, a]: its bias is added once, to the smallest.

        One product for several members: the maps are read once for all of them.
        """
        weights = torch.cat([member.weight1 for member in members])
        parts = [
            (table @ weights[:, columns].T).unflatten(0, side)
            for table, columns, side in zip(self.tables, self.columns, self.sides, strict=True)
        ]
        parts[0] += torch.cat([member.bias1 for member in members])
        widths = [len(member.bias1) for member in members]
        yield from (list(each) for each in zip(*(part.split(widths, dim=-1) for part in parts), strict=True))


class _Tiles:
    """Upsamples maps of several resolutions to one size in one step each, adds them, and does so tile by tile."""

    def __init__(self, sides: Sequence[tuple[int, int]], size: tuple[int, int], device: torch.device):
        self.size = size
        tile = CPU_TILE if device.type == "cpu" else GPU_TILE
        self._down, self._across = [
            _steps(size[way], [side[way] for side in sides], tile[way], device) for way in (0, 1)
        ]

    def __call__(self, maps: Sequence[Tensor]) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield rows, columns, and the sum there [rows, columns, a] of the upsampled `maps` [h, w, a]."""
        for rows, spans, matrices in self._down:
            bands = [
                (matrix @ each[span].flatten(1)).unflatten(1, each.shape[1:])
                for each, span, matrix in zip(maps, spans, matrices, strict=True)
            ]
            for columns, spans_, matrices_ in self._across:
                sources = torch.cat([band[:, span] for band, span in zip(bands, spans_, strict=True)], dim=1)
                yield rows, columns, torch.matmul(torch.cat(matrices_, dim=1), sources)


_Step = tuple[slice, list[slice], list[Tensor]]


def _steps(pixels: int, sides: Sequence[int], step: int, device: torch.device) -> list[_Step]:
    """Return some pixels at a time: which, between which cells of each map they lie, and their weights there."""
    steps: list[_Step] = []
    for start in range(0, pixels, step):
        chosen = slice(start, min(start + step, pixels))
        spans, matrices = [], []
        for cells in sides:
            lower, upper, weight = (each[chosen] for each in axis(pixels, cells))
            first = int(lower[0])
            matrix = torch.zeros(len(lower), int(upper[-1]) + 1 - first)
            matrix.scatter_add_(1, lower[:, None] - first, 1 - weight[:, None])
            matrix.scatter_add_(1, upper[:, None] - first, weight[:, None])
            spans.append(slice(first, int(upper[-1]) + 1))
            matrices.append(matrix.to(device))
        steps.append((chosen, spans, matrices))
    return steps


@torch.inference_mode()
def member_logits(ensemble: PixelEnsemble, maps: ImageMaps, size: tuple[int, int] | None = None) -> Iterator[Tensor]:
    """Yield the logits [H, W, classes] of each member, at `size` or else the size of the image.

    `maps` may lie on another device than the ensemble, on which the logits are.
    """
    assert maps.dim == ensemble.dim, f"{maps.dim} features for a classifier of {ensemble.dim}"
    device = ensemble.first_weight.device
    image = _NativeImage(maps, device)
    tiles = _Tiles(image.sides, size or maps.size, device)
    for start in range(0, ensemble.members, AT_ONCE):
        members = [ensemble.folded(number) for number in range(start, min(start + AT_ONCE, ensemble.members))]
        for member, layer in zip(members, image.first_layers(members), strict=True):
            logits = torch.empty(*tiles.size, ensemble.classes, device=device)
            for rows, columns, first in tiles(layer):
                logits[rows, columns] = member.finish(first.flatten(0, 1)).view(*first.shape[:2], -1)
            yield logits


def predict(
    ensemble: PixelEnsemble, views: Sequence[ImageMaps], vote: Vote = "mean", size: tuple[int, int] | None = None
) -> Prediction:
    """Return what the ensemble says of an image, at `size` or else the size of the image.

    views: its maps, once or several times (other noise, flipped and flipped back); probabilities of a member are
    averaged over them.
    """
    return predict_each(ensemble, views, torch.zeros(1, ensemble.classes), vote, size)[0]


@torch.inference_mode()
def predict_each(
    ensemble: PixelEnsemble,
    views: Sequence[ImageMaps],
    offsets: Tensor,
    vote: Vote = "mean",
    size: tuple[int, int] | None = None,
) -> list[Prediction]:
    """Return what `predict` says with each of `offsets` [K, classes] added to the logits, in little more time."""
    answers = [Answers(vote) for _ in offsets]
    offsets = offsets.to(ensemble.first_weight.device)
    for logits in zip(*(member_logits(ensemble, view, size) for view in views), strict=True):
        for each, offset in zip(answers, offsets, strict=True):
            probability = (logits[0] + offset).softmax(dim=-1)
            for other in logits[1:]:
                probability += (other + offset).softmax(dim=-1)
            each.add(probability.div_(len(views)) if len(views) > 1 else probability)
    return [each.prediction() for each in answers]
