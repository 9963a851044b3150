"""From a network function to `denoise(x, t) -> x0`, which samplers call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from guided_diffusion.diffusion.gaussian import GaussianDiffusion

NetworkFunction = Callable[[Tensor, Tensor], Tensor]
"""(x_t [N, C, H, W], t [N], indices into the process) -> model output [N, C or 2C, H, W]."""
X0Hook = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x0, x_t, t [N]) -> changed x0, all images [N, C, H, W]: clipping, thresholding, a known region."""


class Denoiser:
    """The x0 that a network predicts, changed by `hooks` in their order.

    Hooks may keep state between steps: make a new denoiser for each call of a sampler. The published order is
    extrapolation, dynamic threshold, clipping.
    """

    def __init__(self, network: NetworkFunction, process: GaussianDiffusion, hooks: Sequence[X0Hook] = ()):
        self.network = network
        self.process = process
        self.hooks = tuple(hooks)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted x0 [N, C, H, W] float32 of `x` [N, C, H, W] at `t` [N] int64."""
        return self._x0(self.network(x, t), x, t)

    def with_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return x0 and the log-variance of p(x_{t-1} | x_t), [N, C, H, W] float32 each, from one network call."""
        output = self.network(x, t)
        _, log_variance = self.process.model_variance(output, t)
        return self._x0(output, x, t), log_variance.expand_as(x)

    def _x0(self, model_output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        x0 = self.process.predict_x0(model_output, x, t)
        for hook in self.hooks:
            x0 = hook(x0, x, t)
        return x0
