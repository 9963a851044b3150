"""What `place` and `paste` share: which defects go where in which good images, and the folder of the pairs."""

from __future__ import annotations

from collections.abc import Iterator

from guided_diffusion.data.options import SourceOptions
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.runtime.options import FlatConfig, Problem, option, split_problem


class ScenesConfig(FlatConfig):
    """Keys of an action that puts defects into good images."""

    source: SourceOptions
    placing: PlacingOptions
    good_dir: str = option(
        "",
        "folder of good images, or one with images/ and masks/ of their ordinary classes (the lemon on a table)",
        cloud=True,
    )
    region: str = option(
        "", "mask of where defects may be, white, or a folder of such masks named as the good images", path=True
    )
    results_path: str = option("", "folder for images/, masks/, manifest.jsonl and contact_sheet.png", written=True)
    split: str = option("", "write into this sub-folder, such as train, so that results_path is itself a data_dir")
    num_samples: int | None = option(
        None, "pairs to write, good images are used in turn; null: one for each", ge=1, le=1_000_000
    )
    seed: int = option(0, "seed of which defects go where, and of what is painted", ge=0, lt=2**63)

    @property
    def takes_pixels(self) -> bool:
        """Whether the pixels of training defects are used, not their shapes alone."""
        return False

    @property
    def has_network(self) -> bool:
        """Whether a network paints the defects, which needs good images of at least its windows."""
        return True

    def space_between(self, scale: float) -> int:
        """Return the pixels of a good image that two defects have between them at least; scale: of the network."""
        raise NotImplementedError

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        yield from split_problem(self.split)

    def region_problem(self) -> Iterator[Problem]:
        """Yield a line for a region where something else says where defects go."""
        if self.region and self.placing.mask_source != "bank":
            line = f"region is given, but mask_source is {self.placing.mask_source}, which says where defects go"
            yield ("region", f"{line}: leave it out")
