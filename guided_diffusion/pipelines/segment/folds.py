"""The training of pixel classifiers: once for each fold, scored on the images held out, and once on all images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from evaluations.fold_scores import FoldScores, Reliability, choose_favor
from evaluations.metrics.segmentation import Counts, count, joined
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data import visualize
from guided_diffusion.data.tiles import Tile
from guided_diffusion.data.tiles import joined as joined_tiles
from guided_diffusion.features.store import FeatureStore
from guided_diffusion.labeling.classifier import PixelEnsemble
from guided_diffusion.labeling.fit import Fit
from guided_diffusion.labeling.folds import split_folds
from guided_diffusion.labeling.maps import ImageMaps
from guided_diffusion.labeling.pixels import PixelPool
from guided_diffusion.labeling.predict import predict, predict_each
from guided_diffusion.labeling.recipes import Recipe
from guided_diffusion.labeling.uncertainty import Prediction, Vote
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.segment.labeled import LabeledImages, min_region_of
from guided_diffusion.pipelines.segment.reader import ImageReader
from guided_diffusion.runtime.files import atomic_write

SHOWN_SIDE = 256  # pixels of the longer side of a held-out image that is kept for the report


@dataclass(frozen=True)
class Trainer:
    """Trains ensembles on some of the labeled images, with all that they have in common."""

    config: SegmentConfig
    labeled: LabeledImages
    reader: ImageReader
    recipe: Recipe
    device: torch.device

    def train(self, store: FeatureStore, numbers: Sequence[int], state: Path, what: str) -> Trained:
        """Return what training on the images `numbers` gives; `state` is where an interrupted training goes on."""
        images = [maps for number in numbers for maps in self.labeled.maps(store, number)]
        labels = self.labeled.learned(numbers, min_region_of(self.config))
        pool = PixelPool(labels, self.labeled.classes)
        members = self.config.classifier.members
        fit = Fit(images, pool, self.recipe, members=members, seed=self.config.seed, device=self.device)
        with tqdm(total=fit.total, desc=what, unit="step") as bar:

            def progress(step: int, total: int, loss: float) -> None:
                bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
                bar.update(step - bar.n)

            return Trained(fit.run(state, progress=progress), pool.log_ratio(self.recipe.batch))

    def predicted(self, trained: Trained, store: FeatureStore, number: int, *, flip: bool) -> list[Prediction]:
        """Return what classifiers say of a labeled image, at the size at which it is scored, for each of `favors`."""
        tiles = self.labeled.tiles[number]
        if flip or store.extractor.noise_draws > 1:  # of which the store has one
            rows = range(*self.labeled.first_tiles[number : number + 2])
            views = self.reader.views(self.labeled.read_tiles(self.reader, rows), rows, tiles, flip=flip)
        else:
            views = [[maps] for maps in self.labeled.maps(store, number)]
        offsets = torch.stack([favor * trained.log_ratio for favor in self.config.classifier.favors])
        parts = [predict_each(trained.ensemble, view, offsets, self.recipe.vote) for view in views]
        return [_joined(each, tiles, self.labeled.size(number)) for each in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Trained:
    """Classifiers whose probabilities are those of the true frequencies of the classes.

    log_ratio: [classes], what added to the logits makes them those of the training steps; see `PixelPool.log_ratio`.
    """

    ensemble: PixelEnsemble
    log_ratio: Tensor

    def favoring(self, favor: float) -> PixelEnsemble:
        """Return the ensemble, changed, as `favor_rare` has it."""
        self.ensemble.add_to_logits(favor * self.log_ratio.to(self.ensemble.last_bias.device))
        return self.ensemble


def predict_tiles(
    ensemble: PixelEnsemble,
    views: Sequence[Sequence[ImageMaps]],
    tiles: Sequence[Tile],
    size: tuple[int, int],
    vote: Vote,
) -> Prediction:
    """Return what an ensemble says of an image of `size`; views: the maps of each tile, once or several times."""
    return _joined([predict(ensemble, view, vote) for view in views], tiles, size)


def _joined(parts: Sequence[Prediction], tiles: Sequence[Tile], size: tuple[int, int]) -> Prediction:
    maps = {
        name: torch.from_numpy(joined_tiles([getattr(part, name).cpu() for part in parts], tiles, size))
        for name in ("label", "uncertainty", "confidence")
    }
    return Prediction(**maps)


def score_folds(trainer: Trainer, store: FeatureStore, values: FeatureStore, results: StudyResults) -> None:
    """Train and score what `results` does not have yet, fold by fold."""
    labeled, config = trainer.labeled, trainer.config
    groups = labeled.groups(config.source.group_pattern)
    folds = folds_of(config, len(set(groups)))
    parts = split_folds(len(labeled), folds, config.seed, groups) if folds else []
    for number, held_out in enumerate(parts):
        key = f"fold_{number:03d}"
        if key in results:
            continue
        others = [each for each in range(len(labeled)) if each not in held_out]
        states = [results.folder / f"{key}{kind}.pt" for kind in ("", "_values")]
        what = f"fold {number + 1} of {folds}"
        features = trainer.train(store, others, states[0], what)
        plain = trainer.train(values, others, states[1], f"{what}, values of the pixel alone")
        images, pictures = [], {}
        for each in held_out:
            found = trainer.predicted(features, store, each, flip=config.labels.flip)
            of_values = trainer.predicted(plain, values, each, flip=False)
            images.append(_measured(labeled, each, found, of_values))
            pictures[f"{each}_label"] = small(labeled.labels[each].numpy())
            for favor, prediction in enumerate(found):
                shown = {"predicted": prediction.label, "uncertainty": prediction.uncertainty}
                pictures |= {f"{each}_{name}_{favor}": small(value.numpy()) for name, value in shown.items()}
        _save_pictures(results.folder / f"{key}.npz", pictures)
        results[key] = {"counts": len(images), "trained_on": others, "images": images}


def folds_of(config: SegmentConfig, groups: int) -> int:
    """Return the number of folds: not more than groups of images, and 0 where there is nothing to train on."""
    return min(config.labels.folds, groups) if groups > 1 else 0


def _measured(
    labeled: LabeledImages, number: int, found: Sequence[Prediction], values: Sequence[Prediction]
) -> dict[str, Any]:
    """Return the record of a held-out image; what is measured is a list over `favors`."""
    label = labeled.labels[number]

    def counted(predictions: Sequence[Prediction]) -> list[Any]:
        return [count(label.numpy()[None], each.label.numpy()[None], labeled.classes).to_json() for each in predictions]

    return {
        "number": number,
        "stem": labeled.pairs[number].stem,
        "score": [each.score for each in found],
        "features": counted(found),
        "values": counted(values),
        "reliability": [
            Reliability.of(label, each.label, each.uncertainty, labeled.classes).to_json() for each in found
        ],
    }


def small(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a map [H, W], or an image [H, W, C], of at most 256 pixels a side: every other, third, ... pixel."""
    step = -(-max(values.shape[:2]) // SHOWN_SIDE)
    thinned = values[step // 2 :: step, step // 2 :: step]
    return thinned.astype(np.float16) if thinned.dtype.kind == "f" else thinned


def _save_pictures(path: Path, pictures: dict[str, NDArray[np.generic]]) -> None:
    # By an open file: otherwise numpy adds an extension to the temporary name.
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **pictures)


@dataclass(frozen=True)
class HeldOut:
    """A labeled image as classifiers that never saw it segment it: maps of at most 256 pixels a side."""

    stem: str
    score: float
    path: str
    label: NDArray[np.integer]
    predicted: NDArray[np.integer]
    uncertainty: NDArray[np.floating]


def fold_scores(labeled: LabeledImages, results: StudyResults, config: SegmentConfig) -> FoldScores | None:
    """Return the scores of all folds together, None without folds."""
    favors, groups = config.classifier.favors, labeled.groups(config.source.group_pattern)
    folds = {key: fold["images"] for key, fold in sorted(results.items()) if fold["images"]}
    if not folds:
        return None
    counts = {
        name: [
            [joined([Counts.from_json(image[name][favor]) for image in images]) for favor in range(len(favors))]
            for images in folds.values()
        ]
        for name in ("features", "values")
    }
    best, of_fold = choose_favor(counts["features"])
    _, of_values = choose_favor(counts["values"])
    chosen = [
        (image, favor, plain)
        for images, favor, plain in zip(folds.values(), of_fold, of_values, strict=True)
        for image in images
    ]
    chosen.sort(key=lambda each: each[0]["number"])
    return FoldScores(
        joined([Counts.from_json(image["features"][favor]) for image, favor, _ in chosen]),
        joined([Counts.from_json(image["values"][plain]) for image, _, plain in chosen]),
        Reliability.joined([Reliability.from_json(image["reliability"][favor]) for image, favor, _ in chosen]),
        labeled.names,
        tuple(labeled.images_with),
        favors[best],
        dict(zip(folds, of_fold, strict=True)),
        [groups[image["number"]] for image, *_ in chosen],
    )


def held_out(labeled: LabeledImages, results: StudyResults, scores: FoldScores, most: int) -> list[HeldOut]:
    """Return up to `most` labeled images, evenly spread over their scores, the most uncertain first."""
    images = [
        (image, key, scores.favor_of_fold[key], image["score"][scores.favor_of_fold[key]])
        for key in results
        for image in results[key]["images"]
    ]
    images.sort(key=lambda each: -each[3])
    shown = []
    for image, key, favor, score in visualize.evenly_spaced(images, most):
        with np.load(results.folder / f"{key}.npz") as pictures:
            label = pictures[f"{image['number']}_label"]
            maps = {name: pictures[f"{image['number']}_{name}_{favor}"] for name in ("predicted", "uncertainty")}
        shown.append(HeldOut(image["stem"], score, labeled.pairs[image["number"]].image, label, **maps))
    return shown


def settings_of(config: SegmentConfig, recipe: Recipe, reader: ImageReader) -> dict[str, Any]:
    """Return the options that classifiers and their scores depend on."""
    own = {"folds": config.labels.folds, "flip": config.labels.flip, "min_region": min_region_of(config)}
    if pattern := config.source.group_pattern:
        own["group_pattern"] = pattern
    own |= {"members": config.classifier.members, "seed": config.seed, "favor_rare": list(config.classifier.favors)}
    # By the names of their keys, so that what differs can be set back.
    keys = {"name": "recipe", "batch": "classifier_batch", "steps": "classifier_steps", "lr": "classifier_lr"}
    trained = {keys.get(name, name): value for name, value in dataclasses.asdict(recipe).items()}
    return {**reader.settings(), **own, **trained}
