"""The parts of configurations: typed keys with a one-line description, in groups, written as one flat JSON object.

`--help`, the JSON Schema and error messages show the description. Published keys keep their names and meanings; lists
are read as JSON and in the published spelling ("32,16,8").
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.fields import FieldInfo

from guided_diffusion.runtime.hub_address import address_mistake, is_address

Problem = tuple[str, str]  # a key, and a line with what is wrong and what to do

RULES = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=False, allow_inf_nan=False)


# --- one key -----------------------------------------------------------------------------------------------------


class KeyFacts(NamedTuple):
    """Properties of a key, beside its type and description."""

    path: bool = False  # a path, in which "~" is expanded
    cloud: bool = False  # a path read by blobfile, which may also be a gs:// or az:// address
    resume: Literal["fixed", "may change"] = "fixed"  # whether a resumed run may have another value
    sampling: Literal["as trained", "free"] = "as trained"  # whether sampling may have another value than training
    spelling_of: str = ""  # the key that this published key sets
    former: str = ""  # a former name of the key, which is still read
    written: bool = False  # a path that results go to
    words: bool = False  # a path that may also be a word: auto, none, the name of weights
    hub: bool = False  # a path that may also be the address of weights on the Hugging Face Hub


FACTS = "isdm"


def option(
    default: Any,
    meaning: str,
    *,
    path: bool = False,
    cloud: bool = False,
    resume: Literal["fixed", "may change"] = "fixed",
    sampling: Literal["as trained", "free"] = "as trained",
    spelling_of: str = "",
    former: str = "",
    written: bool = False,
    words: bool = False,
    hub: bool = False,
    **constraints: Any,
) -> Any:
    """Declare one key: its default, its one line of meaning, its facts (`KeyFacts`) and limits in pydantic's terms."""
    is_path = path or cloud or written or words or hub
    facts = KeyFacts(is_path, cloud, resume, sampling, spelling_of, former, written, words, hub)
    return Field(default, description=meaning, json_schema_extra={FACTS: facts._asdict()}, **constraints)


def facts_of(field: FieldInfo) -> KeyFacts:
    """Return the `KeyFacts` of a field that `option` declared."""
    extra = field.json_schema_extra
    return KeyFacts(**extra[FACTS]) if isinstance(extra, dict) and FACTS in extra else KeyFacts()


def _split(value: Any, number: type) -> Any:
    """Turn "32,16,8", [32, 16, 8] or one number into a tuple, "" into None; pydantic refuses the rest."""
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


def _tuple_of(number: type) -> Any:
    kind = {int: "integer", float: "number"}[number]
    forms = [{"type": "array", "items": {"type": kind}}, {"type": kind}, {"type": "string"}, {"type": "null"}]
    return Annotated[
        tuple[number, ...] | None,
        BeforeValidator(lambda value: _split(value, number)),
        WithJsonSchema({"anyOf": forms}),
    ]


IntTuple = _tuple_of(int)
FloatTuple = _tuple_of(float)


