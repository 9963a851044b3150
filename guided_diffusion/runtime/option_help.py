"""Help on options: their values in words, rows for `--help`, the JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from guided_diffusion.runtime.options import FACTS, ActionConfig


def expected(field: FieldInfo) -> str:
    """Return in words which values `field` accepts."""
    return _in_words(_schema(field))


def is_choice(field: FieldInfo) -> bool:
    """Return whether `field` accepts one of several given values."""
    schema = _schema(field)
    return any("enum" in part for part in schema.get("anyOf", [schema]))


def _schema(field: FieldInfo) -> dict[str, Any]:
    probe = create_model("Probe", value=(Annotated[(field.annotation, *field.metadata, Field())], ...))
    return probe.model_json_schema()["properties"]["value"]


_WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
_LIMITS = {
    "minimum": "at least {:g}",
    "exclusiveMinimum": "above {:g}",
    "maximum": "at most {:g}",
    "exclusiveMaximum": "below {:g}",
    "multipleOf": "a multiple of {:g}",
}


def _in_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_in_words(part) for part in schema["anyOf"]))
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(choice) for choice in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if schema.get("type") == "null":
        return "null"
    if schema.get("type") == "array":
        return schema.get("description") or ("[height, width]" if schema.get("maxItems") == 2 else "a list")
    limits = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    return " ".join([_WORDS.get(schema.get("type", ""), "a value"), ", ".join(limits)]).strip()


def json_schema(kind: type[ActionConfig]) -> dict[str, Any]:
    """Return the JSON Schema of an action's config file, for editors and `main.py schema`."""
    properties: dict[str, Any] = {}
    for group in kind.groups().values():
        properties |= group.model_json_schema()["properties"]
    own = kind.model_json_schema()["properties"]
    properties |= {key: entry for key, entry in own.items() if key not in kind.groups()}
    for former, key in kind.former_keys().items():
        properties[former] = {**properties[key], "description": f"former name of {key}", "deprecated": True}
    for entry in properties.values():
        entry.pop("title", None)
        entry.pop(FACTS, None)
    properties["$schema"] = {"type": "string", "description": "the schema that editors check this file by"}
    properties["base"] = {
        "type": "string",
        "description": "another config file, relative to this one, whose keys count where this one has none",
    }
    # No key is required: keys can also come from --set, so a file that lacks one is no error in an editor.
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"isdm {kind.action()}",
        "description": kind.summary,
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


class KeyHelp(NamedTuple):
    """A row of `--help`."""

    key: str
    default: str
    meaning: str


def describe_options(kind: type[ActionConfig]) -> dict[str, list[KeyHelp]]:
    """Return the options of an action by the titles of their groups; first, under "", the action's own keys."""
    own = [key for key in kind.model_fields if key not in kind.groups()]
    keys = {"": own} if own else {}
    keys |= {group.title: list(group.model_fields) for group in kind.groups().values()}
    return {title: [_describe(kind, key) for key in keys[title]] for title in keys}


def describe_common(kind: type[ActionConfig]) -> list[KeyHelp]:
    """Return the `common` options of an action."""
    return [_describe(kind, key) for key in kind.common or kind.fields()]


def _describe(kind: type[ActionConfig], key: str) -> KeyHelp:
    field = kind.fields()[key]
    default = "required" if key in kind.required and field.default in ("", None) else json.dumps(field.default)
    choices = f" ({expected(field)})" if is_choice(field) else ""
    return KeyHelp(key, default, f"{field.description}{choices}")
