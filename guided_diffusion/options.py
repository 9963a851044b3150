"""The typed option groups that the actions' configurations are composed of.

Each group stands for one owner (data, network, noise process, trainer, sampler). A field's description is the
one line that `--help`, the JSON Schema and the error messages show. Keys that the published tools have keep
their names and meanings, and both JSON lists and the published string spelling ("32,16,8") are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

Problem = tuple[str, str]  # the key concerned, and one line that says what is wrong and the way out


class OptionGroup(BaseModel):
    """Base of all groups: unknown keys and loose types are errors, and keys may contradict each other."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=False, allow_inf_nan=False)

    def problems(self) -> Iterator[Problem]:
        """Yield every contradiction between the keys of this configuration."""
        for base in type(self).__mro__:
            if "contradictions" in vars(base):
                yield from vars(base)["contradictions"](self)

    def spell_out(self) -> None:
        """Turn published spellings of a choice (`use_fp16`) into the key that makes it (`precision`)."""
        for base in type(self).__mro__:
            if "settle" in vars(base):
                vars(base)["settle"](self)


def _split(value: Any, number: type) -> Any:
    """Turn "32,16,8", [32, 16, 8] or one number into a tuple, "" into None; leave the rest for pydantic to refuse."""
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            return tuple(number(part) for part in value.split(",") if part.strip())
        except ValueError:
            return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _list_of(number: type) -> Any:
    kind = {int: "integer", float: "number"}[number]
    forms = [{"type": "array", "items": {"type": kind}}, {"type": kind}, {"type": "string"}, {"type": "null"}]
    return Annotated[
        tuple[number, ...] | None,
        BeforeValidator(lambda value: _split(value, number)),
        WithJsonSchema({"anyOf": forms}),
    ]


IntList = _list_of(int)
FloatList = _list_of(float)


def _size(value: Any) -> Any:
    """Read one side or [height, width]; a pair of equal sides stays a pair."""
    return tuple(value) if isinstance(value, list) else value


