"""Samples that were written earlier: where they lie, what their manifest tells, and copies of a part of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from guided_diffusion.data.classes import FILE_NAME, classes_text, read_classes
from guided_diffusion.data.files import read_bytes
from guided_diffusion.data.labels import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.problems import problem_lines
from guided_diffusion.data.scan import scan_dataset
from guided_diffusion.data.synthetic import MANIFEST, read_manifest
from guided_diffusion.errors import DataError
from guided_diffusion.writing import make_folder, write_text, writing_to

KINDS = ("images", "masks")
RUN_CONFIG = "config.json"
LAYOUT = "multi-class"  # of every folder of samples, whatever the layout of the real dataset


@dataclass(frozen=True)
class SampleFolder:
    """A folder with images/ and masks/.

    config: what `sample` was run with, empty where it says nothing.
    lines: by the image's path relative to the folder, its line of the manifest; empty where there is none.
    """

    folder: Path
    config: Mapping[str, Any]
    lines: Mapping[str, Mapping[str, Any]]

    @property
    def checkpoint(self) -> str | None:
        """Digest of the checkpoint the samples were made with, None where nobody knows."""
        return next((line.get("checkpoint") for line in self.lines.values()), None)

    def line_of(self, pair: Pair) -> Mapping[str, Any] | None:
        """Return the manifest's line of a pair, None where it has none."""
        return self.lines.get(Path(pair.image).relative_to(self.folder).as_posix())


def find_samples(directory: str | Path) -> SampleFolder:
    """Return the samples of a `results_path`: in `directory` itself, or in the one sub-folder that `split` made.

    Raises DataError where there are none, or where there are several such sub-folders.
    """
    root = Path(directory).absolute()
    if not root.is_dir():
        raise DataError(f"{directory}: the folder does not exist; give the results_path of sample")
    inside = [root] if (root / "images").is_dir() else sorted(p for p in root.iterdir() if (p / "images").is_dir())
    if not inside:
        raise DataError(f"{directory}: has no images/ and masks/; give the results_path of sample")
    if len(inside) > 1:
        names = ", ".join(path.name for path in inside)
        raise DataError(f"{directory}: has samples in {names}; give one of these folders")
    folder = inside[0]
    manifest = folder / MANIFEST
    lines = {line["image"]: line for line in read_manifest(manifest)} if manifest.exists() else {}
    return SampleFolder(folder, _run_config(folder), lines)


def _run_config(folder: Path) -> dict[str, Any]:
    """Return the resolved options of the run that wrote `folder`, empty where there is no record of it."""
    try:
        content = json.loads((folder / RUN_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def open_samples(samples: SampleFolder, encoding: LabelEncoding, image_channels: int) -> tuple[Pair, ...]:
    """Return the pairs of a folder of samples, scanned, their masks held against the real dataset's `encoding`.

    Raises DataError with a line for everything that is wrong with them.
    """
    folder = samples.folder
    for root in (folder, folder.parent):
        classes, problems = read_classes(root)
        if problems:
            raise DataError(problem_lines(problems))
        if classes is not None:
            if classes.names != encoding.names:
                raise DataError(
                    f"{root / FILE_NAME}: has {len(classes.names)} classes ({', '.join(classes.names)}), but the real "
                    f"dataset has {len(encoding.names)} ({', '.join(encoding.names)}): judge samples of this dataset"
                )
            break
    mode = get_mode(LAYOUT)
    report = scan_dataset(folder.parent, mode, folder.name, image_channels=image_channels, encoding=encoding)
    unpaired = [problem for problem in report.fatal if " without " in problem.kind]
    if unpaired and not report.pairs:
        raise DataError(
            f"{folder}: no image has a mask of its name ({Path(unpaired[0].path).name}, for one, has none); give a "
            "folder whose images/ and masks/ have the same names"
        )
    report.raise_if_fatal()
    return report.pairs


def mask_digests(pairs: Sequence[Pair]) -> list[str]:
    """Return of each mask file the digest by which a manifest names it: 16 hexadecimal digits of its SHA-256."""
    return [sha256(read_bytes(pair.mask)).hexdigest()[:16] for pair in pairs]


def refuse_target(samples: SampleFolder, pairs: Sequence[Pair], target: str | Path) -> None:
    """Raise DataError where a selection of `pairs` cannot go to `target`.

    That is among the samples themselves, and where it holds images or masks that are not called like theirs. An
    earlier selection may be there: a new one takes its place.
    """
    target = Path(target).absolute()
    if target in (samples.folder, samples.folder.parent):
        raise DataError(f"filtered_dir is {target}, where the samples themselves lie; choose another folder")
    ours = _places(samples, pairs)
    for path in _pictures_in(target):
        if path.relative_to(target) not in ours:
            raise DataError(f"{path}: is not one of the samples to be copied; choose an empty filtered_dir")


def _places(samples: SampleFolder, pairs: Sequence[Pair]) -> set[Path]:
    return {Path(path).relative_to(samples.folder) for pair in pairs for path in (pair.image, pair.mask)}


def _pictures_in(folder: Path) -> list[Path]:
    return [path for kind in KINDS for path in sorted((folder / kind).rglob("*")) if path.is_file()]


def write_selection(
    samples: SampleFolder,
    pairs: Sequence[Pair],
    encoding: LabelEncoding,
    target: str | Path,
    notes: Sequence[Mapping[str, Any]],
) -> Path:
    """Copy some samples, with their lines of the manifest and the options they were made with; return the manifest.

    notes: for each pair what its line says beside what it said before.

    What an earlier selection has there beyond these is removed; `refuse_target` has seen that nothing else is there.
    The manifest is written last, so that a copy that was broken off has none. Raises UserError where `target` cannot be
    written.
    """
    target = Path(target).absolute()
    wanted = _places(samples, pairs)
    with writing_to(target):
        (target / MANIFEST).unlink(missing_ok=True)
        for path in _pictures_in(target):
            if path.relative_to(target) not in wanted:
                path.unlink()
    lines = []
    for pair, note in zip(pairs, notes, strict=True):
        places = [Path(path).relative_to(samples.folder) for path in (pair.image, pair.mask)]
        for place in places:
            make_folder((target / place).parent)
            with writing_to(target / place):
                shutil.copyfile(samples.folder / place, target / place)
        known = samples.line_of(pair) or dict(zip(("image", "mask"), (p.as_posix() for p in places), strict=True))
        lines.append({**known, **note})
    write_text(target / FILE_NAME, classes_text(encoding))
    if samples.config:
        write_text(target / RUN_CONFIG, json.dumps(samples.config, indent=2) + "\n")
    write_text(target / MANIFEST, "".join(json.dumps(line) + "\n" for line in lines))
    return target / MANIFEST
