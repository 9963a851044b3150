"""Label tables: which class each output of a segmenter stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluations.errors import EvaluationError
from evaluations.segmentation.label_table import NO_CLASS, classes_of_outputs, read_table

NAMES = ["road", "sky", "tree"]


def classes(path: Path, content: Any, outputs: int = 3) -> tuple[int, ...]:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return classes_of_outputs(read_table(path), path, outputs=outputs, class_names=NAMES)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"0": "sky", "1": "road", "2": "tree"}, (1, 0, 2)),
        ({"2": 0, "0": 2, "1": 1}, (2, 1, 0)),
        ([2, None, "sky"], (2, NO_CLASS, 1)),
        (["sky", "sky", "road"], (1, 1, 0)),
        (["sky", "sky", None], (1, 1, NO_CLASS)),
    ],
)
def test_names_indices_and_null(content, expected, tmp_path):
    assert classes(tmp_path / "table.json", content) == expected


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        ("{", "line 1", ""),
        ('{"0": 1, "0": 2}', "0 twice", ""),
        (3, "table", "null"),
        pytest.param("[" * 100_000, "deep", "", id="deep"),
        pytest.param('{"' + "9" * 5000 + '": 1}', "the key '999", "index", id="digits"),
        ({}, "table", "null"),
        ({"zero": 1}, "'zero'", "index"),
        ({"00": 1}, "'00'", "index"),
        ({"-1": 1}, "'-1'", "index"),
        ([0, 1, True], "output 2 stands for true", "null"),
        ([0, 1, 1.5], "output 2 stands for 1.5", "null"),
        ([0, 1, 2, 0], "output 3", ""),
        ({"0": 1, "1": 2}, "output 2", "null"),
        (["road", "skye", None], "output 1 stands for 'skye'", "sky?"),
        ([0, 1, 3], "output 2 stands for 3", "0 to 2"),
        ([0, 1, -1], "output 2 stands for -1", "0 to 2"),
        ([None, None, None], "no output", ""),
        (["sky", 1, "sky"], "'sky'", "background"),
    ],
    ids=str,
)
def test_a_wrong_table(content, found, remedy, tmp_path):
    with pytest.raises(EvaluationError) as caught:
        classes(tmp_path / "table.json", content)
    error = caught.value
    assert (error.key, error.path) == ("segmenter_labels", str(tmp_path / "table.json"))
    assert found in error.found
    assert remedy in error.remedy
    assert "\n" not in str(error)


def test_a_table_of_a_single_output(tmp_path):
    """It would be the most likely output everywhere."""
    with pytest.raises(EvaluationError) as caught:
        classes(tmp_path / "table.json", {"0": "tree"}, outputs=1)
    assert (caught.value.key, caught.value.path) == ("segmenter_labels", str(tmp_path / "table.json"))
    assert "background" in caught.value.remedy


def test_a_table_that_cannot_be_read(tmp_path):
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xff")
    for name, found in (("missing.json", "No such file"), ("bytes.json", "UTF-8")):
        with pytest.raises(EvaluationError) as caught:
            read_table(tmp_path / name)
        assert (caught.value.key, caught.value.path) == ("segmenter_labels", str(tmp_path / name))
        assert found in caught.value.found
