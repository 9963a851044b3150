"""Subsets of annotated images: nested, with every class, and equal to what they are copied from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.pairing import index_pairs
from guided_diffusion.pipelines.study.amounts import MARKER, nested_order, subset_of, write_subset
from guided_diffusion.runtime.errors import ConfigError

MODE = get_mode("multi-class")


def random_presence(seed: int, images: int = 80) -> np.ndarray:
    """Return classes in very different shares, the last one rare, and some images without any."""
    rng = np.random.default_rng(seed)
    presence = rng.random((images, 4)) < [0.5, 0.25, 0.1, 0.03]
    presence[rng.integers(images), 3] = True
    return presence


@pytest.mark.parametrize("seed", range(5))
def test_every_beginning_has_all_classes_in_their_shares(seed):
    presence = random_presence(seed)
    order = nested_order(presence, seed)
    assert sorted(order) == list(range(80))
    assert presence[order[:5]].any(axis=0).all()
    for count in (10, 20, 40):
        shares = presence[order[:count]].mean(axis=0)
        np.testing.assert_allclose(shares, presence.mean(axis=0), atol=0.12 if count == 10 else 0.08)


def test_the_rarest_class_comes_first():
    presence = np.zeros((30, 3), bool)
    presence[:20, 0] = presence[20:28, 1] = presence[28:, 2] = True
    order = nested_order(presence, 0)
    assert [int(np.flatnonzero(presence[index])[0]) for index in order[:3]] == [2, 1, 0]


def test_the_order_depends_on_the_seed_alone():
    presence = random_presence(0)
    np.testing.assert_array_equal(nested_order(presence, 1), nested_order(presence, 1))
    assert not np.array_equal(nested_order(presence, 1), nested_order(presence, 2))


def test_images_without_a_class_are_taken_too():
    presence = np.zeros((20, 1), bool)
    presence[:10] = True
    order = nested_order(presence, 0)
    assert 4 <= presence[order[:10]].sum() <= 6
    assert len(nested_order(np.zeros((5, 2), bool), 0)) == 5


def test_subsets_are_nested(lemons):
    pairs, _ = index_pairs(lemons, MODE, "train")
    order = nested_order(np.eye(len(pairs), dtype=bool), 0)
    small, large, whole = (subset_of(pairs, order, amount) for amount in (2, 5, None))
    assert (len(small), len(large), len(whole)) == (2, 5, len(pairs))
    assert set(small) < set(large) < set(whole)
    assert list(large) == sorted(large, key=lambda pair: pair.stem)
    with pytest.raises(ConfigError) as error:
        subset_of(pairs, order, len(pairs))
    assert error.value.keys == ("amounts",)


def test_a_subset_is_a_dataset_of_the_same_files(lemons, tmp_path):
    pairs, _ = index_pairs(lemons, MODE, "train")
    folder = write_subset(pairs[1:4], str(lemons), tmp_path / "n3" / "dataset")
    found, problems = index_pairs(folder, MODE, "train")
    assert not problems
    assert [pair.stem for pair in found] == [pair.stem for pair in pairs[1:4]]
    for ours, theirs in zip(found, pairs[1:4], strict=True):
        assert Path(ours.image).read_bytes() == Path(theirs.image).read_bytes()
        assert Path(ours.mask).read_bytes() == Path(theirs.mask).read_bytes()
    assert (folder / "classes.json").read_bytes() == (lemons / "classes.json").read_bytes()
    assert not (folder / "test").exists()
    before = (folder / MARKER).stat().st_mtime_ns
    write_subset(pairs[1:4], str(lemons), folder)
    assert (folder / MARKER).stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == ["dataset"]


@pytest.mark.parametrize("damage", [None, "marker"])
def test_another_subset_is_not_taken_for_this_one(lemons, tmp_path, damage):
    pairs, _ = index_pairs(lemons, MODE, "train")
    folder = write_subset(pairs[:3], str(lemons), tmp_path / "dataset")
    if damage:
        (folder / MARKER).write_text("{")
    with pytest.raises(ConfigError) as error:
        write_subset(pairs[:2] if damage is None else pairs[:3], str(lemons), folder)
    assert error.value.keys == ("output_dir",)


@pytest.mark.parametrize("changed", ["image", "mask"])
def test_a_subset_of_files_that_have_changed_is_not_taken_for_one_of_these(lemons, tmp_path, changed):
    source = shutil.copytree(lemons, tmp_path / "lemons")
    pairs, _ = index_pairs(source, MODE, "train")
    folder = write_subset(pairs[:3], str(source), tmp_path / "dataset")
    (source / "classes.json").write_text(json.dumps(json.loads((source / "classes.json").read_text()), indent=5))
    write_subset(pairs[:3], str(source), folder)  # means the same
    path = Path(getattr(pairs[1], changed))
    path.write_bytes(Path(getattr(pairs[5], changed)).read_bytes())
    with pytest.raises(ConfigError, match=path.name) as error:
        write_subset(pairs[:3], str(source), folder)
    assert error.value.keys == ("output_dir",)
