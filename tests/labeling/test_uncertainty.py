"""Scores of images, and which images are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from guided_diffusion.labeling.uncertainty import image_score, keep_certain, needed_before_dropping, published_keep


def test_the_recorded_published_filter_and_ours(golden):
    record, _ = golden("filtering")
    assert record["cases"]
    for name, case in record["cases"].items():
        count, portion = name.split("_")
        count, portion = int(count[1:]), float(portion.removeprefix("portion"))
        scores = np.random.default_rng(7).random(count)
        ranks = scores.argsort().argsort()
        published = ranks[published_keep(scores, portion)]
        assert len(published) == case["kept"]
        if case["kept"]:
            assert (published.min(), published.max()) == (case["lowest_rank_kept"], case["highest_rank_kept"])
        ours = ranks[keep_certain(scores, portion)]
        assert sorted(ours) == list(range(count - int(portion * count)))


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("wanted", [1, 7, 30, 101])
def test_never_fewer_than_wanted_and_no_more_work_than_needed(wanted, drop):
    count = needed_before_dropping(wanted, drop)
    assert len(keep_certain(np.zeros(count), drop)) >= wanted
    assert count == wanted or len(keep_certain(np.zeros(count - 1), drop)) < wanted


def test_of_equal_scores_the_later_image_is_dropped():
    assert keep_certain([0.5, 0.1, 0.5, 0.5], 0.5).tolist() == [0, 1]


def test_score_is_of_the_most_uncertain_tenth():
    assert image_score(torch.arange(25.0)) == pytest.approx(23.5)
    assert image_score(torch.arange(9.0)) == pytest.approx(4.0)
