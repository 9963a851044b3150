"""What manifests record of how samples came about, so that a folder is continued with the same settings alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guided_diffusion.config.generate import GenerateConfig
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.studio import StudioConfig
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.files import digest
from guided_diffusion.runtime.hub_address import origin_of


def spacing(sampler: SamplerOptions) -> str | None:
    """Return how the timesteps are spread, as the manifest records it: None where they are evenly spaced.

    Folders from before there was a choice have no such entry, so they can be resumed.
    """
    respacing = str(sampler.timestep_respacing).replace(" ", "")
    named = sampler.time_grid if respacing == "" else respacing
    return None if named == "uniform" or respacing.isdecimal() else named


def recorded_settings(
    config: SampleConfig | PlaceConfig | GenerateConfig, trained: TrainedConfig, checkpoint: Checkpoint, num_steps: int
) -> dict[str, Any]:
    """Return what all samples of one run have in common, by the keys of `SampleSettings`, as manifests record it.

    Keys that were added later are None where they are off, as folders from before do not have them.
    """
    return {
        "run_seed": config.seed,
        **sampler_settings(config.sampler, num_steps),
        **network_settings(config, trained, checkpoint),
    }


def sampler_settings(sampler: SamplerOptions, num_steps: int) -> dict[str, Any]:
    """Return what manifests record of how noise became an image; see `recorded_settings`."""
    return {
        "sampler": sampler.sampler,
        "steps": num_steps,
        "time_grid": spacing(sampler),
        "eta": sampler.eta,
        "s": sampler.s,
        "guidance_interval": list(sampler.guidance_interval) if sampler.guidance_interval else None,
        "clip_denoised": sampler.clip_denoised,
        "dynamic_threshold": sampler.dynamic_threshold,
    }


def network_settings(
    config: SampleConfig | PlaceConfig | GenerateConfig | StudioConfig, trained: TrainedConfig, checkpoint: Checkpoint
) -> dict[str, Any]:
    """Return what manifests record of the network, whose file is read whole; see `recorded_settings`."""
    labels = trained.label_diffusion
    return {
        "extrapolation": config.extrapolation,
        "cond_diffuse": labels.cond_diffuse or None,
        "cond_opt": labels.cond_opt if labels.cond_diffuse else None,
        "eta_path": digest(Path(config.eta_path)) if config.eta_path else None,
        "weights": config.weights.weights,
        "precision": config.precision.precision,
        "checkpoint": digest(checkpoint.path),
        "hub": origin_of(checkpoint.path) or None,
        "geometry": _other_geometry(checkpoint, trained) or None,
    }


def _other_geometry(checkpoint: Checkpoint, trained: TrainedConfig) -> dict[str, Any]:
    """Return how conditions and holes are read, as far as that is not as in training."""
    if checkpoint.is_bare:
        return {}
    before, now = options_of_checkpoint(checkpoint).geometry, trained.geometry
    keys = ("resize", "scale", "mask_resize")
    return {key: getattr(now, key) for key in keys if getattr(now, key) != getattr(before, key)}
