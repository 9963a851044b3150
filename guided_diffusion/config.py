"""One configuration type per action, composed from the option groups; JSON in, resolved JSON out."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ValidationError, create_model

from guided_diffusion.architecture import (
    architecture_problems,
    attention_factors,
    default_channel_mult,
    height_width,
)
from guided_diffusion.errors import ConfigError
from guided_diffusion.evaluation_options import QualityOptions, SegmenterOptions, StudyOptions, ViewOptions
from guided_diffusion.label_options import EtaOptions, LabelDiffusionOptions, SampledLabelOptions
from guided_diffusion.option_text import expected
from guided_diffusion.options import (
    ActionConfig,
    AugmentOptions,
    DiffusionOptions,
    GeometryOptions,
    LoaderOptions,
    ModelOptions,
    OptimizerOptions,
    OptionGroup,
    PrecisionOptions,
    Problem,
    RunOptions,
    SamplerOptions,
    SourceOptions,
    option,
)


def _left_to_checkpoint(group: type[OptionGroup]) -> type[OptionGroup]:
    """Return a variant of `group` in which every key is null by default, which means: as in the checkpoint."""
    fields = {}
    for name, field in group.model_fields.items():
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        fields[name] = (kind | None, option(None, f"{field.description}; null: as in the checkpoint"))
    return create_model(f"{group.__name__}FromCheckpoint", __base__=group, **fields)


GeometryFromCheckpoint = _left_to_checkpoint(GeometryOptions)
ModelFromCheckpoint = _left_to_checkpoint(ModelOptions)
DiffusionFromCheckpoint = _left_to_checkpoint(DiffusionOptions)
LabelDiffusionFromCheckpoint = _left_to_checkpoint(LabelDiffusionOptions)
EtaFromCheckpoint = _left_to_checkpoint(EtaOptions)


class ArchitectureChecks(OptionGroup):
    """Contradictions between the image size and the network, for actions that build one."""

    def contradictions(self) -> Iterator[Problem]:
        keys = ("num_channels", "num_res_blocks", "num_heads", "num_heads_upsample", "num_head_channels")
        sizes = {key: getattr(self, key) for key in keys}
        if self.image_size is not None and None not in sizes.values():
            for line in architecture_problems(
                image_size=self.image_size,
                channel_mult=self.channel_mult,
                attention_resolutions=self.attention_resolutions,
                **sizes,
            ):
                yield (line.partition(" ")[0], line)


class TrainConfig(
    RunOptions,
    PrecisionOptions,
    OptimizerOptions,
    LabelDiffusionOptions,
    EtaOptions,
    DiffusionOptions,
    ModelOptions,
    LoaderOptions,
    AugmentOptions,
    GeometryOptions,
    SourceOptions,
    ArchitectureChecks,
    ActionConfig,
):
    """Keys of `train`."""

    required: ClassVar = ("data_dir", "dataset_mode", "output_dir")
    summary: ClassVar = "train a semantic diffusion model on a folder of images and masks"

    resume_checkpoint: str = option(
        "auto", 'checkpoint file or run folder to go on from; "auto": this run where it stopped; "": from scratch only'
    )

    def settle(self) -> None:
        """Spell out what follows from the image size, so that a checkpoint says it."""
        short = min(height_width(self.image_size))
        self.channel_mult = tuple(self.channel_mult or default_channel_mult(short))
        if self.attention_resolutions is None:
            self.attention_resolutions = tuple(short // f for f in attention_factors(short, self.channel_mult, None))


class FinetuneConfig(
    RunOptions,
    PrecisionOptions,
    OptimizerOptions,
    LabelDiffusionFromCheckpoint,
    EtaFromCheckpoint,
    DiffusionFromCheckpoint,
    ModelFromCheckpoint,
    LoaderOptions,
    AugmentOptions,
    GeometryFromCheckpoint,
    SourceOptions,
    ArchitectureChecks,
    ActionConfig,
):
    """Keys of `finetune`."""

    required: ClassVar = ("data_dir", "resume_checkpoint", "output_dir")
    summary: ClassVar = "train on with dropped masks, so that sampling can be guided (s above 1)"

    resume_checkpoint: str = option("", "checkpoint file or run folder of the trained model")
    drop_rate: float = option(0.2, OptimizerOptions.model_fields["drop_rate"].description, ge=0, le=1)
    lr: float = option(2e-5, OptimizerOptions.model_fields["lr"].description, gt=0)
    max_epochs: int = option(100, OptimizerOptions.model_fields["max_epochs"].description, ge=1)


class SampleConfig(
    PrecisionOptions,
    SamplerOptions,
    SampledLabelOptions,
    LabelDiffusionFromCheckpoint,
    DiffusionFromCheckpoint,
    ModelFromCheckpoint,
    GeometryFromCheckpoint,
    SourceOptions,
    ArchitectureChecks,
    ActionConfig,
):
    """Keys of `sample`."""

    required: ClassVar = ("model_path", "results_path")
    summary: ClassVar = "write synthetic image/mask pairs in the layout of the real dataset"

    model_path: str = option("", "checkpoint file, run folder, or published weights (.pt, .safetensors)")
    weights: str = option("ema", 'which weights: ema, raw, or one of several EMA rates such as "0.999"')
    mask_dir: str = option("", "folder of masks alone, in place of data_dir")
    data_split: Literal["train", "test"] = option("test", "split of data_dir whose masks are used")
    results_path: str = option("", "folder for images/, masks/, manifest.jsonl and contact_sheet.png")
    split: str = option("", "write into this sub-folder, such as train, so that results_path is itself a data_dir")
    num_samples: int | None = option(None, "pairs to write, masks are used in turn; null: one for each mask", ge=1)
    augment_masks: bool = option(False, "flip and turn the masks at random from their second use on")
    batch_size: int = option(8, "images made at a time", ge=1)
    seed: int = option(0, "seed of the samples", ge=0, lt=2**63)

    def contradictions(self) -> Iterator[Problem]:
        if bool(self.data_dir) == bool(self.mask_dir):
            found = "both are given" if self.data_dir else "neither is given"
            yield ("data_dir", f"data_dir and mask_dir say where the masks come from, and {found}: give one of them")
        if self.split and (Path(self.split).name != self.split or self.split in (".", "..")):
            yield ("split", f"split is {self.split!r}: it must be a plain folder name, such as train")


class CheckConfig(GeometryOptions, SourceOptions, EtaOptions, ActionConfig):
    """Keys of `check`."""

    required: ClassVar = ("data_dir", "dataset_mode", "output_dir")
    summary: ClassVar = "scan a dataset: every pair, class shares, problems, a preview picture"

    batch_size: int = option(8, "images a training step will take", ge=1)
    output_dir: str = option("runs/check", "folder for the preview pictures and the report")
    preview_images: int = option(12, "pairs in a preview picture, 0: no picture", ge=0, le=200)


class EvaluateConfig(SegmenterOptions, QualityOptions, StudyOptions, ViewOptions, SourceOptions, ActionConfig):
    """Keys of `evaluate`."""

    required: ClassVar = ("data_dir", "synthetic_dir", "output_dir")
    summary: ClassVar = "measure the samples, and whether they make a segmentation model better; writes a report"

    synthetic_dir: str = option("", "samples to judge: results_path of sample, or any folder with images/ and masks/")
    output_dir: str = option("", "folder for report.html, report.json and the results of the study")
    dataset_mode: str = option("", f"{SourceOptions.model_fields['dataset_mode'].description}; empty: as the samples")
    device: str = option("auto", PrecisionOptions.model_fields["device"].description)


class DemoConfig(ActionConfig):
    """Keys of `demo`."""

    required: ClassVar = ("output_dir",)
    summary: ClassVar = "the whole journey on a built-in dataset of lemons, in minutes on a CPU"

    output_dir: str = option("runs/demo", "folder for the dataset, the runs and the picture")
    seed: int = option(0, "seed of the dataset and of everything random", ge=0, lt=2**63)
    max_epochs: int | None = option(None, "epochs of training; null: as measured to fit the quick start", ge=1)
    device: str = option("auto", PrecisionOptions.model_fields["device"].description)


class ExportConfig(ActionConfig):
    """Keys of `export`."""

    required: ClassVar = ("model_path", "export_path")
    summary: ClassVar = "write the weights of a run as bare .pt or .safetensors"

    model_path: str = option("", "checkpoint file or run folder")
    export_path: str = option("", "file to write, ending in .pt or .safetensors")
    weights: str = option("ema", 'which weights: ema, raw, or one of several EMA rates such as "0.999"')

    def contradictions(self) -> Iterator[Problem]:
        if self.export_path and Path(self.export_path).suffix not in (".pt", ".safetensors"):
            yield ("export_path", f"export_path is {self.export_path!r}: it must end in .pt or .safetensors")


ACTIONS: dict[str, type[ActionConfig]] = {
    "train": TrainConfig,
    "finetune": FinetuneConfig,
    "sample": SampleConfig,
    "check": CheckConfig,
    "evaluate": EvaluateConfig,
    "demo": DemoConfig,
    "export": ExportConfig,
}


# --- reading -----------------------------------------------------------------------------------------------------


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in `path`.

    Raises ConfigError where there is no such file, no JSON object, or a key given twice.
    """

    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise ConfigError(f"{path}: key {key!r} is given twice: keep one of them")
            values[key] = value
        return values

    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8: -c takes a JSON config") from None
    except OSError as error:
        beside = sorted(p.name for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
        hint = f"; in that folder: {', '.join(beside[:8])}" if beside else ""
        raise ConfigError(f"{path}: config file cannot be read ({error.strerror}){hint}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found a JSON {type(values).__name__}, expected an object of keys and values")
    values.pop("$schema", None)
    return values


def parse_overrides(assignments: Sequence[str]) -> dict[str, Any]:
    """Return the keys and values of `--set key=value` arguments; a value that is no JSON is a string."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment}: expected key=value, such as --set batch_size=4")
        try:
            values[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[key.strip()] = text
    return values


def load_config(action: str, values: Mapping[str, Any]) -> Any:
    """Return the checked configuration of `action`, every published spelling resolved.

    Raises ConfigError with one line for each unknown key, wrong type and contradiction, all found in one go.
    """
    kind = ACTIONS[action]
    found: list[Problem] = []
    try:
        config = kind.model_validate(dict(values))
    except ValidationError as error:
        details = {str(detail["loc"][0]): detail for detail in reversed(error.errors(include_url=False))}
        found = [(key, _explain(action, key, detail, values)) for key, detail in reversed(details.items())]
        # The keys that can be read are still held against each other, so that everything is reported at once.
        config = kind.model_validate({key: value for key, value in values.items() if key not in details})
    bad = {key for key, _ in found}
    found += [(key, message) for key, message in config.problems() if key not in bad]
    if found:
        raise ConfigError([message for _, message in found])
    config.spell_out()
    return config


def _explain(action: str, key: str, detail: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return one line for a pydantic error: the key, what was found, the way out."""
    fields = ACTIONS[action].model_fields
    if detail["type"] == "extra_forbidden":
        elsewhere = [name for name, other in ACTIONS.items() if key in other.model_fields]
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif elsewhere:
            hint = f"it belongs to {', '.join(elsewhere)}: leave it out"
        else:
            hint = f"leave it out; `main.py {action} --help` lists the keys"
        return f"{key} is not a key of {action}: {hint}"
    found = json.dumps(values[key], ensure_ascii=False, default=str)
    wanted = expected(fields[key])
    example = (
        ""
        if fields[key].default in ("", None) or wanted.startswith("one of")
        else (f", such as {json.dumps(fields[key].default)}")
    )
    return f"{key} is {found}: expected {wanted}{example}"


def differing_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """Return key -> "key (value here, value there)" for those of `keys` that two resolved configurations set apart."""
    return {
        key: f"{key} ({json.dumps(ours[key])} here, {json.dumps(theirs[key])} there)"
        for key in keys
        if key in ours and key in theirs and ours[key] != theirs[key]
    }
