"""Option group of placing defects: where their masks come from and where they go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from guided_diffusion.runtime.options import OptionGroup, Problem, option


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a class is named twice")
    return names


def _listed(value: Any) -> Any:
    """Read a list, or a single name, as the tuple that strict types want."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


_NAMES = {"type": "array", "items": {"type": "string"}, "description": "a list of one or more different names"}

ClassNames = Annotated[
    Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_unique)] | None,
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{**_NAMES, "minItems": 1, "uniqueItems": True}, {"type": "null"}]}),
]


class PlacingOptions(OptionGroup):
    """Which defects are placed, and where."""

    title: ClassVar = "placing"
    mask_source: Literal["bank", "dir", "file"] = option(
        "bank",
        "where defects come from; bank: components of the training masks; dir: label maps of the good images in "
        "placed_masks; file: the list in placements",
    )
    bank_dir: str = option(
        "",
        "for mask_source bank: folder of masks, such as those of the action masks, whose shapes are placed in place of "
        "those of the training masks",
        path=True,
    )
    placed_masks: str = option(
        "", "for mask_source dir: folder of label maps, named as the good images and of their sizes", path=True
    )
    placements: str = option("", "for mask_source file: JSON file of classes and centers (docs/placing.md)", path=True)
    defects_per_image: int | None = option(
        None, "defects in each good image; null: number and kinds of a training mask drawn at random", ge=1, le=1000
    )
    classes: ClassNames = option(None, 'names of the classes to place, such as ["crack"]; null: all defect classes')
    defect_classes: ClassNames = option(
        None,
        "names of the classes that are defects; null: all but the background, unlabeled pixels, and the objects that "
        "the defects lie on",
    )
    edit: bool = option(True, "scale, turn and bend the components of the training masks at random")
    place: Literal["prior", "keep", "anywhere"] = option(
        "prior",
        "where defects go; prior: near a place where their class was seen; keep: where they were; anywhere: anywhere. "
        "Parts at a border stay at it",
    )

    def check(self) -> Iterator[Problem]:
        for source, key in (("dir", "placed_masks"), ("file", "placements")):
            if self.mask_source == source and not getattr(self, key):
                yield key, f"{key} is missing: mask_source {source} needs it"
            elif self.mask_source != source and getattr(self, key):
                yield key, f"{key} is given, but mask_source is {self.mask_source}: set it to {source}, or leave it out"
        if self.bank_dir and self.mask_source != "bank":
            line = f"bank_dir is given, but mask_source is {self.mask_source}, which has other defects: leave it out"
            yield "bank_dir", line
        for key in () if self.mask_source == "bank" else self.changed("defects_per_image", "place"):
            yield key, f"{key} is given, but {self._said_by} says where defects go: leave one of the two out"
        if self.classes and self.defect_classes and (others := sorted({*self.classes} - {*self.defect_classes})):
            yield "classes", f"classes names {others[0]!r}, which defect_classes leaves out: name it there, too"

    @property
    def _said_by(self) -> str:
        return "placed_masks" if self.mask_source == "dir" else "placements"


class MaskOptions(OptionGroup):
    """How new masks are made from those of a dataset."""

    title: ClassVar = "new masks"
    place: Literal["prior", "keep", "anywhere"] = option(
        "prior",
        "where shapes go; prior: near a place where their class was seen; keep: where they were; anywhere: anywhere. "
        "Shapes at a border stay at it",
    )
    movable: ClassNames = option(
        None,
        "names of the classes whose shapes are moved, others bend with the whole map; null: all but the background and "
        "the objects that they lie on, none in cityscapes, ade20k, celeba and coco",
    )
    scaling: float = option(1.25, "largest factor of a shape's size; the smallest is 1 / scaling", ge=1, le=4)
    rotation: float = option(15.0, "degrees by which shapes are turned at most, to either side", ge=0, le=180)
    bending: float = option(1.0, "how much shapes, and whole maps without background, are bent; 0: not", ge=0, le=2)
    donor_scale: Literal["pixels", "relative"] = option(
        "pixels", "size of a shape in a mask of another size; pixels: its own; relative: its share of the image"
    )
    random_flip: bool = option(True, "flip shapes and masks left-right at random")
    vertical_flip: bool = option(False, "flip shapes and masks upside down at random")
    class_balance: float = option(
        0.0, "0: classes as often as in the dataset; towards 1: masks of rare classes are taken more often", ge=0, le=1
    )
    min_novelty: float = option(
        0.1, "a mask with less of 1 - IoU to the nearest mask of the dataset is drawn again, up to 10 times", ge=0, lt=1
    )
