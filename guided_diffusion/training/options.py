"""Option groups of training: optimizer, device, precision, and the files of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from guided_diffusion.runtime.options import FloatTuple, NameList, OptionGroup, Problem, option
from guided_diffusion.runtime.trackers import PACKAGES

DEFAULT_MASK_SUPERVISION = 0.1


class BatchOptions(OptionGroup):
    """How many images a training step takes."""

    title: ClassVar = "batch"
    batch_size: int = option(8, "images a training step takes, in each process", ge=1, le=65536)


class OptimizerOptions(BatchOptions):
    """How the weights are trained."""

    title: ClassVar = "optimizer"
    microbatch: int = option(
        -1,
        "images of a step computed at a time, -1: all (less memory, same gradient)",
        resume="may change",
        ge=-1,
        le=65536,
    )
    max_epochs: int = option(
        500, "training stops after this many passes over the data", resume="may change", ge=1, le=10_000_000
    )
    lr: float = option(1e-4, "learning rate of AdamW", gt=0)
    weight_decay: float = option(0.0, "weight decay of AdamW", ge=0)
    lr_anneal_steps: int = option(
        0, "steps over which the learning rate falls to 0 and training ends, 0: never", ge=0, le=10**12
    )
    grad_clip: float = option(1.0, "largest gradient norm, longer gradients are scaled down; 0: off", ge=0)
    ema_rate: FloatTuple = option((0.9999,), 'decay rates of the averaged weights, such as "0.999,0.9999"')
    drop_rate: float = option(0.0, "share of masks dropped in training, for guidance", ge=0, le=1)
    schedule_sampler: Literal["stratified", "uniform", "loss-second-moment"] = option(
        "stratified", "which timesteps a step trains on; stratified: evenly spread over batch and epoch"
    )
    max_bad_steps: int = option(
        20, "non-finite steps in a row after which training stops", resume="may change", ge=1, le=10_000_000
    )

    def check(self) -> Iterator[Problem]:
        for rate in self.ema_rate or ():
            if not 0 < rate < 1:
                yield ("ema_rate", f"ema_rate is {rate:g}: every rate must lie between 0 and 1, such as 0.9999")
        if not self.ema_rate:
            yield ("ema_rate", "ema_rate is empty: give at least one rate, such as 0.9999")
        if self.microbatch == 0:
            yield ("microbatch", "microbatch is 0: use -1 for the whole batch, or a positive number")


class GeneratedMaskOptions(OptionGroup):
    """How a model of masks or pairs is trained."""

    title: ClassVar = "training of masks and pairs"
    mask_weight: float = option(1.0, "weight of the mask channels' mean loss beside that of the image", gt=0)
    class_balance: float = option(
        0.5, "masks are drawn by the rarity of a class to this power; sampling undoes it; 0: all alike", ge=0, le=2
    )
    preview_samples: int = option(
        64, "masks made at each preview to measure novelty and copies; 0: none", resume="may change", ge=0, le=4096
    )


class LayoutTrainingOptions(OptionGroup):
    """How a network with condition boxes is trained."""

    title: ClassVar = "training with boxes"
    mask_supervision: float = option(
        DEFAULT_MASK_SUPERVISION,
        "with boxes: weight of the loss by which masks of objects learn from true masks, where there are any",
        ge=0,
    )


class ThinClassOptions(OptionGroup):
    """What becomes of classes that are too thin for latents."""

    title: ClassVar = "autoencoder (with latent)"
    allow_thin: bool = option(
        False, "train although a class is thinner than twice the latent's factor", resume="may change"
    )


class FirstStageOptions(ThinClassOptions):
    """How the autoencoder of a latent model is trained, before the model itself, and what it must be able to do."""

    title: ClassVar = "autoencoder (with latent)"
    autoencoder: str = option(
        "",
        "pretrained autoencoder of images in place of one trained here: .safetensors in the layout of diffusers' "
        "AutoencoderKL",
        path=True,
        resume="may change",
    )
    autoencoder_steps: int = option(
        20_000, "steps of the autoencoder's training; its lr falls to 0", resume="may change", ge=1, le=10_000_000
    )
    autoencoder_batch_size: int = option(16, "crops a step of the autoencoder takes, in each process", ge=1, le=65536)
    autoencoder_crop: int | None = option(
        None, "side of the crops that the autoencoder is trained on; null: 128, or the image's if it is smaller", ge=8
    )
    autoencoder_lr: float = option(1e-3, "learning rate of the autoencoder, which falls to 0", gt=0)
    gate: float = option(
        0.95,
        "what held-out masks must come through the autoencoder with: mIoU, and share of the images of a class that "
        "keep it; 0: anything",
        resume="may change",
        ge=0,
        le=1,
    )


class DeviceOptions(OptionGroup):
    """The device."""

    title: ClassVar = "device"
    device: str = option(
        "auto", "auto, cpu, cuda, cuda:1, mps; auto takes a GPU where there is one", resume="may change"
    )

    def check(self) -> Iterator[Problem]:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            yield ("device", f"device is {self.device!r}: use auto, cpu, cuda, cuda:1 or mps")


class ArithmeticOptions(DeviceOptions):
    """The device and its arithmetic."""

    title: ClassVar = "device and precision"
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "arithmetic of the network; bf16 is faster on GPUs")
    use_fp16: bool = option(False, "published spelling of precision fp16", spelling_of="precision")

    def check(self) -> Iterator[Problem]:
        yield from super().check()
        if self.use_fp16 and "precision" in self.model_fields_set and self.precision != "fp16":
            yield ("use_fp16", f'use_fp16 is true, but precision is "{self.precision}": leave one of the two out')

    def resolve(self) -> Self:
        return self.model_copy(update={"precision": "fp16"}) if self.use_fp16 else self


class PrecisionOptions(ArithmeticOptions):
    """The device, its arithmetic, and compilation."""

    compile: Literal["auto"] | bool = option(
        "auto",
        "torch.compile the network: true, false, or auto (on CUDA with Triton, without label diffusion)",
        resume="may change",
    )


class RunOptions(OptionGroup):
    """The files of a training run, and its seed."""

    title: ClassVar = "run"
    output_dir: str = option("", "folder of the run: checkpoints, logs, previews", written=True, resume="may change")
    seed: int = option(0, "seed of everything random", ge=0, lt=2**63)
    allow_changed_data: bool = option(
        False, "resume a run although its training images or masks are not those it began with", resume="may change"
    )
    preview_interval: int = option(
        50, "epochs between preview pictures, 0: none", resume="may change", ge=0, le=10_000_000
    )
    preview_images: int = option(4, "masks in a preview picture", resume="may change", ge=1, le=64)
    preview_steps: int = option(20, "sampling steps of a preview", resume="may change", ge=1, le=100_000)
    trackers: NameList = option(
        ("tensorboard",),
        "where metrics go beside metrics.jsonl: tensorboard (where it is installed), mlflow, wandb; [] for nowhere",
        resume="may change",
    )
    tensorboard: bool = option(
        True, "earlier spelling: false leaves tensorboard out", resume="may change", spelling_of="trackers"
    )

    def check(self) -> Iterator[Problem]:
        for name in self.trackers:
            if name not in PACKAGES:
                yield ("trackers", f"trackers has {name!r}, which is none: use some of {', '.join(PACKAGES)}, or []")

    def resolve(self) -> Self:
        kept = tuple(name for name in self.trackers if self.tensorboard or name != "tensorboard")
        return self.model_copy(update={"trackers": kept})
