"""Option groups of the data: location, meaning of mask values, geometry, loading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from guided_diffusion.runtime.options import FloatTuple, OptionGroup, Problem, option

DEFAULT_ETA_SCALE = 0.284  # with it computed eta fit those published for ADE20K, with an error of 0.08 in the logarithm
ETA_FILE = "file of eta, one number a class as numpy.save writes it (the published layout)"


def _tuples(value: Any) -> Any:
    """Read lists as the tuples that strict types want."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _whole(value: Any) -> Any:
    """Refuse true and 1.0, which equal 1 and would be taken for it."""
    if isinstance(value, bool | float):
        raise ValueError("a whole number is expected")
    return value


Channels = Annotated[Literal[1, 3], BeforeValidator(_whole)]

_Side = Annotated[int, Field(ge=8, le=4096)]
ImageSize = Annotated[
    _Side | tuple[_Side, _Side],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 8},
                {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]


def _rising(limits: tuple[int, int]) -> tuple[int, int]:
    if limits[0] >= limits[1]:
        raise ValueError("the first must be below the second")
    return limits


_Value = Annotated[int, Field(ge=0, le=65535)]
ImageRangeOption = Annotated[  # an `intensity.ImageRange`
    Literal["auto", "full", "percentile"] | Annotated[tuple[_Value, _Value], AfterValidator(_rising)],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["auto", "full", "percentile"]},
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 65535},
                    "minItems": 2,
                    "maxItems": 2,
                    "description": "integers [low < high]",
                },
            ]
        }
    ),
]


