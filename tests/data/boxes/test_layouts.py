"""Boxes are placed with their picture, and become layouts: geometry against masks, which objects stay, batches."""

from __future__ import annotations

import pytest
import torch
from boxed import GRAY, gray_set
from hypothesis import given, settings
from hypothesis import strategies as st

from guided_diffusion.conditions.layout import LayoutCondition
from guided_diffusion.data.augmentation import Augmentation
from guided_diffusion.data.boxes.layouts import (
    LEAST_LEFT,
    LayoutMaker,
    LayoutRules,
    objects_of_boxes,
    objects_of_mask,
    place_objects,
    whole_pixels,
)
from guided_diffusion.data.boxes.records import BoxedImage, ObjectBox
from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset
from guided_diffusion.data.loader import DistributedBatchPlan, TrainLoader, collate_examples
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import GoodImage, index_pairs
from guided_diffusion.data.scan.boxes import scan_boxes
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.data.windows import plan_windows

POLICIES = ["crop", "squash", "pad", "window"]
ALL = LayoutRules(max_objects=1000, background=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxed(size, *boxes, classes=()) -> BoxedImage:
    ids = classes or range(1, len(boxes) + 1)
    objects = [ObjectBox(class_id, box) for class_id, box in zip(ids, boxes, strict=True)]
    return BoxedImage("a.png", tuple(objects), size)


def filled(size, box) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.uint8)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0:x1] = 1
    return mask


@st.composite
def pictures(draw):
    height, width = draw(st.integers(12, 90)), draw(st.integers(12, 90))
    x0, y0 = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
    return (height, width), (x0, y0, draw(st.integers(x0 + 3, width)), draw(st.integers(y0 + 3, height)))


