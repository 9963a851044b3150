"""The plan of a folder of samples: which there are to be, and what each is made from.

Samples are made from masks (`sample`) or good images (`place`). Sample i uses source i modulo their number and the seed
(run seed, i), so it depends neither on the number of samples nor on batches or processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from guided_diffusion.data.boxes.asked import AskedLayout
from guided_diffusion.data.pairing import GoodImage, MaskEntry, Pair
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import stays_inside
from guided_diffusion.runtime.seeding import Stream, derive_seed


@dataclass(frozen=True)
class AskedClass:
    """What the mask of a model that makes masks should have; no file."""

    class_id: int
    name: str


@dataclass(frozen=True)
class FoundMask:
    """A mask that pixel classifiers find in the image; no file."""


@dataclass(frozen=True)
class PlannedSample:
    """One pair to be made; its files are relative to the manifest."""

    index: int
    name: str  # without extension, with sub-folders
    source: (
        Pair | MaskEntry | GoodImage | AskedClass | AskedLayout | FoundMask | None
    )  # None: an image without a mask, made from nothing
    repeat: int  # uses of the source before this one
    seed: int
    with_image: bool = True

    @property
    def source_file(self) -> str:
        """The good image or mask that the sample is made from, "" where it is made from nothing."""
        if self.source is None or isinstance(self.source, AskedClass | AskedLayout | FoundMask):
            return ""
        return self.source.image if isinstance(self.source, GoodImage) else self.source.mask

    @property
    def instance_file(self) -> str:
        """The instance map beside the mask, "" where there is none."""
        return (self.source.instance or "") if isinstance(self.source, Pair | MaskEntry) else ""

    @property
    def image(self) -> str:
        return f"images/{self.name}.png" if self.with_image else ""

    @property
    def mask(self) -> str:
        return f"masks/{self.name}.png" if self.source is not None else ""

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(file for file in (self.image, self.mask) if file)


def plan_generated(
    asked: Sequence[AskedClass | FoundMask | None], seed: int, *, with_images: bool = True
) -> list[PlannedSample]:
    """Return a sample of each of `asked`, made from nothing; None: an image without a mask.

    with_images: False for masks alone.
    """
    return [
        PlannedSample(index, f"sample_{index:06d}", each, 0, derive_seed(Stream.SAMPLE, seed, index), with_images)
        for index, each in enumerate(asked)
    ]


def plan_samples(
    sources: Sequence[Pair | MaskEntry] | Sequence[GoodImage] | Sequence[AskedLayout],
    num_samples: int | None,
    seed: int,
) -> list[PlannedSample]:
    """Return `num_samples` samples (None: one for each source) that use the sources in turn.

    The first use of a source keeps its name, the n-th further use appends `_rep<n>`. Raises DataError for two samples
    of one name, and for a name that means another file on Windows.
    """
    count = len(sources) if num_samples is None else num_samples
    plan = []
    for index in range(count):
        source, repeat = sources[index % len(sources)], index // len(sources)
        name = source.stem if not repeat else f"{source.stem}_rep{repeat:03d}"
        plan.append(PlannedSample(index, name, source, repeat, derive_seed(Stream.SAMPLE, seed, index)))
    taken: dict[str, PlannedSample] = {}
    for sample in plan:
        other = taken.setdefault(os.path.normcase(sample.name), sample)
        if other is not sample:
            found = f"its repeat would be called {sample.name}, as {other.source_file} is"
            if not sample.repeat:  # A.png and a.jpg, on Windows
                found = f"its sample would be the same file, {sample.name}, as that of {other.source_file}"
            raise DataError.of(sample.source_file, found, "rename one of the two")
        if not stays_inside(sample.image):
            found = "has a backslash in its name, which Windows takes for a folder"
            raise DataError.of(sample.source_file, found, "rename it")
    return plan
