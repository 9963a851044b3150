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
        (["sky", "sky", "sky"], (1, 1, 1)),
    ],
)
def test_names_indices_and_null(content, expected, tmp_path):
    assert classes(tmp_path / "table.json", content) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "line 1 is not valid JSON"),
        ('{"0": 1, "0": 2}', "has output 0 twice"),
        (3, "holds no table"),
        ({}, "holds no table"),
        ({"zero": 1}, "has the key 'zero'"),
        ({"00": 1}, "has the key '00'"),
        ({"-1": 1}, "has the key '-1'"),
        ([0, 1, True], "output 2 stands for true"),
        ([0, 1, 1.5], "output 2 stands for 1.5"),
        ([0, 1, 2, 0], "has output 3, but the segmenter has the outputs 0 to 2"),
        ({"0": 1, "1": 2}, "says nothing of output 2 (the segmenter has 3)"),
        (
            ["road", "skye", None],
            "output 1 stands for 'skye', which is no class of the dataset; did you mean one of sky?",
        ),
        ([0, 1, 3], "output 2 stands for 3, which is no class of the dataset; classes are 0 to 2"),
        ([0, 1, -1], "output 2 stands for -1"),
        ([None, None, None], "no output stands for a class"),
    ],
    ids=str,
)
def test_a_wrong_table(content, said, tmp_path):
    with pytest.raises(EvaluationError) as caught:
        classes(tmp_path / "table.json", content)
    message = str(caught.value)
    assert message.startswith(f"segmenter_labels: {tmp_path / 'table.json'}: ")
    assert said in message
    assert "\n" not in message


def test_a_table_that_cannot_be_read(tmp_path):
    with pytest.raises(EvaluationError, match=r"segmenter_labels: .*missing.json: cannot be read \(No such file"):
        read_table(tmp_path / "missing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(EvaluationError, match="no text in UTF-8"):
        read_table(tmp_path / "bytes.json")
