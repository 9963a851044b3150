"""`manifest.jsonl`: a JSON line for each finished pair of a folder of samples."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from annotated_types import Len
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from guided_diffusion.data.components import Box
from guided_diffusion.data.files import read_bytes
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import is_endless, stays_inside, write_text

MANIFEST = "manifest.jsonl"
PART = ".manifest-{}.jsonl"  # pairs that the process of a rank has finished since the run started
UNFINISHED = ".synthetic"  # exists while samples are being made
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
FOLDERS = ("images", "masks")  # beside the manifest
IMAGES_ALONE, MASKS_ALONE = "image", "mask"
"""Values of `generates` for images without masks, of a network without a condition, and for masks without images."""
_RESTORE = "restore it, or use another folder"
MASK_KEYS, GOOD_KEYS = ("source_mask", "source_digest"), ("good_image", "good_digest")
"""Keys of path and digest of what a pair was made from, a mask or a good image."""


class SampleSettings(BaseModel):
    """Settings that all samples of a run share.

    None: off, or not recorded by the version that wrote the line. A key added later has to be None when it is off, so
    that folders begun before can be continued.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    action: ClassVar[str] = "sample"  # that makes such samples

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
    generates: str | None = None  # "mask" or "pair" of models that make masks, "image" without masks; None: given masks
    class_names: list[str] | None = None  # asked of these in turn; None: the mix of the training masks
    mask_checkpoint: str | None = None  # of the model that made the masks of mask_dir; see `files.digest`
    layout_source: str | None = None  # of a model of boxes, whose masks are predicted
    layouts: str | None = None  # digest of the layouts that there were to choose from
    style_seed: int | None = None
    geometry: JsonValue = None  # resize, scale and mask_resize where they are not as in training
    hub: str | None = None  # address of the checkpoint on the Hugging Face Hub, with its commit

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a sample has: "image", "mask" or both."""
        return (self.generates,) if self.generates in (IMAGES_ALONE, MASKS_ALONE) else ("image", "mask")


class ScenesSettings(SampleSettings):
    """Settings of defects in good images; those of `sample` that they have not are None."""

    mask_source: str | None = None
    place: JsonValue = None  # these three as the options give them
    edit: JsonValue = None
    defects_per_image: JsonValue = None
    classes: list[str] | None = None
    inputs: str | None = None  # digest of what defects are made of


class PlaceSettings(ScenesSettings):
    """Settings that all pairs of a run of `place` share."""

    action: ClassVar[str] = "place"

    scale: float | None = None
    hole_margin: int | None = None
    feather: float | None = None
    paste_noise: float | None = None
    opacity: list[float] | None = None


class PasteSettings(ScenesSettings):
    """Settings that all pairs of a run of `paste` share."""

    action: ClassVar[str] = "paste"

    blend: str | None = None
    gap: int | None = None
    image_channels: int | None = None


class GenerateSettings(SampleSettings):
    """Settings that all images of a run of `generate` share."""

    action: ClassVar[str] = "generate"

    classifier: str | None = None  # digest of its file
    features: str | None = None  # digest of how images were read for it
    ignore_above: float | None = None
    flip: bool | None = None
    read_npz: str | None = None  # digest of the file that images, masks and scores are of, in place of all others


class PlacedDefect(BaseModel):
    """A defect in a good image: its class by name, its box [left, top, right, bottom], and what it was made from."""

    model_config = ConfigDict(strict=True, frozen=True, populate_by_name=True)

    name: str = Field(alias="class")
    box: Annotated[list[int], Len(4, 4)]
    source: str

    @classmethod
    def of(cls, name: str, box: Box, source: str) -> Self:
        return cls(name=name, box=[box.left, box.top, box.right, box.bottom], source=source)

    @property
    def where(self) -> Box:
        left, top, right, bottom = self.box
        return Box(top, left, bottom, right)


class SkippedDefect(BaseModel):
    """A defect that could not be placed: its class by name, and why."""

    model_config = ConfigDict(strict=True, frozen=True, populate_by_name=True)

    name: str = Field(alias="class")
    reason: str


class GeneratedMask(BaseModel):
    """How the mask of a model that makes masks came out."""

    model_config = ConfigDict(strict=True, frozen=True, populate_by_name=True)

    name: str = Field(alias="class")  # that it was asked to have
    cleaned: float  # share of its pixels that cleaning changed
    margin: float  # mean over the pixels, 1: each has the code of its class, 0: another class is as near
    attempts: int  # of which this is the best
    faults: list[str]  # for which it would have been rejected, had a better one been found


class PseudoLabel(BaseModel):
    """How sure the pixel classifiers were that `segment` labeled a real image with."""

    model_config = ConfigDict(strict=True, frozen=True)

    image: str
    """The image that was labeled, of which the pair has a copy."""
    digest: str
    score: float
    """The uncertainty of the image: the mean Jensen-Shannon divergence (nats) of its most uncertain tenth."""
    confidence: float
    ignored: float
    """The share of its pixels that have no class, as they were uncertain."""
    classifier: str
    """Digest of the classifiers' file."""


