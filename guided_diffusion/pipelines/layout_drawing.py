"""Images of layouts, with the masks that the network drew their objects with."""

from __future__ import annotations

from torch import Tensor

from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.conditions.object_map import label_map_of
from guided_diffusion.diffusion.denoiser import X0Hook
from guided_diffusion.diffusion.guidance import GuidedNetwork
from guided_diffusion.pipelines.sampling import Progress, SamplingRun

MASK_STEPS = 3
"""The last steps of sampling over which the masks of objects are averaged: what is drawn there does not move any more,
and each costs one more pass through the network, without guidance."""


class FinalMasks:
    """Collects the masks of objects in the last `MASK_STEPS` steps of one batch; see `SamplingRun.watch`."""

    def __init__(self, num_steps: int):
        self.steps = min(MASK_STEPS, num_steps)
        self._sum: Tensor | None = None

    def begin(self, network: GuidedNetwork) -> X0Hook:
        """Return the hook that looks at each step, and changes nothing."""

        def look(x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
            if int(t[0]) < self.steps:  # the indices of a batch are equal
                masks = network.object_masks(x_t, t)
                self._sum = masks if self._sum is None else self._sum + masks
            return x0

        return look

    @property
    def mean(self) -> Tensor:
        """[N, O, H, W] float32 in 0..1, on the CPU."""
        assert self._sum is not None
        return (self._sum / self.steps).cpu()


def draw_layouts(
    run: SamplingRun,
    layouts: LayoutCondition,
    seeds: list[int],
    *,
    background: int = 0,
    inside: Tensor | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the images [N, C, H, W] in [-1, 1] of one batch of layouts, and their predicted masks [N, H, W] int64.

    background: the class where no object is, and no background of a layout. inside: as `SamplingRun` takes it.
    """
    masks = FinalMasks(run.num_steps)
    images = run(layouts, seeds, inside=inside, watch=masks.begin, progress=progress)
    return images, label_map_of(masks.mean, layouts, background=background)
