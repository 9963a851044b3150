"""Origins of samples: by digests, by names among equal files, and by label maps under flips and turns."""

from __future__ import annotations

import numpy as np
import pytest

from evaluations.origins import UNKNOWN, MaskClue, RealMasks, leaked, origin_warnings, trace_origins
from evaluations.symmetry import SYMMETRIES, apply_d4

RNG = np.random.default_rng(0)
TRAINING = RNG.integers(0, 3, (4, 6, 6))
TEST = RNG.integers(0, 3, (2, 6, 6))
NOTHING = MaskClue()


def masks(labels: np.ndarray, digests: tuple[str, ...] = ()) -> RealMasks:
    return RealMasks(labels, [f"{index}.png" for index in range(len(labels))], digests)


def test_a_digest_decides_and_a_name_among_equal_files():
    training = masks(TRAINING, ("a", "b", "b", "c"))
    clues = [MaskClue("a", "x.png"), MaskClue("b", "2.png"), MaskClue("b", "9.png"), MaskClue("d", "0.png")]
    other = RNG.integers(0, 3, (4, 6, 6))
    origin, test_origin = trace_origins(other, clues, (training, masks(TEST, ("t", "u"))))
    assert origin.tolist() == [0, 2, 1, UNKNOWN]
    assert (test_origin == UNKNOWN).all()


@pytest.mark.parametrize("symmetry", range(len(SYMMETRIES)))
def test_without_a_manifest_a_map_is_found_under_flips_and_turns(symmetry):
    sample = apply_d4(TEST[1][..., None], symmetry)[..., 0]
    origin, test_origin = trace_origins(sample[None], [NOTHING], (masks(TRAINING), masks(TEST)))
    assert (origin.tolist(), test_origin.tolist()) == ([UNKNOWN], [1])
    assert leaked(origin, test_origin) == 1


def test_a_map_of_one_class_tells_nothing():
    plain = np.zeros((1, 6, 6), int)
    training = masks(np.concatenate([plain, TRAINING]))
    assert trace_origins(plain, [NOTHING], (training, None)).tolist() == [[UNKNOWN], [UNKNOWN]]


def test_warnings_count_varied_maps_alone():
    labels = np.concatenate([TRAINING[:2], np.zeros((1, 6, 6), int)])
    unknown = np.full(3, UNKNOWN)
    known = np.array([0, 1, UNKNOWN])
    assert origin_warnings("here", labels, known, unknown, compared_with_test=False) == []
    (line,) = origin_warnings("here", labels, known, unknown, compared_with_test=True)
    assert line.startswith("here: 2 of 3 samples")
    (line,) = origin_warnings("here", labels, unknown, unknown, compared_with_test=False)
    assert "2 of 3 samples" in line
    assert origin_warnings("here", labels, None, unknown, compared_with_test=False) == []
