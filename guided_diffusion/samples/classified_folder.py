"""What `generate` writes: all images that were drawn, labeled, and of these the certain ones as a folder of samples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.files import make_folder, reporting_os_errors
from guided_diffusion.samples.manifest import MANIFEST, UNFINISHED, ClassifiedMask, ManifestLine, read_manifest
from guided_diffusion.samples.plan import PlannedSample
from guided_diffusion.samples.pseudo_folder import PlannedPair, refuse_foreign_pairs, write_pairs
from guided_diffusion.samples.writer import SyntheticFolder, to_picture
from guided_diffusion.samples.written_folder import keep_classes

CANDIDATES = "candidates"
"""The folder, beside images/ and masks/, of all images that were drawn."""
_OWN = re.compile(r"(images|masks)/sample_\d{6,}\.png$")
_PLACE = ("index", "image", "mask")  # keys of a line that tell where it is


class CandidateFolder(SyntheticFolder):
    """All images that were drawn, with their masks and scores: a folder of samples itself."""

    def write_classified(
        self, sample: PlannedSample, image: Tensor, label: NDArray[np.integer], classified: ClassifiedMask
    ) -> None:
        """Write an image [C, H, W] in [-1, 1] and its mask [H, W] of class ids, then their line."""
        save = partial(to_picture(image).save, format="PNG")
        self._write_files(sample, save, label, {"classified": classified.model_dump()})


def refuse_foreign_samples(folder: Path) -> None:
    """Raise DataError where `folder` has images or masks that were not made by generate."""
    refuse_foreign_pairs(folder, _OWN, action="generate")


def begin_selection(root: Path, folder: Path, encoding: LabelEncoding) -> None:
    """Mark `folder`, below the results_path `root`, as unfinished until `publish`.

    Raises DataError where `root` has other classes.
    """
    keep_classes(root, encoding)
    make_folder(folder)
    with reporting_os_errors(folder):
        (folder / UNFINISHED).touch()


def publish(
    folder: Path,
    candidates: CandidateFolder,
    lines: Sequence[ManifestLine],
    *,
    progress: Iterable[int] | None = None,
) -> list[ManifestLine]:
    """Make `folder` hold copies of `lines` of the candidates alone; return its own lines.

    progress: as in `write_pairs`.
    """
    write_pairs(folder, [_copied(candidates, line) for line in lines], candidates.encoding, progress=progress)
    return read_manifest(folder / MANIFEST)


def _copied(candidates: CandidateFolder, line: ManifestLine) -> PlannedPair:
    record = {key: value for key, value in json.loads(line.text()).items() if key not in _PLACE}
    image, mask = (str(candidates.folder / file) for file in (line.image, line.mask))
    return PlannedPair(Path(line.image).stem, image, mask, upright=True, drawn=False, record=record)
