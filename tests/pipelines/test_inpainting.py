"""Painting into holes: which pixels of an image change, and what the network is shown, with windows filled by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from guided_diffusion.config.load import load_config
from guided_diffusion.data.area import reduce_image, reduce_label
from guided_diffusion.data.components import Box
from guided_diffusion.data.native_image import NativeImage
from guided_diffusion.data.placing.scene import Ground, PlacedDefect
from guided_diffusion.pipelines.holes import Hole, grow_holes
from guided_diffusion.pipelines.inpainting import FillJob, PaintSettings, paint_image

SETTINGS = PaintSettings(window=(16, 16), scale=1.0, margin=3, feather=0, num_classes=3, background=0)
SCALES = (1.0, 0.5, 0.37)
Fill = Callable[[FillJob], Tensor]


def noise(height: int, width: int, channels: int = 1, kind: type = np.uint8, *, alpha: bool = False) -> NativeImage:
    rng = np.random.default_rng(0)
    top = np.iinfo(kind).max
    pixels = rng.integers(0, top, (height, width, channels), kind, endpoint=True)
    opacity = rng.integers(0, top, (height, width), kind, endpoint=True) if alpha else None
    return NativeImage(pixels, opacity, 0, int(top))


def copy_of(image: NativeImage) -> NativeImage:
    return replace(image, pixels=image.pixels.copy())


def rectangle(top: int, left: int, height: int, width: int) -> Hole:
    return Hole(Box(top, left, top + height, left + width), np.ones((height, width), bool))


def label_of(image: NativeImage, holes: list[Hole], class_id: int = 1) -> np.ndarray:
    label = np.zeros(image.size, np.uint8)
    for hole in holes:
        label[hole.box.slices][hole.mask] = class_id
    return label


def inside(image: NativeImage, holes: list[Hole], options: PaintSettings) -> np.ndarray:
    """Return by brute force which pixels are within the margin of a mask."""
    rows, columns = np.mgrid[: image.size[0], : image.size[1]]
    hole = np.zeros(image.size, bool)
    for y, x in np.argwhere(label_of(image, holes)):
        hole |= (rows - y) ** 2 + (columns - x) ** 2 <= options.native_margin**2
    return hole


def paint(
    image: NativeImage, holes: list[Hole], options: PaintSettings, fill: Fill, label: np.ndarray | None = None
) -> list[FillJob]:
    """Paint into `image` and return the windows that were to be filled."""
    painting = paint_image(image, label_of(image, holes) if label is None else label, holes, options, seed=5)
    jobs, job = [], next(painting, None)
    while job is not None:
        jobs.append(job)
        try:
            job = painting.send(fill(job))
        except StopIteration:
            job = None
    return jobs


def constant(value: float) -> Fill:
    return lambda job: torch.full_like(job.image, value)


def as_it_is(job: FillJob) -> Tensor:
    return job.image


@pytest.mark.parametrize("keep_grain", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_the_network_sees_what_it_painted(scale, keep_grain):
    """Down to the finest differences: models that see the image at this scale learn from these."""
    options = replace(SETTINGS, scale=scale, keep_grain=keep_grain)
    image = NativeImage(np.full((*SIZE, 1), 128, np.uint8), None, 0, 255)
    image.pixels[...] += np.random.default_rng(0).integers(0, 9, image.pixels.shape, np.uint8)
    hole = rectangle(14, 12, 18, 18)
    label = label_of(image, [hole])
    painting = paint_image(image, label, [hole], options, 5)
    job = next(painting)
    filled = torch.from_numpy(np.random.default_rng(1).uniform(-0.2, 0.2, job.image.shape)).float()
    with pytest.raises(StopIteration):
        painting.send(filled)
    # What is there now, as the next run would see it.
    again = next(paint_image(image, label, [hole], options, 5))
    # Away from the rim: there a pixel of the network is in the hole and outside of it.
    inner = torch.from_numpy(ndimage.binary_erosion(job.hole.numpy(), np.ones((3, 3)), border_value=0))
    assert inner.any()
    assert again.image[:, inner].numpy() == pytest.approx(filled[:, inner].numpy(), abs=1.2 / 127.5)


@pytest.mark.parametrize("scale", SCALES)
def test_what_painting_begins_with(scale):
    """The network begins with the other image, as it sees the first; a network that keeps it paints that."""
    options, image = replace(SETTINGS, scale=scale), noise(*SIZE)
    begun, before = copy_of(image), image.pixels.copy()
    hole = rectangle(18, 16, 14, 14)
    begun.pixels[hole.box.slices] = 200
    label = label_of(image, [hole])
    painting = paint_image(image, label, [hole], options, 5, begun)
    job = next(painting)
    assert job.start is not None
    outside = ~job.hole
    assert torch.equal(job.start[:, outside], job.image[:, outside])
    with pytest.raises(StopIteration):
        painting.send(job.start)
    inner = np.s_[22:28, 20:26]
    if scale == 1:
        assert np.array_equal(image.pixels, begun.pixels)
    else:  # what the reduced image does not show stays as it was
        after, grain = (pixels[inner].astype(float) for pixels in (image.pixels, before))
        assert after.mean() == pytest.approx(200, abs=25)  # grain is cut off at 255
        assert np.corrcoef(after.ravel(), grain.ravel())[0, 1] > 0.5


PLACES = {
    "middle": (20, 22),
    "top": (0, 20),
    "bottom": (45, 20),
    "left": (20, 0),
    "right": (20, 48),
    "top left": (0, 0),
    "top right": (0, 48),
    "bottom left": (45, 0),
    "bottom right": (45, 48),
}
SIZE = (50, 53)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scale", SCALES)
def test_only_the_hole_changes_and_all_of_it(place, scale):
    options, image = replace(SETTINGS, scale=scale), noise(*SIZE)
    before, holes = image.pixels.copy(), [rectangle(*PLACES[place], 5, 5)]
    jobs = paint(image, holes, options, constant(1.0))
    hole = inside(image, holes, options)
    assert np.array_equal(image.pixels[~hole], before[~hole])
    mask = label_of(image, holes) == 1
    if scale == 1:
        assert (image.pixels[hole] == 255).all()
    else:  # a change: what is in a pixel of the model gets the mean that was painted, and keeps its grain
        change = image.pixels[mask].astype(float) - before[mask]
        assert change.mean() > 60
    assert all(tuple(job.label.shape) == (16, 16) for job in jobs)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scale", SCALES)
def test_what_is_painted_arrives_at_full_strength_on_the_mask(place, scale):
    """Of an even image, where nothing is clipped; feathering stays outside the mask."""
    options = replace(SETTINGS, scale=scale, feather=3)
    image = NativeImage(np.full((*SIZE, 3), 100, np.uint8), None, 0, 255)
    holes = [rectangle(*PLACES[place], 5, 5)]
    paint(image, holes, options, constant(0.0))
    mask = label_of(image, holes) == 1
    assert set(np.unique(image.pixels[mask])) <= {127, 128}
    hole = inside(image, holes, options)
    assert (image.pixels[~hole] == 100).all()
    rim = image.pixels[hole & ~mask]
    assert 100 <= rim.min() < 110
    assert rim.max() <= 128


@pytest.mark.parametrize("scale", SCALES)
def test_each_hole_is_mixed_in_by_a_share_of_its_own(scale):
    """Of an even image, painted white: its gray levels tell the share, which is the same all over a hole."""
    options = replace(SETTINGS, scale=scale, opacity=(0.4, 0.8))
    corners = [(8 + 24 * row, 8 + 24 * column) for row in range(4) for column in range(4)]
    holes = [rectangle(top, left, 4, 4) for top, left in corners]
    images = [NativeImage(np.full((100, 100, 1), 55, np.uint8), None, 0, 255) for _ in range(2)]
    for image in images:
        paint(image, holes, options, constant(1.0))
    assert np.array_equal(images[0].pixels, images[1].pixels)
    shares = []
    for hole in holes:
        levels = images[0].pixels[hole.box.slices]
        assert np.ptp(levels) <= 2
        shares.append((levels.mean() - 55) / 200)
    assert 0.39 < min(shares) < 0.5
    assert 0.7 < max(shares) < 0.81
    assert len(set(shares)) > 8


@pytest.mark.parametrize("place", PLACES)
def test_the_pixels_arrive_where_they_belong(place):
    """A picture is painted whose gray levels tell its pixels; the window knows where it lies by its known pixels."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    picture = (4 * rows + columns).astype(np.uint8)[..., None]
    image = NativeImage(picture.copy(), None, 0, 255)
    holes = [rectangle(*PLACES[place], 5, 5)]
    image.pixels[inside(image, holes, SETTINGS)] = 0

    def fill(job: FillJob) -> Tensor:
        (y, x) = np.argwhere(~job.hole.numpy())[0]
        gray = job.image[0].numpy() * 127.5 + 127.5
        # In this ramp a known pixel and its lower right neighborhood tell the place only together; try all.
        for top in range(SIZE[0] - 15):
            for left in range(SIZE[1] - 15):
                part = picture[top : top + 16, left : left + 16, 0]
                if (np.abs(part - gray)[~job.hole.numpy()] < 0.01).all():
                    return torch.from_numpy(part.astype(np.float32) / 127.5 - 1)[None]
        raise AssertionError(f"the known pixels are not of the image: {y}, {x}")

    paint(image, holes, SETTINGS, fill)
    assert np.array_equal(image.pixels, picture)


