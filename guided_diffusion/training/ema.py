"""Exponential moving averages of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn


class EMA:
    """Averages of a model's parameters, one for each rate; the decay of step n is `min(rate, (1 + n) / (10 + n))`.

    This warm-up forgets the initial weights, of which a rate of 0.9999 would keep 37 % after 10,000 steps.
    initial_step: is added to n. Averages from a trained network get some, so that the first steps do not overwrite
    them, but not all of its steps, so that a short finetuning still moves them.
    """

    def __init__(self, model: nn.Module, rates: Iterable[float], *, initial_step: int = 0):
        self.initial_step = initial_step
        self._names = [name for name, _ in model.named_parameters()]
        self._buffers = dict(model.named_buffers())
        self._parameters = [parameter for _, parameter in model.named_parameters()]
        self.averages = {f"{rate:.12g}": [p.detach().clone() for p in self._parameters] for rate in rates}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update every average with the model's weights after optimizer step `step` (counted from 1)."""
        n = step + self.initial_step
        for rate, average in self.averages.items():
            decay = min(float(rate), (1 + n) / (10 + n))
            torch._foreach_lerp_(average, self._parameters, 1 - decay)

    @contextlib.contextmanager
    def applied(self, rate: str) -> Iterator[None]:
        """Replace the model's weights by the average of `rate` while the block runs."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, self.averages[rate])
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, own)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return rate -> weights under the model's own names."""
        buffers = {name: buffer.detach() for name, buffer in self._buffers.items()}
        return {rate: dict(zip(self._names, average, strict=True)) | buffers for rate, average in self.averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Load saved averages; a rate that was not saved starts from the slowest one that was.

        With an empty `state` (weights without averages) every rate starts from the model's weights.
        """
        for rate, average in self.averages.items():
            source = state.get(rate) or (state[max(state, key=float)] if state else None)
            values = self._parameters if source is None else [source[name] for name in self._names]
            for target, value in zip(average, values, strict=True):
                target.copy_(value)
