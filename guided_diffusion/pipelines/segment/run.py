"""The stages of `segment`, each of which goes on where it was interrupted."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evaluations.fold_scores import FoldScores
from evaluations.report.sections import percent
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.features.extractor import digest_of
from guided_diffusion.features.store import FeatureStore
from guided_diffusion.labeling.files import PixelClassifier, classifier_digest, load_classifier
from guided_diffusion.labeling.recipes import recipe_of
from guided_diffusion.pipelines.cards.masks import write_segment_card
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.features import feature_store
from guided_diffusion.pipelines.segment.folds import (
    Trainer,
    fold_scores,
    folds_of,
    held_out,
    score_folds,
    settings_of,
)
from guided_diffusion.pipelines.segment.labeled import LabeledImages, open_labeled, open_test, shared_with_labeled
from guided_diffusion.pipelines.segment.labeler import (
    UNMEASURED_LIMIT,
    Labeler,
    encoding_of_classifier,
    limit_of_classifier,
)
from guided_diffusion.pipelines.segment.pseudo import UnlabeledImages, label_images, open_unlabeled, write_data_dir
from guided_diffusion.pipelines.segment.reader import ImageReader, as_trained, open_reader, refuse_sides
from guided_diffusion.pipelines.segment.report import (
    SHOWN_HELD_OUT,
    report_warnings,
    unlabeled_record,
    write_report,
)
from guided_diffusion.pipelines.segment.scored_split import score_split
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.files import make_folder, remove
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.runtime.units import counted
from guided_diffusion.samples.pseudo_folder import PredictedFolder, PredictedLine, refuse_foreign_pairs
from guided_diffusion.samples.written_folder import keep_classes

CLASSIFIER, FOLDS, FEATURES, PREDICTED, STATE = "classifier.pt", "folds", "features", "predicted", "fit.pt"


@dataclass
class Segmentation:
    """A run of `segment`: what was opened, and what has come of it so far."""

    config: SegmentConfig
    world: ProcessGroup
    reader: ImageReader
    classifier_file: Path
    classifier: PixelClassifier | None = None
    labeled: LabeledImages | None = None
    test: LabeledImages | None = None
    shared: list[str] = field(default_factory=list)  # warnings of test images that are labeled ones, too
    unlabeled: UnlabeledImages | None = None
    results: StudyResults | None = None
    scores: FoldScores | None = None
    encoding: LabelEncoding | None = None
    on_test: dict[str, Any] | None = None
    limit: tuple[float, str] = (UNMEASURED_LIMIT, "")
    written: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)


def segment(config: SegmentConfig, world: ProcessGroup) -> list[Path]:
    """Train and score classifiers, label the images, and report; return the paths of what was written."""
    run = _open(config, world)
    config = run.config
    world.run_on_main(lambda: write_run_record(run.folder, "segment", config.to_json()))
    if run.labeled is not None:
        world.run_on_main(lambda: _fit(run))
    run.classifier = load_classifier(run.classifier_file)
    if run.labeled is not None and not world.is_main:
        run.scores = fold_scores(run.labeled, run.results, run.config)
    run.classifier.ensemble.to(world.device)
    if run.test is not None:
        world.run_on_main(lambda: _score_test(run))
    run.limit = _limit(run)
    lines, kept = [], []
    if run.unlabeled is not None:
        output = _predicted(run)
        done = world.run_on_main(lambda: _begin_labels(run, output))
        labeler = Labeler(run.classifier, run.reader, run.limit[0], config.labels.flip)
        label_images(labeler, run.unlabeled, done, output, world, digest=classifier_digest(run.classifier_file))
        world.barrier()
        if world.is_main:
            lines = output.finish(run.unlabeled.by_stem, run.unlabeled.paths)
            kept = write_data_dir(config, output, lines, run.unlabeled, run.labeled)
            run.written += [run.folder / config.split, output.folder]
    if world.is_main:
        _report(run, lines, kept)
    world.barrier()
    return run.written


def _open(config: SegmentConfig, world: ProcessGroup) -> Segmentation:
    """Open the network and scan all images, in every process: one says what is wrong."""

    def opened(*, progress: bool) -> Segmentation:
        before = load_classifier(Path(config.classifier_path)) if config.classifier_path else None
        used = config if before is None else as_trained(config, before)
        reader = open_reader(used, world.device, before)
        file = Path(config.classifier_path) if before is not None else Path(config.output_dir) / CLASSIFIER
        run = Segmentation(used, world, reader, file, before)
        if before is None:
            run.labeled = open_labeled(config, reader, progress=progress)
            run.encoding = run.labeled.encoding.with_ignore()
            run.results = _results(run)
            if config.score_test:
                run.test = open_test(config, reader, run.labeled.encoding, progress=progress)
                run.shared = shared_with_labeled(run.test, run.labeled, config.source.group_pattern)
        else:
            before.refuse_other_features(file, reader.settings(), sum(reader.extractor.dims))
            run.encoding = encoding_of_classifier(file, before).with_ignore()
            if config.labels.flip:
                refuse_sides(run.encoding.names, config.source)
        if config.image_dir:
            refuse_foreign_pairs(run.folder / config.split)
            known = {image for image, _ in run.labeled.digests} if run.labeled is not None else set()
            run.unlabeled = open_unlabeled(config, reader, known, progress=progress)
        return run

    return world.run_everywhere(partial(opened, progress=world.is_main))


# ------------------------------------------------------------------------------------------------- the classifiers


def _results(run: Segmentation) -> StudyResults:
    labeled, recipe = run.labeled, recipe_of(run.config.classifier)
    settings = settings_of(run.config, recipe, run.reader)
    return StudyResults(run.folder / FOLDS, settings, {"labeled_images": labeled.digest}, what="earlier run")


def _fit(run: Segmentation) -> None:
    """Train and score what is not there yet, in one process."""
    config, labeled, results = run.config, run.labeled, run.results
    make_folder(results.folder)
    results.begin()
    keep_classes(run.folder, run.encoding, "output_dir")
    recipe = recipe_of(config.classifier)
    folds = folds_of(config, len(set(labeled.groups(config.source.group_pattern))))
    print(
        f"{len(labeled)} labeled images, {labeled.classes} classes, {sum(run.reader.extractor.dims)} features; "
        f"{config.classifier.members} classifiers, {folds or 'no'} folds"
    )
    if config.labels.folds and not folds:
        one = "labeled image" if len(labeled) == 1 else "group of labeled images"
        print(f"warning: with one {one} nothing is left to train on when it is held out: there is no score")
    trainer = Trainer(config, labeled, run.reader, recipe, run.world.device)
    stores: list[FeatureStore] = []
    if len(results) < folds or not run.classifier_file.exists():
        values = run.reader.values()
        stores = [
            _filled(run, run.reader, run.folder / FEATURES, "reading features"),
            _filled(run, values, run.folder / FEATURES / "values", "reading values"),
        ]
        score_folds(trainer, *stores, results)
    run.scores = fold_scores(labeled, results, config)
    if not run.classifier_file.exists():
        _train_on_all(run, trainer, stores[0])
    stores.clear()  # their files are mapped, and Windows deletes no such file
    shutil.rmtree(run.folder / FEATURES, ignore_errors=True)
    # A killed process may have left the states of trainings whose results were written already.
    for state in (run.folder / STATE, *results.folder.glob("*.pt")):
        remove(state)


def _filled(run: Segmentation, reader: ImageReader, folder: Path, what: str) -> FeatureStore:
    """Return the maps of all tiles of the labeled images."""
    settings = digest_of(reader.settings())
    names = [f"{name} {settings}" for name in run.labeled.tile_names()]
    store = feature_store(run.config.features, reader.extractor, names, folder)
    with tqdm(total=len(store), desc=what, unit="tile", initial=store.done) as bar:
        store.fill(
            lambda rows: run.labeled.read_tiles(reader, rows),
            progress=lambda done, total: bar.update(done - bar.n),
        )
    return store


def _train_on_all(run: Segmentation, trainer: Trainer, store: FeatureStore) -> None:
    labeled, config = run.labeled, run.config
    favors = config.classifier.favors
    # Without folds nothing tells which is best, unless it was given.
    favor = run.scores.favor if run.scores is not None else favors[0]
    ensemble = trainer.train(store, range(len(labeled)), run.folder / STATE, "training on all").favoring(favor)
    own = config.features.model_dump(mode="json")
    places = ("extractor_weights", "feature_cache")
    training: dict[str, Any] = {
        "recipe": trainer.recipe.name,
        "seed": config.seed,
        "favor_rare": favor,
        "ignore_above": _limit_of_folds(run.scores, config.classifier.members)[0],
        "images": {pair.stem: list(each) for pair, each in zip(labeled.pairs, labeled.digests, strict=True)},
        "feature_options": {key: value for key, value in own.items() if key not in places},
    }
    classifier = PixelClassifier(
        ensemble, trainer.recipe.vote, run.reader.settings(), labeled.encoding.to_dict(), training
    )
    classifier.save(run.classifier_file)


def _limit_of_folds(scores: FoldScores | None, members: int) -> tuple[float, str]:
    """Return the uncertainty above which pixels are ignored, in nats, and why."""
    if scores is None:
        return UNMEASURED_LIMIT, "there are no folds to tell"
    found = scores.reliability.limit()
    if found is None:
        # Members differ by log(members) at most: nothing is ignored.
        return math.log(max(2, members)), "even the most uncertain held-out pixels were mostly right"
    return found, "of the held-out pixels above it a third or more was wrong"


def _limit(run: Segmentation) -> tuple[float, str]:
    given, members = run.config.labels.ignore_above, run.classifier.ensemble.members
    if given is not None:
        return given, "as given"
    if run.labeled is None:
        return limit_of_classifier(run.classifier), "as the classifiers' own folds told"
    return _limit_of_folds(run.scores, members)


def _score_test(run: Segmentation) -> None:
    run.on_test = score_split(
        run.folder,
        run.classifier,
        classifier_digest(run.classifier_file),
        run.test,
        run.reader,
        flip=run.config.labels.flip,
    )


# ------------------------------------------------------------------------------------------------- the new masks


def _predicted(run: Segmentation) -> PredictedFolder:
    settings = {"classifier": classifier_digest(run.classifier_file), "ignore_above": run.limit[0]}
    settings |= {"flip": run.config.labels.flip, "exif": run.config.source.exif}
    return PredictedFolder(run.folder / PREDICTED, run.encoding, settings)


def _begin_labels(run: Segmentation, output: PredictedFolder) -> set[str]:
    keep_classes(run.folder, run.encoding, "output_dir")
    unlabeled = run.unlabeled
    done = output.begin(unlabeled.by_stem)
    left_out = f", {unlabeled.known} others are labeled ones" if unlabeled.known else ""
    there = f", {counted(len(done), 'is labeled already', 'are labeled already')}" if done else ""
    print(f"{counted(len(unlabeled), 'image to label')}{left_out}{there}")
    return done


# ------------------------------------------------------------------------------------------------------ the report


def _report(run: Segmentation, lines: Sequence[PredictedLine], kept: Sequence[PredictedLine]) -> None:
    config, settings = run.config, run.reader.settings()
    data = {
        "data_dir": config.source.data_dir and str(Path(config.source.data_dir).absolute()),
        "image_dir": config.image_dir and str(Path(config.image_dir).absolute()),
        "classes": list(run.encoding.names),
        "labeled": 0 if run.labeled is None else len(run.labeled),
        "extractor": settings["extractor"],
        "features": sum(run.reader.extractor.dims),
        "feature_settings": settings,
    }
    record: dict[str, Any] = {
        "data": data,
        "scores": None if run.scores is None else run.scores.record(config.seed),
        "test": run.on_test,
        "ignore_above": run.limit[0],
        "limit_from": run.limit[1],
        "unlabeled": None if run.unlabeled is None else unlabeled_record(lines, kept),
    }
    record["warnings"] = [*run.shared, *report_warnings(run.scores, record)]
    upright: dict[str, bool] = {}
    if run.labeled is not None:
        upright |= {pair.image: pair.upright for pair in run.labeled.pairs}
    if run.unlabeled is not None:
        upright |= {image.stem: image.upright for image in run.unlabeled.images}
    shown = [] if run.scores is None else held_out(run.labeled, run.results, run.scores, SHOWN_HELD_OUT)
    output = None if run.unlabeled is None else _predicted(run)
    run.written += [] if run.labeled is None else [run.classifier_file]
    run.written += write_report(config, record, run.scores, shown, output, upright)
    _say(record)
    if run.unlabeled is not None:
        print(f"card: {write_segment_card(config, run.encoding, record)}")


def _say(record: dict[str, Any]) -> None:
    """Print what the report says, in a few lines."""
    scores, unlabeled = record["scores"], record["unlabeled"]
    if scores is not None:
        for name, each in scores["features"]["classes"].items():
            values = scores["values"]["classes"][name]
            print(f"  IoU {_shown(each)}, {_shown(values, short=True)} by the values of the pixel alone: {name}")
        own, values = scores["features"]["miou"], scores["values"]["miou"]
        print(f"held-out mIoU {_shown(own)}, {_shown(values, short=True)} by the values of the pixel alone")
        if scores["favor_rare"]:
            print(f"rare classes are favored by {scores['favor_rare']:g} (favor_rare)")
        if scores["weak"]:
            print(f"label more of: {', '.join(scores['weak'])}")
    if (test := record["test"]) is not None:
        shown = [percent(test[key]) for key in ("miou", "published_miou")]
        print(f"mIoU of {test['images']} test images: {shown[0]} %; as published, for comparison alone: {shown[1]} %")
    if unlabeled is not None:
        print(f"{unlabeled['pairs']} pairs of {unlabeled['images']} images; ignored above {record['ignore_above']:.4f}")
        print(f"label next: {', '.join(each['stem'] for each in unlabeled['next'][:5])}")
    for line in record["warnings"]:
        print(f"warning: {line}")


def _shown(score: dict[str, Any], *, short: bool = False) -> str:
    mean = score.get("iou", score.get("mean"))
    if mean is None:
        return "–"
    interval = "" if short or score["low"] is None else f" ({100 * score['low']:.1f} to {100 * score['high']:.1f})"
    return f"{100 * mean:.1f} %{interval}"
