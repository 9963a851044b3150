"""Datasets of windows: focused ones show the defect, others lie in good images too, and reading decodes little."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.data.area import covered
from guided_diffusion.data.datasets import ExampleKey, SegmentationDataset, read_condition
from guided_diffusion.data.holes import HoleMaker
from guided_diffusion.data.loader import DistributedBatchPlan, TrainLoader
from guided_diffusion.data.masks.encoding import LabelEncoding, edges_from_instances
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import GoodImage, MaskEntry, index_pairs
from guided_diffusion.data.transforms import JointTransform
from guided_diffusion.data.windows import boxes_of, plan_windows
from guided_diffusion.runtime.errors import DataError

NULL = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def key(index: int, epoch: int = 0) -> ExampleKey:
    return ExampleKey(epoch, index, 0, 1.0)


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
