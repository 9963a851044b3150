"""A picture of the values that the model sees, over a set of images and in each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from guided_diffusion.data.scan.brightness import HISTOGRAM_BINS, Brightness
from guided_diffusion.runtime.files import atomic_write


def save_histogram(images: Sequence[Brightness], path: str | Path, *, title: str = "") -> None:
    """Write a PNG: above, the share of pixels with each value; below, a line for each image, darkest to brightest."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    shares, lines = figure.subplots(2, 1, sharex=True)
    edges = np.linspace(0, 256, HISTOGRAM_BINS + 1)
    shares.stairs(np.mean([image.histogram for image in images], axis=0), edges, fill=True, color="0.35")
    shares.set_yscale("log", nonpositive="clip")
    shares.set(ylabel="share of pixels", title=title)
    low, middle, high = np.array(sorted((image.seen for image in images), key=lambda seen: seen[::-1])).T
    number = np.arange(1, len(images) + 1)
    lines.hlines(number, low, high, color="tab:blue", linewidth=max(0.3, min(3, 200 / len(images))))
    lines.plot(middle, number, ".", color="black", markersize=3, label="median")
    lines.set(xlim=(0, 256), xlabel="value that the model sees (0 black, 255 white)")
    lines.set(ylabel="image (0.1 % to 99.9 % of pixels)")
    lines.legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
