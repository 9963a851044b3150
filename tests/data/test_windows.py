"""Windows: what they show, how often, and that image, mask, edges and border stay together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_diffusion.data.area import covered, reduce_image, reduce_label
from guided_diffusion.data.components import Box, find_components
from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset, read_condition
from guided_diffusion.data.holes import HoleMaker
from guided_diffusion.data.loader import DistributedBatchPlan, TrainLoader
from guided_diffusion.data.masks.encoding import LabelEncoding, edges_from_instances
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import GoodImage, MaskEntry, index_pairs
from guided_diffusion.data.transforms import JointTransform, Target
from guided_diffusion.data.windows import WindowPlan, boxes_of, numbers, plan_windows, point_of, target_in
from guided_diffusion.runtime.errors import ConfigError, DataError

NULL = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def key(index: int, epoch: int = 0) -> ExampleKey:
    return ExampleKey(epoch, index, 0, 1.0)


@st.composite
def pictures_with_a_box(draw):
    size = draw(st.tuples(st.integers(5, 90), st.integers(5, 90)))
    spans = []
    for side in size:
        start = draw(st.integers(0, side - 1))
        spans.append((start, draw(st.integers(start + 1, side))))
    point = tuple(draw(st.integers(start, end - 1)) for start, end in spans)
    (top, bottom), (left, right) = spans
    return size, Target(Box(top, left, bottom, right), point)


@settings(max_examples=300, deadline=None)
@given(
    picture=pictures_with_a_box(),
    window=st.sampled_from([(32, 32), (16, 40), (8, 8)]),
    scale=st.sampled_from([1.0, 0.5, 0.37]),
    seed=st.one_of(st.none(), st.integers(0, 100)),
)
def test_a_window_shows_its_target_and_the_whole_component_where_it_fits(picture, window, scale, seed):
    size, target = picture
    transform = JointTransform(window, "window", scale=scale, train=seed is not None)
    placement = transform.place(size, None if seed is None else generator(seed), target)
    assert placement.size == window
    box = target.box
    for axis, (first, last) in enumerate(((box.top, box.bottom), (box.left, box.right))):
        full, length, offset = placement.scaled[axis], window[axis], placement.offset[axis]
        if full >= length:
            assert 0 <= offset <= full - length, "no border where the picture is large enough"
        else:
            assert full - length <= offset <= 0, "all of a smaller picture is seen"
        point = (2 * target.point[axis] + 1) * full // (2 * size[axis])  # the pixel that has its center
        touched = target.point[axis] * full // size[axis]
        assert offset <= touched < offset + length
        assert offset <= point < offset + length or point != touched
        start, end = first * full // size[axis], -(-last * full // size[axis])
        if end - start <= length:
            assert offset <= start
            assert end <= offset + length


def test_components_are_not_always_central_and_reach_every_place():
    transform, target = JointTransform((16, 16), "window"), Target(Box(40, 40, 44, 46), (41, 43))
    offsets = {transform.place((90, 90), generator(seed), target).offset for seed in range(600)}
    assert {row for row, _ in offsets} == set(range(44 - 16, 41))
    assert {column for _, column in offsets} == set(range(46 - 16, 41))
    corner = Target(Box(88, 0, 90, 1), (89, 0))
    assert {transform.place((90, 90), generator(seed), corner).offset for seed in range(50)} == {(74, 0)}
    anywhere = {transform.place((18, 10), generator(seed)).offset for seed in range(300)}
    assert anywhere == {(row, column) for row in range(3) for column in range(-6, 1)}


@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(5, 60), st.integers(5, 60)),
    scale=st.sampled_from([1.0, 0.5, 0.37]),
    seed=st.integers(0, 500),
)
def test_image_mask_and_border_stay_together(size, scale, seed):
    rng = np.random.default_rng(seed)
    label = torch.from_numpy(rng.integers(0, 4, size).astype(np.uint8))
    image = torch.stack([label, label]) * 60
    transform = JointTransform((16, 16), "window", scale=scale, vertical_flip=True, rotate90=True)
    placement = transform.place(size, generator(seed))
    inside, seen, placed = placement.inside(), placement.image(image), placement.label(label, NULL)
    assert inside.shape == placed.shape == seen.shape[1:] == (16, 16)
    assert torch.equal(placed != NULL, inside)
    assert (seen[:, ~inside] == 0).all()
    whole = (0, placement.scaled[0]), (0, placement.scaled[1])
    whole_image = reduce_image(image, placement.scaled, *whole)
    whole_label = reduce_label(label, placement.scaled, *whole, background=0, null_id=NULL)
    if scale == 1:
        assert torch.equal(whole_image, image)
        assert torch.equal(whole_label, label)
    # Every pixel of the window comes from one place of image and mask alike.
    numbers_of = torch.arange(1, whole_label.numel() + 1).view(placement.scaled)
    (top, bottom), (left, right) = placement.seen
    cut = placement._finish(numbers_of[top:bottom, left:right], 0)
    assert torch.equal(cut > 0, inside)
    assert torch.equal(whole_label.flatten()[cut[inside] - 1], placed[inside])
    assert torch.equal(whole_image.flatten(1)[:, cut[inside] - 1], seen[:, inside])


def test_flips_and_turns_are_as_often_as_elsewhere_and_need_a_square():
    transform = JointTransform((8, 8), "window", vertical_flip=True, rotate90=True)
    drawn = Counter()
    for seed in range(400):
        placement = transform.place((30, 30), generator(seed))
        drawn[placement.hflip, placement.vflip, placement.turns] += 1
    assert len(drawn) == 16
    with pytest.raises(ConfigError) as error:
        JointTransform((8, 16), "window", rotate90=True)
    assert error.value.path == "rotate90"


def test_left_and_right_change_places_in_mirrored_windows():
    label = torch.tensor([[1, 2]], dtype=torch.uint8).repeat_interleave(8, 1).repeat(16, 1)
    transform = JointTransform((8, 8), "window", scale=0.5, flip_pairs=((1, 2),))
    mirrored = [transform.place((16, 16), generator(seed)) for seed in range(20)]
    for placement in mirrored:
        assert placement.label(label, NULL)[0].tolist() == [1] * 4 + [2] * 4
    assert {placement.hflip for placement in mirrored} == {True, False}


# ------------------------------------------------------------------------------------------- which window is laid


def plan_of(focus: float = 0.8, good_images: int = 3) -> WindowPlan:
    labels = [torch.zeros(40, 40, dtype=torch.uint8) for _ in range(5)]
    for index in range(20):  # many small ones of class 1
        labels[0][2 * (index // 5), 4 * (index % 5)] = 1
    labels[3][30:39, 20:40] = 2
    labels[4][0:3, 0:3] = 2
    return plan_windows([boxes_of(label, (1, 2, 3)) for label in labels], focus=focus, good_images=good_images)


def test_classes_are_drawn_evenly_among_those_that_have_any():
    plan, draws = plan_of(), 6000
    source = generator(1)
    found = [plan.draw(source) for _ in range(draws)]
    classes = Counter(class_id for _, class_id, _ in found)
    assert set(classes) == {None, 1, 2}
    assert classes[None] / draws == pytest.approx(0.2, abs=0.02)
    assert classes[1] / draws == pytest.approx(0.4, abs=0.02)
    assert classes[2] / draws == pytest.approx(0.4, abs=0.02)
    expected = plan.expected(draws)
    assert expected == {1: (20, pytest.approx(draws * 0.02)), 2: (2, pytest.approx(draws * 0.2))}
    boxes = Counter((class_id, index, box.top, box.left) for index, class_id, box in found if box is not None)
    assert len(boxes) == 22
    for (class_id, *_), count in boxes.items():
        assert count == pytest.approx(expected[class_id][1], rel=0.35)
    elsewhere = Counter(index for index, class_id, _ in found if class_id is None)
    assert set(elsewhere) == set(range(8)), "pairs and good images alike"
    assert min(elsewhere.values()) > 0.6 * draws * 0.2 / 8


@pytest.mark.parametrize(("focus", "shown"), [(0.0, {None}), (1.0, {1, 2})])
def test_the_share_of_windows_on_defects_may_be_none_or_all(focus, shown):
    plan, source = plan_of(focus), generator()
    assert {plan.draw(source)[1] for _ in range(200)} == shown
    empty = plan_windows([boxes_of(torch.zeros(4, 4, dtype=torch.uint8), (1,))], focus=focus, good_images=0)
    assert empty.draw(source) == (0, None, None)
    assert empty.expected(100) == {}


def test_targets_are_pixels_of_their_class():
    label = torch.zeros(20, 20, dtype=torch.uint8)
    label[3:9, 4] = 1
    label[8, 4:12] = 1
    (component,) = find_components(label.numpy(), (1,))
    points = {point_of(label, 1, component.box, draw).point for draw in np.linspace(0, 0.999, 60)}
    assert points == {tuple(point) for point in torch.nonzero(label == 1).tolist()}
    assert point_of(label, 2, component.box, 0.5) is None
    label[15, 15] = 3
    assert target_in(label, (1, 2, 3)).box == component.box, "the largest"
    drawn = Counter(target_in(label, (1, 2, 3), numbers(generator(seed)).__next__).box for seed in range(300))
    assert set(drawn) == {component.box, Box(15, 15, 16, 16)}
    assert min(drawn.values()) > 110, "classes are drawn evenly, not pixels"
    assert target_in(label, (2,)) is None


# --------------------------------------------------------------------------------------------------- as examples


@pytest.fixture
def files(build, tmp_path):
    """Six pairs with a defect each, one at every corner, and two good images."""
    rng = np.random.default_rng(0)
    masks, images = {}, {}
    corners = ((0, 0), (0, 57), (47, 0), (47, 57), (20, 30), (25, 10))
    for number, (top, left) in enumerate(corners):
        mask = np.zeros((50, 60), np.uint8)
        mask[top : top + 3, left : left + 3] = 1 + number % 2
        masks[f"m{number}"] = mask
        images[f"m{number}.png"] = np.stack([mask * 80 + 10] * 3, -1)
    root = build(masks, images=images)
    good = []
    for number in range(2):
        path = tmp_path / f"good{number}.png"
        Image.fromarray(rng.integers(200, 255, (30, 70, 3)).astype(np.uint8)).save(path)
        good.append(GoodImage(f"good{number}", str(path)))
    return index_pairs(root, get_mode("multi-class"), "train")[0], good


ENCODING = LabelEncoding.identity(3)


def dataset(files, *, focus: float = 0.8, scale: float = 1.0, size=(16, 16), **options) -> SegmentationDataset:
    pairs, good = files
    encoding = options.pop("encoding", ENCODING)
    labels = [torch.from_numpy(np.array(Image.open(pair.mask))) for pair in pairs]
    plan = plan_windows([boxes_of(label, (1, 2)) for label in labels], focus=focus, good_images=len(good))
    transform = JointTransform(size, "window", scale=scale, vertical_flip=True, rotate90=size[0] == size[1])
    return SegmentationDataset(pairs, encoding, transform, good_images=good, windows=plan, **options)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_focused_windows_show_the_whole_defect_with_its_image(files, scale):
    examples = dataset(files, focus=1.0, scale=scale)
    for index in range(len(examples)):
        for epoch in range(4):
            example = examples[key(index, epoch)]
            label, image = example["label"], (example["image"] + 1) * 127.5
            assert example["inside"].all()
            assert (label > 0).sum() == (9 if scale == 1 else pytest.approx(4, abs=3))
            if scale == 1:
                assert torch.allclose(image, (label * 80.0 + 10).expand(3, 16, 16), atol=1e-3)


def test_other_windows_lie_in_good_images_too_and_smaller_ones_get_a_border(files):
    examples = dataset(files, focus=0.0, size=(40, 40), with_edges=True)
    assert len(examples) == 8
    names = Counter()
    for index in range(len(examples)):
        for epoch in range(12):
            name = examples.picture(key(index, epoch)).stem
            example = examples[key(index, epoch)]
            names[name] += 1
            inside, image = example["inside"], example["image"]
            assert (image[:, ~inside] == -1).all()
            assert torch.equal(example["label"] == 3, ~inside)
            if name.startswith("good"):
                assert inside.sum() == 30 * 40
                assert (example["label"][inside] == 0).all()
                assert image[:, inside].min() > 0.5
            else:
                assert inside.all()
    assert len(names) == 8


def test_brightness_changes_the_picture_but_not_its_border(files):
    examples = dataset(files, focus=0.0, size=(40, 40))
    plain = [examples[key(index, epoch)] for index in range(8) for epoch in range(4)]
    examples.transform = replace(examples.transform, brightness=0.3)
    shifts = set()
    for example, before in zip([examples[key(i, e)] for i in range(8) for e in range(4)], plain, strict=True):
        inside = example["inside"]
        assert torch.equal(inside, before["inside"])
        assert torch.equal(example["label"], before["label"])
        assert (example["image"][:, ~inside] == -1).all()
        free = inside & (example["image"].abs().amax(0) < 1)
        shifts |= {round(shift, 3) for shift in (example["image"] - before["image"])[:, free].flatten().tolist()}
    assert len(shifts) > 10
    assert max(map(abs, shifts)) <= 0.6
    assert min(shifts) < 0 < max(shifts)


def test_masks_of_good_images_are_read(files, tmp_path):
    pairs, good = files
    mask = np.zeros((30, 70), np.uint8)
    mask[:, 35:] = 2
    Image.fromarray(mask).save(tmp_path / "mask.png")
    examples = dataset((pairs[:1], [GoodImage("g", good[0].image, str(tmp_path / "mask.png"))]), focus=0.0)
    seen = set()
    for epoch in range(20):
        if examples.picture(key(0, epoch)).stem == "g":
            seen |= set(examples[key(0, epoch)]["label"].unique().tolist())
    assert seen == {0, 2}


def test_examples_depend_on_seed_epoch_and_index_alone_whoever_reads_them(files):
    holes = HoleMaker((0.6, 0.2, 0.2), (1, 2))
    plain, cached = (dataset(files, seed=3, cache_images=cache, holes=holes) for cache in (False, True))
    batches = {}
    for workers in (0, 2):
        loader = TrainLoader(cached, DistributedBatchPlan(len(cached), 3, seed=3), num_workers=workers)
        batches[workers] = list(loader.epoch(1))
    for one, other in zip(*batches.values(), strict=True):
        for field in ("image", "inside", "hole"):
            assert torch.equal(getattr(one, field), getattr(other, field))
        assert torch.equal(one.condition.label, other.condition.label)
    for index in range(len(plain)):
        one, other = plain[key(index, 2)], cached[key(index, 2)]
        assert all(torch.equal(one[name], other[name]) for name in ("image", "label", "inside", "hole"))
    epochs = [plain[key(0, epoch)]["image"] for epoch in range(4)]
    assert any(not torch.equal(epochs[0], other) for other in epochs[1:])
    assert any(
        not torch.equal(plain[key(index)]["image"], dataset(files, seed=4)[key(index)]["image"]) for index in range(8)
    )


def test_a_mask_that_lost_its_defect_since_is_named(files):
    examples = dataset(files, focus=1.0)
    for pair in examples.pairs:
        Image.fromarray(np.zeros((50, 60), np.uint8)).save(pair.mask)
    with pytest.raises(DataError) as error:
        examples[key(0)]
    assert error.value.path in {pair.mask for pair in examples.pairs}


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_edges_of_labels_are_those_of_the_window(files, scale):
    examples = dataset(files, focus=1.0, scale=scale, with_edges=True)
    for index in range(len(examples)):
        example = examples[key(index)]
        assert torch.equal(example["edge"], edges_from_instances(example["label"].int()))
        assert example["edge"].any()


def test_edges_of_instance_maps_stay_those_of_the_instances(tmp_path):
    ids = np.repeat(np.array([[1, 2]], np.uint16), 20, 0).repeat(20, 1)
    Image.fromarray(ids).save(tmp_path / "i.png")
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / "m.png")
    entry = MaskEntry("m", str(tmp_path / "m.png"), str(tmp_path / "i.png"))
    transform = JointTransform((8, 8), "window", scale=0.5, train=False)
    label, edge, _ = read_condition(entry, ENCODING, transform, with_edges=True)
    assert (label == 0).all()
    assert edge.any(0).tolist() == [False, False, False, True, True, False, False, False]


def test_windows_of_masks_are_drawn_or_show_the_largest_component(tmp_path):
    mask = np.zeros((60, 60), np.uint8)
    mask[5:10, 5:10] = 1
    mask[40, 50] = 2
    Image.fromarray(mask).save(tmp_path / "m.png")
    entry = MaskEntry("m", str(tmp_path / "m.png"))
    transform = JointTransform((16, 16), "window", train=False)
    assert (read_condition(entry, ENCODING, transform)[0] == 1).sum() == 25
    shown = {
        tuple(read_condition(entry, ENCODING, transform, window=generator(seed))[0].unique().tolist())
        for seed in range(20)
    }
    assert shown == {(0, 1), (0, 2)}


@pytest.mark.parametrize("mode", ["cityscapes", "coco"])
def test_many_classes_and_instance_maps(mode, tmp_path):
    """The published layouts: 34 classes with instance maps, and 183 of which the last is the background."""
    rule, rng = get_mode(mode), np.random.default_rng(0)
    suffix = {"image": rule.images, "mask": rule.masks, "instance": rule.instances}
    for number in range(3):
        codes = rng.integers(0, 34 if mode == "cityscapes" else 182, (5, 7)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
        if mode == "coco":
            codes[:, :20] = 255
        for what, file_rule in suffix.items():
            folder = tmp_path / rule.folder(file_rule, tmp_path, "train")
            folder.mkdir(parents=True, exist_ok=True)
            picture = (
                np.stack([codes] * 3, -1)
                if what == "image"
                else codes.astype(np.uint16)
                if what == "instance"
                else codes
            )
            Image.fromarray(picture).save(folder / f"a{number}{file_rule.stem_suffix}.png")
    pairs, problems = index_pairs(tmp_path, rule, "train")
    assert not problems
    values = rule.values or tuple((index,) for index in range(rule.num_classes))
    encoding = LabelEncoding(rule.num_classes, rule.names, values)
    labels = [torch.from_numpy(encoding.decode(Image.open(pair.mask), pair.mask).astype(np.int32)) for pair in pairs]
    classes = [index for index in range(rule.num_classes) if index != rule.background]
    plan = plan_windows([boxes_of(label, classes) for label in labels], focus=1.0, good_images=0)
    transform = JointTransform((16, 24), "window", scale=0.5, background=rule.background)
    examples = SegmentationDataset(pairs, encoding, transform, windows=plan, with_edges=True)
    for index in range(3):
        for epoch in range(5):
            example = examples[key(index, epoch)]
            _, class_id, _ = plan.draw(examples._generator(key(index, epoch)))
            assert (example["label"] == class_id).any(), "blocks of 8 px are seen at half size"
            assert example["edge"].any()
            known = example["label"] != rule.background
            gray = ((example["image"][0] + 1) * 127.5).round()
            assert torch.equal(gray[known], example["label"][known].float())


def test_a_small_window_decodes_no_more_than_it_shows():
    placement = JointTransform((64, 64), "window", scale=0.25, train=False).place((3000, 4000))
    assert covered((3000, 4000), placement.scaled, *placement.seen).size == (256, 256)
