"""Safe YAML that remembers the line of every key.

PyYAML's SafeLoader, so recipes cannot run code, with two changes: `1e-3` is a number, as in YAML 1.2, and a key that
stands twice in one mapping is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from reflora_cli.errors import InputError, Problem

KeyPath = tuple[str, ...]
MOST_NODES = 20_000
"""Far more than any recipe has; an alias bomb reaches it at once."""


class Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-3` as a number."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def parse_yaml(text: str, where: str) -> tuple[Any, dict[KeyPath, int]]:
    """The value and the 1-based line of every key, by its path. Raises InputError for all that is not safe YAML."""
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = dict(key_lines(node, where))
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        raise InputError(yaml_problem(error, where)) from error
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        what = "the YAML is nested too deeply" if isinstance(error, RecursionError) else "a YAML value cannot be read"
        found = "" if isinstance(error, RecursionError) else str(error)
        raise InputError(Problem(what, where, found)) from error


def key_lines(root: yaml.Node, where: str) -> Iterator[tuple[KeyPath, int]]:
    """Walk the mappings. Raises InputError for a repeated key, a key that is no text, or too many nodes."""
    waiting: list[tuple[yaml.Node, KeyPath]] = [(root, ())]
    visited = 0
    while waiting:
        node, path = waiting.pop()
        visited += 1
        if visited > MOST_NODES:
            raise InputError(Problem("the YAML is too large, or its aliases refer to each other", where))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(child, (*path, str(index))) for index, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = check_key(key, seen, f"{where}, line {line}")
            yield (*path, name), line
            waiting.append((value, (*path, name)))


def check_key(key: yaml.Node, seen: set[str], where: str) -> str:
    """The key's text, which must be plain and new in its mapping."""
    if not isinstance(key, yaml.ScalarNode):
        raise InputError(Problem("a key must be plain text", where))
    name = str(key.value)
    if name in seen:
        raise InputError(Problem(f"the key {name!r} stands twice in one section", where, remedy="remove one of them"))
    seen.add(name)
    return name


def yaml_problem(error: yaml.YAMLError, where: str) -> Problem:
    """What PyYAML says, with its line and column."""
    mark = getattr(error, "problem_mark", None)
    place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark is not None else where
    text = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    return Problem("the file is not readable YAML", place, found=str(text))
