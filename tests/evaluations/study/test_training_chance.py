"""How far trainings lie apart by chance: against textbook formulas and in simulations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluations.study.training_chance import TrainingChance


def arms_of(scores: np.ndarray) -> list[dict[int, float]]:
    """Return scores [A, S] by arm and repeat, without those that are NaN."""
    return [{repeat: score for repeat, score in enumerate(row) if not np.isnan(score)} for row in scores]


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_two_arms_have_the_error_of_the_paired_t_test(seeds):
    scores = np.random.default_rng(seeds).normal(0.3, 0.02, (2, seeds))
    chance = TrainingChance.of(arms_of(scores))
    assert chance.freedom == seeds - 1
    assert 2 * chance.variance == pytest.approx(np.var(scores[1] - scores[0], ddof=1))
    expected = stats.ttest_rel(scores[1], scores[0]).confidence_interval(0.95)
    errors = chance.errors(seeds, 20_000, 0) + (scores[1] - scores[0]).mean()
    assert np.quantile(errors, [0.025, 0.975]) == pytest.approx([expected.low, expected.high], rel=2e-3, abs=1e-5)


def test_all_arms_and_seeds_have_the_residuals_of_a_two_way_analysis():
    scores = np.random.default_rng(1).normal(0.3, 0.02, (4, 3))
    left = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    chance = TrainingChance.of(arms_of(scores))
    assert chance.freedom == 3 * 2
    assert chance.variance == pytest.approx((left**2).sum() / 6)
    # What all arms of a seed have in common, and what all seeds of an arm have, is no chance.
    shifted = scores + np.array([[0.1], [0.2], [0.0], [0.5]]) + np.array([0.3, 0.0, 0.1])
    assert TrainingChance.of(arms_of(shifted)).variance == pytest.approx(chance.variance)


@pytest.mark.parametrize(
    "scores",
    [
        [[0.3], [0.4]],  # one seed
        [[0.3, 0.4, 0.5]],  # one arm
        [[0.3, np.nan], [np.nan, 0.4]],  # no seed in common
        [[np.nan, np.nan]],
    ],
)
def test_where_nothing_tells_of_chance_there_is_none(scores):
    assert TrainingChance.of(arms_of(np.array(scores))) is None


def test_arms_without_some_seeds_tell_what_they_can():
    scores = np.array([[0.30, 0.32, 0.31], [0.40, 0.44, np.nan], [0.35, np.nan, np.nan]])
    chance = TrainingChance.of(arms_of(scores))
    assert chance.freedom == 1
    full = TrainingChance.of(arms_of(scores[:2, :2]))  # the only cells that are more than their arm and seed explain
    assert chance.variance == pytest.approx(full.variance)


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [0, 1, 3])
def test_intervals_hold_as_often_as_they_say(lacking):
    """Of 4,000 simulated differences of two of four arms of three seeds; 0.935 to 0.965 is 4 standard errors."""
    rng, held = np.random.default_rng(lacking), 0
    for _ in range(4000):
        arms = rng.normal(0, 0.1, (4, 1))
        scores = arms + rng.normal(0, 0.02, (1, 3)) + rng.normal(0, 0.02, (4, 3))
        scores[1 : 1 + lacking, 2] = np.nan
        both = ~np.isnan(scores[:2]).any(0)
        chance = TrainingChance.of(arms_of(scores))
        error = np.sqrt(2 * chance.variance / both.sum()) * stats.t.ppf(0.975, chance.freedom)
        held += abs((scores[1] - scores[0])[both].mean() - (arms[1] - arms[0]).item()) <= error
    assert 0.935 <= held / 4000 <= 0.965


@pytest.mark.parametrize(("luck", "share"), [(1, 0.95), (2, 0.88)])
def test_what_the_readme_says_of_six_settings_of_three_seeds(luck, share):
    """Narrower than pairs alone; they hold less often where trainings of one of the two vary more than all others."""
    rng, held, widths = np.random.default_rng(0), 0, []
    for _ in range(1000):
        scores = rng.normal(0, 0.02, (6, 3)) * np.array([[luck], *[[1]] * 5])
        half = []
        for arms in (scores, scores[:2]):
            chance = TrainingChance.of(arms_of(arms))
            half.append(np.sqrt(2 * chance.variance / 3) * stats.t.ppf(0.975, chance.freedom))
        held += abs((scores[1] - scores[0]).mean()) <= half[0]
        widths.append(half)
    assert held / 1000 == pytest.approx(share, abs=0.03)
    if luck == 1:
        together, alone = np.median(widths, axis=0)
        assert together / alone == pytest.approx(0.6, abs=0.03)
