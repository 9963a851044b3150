"""Does one set of trainings segment better than another? Paired intervals and verdicts in words.

A setting is a list with one `Counts` per seed, all of the same test images. Intervals cover the chance of test images
(a paired bootstrap) and of trainings (Student's t over seeds): evaluations/README.md tells why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluations.groups import Groups, count_groups, numbered
from evaluations.metrics.segmentation import Counts, Floats, in_points, plain, summary
from evaluations.study.training_chance import TrainingChance

_CHUNK = 2**20  # elements of the largest array of a chunk of resamples: 8 MB
FEW_GROUPS = 8
"""Images or groups below which percentiles of resamples are far too narrow: Student's t over them takes their place."""
_ONE_SEED = "one seed: the variance between trainings is not measured"
_IN_WORDS = {"miou": "mIoU", "foreground_miou": "foreground mIoU", "micro_iou": "micro IoU"}


@dataclass(frozen=True)
class Difference:
    """A setting's score minus the baseline's, with its interval; in -1..1, NaN where no class could be scored.

    mean: over the seeds. low, high: the interval that holds the true value with probability `confidence`; NaN of one
    image or group, which tells nothing of chance.
    stratified: the interval of a bootstrap over both seeds and images (Agarwal et al. 2021), for comparison.
    groups: how many of the images, which are drawn by groups; as many as images where each is of its own.
    """

    mean: float
    low: float
    high: float
    confidence: float
    by_seed: tuple[float, ...]
    images: int
    stratified: tuple[float, float] = (float("nan"), float("nan"))
    groups: int | None = None

    @property
    def std(self) -> float:
        """Standard deviation over the seeds (with n - 1), NaN for one seed."""
        return float("nan") if self.tentative else float(np.std(self.by_seed, ddof=1))

    @property
    def kind(self) -> str:
        """ "helps" for an interval above zero, "hurts" for one below, else "cannot tell"."""
        if self.low > 0:
            return "helps"
        return "hurts" if self.high < 0 else "cannot tell"

    @property
    def tentative(self) -> bool:
        """Whether there is only one seed, so that another training might reverse the verdict."""
        return len(self.by_seed) == 1

    @property
    def points(self) -> tuple[str, str]:
        """The mean and the interval in points, such as ("+1.5", "+0.2 to +2.8"); "unknown" for none."""
        mean, low, high = map(in_points, (self.mean, self.low, self.high))
        return mean, "unknown" if np.isnan(self.low) else f"{low} to {high}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file, null for NaN."""
        return {
            **{name: plain(getattr(self, name)) for name in ("mean", "std", "low", "high")},
            "interval_stratified": [plain(end) for end in self.stratified],
            "confidence": self.confidence,
            "by_seed": [plain(value) for value in self.by_seed],
            "images": self.images,
            "groups": self.groups,
            "kind": self.kind,
            "tentative": self.tentative,
        }


def bootstrap_difference(
    first: Sequence[Counts],
    second: Sequence[Counts],
    *,
    score: str = "miou",
    groups: Groups | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    chance: TrainingChance | None = None,
) -> Difference:
    """Return the score (of SUMMARIES) of `second` minus that of `first`, the mean over seeds, with its interval.

    first, second: one `Counts` per seed; those at one index are of the same seed, and all of the same test images.
    A class that a resample of the images does not have is left out on both sides. groups: are resampled whole (a
    cluster bootstrap, Davison & Hinkley 1997, section 3.8): images of one object are not independent. Where fewer than
    FEW_GROUPS have a class of the score it takes Student's t. chance: of trainings, if more than these tell of it.
    """
    (difference,) = _differences(first, [second], score, groups, confidence, resamples, seed, chance)
    return difference


