"""What the pairs of a training were: digests by which files are known again, and what sets two sets of pairs apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.pairing import GOOD_STEM, GoodImage, Pair

VERSION = 1
SHOWN = 3  # stems that a message names of each kind of difference
_BYTES = 8  # of a digest: 64 bits, so that two of 30,000 files agree by chance in 1 of 40 billion data sets
_NONE = bytes(_BYTES)  # where there is no instance map, or no mask


@dataclass(frozen=True)
class PairPrint:
    """What is known of the files of one pair.

    image, mask, instance: digests of the files' bytes; instance is empty without an instance map.
    pixels: digest of the decoded image, as the model's channels are made of it.
    shape: height and width of the image. thumbnail: see `thumbnail`; None where look-alikes are not asked for.
    """

    image: bytes
    mask: bytes
    instance: bytes
    pixels: bytes
    file_size: int
    shape: tuple[int, int]
    thumbnail: np.ndarray | None = None


def content_digest(content: bytes) -> bytes:
    """Return the digest of a file's content, 8 bytes."""
    return hashlib.blake2b(content, digest_size=_BYTES).digest()


def pixel_digest(image: np.ndarray) -> bytes:
    """Return the digest of decoded pixels; arrays of other shapes differ."""
    state = hashlib.blake2b(repr((image.shape, image.dtype.str)).encode(), digest_size=_BYTES)
    state.update(np.ascontiguousarray(image))
    return state.digest()


@dataclass(frozen=True)
class Fingerprint:
    """The pairs of a training by name, with the digests of their files; no paths, so that data may move.

    digests: uint8 [N, 3, 8], of image, mask and instance map (zeros where there is none).
    """

    stems: tuple[str, ...]
    digests: torch.Tensor

    @classmethod
    def of(
        cls,
        pairs: Sequence[Pair],
        prints: Sequence[PairPrint],
        good_images: Sequence[GoodImage] = (),
        good_prints: Sequence[PairPrint] = (),
    ) -> Fingerprint:
        """Return the fingerprint of pairs, and good images beside them, that were all readable."""
        joined = b"".join(
            each.image + (each.mask or _NONE) + (each.instance or _NONE) for each in (*prints, *good_prints)
        )
        digests = torch.frombuffer(bytearray(joined), dtype=torch.uint8).reshape(-1, 3, _BYTES)
        return cls((*(pair.stem for pair in pairs), *(GOOD_STEM + good.stem for good in good_images)), digests)

    def of_pairs(self) -> Fingerprint:
        """Return the fingerprint of the pairs alone."""
        chosen = [index for index, stem in enumerate(self.stems) if not stem.startswith(GOOD_STEM)]
        return Fingerprint(tuple(self.stems[index] for index in chosen), self.digests[chosen])

    def to_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: about 25 bytes a pair and its name."""
        return {"version": VERSION, "stems": "\0".join(self.stems), "digests": self.digests}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Fingerprint | None:
        """Return what `to_state` gave; None for the empty state of older checkpoints and for what is none of ours."""
        stems, digests = state.get("stems"), state.get("digests")
        if state.get("version") != VERSION or not isinstance(stems, str) or not isinstance(digests, torch.Tensor):
            return None
        names = tuple(stems.split("\0"))
        return cls(names, digests) if digests.shape == (len(names), 3, _BYTES) else None

    def changes_to(self, now: Fingerprint) -> DataChanges:
        """Return what `now` has that is not as here. Instance maps count where both have them."""
        before, after = (dict(zip(prints.stems, prints.digests.numpy(), strict=True)) for prints in (self, now))
        common = [stem for stem in now.stems if stem in before]

        def changed(part: int) -> tuple[str, ...]:
            files = ((stem, before[stem][part], after[stem][part]) for stem in common)
            compared = (entry for entry in files if part < 2 or (entry[1].any() and entry[2].any()))
            return tuple(stem for stem, old, new in compared if (old != new).any())

        return DataChanges(
            added=tuple(stem for stem in now.stems if stem not in before),
            removed=tuple(stem for stem in self.stems if stem not in after),
            images=changed(0),
            masks=changed(1),
            instances=changed(2),
        )


@dataclass(frozen=True)
class DataChanges:
    """The stems of the pairs in which two sets of pairs differ; false where there are none.

    encoding: the same mask values mean other classes.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    encoding: bool = False

    def __bool__(self) -> bool:
        return bool(self._groups or self.encoding)

    @property
    def _groups(self) -> dict[str, tuple[str, ...]]:
        groups = {
            "pairs added": self.added,
            "pairs removed": self.removed,
            "images changed": self.images,
            "masks changed": self.masks,
            "instance maps changed": self.instances,
            "boxes changed": self.boxes,
        }
        return {name: stems for name, stems in groups.items() if stems}

    def __str__(self) -> str:
        parts = [f"{name}: {len(stems)} ({_named(stems)})" for name, stems in self._groups.items()]
        if self.encoding:
            parts.append("mask values now mean other classes")
        return ", ".join(parts)


def encoding_differs(before: LabelEncoding, now: LabelEncoding) -> bool:
    """Return whether mask values or colors stand for other classes than before, however masks are written."""
    return before.names != now.names or _meanings(before) != _meanings(now)


def _meanings(encoding: LabelEncoding) -> list[list[frozenset[Any]]]:
    """Return what stands for each class and for none, as values and as colors; their order tells what is written."""
    values, colors = (*encoding.values, encoding.ignore_values), (*encoding.colors, encoding.ignore_colors)
    return [[frozenset(group) for group in groups] for groups in (values, colors)]


def _named(stems: Sequence[str]) -> str:
    return ", ".join(stems[:SHOWN]) + (", ..." if len(stems) > SHOWN else "")
