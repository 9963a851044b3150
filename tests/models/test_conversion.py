"""Unconditional weights in a SPADE network: the same network under any mask, until it learns masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flat_options import noise_process, unet
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import arrays_of, images_and_noise, probed, published_options, record_of

from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.models.conversion import ignoring_masks, is_unconditional
from guided_diffusion.models.state_dict import infer_architecture, load_weights, with_new_inputs
from guided_diffusion.models.taps import Tap
from guided_diffusion.runtime.errors import CheckpointError

CLASSES = 5
OPTIONS = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
RECORDS = {name: record_of(f"ddpmseg_{name}") for name in ("lsun256_layout", "features_64px")}


def random_maps(count: int, size: tuple[int, int], seed: int, *, edges: bool = False) -> SemanticMap:
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES + 1, (count, *size), generator=draw, dtype=torch.uint8)
    return SemanticMap(label, CLASSES, torch.rand(label.shape, generator=draw) < 0.3 if edges else None)


def converted(plain: torch.nn.Module, prefix: str = "", **options) -> torch.nn.Module:
    spade = unet(**{"num_classes": CLASSES, **options}).eval()
    weights = {prefix + name: value for name, value in plain.state_dict().items()}
    load_weights(spade, with_new_inputs(weights, spade), source="x.pt")
    return spade


@pytest.mark.slow
@torch.no_grad()
def test_published_features_under_any_mask(fill):
    """The features recorded from the published network, of the converted one, each image under a mask of its own."""
    record = RECORDS["features_64px"]
    options = published_options(record)
    images, noise = images_and_noise(64)
    process, taps = noise_process(), [Tap("decoder", block) for block in record["blocks"]]
    model, maps = converted(fill(unet(condition="none", **options)), **options), []
    for seed, step in enumerate(record["steps"]):
        t = torch.full((2,), step)
        modulations = model.modulate(random_maps(2, (64, 64), seed))
        maps += model.features(process.q_sample(images, t, noise), t, taps, modulations)
    golden = arrays_of("ddpmseg_features_64px")["features"]
    np.testing.assert_allclose(probed(maps, record, 64), golden, atol=1e-4)


@pytest.mark.parametrize("name", RECORDS)
def test_every_published_weight_finds_its_place(name):
    options = published_options(RECORDS[name])
    with torch.device("meta"):
        plain = {key: torch.empty(shape) for key, shape in RECORDS[name]["state_dict"].items()}
        spade = unet(num_classes=CLASSES, **options)
        found = {key: tuple(weight.shape) for key, weight in ignoring_masks(plain, spade).items()}
    assert found == {key: tuple(weight.shape) for key, weight in spade.state_dict().items()}
    if name == "lsun256_layout":
        assert (len(plain), len(plain.keys() & found.keys())) == (566, 366)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    edges=st.booleans(),
    updown=st.booleans(),
    scale_shift=st.booleans(),
    impl=st.sampled_from(["auto", "lookup", "mixed", "dense"]),
    dropped=st.booleans(),
    prefix=st.sampled_from(["", "module."]),
)
@torch.no_grad()
def test_no_mask_makes_a_difference(fill, seed, edges, updown, scale_shift, impl, dropped, prefix):
    options = {**OPTIONS, "resblock_updown": updown, "use_scale_shift_norm": scale_shift}
    plain = fill(unet(condition="none", **options)).eval()
    spade = converted(plain, prefix, **options, spade=impl, no_instance=not edges)
    draw = torch.Generator().manual_seed(seed)
    x, t = torch.randn(2, 3, 16, 16, generator=draw), 1000 * torch.rand(2, generator=draw)
    condition = random_maps(2, (16, 16), seed, edges=edges)
    if dropped:
        condition = condition.drop(torch.tensor([True, False]))
    expected = plain(x, t, NoCondition(2, (16, 16)))
    torch.testing.assert_close(spade(x, t, condition), expected, atol=1e-4, rtol=0)


def test_gradients_agree_and_masks_are_learned(fill, noise):
    """The parts that both networks have get the same gradient; what is new gets one, so that masks come to count."""
    plain = fill(unet(condition="none", **OPTIONS))
    spade = converted(plain, **OPTIONS)
    x, t = noise(2, 3, 16, 16), torch.tensor([3.0, 700.0])
    plain(x, t, NoCondition(2, (16, 16))).square().mean().backward()
    spade(x, t, random_maps(2, (16, 16), 0)).square().mean().backward()
    theirs, ours = dict(plain.named_parameters()), dict(spade.named_parameters())
    for name in theirs.keys() & ours.keys():
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, atol=1e-5, rtol=1e-3)
    gamma = {name: weight.grad for name, weight in ours.items() if "mlp_gamma.weight" in name}
    assert gamma
    assert all(gradient.abs().max() > 0 for gradient in gamma.values())
    # The rule of the chain: zero weights above keep the gradient from mlp_shared in the first step.
    assert all(weight.grad.abs().max() == 0 for name, weight in ours.items() if "mlp_shared" in name)


def test_weights_that_take_masks_stay_as_they_are(tiny):
    model = tiny()
    assert not is_unconditional(model.state_dict())
    kept = with_new_inputs(model.state_dict(), model)
    assert all(kept[name] is value or torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_an_unconditional_network_also_begins_to_fill_holes(tiny, noise, label_map):
    plain, spade = tiny(condition="none"), unet(**OPTIONS, num_classes=4, inpaint=True, augment=0.1).eval()
    load_weights(spade, with_new_inputs(plain.state_dict(), spade), source="x.pt")
    x, t = noise(2, 3, 16, 16), torch.tensor([1.0, 700.0])
    with torch.no_grad():
        found = spade(torch.cat([x, torch.zeros(2, 4, 16, 16)], dim=1), t, label_map())
        torch.testing.assert_close(found, plain(x, t, NoCondition(2, (16, 16))), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image_channels": 1}, "image_channels is 1 "),
        ({"num_channels": 64}, "num_channels is 64 "),
        ({"learn_sigma": False}, "learn_sigma is false "),
        ({"num_res_blocks": 2}, "num_res_blocks is 2 "),
        ({"channel_mult": (1, 1, 2)}, "channel_mult is [1,1,2] "),
    ],
)
def test_another_architecture_is_named(changed, named):
    plain, spade = unet(condition="none", **{**OPTIONS, **changed}), unet(**OPTIONS, num_classes=4)
    with pytest.raises(CheckpointError) as caught:
        load_weights(spade, with_new_inputs(plain.state_dict(), spade), source="x.pt")
    (message,) = caught.value.messages
    assert message.startswith(f"x.pt: {named}")
    assert "num_classes" not in message


def test_the_architecture_of_converted_weights_is_told():
    options = published_options(RECORDS["lsun256_layout"])
    with torch.device("meta"):
        plain = {key: torch.empty(shape) for key, shape in RECORDS["lsun256_layout"]["state_dict"].items()}
        found = infer_architecture(ignoring_masks(plain, unet(num_classes=CLASSES, **options)))
    assert (found.condition, found.condition_channels, found.channel_mult) == ("mask", CLASSES, (1, 1, 2, 2, 4, 4))
