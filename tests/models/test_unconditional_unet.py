"""The network without a condition: guided-diffusion's, with its published names, shapes and numbers."""

from __future__ import annotations

import pickle

import pytest
import torch
from flat_options import unet
from recorded import build_published, record_of

from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.models.blocks import ConditionedResBlock
from guided_diffusion.models.state_dict import infer_architecture, load_weights
from guided_diffusion.runtime.errors import CheckpointError

OPTIONS = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
RECORDS = {name: record_of(f"ddpmseg_{name}") for name in ("lsun256_layout", "features_64px")}


@pytest.mark.parametrize("name", RECORDS)
def test_published_names_and_shapes(name):
    record = RECORDS[name]
    with torch.device("meta"):
        model = build_published(record)
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
