"""Objects of label maps: the connected parts of each class, or the instances where a map of these is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from guided_diffusion.data.components import Box, Component, find_components


def objects_of(
    label: NDArray[np.integer], classes: Sequence[int], instances: NDArray[np.integer] | None = None
) -> list[Component]:
    """Return the objects of `classes` in a label map [H, W]: 8-connected parts, by class, then from top to bottom.

    instances: ids [H, W]; then an object is what has one id and one class, connected or not.
    """
    if instances is None:
        return find_components(label, classes)
    wanted = np.isin(label, list(classes))
    if not wanted.any():
        return []
    pairs = np.stack([label[wanted].astype(np.int64), instances[wanted].astype(np.int64)])
    distinct, number = np.unique(pairs, axis=1, return_inverse=True)
    numbered = np.zeros(label.shape, np.int64)
    numbered[wanted] = number.reshape(-1) + 1
    objects = []
    for index, (down, across) in enumerate(ndimage.find_objects(numbered), start=1):
        box = Box(down.start, across.start, down.stop, across.stop)
        objects.append(Component(int(distinct[0, index - 1]), box, numbered[down, across] == index))
    return objects
