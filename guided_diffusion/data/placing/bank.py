"""The bank of defects: the components of the training masks, with the places and surroundings they were seen in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from guided_diffusion.data.components import Box, Component, find_components
from guided_diffusion.data.counting import distinct_values
from guided_diffusion.data.placing.options import PlacingOptions
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.near_names import suggestion

RING = 2  # px around a part in which its hosts are
_HOST_SHARE = 0.2  # of the ring, from which on a class is a host: less is where the outlines of two classes meet
_MOST = 0.5
_SPECK = 9, 20  # a slip of the annotator: below so many px, and so many times smaller than the median of its class

_Item, _Key = TypeVar("_Item"), TypeVar("_Key")


class Borders(NamedTuple):
    """Which borders of its image a part touches."""

    top: bool = False
    left: bool = False
    bottom: bool = False
    right: bool = False

    @classmethod
    def of(cls, box: Box, size: tuple[int, int]) -> Borders:
        """Return the borders that a box touches in an image of (height, width)."""
        return cls(box.top == 0, box.left == 0, box.bottom == size[0], box.right == size[1])

    def mirrored(self, down: bool, across: bool) -> Borders:
        """Return the borders after a turn upside down and left to right."""
        top, left, bottom, right = self
        if down:
            top, bottom = bottom, top
        return Borders(top, right, bottom, left) if across else Borders(top, left, bottom, right)

    def along(self, axis: int) -> tuple[bool, bool]:
        """Return whether the part touches the first and the last border along an axis, 0: vertical."""
        return self[axis], self[axis + 2]


@dataclass(frozen=True, eq=False)
class BankPart:
    """A component of a training mask."""

    class_id: int
    name: str
    """Name of its mask."""
    index: int
    """Number of the component in its mask."""
    image_size: tuple[int, int]
    box: Box
    area: int
    bits: NDArray[np.uint8] = field(repr=False)
    """The mask in its box, packed: a bank of large parts would not fit into memory otherwise."""
    borders: Borders
    hosts: tuple[int, ...]
    """Ordinary classes around it; those of its class where there are none."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Its pixels, [height, width] of the box."""
        height, width = self.box.size
        return np.unpackbits(self.bits, count=height * width).reshape(height, width).astype(bool)

    @property
    def source(self) -> str:
        """`name#index`, as placements name components."""
        return f"{self.name}#{self.index}"

    @property
    def center(self) -> tuple[float, float]:
        """Center of its box, (down, across) in 0..1 of the image."""
        height, width = self.image_size
        return (self.box.top + self.box.bottom) / 2 / height, (self.box.left + self.box.right) / 2 / width


