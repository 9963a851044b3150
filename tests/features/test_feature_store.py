"""The store of feature maps: the same bytes in memory and on disk, in any batch, after any kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from guided_diffusion.features.extractor import ImageValues, JoinedFeatures, MapShape
from guided_diffusion.features.store import MAPS, RECORD, FeatureStore
from guided_diffusion.runtime.errors import UserError

SIZE = (6, 4)
NAMES = [f"image {number}" for number in range(7)]


class Pooled(ImageValues):
    """Means of 2 x 2 pixels plus the position, so that a wrong position shows; counts its images."""

    seen = 0

    @property
    def shapes(self):
        return (MapShape(3, 3, 2),)

    def maps(self, images, positions=(), draw=0):
        self.seen += len(images)
        pooled = torch.nn.functional.avg_pool2d(images, 2) + torch.tensor(list(positions)).view(-1, 1, 1, 1)
        return [pooled.to(self.dtype).contiguous(memory_format=torch.channels_last)]


def extractor(dtype=torch.float16):
    return JoinedFeatures([Pooled(SIZE, 3, dtype), ImageValues(SIZE, 3, dtype)])


def read(numbers):
    images = [torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(number)) for number in numbers]
    return torch.stack(images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_memory_and_disk_have_the_same_maps(tmp_path, dtype):
    found = extractor(dtype)
    expected = found.maps(read(range(7)), range(7))
    for batch_size in (1, 3, 20):
        memory = FeatureStore(found, NAMES, budget=2**20)
        disk = FeatureStore(found, NAMES, tmp_path / str(batch_size), budget=0)
        assert (memory.on_disk, disk.on_disk) == (False, True)
        for store in (memory, disk):
            store.fill(read, batch_size=batch_size)
            for index in range(7):
                for values, one in zip(store[index], expected, strict=True):
                    assert values.dtype == dtype
                    assert torch.equal(values, one[index])
    contents = {(tmp_path / str(batch_size) / MAPS).read_bytes() for batch_size in (1, 3, 20)}
    assert len(contents) == 1
    assert len(contents.pop()) == memory.bytes == 7 * (18 + 72) * dtype.itemsize


def test_rows_are_tables_of_pixels(tmp_path):
    store = FeatureStore(extractor(), NAMES, tmp_path, budget=0)
    store.fill(read)
    record = json.loads((tmp_path / RECORD).read_text())
    rows = np.fromfile(tmp_path / MAPS, record["dtype"]).reshape(record["images"], -1)
    for values in store[3]:
        table = values.permute(1, 2, 0).view(-1, 3)
        assert table.data_ptr() == values.data_ptr()
    (_, (channels, height, width)) = record["shapes"]
    assert np.array_equal(rows[3, 18:].reshape(height, width, channels), store[3][1].permute(1, 2, 0).numpy())


def test_a_file_is_not_changed_by_what_reads_it(tmp_path):
    store = FeatureStore(extractor(), NAMES, tmp_path, budget=0)
    store.fill(read)
    before = (tmp_path / MAPS).read_bytes()
    store[2][0].zero_()
    del store
    assert (tmp_path / MAPS).read_bytes() == before


def test_what_is_there_is_not_made_again(tmp_path):
    first = extractor()
    FeatureStore(first, NAMES, tmp_path, budget=0).fill(read, batch_size=2)
    second = extractor()
    store = FeatureStore(second, NAMES, tmp_path, budget=0)
    assert store.done == 7
    store.fill(read)
    assert (first.parts[0].seen, second.parts[0].seen) == (7, 0)
    assert torch.equal(store[6][1], read([6])[0].half())


@pytest.mark.parametrize("change", ["settings", "images", "cut", "record", "too many"])
def test_what_is_not_of_these_images_is_made_anew(tmp_path, change):
    FeatureStore(extractor(), NAMES, tmp_path, budget=0).fill(read)
    expected = (tmp_path / MAPS).read_bytes()
    names, kind = NAMES, torch.float16
    if change == "settings":
        kind = torch.float32
    elif change == "images":
        names = [*NAMES[:-1], "another"]
    elif change == "cut":
        os.truncate(tmp_path / MAPS, len(expected) // 2)
    elif change == "record":
        (tmp_path / RECORD).write_text("{")
    else:
        record = json.loads((tmp_path / RECORD).read_text())
        (tmp_path / RECORD).write_text(json.dumps({**record, "done": 8}))
    store = FeatureStore(extractor(kind), names, tmp_path, budget=0)
    assert store.done == 0
    store.fill(read)
    assert (tmp_path / MAPS).stat().st_size == store.bytes
    if kind == torch.float16:
        assert (tmp_path / MAPS).read_bytes() == expected


def test_what_an_interruption_left_is_kept(tmp_path):
    """Also where the last row was written by half, and not yet recorded."""
    whole = FeatureStore(extractor(), NAMES, tmp_path / "whole", budget=0)
    whole.fill(read)

    def stop(numbers):
        if 4 in numbers:
            raise KeyboardInterrupt
        return read(numbers)

    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(extractor(), NAMES, part, budget=0).fill(stop)
    with open(part / MAPS, "ab") as file:
        file.write(b"half a row")
    again, seen = FeatureStore(extractor(), NAMES, part, budget=0), []
    again.fill(lambda numbers: seen.extend(numbers) or read(numbers))
    assert seen == [4, 5, 6]
    for name in (MAPS, RECORD):
        assert (part / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _fill_slowly(folder: str) -> None:
    def slowly(numbers):
        time.sleep(0.3)
        return read(numbers)

    FeatureStore(extractor(), NAMES, folder, budget=0).fill(slowly)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_killed_process_loses_nothing(tmp_path):
    whole = FeatureStore(extractor(), NAMES, tmp_path / "whole", budget=0)
    whole.fill(read)
    part = tmp_path / "part"
    process = multiprocessing.get_context("fork").Process(target=_fill_slowly, args=(str(part),))
    process.start()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not _recorded(part):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = FeatureStore(extractor(), NAMES, part, budget=0)
    assert 0 < store.done < 7
    store.fill(read)
    for name in (MAPS, RECORD):
        assert (part / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def _recorded(folder: Path) -> bool:
    return (folder / RECORD).exists() and json.loads((folder / RECORD).read_text())["done"] >= 2


def test_maps_beyond_the_memory_need_a_folder():
    with pytest.raises(UserError) as caught:
        FeatureStore(extractor(), NAMES, budget=100)
    assert caught.value.path == "features"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    store = FeatureStore(extractor(), NAMES, tmp_path / "file" / "features", budget=0)
    with pytest.raises(UserError) as caught:
        store.fill(read)
    assert str(tmp_path / "file") in str(caught.value)


def test_progress_counts_images(tmp_path):
    calls = []
    store = FeatureStore(extractor(), NAMES, tmp_path, budget=0)
    store.fill(read, batch_size=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 7), (6, 7), (7, 7)]


def test_images_have_several_noises_in_turn(tmp_path):
    class Noisy(ImageValues):
        noise_draws = 3

        def maps(self, images, positions=(), draw=0):
            (found,) = super().maps(images)
            return [found + draw]

    plain = ImageValues(SIZE, 3).maps(read(range(7)))[0]
    for budget in (None, 0):
        store = FeatureStore(Noisy(SIZE, 3), NAMES, tmp_path / str(budget), budget=budget)
        store.fill(read, batch_size=4)
        for index in range(7):
            assert torch.equal(store[index][0], plain[index] + index % 3)
