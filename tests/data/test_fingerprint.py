from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.data.fingerprint import DataChanges, Fingerprint, encoding_differs
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.modes import get_mode
from guided_diffusion.data.scan.scan import scan_dataset

LABEL = np.eye(12, dtype=np.uint8)


def taken(root) -> Fingerprint:
    report = scan_dataset(root, get_mode("multi-class"), "train", progress=False)
    return Fingerprint.of(report.pairs, report.prints)


@pytest.fixture
def root(build):
    return build({"a": LABEL, "b": 1 - LABEL, "sub/c": LABEL})


def test_it_survives_a_checkpoint_in_which_it_is_small(root, tmp_path):
    before = taken(root)
    assert before.stems == ("a", "b", "sub/c")
    torch.save(before.to_state(), tmp_path / "state.pt")
    after = Fingerprint.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert after.stems == before.stems
    assert torch.equal(after.digests, before.digests)
    assert not before.changes_to(after)
    assert before.digests.nbytes == 3 * 24


def test_names_that_are_no_text_survive(tmp_path):
    odd = Fingerprint(("a\udcff", "new\nline", "缺陷"), torch.zeros(3, 3, 8, dtype=torch.uint8))
    torch.save(odd.to_state(), tmp_path / "state.pt")
    assert Fingerprint.from_state(torch.load(tmp_path / "state.pt", weights_only=True)).stems == odd.stems


def test_older_and_other_states_are_none():
    assert Fingerprint.from_state({}) is None
    assert Fingerprint.from_state({"version": 99, "stems": "a", "digests": torch.zeros(1, 3, 8)}) is None
    assert Fingerprint.from_state({"version": 1, "stems": "a\0b", "digests": torch.zeros(1, 3, 8)}) is None


def test_where_data_lies_and_when_it_was_written_does_not_count(root, tmp_path):
    before = taken(root)
    shutil.copytree(root, tmp_path / "elsewhere")
    after = taken(tmp_path / "elsewhere")
    assert not before.changes_to(after)
    assert torch.equal(before.digests, after.digests)


def test_every_difference_is_named(root):
    before = taken(root)
    (root / "train/images/a.png").unlink()
    (root / "train/masks/a.png").unlink()
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(root / "train/images/b.png")
    Image.fromarray(1 - LABEL).save(root / "train/masks/sub/c.png")
    for kind in ("images", "masks"):
        shutil.copy(root / "train" / kind / "b.png", root / "train" / kind / "d.png")
    changes = before.changes_to(taken(root))
    assert changes == DataChanges(added=("d",), removed=("a",), images=("b",), masks=("sub/c",))
    assert bool(changes)


def test_instance_maps_count_where_both_have_them():
    def one(instance: int) -> Fingerprint:
        digests = torch.ones(1, 3, 8, dtype=torch.uint8)
        digests[0, 2] = instance
        return Fingerprint(("a",), digests)

    assert one(1).changes_to(one(2)) == DataChanges(instances=("a",))
    assert not one(1).changes_to(one(0))
    assert not one(0).changes_to(one(1))


def test_the_order_of_values_is_no_difference_of_encoding():
    before = LabelEncoding(2, ("ground", "hole"), ((0,), (1, 2)))
    assert not encoding_differs(before, LabelEncoding(2, ("ground", "hole"), ((0,), (2, 1)), kind="grey16"))
    assert encoding_differs(before, LabelEncoding(2, ("ground", "hole"), ((1,), (0, 2))))
    assert encoding_differs(before, LabelEncoding(2, ("ground", "hole"), ((0,), (1, 2)), ignore_values=(255,)))
    colors = ((0, 0, 255),), ((255, 0, 0),)
    first, other = (LabelEncoding(2, ("ground", "hole"), (), order, kind="rgb") for order in (colors, colors[::-1]))
    assert encoding_differs(first, other)