@dataclass(frozen=True, eq=False)
class DefectBank:
    """The parts of the training masks that can be placed; the same masks in the same order give the same bank."""

    names: tuple[str, ...]
    classes: tuple[int, ...]
    """Ids of the classes to place: those asked for, else all defect classes."""
    parts: tuple[BankPart, ...]
    """The components of the classes to place."""
    masks: tuple[tuple[BankPart, ...], ...]
    """The parts of each mask that has any."""
    defects: tuple[int, ...] = ()
    """Ids of all defect classes."""
    ordinary: tuple[int, ...] = ()
    """Ids of the classes that nobody named and that are taken for objects on which defects lie."""
    numbered: tuple[int, ...] = ()
    """Ids of the classes whose components are numbered in `source`."""

    @classmethod
    def build(
        cls,
        masks: Iterable[tuple[str, NDArray[np.integer]]],
        names: Sequence[str],
        options: PlacingOptions | None = None,
        *,
        background: int = 0,
        unlabeled: Sequence[int] = (),
    ) -> DefectBank:
        """Return the bank of training masks (name, label [H, W] in `0..len(names)`, the last being the null id).

        Raises ConfigError for class names that are unknown or in no mask, DataError if there is no defect at all.
        """
        options = options or PlacingOptions()
        asked = class_ids("defect_classes", options.defect_classes, names)
        ground = {background, *unlabeled}
        candidates = sorted({*range(len(names))} - ground | {*asked})  # whatever the options: they number the parts
        found: list[_Found] = []
        tally = ClassTally(len(names))
        for name, label in masks:
            tally.add(label)
            components = find_components(label, candidates)
            found += [_Found.of(name, index, component, label) for index, component in enumerate(components)]
        defects, objects = tally.defects(ground, asked)
        placed = class_ids("classes", options.classes, names) or defects
        for class_id in set(placed) - set(defects):
            line = f"classes names {names[class_id]!r}, which is no defect class here: name these in defect_classes"
            raise ConfigError.of_keys(("classes", line))
        found = [component for component in found if component.part.class_id in placed]
        real = _without_specks(found)
        hosts = _class_hosts(tally.contacts, {*defects, len(names)}, background)
        parts = tuple(component.finished({*defects, len(names)}, hosts) for component in real)
        by_mask = tuple(grouped(parts, lambda part: part.name).values())
        bank = cls(tuple(names), placed, parts, by_mask, defects, objects, tuple(candidates))
        bank._check(options)
        return bank

    def _check(self, options: PlacingOptions) -> None:
        key = "classes" if options.classes else "defect_classes"
        refuse_absent(key, getattr(options, key) or (), lambda name: bool(self.of_class(self.names.index(name))))
        if not self.parts:
            remedy = "add masks with defects, or name the classes in defect_classes"
            raise DataError.of("training masks", "no defect found, so there is nothing to place", remedy)

    def of_class(self, class_id: int) -> tuple[BankPart, ...]:
        """Return the parts of a class."""
        return self._of_class.get(class_id, ())

    def alternative(self, part: BankPart, rng: np.random.Generator) -> BankPart:
        """Return a random part of the same class."""
        alike = self.of_class(part.class_id)
        return alike[rng.integers(len(alike))]

    def places(self, part: BankPart) -> tuple[tuple[float, float], ...]:
        """Return the centers of the parts of its class that touch the same borders, its own among them."""
        return self._places[part.class_id, part.borders]

    def like(self, class_id: int, count: int) -> tuple[tuple[BankPart, ...], ...]:
        """Return for each mask with `count` parts of a class these parts."""
        return self._like[class_id, count]

    def find(self, source: str) -> BankPart | None:
        """Return the part that is called `name#index`."""
        return self._by_source.get(source)

    @cached_property
    def _of_class(self) -> dict[int, tuple[BankPart, ...]]:
        return grouped(self.parts, lambda part: part.class_id)

    @cached_property
    def _places(self) -> dict[tuple[int, Borders], tuple[tuple[float, float], ...]]:
        peers = grouped(self.parts, lambda part: (part.class_id, part.borders))
        return {key: tuple(part.center for part in parts) for key, parts in peers.items()}

    @cached_property
    def _like(self) -> dict[tuple[int, int], tuple[tuple[BankPart, ...], ...]]:
        by_class = [group for parts in self.masks for group in grouped(parts, lambda part: part.class_id).values()]
        return grouped(by_class, lambda group: (group[0].class_id, len(group)))

    @cached_property
    def _by_source(self) -> dict[str, BankPart]:
        return {part.source: part for part in self.parts}


def class_ids(
    key: str, wanted: Sequence[str] | None, names: Sequence[str], *, ground: int | None = None
) -> tuple[int, ...]:
    """Return the ids of the classes that the option `key` names; ConfigError for names not known, and that of `ground`.

    ground: the background, where it is not to be named.
    """
    for name in wanted or ():
        if name not in names:
            hint = suggestion(name, names, f"known are {', '.join(names)}")
            raise ConfigError.of_keys((key, f"{key} names {name!r}, which is no class: {hint}"))
    ids = tuple(sorted(names.index(name) for name in wanted or ()))
    if ground is not None and ground in ids:
        raise ConfigError.of_keys((key, f"{key} names {names[ground]!r}, which is the background: leave it out"))
    return ids


def refuse_absent(key: str, wanted: Iterable[str], is_there: Callable[[str], bool]) -> None:
    """Raise ConfigError for a class that the option `key` names and no training mask shows."""
    for name in wanted:
        if not is_there(name):
            line = f"{key} names {name!r}, which is in no training mask: leave it out, or add masks that have it"
            raise ConfigError.of_keys((key, line))


