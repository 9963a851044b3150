"""ISDM: semantic diffusion models that enlarge scarce segmentation datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guided_diffusion.pipelines.load import load_pipeline

__version__ = "0.1.0"
__all__ = ["__version__", "load_pipeline"]


def __getattr__(name: str) -> Any:
    """Import `load_pipeline` when it is asked for, as the command line answers without torch."""
    if name != "load_pipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from guided_diffusion.pipelines.load import load_pipeline

    return load_pipeline
