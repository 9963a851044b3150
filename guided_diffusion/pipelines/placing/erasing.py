"""What `place` does with `erase`: the defects of the dataset's own images are painted over with what surrounds them."""

from __future__ import annotations

import numpy as np

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.data.components import find_components
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.pairing import GoodImage
from guided_diffusion.data.placing.bank import healed
from guided_diffusion.data.placing.scene import PlacedDefect
from guided_diffusion.pipelines.holes import Hole
from guided_diffusion.pipelines.placing.plan import Finished, OrdinaryClasses, PlacePlan, joined, read_training


def plan_erasing(config: PlaceConfig, trained: TrainedConfig, encoding: LabelEncoding) -> PlacePlan:
    """Return the plan that paints over the defects of the training images, slips of the annotator included."""
    training = read_training(config, trained, encoding)
    bank, base, geometry = training.bank, OrdinaryClasses(trained, encoding), trained.geometry
    background = get_mode(trained.source.dataset_mode).background
    having = {part.name for part in bank.parts}
    images = tuple(
        GoodImage(pair.stem, pair.image, pair.mask, pair.upright) for pair in training.pairs if pair.stem in having
    )
    NativeImage.read(images[0].image, geometry.image_channels, geometry.image_range, upright=images[0].upright)

    def finished(good: GoodImage, image: NativeImage, number: int) -> Finished:
        label = base.of(good, image.size)
        numbered = enumerate(find_components(label, bank.numbered))
        defects = [(index, part) for index, part in numbered if part.class_id in bank.classes]
        placed = [
            PlacedDefect(part.class_id, part.mask, part.box.top, part.box.left, f"{good.stem}#{index}")
            for index, part in defects
        ]
        holes = [Hole(part.box, part.mask) for _, part in defects]
        label = healed(label, [part for _, part in defects], encoding.num_classes, background)
        staying = [class_id for class_id in bank.defects if class_id not in bank.classes]
        return Finished(label, holes, placed, (), np.isin(label, staying) if staying else None)

    return PlacePlan(images, joined(config, trained, training.digests), finished)
