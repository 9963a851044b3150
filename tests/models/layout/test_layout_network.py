"""Networks of boxes: what their layouts change, and what they leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flat_options import noise_process, unet
from torch.nn import functional as F

from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.diffusion.guidance import GuidedNetwork
from guided_diffusion.models.blocks import ConditionedResBlock
from guided_diffusion.models.compilation import compile_network
from guided_diffusion.models.conditioning import Modulations
from guided_diffusion.models.layout.modulation import EmptyModulation, LayoutModulation

T = torch.tensor([3.0, 711.5])
FORMS = [
    {"stage_masks": True, "overlap": "mean"},
    {"stage_masks": True, "overlap": "smallest", "resblock_updown": True},
    {"stage_masks": False, "overlap": "smallest"},
]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_every_property_of_an_object_matters_and_empty_slots_do_not(tiny_boxes, noise, layout, form):
    model, x, given = tiny_boxes(**form), noise(2, 3, 16, 16), layout()
    out = model(x, T, given)
    moved, styled = given.box.clone(), given.style.clone()
    moved[:, 1] = torch.tensor([0.1, 0.0, 0.4, 0.3])
    styled[:, 1] += 1
    for change in ({"label": (given.label + 1) % 4}, {"box": moved}, {"style": styled}):
        assert (model(x, T, replace(given, **change)) - out).abs().amax(dim=(1, 2, 3)).min() > 1e-4, change.keys()
    garbage = torch.where(given.present[..., None], given.box, 0.3)
    noisy = torch.where(given.present[..., None], given.style, float("nan"))
    assert not given.present.all()
    assert torch.equal(model(x, T, replace(given, box=garbage, style=noisy)), out)
    torch.testing.assert_close(model(x, T, given.padded(9)), out, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_more_slots_are_inert_in_a_norm(tiny_boxes, noise, layout):
    """To the last bit, whatever the number of slots: what is added to the sums is zero."""
    model, x = tiny_boxes(stage_masks=False), noise(2, 32, 16, 16)
    few, many = (model.modulate(condition)[-1].norm_silu(x) for condition in (layout(), layout().padded(7)))
    assert torch.equal(few, many)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(tiny_boxes, noise, layout, form):
    model, x, given = tiny_boxes(**form), noise(5, 3, 16, 16), layout(5)
    t = torch.linspace(0, 900, 5)
    together = model(x, t, given)
    for i in (0, 3):
        alone = given[i : i + 1]
        torch.testing.assert_close(model(x[i : i + 1], t[i : i + 1], alone), together[i : i + 1], rtol=1e-5, atol=1e-5)
    shorter = LayoutCondition.cat([given[:1], layout(1, seed=4).padded(6)])
    torch.testing.assert_close(model(x[:2], t[:2], shorter)[:1], together[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_dropped_layout_is_plain_normalization(tiny_boxes, noise, layout, form):
    """Dropped in a batch, in training, and as one null condition for all images of sampling."""
    model, x, given = tiny_boxes(**form), noise(2, 3, 16, 16), layout()
    half = model(x, T, given.drop(torch.tensor([False, True])))
    with torch.no_grad():
        encoded, null = model.encode(x, T), model.modulate(given[:1].null())
        assert all(isinstance(modulation, EmptyModulation) for modulation in null)
        out = model.decode(*encoded, null.expand(2))
        none = LayoutCondition(given.label[:, :0], given.box[:, :0], given.style[:, :0], 4, given.size)
        torch.testing.assert_close(model(x, T, none), out)
        h = noise(2, 32, 16, 16)
        norm = model.modulate(given.drop(torch.tensor([False, True])))[-1]
        torch.testing.assert_close(norm.norm_silu(h)[1], F.silu(F.group_norm(h, 32))[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half[1], out[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half[0], model(x, T, given)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_guidance_joins_both_branches(tiny_boxes, noise, layout, form):
    model, x, given = tiny_boxes(**form), noise(2, 3, 16, 16), layout()
    t = torch.tensor([300, 300])
    guided = GuidedNetwork(model, noise_process(), given, scale=2.0)
    cond, null = model(x, t, given), model(x, t, given.null())
    assert (cond - null).abs().max() > 1e-3
    torch.testing.assert_close(guided(x, t)[:, :3], (2 * cond - null)[:, :3], rtol=1e-4, atol=1e-5)
    other = layout(seed=9)
    again = guided.with_condition(other)(x, t)
    torch.testing.assert_close(again[:, :3], (2 * model(x, t, other) - null)[:, :3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("overlap", ["mean", "smallest"])
@torch.no_grad()
def test_moving_an_object_leaves_what_is_outside_alone(tiny_boxes, noise, layout, overlap):
    model, h = tiny_boxes(overlap=overlap), noise(2, 32, 16, 16)
    given = layout()
    box = given.box.clone()
    box[:, 1] = torch.tensor([0.5, 0.25, 0.75, 0.75])
    with_object = replace(given, box=box)
    without = with_object.without(torch.tensor([[False, True, False, False]]).expand(2, 4))
    changed = [model.modulate(condition)[-1].norm_silu(h) for condition in (with_object, without)]
    differs = (changed[0] != changed[1]).any(dim=1)
    outside = torch.ones(16, 16, dtype=torch.bool)
    outside[4:12, 8:12] = False
    assert not differs[:, outside].any()
    assert differs[:, ~outside].all()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_all_weights_learn_also_from_a_batch_without_any_object(tiny_boxes, noise, layout, form):
    model, x = tiny_boxes(**form), noise(2, 3, 16, 16)
    model(x, T, layout()).square().mean().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())
    model.zero_grad(set_to_none=True)
    empty = layout().null()
    model(
        x, T, replace(empty, label=empty.label[:, :1], box=empty.box[:, :1], style=empty.style[:, :1])
    ).sum().backward()
    # Data-parallel training waits for a gradient of every weight.
    assert all(weight.grad is not None for weight in model.parameters())
    assert not model.conditioner.embedding.weight.grad.any()


@torch.no_grad()
def test_a_fresh_network_ignores_its_layout(noise, layout):
    size = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1,)}
    model = unet(**size, num_classes=4, condition="boxes", style_dim=6)
    for modulation, (norm, _) in zip(model.modulate(layout()), model._conditioned_norms(), strict=True):
        h = noise(2, norm.gamma.out_features, 16, 16)
        assert isinstance(modulation, LayoutModulation)
        torch.testing.assert_close(modulation.norm_silu(h), F.silu(F.group_norm(h, 32)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_heads_are_in_all_blocks_but_the_last(tiny_boxes):
    for stage_masks in (True, False):
        model = tiny_boxes(stage_masks=stage_masks)
        heads = [m.mask_head is not None for m in model.modules() if isinstance(m, ConditionedResBlock)]
        assert heads == [stage_masks] * (len(heads) - 1) + [False]


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_masks_of_the_last_block(tiny_boxes, noise, layout, form):
    model, x, given = tiny_boxes(**form), noise(2, 3, 16, 16), layout()
    masks = model.object_masks(x, T, model.modulate(given))
    assert masks.shape == (2, 4, 16, 16)
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-6
    assert (masks[:, 0] == 1).all()
    assert not masks[~given.present].any()
    y = (torch.arange(16) / 16)[:, None].expand(16, 16)
    for image, slot in ((0, 1), (1, 3)):
        x0, y0, x1, y1 = given.box[image, slot].tolist()
        outside = (y > y1) | (y + 1 / 16 < y0) | (x1 < y.T) | (x0 > y.T + 1 / 16)
        assert not masks[image, slot][outside].any()
        assert masks[image, slot].any()
    later = model.object_masks(x, T + 100, model.modulate(given))
    assert torch.equal(later, masks) != form["stage_masks"]
    assert model.conditioner.mask_logits(given).shape == (2, 4, 16, 16)


@pytest.mark.parametrize("slots", [0, 1])
@torch.no_grad()
def test_layouts_of_few_slots_have_as_many_masks(tiny_boxes, noise, layout, slots):
    """Inside, networks add empty slots to such layouts."""
    model, given = tiny_boxes(), layout()
    few = replace(given, label=given.label[:, :slots], box=given.box[:, :slots], style=given.style[:, :slots])
    assert model.conditioner.mask_logits(few).shape == (2, slots, 16, 16)
    masks = model.object_masks(noise(2, 3, 16, 16), T, model.modulate(few))
    assert torch.equal(masks, torch.ones(2, slots, 16, 16))
    assert not model.object_masks(noise(2, 3, 16, 16), T, model.modulate(few.null())).any()


@pytest.mark.slow
@torch.no_grad()
def test_stage_masks_mix_by_the_share_of_the_class(tiny_boxes, noise, layout):
    model, x, given = tiny_boxes(stage_masks=True), noise(2, 3, 16, 16), layout()
    regressed = tiny_boxes(stage_masks=False)
    regressed.load_state_dict({k: v for k, v in model.state_dict().items() if k in regressed.state_dict()})
    model.conditioner.alpha.fill_(-100)  # nothing of what the heads say
    torch.testing.assert_close(model(x, T, given), regressed(x, T, given), rtol=1e-5, atol=1e-5)
    model.conditioner.alpha.fill_(100)
    assert (model(x, T, given) - regressed(x, T, given)).abs().max() > 1e-3


@torch.no_grad()
def test_rectangles(tiny_boxes, noise, layout):
    model = tiny_boxes(image_size=[16, 24])
    x, given = noise(2, 3, 16, 24), layout(size=(16, 24))
    assert model(x, T, given).shape == (2, 6, 16, 24)
    assert model.object_masks(x, T, model.modulate(given)).shape == (2, 4, 16, 24)


@pytest.mark.slow
def test_checkpointing_changes_nothing(tiny_boxes, noise, layout):
    found = []
    for flag in (False, True):
        model = tiny_boxes(use_checkpoint=flag, resblock_updown=True)
        out = model(noise(2, 3, 16, 16), T, layout())
        out.square().mean().backward()
        found.append([out.detach(), *(weight.grad for weight in model.parameters())])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain)


def test_bfloat16_autocast_is_close(tiny_boxes, noise, layout):
    model, x = tiny_boxes(), noise(2, 3, 16, 16)
    expected = model(x, T, layout())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x, T, layout())
    out.sum().backward()
    assert out.dtype == torch.float32
    assert (out - expected).norm() < 0.05 * expected.norm()


@torch.no_grad()
def test_double_precision_agrees(tiny_boxes, noise, layout):
    model, x = tiny_boxes(), noise(2, 3, 16, 16)
    single = model(x, T, layout())
    torch.testing.assert_close(model.double()(x.double(), T, layout()).float(), single, rtol=1e-4, atol=1e-4)


def test_loaders_prepare_nothing(tiny_boxes):
    """Else their processes would get a copy of the weights."""
    assert tiny_boxes().preparation((16, 16)) is None


def test_a_layout_of_another_kind_is_refused(tiny_boxes, layout):
    model, given = tiny_boxes(), layout()
    with pytest.raises(AssertionError, match="5 classes"):
        model.modulate(replace(given, num_classes=5))
    with pytest.raises(AssertionError, match="3 numbers"):
        model.modulate(replace(given, style=given.style[..., :3]))


@pytest.fixture
def _forget_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_forget_compiled")
@torch.no_grad()
def test_one_compilation_decodes_all_batches(tiny_boxes, noise, layout):
    plain, compiled = (tiny_boxes(channel_mult=(1,), attention_resolutions=()) for _ in range(2))
    compile_network(compiled, backend="eager")

    def guided(model, n):
        """Both branches at once, from the same features."""
        cond, null = model.modulate(layout(n)), model.modulate(layout(1).null()).expand(n)
        skips, emb = plain.encode(noise(2 * n, 3, 16, 16), torch.full((2 * n,), 3))
        return model.decode(skips, emb, Modulations.cat([cond, null]))

    guided(compiled, 2)
    with torch.compiler.set_stance("fail_on_recompile"):
        for n in (2, 3):
            torch.testing.assert_close(guided(compiled, n), guided(plain, n), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("_forget_compiled")
def test_gradients_are_compiled(tiny_boxes, noise, layout):
    """Of masks as a head sees them, and of the norm that they modulate: all that is not a layer of PyTorch."""
    model, found = tiny_boxes(), []
    head, norm = model.output_blocks[-2][0].mask_head, model.output_blocks[-1][0].out_norm
    weights = [norm.gamma.weight, model.conditioner.regressor.fc.weight, *head.parameters()]
    for compiled in (False, True):
        modulation = model.modulate(layout())[-1]

        def norm_silu(x, scale, shift, modulation=modulation):
            return modulation.refined(modulation.see(head, x), (16, 16)).norm_silu(x, scale, shift)

        apply = torch.compile(norm_silu, backend="aot_eager") if compiled else norm_silu
        x = noise(2, 32, 16, 16).requires_grad_()
        (apply(x, noise(2, 32), noise(2, 32)) * noise(2, 32, 16, 16, seed=1)).sum().backward()
        found.append([x.grad, *(weight.grad.clone() for weight in weights)])
        with torch.no_grad():  # in place
            found[-1].append(apply(x.detach(), noise(2, 32), noise(2, 32)))
        model.zero_grad()
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
