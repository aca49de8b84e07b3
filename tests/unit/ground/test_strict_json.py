"""A key that stands twice is told with its line, and valid JSON is what it is."""

from __future__ import annotations

import json

import pytest

from reflora_cli.ground.strict_json import RepeatedKeyError, loads


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ('{"a": 1,\n"b": {"a": 2},\n"a": 3}', "a", 3),
        ('[{"a": "}\\"{a:"},\n{"k": [{"x": 1}],\n "\\u006b": 2}]', "k", 3),
        ('{"r": 8, "alpha_pattern": {"q": 1, "q": 2}}', "q", 1),
    ],
)
def test_a_repeated_key(text: str, key: str, line: int) -> None:
    with pytest.raises(RepeatedKeyError) as caught:
        loads(text)
    assert (caught.value.key, caught.value.line) == (key, line)


@pytest.mark.parametrize("text", ['{"a": "a", "b": {"a": ["a", "a"]}}', "[]", "3", '{"": {}, " ": {}}'])
def test_valid_json(text: str) -> None:
    assert loads(text) == json.loads(text)


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2', "", "{a: 1}"])
def test_what_is_no_json_is_told_first(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        loads(text)
