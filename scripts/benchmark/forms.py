"""Measurements of `run.py` on the forms of modulations: when each is fastest, and the cost of label diffusion."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch

from guided_diffusion.conditions.base import Prepared
from guided_diffusion.conditions.patches import number_patches
from guided_diffusion.data.class_statistics import eta_from_statistics
from guided_diffusion.diffusion.gaussian import build_diffusion
from guided_diffusion.diffusion.label_diffusion import CLASSWISE, UNIFORM, build_label_diffusion, label_generators
from guided_diffusion.diffusion.options import DiffusionOptions
from guided_diffusion.models.spade.norm import DENSE_ABOVE, MIXED_ABOVE
from guided_diffusion.models.unet import UNetModel
from scripts.benchmark.cases import Batch, Case, make_batch
from scripts.benchmark.timing import Ratio, interleaved, ratio
from scripts.benchmark.variants import DIFFUSION, Ours, Step, training_step

FORMS = ("lookup", "mixed", "dense")
NOISE = (0.0, 0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.2, 0.4, 1.0)
"""Shares of pixels that are replaced; each is in 9 and in 25 patches."""
STEPS = 10
"""Steps of a sample by which the cost of label diffusion is measured: they stand for all noise levels."""

Done = Callable[[Case, str], None]


@dataclass(frozen=True)
class FormsShare:
    """The forms on maps with one share of noise.

    noise: share of pixels that were replaced. distinct: 5x5 patches by pixels at full size; windows: 3x3 ones.
    training, guided: form -> the time of a training step, and of a guided step with tables of its own, over the lookup.
    """

    noise: float
    distinct: float
    windows: float
    training: Mapping[str, Ratio]
    guided: Mapping[str, Ratio]


def measure_threshold(case: Case, rounds: int, done: Done) -> Iterator[FormsShare]:
    """Yield the cost of each form for more and more noisy maps.

    The counting of patches is not timed, as choosing a form needs it anyway.
    """
    variant = Ours(case)
    for noise in NOISE:
        variant.network.conditioner.impl = "lookup"
        batch = make_batch(replace(case, noise=noise))
        found = number_patches(batch.condition, batch.condition.size)
        prepared = variant.prepare(batch.condition)
        train, sample = training_step(variant, batch, prepared=prepared), _guided(variant, batch, prepared)
        ratios = {}
        for part, step in (("training", train), ("guided", sample)):
            steps = {form: in_form(variant, form, part, step) for form in FORMS}
            seconds = interleaved(steps, rounds, case.device, lambda form, part=part: done(case, part))
            ratios[part] = {form: ratio(seconds[form], seconds["lookup"]) for form in FORMS}
        pixels = found.index.numel()
        yield FormsShare(noise, len(found) / pixels, len(found.label) / pixels, **ratios)


class _Prepared:
    """A network for one condition, with `prepared` made before."""

    def __init__(self, network: UNetModel, prepared: Prepared):
        self.encode, self.decode = network.encode, network.decode
        self.modulate = partial(network.modulate, prepared=prepared)


def _guided(variant: Ours, batch: Batch, prepared: Prepared) -> Step:
    """Return a guided step that computes its tables."""
    denoise = variant.denoiser(batch, condition_fn=lambda condition, t: condition)
    denoise.model = _Prepared(variant.network, prepared.to(variant.case.device))  # the null tables are made
    return lambda: denoise(batch.noise, batch.t)


def in_form(variant: Ours, form: str, part: str, step: Step) -> Step:
    """Return `step` of `part` with modulations in `form`; sampling needs no gradients."""

    def run() -> None:
        variant.network.conditioner.impl = form
        variant.network.train(part == "training")
        with torch.inference_mode(part != "training"):
            step()

    return run


def crossing(shares: Sequence[FormsShare], part: str, first: str, second: str, by: str) -> float | None:
    """Return the share of patches (`by` is "distinct" or "windows") from which `second` is the faster form.

    It is the smallest of `shares` from which on `second` is always faster; None if there is none.
    """

    def over(share: FormsShare) -> float:
        ratios = getattr(share, part)
        return ratios[second].value / ratios[first].value

    if over(shares[0]) <= 1:
        return getattr(shares[0], by)
    for before, after in pairwise(shares):
        high, low = over(before), over(after)
        if high > 1 >= low:
            start, stop = getattr(before, by), getattr(after, by)
            return start + (high - 1) / (high - low) * (stop - start)
    return None


def threshold_lines(case: Case, shares: Sequence[FormsShare]) -> list[str]:
    """Return the Markdown table of a threshold study, and its conclusions."""
    lines = [
        f"The forms over lookup, {case.title} classes, batch {case.batch}; tables made in every step:",
        "",
        "| pixels replaced | distinct 5x5 by pixels | 3x3 | training, mixed | dense | guided, mixed | dense |",
        "|---|---|---|---|---|---|---|",
    ]
    for share in shares:
        ratios = [getattr(share, part)[form] for part in ("training", "guided") for form in FORMS[1:]]
        shown = [f"{value:.1%}" for value in (share.noise, share.distinct, share.windows)]
        lines.append(f"| {' | '.join([*shown, *map(str, ratios)])} |")
    for by, first, second, now in (
        ("distinct", "lookup", "mixed", MIXED_ABOVE),
        ("windows", "mixed", "dense", DENSE_ABOVE),
    ):
        for part in ("training", "guided"):
            found = crossing(shares, part, first, second, by)
            where = "at no share measured" if found is None else f"from {found:.1%}"
            size = "5x5" if by == "distinct" else "3x3"
            lines += ["", f"{second} beats {first} ({part}) {where} distinct {size} on; `auto` changes at {now:.0%}."]
    return lines


# ------------------------------------------------------------------------------------------- label diffusion


def measure_label_diffusion(case: Case, rounds: int, done: Done) -> dict[str, dict[str, Ratio]]:
    """Return part -> title -> the time of steps with label diffusion over that of steps without it.

    Uniform label diffusion in each form of the modulations, and class-wise in the one that is chosen by itself. guided:
    the steps of a sample, `STEPS` of them; without label diffusion the tables of all steps were made before, with it
    the drawing of the maps is part of the steps. training: one step, as its images have different t.
    """
    variant, batch = Ours(case), make_batch(case)
    found = {}
    for part, make in (("training", _label_training), ("guided", _label_guided)):
        variant.network.conditioner.impl = "auto"  # which computes what all steps share
        plain = in_form(variant, "auto", part, make(variant, batch, None))
        steps = {"without": plain}
        for form in ("auto", *FORMS):
            steps[f"uniform, {form}"] = in_form(variant, form, part, make(variant, batch, UNIFORM))
        steps["class-wise, auto"] = in_form(variant, "auto", part, make(variant, batch, CLASSWISE))
        seconds = interleaved(steps, rounds, case.device, lambda name, part=part: done(case, part))
        found[part] = {name: ratio(seconds[name], seconds["without"]) for name in steps if name != "without"}
    return found


def _eta(batch: Batch) -> list[float]:
    """Return eta of the case's maps."""
    label, classes = batch.condition.label.flatten(1).long(), batch.condition.num_classes
    counts = torch.stack([torch.bincount(row, minlength=classes + 1)[:classes] for row in label])
    return eta_from_statistics(
        (counts.sum(0) / label.numel()).tolist(), (counts > 0).double().mean(0).tolist()
    ).tolist()


