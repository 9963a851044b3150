"""The network without a condition: guided-diffusion's, with its published names, shapes and numbers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from flat_options import unet
from torch.nn import functional as F

from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.models.blocks import ConditionedResBlock
from guided_diffusion.models.state_dict import infer_architecture, load_weights
from guided_diffusion.models.unet import UNetModel
from guided_diffusion.runtime.errors import CheckpointError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
OPTIONS = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
RECORDS = {
    name: json.loads((GOLDEN / f"ddpmseg_{name}.json").read_text()) for name in ("lsun256_layout", "features_64px")
}


def build(options: dict) -> UNetModel:
    """Build the network of published options, which say of the heads, attention and levels what ours do."""
    keys = "image_size num_channels num_res_blocks num_heads num_head_channels use_scale_shift_norm resblock_updown"
    known = {key: options[key] for key in (*keys.split(), "use_new_attention_order", "learn_sigma")}
    attention = [int(side) for side in options["attention_resolutions"].split(",")]
    return unet(condition="none", attention_resolutions=attention, **known)


@pytest.mark.parametrize("name", RECORDS)
def test_published_names_and_shapes(name):
    record = RECORDS[name]
    with torch.device("meta"):
        model = build(record["options"])
    assert {name: list(weight.shape) for name, weight in model.state_dict().items()} == record["state_dict"]


@pytest.mark.parametrize("name", RECORDS)
def test_published_weights_tell_their_options(name):
    record = RECORDS[name]
    size = record["options"]["image_size"]
    weights = {name: torch.empty(shape, device="meta") for name, shape in record["state_dict"].items()}
    found = infer_architecture(weights)
    assert found.condition == "none"
    with torch.device("meta"):
        rebuilt = unet(**found.build_options(image_size=size, no_instance=True))
    assert {name: list(weight.shape) for name, weight in rebuilt.state_dict().items()} == record["state_dict"]


@torch.no_grad()
def test_published_features(fill):
    """Features of decoder blocks at several timesteps, as recorded from the published network."""
    record, side = RECORDS["features_64px"], RECORDS["features_64px"]["options"]["image_size"]
    with np.load(GOLDEN / "ddpmseg_features_64px.npz") as arrays:
        golden = dict(arrays)
    rng = np.random.default_rng(7)
    images = np.clip(0.5 * rng.standard_normal((2, 3, side, side)), -1, 1).astype(np.float32)
    noise = rng.standard_normal((1, 3, side, side)).astype(np.float32)
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    rows, columns = np.ix_(record["rows"], record["columns"])
    model, outputs, features, native = fill(build(record["options"])).eval(), {}, [], []
    for block in record["blocks"]:
        last = model.output_blocks[block][-1]
        last.register_forward_hook(lambda _layer, _inputs, out, block=block: outputs.update({block: out}))
    for step, t in enumerate(record["steps"]):
        x_t = (np.sqrt(kept[t]) * images + np.sqrt(1 - kept[t]) * noise).astype(np.float32)
        np.testing.assert_allclose(x_t[:, :, rows, columns], golden["x_t"][step], atol=1e-6)
        model(torch.from_numpy(x_t), torch.full((2,), t), NoCondition(2, (side, side)))
        for block in record["blocks"]:
            out = outputs[block]
            features.append(F.interpolate(out, size=(side, side), mode="bilinear")[:, :, rows, columns].flatten(2))
            flat = out.contiguous().flatten(1)
            native.append(torch.stack([flat.mean(1), flat.std(1, correction=0), flat[:, 0], flat[:, -1]], dim=1))
    np.testing.assert_allclose(torch.cat(features, dim=1).transpose(1, 2).numpy(), golden["features"], atol=1e-4)
    np.testing.assert_allclose(torch.stack(native, dim=1).numpy(), golden["native"], atol=1e-4)


@torch.no_grad()
def test_a_condition_makes_no_difference(tiny, noise, label_map):
    model, x, t = tiny(condition="none"), noise(2, 3, 16, 16), torch.tensor([3.0, 711.5])
    assert not any(isinstance(block, ConditionedResBlock) for block in model.modules())
    assert model.preparation((16, 16)) is None
    out = model(x, t, label_map())
    assert out.any()
    assert torch.equal(model(x, t, NoCondition(2, (16, 16))), out)
    one = model.modulate(NoCondition(1, (16, 16)))
    both = type(one).cat([one.expand(2), one.expand(2)])
    skips, emb = model.encode(x, t)
    doubled = model.decode([torch.cat([skip, skip]) for skip in skips], torch.cat([emb, emb]), both)
    torch.testing.assert_close(doubled, torch.cat([out, out]))


def test_checkpointing_changes_no_gradient(tiny, noise):
    gradients = []
    for flag in (False, True):
        model = tiny(condition="none", use_checkpoint=flag, resblock_updown=True)
        model(noise(2, 3, 16, 16), torch.tensor([3.0, 711.5]), NoCondition(2, (16, 16))).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients)


def test_weights_with_a_class_embedding_are_refused():
    model = unet(condition="none", **OPTIONS)
    weights = {**model.state_dict(), "label_emb.weight": torch.zeros(10, 128)}
    with pytest.raises(CheckpointError, match=r"^x\.pt: .*label_emb\.weight"):
        load_weights(model, weights, source="x.pt")


def test_weights_of_a_network_with_masks_are_told_apart():
    model, other = unet(condition="none", **OPTIONS), unet(num_classes=4, **OPTIONS)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, other.state_dict(), source="x.pt")
    (message,) = caught.value.messages
    assert message.startswith('x.pt: condition is "mask" ')
    assert 'condition="mask" ' in message


def test_what_prepares_can_be_sent_to_workers(tiny, label_map):
    preparation = pickle.loads(pickle.dumps(tiny().preparation((16, 16))))
    assert len(preparation(label_map()).at((8, 8))) > 0
