"""Label diffusion: with noise in the image, classes vanish from its map (Ko et al. 2024, SCDM, section 4).

A pixel's class becomes the null id, the absorbing state, with a probability that grows from about 0 at the first
timestep to about 1 at the last. The map of each step is drawn anew from the clean one; edges are never diffused.
Time is that of the original process, whatever steps a respacing visits.
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
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.seeding import Stream, derive_seed

COND_OPTS = (UNIFORM, CLASSWISE)


@dataclass(frozen=True, eq=False)
class LabelDiffusion:
    """How probable it is at each step of a noise process that a pixel of a class becomes null. Immutable."""

    # [T, K] in [0, 1], for the T steps that are visited and the K classes.
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
        """Return the clean maps `condition` [N] as they are at the indices `t` [N] of the process.

        uniform: [N, H, W] random numbers in [0, 1) on the device of the maps; a pixel becomes null where its number is
        below the probability.
        """
        assert condition.num_classes == self.num_classes
        assert uniform.shape == condition.label.shape
        label = condition.label
        t = t.to(label.device, non_blocking=label.is_cuda)
        probability = self._table(label.device)[t[:, None, None], label.long()]
        return replace(condition, label=label.masked_fill(uniform < probability, self.num_classes))

    def condition_sampler(self, generators: Sequence[torch.Generator]) -> Callable[[SemanticMap, Tensor], SemanticMap]:
        """Return the `condition_fn` of `GuidedNetwork`: the map of image i is drawn from `generators[i]` alone.

        generators: others than the sampler draws its noise from (see `label_generators`), so that the noise is the same
        with label diffusion and without it.
        """

        def condition_fn(condition: SemanticMap, t: Tensor) -> SemanticMap:
            return self.diffuse(condition, t, draw_uniform(generators, condition.size, condition.label.device))

        return condition_fn

    def _table(self, device: torch.device) -> Tensor:
        """Return [T, K + 1] float32; what is null already has no probability to become so."""
        if device not in self._moved:
            table = np.pad(self.null_probability, ((0, 0), (0, 1)))
            self._moved[device] = torch.tensor(table, dtype=torch.float32, device=device)
        return self._moved[device]


def build_label_diffusion(
    cond_opt: str, process: GaussianDiffusion, num_classes: int, eta: ArrayLike | None = None
) -> LabelDiffusion:
    """Build the label process that an option of the published name describes, for the steps of `process`.

    eta: [num_classes] above 0; only `discrete_zero_classwise` needs it. ConfigError where it is missing or does not fit
    the classes, and for an unknown name.
    """
    if cond_opt not in COND_OPTS:
        raise ConfigError(f"cond_opt: {cond_opt!r} is unknown; choose one of {', '.join(COND_OPTS)}")
    timestep = np.asarray(process.timestep_map, dtype=np.float64)
    # The published code has 1000 here whatever the process, and for the uniform kind the number of respaced steps.
    total = process.original_steps
    if cond_opt == UNIFORM:
        # (t + 1) / T is gone where 1 / (T - s) of what is left vanishes at each s = 0..t.
        return LabelDiffusion(np.repeat((timestep[:, None] + 1) / total, num_classes, axis=1))
    if eta is None:
        raise ConfigError(f"cond_opt: {CLASSWISE} needs an eta for each class; give them, or choose {UNIFORM}")
    values = np.asarray(eta, dtype=np.float64)
    if values.shape != (num_classes,):
        raise ConfigError(f"eta: must be {num_classes} numbers, one for each class, found shape {list(values.shape)}")
    if not (np.isfinite(values) & (values > 0)).all():
        wrong = int(np.flatnonzero(~(np.isfinite(values) & (values > 0)))[0])
        raise ConfigError(f"eta: must be above 0 and finite, found {values[wrong]} for class {wrong}")
    return LabelDiffusion(classwise_probability(timestep / total, values))


def classwise_probability(tau: NDArray[np.float64], eta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return min(tau, (eta^tau - 1) / (eta - 1)), [T, K] for `tau` [T] in [0, 1] and `eta` [K] above 0.

    A class with a large eta stays for longer. The quotient is at least tau where eta is at most 1, and tau is its limit
    at 1.
    """
    growth = np.log(np.maximum(eta, 1))
    tau = tau[:, None]
    with np.errstate(invalid="ignore"):
        slow = np.expm1(tau * growth) / np.expm1(growth)
    return np.where(growth > 0, slow, tau)


def label_generators(seeds: Sequence[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """Return one generator an image for `condition_sampler`, from the seeds that its sampler's generators have, too."""
    return [torch.Generator(device).manual_seed(derive_seed(Stream.LABEL, seed)) for seed in seeds]


def draw_uniform(generators: Sequence[torch.Generator], size: Size, device: torch.device | str = "cpu") -> Tensor:
    """Return uniform numbers in [0, 1), [N, *size] float32 on `device`, image i drawn from `generators[i]` alone.

    In training the generators are seeded by the position, as those of the noise are:
    `derive_seed(Stream.LABEL, run seed, epoch, batch, batch_index)`.
    """
    images = [torch.rand(tuple(size), generator=g, device=g.device) for g in generators]
    return torch.stack(images).to(device)
