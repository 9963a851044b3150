from __future__ import annotations

import re

import pytest
import torch
from flat_options import unet
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.models.state_dict import infer_architecture, load_weights
from guided_diffusion.runtime.errors import CheckpointError, ConfigError

OPTIONS = {"image_size": 16, "num_classes": 4, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
UNDETERMINED = {
    "image_size": 32,
    "no_instance": False,
    "num_heads": 2,
    "num_heads_upsample": 2,
    "num_head_channels": 16,
    "use_new_attention_order": True,
    "dropout": 0.5,
}


def _on_meta(**options):
    with torch.device("meta"):
        return unet(**options)


def _shapes(model):
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


@st.composite
def architectures(draw):
    num_channels = draw(st.sampled_from([32, 64, 96, 128]))
    widths = draw(st.lists(st.sampled_from([32, 64, 96, 128, 160]), min_size=1, max_size=4))
    side = 2 ** (len(widths) - 1) * draw(st.integers(1, 5))
    sides = [side // 2**level for level in range(len(widths))]
    return {
        "image_size": (side, side * draw(st.integers(1, 2))),
        "condition": draw(st.sampled_from(["mask", "boxes", "none"])),
        "stage_masks": draw(st.booleans()),
        "style_dim": draw(st.integers(1, 9)),
        "label_dim": draw(st.integers(1, 9)),
        "num_classes": draw(st.integers(2, 20)),
        "no_instance": draw(st.booleans()),
        "num_channels": num_channels,
        "channel_mult": tuple(width / num_channels for width in widths),
        "num_res_blocks": draw(st.integers(1, 3)),
        "image_channels": draw(st.sampled_from([1, 3])),
        "attention_resolutions": draw(st.lists(st.sampled_from(sides), unique=True)),
        "learn_sigma": draw(st.booleans()),
        "use_scale_shift_norm": draw(st.booleans()),
        "resblock_updown": draw(st.booleans()),
    }


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(architectures())
def test_what_shapes_tell_rebuilds_the_network(options):
    model = _on_meta(**options)
    prefixed = {f"module.{name}": weight for name, weight in model.state_dict().items()}
    inferred = infer_architecture(prefixed)
    rebuilt = _on_meta(**inferred.build_options(image_size=options["image_size"], no_instance=options["no_instance"]))
    assert _shapes(rebuilt) == _shapes(model)
    for key in ("condition", "num_channels", "num_res_blocks", "image_channels", "learn_sigma", "use_scale_shift_norm"):
        assert getattr(inferred, key) == options[key]


def test_a_width_that_division_would_cut_survives():
    assert int(480 / 352 * 352) == 479
    model = _on_meta(**{**OPTIONS, "num_channels": 352, "channel_mult": (1, 1.364)})
    options = infer_architecture(model.state_dict()).build_options(image_size=16, no_instance=True)
    assert _shapes(_on_meta(**options)) == _shapes(model)


def test_published_weights_tell_their_options(golden):
    state_dict = {name: torch.empty(shape, device="meta") for name, shape in golden.shapes.items()}
    inferred = infer_architecture(state_dict, source="published.pt")
    assert inferred.channel_mult == (1, 2, 3, 4)
    asked = golden.options["attention_resolutions"]
    assert inferred.attention == tuple(factor for factor in (1, 2, 4, 8) if 64 // factor in asked)
    options = inferred.build_options(image_size=64, no_instance=golden.options["no_instance"])
    told_otherwise = {"channel_mult", "attention_resolutions"}
    for key in options.keys() & golden.options.keys() - told_otherwise:
        assert options[key] == golden.options[key], key
    assert UNDETERMINED.keys().isdisjoint(set(options) - {"image_size", "no_instance"})


@pytest.mark.slow
def test_undetermined_options_are_those_that_leave_the_shapes_alone():
    shapes = _shapes(_on_meta(**OPTIONS))
    for key, value in UNDETERMINED.items():
        options = {**OPTIONS, "attention_resolutions": [8], key: value}
        if key == "image_size":
            options["attention_resolutions"] = [16]
        if key == "no_instance":
            options["num_classes"] -= 1
        assert _shapes(_on_meta(**options)) == _shapes(_on_meta(**{**OPTIONS, "attention_resolutions": [8]})), key
    assert shapes != _shapes(_on_meta(**{**OPTIONS, "num_res_blocks": 2}))


def test_weights_load_with_and_without_prefix(tiny, noise, label_map):
    source = tiny()
    x, t = noise(2, 3, 16, 16), torch.tensor([1.0, 2.0])
    for prefix in ("", "module."):
        model = unet(**OPTIONS).eval()
        load_weights(model, {prefix + name: w for name, w in source.state_dict().items()}, source="x.pt")
        with torch.no_grad():
            assert torch.equal(model(x, t, label_map()), source(x, t, label_map()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "found", "wanted"),
    [
        ({"num_channels": 64}, {"num_channels": "64"}, "32"),
        ({"num_res_blocks": 2}, {"num_res_blocks": "2"}, "1"),
        ({"channel_mult": (1, 1)}, {"channel_mult": "[1,1]"}, "[1,2]"),
        ({"num_classes": 6}, {"num_classes": "6"}, "4"),
        ({"no_instance": False}, {"num_classes": "5"}, "4"),
        ({"image_channels": 1}, {"image_channels": "1"}, "3"),
        ({"learn_sigma": False}, {"learn_sigma": "false"}, "true"),
        ({"use_scale_shift_norm": False}, {"use_scale_shift_norm": "false"}, "true"),
        ({"resblock_updown": True}, {"resblock_updown": "true"}, "false"),
        ({"attention_resolutions": [8]}, {"attention_resolutions": "[8]"}, "[16,8]"),
        ({"condition": "none"}, {"condition": '"none"'}, '"mask"'),
        ({"num_channels": 64, "learn_sigma": False}, {"num_channels": "64", "learn_sigma": "false"}, "true"),
        ({"condition": "boxes"}, {"condition": '"boxes"'}, '"mask"'),
    ],
)
def test_loading_names_the_option_that_differs(changed, found, wanted):
    with pytest.raises(CheckpointError) as caught:
        load_weights(_on_meta(**OPTIONS), _on_meta(**{**OPTIONS, **changed}).state_dict(), source="runs/x.pt")
    (message,) = caught.value.messages
    assert message.startswith("runs/x.pt: ")
    assert "\n" not in message
    facts, _, remedy = message.partition(": set ")
    assert wanted in facts
    for key, value in found.items():
        assert f"{key} is {value} " in facts
        assert f"{key}={value} " in remedy
    edges = re.search(r"num_classes=(\d+) with no_instance=false", remedy)
    assert (edges and int(edges[1])) == (int(found["num_classes"]) - 1 if "num_classes" in found else None)


def _without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda weights: {}, ["time_embed.0.weight"]),
        (lambda weights: {"model": weights, "step": 3}, ["time_embed.0.weight"]),
        (lambda weights: {"conv1.weight": torch.zeros(8, 3, 7, 7)}, ["time_embed.0.weight"]),
        (_without("middle_block.0.in_norm.mlp_shared.0.weight"), ["middle_block.0.in_norm.mlp_shared.0.weight"]),
        (_without("out.0.bias"), ["1 weights", "out.0.bias"]),
        (lambda weights: {k: w for k, w in weights.items() if "output_blocks.3" not in k}, ["output_blocks"]),
        (lambda weights: weights | {"extra.weight": torch.zeros(2)}, ["1 weights", "extra.weight"]),
        (lambda weights: weights | {"out.0.bias": torch.zeros(2)}, ["out.0.bias", "[2]", "[32]"]),
    ],
)
def test_files_that_are_not_an_sdm_unet(change, names):
    model = _on_meta(**OPTIONS)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, change(dict(model.state_dict())), source="runs/x.pt")
    (message,) = caught.value.messages
    assert message.startswith("runs/x.pt: ")
    assert "\n" not in message
    assert all(name in message for name in names)


def test_inferred_options_for_an_impossible_size_are_refused():
    options = infer_architecture(_on_meta(**OPTIONS).state_dict()).build_options(image_size=15, no_instance=True)
    with pytest.raises(ConfigError, match=r"^image_size\b"):
        unet(**options)
