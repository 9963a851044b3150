"""Networks that are told more: an inpainting one begins as the plain one, one with augmentation as the one without."""

from __future__ import annotations

import pytest
import torch
from flat_options import unet

from guided_diffusion.conditions.augmentation import AUGMENT_PARAMETERS
from guided_diffusion.conditions.known_region import KnownRegion
from guided_diffusion.models.state_dict import AUGMENT_EMBED, infer_architecture, load_weights, with_new_inputs
from guided_diffusion.runtime.errors import CheckpointError

OPTIONS = {"image_size": 16, "num_classes": 4, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
T = torch.tensor([1.0, 700.0])


def on_meta(**options):
    with torch.device("meta"):
        return unet(**{**OPTIONS, **options})


@pytest.mark.parametrize("condition", ["mask", "none"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("learn_sigma", [True, False])
@pytest.mark.parametrize("inpaint", [True, False])
def test_shapes_tell_whether_a_network_fills_holes(condition, channels, learn_sigma, inpaint):
    """A gray inpainting network has 3 input channels, as a plain one of colors."""
    options = {"condition": condition, "image_channels": channels, "learn_sigma": learn_sigma, "inpaint": inpaint}
    found = infer_architecture({f"module.{name}": w for name, w in on_meta(**options).state_dict().items()})
    assert {key: getattr(found, key) for key in options} == options


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "network", "named"),
    [
        ({"inpaint": True}, {}, {"inpaint": "true"}),
        ({}, {"inpaint": True}, {"inpaint": "false"}),
        (
            {"image_channels": 3, "learn_sigma": False},
            {"image_channels": 1, "learn_sigma": False, "inpaint": True},
            {"inpaint": "false", "image_channels": "3"},
        ),
        ({"image_channels": 1, "inpaint": True}, {"image_channels": 3, "inpaint": True}, {"image_channels": "1"}),
    ],
)
@pytest.mark.parametrize("train", [True, False])
def test_loading_names_the_option(file, network, named, train):
    model, weights = unet(**{**OPTIONS, **network}), unet(**{**OPTIONS, **file}).state_dict()
    if train:
        weights = with_new_inputs(weights, model)
        if (file, network) == ({}, {"inpaint": True}):
            return load_weights(model, weights, source="x.pt")
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, weights, source="x.pt")
    (message,) = caught.value.messages
    remedy = message.partition(": set ")[2]
    assert all(f"{key}={value}" in remedy for key, value in named.items())
    assert "channel_mult" not in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "learn_sigma", "augment", "prefix", "share"),
    [(1, True, 0.0, "", 0.5), (3, True, 0.2, "module.", 0.0), (3, False, 0.0, "", 1.0), (1, False, 0.2, "", 0.1)],
)
def test_an_inpainting_network_begins_as_the_plain_one(
    tiny, noise, label_map, channels, learn_sigma, augment, prefix, share
):
    plain = tiny(image_channels=channels, learn_sigma=learn_sigma)
    begun = tiny(image_channels=channels, learn_sigma=learn_sigma, inpaint=True, augment=augment)
    given = {prefix + name: weight for name, weight in plain.state_dict().items()}
    load_weights(begun, with_new_inputs(given, begun), source="x.pt")
    x = noise(2, channels, 16, 16)
    with torch.no_grad():
        expected = plain(x, T, label_map())
        for seed in range(5):
            draw = torch.Generator().manual_seed(seed)
            image = 2 * torch.rand(2, channels, 16, 16, generator=draw) - 1
            region = KnownRegion(image, torch.rand(2, 16, 16, generator=draw) < share)
            found = begun(torch.cat([x, region.channels()], dim=1), T, label_map())
            # More channels are summed in another order.
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_what_an_inpainting_network_has_learned_stays(tiny):
    model = tiny(inpaint=True)
    weights = with_new_inputs(model.state_dict(), model)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_the_known_image_reaches_the_network_and_nothing_of_the_hole_does(tiny, noise, label_map):
    model, x, image = tiny(inpaint=True), noise(2, 3, 16, 16), noise(2, 3, 16, 16, seed=1)
    hole = torch.zeros(2, 16, 16, dtype=torch.bool)
    hole[:, 4:9, 5:12] = True

    def output(region: KnownRegion) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.cat([x, region.channels()], dim=1), T, label_map())

    first = output(KnownRegion(image, hole))
    assert torch.equal(first, output(KnownRegion(image.masked_fill(hole[:, None], 0.7), hole)))
    assert not torch.equal(first, output(KnownRegion(image.masked_fill(~hole[:, None], 0.7), hole)))
    assert not torch.equal(first, output(KnownRegion(image, torch.zeros_like(hole))))


# ----------------------------------------------------------------------------------------------- augmentation


def test_without_augmentation_the_network_is_one_that_knows_none(tiny, noise, label_map):
    told, plain = tiny(augment=0.1), tiny()
    x, zeros = noise(2, 3, 16, 16), torch.zeros(2, len(AUGMENT_PARAMETERS))
    with torch.no_grad():
        expected = plain(x, T, label_map())
        assert torch.equal(told(x, T, label_map()), expected)
        assert torch.equal(told(x, T, label_map(), augment=zeros), expected)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(AUGMENT_PARAMETERS)))
def test_each_parameter_reaches_its_image_alone(tiny, noise, label_map, index):
    model, x = tiny(augment=0.1), noise(2, 3, 16, 16)
    parameters = torch.zeros(2, len(AUGMENT_PARAMETERS))
    parameters[1, index] = 1
    with torch.no_grad():
        found, plain = model(x, T, label_map(), augment=parameters), model(x, T, label_map())
    assert torch.equal(found[0], plain[0])
    assert (found[1] - plain[1]).abs().max() > 1e-3


def test_a_new_network_is_drawn_as_one_without_and_learns_what_it_is_told(noise, label_map):
    torch.manual_seed(3)
    plain = unet(**OPTIONS)
    torch.manual_seed(3)
    told = unet(**OPTIONS, augment=0.1)
    own = told.state_dict()
    assert own.pop(AUGMENT_EMBED).abs().max() == 0
    assert all(torch.equal(value, own[name]) for name, value in plain.state_dict().items())
    with torch.no_grad():  # the last layer of a new network is zero, and holds back all gradients
        for weight in told.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)), alpha=0.05)
    told(noise(2, 3, 16, 16), T, label_map(), augment=torch.ones(2, len(AUGMENT_PARAMETERS))).square().sum().backward()
    assert told.augment_embed.weight.grad.abs().min() > 0
    assert all(weight.grad is not None for weight in told.parameters())


def test_weights_go_from_networks_with_augmentation_to_those_without_and_back(tiny, noise, label_map):
    told, plain = tiny(augment=0.1), unet(**OPTIONS).eval()
    load_weights(plain, {f"module.{name}": w for name, w in told.state_dict().items()}, source="x.pt")
    x = noise(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(plain(x, T, label_map()), told(x, T, label_map()))
    again = unet(**OPTIONS, augment=0.5)
    with pytest.raises(CheckpointError) as caught:
        load_weights(again, plain.state_dict(), source="x.pt")
    assert "augment=0" in caught.value.messages[0]
    load_weights(again, with_new_inputs(plain.state_dict(), again), source="x.pt")
    assert again.augment_embed.weight.abs().max() == 0
