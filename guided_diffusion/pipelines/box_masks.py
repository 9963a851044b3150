"""Masks that a model of boxes draws into the boxes of given ones: its mask regressor alone, without an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from guided_diffusion.conditions.base import Size
from guided_diffusion.conditions.object_map import label_map_of
from guided_diffusion.config.masks import MasksConfig
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.data.boxes.asked import AskedLayout, condition_of_layouts
from guided_diffusion.data.boxes.placed_layouts import LayoutPlacer
from guided_diffusion.data.boxes.recombine import Recombiner
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.mirror import FlipPairs, exchanged
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import Pair
from guided_diffusion.data.placing.mask_editor import DRAWS
from guided_diffusion.data.placing.options import MaskOptions
from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.layout.norm import LayoutConditioner
from guided_diffusion.models.layout.pasting import paste
from guided_diffusion.pipelines.build import network_from_checkpoint, options_of_checkpoint
from guided_diffusion.pipelines.layout_sources import layout_placer
from guided_diffusion.pipelines.load import encoding_of_checkpoint
from guided_diffusion.runtime.checkpoint import BEST, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.errors import CheckpointError
from guided_diffusion.runtime.files import digest
from guided_diffusion.runtime.seeding import Stream, derive_seed

Labels = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """A mask that was drawn in boxes; a `NewMask`."""

    label: Labels
    base_name: str
    donors: tuple[str, ...]
    novelty: float
    draws: int


@dataclass(frozen=True, eq=False)
class MaskDrawer:
    """The mask regressor of a model of boxes, for label maps of `size`."""

    conditioner: LayoutConditioner
    trained: TrainedConfig
    encoding: LabelEncoding
    placer: LayoutPlacer
    size: Size
    settings: dict[str, Any]
    """What the masks of a folder have in common."""

    @property
    def summary(self) -> str:
        return f"shapes of {self.size[1]}x{self.size[0]} px drawn in their boxes by the model of boxes"

    def draw(self, layout: AskedLayout) -> Labels:
        """Return the label map of a layout whose objects have style seeds, [H, W]."""
        background, num_classes = self.trained.boxes.background, self.encoding.num_classes
        condition = condition_of_layouts(
            [layout],
            num_classes=num_classes,
            size=self.size,
            slots=max(1, len(layout.objects)),
            style_dim=self.trained.model.style_dim,
            background=background,
        )
        with torch.inference_mode():
            masks = self.conditioner.mask_logits(condition).float().sigmoid()
            maps, _ = paste(masks, condition.box, self.size)
            maps[:, : int(background)] = 1
            label = label_map_of(maps, condition, background=self.placer.maker.background_class)[0]
        if layout.inside is not None:  # of the image of the model
            rows, columns = (self._span(layout, axis) for axis in (0, 1))
            inside = torch.zeros(self.size, dtype=torch.bool)
            inside[slice(*rows), slice(*columns)] = True
            label = label.masked_fill(~inside, num_classes)
        return label.numpy().astype(np.uint8 if num_classes < 256 else np.int32)

    def _span(self, layout: AskedLayout, axis: int) -> tuple[int, int]:
        of_model = height_width(self.trained.geometry.image_size)[axis]
        first, end = layout.inside[2 * axis : 2 * axis + 2]
        return round(first * self.size[axis] / of_model), round(end * self.size[axis] / of_model)

    def maker(
        self,
        config: MasksConfig,
        pairs: Sequence[Pair],
        read: Callable[[int], Labels],
        novelty: Callable[[Labels], float],
        flip_pairs: FlipPairs,
    ) -> BoxMaskMaker:
        """Return what makes new masks of those of `pairs`; read: of a mask by its number."""
        layouts = []
        for number, pair in enumerate(pairs):
            label = torch.from_numpy(read(number).copy())
            objects = self.placer.maker.read(pair, label, (label.shape[0], label.shape[1]))
            origin = {"masks": [{"mask": pair.stem, "digest": pair.stem}]}  # by which a recombined layout names it
            layouts.append(self.placer.place(pair.stem, objects, label, lineage=origin))
        recombine = config.layout_source == "recombine"
        return BoxMaskMaker(self, tuple(layouts), recombine, config.masks, novelty, flip_pairs)


@dataclass(frozen=True, eq=False)
class BoxMaskMaker:
    """Makes a mask for each number; a `MaskMaker`. novelty: how new a label map is, in 0..1."""

    drawer: MaskDrawer
    layouts: tuple[AskedLayout, ...]
    recombine: bool
    options: MaskOptions
    novelty: Callable[[Labels], float]
    flip_pairs: FlipPairs

    @cached_property
    def _recombiner(self) -> Recombiner:
        return Recombiner(self.layouts, self.drawer.placer.transform.image_size)

    def edit(self, seed: int, number: int) -> DrawnMask:
        """Return the mask of a number, a function of the seed and this number: the newest of a few styles."""
        key = derive_seed(Stream.EDITED_MASK, seed, number)
        best: DrawnMask | None = None
        for draw in range(1, DRAWS + 1):
            layout = self._layout(seed, number, draw)
            donors = tuple(file["mask"] for file in layout.lineage["masks"])
            label = self.drawer.draw(layout.with_styles(key, draw))
            novelty = self.novelty(label)
            if best is None or novelty > best.novelty:
                best = DrawnMask(label, donors[0], donors, novelty, draw)
            if novelty >= self.options.min_novelty:
                break
        assert best is not None
        label = self._flipped(best.label, np.random.default_rng(key))
        return DrawnMask(label, best.base_name, best.donors, best.novelty, draw)

    def _layout(self, seed: int, number: int, draw: int) -> AskedLayout:
        """Return the layout of a mask: each is used once in a round of as many as there are, or a new one."""
        count = len(self.layouts)
        if self.recombine:
            return self._recombiner.make(derive_seed(Stream.LAYOUT, seed, draw), number)
        rng = np.random.default_rng(derive_seed(Stream.EDITED_MASK, seed, number // count, 0))
        return self.layouts[int(rng.permutation(count)[number % count])]

    def _flipped(self, label: Labels, rng: np.random.Generator) -> Labels:
        """Return the whole map flipped at random, as the options allow."""
        down, across = (rng.random(2) < 0.5) & (self.options.vertical_flip, self.options.random_flip)
        if down != across:
            label = exchanged(torch.from_numpy(label), self.flip_pairs).numpy()
        return np.ascontiguousarray(label[:: -1 if down else 1, :: -1 if across else 1])


def open_drawer(config: MasksConfig) -> MaskDrawer:
    """Return the mask regressor of the model that `config` names.

    Raises CheckpointError for a model that takes no boxes, or does not say what its classes are.
    """
    path = find_checkpoint(config.weights.model_path, prefer=BEST)
    checkpoint = load_checkpoint(path)
    encoding = encoding_of_checkpoint(checkpoint)
    trained = None if checkpoint.is_bare else options_of_checkpoint(checkpoint)
    if encoding is None or trained is None or trained.model.condition != "boxes":
        found = "bare weights" if trained is None else f"condition is {trained.model.condition}"
        raise CheckpointError.of(path, f"{found}, but method boxes needs a model of boxes", "use one, or method edit")
    trained = trained.replaced(dataset_mode=config.source.dataset_mode, num_classes=encoding.num_classes)
    get_mode(trained.source.dataset_mode)
    model = network_from_checkpoint(checkpoint, trained, config.weights.weights).eval()
    size = trained.geometry.image_size if config.mask_size is None else config.mask_size
    height, width = height_width(size)
    settings = {"mask_size": [height, width], "weights": config.weights.weights, "checkpoint": digest(path)}
    return MaskDrawer(model.conditioner, trained, encoding, layout_placer(trained, encoding), (height, width), settings)
