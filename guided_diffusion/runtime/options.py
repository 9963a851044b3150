"""What configurations are made of: typed keys with one line of meaning, in groups, written as one flat JSON object.

A field's description is the one line that `--help`, the JSON Schema and the error messages show. Keys that the
published tools have keep their names and meanings, and both JSON lists and the published string spelling
("32,16,8") are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic.fields import FieldInfo

Problem = tuple[str, str]  # the key concerned, and one line that says what is wrong and the way out

RULES = ConfigDict(extra="forbid", strict=True, frozen=True, validate_default=False, allow_inf_nan=False)


# --- one key -----------------------------------------------------------------------------------------------------


class KeyFacts(NamedTuple):
    """What a key is, beside its type and its meaning.

    path: a path on this machine, in which "~" is spelled out.
    cloud: a path that is read by blobfile, so that it may lie in a bucket (gs://, az://), too.
    resume: whether a continued run may set it differently, as it does not change what is learned, or only how long.
    sampling: whether it may differ from what the weights were trained with, as it does not change what they mean.
    spelling_of: the key that a published key sets.
    former: what the key was called before; still read.
    """

    path: bool = False
    cloud: bool = False
    resume: Literal["fixed", "may change"] = "fixed"
    sampling: Literal["as trained", "free"] = "as trained"
    spelling_of: str = ""
    former: str = ""


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
    **constraints: Any,
) -> Any:
    """Declare one key: its default, its one line of meaning, its facts (`KeyFacts`) and limits in pydantic's terms."""
    facts = KeyFacts(path or cloud, cloud, resume, sampling, spelling_of, former)
    return Field(default, description=meaning, json_schema_extra={FACTS: facts._asdict()}, **constraints)


def facts_of(field: FieldInfo) -> KeyFacts:
    """Return what `option` declared of a key."""
    extra = field.json_schema_extra
    return KeyFacts(**extra[FACTS]) if isinstance(extra, dict) and FACTS in extra else KeyFacts()


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


# --- paths -------------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CLOUD = re.compile(r"gs://|az://|https://[^/]+\.blob\.core\.windows\.net(/|$)")


def path_mistake(path: str, *, cloud: bool = False) -> str:
    """Return what is wrong with the text of a path and what to do, "" if nothing is.

    cloud: gs:// and Azure addresses may be given.
    """
    if any(ord(character) < 32 for character in path):
        return (
            "has a tab, a line break or another control character: in JSON write / or two backslashes in Windows paths"
        )
    if not _ADDRESS.match(path) or (cloud and _CLOUD.match(path)):
        return ""
    also = "gs:// and az:// addresses are read; " if cloud else ""
    return f"is an address that is not read: {also}copy the files to a local folder and give its path"


# --- groups of keys ----------------------------------------------------------------------------------------------


def is_text(field: FieldInfo) -> bool:
    """Return whether a key takes free text and no number."""
    return field.annotation in (str, str | None)


class _Options(BaseModel):
    """Strict typed keys; a number where text is expected is taken as text (`output_dir: 20240501`)."""

    model_config = RULES

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_text(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            key: str(value) if type(value) in (int, float) and key in fields and is_text(fields[key]) else value
            for key, value in values.items()
        }


class OptionGroup(_Options):
    """The keys of one owner. Unknown keys and loose types are errors; a group cannot be changed, only copied."""

    title: ClassVar[str] = ""

    def check(self) -> Iterator[Problem]:
        """Yield every contradiction between the keys of this group."""
        yield from ()

    def resolve(self) -> Self:
        """Return the group with published spellings of a choice (`use_fp16`) turned into the key that makes it."""
        return self

    @classmethod
    def keys(cls) -> tuple[str, ...]:
        """Return the keys, without published spellings of others."""
        return tuple(key for key, field in cls.model_fields.items() if not facts_of(field).spelling_of)


class FlatConfig(_Options):
    """Option groups and single keys, read from and written as one flat JSON object.

    A field whose type is an `OptionGroup` stands for all keys of the group; any other field is a key itself.
    """

    @classmethod
    def groups(cls) -> dict[str, type[OptionGroup]]:
        """Return the groups by the names of their fields."""
        return _groups(cls)

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """Return every key, flat, in the order of the groups."""
        return {key: field for key, (_, field) in _owners(cls).items()}

    @classmethod
    def facts(cls, key: str) -> KeyFacts:
        """Return what is declared of `key`."""
        return facts_of(_owners(cls)[key][1])

    @classmethod
    def former_keys(cls) -> dict[str, str]:
        """Return what keys were called before -> what they are called."""
        return {facts_of(field).former: key for key, field in cls.fields().items() if facts_of(field).former}

    @classmethod
    def declared_in(cls, key: str) -> type[BaseModel]:
        """Return the first class that declared `key`: the same one means the same meaning, whatever the default."""
        group = _owners(cls)[key][0]
        lineage = (cls.groups()[group] if group else cls).__mro__
        return [kind for kind in lineage if issubclass(kind, BaseModel) and key in kind.model_fields][-1]

    @classmethod
    def from_flat(cls, values: Mapping[str, Any], *, ignore_unknown: bool = False) -> Self:
        """Return the configuration of a flat object; pydantic's ValidationError where a value does not fit.

        ignore_unknown: leave out keys that this configuration does not have.
        """
        nested: dict[str, Any] = {group: {} for group in cls.groups()}
        owners = _owners(cls)
        for key, value in values.items():
            if key not in owners:
                if ignore_unknown:
                    continue
                raise KeyError(key)
            group = owners[key][0]
            (nested[group] if group else nested)[key] = value
        return cls.model_validate(nested)

    @property
    def given(self) -> frozenset[str]:
        """The keys that were given, not left to their defaults."""
        own = self.model_fields_set - self.groups().keys()
        return frozenset(own).union(*(getattr(self, group).model_fields_set for group in self.groups()))

    def get(self, key: str) -> Any:
        """Return the value of `key`, in whichever group it is."""
        group = _owners(type(self))[key][0]
        return getattr(getattr(self, group) if group else self, key)

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as a flat JSON object that can be loaded again."""
        flat: dict[str, Any] = {}
        for name, value in self.model_dump(mode="json").items():
            flat.update(value if name in self.groups() else {name: value})
        return flat

    def replaced(self, **values: Any) -> Self:
        """Return a copy with the keys `values` set otherwise; these count as given. Values are not validated."""
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
            if facts.path and isinstance(value, str) and (mistake := path_mistake(value, cloud=facts.cloud)):
                yield key, f"{key} is {value!r}, which {mistake}"
        for group in self.groups():
            yield from getattr(self, group).check()
        yield from self.check()

    def resolve(self) -> Self:
        """Return the configuration with every spelling resolved, in its groups too, and "~" in paths spelled out."""
        config = self.model_copy(update={group: getattr(self, group).resolve() for group in self.groups()})
        paths = {key: config.get(key) for key in self.fields() if self.facts(key).path}
        spelled = {key: os.path.expanduser(path) for key, path in paths.items() if path is not None}
        return config.replaced(**{key: path for key, path in spelled.items() if path != paths[key]})


class ActionConfig(FlatConfig):
    """Base of every action's configuration."""

    required: ClassVar[tuple[str, ...]] = ()
    summary: ClassVar[str] = ""
    common: ClassVar[tuple[str, ...]] = ()
    """The keys that most people set, shown first; empty for all."""

    def check(self) -> Iterator[Problem]:
        for key in self.required:
            if self.get(key) in ("", None):
                meaning = self.fields()[key].description
                yield (key, f"{key} is missing ({meaning}): add it to the config or give --set {key}=...")

    @classmethod
    def action(cls) -> str:
        """Return the action's name."""
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
    """Return key -> (its group, "" for a key of the configuration itself; its declaration)."""
    owners: dict[str, tuple[str, FieldInfo]] = {}
    for name, field in kind.model_fields.items():
        group = _groups(kind).get(name)
        found: Iterable[tuple[str, FieldInfo]] = group.model_fields.items() if group else [(name, field)]
        for key, declaration in found:
            assert key not in owners, f"{kind.__name__}: {key} is declared twice"
            owners[key] = (name if group else "", declaration)
    return owners
