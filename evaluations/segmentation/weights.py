"""Weights of segmentation models: local files with various key names, and published ones that are downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
import segmentation_models_pytorch as smp
from torch import nn

from evaluations.errors import EvaluationError
from evaluations.published_weights import file_digest, first_detail, one_line, read_state

_OPTION = "encoder_weights"
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
    """Tell whether the value asks for random weights: "none" or ""."""
    return encoder_weights.strip().lower() in ("", "none")


def weights_file(encoder_weights: str) -> Path | None:
    """Return the local file, None for "none" and for downloads; EvaluationError if it is missing or of another kind."""
    if is_random(encoder_weights):
        return None
    path = Path(encoder_weights).expanduser()
    known_kind = path.suffix.lower() in _WEIGHT_FILES
    if path.is_file():
        if not known_kind:
            raise EvaluationError(_OPTION, f"not a {', '.join(_WEIGHT_FILES)} file", "convert it to one", path=path)
        return path
    if known_kind or re.search(r"[/\\]", encoder_weights):
        found = "is a folder" if path.is_dir() else "does not exist"
        raise EvaluationError(_OPTION, found, 'give a file of the encoder\'s weights, or "none"', path=path)
    return None


def fetch(encoder: str, weights: str) -> Path:
    """Return the file of published weights of one of smp's own encoders, downloaded or from the cache."""
    published = smp.encoders.encoders[encoder]["pretrained_settings"]
    if weights not in published:
        names = " or ".join(f'"{name}"' for name in published) or "no names: none are published"
        raise _unknown(weights, f'for {encoder} give {names}, a local file or "none"')
    place, answers = published[weights], _hub_answers()
    try:
        file = huggingface_hub.hf_hub_download(
            place["repo_id"], "model.safetensors", revision=place["revision"], local_files_only=not answers
        )
    except Exception as error:  # its type depends on the HTTP client of the installed huggingface_hub
        raise not_fetched(weights, encoder, one_line(error) if answers else _NO_ANSWER) from error
    return Path(file)


def check_timm_download(encoder: str, weights: str) -> None:
    """Raise EvaluationError unless timm can be asked for the weights of `encoder` ("tu-...")."""
    if weights != "imagenet":
        tag = "(a tag in the encoder's name, \"tu-model.tag\", picks timm's weights)"
        raise _unknown(weights, f'for {encoder} give "imagenet" {tag}, a local file or "none"')
    # In offline mode timm looks into its cache. Otherwise it would only do so after many retries.
    if not huggingface_hub.constants.HF_HUB_OFFLINE and not _hub_answers():
        raise not_fetched(weights, encoder, "the Hugging Face hub does not answer")


def _hub_answers() -> bool:
    """Tell whether the hub can be reached. hf_hub_download retries for 20 seconds, whatever etag_timeout is."""
    try:
        huggingface_hub.utils.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception:  # its type depends on the HTTP client of the installed huggingface_hub
        return False
    return True


def _unknown(weights: str, remedy: str) -> EvaluationError:
    return EvaluationError(_OPTION, f'"{weights}" is unknown', remedy)


def not_fetched(weights: str, encoder: str, why: str) -> EvaluationError:
    """Return the error for published weights that could not be downloaded."""
    found = f'"{weights}" of {encoder} could not be fetched ({why})'
    return EvaluationError(_OPTION, found, 'give a local file of the encoder\'s weights, or "none"')


def load_encoder(encoder: nn.Module, path: Path, name: str) -> None:
    """Load the weights in a file of an encoder or of a whole segmenter; EvaluationError if they do not fit."""
    state = read_state(path, _OPTION)
    inner = {key.removeprefix("encoder."): value for key, value in state.items() if key.startswith("encoder.")}
    expected = {_flat(key): key for key in encoder.state_dict()}
    # The layers of a classifier are left out, but an additional layer within a stage is of another encoder.
    renamed = {
        expected.get(_flat(key), key): value
        for key, value in (inner or state).items()
        if any(known.startswith(_flat(key.removeprefix("model.").split(".")[0]) + "_") for known in expected)
    }
    try:
        encoder.load_state_dict(renamed)  # some of smp's encoders rename keys of older files here, in the mapping
    except (RuntimeError, KeyError, TypeError) as error:
        found = f"does not fit encoder {name} ({first_detail(error)})"
        raise EvaluationError(_OPTION, found, 'give a file of this encoder, or "none"', path=path) from error


def _flat(key: str) -> str:
    """Return a key as it is compared: timm's models for features write "model.stages_0" for "stages.0"."""
    return key.removeprefix("model.").replace(".", "_")
