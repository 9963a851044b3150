"""The pretended GPU refuses what a GPU refuses, and counts what makes a program wait for it."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from pretended_cuda import CPU, CUDA, GpuError, OnDevice, pretended_cuda
from torch import nn

from guided_diffusion.runtime.seeding import Stream, step_generators


@pytest.fixture
def gpu():
    with pretended_cuda() as device:
        yield device


ALLOWED = {
    "a number of the CPU": lambda x: x + torch.tensor(2.0),
    "a CPU index": lambda x: x[torch.tensor([0, 1])],
    "a value of the CPU at an index": lambda x: x.index_put_((torch.tensor([0]),), torch.tensor(1.0)),
    "copying to the device": lambda x: x.copy_(torch.ones(3, 4)),
    "what C++ makes beside its argument": lambda x: nn.functional.one_hot(x.long().abs(), 40),
    "a generator of the device": lambda x: torch.randn(3, generator=torch.Generator(CUDA), device=CUDA),
    "a tensor of Python values": lambda x: x[0] * torch.tensor([1.0, 2.0, 3.0, 4.0], device=CUDA),
    "a new tensor beside another": lambda x: x[0] + x.new_tensor([1, 2, 3, 4]),
    "an optimizer made before the move": lambda x: _step_of_moved_layer(x),
}
REFUSED = {
    "tensors of both devices": lambda x: x + torch.ones(4),
    "a mask of the CPU": lambda x: x.masked_fill(torch.ones(3, 4, dtype=torch.bool), 0),
    "a CPU tensor at an index of the device": lambda x: torch.ones(9)[x.long()],
    "an index_select by the CPU": lambda x: x.index_select(0, torch.tensor([0])),
    "joining tensors of both devices": lambda x: torch.cat([x, torch.ones(1, 4)]),
    "weights on the CPU": lambda x: nn.functional.linear(x, torch.ones(2, 4)),
    "a list of both devices": lambda x: torch._foreach_add([x, x], [torch.ones(3, 4), x]),
    "a generator of the CPU": lambda x: torch.randn(3, generator=torch.Generator(), device=CUDA),
    "a generator of the device for the CPU": lambda x: torch.randn(3, generator=torch.Generator(CUDA)),
    "numpy": lambda x: x.numpy(),
    "numpy by the array protocol": np.asarray,
    "pinning": lambda x: x.pin_memory(),
    "a copy to the CPU that is not waited for": lambda x: x.to("cpu", non_blocking=True),
    "a backward pass that makes tensors on the CPU": lambda x: _Careless.apply(x.requires_grad_()).sum().backward(),
}


class _Careless(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.arange(4.0)


def _step_of_moved_layer(x: torch.Tensor) -> torch.Tensor:
    layer = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    before = layer.weight.detach().clone()
    layer.to(CUDA)
    layer(x).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before.to(CUDA))
    return layer.weight


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_gpu_takes_is_taken(gpu, name):
    result = ALLOWED[name](torch.ones(3, 4, device=CUDA))
    assert isinstance(result, OnDevice)
    assert result.device == CUDA


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses_is_refused(gpu, name):
    with pytest.raises(GpuError):
        REFUSED[name](torch.ones(3, 4, device=CUDA))


@pytest.mark.parametrize(
    "read",
    [
        float,
        bool,
        torch.Tensor.item,
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(force=True),
        lambda x: torch.equal(x, x),
        lambda x: torch.zeros(()).copy_(x),
        lambda x: torch.save(x, io.BytesIO()),
    ],
)
def test_every_value_that_is_waited_for_is_counted(gpu, read):
    x = torch.ones((), device=CUDA)
    assert gpu.read_backs == []
    read(x)
    assert len(gpu.read_backs) == 1
    assert gpu.read_backs[0].startswith(os.path.join("tests", "devices"))


def test_sizes_that_only_the_device_knows_are_counted(gpu):
    x = torch.arange(4, device=CUDA)
    x[torch.tensor([0])], x.repeat_interleave(2)
    assert gpu.waits == []
    torch.unique(x), x[x > 1], torch.bincount(x)
    assert len(gpu.waits) == 3
    assert gpu.read_backs == []


def test_values_are_those_of_the_cpu(gpu):
    (drawn,) = (torch.randn(5, generator=g, device=CUDA) for g in step_generators(Stream.NOISE, (0,), [1], CUDA))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        product = torch.ones(2, 2, device=CUDA) @ torch.ones(2, 2, device=CUDA)
    assert product.dtype == torch.bfloat16
    assert torch.equal(drawn.cpu(), torch.randn(5, generator=step_generators(Stream.NOISE, (0,), [1])[0]))


def test_afterwards_torch_is_as_it_was():
    before = (torch.tensor, torch.Generator, torch.cuda.device_count(), nn.Module._apply)
    with pretended_cuda(count=7):
        assert torch.cuda.device_count() == 7
    assert (torch.tensor, torch.Generator, torch.cuda.device_count(), nn.Module._apply) == before
    with torch.inference_mode():
        assert torch.ones(1).is_inference()
    assert torch.Generator().device == CPU
