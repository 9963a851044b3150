from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.conditioning import Modulations
from guided_diffusion.models.spade.modulation import DenseModulation, GatherIndex, LookupModulation
from guided_diffusion.models.spade.norm import SPADEGroupNorm, SpadeLevelCache

CLASSES = 5


def blocky(n: int = 2, size: tuple[int, int] = (12, 20), *, edges: bool = False, seed: int = 0) -> SemanticMap:
    """Random rectangles of labels, the null id among them."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES + 1, (n, -(-size[0] // 4), -(-size[1] // 5)), generator=draw)
    label = label.repeat_interleave(4, 1).repeat_interleave(5, 2)[:, : size[0], : size[1]]
    edge = torch.rand(label.shape, generator=draw) > 0.8 if edges else None
    return SemanticMap(label.to(torch.uint8), CLASSES, edge)


MAPS = {
    "blocky": blocky(),
    "edges": blocky(edges=True),
    "noise": SemanticMap(torch.randint(0, CLASSES + 1, (2, 12, 20)), CLASSES),
    "null": blocky(edges=True).null(),
    "one image": blocky(1),
    "small": blocky(3, (2, 2)),
    "one row": blocky(2, (1, 6), edges=True),
    "one column": blocky(2, (6, 1)),
    "one pixel": blocky(2, (1, 1)),
    "few of many classes": SemanticMap(blocky(edges=True).label % 3 + 90, 182, blocky(edges=True).edge),
    "no class at all": SemanticMap(torch.full((2, 4, 4), 182), 182),
}


def published(layer: SPADEGroupNorm, x: Tensor, condition: SemanticMap, scale: Tensor | None, shift: Tensor | None):
    segmap = F.interpolate(condition.one_hot(x.dtype), size=x.shape[2:], mode="nearest")
    hidden = layer.mlp_shared(segmap)
    h = F.group_norm(x, 32) * (1 + layer.mlp_gamma(hidden)) + layer.mlp_beta(hidden)
    if scale is not None:
        h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return F.silu(h)


@pytest.mark.parametrize("time", [False, True], ids=["plain", "timestep"])
@pytest.mark.parametrize("form", ["lookup", "mixed", "dense"])
@pytest.mark.parametrize("name", MAPS)
def test_all_forms_are_the_published_formula_gradients_too(fill, noise, name, form, time):
    condition = MAPS[name]
    # The variance of a group of two values can be near 0, which leaves float32 few digits of a gradient.
    dtype = torch.float64 if name == "one pixel" else torch.float32
    layer = fill(SPADEGroupNorm(64, condition.channels, hidden=16)).to(dtype, memory_format=torch.channels_last)
    n = len(condition)
    x = noise(n, 64, *condition.size).to(dtype, memory_format=torch.channels_last).requires_grad_()
    times = [noise(n, 64, seed=seed).to(dtype).requires_grad_() for seed in (1, 2)] if time else [None, None]
    inputs = [x, *layer.parameters(), *(value for value in times if value is not None)]
    expected = published(layer, x, condition, *times)
    out = layer.norm_silu(x, layer.modulate(SpadeLevelCache(condition, condition.size, form)), *times)
    outer = noise(*x.shape, seed=3).to(dtype)
    wanted, found = (torch.autograd.grad(y, inputs, outer) for y in (expected, out))
    with torch.no_grad():  # another path, in place
        kept = x.clone()
        sampled = layer.norm_silu(x, layer.modulate(SpadeLevelCache(condition, condition.size, form)), *times)
        assert torch.equal(x, kept)
    for ours, theirs in zip((out, sampled, *found), (expected, expected, *wanted), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * max(theirs.abs().max(), 1)


def test_gradients_are_those_of_the_definition_in_double_precision(fill, noise):
    condition = blocky(2, (4, 6), edges=True)
    layer = fill(SPADEGroupNorm(32, condition.channels, hidden=2)).double()
    x, scale, shift = (noise(*shape).double().requires_grad_() for shape in ((2, 32, 4, 6), (2, 32), (2, 32)))

    def run(x, scale, shift, *weights):
        named = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        modulate = torch.func.functional_call(Modulating(layer), {f"layer.{k}": v for k, v in named.items()}, ())
        return layer.norm_silu(x, modulate, scale, shift)

    class Modulating(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self):
            level = SpadeLevelCache(condition, condition.size, "lookup")
            return self.layer.modulate(level)

    assert torch.autograd.gradcheck(run, (x, scale, shift, *layer.parameters()), fast_mode=True)


def test_form_follows_the_number_of_patches():
    def chosen(condition: SemanticMap, form: str = "auto") -> str:
        return SpadeLevelCache(condition, condition.size, form).impl

    smooth = SemanticMap(torch.zeros(2, 32, 32, dtype=torch.uint8), CLASSES)
    vanishing = SemanticMap(smooth.label.where(torch.rand(2, 32, 32) < 0.5, CLASSES), CLASSES)
    speckled = SemanticMap(torch.randint(0, CLASSES, (2, 32, 32)), CLASSES)
    assert [chosen(condition) for condition in (smooth, vanishing, speckled)] == ["lookup", "mixed", "dense"]
    assert chosen(speckled, "lookup") == "lookup"
    assert chosen(smooth, "mixed") == "mixed"
    assert chosen(smooth, "dense") == "dense"
    # However small the level, a null map is looked up: it has no more patches than a map of one label.
    assert chosen(SemanticMap(torch.full((1, 4, 4), CLASSES), CLASSES)) == "lookup"


def test_what_a_level_shares_is_made_once():
    level = SpadeLevelCache(blocky(), (6, 10), "auto")
    for name in ("one_hot", "one_hot_3x3", "patches", "gather_index", "patch_bags", "pixel_bags"):
        assert getattr(level, name) is getattr(level, name)
    assert level.gather_index.rows is level.gather_index.rows
    assert level.one_hot.shape == (2, CLASSES, 6, 10)


def test_nothing_of_image_size_is_kept_but_the_input(fill, noise):
    label = torch.arange(4)[:, None, None].expand(4, 32, 40) % CLASSES
    condition = SemanticMap(label.where(torch.arange(40) < 20, CLASSES), CLASSES)
    layer = fill(SPADEGroupNorm(32, CLASSES, hidden=16)).to(memory_format=torch.channels_last)
    x = noise(4, 32, 32, 40).to(memory_format=torch.channels_last).requires_grad_()
    modulation = layer.modulate(SpadeLevelCache(condition, condition.size, "lookup"))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer.norm_silu(x, modulation, noise(4, 32), noise(4, 32))
    large = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor.numel() >= x.numel() // 2}
    assert large == {x.untyped_storage().data_ptr()}


def modulations(noise, n: int, form: str, seed: int = 0) -> Modulations:
    """Two layers of one level and one of another."""
    condition = blocky(n, seed=seed)
    sizes = [(12, 20), (12, 20), (6, 10)]
    levels = {size: SpadeLevelCache(condition, size, form) for size in sizes}
    layers = []
    for number, size in enumerate(sizes):
        layer = SPADEGroupNorm(32, CLASSES, hidden=4)
        for parameter in layer.parameters():
            parameter.data = noise(*parameter.shape, seed=number)
        layers.append(layer.modulate(levels[size]))
    return Modulations(layers)


@torch.no_grad()
@pytest.mark.parametrize("form", ["lookup", "mixed", "dense"])
def test_modulation_of_one_map_stands_for_many(noise, form):
    one, many = (modulations(noise, 1, form) for _ in range(2))
    many = many.expand(3)
    for single, several, size in zip(one, many, ((12, 20), (12, 20), (6, 10)), strict=True):
        x = noise(3, 32, *size)
        assert len(several) == 3
        expected = torch.cat([single.norm_silu(row) for row in x.split(1)])
        torch.testing.assert_close(several.norm_silu(x), expected)
    if form == "lookup":
        assert many[0].gather_index is many[1].gather_index


@torch.no_grad()
@pytest.mark.parametrize("forms", [("lookup", "lookup"), ("mixed", "lookup"), ("lookup", "dense"), ("dense", "mixed")])
@pytest.mark.parametrize("time", [False, True])
def test_modulations_concatenate_along_the_batch(noise, forms, time):
    first, second = modulations(noise, 2, forms[0]), modulations(noise, 1, forms[1], seed=1)
    joint = Modulations.cat([first, second])
    x = noise(3, 32, 12, 20)
    scale, shift = (noise(3, 32, seed=1), noise(3, 32, seed=2)) if time else (None, None)
    parts = [None, None] if scale is None else [(scale[:2], shift[:2]), (scale[2:], shift[2:])]
    for one, two, both in list(zip(first, second, joint, strict=True))[:2]:
        assert len(both) == 3
        expected = [
            layer.norm_silu(part, *(times or (None, None)))
            for layer, part, times in zip((one, two), (x[:2], x[2:]), parts, strict=True)
        ]
        torch.testing.assert_close(both.norm_silu(x, scale, shift), torch.cat(expected))
        if "mixed" not in forms:  # which without gradients is made for sampling alone
            with torch.enable_grad():
                torch.testing.assert_close(both.norm_silu(x, scale, shift), torch.cat(expected))


def test_only_one_map_can_stand_for_many(noise):
    with pytest.raises(AssertionError, match="one condition"):
        modulations(noise, 2, "lookup").expand(4)
    assert len(DenseModulation(noise(2, 3, 4, 4), noise(2, 3, 4, 4))) == 2
    assert (
        len(LookupModulation(noise(7, 3), noise(7, 3), GatherIndex.of(torch.zeros(2, 4, 4, dtype=torch.int64), 7))) == 2
    )


@pytest.mark.parametrize("form", ["lookup", "mixed", "dense"])
def test_autocast_keeps_the_type_of_the_features(fill, noise, form):
    condition = MAPS["noise"]
    layer = fill(SPADEGroupNorm(32, condition.channels, hidden=16))
    x = noise(2, 32, 12, 20).bfloat16().requires_grad_()
    level = SpadeLevelCache(condition, condition.size, form)
    expected = layer.norm_silu(x.float(), layer.modulate(SpadeLevelCache(condition, condition.size, form)))
    with torch.autocast("cpu", torch.bfloat16):
        trained = layer.norm_silu(x, layer.modulate(level))
        with torch.no_grad():
            sampled = layer.norm_silu(x, layer.modulate(level))
    for found in (trained, sampled):
        assert found.dtype == torch.bfloat16
        assert (found - expected).abs().max() <= 0.05 * expected.abs().max()
