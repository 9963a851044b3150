"""FeatureStore: the maps of many images, in memory, or in a file where they need more than that has."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.features.extractor import FeatureExtractor, digest_of
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import make_folder, reporting_os_errors, write_text
from guided_diffusion.runtime.memory import available_memory

MAPS, RECORD = "features.bin", "features.json"
SHARE = 3
"""The part of the available memory, as 1 / SHARE, that maps may take by default."""

ReadImages = Callable[[Sequence[int]], Tensor]
"""Numbers of images -> the images [N, C, H, W] as the extractor takes them."""


def default_budget() -> int:
    """Return the bytes that maps may take in memory."""
    return available_memory() // SHARE


class FeatureStore:
    """The maps of `images`: `store[i]` is a list of [C_i, h_i, w_i] of image i, to be read only.

    Pixel by pixel in memory: `map.permute(1, 2, 0).view(-1, C)` is a table of pixels, and no copy. In a file they
    are one row an image, read when they are used. The same bytes in both, whatever the batch.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        images: Sequence[str],
        folder: str | Path | None = None,
        *,
        budget: int | None = None,
    ):
        """Make an empty store, or find in `folder` what an earlier one of the same images and settings has written.

        images: what tells each image apart, as by the digest of its file. budget: bytes to keep in memory, beyond
        which maps go to `folder`; None: `default_budget`, 0: always. Raises UserError if that needs a missing folder.
        """
        assert images, "a store of no images"
        self.extractor, self.images = extractor, tuple(images)
        self.shapes, self.dtype = extractor.shapes, extractor.dtype
        self._offsets = np.cumsum([0, *(shape.numel for shape in self.shapes)]).tolist()
        self._kind = torch.empty(0, dtype=self.dtype).numpy().dtype
        self.on_disk = self.bytes > (default_budget() if budget is None else budget)
        self.folder = None if folder is None else Path(folder)
        if self.on_disk and self.folder is None:
            found = f"maps of {self.bytes / 2**30:.3g} GiB, beyond the memory for them"
            raise UserError.of("features", found, "give a folder, or fewer images, blocks or steps")
        self.digest = digest_of({"settings": extractor.settings(), "images": self.images})
        self._rows: NDArray[Any] | None = None
        self.done = self._found() if self.on_disk else 0
        """How many images have their maps."""

    @property
    def image_bytes(self) -> int:
        """Bytes of the maps of an image."""
        return self._offsets[-1] * self._kind.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of all maps."""
        return len(self.images) * self.image_bytes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        """Return the maps of an image whose maps are there."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        assert self.done == len(self), "fill the store first"
        if self._rows is None:
            self._rows = np.memmap(self._path, self._kind, "c", shape=(len(self), self._offsets[-1]))
        # Copy on write: torch takes no array that cannot be written, and the file stays as it is.
        row = torch.from_numpy(self._rows[index])
        parts = zip(self.shapes, self._offsets, self._offsets[1:], strict=False)
        return [
            row[start:end].view(shape.height, shape.width, shape.channels).permute(2, 0, 1)
            for shape, start, end in parts
        ]

    def fill(
        self, read: ReadImages, *, batch_size: int = 1, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Make the maps that are not there yet.

        read: called once for each batch, with increasing numbers. progress: called with (images done, images in all).
        Of several noises, images have each in turn.
        Raises UserError where the file cannot be written, as on a full disk.
        """
        if not self.on_disk and self._rows is None:
            self._rows = np.empty((len(self), self._offsets[-1]), self._kind)
        draws = self.extractor.noise_draws
        batch_size = batch_size if draws == 1 else 1
        while self.done < len(self):
            numbers = range(self.done, min(self.done + batch_size, len(self)))
            maps = self.extractor.maps(read(numbers), numbers, self.done % draws)
            rows = torch.cat([found.permute(0, 2, 3, 1).flatten(1) for found in maps], dim=1).numpy()
            if self.on_disk:
                self._append(rows)
            else:
                self._rows[numbers.start : numbers.stop] = rows
            self.done = numbers.stop
            if progress is not None:
                progress(self.done, len(self))

    @property
    def _path(self) -> Path:
        return self.folder / MAPS

    def _found(self) -> int:
        """Return how many images an earlier store has left in the file; 0 where it was another one."""
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            done, size = int(record["done"]), self._path.stat().st_size
            own = record["digest"] == self.digest and 0 <= done <= len(self)
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return done if own and size >= done * self.image_bytes else 0

    def _append(self, rows: NDArray[Any]) -> None:
        """Write rows after those that are done; what a killed process left behind them is overwritten."""
        make_folder(self.folder)
        with reporting_os_errors(self._path):
            self._path.touch()
            with open(self._path, "r+b") as file:
                file.truncate(self.done * self.image_bytes)
                file.seek(0, os.SEEK_END)
                file.write(np.ascontiguousarray(rows))
                file.flush()
                os.fsync(file.fileno())
        # Said after it is there, so that a killed process never says too much. Rows are maps in this order, [h, w, C].
        layout = {"dtype": self._kind.str, "shapes": [list(shape) for shape in self.shapes]}
        content = {"digest": self.digest, "done": self.done + len(rows), "images": len(self), **layout}
        write_text(self.folder / RECORD, json.dumps({**content, "settings": self.extractor.settings()}, indent=1))
