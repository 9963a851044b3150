"""What `segment` writes: a mask of every unlabeled image, and the data_dir of those that are certain enough."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, JsonValue

from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.files import open_image, orientation, read_bytes
from guided_diffusion.data.intensity import stored_samples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import Pair
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.files import atomic_write, is_temporary, make_folder, remove_leftovers
from guided_diffusion.runtime.logs import read_json_lines
from guided_diffusion.samples.manifest import MANIFEST, UNFINISHED, PseudoLabel, is_whole_png
from guided_diffusion.samples.written_folder import WrittenFolder, read_lines

MASKS, IMAGES, UNCERTAINTY = "masks", "images", "uncertainty"
GRAY_LEVELS = 200
"""Of a picture of uncertainty, for each nat; 255 and more are 255."""
PSEUDO, LABELED = "pseudo", "labeled"
"""Sub-folders of images/ and masks/ of the data_dir: two images may have one name."""
_OWN = re.compile(f"[^/]+/({PSEUDO}|{LABELED})/")
_KEPT = (".jpg", ".jpeg", ".png")  # formats that every dataset_mode of image/mask pairs reads


class PredictedLine(BaseModel):
    """One labeled image; `mask` is relative to the manifest. `settings` are those of all masks of the folder."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    stem: str
    mask: str
    pseudo: PseudoLabel
    settings: dict[str, JsonValue]

    @classmethod
    def read(cls, path: Path) -> dict[str, Self]:
        """Return the lines of a manifest by stem, without what cannot be read."""
        return {line.stem: line for line in read_lines(path, cls)}

    def of_image(self, path: str) -> Self:
        """Return the line with its image at `path`."""
        return self.model_copy(update={"pseudo": self.pseudo.model_copy(update={"image": path})})


class PredictedFolder(WrittenFolder):
    """The masks of all unlabeled images, their uncertain pixels ignored, and how uncertain each image is."""

    def __init__(self, folder: str | Path, encoding: LabelEncoding, settings: Mapping[str, Any]):
        super().__init__(Path(folder))
        self.encoding, self.settings = encoding, json.loads(json.dumps(settings))

    def begin(self, digests: Mapping[str, str]) -> set[str]:
        """Prepare the folder for images, digest by stem; return the stems whose masks are there, to be kept.

        To be called in one process before any process writes. Raises DataError where it has masks of other settings.
        """
        for line in self._lines().values():
            for key, value in self.settings.items():
                if line.settings.get(key) != value:
                    before = json.dumps(line.settings.get(key))
                    found = f"holds masks with {key} {before}, these would have {json.dumps(value)}"
                    raise DataError.of(self.manifest, found, "choose another output_dir")
        make_folder(self.folder / MASKS)
        for folder in (self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())):
            remove_leftovers(folder)
        self._mark_unfinished()
        return set(self._merge(digests))

    def _lines(self) -> dict[str, PredictedLine]:
        lines: dict[str, PredictedLine] = {}
        for path in [self.manifest, *self._parts]:
            lines |= PredictedLine.read(path)
        return dict(sorted(lines.items()))

    def _merge(self, digests: Mapping[str, str], paths: Mapping[str, str] | None = None) -> dict[str, PredictedLine]:
        """Merge the parts of the processes into the manifest; keep the lines of these images whose masks are whole.

        paths: where the images are, None: as the lines have it.
        """
        lines = {
            stem: line if paths is None else line.of_image(paths[stem])
            for stem, line in self._lines().items()
            if digests.get(stem) == line.pseudo.digest
            and all(is_whole_png(path) for path in (self.folder / line.mask, self._uncertainty(stem)))
        }
        self._replace_manifest("".join(line.model_dump_json() + "\n" for line in lines.values()))
        return lines

    def write(
        self, stem: str, label: NDArray[np.integer], uncertainty: NDArray[np.floating], pseudo: PseudoLabel
    ) -> None:
        """Write the mask of an image and the picture of its uncertainty [H, W] (nats), then its line."""
        name = f"{MASKS}/{stem}.png"
        levels = np.minimum(np.rint(uncertainty.astype(np.float64) * GRAY_LEVELS), 255).astype(np.uint8)
        for path, picture in (
            (self._uncertainty(stem), Image.fromarray(levels)),
            (self.folder / name, self.encoding.encode(label)),
        ):
            with atomic_write(path) as temporary:
                picture.save(temporary, format="PNG")
        line = PredictedLine(stem=stem, mask=name, pseudo=pseudo, settings=self.settings)
        # The line comes last: a mask without a line is made again.
        self._add_line(line.model_dump_json() + "\n")

    def _uncertainty(self, stem: str) -> Path:
        return self.folder / UNCERTAINTY / f"{stem}.png"

    def finish(self, digests: Mapping[str, str], paths: Mapping[str, str] | None = None) -> list[PredictedLine]:
        """Merge all parts, in one process after all have closed theirs; return the lines by stem.

        digests, paths: of the images, by stem, which may have been moved since; see `_merge`.
        """
        lines = self._merge(digests, paths)
        self._unfinished.unlink(missing_ok=True)
        return list(lines.values())

    def label(self, line: PredictedLine) -> NDArray[np.integer]:
        """Return the label map [H, W] of a mask that was written."""
        return read_mask(self.folder / line.mask, self.encoding).numpy()

    def uncertainty(self, line: PredictedLine) -> NDArray[np.float64]:
        """Return the uncertainty [H, W] of an image in nats, as its picture has it."""
        return np.asarray(open_image(self._uncertainty(line.stem))) / GRAY_LEVELS


