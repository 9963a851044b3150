"""Charts: well-formed, the same each time, and drawn whatever is missing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from evaluations.report.charts import (
    Chart,
    SettingBar,
    class_bars,
    distance_histogram,
    iou_bars,
    loss_history,
    paired_bars,
    score_histogram,
    spectrum_curves,
)

NAN = float("nan")
NASTY = "<script>alert(1)</script> \"q\" 'a' & $x_1$ 裂纹 é \x00\x1b \ud800"
SVG = "{http://www.w3.org/2000/svg}"

CHARTS: dict[str, Callable[[], Chart]] = {
    "arms": lambda: iou_bars(
        [SettingBar("real", 0.7, 0.69, 0.71, [0.69, 0.71]), SettingBar("mix", 0.72)], "real", "mIoU"
    ),
    "arms: nothing known": lambda: iou_bars(
        [SettingBar("real", NAN, None, NAN), SettingBar("mix", None, seeds=[NAN])], "real"
    ),
    "arms: none": lambda: iou_bars([], "real"),
    "arms: one, no baseline": lambda: iou_bars([SettingBar(NASTY, 0.5, 0.5, 0.5, [0.5])], "real", NASTY),
    "classes": lambda: class_bars(["a", "b"], {"real": [0.9, NAN], "mix": np.array([0.8, NAN])}, "IoU"),
    "classes: nothing known": lambda: class_bars([NASTY], {NASTY: [None]}),
    "classes: none": lambda: class_bars([], {}),
    "classes: no arm": lambda: class_bars(["a"], {}),
    "classes: many arms": lambda: class_bars(["a"], {f"arm {k}": [k / 10] for k in range(9)}),
    "scores": lambda: score_histogram([0.1, 0.5, 0.9, NAN], 0.4, "scores"),
    "scores: one": lambda: score_histogram([0.5], None),
    "scores: none": lambda: score_histogram([], 0.5, xlabel=NASTY),
    "scores: all below": lambda: score_histogram([0.1, 0.2], 1.0),
    "distances": lambda: distance_histogram([1.0, 2.0, np.inf], [0.1, 3.0], 0.5, "distance"),
    "distances: none": lambda: distance_histogram([], [NAN], None),
    "distances: all zero": lambda: distance_histogram([0.0], [0.0], 0.0),
    "spectra": lambda: spectrum_curves([0.1, 0.2], [10.0, 1.0], [9.0, 0.0]),
    "spectra: none": lambda: spectrum_curves([], [], []),
    "spectra: no power": lambda: spectrum_curves([0.1], [0.0], [NAN]),
    "pairs": lambda: paired_bars(["a", "b"], [1.0, 2.0], [2.0, NAN], "mean"),
    "pairs: logarithmic": lambda: paired_bars([NASTY, "b", "c"], [0.9, 1e-5, 0], [0.8, 0, None], NASTY),
    "pairs: negative": lambda: paired_bars(["a"], [-500.0], [1.0], "difference"),
    "pairs: all zero": lambda: paired_bars(["a"], [0.0], [0.0], "share"),
    "pairs: none": lambda: paired_bars([], [], [], ""),
    "loss": lambda: loss_history([{"epoch": 0, "loss": 0.5}, {"epoch": 1, "loss": 0.004}, {"epoch": 2}], "loss"),
    "loss: one epoch": lambda: loss_history([{"epoch": 0, "loss": 0.5}]),
    "loss: runs": lambda: loss_history({NASTY: [{"epoch": 0, "loss": NAN}], "second": []}),
    "loss: none": lambda: loss_history([]),
}


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_picture(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = CHARTS[name]()
    for svg in (chart.light_svg, chart.dark_svg):
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert not list(root.iter(f"{SVG}script"))
        links = [value for element in root.iter() for key, value in element.items() if key.endswith("href")]
        assert all(link.startswith("#") for link in links)
        svg.encode()  # what UTF-8 cannot hold is gone
    assert chart.light_svg != chart.dark_svg
    assert "system-ui" in chart.light_svg
    assert "DejaVu" not in chart.light_svg


@pytest.mark.parametrize("name", ["arms", "classes", "scores", "distances", "loss"])
def test_equal_input_gives_an_equal_chart_and_leaves_no_trace(name: str) -> None:
    before = dict(matplotlib.rcParams)
    first = CHARTS[name]()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.grid": False}):
        assert CHARTS[name]() == first
    assert dict(matplotlib.rcParams) == before


def marks_of(svg: str, color: str) -> int:
    return len(re.findall(f"<use [^>]*fill: {color}", svg))


@pytest.mark.parametrize(
    ("low", "high", "color"),
    [(0.701, 0.75, "#00734f"), (0.6, 0.699, "#c04a00"), (0.69, 0.75, None), (None, None, None)],
)
def test_an_arm_is_marked_by_where_its_interval_lies(low: float | None, high: float | None, color: str | None) -> None:
    chart = iou_bars([SettingBar("real", 0.7), SettingBar("mix", 0.72, low, high)], "real")
    for one in ("#00734f", "#c04a00"):
        assert marks_of(chart.light_svg, one) == (one == color)
    assert {"70.0", "72.0", "mIoU in percent"} <= set(texts(chart.light_svg))


def test_without_the_baseline_no_arm_is_better() -> None:
    chart = iou_bars([SettingBar("mix", 0.72, 0.71, 0.73)], "real")
    assert marks_of(chart.light_svg, "#00734f") == 0


def test_names_appear_as_they_are() -> None:
    shown = " ".join(texts(class_bars(["$x_1$ & <b>", "裂纹"], {"real": [0.1, 0.2]}).light_svg))
    assert "$x_1$ & <b>" in shown
    assert "裂纹" in shown


def test_long_names_end_in_an_ellipsis() -> None:
    shown = texts(class_bars(["x" * 200], {"real": [0.1]}).light_svg)
    assert "x" * 21 + "…" in shown


def test_a_class_without_a_score_says_so() -> None:
    assert "no value" in texts(class_bars(["a", "b"], {"real": [0.9, NAN]}).light_svg)
    assert "no value" not in texts(class_bars(["a", "b"], {"real": [0.9, NAN], "mix": [0.8, 0.0]}).light_svg)


def test_150_classes_are_all_named() -> None:
    names = [f"class {index}" for index in range(150)]
    chart = class_bars(names, {"real": np.linspace(0, 1, 150), "mix": np.linspace(1, 0, 150)})
    assert set(names) <= set(texts(chart.light_svg))
    assert len(chart.light_svg) < 300_000


def test_the_histogram_counts() -> None:
    shown = texts(score_histogram([0.1, 0.399, 0.4, 0.6, 0.8, NAN], 0.4).light_svg)
    assert "below 0.4: 2 of 5" in shown
    assert "median 0.4" in shown


def test_distances_count_each_set() -> None:
    shown = texts(distance_histogram([1, 2, 3], [4, NAN], 0.5).light_svg)
    assert {"real to nearest other (3)", "sample to nearest training image (1)"} <= set(shown)
    assert "suspected copy: below 0.5" in shown


@pytest.mark.parametrize(("smallest", "logarithmic"), [(0.02, False), (0.002, True)])
def test_shares_over_decades_have_a_logarithmic_axis(smallest: float, logarithmic: bool) -> None:
    shown = texts(paired_bars(["a", "b"], [1.0, smallest], [0.9, 0.0], "share").light_svg)
    assert ("open: zero" in shown) == logarithmic
    assert ("0.001" in shown) == logarithmic


@pytest.mark.parametrize(
    ("losses", "ticks"),
    [([0.05, 0.042], {"0.044", "0.046"}), ([0.5, 0.04], {"0.05", "0.2"}), ([90, 1e-5], {"10⁻⁵", "0.1"})],
)
def test_a_loss_axis_has_numbers_whatever_its_range(losses: list[float], ticks: set[str]) -> None:
    chart = loss_history([{"epoch": epoch, "loss": loss} for epoch, loss in enumerate(losses)])
    assert ticks <= set(texts(chart.light_svg))
