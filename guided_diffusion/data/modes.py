"""One record per `dataset_mode`: where files lie, how they pair, what mask values mean.

A new mode is a record in `MODES`; no other module asks for a mode by name.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import blobfile as bf

from guided_diffusion.runtime.errors import ConfigError

UNLABELED = ("unlabelled", "unlabeled")
"""Names of a class that stands for "not labeled" in a classes.json; a mode that has such classes says so itself."""


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
class PublishedNetwork:
    """What the weights published for a mode were trained with and their shapes do not tell."""

    image_size: int | tuple[int, int]
    num_head_channels: int


@dataclass(frozen=True)
class DatasetMode:
    """Layout and label rule of a kind of dataset.

    splits: (split, folder name) where the folder is not called like the split.
    instances: instance-id maps, for modes that have them.
    binary: two classes, the mask values being 0 and one other value that the dataset itself tells.
    num_classes: fixed number of classes, or None where the dataset or the user says it.
    values: per class the mask values that stand for it; empty means that a value is its class.
    ignore: mask values that stand for no class.
    names: one per class; empty where classes.json says them or nobody does.
    resize: the resize policy where the options choose none (see transforms.JointTransform).
    unlabeled: the classes that stand for "not labeled".
    background: the class that pictures leave uncolored and that agreement of a sample does not count.
    published: what bare weights are taken to be of where the options do not say it; None where none are published.
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
    names: tuple[str, ...] = ()
    resize: Literal["crop", "squash", "pad"] = "crop"
    unlabeled: tuple[int, ...] = ()
    background: int = 0
    published: PublishedNetwork | None = None

    def __post_init__(self) -> None:
        assert not self.values or len(self.values) == self.num_classes, f"{self.name}: values of every class, or none"
        assert not self.names or len(self.names) == self.num_classes, f"{self.name}: a name for every class, or none"

    def folder(self, rule: FileRule, data_dir: str | Path, split: str) -> str:
        """Return the folder in which the files of `rule` (one of this mode's) lie for a split."""
        return bf.join(str(data_dir), rule.folder.format(split=dict(self.splits).get(split, split)))

    def unlabeled_classes(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the classes that stand for "not labeled": the mode's, else those of `names` in UNLABELED."""
        return self.unlabeled or tuple(index for index, name in enumerate(names) if name in UNLABELED)


_LEMON_IMAGES = FileRule("{split}/images", (".jpg", ".jpeg", ".png"))
_LEMON_MASKS = FileRule("{split}/masks", (".png",))

_PNG = (".png",)
_PHOTOGRAPHS = (".png", ".jpeg", ".jpg")
_SDM_256 = PublishedNetwork(image_size=256, num_head_channels=64)

# fmt: off
_CITYSCAPES_NAMES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)
_CELEBA_NAMES = (
    "background", "skin", "nose", "eyeglasses", "left eye", "right eye", "left brow", "right brow", "left ear",
    "right ear", "mouth", "upper lip", "lower lip", "hair", "hat", "earring", "necklace", "neck", "cloth",
)
# fmt: on

# The layouts and label rules of SDM (Wang et al. 2022) and SCDM (Ko et al. 2024). Beyond them, a value that stands for
# no class is refused (there some become a class by accident), and instance ids keep their 16 bits (there 8 are left).
_PUBLISHED_MODES = (
    # Label files hold the ids 0..33. The id -1 (license plates) is not drawn into them; where a tool wrote it as 255,
    # that is no class of the published networks either, and ignore_label has to say so.
    DatasetMode(
        "cityscapes",
        FileRule("leftImg8bit/{split}", _PNG, "_leftImg8bit"),
        FileRule("gtFine/{split}", _PNG, "_gtFine_labelIds"),
        FileRule("gtFine/{split}", _PNG, "_gtFine_instanceIds"),
        splits=(("test", "val"),),
        num_classes=34,
        names=_CITYSCAPES_NAMES,
        unlabeled=(0,),
        # Never cropped: image_size [256, 512] has the aspect of the images, so that there is no border.
        resize="pad",
        published=PublishedNetwork(image_size=(256, 512), num_head_channels=64),
    ),
    # Files hold 1..150, and 0 where nothing is labeled, which becomes the last class.
    DatasetMode(
        "ade20k",
        FileRule("images/{split}", _PHOTOGRAPHS),
        FileRule("annotations/{split}", _PNG),
        splits=(("train", "training"), ("test", "validation")),
        num_classes=151,
        values=(*((index + 1,) for index in range(150)), (0,)),
        names=(*(f"class {index}" for index in range(150)), "unlabelled"),
        unlabeled=(150,),
        background=150,
        published=_SDM_256,
    ),
    # No instance maps: the edges of the label maps are those of the instances.
    DatasetMode(
        "celeba",
        FileRule("{split}/images", _PHOTOGRAPHS),
        FileRule("{split}/labels", _PNG),
        num_classes=19,
        names=_CELEBA_NAMES,
        published=_SDM_256,
    ),
    # Files hold 0..181, and 255 where nothing is labeled, which becomes the last class.
    DatasetMode(
        "coco",
        FileRule("{split}_img", _PHOTOGRAPHS),
        FileRule("{split}_label", _PNG),
        FileRule("{split}_inst", _PNG),
        splits=(("test", "val"),),
        num_classes=183,
        values=(*((index,) for index in range(182)), (255,)),
        names=(*(f"class {index}" for index in range(182)), "unlabelled"),
        unlabeled=(182,),
        background=182,
        published=_SDM_256,
    ),
)

MODES: tuple[DatasetMode, ...] = (
    DatasetMode(
        "lemon-binary",
        _LEMON_IMAGES,
        _LEMON_MASKS,
        aliases=("binary",),
        binary=True,
        num_classes=2,
        names=("background", "foreground"),
    ),
    DatasetMode("lemon-multi-class", _LEMON_IMAGES, _LEMON_MASKS, aliases=("multi-class",)),
    *_PUBLISHED_MODES,
)


def get_mode(name: str) -> DatasetMode:
    """Return the mode called `name` (or one of its aliases); ConfigError with the nearest names if there is none."""
    known = {key: mode for mode in MODES for key in (mode.name, *mode.aliases)}
    if name in known:
        return known[name]
    nearest = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    raise ConfigError(f"dataset_mode: {name!r} is not known; {hint}known are {', '.join(known)}")