def _differences(
    baseline: Sequence[Counts],
    settings: Sequence[Sequence[Counts]],
    score: str,
    groups: Groups | None,
    confidence: float,
    resamples: int,
    seed: int,
    chance: TrainingChance | None = None,
) -> list[Difference]:
    """Return the difference of each setting, from resamples that all settings share."""
    images = len(baseline[0])
    numbers = numbered(groups, images)
    once, resampled = _scores_of([baseline, *settings], score, numbers, resamples, seed)
    values, resampled = once[1:] - once[:1], resampled[:, 1:] - resampled[:, :1]
    seeds = values.shape[1]
    chance = chance or TrainingChance.of([dict(enumerate(by_seed)) for by_seed in once])
    errors = chance.errors(seeds, resamples, seed) if chance else np.zeros((1, resamples))  # one seed tells nothing
    shares = draw_weights(np.random.default_rng([seed, 2]), resamples, seeds) / seeds
    differences, drawn, telling = [], 1 + int(numbers.max()), count_groups(numbers, baseline[0].telling(score))
    for setting, by_seed in enumerate(values):
        mean, each = float(by_seed.mean()), tuple(by_seed.tolist())
        draws = resampled[:, setting].mean(axis=1)
        if telling < FEW_GROUPS:
            draws = mean + _group_errors(draws, telling, seed)
        low, high = _percentiles(draws + errors, confidence)
        stratified = _percentiles((resampled[:, setting] * shares).sum(axis=1), confidence)
        if telling < 2:
            stratified = float("nan"), float("nan")
        differences.append(Difference(mean, low, high, confidence, each, images, stratified, drawn))
    return differences


