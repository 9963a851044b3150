"""Trainings by crops that go on with another kind of device."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from pretended_cuda import CPU, CUDA, pretended_cuda
from torch import nn

from evaluations.segmentation.crop_training import Checkpoint, CropTrainingPlan, _optimizer, _Run


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


@pytest.mark.parametrize(("first", "then"), [(CPU, CUDA), (CUDA, CPU)], ids=str)
def test_a_training_goes_on_with_another_device(first: torch.device, then: torch.device, tmp_path):
    """Where the optimizer counts its steps has to be where its kind of device looks for them."""
    checkpoint = Checkpoint(tmp_path / "training.pt", every=1)

    def begun(device: torch.device) -> _Run:
        model = Model().to(device)
        return _Run(model, _optimizer(model, CropTrainingPlan(4)), checkpoint, "a training")

    def one_step(run: _Run, device: torch.device) -> None:
        run.model(torch.ones(2, 3, device=device)).sum().backward()
        run.optimizer.step()

    with pretended_cuda() if first == CUDA else nullcontext():
        run = begun(first)
        one_step(run, first)
        run.keep()
    with pretended_cuda() if then == CUDA else nullcontext():
        run = begun(then)
        run.resume()
        counts = [state["step"] for state in run.optimizer.state.values()]
        assert {count.device.type for count in counts} == {then.type}
        one_step(run, then)
        assert [float(count) for count in counts] == [2.0] * 4
