"""Mistakes that a CPU forgives, written into the library one at a time: the pretended GPU notices each of them."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from painted import painted
from pretended_cuda import CUDA, Gpu, GpuError, pretended_cuda
from tiny import ON_GPU
from torch import nn

from evaluations.metrics import nearest
from evaluations.segmentation import models, training
from guided_diffusion import load_pipeline
from guided_diffusion.conditions.patches import PatchCache
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import load_config
from guided_diffusion.data import loader
from guided_diffusion.diffusion import gaussian, guidance, label_diffusion, samplers
from guided_diffusion.diffusion.options import SamplerOptions
from guided_diffusion.models import group_norm, layers
from guided_diffusion.pipelines.resume import find_resume_plan
from guided_diffusion.pipelines.sampling import SamplingRun
from guided_diffusion.pipelines.training import build_trainer
from guided_diffusion.pipelines.training_data import open_training_data
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.logs import RunLog
from guided_diffusion.training.ema import EMA
from guided_diffusion.training.trainer import Trainer

pytestmark = pytest.mark.slow


class Folders(NamedTuple):
    """What the small runs below read and write."""

    lemons: Path
    trained: Path
    output: Path


@pytest.fixture
def folders(lemons, trained, tmp_path) -> Folders:
    return Folders(lemons, trained, tmp_path)


# ------------------------------------------------------------------------------------------------ small runs


def train(gpu: Gpu, folders: Folders, **values: Any) -> int:
    """Take a training step, and return how often something was read back in it."""
    given = {**ON_GPU, "data_dir": str(folders.lemons), "output_dir": str(folders.output), **values}
    config = load_config("train", given)
    report = open_training_data(config)
    config = config.replaced(num_classes=report.encoding.num_classes)
    world, log = ProcessGroup(0, 1, CUDA), RunLog(folders.output, enabled=False)
    trainer = build_trainer(config, find_resume_plan(config), world, report, log)
    batch = next(iter(trainer.loader.epoch(0)))
    gpu.clear()
    trainer.train_step(batch)
    count = len(gpu.read_backs)
    trainer._weights(copy=True)
    return count


def train_with_label_diffusion(gpu: Gpu, folders: Folders) -> int:
    return train(gpu, folders, cond_diffuse=True)


def sample(gpu: Gpu, folders: Folders) -> int:
    """Sample two images as `sample` does, and return how often something was read back in the steps."""
    pipeline = load_pipeline(folders.trained, device="cuda", compile=False)
    condition = pipeline.condition_of(torch.zeros(2, 16, 16, dtype=torch.int64))
    run = pipeline.begin(SamplerOptions(sampler="ddpm", steps=2, s=2.0, guidance_interval=[0.01, 2.0]))
    gpu.clear()
    steps: list[int] = []
    run(condition, [1, 2], progress=lambda done, total: steps.append(len(gpu.read_backs))).numpy()
    return steps[-1]


def evaluate(gpu: Gpu, folders: Folders) -> int:
    """Train a segmentation model of one layer for a step, and look for neighbors."""
    images = painted(4)
    plan = training.TrainingPlan(steps=1, batch_size=2, learning_rate=1e-3)
    training.train_segmenter(nn.Conv2d(3, 4, 1), images, images, plan, seed=0, device=CUDA)
    nearest.nearest(images.images, images.images, leave_one_out=True, device=CUDA)
    return 0


Run = Callable[[Gpu, Folders], int]
READ_BACKS: dict[Run, int] = {train: 1, train_with_label_diffusion: 1, sample: 0, evaluate: 0}
"""How often a run reads something back where the library is right."""


@pytest.mark.parametrize("run", READ_BACKS)
def test_without_a_mistake_nothing_is_noticed(run, folders):
    with pretended_cuda() as gpu:
        assert run(gpu, folders) == READ_BACKS[run]


# ------------------------------------------------------------------------------------------------ mistakes


class Mistake(NamedTuple):
    """`owner.name`, a function of the library, with `right`, which is once in it, replaced by `wrong`."""

    run: Run
    owner: Any
    name: str
    right: str
    wrong: str

    def plant(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = getattr(self.owner, self.name)
        source = textwrap.dedent(inspect.getsource(original))
        assert source.count(self.right) == 1, f"{self.name} has been rewritten: plant the mistake anew"
        code = source.replace(self.right, self.wrong)
        scope: dict[str, Any] = {}
        # Compiled as this file is, with annotations that are not evaluated, and in the names of its own module.
        exec(compile(code, inspect.getsourcefile(original), "exec"), vars(inspect.getmodule(original)), scope)
        monkeypatch.setattr(self.owner, self.name, scope[self.name])
        for module in list(sys.modules.values()):  # that have imported it by name
            if module is not None and vars(module).get(self.name) is original:
                monkeypatch.setattr(module, self.name, scope[self.name])


RAISING = {
    "a table of the noise process on the CPU": Mistake(train, gaussian._Tables, "gather", ", device=t.device", ""),
    "noise on the CPU, by a generator of the GPU": Mistake(train, samplers, "draw_noise", ", device=g.device", ""),
    "timesteps and weights not moved": Mistake(
        train, Trainer, "train_step", "values.to(self.world.device) for", "values for"
    ),
    "masks not moved": Mistake(
        train,
        loader.TrainLoader,
        "_on_device",
        'collated["condition"].to(self._device, non_blocking=True)',
        'collated["condition"]',
    ),
    "counted patches not moved": Mistake(train, PatchCache, "to", "t.to(device, non_blocking=non_blocking)", "t"),
    "a batch that is on the GPU before it is pinned": Mistake(
        train,
        loader._Collate,
        "__call__",
        "default_collate(examples)",
        '{key: value.to("cuda:0") for key, value in default_collate(examples).items()}',
    ),
    "frequencies of the timestep embedding on the CPU": Mistake(
        train, layers, "timestep_embedding", ", device=t.device", ""
    ),
    "an index of the backward pass on the CPU": Mistake(
        train, group_norm.SegmentSum, "__call__", ", device=pixels.device", ""
    ),
    "averages of the weights on the CPU": Mistake(train, EMA, "__init__", "p.detach().clone()", "p.detach().cpu()"),
    "the best weights written before they are copied": Mistake(
        train, Trainer, "_weights", 'to("cpu", copy=True)', 'to("cpu", copy=True, non_blocking=True)'
    ),
    "the table of label diffusion on the CPU": Mistake(
        train_with_label_diffusion, label_diffusion.LabelDiffusion, "_table", ", device=device", ""
    ),
    "a mask of what is dropped on the CPU": Mistake(sample, SemanticMap, "drop", "dropped.to(self.device)", "dropped"),
    "the network called with timesteps of the CPU": Mistake(
        sample, guidance.GuidedNetwork, "_model_t", ".to(x_t.device, non_blocking=x_t.is_cuda)", ""
    ),
    "samples made an array on the GPU": Mistake(
        sample, SamplingRun, "__call__", "images_of(samples).cpu()", "images_of(samples)"
    ),
    "the mean of ImageNet on the CPU": Mistake(
        evaluate, models, "to_input", "IMAGENET_MEAN, device=images.device", "IMAGENET_MEAN"
    ),
    "label maps of segmentation not moved": Mistake(
        evaluate, training, "optimization_step", "labels.to(device)", "labels"
    ),
    "predictions made an array on the GPU": Mistake(evaluate, training, "predict", ".short().cpu()", ".short()"),
    "distances made an array on the GPU": Mistake(evaluate, nearest, "_search", "field.cpu().numpy()", "field.numpy()"),
}
COUNTED = {
    "a look at the loss of each part": Mistake(
        train,
        Trainer,
        "_forward_backward",
        "losses.append(loss.detach())",
        "losses.append(loss.detach() if loss.isfinite().all() else loss.detach())",
    ),
    "the norm of the gradients by itself": Mistake(
        train, Trainer, "_read_back", "norm.double()[None]", "norm.new_tensor([float(norm)])"
    ),
    "sampling steps that are counted on the GPU": Mistake(
        sample, samplers, "_steps", "index, dtype=torch.int64)", "index, dtype=torch.int64, device=x.device)"
    ),
}


@pytest.mark.parametrize("name", RAISING)
def test_a_mistake_is_refused(name, folders, monkeypatch):
    RAISING[name].plant(monkeypatch)
    with pretended_cuda() as gpu, pytest.raises(GpuError):
        RAISING[name].run(gpu, folders)


@pytest.mark.parametrize("name", COUNTED)
def test_a_needless_wait_is_counted(name, folders, monkeypatch):
    COUNTED[name].plant(monkeypatch)
    with pretended_cuda() as gpu:
        assert COUNTED[name].run(gpu, folders) > READ_BACKS[COUNTED[name].run]
