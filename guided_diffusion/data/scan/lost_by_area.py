"""Classes that the area rule loses: found after the meaning of the mask values is known, in the few masks that need it.

A code that fills a pixel of the reduced mask keeps its class, whatever the codes mean. Only masks with other codes are
read again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.area import Span, reduce_label_at
from guided_diffusion.data.counting import value_counts
from guided_diffusion.data.files import open_mask
from guided_diffusion.data.masks.encoding import LabelEncoding, raw_mask
from guided_diffusion.data.masks.inference import MaskFacts
from guided_diffusion.data.scan.lost_classes import CodesLeft, larger, other_resizes
from guided_diffusion.data.transforms import JointTransform, Placement

_PIXELS = 1 << 16  # of the mask that are looked at at a time
_FACTORS = (2, 4, 8, 16, 32, 64, 128)  # of image_size or scale: what is tried


def may_lose(values: NDArray[np.integer], codes: NDArray[np.integer], transform: JointTransform) -> bool:
    """Return whether the area rule may lose some of the distinct `codes` of `values` [H, W], by what they mean."""
    placement, crops = transform.place(values.shape), transform.resize == "crop"
    if placement.scaled == values.shape and not crops:
        return False
    filled, value = np.ones((1, 1), np.bool_), values
    spans = _spans(placement, seen=crops)
    for axis, (old, new, span) in enumerate(zip(values.shape, placement.scaled, spans, strict=True)):
        pixels = np.arange(*span, dtype=np.int64)
        first, last = pixels * old // new, -(-(pixels + 1) * old // new) - 1
        chosen = value.take(first, axis)
        equal = np.ones((1, 1), np.bool_) if axis == 0 else filled.take(first, axis)
        for step in range(1, int((last - first).max(initial=0)) + 1):
            others = np.minimum(first + step, last)
            equal = equal & (value.take(others, axis) == chosen)
            if axis == 1:
                equal &= filled.take(others, axis)
        filled, value = np.broadcast_to(equal, chosen.shape), chosen
    return not np.isin(codes, np.unique(value[filled])).all()


def left_by_area(
    path: str, upright: bool, facts: MaskFacts, encoding: LabelEncoding, transform: JointTransform
) -> CodesLeft | None:
    """Return `classes_left` of the mask file that `facts` were learned of; None for one with unknown values."""
    label = encoding.lookup(raw_mask(open_mask(path, upright=upright), path))
    if label.min() < 0:
        return None
    return classes_left(label, encoding.lookup(facts.raw), transform, encoding.num_classes)


def classes_left(
    label: NDArray[np.integer], of_codes: NDArray[np.integer], transform: JointTransform, null_id: int
) -> CodesLeft | None:
    """Return what `transform` leaves of the codes of a mask by the area rule, None if every class of it.

    label: class ids [H, W] in `0..null_id`. of_codes: [K], the classes of the distinct codes. A code is left where its
    class is.
    """
    label = label.astype(np.uint8 if null_id < 256 else np.uint16)
    classes, counts = set(of_codes.tolist()) - {null_id}, value_counts(label, null_id + 1)
    taken = partial(_is_taken, label, counts, {"background": transform.background, "null_id": null_id})

    def lost(changed: JointTransform, wanted: set[int], *, seen: bool) -> set[int]:
        placement = changed.place(label.shape)
        spans = _spans(placement, seen=seen)
        return {each for each in wanted if not taken(each, placement.scaled, spans)}

    gone = lost(transform, classes, seen=transform.resize == "crop")
    if not gone:
        return None
    by_scaling = lost(transform, gone, seen=False) if transform.resize == "crop" else gone

    def flags(some: set[int]) -> NDArray[np.bool_]:
        return ~np.isin(of_codes, list(some))

    others = other_resizes(transform) if gone != by_scaling else ()
    elsewhere = tuple((resize, flags(lost(replace(transform, resize=resize), gone, seen=True))) for resize in others)
    factor = np.ones(len(of_codes), np.int64)
    factor[~flags(by_scaling)] = 0
    for times in _FACTORS if by_scaling else ():
        changed = larger(transform, times)
        if changed is None:
            break
        still = lost(changed, by_scaling, seen=False)
        factor[(factor == 0) & flags(still)] = times
        factor[~flags(still)] = 0
        if all(new >= old for new, old in zip(changed.place(label.shape).scaled, label.shape, strict=True)):
            break
    return CodesLeft(flags(by_scaling), flags(gone), factor, elsewhere)


def _is_taken(
    label: NDArray[np.integer],
    counts: NDArray[np.int64],
    rule: dict[str, int],
    class_id: int,
    scaled: Size,
    spans: tuple[Span, Span],
) -> bool:
    """Return whether a pixel of the scaled map, in these rows and columns of it, takes a class."""
    height, width = label.shape
    if scaled == label.shape:
        return bool((label[slice(*spans[0]), slice(*spans[1])] == class_id).any())
    step = max(1, _PIXELS // width)
    for top in range(0, height, step):
        found = np.nonzero(label[top : top + step] == class_id)
        if not len(found[0]):
            continue
        touched = _touched((found[0] + top, found[1]), (height, width), scaled, spans)
        chunk = max(1, _PIXELS * scaled[0] * scaled[1] // (height * width) // 4)
        for start in range(0, len(touched), chunk):
            rows, columns = np.divmod(touched[start : start + chunk], scaled[1])
            if (reduce_label_at(label, counts, scaled, rows, columns, **rule) == class_id).any():
                return True
    return False


def _touched(
    pixels: tuple[NDArray[np.int64], NDArray[np.int64]], size: Size, scaled: Size, spans: tuple[Span, Span]
) -> NDArray[np.int64]:
    """Return which pixels of the scaled map, numbered row by row, cover a part of some pixels (rows, columns)."""
    axes = []
    for index, old, new, (start, end) in zip(pixels, size, scaled, spans, strict=True):
        first, last = index * new // old, -(-(index + 1) * new // old) - 1
        steps = range(int((last - first).max(initial=0)) + 1)
        covering = [np.minimum(first + step, last) for step in steps]
        axes.append([np.where((start <= each) & (each < end), each, -1) for each in covering])
    numbered = [
        np.where((row >= 0) & (column >= 0), row * scaled[1] + column, -1) for row in axes[0] for column in axes[1]
    ]
    touched = np.unique(np.concatenate(numbered))
    return touched[touched >= 0]


def _spans(placement: Placement, *, seen: bool) -> tuple[Span, Span]:
    """Return the rows and columns of the scaled picture, or of what is `seen` of it."""
    return placement.seen if seen else ((0, placement.scaled[0]), (0, placement.scaled[1]))
