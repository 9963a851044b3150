"""Segmentation models of segmentation-models-pytorch: built from names, with weights from a local file or none.

Images are uint8 in RGB and go into a model through `to_input`.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Literal

import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluations.errors import EvaluationError
from evaluations.published_weights import one_line
from evaluations.segmentation.weights import (
    check_timm_download,
    fetch,
    is_random,
    load_encoder,
    not_fetched,
    weights_file,
)
from evaluations.sets import Images

ARCHITECTURES: tuple[str, ...] = tuple(smp.MODEL_ARCHITECTURES_MAPPING)

MIN_BATCH = 2
"""The smallest training batch that all architectures take. DeepLabV3+, UPerNet and encoders whose deepest level is one
pixel normalize pooled features over the batch, which has no variance with one image."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1: what torchvision's ImageNet weights were trained with."""

InputForm = Literal["imagenet", "unit", "symmetric", "bytes"]

_STATISTICS: dict[InputForm, tuple[float, ...]] = {
    "imagenet": (*IMAGENET_MEAN, *IMAGENET_STD),
    "unit": (0, 0, 0, 1, 1, 1),
    "symmetric": (0.5, 0.5, 0.5, 0.5, 0.5, 0.5),
}
_SYMMETRIC = ("inceptionresnetv2", "inceptionv4", "xception")  # of smp's own encoders, all others being "imagenet"

FEATURE_BATCH = 32  # images whose features are computed at a time

_SMALLEST = {"pan": 128}  # its pyramid halves the features, of stride 16, three times
_FACTORY_ERRORS = (ValueError, NotImplementedError, RuntimeError, KeyError, TypeError)


# ----------------------------------------------------------------------------------------------------- names


def architecture_name(text: str) -> str:
    """Return the name in ARCHITECTURES of any spelling of it: "DeepLabV3+", "UNet++", "unet-plus-plus".

    Raises EvaluationError, with similar names, for an unknown one.
    """
    name = re.sub(r"[^a-z0-9]", "", text.lower().replace("+", "plus"))
    if name in ARCHITECTURES:
        return name
    near = difflib.get_close_matches(name, ARCHITECTURES) or ARCHITECTURES
    raise EvaluationError("architectures", f"{text!r} is unknown", f"choose one of {', '.join(near)}")


def _check_encoder(name: str) -> None:
    """Raise EvaluationError unless `name` is one of smp's encoders, or "tu-" before the name of a timm model."""
    own = smp.encoders.get_encoder_names()
    if name in own or (name.startswith("tu-") and timm.is_model(name.removeprefix("tu-").split(".")[0])):
        return
    near = difflib.get_close_matches(name, own + [f"tu-{model}" for model in timm.list_models()])
    remedy = f"did you mean {' or '.join(near)}?" if near else "resnet18 and resnet34 are common ones"
    raise EvaluationError("encoder", f"{name!r} is unknown to segmentation-models-pytorch", remedy)


# ---------------------------------------------------------------------------------------------------- models


def build_segmenter(
    architecture: str, encoder: str, *, num_classes: int, encoder_weights: str = "none", seed: int
) -> nn.Module:
    """Return a model on the CPU, in training mode, that maps float32 [N, 3, H, W] to logits [N, num_classes, H, W].

    encoder: a name of smp, or "tu-" before one of timm. encoder_weights: "none", a local file, or a name to download.
    seed: of random weights. Raises EvaluationError for names, pairs of them and weights that cannot be used.
    """
    name = architecture_name(architecture)
    _check_encoder(encoder)
    path = weights_file(encoder_weights)
    from_timm = path is None and not is_random(encoder_weights) and encoder.startswith("tu-")
    if from_timm:
        check_timm_download(encoder, encoder_weights)
    elif path is None and not is_random(encoder_weights):
        path = fetch(encoder, encoder_weights)
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would reset the CUDA generators, too
        model = _create(name, encoder, num_classes, encoder_weights if from_timm else None)
    if path is not None:
        load_encoder(model.encoder, path, encoder)
    return model.train()


