"""The report as a reader sees it, in headless Chromium."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import DESKTOP, PHONE, check_in, check_report, chromium
from PIL import Image

from evaluations.report.charts import (
    SettingBar,
    class_bars,
    distance_histogram,
    iou_bars,
    loss_history,
    paired_bars,
    score_histogram,
    spectrum_curves,
)
from evaluations.report.page import Figure, Section, Table, Verdict, render_report

pytestmark = pytest.mark.slow

CLASSES = ("background", "blowhole", "break", "crack", "fray", "uneven")
ARCHITECTURES = ("unetplusplus", "fpn", "deeplabv3plus")
ARMS = ("real", "real + 0.5", "real + 1", "real + 2", "synthetic only", "real, augmented", "real, copy-paste")


def picture(rng: np.random.Generator, width: int, height: int) -> bytes:
    """A PNG sheet of gray blocks."""
    blocks = rng.integers(40, 220, (height // 40, width // 40), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.kron(blocks, np.ones((40, 40), np.uint8))).save(buffer, format="png")
    return buffer.getvalue()


def study(rng: np.random.Generator) -> Section:
    """Three architectures with seven arms each."""
    rows, figures = [], []
    for number, architecture in enumerate(ARCHITECTURES):
        base = 0.68 + 0.02 * number
        bars = []
        for arm, gain in zip(ARMS, (0, 0.012, 0.024, 0.019, -0.09, 0.015, 0.004), strict=True):
            seeds = base + gain + rng.normal(0, 0.006, 3)
            ends = (base, base) if arm == "real" else (base + gain - 0.011, base + gain + 0.012)
            bars.append(SettingBar(arm, float(seeds.mean()), *ends, seeds=seeds.tolist()))
            mean, std = 100 * seeds.mean(), 100 * seeds.std(ddof=1)
            difference = (
                "–" if arm == "real" else f"{100 * gain:+.1f} ({100 * gain - 1.1:+.1f} to {100 * gain + 1.2:+.1f})"
            )
            rows.append([f"{architecture}, {arm}", f"{mean:.1f} ± {std:.1f}", difference, f"{mean + 9:.1f}", 3])
        caption = "Dots: seeds. Line: 95 % interval of the paired difference to real only."
        figures.append(Figure(f"mIoU of {architecture}", iou_bars(bars, "real"), caption))
    real = np.array([0.97, 0.61, np.nan, 0.48, 0.66, 0.74])
    scores = {arm: np.minimum(real + 0.03 * k + rng.normal(0, 0.02, 6), 0.99) for k, arm in enumerate(ARMS[:4])}
    figures.append(Figure("IoU of each class, fpn", class_bars(CLASSES, scores)))
    header = ["arm", "mIoU", "difference to real only", "Dice", "seeds"]
    table = Table(header, rows, "All scores in percent, on 84 test images; mean and standard deviation over seeds.")
    text = [
        "Each arm trains the same network for the same number of steps; only the training images differ.",
        "The class break has no pixel in the test split and is not in the mean.",
    ]
    return Section("Downstream study", text, [table], figures)


def quality(rng: np.random.Generator) -> list[Section]:
    agreement, pixels = rng.beta(6, 3, 400), picture(rng, 1200, 480)
    frequency = np.linspace(0.01, 0.5, 40)
    power = 0.02 * frequency**-2.0
    sheet = Figure("Real, mask, sample", pixels, "Every third column is a sample.")
    numbers = Table(
        ["metric", "value", "images", "size"],
        [["KID × 1000", "4.2 ± 0.9", 392, "128 × 128"], ["FID", "61.3", 392, "–"]],
    )
    shares = [0.96, 0.004, 0.012, 0.009, 0.007, 0.0]
    channels = paired_bars(["red", "green", "blue"], [121.3, 119.8, 118.9], [128.4, 120.2, 109.7], "mean, 0 to 255")
    losses = {"first run": [{"epoch": e, "loss": 0.6 / (e + 1) + 0.02} for e in range(60)]}
    near = distance_histogram(rng.gamma(9, 1, 392), rng.gamma(8, 1, 400), "distance in feature space")
    return [
        Section("Samples", figures=[sheet]),
        Section(
            "Mask agreement",
            ["A network trained on real data segments the samples; its masks are compared with the given ones."],
            figures=[Figure("Agreement of each sample", score_histogram(agreement, 0.4, "agreement"))],
        ),
        Section("Quality and copies", tables=[numbers], figures=[Figure("Nearest training image", near)]),
        Section(
            "Drift",
            figures=[
                Figure("Area of each class", paired_bars(CLASSES, shares, shares[::-1], "share of pixels")),
                Figure("Channel means", channels),
                Figure("Spectrum", spectrum_curves(frequency, power, power * np.linspace(1, 0.3, 40))),
            ],
        ),
        Section(
            "Configuration",
            figures=[Figure("Training of the generator", loss_history(losses))],
            details=[("config.json", json.dumps({"data_dir": "data/" + "long_name_" * 30, "seeds": 3}, indent=2))],
        ),
    ]


def sample_report(kind: str, headline: str) -> str:
    rng = np.random.default_rng(0)
    lines = [
        f"{name}: {kind}. mIoU +2.4 points at 1 synthetic per real image (+1.3 to +3.6)." for name in ARCHITECTURES
    ]
    facts = {
        "Dataset": "magnetic_tile",
        "Real images": "392: 274 train, 34 validation, 84 test",
        "Synthetic images": "400",
        "Classes": "6, background among them",
        "Size": "128 × 128 px",
        "Seeds": "3",
        "Generator": "best.pt, sha256 9f2c1e07",
        "Finished": "2025-06-14, after 5 h 12 min",
    }
    return render_report(
        title="Does the synthetic data help? magnetic_tile",
        verdict=Verdict(kind, headline, lines),
        facts=list(facts.items()),
        warnings=[
            "FID is biased below 2,048 images (there are 392): compare KID instead.",
            "Samples are redder than the real images: mean of the red channel 128.4, of real ones 121.3.",
        ],
        sections=[study(rng), *quality(rng)],
        footer="Made by isdm evaluate 1.0. All numbers are in report.json.",
    )


HEADLINES = {
    "helps": "The synthetic data helps: up to 2.4 points of mIoU more than real data alone",
    "hurts": "The synthetic data hurts: 1.8 points of mIoU less than real data alone",
    "mixed": "The synthetic data helps one of three architectures and hurts another",
    "cannot tell": "Cannot tell: no difference that 84 test images and 3 seeds could show",
    "not measured": "Whether the synthetic data helps was not measured",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def test_the_report_opens(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(sample_report("helps", HEADLINES["helps"]), encoding="utf-8")
    check_report(path)


def small_report(kind: str) -> str:
    chart = Figure("Channel means", paired_bars(["red"], [121.3], [128.4], "mean, 0 to 255"))
    sheet = Figure("Pairs", picture(np.random.default_rng(0), 160, 80))
    table = Table(["arm", "a column with a long name", "another long one"], [["real", "71.2", 3]] * 2)
    sections = [
        Section("Drift", ["Text."], [table], [chart, sheet], [("config.json", "{}")]),
        Section("End"),
    ]
    verdict = Verdict(kind, HEADLINES[kind], ["fpn: one line."] * 3)
    facts, warnings = [("Seeds", "3"), ("Dataset", "x" * 90)], ["FID is biased."]
    return render_report(
        title="Report", verdict=verdict, facts=facts, warnings=warnings, sections=sections, footer="The end."
    )


def test_text_of_charts_has_enough_contrast(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(sample_report("helps", HEADLINES["helps"]), encoding="utf-8")
    for scheme, card in (("light", "#ffffff"), ("dark", "#1a2029")):
        page = browser.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        colors = page.evaluate("[...document.querySelectorAll('.chart text')].map(text => getComputedStyle(text).fill)")
        assert len(colors) > 100
        page.close()
        behind = luminance(tuple(bytes.fromhex(card[1:])))
        for color in set(colors):
            values = sorted([luminance(tuple(int(value) for value in re.findall(r"\d+", color))), behind])
            assert (values[1] + 0.05) / (values[0] + 0.05) >= 4.5, f"{color} on {card}"


def luminance(rgb: tuple[int, ...]) -> float:
    """Return the relative luminance of sRGB (WCAG 2.2)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (value / 255 for value in rgb)]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("kind", sorted(HEADLINES))
def test_every_verdict_is_readable(kind: str, browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(small_report(kind), encoding="utf-8")
    check_in(browser, path, [PHONE])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("data:image/png;base64,iVBORw0KGgo", "data:image/png;base64,AAAA", "did not load"),
        ("<footer>", "<footer><script>nothing()</script>", "script"),
        ("<footer>", '<footer style="background: url(https://example.org/x.png)">', "example.org"),
        ("<footer>", '<footer style="width: 2000px">', "wider than the page"),
        ("<footer>", '<footer style="color: #888888; background: #999999">', "contrast"),
        ("<header>", '<header style="padding-top: 900px">', "verdict ends at"),
        ('<h2 id="contents">Contents</h2>', '<h5 id="contents">Contents</h5>', "5"),
        ("@media screen and (prefers-color-scheme: dark) {", "@media not all {", "the dark page is as the light one"),
    ],
)
def test_what_is_wrong_is_found(old: str, new: str, says: str, browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page = small_report("helps")
    assert old in page
    path.write_text(page.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(AssertionError, match=says):
        check_in(browser, path, [DESKTOP])
