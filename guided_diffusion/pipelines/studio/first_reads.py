"""The files of a studio as they were when they were first read, which is what its manifest records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from guided_diffusion.runtime.errors import DataError
from guided_diffusion.samples.manifest import MaskOrigin, file_digest


class FirstReads:
    """The digests of files at their first reading: what was read stays in caches, and on the page."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}

    @contextmanager
    def of(self, *paths: str) -> Iterator[None]:
        """Read files in the block; DataError for one that is not what it was when it was first read."""
        found = {path: file_digest(path) for path in paths}
        self._refuse_changed(self._digests, found)
        yield
        self._refuse_changed(found, {path: file_digest(path) for path in paths})
        self._digests |= found

    def origin(self, path: str) -> MaskOrigin:
        """Return a file that was read, as the manifest records it."""
        return MaskOrigin(mask=path, digest=self._digests[path])

    def _refuse_changed(self, before: dict[str, str], now: dict[str, str]) -> None:
        for path, digest in now.items():
            if before.get(path, digest) != digest:
                raise DataError.of(path, "has changed since the studio read it", "start the studio again to use it")