@pytest.mark.parametrize("feather", [0, 2])
@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(("channels", "kind"), [(1, np.uint8), (3, np.uint8), (1, np.uint16), (3, np.uint16)])
@pytest.mark.parametrize("size", [(50, 53), (12, 40), (9, 11)])
@pytest.mark.parametrize("scale", SCALES)
def test_a_window_filled_with_what_is_there_leaves_the_image(size, scale, channels, kind, alpha, feather):
    image = noise(*size, channels, kind, alpha=alpha)
    before, holes = image.pixels.copy(), [rectangle(1, 2, 3, 4)]
    assert paint(image, holes, replace(SETTINGS, scale=scale, feather=feather), as_it_is)
    opaque = np.ones(size, bool) if image.alpha is None else image.alpha > np.iinfo(kind).max // 4
    difference = np.abs(image.pixels.astype(int) - before)[opaque]
    assert difference.max() <= (0 if scale == 1 and not alpha else 1 if kind == np.uint8 else 2)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    scale=st.sampled_from([*SCALES, 0.999, 0.61]),
    size=st.tuples(st.integers(5, 70), st.integers(5, 70)),
    corners=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40), st.integers(1, 40)), max_size=4),
    margin=st.integers(1, 6),
)
def test_windows_show_the_reduced_image_and_the_holes(scale, size, corners, margin):
    """Everywhere: known pixels are those of the image so far, holes cover the masks, labels follow the area rule."""
    image, options = noise(*size), replace(SETTINGS, scale=scale, margin=margin, feather=min(2, margin))
    holes = []
    for down, across, height, width in corners:
        height, width = min(height, size[0]), min(width, size[1])
        holes.append(rectangle(int(down * (size[0] - height)), int(across * (size[1] - width)), height, width))
    before = image.pixels.copy()
    label = label_of(image, holes)
    label[0, 0] = 3  # ignored
    jobs = paint(image, holes, options, constant(0.5), label)
    hole = inside(image, holes, options)
    assert np.array_equal(image.pixels[~hole], before[~hole])
    assert bool(jobs) == bool(holes)
    reduced = tuple(max(1, round(side * scale)) for side in size)
    whole = ((0, reduced[0]), (0, reduced[1]))
    if reduced == size:
        seen, seen_label, seen_hole = before[..., 0] / 127.5 - 1, torch.from_numpy(label), hole
    else:
        seen = reduce_image(torch.from_numpy(before[..., 0] / 127.5 - 1)[None], reduced, *whole)[0].numpy()
        seen_label = reduce_label(torch.from_numpy(label), reduced, *whole, background=0, null_id=3)
        seen_hole = reduce_image(torch.from_numpy(hole.astype(float))[None], reduced, *whole)[0].numpy() > 0
    filled = np.zeros(reduced, int)
    for job in jobs:
        top, left = place_of(job, seen, seen_hole)
        rows, columns = (
            np.arange(max(0, start), min(full, start + length))
            for start, full, length in zip((top, left), reduced, job.hole.shape, strict=True)
        )
        part = np.ix_(rows - top, columns - left)
        own = job.hole.numpy()[part]
        here = np.ix_(rows, columns)
        assert not (own & ~seen_hole[here]).any()
        known = ~seen_hole[here]
        assert np.allclose(job.image[0].numpy()[part][known], seen[here][known], atol=1e-6)
        assert np.array_equal(job.label.numpy()[part], seen_label.numpy()[here])
        outside = np.ones(job.hole.shape, bool)
        outside[part] = False
        assert (job.label.numpy()[outside] == 3).all()
        assert (job.image[0].numpy()[outside] == -1).all()
        assert not job.hole.numpy()[outside].any()
        filled[here] += own
    assert ((filled > 0) == seen_hole).all()


