"""`import`: from the annotations of another tool to a dataset, with a record of all that was lost."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluations.groups import numbered
from guided_diffusion.conditions.base import Size
from guided_diffusion.config.import_dataset import ImportConfig
from guided_diffusion.data.files import UNREADABLE, open_image, orientation, read_bytes
from guided_diffusion.data.formats.annotated import (
    Annotated,
    Loss,
    LossKind,
    Picture,
)
from guided_diffusion.data.formats.names import safe_names
from guided_diffusion.data.formats.painting import ClassIds, PaintedMask, paint
from guided_diffusion.data.formats.reading import read_source
from guided_diffusion.data.formats.source_files import SourceFiles, first_names
from guided_diffusion.data.groups import groups_of
from guided_diffusion.data.held_out import draw_test_groups
from guided_diffusion.data.masks.classes_file import FILE_NAME, MAX_NAME, classes_text
from guided_diffusion.data.masks.encoding import MAX_CLASSES, LabelEncoding
from guided_diffusion.data.scan.problems import Problem, ProblemKind, problem_lines
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import move, reporting_os_errors, write_text
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.runtime.whole_folder import new_folder

REPORT = "import.json"
DATUMARO = "dataset_meta.json"
"""Makes {split} a dataset of Datumaro's common_semantic_segmentation."""
KEPT = (".jpg", ".jpeg", ".png")
"""Extensions of images that every dataset_mode of image/mask pairs reads."""


@dataclass(frozen=True, eq=False)
class ImportedPair:
    """What became of a picture."""

    picture: Picture
    split: str
    name: str
    channels: int
    size: Size
    classes: tuple[int, ...]
    """Ids in its mask."""
    losses: tuple[Loss, ...]
    shapes: int
    covering: int
    covered_pixels: int

    @property
    def suffix(self) -> str:
        return _suffix(self.picture)


