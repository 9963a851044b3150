"""Training of a segmentation model by crops of whole images: a fixed number of steps, the last state, resumable.

The last state, not the best by validation: of 20 annotated images a validation set would take some away, and the
largest of several scores on a handful of images says more about these images than about the models. The learning rate
falls to 0, so the last steps hardly change the model, and its last state is no accident.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from evaluations.errors import EvaluationError
from evaluations.segmentation.crops import CropPlan, Crops, Late
from evaluations.segmentation.graphed_step import GraphedStep
from evaluations.segmentation.models import MIN_BATCH, InputForm, check_size
from evaluations.segmentation.training import SegmentationLoss, check_finite, optimization_step, rate_share
from evaluations.whole_images import WholeImages

Record = dict[str, Any]
"""Plain values by name, as in a JSON file."""


@dataclass(frozen=True)
class CropTrainingPlan:
    """How models are trained by crops: AdamW, `steps` steps of `batch_size` crops each.

    encoder_rate, decoder_rate: the largest learning rates; they rise over the first tenth of the steps and fall to 0 in
    a cosine. form: of the images as the encoder takes them, see `models.input_form`.
    """

    steps: int
    batch_size: int = 8
    encoder_rate: float = 3e-4
    decoder_rate: float = 1e-3
    weight_decay: float = 1e-2
    form: InputForm = "imagenet"

    def __post_init__(self) -> None:
        assert self.steps >= 1
        assert self.batch_size >= MIN_BATCH


@dataclass(frozen=True)
class Checkpoint:
    """The file in which a training is kept after every `every` steps and at its end, and from which it resumes."""

    path: Path
    every: int = 100


@dataclass(frozen=True)
class Checks:
    """What a model is asked in the course of its training: at `steps`, where it is in evaluation mode."""

    steps: frozenset[int]
    record: Callable[[nn.Module], Record]

    @classmethod
    def evenly(cls, count: int, steps: int, record: Callable[[nn.Module], Record]) -> Checks:
        """Return `count` checks, evenly spaced, the last after all `steps`."""
        return cls(frozenset(-(-(part + 1) * steps // count) for part in range(count)), record)


@dataclass(frozen=True)
class CropTrained:
    """A model in its last state and in evaluation mode, its records (step, record), and how long it was trained."""

    model: nn.Module
    records: tuple[tuple[int, Record], ...]
    seconds: float  # of optimization, without checks


def train_on_crops(
    model: nn.Module,
    images: WholeImages,
    crops: CropPlan,
    plan: CropTrainingPlan,
    *,
    seed: int,
    device: torch.device,
    weights: Sequence[float] | NDArray[np.floating] | None = None,
    late: Late | None = None,
    checks: Checks | None = None,
    checkpoint: Checkpoint | None = None,
    workers: int = 0,
    callback: Callable[[int], None] = lambda step: None,
) -> CropTrained:
    """Train `model` on cross-entropy plus Dice loss. All random numbers are functions of `seed` and the step.

    weights, late: of the images, see `Crops`. workers: processes that draw ahead. callback: called after each step.
    Raises FloatingPointError for a loss that is not finite, EvaluationError for a size or checkpoint that does not fit.
    """
    check_size(crops.size, crops.size, model, option="crop")
    batches = Crops(images, crops, batch_size=plan.batch_size, seed=seed, weights=weights, late=late)
    model.to(device=device, memory_format=torch.channels_last)
    run = _Run(model, _optimizer(model, plan), checkpoint, _identity(model, batches, plan))
    loss_of = SegmentationLoss(images.num_classes)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run.resume()
        step = _step_of(model, run.optimizer, loss_of, plan)
        ahead = DataLoader(batches, batch_size=None, sampler=range(run.step, plan.steps), num_workers=workers)
        started = time.perf_counter()
        for pixels, labels in ahead:
            step.set_rates(rate_share(run.step, plan.steps))
            torch.manual_seed(_seed(seed, run.step))  # of dropout
            model.train()
            loss = step(pixels, labels)
            run.step += 1
            due, kept = checks is not None and run.step in checks.steps, run.is_due(plan.steps)
            if due or kept or run.step == plan.steps:
                check_finite(loss, run.step)
                run.seconds += time.perf_counter() - started
                if due:
                    run.records.append((run.step, checks.record(model.eval())))
                if kept:
                    run.keep()
                started = time.perf_counter()
            callback(run.step)
    return CropTrained(model.eval(), tuple(run.records), run.seconds)


@dataclass
class _Run:
    """A training in progress."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    checkpoint: Checkpoint | None
    identity: str
    step: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.records: list[tuple[int, Record]] = []

    def is_due(self, steps: int) -> bool:
        """Tell whether the training is to be kept now."""
        return self.checkpoint is not None and (self.step == steps or self.step % self.checkpoint.every == 0)

    def keep(self) -> None:
        """Write the file; the old one stays whole until the new one is. EvaluationError where the disk is full."""
        assert self.checkpoint is not None
        content = {
            "identity": self.identity,
            "step": self.step,
            "seconds": self.seconds,
            "records": [list(each) for each in self.records],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        path = self.checkpoint.path
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        # On Windows, a virus scanner may have one of the two open: the next time is soon.
        unless_open = suppress(PermissionError) if os.name == "nt" else nullcontext()
        with _reporting_what_is_unwritable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "wb") as file:  # PyTorch's own file does not say why it cannot be written
                    torch.save(content, file)
                with unless_open:
                    os.replace(temporary, path)
            finally:
                with unless_open:
                    temporary.unlink(missing_ok=True)

    def resume(self) -> None:
        """Go on from the file, if there is one; EvaluationError if it is damaged or of another training."""
        if self.checkpoint is None or not self.checkpoint.path.exists():
            return
        path, remedy = self.checkpoint.path, "delete it, or give another path"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            identity = content["identity"]
        except Exception as error:  # a damaged file fails in zip, pickle or torch
            found = f"is not a checkpoint of a training by crops, or damaged ({type(error).__name__})"
            raise EvaluationError("checkpoint", found, remedy, path=path) from None
        if identity != self.identity:
            found = "is of a training with other images, options or initial weights"
            raise EvaluationError("checkpoint", found, remedy, path=path)
        self.step, self.seconds = content["step"], content["seconds"]
        self.records = [(step, record) for step, record in content["records"]]
        self.model.load_state_dict(content["model"])
        for saved, own in zip(content["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
            saved["capturable"] = own["capturable"]  # of this device: it says where the counts of steps go
        self.optimizer.load_state_dict(content["optimizer"])


@contextmanager
def _reporting_what_is_unwritable(path: Path) -> Iterator[None]:
    """Turn the errors of a block that writes `path` into an EvaluationError, as on a full disk."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            # PyTorch's zip writer turns a full disk into a RuntimeError.
            if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
                raise
            reason = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        found = f"cannot be written ({reason.strerror or reason})"
        raise EvaluationError("checkpoint", found, "make room there, or choose another place", path=path) from error


def _optimizer(model: nn.Module, plan: CropTrainingPlan) -> torch.optim.AdamW:
    """Return AdamW with the encoder's rate and that of the rest as "largest" of its two groups."""
    of_encoder = {id(parameter) for parameter in model.encoder.parameters()}
    groups = [
        {"params": [each for each in model.parameters() if (id(each) in of_encoder) == encoder], "largest": rate}
        for encoder, rate in ((True, plan.encoder_rate), (False, plan.decoder_rate))
    ]
    on_gpu = next(model.parameters()).device.type == "cuda"
    return torch.optim.AdamW(groups, lr=plan.decoder_rate, weight_decay=plan.weight_decay, capturable=on_gpu)


@dataclass(frozen=True)
class _PlainStep:
    """`GraphedStep` without a graph."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_of: SegmentationLoss
    form: InputForm

    def set_rates(self, share: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = share * group["largest"]

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        return optimization_step(self.model, self.optimizer, self.loss_of, images, labels, self.form)


def _step_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: SegmentationLoss, plan: CropTrainingPlan
) -> GraphedStep | _PlainStep:
    """Return what takes the optimization steps."""
    on_gpu = next(model.parameters()).device.type == "cuda"
    return (GraphedStep if on_gpu else _PlainStep)(model, optimizer, loss_of, plan.form)


def _identity(model: nn.Module, batches: Crops, plan: CropTrainingPlan) -> str:
    """Return a digest of what a training depends on."""
    crops = asdict(replace(batches.plan, relabel=None)) | {"relabel": batches.plan.relabel is not None}
    if batches.plan.classes is None:
        del crops["classes"]  # as checkpoints of versions without them have none
    content = sha256(repr((batches.images.digest, crops, asdict(plan), batches.seed)).encode())
    content.update(batches.weights.tobytes())
    if batches.late is not None:
        content.update(repr(batches.late.step).encode() + batches.late.weights.tobytes())
    for name, value in model.state_dict().items():
        content.update(name.encode())
        content.update(value.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
