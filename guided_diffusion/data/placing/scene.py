"""The plan of one good image: which defects it gets, and where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.data.components import Box
from guided_diffusion.data.placing.bank import RING, BankPart, DefectBank, grown
from guided_diffusion.data.placing.edit import EditedPart, draw_edit, edit_part
from guided_diffusion.data.placing.options import PlacingOptions

TRIES = 30  # places for a defect
_TRIES_OF_ONE = 10  # with one part and edit; then others of the class are tried
_JITTER = 1 / 16  # standard deviation around a place where a class was seen, in sides of the image
_REDRAWS = 5
_POINTS = 256  # drawn to find allowed ground near a place

Place = Literal["prior", "keep", "anywhere"]


class PartSource(Protocol):
    """A bank that parts are drawn from."""

    def alternative(self, part: BankPart, rng: np.random.Generator) -> BankPart:
        """Return what may be placed instead of a part, drawn at random; it may be the same."""
        ...

    def places(self, part: BankPart) -> Sequence[tuple[float, float]]:
        """Return centers, (down, across) in 0..1, at which such parts were seen; at least one."""
        ...


@dataclass(frozen=True, eq=False)
class PlacedDefect:
    """One defect of a scene."""

    class_id: int
    mask: NDArray[np.bool_] = field(repr=False)
    """[height, width]"""
    top: int
    left: int
    source: str
    """`name#index` of the component of a training mask, or the file of a label map."""
    edited: EditedPart | None = None
    """How the mask was made of the component, for warping its pixels alike; None for a label map."""

    @property
    def box(self) -> Box:
        """Where the mask lies in the good image."""
        return Box(self.top, self.left, self.top + self.mask.shape[0], self.left + self.mask.shape[1])

    @property
    def extent(self) -> Box:
        """The smallest box around its pixels, of which it has some; other than `box` where some were taken away."""
        return Box.around(self.mask).moved(self.top, self.left)


@dataclass(frozen=True)
class Skipped:
    """A defect that could not be placed."""

    class_id: int
    reason: str


@dataclass(frozen=True, eq=False)
class Scene:
    """The defects of one good image of `size` (height, width); no two of them overlap."""

    size: tuple[int, int]
    placements: tuple[PlacedDefect, ...]
    skipped: tuple[Skipped, ...] = ()

    def paint_label(self, label: NDArray[np.integer]) -> None:
        """Write the class ids into a label map [H, W] of the good image, in place."""
        assert label.shape == self.size
        for defect in self.placements:
            label[defect.box.slices][defect.mask] = defect.class_id


def plan_scene(
    bank: DefectBank,
    size: tuple[int, int],
    rng: np.random.Generator,
    options: PlacingOptions,
    *,
    apart: int = 0,
    host_map: NDArray[np.integer] | None = None,
    region: NDArray[np.bool_] | None = None,
) -> Scene:
    """Return where defects go in a good image of (height, width), as far as they find a place.

    apart: px between two masks. host_map: class ids [H, W] of the good image; parts lie on their hosts only. region:
    [H, W], True where defects may be. Both are only read near the parts.
    """
    ground = Ground(size, host_map, region, apart=apart)
    placements, skipped = [], []

    def edited(part: BankPart) -> EditedPart | None:
        return draw_edit(part, size, rng) if options.edit else edit_part(part, size)

    for part in sorted(_draw_parts(bank, rng, options), key=lambda part: -part.area):
        outcome = place_part(bank, part, ground, rng, edited, options.place)
        if isinstance(outcome, str):
            skipped.append(Skipped(part.class_id, outcome))
        else:
            placements.append(outcome)
            ground.occupy(outcome)
    return Scene(size, tuple(placements), tuple(skipped))


class Ground:
    """Where in a good image a defect may be."""

    def __init__(
        self,
        size: tuple[int, int],
        host_map: NDArray[np.integer] | None = None,
        region: NDArray[np.bool_] | None = None,
        *,
        apart: int = 0,
        margin: int = 0,
    ):
        """Take what `plan_scene` says; margin: px around a mask that have to be on its hosts, too."""
        assert host_map is None or host_map.shape == size
        assert region is None or region.shape == size
        self.size, self.host_map, self.region, self._margin = size, host_map, region, margin
        self._apart = apart
        self._occupied: list[tuple[Box, NDArray[np.bool_]]] = []

    def occupy(self, defect: PlacedDefect) -> None:
        """Keep others off a defect."""
        apart = self._apart
        self._occupied.append((defect.box.grown(apart), grown(np.pad(defect.mask, apart), apart)))

    def refusal(self, mask: NDArray[np.bool_], top: int, left: int, hosts: Sequence[int] = ()) -> str:
        """Return why a mask [height, width] cannot be there, "" if it can."""
        box = Box(top, left, top + mask.shape[0], left + mask.shape[1])
        for other, taken in self._occupied:
            both = box.shared(other)
            if both and (mask[both.within(box).slices] & taken[both.within(other).slices]).any():
                return "no room beside the other defects"
        if self.region is not None and not self.region[box.slices][mask].all():
            return "not where defects may be"
        if self.host_map is not None and not self._is_hosted(mask, box, hosts):
            return "not on the classes that it is seen on"
        return ""

    def _is_hosted(self, mask: NDArray[np.bool_], box: Box, hosts: Sequence[int]) -> bool:
        assert self.host_map is not None
        if not np.isin(self.host_map[box.slices][mask], hosts).all():
            return False
        if len(hosts) < 2 and not self._margin:
            return True
        outer = box.grown(RING).inside(self.size)
        around, near = self.host_map[outer.slices], np.zeros(outer.size, bool)
        near[box.within(outer).slices] = mask
        if self._margin and not np.isin(around[grown(near, self._margin)], hosts).all():
            return False
        # What lay where two classes meet, such as a broken edge, does so again.
        return len(hosts) < 2 or bool(np.isin(hosts, around[grown(near, RING)]).all())

    def allowed_center(
        self, center: tuple[float, float], part: EditedPart, rng: np.random.Generator, points: int, *, nearest: bool
    ) -> tuple[float, float]:
        """Return a center (y, x) itself if it is on allowed ground, else one of so many random centers that are.

        nearest: the nearest of these, else the first, so that uniform centers stay uniform. Centers at borders move
        along these only.
        """
        if self.host_map is None and self.region is None:
            return center
        drawn = rng.uniform(0, self.size, (points, 2))
        drawn = np.concatenate([[center], drawn])
        for axis in (0, 1):
            if any(part.borders.along(axis)):
                drawn[:, axis] = center[axis]
        rows, columns = (np.clip(drawn[:, axis].astype(int), 0, self.size[axis] - 1) for axis in (0, 1))
        allowed = np.ones(len(drawn), bool) if self.region is None else self.region[rows, columns]
        if self.host_map is not None:
            allowed = allowed & np.isin(self.host_map[rows, columns], part.part.hosts)
        distance = np.square(drawn - center).sum(axis=1) if nearest else np.arange(len(drawn))
        best = drawn[int(np.argmin(np.where(allowed, distance, np.inf)))] if allowed.any() else center
        return float(best[0]), float(best[1])


def _draw_parts(bank: DefectBank, rng: np.random.Generator, options: PlacingOptions) -> list[BankPart]:
    """Return as many parts of each class as a random training mask has; or a number of random parts.

    All parts of a class come from one mask, since the sizes within an image are alike.
    """
    if options.defects_per_image is not None:
        return [bank.parts[index] for index in rng.integers(len(bank.parts), size=options.defects_per_image)]
    base = [part.class_id for part in bank.masks[rng.integers(len(bank.masks))]]
    parts = []
    for class_id in sorted(set(base)):
        donors = bank.like(class_id, base.count(class_id))
        parts += donors[rng.integers(len(donors))]
    return parts


def place_part(
    bank: PartSource,
    part: BankPart,
    ground: Ground,
    rng: np.random.Generator,
    draw: Callable[[BankPart], EditedPart | None],
    place: Place,
) -> PlacedDefect | str:
    """Return a place for a part, or for an alternative; in the end, unless `place` is "anywhere", its own one; else why
    there is none.

    draw: a random edit of a part, None if it does not fit.
    """
    edited, reason = None, "larger than the image"
    for attempt in range(TRIES):
        if attempt % _TRIES_OF_ONE == 0:
            edited = draw(bank.alternative(part, rng) if attempt else part)
        if edited is not None:
            center = _draw_center(bank, edited, ground, rng, place, _POINTS // (1 + attempt % _TRIES_OF_ONE))
            defect = put_at(edited, center, ground)
            if not isinstance(defect, str):
                return defect
            reason = defect
    edited = edit_part(part, ground.size)
    if edited is None or place == "anywhere":  # to which its own place would draw the parts
        return reason
    defect = put_at(edited, (part.center[0] * ground.size[0], part.center[1] * ground.size[1]), ground)
    return reason if isinstance(defect, str) else defect


def put_at(edited: EditedPart, center: tuple[float, float], ground: Ground) -> PlacedDefect | str:
    """Return a part with its center as near to (y, x) in px as possible, or why it cannot be there."""
    corner = edited.position(center, ground.size)
    reason = ground.refusal(edited.mask, *corner, edited.part.hosts)
    return reason or PlacedDefect(edited.part.class_id, edited.mask, *corner, edited.part.source, edited)


def _draw_center(
    bank: PartSource,
    edited: EditedPart,
    ground: Ground,
    rng: np.random.Generator,
    place: Place,
    points: int,
) -> tuple[float, float]:
    """Return a center (y, x) in px, as the option `place` says; `points` are drawn to find allowed ground near it."""
    size, part = ground.size, edited.part
    places = bank.places(part)
    center = (0.0, 0.0)
    for _ in range(_REDRAWS):
        if place == "keep":
            down, across = part.center
        elif place == "anywhere":
            down, across = rng.uniform(0, 1, 2)
        else:
            down, across = places[rng.integers(len(places))] + rng.normal(0, _JITTER, 2)
        wanted = down * size[0], across * size[1]
        corner = edited.position(wanted, size)
        center = corner[0] + edited.mask.shape[0] / 2, corner[1] + edited.mask.shape[1] / 2
        moved = (abs(center[axis] - wanted[axis]) for axis in (0, 1) if not any(edited.borders.along(axis)))
        if max(moved, default=0) <= 1:  # else it reached out of the image: parts would gather at the borders
            break
    return ground.allowed_center(center, edited, rng, points, nearest=place != "anywhere")
