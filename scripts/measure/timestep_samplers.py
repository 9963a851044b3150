"""Measure how much the epoch loss of a fixed network varies with each schedule_sampler.

    python -m scripts.measure.timestep_samplers RUN_FOLDER [--epochs 30]

The mean training loss of many epochs is computed with the fixed raw weights of a finished run, with augmentation, noise
and timesteps as in training. Variation from epoch to epoch is then only noise.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from guided_diffusion.config.train import TrainConfig
from guided_diffusion.data.loader import DistributedBatchPlan, TrainLoader
from guided_diffusion.diffusion.gaussian import build_diffusion
from guided_diffusion.diffusion.samplers import draw_noise
from guided_diffusion.diffusion.timestep_sampler import TIMESTEP_SAMPLERS
from guided_diffusion.pipelines.build import network_from_checkpoint, options_of_checkpoint
from guided_diffusion.pipelines.training_data import open_training_data, training_dataset
from guided_diffusion.runtime.checkpoint import find_checkpoint, load_checkpoint
from guided_diffusion.runtime.distributed import ProcessGroup, choose_device
from guided_diffusion.runtime.seeding import Stream, derive_seed


def main() -> None:
    """Print the spread for the uniform and the stratified sampler, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_folder")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    spreads = {name: spread(options, name) for name in ("uniform", "stratified")}
    for name, (mean, deviation) in spreads.items():
        print(f"{name:11} mean epoch loss {mean:.5f}, standard deviation over {options.epochs} epochs {deviation:.6f}")
    print(f"uniform / stratified: {spreads['uniform'][1] / spreads['stratified'][1]:.2f}")


@torch.inference_mode()
def spread(arguments: argparse.Namespace, sampler_name: str) -> tuple[float, float]:
    """Return mean and standard deviation of the epoch loss of the run's raw weights."""
    device = choose_device(arguments.device)
    group = ProcessGroup(0, 1, device)
    checkpoint = load_checkpoint(find_checkpoint(arguments.run_folder))
    config = options_of_checkpoint(checkpoint, TrainConfig)
    model = network_from_checkpoint(checkpoint, config, "raw").to(device).eval()
    process = build_diffusion(config.diffusion)
    dataset = training_dataset(config, open_training_data(config), group)
    batches = DistributedBatchPlan(len(dataset), config.optimizer.batch_size, seed=config.run.seed)
    loader = TrainLoader(dataset, batches, device=device)
    sampler = TIMESTEP_SAMPLERS[sampler_name](process.num_timesteps)
    epoch_losses = []
    for epoch in range(arguments.epochs):
        losses = []
        for number, batch in enumerate(loader.epoch(epoch)):
            key = (config.run.seed, epoch, number)
            t, _ = sampler.draw(key, batch.batch_index, batch.global_size, batches.num_batches)
            seeds = [derive_seed(Stream.NOISE, *key, batch_index) for batch_index in batch.batch_index.tolist()]
            generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
            noise = draw_noise(generators, batch.image.shape[1:], device)
            t = t.to(device)
            x_t = process.q_sample(batch.image, t, noise)
            output = model(x_t, process.model_t(t), batch.condition)
            losses += process.training_losses(output, batch.image, x_t, t, noise)["loss"].tolist()
        epoch_losses.append(statistics.fmean(losses))
    return statistics.fmean(epoch_losses), statistics.stdev(epoch_losses)


if __name__ == "__main__":
    main()
