"""One record per `dataset_mode`: where files lie, how they pair, what mask values mean.

A new mode is a record in `MODES`; no other module asks for a mode by name.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import blobfile as bf

from guided_diffusion.errors import ConfigError


@dataclass(frozen=True)
class FileRule:
    """Which files below `<data_dir>/<folder>` are meant, and by what name they pair.

    folder: relative to the data directory; `{split}` stands for the split's folder name.
    suffixes: file name extensions in lower case, with the dot.
    stem_suffix: what a name ends in before its extension, such as `_labelIds`; files without it are not meant, and
        the pairing stem is the name without it.
    """

    folder: str
    suffixes: tuple[str, ...]
    stem_suffix: str = ""

    def stem(self, relative: str) -> str | None:
        """Return the pairing stem of a path relative to the folder, or None if the rule does not mean this file."""
        stem, dot, suffix = relative.rpartition(".")
        if dot + suffix.lower() not in self.suffixes or not stem.endswith(self.stem_suffix):
            return None
        return stem[: len(stem) - len(self.stem_suffix)]


@dataclass(frozen=True)
class DatasetMode:
    """Layout and label rule of a kind of dataset.

    splits: (split, folder name) where the folder is not called like the split.
    instances: instance-id maps, for modes that have them.
    binary: two classes, the mask values being 0 and one other value that the dataset itself tells.
    num_classes: fixed number of classes, or None where the dataset or the user says it.
    values: per class the mask values that stand for it; empty means that a value is its class.
    ignore: mask values that stand for no class.
    """

    name: str
    images: FileRule
    masks: FileRule
    instances: FileRule | None = None
    aliases: tuple[str, ...] = ()
    splits: tuple[tuple[str, str], ...] = ()
    binary: bool = False
    num_classes: int | None = None
    values: tuple[tuple[int, ...], ...] = ()
    ignore: tuple[int, ...] = ()

    def folder(self, rule: FileRule, data_dir: str | Path, split: str) -> str:
        """Return the folder in which the files of `rule` (one of this mode's) lie for a split."""
        return bf.join(str(data_dir), rule.folder.format(split=dict(self.splits).get(split, split)))


_LEMON_IMAGES = FileRule("{split}/images", (".jpg", ".jpeg", ".png"))
_LEMON_MASKS = FileRule("{split}/masks", (".png",))

MODES: tuple[DatasetMode, ...] = (
    DatasetMode("lemon-binary", _LEMON_IMAGES, _LEMON_MASKS, aliases=("binary",), binary=True, num_classes=2),
    DatasetMode("lemon-multi-class", _LEMON_IMAGES, _LEMON_MASKS, aliases=("multi-class",)),
)


def get_mode(name: str) -> DatasetMode:
    """Return the mode called `name` (or one of its aliases); ConfigError with the nearest names if there is none."""
    known = {key: mode for mode in MODES for key in (mode.name, *mode.aliases)}
    if name in known:
        return known[name]
    nearest = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    raise ConfigError(f"dataset_mode: {name!r} is not known; {hint}known are {', '.join(known)}")