def _percentiles(draws: Floats, confidence: float) -> tuple[float, float]:
    draws = draws[np.isfinite(draws)]  # a resample may have no class to score
    if not draws.size:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def score_interval(score: float, resampled: Floats, groups: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of one score, within 0..1, from its resamples [R]; NaN of one group or none.

    groups: how many of those drawn tell of it. Of fewer than FEW_GROUPS it takes Student's t, as differences do.
    """
    if groups < 2:
        return float("nan"), float("nan")
    if groups >= FEW_GROUPS:
        return _percentiles(resampled, confidence)
    half = _group_error(resampled, groups) * float(stats.t.ppf((1 + confidence) / 2, groups - 1))
    return max(0.0, score - half), min(1.0, score + half)


def _group_error(resampled: Floats, groups: int) -> float:
    """Return the standard error of a score of few groups: a bootstrap of G knows it but for G / (G - 1)."""
    finite = resampled[np.isfinite(resampled)]
    return float(finite.std()) * np.sqrt(groups / (groups - 1)) if finite.size else float("nan")


def _group_errors(resampled: Floats, groups: int, seed: int) -> Floats:
    """Return errors, [2, 1, R], of the difference of few groups, with long tails, each with its opposite."""
    if groups < 2:
        return np.full((2, 1, len(resampled)), np.nan)
    error = _group_error(resampled, groups)
    quantiles = stats.t.ppf((np.arange(len(resampled)) + 0.5) / len(resampled), groups - 1)
    errors = error * np.random.default_rng([seed, 3]).permutation(quantiles)
    return np.stack([errors, -errors])[:, None]


def _scores_of(
    settings: Sequence[Sequence[Counts]], score: str, groups: NDArray[np.int64], resamples: int, seed: int
) -> tuple[Floats, Floats]:
    """Return the scores of all images, [A, S] by setting and seed, and those of each resample of groups, [R, A, S]."""
    reference = settings[0][0].truth
    for setting in settings:
        assert len(setting) == len(settings[0]), "every setting needs the same seeds"
        for counts in setting:
            assert np.array_equal(counts.truth, reference), "the counts are not of the same test images"

    def scored(weights: Floats) -> Floats:
        weighted = [[weighted_score(counts, score, weights) for counts in setting] for setting in settings]
        return np.moveaxis(np.array(weighted), -1, 0)

    generator, rows = np.random.default_rng([seed, 0]), max(1, _CHUNK // max(reference.shape))
    chunks = [
        scored(draw_group_weights(generator, min(rows, resamples - start), groups))
        for start in range(0, resamples, rows)
    ]
    return scored(np.ones((1, len(reference))))[0], np.concatenate(chunks)


def draw_weights(generator: np.random.Generator, resamples: int, images: int) -> Floats:
    """Return how often each image occurs in each resample, [R, N]: N draws of N with replacement.

    Not scipy.stats.bootstrap, which refuses a single image and whose resamples several settings cannot share.
    """
    drawn = generator.integers(images, size=(resamples, images)) + images * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * images).reshape(resamples, images).astype(np.float64)


def draw_group_weights(generator: np.random.Generator, resamples: int, groups: NDArray[np.int64]) -> Floats:
    """Return what `draw_weights` does where whole groups are drawn; groups: the number of each image's, [N]."""
    return draw_weights(generator, resamples, 1 + int(groups.max()))[:, groups]


def weighted_score(counts: Counts, score: str, weights: Floats) -> Floats:
    """Return the score, [R], of the images as often as each row of `weights` [R, N] says."""
    # Whole numbers below 2^53: their sums are exact in float64, which has a fast matrix product.
    return summary(score, *(weights @ pixels.astype(np.float64) for pixels in counts.columns))


def constant_score(counts: Counts, score: str = "miou") -> float:
    """Return the best score of calling all pixels of all images one class, whichever that is; NaN of no pixel."""
    truth, count = counts.truth, counts.truth.shape[1]
    pixels = truth.sum(axis=1, keepdims=True)
    constants = []
    for class_id in range(count):
        chosen = np.arange(count) == class_id
        called = Counts(truth * chosen, (pixels - truth) * chosen, truth * ~chosen)
        constants.append(weighted_score(called, score, np.ones((1, len(counts))))[0])
    return float(np.max(constants))


def learned_nothing(settings: Sequence[Sequence[Counts]], score: str = "miou") -> str | None:
    """Return in words that no setting is better than one class everywhere; None where one is, by its mean over seeds.

    Differences between such settings are those of noise, however sure they are.
    """
    once = np.ones((1, len(settings[0][0])))
    best = max(float(np.mean([weighted_score(counts, score, once) for counts in setting])) for setting in settings)
    constant = constant_score(settings[0][0], score)
    if not best <= constant:
        return None
    name = _IN_WORDS.get(score, score)
    return (
        f"no model has learned anything: {name} {100 * best:.1f} at best, and one class everywhere {100 * constant:.1f}"
    )


def augmentation_warning(where: str, key: str, steps: int) -> str:
    """Return what it means that the usual augmentation hurts; `key` is the option of the steps."""
    return (
        f"the usual augmentation hurts {where}, which it rarely does: either the test images show the objects of "
        f"training images, so that memory is rewarded (see group_pattern), or {key} {steps} is too short to learn from "
        "varied images; both favor whatever trains on the fewest, and no other comparison here can be trusted"
    )


def few_groups_warning(groups: int, images: int, kind: str = "test") -> list[str]:
    """Return a line if so few images, or groups of them, tell of chance that verdicts are weak; kind: of the images."""
    if groups >= FEW_GROUPS:
        return []
    shown = f"{images} {kind} image{'s' * (images > 1)}"
    if groups < images:
        shown += f" of {groups} object{'s' * (groups > 1)} (group_pattern)"
    if groups == 1:
        return [f"{shown}: how far chance goes cannot be measured on one, so no difference can be told"]
    return [f"{shown}: intervals are wide (Student's t over so few), and only large differences can be told"]


# -------------------------------------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class ArchitectureVerdict:
    """The verdict on all mixing ratios of one architecture: a kind, a line in plain words, differences by ratio.

    kind: "helps" if at least one ratio helps and none hurts, "hurts" the other way round, "mixed", or "cannot tell",
    also where nothing was learned. differences: all of their intervals together hold with probability `confidence`.
    """

    kind: str
    line: str
    differences: Mapping[str, Difference]
    confidence: float
    learned: bool = True

    @property
    def tentative(self) -> bool:
        """Whether there is only one seed."""
        return any(difference.tentative for difference in self.differences.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        differences = {ratio: difference.to_json() for ratio, difference in self.differences.items()}
        chosen = {"kind": self.kind, "line": self.line, "tentative": self.tentative, "confidence": self.confidence}
        return {**chosen, "learned": self.learned, "differences": differences}


def judge_architecture(
    baseline: Sequence[Counts],
    mixes: Mapping[str, Sequence[Counts]],
    *,
    architecture: str,
    score: str = "miou",
    groups: Groups | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    chance: TrainingChance | None = None,
) -> ArchitectureVerdict:
    """Return whether any of several mixing ratios is better or worse than the baseline.

    baseline: real data only, one `Counts` per seed. mixes: the same for each ratio, by the ratio's name. chance: of
    trainings, if more than these tell of it.
    """
    # Bonferroni: the best of many ratios looks good by chance more often than one.
    each = 1 - (1 - confidence) / len(mixes)
    by_ratio = _differences(baseline, list(mixes.values()), score, groups, each, resamples, seed, chance)
    differences = dict(zip(mixes, by_ratio, strict=True))
    nothing = learned_nothing([baseline, *mixes.values()], score)
    if nothing is not None:
        line = f"{architecture}: cannot tell: {nothing}"
        return ArchitectureVerdict("cannot tell", line, differences, confidence, learned=False)
    kind = kind_of_all([difference.kind for difference in by_ratio])
    line = f"{architecture}: {kind}: {_findings(kind, differences, _IN_WORDS.get(score, score), confidence)}"
    if by_ratio[0].tentative:
        line += f"; {_ONE_SEED}"
    return ArchitectureVerdict(kind, line, differences, confidence)


def kind_of_all(kinds: Sequence[str]) -> str:
    """Return "helps" if any does and none hurts, "hurts" the other way round, "mixed" for both, else "cannot tell"."""
    helps, hurts = ("mixed" in kinds or kind in kinds for kind in ("helps", "hurts"))
    if helps and hurts:
        return "mixed"
    if helps or hurts:
        return "helps" if helps else "hurts"
    return "cannot tell"


def _findings(kind: str, differences: Mapping[str, Difference], score: str, confidence: float) -> str:
    """Return the ratios that decided on `kind`, or the best one, in words."""
    ratios = {ratio: difference for ratio, difference in differences.items() if not np.isnan(difference.mean)}
    if not ratios:
        return "the test images have no class to score"
    best = max(ratios, key=lambda ratio: ratios[ratio].mean)
    worst = min(ratios, key=lambda ratio: ratios[ratio].mean)
    interval = f"{100 * confidence:.4g} % interval "
    if kind == "cannot tell":
        (mean, bounds), at = ratios[best].points, f"best ratio {best}" if len(differences) > 1 else f"ratio {best}"
        return f"{at} changes {score} by {mean} points ({interval}{bounds})"
    parts = []
    for ratio in {"helps": [best], "hurts": [worst], "mixed": [best, worst]}[kind]:
        mean, bounds = ratios[ratio].points
        parts.append(f"{score} {mean} points ({interval}{bounds}) at ratio {ratio}")
    return ", ".join(parts)


def overall(verdicts: Mapping[str, ArchitectureVerdict]) -> tuple[str, str]:
    """Return the kind and the headline of all architectures together.

    The kinds are those of one architecture, by the same rule, or "not measured" without any architecture.
    """
    if not verdicts:
        return "not measured", "Whether synthetic data helps was not measured"
    kinds = [verdict.kind for verdict in verdicts.values()]
    kind = kind_of_all(kinds)
    # With one seed, another training might reverse the result.
    tentative = any(verdict.tentative for verdict in verdicts.values())
    helps, hurts = ("seems to help", "seems to hurt") if tentative else ("helps", "hurts")
    opening = {
        "helps": f"Synthetic data {helps}",
        "hurts": f"Synthetic data {hurts}",
        "mixed": f"Synthetic data {helps} in some cases and {hurts} in others",
        "cannot tell": "Cannot tell whether synthetic data helps",
    }[kind]
    headline = f"{opening}: {_counted(kinds)}"
    return kind, f"{headline} ({_ONE_SEED})" if tentative else headline


def _counted(kinds: Sequence[str]) -> str:
    """Return for example "helps 2 of 3 architectures, cannot tell for 1"."""
    words = {"helps": "helps", "hurts": "hurts", "mixed": "mixed for", "cannot tell": "cannot tell for"}
    parts = [f"{word} {kinds.count(kind)}" for kind, word in words.items() if kind in kinds]
    architectures = "architecture" if len(kinds) == 1 else "architectures"
    return ", ".join([f"{parts[0]} of {len(kinds)} {architectures}", *parts[1:]])
