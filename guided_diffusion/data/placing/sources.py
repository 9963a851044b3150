"""Scenes that the user gives: label maps of the good images, or a JSON file of placements; and regions for defects.

    {"part_07": [{"class": "crack", "center": [812, 340]},
                 {"class": "break", "center": [20.5, 99], "component": "train_3#0", "scale": 1.2, "angle": 30}]}

Each key is a good image by its name without the extension. `class` and `center` ([x, y] in px of the good image, from
its upper left corner) are required. `component` is a component of a training mask, by the name of the mask and its
number (the manifest of `place` names those it used); without one, a random component of the class is taken. `scale`
and `angle` (degrees, counterclockwise) are 1 and 0 unless given; with `edit`, the component is bent a little as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from tqdm import tqdm

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.components import find_components
from guided_diffusion.data.files import check_sizes, open_mask, read_bytes
from guided_diffusion.data.intensity import stored_samples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import GoodImage, index_masks
from guided_diffusion.data.placing.bank import BankPart, DefectBank
from guided_diffusion.data.placing.edit import EditedPart, edit_part
from guided_diffusion.data.placing.scene import Ground, PlacedDefect, Scene, Skipped
from guided_diffusion.data.scan.problems import refuse_fatal
from guided_diffusion.runtime.errors import DataError
from guided_diffusion.runtime.near_names import suggestion
from guided_diffusion.runtime.strict_json import strict_json
from guided_diffusion.runtime.units import counted


class LabelMaps:
    """A folder of label maps, one for each good image of the same name."""

    def __init__(self, folder: str | Path, encoding: LabelEncoding, classes: Sequence[int]):
        """Take the PNG files below a folder; `classes` are the ids of those to place. Raises DataError."""
        entries, problems = index_masks(folder, key="placed_masks")
        refuse_fatal(problems)
        self.encoding, self.classes = encoding, tuple(classes)
        self.paths = {entry.stem: entry.mask for entry in entries}
        """Name without the extension -> path."""

    def decode(self, name: str, *, upright: bool = True) -> NDArray[np.integer]:
        """Return the label map [H, W] of a good image, whatever its size; else as `read`."""
        path = self.paths[name]
        return self.encoding.decode(open_mask(path, upright=upright), path)

    def read(self, name: str, size: tuple[int, int], *, upright: bool = True) -> NDArray[np.integer]:
        """Return the label map [H, W] of a good image of (height, width).

        upright: turn the map as its EXIF orientation says. DataError for another size and values of unknown meaning.
        """
        path, label = self.paths[name], self.decode(name, upright=upright)
        if label.shape != size:
            found = f"is {label.shape[1]} x {label.shape[0]} px, but the good image is {size[1]} x {size[0]} px"
            raise DataError.of(path, found, "make the label map of the size of the good image")
        return label

    def scene_of(self, name: str, label: NDArray[np.integer]) -> Scene:
        """Return the defects of the label map of a good image; those that touch stay as they are."""
        parts = find_components(label, self.classes)
        path, size = self.paths[name], (label.shape[0], label.shape[1])
        return Scene(
            size, tuple(PlacedDefect(part.class_id, part.mask, part.box.top, part.box.left, path) for part in parts)
        )

    def scene(self, name: str, size: tuple[int, int], *, upright: bool = True) -> Scene:
        """Return the defects of the label map of a good image of (height, width), as `read` and `scene_of` do."""
        return self.scene_of(name, self.read(name, size, upright=upright))

    def taken_off(self, images: Sequence[GoodImage], class_ids: Collection[int]) -> tuple[str, ...]:
        """Return a warning where maps of good images have such classes: nothing says that they are no defects, so
        masks will lack them. DataError as `read`.
        """
        counts = Counter(
            class_id
            for image in tqdm(images, "reading label maps", unit="map", delay=2)
            for class_id in np.unique(self.decode(image.stem, upright=image.upright)).tolist()
            if class_id in class_ids
        )
        if not counts:
            return ()
        found = ", ".join(f"{self.encoding.names[class_id]} (in {count})" for class_id, count in sorted(counts.items()))
        line = (
            f"warning: classes leaves out {found} of {counted(len(images), 'label map', 'label maps')}: masks get what "
            "surrounds these, mostly background; name the classes that are defects in defect_classes, and the others "
            "stay"
        )
        return (line,)


_Pixels = Annotated[float, Field(ge=0)]


class RequestedDefect(BaseModel):
    """One defect of a file of placements."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    class_name: str = Field(alias="class")
    center: Annotated[list[_Pixels], Field(min_length=2, max_length=2)]
    component: str | None = None
    scale: float = Field(1.0, ge=0.1, le=10)
    angle: float = Field(0.0, ge=-360, le=360)


