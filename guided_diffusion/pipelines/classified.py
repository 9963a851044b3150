"""`generate`: images are drawn without a mask, labeled and scored by pixel classifiers, and the certain ones kept.

As DatasetDDPM of Baranchuk et al. 2022, "Label-Efficient Semantic Segmentation with Diffusion Models".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from guided_diffusion.config.generate import GenerateConfig
from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.options import BoxOptions
from guided_diffusion.data.visualize import quantize
from guided_diffusion.features.extractor import FeatureExtractor, digest_of
from guided_diffusion.features.options import DIFFUSION
from guided_diffusion.labeling.files import PixelClassifier, classifier_digest, load_classifier
from guided_diffusion.labeling.uncertainty import keep_certain, needed_before_dropping, published_keep
from guided_diffusion.models.architecture import height_width
from guided_diffusion.pipelines.build import trained_config
from guided_diffusion.pipelines.cards.samples import write_sample_card
from guided_diffusion.pipelines.features import features_of_checkpoint, no_mask, published_features
from guided_diffusion.pipelines.load import class_names_of, encoding_of_checkpoint, pipeline_of_config
from guided_diffusion.pipelines.sample_misfits import READ_WITH_MASKS, SHOWN, refuse_idle
from guided_diffusion.pipelines.sample_settings import recorded_settings
from guided_diffusion.pipelines.sampling import Progress, SamplingPipeline
from guided_diffusion.pipelines.segment.labeler import Labeler, encoding_of_classifier, limit_of_classifier
from guided_diffusion.pipelines.segment.reader import (
    PUBLISHED_SIDE,
    features_as_trained,
    reader_as_trained,
    refuse_latents,
    refuse_sides,
)
from guided_diffusion.pipelines.work_left import begin_output, make_batches
from guided_diffusion.runtime.checkpoint import BEST, Checkpoint, find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup, choose_device
from guided_diffusion.runtime.errors import ConfigError, DataError
from guided_diffusion.runtime.files import digest
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.runtime.units import counted
from guided_diffusion.samples.classified_folder import (
    CANDIDATES,
    CandidateFolder,
    begin_selection,
    publish,
    refuse_foreign_samples,
)
from guided_diffusion.samples.contact_sheet import SHEET, save_contact_sheet
from guided_diffusion.samples.manifest import ClassifiedMask, GenerateSettings, ManifestLine
from guided_diffusion.samples.plan import FoundMask, PlannedSample, plan_generated
from guided_diffusion.samples.published_file import (
    NULL_VALUE,
    PublishedFile,
    file_name,
    read_published,
    remove_earlier,
    write_published,
)
from guided_diffusion.samples.writer import SyntheticFolder


def generate_labeled(config: GenerateConfig, world: ProcessGroup) -> None:
    """Write what `config` asks for: all images that were drawn, and the certain ones as a folder of samples."""
    folder = Path(config.results_path) / config.split
    world.run_on_main(lambda: refuse_foreign_samples(folder))
    drawn = (_read if config.read_npz else _draw)(config, folder, world)
    if world.is_main:
        _finish(config, folder, drawn)
    world.barrier()


def plan_lines(config: GenerateConfig) -> list[str]:
    """Return how many images would be drawn, or read, and labeled; UserError where that could not begin."""
    folder = Path(config.results_path) / config.split
    refuse_foreign_samples(folder)
    kept = "all" if config.num_samples is None else config.num_samples
    if config.read_npz:
        file = read_published(Path(config.read_npz))
        wanted, encoding = _wanted_of(config, file), _encoding_of_file(config, file)
        return [f"{wanted} of the {len(file)} pairs of {file.path}, {encoding.num_classes} classes; {kept} are kept"]
    painter = _open(config, choose_device(config.precision.device))
    sampling = painter.pipeline.begin(config.sampler, extrapolation=config.extrapolation)
    height, width = height_width(painter.trained.geometry.image_size)
    features = sum(painter.labeler.reader.extractor.dims)
    return [
        f"{drawn_for(config)} images of {width} x {height} px to draw in {counted(sampling.num_steps, 'step')} each; "
        f"{kept} pairs are kept",
        f"{features} features of a pixel, {counted(painter.classifier.ensemble.members, 'classifier')}, "
        f"{painter.encoding.num_classes} classes",
    ]


class _Drawn(NamedTuple):
    """The lines of all images that are wanted, their folder, and what drew them: None of a published file."""

    lines: Sequence[ManifestLine]
    folder: CandidateFolder
    checkpoint: Checkpoint | None = None
    trained: TrainedConfig | None = None


def _begin(config: GenerateConfig, folder: Path, encoding: LabelEncoding, record: dict[str, Any]) -> None:
    """Mark the folder as unfinished; to be called when everything that may be refused was looked at."""
    begin_selection(Path(config.results_path), folder, encoding)
    write_run_record(folder, "generate", record)


def drawn_for(config: GenerateConfig) -> int:
    """Return how many images are drawn so that `num_samples` are left; as many where they are dropped as published."""
    if config.published_filter:
        return config.num_samples
    return needed_before_dropping(config.num_samples, config.labels.drop_uncertain)


# -------------------------------------------------------------------------------------------------------- drawing


@dataclass(eq=False)
class _Painter:
    """The network that draws, and the classifiers that label."""

    config: GenerateConfig
    checkpoint: Checkpoint
    trained: TrainedConfig
    classifier: PixelClassifier
    device: torch.device

    @cached_property
    def encoding(self) -> LabelEncoding:
        return encoding_of_classifier(Path(self.config.classifier_path), self.classifier).with_ignore()

    @cached_property
    def pipeline(self) -> SamplingPipeline:
        names = class_names_of(self.checkpoint, self.trained)
        return pipeline_of_config(self.config, self.checkpoint, self.trained, names, self.device)

    @cached_property
    def labeler(self) -> Labeler:
        """What labels the images: their features are those of the whole process, however few steps draw them."""
        config, classifier = self.config, self.classifier
        extractor = self._extractor()
        file = Path(config.classifier_path)
        # How files were read for the classifier is no other feature: what is drawn has a size of its own.
        classifier.refuse_other_features(file, {**classifier.features, **extractor.settings()}, sum(extractor.dims))
        classifier.ensemble.to(self.device)
        limit = config.labels.ignore_above
        return Labeler(
            classifier,
            reader_as_trained(extractor, classifier, drawn=config.features.extractor == DIFFUSION),
            limit_of_classifier(classifier) if limit is None else limit,
            config.labels.flip,
        )

    def _extractor(self) -> FeatureExtractor:
        config, classifier = self.config, self.classifier
        features = config.features
        settings = {"device": self.device, "precision": config.precision.precision}
        if features.extractor == DIFFUSION:
            refuse_latents(self.checkpoint, self.trained)
            return features_of_checkpoint(
                features,
                self.checkpoint,
                self.trained,
                weights=config.weights.weights,
                seed=classifier.training.get("seed", 0),
                model=self.pipeline.model,
                **settings,
            )
        size = classifier.features.get("image_size") or height_width(PUBLISHED_SIDE)
        channels = classifier.features.get("image_channels", self.trained.geometry.image_channels)
        return published_features(features, image_size=tuple(size), image_channels=channels, **settings)

    def label(self, image: Tensor, position: int) -> tuple[np.ndarray, ClassifiedMask]:
        """Return the mask [H, W] of a drawn image [C, H, W], as it is written: with 8 bits; and how sure it is."""
        (stored,) = quantize(image.numpy()[None])
        picture = Image.fromarray(stored[..., 0] if stored.shape[-1] == 1 else stored)
        size, reader = (picture.height, picture.width), self.labeler.reader
        tiles = reader.tiles(size)
        made = self.labeler(reader.of_picture(picture, tiles, "the drawn image"), [position] * len(tiles), tiles, size)
        labeled = self.classifier.training.get("images")
        return made.label, ClassifiedMask(
            score=made.score,
            confidence=made.confidence,
            ignored=made.ignored,
            labeled=None if labeled is None else [image for image, _ in labeled.values()],
        )


def _open(config: GenerateConfig, device: torch.device) -> _Painter:
    checkpoint = load_checkpoint(find_checkpoint(config.weights.model_path, prefer=BEST))
    trained = trained_config(checkpoint, config)
    encoding = encoding_of_checkpoint(checkpoint)
    if encoding is not None and trained.model.condition != "none":
        trained = trained.replaced(num_classes=encoding.num_classes)
    _refuse_masks(checkpoint, trained)
    _refuse_idle_keys(config, checkpoint)
    classifier = load_classifier(Path(config.classifier_path))
    if config.labels.flip:
        refuse_sides(encoding_of_classifier(Path(config.classifier_path), classifier).names, config.source)
    config = config.model_copy(update={"features": features_as_trained(config.features, classifier)})
    return _Painter(config, checkpoint, trained, classifier, device)


def _refuse_masks(checkpoint: Checkpoint, trained: TrainedConfig) -> None:
    """Raise ConfigError for a network that draws no images without a mask."""
    path, takes_masks = checkpoint.path, trained.model.condition != "none"
    if trained.generation.makes_masks:
        found = f"makes masks of its own (generates {trained.generation.generates}): use sample, or a model of images"
    elif trained.model.condition == "boxes":
        found = "draws from boxes, never without any: use a model of images without a condition"
    elif takes_masks and trained.label_diffusion.cond_diffuse:
        found = "draws from noisy masks (cond_diffuse), never without one: use a model of images without a condition"
    elif takes_masks and checkpoint.lineage.get("saw_dropped_masks") is False:
        found = (
            "never saw a dropped mask in training, so it draws nothing without one: finetune it with drop_rate above "
            "0, or use a model trained with condition none"
        )
    else:
        return
    raise ConfigError.of_keys(("model_path", f"model_path is {path}, which {found}"))


def _refuse_idle_keys(config: GenerateConfig, checkpoint: Checkpoint) -> None:
    """Raise ConfigError for keys of masks and boxes, none of which is read."""
    reasons = dict.fromkeys((*READ_WITH_MASKS, *SHOWN, *BoxOptions.keys()), "images are drawn without masks and boxes")
    if config.labels.flip:
        del reasons["flip_pairs"]  # it says that no class is one of a left and a right one
    refuse_idle(config, checkpoint, reasons)


def _draw(config: GenerateConfig, folder: Path, world: ProcessGroup) -> _Drawn:
    """Draw and label what is not there yet."""
    painter = _open(config, world.device)
    config = painter.config
    sampling = painter.pipeline.begin(config.sampler, extrapolation=config.extrapolation)
    labeler, trained = painter.labeler, painter.trained
    settings = GenerateSettings(
        **recorded_settings(config, trained, painter.checkpoint, sampling.num_steps),
        classifier=classifier_digest(Path(config.classifier_path)),
        features=digest_of(labeler.reader.extractor.settings()),
        ignore_above=labeler.ignore_above,
        flip=labeler.flip or None,
    )
    output = CandidateFolder(folder / CANDIDATES, "", painter.encoding, settings, mark=config.mark)
    plan = plan_generated([FoundMask()] * drawn_for(config), config.seed)
    todo = begin_output(config, trained, painter.checkpoint, sampling, output, plan, world, "image to draw and label")
    filled = config.fill_from_checkpoint(trained)
    if trained.model.condition == "none":  # images have no classes, and the pairs are of another kind of dataset
        filled = filled.replaced(dataset_mode="", num_classes=None)
    world.run_on_main(lambda: _begin(config, folder, painter.encoding, filled.to_json()))
    size = height_width(trained.geometry.image_size)

    def make(batch: Sequence[PlannedSample], progress: Progress) -> None:
        images = sampling(no_mask(trained, size, len(batch)), [sample.seed for sample in batch], progress=progress)
        for sample, image in zip(batch, images, strict=True):
            output.write_classified(sample, image, *painter.label(image, sample.seed))

    make_batches(make, todo, config.batch_size, sampling.num_steps, output, world)
    return _Drawn(_lines(output, len(plan), world), output, painter.checkpoint, trained)


def _lines(output: CandidateFolder, wanted: int, world: ProcessGroup) -> list[ManifestLine]:
    """Return the first `wanted` lines when all processes are done; more are there where more were asked for before."""
    world.barrier()
    return [line for line in output.finish() if line.index < wanted] if world.is_main else []


# ------------------------------------------------------------------------------------------------- a published file


def _read(config: GenerateConfig, folder: Path, world: ProcessGroup) -> _Drawn:
    """Write the pairs of a published file that are not there yet, in the main process."""
    file: PublishedFile = world.run_on_main(lambda: read_published(Path(config.read_npz)))
    wanted = _wanted_of(config, file)
    encoding = world.run_on_main(lambda: _encoding_of_file(config, file))
    settings = GenerateSettings(read_npz=digest(file.path))
    output = CandidateFolder(folder / CANDIDATES, "", encoding, settings, mark=config.mark)
    plan = plan_generated([FoundMask()] * wanted, config.seed)
    world.run_on_main(lambda: _copy(config, folder, file, output, plan))
    return _Drawn(_lines(output, wanted, world), output)


def _wanted_of(config: GenerateConfig, file: PublishedFile) -> int:
    """Return how many images of `file` are asked for; DataError where it has fewer."""
    wanted = len(file) if config.num_samples is None else drawn_for(config)
    if wanted > len(file):
        found = f"has {len(file)} images, but num_samples {config.num_samples} needs {wanted}"
        raise DataError.of(file.path, found, "set num_samples lower, or drop_uncertain")
    return wanted


def _encoding_of_file(config: GenerateConfig, file: PublishedFile) -> LabelEncoding:
    """Return what labels mean: their numbers; 255 is ignored, and so is ignore_label."""
    given = config.source.ignore_label
    ignored = (NULL_VALUE,) if given is None or given == NULL_VALUE else (given, NULL_VALUE)  # the first one is written
    largest = file.largest_label(ignored)
    classes = config.source.num_classes or largest + 1
    if not 0 <= largest < classes:
        found = f"has labels up to {largest}" if largest >= 0 else "has no pixel of any class"
        raise DataError.of(file.path, f"{found}, but num_classes is {classes}", "set num_classes, or ignore_label")
    return reduce(LabelEncoding.ignoring, ignored, LabelEncoding.identity(classes))


def _copy(
    config: GenerateConfig,
    folder: Path,
    file: PublishedFile,
    output: CandidateFolder,
    plan: Sequence[PlannedSample],
) -> None:
    done = output.begin(plan)
    write_run_record(output.folder, output.settings.action, {})
    _begin(config, folder, output.encoding, {})  # the options of a network would say nothing of these images
    null = output.encoding.num_classes
    output.open_part(0)
    try:
        rows = zip(plan, file.pairs(), file.scores, strict=False)
        for sample, (image, label), score in tqdm(rows, "copying", total=len(plan), unit="pair"):
            if sample.index in done:
                continue
            classes = np.where(label < null, label, null)
            note = ClassifiedMask(score=float(score), ignored=float((classes == null).mean()))
            pixels = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 127.5 - 1
            output.write_classified(sample, pixels, classes, note)
    finally:
        output.close_part()


# ------------------------------------------------------------------------------------------------------ the choice


def _finish(config: GenerateConfig, folder: Path, drawn: _Drawn) -> None:
    lines, candidates = drawn.lines, drawn.folder
    scores = [line.classified.score for line in lines]
    chosen = (published_keep if config.published_filter else keep_certain)(scores, config.labels.drop_uncertain)
    if not len(chosen):
        found = f"the published filter keeps none of its {len(lines)} images"
        raise DataError.of(candidates.folder, found, "set published_filter to false")
    bar = tqdm(range(len(chosen)), "writing pairs", unit="pair")
    kept = publish(folder, candidates, [lines[number] for number in chosen], progress=bar)
    samples = SyntheticFolder(config.results_path, config.split, candidates.encoding, candidates.settings)
    # From the most certain to the most uncertain.
    save_contact_sheet(samples, sorted(kept, key=lambda line: line.classified.score), candidates.encoding.names)
    card = write_sample_card(config, samples, kept, drawn.checkpoint, drawn.trained)
    ignored = np.mean([line.classified.ignored for line in kept])
    worst = max(line.classified.score for line in kept)
    print(
        f"{len(kept)} pairs of {len(lines)} images, of a score up to {worst:.4f}; {ignored:.1%} of their pixels are "
        "ignored"
    )
    paths = [*samples.places, folder / SHEET, candidates.folder]
    if config.write_npz:
        size = _size_of(samples, kept[0])
        paths.append(folder / file_name(len(kept), size))
        write_published(paths[-1], folder, kept, candidates.encoding)
        for path in remove_earlier(paths[-1], config.read_npz):
            print(f"removed {path}, of an earlier choice")
    for path in paths:
        print(f"  {path.absolute()}")
    print(f"  {card}")


def _size_of(samples: SyntheticFolder, line: ManifestLine) -> tuple[int, int]:
    _, label = next(samples.tiles([line]))
    return label.shape[0], label.shape[1]
