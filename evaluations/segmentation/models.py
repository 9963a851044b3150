"""Segmentation models of segmentation-models-pytorch: built from names, with weights from a local file or none.

Images are uint8 in RGB and go into a model through `to_input`.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import huggingface_hub
import numpy as np
import segmentation_models_pytorch as smp
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluations.errors import EvaluationError

ARCHITECTURES: tuple[str, ...] = tuple(smp.MODEL_ARCHITECTURES_MAPPING)

MIN_BATCH = 2
"""The smallest training batch that all architectures take: DeepLabV3+ and UPerNet normalise globally pooled features
over the batch, which has no variance with one image; so does any encoder whose deepest level is one pixel."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in 0..1: what torchvision's ImageNet weights were trained with."""

InputForm = Literal["imagenet", "unit", "symmetric", "bytes"]

_WEIGHT_FILES = (".pt", ".pth", ".safetensors")
_SMALLEST = {"pan": 128}  # its pyramid halves the features, of stride 16, three times
_PROBE_SECONDS = 5.0
_NO_ANSWER = "the Hugging Face hub does not answer, and the cache does not have them"
_FACTORY_ERRORS = (ValueError, NotImplementedError, RuntimeError, KeyError, TypeError)


# ----------------------------------------------------------------------------------------------------- names


def architecture_name(text: str) -> str:
    """Return the name in ARCHITECTURES of any spelling of it: "DeepLabV3+", "UNet++", "unet-plus-plus".

    Raises EvaluationError, with the names that come near, for what is no architecture.
    """
    name = re.sub(r"[^a-z0-9]", "", text.lower().replace("+", "plus"))
    if name in ARCHITECTURES:
        return name
    near = difflib.get_close_matches(name, ARCHITECTURES) or ARCHITECTURES
    raise EvaluationError(f"architecture {text!r} is unknown; choose one of {', '.join(near)}")


def _check_encoder(name: str) -> None:
    """Raise EvaluationError unless `name` is one of smp's encoders, or "tu-" before the name of a timm model."""
    own = smp.encoders.get_encoder_names()
    if name in own or (name.startswith("tu-") and timm.is_model(name.removeprefix("tu-").split(".")[0])):
        return
    near = difflib.get_close_matches(name, own + [f"tu-{model}" for model in timm.list_models()])
    choice = f"did you mean {' or '.join(near)}?" if near else "resnet18 and resnet34 are common ones"
    raise EvaluationError(f"encoder {name!r} is unknown to segmentation-models-pytorch; {choice}")


# ---------------------------------------------------------------------------------------------------- models


def build_segmenter(
    architecture: str, encoder: str, *, num_classes: int, encoder_weights: str = "none", seed: int
) -> nn.Module:
    """Return a model on the CPU, in training mode, that maps float32 [N, 3, H, W] to logits [N, num_classes, H, W].

    architecture: as `architecture_name` takes it.
    encoder: a name of segmentation-models-pytorch, or "tu-" before the name of a timm model.
    encoder_weights: "none" or "" for random weights; a .pt, .pth or .safetensors file with the encoder's state
        dictionary under torchvision's or timm's names; anything else is downloaded ("imagenet").
    seed: of all random weights. The global random state is left as it was.

    Raises EvaluationError for unknown names, for an encoder that the architecture cannot use, and for weights that
    cannot be read, do not fit or cannot be fetched.
    """
    name = architecture_name(architecture)
    _check_encoder(encoder)
    path = _weights_file(encoder_weights)
    from_timm = path is None and not _is_none(encoder_weights) and encoder.startswith("tu-")
    if from_timm:
        _check_timm_download(encoder, encoder_weights)
    elif path is None and not _is_none(encoder_weights):
        path = _fetch(encoder, encoder_weights)
    with _seeded(seed):
        model = _create(name, encoder, num_classes, encoder_weights if from_timm else None)
    if path is not None:
        _load_encoder(model.encoder, path, encoder)
    return model.train()


