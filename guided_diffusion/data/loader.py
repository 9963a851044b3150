"""Epochs, batches and processes: which example comes when, and the DataLoader that brings it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from guided_diffusion.conditions.base import Prepared
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.seeding import Stream, derive_seed
from guided_diffusion.runtime.signals import leave_signals_to_the_trainer, stop_signals_held


@dataclass(frozen=True)
class DistributedBatchPlan:
    """The order of an epoch and its division over processes: a function of (seed, epoch), not of the processes.

    A global batch is the next `batch_size * world_size` items of the epoch's permutation; the last one may be shorter
    and is kept. Its items are divided into contiguous slices of nearly equal length, one per process. A process that
    would get nothing gets one item of weight 0, so that all make the same number of steps.

    batch_size: per process.
    """

    num_items: int
    batch_size: int
    world_size: int = 1
    rank: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        assert min(self.num_items, self.batch_size) > 0
        assert 0 <= self.rank < self.world_size

    @property
    def global_batch(self) -> int:
        """Items of a full batch over all processes."""
        return self.batch_size * self.world_size

    @property
    def num_batches(self) -> int:
        """Batches of an epoch, the same in every process."""
        return len(self.global_sizes())

    def global_sizes(self, start_item: int = 0) -> list[int]:
        """Return the real number of items, over all processes, of each batch from position `start_item` on."""
        return [
            min(self.global_batch, self.num_items - start)
            for start in range(start_item, self.num_items, self.global_batch)
        ]

    def batches(self, epoch: int, start_item: int = 0) -> list[list[ExampleKey]]:
        """Return this process's keys, batch by batch.

        start_item: how many items of the epoch (over all processes) are already done.
        """
        generator = torch.Generator().manual_seed(derive_seed(Stream.SHUFFLE, self.seed, epoch))
        order = torch.randperm(self.num_items, generator=generator).tolist()
        batches = []
        for start in range(start_item, self.num_items, self.global_batch):
            items = order[start : start + self.global_batch]
            first, last = (len(items) * rank // self.world_size for rank in (self.rank, self.rank + 1))
            keys = [ExampleKey(epoch, items[batch_index], batch_index, 1.0) for batch_index in range(first, last)]
            batches.append(keys or [ExampleKey(epoch, items[0], 0, 0.0)])
        return batches


Prepare = Callable[[SemanticMap], Prepared | None]
"""What makes of the label maps of a batch what the network wants prepared of them."""


@dataclass(frozen=True)
class TrainBatch:
    """One process's share of a global batch."""

    image: Tensor
    """[n, C, H, W] float32 in [-1, 1]."""
    condition: SemanticMap
    """Label maps (and edges) of size [n, H, W]."""
    batch_index: Tensor
    """[n] int64 on the CPU, positions in the global batch."""
    weight: Tensor
    """[n] float32, weights of the loss; 0 for an item that only keeps the process busy."""
    global_size: int
    """Items of weight 1 over all processes."""
    prepared: Prepared | None = None
    """What the network wants prepared of `condition`, None for nothing."""

    def __len__(self) -> int:
        return self.image.shape[0]


class TrainLoader:
    """Brings the batches of an epoch, decoded in this process (`num_workers` 0) or in worker processes.

    prepare: what is made of the label maps of each batch there, too; it is sent to the workers. None for nothing.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        batch_plan: DistributedBatchPlan,
        *,
        num_workers: int = 0,
        device: torch.device | str = "cpu",
        prepare: Prepare | None = None,
    ):
        assert batch_plan.num_items == len(dataset)
        self.batch_plan = batch_plan
        self._device = torch.device(device)
        self._keys: list[list[ExampleKey]] = []
        self._loader = DataLoader(
            _Guarded(dataset),
            batch_sampler=_BatchSampler(self._keys),
            num_workers=num_workers,
            collate_fn=_Collate(dataset.encoding.num_classes, prepare),
            pin_memory=self._device.type == "cuda",
            worker_init_fn=leave_signals_to_the_trainer,
            # Workers outlive the epochs: what they cached is kept, and keys tell them the epoch.
            persistent_workers=num_workers > 0,
        )

    def epoch(self, epoch: int, start_item: int = 0) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch on the loader's device, from item `start_item` of its permutation on.

        A UserError of the dataset (a file that changed since the scan) is raised as it is, from workers too. A new
        epoch may be begun before the last one is used up; that one must then not be used any further.
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
        return TrainBatch(
            image=collated["image"].to(self._device, non_blocking=True),
            condition=collated["condition"].to(self._device, non_blocking=True),
            batch_index=collated["batch_index"],
            weight=collated["weight"].to(self._device, torch.float32, non_blocking=True),
            global_size=global_size,
            prepared=None if prepared is None else prepared.to(self._device, non_blocking=True),
        )


def collate_examples(dataset: SegmentationDataset, indices: Iterable[int]) -> tuple[Tensor, SemanticMap]:
    """Return chosen examples as one batch for pictures: images [N, C, H, W] in [-1, 1] and their maps, on the CPU."""
    collate = _Collate(dataset.encoding.num_classes)
    examples = collate([dataset[ExampleKey(0, index, 0, 1.0)] for index in indices])
    return examples["image"], examples["condition"]


class _BatchSampler:
    """A batch sampler over a list that its owner refills for each epoch."""

    def __init__(self, keys: list[list[ExampleKey]]):
        self._keys = keys

    def __iter__(self) -> Iterator[list[ExampleKey]]:
        return iter(list(self._keys))

    def __len__(self) -> int:
        return len(self._keys)


class _Guarded(Dataset[Any]):
    """The dataset with user errors returned instead of raised, which DataLoader would wrap in a traceback's text."""

    def __init__(self, dataset: SegmentationDataset):
        self._dataset = dataset

    def __getitem__(self, key: ExampleKey) -> dict[str, Any] | UserError:
        try:
            return self._dataset[key]
        except UserError as error:
            return error


@dataclass(frozen=True)
class _Collate:
    """Makes a batch of examples, its label maps one SemanticMap; a failure among them takes its place."""

    num_classes: int
    prepare: Prepare | None = None

    def __call__(self, examples: list[dict[str, Any] | UserError]) -> dict[str, Any] | UserError:
        failures = [example for example in examples if isinstance(example, UserError)]
        if failures:
            return failures[0]
        batch = default_collate(examples)
        condition = SemanticMap(batch.pop("label"), self.num_classes, batch.pop("edge", None))
        prepared = None if self.prepare is None else self.prepare(condition)
        return {**batch, "condition": condition, "prepared": prepared}
