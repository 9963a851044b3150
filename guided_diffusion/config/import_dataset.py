"""Configuration of `import`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from guided_diffusion.data.formats.options import Crowds, ImportFormat
from guided_diffusion.data.options import pattern_problems
from guided_diffusion.data.placing.options import ClassNames
from guided_diffusion.runtime.options import ActionConfig, Problem, option


class ImportConfig(ActionConfig):
    """Keys of `import`."""

    required: ClassVar = ("source", "output_dir")
    summary: ClassVar = "make a dataset of what an annotation tool wrote: images, masks and classes.json"

    source: str = option("", "folder that an annotation tool has written, or one annotation file", path=True)
    format: ImportFormat = option(
        "auto", "of the annotations; auto: what the files show, refused where they show several"
    )
    image_dir: str = option("", "folder of the images, where they are not in source; they pair by name", path=True)
    output_dir: str = option("", "new folder for the dataset: {train,test}/{images,masks}, classes.json", written=True)
    classes: ClassNames = option(
        None, 'names in the order that they are to have, such as ["crack", "dent"], others left out; null: all'
    )
    test_share: float = option(
        0.2, "share of the images drawn for test, where the source does not have both; 0: none", ge=0, lt=1
    )
    group_pattern: str | None = option(
        None, "regular expression: images whose names have the same in its parentheses are drawn for test together"
    )
    seed: int = option(0, "seed of the images drawn for test", ge=0, lt=2**63)
    crowds: Crowds = option(
        "keep",
        "areas that COCO calls crowds (CVAT and Datumaro: all masks); keep: of their class, drop: background, ignore: "
        "pixels of no class, where nothing else is",
    )
    link: bool = option(False, "hard links to the images in place of copies, where the disk is the same")

    def check(self) -> Iterator[Problem]:
        yield from pattern_problems(self.group_pattern)