def _create(name: str, encoder: str, num_classes: int, timm_weights: str | None) -> nn.Module:
    """Return smp's model, with random weights unless timm is to download those of the encoder."""
    # A vision transformer is built for one size unless it is asked to follow its input.
    more = {"dynamic_img_size": True} if name == "dpt" else {}
    pretrained = True if timm_weights else None  # which of them, timm reads from the encoder's name
    try:
        return smp.create_model(name, encoder, pretrained, in_channels=3, classes=num_classes, **more)
    except Exception as error:
        if timm_weights:  # as in _fetch
            raise _unfetched(timm_weights, encoder, _one_line(error)) from error
        if not isinstance(error, _FACTORY_ERRORS):
            raise
        raise EvaluationError(
            f"architecture {name} cannot be built with encoder {encoder!r}: {_one_line(error)}; choose another encoder"
        ) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` on the CPU and restore the generator; torch.manual_seed would also reset the CUDA ones."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def check_size(height: int, width: int, model: nn.Module | str, *, option: str = "image_size") -> None:
    """Raise EvaluationError, naming `option`, unless images of [height, width] fit the model or architecture.

    Both sides must be multiples of the encoder's output stride, mostly 32.
    """
    if isinstance(model, str):
        name = architecture_name(model)
        stride = _output_stride(name)
    else:
        name = type(model).__name__.lower()
        stride = int(model.encoder.output_stride)
    least = max(_SMALLEST.get(name, 0), stride)
    if all(side >= least and side % stride == 0 for side in (height, width)):
        return
    choices = [
        [max(side // stride * stride, least), max(-(-side // stride) * stride, least)] for side in (height, width)
    ]
    nearest = " or ".join(dict.fromkeys(f"[{tall}, {wide}]" for tall, wide in zip(*choices, strict=True)))
    at_least = f" of at least {least}" if least > stride else ""
    raise EvaluationError(
        f"{option} is [{height}, {width}], but {name} takes multiples of {stride}{at_least}: use {nearest}"
    )


def _output_stride(name: str) -> int:
    """Return the stride of the deepest features of an architecture as smp builds it by default."""
    options = inspect.signature(smp.MODEL_ARCHITECTURES_MAPPING[name]).parameters
    deepest = 2 ** options["encoder_depth"].default
    return min(deepest, options["encoder_output_stride"].default) if "encoder_output_stride" in options else deepest


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


def resized(images: Tensor, height: int, width: int) -> Tensor:
    """Return images or logits [N, C, H, W] bilinearly brought to [N, C, height, width], smoothed where they shrink."""
    if images.shape[2:] == (height, width):
        return images
    return nn.functional.interpolate(images, (height, width), mode="bilinear", antialias=True)


def encoder_features(
    model: nn.Module,
    images: NDArray[np.uint8],
    *,
    batch_size: int,
    device: torch.device | str,
    form: InputForm = "imagenet",
    size: tuple[int, int] | None = None,
) -> NDArray[np.float32]:
    """Return the means over all pixels of the encoder's deepest level, float32 [N, D], of images uint8 [N, H, W, 3].

    A feature space that needs no download. The model moves to `device` and keeps its training or evaluation mode.

    form: as `to_input` takes it. size: (height, width) that images are resized to; None: none.
    """
    assert len(images) > 0
    was_training = model.training
    model.to(device).eval()
    pooled = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size])).to(device)
                levels = model.encoder(resized(to_input(batch, form), *(size or batch.shape[1:3])))
                if isinstance(levels, tuple):  # a vision transformer gives (levels, prefix tokens)
                    levels = levels[0]
                pooled.append(levels[-1].float().mean(dim=(2, 3)).cpu().numpy())
    finally:
        model.train(was_training)
    return np.concatenate(pooled)


# --------------------------------------------------------------------------------------------------- weights


def weights_digest(encoder_weights: str) -> str | None:
    """Return the first 16 hexadecimal digits of a local file's SHA-256; None for "none" and for downloads.

    Raises EvaluationError when the file is missing.
    """
    path = _weights_file(encoder_weights)
    return None if path is None else file_digest(path)


def file_digest(path: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _is_none(encoder_weights: str) -> bool:
    return encoder_weights.strip().lower() in ("", "none")


def _weights_file(encoder_weights: str) -> Path | None:
    """Return the local file that is meant, None when none is; EvaluationError when it is missing or of another kind."""
    if _is_none(encoder_weights):
        return None
    path = Path(encoder_weights).expanduser()
    if path.is_file():
        if path.suffix.lower() not in _WEIGHT_FILES:
            raise EvaluationError(f"encoder_weights {path} is no {', '.join(_WEIGHT_FILES)} file: convert it to one")
        return path
    if path.suffix.lower() in _WEIGHT_FILES or re.search(r"[/\\]", encoder_weights):
        found = "is a folder" if path.is_dir() else "does not exist"
        raise EvaluationError(f'encoder_weights {path} {found}: give a file of the encoder\'s weights, or "none"')
    return None


def _fetch(encoder: str, weights: str) -> Path:
    """Return the file of published weights of one of smp's own encoders, downloaded or from the cache."""
    published = smp.encoders.encoders[encoder]["pretrained_settings"]
    if weights not in published:
        names = " or ".join(f'"{name}"' for name in published) or "no names: none are published"
        raise EvaluationError(
            f'encoder_weights "{weights}" is unknown: for {encoder} give {names}, a local file or "none"'
        )
    place, answers = published[weights], _hub_answers()
    try:
        file = huggingface_hub.hf_hub_download(
            place["repo_id"], "model.safetensors", revision=place["revision"], local_files_only=not answers
        )
    except Exception as error:  # which ones come depends on the HTTP client of the installed huggingface_hub
        raise _unfetched(weights, encoder, _one_line(error) if answers else _NO_ANSWER) from error
    return Path(file)


def _check_timm_download(encoder: str, weights: str) -> None:
    """Raise EvaluationError unless timm can be asked for the weights of `encoder` ("tu-...")."""
    if weights != "imagenet":
        raise EvaluationError(
            f'encoder_weights "{weights}" is unknown: for {encoder} give "imagenet" (a tag in the encoder\'s name, '
            f'"tu-model.tag", picks timm\'s weights), a local file or "none"'
        )
    # Told to be offline, timm looks into its cache; else it would not before its retries end.
    if not huggingface_hub.constants.HF_HUB_OFFLINE and not _hub_answers():
        raise _unfetched(weights, encoder, "the Hugging Face hub does not answer")


def _hub_answers() -> bool:
    """Tell whether the hub can be reached. Its own retries would take half a minute to find out."""
    try:
        huggingface_hub.utils.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # which ones come depends on the HTTP client of the installed huggingface_hub
        return False
    return True


def _unfetched(weights: str, encoder: str, why: str) -> EvaluationError:
    return EvaluationError(
        f'encoder_weights "{weights}" of {encoder} could not be fetched ({why}): '
        'give a local file of the encoder\'s weights, or "none"'
    )


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(".;: ")[:200] if text else type(error).__name__


def _load_encoder(encoder: nn.Module, path: Path, name: str) -> None:
    """Load the weights of the file into `encoder`; EvaluationError naming some keys when they do not fit."""
    state = _renamed(_encoder_of(read_state(path, "encoder_weights")), encoder.state_dict().keys())
    # A classifier's layers are no part of an encoder, but a layer too many in one of its stages is of another encoder.
    flat = [_flat(key) for key in encoder.state_dict()]
    parts = {part: _has_part(flat, part) for part in {_part(key) for key in state}}
    state = {key: value for key, value in state.items() if parts[_part(key)]}
    misfits = misfits_of(encoder, state)
    try:
        encoder.load_state_dict(dict(state))  # some of smp's encoders rename keys of older files here, in the mapping
    except (RuntimeError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"encoder_weights {path} does not fit encoder {name}: {misfits or _one_line(error)}; "
            'give a file of this encoder, or "none"'
        ) from error


def read_state(path: Path, option: str) -> dict[str, Tensor]:
    """Return the state dictionary in a file, without the wrapping and the prefixes that trainers add.

    Raises EvaluationError, naming `option`, for a file that is damaged or holds anything else; no code in it is run.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            state = load_file(path, device="cpu")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in zip, pickle, json or torch
        raise EvaluationError(
            f"{option} {path} could not be read as weights ({type(error).__name__}): save a state dictionary "
            "of tensors alone"
        ) from error
    for wrapping in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise EvaluationError(f"{option} {path} holds no state dictionary: save one of tensors alone")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _encoder_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    inner = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    return inner or state  # of a whole segmenter, the encoder alone


def _flat(key: str) -> str:
    """Return a key as it is compared: timm's models for features write "model.stages_0" for "stages.0"."""
    return key.removeprefix("model.").replace(".", "_")


def _part(key: str) -> str:
    """Return the name of the outermost module: "layer1" of "layer1.0.conv1.weight"."""
    return key.removeprefix("model.").split(".")[0]


def _has_part(flat: Iterable[str], part: str) -> bool:
    return any(key.startswith(f"{part}_") for key in flat)


def _renamed(state: dict[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    names = {_flat(key): key for key in expected}
    return {names.get(_flat(key), key): value for key, value in state.items()}


def misfits_of(model: nn.Module, state: dict[str, Tensor]) -> str:
    """Return in words which keys are missing, too many or of another shape; "" when all fit."""
    expected = model.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in expected]
    misshaped = [
        f"{key} {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    words = []
    for title, keys in (("missing", missing), ("unknown", unknown), ("of another shape", misshaped)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            words.append(f"{title} {', '.join(keys[:3])}{more}")
    return "; ".join(words)
