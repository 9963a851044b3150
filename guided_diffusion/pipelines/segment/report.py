"""The report of `segment`: report.json and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluations.fold_scores import FoldScores
from evaluations.report.fold_sections import (
    fold_verdict,
    held_out_section,
    scores_section,
    test_section,
    uncertainty_section,
    unlabeled_section,
)
from evaluations.report.page import Section, render_report
from evaluations.report.sections import settings_section
from evaluations.study.comparison import few_groups_warning
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.pipelines.evaluation.report import draw_sheet
from guided_diffusion.pipelines.segment.folds import HeldOut, small
from guided_diffusion.runtime.files import write_text
from guided_diffusion.runtime.logs import library_versions
from guided_diffusion.samples.pseudo_folder import PredictedFolder, PredictedLine, thumbnail

REPORT, PAGE = "report.json", "report.html"
SHOWN_HELD_OUT, SHOWN_NEXT, LISTED_NEXT = 12, 8, 20
_HEAT = np.array([(0, 0, 0), (120, 20, 60), (220, 70, 20), (250, 180, 40), (255, 255, 220)], np.float64)


def heat(uncertainty: NDArray[np.floating], top: float) -> NDArray[np.uint8]:
    """Return a map [H, W] as a picture [H, W, 3]: black for 0, nearly white for `top` and more."""
    place = np.clip(uncertainty.astype(np.float64) / max(top, 1e-9), 0, 1) * (len(_HEAT) - 1)
    lower = np.minimum(place.astype(int), len(_HEAT) - 2)
    share = (place - lower)[..., None]
    return np.round(_HEAT[lower] * (1 - share) + _HEAT[lower + 1] * share).astype(np.uint8)


def brightest(maps: Sequence[NDArray[np.floating]]) -> float:
    """Return the uncertainty that is shown brightest in pictures of these maps: one pixel of 200 has more."""
    return float(np.quantile(np.concatenate([each.ravel() for each in maps]).astype(np.float64), 0.995))


def unlabeled_record(lines: Sequence[PredictedLine], kept: Sequence[PredictedLine]) -> dict[str, Any]:
    """Return what came of the unlabeled images, the most uncertain ones first in "next"."""
    ranked = sorted(lines, key=lambda line: (-line.pseudo.score, line.stem))[:LISTED_NEXT]
    names = ("score", "confidence", "ignored")
    return {
        "images": len(lines),
        "pairs": len(kept),
        "dropped": len(lines) - len(kept),
        "ignored": float(np.mean([line.pseudo.ignored for line in kept])) if kept else None,
        "next": [{"stem": line.stem, **{name: getattr(line.pseudo, name) for name in names}} for line in ranked],
    }


def write_report(
    config: SegmentConfig,
    record: dict[str, Any],
    scores: FoldScores | None,
    held_out: Sequence[HeldOut],
    output: PredictedFolder | None,
    upright: Mapping[str, bool],
) -> list[Path]:
    """Write report.json and report.html into output_dir and return their paths.

    upright: whether labeled (by path) and unlabeled images (by stem) are turned as their EXIF orientations say.
    """
    folder, names = Path(config.output_dir), record["data"]["classes"]
    record = {**record, "options": config.to_json(), "versions": library_versions()}
    sections: list[Section] = []
    if scores is not None:
        sections += [scores_section(record["scores"]), uncertainty_section(record, scores.reliability.rows())]
        groups = [
            (
                thumbnail(each.path, each.label.shape, upright=upright.get(each.path, True)),
                each.label,
                each.predicted,
                heat(each.uncertainty, brightest([other.uncertainty for other in held_out])),
            )
            for each in held_out
        ]
        sections.append(held_out_section(groups, [f"{each.stem} ({each.score:.3f})" for each in held_out]))
    if record["test"] is not None:
        sections.append(test_section(record["test"]))
    if output is not None:
        sections.append(unlabeled_section(record["unlabeled"], _next_tiles(record, output, upright)))
    data = record["data"]
    sections.append(settings_section(record["options"], data, record["versions"]))
    page = render_report(
        title=f"Segmentation from few labels: {Path(data['data_dir'] or data['image_dir']).name}",
        verdict=fold_verdict(record["scores"]),
        facts=_facts(record),
        warnings=record["warnings"],
        sections=sections,
        footer=f"isdm {record['versions']['isdm']}, torch {record['versions']['torch']}; report.json has all numbers",
        draw=partial(draw_sheet, class_names=names),
    )
    write_text(folder / REPORT, json.dumps(record, indent=2) + "\n")
    write_text(folder / PAGE, page)
    return [folder / PAGE, folder / REPORT]


def report_warnings(scores: FoldScores | None, record: Mapping[str, Any]) -> list[str]:
    """Return what the reader of the scores, and the user of the masks, should know first."""
    lines = []
    if scores is not None:
        lines += few_groups_warning(record["scores"]["difference"]["groups"], len(scores.counts), "labeled")
        once = [name for name, images in record["scores"]["images_with"].items() if images == 1]
        if once:
            lines.append(f"in one labeled image alone, so held out without ever being seen: {', '.join(once)}")
        missed = [name for name in record["scores"]["weak"] if name not in once]
        if missed and record.get("unlabeled") is not None:
            lines.append(
                f"hardly found in held-out images: {', '.join(missed)}. Where the new masks miss them, they say "
                "another class, often with certainty: label more of them before a model learns from these pairs"
            )
        if record["scores"]["difference"]["mean"] is not None and record["scores"]["difference"]["kind"] == "hurts":
            lines.append("the values of the pixel alone are better than the features: try other blocks or steps")
    unlabeled = record.get("unlabeled")
    if unlabeled is not None and unlabeled["ignored"] is not None and unlabeled["ignored"] > 0.5:
        lines.append("more than half of the pixels of the new masks are ignored: label more, or raise ignore_above")
    return lines


def _next_tiles(
    record: Mapping[str, Any], output: PredictedFolder, upright: Mapping[str, bool]
) -> list[tuple[NDArray[np.integer], ...]]:
    lines = PredictedLine.read(output.manifest)
    shown = [lines[each["stem"]] for each in record["unlabeled"]["next"][:SHOWN_NEXT]]
    uncertainty = [small(output.uncertainty(line)) for line in shown]
    top = brightest(uncertainty)
    tiles = []
    for line, each in zip(shown, uncertainty, strict=True):
        label = small(output.label(line))
        image = thumbnail(line.pseudo.image, label.shape, upright=upright.get(line.stem, True))
        tiles.append((image, label, heat(each, top)))
    return tiles


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    data = record["data"]
    facts = [("Labeled images", str(data["labeled"])), ("Classes", ", ".join(data["classes"]))]
    facts.append(("Features", f"{data['features']} of {data['extractor']}"))
    if record.get("unlabeled") is not None:
        facts.append(("New pairs", f"{record['unlabeled']['pairs']} of {record['unlabeled']['images']} images"))
    return facts