class ClassifiedMask(BaseModel):
    """How sure the pixel classifiers were that `generate` labeled a drawn image with; None: its file does not say."""

    model_config = ConfigDict(strict=True, frozen=True)

    score: float
    """The uncertainty of the image, as of a `PseudoLabel`."""
    confidence: float | None = None
    ignored: float
    labeled: list[str] | None = None
    """Digests of the images whose masks the classifiers learned from."""


class MaskOrigin(BaseModel):
    """A mask of a dataset, or an image with boxes, by its path and `file_digest`."""

    model_config = ConfigDict(strict=True, frozen=True)

    mask: str
    digest: str


class MaskLineage(BaseModel):
    """What a new mask was made of: masks of a split of the dataset, which may have been turned, or boxes of images."""

    model_config = ConfigDict(strict=True, frozen=True)

    split: str
    upside_down: bool
    left_to_right: bool
    masks: list[MaskOrigin]
    images: list[MaskOrigin] = []

    @property
    def flips(self) -> tuple[bool, bool]:
        """Whether it may be turned upside down, and left to right."""
        return self.upside_down, self.left_to_right


def joined_lineage(parts: Sequence[MaskLineage]) -> MaskLineage | None:
    """Return what several masks of one split were made of together; None without any."""
    if not parts:
        return None
    return MaskLineage(
        split=parts[0].split,
        upside_down=any(part.upside_down for part in parts),
        left_to_right=any(part.left_to_right for part in parts),
        masks=list({each.digest: each for part in parts for each in part.masks}.values()),
        images=list({each.digest: each for part in parts for each in part.images}.values()),
    )


class PredictedObject(BaseModel):
    """An object of a layout: its class by name, its box (shares of width and height), and the seed of its style."""

    model_config = ConfigDict(strict=True, frozen=True, populate_by_name=True)

    name: str = Field(alias="class")
    box: Annotated[list[float], Len(4, 4)] | None = None  # None: a background, which is everywhere
    style_seed: int


class PredictedMask(BaseModel):
    """The layout that an image was made of; its mask is what the model says of where the objects are, not the truth."""

    model_config = ConfigDict(strict=True, frozen=True)

    background: PredictedObject | None = None
    objects: list[PredictedObject]
    inside: Annotated[list[float], Len(4, 4)] | None = None
    """What is no border, as a box; None: all is."""
    steps: int
    """The last steps of sampling over which the masks of the objects are averaged."""


