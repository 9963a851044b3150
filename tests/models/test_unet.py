from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from flat_options import unet

from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.layers import AttentionBlock
from guided_diffusion.runtime.errors import ConfigError

T = torch.tensor([3.0, 711.5])


def test_published_names_and_shapes(golden):
    with torch.device("meta"):
        model = unet(**golden.options)
    assert {name: list(weight.shape) for name, weight in model.state_dict().items()} == golden.shapes


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lookup", *(pytest.param(f, marks=pytest.mark.slow) for f in ("mixed", "dense"))])
@torch.no_grad()
def test_published_outputs(golden, fill, form):
    model = fill(unet(**golden.options, spade=form)).eval()
    side, stride = golden.options["image_size"], golden.stride
    x = np.random.default_rng(7).standard_normal((2, 3, side, side)).astype(np.float32)
    np.testing.assert_array_equal(x[:, :, ::stride, ::stride], golden.arrays["x_probe"])
    skips, emb = model.encode(torch.from_numpy(x), torch.from_numpy(golden.arrays["t"]))
    for key, condition in (("cond", golden.condition), ("null", golden.condition.null())):
        out = model.decode(skips, emb, model.modulate(condition))[:, :, ::stride, ::stride].numpy()
        expected = golden.arrays[key]
        assert np.abs(out - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("updown", [False, True])
@torch.no_grad()
def test_forward_is_encode_modulate_decode_and_changes_none_of_them(tiny, noise, label_map, updown):
    model, x, condition = tiny(resblock_updown=updown), noise(2, 3, 16, 16), label_map()
    skips, emb = model.encode(x, T)
    modulations = model.modulate(condition)
    kept = [skip.clone() for skip in skips], emb.clone(), [m.scale.clone() for m in modulations]
    for _ in range(2):
        assert torch.equal(model.decode(skips, emb, modulations), model(x, T, condition))
    assert len(skips) == len(kept[0])
    assert all(map(torch.equal, skips, kept[0]))
    assert torch.equal(emb, kept[1])
    assert all(torch.equal(m.scale, gamma) for m, gamma in zip(modulations, kept[2], strict=True))


@torch.no_grad()
def test_every_input_matters(tiny, noise, label_map):
    model, x, condition = tiny(), noise(2, 3, 16, 16), label_map()
    out = model(x, T, condition)
    for other in (model(x + 0.1, T, condition), model(x, T + 0.5, condition), model(x, T, condition.null())):
        assert (other - out).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_the_condition_does_not_reach_the_encoder_nor_the_image_the_modulation(tiny, noise, label_map):
    model = tiny()
    sum(skip.sum() for skip in model.encode(noise(2, 3, 16, 16), T)[0]).backward()
    encoder = {name for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    sum(m.scale.sum() + m.shift.sum() for m in model.modulate(label_map())).backward()
    spade = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in encoder} == {"input_blocks", "time_embed"}
    assert spade == {name for name, _ in model.named_parameters() if "in_norm" in name or "out_norm" in name}


@torch.no_grad()
def test_one_null_modulation_serves_a_batch(tiny, noise, label_map):
    model, x = tiny(), noise(2, 3, 16, 16)
    null = model.modulate(label_map(n=1).null()).expand(2)
    torch.testing.assert_close(model.decode(*model.encode(x, T), null), model(x, T, label_map().null()))


@pytest.mark.parametrize(
    ("image_channels", "learn_sigma", "expected"), [(3, True, 6), (3, False, 3), (1, True, 2), (1, False, 1)]
)
@torch.no_grad()
def test_rectangles_edges_and_channels(tiny, noise, label_map, image_channels, learn_sigma, expected):
    model = tiny(image_size=[16, 24], image_channels=image_channels, learn_sigma=learn_sigma, no_instance=False)
    condition = label_map(size=(16, 24), edges=True)
    out = model(noise(2, image_channels, 16, 24), T, condition)
    assert out.shape == (2, expected, 16, 24)
    assert (model(noise(2, image_channels, 16, 24), T, condition.null()) - out).abs().max() > 1e-3


@torch.no_grad()
def test_a_fresh_network_puts_out_zeros(noise, label_map):
    model = unet(image_size=16, num_classes=4, num_channels=32, num_res_blocks=1)
    assert not model(noise(2, 3, 16, 16), T, label_map()).any()


def _loss_and_gradients(model, x, condition, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = model(x, T, condition)
        out.square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    return out.detach(), gradients


@pytest.mark.slow
def test_checkpointing_changes_nothing_dropout_included(tiny, noise, label_map):
    x, condition = noise(2, 3, 16, 16), label_map()
    plain, checkpointed, other = (
        _loss_and_gradients(tiny(use_checkpoint=flag, dropout=0.3).train(), x, condition, seed)
        for flag, seed in ((False, 5), (True, 5), (True, 6))
    )
    assert torch.equal(plain[0], checkpointed[0])
    assert not torch.equal(plain[0], other[0])
    for name, gradient in plain[1].items():
        torch.testing.assert_close(checkpointed[1][name], gradient, msg=name)


@pytest.mark.slow
def test_checkpointing_keeps_less_and_only_when_asked(tiny, noise, label_map):
    kept = {}
    for flag in (False, True):
        storages = {}
        model = tiny(use_checkpoint=flag)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def pack(tensor, storages=storages, weights=weights):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model(noise(2, 3, 16, 16), T, label_map())
        kept[flag] = sum(storages.values())
        out.sum().backward()
    assert kept[True] < 0.3 * kept[False]


@pytest.mark.slow
@pytest.mark.parametrize("use_checkpoint", [False, True])
def test_bfloat16_autocast_is_close_and_puts_out_float32(tiny, noise, label_map, use_checkpoint):
    x, condition = noise(2, 3, 16, 16), label_map()
    outs, gradients = [], []
    for context in (nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16)):
        model = tiny(use_checkpoint=use_checkpoint)
        with context:
            out = model(x, T, condition)
        out.square().mean().backward()
        outs.append(out.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert outs[1].dtype == torch.float32
    assert not torch.equal(outs[0], outs[1])
    assert (outs[1] - outs[0]).norm() < 0.05 * outs[0].norm()
    assert (gradients[1] - gradients[0]).norm() < 0.1 * gradients[0].norm()


@torch.no_grad()
def test_double_precision_agrees(tiny, noise, label_map):
    model, x = tiny(), noise(2, 3, 16, 16)
    single = model(x, T, label_map())
    torch.testing.assert_close(model.double()(x.double(), T, label_map()).float(), single, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_copy_is_independent(tiny, noise, label_map):
    model, x = tiny(), noise(2, 3, 16, 16)
    out, copied = model(x, T, label_map()), copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.zero_()
    assert torch.equal(copied(x, T, label_map()), out)


def test_heads_of_encoder_and_decoder():
    with torch.device("meta"):
        model = unet(
            image_size=16,
            num_classes=4,
            num_channels=32,
            num_res_blocks=1,
            attention_resolutions=[8],
            num_heads=4,
            num_heads_upsample=2,
        )
        fixed = unet(image_size=16, num_classes=4, num_channels=32, num_res_blocks=1, num_head_channels=16)

    def heads(blocks):
        return {layer.num_heads for layer in blocks.modules() if isinstance(layer, AttentionBlock)}

    assert (heads(model.input_blocks), heads(model.middle_block), heads(model.output_blocks)) == ({4}, {4}, {2})
    assert heads(fixed) == {2, 4, 6}


def test_build_reports_every_unusable_key_at_once():
    with pytest.raises(ConfigError) as caught:
        unet(image_size=30, num_classes=4, num_channels=48, num_res_blocks=1, attention_resolutions=[9, 10])
    assert [line.split()[0] for line in caught.value.messages] == [
        "image_size",
        "num_channels",
        "attention_resolutions",
    ]


def test_a_condition_of_other_channels_is_refused(tiny):
    with pytest.raises(AssertionError, match=r"\b5 channels"):
        tiny().modulate(SemanticMap(torch.zeros(1, 16, 16, dtype=torch.uint8), 5))
