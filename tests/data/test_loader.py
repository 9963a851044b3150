from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.conditions.patches import precompute_patches
from guided_diffusion.data.datasets import SegmentationDataset
from guided_diffusion.data.loader import DistributedBatchPlan, TrainLoader
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.runtime.errors import DataError

SHAPES = {
    "num_items": st.integers(1, 40),
    "batch_size": st.integers(1, 9),
    "world_size": st.integers(1, 5),
    "epoch": st.integers(0, 3),
}


def all_ranks(num_items: int, batch_size: int, world_size: int) -> list[DistributedBatchPlan]:
    return [DistributedBatchPlan(num_items, batch_size, world_size, rank, seed=1) for rank in range(world_size)]


@given(**SHAPES)
def test_ranks_partition_the_epoch(num_items, batch_size, world_size, epoch):
    ranks = all_ranks(num_items, batch_size, world_size)
    shares = [rank.batches(epoch) for rank in ranks]
    assert {len(share) for share in shares} == {ranks[0].num_batches}
    seen = []
    for batches, size in zip(zip(*shares, strict=True), ranks[0].global_sizes(), strict=True):
        real = [key for batch in batches for key in batch if key.weight]
        assert [key.batch_index for key in real] == list(range(size))
        assert max(map(len, batches)) - min(len(batch) if batch[0].weight else 0 for batch in batches) <= 1
        assert all(0 < len(batch) <= batch_size for batch in batches)
        assert all(len(batch) == 1 for batch in batches if not batch[0].weight)
        seen += [key.index for key in real]
    assert sorted(seen) == list(range(num_items))


@given(**SHAPES, done=st.integers(0, 45))
def test_an_epoch_goes_on_where_it_stopped(num_items, batch_size, world_size, epoch, done):
    for rank in all_ranks(num_items, batch_size, world_size):
        whole = rank.batches(epoch)
        steps = min(done // rank.global_batch, len(whole))
        assert rank.batches(epoch, steps * rank.global_batch) == whole[steps:]
        assert rank.global_sizes(steps * rank.global_batch) == rank.global_sizes()[steps:]


@given(num_items=st.integers(1, 30), epoch=st.integers(0, 5))
def test_the_order_does_not_depend_on_the_processes(num_items, epoch):
    one = [key.index for batch in DistributedBatchPlan(num_items, 6, seed=2).batches(epoch) for key in batch]
    ranks = [DistributedBatchPlan(num_items, 2, 3, rank, seed=2).batches(epoch) for rank in range(3)]
    three = [key.index for step in zip(*ranks, strict=True) for batch in step for key in batch if key.weight]
    assert one == three


def test_epochs_are_shuffled_apart():
    batches = DistributedBatchPlan(30, 30)
    assert batches.batches(0) != batches.batches(1)
    assert [key.index for key in batches.batches(0)[0]] != list(range(30))


def test_a_process_without_a_share_gets_one_item_of_weight_zero():
    last = [DistributedBatchPlan(5, 2, 2, rank).batches(0)[-1] for rank in range(2)]
    assert [[key.weight for key in batch] for batch in last] == [[0.0], [1.0]]


@pytest.fixture
def dataset(build) -> SegmentationDataset:
    rng = np.random.default_rng(1)
    root = build({f"m{i}": rng.integers(0, 3, (20, 24), np.uint8) for i in range(7)})
    pairs = index_pairs(root, get_mode("multi-class"), "train")[0]
    return SegmentationDataset(
        pairs, LabelEncoding.identity(3), JointTransform((16, 16)), cache_images=False, with_edges=True
    )


def contents(batches) -> list[list]:
    return [
        [b.image, b.condition.label, b.condition.edge, b.batch_index, b.weight, torch.tensor(b.global_size)]
        for b in batches
    ]


def same(one: list[list], other: list[list]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for first, second in zip(one, other, strict=True) for a, b in zip(first, second, strict=True)
    )


def test_batches_have_the_documented_form(dataset):
    batches = list(TrainLoader(dataset, DistributedBatchPlan(7, 3)).epoch(0))
    assert [batch.global_size for batch in batches] == [3, 3, 1] == [len(batch) for batch in batches]
    assert batches[0].image.shape == (3, 3, 16, 16)
    assert batches[0].condition.size == (16, 16)
    assert batches[0].condition.num_classes == 3
    assert batches[0].batch_index.tolist() == [0, 1, 2]
    assert batches[0].weight.dtype == torch.float32


def test_a_dataset_smaller_than_the_batch_gives_one_short_batch(dataset):
    (batch,) = TrainLoader(dataset, DistributedBatchPlan(7, 64)).epoch(0)
    assert len(batch) == batch.global_size == 7


@pytest.mark.slow
def test_worker_processes_give_the_same_batches_also_after_an_epoch_was_left(dataset):
    plain = TrainLoader(dataset, DistributedBatchPlan(7, 2))
    working = TrainLoader(dataset, DistributedBatchPlan(7, 2), num_workers=2)
    assert same(contents(plain.epoch(0)), contents(working.epoch(0)))
    next(working.epoch(1))
    assert same(contents(plain.epoch(1, 4)), contents(working.epoch(1, 4)))
    assert same(contents(plain.epoch(2)), contents(working.epoch(2)))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_prepared_of_the_maps_comes_beside_them(dataset, num_workers):
    prepare = partial(precompute_patches, sizes=[(16, 16), (8, 8)])
    plain, prepared = (
        list(TrainLoader(dataset, DistributedBatchPlan(7, 3), num_workers=num_workers, prepare=how).epoch(0))
        for how in (None, prepare)
    )
    assert same(contents(plain), contents(prepared))
    for without, batch in zip(plain, prepared, strict=True):
        assert without.prepared is None
        expected = prepare(batch.condition)
        for size in ((16, 16), (8, 8)):
            assert torch.equal(batch.prepared.at(size).index, expected.at(size).index)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_user_errors_arrive_as_they_were_raised(dataset, num_workers):
    Path(dataset.pairs[3].mask).write_bytes(b"broken")
    # One line; the exception is not kept, since its frames would keep the worker alive.
    with pytest.raises(DataError, match=r"\A[^\n]*m3\.png: [^\n]*\Z"):
        list(TrainLoader(dataset, DistributedBatchPlan(7, 2), num_workers=num_workers).epoch(0))


def test_datasets_travel_to_spawned_workers(dataset):
    key = DistributedBatchPlan(7, 2).batches(0)[0][0]
    dataset[key]
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[key]["image"], dataset[key]["image"])