@dataclass(frozen=True, eq=False)
class Imported:
    """A dataset that `import_dataset` has written."""

    folder: Path
    form: str
    names: tuple[str, ...]
    pairs: tuple[ImportedPair, ...]
    losses: tuple[Loss, ...]
    drawn: bool
    """Whether the test images were drawn here."""
    notes: tuple[str, ...]

    @property
    def image_channels(self) -> int:
        """3 where an image has colors, else 1."""
        return max(pair.channels for pair in self.pairs)

    def lines(self) -> list[str]:
        """Return what is there and what is lost, for people."""
        splits = Counter(pair.split for pair in self.pairs)
        origin = "drawn by seed" if self.drawn else "as in the source"
        counted = ", ".join(f"{count} {split}" for split, count in sorted(splits.items(), reverse=True))
        lines = [
            f"{self.form}: {len(self.pairs)} images ({counted}; {origin}), {sum(p.shapes for p in self.pairs)} areas"
        ]
        lines += [f"  {index} {name}: in {self._images(index)} images" for index, name in enumerate(self.names)][1:]
        empty = sum(not set(pair.classes) - {0} for pair in self.pairs)
        lines += [f"  {empty} images have nothing but background"] if empty else []
        covering, covered = (sum(getattr(p, key) for p in self.pairs) for key in ("covering", "covered_pixels"))
        if covering:
            lines.append(f"overlaps: {covering} areas cover {covered} pixels of earlier ones")
        lines += self.notes
        for kind, count in self.lost().items():
            first = next(loss for loss in self.losses if loss.kind is kind)
            lines.append(f"lost: {count} {kind.value} (such as {first.entry} in {first.file})")
        return lines

    def _images(self, index: int) -> int:
        return sum(index in pair.classes for pair in self.pairs)

    def lost(self) -> dict[LossKind, int]:
        """Return how much was lost, by reason."""
        counts: Counter[LossKind] = Counter()
        for loss in self.losses:
            counts[loss.kind] += loss.count
        return dict(sorted(counts.items(), key=lambda item: list(LossKind).index(item[0])))

    def to_json(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record that is written beside the dataset."""
        return {
            "format": self.form,
            "source": config["source"],
            "classes": list(self.names),
            "test_images": "drawn" if self.drawn else "of the source",
            "overlaps": {key: sum(getattr(p, key) for p in self.pairs) for key in ("covering", "covered_pixels")},
            "lost": {kind.value: count for kind, count in self.lost().items()},
            "losses": [{"kind": x.kind.name.lower(), "file": x.file, "entry": x.entry} for x in self.losses],
            "images": {f"{p.split}/images/{p.name}{p.suffix}": p.picture.name for p in self.pairs},
        }


def import_dataset(config: ImportConfig) -> Imported:
    """Read the source, and write the dataset of its annotations to `output_dir`, whole or not at all."""
    refuse_inside(config)
    with new_folder("output_dir", config.output_dir, "import") as folder:
        files = SourceFiles(config.source, config.image_dir)
        annotated = read_source(files, config.format, config.classes or ())
        names = annotated.class_names(config.classes or ())
        _check_names(names, annotated, config)
        _check_pictures(annotated.pictures)
        encoding = _encoding(names)
        pairs, drawn = _write(config, annotated, encoding, folder)
        if not any(set(pair.classes) - {0, encoding.num_classes} for pair in pairs):
            reasons = Counter(loss.kind for pair in pairs for loss in pair.losses) or Counter(
                loss.kind for loss in annotated.losses
            )
            found = "; ".join(f"{count} {kind.value}" for kind, count in reasons.most_common(3)) or "nothing annotated"
            raise DataError.of(files.root, f"has no area of a class ({found})", "check classes, format and source")
        if not any(encoding.num_classes in pair.classes for pair in pairs):
            encoding = replace(encoding, ignore_values=())
        losses = (*annotated.losses, *(loss for pair in pairs for loss in pair.losses))
        notes = (*annotated.notes, *_in_other_folders(files.by_name_alone), *_unused(names, pairs))
        target = Path(os.path.abspath(config.output_dir))
        imported = Imported(target, annotated.form, names, pairs, losses, drawn, notes)
        write_text(folder / FILE_NAME, classes_text(encoding))
        write_text(folder / REPORT, json.dumps(imported.to_json(config.to_json()), indent=1) + "\n")
        label_map = {str(index): name for index, name in enumerate(names)}
        for split in {pair.split for pair in pairs}:
            write_text(folder / split / DATUMARO, json.dumps({"label_map": label_map}, indent=1) + "\n")
        write_run_record(folder, "import", config.to_json())
    return imported


def _in_other_folders(found: Mapping[str, str]) -> tuple[str, ...]:
    """Return a line on images that were found in another folder than annotations say, by what these call them."""
    if not found:
        return ()
    (wanted, name), *more = sorted(found.items())
    how_many = f"{len(found)} images were" if more else "an image was"
    line = f"{how_many} found by the name alone, in another folder than the annotations say: {name} for {wanted}"
    return (f"{line}{', ...' if more else ''}; look whether the masks fit these images",)


def refuse_inside(config: ImportConfig) -> None:
    """Raise ConfigError where the dataset would lie among the files that are read, or they in it."""
    target = Path(config.output_dir).resolve()
    for key in ("source", "image_dir"):
        if value := config.get(key):
            source = Path(value).resolve()
            source = source.parent if source.is_file() else source
            if target.is_relative_to(source) or source.is_relative_to(target):
                line = f"output_dir: {target} and {key}, {source}, lie in each other: choose another folder"
                raise ConfigError.of_keys(("output_dir", line))


def _check_names(names: Sequence[str], annotated: Annotated, config: ImportConfig) -> None:
    used = {*annotated.names, *(shape.name for picture in annotated.pictures for shape in picture.shapes)}
    for name in names:
        if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            found = f"has a class named {name[:MAX_NAME]!r}"
            raise DataError.of(config.source, found, f"give it at most {MAX_NAME} printable characters")
    if len(names) > MAX_CLASSES:
        raise DataError.of(config.source, f"has {len(names)} classes", f"choose at most {MAX_CLASSES} by classes")
    if config.classes and not used & set(names[1:]):
        line = f"classes: {', '.join(names[1:])} {'is' if len(names) == 2 else 'are'} not in the source, which has "
        raise ConfigError.of_keys(("classes", f"{line}{first_names(sorted(used), 12) or 'none'}: correct the names"))


def _unused(names: Sequence[str], pairs: Sequence[ImportedPair]) -> list[str]:
    used = {index for pair in pairs for index in pair.classes}
    unused = [name for index, name in enumerate(names) if index and index not in used]
    return [f"classes without an area: {first_names(unused, 12)}"] if unused else []


def _check_pictures(pictures: Sequence[Picture]) -> None:
    problems = [
        Problem(
            picture.path,
            f"is a {_suffix(picture) or 'nameless'} file, and images are copied as they are",
            "convert it to PNG (pixels stay) and name it so in the annotations",
            ProblemKind.OTHER_FORMATS,
        )
        for picture in pictures
        if _suffix(picture) not in KEPT
    ]
    if problems:
        raise DataError(problem_lines(problems))


def _suffix(picture: Picture) -> str:
    if picture.content is not None:
        return ".png" if picture.content.startswith(b"\x89PNG") else ".jpg"
    return os.path.splitext(picture.path)[1].lower()


def _encoding(names: Sequence[str]) -> LabelEncoding:
    encoding = LabelEncoding.identity(len(names), names)
    # With 256 classes no value of 8 bits is left for ignored pixels.
    encoding = replace(encoding, kind="grey16") if len(names) > 255 else encoding
    return encoding.with_ignore()


def _write(
    config: ImportConfig, annotated: Annotated, encoding: LabelEncoding, folder: Path
) -> tuple[tuple[ImportedPair, ...], bool]:
    """Write images and masks; return them, and whether the test images were drawn."""
    pictures = sorted(annotated.pictures, key=lambda picture: picture.name)
    splits = _splits_of_source(pictures)
    drawn = splits is None
    splits = ["train"] * len(pictures) if drawn else splits
    names = [""] * len(pictures)
    for split in set(splits):
        places = [index for index, own in enumerate(splits) if own == split]
        for index, name in zip(places, safe_names([pictures[i].name for i in places]), strict=True):
            names[index] = name
    for split in {*splits, *(["test"] if drawn and config.test_share else [])}:
        for kind in ("images", "masks"):
            (folder / split / kind).mkdir(parents=True)
    groups = numbered(groups_of(config.group_pattern, [picture.name for picture in pictures]), len(pictures)).tolist()
    if drawn and config.test_share and len(pictures) > 1 and len(set(groups)) == 1:
        line = f"group_pattern is {config.group_pattern!r}, which makes one group of all images: none is for test"
        raise ConfigError.of_keys(("group_pattern", f"{line}: correct it, or set test_share to 0"))
    ids = ClassIds({name: index for index, name in enumerate(encoding.names)}, encoding.num_classes, config.crowds)
    write = partial(_write_pair, folder=folder, encoding=encoding, ids=ids, names=annotated.names, link=config.link)
    pairs = in_threads(write, list(zip(pictures, splits, names, strict=True)), "importing", True)
    if drawn and config.test_share and len(pairs) > 1:
        chosen = draw_test_groups([pair.classes for pair in pairs], groups, config.test_share, config.seed)
        pairs = [_moved(folder, pair) if test else pair for pair, test in zip(pairs, chosen.tolist(), strict=True)]
    elif drawn and config.test_share:
        shutil.rmtree(folder / "test")
    return tuple(pairs), drawn


def _splits_of_source(pictures: Sequence[Picture]) -> list[str] | None:
    """Return the split of each picture, None where the source does not have images of both.

    Those for validation are for testing where there are no others for it, else for training.
    """
    known = {picture.split for picture in pictures}
    if ("train" not in known and "" not in known) or not known & {"val", "test"}:
        return None
    if "" in known:
        loose = next(picture for picture in pictures if not picture.split)
        held = next(picture for picture in pictures if picture.split in ("val", "test"))
        found = f"image {held.name!r} is of {held.split}, but {loose.name!r} of no split"
        raise DataError.of(loose.file or loose.path, found, "name its folder or its annotations after its split")
    to = {"train": "train", "val": "train" if "test" in known else "test", "test": "test"}
    return [to[picture.split] for picture in pictures]


def _write_pair(
    item: tuple[Picture, str, str],
    *,
    folder: Path,
    encoding: LabelEncoding,
    ids: ClassIds,
    names: tuple[str, ...],
    link: bool,
) -> ImportedPair:
    picture, split, name = item
    content = read_bytes(picture.path) if picture.content is None else picture.content
    sizes, channels = _header(picture.path, content)
    mask: PaintedMask = paint(picture, sizes, ids, names)
    target = folder / split / "images" / f"{name}{_suffix(picture)}"
    _put_image(picture, content, target, link=link)
    with reporting_os_errors(target):
        encoding.encode(mask.label).save(folder / split / "masks" / f"{name}.png")
    present = tuple(np.unique(mask.label).tolist())
    counts = mask.shapes, mask.covering, mask.covered_pixels
    return ImportedPair(picture, split, name, channels, mask.label.shape, present, mask.losses, *counts)


def _header(path: str, content: bytes) -> tuple[tuple[Size, Size], int]:
    """Return height and width of an image, upright and as stored, and its channels; DataError where it is none."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            turned = orientation(image) >= 5
            channels = 1 if image.mode in ("1", "L", "I", "I;16", "I;16B", "F") else 3
    except UNREADABLE:
        image = open_image(path, content)  # says in a line what is wrong
        return ((image.height, image.width),) * 2, len(image.getbands())
    stored = height, width
    return ((width, height) if turned else stored, stored), channels


def _put_image(picture: Picture, content: bytes, target: Path, *, link: bool) -> None:
    if link and picture.content is None:
        with suppress(OSError):  # another disk, or a file system without links
            os.link(picture.path, target)
            return
    with reporting_os_errors(target):
        target.write_bytes(content)


def _moved(folder: Path, pair: ImportedPair) -> ImportedPair:
    for part in (f"images/{pair.name}{pair.suffix}", f"masks/{pair.name}.png"):
        move(folder / "train" / part, folder / "test" / part)
    return replace(pair, split="test")
