"""Classification score of crops (CAS, Ravuri & Vinyals 2019): a classifier of objects learns from the boxes of samples
and is tested on real ones, beside one that learned from real boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from evaluations.errors import EvaluationError
from evaluations.metrics.base import EvaluationSets, Measurement, Metric, Skipped
from evaluations.metrics.segmentation import plain
from evaluations.objects import Crops, crops_of
from evaluations.published_weights import first_detail
from evaluations.report.page import Section, Sheet, Table
from evaluations.report.sections import percent
from evaluations.segmentation.models import to_input
from evaluations.segmentation.training import rate_share
from evaluations.sets import Images

HEADING = "Are the objects what they should be?"
NAME = "Classes of crops"
SIDE = 32
"""Pixels of a crop, as published."""
BATCH = 64
_RATE = 1e-3
_TESTED = 512  # crops that go through a classifier at a time

Values = NDArray[np.float64]


@dataclass(frozen=True)
class CropPlan:
    """A classifier of timm, by name, trained from random weights for `steps` batches, for each of `seeds` seeds."""

    network: str
    steps: int
    seeds: int


def build_classifier(name: str, num_classes: int, seed: int) -> nn.Module:
    """Return a classifier of timm with random weights, a function of the seed.

    Raises EvaluationError for an unknown name, and for a network that takes no images of `SIDE` pixels.
    """
    if not timm.is_model(name):  # other names may stand for files, or be looked up elsewhere
        raise EvaluationError("crop_net", f"timm has no {name!r}", "give one of timm.list_models(), such as resnet18")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=False, num_classes=num_classes)
            model.eval()(torch.zeros(1, 3, SIDE, SIDE))
        except Exception as error:  # timm raises what its models do
            found = f"{name} takes no images of {SIDE} x {SIDE} pixels ({first_detail(error)})"
            raise EvaluationError("crop_net", found, "give another one, such as resnet18") from None
    return model


def train_classifier(
    model: nn.Module, crops: Crops, steps: int, *, seed: int, device: torch.device, callback: Callable[[], None]
) -> nn.Module:
    """Train a classifier with AdamW and cross-entropy on batches in which all classes are equally frequent.

    The batches are a function of `seed`. callback: called after every step. EvaluationError if the loss is not finite.
    """
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_share(step, steps))
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(crops.classes == class_id) for class_id in np.unique(crops.classes)]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # of dropout
        for _ in range(steps):
            drawn = rng.integers(len(members), size=BATCH)
            chosen = np.array([members[row][rng.integers(len(members[row]))] for row in drawn])
            labels = torch.from_numpy(crops.classes[chosen]).to(device)
            loss = nn.functional.cross_entropy(model(_input(crops.images[chosen], device)), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            callback()
    if not torch.isfinite(loss):
        raise EvaluationError("crop_net", "its loss is not finite", "use another one")
    return model.eval()


def _input(images: Images, device: torch.device) -> torch.Tensor:
    return to_input(torch.from_numpy(images).to(device), "imagenet")


@torch.inference_mode()
def class_accuracy(model: nn.Module, crops: Crops, num_classes: int, device: torch.device) -> Values:
    """Return the share of the crops of each class that the model tells, [num_classes]; NaN for a class without any."""
    found = [
        model(_input(crops.images[start : start + _TESTED], device)).argmax(1).cpu().numpy()
        for start in range(0, len(crops), _TESTED)
    ]
    right = np.concatenate(found) == crops.classes
    counts, hits = (np.bincount(crops.classes[kept], minlength=num_classes) for kept in (right | True, right))
    return np.divide(hits, counts, out=np.full(num_classes, np.nan), where=counts > 0)


# ----------------------------------------------------------------------------------------------------- metric


@dataclass(frozen=True)
class CropClassesMetric(Metric):
    """Accuracy of classifiers of the crops of samples on real test crops, and of real crops on both."""

    key: ClassVar = "crop_classes"

    plan: CropPlan
    seed: int
    device: torch.device

    def measure(self, sets: EvaluationSets) -> Measurement:
        """Return accuracies by class and balanced, the mean over classes, over all seeds."""
        crops = _crops(sets)
        skipped = _lacking(crops)
        if skipped is not None:
            return skipped.measurement(HEADING, NAME)
        scores = self._scores(crops, len(sets.class_names))
        present = [index for index in range(len(sets.class_names)) if (crops["test"].classes == index).any()]
        record = {
            "network": f"{self.plan.network} of timm, random weights",
            "steps": self.plan.steps,
            "seeds": self.plan.seeds,
            "side": SIDE,
            "crops": {name: len(each) for name, each in crops.items()},
            **{name: _entry(rows, sets.class_names) for name, rows in scores.items()},
        }
        section = Section(HEADING, _text(record), [_table(record, crops, sets.class_names, present)], [_sheet(crops)])
        ours = f"{_balanced(record['samples_on_test'])} %"
        finding = f"classes of crops, balanced accuracy on real test boxes: {ours} learned from samples"
        if "training_on_test" in record:
            finding += f", {_balanced(record['training_on_test'])} % from real boxes"
        missing = _missing(crops, sets.class_names)
        warnings = (f"no sample has an object of {', '.join(missing)}, which test images have",) if missing else ()
        return Measurement(record, section, (finding,), warnings, (("Classification score of crops", ours),))

    def _scores(self, crops: Mapping[str, Crops], num_classes: int) -> dict[str, list[Values]]:
        """Return for each use of a classifier the accuracies [C] of each seed."""
        trained = [name for name in ("samples", "training") if name in crops]
        found: dict[str, list[Values]] = {}
        with tqdm(total=len(trained) * self.plan.seeds * self.plan.steps, desc="classes of crops", unit="step") as bar:
            for repeat in range(self.plan.seeds):
                for name in trained:
                    model = build_classifier(self.plan.network, num_classes, self.seed + repeat)
                    model = train_classifier(
                        model,
                        crops[name],
                        self.plan.steps,
                        seed=self.seed + repeat,
                        device=self.device,
                        callback=bar.update,
                    )
                    for tested in ("test",) if name == "samples" else ("test", "samples"):
                        accuracy = class_accuracy(model, crops[tested], num_classes, self.device)
                        found.setdefault(f"{name}_on_{tested}", []).append(accuracy)
        return found


def _crops(sets: EvaluationSets) -> dict[str, Crops]:
    assert sets.layouts is not None
    found = {}
    for name in ("samples", "training", "test"):
        images, objects = getattr(sets, name), getattr(sets.layouts, name)
        if images is not None and objects is not None:
            found[name] = crops_of(images.images, objects, SIDE)
    return found


def _lacking(crops: Mapping[str, Crops]) -> Skipped | None:
    for name, each in crops.items():
        if not len(each):
            return Skipped(f"not measured: the {name} {'' if name == 'samples' else 'images '}have no objects")
    if len(np.unique(crops["test"].classes)) < 2:
        return Skipped("not measured: all objects of the test images are of one class")
    return None


def _missing(crops: Mapping[str, Crops], names: tuple[str, ...]) -> list[str]:
    missing = set(crops["test"].classes.tolist()) - set(crops["samples"].classes.tolist())
    return [names[class_id] for class_id in sorted(missing)]


def _entry(rows: list[Values], names: tuple[str, ...]) -> dict[str, Any]:
    """Return mean and deviation over seeds of the balanced accuracy, and the mean accuracy of each class."""
    balanced = np.array([np.nanmean(row) for row in rows])
    return {
        "balanced": float(balanced.mean()),
        "std": float(balanced.std(ddof=1)) if len(rows) > 1 else None,
        "classes": {name: plain(value) for name, value in zip(names, np.mean(rows, axis=0), strict=True)},
    }


def _balanced(entry: Mapping[str, Any]) -> str:
    spread = "" if entry["std"] is None else f" ± {percent(entry['std'])}"
    return f"{percent(entry['balanced'])}{spread}"


_TITLES = {
    "samples_on_test": "samples, tested on real, %",
    "training_on_test": "real, tested on real, %",
    "training_on_samples": "real, tested on samples, %",
}


def _table(record: Mapping[str, Any], crops: Mapping[str, Crops], names: tuple[str, ...], present: list[int]) -> Table:
    columns = [name for name in _TITLES if name in record]
    counts = {name: np.bincount(each.classes, minlength=len(names)) for name, each in crops.items()}
    rows = [
        [
            names[index],
            *(int(counts[name][index]) for name in counts),
            *(percent(record[column]["classes"][names[index]]) for column in columns),
        ]
        for index in present
    ]
    everything = [len(each) for each in crops.values()]
    header = ["learned from", *(f"{name} crops" for name in counts), *(_TITLES[column] for column in columns)]
    return Table(header, [["balanced", *everything, *(_balanced(record[column]) for column in columns)], *rows])


def _text(record: Mapping[str, Any]) -> list[str]:
    return [
        f"A classifier ({record['network']}) learns the classes of {SIDE} x {SIDE} crops of boxes, {record['steps']} "
        f"batches of {BATCH} with all classes equally often, over {record['seeds']} seed(s). Learned from samples and "
        "tested on real test images it tells how much of the real objects the samples have; the same learned from real "
        "training images is what it can be. Learned from real ones and tested on samples it tells whether an object is "
        "seen for what it should be. Balanced: the mean over the classes, ± the deviation over seeds.",
    ]


def _sheet(crops: Mapping[str, Crops]) -> Sheet:
    """Return a few crops of each class, of samples and of real images."""
    groups = []
    for class_id in np.unique(crops["test"].classes)[:6]:
        pair = [each.images[each.classes == class_id] for each in (crops["samples"], crops["test"])]
        groups += list(zip(*(images[:4] for images in pair), strict=False))
    return Sheet("Crops of one class", groups, ("sample", "real"))