_FILE = TypeAdapter(dict[str, list[RequestedDefect]])
_EXAMPLE = 'write such as {"part_07": [{"class": "crack", "center": [812, 340]}]}'


class PlacementsFile:
    """A JSON file of placements, as this module describes it."""

    def __init__(self, path: str | Path, bank: DefectBank, good_images: Collection[str]):
        """Read a file; DataError with a line for each mistake.

        good_images: names of the good images, without extensions.
        """
        self.path, self.bank = str(path), bank
        content = strict_json(read_bytes(path), self.path)
        try:
            self.placements: Mapping[str, Sequence[RequestedDefect]] = _FILE.validate_python(content)
        except ValidationError as error:
            details = error.errors(include_url=False)
            lines = [f"{self.path}: {_key(*detail['loc'])}: {detail['msg']}; {_EXAMPLE}" for detail in details]
            raise DataError(lines) from error
        if mistakes := list(self._mistakes(good_images)):
            raise DataError([f"{self.path}: {line}" for line in mistakes])

    def _mistakes(self, good_images: Collection[str]) -> Iterator[str]:
        names = self.bank.names
        present = sorted({names[part.class_id] for part in self.bank.parts})
        for name, placements in self.placements.items():
            if name not in good_images:
                yield f"{_key(name)}: there is no good image of this name; {_hint(name, good_images)}"
            for index, placement in enumerate(placements):
                if placement.class_name not in present:
                    key = _key(name, index, "class")
                    hint = _hint(placement.class_name, present)
                    yield f"{key}: {placement.class_name!r} is no class that the training masks have parts of; {hint}"
                elif placement.component is not None:
                    part = self.bank.find(placement.component)
                    if part is None or names[part.class_id] != placement.class_name:
                        sources = [part.source for part in self.bank.of_class(names.index(placement.class_name))]
                        found = f"{placement.component!r} is no component of class {placement.class_name!r}"
                        yield f"{_key(name, index, 'component')}: {found}; {_hint(placement.component, sources)}"

    def check_centers(self, name: str, size: tuple[int, int]) -> None:
        """Raise DataError for a center outside a good image of (height, width)."""
        for index, request in enumerate(self.placements.get(name, ())):
            x, y = request.center
            if x >= size[1] or y >= size[0]:
                found = (
                    f"{_key(name, index, 'center')} is [{x:g}, {y:g}], outside the image of {size[1]} x {size[0]} px"
                )
                raise DataError.of(self.path, found, "give [x, y] in px from the upper left corner")

    def scene(self, name: str, size: tuple[int, int], rng: np.random.Generator, *, edit: bool = True) -> Scene:
        """Return the defects of a good image of (height, width); DataError for a center outside it.

        What reaches beyond the image is cut off; what would overlap an earlier one is skipped. edit: bend the parts.
        """
        self.check_centers(name, size)
        ground, placements, skipped = Ground(size), [], []
        for request in self.placements.get(name, ()):
            x, y = request.center
            part = self._part(request, rng)
            amounts = {"scale": request.scale, "angle": request.angle, "loose": True}
            edited = edit_part(part, size, **amounts, bend=rng if edit else None) or edit_part(part, size, **amounts)
            defect = None if edited is None else _cut(edited, (y, x), size)
            reason = "nothing is left of it" if defect is None else ground.refusal(defect.mask, defect.top, defect.left)
            if defect is None or reason:
                skipped.append(Skipped(part.class_id, reason))
            else:
                placements.append(defect)
                ground.occupy(defect)
        return Scene(size, tuple(placements), tuple(skipped))

    def _part(self, request: RequestedDefect, rng: np.random.Generator) -> BankPart:
        if request.component is not None:
            part = self.bank.find(request.component)
            assert part is not None
            return part
        of_class = self.bank.of_class(self.bank.names.index(request.class_name))
        # Parts that touch a border are cut off there.
        whole = [part for part in of_class if not any(part.borders)] or of_class
        return whole[rng.integers(len(whole))]


