"""Paired intervals: a slow loop, simulated trainings with known differences, and the verdicts in words."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from evaluations.metrics.segmentation import SUMMARIES, Counts, count, scores
from evaluations.study import comparison
from evaluations.study.comparison import (
    ArchitectureVerdict,
    Difference,
    bootstrap_difference,
    constant_score,
    few_groups_warning,
    judge_architecture,
    overall,
)

Repeats = list[Counts]


class TestSplit:
    """Simulated test images of two classes, on which arms of any quality can be trained."""

    __test__ = False

    def __init__(self, rng: np.random.Generator, images: int = 60) -> None:
        self.rng = rng
        self.truth = np.stack([rng.integers(500, 1000, images), rng.integers(0, 200, images)], axis=1)
        self.ease = rng.normal(1.5, 1, (images, 2))

    def arm(self, gain: float = 0.0, luck: float = 0.0, seeds: int = 3) -> Repeats:
        """Return an arm whose pixels are right with log-odds `gain` above the baseline's, and `luck` its deviation."""
        found = []
        for _ in range(seeds):
            noise = self.rng.normal(0, 0.3, self.ease.shape) + self.rng.normal(0, luck)
            hits = self.rng.binomial(self.truth, 1 / (1 + np.exp(-(self.ease + gain + noise))))
            missed = self.truth - hits
            found.append(Counts(hits, missed[:, ::-1].copy(), missed))
        return found


def split(seed: int = 0, images: int = 60) -> TestSplit:
    return TestSplit(np.random.default_rng(seed), images)


def redrawn(counts: Counts, indices: list[int]) -> Counts:
    """Return the counts of the images at `indices`, of which one may come more than once."""
    return Counts(*(pixels[indices] for pixels in counts.columns))


# ------------------------------------------------------------------------------------------------- intervals


def test_equal_arms_differ_by_nothing() -> None:
    arm = split().arm(luck=0.3)
    found = bootstrap_difference(arm, arm)
    assert found.mean == 0
    assert (found.low, found.high) == pytest.approx((0, 0), abs=1e-12)
    assert found.kind == "cannot tell"


@pytest.mark.parametrize("seeds", [1, 3])
def test_copies_of_an_image_are_no_more_evidence_than_the_image(seeds: int) -> None:
    images = split()
    first, second = images.arm(luck=0.02, seeds=seeds), images.arm(0.1, luck=0.02, seeds=seeds)
    alone = bootstrap_difference(first, second)
    four_times = [[redrawn(counts, list(range(60)) * 4) for counts in arm] for arm in (first, second)]
    grouped = bootstrap_difference(*four_times, groups=list(range(60)) * 4)
    for key in ("mean", "low", "high", "stratified"):
        assert getattr(grouped, key) == pytest.approx(getattr(alone, key))
    assert (alone.images, alone.groups, grouped.images, grouped.groups) == (60, 60, 240, 60)
    each = bootstrap_difference(*four_times, groups=[None] * 240)
    assert each == bootstrap_difference(*four_times)
    if seeds == 1:  # nothing but the chance of images
        assert each.high - each.low == pytest.approx((alone.high - alone.low) / 2, rel=0.15)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(("gain", "kind"), [(1.0, "helps"), (-1.0, "hurts"), (0.0, "cannot tell")])
def test_clear_gains_and_losses(gain: float, kind: str, seeds: int) -> None:
    images = split()
    first, second = images.arm(luck=0.05, seeds=seeds), images.arm(gain, luck=0.05, seeds=seeds)
    found, reverse = bootstrap_difference(first, second), bootstrap_difference(second, first)
    assert found.kind == kind
    assert found.low <= found.mean <= found.high
    assert found.tentative == (seeds == 1)
    assert (len(found.by_seed), found.images, found.confidence) == (seeds, 60, 0.95)
    assert (reverse.mean, reverse.low, reverse.high) == pytest.approx((-found.mean, -found.high, -found.low))
    differences = [scores(b).miou - scores(a).miou for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found.by_seed, differences)
    assert found.mean == pytest.approx(np.mean(differences))
    std = np.std(differences, ddof=1) if seeds > 1 else np.nan
    assert found.std == pytest.approx(std, nan_ok=True)


