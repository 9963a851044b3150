"""What a manifest says of how a pair was made, in words that exported datasets have."""

from __future__ import annotations

import pytest

from guided_diffusion.pipelines.export_source import origin_of
from guided_diffusion.samples.manifest import ManifestLine

PLAIN = {"index": 0, "image": "images/a.png", "mask": "masks/a.png", "source_mask": "m.png", "source_digest": "0" * 16}
GOOD = {"index": 0, "image": "images/a.png", "mask": "masks/a.png", "good_image": "g.png", "good_digest": "0" * 16}
PSEUDO = {"image": "a.png", "digest": "0", "score": 0.1, "confidence": 0.9, "ignored": 0.0, "classifier": "0"}


@pytest.mark.parametrize(
    ("line", "origin"),
    [
        (PLAIN, "synthetic image"),
        (GOOD, "synthetic defects in a real image"),
        ({**PLAIN, "made_by": "studio", "hole_margin": 6}, "synthetic defects in a real image"),
        ({**GOOD, "blend": "poisson"}, "pasted defects in a real image"),
        ({**PLAIN, "pseudo": PSEUDO}, "real image, predicted mask"),
        ({**PLAIN, "classified": {"score": 0.1, "ignored": 0.0}}, "synthetic image, predicted mask"),
        ({**PLAIN, "predicted": {"objects": [], "steps": 1}}, "synthetic image, predicted mask"),
        ({**PLAIN, "generates": "pair"}, "synthetic image and mask"),
        ({**PLAIN, "generates": "mask"}, "synthetic mask"),
    ],
)
def test_manifests_say_how_pairs_were_made(line, origin):
    assert origin_of(ManifestLine.model_validate(line)) == origin
