"""Training of one segmentation model on images in memory: a fixed number of steps, the best state by validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evaluations.metrics.segmentation import Counts, count, scores
from evaluations.segmentation.models import MIN_BATCH, InputForm, to_input
from evaluations.sets import Images, ImageSet, Labels

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(image uint8 [3, H, W], label int64 [H, W], generator) -> the same, changed."""


@dataclass(frozen=True)
class TrainingPlan:
    """How all models of a study are trained: optimization steps of `batch_size` images each.

    learning_rate: the maximum; it rises over the first tenth of the steps and falls to 0 in a cosine.
    validations: how often, evenly spaced, the model is scored on the validation images, to keep the best state.
    form: of the images as the encoder takes them, see `models.input_form`.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 1e-4
    validations: int = 10
    form: InputForm = "imagenet"

    def __post_init__(self) -> None:
        assert self.steps >= 1
        assert self.batch_size >= MIN_BATCH


@dataclass(frozen=True)
class TrainedModel:
    """A model in its best state, the step of that state, and its macro mIoU on the validation images (0..1)."""

    model: nn.Module
    best_step: int
    validation_miou: float


def train_segmenter(
    model: nn.Module,
    training: ImageSet,
    validation: ImageSet,
    plan: TrainingPlan,
    *,
    seed: int,
    device: torch.device,
    augment: Augmentation | None = None,
    callback: Callable[[], None] = lambda: None,
) -> TrainedModel:
    """Train `model` with AdamW on cross-entropy plus Dice loss (Milletari et al. 2016) and return its best state.

    The order of the images, the draws of `augment` and dropout depend on `seed` alone; the global generators are not
    changed. callback: called after every step. Raises FloatingPointError if the loss is not finite.
    """
    model.to(device=device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, plan.steps))
    loss_of = SegmentationLoss(training.num_classes)
    generator = torch.Generator().manual_seed(seed)
    due = {math.ceil((part + 1) * plan.steps / plan.validations) for part in range(plan.validations)}
    best = (-math.inf, 0, {})
    batches = zip(range(1, plan.steps + 1), _batches(len(training), plan.batch_size, seed), strict=False)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # of dropout
        for step, indices in batches:
            images, labels = _batch(training, indices, augment, generator)
            loss = optimization_step(model, optimizer, loss_of, images, labels, plan.form)
            schedule.step()
            if step in due:
                check_finite(loss, step)
                miou = scores(evaluate_segmenter(model, validation, plan.batch_size, device, plan.form)).miou
                miou = 0.0 if math.isnan(miou) else miou  # validation images without any labeled pixel
                if miou >= best[0]:  # of equal ones the later, which has seen more
                    best = (miou, step, {name: value.detach().clone() for name, value in model.state_dict().items()})
                model.train()
            callback()
    model.load_state_dict(best[2])
    return TrainedModel(model.eval(), best[1], best[0])


def optimization_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_of: SegmentationLoss,
    images: Tensor,
    labels: Tensor,
    form: InputForm = "imagenet",
) -> Tensor:
    """Change the model by a batch, uint8 [N, H, W, 3] and int64 [N, H, W]; return the loss before that.

    The norm of the gradients is limited to 1. `form` is that of `to_input`.
    """
    device = next(model.parameters()).device
    return update(model, optimizer, loss_of, network_input(images, device, form), labels.to(device))


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: SegmentationLoss, pixels: Tensor, labels: Tensor
) -> Tensor:
    """Do as `optimization_step` does with images as the model takes them; nothing waits for the device."""
    loss = loss_of(model(pixels), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def check_finite(loss: Tensor, step: int) -> None:
    """Raise FloatingPointError unless the loss after `step` steps is finite."""
    if not math.isfinite(loss.item()):
        raise FloatingPointError(f"the loss of the segmentation model is {loss.item()} after {step} steps")


class SegmentationLoss(nn.Module):
    """Cross-entropy plus soft Dice loss of logits [N, C, H, W] against labels [N, H, W]; label C is ignored."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.dice = smp.losses.DiceLoss(mode="multiclass", from_logits=True, ignore_index=num_classes)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar; 0 where no pixel has a class."""
        labeled = (labels != self.num_classes).sum()
        summed = nn.functional.cross_entropy(logits, labels, ignore_index=self.num_classes, reduction="sum")
        return summed / labeled.clamp(min=1) + self.dice(logits, labels)


def rate_share(step: int, steps: int) -> float:
    """Return the share of the largest learning rate at `step`: a linear rise over a tenth, then a half cosine."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _batches(count: int, batch_size: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield full batches of indices without end, permutation after permutation."""
    rng = np.random.default_rng(seed)
    waiting = np.empty(0, np.int64)
    while True:
        while len(waiting) < batch_size:
            waiting = np.concatenate([waiting, rng.permutation(count)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def _batch(
    source: ImageSet, indices: NDArray[np.int64], augment: Augmentation | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return images uint8 [N, H, W, 3] and labels int64 [N, H, W]."""
    images = torch.from_numpy(source.images[indices])
    labels = torch.from_numpy(source.labels[indices].astype(np.int64))
    if augment is None:
        return images, labels
    changed = [augment(image.permute(2, 0, 1), label, generator) for image, label in zip(images, labels, strict=True)]
    return torch.stack([image.permute(1, 2, 0) for image, _ in changed]), torch.stack([label for _, label in changed])


def network_input(images: Tensor, device: torch.device, form: InputForm = "imagenet") -> Tensor:
    """Return images uint8 [N, H, W, 3] as models take them, on their device and in their memory format."""
    return to_input(images.to(device), form).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict(
    model: nn.Module, images: Images, batch_size: int, device: torch.device, form: InputForm = "imagenet"
) -> Labels:
    """Return the most likely class [N, H, W] (int16) of each pixel of `images` [N, H, W, 3].

    form: of the images as the model takes them, see `to_input`.
    """
    model.to(device).eval()
    batches = (torch.from_numpy(images[start : start + batch_size]) for start in range(0, len(images), batch_size))
    parts = [model(network_input(batch, device, form)).argmax(1).short().cpu() for batch in batches]
    return torch.cat(parts).numpy()


def evaluate_segmenter(
    model: nn.Module, images: ImageSet, batch_size: int, device: torch.device, form: InputForm = "imagenet"
) -> Counts:
    """Return the pixel counts of the model's predictions on each of `images`; `form` as `predict` takes it."""
    return count(images.labels, predict(model, images.images, batch_size, device, form), images.num_classes)
