"""Boxes of a run: annotations scanned, boxes of masks measured, layouts as a network sees them, pictures of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.boxes.layouts import LayoutMaker, LayoutRules, PictureObjects
from guided_diffusion.data.datasets import SegmentationDataset, foreground_classes, read_image, read_mask
from guided_diffusion.data.loader import collate_examples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import DatasetMode, get_mode
from guided_diffusion.data.options import BoxOptions, GeometryOptions, SourceOptions
from guided_diffusion.data.pairing import GoodImage, Pair
from guided_diffusion.data.scan.box_statistics import box_problems, measure_boxes
from guided_diffusion.data.scan.boxes import scan_boxes
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.threads import in_threads
from guided_diffusion.pipelines.dataset import plain_transform
from guided_diffusion.runtime.units import counted

_TILE = 384  # pixels of the longer side of a picture with boxes


def shows_boxes(config: CheckConfig) -> bool:
    """Return whether the condition to check is boxes: of annotations, or of masks because the options say so."""
    return config.network.condition == "boxes" or get_mode(config.source.dataset_mode).boxes is not None


def scan_box_split(
    source: SourceOptions,
    geometry: GeometryOptions,
    split: str,
    *,
    batch_size: int | None = None,
    encoding: LabelEncoding | None = None,
    look_alikes: bool = False,
) -> ScanReport:
    """Return the scan of the annotated pictures of a split, as `scan_split` does for pairs.

    batch_size: over all processes. encoding: of the training, whose classes boxes have to have.
    """
    return scan_boxes(
        source.data_dir,
        get_mode(source.dataset_mode),
        split,
        num_classes=source.num_classes,
        encoding=encoding,
        image_channels=geometry.image_channels,
        image_range=geometry.image_range,
        exif=source.exif,
        batch_size=batch_size,
        look_alikes=look_alikes,
    )


def whole_box_problems(report: ScanReport, options: BoxOptions, mode: DatasetMode) -> list[Problem]:
    """Return the warning about boxes of whole images where layouts have no background, which is what they are."""
    whole = [pair.boxes.background for pair in report.pairs if pair.boxes is not None]
    counts = Counter(report.encoding.names[each] for each in whole if each != mode.background)
    if options.background or not counts:
        return []
    shown = ", ".join(f"{name}: {count}" for name, count in counts.most_common())
    boxes = counted(counts.total(), "box around a whole image", "boxes around a whole image")
    found = f"is false, which leaves {boxes} out, as that is the class of its background ({shown})"
    return [Problem("background", found, "set it to true if they count", ProblemKind.LOST_BOXES, fatal=False)]


def layout_rules(options: BoxOptions) -> LayoutRules:
    """Return which objects are in a layout."""
    return LayoutRules(options.max_objects, options.min_object_size, options.background)


def layout_maker(
    config: CheckConfig | NetworkConfig, options: BoxOptions, encoding: LabelEncoding, *, style_dim: int, seed: int = 0
) -> LayoutMaker:
    """Return what makes the layouts of examples, for the `conditions` of a `SegmentationDataset`."""
    mode = get_mode(config.source.dataset_mode)
    return LayoutMaker(
        encoding.num_classes,
        object_classes(mode, encoding),
        style_dim,
        seed=seed,
        rules=layout_rules(options),
        background_class=mode.background,
        from_masks=mode.masks is not None,
        with_instances=not config.geometry.no_instance,
    )


def object_classes(mode: DatasetMode, encoding: LabelEncoding) -> tuple[int, ...]:
    """Return the classes of a mask whose parts are objects: all but the background and what is not labeled."""
    unlabeled = mode.unlabeled_classes(encoding.names)
    classes = foreground_classes(encoding.num_classes, mode.background)
    return tuple(class_id for class_id in classes if class_id not in unlabeled)


def with_box_statistics(report: ScanReport, config: CheckConfig, *, training: bool) -> ScanReport:
    """Return a scan without fatal problems with what its layouts are, and warnings of what the model does not see.

    training: whether it is the training split, where every class has to occur. Masks are read again.
    """
    if report.fatal:
        return report
    mode = get_mode(config.source.dataset_mode)
    maker = layout_maker(config, config.boxes, report.encoding, style_dim=1)

    def objects(entry: Pair | GoodImage) -> PictureObjects:
        if entry.mask is None:
            size = sizes[entry.image]
            return maker.read(entry, None, size)
        label = read_mask(entry.mask, report.encoding, upright=entry.upright)
        return maker.read(entry, label, (label.shape[0], label.shape[1]))

    entries = [*report.pairs, *report.good_images]
    prints = [*report.prints, *report.good_prints]
    sizes = {entry.image: each.shape for entry, each in zip(entries, prints, strict=True) if each is not None}
    found = in_threads(objects, entries, "measuring boxes", progress=mode.masks is not None)
    transform, rules = plain_transform(config.geometry, mode), layout_rules(config.boxes)
    statistics = measure_boxes(found, report.encoding.names, transform, rules, config.latents.latent or 1)
    annotated = mode.boxes is not None and mode.num_classes is None  # masks have such a warning of their own
    problems = box_problems(statistics, transform, rules, all_classes=training and annotated)
    problems += whole_box_problems(report, config.boxes, mode)
    return replace(report, boxes=statistics, problems=(*report.problems, *problems))


def box_overlays(config: CheckConfig, report: ScanReport) -> Image.Image:
    """Return pictures spread over a split with their boxes: as the files have them, and as the model sees them."""
    mode, geometry, encoding = get_mode(config.source.dataset_mode), config.geometry, report.encoding
    chosen = visualize.evenly_spaced(report.pairs, config.preview_images)
    maker = layout_maker(config, config.boxes, encoding, style_dim=1)
    shown = SegmentationDataset(
        chosen,
        encoding,
        plain_transform(geometry, mode),
        image_channels=geometry.image_channels,
        image_range=geometry.image_range,
        cache_images=False,
        conditions=replace(maker, rules=replace(maker.rules, background=False)),
    )
    images, layouts = collate_examples(shown, range(len(chosen)))
    rows, titles, present = [], [], set()
    for index, (pair, placed) in enumerate(zip(chosen, visualize.to_pixels(images.numpy()), strict=True)):
        whole = read_image(pair.image, geometry.image_channels, upright=pair.upright, image_range=geometry.image_range)
        height, width = whole.shape[-2:]
        label = None if pair.mask is None else read_mask(pair.mask, encoding, upright=pair.upright)
        objects = maker.read(pair, label, (height, width))
        as_shares = objects.box.numpy() / np.array([width, height, width, height])
        layout = layouts[index : index + 1]
        seen = layout.present[0].numpy()
        pictures = (
            (whole.numpy().transpose(1, 2, 0), objects.label.numpy(), as_shares),
            (placed, layout.label[0].numpy()[seen], layout.box[0].numpy()[seen]),
        )
        rows.append([_with_boxes(*picture, encoding.names) for picture in pictures])
        surface = "" if objects.background == mode.background else f" ({encoding.names[objects.background]})"
        titles.append(f"{pair.stem}{surface}")
        present.update(objects.label.tolist())
    return visualize.grid(
        rows,
        column_titles=["image and its boxes", "as the model sees them"],
        row_titles=titles,
        legend=visualize.legend_of(encoding.names, [sorted(present)] if present else []),
        scale=1,
        title=f"image_size {geometry.image_size}, resize {geometry.resize}",
    )


def _with_boxes(
    image: visualize.Pixels, labels: np.ndarray, boxes: np.ndarray, names: Sequence[str]
) -> visualize.Pixels:
    """Return a picture scaled to `_TILE` with boxes [N, 4], shares of its width and height."""
    palette = visualize.class_palette(len(names))
    entries = [(names[class_id], palette[class_id].tolist()) for class_id in labels.tolist()]
    return visualize.draw_boxes(visualize.enlarged(image, _TILE), boxes, entries)