@dataclass(frozen=True)
class PlannedPair:
    """A pair of the data_dir: an image and a mask, by paths.

    drawn: whether the mask is one of the dataset, to be written anew. record: its line of the manifest without the
    names of its files.
    """

    stem: str
    image: str
    mask: str
    upright: bool
    drawn: bool
    record: Mapping[str, Any]


def labeled_pair(pair: Pair, digests: tuple[str, str]) -> PlannedPair:
    """Return the plan of a labeled image, whose mask people have drawn; digests: of image and mask."""
    record = {"source_mask": pair.mask, "source_digest": digests[1], "image_digest": digests[0]}
    return PlannedPair(f"{LABELED}/{pair.stem}", pair.image, pair.mask, pair.upright, True, record)


def pseudo_pair(folder: PredictedFolder, line: PredictedLine, *, upright: bool) -> PlannedPair:
    """Return the plan of an image that was labeled here."""
    record = {"pseudo": line.pseudo.model_dump()}
    mask = str(folder.folder / line.mask)
    return PlannedPair(f"{PSEUDO}/{line.stem}", line.pseudo.image, mask, upright, False, record)


def write_pairs(
    folder: Path, plan: Sequence[PlannedPair], encoding: LabelEncoding, *, progress: Iterable[int] | None = None
) -> None:
    """Make `folder` have images/ and masks/ of the plan, and no other pairs of an earlier one, and a manifest.

    Pairs that are there stay; see `refuse_foreign_pairs` for others. progress: the numbers of the plan, which are
    counted by going through them.
    """
    manifest, mark = folder / MANIFEST, folder / UNFINISHED
    before = _lines_before(manifest)
    make_folder(folder)
    mark.touch()
    lines, wanted = [], set()
    for number in range(len(plan)) if progress is None else progress:
        pair = plan[number]
        line = {"index": number, "image": "", "mask": f"{MASKS}/{pair.stem}.png", **pair.record}
        old = before.get(line["mask"])
        if old is not None and _same(old, line) and all((folder / old[kind]).is_file() for kind in ("image", "mask")):
            line["image"] = old["image"]
        else:
            line["image"] = copy_image(pair.image, folder / IMAGES, pair.stem, upright=pair.upright)
            with atomic_write(folder / line["mask"]) as temporary:
                if pair.drawn:
                    label = read_mask(pair.mask, encoding, upright=pair.upright)
                    encoding.encode(label).save(temporary, format="PNG")
                else:
                    temporary.write_bytes(read_bytes(pair.mask))
        lines.append(json.dumps(line) + "\n")
        wanted |= {line["image"], line["mask"]}
    for path in _files(folder):
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    with atomic_write(manifest) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
    mark.unlink()


def _lines_before(manifest: Path) -> dict[str, dict[str, Any]]:
    records = read_json_lines(manifest) if manifest.is_file() else []
    return {record["mask"]: record for record in records if {"mask", "image"} <= record.keys()}


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two lines are of one pair, whatever its number."""
    moving = ("index", "image")
    return {key: value for key, value in old.items() if key not in moving} == {
        key: value for key, value in json.loads(json.dumps(new)).items() if key not in moving
    }


def _files(folder: Path) -> list[Path]:
    return [path for kind in (IMAGES, MASKS) for path in sorted((folder / kind).rglob("*")) if path.is_file()]


def refuse_foreign_pairs(folder: Path, ours: re.Pattern[str] = _OWN, *, action: str = "segment") -> None:
    """Raise DataError where `folder` has images or masks that `write_pairs` has not written, and would delete.

    ours: names, relative to the folder, that its pairs may have without being in the manifest yet.
    """
    manifest = folder / MANIFEST
    before, begun = _lines_before(manifest), (folder / UNFINISHED).exists() or manifest.exists()
    named = {line[kind] for line in before.values() for kind in ("image", "mask")}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        written = name in named or (begun and ours.match(name))
        if not written and not is_temporary(path):
            key = "output_dir" if action == "segment" else "results_path"
            raise DataError.of(path, f"was not made by {action} here", f"choose an empty {key}, or another split")


def copy_image(path: str, folder: Path, stem: str, *, upright: bool) -> str:
    """Copy an image into images/ and return its name relative to the folder above; JPEG and PNG byte by byte.

    Other formats, and pictures that an EXIF orientation turns, become PNG of their depth, turned if `upright`.
    """
    content = read_bytes(path)
    suffix = Path(path).suffix.lower()
    picture = open_image(path, content, upright=False)
    if suffix in _KEPT and orientation(picture) == 1:
        target = folder / f"{stem}{suffix}"
        with atomic_write(target) as temporary:
            temporary.write_bytes(content)
    else:
        target = folder / f"{stem}.png"
        pixels, alpha = stored_samples(open_image(path, content, upright=upright), path)
        with atomic_write(target) as temporary:
            NativeImage(pixels, alpha, 0, 0).save(temporary)
    return target.relative_to(folder.parent).as_posix()


def thumbnail(path: str, size: tuple[int, int], *, upright: bool) -> NDArray[np.uint8]:
    """Return a picture for people, uint8 [H, W, 3], of `size` (height, width); 16 bits from its darkest to lightest."""
    pixels, _ = stored_samples(open_image(path, upright=upright), path)
    if pixels.dtype != np.uint8:
        low, high = int(pixels.min()), int(pixels.max())
        pixels = ((pixels.astype(np.float32) - low) * (255 / max(high - low, 1))).astype(np.uint8)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
