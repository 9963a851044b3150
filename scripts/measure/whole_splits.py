"""The splits of a dataset as the study sees them, whole and at `--scale`, for the scripts that train segmenters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import GeometryOptions, SourceOptions
from guided_diffusion.data.pairing import Pair
from guided_diffusion.pipelines.dataset import scan_split
from guided_diffusion.pipelines.study.images import StudyView


class Splits(NamedTuple):
    """The pairs of the splits, and what reads them; test: none where it was not asked for."""

    training: Sequence[Pair]
    test: Sequence[Pair]
    view: StudyView


def open_splits(arguments: argparse.Namespace, *, with_test: bool = True) -> Splits:
    """Return what data_dir, dataset_mode, crop, channels and scale name; UserError for what is wrong with them."""
    source = SourceOptions(data_dir=arguments.data_dir, dataset_mode=arguments.dataset_mode)
    geometry = GeometryOptions(
        image_size=arguments.crop, image_channels=arguments.channels, resize="window", scale=arguments.scale
    )
    report = scan_split(source, geometry, "train")
    encoding = report.raise_if_fatal()
    test: Sequence[Pair] = ()
    if with_test:
        tested = scan_split(source, geometry, "test", encoding=encoding)
        tested.raise_if_fatal()
        test = tested.pairs
    background = get_mode(source.dataset_mode).background
    view = StudyView(encoding, geometry.image_channels, geometry.scale, geometry.image_range, background)
    return Splits(report.pairs, test, view)
