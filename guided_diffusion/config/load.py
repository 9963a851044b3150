"""From JSON and `--set` to the checked configuration of an action."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.demo import DemoConfig
from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.config.export import ExportConfig
from guided_diffusion.config.finetune import FinetuneConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.option_help import expected
from guided_diffusion.runtime.options import ActionConfig, Problem

ACTIONS: dict[str, type[ActionConfig]] = {
    "train": TrainConfig,
    "finetune": FinetuneConfig,
    "sample": SampleConfig,
    "check": CheckConfig,
    "evaluate": EvaluateConfig,
    "demo": DemoConfig,
    "export": ExportConfig,
}


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
