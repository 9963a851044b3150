from __future__ import annotations

import json
import re

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
    ("text", "message"),
    [
        ('{"0": "a",', "not valid JSON at line 1, column"),
        ("", r"the file is empty \(0 bytes\)"),
        ('["a", "b"]', "a JSON list found; write an object"),
        ("{}", "no classes found"),
        ('{"background": 0}', "key 'background' is no class index"),
        ('{"00": "a"}', "key '00' is no class index"),
        ('{"0": "a", "0": "b"}', "key '0' is given twice"),
        ('{"0": "a", "2": "b"}', "classes go up to 2, but 1 is missing"),
        ('{"1": "a"}', "classes go up to 1, but 0 is missing"),
        ('{"99999": "a"}', "class 99999 found"),
        ('{"0": 5}', "class 0 is 5; write a name"),
        ('{"0": ""}', "class 0 has no name"),
        ('{"0": {"value": 3}}', "class 0 has no name"),
        ('{"0": "a", "1": "a"}', "two classes are named 'a'"),
        ('{"0": {"name": "a", "colour": [0, 0, 0]}}', "unknown key 'colour'; did you mean 'color'"),
        ('{"0": {"name": "a", "value": true}}', "class 0 has the value true; a value is an integer in 0..65535"),
        ('{"0": {"name": "a", "value": -1}}', "class 0 has the value -1"),
        ('{"0": {"name": "a", "values": 3}}', "class 0 has values 3; write a list of them"),
        ('{"0": {"name": "a", "color": [0, 0, 256]}}', r"class 0 has the color \[0, 0, 256\]"),
        (
            '{"0": {"name": "a", "colors": [0, 0, 0]}}',
            r"class 0 has colors \[0, 0, 0\]; write a list of them, or 'color'",
        ),
        (
            '{"0": {"name": "a", "value": 1}, "1": {"name": "b", "value": 1}}',
            "value 1 stands for class 0 and for class 1",
        ),
        ('{"0": {"name": "a", "value": 1}, "ignore": {"value": 1}}', "value 1 stands for class 0 and for ignore"),
        ('{"0": {"name": "a", "color": [0, 0, 0]}, "1": "b"}', "class 1 has no color though others have"),
        ('{"0": "a", "ignore": 255}', r"ignore is 255; write \{\"value\": 255\}"),
        (b"\xff\xfe{", "not UTF-8 text"),
        ("null", "a JSON NoneType found; write an object"),
        ("[" * 100_000, "nested more than 100 levels deep"),
        ('{"0": "a", "1": ' + "[" * 100 + "]" * 100 + "}", "nested more than 100 levels deep"),
        ('{"0": "a", "1": ' + "[" * 99 + "]" * 99 + "}", r"class 1 is \[\[\["),
        ('{"0": {"name": "a", "value": ' + "9" * 5000 + "}}", "the integer 999999999999... has 5000 digits"),
        ('{"0": {"name": "a", "value": ' + "9" * 50 + "}}", "class 0 has the value 999"),
        ('{"' + "9" * 5000 + '": "a"}', "is no class index"),
        ('{"0": "a", "99999999999": "b"}', "class 99999999999 found"),
        ('{"0": {"name": " "}}', "class 0 has no name"),
        ('{"0": {"name": "a", "\\ud800": 1}}', "class 0 is "),
        ('{"0": {"name": 5}}', "class 0 has the name 5"),
        ('{"0": "' + "x" * 1_000_000 + '"}', "class 0 has the name"),
        ('{"0": {"name": "a\\u001b[2J"}}', "class 0 has the name"),
        ('{"0": {"name": "a\\nb"}}', "class 0 has the name"),
        ('{"0": {"name": "a", "value": null}}', "class 0 has the value null"),
        ('{"0": {"name": "a", "value": [1]}}', r"class 0 has the value \[1\]; a value is"),
        ('{"0": {"name": "a", "value": 1.0}}', "class 0 has the value 1.0; a value is"),
        ('{"0": {"name": "a", "values": [1, 65536]}}', "class 0 has the value 65536; a value is"),
        ('{"0": {"name": "a", "color": [-1, true, 256]}}', r"class 0 has the color \[-1, true, 256\]; a color is"),
        ('{"0": {"name": "a", "color": [0, 0]}}', r"class 0 has the color \[0, 0\]; a color is three integers"),
        ('{"0": {"name": "a", "colors": [[0, 0, 0], "red"]}}', 'class 0 has the color "red"; a color is'),
        ('{"0": {"name": "a", "colors": [0, 0]}}', r"class 0 has colors \[0, 0\]; write a list of them"),
        ('{"0": {"name": "a", "xyz": 0}}', "unknown key 'xyz'; known are .*value, values, color, colors"),
        ('{"0": "a", "ignore": {"valeu": 7}}', "ignore has the unknown key 'valeu'; did you mean 'value'"),
        ('{"0": "a", "ignore": {"name": "void"}}', "ignore has the unknown key 'name'; known are value"),
        ('{"0": "a", "ignore": "void"}', 'ignore is "void"; write {"value": 255}'),
        ('{"0": "a", "ignore": {"value": 1, "values": [1]}}', "value 1 stands for ignore and for ignore"),
        (
            '{"0": {"name": "a", "color": [9, 9, 9]}, "1": {"name": "b", "colors": [[1, 1, 1], [9, 9, 9]]}}',
            r"color \[9, 9, 9\] stands for class 0 and for class 1",
        ),
    ],
)
def test_mistakes(tmp_path, text, message):
    (tmp_path / "classes.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    classes, problems = read_classes(tmp_path)
    assert classes is None
    assert len(problems) == 1
    line = problems[0].line
    assert re.search(message, line), line
    assert "\n" not in line
    assert (problems[0].kind, problems[0].path) == (ProblemKind.CLASSES_FILE, str(tmp_path / "classes.json"))


def test_all_mistakes_are_found_at_once(tmp_path):
    (tmp_path / "classes.json").write_text('{"0": 5, "1": {"name": "b", "value": -1}, "x": 1}')
    assert len(read_classes(tmp_path)[1]) == 3


def test_what_can_be_read_of_an_entry_is_still_compared(tmp_path):
    first = '{"name": "a", "value": 1, "color": [0, 0], "x": 0}'
    second = '{"name": "a", "value": 1, "values": [2, -1, -2], "values": [2, -1, -2]}'
    (tmp_path / "classes.json").write_text(f'{{"0": {first}, "1": {second}, "ignore": {{"value": 1, "colour": 1}}}}')
    _, problems = read_classes(tmp_path)
    assert sorted(problem.found for problem in problems) == [
        "class 0 has the color [0, 0]",
        "class 0 has the unknown key 'x'",
        "class 1 has the value -1",
        "class 1 has the value -2",
        "ignore has the unknown key 'colour'",
        "key 'values' is given twice",
        "two classes are named 'a'",
        "value 1 stands for class 0 and for class 1",
        "value 1 stands for class 1 and for ignore",
    ]
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
