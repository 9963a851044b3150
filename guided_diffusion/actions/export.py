"""`export`: the weights of a run, or a dataset, for other tools, and to the Hugging Face Hub."""

from __future__ import annotations

from guided_diffusion.config.export import ExportConfig
from guided_diffusion.pipelines.dataset_export import (
    RECORD,
    export_dataset,
    exported_before,
    planned_export,
    pushed_files,
)
from guided_diffusion.pipelines.weights_export import export_weights, planned_weights
from guided_diffusion.runtime.card_file import DATASET_CARD
from guided_diffusion.runtime.hub_push import PushTarget, check_push, push
from guided_diffusion.runtime.units import counted

_SHOWN = 3  # files that are named, at most


def run(config: ExportConfig) -> int:
    """Write a dataset in `config.format`, or weights where there is none; push them where `push_to` names a place."""
    target = None
    if config.push_to:
        target = PushTarget(config.push_to, "model" if config.format is None else "dataset", config.push_private)
        check_push(target)
    if config.format is None:
        _export_weights(config, target)
    else:
        _export_dataset(config, target)
    return 0


def plan(config: ExportConfig) -> list[str]:
    """Return what would be exported and uploaded; the hub is not asked. UserError where an export could not begin."""
    lines = planned_weights(config) if config.format is None else planned_export(config)
    if not config.push_to:
        return [*lines, "nothing is uploaded"]
    what = "the weights, their record" if config.format is None else "all exported files"
    seen = "private" if config.push_private else "public"
    return [*lines, f"{what} and the card would go to {config.push_to} of the Hugging Face Hub, {seen} if it is new"]


def _export_weights(config: ExportConfig, target: PushTarget | None) -> None:
    exported = export_weights(config)
    print("\n".join(exported.lines(config.weights.weights)))
    if target is not None:
        files = {path.name: path for path in (exported.weights, exported.record)}
        print("\n".join(push(target, files, exported.card, f"Weights {exported.weights.name} of isdm")))


def _export_dataset(config: ExportConfig, target: PushTarget | None) -> None:
    folder = exported_before(config) if target is not None else None
    if folder is None:
        exported = export_dataset(config)
        folder = exported.folder
        print("\n".join(exported.lines()))
        for path in (folder, folder / RECORD, folder / DATASET_CARD):
            print(f"  {path}")
    else:
        print(f"{folder} was exported already")
    if target is not None:
        files, others = pushed_files(folder)
        if others:
            shown = ", ".join([*others[:_SHOWN], *(["..."] if others[_SHOWN:] else [])])
            found = f"{counted(len(others), 'file')} of {folder} that `export` did not write"
            print(f"note: {found} will not be uploaded: {shown}")
        print("\n".join(push(target, files, folder / DATASET_CARD, f"Dataset in the format {config.format} of isdm")))
