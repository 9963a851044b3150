"""The networks that `run.py` compares, and the steps in which each of them trains and samples."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from guided_diffusion.conditions.base import Prepared
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.diffusion.gaussian import GaussianDiffusion, build_diffusion
from guided_diffusion.diffusion.guidance import GuidedNetwork
from guided_diffusion.diffusion.options import DiffusionOptions
from guided_diffusion.models.architecture import attention_factors, default_channel_mult, level_channels
from guided_diffusion.models.compilation import compile_network
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.models.unet import UNetModel, build_unet
from guided_diffusion.training.ema import EMA
from scripts.benchmark.cases import Batch, Case
from scripts.benchmark.published_unet import PublishedUNet, guided

SCALE = 1.5
RATE = 0.9999
CLIP = 1.0
LEARNING_RATE = 1e-5
HEAD_CHANNELS = 32
DIFFUSION = build_diffusion(DiffusionOptions())

Step = Callable[[], Any]


def network_options(case: Case, condition: str = "mask", **more: Any) -> ModelOptions:
    """Return the options of the network for `case`; `more`: other ones."""
    changes = {"num_channels": case.channels, "num_head_channels": HEAD_CHANNELS, "condition": condition, **more}
    return ModelOptions().model_copy(update=changes)


def build_network(case: Case, condition: str = "mask", image_channels: int = 3, **more: Any) -> UNetModel:
    """Return our network for `case`, always with the same weights, none of them zero; `more`: other options."""
    torch.manual_seed(0)
    model = build_unet(
        network_options(case, condition, **more),
        image_size=case.size,
        num_classes=case.classes,
        image_channels=image_channels,
    )
    perturb(model)
    return model.to(case.device)


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """Add a little noise to the weights: layers that start at zero then count for the output."""
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.02)


class Variant(ABC):
    """One of the networks, with its own way of training and sampling."""

    name: str
    network: nn.Module

    def __init__(self, case: Case):
        self.case = case

    @staticmethod
    def load() -> bool:
        """Import what the variant needs; return whether it is installed."""
        return True

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.network.parameters())

    @property
    def precision(self) -> AbstractContextManager:
        """Autocast context of the network."""
        amp_dtype, device = self.case.amp_dtype, torch.device(self.case.device)
        return nullcontext() if amp_dtype is None else torch.autocast(device.type, dtype=amp_dtype)

    def prepare(self, condition: SemanticMap) -> Prepared | None:
        """Return what the network prepares of maps in main memory, if anything."""
        return None

    def loaded(self, condition: SemanticMap) -> tuple[SemanticMap, Prepared | None]:
        """Return the maps as the data loader hands them to the training step, and what it has prepared of them.

        Beside a GPU, loading processes have done that; on a CPU it is part of the step.
        """
        if not self._on_gpu:
            return condition, None
        prepared = self.prepare(condition)
        return condition.pin_memory(), None if prepared is None else prepared.pin_memory()

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """Return a new optimizer."""

    @abstractmethod
    def averages(self) -> Callable[[int], None]:
        """Return the function that updates the average of the weights."""

    @abstractmethod
    def predict(self, x_t: Tensor, t: Tensor, condition: SemanticMap, prepared: Prepared | None) -> Tensor:
        """Return the network's output in training; `condition` and what was prepared of it are on its device."""

    @abstractmethod
    def guided_step(self, batch: Batch) -> Step:
        """Return the guided step without the work that all steps of a sample share."""

    @property
    def _on_gpu(self) -> bool:
        return torch.device(self.case.device).type == "cuda"


class _AsPublished(Variant):
    """Training and sampling as in the published code: one-hot maps, two passes, nothing fused."""

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE)

    def averages(self) -> Callable[[int], None]:
        average = [weight.detach().clone() for weight in self.network.parameters()]

        @torch.no_grad()
        def update(step: int) -> None:
            for target, weight in zip(average, self.network.parameters(), strict=True):
                target.mul_(RATE).add_(weight, alpha=1 - RATE)

        return update

    def predict(self, x_t: Tensor, t: Tensor, condition: SemanticMap, prepared: Prepared | None) -> Tensor:
        return self.network(x_t, DIFFUSION.model_t(t), condition.one_hot())

    def guided_step(self, batch: Batch) -> Step:
        one_hot = batch.condition.to(self.case.device).one_hot()

        def step() -> Tensor:
            with self.precision:
                return guided(self.network, batch.noise, DIFFUSION.model_t(batch.t), one_hot, SCALE)

        return step


class Reference(_AsPublished):
    """The published network."""

    name = "reference"

    def __init__(self, case: Case):
        super().__init__(case)
        self.network = PublishedUNet(build_network(case))


