"""From JSON and `--set` to the checked configuration of an action."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from guided_diffusion.config.check import CheckConfig
from guided_diffusion.config.demo import DemoConfig
from guided_diffusion.config.doctor import DoctorConfig
from guided_diffusion.config.evaluate import EvaluateConfig
from guided_diffusion.config.export import ExportConfig
from guided_diffusion.config.finetune import FinetuneConfig
from guided_diffusion.config.generate import GenerateConfig
from guided_diffusion.config.import_dataset import ImportConfig
from guided_diffusion.config.masks import MasksConfig
from guided_diffusion.config.paste import PasteConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.config.segment import SegmentConfig
from guided_diffusion.config.shipped import found_config
from guided_diffusion.config.studio import StudioConfig
from guided_diffusion.config.study import StudyConfig
from guided_diffusion.config.train import TrainConfig
from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.files import is_endless
from guided_diffusion.runtime.near_names import suggestion
from guided_diffusion.runtime.option_help import expected, is_choice
from guided_diffusion.runtime.options import ActionConfig, FlatConfig, is_text
from guided_diffusion.runtime.strict_json import parse_json, strict_json

Config = TypeVar("Config", bound=FlatConfig)

BASE = "base"
"""The key of a config file that names the file whose keys it takes over."""

ACTIONS: dict[str, type[ActionConfig]] = {
    "train": TrainConfig,
    "finetune": FinetuneConfig,
    "sample": SampleConfig,
    "place": PlaceConfig,
    "paste": PasteConfig,
    "masks": MasksConfig,
    "segment": SegmentConfig,
    "generate": GenerateConfig,
    "import": ImportConfig,
    "check": CheckConfig,
    "evaluate": EvaluateConfig,
    "study": StudyConfig,
    "studio": StudioConfig,
    "demo": DemoConfig,
    "export": ExportConfig,
    "doctor": DoctorConfig,
}


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in `path`, its "$schema" included.

    Raises ConfigError where there is no such file, no JSON object, or a key given twice.
    """
    if not str(path).strip():
        raise ConfigError("-c: the name of the config file is empty: give one, or leave -c out")
    path = found_config(Path(os.path.expanduser(path)))
    if is_endless(path):
        raise ConfigError(f"{path}: a pipe or device, not a config file: give a file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8: -c takes a JSON config") from None
    except OSError as error:
        beside = sorted(p.name for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, 8) or beside[:8]
        more = f" and {len(beside) - len(near)} more" if len(beside) > len(near) else ""
        hint = f"; in that folder: {', '.join(near)}{more}" if beside else ""
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
        if mistakes and text[:1] in ("[", "{") and '"' not in text and key in fields and not is_text(fields[key]):
            # Windows PowerShell takes them away within single quotes, too.
            line = f"--set {assignment}: not valid JSON, perhaps as the shell took its double quotes away"
            raise ConfigError.of_keys((key, f'{line}: write \\" for each, or give {key} in the config file'))
        number_as_text = type(value) in (int, float) and key in fields and is_text(fields[key])
        values[key] = text if mistakes or number_as_text else value
    return values


