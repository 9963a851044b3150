"""Residual blocks: a plain one, and one whose normalizations are conditioned."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from guided_diffusion.models.conditioning import ConditionedNorm, Modulation
from guided_diffusion.models.layers import Downsample, GroupNorm32, Upsample, zero_initialized


class ResidualBlock(nn.Module):
    """Base of the plain and the conditioned block, which differ in place and kind of their normalizations.

    A subclass provides `in_norm` and `out_norm`, and sets `in_layers`, which ends in a convolution, and `out_layers`,
    which ends in dropout and a convolution. Their activations only keep the published numbering.
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
        """Map features x [N, channels, H, W] to [N, out_channels, H', W'].

        emb: [N, emb_channels], the embedded timestep. modulations: of the conditioned block, for `in_norm` at (H, W),
        before resampling, and for `out_norm` at (H', W').
        """
        h = self.in_norm.norm_silu(x, *modulations[:1])
        h = self.in_layers[-1](self.resample(h))
        shift = self.emb_layers(emb)
        if self.use_scale_shift_norm:
            h = self.out_norm.norm_silu(h, *modulations[1:], *shift.chunk(2, dim=1))
        else:
            h = self.out_norm.norm_silu(h + shift.to(h.dtype)[:, :, None, None], *modulations[1:])
        dropout, conv = self.out_layers[-2], self.out_layers[-1]
        return self.skip_connection(self.resample(x)) + conv(dropout(h))


class ResBlock(ResidualBlock):
    """The block of the encoder, and of a decoder without a condition; `down` halves height and width, `up` doubles."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
        down: bool = False,
        up: bool = False,
    ):
        assert not (down and up)
        resample = nn.Identity()
        if down or up:
            resample = (Downsample if down else Upsample)(channels, use_conv=False)
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
            zero_initialized(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )

    # The names of the published weights put the normalizations into these lists.
    @property
    def in_norm(self) -> nn.Module:
        return self.in_layers[0]

    @property
    def out_norm(self) -> nn.Module:
        return self.out_layers[0]


class ConditionedResBlock(ResidualBlock):
    """The block of a conditioned decoder, with two conditioned normalizations; `up` doubles height and width.

    norm: `Conditioner.norm`. level: the level of the input and of `in_norm`, 0 is the finest; `out_norm` is at that of
    the output. `mask_head`, on the output, is called by the network, see `Conditioner.head`.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        norm: Callable[[int], ConditionedNorm],
        level: int,
        dropout: float = 0.0,
        use_scale_shift_norm: bool = True,
        up: bool = False,
    ):
        resample = Upsample(channels, use_conv=False) if up else nn.Identity()
        super().__init__(
            channels, out_channels, emb_channels, use_scale_shift_norm=use_scale_shift_norm, resample=resample
        )
        self.levels = (level, level - up)
        self.out_channels = out_channels
        self.mask_head: nn.Module | None = None
        self.in_norm = norm(channels)
        self.in_layers = nn.Sequential(nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.out_norm = norm(out_channels)
        self.out_layers = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), zero_initialized(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        )

    @property
    def norms(self) -> tuple[tuple[ConditionedNorm, int], ...]:
        """The two normalizations with their levels, in the order of their modulations."""
        return tuple(zip((self.in_norm, self.out_norm), self.levels, strict=True))
