"""What a network was trained on, in a few words that may be published: name, numbers and digest of its images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from guided_diffusion.data.fingerprint import Fingerprint
from guided_diffusion.data.pairing import GOOD_STEM
from guided_diffusion.runtime.card_file import plain
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.logs import read_run_record


def last_name(path: str) -> str:
    """Return the last name of a path or address, which tells nothing of the machine; "" for an empty one."""
    name = PurePosixPath(path.replace("\\", "/")).name
    return Path(path).resolve().name if path and name in ("", "..") else name


def training_source(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return name, pairs, images (without masks), good_images and digest of what a network was trained on.

    Of exported weights as they record it; keys are left out where nothing tells them, as of published weights.
    """
    if checkpoint.trained_on and isinstance(checkpoint.trained_on, dict):
        return dict(checkpoint.trained_on)
    record = read_run_record(checkpoint.path.parent)
    name = last_name(str(record.get("data_dir") or record.get("image_dir") or ""))
    source: dict[str, Any] = {"name": name} if name and not checkpoint.is_bare else {}
    prints = Fingerprint.from_state(checkpoint.fingerprint)
    if prints is None:
        return source
    rows = prints.digests.numpy()
    good = sum(stem.startswith(GOOD_STEM) for stem in prints.stems)
    alone = sum(
        not row[1].any() and not stem.startswith(GOOD_STEM) for stem, row in zip(prints.stems, rows, strict=True)
    )
    pairs = len(prints.stems) - good - alone
    digest = hashlib.sha256(b"".join(sorted(row.tobytes() for row in rows))).hexdigest()[:16]
    return {**source, "pairs": pairs, "images": alone, "good_images": good, "digest": digest}


def source_text(source: Mapping[str, Any]) -> str:
    """Return what `training_source` found as Markdown."""
    if not source:
        return "not recorded in these weights"
    words = {"pairs": "pairs", "images": "images without masks", "good_images": "good images"}
    counts = [
        f"{source[key]} {word}" for key, word in words.items() if isinstance(source.get(key), int) and source[key]
    ]
    parts = [plain(str(source["name"])) if source.get("name") else "name not recorded", " and ".join(counts)]
    if source.get("digest"):
        parts.append(f"digest {plain(str(source['digest']))}")
    return ", ".join(part for part in parts if part)
