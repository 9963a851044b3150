"""The self-test: what a device computes, against a reference of the CPU in float64.

Error: the norm of the difference over that of the reference, so 1e-3 is 0.1 %.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluations.metrics.segmentation import count, scores
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import load_config
from guided_diffusion.config.network import NetworkConfig
from guided_diffusion.diffusion.gaussian import build_diffusion
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.diffusion.samplers import SAMPLERS
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.pipelines.build import AMP_DTYPES, build_network
from guided_diffusion.pipelines.doctor.page import Part
from guided_diffusion.pipelines.sampling import SamplingPipeline
from guided_diffusion.runtime.seeding import Stream, derive_seed

CLASSES = ("background", "first", "second", "third")
SIDE, IMAGES, STEPS = 16, 2, 4
NETWORK = {
    "dataset_mode": "multi-class", "num_classes": len(CLASSES), "image_size": SIDE, "num_channels": 32,
    "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [8],
}  # fmt: skip
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 0.1}
"""Largest error of a precision: about five times of what CPUs have, which round in every layer anew."""
TF32_TOLERANCE = 2e-2
"""That of fp32 on a GPU whose convolutions and products have the 10-bit mantissa of TF32, which PyTorch allows."""
MEANINGS = {
    "training step": "a training here learns something else than it should",
    "sampling": "samples made here are not those that the weights stand for",
    "scores": "segmentation scores measured here are wrong",
}
REMEDY = "use precision fp32 or another device, update PyTorch and the driver, and report this page"
LOSS_SCALE = 1024.0  # of fp16, whose gradients would vanish without it


@dataclass(frozen=True)
class Check:
    """One row: what was computed, its error and the largest one that passes. error None: it could not be computed."""

    what: str
    precision: str
    error: float | None
    tolerance: float
    seconds: float
    reason: str = ""

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= self.tolerance

    def row(self) -> tuple[str, ...]:
        """Return the cells of the row."""
        found = self.reason if self.error is None else f"{self.error:.1e}"
        return self.what, self.precision, found, f"{self.tolerance:.0e}", "pass" if self.passed else "FAIL"

    def failure(self) -> str:
        """Return a line that says what it means that it has failed."""
        found = self.reason or f"error {self.error:.1e}, allowed {self.tolerance:.0e}"
        meaning = next(meaning for what, meaning in MEANINGS.items() if self.what.startswith(what))
        return f"{self.what} in {self.precision}: {found}: {meaning}; {REMEDY}"


Outputs = dict[str, Tensor]
"""Name of a row -> what was computed for it, on the CPU in float64."""


def self_test(device: torch.device, *, deadline: float, report: Callable[[], None] = lambda: None) -> Part:
    """Return the part of a row for each thing and precision.

    deadline: of time.monotonic(); what does not begin before it is left out. report: is called after each thing.
    """
    model, work = test_network(), _work()
    checks: list[Check] = []
    left_out = []
    for what, compute in work.items():
        if time.monotonic() > deadline:
            left_out.append(what)
            continue
        reference = compute(copy.deepcopy(model).double(), torch.device("cpu"), None)
        for precision, dtype in AMP_DTYPES.items():
            checks += _compared(
                what, precision, reference, device, partial(compute, copy.deepcopy(model).to(device), device, dtype)
            )
        report()
    notes = ["error: norm of the difference from float64 on the CPU, over the norm of that"]
    if left_out:
        notes.append(f"left out, as time_limit was over: {', '.join(left_out)}")
    record = [{**vars(check), "passed": check.passed} for check in checks]
    failed = tuple(check.failure() for check in checks if not check.passed)
    head = ("what", "precision", "error", "allowed", "result")
    return Part(f"Self-test of {device}", head, tuple(check.row() for check in checks), tuple(notes), record, failed)


def things() -> list[str]:
    """Return the names of what is tested."""
    return list(_work())


def _work() -> dict[str, Callable[[UNetModel, torch.device, torch.dtype | None], Outputs]]:
    samplers = {f"sampling, {name}": lambda *given, name=name: _samples(name, *given) for name in SAMPLERS}
    return {"training step": _training_step, "scores of a segmentation": _scores, **samplers}


def _compared(
    what: str, precision: str, reference: Outputs, device: torch.device, compute: Callable[[], Outputs]
) -> list[Check]:
    tolerance, started = tolerance_of(precision, device), time.perf_counter()
    try:
        made = compute()
    except Exception as error:  # of drivers and kernels, which have exceptions of their own
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return [Check(what, precision, None, tolerance, time.perf_counter() - started, reason)]
    seconds = time.perf_counter() - started
    return [Check(name, precision, relative_error(made[name], reference[name]), tolerance, seconds) for name in made]


def tolerance_of(precision: str, device: torch.device) -> float:
    """Return the largest error that passes."""
    tf32 = device.type == "cuda" and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return TF32_TOLERANCE if precision == "fp32" and tf32 else TOLERANCES[precision]


def relative_error(made: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference over that of the reference, infinite where a value is not finite."""
    error = float((made - reference).norm() / reference.norm())
    return error if np.isfinite(error) else float("inf")


