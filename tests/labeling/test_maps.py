"""Pixels read from native maps are those of upsampled maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guided_diffusion.labeling.maps import ImageMaps

SHAPES = ((5, 4, 6), (3, 9, 7), (2, 24, 30), (1, 1, 1), (4, 40, 11))
SIZE = (24, 30)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 5e-3)])
def test_reading_equals_upsampling(random_maps, upsampled, dtype, tolerance):
    maps = [each.astype(dtype) for each in random_maps(*SHAPES)]
    positions = torch.from_numpy(np.random.default_rng(1).permutation(24 * 30)[:500])
    found = ImageMaps(maps, SIZE).read(positions)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), upsampled(maps, SIZE)[positions], atol=tolerance)


def test_dims_are_in_the_order_of_the_maps(random_maps):
    maps = ImageMaps(random_maps(*SHAPES), SIZE)
    assert maps.dims == [5, 3, 2, 1, 4]
    assert maps.dim == 15


def test_channels_last_memory_and_read_only_memmaps_are_not_copied(random_maps, tmp_path, recwarn):
    stored = np.ascontiguousarray(random_maps((5, 4, 6))[0].transpose(1, 2, 0))
    np.save(tmp_path / "map.npy", stored)
    mapped = np.load(tmp_path / "map.npy", mmap_mode="r")
    maps = ImageMaps([mapped.transpose(2, 0, 1), torch.from_numpy(stored).permute(2, 0, 1)], SIZE)
    assert maps.tables[0].data_ptr() == mapped.ctypes.data
    assert maps.tables[1].data_ptr() == stored.ctypes.data
    assert not recwarn.list
    first, second = maps.read(torch.arange(24 * 30)).split(5, dim=1)
    assert torch.equal(first, second)
