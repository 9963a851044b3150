"""Measurements of `run.py` on networks of boxes: the two forms of a normalization, and guided steps.

The broadcast form is that of the published code. A guided step is compared with that of the same network without a
condition; what all steps of a sample share is made before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.conditions.layout import WHOLE_BOX, LayoutCondition
from guided_diffusion.models.architecture import default_channel_mult, level_channels
from guided_diffusion.models.group_norm import normalize
from guided_diffusion.models.layout.masks import ObjectMasks
from guided_diffusion.models.layout.modulation import LayoutModulation
from scripts.benchmark.cases import Case, make_batch
from scripts.benchmark.timing import Ratio, interleaved, ratio
from scripts.benchmark.variants import Floor, Guided, Step, Variant, guided_steps

OBJECTS = 8
"""Objects of an image beside its background, as in the published data."""
FORMS = ("broadcast", "product")


class Boxes(Guided):
    """This project's network of boxes."""

    name = "boxes"
    condition = "boxes"
    more: ClassVar = {"stage_masks": False}


class StageMasks(Boxes):
    """The same with masks that every block refines."""

    name = "stage masks"
    more: ClassVar = {"stage_masks": True}


@dataclass(frozen=True)
class NormRow:
    """One normalization of a level, group normalization and activation included.

    seconds: by form and round. difference: the largest one between the two.
    """

    channels: int
    side: int
    seconds: Mapping[str, Sequence[float]]
    difference: float


@dataclass(frozen=True)
class LayoutRow:
    """What was measured of a case.

    product: the broadcast form over the product, of one normalization of each level. seconds: of guided steps, by
    variant and round. guided: variant -> its steps over those without a condition.
    """

    case: Case
    norms: list[NormRow]
    product: Ratio
    seconds: Mapping[str, Sequence[float]]
    guided: Mapping[str, Ratio]


def broadcast_form(
    normalized: Tensor, masks: Tensor, gamma: Tensor, beta: Tensor, time_scale: Tensor | None, time_shift: Tensor | None
) -> Tensor:
    """Return SiLU of normalized x [N, C, H, W], modulated by products [N, O, C, H, W] as in the published code.

    masks: [N, O, H, W]. gamma, beta: [N, O, C]. time_scale, time_shift: [N, C], or None.
    """
    weight = masks[:, :, None]
    total = weight.sum(1) + 1e-6
    factor = 1 + (weight * gamma[..., None, None]).sum(1) / total
    h = factor * normalized + (weight * beta[..., None, None]).sum(1) / total
    if time_scale is not None:
        h = h * (1 + time_scale[..., None, None]) + time_shift[..., None, None]
    return F.silu(h)


def random_modulation(n: int, objects: int, channels: int, size: tuple[int, int]) -> tuple[LayoutModulation, Tensor]:
    """Return a modulation of random tables and masks, and its gamma and beta [2, N, O, C]."""
    draw = torch.Generator().manual_seed(0)
    tables = torch.randn(2, n, objects, channels, generator=draw)
    masks = torch.rand(n, objects, *size, generator=draw)
    common = ObjectMasks(
        torch.zeros(n, objects).long(), torch.zeros(n, objects), None, {}, objects, torch.zeros(n, objects, 16, 16)
    )
    first = torch.tensor([1.0, 0.0])[:, None, None, None].expand(2, n, 1, channels)
    return LayoutModulation(*torch.cat([first, tables], dim=2), common.weights(masks), masks, common), tables


def random_layouts(n: int, size: int, classes: int) -> LayoutCondition:
    """Return layouts of a background and `OBJECTS` boxes of a tenth to half of the side."""
    draw = torch.Generator().manual_seed(0)
    side = 0.1 + 0.4 * torch.rand(n, OBJECTS + 1, 2, generator=draw)
    low = (1 - side) * torch.rand(n, OBJECTS + 1, 2, generator=draw)
    box = torch.cat([low, low + side], dim=2)
    box[:, 0] = torch.tensor(WHOLE_BOX)
    label = torch.randint(0, classes, (n, OBJECTS + 1), generator=draw)
    style = torch.randn(n, OBJECTS + 1, 128, generator=draw)
    return LayoutCondition(label, box, style, classes, (size, size))


@torch.inference_mode()
def measure_norm(case: Case, channels: int, side: int, rounds: int) -> NormRow:
    """Measure both forms for the features of one level."""
    modulation, tables = random_modulation(case.batch, OBJECTS + 1, channels, (side, side))
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(case.batch, channels, side, side, generator=draw).to(memory_format=torch.channels_last)
    masks, gamma, beta = (tensor.to(case.device) for tensor in (modulation.masks, *tables))
    moved = (tensor.to(case.device) for tensor in (modulation.scale, modulation.shift, modulation.weight))
    modulation = LayoutModulation(*moved, masks, modulation.objects)
    x, times = x.to(case.device), torch.randn(2, case.batch, channels, generator=draw).to(case.device)
    steps: dict[str, Step] = {
        "product": lambda: modulation.norm_silu(x, *times),
        "broadcast": lambda: broadcast_form(normalize(x), masks, gamma, beta, *times),
    }
    difference = float((steps["product"]() - steps["broadcast"]()).abs().max())
    return NormRow(channels, side, interleaved(steps, rounds, case.device), difference)


def measure_layout(case: Case, rounds: int, done: Callable[[str], None]) -> LayoutRow:
    """Measure the normalizations of all levels of `case` and its guided steps; done: called after each step."""
    widths = level_channels(case.channels, default_channel_mult(case.size))
    norms = [measure_norm(case, width, case.size >> level, 5 * rounds) for level, width in enumerate(widths)]
    together = ([sum(turn) for turn in zip(*(norm.seconds[form] for norm in norms), strict=True)] for form in FORMS)
    batch, layouts = make_batch(case), random_layouts(case.batch, case.size, case.classes)
    variants: list[Variant] = [Floor(case), Boxes(case), StageMasks(case)]
    steps = guided_steps(variants[:1], batch) | guided_steps(variants[1:], replace(batch, condition=layouts))
    with torch.inference_mode():
        seconds = interleaved(steps, rounds, case.device, done)
    guided = {name: ratio(seconds[name], seconds["floor"]) for name in steps if name != "floor"}
    return LayoutRow(case, norms, ratio(*together), seconds, guided)


def layout_lines(row: LayoutRow) -> list[str]:
    """Return the Markdown tables."""
    objects = f"{OBJECTS} objects and a background, batch {row.case.batch}"
    lines = [
        f"Normalizations of boxes, {objects}:",
        "",
        "| channels, side | broadcast, ms | product, ms | broadcast / product | difference |",
        "|---|---|---|---|---|",
    ]
    for norm in row.norms:
        shown = [f"{1000 * median(norm.seconds[form]):.3g}" for form in FORMS]
        cells = [f"{norm.channels}, {norm.side}", *shown, str(ratio(*(norm.seconds[form] for form in FORMS)))]
        lines.append(f"| {' | '.join(cells)} | {norm.difference:.0e} |")
    lines += [
        f"| one of each | | | {row.product} | |",
        "",
        f"Guided steps of boxes over those without a condition, {row.case.title} classes, {objects}:",
        "",
        "| network | ms | over the floor |",
        "|---|---|---|",
    ]
    for name, times in row.seconds.items():
        lines.append(f"| {name} | {1000 * median(times):.4g} | {row.guided.get(name, '')} |")
    return lines
