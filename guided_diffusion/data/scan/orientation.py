"""EXIF orientations: whether the tags of a pair are applied, so that image and mask see one geometry.

Some tools draw masks on the picture as it is shown, others on the pixels as they are stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from PIL import Image

from guided_diffusion.conditions.base import Size
from guided_diffusion.data.files import orientation, stored_size
from guided_diffusion.data.scan.problems import Problem, ProblemKind

Exif = Literal["apply", "ignore"] | None
_REMEDY = (
    "set exif to apply (masks fit the picture as viewers show it) or to ignore (masks fit the pixels as they are "
    "stored); the preview of check shows which"
)


class Turned(NamedTuple):
    """A pair with an orientation tag: whether the tags are applied, and what decided that."""

    upright: bool
    decided_by: Literal["the same tag", "exif", "sizes", "nothing"]


def turned(image: Image.Image, mask: Image.Image, exif: Exif) -> Turned | None:
    """Return how the tags of a pair, opened as stored, are read; None where neither file has one that turns it."""
    tags = orientation(image), orientation(mask)
    if tags == (1, 1):
        return None
    if exif is not None:
        return Turned(exif == "apply", "exif")
    if tags[0] == tags[1]:
        return Turned(True, "the same tag")
    fits_stored = stored_size(image) == stored_size(mask)
    fits_upright = _shown_size(image) == _shown_size(mask)
    if fits_stored != fits_upright:
        return Turned(fits_upright, "sizes")
    return Turned(True, "nothing")


def turned_by_size(image: Image.Image, stated: Size | None, exif: Exif) -> Turned | None:
    """Return how the tag of an image, opened as stored, is read whose boxes are of a picture of size `stated`.

    stated: height and width, None where nothing says it. None without a tag that turns it.
    """
    if orientation(image) == 1:
        return None
    if exif is not None:
        return Turned(exif == "apply", "exif")
    fits_stored, fits_upright = stated == stored_size(image)[::-1], stated == _shown_size(image)[::-1]
    return Turned(fits_upright, "sizes") if fits_stored != fits_upright else Turned(True, "nothing")


def turned_boxes_problems(pairs: Sequence[tuple[str, Turned]]) -> list[Problem]:
    """Return what is said of images (path, how it is turned) with a tag, whose boxes lie in one of two geometries."""
    undecided = [path for path, how in pairs if how.decided_by == "nothing"]
    if undecided:
        found = f"{len(undecided)} images have an EXIF orientation, and no size tells whether their boxes have it, too"
        remedy = "set exif to apply (boxes fit the picture as viewers show it) or to ignore (as it is stored)"
        return [Problem(undecided[0], found, remedy, ProblemKind.ORIENTATION)]
    if pairs:
        applied = sum(how.upright for _, how in pairs)
        found = f"{len(pairs)} images have an EXIF orientation, which is applied in {applied} of them"
        return [Problem(pairs[0][0], found, "set exif if that is wrong", ProblemKind.ORIENTATION, fatal=False)]
    return []


def _shown_size(image: Image.Image) -> tuple[int, int]:
    return stored_size(image)[::-1] if orientation(image) >= 5 else stored_size(image)


def orientation_problems(pairs: Sequence[tuple[str, Turned]]) -> list[Problem]:
    """Return a problem for all pairs (mask path, how it is turned) that nothing decides, and a warning for the others.

    The pairs are those with a tag.
    """
    if not pairs:
        return []
    open_pairs = [path for path, how in pairs if how.decided_by == "nothing"]
    decided = Counter((how.upright, how.decided_by) for _, how in pairs if how.decided_by != "nothing")
    by = "; ".join(
        f"{count} {'applied' if upright else 'ignored'} by {cause}" for (upright, cause), count in decided.items()
    )
    problems = []
    if open_pairs:
        found = f"{len(open_pairs)} pairs have an EXIF orientation that image and mask do not share, "
        found += "and sizes that tell nothing"
        problems.append(
            Problem(open_pairs[0], found + (f" ({by} in others)" if by else ""), _REMEDY, ProblemKind.ORIENTATION)
        )
    elif by:
        found = f"{len(pairs)} pairs have an EXIF orientation ({by})"
        problems.append(Problem(pairs[0][0], found, "set exif if that is wrong", ProblemKind.ORIENTATION, fatal=False))
    return problems


def tagged_files(noun: str, paths: Sequence[str]) -> list[Problem]:
    """Return a warning for the masks, or images (`noun`), with a tag, where no other file tells how it is meant."""
    if not paths:
        return []
    found = f"{len(paths)} {noun} have an EXIF orientation, which is applied"
    return [Problem(paths[0], found, "set exif to ignore if that is wrong", ProblemKind.ORIENTATION, fatal=False)]


def instance_problems(mask: str, tag: int, instance: str, instance_tag: int) -> list[Problem]:
    """Return the problem of an instance map that its tag would turn otherwise than the mask is turned."""
    if tag == instance_tag:
        return []
    found = f"has the EXIF orientation {instance_tag}, but {mask} has {tag}"
    remedy = "save both without one, or set exif to ignore if they fit as they are stored"
    return [Problem(instance, found, remedy, ProblemKind.ORIENTATION)]
