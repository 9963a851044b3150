"""The cases that `run.py` measures, and the images and label maps of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from guided_diffusion.conditions.patches import number_patches
from guided_diffusion.conditions.semantic_map import SemanticMap

MOST_OBJECTS = 24
"""Objects of an image above which procedural masks leave classes out: none has more than a few dozen."""
IGNORED = 255
"""The ignore value of the masks of a folder."""


@dataclass(frozen=True)
class Case:
    """A network and its inputs.

    size: pixels of a side. channels: `num_channels`. objects: in each procedural mask; None: 1 to 4, or more where that
    could not show all classes. shown: how many of the classes procedural masks have; None: all. masks: a folder of
    label PNGs in their place. noise: share of pixels whose label is replaced by one drawn at random.
    """

    size: int
    channels: int
    classes: int
    batch: int
    device: str = "cpu"
    precision: str = "fp32"
    compiled: bool = False
    masks: str | None = None
    objects: int | None = None
    shown: int | None = None
    noise: float = 0.0

    @property
    def title(self) -> str:
        """The case, for a table cell."""
        return f"{self.size} px / {self.channels} ch / {self.classes}"

    @property
    def amp_dtype(self) -> torch.dtype | None:
        """The autocast type of the networks, None for the type of their weights."""
        return torch.bfloat16 if self.precision == "bf16" else None

    @property
    def forward_seconds(self) -> float:
        """A rough guess of the time of a forward pass, for progress bars only."""
        rate = 3e7 if self.device == "cpu" else 3e9  # two cores; a large GPU
        return self.batch * self.size**2 * self.channels**1.7 * 0.75 / rate


def default_batch(size: int, channels: int) -> int:
    """Return the default batch size."""
    if size <= 64:
        return 16
    if size <= 128:
        return 8
    return 4 if channels <= 128 else 1


@dataclass(frozen=True, eq=False)
class Batch:
    """The inputs of a case.

    image, noise: [N, 3, H, W] on its device. t: [N] int64 on its device. condition: in main memory, as a data loader
    leaves it. dropped: [N] booleans, every fifth image trains without its map.
    """

    image: Tensor
    noise: Tensor
    t: Tensor
    condition: SemanticMap
    dropped: Tensor


def make_batch(case: Case) -> Batch:
    """Return the inputs of `case`, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch, 3, case.size, case.size)
    image = 2 * torch.rand(shape, generator=generator) - 1
    noise = torch.randn(shape, generator=generator)
    t = torch.randint(1000, (case.batch,), generator=generator)
    label = torch.from_numpy(label_maps(case))
    return Batch(
        image.to(case.device),
        noise.to(case.device),
        t.to(case.device),
        SemanticMap(label, case.classes),
        torch.arange(case.batch) % 5 == 4,
    )


def distinct_share(case: Case) -> float:
    """Return distinct 5x5 patches / pixels of the maps of `case` at full size."""
    condition = make_batch(replace(case, device="cpu")).condition
    patches = number_patches(condition, condition.size)
    return len(patches) / patches.index.numel()


def label_maps(case: Case) -> NDArray[np.integer]:
    """Return label maps [N, H, W] of `case`, in 0..classes where `classes` is the null id.

    Raises ValueError, naming the file, where a mask of its folder cannot be used.
    """
    if case.masks is None:
        maps = procedural_masks(case.batch, case.size, case.shown or case.classes, objects=case.objects)
    else:
        maps = folder_masks(Path(case.masks), case.batch, case.size, case.classes)
    if case.noise:
        rng = np.random.default_rng(1)
        replaced = rng.random(maps.shape) < case.noise
        maps = np.where(replaced, rng.integers(0, case.classes, maps.shape), maps)
    return maps.astype(np.uint8 if case.classes < 256 else np.int16)


def procedural_masks(batch: int, size: int, classes: int, *, objects: int | None = None) -> NDArray[np.int64]:
    """Return label maps [N, H, W]: ellipses and rectangles of the classes above 0 on a background of class 0.

    The classes take turns, so that all of them occur as far as `MOST_OBJECTS` an image allow. Where the objects lie
    does not depend on `classes`, if their number is given.
    """
    places, names = (np.random.default_rng([0, stream]) for stream in (0, 1))
    turn = itertools.cycle(names.permutation(np.arange(1, classes)) if classes > 1 else [0])
    enough = min(MOST_OBJECTS, math.ceil((classes - 1) / batch))
    maps = np.zeros((batch, size, size), dtype=np.int64)
    for label in maps:
        count = max(int(places.integers(1, 5)), enough) if objects is None else objects
        # The largest first: it cannot hide another.
        for shape in sorted(_shapes(places, count, size), key=np.count_nonzero, reverse=True):
            label[shape] = next(turn)
    return maps


def _shapes(rng: np.random.Generator, count: int, size: int) -> Iterator[NDArray[np.bool_]]:
    """Yield `count` ellipses and rectangles of any direction as [size, size] booleans."""
    rows, columns = np.mgrid[:size, :size]
    for _ in range(count):
        (y, x), angle = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0, math.pi)
        half = np.maximum(rng.uniform(0.02, 0.2, 2) * size, 1.0)
        along = ((columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)) / half[0]
        across = ((rows - y) * math.cos(angle) - (columns - x) * math.sin(angle)) / half[1]
        yield along**2 + across**2 <= 1 if rng.random() < 0.5 else np.maximum(abs(along), abs(across)) <= 1


def folder_masks(folder: Path, batch: int, size: int, classes: int) -> NDArray[np.int64]:
    """Return label maps [N, H, W] read from label PNGs spread over those of `folder`, brought to `size` x `size`.

    Raises ValueError, naming the file, where there are none or one has an unknown label.
    """
    paths = sorted(folder.glob("*.png"))
    if not paths:
        raise ValueError(f"{folder}: has no PNG files")
    return np.stack([_read_mask(paths[i * len(paths) // batch], size, classes) for i in range(batch)])


def _read_mask(path: Path, size: int, classes: int) -> NDArray[np.int64]:
    with Image.open(path) as image:
        label = np.asarray(image.resize((size, size), Image.Resampling.NEAREST)).astype(np.int64)
    if label.ndim != 2:
        raise ValueError(f"{path}: has colors; masks must be of one channel, with the class as value")
    ignored = (label == IGNORED) & (classes <= IGNORED)
    highest = label[~ignored].max(initial=0)
    if highest >= classes:
        raise ValueError(f"{path}: has the label {highest}, but there are {classes} classes, 0 to {classes - 1}")
    return np.where(ignored, classes, label)
