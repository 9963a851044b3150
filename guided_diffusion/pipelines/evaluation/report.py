"""The page of `evaluate`: from what was measured to sections, tables, charts and pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluations.metrics.near_duplicates import SYMMETRIES, WHOLE, apply_symmetry, closest_pairs
from evaluations.report import charts
from evaluations.report.page import Figure, Section, Table, Verdict, render_report
from guided_diffusion.data import visualize
from guided_diffusion.data.modes import get_mode
from guided_diffusion.pipelines.evaluation.data import EvaluationData
from guided_diffusion.pipelines.evaluation.quality import Quality
from guided_diffusion.pipelines.evaluation.training import training_sections

Record = Mapping[str, Any]
_GROUPS_A_ROW = 2


def report_page(record: Record, data: EvaluationData, quality: Quality) -> str:
    """Return the page: the verdict first, then what it rests on."""
    sections = [
        *_study_sections(record["study"]),
        _examples(data, quality),
        *_agreement_sections(record, data, quality),
        _distances(record),
        *_copies_sections(record, data, quality),
        _drift(data, quality),
        *training_sections(data.samples),
        _settings(record),
    ]
    images = record["data"]["images"]
    height, width = record["data"]["image_size"]
    facts = [
        ("Real images", _counted(images)),
        ("Samples", str(images["samples"])),
        ("Size", f"{width} x {height} pixels"),
        ("Classes", ", ".join(record["data"]["classes"])),
        *_quality_facts(record),
    ]
    return render_report(
        title=f"Does the synthetic data help? {Path(record['data']['data_dir']).name}",
        verdict=_verdict(record),
        facts=facts,
        warnings=[*(record["study"]["warnings"] if record["study"] else []), *data.warnings, *quality.warnings],
        sections=sections,
        footer=f"isdm {record['versions']['isdm']}, torch {record['versions']['torch']}; report.json has all numbers",
    )


def _counted(images: Record) -> str:
    training = f"{images['training']} for training, " if "training" in images else ""
    return f"{training}{images['test']} for the test"


def _verdict(record: Record) -> Verdict:
    study = record["study"]
    if study is None:
        return Verdict("not measured", "Whether the synthetic data helps was not measured: study is false")
    lines = []
    for entry in study["architectures"].values():
        if "verdict" in entry:
            lines.append(entry["verdict"]["line"])
        if entry.get("rivals"):
            lines.append(entry["rivals"]["line"])
    return Verdict(study["kind"], study["headline"], lines)


def _quality_facts(record: Record) -> list[tuple[str, str]]:
    facts = []
    if "agreement" in record:
        found, real = record["agreement"]["samples"], record["agreement"]["real_test_images"]
        facts.append(("Mask agreement", f"mean {found['mean']:.2f} (real test images {real['mean']:.2f})"))
        facts.append(
            ("mIoU of the segmenter", f"{_percent(found['miou'])} % (real test images {_percent(real['miou'])} %)")
        )
    if "memorisation" in record:
        copies = record["memorisation"]
        facts.append(
            (
                "Suspected copies",
                f"{100 * copies['share']:.1f} % (real test images {_percent(copies['real_suspects'])} %)",
            )
        )
    if "samples" in record["distances"]:
        found = record["distances"]["samples"]
        facts.append(("KID, FID", f"{found['kid']['mean']:.4f}, {found['fid']:.1f}"))
    return facts


# ------------------------------------------------------------------------------------------------------ study


def _study_sections(study: Record | None) -> list[Section]:
    if study is None:
        return []
    settings = study["settings"]
    text = [
        f"Every model was trained for {settings['train_steps']} steps of {settings['batch_size']} images, whatever its "
        f"arm, {study['seeds']} time(s); its state of best mIoU on validation images (a part of the real training "
        f"images) was tested on {study['test_images']} real test images. Scores are of the summed pixels of all test "
        "images; mIoU is the mean over the classes that they have.",
        "Differences are to the arm real only. Their intervals hold for 95 % of test sets like this one and, with "
        "several seeds, of trainings like these. The verdicts hold for all mixing ratios together, so that their "
        "intervals are wider than those of single arms. The best mix and the best cheap rival are those of the best "
        "validation scores.",
        "All arms have the usual augmentation."
        if settings["augment_all"]
        else "No arm but that of the usual augmentation is augmented (augment_all tells whether samples help on top).",
        "The generator was trained on all training images, the models on all but the "
        f"{100 * settings['validation_share']:.0f} % that choose their best states, so that samples also carry what "
        "the generator saw in those.",
    ]
    if study["absent_classes"]:
        text.append(f"Not in the test images, so not scored: {', '.join(study['absent_classes'])}.")
    figures, tables = [], []
    for name, entry in study["architectures"].items():
        arms = entry["arms"]
        figures.append(
            _chart(
                charts.iou_bars([_bar(arm, arms[0]) for arm in arms], arms[0]["label"]),
                name,
                "Dots: seeds. Whiskers: the 95 % interval of each arm's difference to real only, laid at the mean of "
                "real only. The verdict's intervals hold for all ratios together and are wider.",
            )
        )
        tables.append(_arm_table(name, arms))
        if len(arms[0]["classes"]["iou"]) > 1:
            shown = {arm["label"]: list(arm["classes"]["iou"].values()) for arm in arms if _is_shown(arm)}
            figures.append(_chart(charts.class_bars(list(arms[0]["classes"]["iou"]), shown), f"{name}: classes"))
    return [Section("Segmentation models", text, tables, figures)]


def _is_shown(arm: Record) -> bool:
    return arm["name"] in ("real", "synthetic", "augmented") or arm["name"].startswith("mix")


def _bar(arm: Record, baseline: Record) -> charts.ArmBar:
    mean, difference = baseline["scores"]["miou"]["mean"], arm.get("difference")
    found = arm["scores"]["miou"]
    low, high = (None, None)
    if difference and None not in (mean, difference["low"], difference["high"]):
        low, high = mean + difference["low"], mean + difference["high"]
    return charts.ArmBar(arm["label"], found["mean"], low, high, [v for v in found["by_seed"] if v is not None])


def _arm_table(name: str, arms: Sequence[Record]) -> Table:
    keys = ("miou", "foreground_miou", "micro_iou", "dice", "precision", "recall")
    rows = []
    for arm in arms:
        found, difference = arm["scores"], arm.get("difference")
        interval = "" if difference is None else f"{_points(difference['low'])} to {_points(difference['high'])}"
        spread = found["miou"]["std"]
        rows.append(
            [
                arm["label"],
                arm["real"],
                arm["synthetic"],
                _percent(found["miou"]["mean"]) + ("" if spread is None else f" ± {_percent(spread)}"),
                "" if difference is None else _points(difference["mean"]),
                interval,
                *(_percent(found[key]["mean"]) for key in keys[1:]),
            ]
        )
    header = ["arm", "real", "synthetic", "mIoU %", "difference", "95 % interval", "mIoU without class 0"]
    return Table([*header, "micro IoU", "Dice", "precision", "recall"], rows, f"{name}, means over seeds, in percent")


# ----------------------------------------------------------------------------------------------------- samples


def _examples(data: EvaluationData, quality: Quality) -> Section:
    chosen = visualize.spread(range(len(data.synthetic.images)), data.options["report_images"])
    figures = [_sheet(data, chosen, "Spread over all samples", quality)]
    text = ["The real image whose mask was used (where that is known), the mask, and the sample made from it."]
    return Section("Real, mask, sample", text, figures=figures)


def _agreement_sections(record: Record, data: EvaluationData, quality: Quality) -> list[Section]:
    if quality.agreement is None:
        return []
    entry, threshold = record["agreement"], data.options["filter_below"]
    background = data.encoding.names[get_mode(data.options["dataset_mode"]).background]
    text = [
        f"A segmenter ({entry['segmenter']}) looks for the mask in each sample. A sample's score is the mean IoU over "
        f"the classes of its mask without {background}; things seen that are not in the mask cost nothing. What it "
        "reaches on real test images is the yardstick"
        + ("." if "given" in entry else ", though it has seen the images that the masks of samples are from."),
    ]
    left_out = entry.get("given", {}).get("left_out_classes")
    if left_out:
        text.append(f"Classes that it does not know, whose pixels count nowhere: {', '.join(left_out)}.")
    if entry["samples"]["bare"]:
        text.append(
            f"{entry['samples']['bare']} samples whose mask is all {background} are left out of the distribution."
        )
    if "filtered" in record:
        text.append(
            f"{record['filtered']['kept']} samples of at least {threshold:g} were copied to "
            f"{record['filtered']['folder']}."
        )
    names = ("min", "p10", "p25", "median", "p75", "p90", "max", "mean")
    sets = (("samples", "samples"), ("real test images", "real_test_images"))
    rows = [[label, *(f"{entry[key][name]:.2f}" for name in names)] for label, key in sets]
    summed = [[label, _percent(entry[key]["miou"]), _percent(entry[key]["pixel_accuracy"])] for label, key in sets]
    classes = [
        [
            name,
            _percent(entry["samples"]["classes"][name]["iou"]),
            _percent(entry["real_test_images"]["classes"][name]["iou"]),
        ]
        for name in data.encoding.names
    ]
    ranked, count = quality.agreement.ranked(), data.options["report_images"] // 2 or 1
    if not quality.agreement.bare.all():  # that nothing is seen in a bare mask is no picture worth showing
        ranked = ranked[~quality.agreement.bare[ranked]]
    figures = [
        _chart(charts.score_histogram(quality.agreement.score, threshold, "", "agreement"), "Scores of the samples"),
        _sheet(data, ranked[:count], "Worst agreement", quality),
        _sheet(data, ranked[::-1][:count], "Best agreement", quality),
    ]
    tables = [
        Table(["score", *names], rows),
        Table(
            ["all pixels together", "mIoU %", "pixel accuracy %"], summed, "mIoU: mean over the classes in the masks"
        ),
        Table(["class", "IoU in samples %", "IoU in real test images %"], classes, "all pixels together"),
    ]
    return [Section("Is the mask followed?", text, tables, figures)]


def _distances(record: Record) -> Section:
    rows, text, distances, diversity = [], [], record["distances"], record["diversity"]
    if "skipped" in distances:
        text.append(f"KID, FID, precision and recall: {distances['skipped']}.")
    else:
        labels = {
            "samples": f"samples against {distances['compared_with']} images",
            "test": "test against training images",
        }
        for name, label in labels.items():
            if name not in distances:  # the training images were not read
                continue
            found = distances[name]
            kid = found["kid"]
            rows.append(
                [
                    label,
                    f"{found['images']} / {found['against']}",
                    f"{kid['mean']:.4f}" + (f" ± {kid['std']:.4f}" if kid["subsets"] > 1 else ""),
                    f"{found['fid']:.1f}",
                    f"{found['precision']:.2f}",
                    f"{found['recall']:.2f}",
                ]
            )
        height, width = distances["image_size"]
        text.append(f"{distances['features']}. {distances['resampling']}: {width} x {height} pixels.")
        text.append(
            "FID, precision and recall depend on how many images there are, in which rows differ. Precision "
            "and recall are of these features; published ones are mostly of VGG16's."
        )
    if "skipped" in diversity:
        text.append(f"LPIPS diversity: {diversity['skipped']}.")
    else:
        text.append(
            f"LPIPS diversity {diversity['mean']:.3f} (standard deviation over masks {diversity['std']:.3f}), "
            f"{diversity['images']} samples of {diversity['masks']} masks, at least {diversity['samples_per_mask']} of "
            f"each; {diversity['network']}. {diversity['resampling']}."
        )
    tables = [Table(["sets", "images", "KID", "FID", "precision", "recall"], rows)] if rows else []
    return Section("Distance to the real images", text, tables)


def _copies_sections(record: Record, data: EvaluationData, quality: Quality) -> list[Section]:
    if quality.memorisation is None:
        return []
    entry, result = record["memorisation"], quality.memorisation
    found, yardstick = quality.neighbours
    text = [
        f"{int(result.suspected.sum())} of {len(result.score)} samples are suspected copies of a training image: much "
        "nearer to one than to its neighbours, compared with how training images lie among themselves, flips and turns "
        f"included. The same rule flags {_percent(entry['real_suspects'])} % of the real test images and "
        f"{_percent(entry['training_suspects'])} % of the training images among the others: what near-duplicates in "
        "the data alone give.",
        f"Distances: of pixels (whole image, and its best three quarters); features: {entry['features']}.",
    ]
    chart = charts.distance_histogram(
        yardstick[WHOLE].distance, found[WHOLE].distance, None, "distance to the nearest training image, grey levels"
    )
    pairs, scores = [], []
    for index in closest_pairs(result, data.options["report_images"]):
        image = data.training.images.images[result.index[index]]
        pairs.append((data.synthetic.images.images[index], apply_symmetry(image, int(result.symmetry[index]))))
        scores.append(f"{result.score[index]:.2f}" + (" (suspected)" if result.suspected[index] else ""))
    caption = "Training images are turned as they match best. Below 1 a sample is suspected: " + ", ".join(scores)
    figures = [
        _chart(chart, "Nearest training images"),
        _picture(_in_rows(pairs, ("sample", "training image")), "Closest pairs", caption),
    ]
    return [Section("Copies of training images", text, figures=figures)]


def _drift(data: EvaluationData, quality: Quality) -> Section:
    assert quality.drift is not None
    drift, names = quality.drift, data.encoding.names
    text = drift.warnings(names) or ["Nothing parts beyond chance and the spread of the real images."]
    compared = {
        "Channel means": (drift.channels, drift.mean, "grey levels"),
        "Channel standard deviations": (drift.channels, drift.std, "grey levels"),
        "Class areas": (names, drift.areas, "share of the pixels"),
    }
    figures = []
    for title, (rows, found, unit) in compared.items():
        real, synthetic = [each.real for each in found], [each.synthetic for each in found]
        figures.append(_chart(charts.paired_bars(rows, real, synthetic, unit), title))
    power = (10 ** (spectrum / 10) for spectrum in (drift.real_spectrum, drift.synthetic_spectrum))
    figures.append(_chart(charts.spectra(drift.frequency, *power), "Power spectra"))
    return Section("Do they look like the real images?", text, figures=figures)


def _settings(record: Record) -> Section:
    versions = "\n".join(f"{name} {version}" for name, version in record["versions"].items())
    details = [
        ("options of this evaluation", json.dumps(record["options"], indent=2)),
        ("data and digests", json.dumps(record["data"], indent=2)),
        ("versions", versions),
    ]
    return Section("Settings", details=details)


# --------------------------------------------------------------------------------------------------- pictures


def _sheet(data: EvaluationData, chosen: Sequence[int] | np.ndarray, title: str, quality: Quality) -> Figure:
    """Return rows real | mask | sample, several a row."""
    palette = visualize.class_palette(data.encoding.num_classes)
    triples = []
    for index in map(int, chosen):
        label = data.synthetic.images.labels[index]
        triples.append((_real_of(data, index), visualize.colorize(label, palette), data.synthetic.images.images[index]))
    legend = visualize.legend_of(data.encoding.names, data.synthetic.images.labels[np.asarray(chosen)])
    sheet = _in_rows(triples, ("real", "mask", "sample"), legend)
    scores = quality.agreement
    caption = "" if scores is None else "Agreement: " + ", ".join(f"{scores.score[int(i)]:.2f}" for i in chosen)
    return _picture(sheet, title, caption)


def _in_rows(
    groups: Sequence[tuple[visualize.Pixels, ...]],
    titles: tuple[str, ...],
    legend: Sequence[tuple[str, visualize.Colour]] = (),
) -> Image.Image:
    """Return a sheet with two groups of pictures a row, under the titles of one."""
    rows = [sum(groups[start : start + _GROUPS_A_ROW], ()) for start in range(0, len(groups), _GROUPS_A_ROW)]
    return visualize.grid(rows, column_titles=titles * (len(rows[0]) // len(titles)), legend=legend)


def _real_of(data: EvaluationData, index: int) -> visualize.Pixels:
    """Return the real image of a sample's mask, turned as the mask was; a grey tile where it is not known."""
    label = data.synthetic.images.labels[index]
    for split, origin in ((data.training, int(data.origin[index])), (data.test, int(data.test_origin[index]))):
        if split is None or origin < 0:
            continue
        real = split.images
        for symmetry in range(len(SYMMETRIES)):
            turned = apply_symmetry(real.labels[origin][..., None], symmetry)[..., 0]
            if turned.shape == label.shape and (turned == label).all():
                return np.ascontiguousarray(apply_symmetry(real.images[origin], symmetry))
        return real.images[origin]
    return np.full((*label.shape, 3), 128, np.uint8)


def _picture(sheet: Image.Image, title: str, caption: str = "") -> Figure:
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return Figure(title, buffer.getvalue(), kind="png", caption=caption)


def _chart(chart: charts.Chart, title: str, caption: str = "") -> Figure:
    return Figure(title, chart.light_svg, chart.dark_svg, caption=caption)


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
