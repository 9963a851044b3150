"""Groups of images that show one object, told by their names: a part at several exposures, the frames of a video.

A model knows the objects that it was trained on, so a test image of one of them measures memory; and images of one
object are hardly more evidence than one image, so that intervals are those of groups.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from guided_diffusion.data.pairing import GoodImage, Pair
from guided_diffusion.data.scan.problems import Problem, ProblemKind
from guided_diffusion.runtime.errors import ConfigError

KEY = "group_pattern"

Groups = tuple[str | None, ...]
"""The group of each image; None for an image of its own."""


def groups_of(pattern: str | None, stems: Sequence[str]) -> Groups:
    """Return what `pattern` finds in each stem: its parentheses, or all of it where it has none.

    None or "" finds nothing. Raises ConfigError for a pattern that matches none of the stems.
    """
    if not pattern:
        return (None,) * len(stems)
    found = [re.search(pattern, stem) for stem in stems]
    if stems and not any(found):
        line = f"{KEY} is {pattern!r}, which no name of an image matches, such as {stems[0]}: correct it, or leave it"
        raise ConfigError.of_keys((KEY, f"{line} out"))
    return tuple(None if match is None else " ".join(each or "" for each in _parts(match)) for match in found)


def _parts(match: re.Match[str]) -> Sequence[str | None]:
    return match.groups() or (match.group(),)


def shared_group_problems(
    pattern: str | None, test: Sequence[Pair | GoodImage], train: Sequence[Pair | GoodImage], *, fatal: bool = False
) -> list[Problem]:
    """Return a finding if groups of test images are in train, too; it names the first of them.

    Raises ConfigError for a pattern that matches no name.
    """
    groups = groups_of(pattern, [image.stem for image in (*test, *train)])
    by_group = {group: image for image, group in zip(train, groups[len(test) :], strict=True) if group is not None}
    leaked = [(image, group) for image, group in zip(test, groups, strict=False) if group in by_group]
    if not leaked:
        return []
    image, group = leaked[0]
    found = (
        f"is of the group {group!r}, as {by_group[group].image} in train is ({len(leaked)} of {len(test)} test images "
        f"are of {len({group for _, group in leaked})} groups in train)"
    )
    remedy = "keep each group in one split: a model knows the objects it was trained on, so the test says too much"
    return [Problem(image.image, found, remedy, ProblemKind.GROUP_IN_TRAIN, fatal=fatal)]
