"""Charts: what they mark, count and name, in the page's colors, the same each time, whatever is missing."""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from evaluations.report.charts import (
    AmountPoint,
    SettingBar,
    amount_curves,
    class_bars,
    distance_histogram,
    iou_bars,
    loss_history,
    paired_bars,
    score_histogram,
    spectrum_curves,
)
from evaluations.report.drawing import LIGHT, chart_png
from evaluations.report.page import Verdict, printable, render_report

NAN = float("nan")
NASTY = "<script>alert(1)</script> \"q\" 'a' & $x_1$ 裂纹 é \x00\x1b \ud800"
SVG = "{http://www.w3.org/2000/svg}"

CHARTS: dict[str, Callable[[], Markup]] = {
    "arms": lambda: iou_bars([SettingBar("real", 0.7, 0.69, 0.71, [0.69, 0.71]), SettingBar("mix", 0.72)], "real"),
    "arms: nothing known": lambda: iou_bars(
        [SettingBar("real", NAN, None, NAN), SettingBar("mix", None, seeds=[NAN])], "real"
    ),
    "arms: none": lambda: iou_bars([], "real"),
    "arms: one, no baseline": lambda: iou_bars([SettingBar(NASTY, 0.5, 0.5, 0.5, [0.5])], "real"),
    "classes": lambda: class_bars(["a", "b"], {"real": [0.9, NAN], "mix": np.array([0.8, NAN])}),
    "classes: nothing known": lambda: class_bars([NASTY], {NASTY: [None]}),
    "classes: none": lambda: class_bars([], {}),
    "classes: no arm": lambda: class_bars(["a"], {}),
    "classes: many arms": lambda: class_bars(["a"], {f"arm {k}": [k / 10] for k in range(9)}),
    "scores": lambda: score_histogram([0.1, 0.5, 0.9, NAN], 0.4, "IoU"),
    "scores: one": lambda: score_histogram([0.5], None, "IoU"),
    "scores: none": lambda: score_histogram([], 0.5, NASTY),
    "scores: all below": lambda: score_histogram([0.1, 0.2], 1.0, "IoU"),
    "distances": lambda: distance_histogram([1.0, 2.0, np.inf], [0.1, 3.0], "distance"),
    "distances: none": lambda: distance_histogram([], [NAN], NASTY),
    "distances: all zero": lambda: distance_histogram([0.0], [0.0], "distance"),
    "spectra": lambda: spectrum_curves([0.1, 0.2], [10.0, 1.0], [9.0, 0.0]),
    "spectra: none": lambda: spectrum_curves([], [], []),
    "spectra: no power": lambda: spectrum_curves([0.1], [0.0], [NAN]),
    "pairs": lambda: paired_bars(["a", "b"], [1.0, 2.0], [2.0, NAN], "mean"),
    "pairs: logarithmic": lambda: paired_bars([NASTY, "b", "c"], [0.9, 1e-5, 0], [0.8, 0, None], NASTY),
    "pairs: negative": lambda: paired_bars(["a"], [-500.0], [1.0], "difference"),
    "pairs: all zero": lambda: paired_bars(["a"], [0.0], [0.0], "share"),
    "pairs: none": lambda: paired_bars([], [], [], ""),
    "loss": lambda: loss_history({"run": [{"epoch": 0, "loss": 0.5}, {"epoch": 1, "loss": 0.004}, {"epoch": 2}]}),
    "amounts": lambda: amount_curves(
        {
            "real": [AmountPoint(20, 0.2, 0.05), AmountPoint(312, 0.5)],
            NASTY: [AmountPoint(20, NAN), AmountPoint(312, None)],
        },
        "mIoU",
    ),
    "amounts: one": lambda: amount_curves({"real": [AmountPoint(1, 0.2)]}, "mIoU"),
    "amounts: none": lambda: amount_curves({}, NASTY),
    "loss: one epoch": lambda: loss_history({"run": [{"epoch": 0, "loss": 0.5}]}),
    "loss: runs": lambda: loss_history({NASTY: [{"epoch": 0, "loss": NAN}], "second": []}),
    "loss: none": lambda: loss_history({}),
}


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def marks(svg: str) -> Counter[str]:
    """How many marks have each color of the data."""
    return Counter(re.findall(r"<use [^>]*fill: var\(--(series-\d)\)", svg))