class Monai(_AsPublished):
    """MONAI's SPADE network, as close to ours as its options allow."""

    name = "monai"

    def __init__(self, case: Case):
        from monai.networks.nets import SPADEDiffusionModelUNet

        super().__init__(case)
        mult = default_channel_mult(case.size)
        attention = attention_factors(case.size, mult, None)
        torch.manual_seed(0)
        self.network = SPADEDiffusionModelUNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=6,
            label_nc=case.classes,
            num_res_blocks=2,
            channels=level_channels(case.channels, mult),
            attention_levels=[2**level in attention for level in range(len(mult))],
            norm_num_groups=32,
            resblock_updown=True,
            num_head_channels=HEAD_CHANNELS,
        )
        perturb(self.network)
        self.network.to(case.device)

    @staticmethod
    def load() -> bool:
        # Its attention wants einops, which it does not bring along.
        if not all(map(importlib.util.find_spec, ("monai", "einops"))):
            return False
        import monai.networks.nets  # noqa: F401

        return True


class Guided(Variant):
    """Training and sampling as in this project. more: other options of the network."""

    condition: str
    image_channels: int = 3
    more: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, case: Case):
        super().__init__(case)
        self.network = build_network(case, self.condition, self.image_channels, **self.more)
        if case.compiled:
            compile_network(self.network)

    def optimizer(self) -> torch.optim.Optimizer:
        fused = torch.device(self.case.device).type in ("cpu", "cuda")
        return torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE, fused=fused)

    def averages(self) -> Callable[[int], None]:
        return EMA(self.network, [RATE]).update

    def prepare(self, condition: SemanticMap) -> Prepared | None:
        preparation = self.network.preparation(condition.size)
        return None if preparation is None else preparation(condition)

    def predict(self, x_t: Tensor, t: Tensor, condition: SemanticMap, prepared: Prepared | None) -> Tensor:
        return self.network(x_t, DIFFUSION.model_t(t), condition, prepared)

    def guided_step(self, batch: Batch) -> Step:
        denoise = self.denoiser(batch)
        return lambda: denoise(batch.noise, batch.t)

    def first_guided_step(self, batch: Batch) -> Step:
        """Return the first step of a sample, which computes what all steps share."""
        return lambda: self.denoiser(batch)(batch.noise, batch.t)

    @torch.inference_mode()
    def denoiser(self, batch: Batch, diffusion: GaussianDiffusion = DIFFUSION, **more: Any) -> GuidedNetwork:
        """Return what makes the guided steps of `batch`; `more`: other options of it."""
        condition = batch.condition.to(self.case.device)
        return GuidedNetwork(self.network, diffusion, condition, scale=SCALE, amp_dtype=self.case.amp_dtype, **more)


class Ours(Guided):
    """This project's network with its defaults."""

    name = "ours"
    condition = "mask"


class Floor(Guided):
    """The same network without a condition: plain group normalizations in its decoder."""

    name = "floor"
    condition = "none"


VARIANTS: dict[str, type[Variant]] = {v.name: v for v in (Reference, Monai, Ours, Floor)}


def available() -> list[str]:
    """Return the names of the variants that can be measured here."""
    return [name for name, variant in VARIANTS.items() if variant.load()]


def training_step(
    variant: Variant,
    batch: Batch,
    condition_fn: Callable[[SemanticMap, Tensor], SemanticMap] | None = None,
    *,
    prepared: Prepared | None = None,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> Step:
    """Return a step of training on `batch`: what `Trainer.train_step` does, in the variant's way.

    condition_fn: changes the maps by their timesteps (label diffusion), of which nothing is prepared then. prepared:
    what was prepared of the maps before; None: by the data loader, or in each step. encode: makes x0 of the images.
    """
    network, optimizer, update = variant.network.train(), variant.optimizer(), variant.averages()
    device, passed, loaded = variant.case.device, 0, batch.condition
    if condition_fn is None:
        loaded, by_loader = variant.loaded(batch.condition)
        prepared = by_loader if prepared is None else prepared

    def step() -> float:
        nonlocal passed
        maps, ready = loaded.to(device, non_blocking=True), None
        if condition_fn is not None:
            maps = condition_fn(maps, batch.t)
        else:
            ready = variant.prepare(loaded) if prepared is None else prepared
        maps = maps.drop(batch.dropped)
        if ready is not None:
            ready = ready.to(device, non_blocking=True).drop(batch.dropped)
        x0 = batch.image if encode is None else encode(batch.image)
        noise = torch.randn_like(x0)
        x_t = DIFFUSION.q_sample(x0, batch.t, noise)
        with variant.precision:
            output = variant.predict(x_t, batch.t, maps, ready)
        losses = DIFFUSION.training_losses(output.float(), x0, x_t, batch.t, noise)["loss"]
        optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        passed += 1
        update(passed)
        return float(losses.detach().mean())

    return step


def guided_steps(variants: Iterable[Variant], batch: Batch) -> dict[str, Step]:
    """Return the guided step of each variant, to be run in inference mode."""
    steps = {}
    for variant in variants:
        variant.network.eval()
        with torch.inference_mode():
            steps[variant.name] = variant.guided_step(batch)
    return steps
