"""The compiled network; with backends that make no machine code but capture and guard alike.

Only `aot_eager` differentiates and makes functions of what is done in place.
"""

from __future__ import annotations

import importlib.util
import shutil

import pytest
import torch

from guided_diffusion.conditions.patches import number_patches
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.compilation import compile_network, wants_compiling
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.runtime.errors import ConfigError

pytestmark = pytest.mark.slow

# Every kind of layer once: the block in the middle has attention, which no level needs beside it.
SMALLEST = {"channel_mult": (1,), "attention_resolutions": ()}


@pytest.fixture(autouse=True)
def _forget_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def batch(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, SemanticMap]:
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 4, (n, 4, 4), generator=draw).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return torch.randn(n, 3, 16, 16, generator=draw), 1000 * torch.rand(n, generator=draw), SemanticMap(label, 4)


def gradients(model: UNetModel, *inputs) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    out = model(*inputs)
    out.square().mean().backward()
    return out.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


# In training, `mixed` hands the decoder what `dense` does, which is a product and a sum.
@pytest.mark.parametrize(("form", "backend"), [("lookup", "aot_eager"), ("dense", "eager")])
def test_one_compilation_serves_all_batches_the_last_short_one_too(tiny, form, backend):
    plain, compiled = (tiny(spade=form, **SMALLEST) for _ in range(2))
    compile_network(compiled, backend=backend)
    gradients(compiled, *batch(4, seed=0))
    counted = set()
    with torch.compiler.set_stance("fail_on_recompile"):
        for n, seed in ((4, 1), (3, 2), (2, 3), (4, 4)):
            inputs = batch(n, seed)
            out, gradient = gradients(compiled, *inputs)
            expected, wanted = gradients(plain, *inputs)
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
            assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()
            counted.add(len(number_patches(inputs[2], (16, 16))))
    assert len(counted) > 1


def test_guided_sampling_compiles_once_too(tiny):
    plain, compiled = (tiny(**SMALLEST) for _ in range(2))
    encode = compiled.encode
    compile_network(compiled, backend="aot_eager")
    compiled.encode = encode  # which has one branch

    def branches(model: UNetModel, n: int, seed: int) -> torch.Tensor:
        x, t, condition = batch(n, seed)
        modulations = type(model.modulate(condition)).cat([model.modulate(condition), model.modulate(condition.null())])
        skips, emb = model.encode(x, t)
        return model.decode([torch.cat([skip, skip]) for skip in skips], torch.cat([emb, emb]), modulations)

    with torch.inference_mode():
        branches(compiled, 4, 0)
        with torch.compiler.set_stance("fail_on_recompile"):
            for n, seed in ((4, 1), (3, 2)):
                torch.testing.assert_close(branches(compiled, n, seed), branches(plain, n, seed), rtol=1e-4, atol=1e-5)


def test_what_a_network_is_told_more_is_compiled_too(tiny):
    plain, compiled = (tiny(**SMALLEST, inpaint=True, augment=0.1) for _ in range(2))
    compile_network(compiled, backend="aot_eager")

    def encoded(model: UNetModel, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the encoder makes of it, which the rest of a network does not see, and the gradients."""
        x, t, _ = batch(n, seed)
        model.zero_grad(set_to_none=True)
        skips, emb = model.encode(torch.cat([x, x, x[:, :1]], dim=1), t, torch.linspace(-1, 1, 8 * n).view(n, 8))
        out = torch.cat([each.flatten() for each in (*skips, emb)])
        out.square().mean().backward()
        return out.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    encoded(compiled, 4, 0)
    with torch.compiler.set_stance("fail_on_recompile"):
        for n, seed in ((4, 1), (3, 2)):
            (out, gradient), (expected, wanted) = (encoded(model, n, seed) for model in (compiled, plain))
            torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
            assert (gradient - wanted).norm() <= 1e-5 * wanted.norm()


def test_auto_compiles_on_cuda_only(monkeypatch):
    assert not wants_compiling("auto", torch.device("cpu"))
    assert not wants_compiling(False, torch.device("cuda"))
    assert not wants_compiling("auto", torch.device("cuda"), label_diffusion=True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not wants_compiling("auto", torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"^compile is true\b"):
        wants_compiling(True, torch.device("cpu"))


def test_without_triton_nothing_is_compiled_on_a_gpu(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not wants_compiling("auto", torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"^compile is true, but Triton\b.*pip install triton"):
        wants_compiling(True, torch.device("cuda"))
    assert wants_compiling(True, torch.device("cpu"))