def positions(svg: str) -> Mapping[str, list[float]]:
    """The places of the marks of each series along the axis, that of the legend last."""
    found = re.findall(r'<use [^>]* x="([\d.]+)"[^>]*stroke: var\(--(series-\d)\)', svg)
    return {series: [float(x) for x, other in found if other == series] for _, series in found}


@pytest.fixture(scope="module")
def page_variables() -> set[str]:
    page = render_report(title="t", verdict=Verdict("helps", "h"))
    return set(re.findall(r"(--[\w-]+):", page[: page.index("@media")]))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHARTS)
def test_every_chart_can_be_drawn_and_has_the_colors_of_the_page(name: str, page_variables: set[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = CHARTS[name]()
    root = ElementTree.fromstring(svg)
    assert not list(root.iter(f"{SVG}script"))
    links = [value for element in root.iter() for key, value in element.items() if key.endswith("href")]
    targets = {f"#{element.get('id')}" for element in root.iter()}
    assert set(links) <= targets
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= page_variables
    assert not re.search("(fill|stroke): #", svg), "a color that no color scheme changes"
    svg.encode()  # what UTF-8 cannot hold is gone


def test_rules_of_a_chart_are_of_charts_only() -> None:
    (style,) = ElementTree.fromstring(CHARTS["arms"]()).iter(f"{SVG}style")
    assert re.fullmatch(r"\.chart \*\{[^{}]*\}", style.text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arms", "classes", "scores", "distances", "loss"])
def test_equal_input_gives_an_equal_chart_and_leaves_no_trace(name: str) -> None:
    before = dict(matplotlib.rcParams)
    first = CHARTS[name]()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False}):
        assert CHARTS[name]() == first
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.701, 0.75, {"series-3": 1}), (0.6, 0.699, {"series-2": 1}), (0.69, 0.75, {}), (None, None, {})],
)
def test_an_arm_is_marked_by_where_its_interval_lies(low: float | None, high: float | None, expected: dict) -> None:
    chart = iou_bars([SettingBar("real", 0.7), SettingBar("mix", 0.72, low, high)], "real")
    assert marks(chart) == expected
    assert {"real", "70.0", "mix", "72.0", "mIoU in percent"} <= set(texts(chart))


def test_without_the_baseline_no_arm_is_better() -> None:
    assert not marks(iou_bars([SettingBar("mix", 0.72, 0.71, 0.73)], "real"))


def test_an_arm_without_a_score_has_a_dash() -> None:
    shown = texts(iou_bars([SettingBar("real", 0.7), SettingBar("mix", None)], "real"))
    assert "–" in shown
    assert "nan" not in shown


def test_equal_scores_are_not_drawn_apart() -> None:
    """An axis of less than two points would make noise of a tenth of a point look like a difference."""
    ticks = [
        float(text) for text in texts(iou_bars([SettingBar("real", 0.7)], "none")) if re.fullmatch(r"\d+\.?\d*", text)
    ]
    assert np.ptp(ticks) >= 1


def test_every_class_has_a_mark_of_each_arm_at_its_score() -> None:
    chart = class_bars(["a", "b", "c"], {"real": [0.9, 0.5, NAN], "mix": [0.8, 0.6, 0.7]})
    (a, b, _), (mix_a, mix_b, mix_c, _) = positions(chart)["series-1"], positions(chart)["series-2"]
    step = (a - b) / 4  # 10 points of IoU
    assert [mix_a, mix_b, mix_c] == pytest.approx([a - step, b + step, b + 2 * step], abs=0.01)


@pytest.mark.parametrize("name", ["$x_1$ & <b>", "裂纹", NASTY[:20], "#c0de00"])
def test_names_appear_as_they_are(name: str) -> None:
    assert name in texts(class_bars([name], {"real": [0.1]}))


def test_long_names_end_in_an_ellipsis() -> None:
    assert "x" * 21 + "…" in texts(class_bars(["x" * 200], {"real": [0.1]}))


def test_what_xml_forbids_is_replaced() -> None:
    assert printable("a\x00b") in texts(class_bars(["a\x00b"], {"real": [0.1]}))


