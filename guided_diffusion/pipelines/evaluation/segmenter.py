"""The external segmenter of `evaluate`: its files, read and tried out before any data is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evaluations.segmentation.external import SegmenterFile, read_segmenter
from evaluations.segmentation.label_table import LabelTable, read_table
from evaluations.segmentation.segmenter import AgreementSegmenter, external_segmenter
from guided_diffusion.config.evaluate import SegmenterOptions, ViewOptions
from guided_diffusion.models.architecture import height_width


@dataclass(frozen=True)
class ExternalFiles:
    """An external segmenter and its label table (None: outputs are the classes in order), before classes are known."""

    segmenter: SegmenterFile
    table: LabelTable | None
    table_path: Path

    def for_classes(self, names: Sequence[str], *, batch_size: int, device: torch.device) -> AgreementSegmenter:
        """Return the segmenter for a dataset of these classes; EvaluationError where its outputs do not fit them."""
        return external_segmenter(
            self.segmenter, self.table, self.table_path, names, batch_size=batch_size, device=device
        )


def read_external(options: SegmenterOptions, view: ViewOptions, device: torch.device) -> ExternalFiles | None:
    """Return the external segmenter that is asked for, tried out on images of noise; None for none.

    Raises EvaluationError for files that are missing, cannot be read or do not fit.
    """
    if not options.segmenter:
        return None
    table_path = Path(options.segmenter_labels)
    table = read_table(table_path) if options.segmenter_labels else None
    segmenter = read_segmenter(
        options.segmenter,
        options.segmenter_model,
        size=height_width(options.segmenter_size or view.image_size),
        form=options.segmenter_input,
        device=device,
    )
    return ExternalFiles(segmenter, table, table_path)
