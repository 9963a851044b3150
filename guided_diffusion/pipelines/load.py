"""From a file of weights to the pipeline that samples from them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from guided_diffusion.config.load import read_config
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.pipeline import LoadConfig
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.scan.images import NO_CLASSES
from guided_diffusion.models.compilation import compile_network, wants_compiling
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.build import AMP_DTYPES, network_from_checkpoint, trained_config
from guided_diffusion.pipelines.generation import GenerationPipeline, generation_of_checkpoint
from guided_diffusion.pipelines.label_diffusion import eta_of_sampling
from guided_diffusion.pipelines.latent import code_of, first_stage_of_checkpoint
from guided_diffusion.pipelines.masks import encoding_of_mode
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import choose_device
from guided_diffusion.runtime.errors import CheckpointError


def load_pipeline(
    path: str | Path,
    *,
    weights: str = "ema",
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    compile: Literal["auto"] | bool = "auto",
    **trained: Any,
) -> SamplingPipeline | GenerationPipeline:
    """Return the pipeline of a run folder, a checkpoint file, bare weights (.pt, .safetensors) or `hf:user/repo`.

    That of a model trained with `generates` mask or pair is a GenerationPipeline, which takes classes for maps.
    weights: "ema", "raw" or an EMA rate. trained: keys of `sample` that bare weights need (dataset_mode, image_size,
    ...). Raises UserError naming what is missing or does not fit.
    """
    given = {"model_path": str(path), "weights": weights, "device": device, "precision": precision, "compile": compile}
    config = read_config(LoadConfig, {**given, **trained})
    checkpoint = load_checkpoint(find_checkpoint(config.weights.model_path, prefer=BEST))
    options = trained_config(checkpoint, config)
    names = class_names_of(checkpoint, options)
    pipeline = pipeline_of_config(config, checkpoint, options, names, choose_device(config.precision.device))
    label_diffusion = options.label_diffusion.cond_diffuse
    if wants_compiling(config.precision.compile, pipeline.device, label_diffusion=label_diffusion):
        assert isinstance(pipeline.model, UNetModel)
        compile_network(pipeline.model, failed=None if config.precision.compile is True else warnings.warn)
    generation = generation_of_checkpoint(checkpoint)
    return pipeline if generation is None else GenerationPipeline(pipeline, generation.rules)


def pipeline_of_config(
    config: LoadConfig, checkpoint: Checkpoint, trained: TrainedConfig, class_names: Sequence[str], device: torch.device
) -> SamplingPipeline:
    """Return the pipeline of a checkpoint, with the weights and in the precision that `config` asks for."""
    return pipeline_of_checkpoint(
        checkpoint,
        trained,
        class_names,
        weights=config.weights.weights,
        device=device,
        precision=config.precision.precision,
        eta_path=config.eta_path,
    )


def pipeline_of_checkpoint(
    checkpoint: Checkpoint,
    trained: TrainedConfig,
    class_names: Sequence[str],
    *,
    weights: str,
    device: torch.device,
    precision: str = "fp32",
    eta_path: str = "",
) -> SamplingPipeline:
    """Return the pipeline of the weights called `weights`, not compiled; only bare weights need `eta_path`."""
    eta = eta_of_sampling(trained, eta_path, class_names)
    generation = generation_of_checkpoint(checkpoint)
    code = code_of(
        None if generation is None else generation.code, first_stage_of_checkpoint(checkpoint, trained.latents.latent)
    )
    model = network_from_checkpoint(checkpoint, trained, weights, code).to(device).eval()
    return SamplingPipeline(model, trained, tuple(class_names), device, AMP_DTYPES[precision], eta, code)


def class_names_of(checkpoint: Checkpoint, trained: TrainedConfig) -> tuple[str, ...]:
    """Return the names of the classes of a network; bare weights have those of their mode, if they take masks."""
    encoding = encoding_of_checkpoint(checkpoint)
    if encoding is None:
        encoding = NO_CLASSES if trained.model.condition == "none" else encoding_of_mode(trained.source)
    return encoding.names


def encoding_of_checkpoint(checkpoint: Checkpoint) -> LabelEncoding | None:
    """Return the encoding of the masks that a network was trained with, None for bare weights."""
    if not checkpoint.encoding:
        return None
    try:
        return LabelEncoding.from_dict(checkpoint.encoding)
    except (AssertionError, AttributeError, TypeError, ValueError):
        found = "its classes are not those of a training"
        raise CheckpointError.of(checkpoint.path, found, "it was tampered with: copy it again") from None


def warn_of_untrained_guidance(checkpoint: Checkpoint, s: float) -> None:
    """Print a warning where the guidance scale `s` needs a branch without a mask that was never trained."""
    if s != 1 and checkpoint.lineage.get("saw_dropped_masks") is False:
        print(
            f"warning: s is {s:g}, but {checkpoint.path} never saw a dropped mask in training, so its branch "
            "without a mask, which guidance needs, is untrained; finetune it first, or set s to 1"
        )