@settings(max_examples=150)
@given(
    picture=pictures(),
    target=st.sampled_from([(32, 32), (24, 40), (48, 16)]),
    policy=st.sampled_from(POLICIES),
    train=st.booleans(),
    augment=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_a_filled_box_is_where_its_box_is(picture, target, policy, train, augment, seed):
    size, box = picture
    square = target[0] == target[1]
    transform = JointTransform(
        target, policy, scale=0.8, mask_resize="nearest", vertical_flip=True, rotate90=square, train=train
    )
    placement = transform.place(size, generator(seed))
    if augment:
        placement = Augmentation.draw(0.7, generator(seed), square=square).applied(placement)
    seen = placement.mask(filled(size, box), 0)
    assert placement.window == tuple(seen.shape)
    (placed,) = placement.boxes(torch.tensor([box], dtype=torch.float64), size).tolist()
    rows, columns = (torch.nonzero(seen.any(dim))[:, 0].tolist() for dim in (1, 0))
    tolerance = (1.5 if augment else 1) + 1e-9  # in pixels; augmented masks are sampled twice
    if not rows:  # nothing, or less than a pixel
        assert min(placed[2] - placed[0], placed[3] - placed[1]) <= tolerance
        return
    found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    assert max(abs(a - b) for a, b in zip(found, placed, strict=True)) <= tolerance
    if not train and not augment:
        of_mask = place_objects(objects_of_mask(filled(size, box), [1], 0), placement, ALL)
        of_box = place_objects(objects_of_boxes(boxed(size, box), size), placement, ALL)
        # In pixels of the picture, of which those that are cut through count by their centers.
        height, width = (side * old / new for side, old, new in zip(target, size, placement.scaled, strict=True))
        boxes = [each.box.double() * torch.tensor([width, height, width, height]) for each in (of_mask, of_box)]
        if len(boxes[0]) == len(boxes[1]) == 1:
            assert (boxes[0] - boxes[1]).abs().max() <= 0.5 + 1e-4
        elif len(boxes[0]) < len(boxes[1]):
            # Of pixels too little is left: up to half a pixel a side less than of the box.
            sides = (boxes[1][0, 2:] - boxes[1][0, :2] - 0.5 - 1e-4).clamp(min=0)
            assert sides.prod() < LEAST_LEFT * (box[2] - box[0]) * (box[3] - box[1])


def test_objects_with_a_tenth_of_their_area_stay_and_those_with_less_go():
    transform = JointTransform((20, 20), "crop", train=False)  # of the middle: columns 10 to 30
    placement = transform.place((20, 40))
    boxes = boxed((20, 40), (0, 0, 11, 4), (1, 4, 11, 8), (0, 8, 9, 12), (12, 2, 18, 19))
    placed = place_objects(objects_of_boxes(boxes, (20, 40)), placement, ALL)
    assert placed.number.tolist() == [1, 3]
    assert placed.cropped.tolist() == [0, 2]
    assert placed.box[0].tolist() == pytest.approx([0, 0.2, 0.05, 0.4])
    assert LEAST_LEFT == 0.1


def test_of_too_many_objects_the_largest_stay_in_their_order():
    boxes = boxed((10, 10), (0, 0, 2, 2), (0, 0, 9, 9), (0, 0, 3, 3), (5, 5, 10, 10))
    rules = LayoutRules(max_objects=2, min_object_size=0.05, background=False)
    placed = place_objects(
        objects_of_boxes(boxes, (10, 10)), JointTransform((10, 10), train=False).place((10, 10)), rules
    )
    assert placed.number.tolist() == [1, 3]
    assert placed.small.tolist() == [0]
    assert placed.beyond.tolist() == [2]


def test_a_bent_object_that_is_cut_gets_a_box_that_fits():
    label = torch.zeros(20, 40, dtype=torch.uint8)
    label[2:4, :30] = 1  # a long arm
    label[2:18, :4] = 1  # and one outside of the window
    placement = JointTransform((20, 20), "crop", train=False).place((20, 40))
    placed = place_objects(objects_of_mask(label, [1], 0), placement, ALL)
    assert placed.box[0].tolist() == pytest.approx([0, 0.1, 1, 0.2])


def test_what_is_left_of_an_object_of_a_mask_is_counted_in_its_pixels():
    label = torch.zeros(20, 40, dtype=torch.uint8)
    label[:, :9] = 1  # outside of the window, which begins in column 10
    label[5, 9:20] = 1  # a tenth of the pixels would be 19
    placement = JointTransform((20, 20), "crop", train=False).place((20, 40))
    assert place_objects(objects_of_mask(label, [1], 0), placement, ALL).cropped.tolist() == [0]
    label[5:8, 9:20] = 1
    assert place_objects(objects_of_mask(label, [1], 0), placement, ALL).number.tolist() == [0]


def test_a_scratch_thinner_than_a_pixel_stays_one_object():
    label = torch.zeros(200, 200, dtype=torch.uint8)
    label[torch.arange(200), torch.arange(200)] = 2
    placement = JointTransform((16, 16), "squash", train=False).place((200, 200))
    placed = place_objects(objects_of_mask(label, [1, 2], 0), placement, ALL)
    assert placed.label.tolist() == [2]
    assert placed.box[0].tolist() == [0, 0, 1, 1]


def test_instances_are_objects_where_their_ids_are_given():
    label = torch.tensor([[1, 1, 1, 2], [1, 0, 1, 2]], dtype=torch.uint8)
    ids = torch.tensor([[5, 5, 6, 9], [5, 0, 5, 9]])
    found = objects_of_mask(label, [1, 2], 0, ids)
    assert found.label.tolist() == [1, 1, 2]
    assert found.box.tolist() == [[0, 0, 3, 2], [2, 0, 3, 1], [3, 0, 4, 2]]
    assert objects_of_mask(label, [1, 2], 0).label.tolist() == [1, 2]


def test_left_and_right_change_places_in_mirrored_layouts():
    transform = JointTransform((10, 10), "squash", flip_pairs=((1, 2),))
    objects = objects_of_boxes(boxed((10, 10), (0, 0, 3, 3), (7, 0, 10, 3), classes=(1, 2)), (10, 10))
    for seed in range(8):
        placement = transform.place((10, 10), generator(seed))
        placed = place_objects(objects, placement, ALL)
        left = placed.label[placed.box[:, 0].argmin()]
        assert left == 1  # whatever is on the left is called left
        assert placed.label.tolist() == ([2, 1] if placement.hflip else [1, 2])


def test_the_class_of_a_picture_as_a_whole_changes_places_likewise():
    maker, key = LayoutMaker(4, (1, 2, 3), style_dim=2), ExampleKey(0, 0, 0, 1.0)
    transform = JointTransform((10, 10), "squash", flip_pairs=((1, 2),))
    for background, mirrored in ((1, 2), (2, 1), (3, 3), (0, 0)):
        objects = objects_of_boxes(BoxedImage("a.png", (), (10, 10), background), (10, 10))
        for seed in range(8):
            placement = transform.place((10, 10), generator(seed))
            label = maker.entries(None, objects, placement, key)["object_label"]
            assert label.tolist() == [mirrored if placement.mirrored else background]


# ------------------------------------------------------------------------------------------- examples and batches


@pytest.fixture
def report(tmp_path):
    return scan_boxes(gray_set(tmp_path), get_mode("boxes"), "train", progress=False)


def dataset(report, resize="pad", *, maker=None, transform=None, **options) -> SegmentationDataset:
    encoding = report.raise_if_fatal()
    maker = maker or LayoutMaker(encoding.num_classes, (1, 2, 3), 5, seed=options.get("seed", 0))
    transform = transform or JointTransform((32, 32), resize, vertical_flip=True, rotate90=True)
    return SegmentationDataset(
        report.pairs, encoding, transform, image_channels=1, conditions=maker, cache_images=False, **options
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_has_layouts_of_its_images(report, num_workers):
    (batch,) = TrainLoader(dataset(report), DistributedBatchPlan(4, 8), num_workers=num_workers).epoch(0)
    layouts = batch.condition
    assert isinstance(layouts, LayoutCondition)
    assert batch.label is None
    assert (layouts.size, layouts.num_classes, layouts.background) == ((32, 32), 4, True)
    assert layouts.style.shape == (4, 4, 5)  # three objects and the picture as a whole
    assert (layouts.label[:, 0] == 0).all()
    assert layouts.box[:, 0].tolist() == [[0, 0, 1, 1]] * 4
    assert sorted(layouts.present.sum(1).tolist()) == sorted(1 + len(boxes) for _, boxes in GRAY.values())
    for index in range(4):  # boxes are brighter than what is around them
        for number in range(1, int(layouts.present[index].sum())):
            x0, y0, x1, y1 = (layouts.box[index, number] * 32).round().int().tolist()
            inside = batch.image[index, 0, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)].mean()
            assert inside > 0.2


def test_examples_depend_on_seed_epoch_and_index_alone(report):
    data = dataset(report, "crop", seed=3)
    key = ExampleKey(2, 3, 0, 1.0)
    first = data[key]
    again = dataset(report, "crop", seed=3)[key._replace(batch_index=9)]
    for name in ("image", "object_label", "object_box", "object_style"):
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first["object_style"][0], data[key._replace(epoch=1)]["object_style"][0])
    together, alone = (list(TrainLoader(data, DistributedBatchPlan(4, size)).epoch(0)) for size in (4, 1))
    for index, single in enumerate(alone):
        slots = single.condition.slots
        of_batch = together[0].condition[index : index + 1]
        assert torch.equal(of_batch.box[:, :slots], single.condition.box)
        assert torch.equal(of_batch.style[:, :slots], single.condition.style)
        assert not of_batch.present[:, slots:].any()


