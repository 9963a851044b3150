"""The amounts of annotated images that a study compares: nested subsets of the training pairs, as datasets on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from guided_diffusion.data.counting import distinct_values
from guided_diffusion.data.datasets import foreground_classes, read_mask
from guided_diffusion.data.files import exists, read_bytes
from guided_diffusion.data.masks.classes_file import FILE_NAME
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.placing.bank import ClassTally
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import leftovers, make_folder, move, reporting_os_errors, write_text

MARKER = "subset.json"
"""Names the pairs of a subset; written last."""

Presence = NDArray[np.bool_]
"""[N, C]: which of C classes the mask of each of N pairs shows."""


def read_presence(
    pairs: Sequence[Pair], encoding: LabelEncoding, background: int, tally: ClassTally | None = None
) -> Presence:
    """Return which classes other than the background each mask shows; `tally` counts the masks, too."""
    classes = foreground_classes(encoding.num_classes, background)
    rows = []
    for pair in tqdm(pairs, desc="finding classes", unit="mask"):
        label = read_mask(pair.mask, encoding, upright=pair.upright).numpy()
        if tally is not None:
            tally.add(label)
        rows.append(np.isin(classes, distinct_values(label)))
    return np.array(rows, bool).reshape(len(pairs), len(classes))


def nested_order(presence: Presence, seed: int) -> NDArray[np.int64]:
    """Return all indices in such an order that every beginning of it has each class as often as its share.

    Classes come in first, the rarest before the others; images of no class at all have a share of their own.
    """
    strata = np.concatenate([presence, ~presence.any(axis=1, keepdims=True)], axis=1)
    totals = strata.sum(axis=0)
    strata, totals = strata[:, totals > 0], totals[totals > 0]
    draws = np.random.default_rng(seed).random(len(strata))  # decides among images that serve as well
    taken, free = np.zeros(len(totals), np.int64), np.ones(len(strata), bool)
    order = []
    for count in range(1, len(strata) + 1):
        open_ones = strata[free].any(axis=0)
        # What is still missing, in images; a class that has not come in yet goes before all others.
        lack = np.where(taken == 0, len(strata) + 1.0, count * totals / len(strata) - taken)
        wanted = min(np.flatnonzero(open_ones), key=lambda stratum: (-lack[stratum], totals[stratum], stratum))
        candidates = np.flatnonzero(free & strata[:, wanted])
        # Of its images one that also shows what else is lacking, and little of what there is enough of.
        gain = (strata[candidates] * np.clip(lack, -1, 1)).sum(axis=1)
        chosen = candidates[np.lexsort((draws[candidates], -gain))[0]]
        order.append(chosen)
        free[chosen] = False
        taken += strata[chosen]
    return np.array(order, np.int64)


def subset_of(pairs: Sequence[Pair], order: NDArray[np.int64], amount: int | None) -> tuple[Pair, ...]:
    """Return the first `amount` pairs of an order, sorted by name; all of them for None.

    Raises ConfigError where there are fewer.
    """
    if amount is None:
        return tuple(pairs)
    refuse_amount(amount, len(pairs))
    return tuple(pairs[index] for index in sorted(order[:amount].tolist()))


def refuse_amount(amount: int | None, pairs: int) -> None:
    """Raise ConfigError for an amount of annotated images that is not below the number of training pairs."""
    if amount is not None and amount >= pairs:
        line = f"amounts has {amount}, but there are {pairs} training pairs: leave it out, or write all"
        raise ConfigError.of_keys(("amounts", line))


def write_subset(pairs: Sequence[Pair], data_dir: str, folder: Path) -> Path:
    """Write a dataset of these pairs of `data_dir` as its training split, or keep one that is there; return it.

    Files keep their paths and bytes. The folder appears once it is complete. Raises ConfigError for another content.
    """
    record = {"pairs": [pair.stem for pair in pairs]}
    files = [path for pair in pairs for path in (pair.image, pair.mask, pair.instance) if path is not None]
    classes = f"{data_dir.rstrip('/')}/{FILE_NAME}"
    files += [classes] if exists(classes) else []
    if folder.exists():
        try:
            there = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            there = None
        if there != record:
            line = f"{folder}: holds other pairs than amounts and seed choose now: set them back, or choose another "
            raise ConfigError.of_keys(("output_dir", f"{line}output_dir"))
        for path in files:
            if not _is_copy(folder / _relative(path, data_dir), path):
                line = f"{folder}: was made of another {_relative(path, data_dir)} than data_dir has now: restore it, "
                raise ConfigError.of_keys(("output_dir", f"{line}or choose another output_dir"))
        return folder
    for path in leftovers(folder.parent):
        if path.is_dir() and path.name.startswith(f".{folder.name}."):
            shutil.rmtree(path, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        for path in files:
            target = partial / _relative(path, data_dir)
            make_folder(target.parent)
            with reporting_os_errors(target):
                target.write_bytes(read_bytes(path))
        write_text(partial / MARKER, json.dumps(record, indent=1) + "\n")
        with reporting_os_errors(folder):
            move(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _is_copy(copy: Path, path: str) -> bool:
    """Return whether a file is a copy of another one, or, if JSON, means the same."""
    if not copy.is_file():
        return False
    first, second = copy.read_bytes(), read_bytes(path)
    try:
        return first == second or (copy.name == FILE_NAME and json.loads(first) == json.loads(second))
    except ValueError:
        return False


def _relative(path: str, data_dir: str) -> str:
    if "://" in data_dir:
        return path.removeprefix(data_dir.rstrip("/") + "/")
    return os.path.relpath(path, data_dir)
