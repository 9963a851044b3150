"""ISLA norm: the objects of a layout scale and shift normalized features, each where its mask is. See README.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided_diffusion.conditions.base import Prepared, Size
from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.models.conditioning import ConditionedNorm, Conditioner, ConditionOptions, Modulation
from guided_diffusion.models.layers import zero_initialized
from guided_diffusion.models.layout.masks import (
    LevelMasks,
    MaskHead,
    MaskRegressor,
    ObjectMasks,
    Overlap,
    object_weights,
)
from guided_diffusion.models.layout.modulation import EmptyModulation, LayoutModulation
from guided_diffusion.models.layout.pasting import Axis, paste, pixel_shares


@dataclass(frozen=True, eq=False)
class LayoutLevel:
    """What the normalizations of one level share.

    features: [N, O, F], style and class of the objects, zero in empty slots. objects: None where all slots are empty.
    slots: those that were given; there may be more empty ones behind.
    """

    features: Tensor
    objects: ObjectMasks | None
    size: Size
    slots: int


class ISLAGroupNorm(ConditionedNorm):
    """y = x_hat * (1 + sum of m_o gamma_o) + sum of m_o beta_o over the objects, with m_o their weights in the pixel.

    Instance-sensitive and layout-aware normalization (Sun & Wu 2020), on group normalization: an image depends on
    nothing but itself. gamma_o and beta_o are linear in style and class of the object. features: their number.
    """

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.gamma = zero_initialized(nn.Linear(features, channels))
        self.beta = zero_initialized(nn.Linear(features, channels))

    def modulate(self, level: LayoutLevel) -> Modulation:
        """Return the modulation for the objects of `level`, which has the size of the features."""
        # In full precision also under autocast: there are few objects.
        with torch.autocast(level.features.device.type, enabled=False):
            if level.objects is None:
                shape = (len(level.features), self.gamma.out_features)
                ones, zeros = level.features.new_ones(shape), level.features.new_zeros(shape)
                return EmptyModulation(ones, zeros, level.slots, level.size)
            scale = F.pad(self.gamma(level.features), (0, 0, 1, 0), value=1.0)
            shift = F.pad(self.beta(level.features), (0, 0, 1, 0))
        masks = level.objects.levels[level.size]
        return LayoutModulation(scale, shift, masks.weight, masks.regressed, level.objects)


class LayoutConditioner(nn.Module, Conditioner):
    """Makes ISLA normalizations for layouts.

    styles, labels: numbers of an object's style and of the embedding of its class. stage_masks: every block but the
    last refines the masks of the next one; without, they depend on the layout alone. overlap: see `object_weights`.
    """

    def __init__(self, num_classes: int, *, styles: int, labels: int, stage_masks: bool, overlap: Overlap):
        super().__init__()
        self.num_classes = num_classes
        self.styles = styles
        self.stage_masks = stage_masks
        self.overlap = overlap
        self.axis: Axis = pixel_shares
        self.embedding = nn.Embedding(num_classes, labels)
        self.regressor = MaskRegressor(styles + labels)
        if stage_masks:
            self.alpha = nn.Parameter(torch.zeros(num_classes))

    @staticmethod
    def from_options(options: ConditionOptions) -> LayoutConditioner:
        """Return the conditioner of the options of a network."""
        assert options.num_classes is not None, "a network conditioned on boxes needs num_classes"
        return LayoutConditioner(
            options.num_classes,
            styles=options.style_dim,
            labels=options.label_dim,
            stage_masks=options.stage_masks,
            overlap=options.overlap,
        )

    def norm(self, channels: int) -> ISLAGroupNorm:
        return ISLAGroupNorm(channels, self.styles + self.embedding.embedding_dim)

    def head(self, channels: int) -> MaskHead | None:
        return MaskHead(channels, self.num_classes) if self.stage_masks else None

    def check(self, condition: LayoutCondition) -> None:
        found, styles = condition.num_classes, condition.style.shape[2]
        assert found == self.num_classes, f"the condition has {found} classes, the network takes {self.num_classes}"
        assert styles == self.styles, f"the condition has styles of {styles} numbers, the network takes {self.styles}"

    def level(self, condition: LayoutCondition, size: Size, prepared: Prepared | None) -> LayoutLevel:
        return self.levels(condition, [size], prepared)[0]

    def levels(self, condition: LayoutCondition, sizes: Sequence[Size], prepared: Prepared | None) -> list[LayoutLevel]:
        # At least one object has a mask: without any, data-parallel training would wait for gradients that never come.
        slots, condition = condition.slots, condition.padded(condition.background + 1)
        features, objects = self._features(condition), None
        # With gradients the masks are always computed, for the same reason.
        if torch.is_grad_enabled() or bool(condition.present.any()):
            logits = self._logits(condition, features)
            with torch.autocast(condition.device.type, enabled=False):
                regressed = logits.to(features.dtype).sigmoid()
                objects = self._object_masks(condition, logits, regressed, sizes, slots)
        return [LayoutLevel(features, objects, size, slots) for size in sizes]

    def mask_logits(self, condition: LayoutCondition) -> Tensor:
        """Return the logits of the regressed masks in the boxes, [N, O, CELLS, CELLS].

        They are 0 in empty slots and of the background.
        """
        slots, condition = condition.slots, condition.padded(condition.background + 1)
        return self._logits(condition, self._features(condition))[:, :slots]

    def _features(self, condition: LayoutCondition) -> Tensor:
        """Return style and class of the objects, [N, O, F], zero in empty slots."""
        embedded = self.embedding(_real(condition))
        features = torch.cat([condition.style.to(embedded.dtype), embedded], dim=2)
        return torch.where(condition.present[..., None], features, 0)

    def _logits(self, condition: LayoutCondition, features: Tensor) -> Tensor:
        # Of the objects that have a mask: empty slots would cost as much, which are the most where one image has many.
        wanted = condition.present.clone()
        wanted[:, : int(condition.background)] = False
        wanted[:1, int(condition.background)] = True  # at least one; an empty slot is masked later
        found = self.regressor(features[wanted])
        return found.new_zeros(*wanted.shape, *found.shape[1:]).masked_scatter(wanted[..., None, None], found)

    def _object_masks(
        self, condition: LayoutCondition, logits: Tensor, regressed: Tensor, sizes: Sequence[Size], slots: int
    ) -> ObjectMasks:
        """Return the masks at `sizes` from those in the boxes, [N, O, CELLS, CELLS] in 0..1, and their logits."""
        present, label = condition.present, _real(condition)
        background = torch.zeros_like(present)
        background[:, : int(condition.background)] = True
        front = condition.front if self.overlap == "smallest" else None
        refined = self.alpha.sigmoid()[label] if self.stage_masks else torch.zeros_like(regressed[..., 0, 0])
        refined = refined.masked_fill(background, 0)
        levels = {}
        for size in sizes:
            maps = torch.stack(paste(regressed, condition.box, size, self.axis))
            maps = maps.masked_fill(background[..., None, None], 1).masked_fill(~present[..., None, None], 0)
            weight = object_weights(maps[0].flatten(2), front).transpose(1, 2).contiguous()
            levels[size] = LevelMasks(maps[0], maps[1], weight)
        return ObjectMasks(label, refined, front, levels, slots, logits)


def _real(condition: LayoutCondition) -> Tensor:
    """Return the classes [N, O], any real one in empty slots."""
    return condition.label.long().clamp_max(condition.num_classes - 1)
