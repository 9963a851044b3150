"""Features of diffusion models: recorded ones, the pass that is no longer than needed, noise, settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flat_options import noise_process, unet
from hypothesis import given
from hypothesis import strategies as st
from recorded import arrays_of, build_published, fill, images_and_noise, probed, published_options, record_of
from torch import nn

from guided_diffusion.conditions.no_condition import NoCondition
from guided_diffusion.conditions.semantic_map import SemanticMap
from guided_diffusion.diffusion.schedule import named_betas
from guided_diffusion.features.blocks import automatic_blocks, block_shapes
from guided_diffusion.features.diffusion import DiffusionFeatures, timesteps_at
from guided_diffusion.features.extractor import ImageValues, JoinedFeatures, digest_of
from guided_diffusion.models.state_dict import load_weights, with_new_inputs
from guided_diffusion.models.taps import Tap
from guided_diffusion.runtime.errors import UserError

TINY = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "channel_mult": (1, 2)}
DECODER = [Tap("decoder", block) for block in range(4)]
RECORD = record_of("ddpmseg_features_64px")


def network(**options) -> nn.Module:
    return fill(unet(**{"condition": "none", **TINY, **options})).eval()


def masks(count: int, size: int, classes: int = 4) -> SemanticMap:
    draw = torch.Generator().manual_seed(0)
    return SemanticMap(torch.randint(0, classes, (count, size, size), generator=draw), classes)


def features(model: nn.Module, **options) -> DiffusionFeatures:
    null = NoCondition(1, model.image_size)
    if model.conditioner is not None:
        null = masks(1, model.image_size[0]).null()
    own = {"taps": DECODER, "timesteps": (250, 50), "null": null, "dtype": torch.float32}
    return DiffusionFeatures(model, noise_process(), **{**own, **options})


def images(count: int, size: int = 16, channels: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return 2 * torch.rand(count, channels, size, size, generator=draw) - 1


@pytest.fixture(scope="module")
def published() -> nn.Module:
    return fill(build_published(RECORD)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("converted", [False, True])
def test_recorded_features(published, converted):
    """Those of the published network, and of the network with masks that it converts into, without a mask."""
    golden, side, model = arrays_of("ddpmseg_features_64px"), 64, published
    if converted:
        model = unet(num_classes=4, **published_options(RECORD)).eval()
        load_weights(model, with_new_inputs(published.state_dict(), model), source="x.pt")
    inputs, noise = images_and_noise(side)
    # Blocks in another order than they are made in: that of the features is fixed.
    taps = [Tap("decoder", block) for block in reversed(RECORD["blocks"])]
    found = features(model, taps=taps, timesteps=RECORD["steps"], noise=noise)
    rows, columns = np.ix_(RECORD["rows"], RECORD["columns"])
    x_t = found.noisy(inputs).unflatten(0, (2, -1)).transpose(0, 1)[:, :, :, rows, columns]
    np.testing.assert_allclose(x_t.numpy(), golden["x_t"], atol=1e-6)
    maps = found.maps(inputs)
    assert [list(shape) for shape in found.shapes] == RECORD["native_shapes"]
    assert [list(values.shape[1:]) for values in maps] == RECORD["native_shapes"]
    assert sum(found.dims) == golden["features"].shape[2]
    np.testing.assert_allclose(probed(maps, RECORD, side), golden["features"], atol=1e-4)
    flat = [values.contiguous().flatten(1) for values in maps]
    stats = [torch.stack([v.mean(1), v.std(1, correction=0), v[:, 0], v[:, -1]], dim=1) for v in flat]
    np.testing.assert_allclose(torch.stack(stats, dim=1).numpy(), golden["native"], atol=1e-4)


@pytest.mark.slow
def test_half_precision_loses_little(published):
    inputs, noise = images_and_noise(64)
    given = {"taps": [Tap("decoder", 5), Tap("decoder", 9)], "timesteps": (50,), "noise": noise}
    full, half = (features(published, dtype=kind, **given).maps(inputs) for kind in (torch.float32, torch.float16))
    for exact, rounded in zip(full, half, strict=True):
        assert rounded.dtype == torch.float16
        assert (rounded.float() - exact).square().mean().sqrt() < 5e-4
        assert torch.equal(rounded, exact.half())


def test_the_published_layout():
    """What lsun_bedroom and its kin have, without numbers: shapes of all blocks, those that are read, noise levels."""
    record = record_of("ddpmseg_lsun256_layout")
    with torch.device("meta"):
        model = build_published(record)
    made = block_shapes(model)
    for block in record["output_blocks"]:
        shape = made[Tap("decoder", block["block"])]
        assert (shape.channels, 256 // shape.stride) == (block["channels"], block["side"])
    chosen = automatic_blocks(model, "decoder")
    assert [tap.block for tap in chosen] == [5, 6, 7, 8, 12]
    found = features(model, taps=chosen, timesteps=timesteps_at((50, 150, 250), noise_process()))
    assert found.timesteps == (50, 150, 250)
    assert sum(found.dims) == 8448
    assert sum(shape.numel for shape in found.shapes) * 2 <= 50 * 2**20  # bytes of an image in fp16
    for step, abar in record["alphas_cumprod"].items():
        assert noise_process().alphas_cumprod[int(step)] == pytest.approx(abar, abs=1e-12)


@pytest.mark.parametrize("options", [{}, {"resblock_updown": True}, {"channel_mult": (1, 1, 2), "num_res_blocks": 2}])
@torch.no_grad()
def test_every_block_can_be_read(options):
    """The shapes are as foretold, features are what a whole pass computes, and inputs are the outputs before."""
    model = network(**options)
    shapes, x, t = block_shapes(model), images(2), torch.tensor([3, 700])
    taps = list(shapes)
    found = dict(zip(taps, model.features(x, t, taps, model.modulate(NoCondition(2, (16, 16)))), strict=True))
    for tap, (channels, stride) in shapes.items():
        assert found[tap].shape == (2, channels, 16 // stride, 16 // stride)
    skips, _ = model.encode(x, t)
    for number, skip in enumerate(skips):
        assert torch.equal(found[Tap("encoder", number)], skip)
    before = found[Tap("middle", 0)]
    for number, skip in enumerate(reversed(skips)):
        assert torch.equal(found[Tap("decoder", number, True)], torch.cat([before, skip], dim=1))
        before = found[Tap("decoder", number)]
    last = model.out[-1](model.out[0].norm_silu(before))
    torch.testing.assert_close(last, model(x, t, NoCondition(2, (16, 16))))


class Refuses(nn.Module):
    def forward(self, *_):
        raise AssertionError("this block was not asked for")


@pytest.mark.parametrize("last", [Tap("encoder", 1), Tap("middle", 0), Tap("decoder", 1), Tap("decoder", 2, True)])
@torch.no_grad()
def test_the_pass_ends_at_the_last_block(last):
    model, whole = network(), network()
    expected = whole.features(images(1), torch.tensor([9]), [last])
    after = list(block_shapes(model))[list(block_shapes(model)).index(last) + 1 :]
    parts = {"encoder": model.input_blocks, "middle": [model.middle_block], "decoder": model.output_blocks}
    for tap in after:
        if tap.inputs or (tap.block == last.block and tap.part == last.part):
            blocks = parts[tap.part][tap.block]
            for number in range(len(blocks)):
                blocks[number] = Refuses()
    assert torch.equal(model.features(images(1), torch.tensor([9]), [last])[0], expected[0])


@torch.no_grad()
def test_the_encoder_never_sees_the_mask():
    model = network(condition="mask", num_classes=4)
    encoder = [Tap("encoder", block) for block in range(4)]
    found = features(model, taps=encoder)
    model.conditioner = None  # it would be asked for modulations
    assert [values.shape[1:] for values in found.maps(images(2))] == [tuple(shape) for shape in found.shapes]


def test_the_decoder_is_read_without_a_mask():
    model = network(condition="mask", num_classes=4)
    found, x = features(model, timesteps=(50,)), images(2)
    with torch.no_grad():
        noisy, t = found.noisy(x), torch.full((2,), 50)
        null, real = (model.modulate(maps) for maps in (masks(2, 16).null(), masks(2, 16)))
        expected, other = (model.features(noisy, t, DECODER, given) for given in (null, real))
    for values, without, with_mask in zip(found.maps(x), expected, other, strict=True):
        torch.testing.assert_close(values, without, atol=1e-4, rtol=1e-4)
        assert (values - with_mask).abs().max() > 1e-2


@pytest.mark.slow
def test_maps_do_not_depend_on_the_batch():
    for share_noise in (True, False):
        found, x = features(network(), share_noise=share_noise), images(5)
        together = found.maps(x, range(10, 15))
        alone = [found.maps(x[i : i + 1], [10 + i]) for i in range(5)]
        for number, values in enumerate(together):
            assert torch.equal(values, torch.cat([maps[number] for maps in alone]))


def test_batches_are_the_same_to_rounding():
    """A GPU reads all images of a batch in one pass."""
    found, x = features(network(), share_noise=False), images(3)
    with torch.no_grad():
        for at_once, single in zip(found.native(x, [7, 8, 9]), found.maps(x, [7, 8, 9]), strict=True):
            torch.testing.assert_close(at_once, single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision(kind):
    model, x = network(condition="mask", num_classes=4), images(2)
    full, half = features(model).maps(x), features(model, amp_dtype=kind, dtype=torch.float16).maps(x)
    for exact, rounded in zip(full, half, strict=True):
        assert (rounded.float() - exact).square().mean() < 1e-3 * exact.square().mean()
        assert not torch.equal(rounded, exact.half())


def test_noise_is_shared_or_not():
    model, x = network(), images(1).expand(3, -1, -1, -1)
    shared, own = (features(model, share_noise=share) for share in (True, False))
    noisy = shared.noisy(x).unflatten(0, (3, 2))
    assert torch.equal(noisy[0], noisy[1])
    signal = noise_process().alphas_cumprod[list(shared.timesteps)]
    noise = [(noisy[0, i] - a**0.5 * x[0]) / (1 - a) ** 0.5 for i, a in enumerate(signal)]
    torch.testing.assert_close(noise[0], noise[1], atol=1e-5, rtol=0)
    published = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise[0], published[0], atol=1e-5, rtol=0)
    drawn = own.noisy(x, [4, 5, 4]).unflatten(0, (3, 2))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    unlike = [(drawn[0, i] - a**0.5 * x[0]) / (1 - a) ** 0.5 for i, a in enumerate(signal)]
    assert (unlike[0] - unlike[1]).abs().mean() > 0.5
    other = features(model, share_noise=False, seed=1).noisy(x, [4, 5, 4])
    assert not torch.equal(other[0], drawn[0, 0])
    with pytest.raises(AssertionError, match="positions"):
        own.maps(x)


@given(
    steps=st.lists(st.integers(0, 999), min_size=1, max_size=4, unique=True),
    total=st.sampled_from([1000, 4000, 500]),
    schedule=st.sampled_from(["linear", "cosine"]),
)
def test_steps_are_chosen_by_noise_level(steps, total, schedule):
    """The next timestep on either side is no nearer; on the published process they are themselves."""
    process = noise_process(diffusion_steps=total, noise_schedule=schedule)
    wanted, abar = np.cumprod(1 - named_betas("linear", 1000)), process.alphas_cumprod
    for step in steps:
        (found,) = timesteps_at([step], process)
        for other in (max(found - 1, 0), min(found + 1, total - 1)):
            assert abs(abar[found] - wanted[step]) <= abs(abar[other] - wanted[step])
    if (total, schedule) == (1000, "linear"):
        assert timesteps_at(steps, process) == tuple(steps)


def test_steps_that_fall_together_are_one():
    process = noise_process(diffusion_steps=30)
    assert timesteps_at((51, 50, 400), process) == (*timesteps_at((50,), process), *timesteps_at((400,), process))


def test_respaced_timesteps_are_refused():
    process, null = noise_process(timestep_respacing="10"), NoCondition(1, (16, 16))
    with pytest.raises(AssertionError, match="respaced"):
        DiffusionFeatures(network(), process, taps=DECODER, timesteps=(1,), null=null)


def test_a_network_that_fills_holes_is_told_that_all_is_one():
    model = network(inpaint=True, image_channels=1)
    found, x = features(model, image_channels=1, timesteps=(50,)), images(1, channels=1)
    with torch.no_grad():
        told = torch.cat([found.noisy(x), torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)], dim=1)
        expected = model.features(told, torch.tensor([50]), DECODER)
    assert all(torch.equal(*pair) for pair in zip(found.maps(x), expected, strict=True))


@pytest.mark.parametrize(("source", "blocks"), [("decoder", [0, 1, 2, 6, 11]), ("encoder", [2, 5, 8, 11])])
def test_small_images_also_get_features_of_every_pixel(source, blocks):
    with torch.device("meta"):
        model = build_published(RECORD)
    chosen = automatic_blocks(model, source)
    assert [tap.block for tap in chosen] == blocks
    assert block_shapes(model)[chosen[-1] if source == "decoder" else chosen[0]].stride == 1


def test_every_network_has_blocks_to_read():
    for levels in ((1,), (1, 1), (1, 1, 2)):
        for res_blocks in (1, 2):
            model = network(channel_mult=levels, num_res_blocks=res_blocks)
            for source in ("encoder", "decoder"):
                chosen = automatic_blocks(model, source)
                assert len(set(chosen)) == len(chosen) >= 1
                assert set(chosen) <= set(block_shapes(model))


def test_tables_of_pixels_are_no_copies():
    for values in features(network()).maps(images(2)):
        for single in values:
            table = single.permute(1, 2, 0).view(-1, single.shape[0])
            assert table.data_ptr() == single.data_ptr()
            assert torch.equal(table[1], single[:, 0, 1])


def test_settings_tell_extractors_apart():
    model = network()
    identity = {"checkpoint": "0123", "weights": "ema"}
    changes = (
        {}, {"seed": 1}, {"share_noise": False}, {"timesteps": (50, 250)}, {"taps": DECODER[:2]},
        {"dtype": torch.float16}, {"identity": {**identity, "checkpoint": "4567"}}, {"amp_dtype": torch.bfloat16},
        {"taps": [tap._replace(inputs=True) for tap in DECODER]},
    )  # fmt: skip
    digests = {digest_of(features(model, **{"identity": identity, **change}).settings()) for change in changes}
    assert len(digests) == len(changes)
    again = digest_of(features(network(), identity=identity).settings())
    assert again in digests


def test_values_of_the_pixels_can_be_joined():
    found, x = features(network()), images(2)
    joined = JoinedFeatures([found, ImageValues((16, 16), 3, torch.float32)])
    assert joined.dims == (*found.dims, 3)
    maps = joined.maps(x)
    assert [tuple(values.shape[1:]) for values in maps] == [tuple(shape) for shape in joined.shapes]
    assert torch.equal(maps[-1], x)
    assert digest_of(joined.settings()) != digest_of(found.settings())


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_what_fp16_cannot_hold_is_refused(value):
    model = network()
    with torch.no_grad():
        model.output_blocks[0][0].out_layers[-1].bias.fill_(value)
    with pytest.raises(UserError) as caught:
        features(model, dtype=torch.float16).maps(images(1))
    assert caught.value.path == "feature maps"
    if value == 1e6:
        features(model).maps(images(1))


@pytest.mark.parametrize("share", [True, False])
def test_several_noises(share):
    """The first is the only one of before; each further one is another; settings tell of them."""
    model, x = network(), images(2)
    one, three = features(model, share_noise=share, seed=4), features(model, share_noise=share, seed=4, noise_draws=3)
    positions = [5, 6]
    first = three.maps(x, positions)
    assert all(torch.equal(*pair) for pair in zip(one.maps(x, positions), first, strict=True))
    noisy = [three.noisy(x, positions, draw) for draw in range(3)]
    assert not any(torch.equal(noisy[a], noisy[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    if share:
        between = (noisy[1] - noisy[0]).unflatten(0, (2, -1))
        torch.testing.assert_close(between[0], between[1])  # that of all images
    for draw in (1, 2):
        alone = three.maps(x[1:], positions[1:], draw)
        assert all(torch.equal(a, b[1:]) for a, b in zip(alone, three.maps(x, positions, draw), strict=True))
    assert "noise_draws" not in one.settings()
    assert three.settings() == {**one.settings(), "noise_draws": 3}
    joined = JoinedFeatures([three, ImageValues(three.image_size, 3, three.dtype)])
    assert joined.noise_draws == 3
    assert torch.equal(joined.maps(x, positions, 2)[-1], x)
