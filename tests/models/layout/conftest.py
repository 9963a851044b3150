"""Small networks of boxes, and layouts with empty slots and objects that overlap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from guided_diffusion.conditions.layout import WHOLE_BOX, LayoutCondition
from guided_diffusion.models.unet import UNetModel

CLASSES, STYLES = 4, 6


@pytest.fixture(scope="session")
def tiny_boxes(tiny: Callable[..., UNetModel]) -> Callable[..., UNetModel]:
    """Build a filled 16 px network of two levels that takes boxes."""

    def build(**options: Any) -> UNetModel:
        return tiny(**{"condition": "boxes", "num_classes": CLASSES, "style_dim": STYLES, "label_dim": 5, **options})

    return build


@pytest.fixture(scope="session")
def layout() -> Callable[..., LayoutCondition]:
    """Draw layouts of a background and three more slots, the last of which is empty in every other image."""

    def draw(n: int = 2, size: tuple[int, int] = (16, 16), *, seed: int = 1) -> LayoutCondition:
        generator = torch.Generator().manual_seed(seed)
        label = torch.randint(0, CLASSES, (n, 4), generator=generator)
        label[::2, -1] = CLASSES
        low = 0.6 * torch.rand(n, 4, 2, generator=generator)
        box = torch.cat([low, low + 0.2 + 0.4 * torch.rand(n, 4, 2, generator=generator)], dim=2)
        box[:, 0] = torch.tensor(WHOLE_BOX)
        style = torch.randn(n, 4, STYLES, generator=generator)
        given = LayoutCondition(label, box, style, CLASSES, size)
        return given.without(~given.present)

    return draw
