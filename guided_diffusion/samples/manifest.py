"""`manifest.jsonl`: a line for each finished pair of a folder of samples, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path, PureWindowsPath
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, model_validator

from guided_diffusion.data.files import read_bytes
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import write_text

MANIFEST = "manifest.jsonl"
PART = ".manifest-{}.jsonl"  # what one process (its rank) has made since the run started
UNFINISHED = ".synthetic"  # there while samples are being made
FOLDERS = ("images", "masks")  # beside the manifest


class SampleSettings(BaseModel):
    """What all samples of a run have in common, as the manifest records it.

    None: off, or not recorded by the version that wrote the line. Where a key added later is off, it has to be None,
    so that folders begun before can be continued.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    run_seed: int | None = None
    sampler: str | None = None
    steps: int | None = None
    time_grid: str | None = None
    eta: float | None = None
    s: float | None = None
    guidance_interval: list[float] | None = None
    clip_denoised: bool | None = None
    dynamic_threshold: float | None = None
    extrapolation: float | None = None
    cond_diffuse: bool | None = None
    cond_opt: str | None = None
    eta_path: str | None = None  # see `files.digest`
    unlabeled_to_zero: bool | None = None
    weights: str | None = None
    augment_masks: bool | None = None
    precision: str | None = None
    checkpoint: str | None = None  # see `files.digest`


class ManifestLine(SampleSettings):
    """One finished pair: its number, its files relative to the manifest, the mask it was made from, its settings.

    A line is written with the keys it was read with, in their order: other versions, and people, add keys.
    """

    model_config = ConfigDict(extra="ignore")
    _record: dict[str, Any] = PrivateAttr()

    index: int
    image: str
    mask: str
    source_mask: str
    source_digest: str
    seed: int | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _keep_record(cls, record: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        line = handler(record)
        line._record = dict(record)
        return line

    @property
    def files(self) -> tuple[str, str]:
        """Image and mask."""
        return self.image, self.mask

    def with_notes(self, notes: Mapping[str, Any]) -> ManifestLine:
        """Return the line with further keys."""
        return ManifestLine.model_validate({**self._record, **notes})

    def text(self) -> str:
        """Return the line as JSON, its newline included."""
        return json.dumps(self._record) + "\n"


def read_manifest(path: Path, *, sound_only: bool = False) -> list[ManifestLine]:
    """Return the lines of a manifest; a last one cut short by a kill is left out.

    sound_only: leave out every line that cannot be read.
    Raises DataError where it is no manifest, and where it names files that may be outside its folder.
    """
    lines, damaged = [], []
    try:
        # Replaced, not refused: what is no text is in the lines that are damaged.
        texts = path.read_bytes().decode("utf-8", "replace" if sound_only else "strict").split("\n")
        for number, text in enumerate(texts, 1):
            try:
                if text.strip():
                    lines.append(ManifestLine.model_validate(json.loads(text)))
            except (ValueError, RecursionError):  # not JSON, not such a line, an absurdly large integer
                if number < len(texts):  # the last one has no newline yet
                    damaged.append(number)
    except (OSError, UnicodeDecodeError):
        damaged.append(1)
    if damaged and not sound_only:
        found = f"is no manifest of samples, or damaged in line {damaged[0]}"
        raise DataError.of(path, found, "run the same sample command again to mend it, or use another folder")
    for file in (file for line in lines for file in line.files):
        if not stays_inside(file):
            raise DataError(
                f"{path}: names {file!r}, which may be outside its folder: it was edited; restore it, or use another "
                "folder"
            )
    return lines


def write_manifest(path: Path, lines: Iterable[ManifestLine]) -> None:
    """Replace a manifest; UserError where it cannot be written."""
    write_text(path, "".join(line.text() for line in lines))


def stays_inside(path: str) -> bool:
    """Return whether a relative path with forward slashes names a file below its folder, on Windows too."""
    parts = PureWindowsPath(path)
    return bool(parts.parts) and not parts.anchor and ".." not in parts.parts and "\\" not in path


def mask_digest(path: str | Path) -> str:
    """Return the digest by which a manifest names a mask file: the first 16 hexadecimal digits of its SHA-256."""
    return sha256(read_bytes(path)).hexdigest()[:16]
