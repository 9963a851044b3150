"""What `segment` tells before it begins, without opening an image."""

from __future__ import annotations

from pathlib import Path

from evaluations.groups import numbered
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data.groups import groups_of
from guided_diffusion.data.modes import IMAGES, get_mode
from guided_diffusion.data.pairing import Pair, index_images, index_pairs
from guided_diffusion.data.scan.problems import refuse_fatal
from guided_diffusion.labeling.files import load_classifier
from guided_diffusion.pipelines.known_classes import known_classes
from guided_diffusion.pipelines.segment.folds import folds_of
from guided_diffusion.pipelines.segment.labeler import encoding_of_classifier
from guided_diffusion.pipelines.segment.reader import ImageReader, as_trained, open_reader, refuse_sides
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.units import counted
from guided_diffusion.samples.pseudo_folder import refuse_foreign_pairs


def plan_lines(config: SegmentConfig) -> list[str]:
    """Return what reads the images, how many are learned from and how many are labeled.

    Raises UserError where a run could not begin.
    """
    device = choose_device(config.precision.device)
    if config.classifier_path:
        file = Path(config.classifier_path)
        before = load_classifier(file)
        config = as_trained(config, before)
        reader = open_reader(config, device, before)
        before.refuse_other_features(file, reader.settings(), sum(reader.extractor.dims))
        names = encoding_of_classifier(file, before).names
        lines = [f"classifiers of {len(names)} classes, trained already"]
    else:
        reader = open_reader(config, device)
        lines, names = _labeled_lines(config), known_classes(config.source)
    if config.labels.flip:
        refuse_sides(names, config.source)
    if config.image_dir:
        refuse_foreign_pairs(Path(config.output_dir) / config.split)
        images, problems = index_images("", get_mode(IMAGES), "train", config.image_dir)
        refuse_fatal(problems)
        lines.append(f"{counted(len(images), 'image')} in image_dir; those that are labeled already are left out")
    return [_reader_line(reader), *lines]


def _labeled_lines(config: SegmentConfig) -> list[str]:
    labeled = _pairs(config, config.data_split, config.max_labeled)
    groups = groups_of(config.source.group_pattern, [pair.stem for pair in labeled])
    folds = folds_of(config, len(set(numbered(groups, len(labeled)).tolist())))
    members = counted(config.classifier.members, "classifier")
    lines = [f"{counted(len(labeled), 'labeled image', 'labeled images')}, {folds or 'no'} folds, {members} each"]
    if config.score_test:
        lines.append(f"{len(_pairs(config, 'test', config.max_test))} images of the split test to score")
    return lines


def _pairs(config: SegmentConfig, split: str, first: int | None) -> list[Pair]:
    """Return the first pairs of a split, None: all; DataError where files lack their partners."""
    mode = get_mode(config.source.dataset_mode)
    pairs, problems = index_pairs(config.source.data_dir, mode, split, with_instances=False, first=first)
    refuse_fatal(problems)
    return pairs


def _reader_line(reader: ImageReader) -> str:
    height, width = reader.extractor.image_size
    return (
        f"{sum(reader.extractor.dims)} features of a pixel, of a network of {width} x {height} px "
        f"(resize {reader.transform.resize})"
    )
