"""What is measured on synthetic images: of which classes."""

from __future__ import annotations

import pytest

from guided_diffusion.pipelines.study.measures import with_ratios


def measured(real: dict, synthetic: dict) -> dict:
    """Return the entry of a set whose classes have these IoUs; a ratio that an earlier version wrote goes along."""
    entry = {"label": "", "arm": "place", "mean": 0.9, "ratio": 1.8, "classes": synthetic}
    return with_ratios({"agreement": {"real": {"mean": 0.5, "classes": real}, "sets": [entry]}})["agreement"]["sets"][0]


@pytest.mark.parametrize(
    ("real", "synthetic", "ratio"),
    [
        ((0.9, 0.1), (0.9, None), 1),  # the hard class is nowhere in the synthetic images
        ((0.9, None), (0.9, 0.1), 1),
        ((0.8, 0.2), (0.4, 0.1), 0.5),
        ((0.8, 0.2), (0.2, 0.8), 1),
        ((None, 0.2), (0.2, None), None),
        ((0.0, None), (0.2, None), None),
    ],
)
def test_agreement_compares_means_over_the_same_classes(real, synthetic, ratio):
    real, synthetic = (dict(zip(("crack", "hole"), each, strict=True)) for each in (real, synthetic))
    found = measured(real, synthetic)
    assert found["ratio"] == (ratio if ratio is None else pytest.approx(ratio))
    for name, value in found["ratio_classes"].items():
        known = synthetic[name] is not None and real[name]
        assert value == (pytest.approx(synthetic[name] / real[name]) if known else None)


def test_a_record_without_agreement_stays():
    assert with_ratios({"looks": {}}) == {"looks": {}}