def pattern_problems(pattern: str | None) -> Iterator[Problem]:
    """Yield that a `group_pattern` is no regular expression."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        found = f"group_pattern is {pattern!r}, which is no regular expression ({error})"
        yield ("group_pattern", f"{found}: write one, such as (tile\\d+)")


class SourceOptions(OptionGroup):
    """Where the pairs lie and what mask values mean."""

    title: ClassVar = "data"
    data_dir: str = option(
        "",
        "dataset folder, {train,test}/{images,masks} or as dataset_mode says; local, gs:// or az://",
        cloud=True,
        resume="may change",
        sampling="free",
    )
    dataset_mode: str = option(
        "",
        "layout and label rule: binary, multi-class, cityscapes, ade20k, celeba, coco; boxes, coco-boxes: boxes in "
        "place of masks; images: images alone",
    )
    num_classes: int | None = option(
        None, "number of classes, background included; null: by dataset_mode, else classes.json", ge=1, le=65535
    )
    ignore_label: int | None = option(
        None, "mask value that belongs to no class: its pixels carry no condition", sampling="free", ge=0, le=65535
    )
    exif: Literal["apply", "ignore"] | None = option(
        None,
        "orientation tags of images and masks: apply or ignore; null: as the sizes of a pair tell, and refused where "
        "only one of the two has a tag and the sizes tell nothing",
        sampling="free",
    )
    flip_pairs: Annotated[tuple[tuple[str, str], ...] | None, BeforeValidator(_tuples)] = option(
        None,
        'classes that change places in a mirrored image, such as [["left eye", "right eye"]]; null: those whose names '
        "differ in left and right alone; []: none",
        sampling="free",
    )
    group_pattern: str | None = option(
        None,
        'regular expression: images whose names have the same in its parentheses show one object, as "(tile\\d+)" '
        "or the number of a video; belongs into one split, and tests count objects",
        resume="may change",
        sampling="free",
    )

    def check(self) -> Iterator[Problem]:
        yield from pattern_problems(self.group_pattern)


class GeometryOptions(OptionGroup):
    """How files become tensors; the same in training and in sampling."""

    title: ClassVar = "geometry"
    image_size: ImageSize = option(64, "side of the square the model sees, or [height, width], in pixels")
    image_channels: Channels = option(3, "1 for gray images, 3 for RGB")
    resize: Literal["crop", "squash", "pad", "window"] = option(
        "crop",
        "crop: keep the aspect, cut off; squash: stretch; pad: keep the aspect, add a border; window: windows at scale",
        sampling="free",
    )
    scale: float = option(
        1.0,
        "size of the images that windows are cut out of, 1: their own",
        sampling="free",
        gt=0,
        le=1,
    )
    mask_resize: Literal["nearest", "area"] | None = option(
        None,
        "area: a class that covers 0.35 of a pixel, so that thin defects stay; nearest: that at its center; null: area "
        "for windows",
        sampling="free",
    )
    image_range: ImageRangeOption = option(
        "auto",
        "black and white in the files; auto: by type, full: auto without a warning, percentile: by image",
    )
    no_instance: bool = option(
        True, "false adds instance edges to the condition (edges of the labels where there are no instance maps)"
    )

    def check(self) -> Iterator[Problem]:
        if self.resize not in (None, "window") and self.scale not in (None, 1):
            line = f"scale is {self.scale:g}, but resize is {self.resize}, which gives all images the size image_size: "
            yield ("scale", f"{line}set resize to window, or leave scale out")


class AugmentOptions(OptionGroup):
    """Random joint transforms of image and mask in training, which samples may show, unlike those of `augment`."""

    title: ClassVar = "augmentation"
    random_flip: bool = option(True, "flip image and mask left-right at random")
    vertical_flip: bool = option(False, "flip image and mask upside down at random")
    rotate90: bool = option(False, "turn image and mask by quarter turns at random")
    brightness: float = option(
        0.0, "make images brighter or darker at random, by up to this share of the gray levels", ge=0, le=1
    )


class BoxOptions(OptionGroup):
    """Which objects of an image are in its layout."""

    title: ClassVar = "boxes"
    max_objects: int = option(
        16, "most objects of an image; of more, the largest are kept", sampling="free", ge=1, le=1024
    )
    min_object_size: float = option(
        0.0,
        "objects whose box has at most this share of the image are left out; published for COCO: 0.02",
        sampling="free",
        ge=0,
        lt=1,
    )
    background: bool = option(
        True, "the image as a whole is an object, too: its class is that of a box around everything, else class 0"
    )


class LayoutOptions(OptionGroup):
    """Where the layouts come from that a model of boxes is given."""

    title: ClassVar = "layouts of boxes"
    layout_source: Literal["data", "file", "recombine"] = option(
        "data",
        "with boxes; data: the layouts of a split, file: those of layout_file, recombine: new ones whose boxes are of "
        "several layouts of a split",
    )
    layout_file: str = option("", "for layout_source file: JSON file of classes and boxes (docs/boxes.md)", path=True)
    style_seed: int | None = option(
        None, "with boxes: seed of the styles of the objects; null: seed. Another one changes their looks alone", ge=0
    )

    only_background: bool = option(
        False, "with boxes: draw layouts without their objects, on their background alone: for null_dir of evaluate"
    )

    def check(self) -> Iterator[Problem]:
        if self.layout_source == "file" and not self.layout_file:
            yield ("layout_file", "layout_file is missing, but layout_source is file: name the JSON file of layouts")
        if self.layout_source != "file" and self.layout_file:
            line = f"layout_file is given, but layout_source is {self.layout_source}: "
            yield ("layout_file", f"{line}set layout_source to file, or leave layout_file out")


class GoodImageOptions(OptionGroup):
    """Images beside the dataset, without masks."""

    title: ClassVar = "images without masks"
    good_dir: str = option(
        "",
        "folder of images without defects and masks, trained on as background; empty: train/good/images of data_dir, "
        "if there is one",
        cloud=True,
        resume="may change",
    )
    image_dir: str = option(
        "",
        "folder of any images without masks, for a network without a condition; beside data_dir or in its place",
        cloud=True,
        resume="may change",
    )


class WindowOptions(OptionGroup):
    """Where windows lie in training, and the holes that an inpainting network learns to fill."""

    title: ClassVar = "windows and holes"
    window_focus: float = option(
        0.8, "share of the windows laid on a defect, classes drawn evenly; the others lie anywhere", ge=0, le=1
    )
    hole_shares: FloatTuple = option(
        (0.6, 0.2, 0.2), "holes of training over defects grown by 2 to 10 pixels, over rectangles, over everything"
    )

    def check(self) -> Iterator[Problem]:
        shares = self.hole_shares
        if shares is None and type(self).model_fields["hole_shares"].default is None:
            return  # left to the checkpoint
        if shares is None or len(shares) != 3 or min(shares) < 0 or not sum(shares) > 0:
            found = None if shares is None else list(shares)
            line = f"hole_shares is {found}: give three shares, of defects, rectangles and everything, such as "
            yield ("hole_shares", f"{line}[0.6, 0.2, 0.2]")


class LoaderOptions(OptionGroup):
    """How fast files are read."""

    title: ClassVar = "loading"
    num_workers: int | None = option(
        None, "data loading processes; null: none on CPU, up to 4 beside a GPU", resume="may change", ge=0, le=256
    )
    cache_images: Literal["auto"] | bool = option(
        "auto",
        "keep decoded images in memory: true, false, or auto (when they fit in a quarter of what is free)",
        resume="may change",
    )


class EtaOptions(OptionGroup):
    """How long each class stays in class-wise label diffusion."""

    title: ClassVar = "label diffusion: eta"
    eta_path: str = option("", f"{ETA_FILE}; empty: computed from the training masks", path=True)
    eta_scale: float = option(
        DEFAULT_ETA_SCALE, "scale of an eta that is computed: larger, and all classes stay longer", gt=0
    )

    def check(self) -> Iterator[Problem]:
        if self.eta_path and self.eta_scale not in (None, DEFAULT_ETA_SCALE):
            yield (
                "eta_scale",
                f"eta_scale is {self.eta_scale:g}, but eta_path gives eta as it is: leave one of the two out",
            )
