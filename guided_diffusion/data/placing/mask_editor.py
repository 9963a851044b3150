"""New label maps from those of a split: the shapes of several masks, edited, in the places of their kind.

A new mask shows the classes of its base, a mask of the split, and as many shapes of each kind. Its shapes are those of
other masks that have as many of the kind, so that sizes within an image stay alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.data.components import Component
from guided_diffusion.data.mirror import FlipPairs
from guided_diffusion.data.placing.bank import BankPart, healed
from guided_diffusion.data.placing.edit import EditedPart, EditLimits, draw_edit, edit_part
from guided_diffusion.data.placing.options import MaskOptions
from guided_diffusion.data.placing.scene import Ground, PlacedDefect, place_part, put_at
from guided_diffusion.data.placing.shapes import Label, Shape, ShapeBank, SourceMask, kind_of
from guided_diffusion.data.placing.warp import bend_map
from guided_diffusion.runtime.seeding import Stream, derive_seed

DRAWS = 10  # of a mask, until one is new enough
_DRAWS_OF_ONE = 6  # with the same shapes
_EDITS_IN_PLACE = 4
_AT_BORDERS = 2.0  # times the bending inside: shapes that span the image change by nothing else
_OF_OBJECTS = 1 / 4  # of the bending of a scene: objects have shapes of their own
_APART = 1  # px between two shapes, so that they stay two, and from the rim of what they lie on
_SMALL = 16  # px: masks whose shapes are all smaller need not be new, as two such shapes are alike anyway


@dataclass(frozen=True, eq=False)
class EditedMask:
    """A new label map, [H, W], and what it was made of."""

    label: Label
    base: SourceMask
    donors: tuple[str, ...]
    """Names of the masks whose pixels it has, in order, without repetition."""
    novelty: float
    """1 - IoU to the nearest mask of the split."""
    draws: int
    """How many were drawn; the most novel one was taken."""

    @property
    def base_name(self) -> str:
        return self.base.name


class MaskEditor:
    """Makes new masks from a bank of shapes."""

    def __init__(
        self,
        bank: ShapeBank,
        options: MaskOptions,
        novelty: Callable[[Label], float],
        flip_pairs: FlipPairs = (),
    ):
        """Take a bank; `novelty` tells how new a label map is, in 0..1. Classes of a pair change places by flips."""
        assert bank.masks
        self.bank, self.options, self.novelty = bank, options, novelty
        self._limits = EditLimits(options.scaling, options.rotation, options.bending)
        self._exchanged = np.arange(bank.null_id + 1)
        for first, second in flip_pairs:
            self._exchanged[[first, second]] = second, first
        self._sided = frozenset(class_id for pair in flip_pairs for class_id in pair)

    def edit(self, seed: int, number: int) -> EditedMask:
        """Return the mask of a number, a function of the seed and this number."""
        base, rng = self._base(seed, number), np.random.default_rng(derive_seed(Stream.EDITED_MASK, seed, number))
        exempt = all(shape.area < _SMALL for shapes in base.shapes.values() for shape in shapes) and base.is_plain
        best: EditedMask | None = None
        shapes = self._donated(base, rng)
        for draw in range(1, DRAWS + 1):
            # The same shapes at first: taking others at once would favor kinds of shapes that are new by themselves,
            # and large ones seldom are.
            if draw > _DRAWS_OF_ONE:
                shapes = self._donated(base, rng)
            composed = self._composed(base, shapes, rng)
            if composed is None and draw == DRAWS and best is None:
                composed = self._edited_in_place(base, rng)
            if composed is None:
                continue
            label, donors = composed
            if not base.is_plain:  # its other classes, or ignored pixels
                donors = tuple(dict.fromkeys((base.name, *donors)))
            novelty = self.novelty(label)
            if best is None or novelty > best.novelty:
                best = EditedMask(label, base, donors, novelty, draw)
            if exempt or novelty >= self.options.min_novelty:
                break
        assert best is not None
        return replace(best, label=self._flipped(best.label, rng), draws=draw)

    def _base(self, seed: int, number: int) -> SourceMask:
        """Return the base of a mask; each is one as often as its weight says in a round of as many as there are."""
        count = len(self.bank.masks)
        rng = np.random.default_rng(derive_seed(Stream.EDITED_MASK, seed, number // count, 0))
        order, offset = rng.permutation(count), rng.random()
        chosen = np.searchsorted(self._cumulated, (order[number % count] + offset) / count)
        return self.bank.masks[min(int(chosen), count - 1)]

    @cached_property
    def _cumulated(self) -> NDArray[np.float64]:
        """The summed weights of the masks: of the rarest class of each, its share to the power of -class_balance."""
        masks = self.bank.masks
        share = {c: sum(c in mask.classes for mask in masks) / len(masks) for mask in masks for c in mask.classes}
        weight = [max((share[c] ** -self.options.class_balance for c in mask.classes), default=1.0) for mask in masks]
        return np.cumsum(weight) / sum(weight)

    # ---------------------------------------------------------------------------------------------- one draw

    def _donated(self, base: SourceMask, rng: np.random.Generator) -> list[Shape]:
        """Return as many shapes of each kind as the base has, those of a kind from one mask."""
        shapes: list[Shape] = []
        for kind, own in sorted(base.shapes.items()):
            donors = self.bank.like(kind, len(own))
            shapes += donors[rng.integers(len(donors))]
        return shapes

    def _composed(
        self, base: SourceMask, shapes: Sequence[Shape], rng: np.random.Generator
    ) -> tuple[Label, tuple[str, ...]] | None:
        """Return a label map and the names of its donors, None where a shape found no place."""
        label = self._ground(base, rng)
        ground = self._free(base, label)
        shapes = [self._turned(shape, rng) for shape in shapes]
        placed = []
        for shape in sorted(shapes, key=lambda shape: -shape.area):
            outcome = place_part(
                self.bank, shape, ground, rng, lambda part: self._drawn(part, base.size, rng), self.options.place
            )
            if isinstance(outcome, str):
                return None
            placed.append(outcome)
            ground.occupy(outcome)
        return self._painted(label, placed)

    def _edited_in_place(self, base: SourceMask, rng: np.random.Generator) -> tuple[Label, tuple[str, ...]]:
        """Return the base with its own shapes edited where they are, as far as there is room."""
        shapes = [shape for own in base.shapes.values() for shape in own]
        label = self.bank.read(base.number)
        kept = [self._in_place(shape, edit_part(shape, base.size), Ground(base.size)) for shape in shapes]
        placed = [defect for defect in kept if not isinstance(defect, str)]
        assert len(placed) == len(shapes)
        for number, shape in enumerate(shapes):
            ground = Ground(base.size, region=None if base.is_plain else label != self.bank.null_id, apart=_APART)
            for other in (*placed[:number], *placed[number + 1 :]):
                ground.occupy(other)
            for _ in range(_EDITS_IN_PLACE):
                edited = self._drawn(shape, base.size, rng)
                outcome = "torn" if edited is None else self._in_place(shape, edited, ground)
                if not isinstance(outcome, str):
                    placed[number] = outcome
                    break
        return self._painted(self._ground(base, None), placed)

    @staticmethod
    def _in_place(shape: Shape, edited: EditedPart | None, ground: Ground) -> PlacedDefect | str:
        assert edited is not None
        return put_at(edited, (shape.center[0] * ground.size[0], shape.center[1] * ground.size[1]), ground)

    def _ground(self, base: SourceMask, rng: np.random.Generator | None) -> Label:
        """Return the base without its shapes, bent if it has several classes and there are random numbers."""
        bank = self.bank
        if base.is_plain:
            return np.full(base.size, bank.background, np.uint8 if bank.null_id < 256 else np.int32)
        shapes = [shape for own in base.shapes.values() for shape in own]
        components = [Component(class_id, shape.box, shape.mask) for shape in shapes for class_id, _ in shape.kind[:1]]
        label = healed(bank.read(base.number), components, bank.null_id, bank.background, not_taken=bank.movable)
        several = len({*np.unique(label).tolist()} - {bank.null_id}) > 1
        if rng is None or not several or not self.options.bending:
            return label
        whole = bank.is_scene or base.is_filled
        return bend_map(label, rng, bank.null_id, self.options.bending * (1 if whole else _OF_OBJECTS))

    def _free(self, base: SourceMask, label: Label) -> Ground:
        """Return where shapes may lie: on the classes that they are seen on, off ignored pixels."""
        if base.is_plain:
            return Ground(base.size, apart=_APART)
        region = label != self.bank.null_id
        return Ground(base.size, host_map=label, region=region, apart=_APART, margin=_APART)

    def _turned(self, shape: Shape, rng: np.random.Generator) -> Shape:
        """Return a shape mirrored at random; not if its class is one of a left and a right one."""
        down, across = (rng.random(2) < 0.5) & (self.options.vertical_flip, self.options.random_flip)
        sided = any(class_id in self._sided for class_id, _ in shape.kind)
        return shape if sided or not (down or across) else shape.flipped(bool(down), bool(across))

    def _drawn(self, part: BankPart, size: tuple[int, int], rng: np.random.Generator) -> EditedPart | None:
        """Return a random edit of a shape that keeps its kind, None where there is none."""
        assert isinstance(part, Shape)
        scale = 1.0
        if self.options.donor_scale == "relative":
            scale = float(np.sqrt(np.prod(size) / np.prod(part.image_size)))
        limits = self._limits
        if any(part.borders):
            limits = limits._replace(bending=_AT_BORDERS * limits.bending)
        edited = draw_edit(part, size, rng, limits, scale=scale)
        if edited is None or part.inner is None or kind_of(_classes(edited), edited.mask) == part.kind:
            return edited
        edited = edit_part(part, size)
        keeps = edited is not None and kind_of(_classes(edited), edited.mask) == part.kind
        return edited if keeps else None

    def _painted(self, label: Label, placed: Sequence[PlacedDefect]) -> tuple[Label, tuple[str, ...]]:
        for defect in placed:
            assert defect.edited is not None
            label[defect.box.slices][defect.mask] = _classes(defect.edited)[defect.mask]
        return label, tuple(dict.fromkeys(defect.source.rpartition("#")[0] for defect in placed))

    def _flipped(self, label: Label, rng: np.random.Generator) -> Label:
        """Return the whole map flipped at random; one with ignored pixels as it is: these stay in their places."""
        down, across = (rng.random(2) < 0.5) & (self.options.vertical_flip, self.options.random_flip)
        if (label == self.bank.null_id).any():
            return label
        if down != across:
            label = self._exchanged[label].astype(label.dtype)
        return np.ascontiguousarray(label[:: -1 if down else 1, :: -1 if across else 1])


def _classes(edited: EditedPart) -> Label:
    """Return the class of each pixel of a shape, [height, width]."""
    shape = edited.part
    assert isinstance(shape, Shape)
    if shape.inner is None:
        return np.broadcast_to(np.int32(shape.class_id), edited.mask.shape)
    height, width = edited.mask.shape
    where = np.floor(edited.source_of(np.arange(height), np.arange(width)) + 0.5).astype(np.intp)
    rows = np.clip(where[0] - shape.box.top, 0, shape.inner.shape[0] - 1)
    columns = np.clip(where[1] - shape.box.left, 0, shape.inner.shape[1] - 1)
    return shape.inner[rows, columns]
