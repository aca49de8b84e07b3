"""pydantic's errors in the user's terms: the key, where it was set, what was found, what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from reflora_cli.errors import Problem, nearest
from reflora_cli.recipe import Recipe
from reflora_cli.yaml_lines import KeyPath

Origins = Mapping[KeyPath, str]
"""Where every key was last set: a file and line, or an override."""
OVERRIDE = "override "


def problems_of(error: ValidationError, values: Any, origins: Origins, source: str) -> list[Problem]:
    """One problem per wrong key; the branches of a union are joined into one."""
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors():
        grouped.setdefault(key_path(detail["loc"]), []).append(detail)
    return [describe(path, details, values, origins, source) for path, details in grouped.items()]


def key_path(location: tuple[int | str, ...]) -> KeyPath:
    """The part of pydantic's location that is made of keys; unions append the names of their branches."""
    path: list[str] = []
    section: type[BaseModel] | None = Recipe
    for part in location:
        if section is None and not isinstance(part, int):
            break
        path.append(str(part))
        section = section_type(section, str(part)) if section is not None else None
    return tuple(path)


def section_type(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The section that a key of `section` holds; None for a plain value."""
    field = section.model_fields.get(key)
    annotation = field.annotation if field is not None else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def describe(path: KeyPath, details: list[ErrorDetails], values: Any, origins: Origins, source: str) -> Problem:
    dotted, kind = ".".join(path), details[0]["type"]
    where = place(path, origins, source)
    if kind == "extra_forbidden":
        return Problem(f"unknown key {path[-1]!r}", where, remedy=nearest_key(path))
    if kind == "missing":
        return Problem(f"the recipe lacks {dotted}", source, expected=f"a value for {dotted}")
    message = " or ".join(dict.fromkeys(expectation(detail) for detail in details))
    if kind == "value_error":
        return Problem(message, f"{where}" if path else source)
    return Problem(f"wrong value for {dotted}", where, shown(details[0]["input"]), message)


def expectation(detail: ErrorDetails) -> str:
    """`Input should be greater than 0` -> `greater than 0`, and pydantic's names of types in plain words."""
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a valid ")
    words = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    words |= {"tuple": "a list", "dictionary or instance": "a section with keys of its own"}
    return next((plain for technical, plain in words.items() if text.startswith(technical)), text)


def place(path: KeyPath, origins: Origins, source: str) -> str:
    """Where a key was set, by its nearest enclosing key whose place is known."""
    for length in range(len(path), 0, -1):
        origin = origins.get(path[:length])
        if origin is not None:
            return origin if origin.startswith(OVERRIDE) else f"{origin}, {'.'.join(path)}"
    return f"{source}, {'.'.join(path)}" if path else source


def shown(value: Any) -> str:
    """A value and its kind in YAML's terms."""
    kinds: dict[type, str] = {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list"}
    kinds |= {dict: "section", type(None): "null"}
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kinds.get(type(value), type(value).__name__)})"


def nearest_key(path: KeyPath) -> str:
    """The valid key most like the last of `path`: in its own section, or the same key's full path elsewhere."""
    section: type[BaseModel] | None = Recipe
    for part in path[:-1]:
        section = section_type(section, part) if section is not None else None
    elsewhere = [full for full in all_keys(Recipe) if full.rpartition(".")[2] == path[-1]]
    if elsewhere:
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return nearest(path[-1], section.model_fields) if section is not None else ""


def all_keys(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted paths of all keys of a recipe."""
    for name in section.model_fields:
        yield prefix + name
        inner = section_type(section, name)
        if inner is not None:
            yield from all_keys(inner, f"{prefix}{name}.")
