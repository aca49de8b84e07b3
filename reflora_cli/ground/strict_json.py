"""Read JSON in which no key stands twice, since nobody can tell which of the two values is meant."""

from __future__ import annotations

import json
import re
from typing import Any

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{}:]')


class RepeatedKeyError(ValueError):
    """Raised for an object that has a key twice. line: the line of its second occurrence, counted from 1."""

    def __init__(self, key: str, line: int) -> None:
        super().__init__(f"the key {key!r} stands twice in one object")
        self.key, self.line = key, line


class _RepeatedError(Exception):
    """Raised while parsing when any object has a key twice; it does not say where."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object's keys and values; each key may stand once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _RepeatedError
    return found


DECODER = json.JSONDecoder(object_pairs_hook=unique)


def loads(text: str) -> Any:
    """Return the parsed value. Raises RepeatedKeyError, or what `json.loads` raises."""
    try:
        return DECODER.decode(text)
    except _RepeatedError:
        json.loads(text)  # text that is not JSON raises its own error
        raise RepeatedKeyError(*first_repeated(text)) from None


def first_repeated(text: str) -> tuple[str, int]:
    """Return the first key that stands twice in one object of valid JSON, and the line of its second occurrence."""
    keys: list[set[str]] = []  # those of each object and list that is still open
    last = None
    for token in TOKEN.finditer(text):
        match token[0]:
            case "{" | "[":
                keys.append(set())
            case "}" | "]":
                keys.pop()
            case ":" if last is not None:
                key = str(json.loads(last[0]))
                if key in keys[-1]:
                    return key, text.count("\n", 0, last.start()) + 1
                keys[-1].add(key)
            case _:
                last = token
    raise AssertionError("no key is repeated")
