"""The loss curve of a run, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from guided_diffusion.runtime.files import atomic_write


def loss_curve(history: Sequence[Mapping[str, float]], path: str | Path, *, best_epoch: int | None = None) -> None:
    """Write the mean training loss of each epoch, on a logarithmic axis, as a PNG, with a mark at `best_epoch`.

    history: a mapping for each epoch: "epoch", "loss" and, optionally, "loss_q0" to "loss_q3", the means over the
    quartiles of the timestep (q0 the least noisy). Missing, zero and non-finite values leave a gap.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = _series(history, "epoch")
    for quartile in range(4):
        values = _series(history, f"loss_q{quartile}")
        if np.isfinite(values).any():
            axes.plot(epochs, values, linewidth=0.7, alpha=0.7, label=f"timestep quartile {quartile + 1} of 4")
    loss = _series(history, "loss")
    # With a marker, as one epoch alone draws no line.
    axes.plot(epochs, loss, color="black", linewidth=1.6, marker="." if len(history) < 30 else None, label="loss")
    best = np.flatnonzero(epochs == best_epoch)
    if len(best):
        label = f"best: epoch {best_epoch}, {loss[best[-1]]:.4g}"
        axes.plot(epochs[best[-1:]], loss[best[-1:]], "o", color="crimson", label=label)
    axes.set_yscale("log", nonpositive="mask")
    axes.set(xlabel="epoch", ylabel="mean training loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(True, which="both", linewidth=0.3, alpha=0.6)
    axes.legend(fontsize="small")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _series(history: Sequence[Mapping[str, float]], key: str) -> NDArray[np.float64]:
    """Return the values [epochs] of `key`; NaN for missing ones and those that a logarithmic axis cannot show."""
    series = np.array([record.get(key) for record in history], np.float64)
    return series if key == "epoch" else np.where(series > 0, series, np.nan)
