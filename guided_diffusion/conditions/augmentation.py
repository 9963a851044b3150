"""What a network is told of how a training image was augmented."""

from __future__ import annotations

AUGMENT_PARAMETERS = (
    "mirrored", "upside down", "turned by 1 or 2 quarters", "turned by 2 or 3 quarters",
    "scale", "shift down", "shift right", "brightness",
)  # fmt: skip
"""Numbers of an image, all 0 where it was not augmented and in sampling: 0 or 1, then of about unit variance."""
