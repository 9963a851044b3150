"""The measurement of few sampling steps: its statistics have known answers, and a tiny model goes through it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.measure import few_steps, image_statistics
from scripts.measure.image_statistics import (
    BIN_EDGES,
    Statistics,
    compare,
    errors_of,
    halves_of,
    sums_of,
    table,
    wasserstein,
)


def ramp(right: int, down: int, channels: int = 1) -> np.ndarray:
    """An image [1, 20, 20, C] that rises by `right` and `down` a pixel, in each further channel from 10 higher on."""
    rows, columns = np.mgrid[:20, :20]
    plane = down * rows + right * columns
    return np.stack([plane + 10 * channel for channel in range(channels)], axis=-1)[None].astype(np.uint8)


def width_at(magnitude: float) -> float:
    return float(np.diff(BIN_EDGES)[np.searchsorted(BIN_EDGES, magnitude) - 1])


# ------------------------------------------------------------------------------------------------- statistics


def test_statistics_of_a_ramp():
    images = ramp(3, 4, channels=3)
    found = sums_of(images).statistics()
    np.testing.assert_allclose(found.mean, images.mean((0, 1, 2)))
    np.testing.assert_allclose(found.mean - found.mean[0], [0, 10, 20])
    np.testing.assert_allclose(found.std, images.std((0, 1, 2)))
    np.testing.assert_allclose(found.gradient, [5, 5, 5])
    np.testing.assert_array_equal(found.histogram, found.histogram[:1].repeat(3, axis=0))
    assert BIN_EDGES[found.histogram[0].argmax()] <= 5 < BIN_EDGES[found.histogram[0].argmax() + 1]
    assert found.histogram[0].max() == 1


def test_all_pixels_count_alike_whatever_image_they_are_of():
    images = np.concatenate([np.full((1, 20, 20, 1), 0, np.uint8), np.full((3, 20, 20, 1), 200, np.uint8)])
    found = sums_of(images).statistics()
    assert found.mean == pytest.approx([150])
    assert found.std == pytest.approx([200 * np.sqrt(3) / 4])
    assert found.gradient == [0]
    assert found.histogram[0, 0] == 1


def test_the_largest_gradient_there_can_be_is_counted():
    image = np.zeros((1, 2, 2, 1), np.uint8)
    image[0, 0, 0] = 255
    found = sums_of(image).statistics()
    assert found.histogram[0, -1] == 1
    assert found.gradient == pytest.approx([255 * np.sqrt(2)])


def test_statistics_of_a_part_are_those_of_its_images():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3)).astype(np.uint8)
    which = np.array([4, 1])
    for part, alone in zip(sums_of(images).statistics(which), sums_of(images[which]).statistics(), strict=True):
        np.testing.assert_allclose(part, alone)


def test_wasserstein_is_how_far_gradients_are_moved():
    flat, gentle, steep = (sums_of(ramp(right, 0)).statistics().histogram for right in (0, 5, 12))
    np.testing.assert_array_equal(wasserstein(gentle, gentle), [0])
    np.testing.assert_array_equal(wasserstein(gentle, steep), wasserstein(steep, gentle))
    assert wasserstein(gentle, steep)[0] == pytest.approx(7, abs=width_at(12))
    assert wasserstein(flat, steep)[0] == pytest.approx(12, abs=width_at(12))
    # Half of the gradients are where they should be.
    assert wasserstein((gentle + steep) / 2, steep)[0] == pytest.approx(3.5, abs=width_at(12))


def test_wasserstein_depends_little_on_the_number_of_images():
    generator = np.random.default_rng(0)
    smooth, rough = (np.clip(generator.normal(128, std, (200, 16, 16, 1)), 0, 255).astype(np.uint8) for std in (10, 20))
    true = wasserstein(sums_of(smooth).statistics().histogram, sums_of(rough).statistics().histogram)[0]
    few = wasserstein(sums_of(smooth[:5]).statistics().histogram, sums_of(rough[:5]).statistics().histogram)[0]
    assert few == pytest.approx(true, rel=0.1)


def test_errors_are_absolute_differences():
    found, real = sums_of(ramp(1, 0)).statistics(), sums_of(ramp(4, 0)).statistics()
    errors = errors_of(found, real)
    assert errors["mean"] == pytest.approx(real.mean - found.mean)
    assert errors["std"] == pytest.approx(real.std - found.std)
    assert errors["gradient"][0] == pytest.approx(3, abs=width_at(4))
    assert all(value == 0 for value in errors_of(real, real).values())


def test_halves_of_the_real_images():
    two = np.concatenate([ramp(0, 0), ramp(0, 0) + np.uint8(100)])
    alike = ramp(1, 2).repeat(5, axis=0)
    for images, errors in ((two, [100, 0, 0]), (alike, [0, 0, 0])):
        halves = halves_of(sums_of(images))
        assert list(halves) == ["mean", "std", "gradient"]
        np.testing.assert_allclose(np.concatenate(list(halves.values())), errors, atol=1e-9)


# ------------------------------------------------------------------------------------------------- comparison


def of_mean(mean: float) -> Statistics:
    histogram = np.eye(1, image_statistics.BINS)
    return Statistics(np.array([mean]), np.array([2.0]), np.array([1.0]), histogram)


def test_worse_is_the_error_over_the_reference():
    sets = {name: [of_mean(mean)] for name, mean in (("long", 110), ("same", 90), ("little", 110.4), ("much", 112))}
    rows = {row.setting: row for row in compare(sets, of_mean(100)) if row.statistic == "mean"}
    assert [row.error.mean for row in rows.values()] == pytest.approx([10, 10, 10.4, 12])
    assert [row.difference.mean for row in rows.values()] == pytest.approx([0, 0, 0.4, 2])
    assert [row.worse for row in rows.values()] == pytest.approx([0, 0, 0.04, 0.2])
    assert [row.value_change for row in rows.values()] == pytest.approx([0, 90 / 110 - 1, 0.4 / 110, 2 / 110])
    assert [row.accepted for row in rows.values()] == [True, True, True, False]
    assert all(row.error.spread is None for row in rows.values())


def test_a_reference_without_error_has_no_ratio():
    rows = compare({"long": [of_mean(100)], "short": [of_mean(101)]}, of_mean(100))
    short = next(row for row in rows if row.setting == "short" and row.statistic == "mean")
    assert short.worse is None
    assert short.difference.mean == 1
    assert not short.accepted
    assert all(row.accepted for row in rows if row.statistic != "mean")


def test_the_spread_is_over_seeds_and_differences_are_within_a_seed():
    sets = {"long": [of_mean(110), of_mean(120)], "short": [of_mean(111), of_mean(121)]}
    long, short = compare(sets, of_mean(100))[:2]
    assert (long.value.mean, long.value.spread) == pytest.approx((115, np.sqrt(50)))
    assert (short.difference.mean, short.difference.spread) == pytest.approx((1, 0))
    assert short.worse == pytest.approx(1 / 15)


def test_the_table_has_a_block_a_statistic():
    real = of_mean(100)
    rows = compare({"long": [of_mean(110)], "short": [of_mean(112)]}, real)
    lines = table(rows, {"long": 1000, "short": 20}, real, {"mean": [3.0], "std": [0.5], "gradient": [0.25]}).split(
        "\n"
    )
    assert len(lines) == 2 + 3 * 3
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| mean | real | | | 100.000 | | 3.000 (halves) | | | |"
    assert lines[4] == "| mean | `short` | 20 | 0.02 | 112.000 | +1.8 % | 12.000 | +2.000 | +20.0 % | no |"


# -------------------------------------------------------------------------------------------------- tiny runs


@pytest.mark.slow
def test_a_tiny_model(trained, lemons, tmp_path, capsys, isdm):
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    arguments = [str(trained), "--data-dir", str(lemons), "--long", "ddpm:6", "--short", "dpm++2m:4", "ddim:trailing:3"]
    options = ["--batch", "3", "--seeds", "2", "--json", str(figures), "--picture", str(picture)]
    few_steps.main([*arguments, *options])
    shown = capsys.readouterr().out
    found = json.loads(figures.read_text())
    assert found["network_calls"] == {"ddpm:uniform:6": 6, "dpm++2m:logsnr:4": 4, "ddim:trailing:3": 3}
    assert len(found["rows"]) == 3 * 3 * 3  # statistics, channels, settings
    assert "| gradient magnitude, channel 2 | `ddim:trailing:3` | 3 | 0.5 |" in shown
    assert {str(figures), str(picture)} <= set(shown.splitlines())
    assert Image.open(picture).size[0] > 4 * 128

    # They are the images that `sample` makes.
    values = {"model_path": str(trained), "data_dir": str(lemons), "s": 1.5, "steps": 4}
    means = []
    for seed in (0, 1):
        folder = tmp_path / f"samples{seed}"
        assert isdm("sample", **values, seed=seed, results_path=str(folder))[0] == 0
        means.append(pixels_of(folder / "images").mean((0, 1, 2)))
    rows = [row for row in found["rows"] if row["statistic"] == "mean" and row["setting"] == "dpm++2m:logsnr:4"]
    np.testing.assert_allclose([row["value"]["mean"] for row in rows], np.mean(means, axis=0), atol=0.01)

    real = np.stack([np.asarray(Image.open(path)) for path in sorted((lemons / "test" / "images").iterdir())])
    np.testing.assert_allclose(found["real"]["mean"], real.mean((0, 1, 2)), atol=0.5)  # not yet resized


def pixels_of(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


@pytest.mark.slow
def test_our_images_are_those_of_the_published_computation(trained, lemons, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    few_steps.main([str(trained), "--data-dir", str(lemons), "--reference", "--images", "2", "--json", str(figures)])
    found = json.loads(figures.read_text())
    assert found["largest_difference"] <= 1
    assert found["largest_difference_before_rounding"] < 0.1
    assert "at most 1: yes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--long", "ddpm:5", "--short", "ddpm:uniform:5"], ("ddpm:uniform:5",)),
        (["--long", "ddpm:1000"], ("steps", "1000", "50")),
        (["--long", "euler:5"], ("sampler", '"euler"')),
        (["--long", "ddpm:many"], ("steps", '"many"')),
        (["--long", "ddpm:5", "--images", "1"], ("2 images", "1")),
    ],
)
def test_mistakes_are_told_in_a_line(trained, lemons, options, shown, capsys):
    with pytest.raises(SystemExit, match="2"):
        few_steps.main([str(trained), "--data-dir", str(lemons), *options])
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert all(text in line for text in shown), line


@pytest.mark.parametrize("options", [["--images", "0"], ["--seeds", "x"], ["--picture", "a.txt"]])
def test_options_that_cannot_be_are_refused_before_anything_is_sampled(tmp_path, options):
    with pytest.raises(SystemExit) as stopped:
        few_steps.main([str(tmp_path), "--data-dir", str(tmp_path), *options])
    assert stopped.value.code == 2
