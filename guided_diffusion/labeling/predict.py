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

CPU_TILE = (16, 64)
"""Rows and columns of the image that are upsampled at once: with 256 hidden channels they fit a core's cache."""
GPU_TILE = (256, 256)


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

    def first_layer(self, member: FoldedMember) -> list[Tensor]:
        """Return the first layer without its bias at each resolution, [h, w, a]."""
        return [
            (table @ member.weight1[:, columns].T).unflatten(0, side)
            for table, columns, side in zip(self.tables, self.columns, self.sides, strict=True)
        ]


class _Tiles:
    """Upsamples maps of several resolutions to one size in one step each, adds them, and does so tile by tile."""

    def __init__(self, sides: Sequence[tuple[int, int]], size: tuple[int, int], device: torch.device):
        self.size = size
        self.tile = CPU_TILE if device.type == "cpu" else GPU_TILE
        self._rows = [[each.to(device) for each in axis(size[0], side[0])] for side in sides]
        self._matrices = [_across(size[1], side[1]).to(device) for side in sides]
        self._spans = [_spans(size[1], side[1], self.tile[1]) for side in sides]

    def __call__(self, maps: Sequence[Tensor]) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield rows, columns, and the sum there [rows, columns, a] of the upsampled `maps` [h, w, a]."""
        (height, width), (down, across) = self.size, self.tile
        for top in range(0, height, down):
            rows = slice(top, min(top + down, height))
            bands = [
                torch.lerp(each[lower[rows]], each[upper[rows]], weight[rows, None, None])
                for each, (lower, upper, weight) in zip(maps, self._rows, strict=True)
            ]
            for number, left in enumerate(range(0, width, across)):
                columns = slice(left, min(left + across, width))
                spans = [spans[number] for spans in self._spans]
                matrix = torch.cat([each[columns, span] for each, span in zip(self._matrices, spans, strict=True)], 1)
                sources = torch.cat([band[:, span] for band, span in zip(bands, spans, strict=True)], 1)
                yield rows, columns, torch.matmul(matrix, sources)


def _across(pixels: int, cells: int) -> Tensor:
    """Return the matrix [pixels, cells] of linear interpolation."""
    lower, upper, weight = axis(pixels, cells)
    matrix = torch.zeros(pixels, cells)
    matrix.scatter_add_(1, lower[:, None], 1 - weight[:, None])
    return matrix.scatter_add_(1, upper[:, None], weight[:, None])


def _spans(pixels: int, cells: int, step: int) -> list[slice]:
    """Return the cells that each `step` pixels lie between."""
    lower, upper, _ = axis(pixels, cells)
    starts = range(0, pixels, step)
    return [slice(int(lower[start]), int(upper[min(start + step, pixels) - 1]) + 1) for start in starts]


@torch.inference_mode()
def member_logits(ensemble: PixelEnsemble, maps: ImageMaps, size: tuple[int, int] | None = None) -> Iterator[Tensor]:
    """Yield the logits [H, W, classes] of each member, at `size` or else the size of the image.

    `maps` may lie on another device than the ensemble, on which the logits are.
    """
    device = ensemble.first_weight.device
    image = _NativeImage(maps, device)
    tiles = _Tiles(image.sides, size or maps.size, device)
    for number in range(ensemble.members):
        member = ensemble.folded(number)
        logits = torch.empty(*tiles.size, ensemble.classes, device=device)
        for rows, columns, first in tiles(image.first_layer(member)):
            logits[rows, columns] = member.finish(first.flatten(0, 1)).view(*first.shape[:2], -1)
        yield logits


@torch.inference_mode()
def predict(
    ensemble: PixelEnsemble, views: Sequence[ImageMaps], vote: Vote = "mean", size: tuple[int, int] | None = None
) -> Prediction:
    """Return what the ensemble says of an image, at `size` or else the size of the image.

    views: its maps, once or several times (other noise, flipped and flipped back); probabilities of a member are
    averaged over them.
    """
    answers = Answers()
    for logits in zip(*(member_logits(ensemble, view, size) for view in views), strict=True):
        answers.add(sum(each.softmax(dim=-1) for each in logits) / len(views))
    return answers.prediction(vote)
