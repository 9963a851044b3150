"""The seat of a conditioner: registering another one is all that training and guided sampling need."""

from __future__ import annotations

import pytest
import torch
from class_means import ClassMeanConditioner, ClassMeanNorm, ClassShares
from flat_options import noise_process, unet
from tiny import TINY

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.config.load import load_config
from guided_diffusion.diffusion.guidance import GuidedNetwork
from guided_diffusion.models.compilation import compile_network
from guided_diffusion.models.conditioners import CONDITIONERS
from guided_diffusion.pipelines.resume import find_resume_plan
from guided_diffusion.pipelines.training import build_trainer
from guided_diffusion.pipelines.training_data import open_training_data
from guided_diffusion.runtime.distributed import ProcessGroup
from guided_diffusion.runtime.logs import RunLog


@pytest.fixture
def trainer(monkeypatch, lemons, tmp_path):
    """A trainer as a run has it, of a network with the conditioner."""
    monkeypatch.setitem(CONDITIONERS, "class means", ClassMeanConditioner.from_options)
    values = {**TINY, "data_dir": str(lemons), "output_dir": str(tmp_path), "drop_rate": 0.5, "microbatch": 2}
    config = load_config("train", values)
    start, report = find_resume_plan(config), open_training_data(config)
    config = config.replaced(condition="class means", num_classes=report.encoding.num_classes)
    return build_trainer(
        config, start, ProcessGroup(0, 1, torch.device("cpu")), report, RunLog(tmp_path, enabled=False)
    )


def test_trains_and_samples_guided(trainer):
    model = trainer.model
    norms = [module for module in model.modules() if isinstance(module, ClassMeanNorm)]
    assert norms
    with torch.no_grad():  # no layer may start as zero, which would hold back its gradients
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    before = [norm.weight.clone() for norm in norms]
    for batch in trainer.loader.epoch(0):
        assert isinstance(batch.prepared, ClassShares)
        trainer.train_step(batch)
    assert trainer.progress.step == 3
    assert not any(torch.equal(norm.weight, old) for norm, old in zip(norms, before, strict=True))
    model.eval()
    condition, dropped = batch.condition, torch.tensor([True, False])
    n = len(condition)
    x, t = torch.randn(n, 3, 16, 16), torch.full((n,), 300)
    with torch.no_grad():
        given = model(x, t, condition.drop(dropped), batch.prepared.drop(dropped))
        torch.testing.assert_close(given, model(x, t, condition.drop(dropped)))
        cond, null = model(x, t, condition), model(x, t, condition.null())
        assert (cond - null).abs().max() > 1e-3
    guided = GuidedNetwork(model, noise_process(), condition, scale=2.0)(x, t)
    torch.testing.assert_close(guided[:, :3], (2 * cond - null)[:, :3], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiles(monkeypatch):
    monkeypatch.setitem(CONDITIONERS, "class means", ClassMeanConditioner.from_options)
    size = {"image_size": 16, "num_channels": 32, "channel_mult": (1,), "attention_resolutions": ()}
    model = unet(**size, num_res_blocks=1, num_classes=4, condition="class means")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw), alpha=0.05)
    condition = SemanticMap(torch.randint(0, 4, (2, 16, 16), generator=draw), 4)
    inputs = torch.randn(2, 3, 16, 16, generator=draw), torch.full((2,), 300), condition
    prepared = model.preparation((16, 16))(condition)
    plain, encode = model(*inputs, prepared), model.encode
    compile_network(model, backend="eager")  # what is captured is what a conditioner has to do with
    model.encode = encode  # which knows nothing of conditions
    torch.testing.assert_close(model(*inputs, prepared), plain, rtol=1e-4, atol=1e-5)
