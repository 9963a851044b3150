"""Defects of other images put into a good image: copied, with the brightness matched, or Poisson-blended.

All functions take a patch [h, w] or [h, w, C] whose first pixel lands on (top, left) of the good image, all of it
inside, and a mask [h, w] of what is replaced. A patch should reach a pixel farther than its mask on each side, as both
methods use what surrounded the defect. Unknown pixels of float patches are NaN; pastes need all under the mask. Results
have the good image's type: integers are rounded and clipped to those of the type.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu

Image = NDArray[Any]
Mask = NDArray[np.bool_]
Values = NDArray[np.float64]

_CROSS = ndimage.generate_binary_structure(2, 1)  # a pixel and its 4-neighbors
_STEPS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def paste(good: Image, patch: Image, mask: Mask, top: int, left: int, match: bool) -> Image:
    """Return the good image with the patch's pixels under the mask.

    match: shifts the patch, channel by channel, so that its mean over the rim is the good image's mean there. The rim
    is the known pixels of the patch just outside the mask or, where it has none, those just inside.
    """
    frame = _checked(good, patch, mask, top, left)
    source, under = patch.astype(np.float64), good[frame].astype(np.float64)
    if match:
        known = ~np.isnan(source) if source.ndim == 2 else ~np.isnan(source).any(-1)
        # A thin defect is all edge: matching the mask's own pixels would wipe it out.
        rim = ndimage.binary_dilation(mask, _CROSS) & ~mask & known
        if not rim.any():
            rim = mask & ~ndimage.binary_erosion(mask, _CROSS) & known
        if rim.any():
            source = source + (under[rim] - source[rim]).mean(0)
    return _with(good, frame, mask, source[mask])


def poisson_blend(good: Image, patch: Image, mask: Mask, top: int, left: int) -> Image:
    """Return the good image with the patch's gradients under the mask (Pérez et al. 2003, eq. 7 with eq. 11).

    Unknown gradients are 0; across the border of the image there are none. A mask that covers the whole image leaves
    nothing to blend with: plain paste.
    """
    frame = _checked(good, patch, mask, top, left)
    if mask.all() and mask.shape == good.shape[:2]:
        return paste(good, patch, mask, top, left, False)
    if not mask.any():
        return good.copy()
    # With a ring of one pixel, so that what lies outside this array lies outside the image, too.
    outer = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in frame)
    known = good[outer].astype(np.float64)
    inner = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(frame, outer, strict=True))
    source, inside = np.full_like(known, np.nan), np.zeros(known.shape[:2], np.bool_)
    source[inner], inside[inner] = patch, mask
    return _with(good, frame, mask, _solve(known, source, inside))


def _solve(known: Values, source: Values, inside: Mask) -> Values:
    """Return the pixels [N] or [N, C] of `inside` that solve eq. 7, in the order of numpy's boolean index."""
    height, width = inside.shape
    row, column = np.nonzero(inside)
    count = len(row)
    number = np.full(inside.shape, -1)
    number[row, column] = np.arange(count)
    degree, right = np.zeros(count), np.zeros((count, *known.shape[2:]))
    pairs = []
    for down, across in _STEPS:
        y, x = row + down, column + across
        p = np.flatnonzero((y >= 0) & (y < height) & (x >= 0) & (x < width))
        here, there = (row[p], column[p]), (y[p], x[p])
        degree[p] += 1
        right[p] += np.nan_to_num(source[here] - source[there])
        unknown = inside[there]
        right[p[~unknown]] += known[there][~unknown]
        pairs.append((p[unknown], number[there][unknown]))
    rows, columns = (np.concatenate(part) for part in zip(*pairs, strict=True))
    laplacian = sparse.diags(degree) - sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), (count, count))
    # Symmetric and diagonally dominant: a fill-reducing order for such matrices, and no pivoting.
    factors = splu(
        laplacian.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return factors.solve(right)


def _checked(good: Image, patch: Image, mask: Mask, top: int, left: int) -> tuple[slice, slice]:
    """Return the part of the good image that the patch covers."""
    height, width = mask.shape
    assert mask.dtype == np.bool_
    assert patch.shape == (height, width, *good.shape[2:]), "the patch has the mask's size and the image's channels"
    assert 0 <= top <= good.shape[0] - height, "the patch reaches beyond the image"
    assert 0 <= left <= good.shape[1] - width, "the patch reaches beyond the image"
    return slice(top, top + height), slice(left, left + width)


def _with(good: Image, frame: tuple[slice, slice], mask: Mask, values: Values) -> Image:
    assert not np.isnan(values).any(), "the patch does not know all pixels under the mask"
    if good.dtype.kind in "iu":
        kind = np.iinfo(good.dtype)
        values = np.clip(np.round(values), kind.min, kind.max)
    result = good.copy()
    result[frame][mask] = values
    return result
