"""What the condition of an example is made of: label maps here, layouts of boxes in `boxes/layouts.py`.

`SegmentationDataset` asks a `ConditionMaker` for the entries of each example, and the loader makes a batch of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from guided_diffusion.conditions.base import Condition, Size
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.augmentation import AugmentedPlacement
from guided_diffusion.data.components import Box
from guided_diffusion.data.files import check_sizes, open_mask
from guided_diffusion.data.masks.encoding import edges_from_instances, raw_mask
from guided_diffusion.data.pairing import GoodImage, MaskEntry, Pair
from guided_diffusion.data.transforms import Placement, Target
from guided_diffusion.data.windows import point_of, target_in

Placed = Placement | AugmentedPlacement


class ExampleKey(NamedTuple):
    """Which example, and how it is augmented (by epoch and index) and weighted."""

    epoch: int  # from 0
    index: int  # of the pair in the dataset
    batch_index: int  # position in the global batch
    weight: float  # of its loss; 0 for an example that only keeps a process busy


class ConditionMaker(Protocol):
    """Makes the condition of an example from its picture; a value that can be pickled, for data loading processes."""

    @property
    def reads_labels(self) -> bool:
        """Whether it is made of label maps; a picture without one is background then."""

    def read(self, entry: Pair | GoodImage, label: Tensor | None, size: Size) -> Any:
        """Return what is kept of a picture beside its image and its label map, at full size."""

    def window_target(
        self, label: Tensor | None, source: Any, shown: tuple[int, Box] | None, draw: Callable[[], float]
    ) -> Target | None:
        """Return what a window shows: the object `shown` (class, box), at a pixel chosen by `draw`, else the largest.

        None: anything, or there is no such object any more.
        """

    def entries(self, label: Tensor | None, source: Any, placement: Placed, key: ExampleKey) -> dict[str, Any]:
        """Return the entries of an example. label: as placed; source: what `read` returned."""

    def collate(self, examples: Sequence[dict[str, Any]]) -> Condition:
        """Take the entries out of examples and return the condition of a batch."""


class EdgeSource(NamedTuple):
    """Whose borders the edges of a label map are."""

    ids: Tensor  # int32 [H, W], of instances or else of classes
    instances: bool


@dataclass(frozen=True)
class MaskMaker:
    """Label maps, with the edges of instances if `with_edges`."""

    num_classes: int
    foreground: tuple[int, ...]
    """Classes that windows are laid on."""
    with_edges: bool = False

    @property
    def reads_labels(self) -> bool:
        return True

    def read(self, entry: Pair | GoodImage, label: Tensor | None, size: Size) -> EdgeSource | None:
        """Return what the edges are made of, None without edges."""
        if not self.with_edges:
            return None
        assert label is not None
        if isinstance(entry, Pair) and entry.instance is not None:
            return EdgeSource(read_edge_source(entry, label), True)
        return EdgeSource(label.int(), False)

    def window_target(
        self, label: Tensor | None, source: Any, shown: tuple[int, Box] | None, draw: Callable[[], float]
    ) -> Target | None:
        assert label is not None
        return target_in(label, self.foreground) if shown is None else point_of(label, *shown, draw())

    def entries(
        self, label: Tensor | None, source: EdgeSource | None, placement: Placed, key: ExampleKey
    ) -> dict[str, Any]:
        """Return `label` [H, W] and, `with_edges`, `edge` [H, W] booleans."""
        assert label is not None
        return {"label": label} | ({} if source is None else {"edge": edges_of(placement, source, label)})

    def collate(self, examples: Sequence[dict[str, Any]]) -> SemanticMap:
        label = default_collate([example.pop("label") for example in examples])
        edge = default_collate([example.pop("edge") for example in examples]) if self.with_edges else None
        return SemanticMap(label, self.num_classes, edge)


def read_edge_source(entry: Pair | MaskEntry, label: Tensor) -> Tensor:
    """Return the ids whose borders are the edges, int32 [H, W]: the instance map, or the labels where there is none."""
    if entry.instance is None:
        return label.int()
    instance = raw_mask(open_mask(entry.instance, upright=entry.upright), entry.instance).values
    check_sizes(entry.mask, label.shape, entry.instance, instance.shape)
    return torch.from_numpy(instance.astype(np.int32))


def edges_of(placement: Placed, source: EdgeSource, label: Tensor) -> Tensor:
    """Return the edges of a placed map, booleans [H, W]: where the ids of `source`, before placing, change.

    Edges of labels placed by area are those of the placed `label`, as nearest pixels lose what the area rule keeps.
    """
    if placement.label_by_area and not source.instances:
        return edges_from_instances(label.int())
    return edges_from_instances(placement.mask(source.ids, -1))
