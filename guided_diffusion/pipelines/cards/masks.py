"""The card of a folder of `masks`, and that of the pairs of `segment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guided_diffusion import __version__
from guided_diffusion.config.masks import MasksConfig
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.data.datasets import read_mask
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.pipelines.training_source import last_name
from guided_diffusion.runtime.card_file import plain
from guided_diffusion.samples.dataset_card import (
    NO_IMAGES,
    ClassCounts,
    DatasetFacts,
    joined_digest,
    settings_rows,
    state_of,
    write_dataset_card,
)
from guided_diffusion.samples.manifest import MANIFEST, read_manifest
from guided_diffusion.samples.mask_folder import ACTION, MaskFolder, MaskLine


def write_masks_card(config: MasksConfig, output: MaskFolder, lines: Sequence[MaskLine], summary: str) -> str:
    """Write the card of the finished folder `output` and return its path, as it is printed.

    summary: how the masks compare with those of the dataset.
    """
    made_of = {each.digest for line in lines for each in (line.base, *line.donors)}
    settings = {key: value for key, value in output.settings.items() if key not in ("inputs", "checkpoint")}
    sources = [
        (
            "masks",
            f"{len(made_of)} of {plain(last_name(config.source.data_dir))} ({output.split}), "
            f"digest {joined_digest(made_of)}",
        )
    ]
    drawn = config.method == "boxes"
    if drawn:
        sources.append(("model of boxes", f"digest {output.settings['checkpoint']}"))
    what = "Synthetic masks: parts of the masks of a dataset, moved and changed, without a model."
    if drawn:
        what = "Synthetic masks: shapes that a model drew into the boxes of the masks of a dataset."
    limits = ["There are no images: `sample` and `place` make them.", "No person checked whether such shapes occur."]
    if output.split == "test":
        limits.append("They are made of the test split: what learns from them has seen the test.")
    facts = DatasetFacts(
        title="Synthetic masks",
        what=what,
        action=ACTION,
        count=len(lines),
        unit="masks",
        synthetic=True,
        sources=sources,
        settings=settings_rows(settings),
        limits=limits,
        use=_USE_OF_MASKS,
        state=joined_digest(f"{line.index} {line.base.digest} {line.draws}" for line in lines),
        version=__version__,
        classes=ClassCounts.of_masks((output.labels([line])[0] for line in lines), output.encoding, len(lines)),
        evaluation=f"{NO_IMAGES}\nAgainst the masks of the dataset: {plain(summary)}",
    )
    return write_dataset_card(output.folder, facts)


_USE_OF_MASKS = (
    "`masks/`: PNG files; `classes.json` says which value is which class, `manifest.jsonl` what each mask was made of.",
    "",
    "```bash",
    "isdm sample --set model_path=RUN --set mask_dir=THIS_FOLDER --set results_path=runs/samples",
    "```",
)


def write_segment_card(config: SegmentConfig, encoding: LabelEncoding, record: Mapping[str, Any]) -> str:
    """Write the card of the pairs that `segment` has written and return its path, as it is printed.

    record: that of its report.
    """
    folder = Path(config.output_dir) / config.split
    lines = read_manifest(folder / MANIFEST)
    pseudo = [line.pseudo for line in lines if line.pseudo is not None]
    drawn = [line.source_digest for line in lines if line.pseudo is None]  # masks of no defect are one file
    sources = [
        (
            "images without masks",
            f"{len(pseudo)} of {plain(last_name(config.image_dir))}, "
            f"digest {joined_digest(each.digest for each in pseudo)}",
        )
    ]
    if drawn:
        where = plain(last_name(config.source.data_dir))
        sources.append(("labeled pairs", f"{len(drawn)} of {where}, digest {joined_digest(drawn)}"))
    if pseudo:
        sources.append(("pixel classifiers", f"digest {pseudo[0].classifier}, on {record['data']['extractor']}"))
    settings = {"ignore_above": record["ignore_above"], "drop_uncertain": config.labels.drop_uncertain}
    limits = ["Masks of images without masks are predicted: no person drew or checked them."]
    if record["scores"] is None:
        limits.append("The classifiers were not scored on held-out images in this run.")
    labels = (read_mask(folder / line.mask, encoding).numpy() for line in lines)
    facts = DatasetFacts(
        title="Real images with predicted masks",
        what=f"Real images: {len(pseudo)} with masks that pixel classifiers predicted, {len(drawn)} with masks of the "
        "dataset that these learned from.",
        action="segment",
        count=len(lines),
        unit="pairs",
        synthetic=False,
        sources=sources,
        settings=settings_rows(settings),
        limits=[*limits, *(plain(line) for line in record["warnings"])],
        use=_USE_OF_PAIRS,
        state=state_of(lines),
        version=__version__,
        classes=ClassCounts.of_masks(labels, encoding, len(lines)),
        tags=["pseudo-labels"],
        evaluation="Not evaluated: whether a segmentation model becomes better with these pairs. `evaluate` measures "
        "it, and writes its verdict here.",
        extra=_scores(record),
    )
    return write_dataset_card(folder, facts)


_USE_OF_PAIRS = (
    "`images/` and `masks/`: an image and its mask have the same name. The folder above is a `data_dir` of "
    "`dataset_mode` `multi-class`, whose `classes.json` says which mask value is which class; what it calls `ignore` "
    "has no class. `manifest.jsonl` says which masks are predicted, and how sure the classifiers were.",
)


def _scores(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the section of the classifiers' scores on held-out images, where there are any."""
    scores = record["scores"]
    if scores is None:
        return {}
    rows = [
        f"| {plain(name)} | {_percent(each)} | {_percent(scores['values']['classes'][name])} |"
        for name, each in scores["features"]["classes"].items()
    ]
    head = ["| IoU on held-out labeled images | these classifiers | the pixel's values alone |", "|---|---:|---:|"]
    mean = f"| mean | {_percent(scores['features']['miou'])} | {_percent(scores['values']['miou'])} |"
    return {"Scores of the classifiers": [*head, *rows, mean]}


def _percent(score: Mapping[str, Any]) -> str:
    mean = score.get("iou", score.get("mean"))
    return "–" if mean is None else f"{100 * mean:.1f} %"
