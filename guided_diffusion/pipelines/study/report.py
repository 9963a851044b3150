"""The report of a study: its record, the page, the curve and the picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluations.groups import count_groups, numbered
from evaluations.report import charts
from evaluations.report.defect_sections import (
    CURVE,
    agreement_section,
    alarms_section,
    amounts_section,
    classes_section,
    curve_of,
    defect_verdict,
    distances_section,
    looks_section,
    study_facts,
)
from evaluations.report.drawing import chart_png
from evaluations.report.page import Section, Sheet, Tile, render_report
from evaluations.report.sections import settings_section
from evaluations.study.comparison import few_groups_warning
from evaluations.study.defects import SCORE, ArmTests, arm_record, difference, judge_defects, training_chance
from guided_diffusion.config.study import COPIED, COPY_PASTE, REAL_GOOD, amount_name
from guided_diffusion.data import visualize
from guided_diffusion.data.components import Box
from guided_diffusion.pipelines.evaluation.evaluate import METRIC_LIBRARIES, RECORD, REPORT
from guided_diffusion.pipelines.evaluation.report import draw_sheet
from guided_diffusion.pipelines.evaluation.results import StudyResults
from guided_diffusion.pipelines.study.advice import (
    better_painted,
    cheaper_ways,
    how_to_paste,
    several_versions,
    signs_of_hurt,
)
from guided_diffusion.pipelines.study.arms import JUDGED, LABELS, PAINTED, filled, seen
from guided_diffusion.pipelines.study.runs import SegmenterRun, tested
from guided_diffusion.pipelines.study.trainings import StudyImages
from guided_diffusion.runtime.files import atomic_write, write_text
from guided_diffusion.runtime.logs import library_versions

CURVE_FILE, PICTURE_FILE = "curve.png", "examples.png"
_LEAST_SIDE = 64  # px of the image in a tile of the picture
_SIDE = 192  # px of a tile


def _few_groups(images: StudyImages, results: Sequence[Any]) -> list[str]:
    """Return a warning where test images with defects, or groups of them, are few. results: one, or none."""
    if not results:
        return []
    counts = tested(results[0]).defect_counts
    telling, groups = counts.telling(SCORE), images.setup.test_groups[: len(counts)]
    return few_groups_warning(
        count_groups(numbered(groups, len(counts)), telling), int(telling.sum()), "defective test"
    )


def study_record(
    images: StudyImages,
    planned: Sequence[SegmenterRun],
    results: StudyResults,
    measures: dict[str, Any],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Return everything that report.json has, of the results that are there; `warnings` go among its own."""
    setup = images.setup
    finished = [run for run in planned if run.key in results]
    tests: dict[str, dict[str, dict[str, dict[int, Any]]]] = {}
    for run in finished:
        of_amount = tests.setdefault(run.architecture, {}).setdefault(amount_name(run.amount), {})
        of_amount.setdefault(run.arm, {})[run.repeat] = tested(results[run.key])
    amounts = {amount_name(amount): len(pairs) for amount, pairs in setup.subsets.items()}
    judged = next((arm for arm in JUDGED if arm in setup.arms), "")
    name_of_judged, unmeasured = JUDGED.get(judged, ""), _why_unmeasured(judged, setup.arms)
    rival = COPY_PASTE if judged in PAINTED else None  # the cheap one
    verdicts = {}
    for name, by_amount in tests.items():
        arms = [
            {amount: found.get(arm, {}) for amount, found in by_amount.items()} for arm in (REAL_GOOD, judged, rival)
        ]
        options = {"groups": setup.test_groups, "seed": setup.config.seed}
        chances = {amount: training_chance(found.values()) for amount, found in by_amount.items()}
        verdict = judge_defects(list(by_amount), *arms, name=name_of_judged, chances=chances, **options)
        verdicts[name] = verdict.to_json() | ({"headline": unmeasured} if unmeasured else {})
    architectures = {
        name: {amount: _arms_record(images, found) for amount, found in by_amount.items()}
        for name, by_amount in tests.items()
    }
    return {
        "judged": name_of_judged,
        "verdicts": verdicts,
        "advice": [
            *how_to_paste(judged, [each["kind"] for each in verdicts.values()]),
            *cheaper_ways(architectures),
            *better_painted(architectures),
        ],
        "warnings": [
            *_few_groups(images, [results[run.key] for run in finished[:1]]),
            *signs_of_hurt(architectures, setup.config.segmenter.steps),
            *several_versions(results[run.key] for run in finished),
            *warnings,
        ],
        "arms": {arm: LABELS[arm] for arm in setup.arms},
        "amounts": amounts,
        "architectures": architectures,
        **measures,
        "settings": results.record,
        "data": {
            "data_dir": str(Path(setup.source.data_dir).absolute()),
            "classes": list(setup.class_names),
            "defect_classes": list(setup.defect_names),
            "test_images": len(setup.test),
            "good_images": len(setup.good),
            "good_test_images": len(setup.good_test),
            "test_groups": len(set(numbered(setup.test_groups[: len(setup.test)], len(setup.test)))),
            "subsets": {amount_name(amount): [pair.stem for pair in pairs] for amount, pairs in setup.subsets.items()},
            "planned": len(planned),
            "finished": len(finished),
            "warnings": list(setup.warnings),
        },
        "options": setup.config.to_json(),
        "versions": library_versions() | library_versions(METRIC_LIBRARIES),
    }