def test_a_class_without_a_score_says_so() -> None:
    assert "no value" in texts(class_bars(["a", "b"], {"real": [0.9, NAN]}))
    assert "no value" not in texts(class_bars(["a", "b"], {"real": [0.9, NAN], "mix": [0.8, 0.0]}))


@pytest.mark.slow
def test_150_classes_are_all_named() -> None:
    names = [f"class {index}" for index in range(150)]
    chart = class_bars(names, {"real": np.linspace(0, 1, 150), "mix": np.linspace(1, 0, 150)})
    assert set(names) <= set(texts(chart))
    assert len(chart) < 300_000


def test_the_histogram_counts() -> None:
    shown = texts(score_histogram([0.1, 0.399, 0.4, 0.6, 0.8, NAN], 0.4, "agreement"))
    assert {"below 0.4: 2 of 5", "median 0.4", "agreement"} <= set(shown)


@pytest.mark.slow
def test_without_a_threshold_no_sample_is_below() -> None:
    chart = score_histogram([0.1, 0.5], None, "agreement")
    assert not any("below" in text for text in texts(chart))
    assert "var(--series-2)" not in chart


def test_distances_count_each_set() -> None:
    shown = texts(distance_histogram([1, 2, 3], [4, NAN], "gray levels"))
    assert {"real to nearest other (3)", "sample to nearest training image (1)", "gray levels"} <= set(shown)


def test_a_difference_is_shown_from_zero() -> None:
    assert "0" in texts(paired_bars(["a"], [121.0], [128.0], "gray levels"))


@pytest.mark.parametrize(
    ("smallest", "logarithmic", "ratio"), [(0.02, False, 0.98 / 0.1), (0.002, True, np.log(0.002) / np.log(0.9))]
)
def test_shares_over_decades_have_a_logarithmic_axis(smallest: float, logarithmic: bool, ratio: float) -> None:
    chart = paired_bars(["a", "b"], [1.0, smallest], [0.9, 0.0], "share")
    assert ("0.01" in texts(chart)) == logarithmic
    large, small, _ = positions(chart)["series-1"]
    large_other, zero, _ = positions(chart)["series-2"]
    assert small > zero
    assert (large - small) / (large - large_other) == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize(
    "losses", [[0.05, 0.042], [0.5, 0.04], [0.19, 0.09], [0.49, 0.21, 0.1], [90, 1e-5], [0.5, 0.05, 0.0]]
)
def test_a_loss_axis_has_numbers_within_its_range(losses: list[float]) -> None:
    chart = loss_history({"run": [{"epoch": 100 + epoch, "loss": loss} for epoch, loss in enumerate(losses)]})
    numbers = [float(text) for text in texts(chart) if re.fullmatch(r"[\d.]+(e-\d+)?", text)]
    shown = [number for number in numbers if number < 100]
    known = [loss for loss in losses if loss > 0]
    assert len(shown) >= 2
    assert min(known) / 3 < min(shown) <= max(shown) < 3 * max(known)


def test_every_run_is_named_and_has_its_color() -> None:
    epochs = [{"epoch": epoch, "loss": 1 / (epoch + 1)} for epoch in range(3)]
    chart = loss_history({"first": epochs, "second": epochs})
    assert {"first", "second"} <= set(texts(chart))
    assert {"series-1", "series-2"} == set(marks(chart))


@pytest.mark.slow
def test_a_chart_as_a_file_has_the_colors_of_a_light_page_and_leaves_no_trace() -> None:
    series = {name: [AmountPoint(20, 0.2 + k / 10, 0.01), AmountPoint(60, 0.4)] for k, name in enumerate("abc")}
    names = dict(matplotlib.colors.get_named_colors_mapping())
    before = amount_curves(series, "mIoU")
    first, second = (chart_png(amount_curves, series, "mIoU") for _ in range(2))
    assert first == second
    assert dict(matplotlib.colors.get_named_colors_mapping()) == names
    assert amount_curves(series, "mIoU") == before
    pixels = np.asarray(Image.open(io.BytesIO(first)).convert("RGB")).reshape(-1, 3)
    found = {matplotlib.colors.to_hex(np.array(color) / 255) for color in np.unique(pixels, axis=0).tolist()}
    assert set(LIGHT[3:6]) <= found
    assert not any(color.startswith("#c0de0") for color in found)