def take_keys(action: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the keys of a config file that `action` uses, and one line on those it leaves aside, "" for none.

    The file may be another action's: its "$schema" says so, or only that action has all of its keys. Then keys of the
    same name and another meaning (`output_dir`) are left aside, too. Keys of no action stay, and are errors later.
    """
    kind = ACTIONS[action]
    named = Path(str(values.get("$schema", ""))).stem
    values = {kind.former_keys().get(key, key): value for key, value in values.items() if key != "$schema"}
    others = {name: other for name, other in ACTIONS.items() if name != action}
    foreign = {key for key in values.keys() - kind.fields() if any(key in o.fields() for o in others.values())}
    complete = [name for name, other in others.items() if foreign and values.keys() <= other.fields().keys()]
    source = named if named in ACTIONS else next(iter(complete), action)
    shared = kind.fields().keys() & ACTIONS[source].fields()
    renamed = {key for key in shared if kind.declared_in(key) is not ACTIONS[source].declared_in(key)}
    aside = [key for key in values if key in foreign | renamed]
    if not aside:
        return values, ""
    owners = [source] if source != action else [name for name, o in others.items() if foreign & o.fields().keys()]
    line = f"{action} leaves aside {len(aside)} keys of {', '.join(owners)}: {', '.join(aside)}"
    return {key: value for key, value in values.items() if key not in aside}, line


def read_keys(action: str, path: str | Path) -> tuple[dict[str, Any], str]:
    """Return the keys of a config file that `action` uses, those of its `base` included, and the line of `take_keys`.

    base: another config file, relative to this one; this one's keys count. Raises ConfigError if it has one itself.
    """
    values = read_config_file(path)
    if BASE not in values:
        return take_keys(action, values)
    name = values.pop(BASE)
    if not isinstance(name, str) or not name.strip():
        found = json.dumps(name, ensure_ascii=False)
        raise ConfigError.of_keys((BASE, f"{path}: {BASE} is {found}: give the name of another config file"))
    file = found_config(Path(os.path.expanduser(path))).parent / os.path.expanduser(name)
    try:
        below = read_config_file(file)
    except ConfigError as error:
        raise ConfigError.of_keys(*((BASE, f"{path}: {BASE}: {line}") for line in error.messages)) from error
    if BASE in below:
        line = f"{path}: {BASE} is {name}, which has a {BASE} itself: copy the keys of one of them"
        raise ConfigError.of_keys((BASE, line))
    # Each file is taken for what it is: keys of one name may have another meaning in another action's file.
    (kept, _), (own, aside) = take_keys(action, below), take_keys(action, values)
    return {**kept, **own}, aside


def load_config(action: str, values: Mapping[str, Any]) -> Any:
    """Return the checked configuration of `action`; see `read_config`."""
    return read_config(ACTIONS[action], values)


def read_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Return `values` as a checked configuration of that kind, every published spelling resolved.

    Raises ConfigError with one line for each unknown key, wrong type and contradiction, all in one go.
    """
    former = kind.former_keys()
    problems = [
        (key, f"{key} is now called {former[key]}, and both are given: keep {former[key]}")
        for key in values
        if former.get(key) in values
    ]
    values = {former.get(key, key): value for key, value in values.items()}
    known = {key: value for key, value in values.items() if key in kind.fields()}
    problems += [(key, _unknown(kind, key)) for key in values if key not in known]
    try:
        config = kind.from_flat(known)
    except ValidationError as error:
        places = [detail["loc"] for detail in error.errors(include_url=False)]
        wrong = {str(place[1] if place[0] in kind.groups() else place[0]) for place in places}
        problems += [
            (key, _wrong_value(kind.fields()[key], key, value)) for key, value in known.items() if key in wrong
        ]
        # The other keys are still checked against each other, so that everything is reported at once.
        config = kind.from_flat({key: value for key, value in known.items() if key not in wrong})
    reported = {key for key, _ in problems}
    problems += [(key, line) for key, line in config.check_all() if key not in reported]
    if problems:
        first = dict(reversed(problems))  # one line a key
        raise ConfigError.of_keys(*((key, first[key]) for key in dict(problems)))
    return config.resolve()


def _unknown(kind: type[FlatConfig], key: str) -> str:
    """Return one line for a key that `kind`, an action's configuration or that of a Python call, does not have."""
    action = next((name for name, other in ACTIONS.items() if other is kind), None)
    elsewhere = [name for name, other in ACTIONS.items() if key in other.fields()]
    if action and elsewhere:
        hint = f"it belongs to {', '.join(elsewhere)}: leave it out"
    else:
        hint = "leave it out" + (f"; `main.py {action} --help` lists the keys" if action else "")
    hint = suggestion(key, kind.fields(), hint)
    return f"{key if key.strip() else repr(key)} is not {f'a key of {action}' if action else 'an option here'}: {hint}"


def _wrong_value(field: FieldInfo, key: str, value: Any) -> str:
    """Return one line for a value that pydantic refuses: the key, what was found, what is expected."""
    line = f"{key} is {json.dumps(value, ensure_ascii=False, default=str)}: expected {expected(field)}"
    has_example = field.default not in ("", None) and not is_choice(field)
    return line + (f", such as {json.dumps(field.default)}" if has_example else "")
