"""The UNet without its condition: the floor that `benchmark.py` holds a conditioned step against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.blocks import ConditionedResBlock
from guided_diffusion.models.layers import GroupNorm32
from guided_diffusion.models.unet import UNetModel


class PlainUNet(nn.Module):
    """`model` with a plain group normalisation, scale and bias a channel, in the place of every conditioned one.

    It takes a condition and leaves it aside, so that training and guidance call it as they call the other.
    """

    def __init__(self, model: UNetModel):
        super().__init__()
        self.network = model
        self.norms = 0
        for block in model.modules():
            if isinstance(block, ConditionedResBlock):
                for name in ("in_norm", "out_norm"):
                    setattr(block, name, _PlainNorm(getattr(block, name).mlp_gamma.out_channels))
                    self.norms += 1

    def forward(self, x: Tensor, t: Tensor, condition: SemanticMap) -> Tensor:
        """Return the output [N, out_channels, H, W] for x [N, C, H, W] and t [N]."""
        return self.decode(*self.encode(x, t), self.modulate(condition))

    def encode(self, x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the skip features and the embedded timestep."""
        return self.network.encode(x, t)

    def modulate(self, condition: SemanticMap) -> NoModulations:
        """Return nothing for each normalisation."""
        return NoModulations(self.norms)

    def decode(self, skips: Sequence[Tensor], emb: Tensor, modulations: NoModulations) -> Tensor:
        """Return the output [N, out_channels, H, W]."""
        return self.network.decode(skips, emb, modulations)


@dataclass(frozen=True)
class NoModulations:
    """What stands for the modulations of `count` normalisations that have none."""

    count: int

    def __iter__(self) -> Iterator[None]:
        return iter([None] * self.count)

    def __len__(self) -> int:
        return self.count

    @staticmethod
    def cat(branches: Sequence[NoModulations]) -> NoModulations:
        """Concatenate along the batch."""
        return branches[0]

    def expand(self, n: int) -> NoModulations:
        """Repeat `n` times along the batch."""
        return self


class _PlainNorm(nn.Module):
    """A group normalisation with the arguments of a conditioned one."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm32(channels)

    def activated(
        self, x: Tensor, modulation: None, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        return self.norm.activated(x, scale, shift)
