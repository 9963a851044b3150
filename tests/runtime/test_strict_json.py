"""JSON from users: what cannot be read, or has two meanings, is an error in one line."""

from __future__ import annotations

import pytest

from guided_diffusion.runtime.errors import ConfigError
from guided_diffusion.runtime.strict_json import MAX_DEPTH, parse_json, strict_json


@pytest.mark.parametrize("content", ['{"a": [1, -2.5, null, "é"]}', b'\xef\xbb\xbf{"a": [1, -2.5, null, "\xc3\xa9"]}'])
def test_json_in_utf8_with_or_without_byte_order_mark(content):
    assert parse_json(content) == ({"a": [1, -2.5, None, "é"]}, [])
    assert strict_json(content, "x.json") == {"a": [1, -2.5, None, "é"]}


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "not valid JSON at line 1, column 1 (Expecting value)"),
        ('{"a": 1,\n "b": }', "not valid JSON at line 2, column 7 (Expecting value)"),
        ('\ufeff{"a" 1}', "not valid JSON at line 1, column 6 (Expecting ':' delimiter)"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (nested(MAX_DEPTH + 1), "nested more than 100 levels deep"),
        (nested(900), "nested more than 100 levels deep"),
        (nested(200_000), "nested more than 100 levels deep"),
        ('{"a":' * 200_000, "nested more than 100 levels deep"),
        ('{"a": ' + "9" * 5000 + "}", "the integer 999999999999... has 5000 digits"),
        ("[-1" + "0" * 400 + "]", "the integer -10000000000... has 402 digits"),
    ],
)
def test_what_cannot_be_read(content, found):
    value, mistakes = parse_json(content)
    assert value is None
    assert [mistake[0] for mistake in mistakes] == [found]
    assert all(remedy for _, remedy in mistakes)
    with pytest.raises(ConfigError) as error:
        strict_json(content, "x.json")
    (line,) = error.value.messages
    assert line.startswith(f"x.json: {found}: ")
    assert "\n" not in line


def test_depth_and_integers_within_bounds():
    assert parse_json(nested(MAX_DEPTH))[1] == []
    assert parse_json("9" * 300) == (int("9" * 300), [])


def test_every_key_given_twice_is_reported_once_and_the_last_one_counts():
    value, mistakes = parse_json('{"a": 1, "b": {"c": 1, "c": 2, "c": 3}, "a": 2}')
    assert value == {"a": 2, "b": {"c": 3}}
    assert [found for found, _ in mistakes] == ["key 'c' is given twice", "key 'a' is given twice"]
    with pytest.raises(ConfigError) as error:
        strict_json('{"a": 1, "b": {"c": 1, "c": 2}, "a": 2}', "x.json")
    assert len(error.value.messages) == 2


def test_keys_given_twice_before_a_syntax_error_are_reported_too():
    _, mistakes = parse_json('[{"a": 1, "a": 2}, x]')
    assert [found.split(" at ")[0] for found, _ in mistakes] == ["key 'a' is given twice", "not valid JSON"]
