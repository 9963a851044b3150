"""Weights of segmentation models: local files of several spellings, and published ones that are downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub
import segmentation_models_pytorch as smp
from torch import Tensor, nn

from evaluations.errors import EvaluationError
from evaluations.published_weights import file_digest, one_line, read_state

_WEIGHT_FILES = (".pt", ".pth", ".safetensors")
_PROBE_SECONDS = 5.0
_NO_ANSWER = "the Hugging Face hub does not answer, and the cache does not have them"


def weights_digest(encoder_weights: str) -> str | None:
    """Return the first 16 hexadecimal digits of a local file's SHA-256; None for "none" and for downloads.

    Raises EvaluationError when the file is missing.
    """
    path = weights_file(encoder_weights)
    return None if path is None else file_digest(path)


def is_random(encoder_weights: str) -> bool:
    """Tell whether "none" or "" is given, for random weights."""
    return encoder_weights.strip().lower() in ("", "none")


def weights_file(encoder_weights: str) -> Path | None:
    """Return the local file that is meant, None when none is; EvaluationError when it is missing or of another kind."""
    if is_random(encoder_weights):
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


def fetch(encoder: str, weights: str) -> Path:
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
        raise unfetched(weights, encoder, one_line(error) if answers else _NO_ANSWER) from error
    return Path(file)


def check_timm_download(encoder: str, weights: str) -> None:
    """Raise EvaluationError unless timm can be asked for the weights of `encoder` ("tu-...")."""
    if weights != "imagenet":
        raise EvaluationError(
            f'encoder_weights "{weights}" is unknown: for {encoder} give "imagenet" (a tag in the encoder\'s name, '
            f'"tu-model.tag", picks timm\'s weights), a local file or "none"'
        )
    # Told to be offline, timm looks into its cache; else it would not before its retries end.
    if not huggingface_hub.constants.HF_HUB_OFFLINE and not _hub_answers():
        raise unfetched(weights, encoder, "the Hugging Face hub does not answer")


def _hub_answers() -> bool:
    """Tell whether the hub can be reached. hf_hub_download needs 20 seconds, whatever etag_timeout is: it retries."""
    try:
        huggingface_hub.utils.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # which ones come depends on the HTTP client of the installed huggingface_hub
        return False
    return True


def unfetched(weights: str, encoder: str, why: str) -> EvaluationError:
    """Return the error for published weights that could not be downloaded."""
    return EvaluationError(
        f'encoder_weights "{weights}" of {encoder} could not be fetched ({why}): '
        'give a local file of the encoder\'s weights, or "none"'
    )


def load_encoder(encoder: nn.Module, path: Path, name: str) -> None:
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
            f"encoder_weights {path} does not fit encoder {name}: {misfits or one_line(error)}; "
            'give a file of this encoder, or "none"'
        ) from error


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