def test_another_box_leaves_the_styles_of_the_others_alone(report):
    whole = dataset(report)[ExampleKey(0, 3, 0, 1.0)]
    maker = LayoutMaker(4, (1, 2, 3), 5, rules=LayoutRules(max_objects=2, background=False))
    fewer = dataset(report, maker=maker)[ExampleKey(0, 3, 0, 1.0)]
    assert len(whole["object_label"]) == 4
    assert fewer["object_style"].tolist() == whole["object_style"][2:].tolist()


def test_good_images_have_a_background_alone(report):
    good = GoodImage("g", report.pairs[0].image)
    data = dataset(report, good_images=[good])
    example = data[ExampleKey(0, 4, 0, 1.0)]
    assert example["object_label"].tolist() == [0]


def test_windows_lie_on_boxes(report):
    found = [[(each.class_id, whole_pixels(each.box)) for each in pair.boxes.objects] for pair in report.pairs]
    plan = plan_windows(found, focus=1.0, good_images=0)
    data = dataset(report, transform=JointTransform((16, 16), "window"), windows=plan)
    for index in range(40):
        key = ExampleKey(0, index, 0, 1.0)
        example = data[key]
        assert example["inside"].shape == (16, 16)
        whole = data.picture(key).boxes.objects
        assert whole, "a picture without objects has no window of its own"
        shown = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in example["object_box"][1:].tolist()]
        # A box is left out where less than a tenth of it is in the window, as it may be of the longest.
        assert shown or any(max(each.box[2] - each.box[0], each.box[3] - each.box[1]) > 16 for each in whole)


