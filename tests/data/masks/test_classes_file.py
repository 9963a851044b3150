from __future__ import annotations

import json

import pytest

from guided_diffusion.data.masks.classes_file import classes_text, read_classes
from guided_diffusion.data.masks.encoding import LabelEncoding
from guided_diffusion.data.scan.problems import ProblemKind


def test_all_forms(tmp_path):
    content = {
        "1": {"name": "scratch", "values": [128, 255], "colors": [[255, 0, 0], [200, 0, 0]]},
        "0": {"name": "background", "value": 0, "color": [0, 0, 0]},
        "2": "dent",
        "ignore": {"value": 7, "color": [1, 2, 3]},
    }
    (tmp_path / "classes.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    classes, problems = read_classes(tmp_path)
    assert not problems
    assert classes.names == ("background", "scratch", "dent")
    assert classes.values == ((0,), (128, 255), ())
    assert classes.colors == (((0, 0, 0),), ((255, 0, 0), (200, 0, 0)), ())
    assert (classes.ignore_values, classes.ignore_colors) == ((7,), ((1, 2, 3),))


def test_no_file_is_no_mistake(tmp_path):
    assert read_classes(tmp_path) == (None, [])


@pytest.mark.parametrize(
    ("text", "where", "tokens"),
    [
        ('{"0": "a",', "", ["line 1, column 11"]),
        ("", "", ["0 bytes"]),
        ('["a", "b"]', "", ["list"]),
        ("{}", "", ["no classes"]),
        ('{"background": 0}', "key 'background'", []),
        ('{"00": "a"}', "key '00'", []),
        ('{"0": "a", "0": "b"}', "key '0'", ["twice"]),
        ('{"0": "a", "2": "b"}', "classes 0, 2", []),
        ('{"1": "a"}', "classes 1", []),
        ('{"99999": "a"}', "classes 99999", []),
        ('{"0": 5}', "class 0", ["5", "name"]),
        ('{"0": ""}', "class 0", ["name"]),
        ('{"0": {"value": 3}}', "class 0", ["name"]),
        ('{"0": "a", "1": "a"}', "", ["'a'"]),
        ('{"0": {"name": "a", "colour": [0, 0, 0]}}', "class 0", ["'colour'", "'color'"]),
        ('{"0": {"name": "a", "value": true}}', "class 0", ["value", "true", "0..65535"]),
        ('{"0": {"name": "a", "value": -1}}', "class 0", ["value", "-1"]),
        ('{"0": {"name": "a", "values": 3}}', "class 0", ["values", "3", "list"]),
        ('{"0": {"name": "a", "color": [0, 0, 256]}}', "class 0", ["color", "[0, 0, 256]"]),
        ('{"0": {"name": "a", "colors": [0, 0, 0]}}', "class 0", ["colors", "'color'"]),
        ('{"0": {"name": "a", "value": 1}, "1": {"name": "b", "value": 1}}', "value 1", ["class 0", "class 1"]),
        ('{"0": {"name": "a", "value": 1}, "ignore": {"value": 1}}', "value 1", ["class 0", "ignore"]),
        ('{"0": {"name": "a", "color": [0, 0, 0]}, "1": "b"}', "class 1", ["color"]),
        ('{"0": "a", "ignore": 255}', "ignore", ["255", '{"value": 255}']),
        (b"\xff\xfe{", "", ["UTF-8"]),
        ("null", "", ["NoneType"]),
        ("[" * 100_000, "", ["100 levels"]),
        ('{"0": "a", "1": ' + "[" * 100 + "]" * 100 + "}", "", ["100 levels"]),
        ('{"0": "a", "1": ' + "[" * 99 + "]" * 99 + "}", "class 1", ["[[["]),
        ('{"0": {"name": "a", "value": ' + "9" * 5000 + "}}", "", ["999999999999...", "5000 digits"]),
        ('{"0": {"name": "a", "value": ' + "9" * 50 + "}}", "class 0", ["value", "999"]),
        ('{"' + "9" * 5000 + '": "a"}', "key '9999", []),
        ('{"0": "a", "99999999999": "b"}', "classes 0, 99999999999", []),
        ('{"0": {"name": " "}}', "class 0", ["name"]),
        ('{"0": {"name": "a", "\\ud800": 1}}', "class 0", []),
        ('{"0": {"name": 5}}', "class 0", ["name", "5"]),
        ('{"0": "' + "x" * 1_000_000 + '"}', "class 0", ["name"]),
        ('{"0": {"name": "a\\u001b[2J"}}', "class 0", ["name"]),
        ('{"0": {"name": "a\\nb"}}', "class 0", ["name"]),
        ('{"0": {"name": "a", "value": null}}', "class 0", ["value", "null"]),
        ('{"0": {"name": "a", "value": [1]}}', "class 0", ["value", "[1]"]),
        ('{"0": {"name": "a", "value": 1.0}}', "class 0", ["value", "1.0"]),
        ('{"0": {"name": "a", "values": [1, 65536]}}', "class 0", ["values", "65536"]),
        ('{"0": {"name": "a", "color": [-1, true, 256]}}', "class 0", ["color", "[-1, true, 256]"]),
        ('{"0": {"name": "a", "color": [0, 0]}}', "class 0", ["color", "[0, 0]", "0..255"]),
        ('{"0": {"name": "a", "colors": [[0, 0, 0], "red"]}}', "class 0", ["colors", '"red"']),
        ('{"0": {"name": "a", "colors": [0, 0]}}', "class 0", ["colors", "list"]),
        ('{"0": {"name": "a", "xyz": 0}}', "class 0", ["'xyz'", "value, values, color, colors"]),
        ('{"0": "a", "ignore": {"valeu": 7}}', "ignore", ["'valeu'", "'value'"]),
        ('{"0": "a", "ignore": {"name": "void"}}', "ignore", ["'name'", "value, values, color, colors"]),
        ('{"0": "a", "ignore": "void"}', "ignore", ['"void"', '{"value": 255}']),
        ('{"0": "a", "ignore": {"value": 1, "values": [1]}}', "value 1", ["for ignore and for ignore"]),
        (
            '{"0": {"name": "a", "color": [9, 9, 9]}, "1": {"name": "b", "colors": [[1, 1, 1], [9, 9, 9]]}}',
            "color [9, 9, 9]",
            ["class 0", "class 1"],
        ),
    ],
)
def test_mistakes(tmp_path, text, where, tokens):
    """A mistake begins with the key it is about, and shows what was found and what is allowed there."""
    (tmp_path / "classes.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    classes, (problem,) = read_classes(tmp_path)
    assert classes is None
    assert problem.found.startswith(where)
    assert all(token in f"{problem.found}; {problem.remedy}" for token in tokens), problem.line
    assert problem.remedy
    assert "\n" not in problem.line
    assert (problem.kind, problem.path) == (ProblemKind.CLASSES_FILE, str(tmp_path / "classes.json"))


def test_all_mistakes_are_found_at_once(tmp_path):
    (tmp_path / "classes.json").write_text('{"0": 5, "1": {"name": "b", "value": -1}, "x": 1}')
    assert len(read_classes(tmp_path)[1]) == 3


def test_what_can_be_read_of_an_entry_is_still_compared(tmp_path):
    first = '{"name": "a", "value": 1, "color": [0, 0], "x": 0}'
    second = '{"name": "a", "value": 1, "values": [2, -1, -2], "values": [2, -1, -2]}'
    (tmp_path / "classes.json").write_text(f'{{"0": {first}, "1": {second}, "ignore": {{"value": 1, "colour": 1}}}}')
    _, problems = read_classes(tmp_path)
    tokens = [
        ("class 0", "[0, 0]"),
        ("class 0", "'x'"),
        ("class 1", "-1"),
        ("class 1", "-2"),
        ("ignore", "'colour'"),
        ("key 'values'", "twice"),
        ("two classes", "'a'"),
        ("value 1", "for class 0 and for class 1"),
        ("value 1", "for class 1 and for ignore"),
    ]
    for problem, (where, found) in zip(sorted(problems, key=lambda problem: problem.found), tokens, strict=True):
        assert problem.found.startswith(where)
        assert found in problem.found
    assert all(problem.kind is ProblemKind.CLASSES_FILE and problem.fatal for problem in problems)


def test_the_text_of_an_encoding_is_read_again(tmp_path):
    encoding = LabelEncoding(
        num_classes=2,
        names=("background", "kratzer é"),
        values=((0,), (128, 255)),
        colors=(((0, 0, 0),), ((255, 0, 0), (200, 0, 0))),
        ignore_values=(7,),
    )
    (tmp_path / "classes.json").write_text(classes_text(encoding), encoding="utf-8")
    classes, problems = read_classes(tmp_path)
    assert not problems
    for key in ("names", "values", "colors", "ignore_values", "ignore_colors"):
        assert getattr(classes, key) == getattr(encoding, key)
