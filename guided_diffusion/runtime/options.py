"""What option groups are made of: typed keys with one line of meaning, and the base of every action's configuration.

A field's description is the one line that `--help`, the JSON Schema and the error messages show. Keys that the
published tools have keep their names and meanings, and both JSON lists and the published string spelling
("32,16,8") are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

Problem = tuple[str, str]  # the key concerned, and one line that says what is wrong and the way out


class OptionGroup(BaseModel):
    """Base of all groups: unknown keys and loose types are errors, and keys may contradict each other."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=False, allow_inf_nan=False)

    def problems(self) -> Iterator[Problem]:
        """Yield every contradiction between the keys of this configuration."""
        for base in type(self).__mro__:
            if "contradictions" in vars(base):
                yield from vars(base)["contradictions"](self)

    def spell_out(self) -> None:
        """Turn published spellings of a choice (`use_fp16`) into the key that makes it (`precision`)."""
        for base in type(self).__mro__:
            if "settle" in vars(base):
                vars(base)["settle"](self)


def _split(value: Any, number: type) -> Any:
    """Turn "32,16,8", [32, 16, 8] or one number into a tuple, "" into None; leave the rest for pydantic to refuse."""
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            return tuple(number(part) for part in value.split(",") if part.strip())
        except ValueError:
            return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _list_of(number: type) -> Any:
    kind = {int: "integer", float: "number"}[number]
    forms = [{"type": "array", "items": {"type": kind}}, {"type": kind}, {"type": "string"}, {"type": "null"}]
    return Annotated[
        tuple[number, ...] | None,
        BeforeValidator(lambda value: _split(value, number)),
        WithJsonSchema({"anyOf": forms}),
    ]


IntList = _list_of(int)
FloatList = _list_of(float)


def option(default: Any, meaning: str, **constraints: Any) -> Any:
    """Declare one key: its default, its one line of meaning, and limits in pydantic's terms."""
    return Field(default, description=meaning, **constraints)


PATH_KEYS = {"data_dir", "mask_dir", "output_dir", "results_path", "model_path", "resume_checkpoint", "export_path"}
PATH_KEYS |= {"synthetic_dir", "diversity_dir", "filtered_dir", "encoder_weights", "inception_weights", "lpips_weights"}
PATH_KEYS |= {"eta_path", "segmenter", "segmenter_labels"}


class ActionConfig(OptionGroup):
    """What every action's configuration can do beside holding its keys."""

    required: ClassVar[tuple[str, ...]] = ()
    summary: ClassVar[str] = ""

    def contradictions(self) -> Iterator[Problem]:
        for key in self.required:
            if getattr(self, key) in ("", None):
                meaning = type(self).model_fields[key].description
                yield (key, f"{key} is missing ({meaning}): add it to the config or give --set {key}=...")

    def settle(self) -> None:
        """Spell out `~`, which a shell would have and JSON does not."""
        for key in PATH_KEYS & type(self).model_fields.keys():
            if getattr(self, key) is not None:
                setattr(self, key, os.path.expanduser(getattr(self, key)))

    @classmethod
    def action(cls) -> str:
        """Return the action's name."""
        return cls.__name__.removesuffix("Config").lower()

    def to_json(self) -> dict[str, Any]:
        """Return the resolved configuration as a flat JSON object that can be loaded again."""
        return self.model_dump(mode="json")
