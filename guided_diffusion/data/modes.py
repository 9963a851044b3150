"""One record per `dataset_mode`: where files lie, how they pair, what mask values mean.

A new mode is a new record in `MODES`; no other module names a mode.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import blobfile as bf

from guided_diffusion.runtime.errors import ConfigError

UNLABELED = ("unlabelled", "unlabeled")
"""Names by which a class of a classes.json stands for "not labeled"."""
IMAGES = "images"
"""The mode of images alone."""


@dataclass(frozen=True)
class FileRule:
    """Which files of a folder are selected, and by which stem they pair."""

    folder: str  # relative to the data directory; `{split}` stands for the split's folder name
    suffixes: tuple[str, ...]  # extensions in lower case, with the dot
    stem_suffix: str = ""  # required end of the name before its extension (`_labelIds`); not part of the stem

    def stem(self, relative: str) -> str | None:
        """Return the stem of a path relative to the folder, None for a file that is not selected."""
        stem, dot, suffix = relative.rpartition(".")
        if dot + suffix.lower() not in self.suffixes or not stem.endswith(self.stem_suffix):
            return None
        return stem[: len(stem) - len(self.stem_suffix)]


@dataclass(frozen=True)
class AnnotationRule:
    """Which files of a folder have the boxes of a split."""

    folder: str  # as of a FileRule
    files: tuple[tuple[str, str], ...]  # (pattern of names with `{split}`, format); one of the formats is there
    together: bool = False  # all of the files are one set of annotations


@dataclass(frozen=True)
class PublishedNetwork:
    """Options of the weights published for a mode that their shapes do not tell."""

    image_size: int | tuple[int, int]
    num_head_channels: int


@dataclass(frozen=True)
class DatasetMode:
    """Layout and label rule of a kind of dataset."""

    name: str
    images: FileRule
    masks: FileRule | None  # None: images alone
    instances: FileRule | None = None  # instance-id maps
    boxes: AnnotationRule | None = None  # boxes of objects in place of masks
    aliases: tuple[str, ...] = ()
    splits: tuple[tuple[str, str], ...] = ()  # (split, folder name) where the two differ
    binary: bool = False  # two classes; the mask values are 0 and one other, which is read from the masks
    num_classes: int | None = None  # None: given by classes.json or the options
    values: tuple[tuple[int, ...], ...] = ()  # mask values of each class; empty: a value is its class
    ignore: tuple[int, ...] = ()  # mask values of ignored pixels
    names: tuple[str, ...] = ()  # of each class; empty: given by classes.json, if any
    resize: Literal["crop", "squash", "pad"] = "crop"  # default of the option
    unlabeled: tuple[int, ...] = ()  # classes that stand for "not labeled"
    scenes: bool = False  # classes have their places by each other, so that none can be moved alone
    background: int = 0  # class that pictures leave uncolored and mask agreement does not count
    published: PublishedNetwork | None = None  # defaults for bare weights

    def __post_init__(self) -> None:
        assert not self.values or len(self.values) == self.num_classes, f"{self.name}: values of every class, or none"
        assert not self.names or len(self.names) == self.num_classes, f"{self.name}: a name for every class, or none"

    def folder(self, rule: FileRule, data_dir: str | Path, split: str) -> str:
        """Return the folder of a split in which the files of `rule` lie."""
        return bf.join(str(data_dir), rule.folder.format(split=dict(self.splits).get(split, split)))

    def unlabeled_classes(self, names: Sequence[str]) -> tuple[int, ...]:
        """Return the classes that stand for "not labeled": the mode's, else those of `names` in UNLABELED."""
        return self.unlabeled or tuple(index for index, name in enumerate(names) if name in UNLABELED)


_OWN_IMAGES = FileRule("{split}/images", (".jpg", ".jpeg", ".png"))
_OWN_MASKS = FileRule("{split}/masks", (".png",))

_PNG = (".png",)
PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
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

