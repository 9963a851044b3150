from __future__ import annotations

import subprocess
import sys

import pytest

from guided_diffusion.models.architecture import (
    architecture_problems,
    attention_factors,
    default_channel_mult,
    height_width,
    level_channels,
    reachable_resolutions,
)


def test_needs_no_torch():
    code = "import sys, guided_diffusion.models.architecture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (32, (1, 2, 3)),
        (64, (1, 2, 3, 4)),
        (96, (1, 2, 3, 4)),
        (128, (1, 1, 2, 3, 4)),
        (256, (1, 1, 2, 2, 4, 4)),
        (512, (0.5, 1, 1, 2, 2, 4, 4)),
        (1024, (0.5, 1, 1, 2, 2, 4, 4)),
    ],
)
def test_default_channel_mult(side, expected):
    assert default_channel_mult(side) == expected


def test_sizes_and_levels():
    assert height_width(64) == (64, 64)
    assert height_width([64, 96]) == (64, 96)
    assert reachable_resolutions(64, (1, 2, 3, 4)) == (64, 32, 16, 8)
    assert level_channels(64, (0.5, 1, 2)) == (32, 64, 128)


@pytest.mark.parametrize(
    ("side", "levels", "asked", "expected"),
    [
        (64, 4, (32, 16, 8), (2, 4, 8)),
        (64, 4, (16, 5), (4,)),
        (96, 4, (24,), (4,)),
        (64, 4, (), ()),
        (64, 4, None, (4, 8)),
        (128, 2, None, (2,)),
        (16, 2, None, (1, 2)),
    ],
)
def test_attention_factors(side, levels, asked, expected):
    assert attention_factors(side, (1,) * levels, asked) == expected


USABLE = {"image_size": 64, "num_channels": 64, "num_res_blocks": 2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": [64, 96]},
        {"image_size": 512},
        {"channel_mult": []},
        {"attention_resolutions": [32, 16, 8, 3]},
        {"attention_resolutions": []},
        {"num_heads": 5, "num_head_channels": 32},
        {"num_channels": 48, "channel_mult": (2, 4)},
    ],
)
def test_usable_options(options):
    assert architecture_problems(**{**USABLE, **options}) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image_size": 100}, "image_size is 100, but a UNet of 4 levels needs sides divisible by 8: use 96 or 104"),
        (
            {"image_size": [64, 100]},
            "image_size is [64, 100], but a UNet of 4 levels needs sides divisible by 8: use [",
        ),
        ({"image_size": 3}, "image_size is 3, but a UNet of 3 levels needs sides divisible by 4: use 4, or"),
        (
            {"num_channels": 48},
            "num_channels is 48, which makes levels of 48, 96, 144, 192 channels, not multiples of 32",
        ),
        (
            {"image_size": 512, "num_channels": 32},
            "levels of 16, 32, 32, 64, 64, 128, 128 channels, not multiples of 32",
        ),
        ({"num_channels": 0}, "num_channels has the value 0"),
        ({"num_res_blocks": 0}, "num_res_blocks has the value 0"),
        ({"image_size": 0}, "image_size has the value 0"),
        ({"channel_mult": (1, -1)}, "channel_mult has the value -1"),
        ({"attention_resolutions": (16, 0)}, "attention_resolutions has the value 0"),
        (
            {"attention_resolutions": (7, 5)},
            "attention_resolutions is 7, 5, but the levels of this UNet are 64, 32, 16, 8",
        ),
        ({"num_heads": 0}, "num_heads has the value 0"),
        ({"num_heads": 7}, "num_heads is 7, which does not divide the 192, 256 channels"),
        ({"num_heads_upsample": 5}, "num_heads_upsample is 5, which does not divide the 192, 256 channels"),
        ({"num_head_channels": 128}, "num_head_channels is 128, which does not divide the 192 channels"),
        ({"num_head_channels": 0}, "num_head_channels has the value 0"),
    ],
)
def test_unusable_options_are_named(options, expected):
    ((key, line),) = architecture_problems(**{**USABLE, **options})
    assert key in options or key == "num_channels"  # whose remedy is easier than another image_size
    assert line.startswith(f"{key} ")
    assert expected in line
    assert "\n" not in line


def test_the_remedy_for_channels_is_the_nearest_that_works():
    ((_, line),) = architecture_problems(image_size=512, num_channels=32, num_res_blocks=1)
    assert line.endswith("set num_channels=64")
    assert architecture_problems(image_size=512, num_channels=64, num_res_blocks=1) == []
