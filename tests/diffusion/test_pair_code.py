"""The code of masks and pairs: an exact round trip in every mode, codes by neighbors, and what sampling clips."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.diffusion.options import GenerationOptions
from guided_diffusion.diffusion.pair_code import PairCode, adjacency_codes, one_hot_codes

CODES = {"bits": lambda count: adjacency_codes(torch.ones(count, count), 0), "onehot": one_hot_codes}


def example(code: PairCode, size=(8, 12), seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, len(code.codes), (3, *size), generator=generator)
    image = torch.rand(3, code.image_channels, *size, generator=generator) * 2 - 1 if code.image_channels else None
    return image, label


@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("with_null", [False, True])
@pytest.mark.parametrize("image_channels", [0, 1, 3])
@pytest.mark.parametrize("folding", [1, 2, 4])
@pytest.mark.parametrize("count", [2, 3, 6, 20])
def test_decoding_gives_back_what_was_encoded(kind, with_null, image_channels, folding, count):
    code = PairCode(CODES[kind](count), count - with_null, image_channels, 0.25, folding)
    image, label = example(code)
    x0 = code.encode(image, label)
    assert x0.shape == (3, *code.shape((8, 12)))
    made = code.decode(x0)
    assert torch.equal(made.label, label)
    assert (made.margin == 1).all()
    assert made.image is None if image is None else torch.equal(made.image, image)
    assert torch.equal(code.clip(x0, x0, torch.zeros(3)), x0)
    again = PairCode.from_state(code.to_state())
    assert torch.equal(again.encode(image, label), x0)


def test_labels_are_read_from_noisy_channels_and_the_margin_tells_how_noisy():
    code = PairCode(CODES["bits"](6), 5, 1, 0.5, 2)
    image, label = example(code, (32, 32))
    x0 = code.encode(image, label)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    little, much = (code.decode(x0 + scale * 0.5 * noise) for scale in (0.1, 0.8))
    assert torch.equal(little.label, label)
    assert 0.6 < (much.label == label).float().mean() < 0.99
    assert (much.label <= 5).all()  # of codes that no class has, the nearest class
    assert 0 <= much.margin.min() <= much.margin.mean() < little.margin.mean() <= little.margin.max() <= 1


def test_clipping_knows_image_and_mask_channels():
    code = PairCode(CODES["bits"](4), 4, 3, 0.5, 2)
    clipped = code.clip(torch.full((1, *code.shape((4, 4))), 9.0), torch.empty(0), torch.empty(0))
    assert clipped.flatten(2).unique(dim=2).flatten().tolist() == [1.0] * 12 + [0.5] * 4 * code.label_channels


@pytest.mark.parametrize("image_channels", [0, 1, 3])
def test_the_loss_is_the_mean_over_the_image_and_the_weighted_mean_over_the_mask(image_channels):
    code = PairCode(CODES["onehot"](5), 5, image_channels, 1.0, 2)
    squares = torch.rand(2, *code.shape((8, 8)), generator=torch.Generator().manual_seed(0))
    weighted = (squares * code.loss_weight(0.3)).flatten(1).mean(1)
    split = 4 * image_channels
    expected = 0.3 * squares[:, split:].flatten(1).mean(1)
    if image_channels:
        expected = expected + squares[:, :split].flatten(1).mean(1)
    assert torch.allclose(weighted, expected)


def test_rounding_does_not_choose_between_classes_that_are_as_near():
    touching = torch.zeros(4, 4)
    touching[0, 1:] = touching[1:, 0] = 10
    code = PairCode(adjacency_codes(touching, 0), 4, 0, 0.5, 1)
    both = code.codes[1:3].amax(0)[None, :, None, None] * torch.linspace(0.1, 1, 500)
    noise = 1e-6 * torch.randn(64, *both.shape[1:], generator=torch.Generator().manual_seed(0))
    decoded = code.decode(0.5 * (both + noise))
    assert set(decoded.label.unique().tolist()) == {1}
    assert decoded.margin.max() < 1e-4


# --- codes -------------------------------------------------------------------------------------------------------


def bits_between(codes, first, second):
    return int((codes[first] != codes[second]).sum())


def test_two_classes_have_one_channel():
    for codes in (one_hot_codes(2), adjacency_codes(torch.ones(2, 2), 0)):
        assert codes.tolist() == [[-1.0], [1.0]]


@pytest.mark.slow
@given(st.integers(2, 40), st.integers(0, 2**32))
def test_codes_are_distinct_and_the_background_is_all_zeros(count, seed):
    generator = torch.Generator().manual_seed(seed)
    touching = torch.randint(0, 50, (count, count), generator=generator)
    background = seed % count
    codes = adjacency_codes(touching + touching.T, background)
    assert codes.unique(dim=0).shape == codes.shape
    assert (codes[background] == -1).all()
    assert (count - 1).bit_length() <= codes.shape[1] <= (count - 1).bit_length() + 1


def test_classes_that_touch_differ_in_one_bit():
    # A chain of islands: background, plate on it, and three defects on the plate that never meet.
    touching = torch.zeros(5, 5)
    for first, second in ((0, 1), (1, 2), (1, 3), (1, 4)):
        touching[first, second] = touching[second, first] = 100
    codes = adjacency_codes(touching, 0)
    assert codes.shape[1] == 4  # the plate has four neighbors, three bits would have three
    for first, second in ((0, 1), (1, 2), (1, 3), (1, 4)):
        assert bits_between(codes, first, second) == 1


def test_no_third_class_appears_at_the_rim_of_neighbors_that_differ_in_one_bit():
    touching = torch.zeros(4, 4)
    touching[0, 1:] = touching[1:, 0] = 10
    code = PairCode(adjacency_codes(touching, 0), 4, 0, 1.0, 1)
    for other in (1, 2, 3):
        ends = code.encode(None, torch.tensor([[[0]], [[other]]]))
        rim = torch.cat([ends[0] + (ends[1] - ends[0]) * share for share in torch.linspace(0, 1, 101)], dim=2)[None]
        assert set(code.decode(rim).label.unique().tolist()) == {0, other}


def test_the_rarest_border_gives_way_where_there_are_too_few_bits():
    count = 8
    touching = torch.zeros(count, count)
    border = torch.tensor([900.0, 800, 700, 600, 500, 400, 300])
    touching[0, 1:] = touching[1:, 0] = border
    codes = adjacency_codes(touching, 0)
    assert codes.shape[1] == 4
    near = [bits_between(codes, 0, other) == 1 for other in range(1, count)]
    assert near == [True] * 4 + [False] * 3


# --- foldings ----------------------------------------------------------------------------------------------------


def test_folding_keeps_what_the_network_sees_at_most_128_pixels_a_side():
    options = GenerationOptions(generates="pair")
    sides = {side: options.folding(side) for side in (32, 128, 136, 256, 260, 512)}
    assert sides == {32: 1, 128: 1, 136: 2, 256: 2, 260: 4, 512: 4}
    assert GenerationOptions(generates="mask", space_to_depth=1).folding(512) == 1
    assert GenerationOptions().folding(512) == 1


def test_channels_made_of_pixels_are_a_permutation():
    code = PairCode(CODES["bits"](4), 4, 1, 1.0, 4)
    image, label = example(code, (16, 16))
    x0 = code.encode(image, label)
    assert sorted(x0[0, :16].flatten().tolist()) == sorted(image[0].flatten().tolist())
    for row, column in itertools.product(range(4), range(4)):
        assert torch.equal(x0[0, 4 * row + column], image[0, 0, row::4, column::4])
