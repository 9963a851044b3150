"""The beginning that `sample` and `place` share: the folder prepared, what is to be made told, the network compiled."""

from __future__ import annotations

from collections.abc import Sequence

from guided_diffusion.config.network import TrainedConfig
from guided_diffusion.config.place import PlaceConfig
from guided_diffusion.config.sample import SampleConfig
from guided_diffusion.models.compilation import COMPILING, compile_network, wants_compiling
from guided_diffusion.pipelines.sampling import SamplingRun, spacing
from guided_diffusion.runtime.checkpoint import Checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.logs import write_run_record
from guided_diffusion.samples.writer import PlannedSample, SyntheticFolder


def begin_output(
    config: SampleConfig | PlaceConfig,
    trained: TrainedConfig,
    checkpoint: Checkpoint,
    sampling: SamplingRun,
    output: SyntheticFolder,
    plan: Sequence[PlannedSample],
    world: ProcessGroup,
    what: str,
) -> list[PlannedSample]:
    """Prepare the folder and the network of `sampling`; return this process's share of what is not there yet.

    what: "samples", say, for the line that is printed. Raises DataError for a folder of other samples.
    """
    done = world.run_on_main(lambda: output.begin(plan))
    label_diffusion = trained.label_diffusion.cond_diffuse
    compiling = wants_compiling(config.precision.compile, world.device, label_diffusion=label_diffusion)
    if world.is_main:
        write_run_record(output.folder, output.settings.action, config.fill_from_checkpoint(trained).to_json())
        there = sum(sample.index in done for sample in plan)
        print(
            f"{len(plan)} {what}{f', {there} are there already' if there else ''}; {config.sampler.sampler} in "
            f"{sampling.num_steps} steps ({spacing(config.sampler) or 'uniform'}), s {config.sampler.s:g}, "
            f"{config.weights.weights} weights of {checkpoint.path.absolute()}"
        )
        if compiling:
            print(COMPILING)
    if compiling:
        compile_network(sampling.pipeline.model)
    return [sample for sample in plan if sample.index not in done][world.rank :: world.size]
