"""An ensemble of small pixel classifiers, computed all at once; each has the published form and names of weights.

A member is Linear(D, a), ReLU, BatchNorm, Linear(a, b), ReLU, BatchNorm, Linear(b, C), as in Baranchuk et al. 2022,
"Label-Efficient Semantic Segmentation with Diffusion Models".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guided_diffusion.runtime.seeding import Stream, derive_seed

LINEAR = {"layers.0": "first", "layers.3": "second", "layers.6": "last"}
NORMS = {"layers.2": "norm1", "layers.5": "norm2"}
COUNTER = "num_batches_tracked"
WEIGHT_DEVIATION = 0.02
EPS = 1e-5  # of BatchNorm, as torch has it
MOMENTUM = 0.1


def hidden_widths(classes: int) -> tuple[int, int]:
    """Return the widths (a, b) of the two hidden layers, as published."""
    return (128, 32) if classes < 30 else (256, 128)


class PixelEnsemble(nn.Module):
    """`members` classifiers of `dim` features into `classes`; every weight has the member as its first dimension.

    Begins as published: linear weights from N(0, 0.02^2), biases 0. Those of a member depend on (seed, member) alone.
    """

    def __init__(self, members: int, dim: int, classes: int, hidden: tuple[int, int] | None = None, seed: int = 0):
        super().__init__()
        self.members, self.dim, self.classes = members, dim, classes
        self.hidden = hidden or hidden_widths(classes)
        widths = (dim, *self.hidden, classes)
        for name, inputs, outputs in zip(LINEAR.values(), widths, widths[1:], strict=False):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(members, outputs, inputs)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(members, outputs)))
        for name, width in zip(NORMS.values(), self.hidden, strict=True):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.ones(members, width)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(members, width)))
            self.register_buffer(f"{name}_running_mean", torch.zeros(members, width))
            self.register_buffer(f"{name}_running_var", torch.ones(members, width))
            self.register_buffer(f"{name}_{COUNTER}", torch.zeros(members, dtype=torch.int64))
        for member in range(members):
            generator = torch.Generator().manual_seed(derive_seed(Stream.WEIGHTS, seed, member))
            for name in LINEAR.values():
                getattr(self, f"{name}_weight").data[member].normal_(0, WEIGHT_DEVIATION, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [M, P, classes] of features [M, P, dim], each member's own."""
        x = self._norm("norm1", F.relu(self._linear("first", x)))
        x = self._norm("norm2", F.relu(self._linear("second", x)))
        return self._linear("last", x)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return torch.baddbmm(getattr(self, f"{name}_bias")[:, None], x, getattr(self, f"{name}_weight").mT)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """Normalize over the pixels of each member: to BatchNorm the members are further channels."""
        if self.training:
            getattr(self, f"{name}_{COUNTER}").add_(1)
        mean, variance, weight, bias = (
            getattr(self, f"{name}_{part}").view(-1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        flat = x.transpose(0, 1).flatten(1)
        flat = F.batch_norm(flat, mean, variance, weight, bias, self.training, MOMENTUM, EPS)
        return flat.unflatten(1, (self.members, -1)).transpose(0, 1)

    # ------------------------------------------------------------------------------------------- single members

    def member_weights(self, member: int) -> dict[str, Tensor]:
        """Return copies of the weights of one member by their published names, such as `layers.0.weight`."""
        return {name: value[member].detach().clone() for name, value in self._published().items()}

    @torch.no_grad()
    def load_member(self, member: int, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of one member by their published names; KeyError or RuntimeError if they do not fit."""
        for name, value in self._published().items():
            value[member].copy_(weights[name])

    def _published(self) -> dict[str, Tensor]:
        linear = [(key, name, ("weight", "bias")) for key, name in LINEAR.items()]
        norms = [(key, name, ("weight", "bias", "running_mean", "running_var", COUNTER)) for key, name in NORMS.items()]
        parts = sorted(linear + norms)
        return {f"{key}.{part}": getattr(self, f"{name}_{part}") for key, name, parts_ in parts for part in parts_}

    @torch.no_grad()
    def fold_standardization(self, mean: Tensor, scale: Tensor) -> None:
        """Change the first layer, which took (x - mean) * scale, so that it takes x; mean, scale [dim]."""
        self.first_weight.mul_(scale)
        self.first_bias.sub_(self.first_weight @ mean)

    @torch.no_grad()
    def add_to_logits(self, offset: Tensor) -> None:
        """Add `offset` [classes] to the logits of every member: to change how frequent classes are taken to be."""
        self.last_bias.add_(offset)

    @torch.no_grad()
    def folded(self, member: int) -> FoldedMember:
        """Return a member for prediction: each normalization is part of the layer after it."""
        (w1, b1), (w2, b2), (w3, b3) = (
            (getattr(self, f"{name}_weight")[member], getattr(self, f"{name}_bias")[member]) for name in LINEAR.values()
        )
        return FoldedMember(
            w1, b1, *self._after_norm("norm1", member, w2, b2), *self._after_norm("norm2", member, w3, b3)
        )

    def _after_norm(self, name: str, member: int, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        gamma, beta, mean, variance = (
            getattr(self, f"{name}_{part}")[member] for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma * torch.rsqrt(variance + EPS)
        return weight * scale, bias + weight @ (beta - mean * scale)


@dataclass(frozen=True, eq=False)
class FoldedMember:
    """Three linear layers with ReLU between them; weights [out, in]."""

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor
    weight3: Tensor
    bias3: Tensor

    def finish(self, first: Tensor) -> Tensor:
        """Return the logits [P, classes] of what the first layer gives, [P, a], which is changed."""
        return F.linear(F.relu_(F.linear(F.relu_(first), self.weight2, self.bias2)), self.weight3, self.bias3)
