"""What `evaluate` writes into the card of the samples: its verdict, what it measured, and what it did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluations.metrics.base import Measurement
from guided_diffusion import __version__
from guided_diffusion.pipelines.evaluation.report import warnings_of
from guided_diffusion.pipelines.training_source import last_name
from guided_diffusion.runtime.card_file import DATASET_CARD, Region, plain, read_card, regions_of, with_regions
from guided_diffusion.runtime.errors import UserError
from guided_diffusion.runtime.files import write_text
from guided_diffusion.samples.dataset_card import EVALUATION, LIMITS, state_of
from guided_diffusion.samples.reader import SampleFolder

_PARTS = {
    "agreement": "whether a segmenter finds the masks in the images",
    "distances": "KID, FID, precision and recall",
    "diversity": "how much images of one mask differ (LPIPS)",
    "memorisation": "near-duplicates of training images",
}
"""Entries of report.json that every evaluation may have, and what they measure."""


def update_card(samples: SampleFolder, record: Mapping[str, Any], measured: Sequence[Measurement]) -> list[str]:
    """Write verdict and limits into the card of `samples`, where there is one; return the lines to print of it.

    record: that of report.json. A region that a person has edited stays.
    """
    path = samples.folder / DATASET_CARD
    before = read_card(path)
    if before is None:
        return []
    regions = evaluated_regions(record, measured, state_of(samples.lines.values()))
    if not regions.keys() & regions_of(before).keys():
        return [f"note: {path}: its evaluation was edited, so it is left as it is"]
    after = with_regions(before, regions)
    try:
        if after != before:
            write_text(path, after)
    except UserError as error:  # the folder may be read alone
        return [f"note: {line}; its card keeps what it says" for line in error.messages]
    return [f"  {path}, whose card has the verdict"]


def evaluated_regions(record: Mapping[str, Any], measured: Sequence[Measurement], state: str) -> dict[str, Region]:
    """Return both regions of the card of an evaluated folder; state: of its pairs."""
    data = record["data"]
    # Cards are published, so they name no place on the machine.
    places = sorted((data["synthetic_dir"], data["data_dir"], *data["other_dirs"].values()), key=len, reverse=True)

    def shown(line: str) -> str:
        for place in places:
            line = line.replace(f"{place}: ", "" if place == data["synthetic_dir"] else f"{last_name(place)}: ")
            line = line.replace(place, last_name(place))
        return plain(line)

    verdict = _verdict(record, [shown(line) for each in measured for line in each.findings])
    study = record["study"]
    found = [*(study["warnings"] if study else []), *data["warnings"], *warnings_of(measured)]
    limits = [*(f"`evaluate` warned: {shown(line)}" for line in dict.fromkeys(found)), *_not_measured(record)]
    return {
        EVALUATION: Region("".join(f"{line}\n" for line in verdict), state),
        LIMITS: Region("".join(f"- {line}\n" for line in limits), state),
    }


def _verdict(record: Mapping[str, Any], findings: Sequence[str]) -> list[str]:
    data, study, (height, width) = record["data"], record["study"], record["data"]["image_size"]
    training = data["images"].get("training")
    of = f"{training} training and {data['images']['test']}" if training else str(data["images"]["test"])
    lines = [
        f"Measured by `evaluate` of ISDM {__version__}: {data['images']['samples']} samples against "
        f"{of} test images of {plain(last_name(data['data_dir']))} (digest of the test images "
        f"{data['digests']['test']}), at {width} x {height} px.",
        "",
    ]
    if study is None:
        lines += ["**No verdict**: no segmentation models were compared.", ""]
    else:
        lines += [f"**{plain(study['headline'])}**", ""]
        for entry in study["architectures"].values():
            lines += [f"- {plain(entry[key]['line'])}" for key in ("verdict", "rivals") if entry.get(key)]
    return [*lines, *(f"- {line}" for line in findings)]


def _not_measured(record: Mapping[str, Any]) -> list[str]:
    lacking = [] if record["study"] is not None else ["whether a segmentation model becomes better with these pairs"]
    lacking += [what for key, what in _PARTS.items() if "skipped" in record.get(key, {"skipped": ""})]
    lines = [f"Not measured: {what}." for what in lacking]
    return [*lines, "Not judged: by people, and on images of other parts, cameras or places than the test images."]