def place_of(job: FillJob, seen: np.ndarray, hole: np.ndarray) -> tuple[int, int]:
    """Return where in the reduced image a window lies, by its known pixels; small images are centered."""
    starts = []
    for full, length in zip(seen.shape, job.hole.shape, strict=True):
        starts.append([(full - length) // 2] if full <= length else list(range(full - length + 1)))
    gray = job.image[0].numpy()
    for top in starts[0]:
        for left in starts[1]:
            rows, columns = (
                np.arange(max(0, start), min(full, start + length))
                for start, full, length in zip((top, left), seen.shape, job.hole.shape, strict=True)
            )
            part, here = np.ix_(rows - top, columns - left), np.ix_(rows, columns)
            known = ~hole[here]
            if known.any() and np.allclose(gray[part][known], seen[here][known], atol=1e-5):
                return top, left
    of_image = gray[~job.hole.numpy() & (job.label.numpy() != 3)]
    assume((of_image != 0.5).any())  # nothing in it tells where it lies
    raise AssertionError("the known pixels of a window are not of the image")


def test_a_hole_larger_than_the_window_is_filled_in_a_frame():
    """The frame has what is known around the hole, a quarter of a window where the image reaches so far."""
    image, holes = noise(60, 100), [rectangle(10, 15, 40, 70)]
    before = image.pixels.copy()
    (job,) = paint(image, holes, SETTINGS, constant(0.5))
    hole = inside(image, holes, SETTINGS)
    for axis, length in zip((1, 0), job.hole.shape, strict=True):
        filled = np.flatnonzero(job.hole.numpy().any(axis=axis))
        assert min(filled[0], length - 1 - filled[-1]) >= 4
        assert length < 100
    assert int(job.hole.sum()) == hole.sum()
    assert (image.pixels[hole] == 191).all()
    assert np.array_equal(image.pixels[~hole], before[~hole])


def test_holes_that_meet_are_painted_as_one():
    image = NativeImage(np.full((60, 60, 1), 100, np.uint8), None, 0, 255)
    holes = [rectangle(20, 20, 3, 3), rectangle(20, 26, 3, 3)]  # holes overlap, masks do not
    jobs = paint(image, holes, replace(SETTINGS, window=(32, 32), feather=3), constant(1.0))
    assert len(jobs) == 1
    mask = label_of(image, holes) == 1
    assert (image.pixels[mask] == 255).all()
    assert len(grow_holes(holes, 3, (60, 60))) == 1
    assert len(grow_holes(holes, 1, (60, 60))) == 2


@pytest.mark.parametrize("scale", SCALES)
def test_holes_of_defects_as_near_as_place_puts_them_do_not_meet(scale):
    config = load_config("place", dict.fromkeys(("model_path", "data_dir", "good_dir", "results_path"), "x"))
    ground, mask = Ground((60, 120), apart=config.space_between(scale)), np.ones((4, 4), bool)
    ground.occupy(PlacedDefect(1, mask, 20, 4, ""))
    nearest = next(left for left in range(4, 120) if not ground.refusal(mask, 20, left))
    margin = replace(SETTINGS, scale=scale, margin=config.hole_margin).native_margin
    assert nearest == 4 + 4 + 2 * margin + 1
    assert len(grow_holes([rectangle(20, 4, 4, 4), rectangle(20, nearest, 4, 4)], margin, (60, 120))) == 2


def test_holes_that_are_painted_later_are_not_known_yet():
    """The label has their defects already, so the old pixels would contradict it."""
    image = NativeImage(np.full((40, 40, 1), 100, np.uint8), None, 0, 255)
    holes = [rectangle(20, 14, 2, 2), rectangle(20, 24, 2, 2)]
    options = replace(SETTINGS, margin=2)
    jobs = paint(image, holes, options, constant(1.0))
    assert len(jobs) == 2
    both, second = (int(job.hole.sum()) for job in jobs)
    assert both > second
    assert (jobs[1].image == 1).any()  # the first is known by then, as it was painted


@pytest.mark.parametrize("scale", SCALES)
def test_single_pixels_side_by_side(scale):
    image = noise(90, 90)
    holes = [rectangle(y, x, 1, 1) for y in (0, 40, 89) for x in (0, 30, 32, 89)]
    before, options = image.pixels.copy(), replace(SETTINGS, scale=scale, feather=1)
    paint(image, holes, options, constant(-1.0))
    hole = inside(image, holes, options)
    assert np.array_equal(image.pixels[~hole], before[~hole])
    if scale == 1:
        assert not image.pixels[label_of(image, holes) == 1].any()


def test_painting_over_leaves_nothing_of_a_thin_defect():
    """A crack of a pixel would keep half of its contrast, were the painting added as a change."""
    pixels = np.full((64, 64, 1), 150, np.uint8)
    pixels[32, 10:50] = 0
    holes = [rectangle(32, 10, 1, 40)]
    options = replace(SETTINGS, scale=0.5, feather=2, keep_grain=False)
    image = NativeImage(pixels, None, 0, 255)
    paint(image, holes, options, constant(150 / 127.5 - 1), label_of(image, holes, 0))
    assert np.abs(image.pixels.astype(int) - 150).max() <= 1


def test_the_seeds_are_those_of_the_image():
    image, holes = noise(60, 60), [rectangle(5, 5, 2, 2), rectangle(40, 40, 30 - 12, 2)]
    first, again = ([job.seed for job in paint(copy_of(image), holes, SETTINGS, constant(0.0))] for _ in range(2))
    assert first == again
    other = paint_image(image, label_of(image, holes), holes, SETTINGS, seed=6)
    assert next(other).seed != first[0]


def test_without_holes_there_is_nothing_to_fill():
    assert paint(noise(40, 40), [], SETTINGS, as_it_is) == []
