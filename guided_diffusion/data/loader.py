"""Epochs, batches and processes: the order of the examples, and the DataLoader that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from guided_diffusion.conditions.base import Prepared
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.condition_makers import ConditionMaker
from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.runtime.signals import leave_signals_to_the_trainer, stop_signals_held


@dataclass(frozen=True)
class DistributedBatchPlan:
    """The order of an epoch, a function of (seed, epoch), and its division over processes.

    A global batch is the next `batch_size * world_size` items of the epoch's permutation; the last may be shorter. Each
    process gets a contiguous slice of it, or one item of weight 0 where the slice would be empty.
    """

    num_items: int
    batch_size: int  # per process
    world_size: int = 1
    rank: int = 0
    seed: int = 0
    weights: tuple[float, ...] | None = None  # how often each item is drawn in an epoch, on average; None: once

    def __post_init__(self) -> None:
        assert min(self.num_items, self.batch_size) > 0
        assert self.weights is None or len(self.weights) == self.num_items
        assert 0 <= self.rank < self.world_size

    @property
    def global_batch(self) -> int:
        return self.batch_size * self.world_size

    @property
    def num_batches(self) -> int:
        return len(self.global_sizes())

    def global_sizes(self, start_item: int = 0) -> list[int]:
        """Return the number of items of each global batch from position `start_item` on."""
        return [
            min(self.global_batch, self.num_items - start)
            for start in range(start_item, self.num_items, self.global_batch)
        ]

    def batches(self, epoch: int, start_item: int = 0) -> list[list[ExampleKey]]:
        """Return this process's keys, batch by batch, without the first `start_item` items of the epoch."""
        generator = torch.Generator().manual_seed(derive_seed(Stream.SHUFFLE, self.seed, epoch))
        order = torch.randperm(self.num_items, generator=generator)
        if self.weights is not None:
            order = _drawn(order, torch.tensor(self.weights, dtype=torch.float64), generator)
        order = order.tolist()
        batches = []
        for start in range(start_item, self.num_items, self.global_batch):
            items = order[start : start + self.global_batch]
            first, last = (len(items) * rank // self.world_size for rank in (self.rank, self.rank + 1))
            keys = [ExampleKey(epoch, items[batch_index], batch_index, 1.0) for batch_index in range(first, last)]
            batches.append(keys or [ExampleKey(epoch, items[0], 0, 0.0)])
        return batches


def _drawn(order: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Return as many items as `order` has, each about as often as its weight says, in random order.

    By systematic sampling: an item of weight w comes floor(w) or ceil(w) times, with w scaled to a mean of 1.
    """
    ends = weights[order].cumsum(0)
    points = torch.arange(len(order)) + torch.rand((), generator=generator, dtype=torch.float64)
    drawn = order[torch.searchsorted(ends, points * (ends[-1] / len(order)), right=True).clamp(max=len(order) - 1)]
    return drawn[torch.randperm(len(order), generator=generator)]


_EXTRA = ("inside", "hole", "augment", "label")  # of an example, where it has them

Prepare = Callable[[Any], Prepared | None]
"""What a network precomputes from the conditions of a batch."""
Reduce = Callable[[SemanticMap], SemanticMap]


@dataclass(frozen=True)
class TrainBatch:
    """One process's share of a global batch."""

    image: Tensor
    """[n, C, H, W] float32 in [-1, 1]."""
    condition: Any
    """A `Condition`: n maps of size [H, W], or of the size of latents, or n layouts."""
    batch_index: Tensor
    """[n] int64 on the CPU, positions in the global batch."""
    weight: Tensor
    """[n] float32 on the CPU, weights of the loss; 0 for an item that only keeps the process busy."""
    global_size: int
    """Items of weight 1 over all processes."""
    prepared: Prepared | None = None
    """What the network precomputed from `condition`."""
    inside: Tensor | None = None
    """[n, H, W] booleans: the pixels that show the image, not a border; None: all of them."""
    hole: Tensor | None = None
    """[n, H, W] booleans: the pixels to be filled; None unless holes are trained."""
    augment: Tensor | None = None
    """[n, P] float32: the `AUGMENT_PARAMETERS` of each image; None without such augmentation."""
    label: Tensor | None = None
    """[n, H, W] class ids, where images have masks beside another condition; None elsewhere."""

    def __len__(self) -> int:
        return self.image.shape[0]


class TrainLoader:
    """Reads the batches of an epoch, in this process (`num_workers` 0) or in worker processes.

    prepare: called there on the conditions of each batch; it has to be picklable. reduce: likewise, before that; it
    makes label maps smaller, to the size of latents.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        batch_plan: DistributedBatchPlan,
        *,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        prepare: Prepare | None = None,
        reduce: Reduce | None = None,
    ):
        assert batch_plan.num_items == len(dataset)
        self.batch_plan = batch_plan
        self._device = torch.device(device)
        self._keys: list[list[ExampleKey]] = []
        self._loader = DataLoader(
            _Guarded(dataset),
            batch_sampler=self._keys,  # refilled for each epoch
            num_workers=num_workers,
            collate_fn=_Collate(dataset.conditions, prepare, reduce),
            pin_memory=self._device.type == "cuda",
            worker_init_fn=leave_signals_to_the_trainer,
            persistent_workers=num_workers > 0,  # so that they keep the pictures they cached
        )

    def epoch(self, epoch: int, start_item: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch on the loader's device, from item `start_item` of its permutation on.

        Raises a UserError of the dataset as it is, from workers too. An epoch may be left before its end, but must not
        be continued once another one is started.
        """
        self._keys[:] = self.batch_plan.batches(epoch, start_item)
        with stop_signals_held():
            batches = iter(self._loader)
        for collated, global_size in zip(batches, self.batch_plan.global_sizes(start_item), strict=True):
            if isinstance(collated, UserError):
                raise collated
            yield self._on_device(collated, global_size)

    def _on_device(self, collated: dict[str, Any], global_size: int) -> TrainBatch:
        prepared = collated["prepared"]
        extra = {name: collated[name].to(self._device, non_blocking=True) for name in _EXTRA if name in collated}
        return TrainBatch(
            image=collated["image"].to(self._device, non_blocking=True),
            condition=collated["condition"].to(self._device, non_blocking=True),
            batch_index=collated["batch_index"],
            weight=collated["weight"].float(),
            global_size=global_size,
            prepared=None if prepared is None else prepared.to(self._device, non_blocking=True),
            **extra,
        )


def collate_examples(dataset: SegmentationDataset, indices: Iterable[int]) -> tuple[Tensor, Any]:
    """Return chosen examples as one batch on the CPU: images [N, C, H, W] in [-1, 1] and their maps, or layouts."""
    examples = _collated(dataset, indices)
    return examples["image"], examples["condition"]


def collate_holes(dataset: SegmentationDataset, indices: Iterable[int]) -> KnownRegion | None:
    """Return the known regions of chosen examples on the CPU, None for a dataset without holes."""
    if dataset.holes is None:
        return None
    examples = _collated(dataset, indices)
    return KnownRegion(examples["image"], examples["hole"])


def collate_inside(dataset: SegmentationDataset, indices: Iterable[int]) -> Tensor | None:
    """Return which pixels of chosen examples [N, H, W] show the image and not a border, None if all do."""
    inside = _collated(dataset, indices).get("inside")
    return None if inside is None or inside.all() else inside


def collate_labels(dataset: SegmentationDataset, indices: Iterable[int]) -> Tensor | None:
    """Return the label maps [N, H, W] that chosen examples have beside another condition, None if they have none."""
    return _collated(dataset, indices).get("label")


def _collated(dataset: SegmentationDataset, indices: Iterable[int]) -> dict[str, Any]:
    collate = _Collate(dataset.conditions)
    return collate([dataset[ExampleKey(0, index, 0, 1.0)] for index in indices])


class _Guarded(Dataset[Any]):
    """The dataset, returning user errors: raised ones would arrive from a worker as the text of a traceback."""

    def __init__(self, dataset: SegmentationDataset):
        self._dataset = dataset

    def __getitem__(self, key: ExampleKey) -> dict[str, Any] | UserError:
        try:
            return self._dataset[key]
        except UserError as error:
            return error


@dataclass(frozen=True)
class _Collate:
    """Makes a batch of examples with one condition, or returns the first error among them."""

    conditions: ConditionMaker
    prepare: Prepare | None = None
    reduce: Reduce | None = None

    def __call__(self, examples: list[dict[str, Any] | UserError]) -> dict[str, Any] | UserError:
        failures = [example for example in examples if isinstance(example, UserError)]
        if failures:
            return failures[0]
        condition = self.conditions.collate(examples)
        batch = default_collate(examples)
        if self.reduce is not None:
            condition = self.reduce(condition)
        prepared = None if self.prepare is None else self.prepare(condition)
        return {**batch, "condition": condition, "prepared": prepared}