# The layouts and label rules of SDM (Wang et al. 2022) and SCDM (Ko et al. 2024), with two differences: unknown mask
# values are refused (there some become a class by accident), and instance ids keep their 16 bits (there 8).
_PUBLISHED_MODES = (
    # Label files hold the ids 0..33. The id -1 (license plates) is not drawn into them; if a tool wrote it as 255,
    # ignore_label has to be 255: the published networks have no class for it.
    DatasetMode(
        "cityscapes",
        FileRule("leftImg8bit/{split}", _PNG, "_leftImg8bit"),
        FileRule("gtFine/{split}", _PNG, "_gtFine_labelIds"),
        FileRule("gtFine/{split}", _PNG, "_gtFine_instanceIds"),
        splits=(("test", "val"),),
        num_classes=34,
        names=_CITYSCAPES_NAMES,
        unlabeled=(0,),
        scenes=True,
        # Never cropped: image_size [256, 512] has the aspect of the images, so padding adds no border.
        resize="pad",
        published=PublishedNetwork(image_size=(256, 512), num_head_channels=64),
    ),
    # Files hold 1..150, and 0 for unlabeled pixels, which becomes the last class.
    DatasetMode(
        "ade20k",
        FileRule("images/{split}", _PHOTOGRAPHS),
        FileRule("annotations/{split}", _PNG),
        splits=(("train", "training"), ("test", "validation")),
        num_classes=151,
        values=(*((index + 1,) for index in range(150)), (0,)),
        names=(*(f"class {index}" for index in range(150)), "unlabelled"),
        unlabeled=(150,),
        scenes=True,
        background=150,
        published=_SDM_256,
    ),
    # No instance maps: edges are those of the label maps.
    DatasetMode(
        "celeba",
        FileRule("{split}/images", _PHOTOGRAPHS),
        FileRule("{split}/labels", _PNG),
        num_classes=19,
        names=_CELEBA_NAMES,
        scenes=True,
        published=_SDM_256,
    ),
    # Files hold 0..181, and 255 for unlabeled pixels, which becomes the last class.
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
        scenes=True,
        background=182,
        published=_SDM_256,
    ),
)


def _ddpmseg(name: str, train: str, **options: Any) -> DatasetMode:
    """Return a layout of DDPM-seg (Baranchuk et al. 2022): images in one folder with their labels, `.npy` arrays."""
    return DatasetMode(
        name,
        FileRule("{split}", (*_PHOTOGRAPHS, ".gif")),
        FileRule("{split}", (".npy",)),
        splits=(("train", train), ("test", "real/test")),
        # Published images are squares.
        resize="squash",
        scenes=True,
        **options,
    )


# Of the bedrooms the id 0 is no class; those of the other datasets (num_classes, ignore_label) are given by options.
_BEDROOM: dict[str, Any] = {
    "num_classes": 28, "values": tuple((value,) for value in range(1, 29)), "ignore": (0,),
    "names": tuple(f"class {value}" for value in range(1, 29)),
}  # fmt: skip
_DDPMSEG_MODES = (
    _ddpmseg("ddpmseg", "real/train"),
    _ddpmseg("ddpmseg-drawn", "ddpm"),  # labels of images that a model has drawn
    _ddpmseg("ddpmseg-bedroom", "real/train", **_BEDROOM),
    _ddpmseg("ddpmseg-bedroom-drawn", "ddpm", **_BEDROOM),
)

MODES: tuple[DatasetMode, ...] = (
    DatasetMode(
        "binary",
        _OWN_IMAGES,
        _OWN_MASKS,
        aliases=("lemon-binary",),
        binary=True,
        num_classes=2,
        names=("background", "foreground"),
    ),
    DatasetMode("multi-class", _OWN_IMAGES, _OWN_MASKS, aliases=("lemon-multi-class",)),
    # Every pixel is of one class, which is no condition.
    DatasetMode(IMAGES, FileRule("{split}/images", PICTURES), None, num_classes=1, names=("image",)),
    # What is not in a box is class 0, the background.
    DatasetMode(
        "boxes",
        FileRule("{split}/images", PICTURES),
        None,
        boxes=AnnotationRule(
            "{split}",
            (
                ("annotations.json", "coco"),
                ("*-export.json", "vott"),
                ("*-asset.json", "vott assets"),
                ("*.csv", "vott csv"),
            ),
        ),
    ),
    *_PUBLISHED_MODES,
    # The benchmark of layout to image: things and stuff of COCO, as its archives unpack.
    DatasetMode(
        "coco-boxes",
        FileRule("{split}", _PHOTOGRAPHS),
        None,
        splits=(("train", "train2017"), ("test", "val2017")),
        boxes=AnnotationRule(
            "annotations",
            (("instances_{split}.json", "coco-stuff"), ("stuff_{split}.json", "coco-stuff")),
            together=True,
        ),
        num_classes=184,
        resize="squash",
        scenes=True,
    ),
    *_DDPMSEG_MODES,
)


def get_mode(name: str) -> DatasetMode:
    """Return the mode with a name or alias; ConfigError if there is none."""
    modes = {key: mode for mode in MODES for key in (mode.name, *mode.aliases)}
    if name in modes:
        return modes[name]
    nearest = difflib.get_close_matches(name.lower().replace("_", "-"), modes, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    raise ConfigError.of("dataset_mode", f"{name!r} is not known", f"{hint}known are {', '.join(modes)}")
