"""File names that every system takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.data.formats.names import safe_names
from guided_diffusion.data.formats.source_files import split_of

letters = st.sampled_from('aB./\\:*?"<>| \n\x7fé日\ud800_')


@given(st.lists(st.text(letters, max_size=150), min_size=1, max_size=8))
def test_names_are_safe_and_differ(paths):
    names = safe_names(paths)
    assert len({name.lower() for name in names}) == len(paths)
    for name in names:
        assert not set(name) & set('<>:"/\\|?*\0\n')
        assert name.strip(" .") == name != ""
        assert len(name) < 150
        name.encode("utf-8")


def test_folders_are_named_where_they_matter():
    assert safe_names(["a/x.png", "b/x.png", "b/y.png"]) == ["a__x", "b__x", "y"]
    assert safe_names(["A.png", "a.jpg", "a.b.png"]) == ["A", "a_2", "a.b"]
    assert safe_names(["nul.png", "..png", "c:d.png"]) == ["_nul", "_", "c_d"]


def test_splits_are_words_of_paths():
    said = {
        "annotations/instances_train2017.json": "train",
        "valid/images": "val",
        "Test": "test",
        "a/training.json": "train",
    }
    assert {path: split_of(path) for path in said} == said
    assert [split_of(path) for path in ("trained/a", "contest", "instances_default.json", "")] == [""] * 4
