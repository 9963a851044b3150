from __future__ import annotations

import subprocess
import sys

import pytest
from flat_options import model_options

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


def problems(**options):
    options = {"image_size": 64, "num_channels": 64, "num_res_blocks": 2, **options}
    return architecture_problems(image_size=options.pop("image_size"), options=model_options(**options))


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
    assert problems(**options) == []


@pytest.mark.parametrize(
    ("options", "key", "numbers"),
    [
        ({"image_size": 100}, "image_size", ["100", "4 levels", "by 8", "96 or 104"]),
        ({"image_size": [64, 100]}, "image_size", ["[64, 100]", "4 levels", "by 8", "[64, 96] or [64, 104]"]),
        ({"image_size": 3}, "image_size", ["is 3", "3 levels", "by 4", "use 4"]),
        ({"num_channels": 48}, "num_channels", ["is 48", "48, 96, 144, 192", "32"]),
        ({"image_size": 512, "num_channels": 32}, "num_channels", ["16, 32, 32, 64, 64, 128, 128", "32"]),
        ({"num_channels": 0}, "num_channels", ["0"]),
        ({"num_res_blocks": 0}, "num_res_blocks", ["0"]),
        ({"image_size": 0}, "image_size", ["0"]),
        ({"channel_mult": (1, -1)}, "channel_mult", ["-1"]),
        ({"attention_resolutions": (16, 0)}, "attention_resolutions", ["0"]),
        ({"attention_resolutions": (7, 5)}, "attention_resolutions", ["7, 5", "64, 32, 16, 8"]),
        ({"num_heads": 0}, "num_heads", ["0"]),
        ({"num_heads": 7}, "num_heads", ["is 7", "192, 256"]),
        ({"num_heads_upsample": 5}, "num_heads_upsample", ["is 5", "192, 256"]),
        ({"num_head_channels": 128}, "num_head_channels", ["is 128", "192"]),
        ({"num_head_channels": 0}, "num_head_channels", ["0"]),
    ],
)
def test_unusable_options_are_named(options, key, numbers):
    ((found, line),) = problems(**options)
    assert found == key
    assert line.startswith(f"{key} ")
    assert all(number in line for number in numbers)
    assert "\n" not in line


def test_the_remedy_for_channels_is_the_nearest_that_works():
    ((_, line),) = problems(image_size=512, num_channels=32)
    assert line.endswith("set num_channels=64")
    assert problems(image_size=512, num_channels=64) == []
