"""Where the layouts of `sample` and `masks` come from: a split, masks, a file, or recombined ones of a split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from guided_diffusion.conditions.base import Size
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.data.boxes.asked import AskedLayout, layouts_digest, slots_of
from guided_diffusion.data.boxes.layout_file import read_layout_file
from guided_diffusion.data.boxes.placed_layouts import LayoutPlacer
from guided_diffusion.data.boxes.recombine import Recombiner
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.scan.problems import problem_lines
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.pipelines.dataset import plain_transform
from guided_diffusion.pipelines.layouts import layout_maker, scan_box_split, whole_box_problems
from guided_diffusion.pipelines.masks import find_masks
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.samples.manifest import MaskLineage, MaskOrigin, file_digest


class LayoutSource(NamedTuple):
    """Layouts to make images of."""

    layouts: tuple[AskedLayout, ...]
    encoding: LabelEncoding
    make: Callable[[int, int], AskedLayout] | None = None
    """(seed, index) -> a new layout; None: the layouts are used in turn."""

    @property
    def digest(self) -> str:
        """Stands for all layouts, not only for those that are used."""
        return layouts_digest(self.layouts)

    @property
    def slots(self) -> int:
        """Slots of all batches."""
        return slots_of(self.layouts)

    def only_background(self) -> LayoutSource:
        """Return the layouts without their objects, and what makes new ones so."""
        make = self.make
        made = None if make is None else (lambda seed, index: make(seed, index).only_background())
        return self._replace(layouts=tuple(layout.only_background() for layout in self.layouts), make=made)

    def planned(self, count: int | None, seed: int) -> tuple[AskedLayout, ...]:
        """Return the layouts to use in turn for `count` images; None: as many as there are."""
        if self.make is None:
            return self.layouts
        return tuple(self.make(seed, index) for index in range(len(self.layouts) if count is None else count))


def find_layouts(config: SampleConfig, trained: TrainedConfig, encoding: LabelEncoding) -> LayoutSource:
    """Return the layouts that `sample` is asked for, of a model of boxes with the classes of `encoding`.

    Raises DataError with a line for every fatal mistake in them.
    """
    source = _all_objects(config, trained, encoding)
    return source.only_background() if config.layouts.only_background else source


def _all_objects(config: SampleConfig, trained: TrainedConfig, encoding: LabelEncoding) -> LayoutSource:
    placer = layout_placer(trained, encoding)
    if config.layouts.layout_source == "file":
        layouts = read_layout_file(config.layouts.layout_file, encoding.names, placer)
        for layout in layouts:
            _check_lineage(config.layouts.layout_file, layout)
        own = all(each.style_seed is not None for layout in layouts for each in layout.objects)
        if own and config.layouts.style_seed is not None:
            line = f"style_seed is given, but every object of {config.layouts.layout_file} has one of its own, which "
            print(f"warning: {line}counts: take those away from the file for other looks")
        return with_borders(LayoutSource(tuple(layouts), encoding))
    source = split_layouts(trained, placer, encoding, split=config.data_split, mask_dir=config.mask_dir)
    if config.layouts.layout_source == "data":
        return source
    return source._replace(make=Recombiner(source.layouts, placer.transform.image_size).make)


def layout_placer(trained: TrainedConfig, encoding: LabelEncoding) -> LayoutPlacer:
    """Return what places the layouts of pictures as the model saw them in training."""
    maker = layout_maker(trained, trained.boxes, encoding, style_dim=trained.model.style_dim)
    return LayoutPlacer(maker, plain_transform(trained.geometry, get_mode(trained.source.dataset_mode)))


def split_layouts(
    trained: TrainedConfig, placer: LayoutPlacer, encoding: LabelEncoding, *, split: str, mask_dir: str = ""
) -> LayoutSource:
    """Return the layouts of a split of `data_dir`, or of the masks in `mask_dir`."""
    source, geometry, mode = trained.source, trained.geometry, get_mode(trained.source.dataset_mode)
    if mode.masks is None:
        if mask_dir:
            line = f"mask_dir is given, but the model was trained with dataset_mode {mode.name}, whose boxes are not "
            raise ConfigError.of_keys(("mask_dir", f"{line}those of masks: give data_dir or layout_file"))
        report = scan_box_split(source, geometry, split, encoding=encoding)
        report.raise_if_fatal()
        for line in problem_lines([*report.warnings, *whole_box_problems(report, trained.boxes, mode)]):
            print(f"warning: {line}")
        sizes = {pair.image: each.shape for pair, each in zip(report.pairs, report.prints, strict=True)}

        def boxed(pair: Pair) -> AskedLayout:
            objects = placer.maker.read(pair, None, sizes[pair.image])
            return placer.place(pair.stem, objects, lineage=_lineage(split, images=[pair.image]))

        layouts = in_threads(boxed, report.pairs, "reading boxes", progress=False)
        return with_borders(LayoutSource(tuple(layouts), encoding))
    found = find_masks(source, geometry, split=split, mask_dir=mask_dir, encoding=encoding)

    def masked(entry: Pair | MaskEntry) -> AskedLayout:
        label = read_mask(entry.mask, found.encoding, upright=entry.upright)
        size: Size = (label.shape[0], label.shape[1])
        known = found.lineages.get(entry.mask)
        lineage = _lineage("" if mask_dir else split, masks=[entry.mask]) if known is None else known.model_dump()
        return placer.place(entry.stem, placer.maker.read(entry, label, size), label, lineage=lineage)

    layouts = in_threads(masked, found.entries, "reading boxes of masks", progress=len(found.entries) > 500)
    return LayoutSource(tuple(layouts), found.encoding)


def with_borders(source: LayoutSource) -> LayoutSource:
    """Return the source with a mask value for borders, if its layouts have any."""
    if all(layout.inside is None for layout in source.layouts):
        return source
    return source._replace(encoding=source.encoding.with_ignore())


def _lineage(split: str, *, masks: list[str] | None = None, images: list[str] | None = None) -> dict[str, object]:
    def origins(files: list[str] | None) -> list[MaskOrigin]:
        return [MaskOrigin(mask=file, digest=file_digest(file)) for file in files or ()]

    lineage = MaskLineage(
        split=split, upside_down=False, left_to_right=False, masks=origins(masks), images=origins(images)
    )
    return lineage.model_dump()


def _check_lineage(path: str, layout: AskedLayout) -> None:
    """Raise DataError for a lineage of a layout file that `sample` has not written so."""
    if layout.lineage is None:
        return
    try:
        MaskLineage.model_validate(dict(layout.lineage))
    except ValueError:
        where = f"{Path(path)}: layout {layout.stem}"
        raise DataError.of(where, "its lineage is not one that sample writes", "restore it, or leave it out") from None
