"""The numbers of a card of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from huggingface_hub import DatasetCard

from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.runtime.card_file import is_untouched, read_card
from guided_diffusion.samples.dataset_card import (
    CHANGED,
    NOT_EVALUATED,
    ClassCounts,
    DatasetFacts,
    joined_digest,
    size_category,
    write_dataset_card,
)

FACTS = {
    "title": "Synthetic pairs", "what": "Pairs.", "action": "sample", "unit": "pairs", "synthetic": True,
    "sources": [("masks", "3 of tiles")], "settings": [("`steps`", "20")], "limits": ["Few."], "use": ["Use."],
    "version": "1",
}  # fmt: skip


def facts(**values) -> DatasetFacts:
    return DatasetFacts(**{**FACTS, "count": 3, "state": "0" * 16, **values})


@pytest.mark.parametrize(("count", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M")])
def test_sizes_are_those_of_the_hub(count, name):
    assert size_category(count) == name


def test_classes_are_counted_by_mask_and_by_pixel():
    labels = [np.array([[0, 0], [1, 2]], np.uint8), np.array([[0, 2], [2, 2]], np.uint8)]
    counts = ClassCounts.of_masks(
        labels, LabelEncoding(2, ("good", "a|b"), ((0,), (255, 1)), kind="grey8"), len(labels)
    )
    assert (counts.masks.tolist(), counts.pixels.tolist(), counts.ignored) == ([2, 1], [3, 1], 4)
    assert counts.table()[2:] == [
        "| 0 | good | 2 | 37.500% |",
        "| 255 | a\\|b | 1 | 12.500% |",
        "| (ignored) | no class | | 50.000% |",
    ]
    exported = ClassCounts(("good",), ("0",), title="class id")
    exported.add(np.array([[0, -1]]))
    assert (exported.pixels.tolist(), exported.ignored) == ([1], 1)


def test_a_digest_of_files_does_not_depend_on_their_order():
    assert joined_digest(["a", "b"]) == joined_digest(["b", "a"]) != joined_digest(["ab"])


def test_a_card_has_metadata_that_the_hub_reads(tmp_path):
    shown = write_dataset_card(tmp_path, facts(count=1500))
    assert shown == str(tmp_path / "dataset_card.md")
    data = DatasetCard.load(tmp_path / "dataset_card.md").data
    assert data.task_categories == ["image-segmentation"]
    assert data.size_categories == ["1K<n<10K"]
    assert data.tags[:2] == ["synthetic", "isdm"]
    assert data.license is None  # whose it is only the user knows
    text = read_card(tmp_path / "dataset_card.md")
    assert is_untouched(text)
    assert NOT_EVALUATED in text


def test_other_pairs_take_the_verdict_away(tmp_path):
    from guided_diffusion.runtime.card_file import Region, with_regions

    path = tmp_path / "dataset_card.md"
    write_dataset_card(tmp_path, facts())
    verdict = {"evaluation": Region("**helps**\n", "0" * 16), "limits": Region("- blurred\n", "0" * 16)}
    evaluated = with_regions(path.read_text(), verdict)
    path.write_text(evaluated)
    write_dataset_card(tmp_path, facts())
    assert path.read_text() == evaluated
    write_dataset_card(tmp_path, facts(state="1" * 16, count=4))
    assert CHANGED in path.read_text()
    assert "helps" not in path.read_text()
    assert "blurred" not in path.read_text()