class ClassTally:
    """Which classes of label maps touch each other, and in how many maps each is: what tells objects from defects."""

    def __init__(self, num_classes: int):
        self.contacts = np.zeros((num_classes + 1,) * 2, np.int64)
        self.presence = np.zeros(num_classes + 1, np.int64)
        self._count = 0

    def add(self, label: NDArray[np.integer]) -> None:
        """Count a label map [H, W] in `0..num_classes`, the last being the null id."""
        self.contacts += class_contacts(label, len(self.presence))
        self.presence[distinct_values(label)] += 1
        self._count += 1

    def ordinary(self, ground: set[int]) -> set[int]:
        """Return the objects that defects lie on, see `ordinary_classes`."""
        return ordinary_classes(self.contacts, self.presence, self._count, ground)

    def defects(self, ground: set[int], asked: tuple[int, ...] = ()) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids of the defect classes, and of those that are taken for objects on which they lie.

        asked: the defect classes where somebody named them. ground: background and unlabeled pixels.
        """
        if asked:
            return asked, ()
        ordinary = self.ordinary(ground)
        others = set(range(len(self.presence) - 1)) - ground - ordinary
        return tuple(sorted(others)), tuple(sorted(ordinary))


@dataclass(frozen=True, eq=False)
class _Found:
    """A component before it is known which classes are defects."""

    part: BankPart
    ring: NDArray[np.int64]  # number of pixels of each class around it

    @classmethod
    def of(cls, name: str, index: int, component: Component, label: NDArray[np.integer]) -> _Found:
        box, size = component.box, (label.shape[0], label.shape[1])
        bits = np.packbits(component.mask)
        borders = Borders.of(box, size)
        part = BankPart(component.class_id, name, index, size, box, component.area, bits, borders, ())
        return cls(part, np.bincount(labels_around(label, box, component.mask).astype(np.int64)))

    def finished(self, not_hosts: set[int], class_hosts: dict[int, tuple[int, ...]]) -> BankPart:
        """Return the part with its hosts, which are not of `not_hosts`."""
        return replace(self.part, hosts=hosts_of(self.ring, not_hosts) or class_hosts[self.part.class_id])


def labels_around(label: NDArray[np.integer], box: Box, mask: NDArray[np.bool_]) -> NDArray[np.integer]:
    """Return the class ids [N] of the pixels of a label map that are within RING px of a mask in a box, outside it."""
    around = box.grown(RING).inside(label.shape)
    own = np.zeros(around.size, bool)
    own[box.within(around).slices] = mask
    return label[around.slices][grown(own, RING) & ~own]


def healed(
    label: NDArray[np.integer],
    defects: Sequence[Component],
    null_id: int,
    background: int,
    *,
    not_taken: Sequence[int] = (),
) -> NDArray[np.integer]:
    """Return a label map [H, W] in which each of `defects` has the commonest class around it.

    Their own classes, ignored pixels and `not_taken` do not count; without any other the background is taken.
    """
    result = label.copy()
    not_taken = [null_id, *not_taken, *{defect.class_id for defect in defects}]
    for defect in defects:
        ring = labels_around(label, defect.box, defect.mask)
        ring = ring[~np.isin(ring, not_taken)]
        result[defect.box.slices][defect.mask] = np.bincount(ring).argmax() if ring.size else background
    return result


def grown(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """Return a mask grown by a square of so many pixels in each direction, within its own [H, W]."""
    return ndimage.maximum_filter(mask, 2 * pixels + 1, mode="constant") if pixels else mask


def class_contacts(label: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Return [count, count]: the number of pairs of 4-neighbors of two different classes, counted both ways."""
    total = np.zeros((count, count), np.int64)
    for first, second in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
        differ = first != second
        pairs = first[differ].astype(np.int64) * count + second[differ]
        total += np.bincount(pairs, minlength=count * count).reshape(count, count)
    return total + total.T


def ordinary_classes(
    contacts: NDArray[np.int64], presence: NDArray[np.int64], masks: int, ground: set[int]
) -> set[int]:
    """Return the objects that defects lie on, such as the lemon on a table.

    Such a class is in half of the masks or more, most of the outline of another class lies in it, and most of its own
    outline, without that of what lies in it, is at the background, unlabeled pixels (`ground`) or the image's border.
    """
    known = contacts[:-1, :-1]  # without the null id
    share = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
    ordinary = set()
    for class_id in set(range(len(known))) - ground:
        lies_in_it = share[:, class_id] >= _MOST
        lies_in_it[list(ground)] = False
        outline = np.where(lies_in_it, 0, known[class_id])
        at_ground = outline[list(ground)].sum() >= _MOST * outline.sum()
        if presence[class_id] >= _MOST * masks and lies_in_it.any() and at_ground:
            ordinary.add(class_id)
    return ordinary


def hosts_of(around: NDArray[np.int64], not_hosts: set[int]) -> tuple[int, ...]:
    """Return the classes with a fair share of the pixels counted around a part."""
    counts = np.array([0 if class_id in not_hosts else count for class_id, count in enumerate(around)])
    return tuple(np.flatnonzero((counts > 0) & (counts >= _HOST_SHARE * counts.sum())).tolist())


def _class_hosts(contacts: NDArray[np.int64], not_hosts: set[int], background: int) -> dict[int, tuple[int, ...]]:
    """Return the hosts of each class; of one that lies in other defects only, the hosts of these."""
    own = {class_id: hosts_of(row, not_hosts) for class_id, row in enumerate(contacts)}
    through = {
        class_id: tuple(sorted({host for other in np.flatnonzero(row) for host in own[int(other)]}))
        for class_id, row in enumerate(contacts)
    }
    return {class_id: own[class_id] or through[class_id] or (background,) for class_id in own}


def _without_specks(found: Sequence[_Found]) -> list[_Found]:
    """Return the components that are no slips of the annotator."""
    largest, times = _SPECK
    by_class = grouped(found, lambda component: component.part.class_id)
    median = {class_id: np.median([component.part.area for component in group]) for class_id, group in by_class.items()}
    return [
        component for component in found if component.part.area >= min(largest, median[component.part.class_id] / times)
    ]


def grouped(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, tuple[_Item, ...]]:
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return {value: tuple(group) for value, group in groups.items()}
