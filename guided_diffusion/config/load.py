"""From JSON and `--set` to the checked configuration of an action."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.demo import DemoConfig
from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.config.export import ExportConfig
from guided_diffusion.config.finetune import FinetuneConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.option_help import expected, is_choice
from guided_diffusion.runtime.options import ActionConfig, FlatConfig, is_text
from guided_diffusion.runtime.strict_json import parse_json, strict_json

Config = TypeVar("Config", bound=FlatConfig)

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
    """Return the JSON object in `path`, its "$schema" included.

    Raises ConfigError where there is no such file, no JSON object, or a key given twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8: -c takes a JSON config") from None
    except OSError as error:
        beside = sorted(p.name for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
        hint = f"; in that folder: {', '.join(beside[:8])}" if beside else ""
        raise ConfigError(f"{path}: config file cannot be read ({error.strerror}){hint}") from None
    values = strict_json(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: found a JSON {type(values).__name__}, expected an object of keys and values")
    return values


def parse_overrides(assignments: Sequence[str], kind: type[FlatConfig] = FlatConfig) -> dict[str, Any]:
    """Return the keys and values of `--set key=value` arguments; a value that is no JSON is a string.

    kind: the configuration they are for: a number given for one of its text keys keeps its digits (`007`, `1e5`).
    """
    fields = kind.fields()
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment}: expected key=value, such as --set batch_size=4")
        key = key.strip()
        value, mistakes = parse_json(text)
        number_as_text = type(value) in (int, float) and key in fields and is_text(fields[key])
        values[key] = text if mistakes or number_as_text else value
    return values


def take_keys(action: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the keys of a config file that `action` uses, and one line on those it leaves aside, "" for none.

    The file may be another action's, by its "$schema" or because only that action has all of its keys. Then keys of
    the same name and another meaning (`output_dir`) are left aside, too. Keys of no action stay, and are errors.
    """
    values = dict(values)
    schema = str(values.pop("$schema", ""))
    kind = ACTIONS[action]
    values = {kind.former_keys().get(key, key): value for key, value in values.items()}
    others = {name: other for name, other in ACTIONS.items() if name != action}
    foreign = [key for key in values if key not in kind.fields() and any(key in o.fields() for o in others.values())]
    whole = [name for name, other in others.items() if foreign and values.keys() <= other.fields().keys()]
    source = next((name for name in ACTIONS if Path(schema).stem == name), whole[0] if whole else action)
    other = ACTIONS[source]
    renamed = [key for key in values if key in kind.fields() and key in other.fields() and not _same(key, kind, other)]
    aside = [key for key in values if key in foreign or key in renamed]
    if not aside:
        return values, ""
    owners = (
        [source] if source != action else [n for n, o in others.items() if any(key in o.fields() for key in foreign)]
    )
    line = f"{action} leaves aside {len(aside)} keys of {', '.join(owners)}: {', '.join(aside)}"
    return {key: value for key, value in values.items() if key not in aside}, line


def _same(key: str, kind: type[ActionConfig], other: type[ActionConfig]) -> bool:
    """Return whether `key` has the same meaning in two configurations: whether one declaration stands behind both."""
    return kind.declared_in(key) is other.declared_in(key)


def load_config(action: str, values: Mapping[str, Any]) -> Any:
    """Return the checked configuration of `action`, every published spelling resolved.

    Raises ConfigError with one line for each unknown key, wrong type and contradiction, all found in one go.
    """
    return read_config(ACTIONS[action], values, unknown=partial(_unknown, action))


def read_config(
    kind: type[Config], values: Mapping[str, Any], *, unknown: Callable[[str], str] | None = None
) -> Config:
    """Return `values` as a checked configuration of that kind, every published spelling resolved.

    unknown: what is said of a key that it does not have. Raises ConfigError as `load_config` does.
    """
    explain_unknown = unknown or partial(_unknown_keyword, kind)
    former = kind.former_keys()
    found = [
        (key, f"{key} is now called {former[key]}, and both are given: keep {former[key]}")
        for key in values
        if former.get(key) in values
    ]
    values = {former.get(key, key): value for key, value in values.items()}
    found += [(key, explain_unknown(key)) for key in values if key not in kind.fields()]
    known = {key: value for key, value in values.items() if key in kind.fields()}
    try:
        config = kind.from_flat(known)
    except ValidationError as error:
        details = {_key_of(detail, kind): detail for detail in reversed(error.errors(include_url=False))}
        found += [(key, _misfit(kind, key, values[key])) for key in known if key in details]
        # The keys that can be read are still held against each other, so that everything is reported at once.
        config = kind.from_flat({key: value for key, value in known.items() if key not in details})
    bad = {key for key, _ in found}
    found += [(key, message) for key, message in config.check_all() if key not in bad]
    if found:
        raise ConfigError([message for _, message in found])
    return config.resolve()


def _key_of(detail: Mapping[str, Any], kind: type[FlatConfig]) -> str:
    """Return the key that a pydantic error is about: below the name of its group, if it has one."""
    return str(detail["loc"][1] if detail["loc"][0] in kind.groups() and len(detail["loc"]) > 1 else detail["loc"][0])


def _unknown_keyword(kind: type[FlatConfig], key: str) -> str:
    near = difflib.get_close_matches(key, kind.fields(), n=1, cutoff=0.6)
    return f"{key} is not an option here: " + (f"did you mean {near[0]!r}?" if near else "leave it out")


def _unknown(action: str, key: str) -> str:
    elsewhere = [name for name, other in ACTIONS.items() if key in other.fields()]
    near = difflib.get_close_matches(key, ACTIONS[action].fields(), n=1, cutoff=0.6)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif elsewhere:
        hint = f"it belongs to {', '.join(elsewhere)}: leave it out"
    else:
        hint = f"leave it out; `main.py {action} --help` lists the keys"
    return f"{key} is not a key of {action}: {hint}"


def _misfit(kind: type[FlatConfig], key: str, value: Any) -> str:
    """Return one line for a value that pydantic refuses: the key, what was found, what is expected."""
    field = kind.fields()[key]
    found, wanted = json.dumps(value, ensure_ascii=False, default=str), expected(field)
    has_example = field.default not in ("", None) and not is_choice(field)
    return f"{key} is {found}: expected {wanted}" + (f", such as {json.dumps(field.default)}" if has_example else "")
