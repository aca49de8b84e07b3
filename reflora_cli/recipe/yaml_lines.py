"""Read YAML safely and remember the line of every key.

The loader is PyYAML's SafeLoader, so that recipes cannot run code, with these changes: `1e-3` is a number, as in YAML
1.2; a key that stands twice in one mapping is an error; keys are text; numbers too large for any setting are
errors that name their line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from reflora_cli.ground.errors import InputError, Problem

KeyPath = tuple[str, ...]
MOST_NODES = 20_000
"""The largest number of nodes in a recipe, far more than any recipe has. Aliases that multiply each other exceed it."""
DEEPEST = 20
"""The deepest nesting; recipes have four levels. This limit also finds an alias that contains itself."""
FLOAT, INT, STR, SET, MERGE = (f"tag:yaml.org,2002:{name}" for name in ("float", "int", "str", "set", "merge"))
EXPONENT = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")

UNFOLDABLE = re.compile("[\r\n\x85\u2028\u2029\ufeff]")


class Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's floats, and errors that know their line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            # `!!bool perhaps`, month 13, an integer of 5000 digits: PyYAML lets each fail in its own way.
            value = shortened(node.value) if isinstance(node, yaml.ScalarNode) else ""
            what = f"{value!r} cannot be read as {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error

    def whole_number(self, node: yaml.ScalarNode) -> int:
        """Read an integer of 64 bits: longer ones cannot always be printed, not even in an error."""
        value: int = self.construct_yaml_int(node)
        if value.bit_length() > 63:
            raise ValueError("too large")
        return value

    def unordered(self, node: yaml.Node) -> None:
        """Refuse a set, since it has no order and a recipe's lists have one."""
        raise yaml.constructor.ConstructorError(None, None, "a recipe holds no sets", node.start_mark)

    def text(self, node: yaml.ScalarNode) -> str:
        """Read text. Raises UnicodeEncodeError for the escape of half a surrogate pair, which no file can hold."""
        value: str = self.construct_yaml_str(node)
        value.encode()
        return value


class Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which Loader would read as a number, and writes lists in one line."""

    def text(self, value: str) -> yaml.ScalarNode:
        """Represent text, with escaped line breaks: folded into quotes, some of them would not be read back."""
        return self.represent_scalar(STR, value, style='"' if UNFOLDABLE.search(value) else None)

    def flow_list(self, values: list[Any]) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


for dialect in (Loader, Dumper):
    dialect.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))
Loader.add_constructor(INT, Loader.whole_number)
Loader.add_constructor(STR, Loader.text)
Loader.add_constructor(SET, Loader.unordered)
Dumper.add_representer(str, Dumper.text)
Dumper.add_representer(list, Dumper.flow_list)


def parse_yaml(text: str, where: str) -> tuple[Any, dict[KeyPath, int]]:
    """Return the value, and the line of every key by its path, counted from 1. Raises InputError for YAML that is
    broken or not safe.
    """
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[KeyPath, int] = {}
        for path, line in key_lines(node, where):
            lines.setdefault(path, line)
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        raise InputError(yaml_problem(error, where)) from error
    except RecursionError as error:
        raise InputError(too_deep(where)) from error
    except (ValueError, OverflowError) as error:
        raise InputError(Problem("the YAML cannot be read", where, found=str(error))) from error


def write_yaml(value: Any) -> str:
    """Return block-style YAML with keys in their order; `parse_yaml` reads it back as an equal value."""
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def key_lines(root: yaml.Node, where: str) -> Iterator[tuple[KeyPath, int]]:
    """Return the line of every key: a mapping's own keys come before those merged into it by `<<`.

    Raises InputError for a repeated key, a key that is no text, and a tree that is too large or too deep.
    """
    waiting: list[tuple[yaml.Node, KeyPath]] = [(root, ())]
    visited = 0
    while waiting:
        node, path = waiting.pop()
        visited += 1
        if visited > MOST_NODES:
            raise InputError(Problem("the YAML is too large, or its aliases refer to each other", where))
        if len(path) > DEEPEST:
            raise InputError(too_deep(f"{where}, line {node.start_mark.line + 1}"))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(child, (*path, str(index))) for index, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = check_key(key, seen, f"{where}, line {line}")
            inner = path if key.tag == MERGE else (*path, name)
            if inner != path:
                yield inner, line
            waiting.append((value, inner))


def check_key(key: yaml.Node, seen: set[str], where: str) -> str:
    """Return the key's text, which must be plain and new in its mapping."""
    if not isinstance(key, yaml.ScalarNode) or key.tag not in (STR, MERGE):
        found = repr(shortened(key.value)) if isinstance(key, yaml.ScalarNode) else ""
        raise InputError(Problem("a key must be plain text", where, found))
    name = str(key.value)
    if name in seen:
        raise InputError(Problem(f"the key {name!r} stands twice in one section", where, remedy="remove one of them"))
    seen.add(name)
    return name


def too_deep(where: str) -> Problem:
    return Problem("the YAML is nested too deeply, or an alias contains itself", where)


def shortened(text: str) -> str:
    """Return at most 60 characters of a text."""
    return text if len(text) <= 60 else text[:57] + "..."


def yaml_problem(error: yaml.YAMLError, where: str) -> Problem:
    """Return what PyYAML says, with its line and column."""
    if isinstance(error, yaml.reader.ReaderError):
        return Problem("this is not text", f"{where}, character {error.position + 1}", f"U+{error.character:04X}")
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark is not None else where
    text = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
    return Problem("this is not readable YAML", place, found=text or str(error))
