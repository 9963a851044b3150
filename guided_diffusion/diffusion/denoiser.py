"""From a network function to `denoise(x, t) -> x0`, the one thing that samplers call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from guided_diffusion.diffusion.gaussian import GaussianDiffusion

NetworkFunction = Callable[[Tensor, Tensor], Tensor]
"""(x_t [N, C, H, W], t [N], indices into the process) -> model output [N, C or 2C, H, W]."""


class X0Hook(Protocol):
    """Changes the predicted image before a sampler goes on from it: clipping, thresholding, a known region."""

    def __call__(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return x0 [N, C, H, W] anew; `x_t` [N, C, H, W] is what it was predicted from, at `t` [N]."""
        ...


class Denoise(Protocol):
    """What samplers ask for; `t` is [N] int64 as in `GaussianDiffusion`."""

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted x0 [N, C, H, W] float32 of `x` at `t`."""
        ...

    def with_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted x0 and the log-variance of p(x_{t-1} | x_t), [N, C, H, W] float32 each."""
        ...


class Denoiser:
    """The x0 that a network predicts, changed by `hooks` in their order.

    A hook may keep state from step to step, so that a denoiser serves one call of a sampler. Published order:
    extrapolation, dynamic threshold, clipping.
    """

    def __init__(self, network: NetworkFunction, process: GaussianDiffusion, hooks: Sequence[X0Hook] = ()):
        self.network = network
        self.process = process
        self.hooks = tuple(hooks)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted x0 [N, C, H, W] float32 of `x` [N, C, H, W] at `t` [N]."""
        return self._x0(self.network(x, t), x, t)

    def with_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x0 and the log-variance of p(x_{t-1} | x_t), [N, C, H, W] float32 each, of one network call."""
        output = self.network(x, t)
        _, log_variance = self.process.model_variance(output, t)
        return self._x0(output, x, t), log_variance.expand_as(x)

    def _x0(self, model_output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        x0 = self.process.predict_x0(model_output, x, t)
        for hook in self.hooks:
            x0 = hook(x0, x, t)
        return x0
