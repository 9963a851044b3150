"""Classes that masks have and the model does not see: too small at its scale, or outside what `crop` leaves.

This is the rule of nearest pixels; `lost_by_area` has the area rule. Windows lie anywhere, so they cut nothing off.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.masks.inference import MaskFacts
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.transforms import JointTransform, Placement

Codes = NDArray[np.bool_]
"""[K]: for each of the distinct codes of a mask, whether it is there."""

_FACTORS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # of image_size: sizes that are tried
_LARGEST = 4096  # side of an image_size
_MUCH = 0.05  # share of the masks with a class from which its loss is a warning
_MOST = 0.9
_NAMES = 12


@dataclass(frozen=True)
class CodesLeft:
    """What resizing leaves of the K distinct codes of a mask that loses some."""

    scaled: Codes  # after scaling the whole picture
    placed: Codes  # and after cropping
    factor: NDArray[np.int64]  # [K]: from so many times image_size or scale on the code is left; 0: at none tried
    elsewhere: tuple[tuple[str, Codes], ...]  # what other values of `resize` leave


@dataclass(frozen=True)
class MaskLoss:
    """The classes, other than the background, that one mask loses."""

    path: str
    classes: tuple[int, ...]
    empty: bool  # only background and ignored pixels are left


@dataclass(frozen=True)
class ClassLoss:
    """In how many masks a class is lost, and how it would be kept."""

    masks: int  # that have it
    scaling: int = 0  # lose it by scaling
    cropping: int = 0  # lose it by cropping
    factors: tuple[int, ...] = ()  # for each mask that loses it by scaling, see `CodesLeft`
    kept: tuple[tuple[str, int], ...] = ()  # (resize, in how many of those that lose it by cropping it keeps it)


def codes_left(values: NDArray[np.integer], codes: NDArray[np.integer], transform: JointTransform) -> CodesLeft | None:
    """Return what `transform` leaves of the distinct `codes` of `values` [H, W], None if all of them."""
    assert not transform.train
    placement, crops = transform.place(values.shape), transform.resize != "window"
    if placement.scaled == values.shape and not crops:
        return None
    placed = _present(values, codes, placement, window=crops)
    if placed.all():
        return None
    scaled = _present(values, codes, placement)
    others = other_resizes(transform) if not np.array_equal(placed, scaled) else ()
    elsewhere = tuple(
        (resize, _present(values, codes, replace(transform, resize=resize).place(values.shape), window=True))
        for resize in others
    )
    factor = np.ones(len(codes), np.int64) if scaled.all() else _factors(values, codes, scaled, transform)
    return CodesLeft(scaled, placed, factor, elsewhere)


def other_resizes(transform: JointTransform) -> tuple[str, ...]:
    """Return the values of `resize` that cut nothing off."""
    return tuple(sorted({"pad", "squash"} - {transform.resize}))


def larger(transform: JointTransform, factor: int) -> JointTransform | None:
    """Return the transform with `factor` times its image_size, or scale for windows; None above 4096 px."""
    if transform.resize == "window":
        return replace(transform, scale=min(1.0, transform.scale * factor))
    size = (transform.image_size[0] * factor, transform.image_size[1] * factor)
    return None if max(size) > _LARGEST else replace(transform, image_size=size)


def _present(values: NDArray, codes: NDArray, placement: Placement, *, window: bool = False) -> Codes:
    """Return which codes are there after scaling, and in the window of the placement if `window`."""
    indices = [index.numpy() for index in placement.sampled(values.shape)]
    if window:
        indices = [
            index[max(0, start) : max(0, start + length)]
            for index, start, length in zip(indices, placement.offset, placement.size, strict=True)
        ]
    # Where a picture is enlarged, its pixels repeat.
    rows, columns = (np.unique(index) for index in indices)
    return np.isin(codes, np.unique(values[rows[:, None], columns]))


def _factors(values: NDArray, codes: NDArray, scaled: Codes, transform: JointTransform) -> NDArray[np.int64]:
    """Return the least factor (see `larger`) from which on each code is left by scaling, 0 if none is."""
    least = scaled.astype(np.int64)
    pixels = {int(lost): np.nonzero(values == codes[lost]) for lost in np.flatnonzero(~scaled)}
    for factor in _FACTORS:
        changed = larger(transform, factor)
        if changed is None:
            break
        placement = changed.place(values.shape)
        sampled = [np.zeros(length, np.bool_) for length in values.shape]
        for flags, index in zip(sampled, placement.sampled(values.shape), strict=True):
            flags[index.numpy()] = True
        for lost, (rows, columns) in pixels.items():
            present = (sampled[0][rows] & sampled[1][columns]).any()
            least[lost] = (least[lost] or factor) if present else 0
        if all(flags.all() for flags in sampled):
            break
    return least


def count_losses(
    masks: Sequence[tuple[MaskFacts, CodesLeft | None]], encoding: LabelEncoding, background: int
) -> tuple[list[ClassLoss], list[MaskLoss]]:
    """Return the losses of each class, and of each mask that loses any."""
    count = encoding.num_classes
    having = np.zeros(count + 1, np.int64)
    lost: list[list[tuple[CodesLeft, Codes]]] = [[] for _ in range(count)]
    masks_with_loss = []
    for facts, left in masks:
        label = encoding.lookup(facts.raw)
        present = np.unique(label[label >= 0])
        having[present] += 1
        if left is None:
            continue
        remaining = set(label[left.placed].tolist())
        gone = [index for index in present.tolist() if index < count and index not in remaining]
        for index in gone:
            lost[index].append((left, label == index))
        if classes := tuple(index for index in gone if index != background):
            masks_with_loss.append(MaskLoss(facts.path, classes, empty=remaining <= {background, count}))
    return [_class_loss(int(number), cases) for number, cases in zip(having[:-1], lost, strict=True)], masks_with_loss


def _class_loss(masks: int, cases: Sequence[tuple[CodesLeft, Codes]]) -> ClassLoss:
    """Return the loss of one class; `cases`: for each mask that loses it what is left, and the codes of the class."""
    scaled = [(left, codes) for left, codes in cases if not left.scaled[codes].any()]
    cropped = [(left, codes) for left, codes in cases if left.scaled[codes].any()]
    # A class is kept as soon as one of its codes is.
    factors = [min((int(f) for f in left.factor[codes] if f), default=0) for left, codes in scaled]
    kept: dict[str, int] = {}
    for left, codes in cropped:
        for resize, present in left.elsewhere:
            kept[resize] = kept.get(resize, 0) + bool(present[codes].any())
    return ClassLoss(masks, len(scaled), len(cropped), tuple(factors), tuple(kept.items()))


def loss_problems(
    losses: Sequence[ClassLoss], names: Sequence[str], background: int, transform: JointTransform
) -> list[Problem]:
    """Return a warning for each class, except the background, that many of its masks lose."""
    problems = []
    for index, loss in enumerate(losses):
        if index == background or not _is_much(loss):
            continue
        where = f"class {index}"
        if loss.scaling:
            found = f"{names[index]!r} is lost by scaling to {_setting(transform, 1)} in "
            found += f"{_share(loss.scaling, loss.masks)}: not a pixel of it is left"
            remedy = _larger_size(loss.factors, transform)
            problems.append((where, found, remedy, ProblemKind.LOST_BY_SCALING))
        if loss.cropping:
            found = f"{names[index]!r} is outside the window of resize crop in {_share(loss.cropping, loss.masks)}: "
            found += "sampling, previews and evaluation, which crop at the center, do not see it there; the "
            found += "random crops of training may"
            problems.append((where, found, _other_resize(loss), ProblemKind.LOST_BY_CROPPING))
    return [Problem(*problem, fatal=False) for problem in problems]


def _is_much(loss: ClassLoss) -> bool:
    return loss.scaling + loss.cropping >= max(1, _MUCH * loss.masks)


def loss_note(losses: Sequence[ClassLoss], names: Sequence[str], background: int, transform: JointTransform) -> str:
    """Return a line on the classes, except the background, that too few masks lose for a warning; "" without any."""
    few = [
        (name, loss)
        for index, (name, loss) in enumerate(zip(names, losses, strict=True))
        if index != background and loss.scaling + loss.cropping and not _is_much(loss)
    ]
    parts = []
    if scaled := {name: (loss.scaling, loss.masks) for name, loss in few if loss.scaling}:
        factors = [factor for _, loss in few for factor in loss.factors]
        parts.append(f"{_shares(scaled)} by scaling to {_setting(transform, 1)}; {_larger_size(factors, transform)}")
    if cropped := {name: (loss.cropping, loss.masks) for name, loss in few if loss.cropping}:
        kept = Counter[str]()
        for _, loss in few:
            kept.update(dict(loss.kept))
        total = ClassLoss(0, cropping=sum(count for count, _ in cropped.values()), kept=tuple(kept.items()))
        parts.append(f"{_shares(cropped)} by resize crop; {_other_resize(total)}")
    return f"few masks lose a class: {'; '.join(parts)}" if parts else ""


def _shares(lost: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name!r} is lost in {count} of {masks} masks" for name, (count, masks) in lost.items())


def _share(count: int, masks: int) -> str:
    return "the only mask that has it" if masks == 1 else f"{count} of the {masks} masks that have it"


def _setting(transform: JointTransform, factor: int) -> str:
    """Return the key and value that decide about the scale, `factor` times as large."""
    if transform.resize == "window":
        return f"scale {min(1.0, transform.scale * factor):.4g}"
    height, width = (side * factor for side in transform.image_size)
    return f"image_size {height}" if height == width else f"image_size [{height}, {width}]"


def _larger_size(factors: Sequence[int], transform: JointTransform) -> str:
    """Return the remedy of scaling: what keeps a class in most and in all of the masks that lose it."""
    windows = transform.resize == "window"
    other = "" if windows else ", or cut the pictures into smaller ones around it"
    if not transform.masks_by_area:
        other = f", or set mask_resize to area, which keeps thin parts{other}"
    reached = sorted(factor for factor in factors if factor)
    if not reached:
        if windows:
            return f"use scale 1, which keeps everything{other}"
        return f"cut the pictures into smaller ones around it: no image_size up to {_LARGEST} keeps it"
    share = f"all {len(factors)}" if len(reached) == len(factors) else f"{len(reached)} of {len(factors)}"
    share = "this one" if len(factors) == 1 else f"{share} of these"
    text = f"use {_setting(transform, reached[-1])}, which keeps it in {share}"
    most = reached[max(0, int(np.ceil(_MOST * len(reached))) - 1)]
    if most < reached[-1]:
        count = sum(factor <= most for factor in reached)
        text += f" ({_setting(transform, most)} in {count})"
    return text + other


def _other_resize(loss: ClassLoss) -> str:
    kept = [(resize, count) for resize, count in loss.kept if count]
    if not kept:
        return "use resize pad or squash with a larger image_size, or cut the pictures into smaller ones around it"
    values = " or ".join(resize for resize, _ in kept)
    counts = " and ".join(str(count) for _, count in kept)
    share = "this one" if loss.cropping == 1 else f"{counts} of these {loss.cropping}"
    return f"set resize to {values}, which keeps it in {share}"


def written_losses(used: Sequence[str], losses: Sequence[MaskLoss], names: Sequence[str]) -> str:
    """Return what sampling has to say of the masks it wrote, made from the masks of the paths `used`; "" if nothing."""
    by_path = {loss.path: loss for loss in losses}
    lost = [by_path[path] for path in used if path in by_path]
    if not lost:
        return ""
    counts = {name: sum(index in loss.classes for loss in lost) for index, name in enumerate(names)}
    classes = ", ".join(f"{name} in {count}" for name, count in counts.items() if count)
    text = f"{len(lost)} of {len(used)} masks written lost a class of their source by scaling or cropping ({classes})"
    empty = sorted({os.path.basename(loss.path) for loss in lost if loss.empty})
    if empty:
        shown = ", ".join(empty[:_NAMES]) + (", ..." if len(empty) > _NAMES else "")
        count = sum(loss.empty for loss in lost)
        left = "is empty, only background is left in it" if count == 1 else "are empty, only background is left in them"
        text += f"; {count} {left}: {shown}"
    return text
