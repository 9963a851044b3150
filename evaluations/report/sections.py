"""The sections of the report that no metric writes, and how numbers are written in all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluations.metrics.segmentation import in_points
from evaluations.report import charts
from evaluations.report.page import Figure, Section, Sheet, Table, Tile, Verdict

Record = Mapping[str, Any]
"""A part of report.json."""

TRIPLE = ("real", "mask", "sample")
"""The titles of the tiles that show one sample."""


# ----------------------------------------------------------------------------------------------------- writing


def percent(value: float | None) -> str:
    """Return a share in percent, a dash for None."""
    return "–" if value is None else f"{100 * value:.1f}"


def decimals(value: float | None) -> str:
    """Return a number with two decimals, a dash for None."""
    return "–" if value is None else f"{value:.2f}"


def points(value: float | None) -> str:
    """Return a difference of shares in points, with its sign, but never "-0.0"; a dash for None."""
    return "–" if value is None else in_points(value)


# -------------------------------------------------------------------------------------------------------- head


def report_title(data: Record) -> str:
    """Return the page's title from the record's entry of the data."""
    return f"Does the synthetic data help? {Path(data['data_dir']).name}"


def data_facts(data: Record) -> list[tuple[str, str]]:
    """Return what was compared, for the head of the report."""
    images, (height, width) = data["images"], data["image_size"]
    training = f"{images['training']} for training, " if "training" in images else ""
    shared = len(data.get("test_in_training", ()))
    leak = f", {shared} of them in training, too" if shared else ""
    return [
        ("Real images", f"{training}{images['test']} for the test{leak}"),
        ("Samples", str(images["samples"])),
        ("Size", f"{width} x {height} pixels"),
        ("Classes", ", ".join(data["classes"])),
    ]


def study_verdict(study: Record | None, reason: str = "study is false") -> Verdict:
    """Return the answer of the study; None where there is no study, with the reason."""
    if study is None:
        return Verdict("not measured", f"Whether the synthetic data helps was not measured: {reason}")
    lines = []
    for entry in study["architectures"].values():
        if "verdict" in entry:
            lines.append(entry["verdict"]["line"])
        if entry.get("rivals"):
            lines.append(entry["rivals"]["line"])
    return Verdict(study["kind"], study["headline"], lines)


# ------------------------------------------------------------------------------------------------------- study


def study_section(study: Record) -> Section:
    """Return the scores of all settings of all architectures."""
    figures, tables = [], []
    for name, entry in study["architectures"].items():
        arms, class_names = entry["arms"], list(entry["arms"][0]["classes"]["iou"])
        figures.append(
            Figure(
                name,
                charts.iou_bars([_bar(arm, arms[0]) for arm in arms], arms[0]["label"]),
                "Dots: seeds. Whiskers: the 95 % interval of each setting's difference to real only, around the mean "
                "of real only. The verdict's intervals hold for all ratios together and are wider.",
            )
        )
        tables.append(_study_table(name, arms))
        if any("to_judged" in arm for arm in arms):
            tables.append(_others_table(name, arms))
        if len(class_names) > 1:
            shown = {arm["label"]: list(arm["classes"]["iou"].values()) for arm in arms if arm["name"] != "copy_paste"}
            figures.append(Figure(f"{name}: classes", charts.class_bars(class_names, shown)))
    return Section("Segmentation models", _study_text(study), tables, figures)


def _study_text(study: Record) -> list[str]:
    settings = study["settings"]
    text = [
        f"Every model was trained for {settings['train_steps']} steps of {settings['batch_size']} images, whatever its "
        f"setting, {study['seeds']} time(s). Its state of best mIoU on validation images (a part of the real training "
        f"images) was tested on {study['test_images']} real test images. Scores are of the summed pixels of all test "
        "images; mIoU is the mean over the classes that they have.",
        "Differences are to real only. Their intervals hold for 95 % of test sets like this one and, with "
        "several seeds, of trainings like these. The verdicts hold for all mixing ratios together, so their "
        "intervals are wider than those of single ones. The best mix and the best baseline are those with the best "
        "validation scores.",
        "All settings have the usual augmentation."
        if settings["augment_all"]
        else "Only the setting of the usual augmentation is augmented (augment_all tells whether samples help on top).",
        "The generator was trained on all training images, the models on all but the "
        f"{100 * settings['validation_share']:.0f} % that choose their best states. So samples also carry what "
        "the generator saw in those.",
    ]
    if study["absent_classes"]:
        text.append(f"Not in the test images, so not scored: {', '.join(study['absent_classes'])}.")
    return text


def _bar(arm: Record, baseline: Record) -> charts.SettingBar:
    mean, difference, miou = baseline["scores"]["miou"]["mean"], arm.get("difference"), arm["scores"]["miou"]
    low, high = (None, None)
    if difference and None not in (mean, difference["low"], difference["high"]):
        low, high = mean + difference["low"], mean + difference["high"]
    return charts.SettingBar(arm["label"], miou["mean"], low, high, miou["by_seed"])


def _study_table(name: str, arms: Sequence[Record]) -> Table:
    keys = ("foreground_miou", "micro_iou", "dice", "precision", "recall")
    rows = []
    for arm in arms:
        results, difference, spread = arm["scores"], arm.get("difference"), arm["scores"]["miou"]["std"]
        compared = ["", ""]
        if difference is not None:
            mean, low, high = (points(difference[key]) for key in ("mean", "low", "high"))
            compared = [mean, f"{low} to {high}"]
        miou = percent(results["miou"]["mean"]) + ("" if spread is None else f" ± {percent(spread)}")
        scores = [percent(results[key]["mean"]) for key in keys]
        rows.append([arm["label"], arm["real"], arm["synthetic"], miou, *compared, *scores])
    header = ["setting", "real", "synthetic", "mIoU %", "difference", "95 % interval", "mIoU without class 0"]
    return Table([*header, "micro IoU", "Dice", "precision", "recall"], rows, f"{name}, means over seeds, in percent")


def _others_table(name: str, arms: Sequence[Record]) -> Table:
    rows = []
    for arm in arms:
        if "to_judged" in arm:
            mean, low, high = (points(arm["to_judged"][key]) for key in ("mean", "low", "high"))
            rows.append(
                [arm["label"], arm["synthetic"], percent(arm["scores"]["miou"]["mean"]), mean, f"{low} to {high}"]
            )
    header = ["setting", "synthetic", "mIoU %", "difference", "95 % interval"]
    return Table(header, rows, f"{name}, other samples against as many of those that are judged")


# -------------------------------------------------------------------------------- samples, generator, settings


def examples_section(triples: Sequence[tuple[Tile, ...]], caption: str) -> Section:
    """Return the section of samples beside their masks and the real images of these masks."""
    text = ["The real image whose mask was used (gray if unknown), the mask, and the sample made from it."]
    return Section("Real, mask, sample", text, figures=[Sheet("Spread over all samples", triples, TRIPLE, caption)])


def generator_section(
    sample_config: Record, runs: Mapping[Path, tuple[Record, Sequence[Mapping[str, float]]]]
) -> Section:
    """Return the loss curves and configurations of the trainings behind the samples.

    runs: folder -> (config, epochs), the first training first; empty if they were not found.
    """
    heading = "How the samples were made"
    details = [("config of sample", json.dumps(sample_config, indent=2))] if sample_config else []
    if not runs:
        text = (
            "The trainings behind the samples were not found: the samples have no config.json, or the folders that it "
            "names have moved."
        )
        return Section(heading, [text], details=details)
    history = {folder.as_posix(): epochs for folder, (_, epochs) in runs.items() if epochs}
    figures = [Figure("Training loss", charts.loss_history(history))] if history else []
    details += [(f"config of {folder}", json.dumps(config, indent=2)) for folder, (config, _) in runs.items()]
    text = "Mean training loss of each epoch. It tells whether the loss was still falling, not how good samples are."
    return Section(heading, [text], figures=figures, details=details)


def settings_section(options: Record, data: Record, versions: Mapping[str, str]) -> Section:
    """Return everything that the numbers depend on, folded."""
    details = [
        ("options of this evaluation", json.dumps(options, indent=2)),
        ("data and digests", json.dumps(data, indent=2)),
        ("versions", "\n".join(f"{name} {version}" for name, version in versions.items())),
    ]
    return Section("Settings", details=details)
