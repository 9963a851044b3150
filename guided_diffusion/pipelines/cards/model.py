"""`model_card.md`: what exported weights are, what they were trained on, and how to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guided_diffusion import __version__
from guided_diffusion.pipelines.build import options_of_checkpoint
from guided_diffusion.pipelines.evaluation.card import evaluated_regions
from guided_diffusion.pipelines.load import encoding_of_checkpoint
from guided_diffusion.pipelines.training_source import source_text, training_source
from guided_diffusion.runtime.card_file import MODEL_CARD, Region, plain, read_card, regions_of, write_card
from guided_diffusion.runtime.checkpoint import Checkpoint, record_path
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.units import counted
from guided_diffusion.samples.dataset_card import EVALUATION, LICENSE, LIMITS, settings_rows, table

_REPORT = "report.json"
NOT_EVALUATED = (
    "Not evaluated: `evaluate` measures samples of a model, and whether they make a segmentation model better. Give "
    "its `output_dir` to `export` as `evaluate_dir`, and the verdict is here."
)
_KINDS = {
    "mask": "draws images that follow a label map",
    "boxes": "draws images from classes and boxes, and predicts their masks",
    "none": "draws images without a condition",
}
_SHOWN = (
    "image_size",
    "image_channels",
    "resize",
    "scale",
    "prediction",
    "noise_schedule",
    "diffusion_steps",
    "latent",
)
_LIMITS = (
    "It knows nothing but its training images: other parts, cameras, light and classes need a training of their own.",
    "Trained on few images, it may reproduce them. Treat it as confidential as these.",
    "Nobody judged for which uses its images are good enough; they are meant as training data, not as evidence of "
    "anything.",
)


def card_path(weights: Path) -> Path:
    """Return where the card of a file of weights goes: where that of another file has the name, one of its own."""
    path = weights.with_name(MODEL_CARD)
    there = read_card(path)
    return path if there is None or _of_file(weights) in there else weights.with_name(f"{weights.name}.{MODEL_CARD}")


def _of_file(weights: Path) -> str:
    return f"| file | {plain(weights.name)},"


def evaluation_of(evaluate_dir: str, checkpoint: str, card: Path) -> dict[str, Region]:
    """Return what `evaluate` said of samples of the checkpoint with this digest; without, what the card says of it.

    Raises ConfigError for a folder without a report, and for samples of another checkpoint.
    """
    if not evaluate_dir:
        regions = {EVALUATION: Region(f"{NOT_EVALUATED}\n"), LIMITS: Region("")}
        before = regions_of(read_card(card) or "")
        # Weights that are exported anew keep what was said of them.
        return {**regions, **before} if before.get(EVALUATION, Region("")).state == checkpoint else regions
    path = Path(evaluate_dir) / _REPORT
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        made_by = record["data"]["checkpoint"]
        regions = evaluated_regions(record, (), checkpoint)
    except OSError as error:
        line = (
            f"evaluate_dir is {evaluate_dir}, whose {_REPORT} cannot be read ({error.strerror}): give the output_dir "
        )
        raise ConfigError.of_keys(("evaluate_dir", f"{line}of evaluate")) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        line = f"evaluate_dir is {evaluate_dir}, whose {_REPORT} is none of evaluate, or damaged: give its output_dir"
        raise ConfigError.of_keys(("evaluate_dir", line)) from None
    if made_by != checkpoint:
        line = (
            f"evaluate_dir is {evaluate_dir}, whose samples another checkpoint made ({made_by}, this is {checkpoint})"
        )
        raise ConfigError.of_keys(("evaluate_dir", f"{line}: give an evaluation of samples of these weights"))
    return regions


def write_model_card(
    path: Path,
    weights: Path,
    checkpoint: Checkpoint,
    record: Mapping[str, Any],
    regions: Mapping[str, Region],
) -> bool:
    """Write the card of exported weights and return True; False where a person has edited it.

    record: the JSON beside the weights. regions: see `evaluation_of`.
    """
    return write_card(path, _text(weights, checkpoint, record, regions), regions)


def _text(weights: Path, checkpoint: Checkpoint, record: Mapping[str, Any], regions: Mapping[str, Region]) -> str:
    from huggingface_hub import ModelCard, ModelCardData

    condition = "mask" if checkpoint.is_bare else options_of_checkpoint(checkpoint).model.condition
    source = training_source(checkpoint)
    title = f"Diffusion model of {plain(str(source['name']))}" if source.get("name") else "Diffusion model"
    data = ModelCardData(
        library_name="isdm",
        pipeline_tag="unconditional-image-generation" if condition == "none" else "image-to-image",
        tags=["isdm", "diffusion", "semantic-image-synthesis", "synthetic-data"],
    )
    sections = {
        "What it is": table("weights", _what_it_is(weights, checkpoint, record)),
        "Source": table("trained on", [("images", source_text(source)), *_lineage(checkpoint)]),
        "Classes": _classes(checkpoint),
        "How to use": _use(weights, condition),
    }
    body = [f"# {title}", "", f"{_kind(checkpoint, condition)} Exported by ISDM {__version__}."]
    for heading, lines in sections.items():
        if lines:
            body += ["", f"## {heading}", "", *lines]
    limits = "".join(f"- {line}\n" for line in _LIMITS)
    return str(
        ModelCard(
            f"---\n{data.to_yaml()}\n---\n\n"
            + "\n".join(body)
            + f"\n\n## Evaluation\n\n{regions[EVALUATION].text(EVALUATION)}"
            + f"\n## Limits\n\n{limits}\n{regions[LIMITS].text(LIMITS)}"
            + f"\n## License\n\n{LICENSE}\n"
        )
    )


def _kind(checkpoint: Checkpoint, condition: str) -> str:
    if checkpoint.is_bare:
        return "Weights of a diffusion model without the options that it was trained with."
    if checkpoint.generation:
        makes = checkpoint.config.get("generates")
        return f"A diffusion model that makes {'masks' if makes == 'mask' else 'masks together with their images'}."
    holes = " It fills holes in images: `place` paints defects with it." if checkpoint.config.get("inpaint") else ""
    return f"A diffusion model that {_KINDS.get(condition, _KINDS['mask'])}.{holes}"


def _what_it_is(weights: Path, checkpoint: Checkpoint, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("file", f"{plain(weights.name)}, digest {record['digest']}"),
        ("of the checkpoint", f"digest {record['checkpoint']}, weights {plain(str(record['weights']))}"),
        ("parameters", f"{record['parameters']:,}"),
    ]
    rows += settings_rows({key: checkpoint.config.get(key) for key in _SHOWN})
    done = checkpoint.progress
    if done:
        epochs, steps = counted(done.get("epoch", 0), "epoch"), counted(done.get("step", 0), "step")
        rows.append(("trained for", f"{epochs}, {steps}"))
    return rows


def _lineage(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    lineage, rows = checkpoint.lineage, []
    for key, words in (("started_from", "began with the weights of"), ("continued_from", "went on from")):
        if isinstance(lineage.get(key), dict):
            rows.append((words, f"a checkpoint with the digest {plain(str(lineage[key].get('digest')))}"))
    if lineage.get("saw_dropped_masks") is not None:
        seen = "yes, so `s` above 1 guides" if lineage["saw_dropped_masks"] else "no, so `s` has to stay 1"
        rows.append(("saw dropped masks", seen))
    return rows


def _classes(checkpoint: Checkpoint) -> list[str]:
    encoding = encoding_of_checkpoint(checkpoint)
    if encoding is None or not encoding.names:
        return []
    rows = [f"| {index} | {plain(name)} |" for index, name in enumerate(encoding.names)]
    return ["| number in label maps | class |", "|---|---|", *rows]


def _use(weights: Path, condition: str) -> list[str]:
    given = (
        "`NoCondition(...)`"
        if condition == "none"
        else "a `LayoutCondition`"
        if condition == "boxes"
        else ("label maps `[N, height, width]`, a class number for each pixel")
    )
    beside = [f"What `{weights.name}` cannot keep is in `{record_path(weights).name}`: keep it beside.", ""]
    return [
        *(beside if weights.suffix == ".pt" else []),
        f"`isdm sample --set model_path=...` draws a folder of samples. From Python, with {given}:",
        "",
        "```python",
        "from guided_diffusion import load_pipeline",
        "",
        f'pipeline = load_pipeline("{weights.name}")  # or "hf:user/repo", once it is on the hub',
        "print(pipeline.class_names, pipeline.image_shape)",
        "```",
    ]
