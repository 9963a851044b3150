"""ISDM: semantic diffusion models that enlarge scarce segmentation datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from guided_diffusion.pipelines.sampling import SamplingPipeline

__version__ = "0.1.0"
__all__ = ["__version__", "load_pipeline"]


def load_pipeline(
    path: str | Path,
    *,
    weights: str = "ema",
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    compile: Literal["auto"] | bool = "auto",
    **trained: Any,
) -> SamplingPipeline:
    """Return what samples from a run folder, a checkpoint file or bare weights (.pt, .safetensors).

    weights: "ema", "raw" or an EMA rate. trained: what bare weights do not tell (dataset_mode, image_size, ...), by the
    keys of `sample`. Raises UserError naming what is missing or does not fit.
    """
    # Imported here, as the command line answers without torch.
    from guided_diffusion.pipelines import load

    return load.load_pipeline(path, weights=weights, device=device, precision=precision, compile=compile, **trained)