def _names(value: Any) -> Any:
    """Turn "fpn, unetplusplus" or a list into a tuple; leave the rest for pydantic to refuse."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else value


NameList = Annotated[
    tuple[str, ...],
    BeforeValidator(_names),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
]


# --- paths -------------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash is left where it was a Path in between
_CLOUD = re.compile(r"gs://[^/]|az://[^/]|https://[^/]+\.blob\.core\.windows\.net(/|$)")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\\\\\")


def path_mistake(path: str, *, cloud: bool = False, hub: bool = False) -> str:
    """Return what is wrong with the text of a path and what to do, "" if nothing is.

    cloud: gs:// and Azure addresses may be given. hub: those of weights on the Hugging Face Hub may be.
    """
    if any(ord(character) < 32 for character in path):
        return (
            "has a tab, a line break or another control character: in JSON write / or two backslashes in Windows paths"
        )
    if path and not path.strip():
        return "is blank: give a path"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return "has half of a character, which no file name has: write the name as it is"
    if is_address(path):
        return address_mistake(path) if hub else "is an address of weights, which are not read here: give a path"
    if os.name != "nt" and _WINDOWS.match(path):
        return "is a path of Windows, which this system does not have: give the path here"
    if path[:1] == "~" and os.path.expanduser(path)[:1] == "~":
        return "names a home folder that is not known here: write the whole path"
    if not _ADDRESS.match(path) or (cloud and _CLOUD.match(path)):
        return ""
    also = "gs:// and az:// addresses are read; " if cloud else ""
    return f"is an address that is not read: {also}copy the files to a local folder and give its path"


def split_problem(split: str) -> Iterator[Problem]:
    """Yield what is wrong with `split`, the name of a sub-folder for results; "" is none."""
    if mistake := path_mistake(split):
        yield ("split", f"split is {split!r}, which {mistake}")
    elif split and (Path(split).name != split or split in (".", "..")):
        yield ("split", f"split is {split!r}: it must be a plain folder name, such as train")


# --- groups of keys ----------------------------------------------------------------------------------------------


def is_text(field: FieldInfo) -> bool:
    """Return whether a key takes free text and no number."""
    return field.annotation in (str, str | None)


def _is_finite_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


class _Options(BaseModel):
    """Strict typed keys; a finite number where text is expected is taken as text (`output_dir: 20240501`)."""

    model_config = RULES

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_text(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            key: str(value) if _is_finite_number(value) and key in fields and is_text(fields[key]) else value
            for key, value in values.items()
        }


class OptionGroup(_Options):
    """The keys of one owner. Unknown keys and loose types are errors; a group cannot be changed, only copied."""

    title: ClassVar[str] = ""

    def check(self) -> Iterator[Problem]:
        """Yield every contradiction between the keys of this group."""
        yield from ()

    def resolve(self) -> Self:
        """Return the group with published keys (`use_fp16`) turned into the keys that they set."""
        return self

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Return the keys without those that set another one."""
        return tuple(key for key, field in cls.model_fields.items() if not facts_of(field).spelling_of)

    def changed(self, *keys: str) -> list[str]:
        """Return those of `keys` that have another value than their default."""
        fields = type(self).model_fields
        return [key for key in keys if getattr(self, key) != fields[key].default]


