"""The masks that are sampled from: scanned, with what their values mean."""

from __future__ import annotations

from collections.abc import Sequence

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.masks.inference import ClassOptions, infer_encoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.options import GeometryOptions, SourceOptions
from guided_diffusion.data.pairing import MaskEntry, Pair
from guided_diffusion.data.scan.problems import ProblemKind, problem_lines
from guided_diffusion.data.scan.scan import scan_masks
from guided_diffusion.pipelines.dataset import scan_split
from guided_diffusion.runtime.errors import ConfigError, DataError


def find_masks(
    source: SourceOptions,
    geometry: GeometryOptions,
    *,
    split: str = "test",
    mask_dir: str = "",
    encoding: LabelEncoding | None = None,
    also_ignored: int | None = None,
) -> tuple[Sequence[Pair | MaskEntry], LabelEncoding]:
    """Return the masks of a split of `source`, or of the folder `mask_dir`, and what their values mean.

    encoding: that of the training; None for bare weights. also_ignored: one more mask value that stands for no class.
    Raises DataError with a line for everything that is wrong with the masks.
    """
    if encoding is None and mask_dir:
        if source.num_classes is None:
            raise ConfigError("num_classes is missing: bare weights do not say what mask values mean; set it")
        encoding = encoding_of_mode(source)
    if encoding is not None and also_ignored is not None:
        encoding = encoding.ignoring(also_ignored)
    mode, with_edges = get_mode(source.dataset_mode), not geometry.no_instance
    if mask_dir:
        report = scan_masks(mask_dir, encoding, mode=mode, with_instances=with_edges)
        if with_edges and mode.instances is not None:
            _warn_of_missing_instances(mask_dir, report.pairs, mode.name)
    else:
        report = scan_split(
            source, split, image_channels=geometry.image_channels, with_instances=with_edges, encoding=encoding
        )
    found = report.raise_if_fatal()
    for line in problem_lines(problem for problem in report.warnings if problem.kind is not ProblemKind.EMPTY_CLASS):
        print(f"warning: {line}")
    return report.pairs, found.with_ignore() if geometry.resize == "pad" else found


def encoding_of_mode(source: SourceOptions) -> LabelEncoding:
    """Return what masks mean by the dataset_mode alone; those of a binary mode hold 0 and 1 then.

    Raises DataError where the options contradict it.
    """
    mode = get_mode(source.dataset_mode)
    if mode.binary:
        assert source.num_classes is not None
        return LabelEncoding.identity(source.num_classes)
    encoding, problems = infer_encoding(mode, None, (), ClassOptions(source.num_classes, source.ignore_label))
    if encoding is None:
        raise DataError(problem_lines(problems))
    return encoding


def _warn_of_missing_instances(mask_dir: str, entries: Sequence[Pair | MaskEntry], mode_name: str) -> None:
    """Say where the network sees other edges than in training: those of the labels."""
    without = sum(entry.instance is None for entry in entries)
    if without:
        print(
            f"warning: {mask_dir}: {without} of {len(entries)} masks have no instance map, so that their edges are "
            f"those of the labels; dataset_mode {mode_name} has instance maps in a data_dir"
        )