# ------------------------------------------------------------------------------------------------- what is computed


def test_network() -> UNetModel:
    """Return a small network with random weights everywhere: fresh ones have zeros, which hide what lies before."""
    config = _config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(Stream.WEIGHTS, 0))
        model = build_network(config)
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():
                nn.init.normal_(weight, std=0.02)
    return model


def _config() -> NetworkConfig:
    return load_config("train", {**NETWORK, "data_dir": "none", "output_dir": "none"})


def _condition() -> SemanticMap:
    """Return maps of squares of all classes and of none, which the network is made from."""
    squares = _numbers(1).integers(0, len(CLASSES) + 1, (IMAGES, 4, 4))
    label = torch.from_numpy(squares.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2))
    return SemanticMap(label, len(CLASSES))


def _numbers(position: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(Stream.NOISE, 0, position))


def _training_step(model: UNetModel, device: torch.device, dtype: torch.dtype | None) -> Outputs:
    """Return loss and gradient of a step, whose noise is drawn on the CPU."""
    process = build_diffusion(_config().diffusion)
    image, noise = (
        torch.from_numpy(_numbers(position).standard_normal((IMAGES, 3, SIDE, SIDE), np.float32)).to(device)
        for position in (2, 3)
    )
    image, t = image.clamp(-1, 1), torch.tensor([50, 700], device=device)
    x_t = process.q_sample(image, t, noise)
    condition = _condition().to(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        output = model(x_t.to(next(model.parameters()).dtype), process.model_t(t), condition)
    loss = process.training_losses(output.float(), image, x_t, t, noise)["loss"].mean()
    scale = LOSS_SCALE if dtype is torch.float16 else 1.0
    (loss * scale).backward()
    gradients = [weight.grad.flatten() for weight in model.parameters() if weight.grad is not None]
    gradient = torch.cat(gradients).cpu().double() / scale
    return {"training step: loss": loss.detach().cpu().double(), "training step: gradient": gradient}


class _InFloat64:
    """A network in float64 as samplers take it, whose own arithmetic is that of float32."""

    def __init__(self, model: UNetModel):
        self._model, self.modulate, self.decode = model, model.modulate, model.decode

    def encode(self, x: Tensor, t: Tensor) -> tuple[list[Tensor], Tensor]:
        return self._model.encode(x.double(), t)


def _samples(sampler: str, model: UNetModel, device: torch.device, dtype: torch.dtype | None) -> Outputs:
    """Return images of a few steps with guidance, of noise that is drawn on the CPU."""
    model.eval()
    exact = next(model.parameters()).dtype is torch.float64
    network: Any = _InFloat64(model) if exact else model
    pipeline = SamplingPipeline(network, _config(), CLASSES, device, dtype, None)
    run = pipeline.begin(SamplerOptions(sampler=sampler, steps=STEPS, s=1.5), noise_device="cpu")
    return {f"sampling, {sampler}": run(_condition(), range(IMAGES)).double()}


def _scores(model: UNetModel, device: torch.device, dtype: torch.dtype | None) -> Outputs:
    """Return all scores of maps that a layer segments on the device, or, as the reference, plainly counted."""
    labels = _condition().label
    patterns = torch.from_numpy(_numbers(4).standard_normal((len(CLASSES) + 1, 8)))
    noise = torch.from_numpy(_numbers(5).standard_normal((IMAGES, 8, SIDE, SIDE)))
    image = patterns[labels].movedim(-1, 1) + 2 * noise
    exact = next(model.parameters()).dtype is torch.float64
    kind = torch.float64 if exact else torch.float32
    weight, image = (values.to(kind).to(device) for values in (patterns[:-1], image))
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        logits = nn.functional.conv2d(image, weight[:, :, None, None])
        found = logits.float().softmax(dim=1).argmax(dim=1).cpu()
    if exact:
        return {"scores of a segmentation": _plainly_scored(labels, found)}
    measured = scores(count(labels, found, len(CLASSES)))
    numbers = [*measured.class_iou, measured.miou, measured.pixel_accuracy]
    return {"scores of a segmentation": torch.tensor(numbers, dtype=torch.float64)}


def _plainly_scored(labels: Tensor, found: Tensor) -> Tensor:
    """Return the IoU of each class, their mean, and the share of right pixels, by their definitions."""
    known = labels < len(CLASSES)
    pairs = [(labels == number, (found == number) & known) for number in range(len(CLASSES))]
    iou = torch.stack([(true & seen).sum().double() / (true | seen).sum() for true, seen in pairs])
    right = (labels == found)[known].double().mean()
    return torch.cat([iou, iou.mean()[None], right[None]])
