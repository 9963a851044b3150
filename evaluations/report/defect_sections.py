"""The sections of the report of `study`, from its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluations.report import charts
from evaluations.report.page import Figure, Section, Table, Verdict
from evaluations.report.sections import Record, decimals, percent, points

CURVE = "mIoU of the defects in percent"


def defect_verdict(record: Record) -> Verdict:
    """Return the answer of the first architecture, a line for each amount of all, and what else the study advises."""
    verdicts = record["verdicts"]
    first = next(iter(verdicts.values()))
    several = len(verdicts) > 1
    lines = [f"{name}: {line}" if several else line for name, each in verdicts.items() for line in each["lines"]]
    return Verdict(first["kind"], first["headline"], [*lines, *record["advice"]])


def curve_of(record: Record) -> dict[str, list[charts.AmountPoint]]:
    """Return the series of `charts.amount_curves` for the first architecture."""
    table = next(iter(record["architectures"].values()))
    series: dict[str, list[charts.AmountPoint]] = {}
    for amount, arms in table.items():
        for arm, found in arms.items():
            miou = found["miou"]
            point = charts.AmountPoint(record["amounts"][amount], miou["mean"], miou["std"])
            series.setdefault(record["arms"][arm], []).append(point)
    return series


def amounts_section(record: Record) -> Section:
    """Return the scores of all arms at all amounts, and the curve."""
    tables = [_scores_table(record, name, table) for name, table in record["architectures"].items()]
    if any(verdict["differences"] or verdict["rivals"] for verdict in record["verdicts"].values()):
        tables.append(_differences_table(record))
    curve = Figure(
        "mIoU over annotated images",
        charts.amount_curves(curve_of(record), CURVE),
        "Bars: standard deviation over seeds.",
    )
    settings = record["settings"]
    text = [
        f"Every model was trained for {settings['steps']} steps of {settings['batch_size']} crops, whatever its arm, "
        f"with the usual augmentation, and tested in its last state on {record['data']['test_images']} real images "
        "with defects. mIoU is the mean over the defect classes, of the pixels of all test images.",
        "The generator of each amount, if arms need one, was trained on these images and the good ones alone. "
        "Copy-paste, Poisson-blended and placed defects have the same masks at the same places in the same images.",
        "Differences are paired by test image and seed; their intervals cover the chance of both (Student's t over "
        "seeds, whose variance is that of all arms of an amount together). Those of the verdict hold for all amounts "
        "at once. The stratified ones are a bootstrap of seeds and images, for comparison.",
    ]
    data = record["data"]
    if (groups := data.get("test_groups", data["test_images"])) < data["test_images"]:
        text.append(
            f"The {data['test_images']} test images with defects show {groups} objects (group_pattern), and intervals "
            "draw these: images of one object are hardly more evidence than one image."
        )
    return Section("Does it help?", text, tables, [curve])


def _cell(found: Record | None, key: str = "miou") -> str:
    if found is None:
        return ""
    std = found[key]["std"]
    return percent(found[key]["mean"]) + ("" if std is None else f" ± {percent(std)}")


def _scores_table(record: Record, name: str, table: Record) -> Table:
    amounts = list(table)
    rows = []
    for arm, label in record["arms"].items():
        row: list[str | int] = [label]
        for amount in amounts:
            found = table[amount].get(arm)
            row += [_cell(found), _interval(found.get("difference") if found else None)]
        rows.append(row)
    header = ["trained on", *(text for amount in amounts for text in (f"{amount} images", "difference"))]
    return Table(header, rows, f"{name}: mIoU in percent over seeds, and the difference to real + good images")


def _interval(found: Record | None) -> str:
    if found is None:
        return ""
    return f"{points(found['mean'])} ({points(found['low'])} to {points(found['high'])})"


def _differences_table(record: Record) -> Table:
    rows = []
    for name, verdict in record["verdicts"].items():
        for against, key in (("real + good", "differences"), ("copy-paste", "rivals")):
            for amount, found in verdict[key].items():
                low, high = found["interval_stratified"]
                stratified = f"{points(low)} to {points(high)}"
                row = [f"{name}, {amount} images, against {against}", points(found["mean"])]
                interval = f"{points(found['low'])} to {points(found['high'])}"
                rows.append([*row, interval, stratified, len(found["by_seed"]), found["kind"]])
    judged = f"{record['judged']} defects"
    header = [judged, "points", "interval", "stratified", "seeds", "verdict"]
    rivals = any(verdict["rivals"] for verdict in record["verdicts"].values())
    against = "what costs nothing" if rivals else "real and good images"
    return Table(header, rows, f"{judged.capitalize()} against {against}, in points of mIoU")


def classes_section(record: Record, baseline: str) -> Section:
    """Return the IoU of each class, and for what models of the arm `baseline` take the defects of each."""
    tables = []
    for name, table in record["architectures"].items():
        for amount, arms in table.items():
            classes = list(next(iter(arms.values()))["classes"]) if arms else []
            rows = [
                [record["arms"][arm], *(percent(found["classes"][each]["iou"]) for each in classes)]
                for arm, found in arms.items()
            ]
            tables.append(
                Table(["trained on", *classes], rows, f"{name}, {amount} images: IoU in percent, mean of seeds")
            )
    for name, table in record["architectures"].items():
        rows: list[list[str | int]] = []
        for amount, arms in table.items():
            called = arms.get(baseline, {}).get("called") or {}
            rows += [[f"{true}, {amount} images", *map(percent, shares.values())] for true, shares in called.items()]
        if rows:
            caption = f"{name}, {record['arms'][baseline]}: for what the pixels of a class are taken, in percent"
            tables.append(Table(["pixels of", *record["data"]["classes"]], rows, caption))
    return Section("Classes", tables=tables)


def alarms_section(record: Record) -> Section:
    """Return what is predicted in good images."""
    tables = []
    for name, table in record["architectures"].items():
        rows = []
        for amount, arms in table.items():
            for arm, found in arms.items():
                if "false_alarm_images" in found:
                    cells = (_cell(found, "false_alarm_images"), _cell(found, "miou_with_good"))
                    share = found["false_alarm_pixel_share"]["mean"]
                    pixels = "–" if share is None else f"{100 * share:.3f}"
                    rows.append([f"{amount} images, {record['arms'][arm]}", *cells, pixels])
        header = ["trained on", "images with a false alarm %", "mIoU, good images counted %", "pixels %"]
        tables.append(Table(header, rows, name))
    text = [
        f"{record['data']['good_test_images']} good images that no model has seen. A false alarm is a predicted defect "
        "of at least 8 pixels. Smaller ones count among the pixels."
    ]
    return Section("False alarms on good images", text, tables)


def agreement_section(found: Record) -> Section:
    """Return how well a segmenter of real images finds the masks in synthetic ones, by class."""
    classes = list(found["real"]["classes"])
    rows = [_agreement_row("real test images", found["real"], classes)]
    for each in found["sets"]:
        rows.append(_agreement_row(each["label"], each, classes))
        ratios = [decimals(each["ratio_classes"][name]) for name in classes]
        rows.append([f"{each['label']}: ratio", decimals(each["ratio"]), *ratios])
    text = [
        f"A model trained on real and good images alone ({found['segmenter']}) looks for the defects at the same "
        "resolution. IoU in percent; the ratio is that to the real test images, for the mean over the classes that "
        "both have."
    ]
    return Section("Do images show their masks?", text, [Table(["images", "mean", *classes], rows)])


def _agreement_row(label: str, found: Record, classes: Sequence[str]) -> list[str]:
    return [label, percent(found["mean"]), *(percent(found["classes"][name]) for name in classes)]


def looks_section(found: Record) -> Section:
    """Return how much the defects of each class stand out from what surrounds them, in real and synthetic images."""
    classes = list(found["sets"][0]["classes"])
    rows = []
    for each in found["sets"]:
        looks = [each["classes"][name] for name in classes]
        rows.append([each["label"], *map(_contrast, looks)])
        if "arm" in each:
            rows.append([f"{each['label']}: times", *(decimals(look["ratio"]) if look else "–" for look in looks)])
        rows.append([f"{each['label']}: texture", *map(_texture, looks)])
    text = [
        "Contrast: how much brighter or darker a defect is than the pixels around it, in percent of these; median and "
        "quartiles over defects. Times: the median of its size, over that of the real training images. Texture: the "
        "fine differences of brightness inside over those around it, median.",
        "Models learn from synthetic defects how faint a defect can be: where these stand out much more than real ones,"
        " faint real defects are missed. For placed defects, a lower guidance scale s paints them fainter.",
    ]
    return Section("Do they stand out as real defects do?", text, [Table(["images", *classes], rows)])


def _contrast(look: Record | None) -> str:
    if look is None:
        return "–"
    low, middle, high = look["contrast"]
    return f"{points(middle)} ({points(low)} to {points(high)})"


def _texture(look: Record | None) -> str:
    return "–" if look is None or look["texture"] is None else f"{look['texture'][1]:.2f}"


def distances_section(found: Record) -> Section:
    """Return distances between windows around real and synthetic defects."""
    rows = []
    for each in found["sets"]:
        kid = each["kid"]
        spread = f" ± {kid['std']:.4f}" if kid["subsets"] > 1 else ""
        shares = (f"{each['precision']:.2f}", f"{each['recall']:.2f}")
        rows.append([each["label"], f"{each['images']} / {each['against']}", f"{kid['mean']:.4f}{spread}", *shares])
    text = [
        f"Windows of {found['window']} pixels around defects, against those of the real test images. Features: "
        f"{found['features']}. Numbers of other features cannot be compared with these."
    ]
    return Section("Distance to real defects", text, [Table(["windows", "images", "KID", "precision", "recall"], rows)])


def study_facts(record: Record) -> list[tuple[str, str]]:
    """Return what was compared, for the head of the report."""
    data: Mapping[str, Any] = record["data"]
    return [
        ("Annotated images", ", ".join(map(str, record["amounts"].values()))),
        ("Good images", f"{data['good_images']} for training, {data['good_test_images']} for the test"),
        ("Test images", str(data["test_images"])),
        ("Synthetic images", f"{record['settings']['pairs']} an arm"),
        ("Scale", f"{record['settings']['scale']:g}"),
        ("Models", f"{data['finished']} of {data['planned']} trained"),
        ("Classes", ", ".join(data["classes"])),
        ("Defects", ", ".join(data["defect_classes"])),
    ]
