"""Label diffusion: the noisier the image, the more pixels of its map are null (Ko et al. 2024, SCDM, section 4).

A pixel becomes null with a probability that grows from about 0 at the first timestep of the original process to about
1 at the last. The map of each step is drawn from the clean map; edges do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap, Size
from guided_diffusion.diffusion.gaussian import GaussianDiffusion
from guided_diffusion.diffusion.options import CLASSWISE, UNIFORM
from guided_diffusion.runtime.seeding import Stream, derive_seed


@dataclass(frozen=True, eq=False)
class LabelDiffusion:
    """The probability that a pixel of a class is null, at each step of a noise process. Immutable."""

    # [T, K] in [0, 1], for the T visited steps and the K classes.
    null_probability: NDArray[np.float64]
    _moved: dict[torch.device, Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        probability = np.array(self.null_probability, dtype=np.float64)
        assert probability.ndim == 2
        assert ((probability >= 0) & (probability <= 1)).all(), "probabilities must lie in [0, 1]"
        probability.setflags(write=False)
        object.__setattr__(self, "null_probability", probability)

    @property
    def num_classes(self) -> int:
        """Number of classes K, without the null id."""
        return self.null_probability.shape[1]

    def diffuse(self, condition: SemanticMap, t: Tensor, uniform: Tensor) -> SemanticMap:
        """Return the clean maps `condition` [N] diffused to the indices `t` [N] of the process.

        uniform: [N, H, W] random numbers in [0, 1) on the device of the maps; where they are below the probability,
        pixels become null.
        """
        assert condition.num_classes == self.num_classes
        assert uniform.shape == condition.label.shape
        label = condition.label
        t = t.to(label.device, non_blocking=label.is_cuda)
        probability = self._table(label.device)[t[:, None, None], label.long()]
        return replace(condition, label=label.masked_fill(uniform < probability, self.num_classes))

    def condition_sampler(self, generators: Sequence[torch.Generator]) -> Callable[[SemanticMap, Tensor], SemanticMap]:
        """Return the `condition_fn` of `GuidedNetwork`: the map of image i is drawn from `generators[i]` alone.

        generators: not those of the sampler (see `label_generators`), whose noise must not change.
        """

        def condition_fn(condition: SemanticMap, t: Tensor) -> SemanticMap:
            return self.diffuse(condition, t, draw_uniform(generators, condition.size, condition.label.device))

        return condition_fn

    def _table(self, device: torch.device) -> Tensor:
        """Return [T, K + 1] float32; the last column is for pixels that are null already."""
        if device not in self._moved:
            table = np.pad(self.null_probability, ((0, 0), (0, 1)))
            self._moved[device] = torch.tensor(table, dtype=torch.float32, device=device)
        return self._moved[device]


def build_label_diffusion(
    cond_opt: str, process: GaussianDiffusion, num_classes: int, eta: ArrayLike | None = None
) -> LabelDiffusion:
    """Build the label diffusion `cond_opt` (`LabelDiffusionOptions`) for the steps of `process`.

    eta: [num_classes], finite and above 0; only `discrete_zero_classwise` needs it.
    """
    timestep = np.asarray(process.timestep_map, dtype=np.float64)
    # The published code has 1000 here for every process, and in the uniform case the number of respaced steps.
    total = process.original_steps
    if cond_opt == UNIFORM:
        # Of the remaining pixels, 1 / (T - s) become null at each s = 0..t: in all (t + 1) / T.
        return LabelDiffusion(np.repeat((timestep[:, None] + 1) / total, num_classes, axis=1))
    assert cond_opt == CLASSWISE, cond_opt
    values = np.asarray(eta, dtype=np.float64)
    assert values.shape == (num_classes,), "eta needs a number for each class"
    assert (np.isfinite(values) & (values > 0)).all(), "eta must be finite and above 0"
    return LabelDiffusion(classwise_probability(timestep / total, values))


def classwise_probability(tau: NDArray[np.float64], eta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return min(tau, (eta^tau - 1) / (eta - 1)), [T, K] for `tau` [T] in [0, 1] and `eta` [K] above 0.

    A class with a large eta vanishes later. For eta of at most 1 the result is tau.
    """
    growth = np.log(np.maximum(eta, 1))
    tau = tau[:, None]
    with np.errstate(invalid="ignore"):
        slow = np.expm1(tau * growth) / np.expm1(growth)
    return np.where(growth > 0, slow, tau)


def label_generators(seeds: Sequence[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """Return a generator for each image for `condition_sampler`; seeds: the same as for the noise of the sampler."""
    return [torch.Generator(device).manual_seed(derive_seed(Stream.LABEL, seed)) for seed in seeds]


def draw_uniform(generators: Sequence[torch.Generator], size: Size, device: torch.device | str = "cpu") -> Tensor:
    """Return uniform numbers in [0, 1), [N, *size] float32 on `device`, image i drawn from `generators[i]` alone."""
    images = [torch.rand(tuple(size), generator=g, device=g.device) for g in generators]
    return torch.stack(images).to(device)
