"""The measure of painting into large images, in a shortened version: the time depends on the hole alone."""

import processes
import pytest

from scripts.measure.place_sizes import MOST_RATIO, measure


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_large_image_takes_the_time_of_a_small_one_and_a_few_copies(tmp_path, scale):
    processes.serve()
    result = measure(tmp_path, runs=5, scale=scale, steps=3, writing=False)
    assert result.ratio <= MOST_RATIO
    assert result.copies <= 6
