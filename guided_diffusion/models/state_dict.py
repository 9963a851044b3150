"""Bare weights: inferring the architecture from names and shapes, and loading with errors that name the option."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from guided_diffusion.models.architecture import height_width
from guided_diffusion.models.conversion import ignoring_masks, is_unconditional
from guided_diffusion.models.spade.norm import SpadeConditioner
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.runtime.errors import CheckpointError

AUGMENT_EMBED = "augment_embed.weight"


@dataclass(frozen=True)
class InferredLayout:
    """The options of a condition of boxes that names and shapes of the weights determine."""

    num_classes: int
    style_dim: int
    label_dim: int
    stage_masks: bool


@dataclass(frozen=True)
class InferredArchitecture:
    """The options of a UNet that names and shapes of its weights determine.

    condition_channels: `num_classes`, and one more if `no_instance` is false; 0 without a condition of masks. layout:
    of a condition of boxes. attention: the downsampling factors of the levels with attention. resblock_updown: False
    for a single level.
    """

    inpaint: bool
    num_channels: int
    channel_mult: tuple[float, ...]
    num_res_blocks: int
    image_channels: int
    condition_channels: int
    attention: tuple[int, ...]
    learn_sigma: bool
    use_scale_shift_norm: bool
    resblock_updown: bool
    layout: InferredLayout | None = None

    @property
    def condition(self) -> str:
        """The value of the option `condition`."""
        if self.layout is not None:
            return "boxes"
        return "mask" if self.condition_channels else "none"

    def build_options(self, *, image_size: int | Sequence[int], no_instance: bool) -> dict[str, Any]:
        """Return the determined options by their published names; those of the classes only with a condition.

        image_size: pixels, one number or (height, width); `attention_resolutions` is in pixels of its shorter side.
        """
        classes: dict[str, Any] = {} if self.layout is None else asdict(self.layout)
        if self.condition == "mask":
            classes = {"no_instance": no_instance, "num_classes": self.condition_channels - (not no_instance)}
        return {
            "image_size": image_size,
            "condition": self.condition,
            **classes,
            "inpaint": self.inpaint,
            "num_channels": self.num_channels,
            "channel_mult": self.channel_mult,
            "num_res_blocks": self.num_res_blocks,
            "image_channels": self.image_channels,
            "attention_resolutions": tuple(min(height_width(image_size)) // factor for factor in self.attention),
            "learn_sigma": self.learn_sigma,
            "use_scale_shift_norm": self.use_scale_shift_norm,
            "resblock_updown": self.resblock_updown,
        }


def infer_architecture(state_dict: Mapping[str, Any], *, source: str = "the weights") -> InferredArchitecture:
    """Return the architecture of the UNet, SDM's or an unconditional one, from its weights.

    source: the name of the weights in errors, usually the file. A leading `module.` of names is ignored. Raises
    CheckpointError for other networks.
    """
    shapes = _Shapes(state_dict, source)
    # In a plain block the normalizations are in these lists, too, before the convolutions.
    plain = is_unconditional(shapes.shapes)
    conv_in, conv_out = ("in_layers.2", "out_layers.3") if plain else ("in_layers.1", "out_layers.2")
    num_channels = shapes["time_embed.0.weight"][1]
    first_width, in_channels = shapes["input_blocks.0.0.weight"][:2]
    # The output has the channels of an image, or twice as many; an inpainting network sees 2 C + 1 channels.
    out_channels = shapes["out.2.weight"][0]
    inpaint = _fills_holes(in_channels, out_channels)
    image_channels = in_channels // 2 if inpaint else in_channels
    layout = _layout_of(shapes)
    condition_channels = 0 if plain or layout else shapes["middle_block.0.in_norm.mlp_shared.0.weight"][1]
    # Every level of the decoder has num_res_blocks + 1 blocks; the last one upsamples, but not at the finest level.
    num_blocks = shapes.count("output_blocks")
    upsampling = [j for j in range(num_blocks) if shapes.upsamples(j, conv_in)]
    per_level = upsampling[0] + 1 if upsampling else num_blocks
    if per_level < 2 or num_blocks % per_level:
        raise CheckpointError(f"{source}: no SDM UNet has {num_blocks} output_blocks like these: use complete weights")
    num_levels = num_blocks // per_level
    widths = [shapes[f"output_blocks.{per_level * i}.0.{conv_out}.weight"][0] for i in reversed(range(num_levels))]
    first_blocks = [1 + per_level * level for level in range(num_levels)]
    attention = [2**i for i, j in enumerate(first_blocks) if f"input_blocks.{j}.1.qkv.weight" in shapes]
    return InferredArchitecture(
        inpaint=inpaint,
        num_channels=num_channels,
        channel_mult=tuple(_multiplier(width, num_channels) for width in widths),
        num_res_blocks=per_level - 1,
        image_channels=image_channels,
        condition_channels=condition_channels,
        attention=tuple(attention),
        learn_sigma=out_channels == 2 * image_channels,
        use_scale_shift_norm=shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * first_width,
        resblock_updown=num_levels > 1 and f"input_blocks.{per_level}.0.op.weight" not in shapes,
        layout=layout,
    )


def _layout_of(shapes: _Shapes) -> InferredLayout | None:
    """Return the options of a condition of boxes, None of another one."""
    if "conditioner.embedding.weight" not in shapes:
        return None
    num_classes, label_dim = shapes["conditioner.embedding.weight"]
    style_dim = shapes["middle_block.0.in_norm.gamma.weight"][1] - label_dim
    return InferredLayout(num_classes, style_dim, label_dim, "middle_block.0.mask_head.conv.weight" in shapes)


def load_weights(model: UNetModel, state_dict: Mapping[str, Any], *, source: str) -> None:
    """Copy `state_dict`, with or without a leading `module.`, into `model`; all names and shapes have to agree.

    source: the name of the weights in errors, usually the file. Raises CheckpointError naming the options in which the
    architectures differ, or else the first weight that does. What augmentations add is left out where `model` lacks it.
    """
    if model.augment_embed is None:  # without it the network does the same on images that are not augmented
        state_dict = {name: value for name, value in state_dict.items() if not str(name).endswith(AUGMENT_EMBED)}
    found, expected = _Shapes(state_dict, source), _Shapes(model.state_dict(), "the model")
    if found.shapes != expected.shapes:
        raise CheckpointError(f"{source}: {_difference(found, expected, model.image_size)}")
    model.load_state_dict(found.tensors)


def with_new_inputs(state_dict: Mapping[str, Any], model: UNetModel) -> dict[str, Any]:
    """Return the weights of a network for one that is told more: the mask (`ignoring_masks`), the hole, augmentations.

    What is new has no effect yet. Weights of any other difference stay as they are, for `load_weights` to refuse.
    """
    weights = {str(name).removeprefix("module."): value for name, value in state_dict.items()}
    if converts(weights, model):
        weights = ignoring_masks(weights, model)
    first, last = (weights.get(name) for name in ("input_blocks.0.0.weight", "out.2.weight"))
    if all(isinstance(value, Tensor) and value.ndim == 4 for value in (first, last)):
        seen, takes = first.shape[1], model.input_blocks[0][0].in_channels
        more = takes - seen
        fills_now = _fills_holes(takes, model.out[-1].out_channels)  # not so a colored image in place of a gray one
        if more == seen + 1 and fills_now and not _fills_holes(seen, len(last)):
            weights["input_blocks.0.0.weight"] = torch.cat(
                [first, first.new_zeros(len(first), more, *first.shape[2:])], dim=1
            )
    if model.augment_embed is not None and AUGMENT_EMBED not in weights:
        weights[AUGMENT_EMBED] = torch.zeros(model.augment_embed.weight.shape)
    return weights


def converts(state_dict: Mapping[str, Any], model: UNetModel) -> bool:
    """Return whether `model` takes masks and the weights are those of an unconditional network."""
    return isinstance(model.conditioner, SpadeConditioner) and is_unconditional(state_dict)


def _fills_holes(in_channels: int, out_channels: int) -> bool:
    """Return whether a network that sees and predicts so many channels is an inpainting one, of 2 C + 1 channels."""
    channels = in_channels // 2
    return in_channels % 2 == 1 and out_channels in (channels, 2 * channels)


class _Shapes:
    """Names and shapes of weights; a missing one raises CheckpointError."""

    def __init__(self, state_dict: Mapping[str, Any], source: str):
        self.source = source
        # Data-parallel training (DistributedDataParallel) saves the network as a member of that name.
        self.tensors = {
            str(name).removeprefix("module."): value for name, value in state_dict.items() if isinstance(value, Tensor)
        }
        self.shapes = {name: tuple(value.shape) for name, value in self.tensors.items()}

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def __getitem__(self, name: str) -> tuple[int, ...]:
        shape = self.shapes.get(name, ())
        if len(shape) >= 2:
            return shape
        raise CheckpointError(
            f"{self.source}: not the weights of an SDM UNet ({name} is missing): use those of a semantic diffusion "
            "model, or unconditional ones of guided-diffusion"
        )

    def count(self, blocks: str) -> int:
        """Return the length of the list `blocks`."""
        return len({name.split(".")[1] for name in self.shapes if name.startswith(f"{blocks}.")})

    def upsamples(self, j: int, conv_in: str) -> bool:
        """Return whether block `j` of the decoder ends in upsampling, by a convolution or a residual block."""
        ends = (f"output_blocks.{j}.{i}.{layer}.weight" for i in (1, 2) for layer in ("conv", conv_in))
        return any(name in self.shapes for name in ends)


def _multiplier(width: int, num_channels: int) -> float:
    if width % num_channels == 0:
        return width // num_channels
    multiplier = width / num_channels
    # The network truncates the product to an integer: a quotient rounded down would lose a channel.
    return multiplier if int(multiplier * num_channels) == width else math.nextafter(multiplier, math.inf)


def _difference(found: _Shapes, expected: _Shapes, image_size: tuple[int, int]) -> str:
    """Return how two sets of weights differ, if possible in terms of options, and the remedy."""
    their_kind, our_kind = (infer_architecture(weights.tensors, source=weights.source) for weights in (found, expected))
    theirs, ours = (kind.build_options(image_size=image_size, no_instance=True) for kind in (their_kind, our_kind))
    differing = [key for key in theirs if key in ours and theirs[key] != ours[key]]
    if differing:
        facts = (f"{key} is {_json(theirs[key])} in the file, {_json(ours[key])} in the config" for key in differing)
        settings = " ".join(f"{key}={_json(theirs[key])}" for key in differing)
        edges = ""
        if "num_classes" in differing and their_kind.condition == "mask":
            edges = f" (num_classes={theirs['num_classes'] - 1} with no_instance=false)"
        return f"{'; '.join(facts)}: set {settings}{edges} or leave {'it' if len(differing) == 1 else 'them'} out"
    missing = sorted(expected.shapes.keys() - found.shapes.keys())
    if missing == [AUGMENT_EMBED]:
        return "augment is above 0 in the config, but the network was trained without: set augment=0 or leave it out"
    if missing:
        return f"{len(missing)} weights are missing (the first is {missing[0]}): the file is incomplete, use another"
    unknown = sorted(found.shapes.keys() - expected.shapes.keys())
    if unknown:
        return f"{len(unknown)} weights do not belong to an SDM UNet (the first is {unknown[0]}): remove them"
    name = next(name for name in expected.shapes if found.shapes[name] != expected.shapes[name])
    shapes = f"{list(found.shapes[name])} in the file, {list(expected.shapes[name])} in an SDM UNet"
    return f"{name} has the shape {shapes}: no option explains this, use another file"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
