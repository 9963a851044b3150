"""What metrics share: sets whose features are computed once, pictures of samples, and networks that are left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from shapes import shapes

from evaluations.errors import EvaluationError
from evaluations.metrics.base import (
    EvaluationSets,
    FeatureExtractor,
    MaskGroups,
    Skipped,
    load_optional,
    sample_captions,
)
from evaluations.sets import ImageSet
from evaluations.symmetry import apply_d4

NONE = np.full(3, -1)


def flipped(images: ImageSet) -> ImageSet:
    return replace(
        images,
        images=np.ascontiguousarray(images.images[:, :, ::-1]),
        labels=np.ascontiguousarray(images.labels[:, :, ::-1]),
    )


@pytest.fixture
def sets() -> EvaluationSets:
    """Samples 0 and 1 are of the flipped masks of training images 1 and 0, sample 2 of the mask of test image 0."""
    training, test = shapes(4, seed=1), shapes(2, seed=2)
    samples = flipped(training.subset([1, 0])).joined(test.subset([0]))
    return EvaluationSets(
        training,
        test,
        samples,
        ("background", "bright", "dark"),
        0,
        np.array([1, 0, -1]),
        np.array([-1, -1, 0]),
        "as they are",
        lambda: MaskGroups((), lambda number: samples.images, ""),
    )


def test_features_are_computed_once_for_all_metrics(sets):
    seen = []

    def compute(images, progress):
        seen.append(progress)
        return images.reshape(len(images), -1)[:, :5].astype(float)

    for _ in range(2):
        extractor = FeatureExtractor("first pixels", compute)
        training = sets.features(extractor, "training")
        views = sets.training_views(extractor)
        samples = sets.features(extractor, "samples")
    assert seen == ["features of training images"] * 8 + ["features of samples"]
    assert (views.shape, samples.shape) == ((8, 4, 5), (3, 5))
    np.testing.assert_array_equal(views[0], training)
    turned = np.ascontiguousarray(apply_d4(sets.training.images, 6))
    np.testing.assert_array_equal(views[6], turned.reshape(4, -1)[:, :5])
    sets.features(FeatureExtractor("another", compute), "samples")
    assert len(seen) == 10


def test_a_sample_is_shown_beside_the_real_image_turned_as_its_mask(sets):
    for index, (real, mask, sample) in enumerate(sets.triples(np.arange(3))):
        np.testing.assert_array_equal(mask, sets.samples.labels[index])
        np.testing.assert_array_equal(sample, sets.samples.images[index])
        np.testing.assert_array_equal(real, sample)  # here the samples are the real images, flipped
    unknown = replace(sets, origin=NONE, test_origin=NONE)
    assert {int(level) for level in np.unique(unknown.triples(np.array([2]))[0][0])} == {128}


def test_real_images_are_all_that_were_read(sets):
    assert len(sets.real) == 6
    assert replace(sets, training=None).real is sets.test
    assert sets.size == (32, 32)


def test_captions():
    scores = {"Agreement": np.array([0.1, 0.25, 1.0]), "Other": np.array([3.0, 2.0, 1.0])}
    assert sample_captions(scores, np.array([2, 0])) == "Agreement: 1.00, 0.10; Other: 1.00, 3.00"
    assert sample_captions({}, np.array([1])) == ""


def test_a_network_is_left_out_where_it_cannot_be_downloaded_and_a_wrong_file_is_an_error():
    def fail(weights):
        raise EvaluationError("x_weights", "missing", "make it", path=weights)

    for weights, wanted in (("none", False), ("auto", True)):
        found = load_optional("x_weights", weights, fail)
        assert isinstance(found, Skipped)
        assert found.wanted == wanted
        assert "x_weights" in found.reason
    with pytest.raises(EvaluationError) as error:
        load_optional("x_weights", "file.pt", fail)
    assert error.value.path == "file.pt"
    assert load_optional("x_weights", "file.pt", str.upper) == "FILE.PT"
    left_out = Skipped("why").measurement("Heading", "FID")
    assert left_out.record == {"skipped": "why"}
    assert left_out.section.heading == "Heading"
