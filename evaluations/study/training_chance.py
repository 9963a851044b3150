"""How far trainings that differ in their seed alone lie apart, from the scores of all arms together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evaluations.metrics.segmentation import Floats


@dataclass(frozen=True)
class TrainingChance:
    """The variance of the score of one training, and the degrees of freedom of this estimate, at least 1."""

    variance: float
    freedom: int

    @classmethod
    def of(cls, arms: Iterable[Mapping[int, float]]) -> TrainingChance | None:
        """Return what is left of scores, by arm and repeat, beside a mean of each arm and an effect of each seed.

        The residual variance of a two-way analysis without interaction, by least squares, as arms may lack seeds
        (Scheffe 1959, chapter 4). None where nothing is left. Scores that are not finite do not count.
        """
        cells = [
            (arm, repeat, score)
            for arm, scores in enumerate(arms)
            for repeat, score in scores.items()
            if np.isfinite(score)
        ]
        if not cells:
            return None
        numbers, repeats, scores = map(np.array, zip(*cells, strict=True))
        design = np.concatenate([numbers[:, None] == np.unique(numbers), repeats[:, None] == np.unique(repeats)], 1)
        effects, _, rank, _ = np.linalg.lstsq(design.astype(np.float64), scores, rcond=None)
        freedom = len(scores) - int(rank)
        if not freedom:
            return None
        return cls(float(((scores - design @ effects) ** 2).sum()) / freedom, freedom)

    def errors(self, seeds: int, draws: int, seed: int) -> Floats:
        """Return errors, [2, draws], of the difference of two means over so many seeds, each with its opposite.

        In random order: quantiles of Student's t times the standard error, as few degrees of freedom have long tails.
        """
        quantiles = stats.t.ppf((np.arange(draws) + 0.5) / draws, self.freedom)
        errors = np.sqrt(2 * self.variance / seeds) * np.random.default_rng([seed, 1]).permutation(quantiles)
        return np.stack([errors, -errors])
