"""What callers give to a pipeline from Python, checked: conditions, and what is known of images."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from guided_diffusion.conditions.base import Condition
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.data.masks.encoding import edges_from_instances
from guided_diffusion.runtime.errors import DataError

Given = SemanticMap | LayoutCondition | NoCondition | ArrayLike
"""Conditions: label maps [N, H, W], of integers or a SemanticMap, layouts, or none."""


class Drawer(Protocol):
    """What draws the images, as far as it says what it takes."""

    options: NetworkConfig
    image_shape: tuple[int, ...]  # (channels, height, width)
    num_classes: int
    conditional: bool
    with_edges: bool


def checked_region(pipeline: Drawer, known: KnownRegion | tuple[ArrayLike, ArrayLike], count: int) -> KnownRegion:
    """Return the checked images and holes of `count` samples.

    Raises DataError for a network that fills no holes, and for arrays of another shape, type or range.
    """
    if not pipeline.options.model.inpaint:
        raise DataError.of("known", "the network fills no holes", "leave it out, or train one with inpaint true")
    pair = (known.image, known.hole) if isinstance(known, KnownRegion) else known
    try:
        image, hole = (torch.as_tensor(part).cpu() for part in pair)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError.of("known", f"no two arrays ({error})", "give (images, holes)") from None
    for name, array, shape in (("images", image, pipeline.image_shape), ("holes", hole, pipeline.image_shape[1:])):
        if array.shape != (count, *shape):
            found = f"{name} of shape {list(array.shape)}"
            raise DataError.of("known", found, f"give {name} of shape {[count, *shape]}")
    if not image.is_floating_point() or not (image.abs() <= 1).all():
        found = f"images of type {str(image.dtype).removeprefix('torch.')}, or with values beyond -1 and 1"
        raise DataError.of("known", found, "give floating point images in [-1, 1]")
    if hole.dtype != torch.bool:
        found = f"holes of type {str(hole.dtype).removeprefix('torch.')}"
        raise DataError.of("known", found, "give booleans, true where the image is to be filled")
    return KnownRegion(image.float(), hole)


def checked_condition(pipeline: Drawer, conditions: Given) -> Condition:
    """Return the network's condition: checked label maps [N, H, W], with edges where it was trained with them.

    Raises DataError for maps of another size or type, or with values that are not classes.
    """
    if isinstance(conditions, NoCondition):
        if pipeline.conditional or conditions.size != pipeline.image_shape[1:]:
            takes = "label maps" if pipeline.conditional else f"conditions of size {list(pipeline.image_shape[1:])}"
            found = f"found NoCondition of size {list(conditions.size)}, but the model takes {takes}"
            raise DataError.of("conditions", found, "give one for each image")
        return conditions
    if isinstance(conditions, LayoutCondition) or pipeline.options.model.condition == "boxes":
        return _checked_layouts(pipeline, conditions)
    if isinstance(conditions, SemanticMap):
        if conditions.num_classes != pipeline.num_classes:
            found = f"found {conditions.num_classes} classes"
            raise DataError.of("conditions", found, f"give maps of the {pipeline.num_classes} classes of the model")
        if (conditions.edge is not None) != pipeline.with_edges:
            found = f"found maps with{'out' if pipeline.with_edges else ''} instance edges, unlike in training"
            raise DataError.of("conditions", found, "give label maps as integers, whose edges are made here")
        _check_labels(pipeline, conditions.label)
        return conditions
    array = conditions.numpy(force=True) if isinstance(conditions, Tensor) else np.asarray(conditions)
    if array.dtype.kind not in "iub":
        raise DataError.of("conditions", f"found type {array.dtype}", "give integers, the class of each pixel")
    label = torch.from_numpy(array.astype(np.int64))
    _check_labels(pipeline, label)
    edge = edges_from_instances(label.int()) if pipeline.with_edges else None
    return SemanticMap(label.to(torch.uint8 if pipeline.num_classes < 256 else torch.int16), pipeline.num_classes, edge)


def _checked_layouts(pipeline: Drawer, given: Given) -> LayoutCondition:
    model, height, width = pipeline.options.model, *pipeline.image_shape[1:]
    if model.condition != "boxes" or not isinstance(given, LayoutCondition):
        kinds = {"boxes": "a LayoutCondition", "mask": "label maps"}
        found = f"found {type(given).__name__}, but the model takes {kinds.get(model.condition, 'no condition')}"
        raise DataError.of("conditions", found, "give one for each image")
    facts = {
        "num_classes": (given.num_classes, pipeline.num_classes),
        "size": (tuple(given.size), (height, width)),
        "style": (given.style.shape[2], model.style_dim),
        "background": (given.background, pipeline.options.boxes.background),
    }
    for name, (found, wanted) in facts.items():
        if found != wanted:
            line = f"found layouts with {name} {found}, but the model takes {wanted}"
            raise DataError.of("conditions", line, "make them as the model was trained")
    wrong = ((given.label < 0) | (given.label > given.num_classes)).nonzero()
    if len(wrong):
        index, value = int(wrong[0, 0]), int(given.label[tuple(wrong[0])])
        found = f"layout {index} has the class {value}, but the classes are 0 to {pipeline.num_classes - 1}"
        raise DataError.of("conditions", found, f"use {pipeline.num_classes} for empty slots")
    if not (torch.isfinite(given.box).all() and torch.isfinite(given.style).all()):
        raise DataError.of("conditions", "boxes or styles that are not finite", "correct them")
    return given


def _check_labels(pipeline: Drawer, label: Tensor) -> None:
    height, width = pipeline.image_shape[1:]
    if label.ndim != 3 or label.shape[1:] != (height, width):
        found = f"found shape {list(label.shape)}, but the model takes label maps [N, {height}, {width}]"
        raise DataError.of("conditions", found, "resize them without interpolation")
    wrong = ((label < 0) | (label > pipeline.num_classes)).nonzero()
    if len(wrong):
        index, value = int(wrong[0, 0]), int(label[tuple(wrong[0])])
        found = f"map {index} has the value {value}, but the classes are 0 to {pipeline.num_classes - 1}"
        raise DataError.of("conditions", found, f"use {pipeline.num_classes} for pixels of no class")
