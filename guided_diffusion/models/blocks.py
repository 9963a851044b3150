"""Residual blocks: the plain one of the encoder and the conditioned one of the decoder."""

from __future__ import annotations

from torch import Tensor, nn

from guided_diffusion.models.layers import Downsample, GroupNorm32, Upsample, zero_initialised
from guided_diffusion.models.spade.modulation import Modulation
from guided_diffusion.models.spade.norm import SPADEGroupNorm


class ResidualBlock(nn.Module):
    """What the plain and the conditioned block share: everything but the place and kind of their normalisations.

    A subclass provides `in_norm` and `out_norm`, which normalise and activate, and sets `in_layers`, which ends in a
    convolution, and `out_layers`, which ends in dropout and a convolution. The activations in these only keep the
    published numbering.
    """

    in_norm: nn.Module
    out_norm: nn.Module
    in_layers: nn.Sequential
    out_layers: nn.Sequential

    def __init__(
        self, channels: int, out_channels: int, emb_channels: int, *, use_scale_shift_norm: bool, resample: nn.Module
    ):
        super().__init__()
        self.resample = resample
        self.use_scale_shift_norm = use_scale_shift_norm
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels if use_scale_shift_norm else out_channels)
        )
        self.skip_connection = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor, *modulations: Modulation) -> Tensor:
        """Return the block's output [N, out_channels, H', W'] for features x [N, channels, H, W].

        emb: [N, emb_channels], the embedded timestep.
        modulations: none for the plain block; for the conditioned one that of `in_norm` at (H, W), before any
            resampling, and that of `out_norm` at (H', W').
        """
        h = self.in_norm.activated(x, *modulations[:1])
        h = self.in_layers[-1](self.resample(h))
        shift = self.emb_layers(emb)
        if self.use_scale_shift_norm:
            h = self.out_norm.activated(h, *modulations[1:], *shift.chunk(2, dim=1))
        else:
            h = self.out_norm.activated(h + shift.to(h.dtype)[:, :, None, None], *modulations[1:])
        dropout, conv = self.out_layers[-2], self.out_layers[-1]
        return self.skip_connection(self.resample(x)) + conv(dropout(h))


class ResBlock(ResidualBlock):
    """The encoder's block; with `down` it halves height and width."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
        down: bool = False,
    ):
        resample = Downsample(channels, use_conv=False) if down else nn.Identity()
        super().__init__(
            channels, out_channels, emb_channels, use_scale_shift_norm=use_scale_shift_norm, resample=resample
        )
        self.in_layers = nn.Sequential(
            GroupNorm32(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_initialised(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )

    @property
    def in_norm(self) -> nn.Module:
        """The normalisation before the first convolution; the published weights keep it in `in_layers`."""
        return self.in_layers[0]

    @property
    def out_norm(self) -> nn.Module:
        """The normalisation before the second convolution; the published weights keep it in `out_layers`."""
        return self.out_layers[0]


class ConditionedResBlock(ResidualBlock):
    """The decoder's block: both normalisations follow the semantic map; with `up` it doubles height and width."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_channels: int,
        condition_channels: int,
        *,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
        up: bool = False,
    ):
        resample = Upsample(channels, use_conv=False) if up else nn.Identity()
        super().__init__(
            channels, out_channels, emb_channels, use_scale_shift_norm=use_scale_shift_norm, resample=resample
        )
        self.up = up
        self.in_norm = SPADEGroupNorm(channels, condition_channels)
        self.in_layers = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.out_norm = SPADEGroupNorm(out_channels, condition_channels)
        self.out_layers = nn.Sequential(
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_initialised(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