class FlatConfig(_Options):
    """Option groups and single keys, read from and written as one flat JSON object.

    A field whose type is an `OptionGroup` stands for all keys of the group; any other field is a key itself.
    """

    @classmethod
    def groups(cls) -> dict[str, type[OptionGroup]]:
        return _groups(cls)

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Return the fields of all keys, in the order of the groups."""
        return {key: field for key, (_, field) in _owners(cls).items()}

    @classmethod
    def facts(cls, key: str) -> KeyFacts:
        return facts_of(_owners(cls)[key][1])

    @classmethod
    def former_keys(cls) -> dict[str, str]:
        """Return former name -> name of the keys that have one."""
        return {facts_of(field).former: key for key, field in cls.fields().items() if facts_of(field).former}

    @classmethod
    def declared_in(cls, key: str) -> type[BaseModel]:
        """Return the first class that declared `key`; keys declared by the same class mean the same."""
        group = _owners(cls)[key][0]
        lineage = (cls.groups()[group] if group else cls).__mro__
        return [kind for kind in lineage if issubclass(kind, BaseModel) and key in kind.model_fields][-1]

    @classmethod
    def from_flat(cls, values: Mapping[str, Any], *, ignore_unknown: bool = False) -> Self:
        """Return the configuration of a flat object; ValidationError for wrong values, KeyError for unknown keys."""
        nested: dict[str, Any] = {group: {} for group in cls.groups()}
        owners = _owners(cls)
        for key, value in values.items():
            if key in owners or not ignore_unknown:
                group = owners[key][0]
                (nested[group] if group else nested)[key] = value
        return cls.model_validate(nested)

    @property
    def given(self) -> frozenset[str]:
        """The keys that were set, even to their defaults."""
        own = self.model_fields_set - self.groups().keys()
        return frozenset(own).union(*(getattr(self, group).model_fields_set for group in self.groups()))

    def get(self, key: str) -> Any:
        """Return the value of `key` in its group."""
        group = _owners(type(self))[key][0]
        return getattr(getattr(self, group) if group else self, key)

    def changed(self, *keys: str) -> list[str]:
        """Return those of `keys` that have another value than their default."""
        fields = self.fields()
        return [key for key in keys if self.get(key) != fields[key].default]

    def left_aside(self, why: str, *keys: str) -> str:
        """Return what to say of those of `keys` that are set and that nothing uses, as of a shared config; else ""."""
        idle = self.changed(*keys)
        return f"{why}, so {', '.join(idle)} {'is' if len(idle) == 1 else 'are'} left aside" if idle else ""

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as a flat JSON object, for `from_flat`."""
        flat: dict[str, Any] = {}
        for name, value in self.model_dump(mode="json").items():
            flat.update(value if name in self.groups() else {name: value})
        return flat

    def replaced(self, **values: Any) -> Self:
        """Return a copy with other values, which are not validated; their keys count as given."""
        owners, changes = _owners(type(self)), {}
        for key, value in values.items():
            group = owners[key][0]
            if group:
                changes[group] = changes.get(group, getattr(self, group)).model_copy(update={key: value})
            else:
                changes[key] = value
        return self.model_copy(update=changes)

    def check(self) -> Iterator[Problem]:
        """Yield every contradiction between the keys of different groups."""
        yield from ()

    def check_all(self) -> Iterator[Problem]:
        """Yield every path that cannot be one and every contradiction, those within the groups first."""
        for key in self.fields():
            facts, value = self.facts(key), self.get(key)
            if (
                facts.path
                and isinstance(value, str)
                and (mistake := path_mistake(value, cloud=facts.cloud, hub=facts.hub))
            ):
                yield key, f"{key} is {value!r}, which {mistake}"
        for group in self.groups():
            yield from getattr(self, group).check()
        yield from self.check()

    def resolve(self) -> Self:
        """Return the configuration with its groups resolved and "~" in paths expanded."""
        config = self.model_copy(update={group: getattr(self, group).resolve() for group in self.groups()})
        paths = {key: config.get(key) or "" for key in self.fields() if self.facts(key).path}
        return config.replaced(**{key: os.path.expanduser(path) for key, path in paths.items() if path[:1] == "~"})


class ActionConfig(FlatConfig):
    """Base of every action's configuration."""

    required: ClassVar[tuple[str, ...]] = ()
    instead: ClassVar[Mapping[str, str]] = {}  # a required key -> another one that makes it needless
    summary: ClassVar[str] = ""
    common: ClassVar[tuple[str, ...]] = ()  # the keys that most people set; empty for all

    def check(self) -> Iterator[Problem]:
        for key in self.required:
            other = self.instead.get(key)
            if self.get(key) in ("", None) and not (other and self.get(other)):
                meaning = self.fields()[key].description
                line = f"{key} is missing ({meaning}): add it to the config or give --set {key}=..."
                yield (key, f"{line}, or {other} in its place" if other else line)

    @classmethod
    def action(cls) -> str:
        return cls.__name__.removesuffix("Config").lower()


@cache
def _groups(kind: type[FlatConfig]) -> dict[str, type[OptionGroup]]:
    return {
        name: field.annotation
        for name, field in kind.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, OptionGroup)
    }


@cache
def _owners(kind: type[FlatConfig]) -> dict[str, tuple[str, FieldInfo]]:
    """Return key -> (name of its group or "", its declaration)."""
    owners: dict[str, tuple[str, FieldInfo]] = {}
    for name, field in kind.model_fields.items():
        group = _groups(kind).get(name)
        for key, declaration in (group.model_fields if group else {name: field}).items():
            assert key not in owners, f"{kind.__name__}: {key} is declared twice"
            owners[key] = (name if group else "", declaration)
    return owners
