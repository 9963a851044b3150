"""Options of the noise process, of label diffusion, and of samplers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple, Self

from guided_diffusion.runtime.options import FloatTuple, OptionGroup, Problem, option

UNIFORM, CLASSWISE = "discrete_zero_uniform", "discrete_zero_classwise"


class DiffusionOptions(OptionGroup):
    """The noise process and what the network predicts."""

    title: ClassVar = "noise process"
    diffusion_steps: int = option(1000, "steps of the noise process", ge=1, le=100_000)
    noise_schedule: Literal["linear", "cosine"] = option("linear", "named schedule of the noise variances")
    prediction: Literal["v", "eps", "x0"] = option("v", "what the network predicts; published weights: eps")
    predict_xstart: bool = option(False, "published spelling of prediction x0", spelling_of="prediction")
    learn_sigma: bool = option(True, "the network also predicts the variance of each step")
    use_kl: bool = option(False, "train on the variational bound alone")
    rescale_learned_sigmas: bool = option(False, "scale the variational term by (respaced) steps / 1000")
    rescale_timesteps: bool = option(False, "hand the network timesteps scaled to 0..1000")
    min_snr_gamma: float | None = option(None, "weight the loss by min(SNR, gamma), 5 is usual; null: off", gt=0)

    def check(self) -> Iterator[Problem]:
        chosen = self.model_fields_set
        if self.predict_xstart and "prediction" in chosen and self.prediction in ("v", "eps"):
            line = f'predict_xstart is true, but prediction is "{self.prediction}": leave one of the two out'
            yield ("predict_xstart", line)
        if self.noise_schedule == "linear" and (self.diffusion_steps or 1000) <= 20:
            yield (
                "diffusion_steps",
                f"diffusion_steps is {self.diffusion_steps}, but the linear noise_schedule needs more than 20: "
                "use more, or noise_schedule cosine",
            )
        if self.use_kl and self.rescale_learned_sigmas:
            yield ("use_kl", "use_kl and rescale_learned_sigmas are both true: set one of them to false")
        if self.use_kl and self.learn_sigma is False:
            yield ("use_kl", "use_kl is true, but learn_sigma is false: the bound has nothing to learn; set one")
        if self.use_kl and self.min_snr_gamma is not None:
            yield ("min_snr_gamma", "min_snr_gamma weights the squared error, which use_kl leaves out: drop one")

    def resolve(self) -> Self:
        return self.model_copy(update={"prediction": "x0"}) if self.predict_xstart else self


FOLDINGS = (1, 2, 4)
_SHORT_SIDES = (128, 256)  # up to which 1 and 2 are enough: the network then sees at most 128 pixels a side


class GenerationOptions(OptionGroup):
    """What the model makes: images of given masks, or masks of its own, with or without their images."""

    title: ClassVar = "what is generated"
    generates: Literal["image", "mask", "pair"] = option(
        "image", "image: images of given masks; mask: new masks; pair: new masks with their images, by one model"
    )
    mask_code: Literal["bits", "onehot"] = option(
        "bits", "channels of a generated mask; bits: few, classes that touch differ in one bit; onehot: one a class"
    )
    mask_scale: float = option(
        0.5, "values of the mask channels are + and - this; smaller: the image is decided before its mask", gt=0, le=1
    )
    space_to_depth: int | None = option(
        None,
        "squares of 1, 2 or 4 pixels a side become channels, without loss; null: 1 up to 128 px, 2 up to 256, 4",
        ge=1,
    )

    def check(self) -> Iterator[Problem]:
        if self.space_to_depth not in (None, *FOLDINGS):
            yield ("space_to_depth", f"space_to_depth is {self.space_to_depth}: use 1, 2 or 4, or null")
        if self.generates == "image":
            for key in ("mask_code", "mask_scale", "space_to_depth"):
                if getattr(self, key) not in (None, GenerationOptions.model_fields[key].default):
                    line = f'{key} is {getattr(self, key)}, but generates is "image", which makes no masks: '
                    yield (key, f"{line}leave it out, or set generates to mask or pair")

    @property
    def makes_masks(self) -> bool:
        """Whether the model makes masks of its own; False where that is left to a checkpoint."""
        return self.generates in ("mask", "pair")

    def folding(self, short_side: int) -> int:
        """Return the side of the squares of pixels that become channels, for images of that shorter side."""
        if not self.makes_masks:
            return 1
        return self.space_to_depth or FOLDINGS[sum(short_side > side for side in _SHORT_SIDES)]


class LabelDiffusionOptions(OptionGroup):
    """Pixels of the mask become null the noisier the image is, so that wrong masks do less harm (SCDM)."""

    title: ClassVar = "label diffusion"
    cond_diffuse: bool = option(False, "label diffusion: the noisier the image, the more pixels of its mask are null")
    cond_opt: Literal["discrete_zero_uniform", "discrete_zero_classwise"] = option(
        "discrete_zero_uniform", "uniform: all classes vanish alike; classwise: rare and small ones later, by eta"
    )

    def check(self) -> Iterator[Problem]:
        if self.cond_diffuse is False and self.cond_opt == CLASSWISE:
            line = f'cond_opt is "{CLASSWISE}", but cond_diffuse is false: set cond_diffuse to true, or leave it out'
            yield ("cond_opt", line)


class SamplerDefaults(NamedTuple):
    """The time grid and number of steps that a sampler uses by default."""

    time_grid: str
    steps: int


# ddpm and ddim: as published. The others: the fewest steps that keep the standard deviation of Gaussian data within
# 3 %, by scripts/measure/samplers.py.
SAMPLER_DEFAULTS = {
    "ddpm": SamplerDefaults("uniform", 50),
    "ddim": SamplerDefaults("uniform", 50),
    "dpm++2m": SamplerDefaults("logsnr", 20),
    "dpm++2m-sde": SamplerDefaults("logsnr", 30),
}


class SamplerOptions(OptionGroup):
    """How noise becomes an image."""

    title: ClassVar = "sampler"
    sampler: Literal["ddpm", "ddim", "dpm++2m", "dpm++2m-sde"] = option(
        "dpm++2m",
        "dpm++2m: deterministic; dpm++2m-sde: draws noise; ddim: deterministic where eta is 0; ddpm: ancestral, the "
        "default with timestep_respacing",
    )
    use_ddim: bool = option(False, "published spelling of sampler ddim", spelling_of="sampler")
    steps: int | None = option(
        None, "sampling steps; null: 20 for dpm++2m, 30 for dpm++2m-sde, 50 for others, or by timestep_respacing", ge=1
    )
    time_grid: Literal["uniform", "logsnr", "quadratic", "trailing"] | None = option(
        None, "how the steps are spread over the noise levels; null: logsnr for dpm++2m and dpm++2m-sde, else uniform"
    )
    timestep_respacing: str | int = option("", 'published spelling of the steps: "50", "ddim50", "10,15,20"')
    eta: float = option(0.0, "noise of the ddim sampler, 0 to 1", ge=0, le=1)
    s: float = option(1.0, "guidance scale; 1: no guidance; above 1, images follow the mask more closely", ge=0)
    guidance_interval: FloatTuple = option(
        None, "[low, high] noise levels (noise / image) between which s acts; outside s is 1; null: everywhere"
    )
    clip_denoised: bool = option(True, "clip the predicted clean image to the valid range in every step")
    dynamic_threshold: float | None = option(
        None,
        "scale a predicted image down if this quantile of its values is out of range, 0.995 is usual; null: off",
        gt=0,
        le=1,
    )

    def check(self) -> Iterator[Problem]:
        respacing = self.timestep_respacing
        if self.steps is not None and respacing != "":
            yield ("steps", f"steps is {self.steps}, but timestep_respacing is {respacing!r}: keep one")
        if self.time_grid is not None and respacing != "":
            line = f'time_grid is "{self.time_grid}", but timestep_respacing is {respacing!r}, which spreads the steps '
            yield ("time_grid", f"{line}itself: leave one of the two out")
        if not re.fullmatch(r"|ddim[1-9]\d*|[1-9]\d*(,[1-9]\d*)*", str(respacing).replace(" ", "")):
            line = f'timestep_respacing is {respacing!r}: expected a number of steps such as "50", "ddim50", or one '
            yield ("timestep_respacing", f'{line}for each section such as "10,15,20"')
        if self.use_ddim and "sampler" in self.model_fields_set and self.sampler != "ddim":
            yield ("use_ddim", f'use_ddim is true, but sampler is "{self.sampler}": leave one of the two out')
        if self.eta and self._chosen() != "ddim":
            yield ("eta", f'eta is {self.eta:g}, but sampler is "{self._chosen()}": eta belongs to sampler ddim')
        if self.dynamic_threshold is not None and not self.clip_denoised:
            line = f"dynamic_threshold is {self.dynamic_threshold:g}, but clip_denoised is false: thresholding clips, "
            yield ("dynamic_threshold", f"{line}too; leave one of the two out")
        interval = self.guidance_interval
        if interval is None:
            return
        if len(interval) != 2 or not 0 <= interval[0] < interval[1]:
            line = f"guidance_interval is {list(interval)}: expected [low, high] with 0 <= low < high, such as [0.3, 5]"
            yield ("guidance_interval", line)
        if self.s == 1:
            line = f"guidance_interval is {list(interval)}, but s is 1, which is no guidance: set s, or leave it out"
            yield ("guidance_interval", line)

    def _chosen(self) -> str:
        """Return the sampler from all its spellings; timestep_respacing without a sampler means ddpm, as published."""
        if self.use_ddim:
            return "ddim"
        return "ddpm" if self.timestep_respacing != "" and "sampler" not in self.model_fields_set else self.sampler

    def resolve(self) -> Self:
        sampler, time_grid = self._chosen(), self.time_grid
        if time_grid is None and self.timestep_respacing == "":
            time_grid = SAMPLER_DEFAULTS[sampler].time_grid
        return self.model_copy(update={"sampler": sampler, "time_grid": time_grid})