def _why_unmeasured(judged: str, arms: Sequence[str]) -> str:
    """Return the headline of a study whose arms allow no verdict, else ""."""
    if not judged:
        return f"No verdict: arms has none of {', '.join(JUDGED)}"
    missing = f"Whether {JUDGED[judged]} defects help was not measured: arms has no {REAL_GOOD} to compare with"
    return "" if REAL_GOOD in arms else missing


def _arms_record(images: StudyImages, found: dict[str, ArmTests]) -> dict[str, Any]:
    """Return the record of each arm at an amount, with its differences to real + good images."""
    record = {}
    options = {"groups": images.setup.test_groups, "seed": images.setup.config.seed}
    for arm in (arm for arm in images.setup.arms if arm in found):
        record[arm] = arm_record(found[arm], images.setup.class_names)
    for key, with_good in (("difference", False), ("difference_with_good", True)):
        chance = training_chance(found.values(), with_good=with_good)
        for arm in (arm for arm in record if arm != REAL_GOOD):
            each = difference(found.get(REAL_GOOD, {}), found[arm], with_good=with_good, chance=chance, **options)
            if each is not None:
                record[arm][key] = each.to_json()
    return record


def write_report(record: dict[str, Any], images: StudyImages, picture: Sheet | None) -> None:
    """Write report.json, report.html, the curve and the picture into `output_dir`."""
    folder = Path(images.setup.config.output_dir)
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    if not record["architectures"]:
        return
    draw = partial(draw_sheet, class_names=images.setup.class_names)
    sections = [amounts_section(record), classes_section(record, REAL_GOOD), alarms_section(record)]
    if "agreement" in record:
        sections.append(agreement_section(record["agreement"]))
    if "looks" in record:
        sections.append(looks_section(record["looks"]))
    if picture is not None:
        sections.append(Section("Pictures", figures=[picture]))
        _write_bytes(folder / PICTURE_FILE, draw(picture))
    if "distances" in record:
        sections.append(distances_section(record["distances"]))
    sections.append(settings_section(record["options"], record["data"], record["versions"]))
    question = f"Do {record['judged']} defects help?" if record["judged"] else "How well are defects segmented?"
    page = render_report(
        title=f"{question} {Path(record['data']['data_dir']).name}",
        verdict=defect_verdict(record),
        facts=study_facts(record),
        warnings=[*_unfinished(record), *record["warnings"], *record["data"]["warnings"]],
        sections=sections,
        footer=f"isdm {record['versions']['isdm']}, torch {record['versions']['torch']}; report.json has all numbers",
        draw=draw,
    )
    write_text(folder / REPORT, page)
    _write_bytes(folder / CURVE_FILE, chart_png(charts.amount_curves, curve_of(record), CURVE))


def _unfinished(record: dict[str, Any]) -> list[str]:
    data = record["data"]
    left = data["planned"] - data["finished"]
    return [f"the study is not finished: {left} of {data['planned']} models are still to be trained"] if left else []


def _write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def picture_of(images: StudyImages) -> Sheet | None:
    """Return good image, copies, painted defects and mask of some defects of each class; None without any."""
    setup, amount = images.setup, list(images.setup.config.design.repeats)[-1]
    painted = [arm for arm in PAINTED if arm in setup.arms]
    copied = [arm for arm in COPIED if arm in setup.arms]
    if not painted and not copied:
        return None
    folders = [images.placed(amount, arm) for arm in painted]
    first = folders[0] if folders else images.scenes(amount)
    if painted:  # beside a copy, wherever there is something to copy
        copied = [] if first.config.placing.mask_source == "dir" else [COPY_PASTE]
    classes, patch_of, groups = first.classes(), first.patches(), []
    for name in setup.class_names[1:]:
        places = [
            (index, number) for index, names in enumerate(classes) for number, own in enumerate(names) if own == name
        ]
        for index, number in visualize.evenly_spaced(places, setup.config.report_images):
            scene, placed = first.scene(index), [folder.scene(index) for folder in folders]
            window = _window(scene.finished.defects[number].extent, scene.good.size)
            pixels = [
                scene.good.pixels,
                *(filled(scene, patch_of, arm) for arm in copied),
                *(each.result for each in placed),
            ]
            tiles = [visualize.to_rgb(seen(scene.good, each))[window.slices] for each in pixels]
            groups.append(tuple(map(_tile, [*tiles, scene.finished.label[window.slices]])))
    if not groups:
        return None
    titles = ("good", *(LABELS[arm].removeprefix("+ ") for arm in copied), *(PAINTED[arm] for arm in painted), "mask")
    shown = ["the good image", *["the training defect"] * bool(copied), *["what was painted"] * bool(painted)]
    caption = f"{', '.join(titles)}: {', '.join(shown)}; large parts are reduced."
    return Sheet("Defects of each class", groups, titles, caption)


def _tile(part: Tile) -> Tile:
    """Return a part of an image or label map whose longer side is _SIDE px: all in one size."""
    factor = _SIDE / max(part.shape[:2])
    size = tuple(max(1, round(side * factor)) for side in part.shape[1::-1])
    if part.ndim == 2:
        return np.asarray(Image.fromarray(part.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    return np.asarray(Image.fromarray(np.ascontiguousarray(part)).resize(size, Image.Resampling.LANCZOS))


def _window(box: Box, size: tuple[int, int]) -> Box:
    """Return a square around a box, twice as large, as far as the image goes."""
    side = max(2 * max(box.size), _LEAST_SIDE)
    return box.framed((side, side), size)
