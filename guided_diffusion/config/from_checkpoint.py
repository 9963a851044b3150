"""Variants of option groups whose keys are left to the checkpoint, and how they are filled in from it."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import create_model

from guided_diffusion.data.options import EtaOptions, GeometryOptions
from guided_diffusion.diffusion.options import DiffusionOptions, LabelDiffusionOptions
from guided_diffusion.models.options import ModelOptions
from guided_diffusion.runtime.options import OptionGroup, facts_of, option

Group = TypeVar("Group", bound=OptionGroup)


def _left_to_checkpoint(group: type[OptionGroup]) -> type[OptionGroup]:
    """Return a variant of `group` in which every key is null by default, which means: as in the checkpoint."""
    fields = {}
    for name, field in group.model_fields.items():
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        meaning = f"{field.description}; null: as in the checkpoint"
        fields[name] = (kind | None, option(None, meaning, **facts_of(field)._asdict()))
    return create_model(f"{group.__name__}FromCheckpoint", __base__=group, **fields)


GeometryFromCheckpoint = _left_to_checkpoint(GeometryOptions)
ModelFromCheckpoint = _left_to_checkpoint(ModelOptions)
DiffusionFromCheckpoint = _left_to_checkpoint(DiffusionOptions)
LabelDiffusionFromCheckpoint = _left_to_checkpoint(LabelDiffusionOptions)
EtaFromCheckpoint = _left_to_checkpoint(EtaOptions)


def fill_from_checkpoint(group: OptionGroup, trained: Group) -> Group:
    """Return `trained` with the keys that `group`, of the same keys, does not leave open (null or empty)."""
    given = {key: value for key, value in group if value not in (None, "")}
    return trained.model_copy(update=given)