ImageSize = Annotated[
    Annotated[int, Field(ge=8, le=4096)]
    | tuple[Annotated[int, Field(ge=8, le=4096)], Annotated[int, Field(ge=8, le=4096)]],
    BeforeValidator(_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 8},
                {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]


def option(default: Any, meaning: str, **constraints: Any) -> Any:
    """Declare one key: its default, its one line of meaning, and limits in pydantic's terms."""
    return Field(default, description=meaning, **constraints)


class SourceOptions(OptionGroup):
    """Where the pairs lie and what their masks mean."""

    data_dir: str = option("", "dataset folder, {train,test}/{images,masks} or as dataset_mode says; any blobfile path")
    dataset_mode: str = option(
        "", "layout and label rule of the dataset: binary, multi-class, cityscapes, ade20k, celeba or coco"
    )
    num_classes: int | None = option(
        None, "number of classes, background included; null: by dataset_mode, else classes.json", ge=1, le=65535
    )
    ignore_label: int | None = option(
        None, "mask value that belongs to no class: its pixels carry no condition", ge=0, le=65535
    )


class GeometryOptions(OptionGroup):
    """How files become tensors; the same in training and in sampling."""

    image_size: ImageSize = option(64, "side of the square the model sees, or [height, width], in pixels")
    image_channels: Literal[1, 3] = option(3, "1 for grey images, 3 for RGB")
    resize: Literal["crop", "squash", "pad"] = option(
        "crop",
        "crop: keep the aspect and crop (random in training); squash: stretch; pad: keep the aspect and pad "
        "(default of cityscapes)",
    )
    no_instance: bool = option(
        True, "false adds instance edges to the condition (edges of the labels where there are no instance maps)"
    )


class AugmentOptions(OptionGroup):
    """Random joint transforms of image and mask in training."""

    random_flip: bool = option(True, "flip image and mask left-right at random")
    vertical_flip: bool = option(False, "flip image and mask upside down at random")
    rotate90: bool = option(False, "turn image and mask by quarter turns at random")

    def contradictions(self) -> Iterator[Problem]:
        size = getattr(self, "image_size", None)
        if self.rotate90 and isinstance(size, tuple) and size[0] != size[1]:
            yield ("rotate90", f"rotate90 needs a square image_size, found {list(size)}: set rotate90 to false")


class LoaderOptions(OptionGroup):
    """How fast files are read."""

    num_workers: int | None = option(
        None, "data loading processes; null: none on CPU, up to 4 beside a GPU", ge=0, le=256
    )
    cache_images: Literal["auto"] | bool = option(
        "auto", "keep decoded images in memory: true, false, or auto (when they fit in a quarter of what is free)"
    )


class ModelOptions(OptionGroup):
    """The SPADE UNet."""

    num_channels: int = option(128, "channels of the first level, a multiple of 32", ge=32, multiple_of=32)
    num_res_blocks: int = option(2, "residual blocks a level", ge=1)
    channel_mult: FloatList = option(
        None, 'channels of each level as multiples of num_channels, such as "1,2,3,4"; null or "": by image_size'
    )
    num_heads: int = option(4, "attention heads, where num_head_channels is -1", ge=1)
    num_heads_upsample: int = option(-1, "attention heads of the decoder, -1: as num_heads", ge=-1)
    num_head_channels: int = option(-1, "channels of an attention head, -1: by num_heads", ge=-1)
    attention_resolutions: IntList = option(
        None, 'feature map sides with attention, such as "32,16,8"; null: all of 16 and below'
    )
    dropout: float = option(0.0, "dropout probability in the residual blocks", ge=0, lt=1)
    resblock_updown: bool = option(True, "residual blocks instead of plain resampling between levels")
    use_scale_shift_norm: bool = option(True, "time embedding scales and shifts the second norm of a block")
    use_new_attention_order: bool = option(False, "split q, k, v before the heads")
    use_checkpoint: bool = option(False, "recompute activations in the backward pass: less memory, slower")
    spade: Literal["auto", "lookup", "mixed", "dense"] = option(
        "auto",
        "how masks become modulations: lookup of 5x5 neighbourhoods, mixed of 3x3 ones, dense; auto: the cheapest",
    )
    class_cond: bool = option(True, "the mask conditions the network; always true")

    def contradictions(self) -> Iterator[Problem]:
        if self.class_cond is False:
            yield ("class_cond", "class_cond is false, but a semantic diffusion model is conditioned: leave it out")


class DiffusionOptions(OptionGroup):
    """The noise process and what the network predicts."""

    diffusion_steps: int = option(1000, "steps of the noise process", ge=1, le=100_000)
    noise_schedule: Literal["linear", "cosine"] = option("linear", "named schedule of the noise variances")
    prediction: Literal["v", "eps", "x0"] = option("v", "what the network predicts; published weights: eps")
    predict_xstart: bool = option(False, "published spelling of prediction x0")
    learn_sigma: bool = option(True, "the network also predicts the variance of each step")
    use_kl: bool = option(False, "train on the variational bound alone")
    rescale_learned_sigmas: bool = option(False, "scale the variational term by (respaced) steps / 1000")
    rescale_timesteps: bool = option(False, "hand the network timesteps scaled to 0..1000")
    min_snr_gamma: float | None = option(None, "weight the loss by min(SNR, gamma), 5 is usual; null: off", gt=0)

    def contradictions(self) -> Iterator[Problem]:
        chosen = self.model_fields_set
        if self.predict_xstart and "prediction" in chosen and self.prediction in ("v", "eps"):
            yield (
                "predict_xstart",
                f'predict_xstart is true, but prediction is "{self.prediction}": leave one of the two out',
            )
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

    def settle(self) -> None:
        if self.predict_xstart:
            self.prediction = "x0"


class OptimizerOptions(OptionGroup):
    """How the weights are found."""

    batch_size: int = option(8, "images a step and process", ge=1)
    microbatch: int = option(-1, "images of a step computed at a time, -1: all (less memory, same gradient)", ge=-1)
    max_epochs: int = option(500, "training stops after this many passes over the data", ge=1)
    lr: float = option(1e-4, "learning rate of AdamW", gt=0)
    weight_decay: float = option(0.0, "weight decay of AdamW", ge=0)
    lr_anneal_steps: int = option(0, "steps over which the learning rate falls to 0 and training ends, 0: never", ge=0)
    grad_clip: float = option(1.0, "largest gradient norm, longer gradients are scaled down; 0: off", ge=0)
    ema_rate: FloatList = option((0.9999,), 'decay rates of the averaged weights, such as "0.999,0.9999"')
    drop_rate: float = option(0.0, "share of masks dropped in training, for guidance", ge=0, le=1)
    schedule_sampler: Literal["stratified", "uniform", "loss-second-moment"] = option(
        "stratified", "which timesteps a step trains on; stratified: evenly spread over batch and epoch"
    )
    max_bad_steps: int = option(20, "non-finite steps in a row after which training stops", ge=1)

    def contradictions(self) -> Iterator[Problem]:
        for rate in self.ema_rate or ():
            if not 0 < rate < 1:
                yield ("ema_rate", f"ema_rate is {rate:g}: every rate must lie between 0 and 1, such as 0.9999")
        if not self.ema_rate:
            yield ("ema_rate", "ema_rate is empty: give at least one rate, such as 0.9999")
        if self.microbatch == 0:
            yield ("microbatch", "microbatch is 0: use -1 for the whole batch, or a positive number")


class PrecisionOptions(OptionGroup):
    """Where and in which numbers it runs."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps; auto takes a GPU where there is one")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "arithmetic of the network; bf16 is faster on GPUs")
    use_fp16: bool = option(False, "published spelling of precision fp16")
    compile: Literal["auto"] | bool = option(
        "auto", "torch.compile the network: true, false, or auto (on CUDA with Triton, without label diffusion)"
    )

    def contradictions(self) -> Iterator[Problem]:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            yield ("device", f"device is {self.device!r}: use auto, cpu, cuda, cuda:1 or mps")
        if self.use_fp16 and "precision" in self.model_fields_set and self.precision != "fp16":
            yield ("use_fp16", f'use_fp16 is true, but precision is "{self.precision}": leave one of the two out')

    def settle(self) -> None:
        if self.use_fp16:
            self.precision = "fp16"


class RunOptions(OptionGroup):
    """What a training run leaves behind."""

    output_dir: str = option("", "folder of the run: checkpoints, logs, previews")
    seed: int = option(0, "seed of everything random", ge=0, lt=2**63)
    preview_interval: int = option(50, "epochs between preview pictures, 0: none", ge=0)
    preview_images: int = option(4, "masks in a preview picture", ge=1, le=64)
    preview_steps: int = option(20, "sampling steps of a preview", ge=1)
    tensorboard: bool = option(True, "write TensorBoard events too, where it is installed")


class SamplerDefaults(NamedTuple):
    """What a sampler is used with where nothing is said."""

    time_grid: str
    steps: int


# The grids and counts with which Gaussian data keep their standard deviation within 3 %, as
# scripts/measure_samplers.py measures it; the two published samplers keep what they were published with.
SAMPLER_DEFAULTS = {
    "ddpm": SamplerDefaults("uniform", 50),
    "ddim": SamplerDefaults("uniform", 50),
    "dpm++2m": SamplerDefaults("logsnr", 20),
    "dpm++2m-sde": SamplerDefaults("logsnr", 30),
}


class SamplerOptions(OptionGroup):
    """How noise becomes an image."""

    sampler: Literal["ddpm", "ddim", "dpm++2m", "dpm++2m-sde"] = option(
        "dpm++2m",
        "dpm++2m: deterministic; dpm++2m-sde: draws noise; ddim: deterministic where eta is 0; ddpm: ancestral, the "
        "default with timestep_respacing",
    )
    use_ddim: bool = option(False, "published spelling of sampler ddim")
    steps: int | None = option(
        None, "sampling steps; null: 20 for dpm++2m, 30 for dpm++2m-sde, 50 for others, or by timestep_respacing", ge=1
    )
    time_grid: Literal["uniform", "logsnr", "quadratic", "trailing"] | None = option(
        None, "how the steps are spread over the noise levels; null: logsnr for dpm++2m and dpm++2m-sde, else uniform"
    )
    timestep_respacing: str | int = option("", 'published spelling of the steps: "50", "ddim50", "10,15,20"')
    eta: float = option(0.0, "noise of the ddim sampler, 0 to 1", ge=0, le=1)
    s: float = option(1.0, "guidance scale; 1: none, 1.5 follows the mask harder", ge=0)
    guidance_interval: FloatList = option(
        None, "[low, high] noise levels (noise / image) between which s acts, outside it is 1; null: everywhere"
    )
    clip_denoised: bool = option(True, "clip the predicted clean image to the valid range in every step")
    dynamic_threshold: float | None = option(
        None,
        "scale each predicted image down where this quantile of it is out of range, 0.995 is usual; null: off",
        gt=0,
        le=1,
    )

    def contradictions(self) -> Iterator[Problem]:
        respacing = self.timestep_respacing
        if self.steps is not None and respacing != "":
            yield ("steps", f"steps is {self.steps}, but timestep_respacing is {respacing!r}: keep one")
        if self.time_grid is not None and respacing != "":
            yield (
                "time_grid",
                f'time_grid is "{self.time_grid}", but timestep_respacing is {respacing!r}, which spreads the steps '
                "itself: leave one of the two out",
            )
        if not re.fullmatch(r"|ddim[1-9]\d*|[1-9]\d*(,[1-9]\d*)*", str(self.timestep_respacing).replace(" ", "")):
            yield (
                "timestep_respacing",
                f'timestep_respacing is {self.timestep_respacing!r}: expected a number of steps such as "50", '
                '"ddim50", or one for each section such as "10,15,20"',
            )
        if self.use_ddim and "sampler" in self.model_fields_set and self.sampler != "ddim":
            yield ("use_ddim", f'use_ddim is true, but sampler is "{self.sampler}": leave one of the two out')
        if self.eta and self._chosen() != "ddim":
            yield ("eta", f'eta is {self.eta:g}, but sampler is "{self._chosen()}": eta belongs to sampler ddim')
        if self.dynamic_threshold is not None and not self.clip_denoised:
            yield (
                "dynamic_threshold",
                f"dynamic_threshold is {self.dynamic_threshold:g}, but clip_denoised is false: thresholding keeps to "
                "the valid range, too; leave one of the two out",
            )
        if self.guidance_interval is not None:
            yield from self._interval_problems(self.guidance_interval)

    def _interval_problems(self, interval: tuple[float, ...]) -> Iterator[Problem]:
        found = f"guidance_interval is {list(interval)}"
        if len(interval) != 2 or not 0 <= interval[0] < interval[1]:
            yield ("guidance_interval", f"{found}: expected [low, high] with 0 <= low < high, such as [0.3, 5]")
        if self.s == 1:
            yield ("guidance_interval", f"{found}, but s is 1, which is no guidance: set s, or leave it out")

    def _chosen(self) -> str:
        """Return the sampler, however it is spelled; respacing alone has always meant the ancestral one."""
        if self.use_ddim:
            return "ddim"
        return "ddpm" if self.timestep_respacing != "" and "sampler" not in self.model_fields_set else self.sampler

    def settle(self) -> None:
        self.sampler = self._chosen()
        if self.time_grid is None and self.timestep_respacing == "":
            self.time_grid = SAMPLER_DEFAULTS[self.sampler].time_grid


PATH_KEYS = {"data_dir", "mask_dir", "output_dir", "results_path", "model_path", "resume_checkpoint", "export_path"}
PATH_KEYS |= {"synthetic_dir", "diversity_dir", "filtered_dir", "encoder_weights", "inception_weights", "lpips_weights"}
PATH_KEYS |= {"eta_path", "segmenter", "segmenter_labels"}


class ActionConfig(OptionGroup):
    """What every action's configuration can do beside holding its keys."""

    required: ClassVar[tuple[str, ...]] = ()
    summary: ClassVar[str] = ""

    def contradictions(self) -> Iterator[Problem]:
        for key in self.required:
            if getattr(self, key) in ("", None):
                meaning = type(self).model_fields[key].description
                yield (key, f"{key} is missing ({meaning}): add it to the config or give --set {key}=...")

    def settle(self) -> None:
        """Spell out `~`, which a shell would have and JSON does not."""
        for key in PATH_KEYS & type(self).model_fields.keys():
            if getattr(self, key) is not None:
                setattr(self, key, os.path.expanduser(getattr(self, key)))

    @classmethod
    def action(cls) -> str:
        """Return the action's name."""
        return cls.__name__.removesuffix("Config").lower()

    def to_json(self) -> dict[str, Any]:
        """Return the resolved configuration as a flat JSON object that can be loaded again."""
        return self.model_dump(mode="json")
