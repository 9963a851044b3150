"""The weights of pixels in a loss: means over the hole, the rest and nothing of the border."""

from __future__ import annotations

import pytest
import torch
from flat_options import noise_process
from torch import Tensor

from guided_diffusion.diffusion.pixel_weights import KNOWN_WEIGHT, pixel_weights

N, SIZE = 3, (9, 7)
DRAW = torch.Generator().manual_seed(0)
HOLE = torch.rand(N, *SIZE, generator=DRAW) < 0.3
INSIDE = torch.ones(N, *SIZE, dtype=torch.bool)
INSIDE[0, 5:], INSIDE[2, :, :2] = False, False
LOSSES = (
    {"learn_sigma": False},
    {"learn_sigma": True, "rescale_learned_sigmas": True},
    {"learn_sigma": True, "use_kl": True},
    {"learn_sigma": True, "min_snr_gamma": 5.0, "prediction": "eps"},
)


def weighted(values: Tensor, inside: Tensor | None, hole: Tensor | None) -> Tensor:
    """Return the weighted means of [N, C, H, W], [N], as a loss takes them."""
    weight = pixel_weights(inside, hole)
    assert weight is not None
    assert weight.dtype == torch.float32
    return (values * weight).flatten(1).mean(1)


def mean(values: Tensor, pixels: Tensor) -> Tensor:
    """Return the mean over channels and chosen pixels of each image, by the definition; 0 where there are none."""
    means = [image[:, chosen].mean() for image, chosen in zip(values, pixels, strict=True)]
    return torch.stack(means).nan_to_num(0)


def test_without_holes_and_borders_nothing_is_weighted():
    assert pixel_weights(None, None) is None


@pytest.mark.parametrize("with_border", [True, False])
def test_the_hole_counts_fully_the_rest_little_and_a_border_not_at_all(with_border):
    values = torch.randn(N, 2, *SIZE, generator=DRAW)
    inside = INSIDE if with_border else torch.ones_like(INSIDE)
    expected = mean(values, HOLE & inside) + KNOWN_WEIGHT * mean(values, ~HOLE & inside)
    found = weighted(values, inside if with_border else None, HOLE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighted(values, INSIDE, None), mean(values, INSIDE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hole", [True, False])
def test_holes_of_everything_or_nothing(hole):
    values, everywhere = torch.randn(N, 2, *SIZE, generator=DRAW), torch.full((N, *SIZE), hole)
    whole = values.flatten(1).mean(1) * (1 if hole else KNOWN_WEIGHT)
    torch.testing.assert_close(weighted(values, None, everywhere), whole, rtol=1e-4, atol=1e-5)
    nothing = torch.zeros(N, *SIZE, dtype=torch.bool)
    for hole_or_none in (everywhere, None):
        assert torch.equal(weighted(values, nothing, hole_or_none), torch.zeros(N))


@pytest.mark.parametrize("options", LOSSES)
def test_every_term_of_a_loss_is_weighted_alike(options):
    """A loss of weighted pixels is the plain loss of a picture of these pixels alone; t = 0 has a term of its own."""
    process = noise_process(diffusion_steps=30, **options)
    columns = torch.zeros(N, *SIZE, dtype=torch.bool)
    columns[:, :, 2:5] = True
    x0 = (2 * torch.rand(N, 3, *SIZE, generator=DRAW) - 1).contiguous()
    noise = torch.randn(x0.shape, generator=DRAW)
    output = 0.3 * torch.randn(N, 6 if options["learn_sigma"] else 3, *SIZE, generator=DRAW)
    t = torch.tensor([0, 7, 19])
    images = (output, x0, process.q_sample(x0, t, noise), noise)

    def losses(part: slice, weight: Tensor | None) -> dict[str, Tensor]:
        out, clean, noisy, drawn = (image[..., part] for image in images)
        return process.training_losses(out, clean, noisy, t, drawn, weight)

    whole, rest = slice(None), (slice(0, 2), slice(5, 7))
    hole = losses(slice(2, 5), None)
    known = {key: sum(losses(part, None)[key] for part in rest) / 2 for key in hole}
    found = losses(whole, pixel_weights(None, columns))
    assert found.keys() == hole.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, hole[key] + KNOWN_WEIGHT * known[key], rtol=1e-4, atol=1e-5)
    for key, value in losses(whole, pixel_weights(columns, None)).items():
        torch.testing.assert_close(value, hole[key], rtol=1e-4, atol=1e-5)
