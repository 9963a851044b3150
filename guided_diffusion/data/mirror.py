"""Classes called left and right: a mirrored image shows each as the other, so they change places in its mask."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from guided_diffusion.runtime.errors import ConfigError

_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l", "lt": "rt", "rt": "lt", "lh": "rh", "rh": "lh"}
_SHORT = 2
_TOKEN = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^A-Za-z]+")

FlipPairs = tuple[tuple[int, int], ...]


def flip_pairs(names: Sequence[str], asked: Sequence[Sequence[str]] | None = None) -> FlipPairs:
    """Return the pairs of classes (by index) that change places in a mirrored image.

    asked: pairs of names; None: names that differ in left and right alone ("left eye", "r_brow"), but for "L" and "R".
    Raises ConfigError naming `flip_pairs` for names that are not classes, or a class in two pairs.
    """
    index = {name: position for position, name in enumerate(names)}
    if asked is None:
        folded = {name.casefold(): position for position, name in enumerate(names)}
        partners = [index.get(_mirrored(name), folded.get(_mirrored(name).casefold())) for name in names]
        return tuple((a, b) for a, b in enumerate(partners) if b is not None and a < b and partners[b] == a)
    used: set[str] = set()
    for pair in asked:
        for name in pair:
            if name not in index:
                raise ConfigError.of("flip_pairs", f"{name!r} is not a class", f"the classes are {', '.join(names)}")
            if name in used:
                raise ConfigError.of("flip_pairs", f"{name!r} is in two pairs", "give every class one partner")
            used.add(name)
    return tuple((index[first], index[second]) for first, second in asked)


def in_words(names: Sequence[str], pairs: FlipPairs) -> str:
    """Return pairs of classes for people: 'left' and 'right', 'l_arm' and 'r_arm'."""
    return ", ".join(f"{names[first]!r} and {names[second]!r}" for first, second in pairs)


def without_partner(names: Sequence[str], pairs: FlipPairs) -> list[str]:
    """Return the names that seem to name a side ("left arm", "rightEye") and are in no pair."""
    paired = {index for pair in pairs for index in pair}
    words = [[word.lower() for word in _TOKEN.findall(name)] for name in names]
    sided = [any(word.startswith(("left", "right")) for word in each) for each in words]
    return [name for index, name in enumerate(names) if sided[index] and index not in paired]


def _mirrored(name: str) -> str:
    """Return a name with left and right exchanged, the same name where it has neither.

    Nor has a short name that is nothing else: R and L are resistors and inductors, too.
    """
    if len(name) <= _SHORT:
        return name

    def exchanged(word: re.Match[str]) -> str:
        other = _SIDES.get(word[0].lower(), word[0])
        if word[0].isupper() and len(word[0]) > 1:
            return other.upper()
        return other.capitalize() if word[0][0].isupper() else other

    return _TOKEN.sub(exchanged, name)


def exchanged(label: Tensor, pairs: FlipPairs) -> Tensor:
    """Return a label map, integers of any shape, with the classes of each pair exchanged."""
    if not pairs:
        return label
    table = torch.arange(max(int(label.max()), *(max(pair) for pair in pairs)) + 1, dtype=label.dtype)
    for first, second in pairs:
        table[first], table[second] = second, first
    return table[label.long()]
