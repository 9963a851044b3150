"""`check`: the content of a dataset, its problems, and pictures of its masks over its images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from PIL import Image

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.datasets import ExampleKey
from guided_diffusion.data.files import is_folder
from guided_diffusion.data.groups import shared_group_problems
from guided_diffusion.data.loader import collate_examples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.mirror import flip_pairs, in_words
from guided_diffusion.data.modes import DatasetMode, get_mode
from guided_diffusion.data.pairing import refuse_missing_folder
from guided_diffusion.data.scan.duplicates import shared_problems
from guided_diffusion.data.scan.histogram import save_histogram
from guided_diffusion.data.scan.problems import Problem
from guided_diffusion.data.scan.report import ScanReport
from guided_diffusion.data.scan.windows import window_lines
from guided_diffusion.data.windows import WindowPlan
from guided_diffusion.pipelines.dataset import (
    plain_transform,
    scan_split,
    scan_unlabeled,
    shared_with_training,
    shown_dataset,
    shown_windows,
    window_plan,
    with_good_images,
    with_mode_defaults,
)
from guided_diffusion.pipelines.generation import read_training_labels
from guided_diffusion.pipelines.label_diffusion import eta_of_data
from guided_diffusion.pipelines.latent import thickness_lines
from guided_diffusion.pipelines.layouts import box_overlays, scan_box_split, shows_boxes, with_box_statistics
from guided_diffusion.pipelines.output import dataset_folders, image_folder, refuse_other_record, refuse_written_sources
from guided_diffusion.pipelines.pseudo_labels import pseudo_label_lines
from guided_diffusion.runtime.errors import ConfigError, UserError
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.lock import folder_lock
from guided_diffusion.runtime.logs import write_run_record

SPLITS = ("train", "test")
_HISTOGRAM, _PREVIEW, _BOXES = "histogram_{}.png", "{}.png", "boxes_{}.json"  # of a split


def run(config: CheckConfig) -> int:
    """Scan both splits, print a table for each and write a picture of overlays; fail where training would."""
    plan(config)
    config = with_mode_defaults(config)
    mode, folder = get_mode(config.source.dataset_mode), Path(config.output_dir)
    with folder_lock(folder, "check"):  # before everything is read: the folder may be one that cannot be written
        return _run(config, mode, folder)


def plan(config: CheckConfig) -> list[str]:
    """Raise UserError where a check of `config` could not begin; what it would find is told by the check alone."""
    config = with_mode_defaults(config)
    source, folder = config.source, Path(config.output_dir)
    get_mode(source.dataset_mode)
    refuse_written_sources({"output_dir": folder}, [*dataset_folders(source), *image_folder(config.good.image_dir)])
    refuse_other_record("output_dir", folder, "check")
    if source.data_dir:  # before a folder of results lies beside it
        refuse_missing_folder(source.data_dir, "data_dir")
    return []


def _run(config: CheckConfig, mode: DatasetMode, folder: Path) -> int:
    source = config.source
    fatal: list[str] = []
    texts = []
    shown: set[Path] = set()
    encoding, training, exchanged = None, None, ()
    for split in SPLITS:
        images = mode.folder(mode.images, source.data_dir, split) if source.data_dir else config.good.image_dir
        if split != "train" and not (source.data_dir and is_folder(images)):
            texts.append(f"{split}: no such split, nothing to check")
            print(texts[-1])
            continue
        report = _scan(config, split, encoding)
        plan = None
        if split == "train" and not report.fatal:
            plan = window_plan(source, config.geometry, config.windows, report)
        if training is None:
            training = report
        else:
            report = replace(report, problems=(*report.problems, *_shared(config, report, training)))
        encoding = encoding or (None if report.fatal else report.encoding)
        if encoding is not None:
            exchanged = flip_pairs(encoding.names, source.flip_pairs)  # names that training would refuse
        wants_eta = config.shows_eta and split == "train" and report.classes and not report.fatal
        eta = eta_of_data(config.eta, mode, report) if wants_eta else None
        texts.append(f"{split}: {images}\n{report.table(eta)}")
        if split == "train" and exchanged and mode.masks is not None:
            line = f"mirrored images have these classes exchanged: {in_words(encoding.names, exchanged)} (flip_pairs)"
            texts[-1] += f"\n{line}"
        if plan is not None:
            examples = len(report.pairs) + len(report.good_images)
            transform = plain_transform(config.geometry, mode)
            lines = window_lines(plan, report.image_sizes, transform, report.encoding.names, examples)
            texts[-1] += "\n" + "\n".join(lines)
        if config.latents.latent is not None and mode.boxes is None and split == "train" and not report.fatal:
            labels = read_training_labels(config, report)[: len(report.pairs)]
            latent, allow = config.latents.latent, config.thin.allow_thin
            lines = thickness_lines(labels, report.encoding.names, latent, mode.background, allow)
            texts[-1] += "\n" + "\n".join(lines)
            fatal += [f"{split}: {line.removeprefix('error: ')}" for line in lines if line.startswith("error: ")]
        if mode.masks is not None:
            notes = pseudo_label_lines(source.data_dir, (split,))
            texts[-1] += "".join(f"\nwarning: {line}" for line in notes)
        print(texts[-1] + "\n")
        fatal += [f"{split}: {problem.line}" for problem in report.fatal]
        for path in _write_shown(config, report, plan, split, folder):
            print(f"  {path.absolute()}")
            shown.add(path)
    written = {folder / name.format(split) for name in (_HISTOGRAM, _PREVIEW, _BOXES) for split in SPLITS}
    for path in written - shown:  # of another check
        path.unlink(missing_ok=True)
    write_run_record(folder, "check", config.to_json())
    write_text(folder / "report.txt", "\n\n".join(texts) + "\n")
    print(f"  {(folder / 'report.txt').absolute()}")
    if fatal:
        count = f"{len(fatal)} problem{'s' if len(fatal) > 1 else ''}"
        raise UserError(
            f"{source.data_dir or config.good.image_dir}: {count} to fix before training, each listed above as 'error:'"
        )
    return 0


def _shared(config: CheckConfig, test: ScanReport, training: ScanReport) -> list[Problem]:
    """Return what is said of test images, and of objects in them, that are in the training, too."""
    trained_on = (*training.pairs, *training.good_images)
    shared = shared_problems(shared_with_training(test, training), len(test.pairs))
    return shared + shared_group_problems(config.source.group_pattern, test.pairs, trained_on)


def _write_shown(
    config: CheckConfig, report: ScanReport, plan: WindowPlan | None, split: str, folder: Path
) -> Iterator[Path]:
    """Write the pictures of a split and the statistics of its boxes, and yield their paths."""
    if report.brightness and config.preview_images:
        path = folder / _HISTOGRAM.format(split)
        save_histogram(report.brightness, path, title=f"{split}, image_range {config.geometry.image_range}")
        yield path
    if not report.fatal and config.preview_images:
        path = folder / _PREVIEW.format(split)
        boxed = report.boxes is not None and bool(report.pairs)
        visualize.save(box_overlays(config, report) if boxed else overlays(config, report, plan), path)
        yield path
    if report.boxes is not None:
        path = folder / _BOXES.format(split)
        write_text(path, json.dumps(report.boxes.to_json(), indent=1) + "\n")
        yield path


def _scan(config: CheckConfig, split: str, encoding: LabelEncoding | None) -> ScanReport:
    """Return the scan of a split, with all that training has beside its own.

    encoding: of the training masks; the values of all masks have to mean what they mean there.
    """
    source, mode = config.source, get_mode(config.source.dataset_mode)
    options = {"batch_size": config.batch.batch_size if split == "train" else None, "look_alikes": True}
    if mode.masks is None and mode.boxes is None:
        if config.network.condition == "boxes":
            line = (
                f'condition is "boxes", but dataset_mode {mode.name} has neither boxes nor masks: leave condition out'
            )
            raise ConfigError.of_keys(("condition", f"{line}, or set dataset_mode to one that has them"))
        return scan_unlabeled(config, split, **options)
    scan = scan_split if mode.boxes is None else scan_box_split
    report = scan(source, config.geometry, split, encoding=encoding, **options)
    report = with_good_images(report, config) if split == "train" else report
    if shows_boxes(config):
        report = with_box_statistics(report, config, training=split == "train")
    if split != "train" or not config.good.image_dir:
        return report
    # Trained on by a network without a condition, which leaves the masks aside.
    beside = scan_unlabeled(config.replaced(data_dir="", good_dir=""))
    return replace(report, problems=(*report.problems, *beside.problems), beside=len(beside.pairs))


def overlays(config: CheckConfig, report: ScanReport, plan: WindowPlan | None = None) -> Image.Image:
    """Return a picture of pairs spread over the split: the image as the model sees it, its mask, and an overlay.

    Instance edges, if any, are drawn over the darkened image. plan: the rows are the first windows of a training.
    """
    mode, geometry = get_mode(config.source.dataset_mode), config.geometry
    if plan is None:
        chosen = visualize.evenly_spaced(report.pairs, config.preview_images)
        shown = shown_dataset(chosen, report.encoding, geometry, mode)
        stems = [pair.stem for pair in chosen]
    else:
        shown = shown_windows(config, report, plan)
        keys = [ExampleKey(0, index, 0, 1.0) for index in range(config.preview_images)]
        stems = [shown.picture(key).stem for key in keys]
    images, condition = collate_examples(shown, range(len(stems)))
    title = _title(config)
    if report.noun == "images":
        return visualize.grid(visualize.in_square(visualize.to_pixels(images.numpy())), title=title)
    palette = visualize.class_palette(report.encoding.num_classes)
    background = mode.background
    rows = [
        [image, visualize.colorize(label, palette), visualize.overlay(image, label, palette, background=background)]
        for image, label in zip(visualize.to_pixels(images.numpy()), condition.label.numpy(), strict=True)
    ]
    titles = ["image", "mask", "overlay"]
    if condition.edge is not None:
        titles.append("edges")
        for row, edge in zip(rows, condition.edge.numpy(), strict=True):
            row.append(visualize.draw_edges(row[0], edge))
    return visualize.grid(
        rows,
        column_titles=titles,
        row_titles=stems,
        legend=visualize.legend_of(report.encoding.names, condition.label),
        title=title,
    )


def _title(config: CheckConfig) -> str:
    geometry = config.geometry
    scale = f", scale {geometry.scale:.4g}" if geometry.resize == "window" else ""
    return f"as the model sees them: image_size {geometry.image_size}, resize {geometry.resize}{scale}"
