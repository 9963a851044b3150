"""The external segmenter of `evaluate`: its files are read and tested before any data is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from evaluations.errors import EvaluationError
from evaluations.segmentation.external import read_segmenter
from evaluations.segmentation.label_table import read_table
from evaluations.segmentation.segmenter import AgreementSegmenter, external_segmenter
from guided_diffusion.conditions.base import Size
from guided_diffusion.config.evaluate import EvaluateConfig, SegmenterOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.runtime.files import is_endless

SegmenterMaker = Callable[[Sequence[str]], AgreementSegmenter]
"""Makes the segmenter for a dataset of these class names; EvaluationError if its outputs do not fit them."""


def read_external(config: EvaluateConfig, device: torch.device) -> SegmenterMaker | None:
    """Return the external segmenter of the (resolved) options, None for none; see `read_segmenter_options`."""
    size = (0, 0) if config.view.image_size is None else height_width(config.view.image_size)
    return read_segmenter_options(config.segmenter, size, config.study.batch_size, device)


def read_segmenter_options(
    options: SegmenterOptions, size: Size, batch_size: int, device: torch.device
) -> SegmenterMaker | None:
    """Return the external segmenter of the options, None for none; size: of the images, unless it has its own.

    Raises EvaluationError for files that are missing, cannot be read or do not fit.
    """
    table_path = Path(options.segmenter_labels)
    if not options.segmenter:
        return None
    if is_endless(table_path):
        raise EvaluationError("segmenter_labels", "is a pipe or device", "give a JSON file", path=table_path)
    table = read_table(table_path) if options.segmenter_labels else None
    if not options.segmenter_model and Path(options.segmenter).is_file():
        print(
            f"note: {Path(options.segmenter).absolute()} is run as a program, which may do anything that you may: give "
            "weights with segmenter_model unless you trust where it comes from"
        )
    file = read_segmenter(
        options.segmenter,
        options.segmenter_model,
        size=height_width(options.segmenter_size) if options.segmenter_size else size,
        form=options.segmenter_input,
        device=device,
    )
    return partial(external_segmenter, file, table, table_path, batch_size=batch_size, device=device)
