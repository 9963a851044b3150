"""SamplingPipeline: a trained network, loaded once, that makes images from conditions and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from guided_diffusion.conditions.base import Condition
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import read_config
from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.config.pipeline import SamplingConfig
from guided_diffusion.diffusion.denoiser import Denoiser, NetworkFunction, X0Hook
from guided_diffusion.diffusion.gaussian import GaussianDiffusion, build_diffusion
from guided_diffusion.diffusion.guidance import ConditionedModel, ConditionFn, GuidedNetwork, guided_steps
from guided_diffusion.diffusion.label_diffusion import label_generators
from guided_diffusion.diffusion.latent import Code, LatentCode
from guided_diffusion.diffusion.options import SAMPLER_DEFAULTS, DiffusionOptions, SamplerOptions
from guided_diffusion.diffusion.samplers import SAMPLERS, Callback, draw_noise
from guided_diffusion.diffusion.x0_hooks import Extrapolation, clip, dynamic_threshold
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.given import Given, checked_condition, checked_region
from guided_diffusion.pipelines.label_diffusion import label_process
from guided_diffusion.pipelines.latent import latent_reduction
from guided_diffusion.runtime.errors import ConfigError, UserError

Progress = Callable[[int, int], None]
"""(sampling steps done, steps in all), counted for each image."""
BuildNetwork = Callable[[Condition, ConditionFn | None], NetworkFunction]
"""(the condition of a batch, what changes it at each step) -> the network function that samplers call."""


_MOST_SIGNAL = 0.15
"""The largest share of an image, sqrt(abar), at a noise level where sampling may begin with noise alone."""


class Cancelled(Exception):
    """Sampling stopped because its `cancelled` returned true."""


class NotFinite(UserError):
    """The network made values that are not finite, as it may in half precision."""


def sampling_process(sampler: SamplerOptions, diffusion: DiffusionOptions) -> GaussianDiffusion:
    """Return the noise process at the steps of `sampler`, by default as many as its sampler needs.

    Raises ConfigError where the noise process has fewer steps, and for a respacing that does not begin with noise.
    """
    if sampler.timestep_respacing != "":
        process = build_diffusion(diffusion, sampler.timestep_respacing)
        begins, ends = (math.sqrt(each.alphas_cumprod[-1]) for each in (process, build_diffusion(diffusion)))
        if begins > max(_MOST_SIGNAL, ends):  # noise would be taken for an image
            line = (
                f"timestep_respacing is {sampler.timestep_respacing!r}, which begins at timestep "
                f"{process.timestep_map[-1]} of {process.original_steps}, where {begins:.0%} of the image is left: "
            )
            raise ConfigError.of_keys(("timestep_respacing", f"{line}use more steps in its last section, or steps"))
        return process
    default = SAMPLER_DEFAULTS[sampler.sampler]
    steps = sampler.steps or min(default.steps, diffusion.diffusion_steps)
    return build_diffusion(diffusion, steps=steps, time_grid=sampler.time_grid or default.time_grid)


@dataclass(eq=False)
class SamplingPipeline:
    """A trained network and all that sampling from it needs; called many times, with different settings.

    model: on `device`, in evaluation mode whenever it is sampled from. options: those it was trained with.
    amp_dtype: the type the network runs in. eta: [K] of class-wise label diffusion, None for others. code: of a network
    that makes masks, whose samples are coded (`GenerationPipeline` decodes them), or of latents; None for images.
    """

    model: ConditionedModel
    options: NetworkConfig
    class_names: tuple[str, ...]
    device: torch.device
    amp_dtype: torch.dtype | None
    eta: ArrayLike | None
    code: Code | None = None

    def __post_init__(self) -> None:
        geometry = self.options.geometry
        self.num_classes = len(self.class_names)
        size = height_width(geometry.image_size)
        self.network_shape = (geometry.image_channels, *size) if self.code is None else self.code.shape(size)
        makes_images = not self.options.generation.makes_masks
        self.image_shape = (geometry.image_channels, *size) if makes_images else self.network_shape
        self._latents = self.code if makes_images and isinstance(self.code, LatentCode) else None
        self.conditional = self.options.model.condition != "none"
        self.with_edges = not geometry.no_instance

    def condition_of_network(self, condition: Condition) -> Condition:
        """Return conditions of images at the size that the network sees: reduced by area where it makes latents."""
        if self._latents is None:
            return condition
        if isinstance(condition, NoCondition):
            return NoCondition(len(condition), self.network_shape[1:])
        reduction = latent_reduction(self.options)
        assert reduction is not None
        assert isinstance(condition, SemanticMap)  # latents know no boxes
        return reduction(condition)

    def images_of(self, samples: Tensor) -> Tensor:
        """Return the images of what the network made; samples that are none stay as they are."""
        return samples if self._latents is None else self._latents.decode_images(samples)

    def begin(
        self,
        sampler: SamplerOptions,
        *,
        extrapolation: float | None = None,
        noise_device: torch.device | str | None = None,
        network: BuildNetwork | None = None,
        start_level: float | None = None,
    ) -> SamplingRun:
        """Return the run that samples batch by batch with one setting, whose published spellings are resolved.

        noise_device: where noise is drawn, None for the pipeline's. network: in place of the guided network.
        start_level: noise level of given images that it begins with; None: noise alone. Raises ConfigError where the
        setting does not fit the noise process.
        """
        device = torch.device(noise_device or self.device)
        return SamplingRun(self, sampler, extrapolation, device, network, start_level)

    def __call__(
        self,
        conditions: Given,
        seeds: Sequence[int],
        *,
        s: float = 1.0,
        steps: int | None = None,
        sampler: str | None = None,
        batch_size: int = 8,
        extrapolation: float | None = None,
        known: KnownRegion | tuple[ArrayLike, ArrayLike] | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        **options: Any,
    ) -> Tensor:
        """Return an image for each condition and seed, [N, C, H, W] float32 in [-1, 1] on the CPU.

        conditions: integers [N, H, W], a class or `num_classes` (none) a pixel; or a SemanticMap, LayoutCondition or
        NoCondition.
        known: images [N, C, H, W] in [-1, 1] and their holes [N, H, W], which an inpainting network fills. options: as
        in `SamplerOptions`. Raises UserError for misfits, Cancelled on request.
        """
        condition, seeds = self.condition_of(conditions), [int(seed) for seed in seeds]
        wrong = next((seed for seed in seeds if not 0 <= seed < 2**63), None)
        if wrong is not None:
            raise ConfigError.of_keys(("seeds", f"seeds has {wrong}: use whole numbers from 0 to 2^63 - 1"))
        if len(condition) != len(seeds):
            line = f"seeds: found {len(seeds)} for {len(condition)} conditions: give one for each"
            raise ConfigError.of_keys(("seeds", line))
        if batch_size < 1:
            raise ConfigError.of_keys(("batch_size", f"batch_size is {batch_size}: use at least 1"))
        region = None if known is None else checked_region(self, known, len(seeds))
        given = {"s": s, "steps": steps, "extrapolation": extrapolation, **options}
        # A sampler of None is left out, as a published spelling may stand for it.
        setting = read_config(SamplingConfig, given if sampler is None else {**given, "sampler": sampler})
        run = self.begin(setting.sampler, extrapolation=setting.extrapolation)
        total = len(seeds) * run.num_steps
        images = torch.empty(len(seeds), *self.image_shape)
        for start in range(0, len(seeds), batch_size):
            part = slice(start, start + batch_size)

            def report(done: int, _: int, before: int = start * run.num_steps) -> None:
                if progress is not None:
                    progress(before + done, total)

            given_part = None if region is None else region[part]
            images[part] = run(condition[part], seeds[part], known=given_part, progress=report, cancelled=cancelled)
        return images

    def condition_of(self, conditions: Given) -> Condition:
        """Return the network's condition: checked label maps [N, H, W], with edges where it was trained with them.

        Raises DataError for conditions of another kind, size or type, or with values that are not classes.
        """
        return checked_condition(self, conditions)


@dataclass(eq=False)
class SamplingRun:
    """Samples with one setting, any number of batches; the weights must not change meanwhile."""

    pipeline: SamplingPipeline
    sampler: SamplerOptions
    extrapolation: float | None
    noise_device: torch.device
    build_network: BuildNetwork | None
    start_level: float | None = None

    def __post_init__(self) -> None:
        options = self.pipeline.options
        if not self.pipeline.conditional and self.sampler.s != 1:
            line = f"s is {self.sampler.s:g}, but the model has no condition to guide towards: set s to 1"
            raise ConfigError.of_keys(("s", line))
        self.process = sampling_process(self.sampler, options.diffusion)
        if self.start_level is not None:
            whole = build_diffusion(options.diffusion)
            lowest = float(whole.noise_levels[0])
            if self.start_level < lowest:
                line = f"paste_noise is {self.start_level:g}, but the lowest noise level of the model is {lowest:.3g}"
                raise ConfigError.of_keys(("paste_noise", f"{line}: use at least as much, or null"))
            self.process = self.process.begun_at(self.start_level, whole)
        guided_steps(self.process, self.sampler.guidance_interval)
        self._guided: GuidedNetwork | None = None
        self._label_diffusion = label_process(options, self.process, self.pipeline.num_classes, self.pipeline.eta)
        if self.pipeline.code is not None and self.sampler.dynamic_threshold is not None:
            makes = "masks, too" if options.generation.makes_masks else "latents"
            line = f"dynamic_threshold scales images by their values, but the model makes {makes}: leave it out"
            raise ConfigError.of_keys(("dynamic_threshold", line))
        self.x0_hooks()  # a mistake in their options is raised here

    @property
    def draws_labels(self) -> bool:
        """Whether a denoiser draws the labels of each step anew, and computes modulations at every step."""
        return self._label_diffusion is not None

    @property
    def num_steps(self) -> int:
        """Number of sampling steps of an image."""
        return self.process.num_timesteps

    def __call__(
        self,
        condition: Condition,
        seeds: Sequence[int],
        *,
        known: KnownRegion | None = None,
        inside: Tensor | None = None,
        start: Tensor | None = None,
        watch: Callable[[NetworkFunction], X0Hook] | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Tensor:
        """Return the images of one batch, [N, C, H, W] float32 on the CPU, in [-1, 1] where they are clipped.

        Image i depends on condition i, seed i and what is known of it alone. known: an inpainting network fills its
        holes; None: it makes whole images. inside: [N, H, W], the others are the black border of a small picture.
        start: [N, C, H, W] in [-1, 1], what a run with a `start_level` begins with, under noise.
        watch: makes one more hook of the network of the batch. Raises Cancelled where `cancelled()` is true.
        """
        assert len(condition) == len(seeds), "one seed an image"
        pipeline = self.pipeline
        if pipeline.options.model.inpaint:
            known = KnownRegion.nothing(len(seeds), pipeline.image_shape) if known is None else known
            known = known.to(pipeline.device)
        assert known is None or pipeline.options.model.inpaint, "a plain network fills no holes"
        hooks = self.x0_hooks() + ([] if known is None else [known.keep])
        if inside is not None:
            # Black at every step, as in training, which has no loss there.
            hooks.append(
                KnownRegion(torch.full((len(seeds), *pipeline.image_shape), -1.0), inside).to(pipeline.device).keep
            )

        def after_step(done: int, total: int, x: Tensor) -> None:
            if progress is not None:
                progress(done * len(seeds), total * len(seeds))
            if cancelled is not None and cancelled():
                raise Cancelled(f"cancelled after {done} of {total} steps")

        if cancelled is not None and cancelled():
            raise Cancelled("cancelled before the first step")
        with torch.inference_mode():
            network = self._network(pipeline.condition_of_network(condition).to(pipeline.device), seeds, known)
            hooks = hooks if watch is None else [watch(network), *hooks]
            denoise = Denoiser(network, self.process, hooks)
            samples = self.sample(denoise, pipeline.network_shape, seeds, start=start, callback=after_step)
            images = pipeline.images_of(samples).cpu()
        if not torch.isfinite(images).all():
            remedy = "lower s or extrapolation, or set precision to fp32 or bf16"
            raise NotFinite(f"sampling: the images have values that are not finite; {remedy}")
        return images

    def sample(
        self,
        denoise: Denoiser,
        shape: Sequence[int],
        seeds: Sequence[int],
        *,
        start: Tensor | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """Return the images [N, *shape] that the sampler makes by `denoise`, of noise drawn for each seed, and of
        `start`, images of the same shape, where the run has a `start_level`.
        """
        assert (start is None) == (self.start_level is None)
        generators = [torch.Generator(self.noise_device).manual_seed(seed) for seed in seeds]
        keywords = {"eta": self.sampler.eta} if self.sampler.sampler == "ddim" else {}
        noise = draw_noise(generators, shape, self.pipeline.device)
        if start is not None:
            last = torch.full((len(seeds),), self.process.num_timesteps - 1, dtype=torch.int64)
            noise = self.process.q_sample(start.to(noise), last, noise)
        sampler = SAMPLERS[self.sampler.sampler]
        return sampler(denoise, self.process, noise, generators=generators, callback=callback, **keywords)

    def denoiser(
        self, condition: Condition, seeds: Sequence[int], known: KnownRegion, hooks: Sequence[X0Hook]
    ) -> Denoiser:
        """Return the denoiser of a batch of windows; hooks: its `x0_hooks`, the same at all steps."""
        return Denoiser(self._network(condition, seeds, known), self.process, hooks)

    def _network(self, condition: Condition, seeds: Sequence[int], known: KnownRegion | None) -> NetworkFunction:
        """Return the network function of a batch; the null modulations are computed once, in the first batch."""
        noisy_condition_fn = None
        if self._label_diffusion is not None:
            noisy_condition_fn = self._label_diffusion.condition_sampler(label_generators(seeds, self.noise_device))
        if self.build_network is not None:
            return self.build_network(condition, noisy_condition_fn)
        if self._guided is None:
            self._guided = GuidedNetwork(
                self.pipeline.model,
                self.process,
                condition,
                scale=self.sampler.s,
                interval=self.sampler.guidance_interval,
                amp_dtype=self.pipeline.amp_dtype,
                condition_fn=noisy_condition_fn,
                known=known,
            )
        else:
            self._guided = self._guided.with_condition(condition, noisy_condition_fn, known)
        return self._guided

    def x0_hooks(self) -> list[X0Hook]:
        """Return what changes the predicted x0, in the published order; extrapolation begins anew with every batch."""
        hooks: list[X0Hook] = []
        if self.extrapolation is not None:
            hooks.append(Extrapolation(self.extrapolation))
        if self.sampler.dynamic_threshold is not None:
            hooks.append(dynamic_threshold(self.sampler.dynamic_threshold))
        if self.sampler.clip_denoised:
            hooks.append(clip if self.pipeline.code is None else self.pipeline.code.clip)
        return hooks
