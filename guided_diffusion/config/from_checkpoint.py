"""Configurations of actions on a trained network, whose options are left to its checkpoint by default."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import create_model

from guided_diffusion.config.network import NetworkConfig, TrainedConfig
from guided_diffusion.data.options import (
    AugmentOptions,
    BoxOptions,
    EtaOptions,
    GeometryOptions,
    SourceOptions,
    WindowOptions,
)
from guided_diffusion.diffusion.options import DiffusionOptions, GenerationOptions, LabelDiffusionOptions
from guided_diffusion.models.options import LatentOptions, ModelOptions
from guided_diffusion.runtime.options import OptionGroup, facts_of, option
from guided_diffusion.training.options import GeneratedMaskOptions, LayoutTrainingOptions

_OWN_DEFAULT = re.compile(r'; (null|null or ""|empty): [^;]*$')  # what null or empty means where there is no checkpoint


def _left_to_checkpoint(group: type[OptionGroup]) -> type[OptionGroup]:
    """Return a variant of `group` in which every key is null by default, which means: as in the checkpoint."""
    fields = {}
    for name, field in group.model_fields.items():
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        meaning = f"{_OWN_DEFAULT.sub('', field.description or '')}; null: as in the checkpoint"
        fields[name] = (kind | None, option(None, meaning, **facts_of(field)._asdict()))
    return create_model(f"{group.__name__}FromCheckpoint", __base__=group, **fields)


GeometryFromCheckpoint = _left_to_checkpoint(GeometryOptions)
BoxesFromCheckpoint = _left_to_checkpoint(BoxOptions)
ModelFromCheckpoint = _left_to_checkpoint(ModelOptions)
DiffusionFromCheckpoint = _left_to_checkpoint(DiffusionOptions)
GenerationFromCheckpoint = _left_to_checkpoint(GenerationOptions)
LatentsFromCheckpoint = _left_to_checkpoint(LatentOptions)
LabelDiffusionFromCheckpoint = _left_to_checkpoint(LabelDiffusionOptions)
EtaFromCheckpoint = _left_to_checkpoint(EtaOptions)
AugmentFromCheckpoint = _left_to_checkpoint(AugmentOptions)
WindowsFromCheckpoint = _left_to_checkpoint(WindowOptions)
GeneratedMasksFromCheckpoint = _left_to_checkpoint(GeneratedMaskOptions)
LayoutTrainingFromCheckpoint = _left_to_checkpoint(LayoutTrainingOptions)


class SourceFromCheckpoint(SourceOptions):
    """The dataset; its open keys, except `data_dir`, are as in the checkpoint."""

    dataset_mode: str = option(
        "", f"{SourceOptions.model_fields['dataset_mode'].description}; empty: as in the checkpoint"
    )


class FromCheckpointConfig(NetworkConfig):
    """Keys of an action on a trained network. Bare weights need those that their shapes do not tell."""

    source: SourceFromCheckpoint
    geometry: GeometryFromCheckpoint
    boxes: BoxesFromCheckpoint
    model: ModelFromCheckpoint
    diffusion: DiffusionFromCheckpoint
    generation: GenerationFromCheckpoint
    latents: LatentsFromCheckpoint
    label_diffusion: LabelDiffusionFromCheckpoint

    def fill_from_checkpoint(self, trained: TrainedConfig) -> Self:
        """Return this configuration with every open key (null or empty) as in `trained`, except `data_dir`.

        An empty `data_dir` stays empty: the training data are not the data of this action.
        """
        filled = {}
        for name in self.groups().keys() & trained.groups().keys():
            given = {key: value for key, value in getattr(self, name) if value not in (None, "")}
            filled[name] = getattr(trained, name).model_copy(update=given)
        return self.model_copy(update=filled).replaced(data_dir=self.source.data_dir)
