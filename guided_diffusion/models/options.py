"""Options of the network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from guided_diffusion.runtime.options import FloatTuple, IntTuple, OptionGroup, Problem, option


class ConditionKindOptions(OptionGroup):
    """What images are made from."""

    title: ClassVar = "condition"

    condition: Literal["mask", "boxes", "none"] = option(
        "mask",
        "condition of the images: mask, boxes (of objects with classes), or none for an unconditional network, which "
        "ignores the masks",
    )


class ModelOptions(ConditionKindOptions):
    """The UNet and its condition."""

    title: ClassVar = "network"

    class_cond: bool = option(True, "published spelling: false means condition none", spelling_of="condition")
    inpaint: bool = option(
        False,
        "the network fills a hole: it also sees the image around it; trained with holes over defects, rectangles and "
        "everything",
        sampling="free",
    )
    augment: float = option(
        0.0,
        "probability of each augmentation that does not leak: flips, turns, scale, shift, brightness are told to the "
        "network",
        sampling="free",
        ge=0,
        le=1,
    )
    num_channels: int = option(128, "channels of the first level, a multiple of 32", ge=32, le=4096, multiple_of=32)
    num_res_blocks: int = option(2, "residual blocks a level", ge=1, le=64)
    channel_mult: FloatTuple = option(
        None, 'channels of each level as multiples of num_channels, such as "1,2,3,4"; null or "": by image_size'
    )
    num_heads: int = option(4, "attention heads, where num_head_channels is -1", ge=1, le=4096)
    num_heads_upsample: int = option(-1, "attention heads of the decoder, -1: as num_heads", ge=-1, le=4096)
    num_head_channels: int = option(-1, "channels of an attention head, -1: by num_heads", ge=-1, le=4096)
    attention_resolutions: IntTuple = option(
        None, 'feature map sides with attention, such as "32,16,8"; null: all of 16 and below'
    )
    dropout: float = option(0.0, "dropout probability in the residual blocks", sampling="free", ge=0, lt=1)
    resblock_updown: bool = option(True, "residual blocks instead of plain resampling between levels")
    use_scale_shift_norm: bool = option(True, "time embedding scales and shifts the second norm of a block")
    use_new_attention_order: bool = option(False, "split q, k, v before the heads")
    use_checkpoint: bool = option(
        False, "recompute activations in the backward pass: less memory, slower", resume="may change", sampling="free"
    )
    spade: Literal["auto", "lookup", "mixed", "dense"] = option(
        "auto",
        "how masks modulate: lookup of 5x5 patches, mixed (sums of 3x3 patches), dense; auto: the cheapest",
        resume="may change",
        sampling="free",
    )

    stage_masks: bool = option(
        True,
        "with boxes: every block refines the masks of the objects for the next one; false: masks of class and style",
    )
    overlap: Literal["mean", "smallest"] = option(
        "smallest",
        "with boxes: where objects overlap, take the smallest one as far as its mask goes, or the mean of them",
    )
    style_dim: int = option(128, "with boxes: random numbers that are the style of an object", ge=1, le=4096)
    label_dim: int = option(180, "with boxes: numbers of the embedding of a class", ge=1, le=4096)

    def check(self) -> Iterator[Problem]:
        given = {"condition", "class_cond"} <= self.model_fields_set and None not in (self.condition, self.class_cond)
        if given and self.class_cond != (self.condition != "none"):
            line = f'class_cond is {str(self.class_cond).lower()}, but condition is "{self.condition}": '
            yield ("class_cond", f"{line}leave one of the two out")

    def resolve(self) -> Self:
        if self.class_cond is None:  # left to the checkpoint
            return self
        if not self.class_cond or self.condition == "none":
            return self.model_copy(update={"condition": "none", "class_cond": False})
        return self.model_copy(update={"condition": "mask"}) if self.condition is None else self


class LatentFactorOptions(OptionGroup):
    """Whether the model works on images, or on what an autoencoder makes of them."""

    title: ClassVar = "latent"
    latent: Literal[4, 8] | None = option(
        None,
        "diffusion of latents, whose sides are 4 or 8 times smaller than the image's: an autoencoder is trained first; "
        "null: of pixels",
    )


class LatentOptions(LatentFactorOptions):
    """The autoencoder of a latent model."""

    latent_channels: int | None = option(
        None, "channels of the latents; null: as many as latent, or as a pretrained autoencoder has", ge=1, le=32
    )
    autoencoder_channels: int | None = option(
        None, "channels of the autoencoder's first level, deeper ones have twice as many; null: 64", ge=8, multiple_of=8
    )

    def check(self) -> Iterator[Problem]:
        for key in ("latent_channels", "autoencoder_channels"):
            if self.latent is None and getattr(self, key) is not None:
                line = f"{key} is {getattr(self, key)}, but latent is null, so there is no autoencoder: "
                yield (key, f"{line}leave it out, or set latent to 4 or 8")

    @property
    def channels(self) -> int:
        """Channels of the latents of an autoencoder that is trained here."""
        return self.latent_channels or self.latent

    @property
    def width(self) -> int:
        """Channels of the first level of an autoencoder that is trained here."""
        return self.autoencoder_channels or 64