def _cut(edited: EditedPart, center: tuple[float, float], size: tuple[int, int]) -> PlacedDefect | None:
    """Return a part with its box around a center (y, x), without what is outside the image; None if that is all."""
    corner = [round(middle - length / 2) for middle, length in zip(center, edited.mask.shape, strict=True)]
    before = [max(0, -start) for start in corner]
    after = [max(0, limit - start) for limit, start in zip(size, corner, strict=True)]
    mask = edited.mask[before[0] : after[0], before[1] : after[1]]
    if not mask.any():
        return None
    edited = replace(edited, mask=mask, origin=(edited.origin[0] + before[0], edited.origin[1] + before[1]))
    top, left = corner[0] + before[0], corner[1] + before[1]
    return PlacedDefect(edited.part.class_id, mask, top, left, edited.part.source, edited)


def _key(name: str | int = "", *rest: str | int) -> str:
    """Return where in a file something is: 'part_07'[1].center."""
    return repr(name) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in rest)


def _hint(name: str, known: Collection[str]) -> str:
    listed = f"known are {', '.join(sorted(known)[:5])}{' ...' if len(known) > 5 else ''}"
    return suggestion(name, known, listed if known else "there is none")


class Region:
    """Where defects may be: one mask for all good images, or one for each in a folder."""

    def __init__(self, path: str):
        """Take a mask or a folder of masks; "": defects may be everywhere. Raises DataError where it is missing."""
        self._path = Path(path) if path else None
        self._whole: dict[bool, NDArray[np.bool_]] = {}  # the one mask, upright or as stored
        if self._path is not None and not self._path.exists():
            raise DataError.of(path, "does not exist", "check region")

    def file(self, good: GoodImage) -> Path | None:
        """Return the mask of a good image, if there is one. Raises DataError where its folder lacks it."""
        if self._path is None or not self._path.is_dir():
            return self._path
        file = self._path / f"{good.stem}.png"
        if not file.exists():
            raise DataError.of(file, "is missing: region has to have a mask for every good image", "add it")
        return file

    def of(self, good: GoodImage, size: Size) -> NDArray[np.bool_] | None:
        """Return where defects may be in a good image, [H, W]; None: everywhere. Raises DataError."""
        file = self.file(good)
        if file is None:
            return None
        allowed = self._whole.get(good.upright)
        if allowed is None:
            color, alpha = stored_samples(open_mask(file, upright=good.upright), str(file))
            allowed = (color > 0).any(axis=2)
            if alpha is not None:
                allowed &= alpha > 0
            if file == self._path:
                self._whole[good.upright] = allowed
        check_sizes(str(file), allowed.shape, good.image, size)
        return allowed

    def files(self, images: Sequence[GoodImage]) -> list[tuple[str, Path]]:
        """Return the masks of these images and the names of their images, "" for the one mask of all of them."""
        if self._path is None or not self._path.is_dir():
            return [] if self._path is None else [("", self._path)]
        return [(image.stem, file) for image in images if (file := self.file(image)) is not None]
