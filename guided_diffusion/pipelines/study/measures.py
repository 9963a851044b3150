"""What is measured on the synthetic images of a study themselves: looks, mask agreement, distances to real defects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from evaluations.defect_looks import Looks, differs, strength_ratio
from evaluations.metrics.base import FeatureExtractor, Skipped, load_optional
from evaluations.metrics.fidelity import Distance
from evaluations.metrics.inception import load_inception
from evaluations.metrics.segmentation import plain, scores
from evaluations.segmentation.crops import cut_image
from evaluations.segmentation.defect_scores import of_defects
from evaluations.segmentation.models import encoder_features, input_form
from evaluations.segmentation.sliding import whole_counts
from evaluations.sets import Images
from evaluations.whole_images import WholeImages
from guided_diffusion.config.study import PLACE, REPAINT, SDM, amount_name
from guided_diffusion.data.components import find_components
from guided_diffusion.data.visualize import evenly_spaced
from guided_diffusion.pipelines.looks import looks_by_class
from guided_diffusion.pipelines.study.arms import LABELS
from guided_diffusion.pipelines.study.runs import SegmenterRun, SegmenterTraining
from guided_diffusion.pipelines.study.setup import StudySetup
from guided_diffusion.pipelines.study.trainings import StudyImages
from guided_diffusion.runtime.files import digest, write_text
from guided_diffusion.runtime.logs import read_run_record

RECORD = "measures.json"
MOST_IMAGES = 100  # of a set in which masks are looked for
MOST_WINDOWS = 400  # of a set whose features are compared

Record = dict[str, Any]


class SyntheticSet(NamedTuple):
    """The synthetic images of an arm at an amount."""

    arm: str
    amount: int | None
    images: WholeImages

    @property
    def label(self) -> str:
        return f"{LABELS[self.arm].removeprefix('+ ')}, {amount_name(self.amount)} images"


Sets = Sequence[SyntheticSet]


def measure_images(
    images: StudyImages, training: SegmenterTraining, model: nn.Module | None, run: SegmenterRun | None, weights: Path
) -> Record:
    """Return the entries "looks", "agreement" (with a model) and "distances" of the record, as measured now or before.

    run, weights: of the model that looks for masks.
    """
    sets = _sets(images)
    if not sets:
        return {}
    config = images.setup.config
    asked = [digest(weights) if model is not None else "", config.inception_weights, images.test.defects.digest]
    asked += [each.images.digest for each in sets]
    asked += images.setup.chosen_defects or ()
    key = sha256(json.dumps([*asked, training.settings()], sort_keys=True).encode()).hexdigest()[:16]
    there = read_run_record(config.output_dir, RECORD)
    if there.get("of") == key and "looks" in there:  # earlier versions wrote none
        return with_ratios({name: value for name, value in there.items() if name != "of"})
    print("comparing synthetic with real defects")
    found: Record = {"looks": looks(images, sets), "distances": distances(images, training, sets)}
    if model is not None and run is not None:
        found["agreement"] = agreement(images, training, model, run, sets)
    write_text(Path(config.output_dir) / RECORD, json.dumps({"of": key, **found}, indent=1) + "\n")
    return with_ratios(found)


def _sets(images: StudyImages) -> Sets:
    """Return the synthetic images of all arms at the largest amount, and the placed ones of all amounts."""
    setup, found = images.setup, []
    amounts = list(setup.config.design.repeats)
    for amount in reversed(amounts):
        for arm in setup.arms:
            synthetic = images.synthetic(amount, arm) if amount == amounts[-1] or arm == PLACE else None
            if synthetic is not None:
                found.append(SyntheticSet(arm, amount, synthetic))
    return found


# ------------------------------------------------------------------------------------------------ mask agreement


def agreement(
    images: StudyImages, training: SegmenterTraining, model: nn.Module, run: SegmenterRun, sets: Sets
) -> Record:
    """Return the IoU by class of what a model of real images finds in the real test images and in each set."""
    setup = images.setup
    real = _found(images.test.defects, training, model, setup)
    entries = []
    for each in sets:
        if each.arm == SDM:
            continue  # windows of another size than the model takes
        entries.append({"label": each.label, "arm": each.arm, **_found(each.images, training, model, setup)})
    return {"segmenter": run.key, "real": real, "sets": entries}


def _found(images: WholeImages, training: SegmenterTraining, model: nn.Module, setup: StudySetup) -> Record:
    chosen = images.subset(evenly_spaced(range(len(images)), MOST_IMAGES)) if len(images) > MOST_IMAGES else images
    counts = whole_counts(chosen, training.predict(model, chosen.images))
    found = scores(of_defects(counts, setup.defects))
    # Behind class 0, which is everything else.
    classes = {name: plain(value) for name, value in zip(setup.defect_names, found.class_iou[1:], strict=True)}
    return {"images": len(chosen), "mean": plain(found.foreground_miou), "classes": classes}


def with_ratios(found: Record) -> Record:
    """Return a record whose agreement has the ratios to real test images, also one that was measured before."""
    if "agreement" not in found:
        return found
    real = found["agreement"]["real"]["classes"]
    sets = [{**each, **_ratios(each["classes"], real)} for each in found["agreement"]["sets"]]
    return {**found, "agreement": {**found["agreement"], "sets": sets}}


def _ratios(classes: Mapping[str, float | None], real: Mapping[str, float | None]) -> Record:
    """Return the ratio of the mean IoUs, over the classes that both sets have, and those of single classes."""
    both = [(value, real[name]) for name, value in classes.items() if value is not None and real[name] is not None]
    means = np.mean(both, axis=0).tolist() if both else (None, None)
    return {"ratio": _ratio(*means), "ratio_classes": {name: _ratio(classes[name], real[name]) for name in real}}


def _ratio(value: float | None, real: float | None) -> float | None:
    return None if value is None or not real else value / real


# --------------------------------------------------------------------------------------------------------- looks


def looks(images: StudyImages, sets: Sets) -> Record:
    """Return how much the defects of each class stand out in each set, and how many times as much as in training."""
    names, defects = images.setup.class_names, images.setup.defects
    real = _looks_of(images.whole, defects)
    test = _looks_of(images.test.defects, defects)
    entries: list[Record] = [
        {"label": label, "classes": _plain_looks(found, real, names)}
        for label, found in (("real training images", real), ("real test images", test))
    ]
    for each in sets:
        found = _looks_of(each.images, defects)
        entries.append({"label": each.label, "arm": each.arm, "classes": _plain_looks(found, real, names)})
    return {"sets": entries}


def _looks_of(images: WholeImages, defects: Sequence[int]) -> dict[int, Looks | None]:
    return looks_by_class(zip(images.images, images.labels, strict=True), defects, images.num_classes)


def _plain_looks(
    found: Mapping[int, Looks | None], real: Mapping[int, Looks | None], names: Sequence[str]
) -> dict[str, Record | None]:
    return {
        names[class_id]: None if each is None else {**each.to_json(), "ratio": strength_ratio(each, real[class_id])}
        for class_id, each in found.items()
    }


# ----------------------------------------------------------------------------------------------------- distances


def distances(images: StudyImages, training: SegmenterTraining, sets: Sets) -> Record:
    """Return KID, precision and recall of windows around defects, against those of the real test images."""
    side, config, defects = training.options.crop, images.setup.config, images.setup.defects
    extractor = _extractor(images, training)
    real = _windows(images.test.defects, side, defects)
    every = [("real training images", images.whole), *((each.label, each.images) for each in sets)]
    entries = []
    reference = extractor.compute(real, "features of test images") if len(real) > 1 else None
    for label, each in every:
        windows = _windows(each, side, defects)
        if reference is not None and len(windows) > 1:
            features = extractor.compute(windows, f"features of {label}")
            entries.append({"label": label, **Distance.between(features, reference, config.seed).to_json()})
    return {"features": extractor.description, "window": side, "sets": entries}


def check_inception(weights: str, device: torch.device) -> None:
    """Raise EvaluationError for a file of Inception that is missing or does not fit, before the work it is used after.

    weights: as `inception_weights` has them.
    """
    if weights not in ("", "none", "auto"):
        load_inception(weights, device)


def _extractor(images: StudyImages, training: SegmenterTraining) -> FeatureExtractor:
    """Return Inception where there are weights, else the encoder of the study, as it is before any training."""
    weights, device = images.setup.config.inception_weights, training.device
    inception = load_optional("inception_weights", weights, lambda given: load_inception(given, device))
    if not isinstance(inception, Skipped):
        return inception
    encoder, how = training.options.encoder, training.options.encoder_weights
    model, form = training.build(training.architectures[0], 0), input_form(encoder)
    return FeatureExtractor(
        f"the encoder {encoder} of the study ({Path(how).name}), means over its deepest level, not Inception",
        lambda windows, progress: encoder_features(model, windows, device=device, form=form),
    )


def _windows(images: WholeImages, side: int, defects: Sequence[int]) -> Images:
    """Return windows [N, side, side, 3] around the middles of defects, as far inside their images as they fit."""
    places = [
        (index, component.box)
        for index, label in enumerate(images.labels)
        for component in find_components(label, defects)
    ]
    cut = []
    for index, box in evenly_spaced(places, MOST_WINDOWS):
        size = images.labels[index].shape
        middles = (box.top + box.bottom) // 2, (box.left + box.right) // 2
        top, left = (
            min(max(middle - side // 2, min(0, (length - side) // 2)), max(length - side, (length - side) // 2))
            for middle, length in zip(middles, size, strict=True)
        )
        cut.append(cut_image(images.images[index], top, left, side))
    return np.stack(cut) if cut else np.empty((0, side, side, 3), np.uint8)


def agreement_lines(found: Mapping[str, Any]) -> list[str]:
    """Return a line on the agreement of placed images, for the terminal."""
    return [
        f"mask agreement of {each['label']}: {each['ratio']:.2f} of that of real test images"
        for each in found.get("sets", ())
        if each["arm"] in (PLACE, REPAINT) and each["ratio"] is not None
    ]


def looks_lines(found: Mapping[str, Any]) -> list[str]:
    """Return a line for each class that stands out much more or less in placed images than in real ones."""
    return [
        f"{each['label']}: {name} stands out {look['ratio']:.1f} times as much as in real training images"
        for each in found.get("sets", ())
        for name, look in each["classes"].items()
        if each.get("arm") in (PLACE, REPAINT) and look is not None and differs(look["ratio"])
    ]
