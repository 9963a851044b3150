"""Has the generator copied training images?

Every sample is held against all training images under all flips and turns of them. A distance alone says little: two
bare, grey surfaces are always near each other. So it is set against the distances of the sample to its next
neighbours, as Carlini et al. 2023 do ("Extracting training data from diffusion models", section 5.1):

    ratio = distance to the nearest training image / median distance to the n nearest training images

The median (they take the mean) hardly moves when some of these are near-duplicates of each other. What ratio is
usual, the training images tell themselves: each is held against all the others (leave one out), as in Meehan et al.
2020 ("A non-parametric test to detect data-copying"), who also take distances among real images for the yardstick. A
sample is a suspected copy if its ratio is below

    threshold = 0.4 * median of the ratios of the training images

by any of the distances in use. For pixels there are two, both root mean squares in grey levels over images averaged
down to at most 32 pixels a side:

whole image: of all pixels.
best 75 %: of the best-matching 48 of the 8 x 8 blocks. A training image into which a defect was pasted stays near.

Both leave out a shift of brightness or colour of at most 10 grey levels: the median of the blocks' differences is
subtracted first, channel by channel.

The factor of 0.4 comes from trials with procedural lemons (48 and 64 pixels; 32, 64 and 128 training images) and with
magnetic tiles. Copies with noise of 4 grey levels, flips, turns, shifts of 8 grey levels and pasted defects had at most
0.32 of the median ratio, real images that were not used for training at least 0.44. The latter holds but for
near-duplicates: of 80 held-out photographs of tiles 6 show the cracks and holes of a training photograph under nearly
the same exposure; they have at most 0.14 and are flagged, rightly: as samples they would be copies. So read the share
of suspects beside `real_suspects`, the share of real held-out images that the same rule flags, and
`training_suspects`, the share of training images that nearly repeat another one. Where most do, the rule is of no use.

What the rule cannot see: copies at another place or scale, and copies of only a part of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evaluations.errors import EvaluationError
from evaluations.sets import Pixels

Values = NDArray[np.float64]
Indices = NDArray[np.int64]

WHOLE, TRIMMED, FEATURES = "whole image", "best 75 % of the image", "features"  # the distances
FACTOR = 0.4
NEIGHBOURHOOD = 50  # as Carlini et al.; at most half of the training images
FEWEST_TRAINING = 3
LONGEST_SIDE = 32  # pixels
BLOCKS = 8  # a side
KEPT = 48  # blocks of 64
MOST_SHIFT = 10.0  # grey levels
RESOLUTION = 1e-3  # distances below, in grey levels or of unit vectors, are rounding

SYMMETRIES = (
    "as it is",
    "mirrored left to right",
    "mirrored top to bottom",
    "turned by 180 degrees",
    "mirrored along the main diagonal",
    "turned right by 90 degrees",
    "turned left by 90 degrees",
    "mirrored along the other diagonal",
)
"""What `symmetry` numbers stand for; the last four only where images are square."""


@dataclass(frozen=True)
class Nearest:
    """The nearest training image of each of N images by one distance.

    distance: [N]. index: [N] of the training image. symmetry: [N], what was done to it, see SYMMETRIES.
    usual: [N], the median distance to the n nearest training images, n = 50 or half of the training images if fewer.
    """

    distance: Values
    index: Indices
    symmetry: Indices
    usual: Values

    @property
    def ratio(self) -> Values:
        """The distance over the usual one, [N] in 0..1; 1 where all neighbours are equally near."""
        return np.maximum(self.distance, RESOLUTION) / np.maximum(self.usual, RESOLUTION)


@dataclass(frozen=True)
class Memorisation:
    """Which of N samples are suspected copies, each by the distance that speaks most clearly for it.

    measure: N names of that distance. distance, index, symmetry, ratio: [N], by it; see Nearest.
    score: [N], the ratio over its threshold; below 1 the sample is suspected. thresholds: of the ratio, by distance.
    training_suspects: share of the training images that the rule flags when they are held against all others.
    real_suspects: share of the held-out real images that it flags; None without any.
    """

    measure: tuple[str, ...]
    distance: Values
    index: Indices
    symmetry: Indices
    ratio: Values
    score: Values
    thresholds: dict[str, float]
    training_suspects: float
    real_suspects: float | None

    @property
    def suspected(self) -> NDArray[np.bool_]:
        return self.score < 1

    @property
    def share(self) -> float:
        """The share of suspected copies among the samples."""
        return float(self.suspected.mean())

    def to_json(self) -> dict[str, Any]:
        """Return what json.dump takes: the shares and thresholds, and a record for each sample in order."""
        return {
            "share": self.share,
            "real_suspects": self.real_suspects,
            "training_suspects": self.training_suspects,
            "thresholds": dict(self.thresholds),
            "samples": [self._record(sample) for sample in range(len(self.score))],
        }

    def _record(self, sample: int) -> dict[str, Any]:
        return {
            "measure": self.measure[sample],
            "distance": float(self.distance[sample]),
            "training_index": int(self.index[sample]),
            "symmetry": SYMMETRIES[self.symmetry[sample]],
            "ratio": float(self.ratio[sample]),
            "score": float(self.score[sample]),
            "suspected": bool(self.suspected[sample]),
        }


# -------------------------------------------------------------------------------------------------- the rule


def judge_copies(
    found: Mapping[str, Nearest], training: Mapping[str, Nearest], held_out: Mapping[str, Nearest] | None = None
) -> Memorisation:
    """Apply the rule at the head of this file to distances of samples, training images and held-out real images.

    All mappings have the same keys, the names of the distances: join the results of nearest and nearest_features to
    have both. A sample is suspected if any of them says so.
    """
    assert found.keys() == training.keys()
    assert held_out is None or held_out.keys() == found.keys()
    thresholds = {name: FACTOR * float(np.median(part.ratio)) for name, part in training.items()}
    names, scores = list(found), _scores(found, thresholds)
    clearest, samples = scores.argmin(0), np.arange(scores.shape[1])

    def chosen(field: str) -> NDArray[Any]:
        return np.stack([getattr(found[name], field) for name in names])[clearest, samples]

    return Memorisation(
        measure=tuple(names[number] for number in clearest),
        distance=chosen("distance"),
        index=chosen("index"),
        symmetry=chosen("symmetry"),
        ratio=chosen("ratio"),
        score=scores[clearest, samples],
        thresholds=thresholds,
        training_suspects=_share(_scores(training, thresholds)),
        real_suspects=None if held_out is None else _share(_scores(held_out, thresholds)),
    )


def _scores(found: Mapping[str, Nearest], thresholds: Mapping[str, float]) -> Values:
    """Return [measures, N]: ratios over their thresholds."""
    return np.stack([found[name].ratio / thresholds[name] for name in found])


def _share(scores: Values) -> float:
    return float((scores < 1).any(0).mean())


def closest_pairs(result: Memorisation, count: int) -> Indices:
    """Return the indices of the `count` samples (or all, if fewer) that are most like copies, the worst first."""
    return np.argsort(result.score, kind="stable")[:count]


# ------------------------------------------------------------------------------------------------- symmetries


def apply_symmetry(images: NDArray[Any], symmetry: int) -> NDArray[Any]:
    """Return images [..., H, W, C] flipped or turned; the last four SYMMETRIES give [..., W, H, C]."""
    assert 0 <= symmetry < len(SYMMETRIES)
    if symmetry & 4:
        images = images.swapaxes(-3, -2)
    if symmetry & 2:
        images = np.flip(images, -3)
    if symmetry & 1:
        images = np.flip(images, -2)
    return images


def views(images: Pixels) -> Iterator[Pixels]:
    """Yield all flips and turns of `images` [N, H, W, C] one after the other, in the order of SYMMETRIES.

    Images that are not square have no turns by 90 degrees: four views, not eight.
    """
    return (apply_symmetry(images, symmetry) for symmetry in _symmetries_of(images))


def _symmetries_of(images: Pixels) -> range:
    return range(len(SYMMETRIES) if images.shape[1] == images.shape[2] else len(SYMMETRIES) // 2)


# ------------------------------------------------------------------------------------------------- neighbours


def nearest(samples: Pixels, training: Pixels, *, device: str | torch.device = "cpu") -> dict[str, Nearest]:
    """Return the nearest of `training` [T, H, W, 3] for each of `samples` [N, H, W, 3] by both distances of pixels.

    Both uint8, of one size. Takes at most 10 microseconds of one core for each pair of a sample and a view of a
    training image, 200 MB, and 24 kB for each view.

    Raises EvaluationError for fewer than 3 training images, no samples and differing sizes.
    """
    if samples.shape[1:] != training.shape[1:]:
        (height, width), (training_height, training_width) = samples.shape[1:3], training.shape[1:3]
        raise EvaluationError(
            f"memorisation: images of {width} x {height} and training images of {training_width} x {training_height} "
            "pixels; bring both to one size"
        )
    return _nearest_pixels(samples, training, device, leave_one_out=False)


def nearest_other(training: Pixels, *, device: str | torch.device = "cpu") -> dict[str, Nearest]:
    """Return the nearest of all the others for each of `training` [T, H, W, 3]; as nearest otherwise."""
    return _nearest_pixels(training, training, device, leave_one_out=True)


def nearest_features(samples: NDArray[np.floating], training: NDArray[np.floating]) -> dict[str, Nearest]:
    """Return the nearest training image for each sample by its features.

    samples: [N, D]. training: [V, T, D], of all views of the training images (see views).
    The distance is the Euclidean one of features scaled to unit length, sqrt(2 - 2 cosine), in 0..2. Raises as nearest.
    """
    return _nearest_features(samples, training, leave_one_out=False)


def nearest_other_features(training: NDArray[np.floating]) -> dict[str, Nearest]:
    """Return the nearest of all the others for each training image by its features [V, T, D]; see nearest_features."""
    return _nearest_features(training[0], training, leave_one_out=True)


def _nearest_pixels(
    samples: Pixels, training: Pixels, device: str | torch.device, *, leave_one_out: bool
) -> dict[str, Nearest]:
    _check_counts(len(samples), len(training))
    grey = all((images == images[..., :1]).all() for images in (samples, training))
    channels = slice(1) if grey else slice(None)
    queries, small = (_shrink(images[..., channels], device) for images in (samples, training))
    blocks = [_Blocks.of(apply_symmetry(small, symmetry), device) for symmetry in _symmetries_of(training)]

    def distances(rows: slice, view: int) -> Tensor:
        return _pixel_distances(_Blocks.of(queries[rows], device), blocks[view])

    return _search((WHOLE, TRIMMED), distances, len(samples), len(training), len(blocks), leave_one_out)


def _nearest_features(
    samples: NDArray[np.floating], training: NDArray[np.floating], *, leave_one_out: bool
) -> dict[str, Nearest]:
    _check_counts(len(samples), training.shape[1])
    unit = torch.nn.functional.normalize
    queries, keys = (unit(torch.from_numpy(np.asarray(part, np.float64)), dim=-1) for part in (samples, training))

    def distances(rows: slice, view: int) -> Tensor:
        return _squared_distances(queries[None, rows], keys[None, view]).sqrt()

    return _search((FEATURES,), distances, len(samples), keys.shape[1], len(keys), leave_one_out)


def _check_counts(num_samples: int, num_training: int) -> None:
    if num_training < FEWEST_TRAINING:
        raise EvaluationError(
            f"memorisation: {num_training} training image(s) found, at least {FEWEST_TRAINING} are needed to tell "
            "which distances are usual; add images or leave this measurement out"
        )
    if not num_samples:
        raise EvaluationError("memorisation: no images to hold against the training images; sample some first")


def _search(
    names: tuple[str, ...],
    distances: Callable[[slice, int], Tensor],
    num_samples: int,
    num_training: int,
    num_views: int,
    leave_one_out: bool,
) -> dict[str, Nearest]:
    """Return the nearest by each distance; `distances(rows, view)` gives [len(names), rows, num_training]."""
    neighbours = max(2, min(NEIGHBOURHOOD, num_training // 2))
    chunk = max(1, 2**15 // num_training)  # pairs: what bounds the memory
    parts = []
    for start in range(0, num_samples, chunk):
        rows = slice(start, min(start + chunk, num_samples))
        closest, symmetry = torch.stack([distances(rows, view) for view in range(num_views)]).min(0)
        if leave_one_out:
            own = torch.arange(rows.start, rows.stop)
            closest[:, own - start, own] = torch.inf
        found = closest.topk(neighbours, largest=False)
        middle = found.values[..., (neighbours - 1) // 2 : neighbours // 2 + 1].mean(-1)
        first = found.indices[..., :1]
        fields = (found.values[..., 0], first[..., 0], symmetry.gather(-1, first)[..., 0], middle)
        parts.append([field.cpu().numpy() for field in fields])
    distance, index, symmetry_of, usual = (np.concatenate(field, axis=1) for field in zip(*parts, strict=True))
    return {name: Nearest(distance[n], index[n], symmetry_of[n], usual[n]) for n, name in enumerate(names)}


# ------------------------------------------------------------------------------------------- distances of pixels


class _Blocks(NamedTuple):
    """N images cut into K blocks of P pixels: values [K, N, P * C], their means over the pixels [K, N, C]."""

    values: Tensor
    means: Tensor

    @staticmethod
    def of(images: Values, device: str | torch.device) -> _Blocks:
        """Cut images [N, H, W, C] whose sides are multiples of BLOCKS."""
        count, height, width, channels = images.shape
        tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        blocks = tensor.reshape(count, BLOCKS, height // BLOCKS, BLOCKS, width // BLOCKS, channels)
        blocks = blocks.permute(1, 3, 0, 2, 4, 5).reshape(BLOCKS**2, count, -1, channels)
        return _Blocks(blocks.flatten(2), blocks.mean(2))


def _shrink(images: Pixels, device: str | torch.device) -> Values:
    """Return images [N, H, W, C] area-averaged to at most 32 pixels a side, float64.

    Sides become the nearest multiple of 8, so that they fall into blocks.
    """
    assert images.dtype == np.uint8
    height, width = images.shape[1:3]
    assert min(height, width) >= BLOCKS, "images are at least 8 pixels a side"
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    target = [BLOCKS * max(1, round(side * scale / BLOCKS)) for side in (height, width)]
    pool = torch.nn.AdaptiveAvgPool2d(target)
    # One by one: as floating-point numbers at full size, a whole set would take eight times its bytes.
    tensors = (torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1).double() for image in images)
    return torch.stack([pool(tensor) for tensor in tensors]).permute(0, 2, 3, 1).cpu().numpy()


def _pixel_distances(samples: _Blocks, training: _Blocks) -> Tensor:
    """Return [2, N, T] in grey levels: RMS of the whole images and of their best blocks, less a common shift."""
    squares = _squared_distances(samples.values, training.values).float().permute(1, 2, 0)
    num_channels = samples.means.shape[-1]
    num_pixels = samples.values.shape[-1] // num_channels
    for channel in range(num_channels):
        difference = samples.means[:, :, None, channel] - training.means[:, None, :, channel]
        difference = difference.float().permute(1, 2, 0).contiguous()  # [N, T, K]
        # Blocks that are copied agree on the shift; as long as they are the majority, the median is theirs.
        shift = difference.median(-1, keepdim=True).values.clamp(-MOST_SHIFT, MOST_SHIFT)
        # The sum of (d - s)^2 over a block's pixels, whose d have this mean, is that of d^2 plus:
        squares = squares + num_pixels * shift * (shift - 2 * difference)
    squares = squares.clamp_min(0) / (num_channels * num_pixels)
    best = squares.topk(KEPT, dim=-1, largest=False, sorted=False).values
    return torch.stack([squares.mean(-1), best.mean(-1)]).double().sqrt()


def _squared_distances(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared Euclidean distances [K, N, T] of the rows of [K, N, D] and of [K, T, D].

    In float64, because the terms nearly cancel where two rows are alike; no TensorFloat-32 either.
    """
    assert first.dtype == second.dtype == torch.float64
    norms = first.square().sum(-1)[:, :, None] + second.square().sum(-1)[:, None]
    return (norms - 2 * first @ second.transpose(1, 2)).clamp_min(0)