def _create(name: str, encoder: str, num_classes: int, timm_weights: str | None) -> nn.Module:
    """Return smp's model with random weights, or with weights that timm downloads for the encoder."""
    # A vision transformer is built for one size unless it is asked to follow its input.
    more = {"dynamic_img_size": True} if name == "dpt" else {}
    pretrained = True if timm_weights else None  # which weights, timm reads from the encoder's name
    try:
        return smp.create_model(name, encoder, pretrained, in_channels=3, classes=num_classes, **more)
    except Exception as error:
        if timm_weights:  # as in fetch
            raise not_fetched(timm_weights, encoder, one_line(error)) from error
        if not isinstance(error, _FACTORY_ERRORS):
            raise
        found = f"architecture {name} cannot be built with encoder {encoder!r} ({one_line(error)})"
        raise EvaluationError("encoder", found, "choose another encoder") from error


def check_size(height: int, width: int, model: nn.Module, *, option: str = "image_size") -> None:
    """Raise EvaluationError, naming `option`, unless images of [height, width] fit the model.

    Both sides must be multiples of the encoder's output stride, mostly 32.
    """
    name, stride = type(model).__name__.lower(), int(model.encoder.output_stride)
    least = max(_SMALLEST.get(name, 0), stride)
    down, up = (
        [max(round_to(side / stride) * stride, least) for side in (height, width)]
        for round_to in (math.floor, math.ceil)
    )
    if down == up == [height, width]:
        return
    nearest = " or ".join(str(size) for size in ([down] if down == up else [down, up]))
    at_least = f" of at least {least}" if least > stride else ""
    found = f"[{height}, {width}], but {name} takes multiples of {stride}{at_least}"
    raise EvaluationError(option, found, f"use {nearest}")


# ---------------------------------------------------------------------------------------------------- inputs


def to_input(images: Tensor, form: InputForm = "imagenet") -> Tensor:
    """Return uint8 images [N, H, W, 3] as models take them: float32 [N, 3, H, W].

    form: "imagenet", less its mean and over its deviation; "unit", 0..1; "symmetric", -1..1; "bytes", 0..255.
    """
    assert images.dtype == torch.uint8
    assert images.ndim == 4
    assert images.shape[-1] == 3
    levels = images.permute(0, 3, 1, 2).float()
    if form == "bytes":
        return levels
    if form == "unit":
        return levels / 255
    if form == "symmetric":
        return levels / 127.5 - 1
    mean = torch.tensor(IMAGENET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=images.device).view(3, 1, 1)
    return (levels / 255 - mean) / std


def input_form(encoder: str) -> InputForm:
    """Return the form of images that the published weights of an encoder were trained with, as `to_input` takes it.

    That of timm's models ("tu-...", or "timm-..." of smp) is the one nearest to the mean and deviation that timm gives.
    """
    name = re.sub("^(tu|timm)-", "", encoder)
    if name == encoder or not timm.is_model(name.split(".")[0]):
        return "symmetric" if encoder in _SYMMETRIC else "imagenet"
    published = timm.get_pretrained_cfg(name)
    if published is None:
        return "imagenet"
    given = (*published.mean, *published.std)
    return min(_STATISTICS, key=lambda form: math.dist(_STATISTICS[form], given))


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Return images or logits [N, C, H, W] bilinearly brought to [N, C, height, width], smoothed where they shrink."""
    if images.shape[2:] == (height, width):
        return images
    return nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)


@torch.inference_mode()
def encoder_features(
    model: nn.Module,
    images: Images,
    *,
    device: torch.device | str,
    form: InputForm = "imagenet",
    size: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Return the means over all pixels of the encoder's deepest level, float32 [N, D], of images uint8 [N, H, W, 3].

    form: as `to_input` takes it. size: (height, width) that images are resized to; None for their own.
    """
    model.to(device).eval()
    pooled = []
    for batch in torch.from_numpy(np.ascontiguousarray(images)).split(FEATURE_BATCH):
        levels = model.encoder(resized(to_input(batch.to(device), form), *(size or batch.shape[1:3])))
        if isinstance(levels, tuple):  # a vision transformer gives (levels, prefix tokens)
            levels = levels[0]
        pooled.append(levels[-1].float().mean(dim=(2, 3)).cpu().numpy())
    return np.concatenate(pooled)