@pytest.mark.parametrize("score", SUMMARIES)
def test_equal_to_a_slow_loop(score: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed: draw the images by index, score each draw on its own. Class 1 is in few images, so in not all draws."""
    images = split(images=8)
    images.truth[2:, 1] = 0
    first, second = images.arm(seeds=1), images.arm(0.5, seeds=1)
    drawn: list[list[int]] = []
    draw_weights = comparison.draw_weights

    def recording(generator: np.random.Generator, resamples: int, count: int) -> np.ndarray:
        weights = draw_weights(generator, resamples, count)
        if count > 1:  # of the images, not of the one seed
            drawn.extend(np.repeat(np.arange(count), row.astype(int)).tolist() for row in weights)
        return weights

    monkeypatch.setattr(comparison, "draw_weights", recording)
    monkeypatch.setattr(comparison, "FEW_GROUPS", 2)  # percentiles, although two images tell of class 1
    monkeypatch.setattr(comparison, "_CHUNK", 8 * 30)  # chunks of 30 resamples, the last one shorter
    found = bootstrap_difference(first, second, score=score, resamples=100, confidence=0.8)
    assert len(drawn) == 100
    assert all(len(indices) == 8 for indices in drawn)
    assert any(not scores(redrawn(first[0], indices)).present[1] for indices in drawn)
    differences = [
        getattr(scores(redrawn(second[0], indices)), score) - getattr(scores(redrawn(first[0], indices)), score)
        for indices in drawn
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.nanquantile(differences, [0.1, 0.9])))
    assert found.stratified == pytest.approx((found.low, found.high)), "one seed: the same"


def test_every_image_is_drawn_equally_often() -> None:
    weights = comparison.draw_weights(np.random.default_rng(0), 4000, 10)
    assert weights.sum(axis=1).tolist() == [10] * 4000
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.07)
    np.testing.assert_allclose(weights.var(axis=0), 0.9, atol=0.1)  # of a binomial of 10 draws at 1 / 10


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_without_luck_of_images_it_is_the_paired_t_interval(seeds: int) -> None:
    """All images are alike, so only the luck of training is left."""
    rng = np.random.default_rng(seeds)

    def arm() -> Repeats:
        hits = [np.tile(rng.integers(60, 90, 2), (20, 1)) for _ in range(seeds)]
        return [Counts(hit, (100 - hit)[:, ::-1].copy(), 100 - hit) for hit in hits]

    first, second = arm(), arm()
    found = bootstrap_difference(first, second, resamples=20_000)
    paired = [[scores(counts).miou for counts in one] for one in (second, first)]
    expected = stats.ttest_rel(*paired).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=5e-3, abs=1e-6)
    options = {"n_resamples": 20_000, "method": "percentile", "random_state": 0}
    expected = stats.bootstrap((np.subtract(*paired),), np.mean, **options).confidence_interval
    assert found.stratified == pytest.approx((expected.low, expected.high), rel=2e-2, abs=1e-6)
    assert found.to_json()["interval_stratified"] == list(found.stratified)


@pytest.mark.slow
@pytest.mark.parametrize(("luck", "images"), [(0.0, 60), (0.15, 60), (0.3, 200)])
def test_intervals_hold_as_often_as_they_say(luck: float, images: int) -> None:
    """From luck of the images alone to luck of training mostly; three seeds, three arms no better than the baseline.

    Of 150 simulations at 95 %, all but 1 in 1000 have at least 133 that hold. A bootstrap over seeds would hold in some
    70 % of the last case.
    """
    rng = np.random.default_rng(1)
    alone = together = 0
    for _ in range(150):
        simulated = TestSplit(rng, images)
        baseline, *arms = (simulated.arm(luck=luck) for _ in range(4))
        one = bootstrap_difference(baseline, arms[0], resamples=300)
        alone += one.low <= 0 <= one.high
        verdict = judge_architecture(baseline, dict(zip("abc", arms, strict=True)), architecture="fpn", resamples=300)
        together += all(found.low <= 0 <= found.high for found in verdict.differences.values())
    assert alone >= 133
    assert together >= 133


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("images", [1, 8])
def test_one_image_or_group_tells_nothing_of_chance(images: int, seeds: int) -> None:
    simulated = split(images=images)
    first, second = simulated.arm(seeds=seeds), simulated.arm(1.0, seeds=seeds)
    found = bootstrap_difference(first, second, groups=["part"] * images)
    assert found.mean > 0
    assert (found.groups, found.kind) == (1, "cannot tell")
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert (record["low"], record["high"], record["interval_stratified"]) == (None, None, [None, None])
    verdict = judge_architecture(first, {"1": second}, architecture="fpn", groups=["part"] * images)
    assert verdict.kind == overall({"fpn": verdict})[0] == "cannot tell"
    assert "nan" not in verdict.line


@pytest.mark.parametrize("groups", [2, 3, 7])
def test_few_groups_have_the_paired_t_interval(groups: int) -> None:
    """Of a score that is a mean over groups, one seed; and the opposite one if settings are exchanged."""
    rng = np.random.default_rng(groups)
    hits = rng.integers(40, 90, (2, groups, 1)).repeat(4, axis=1)
    first, second = ([Counts(hit, np.zeros_like(hit), 100 - hit)] for hit in hits)
    names = np.arange(groups).repeat(4).tolist()
    options = {"score": "recall", "groups": names, "resamples": 20_000}
    found = bootstrap_difference(first, second, **options)
    each = hits[:, ::4, 0] / 100
    expected = stats.ttest_rel(each[1], each[0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.05, abs=0.01)
    back = bootstrap_difference(second, first, **options)
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [2, 3, 4, 7])
def test_few_groups_give_few_false_verdicts(groups: int) -> None:
    """Models that find each object better or worse by chance; of 200 simulations at 95 %, all but 1 in 1000 have at
    most 21 verdicts. Percentiles of resamples have some 110 with two groups.
    """
    rng = np.random.default_rng(groups)
    verdicts = 0
    for number in range(200):
        ease = rng.uniform(0.4, 0.6, groups)
        arms = []
        for _ in range(2):
            hits = np.round(1000 * (ease + rng.normal(0, 0.08, groups))).astype(np.int64).repeat(5)[:, None]
            arms.append([Counts(hits, np.zeros_like(hits), 1000 - hits)])
        names = np.arange(groups).repeat(5).tolist()
        found = bootstrap_difference(*arms, score="recall", groups=names, resamples=300, seed=number)
        verdicts += found.kind != "cannot tell"
    assert verdicts <= 21


@pytest.mark.parametrize(("groups", "images"), [(1, 1), (1, 6), (3, 3), (3, 12), (7, 7)])
def test_a_warning_names_how_few_there_are(groups: int, images: int) -> None:
    (line,) = few_groups_warning(groups, images)
    assert line.startswith(f"{images} test image")
    assert (f"{groups} object" in line) == (groups < images)
    assert few_groups_warning(8, images + 8) == []


def test_an_interval_is_not_wider_than_it_must_be() -> None:
    """Of the mean of 200 alike images, the bootstrap's interval is the normal one: 2 * 1.96 standard errors."""
    rng = np.random.default_rng(0)
    hits = rng.binomial(100, 0.7, (200, 1))
    better = np.minimum(hits + rng.binomial(10, 0.5, hits.shape), 100)
    arms = [[Counts(hit, np.zeros_like(hit), 100 - hit)] for hit in (hits, better)]
    found = bootstrap_difference(*arms, score="recall", resamples=5000)
    error = (better - hits).std() / 100 / 200**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_seeds_are_paired_and_draws_repeat() -> None:
    """Arms that share the luck of each seed differ more surely than those that do not."""
    images = split()
    first = [images.arm(luck, seeds=1)[0] for luck in (-0.5, 0.0, 0.5)]
    second = [images.arm(0.3 + luck, seeds=1)[0] for luck in (-0.5, 0.0, 0.5)]
    paired = bootstrap_difference(first, second)
    crossed = bootstrap_difference(first, second[::-1])
    assert crossed.mean == pytest.approx(paired.mean)
    assert crossed.high - crossed.low > 3 * (paired.high - paired.low)
    assert paired == bootstrap_difference(first, second)
    assert paired != bootstrap_difference(first, second, seed=1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seeds", [1, 2])
def test_nothing_to_score_cannot_tell(seeds: int) -> None:
    zeros = np.zeros((4, 1), np.int64)
    arm = [Counts(zeros + 5, zeros, zeros)] * seeds  # only the background
    found = bootstrap_difference(arm, arm, score="foreground_miou")
    assert np.isnan([found.mean, found.low, found.high]).all()
    assert found.kind == "cannot tell"
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["mean"] is None
    verdict = judge_architecture(arm, {"1": arm}, architecture="fpn", score="foreground_miou")
    assert verdict.kind == "cannot tell"
    assert "nan" not in verdict.line


def test_arms_must_be_of_the_same_images_and_seeds() -> None:
    with pytest.raises(AssertionError, match="same test images"):
        bootstrap_difference(split(0).arm(), split(1).arm())
    images = split()
    with pytest.raises(AssertionError, match="same seeds"):
        bootstrap_difference(images.arm(seeds=3), images.arm(seeds=2))


def test_memory_does_not_grow_with_the_resamples() -> None:
    """The weights of 10,000 resamples of 1,000 images would be 80 MB, the sums of 20 classes 5 MB for each arm."""
    rng = np.random.default_rng(0)
    hits, missed = rng.integers(0, 100, (2, 1000, 20))
    arm = [Counts(hits, missed, missed)]
    tracemalloc.start()
    bootstrap_difference(arm, arm, resamples=10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


# -------------------------------------------------------------------------------------------------- verdicts


def fixed(gains: dict[str, tuple[float, int]]) -> ArchitectureVerdict:
    """Judge arms of known gains, each (log-odds, seeds)."""
    images = split()
    seeds = next(iter(gains.values()))[1]
    baseline = images.arm(luck=0.02, seeds=seeds)
    mixes = {ratio: images.arm(gain, luck=0.02, seeds=seeds) for ratio, (gain, _) in gains.items()}
    return judge_architecture(baseline, mixes, architecture="fpn", resamples=500)


@pytest.mark.parametrize(
    ("gains", "kind"), [([0.0, 1.0, 0.5], "helps"), ([0.0, -1.0, -0.5], "hurts"), ([0.0, 1.0, -1.0], "mixed")]
)
def test_verdict_of_an_architecture(gains: list[float], kind: str) -> None:
    verdict = fixed(dict(zip(["0.5", "1", "2"], ((gain, 3) for gain in gains), strict=True)))
    assert verdict.kind == kind
    assert not verdict.tentative
    decisive = verdict.differences["1"]
    assert verdict.line.startswith(f"fpn: {kind}: ")
    assert all(part in verdict.line for part in decisive.points)
    assert ("ratio 2" in verdict.line) == (kind == "mixed")
    assert decisive.confidence == pytest.approx(1 - 0.05 / 3)
    assert verdict.to_json()["differences"]["1"]["kind"] == decisive.kind
    json.dumps(verdict.to_json(), allow_nan=False)


def test_cannot_tell_names_the_best_ratio_and_one_seed() -> None:
    verdict = fixed({"0.5": (0.01, 1), "1": (-0.02, 1)})
    best = max(verdict.differences, key=lambda ratio: verdict.differences[ratio].mean)
    assert verdict.kind == "cannot tell"
    assert verdict.tentative
    assert verdict.line.startswith("fpn: cannot tell: ")
    assert f"ratio {best} " in verdict.line
    assert "one seed" in verdict.line


@pytest.mark.parametrize("score", ["miou", "foreground_miou", "pixel_accuracy"])
def test_the_constant_score_is_that_of_the_best_class_everywhere(score: str) -> None:
    labels = np.random.default_rng(0).choice(4, (5, 8, 8), p=[0.6, 0.2, 0.0, 0.2])
    each = [getattr(scores(count(labels, np.full_like(labels, class_id), 4)), score) for class_id in range(4)]
    assert constant_score(count(labels, labels, 4), score) == pytest.approx(max(each))


def test_a_sure_gain_of_models_that_learned_nothing_cannot_be_told() -> None:
    images = split()
    worse, bad = images.arm(-4.0, luck=0.02), images.arm(-3.0, luck=0.02)
    verdict = judge_architecture(worse, {"1": bad}, architecture="fpn", resamples=500)
    assert verdict.differences["1"].kind == "helps"
    assert verdict.kind == "cannot tell"
    assert not verdict.learned
    assert f"{100 * constant_score(worse[0]):.1f}" in verdict.line
    found = judge_architecture(worse, {"1": bad, "2": images.arm()}, architecture="fpn", resamples=500)
    assert found.learned  # by one of them
    assert found.kind == "helps"


def test_more_ratios_widen_each_interval() -> None:
    images = split()
    baseline, mix = images.arm(seeds=1), images.arm(0.1, seeds=1)
    (alone,) = judge_architecture(baseline, {"1": mix}, architecture="fpn").differences.values()
    among = judge_architecture(baseline, dict.fromkeys("12345", mix), architecture="fpn").differences["1"]
    assert alone == bootstrap_difference(baseline, mix)
    assert among.low < alone.low
    assert among.high > alone.high


def test_a_tiny_loss_is_not_minus_zero() -> None:
    assert Difference(-1e-6, -1e-5, 1e-5, 0.95, (0.0,), 1).points == ("+0.0", "+0.0 to +0.0")
    assert Difference(0.0149, -0.1, 0.2, 0.95, (0.0,), 1).points == ("+1.5", "-10.0 to +20.0")


@pytest.mark.parametrize(
    ("kinds", "kind", "counts"),
    [
        ("helps", "helps", "helps 1 of 1"),
        ("helps helps cannot_tell", "helps", "helps 2 of 3"),
        ("hurts cannot_tell", "hurts", "hurts 1 of 2"),
        ("helps hurts", "mixed", "helps 1 of 2"),
        ("helps mixed", "mixed", "helps 1 of 2"),
        ("cannot_tell cannot_tell", "cannot tell", "2 of 2"),
        ("", "not measured", ""),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_overall(kinds: str, kind: str, counts: str, seeds: int) -> None:
    difference = Difference(0.0, 0.0, 0.0, 0.95, (0.0,) * seeds, 10)
    verdicts = {
        f"net {index}": ArchitectureVerdict(one.replace("_", " "), "", {"1": difference}, 0.95)
        for index, one in enumerate(kinds.split())
    }
    found, headline = overall(verdicts)
    assert found == kind
    assert counts in headline
    assert ("one seed" in headline) == (seeds == 1 and bool(verdicts))
    if kind in ("helps", "hurts", "mixed"):  # another training may reverse the result of one seed
        assert ("seems to" in headline) == (seeds == 1)