class ManifestLine(PlaceSettings, PasteSettings, GenerateSettings):
    """One finished pair, made from a mask by `sample`, from a good image by `place` or `paste`, or from nothing by a
    model that makes masks; a real one of `segment`; a drawn one that `generate` labeled; one of the studio; or one
    image or mask alone. Files are relative to the manifest.

    A line is written with the keys it was read with, in their order: other versions, and people, add keys.
    """

    model_config = ConfigDict(extra="ignore")
    _record: dict[str, Any] = PrivateAttr()

    index: int
    image: str = ""  # "" for masks alone
    mask: str = ""  # "" for images alone
    source_mask: str = ""  # "" in lines of good images, and of what a model made from nothing
    source_digest: str = ""
    instance_digest: str | None = None  # of the instance map whose edges were taken, "" of labels'; None: not recorded
    good_image: str | None = None  # None in lines of `sample`
    good_digest: str | None = None
    seed: int | None = None
    synthetic: bool | None = None  # whether any of the image was made; None: not said by the version that wrote it
    defects: list[PlacedDefect] | None = None
    skipped: list[SkippedDefect] | None = None
    generated: GeneratedMask | None = None
    lineage: MaskLineage | None = None  # of a source_mask that was itself made from masks
    pseudo: PseudoLabel | None = None  # of a real image whose mask people have not drawn
    image_digest: str | None = None  # of a real image whose mask people have drawn, beside such
    classified: ClassifiedMask | None = None  # of an image that was drawn without a mask
    predicted: PredictedMask | None = None  # of an image that was made of boxes
    made_by: str | None = None  # "studio": a person painted the mask, and accepted the pair
    source_split: str | None = None  # of the mask that painting began from; "" where it began from nothing
    edited: bool | None = None  # whether the mask differs from that
    run_index: int | None = None  # its number among the images of `run_seed`, as `sample` counts them

    @model_validator(mode="wrap")
    @classmethod
    def _keep_record(cls, record: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        line = handler(record)
        line._record = dict(record)
        if not all(kind in record for kind in line.kinds):
            raise ValueError("the image or the mask is missing")
        has_source = any(all(key in record for key in keys) for keys in (MASK_KEYS, GOOD_KEYS))
        if line.generates != IMAGES_ALONE and line.pseudo is None and not has_source:
            raise ValueError("the file that the pair was made from is missing")
        return line

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(getattr(self, kind) for kind in self.kinds)

    @property
    def source(self) -> tuple[str, str]:
        """Path and `file_digest` of the file that the pair was made from."""
        if self.good_image is not None:
            return self.good_image, self.good_digest or ""
        return self.source_mask, self.source_digest

    def with_notes(self, notes: Mapping[str, Any]) -> ManifestLine:
        return ManifestLine.model_validate({**self._record, **notes})

    def text(self) -> str:
        """Return the line as JSON with its newline."""
        return json.dumps(self._record) + "\n"


def read_manifest(path: Path, *, sound_only: bool = False) -> list[ManifestLine]:
    """Return the lines of a manifest, without a last one cut short by a kill.

    sound_only: leave out every line that cannot be read.
    Raises DataError if it is corrupted or names a file that may be outside its folder.
    """
    lines, damaged = [], []
    try:
        if is_endless(path):
            raise OSError("a pipe or device")
        # With sound_only, lines that are not text become lines that are not JSON, and are left out.
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
        found = f"not a manifest of samples, or corrupted in line {damaged[0]}"
        raise DataError.of(path, found, "run the same command again to repair it, or use another folder")
    for file in (file for line in lines for file in line.files):
        if not stays_inside(file):
            raise DataError.of(path, f"edited: it names {file!r}, which may be outside its folder", _RESTORE)
    return lines


def write_manifest(path: Path, lines: Iterable[ManifestLine]) -> None:
    """Replace a manifest; UserError if it cannot be written."""
    write_text(path, "".join(line.text() for line in lines))


def is_whole_png(path: Path) -> bool:
    """Return whether a PNG file has its first and last bytes, which a full disk or a power cut may take away."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(PNG_START))
            file.seek(-len(PNG_END), os.SEEK_END)
            return start == PNG_START and file.read() == PNG_END
    except OSError:
        return False


def file_digest(path: str | Path) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a mask or image, by which a manifest names it."""
    return sha256(read_bytes(path)).hexdigest()[:16]