def _label_training(variant: Ours, batch: Batch, cond_opt: str | None) -> Step:
    if cond_opt is None:
        return training_step(variant, batch)
    process = build_label_diffusion(cond_opt, DIFFUSION, batch.condition.num_classes, _eta(batch))
    condition_fn = process.condition_sampler(label_generators(range(len(batch.condition)), variant.case.device))
    return training_step(variant, batch, condition_fn)


def _label_guided(variant: Ours, batch: Batch, cond_opt: str | None) -> Step:
    diffusion = build_diffusion(DiffusionOptions(), time_grid="uniform", steps=STEPS)
    condition_fn = None
    if cond_opt is not None:
        process = build_label_diffusion(cond_opt, diffusion, batch.condition.num_classes, _eta(batch))
        condition_fn = process.condition_sampler(label_generators(range(len(batch.condition)), variant.case.device))
    denoise = variant.denoiser(batch, diffusion, condition_fn=condition_fn)

    def step() -> None:
        for index in reversed(range(STEPS)):
            denoise(batch.noise, torch.full_like(batch.t, index))

    return step


def label_diffusion_lines(case: Case, found: Mapping[str, Mapping[str, Ratio]]) -> list[str]:
    """Return the Markdown table of `measure_label_diffusion`."""
    lines = [
        f"Steps with label diffusion over steps without, {case.title} classes, batch {case.batch}:",
        "",
        "| label diffusion, form | training step | guided step |",
        "|---|---|---|",
    ]
    return lines + [f"| {name} | {found['training'][name]} | {found['guided'][name]} |" for name in found["guided"]]