def test_a_shown_window_has_the_largest_box_in_its_middle(report):
    data = dataset(report, transform=JointTransform((16, 16), "window", train=False))
    example = data[ExampleKey(0, 3, 0, 1.0)]  # a dent of 20x20 px at the right border
    assert example["object_label"].tolist() == [0, 3]
    assert example["object_box"][1].tolist() == pytest.approx([0, 0, 1, 1], abs=0.1)


def test_layouts_of_masks_come_with_the_masks(lemons):
    pairs, _ = index_pairs(lemons, get_mode("multi-class"), "train")
    encoding = LabelEncoding.identity(5)
    maker = LayoutMaker(5, (1, 2, 3, 4), 8, from_masks=True)
    transform = JointTransform((24, 24), "squash", vertical_flip=True, rotate90=True)
    data = SegmentationDataset(pairs, encoding, transform, conditions=maker, cache_images=False)
    (batch,) = TrainLoader(data, DistributedBatchPlan(8, 8)).epoch(1)
    assert batch.label.shape == (8, 24, 24)
    layouts = batch.condition
    for index in range(8):
        present = layouts.present[index]
        for class_id, box in zip(layouts.label[index][present][1:], layouts.box[index][present][1:], strict=True):
            x0, y0, x1, y1 = (box * 24).round().int().tolist()
            rows, columns = torch.nonzero(batch.label[index, y0:y1, x0:x1] == class_id, as_tuple=True)
            assert (int(rows.min()), int(rows.max())) == (0, y1 - y0 - 1)  # the box fits the part
            assert (int(columns.min()), int(columns.max())) == (0, x1 - x0 - 1)
        classes = set(batch.label[index].unique().tolist()) - {0}
        assert classes == set(layouts.label[index][present][1:].tolist())


def test_shown_examples_are_collated_as_batches_are(report):
    data = dataset(report, transform=JointTransform((32, 32), "squash", train=False))
    images, layouts = collate_examples(data, [0, 2])
    assert images.shape == (2, 1, 32, 32)
    (height, width), boxes = GRAY["a.png"]
    x0, y0, x1, y1 = boxes[0][1]
    assert layouts.box[0, 1].tolist() == pytest.approx([x0 / width, y0 / height, x1 / width, y1 / height])
    assert layouts.present.sum(1).tolist() == [3, 1]
