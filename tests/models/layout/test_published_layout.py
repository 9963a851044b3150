"""The numbers of the published layout network, made with our modules and the published weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flat_options import unet
from published_layout import (
    CLASSES,
    batch_normalized,
    corner_samples,
    our_weights,
    published_axis,
    published_layout,
)
from recorded import arrays_of, record_of

from guided_diffusion.models.blocks import ConditionedResBlock
from guided_diffusion.models.group_norm import normalize
from guided_diffusion.models.layout.masks import LevelMasks, ObjectMasks
from guided_diffusion.models.layout.norm import ISLAGroupNorm, LayoutConditioner, LayoutLevel
from guided_diffusion.models.layout.pasting import paste
from guided_diffusion.models.unet import UNetModel

STRIDE = 4


@torch.no_grad()
def test_regressed_masks_and_pasting():
    record, arrays = record_of("stay_masks"), arrays_of("stay_masks")
    conditioner = LayoutConditioner(CLASSES, styles=128, labels=180, stage_masks=False, overlap="mean")
    weights = our_weights(record["state_dict"], {f"conditioner.{k}": v for k, v in conditioner.state_dict().items()})
    conditioner.load_state_dict({name.removeprefix("conditioner."): value for name, value in weights.items()})
    layout = published_layout(arrays)
    present = layout.present
    features = conditioner._features(layout).flatten(0, 1)[:, ::7]
    np.testing.assert_allclose(features[present.flatten()], arrays["features"][present.flatten()], atol=1e-6)
    masks = conditioner.mask_logits(layout).sigmoid()
    np.testing.assert_allclose(masks[present], arrays["masks"][present], atol=1e-5)
    expected = np.unpackbits(arrays["inside_64"]).reshape(2, 5, 64, 64).astype(np.float32)
    for size, stride in ((64, 2), (24, 1)):
        pasted, inside = paste(masks, layout.box, (size, size), corner_samples)
        np.testing.assert_allclose(pasted[:, :, ::stride, ::stride], arrays[f"pasted_{size}"], atol=1e-5)
        if size == 64:
            np.testing.assert_array_equal(inside, expected)


@torch.no_grad()
def test_norm():
    record, arrays = record_of("stay_isla_norm"), arrays_of("stay_isla_norm")
    stride, channels = record["channel_stride"], record["channels"]
    norm = ISLAGroupNorm(channels, record["num_w"])
    norm.load_state_dict(our_weights(record["state_dict"], norm.state_dict(), "isla."))
    masks = torch.from_numpy(arrays["masks_16"])
    objects = ObjectMasks(torch.zeros(2, 5).long(), torch.zeros(2, 5), None, {}, 5, torch.zeros(2, 5, 16, 16))
    level = LevelMasks(masks, torch.ones_like(masks), objects.weights(masks))
    objects = replace(objects, levels={(16, 16): level})
    features = torch.from_numpy(arrays["w"]).unflatten(0, (2, 5))
    modulation = norm.modulate(LayoutLevel(features, objects, (16, 16), 5))
    factor, shift = (
        torch.baddbmm(table[:, :1], modulation.weight, table[:, 1:]).transpose(1, 2).unflatten(2, (16, 16))
        for table in (modulation.scale, modulation.shift)
    )
    np.testing.assert_allclose(factor[:, ::8], arrays["factor"], atol=1e-5)
    np.testing.assert_allclose(shift[:, ::8], arrays["beta"], atol=1e-5)
    x = np.random.default_rng(7).standard_normal((2, channels, 16, 16))
    x = torch.from_numpy((1.5 * x + 0.3).astype(np.float32))
    np.testing.assert_array_equal(x[:, ::8, ::2, ::2], arrays["x_probe"])
    for kind in ("running", "batch", "group"):
        normalized = normalize(x) if kind == "group" else batch_normalized(x, "isla.", kind)
        np.testing.assert_allclose((factor * normalized + shift)[:, ::stride], arrays[kind], atol=1e-5)
    expected = torch.nn.functional.silu(torch.from_numpy(arrays["group"]))
    np.testing.assert_allclose(modulation.norm_silu(x)[:, ::stride], expected, atol=1e-5)


@pytest.fixture(scope="module")
def network() -> UNetModel:
    record = record_of("stay_unet_64px")
    options = {key: value for key, value in record["options"].items() if key != "class_cond"}
    options["attention_resolutions"] = [int(side) for side in options["attention_resolutions"].split(",")]
    model = unet(**options, condition="boxes", overlap="mean").eval()
    weights = our_weights(record["state_dict"], model.state_dict())
    model.load_state_dict(weights)
    model.conditioner.axis = published_axis
    return model


@pytest.fixture(scope="module")
def recorded_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """The noisy images [2, 3, 64, 64] and their timesteps [2]."""
    record, arrays = record_of("stay_unet_64px"), arrays_of("stay_unet_64px")
    x = np.random.default_rng(record["seed"]).standard_normal((2, 3, 64, 64)).astype(np.float32)
    np.testing.assert_array_equal(x[:, :, ::STRIDE, ::STRIDE], arrays["x_probe"])
    return torch.from_numpy(x), torch.from_numpy(arrays["t"])


@pytest.mark.slow
@torch.no_grad()
def test_network(network, recorded_inputs):
    arrays = arrays_of("stay_unet_64px")
    layout, encoded = published_layout(arrays), network.encode(*recorded_inputs)
    kept = replace(layout, label=torch.zeros_like(layout.label))
    for name, condition in (("cond_group", layout), ("null_kept_boxes", kept), ("null_empty", layout.null())):
        found = network.decode(*encoded, network.modulate(condition))[:, :, ::STRIDE, ::STRIDE].numpy()
        assert np.abs(found - arrays[name]).max() <= 1e-4 * np.abs(arrays[name]).max(), name


@torch.no_grad()
def test_stage_masks(network, recorded_inputs):
    record, arrays = record_of("stay_unet_64px"), arrays_of("stay_unet_64px")
    modulations, seen = network.modulate(published_layout(arrays)), []
    regressed = modulations[-1].object_masks()
    np.testing.assert_allclose(regressed[:, :, ::STRIDE, ::STRIDE], arrays["regressed"], atol=1e-5)
    hooks = [
        block.register_forward_hook(lambda _, inputs, __: seen.append(inputs[2].object_masks()))
        for block in network.modules()
        if isinstance(block, ConditionedResBlock)
    ]
    network.decode(*network.encode(*recorded_inputs), modulations)
    for hook in hooks:
        hook.remove()
    assert len(seen) == record["conditioned_blocks"]
    # The first block was recorded with the regressed masks as they were before it scaled them.
    means = torch.stack([masks.mean(dim=(2, 3)) for masks in (regressed, *seen[1:])])
    np.testing.assert_allclose(means, arrays["stage_means_group"], atol=1e-5)
    np.testing.assert_allclose(seen[1], arrays["stage_1"], atol=1e-5)
    np.testing.assert_allclose(seen[-1][:, :, ::STRIDE, ::STRIDE], arrays["stage_last"], atol=1e-4)
    assert torch.equal(network.object_masks(*recorded_inputs, modulations), seen[-1])
