"""SamplingPipeline: a trained network, loaded once, that makes images of conditions and seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from guided_diffusion.conditions.base import Condition
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import read_config
from guided_diffusion.config.pipeline import SamplingConfig
from guided_diffusion.data.masks.encoding import edges_from_instances
from guided_diffusion.diffusion.denoiser import Denoiser, NetworkFunction, X0Hook
from guided_diffusion.diffusion.gaussian import GaussianDiffusion, build_diffusion
from guided_diffusion.diffusion.guidance import ConditionedModel, ConditionFn, GuidedNetwork, guided_steps
from guided_diffusion.diffusion.label_diffusion import LabelDiffusion, label_generators
from guided_diffusion.diffusion.options import SAMPLER_DEFAULTS, DiffusionOptions, SamplerOptions
from guided_diffusion.diffusion.samplers import SAMPLERS, draw_noise
from guided_diffusion.diffusion.x0_hooks import Extrapolation, clip, dynamic_threshold
from guided_diffusion.runtime.errors import ConfigError, DataError

Progress = Callable[[int, int], None]
"""(sampling steps done, steps in all), counted for each image."""
BuildNetwork = Callable[[Condition, ConditionFn | None], NetworkFunction]
"""(the condition of a batch, what changes it at each step) -> the network function that samplers call."""


class Cancelled(Exception):
    """Sampling was given up because its `cancelled` said so."""


def sampling_process(sampler: SamplerOptions, diffusion: DiffusionOptions) -> GaussianDiffusion:
    """Return the noise process with the steps that are asked for, or as many as the sampler has by default.

    Raises ConfigError where there are fewer steps in the noise process.
    """
    if sampler.timestep_respacing != "":
        return build_diffusion(diffusion, sampler.timestep_respacing)
    default = SAMPLER_DEFAULTS[sampler.sampler]
    steps = sampler.steps or min(default.steps, diffusion.diffusion_steps)
    return build_diffusion(diffusion, steps=steps, time_grid=sampler.time_grid or default.time_grid)


def spacing(sampler: SamplerOptions) -> str | None:
    """Return what, beside their number, tells which timesteps are visited: None where they are evenly spaced.

    None is also what a folder says that was begun before there was a choice, so that it can be resumed.
    """
    respacing = str(sampler.timestep_respacing).replace(" ", "")
    named = sampler.time_grid if respacing == "" else respacing
    return None if named == "uniform" or respacing.isdecimal() else named


class SamplingPipeline:
    """A trained network and all that sampling from it needs; called many times, with different settings."""

    def __init__(
        self,
        model: ConditionedModel,
        diffusion: DiffusionOptions,
        *,
        image_shape: tuple[int, int, int],
        num_classes: int,
        device: torch.device,
        conditional: bool = True,
        with_edges: bool = False,
        amp_dtype: torch.dtype | None = None,
        label_diffusion: Callable[[GaussianDiffusion], LabelDiffusion | None] = lambda process: None,
        class_names: Sequence[str] = (),
    ):
        """Take a network on `device` that is in evaluation mode whenever it is sampled from.

        image_shape: (C, H, W). conditional: false for a network without a condition, which ignores label maps.
        with_edges: the condition has instance edges. amp_dtype: the type the network runs in.
        label_diffusion: makes the label process for the steps of a noise process, None where there is none.
        """
        self.model = model
        self.diffusion = diffusion
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.device = device
        self.conditional = conditional
        self.with_edges = with_edges
        self.amp_dtype = amp_dtype
        self.label_diffusion = label_diffusion
        self.class_names = tuple(class_names)

    def begin(
        self,
        sampler: SamplerOptions,
        *,
        extrapolation: float | None = None,
        noise_device: torch.device | str | None = None,
        network: BuildNetwork | None = None,
    ) -> SamplingRun:
        """Return the run that samples batch by batch with one setting, whose published spellings are resolved.

        noise_device: where noise is drawn, None for the pipeline's. network: in place of the guided network.
        Raises ConfigError where the setting does not fit the noise process.
        """
        return SamplingRun(
            self,
            sampler,
            extrapolation=extrapolation,
            noise_device=torch.device(self.device if noise_device is None else noise_device),
            network=network,
        )

    def __call__(
        self,
        conditions: SemanticMap | NoCondition | ArrayLike,
        seeds: Sequence[int],
        *,
        s: float = 1.0,
        steps: int | None = None,
        sampler: str | None = None,
        batch_size: int = 8,
        extrapolation: float | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Tensor:
        """Return an image for each condition and seed, [N, C, H, W] float32 in [-1, 1] on the CPU.

        conditions: integers [N, H, W], a class or `num_classes` (none) a pixel; or a SemanticMap or NoCondition.
        options: as in `SamplerOptions`, with its defaults. Raises UserError for misfits, Cancelled on request.
        """
        condition, seeds = self.condition_of(conditions), _checked_seeds(seeds)
        if len(condition) != len(seeds):
            raise ConfigError(f"seeds: found {len(seeds)} for {len(condition)} conditions: give one for each")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}: use at least 1")
        given = {"s": s, "steps": steps, "extrapolation": extrapolation, **options}
        # Left out where it is not given: a published spelling may stand for it.
        setting = read_config(SamplingConfig, given if sampler is None else {**given, "sampler": sampler})
        run = self.begin(setting.sampler, extrapolation=setting.extrapolation)
        images = torch.empty(len(seeds), *self.image_shape)
        for start in range(0, len(seeds), batch_size):
            part = slice(start, start + batch_size)
            report = _shifted(progress, start * run.num_steps, len(seeds) * run.num_steps)
            images[part] = run(condition[part], seeds[part], progress=report, cancelled=cancelled)
        return images

    def condition_of(self, conditions: SemanticMap | NoCondition | ArrayLike) -> Condition:
        """Return what the network is conditioned by: checked label maps [N, H, W], with edges where it has them.

        Raises DataError for maps of another size or type, or with numbers that are no class.
        """
        if isinstance(conditions, NoCondition):
            if self.conditional or conditions.size != self.image_shape[1:]:
                takes = "label maps" if self.conditional else f"conditions of size {list(self.image_shape[1:])}"
                raise DataError(f"conditions: found none, of size {list(conditions.size)}, but the model takes {takes}")
            return conditions
        if isinstance(conditions, SemanticMap):
            if conditions.num_classes != self.num_classes:
                raise DataError(
                    f"conditions: have {conditions.num_classes} classes, but the model has {self.num_classes}"
                )
            if (conditions.edge is not None) != self.with_edges:
                raise DataError(
                    f"conditions: the model was trained with{'' if self.with_edges else 'out'} instance edges; give "
                    "label maps as integers, whose edges are made here"
                )
            self._check_labels(conditions.label)
            return conditions
        label = _label_tensor(conditions)
        self._check_labels(label)
        edge = edges_from_instances(label.int()) if self.with_edges else None
        return SemanticMap(label.to(torch.uint8 if self.num_classes < 256 else torch.int16), self.num_classes, edge)

    def _check_labels(self, label: Tensor) -> None:
        size = self.image_shape[1:]
        if label.ndim != 3 or label.shape[1:] != size:
            raise DataError(
                f"conditions: found shape {list(label.shape)}, but the model takes label maps [N, {size[0]}, "
                f"{size[1]}]: resize them without interpolation"
            )
        wrong = ((label < 0) | (label > self.num_classes)).flatten(1).any(1)
        if wrong.any():
            index = int(wrong.nonzero()[0])
            values = label[index][(label[index] < 0) | (label[index] > self.num_classes)]
            raise DataError(
                f"conditions: map {index} has the value {int(values[0])}, but the classes are 0 to "
                f"{self.num_classes - 1} ({self.num_classes}: no class)"
            )


class SamplingRun:
    """Samples with one setting, any number of batches; the weights must not change meanwhile."""

    def __init__(
        self,
        pipeline: SamplingPipeline,
        sampler: SamplerOptions,
        *,
        extrapolation: float | None,
        noise_device: torch.device,
        network: BuildNetwork | None,
    ):
        if not pipeline.conditional and sampler.s != 1:
            raise ConfigError(f"s is {sampler.s:g}, but the model has no condition to guide towards: set s to 1")
        self.process = sampling_process(sampler, pipeline.diffusion)
        guided_steps(self.process, sampler.guidance_interval)
        self._pipeline = pipeline
        self._sampler = sampler
        self._extrapolation = extrapolation
        self._noise_device = noise_device
        self._build_network = network
        self._guided: GuidedNetwork | None = None
        self._label_diffusion = pipeline.label_diffusion(self.process) if pipeline.conditional else None
        self._hooks()  # a mistake in their options is raised here

    @property
    def num_steps(self) -> int:
        """Sampling steps of an image."""
        return self.process.num_timesteps

    def __call__(
        self,
        condition: Condition,
        seeds: Sequence[int],
        *,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Tensor:
        """Return the images of one batch, [N, C, H, W] float32 on the CPU; in [-1, 1] where they are clipped.

        Image i depends on condition i and seed i alone. Raises Cancelled after the step in which `cancelled()` is true.
        """
        assert len(condition) == len(seeds), "one seed an image"
        pipeline, options = self._pipeline, self._sampler

        def after_step(done: int, total: int, x: Tensor) -> None:
            if progress is not None:
                progress(done * len(seeds), total * len(seeds))
            if cancelled is not None and cancelled():
                raise Cancelled(f"cancelled after {done} of {total} steps")

        if cancelled is not None and cancelled():
            raise Cancelled("cancelled before the first step")
        generators = [torch.Generator(self._noise_device).manual_seed(seed) for seed in seeds]
        keywords = {"eta": options.eta} if options.sampler == "ddim" else {}
        with torch.inference_mode():
            network = self._network(condition.to(pipeline.device), seeds)
            images = SAMPLERS[options.sampler](
                Denoiser(network, self.process, self._hooks()),
                self.process,
                draw_noise(generators, pipeline.image_shape, pipeline.device),
                generators=generators,
                callback=after_step,
                **keywords,
            )
        return images.cpu()

    def _network(self, condition: Condition, seeds: Sequence[int]) -> NetworkFunction:
        """Return the network function of a batch; what the null condition gives is computed in the first one."""
        noisy_condition_fn = None
        if self._label_diffusion is not None:
            noisy_condition_fn = self._label_diffusion.condition_sampler(label_generators(seeds, self._noise_device))
        if self._build_network is not None:
            return self._build_network(condition, noisy_condition_fn)
        if self._guided is None:
            self._guided = GuidedNetwork(
                self._pipeline.model,
                self.process,
                condition,
                scale=self._sampler.s,
                interval=self._sampler.guidance_interval,
                amp_dtype=self._pipeline.amp_dtype,
                condition_fn=noisy_condition_fn,
            )
        else:
            self._guided = self._guided.with_condition(condition, noisy_condition_fn)
        return self._guided

    def _hooks(self) -> list[X0Hook]:
        """Return what is done to the predicted images, in the published order; extrapolation begins anew."""
        hooks: list[X0Hook] = []
        if self._extrapolation is not None:
            hooks.append(Extrapolation(self._extrapolation))
        if self._sampler.dynamic_threshold is not None:
            hooks.append(dynamic_threshold(self._sampler.dynamic_threshold))
        if self._sampler.clip_denoised:
            hooks.append(clip)
        return hooks


def _label_tensor(labels: ArrayLike) -> Tensor:
    """Return label maps as a tensor of integers; DataError for other numbers."""
    array = labels.numpy(force=True) if isinstance(labels, Tensor) else np.asarray(labels)
    if array.dtype.kind not in "iub":
        raise DataError(f"conditions: found type {array.dtype}, but label maps are integers, the class of each pixel")
    return torch.from_numpy(array.astype(np.int64))


def _checked_seeds(seeds: Sequence[int]) -> list[int]:
    found = [int(seed) for seed in seeds]
    wrong = next((seed for seed in found if not 0 <= seed < 2**63), None)
    if wrong is not None:
        raise ConfigError(f"seeds: found {wrong}: use whole numbers from 0 to 2^63 - 1")
    return found


def _shifted(progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return the progress of a batch, told as part of all batches."""
    return None if progress is None else lambda done, _: progress(before + done, total)
