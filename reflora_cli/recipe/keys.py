"""Say of every key of a recipe what it means, what it may be, and what it is where no recipe sets it.

All of it comes from the schema that validates recipes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from reflora_cli.methods.presets import PRESETS
from reflora_cli.recipe.problems import Schema, branches_of, choices, in_words, recipe_schema, resolved
from reflora_cli.tasks.registry import TASKS

REQUIRED = "none: a recipe must set it"
OPEN_NAMES: Mapping[str, Mapping[str, object]] = {"method.name": PRESETS, "task.name": TASKS}
"""The keys whose values have names that are registered elsewhere."""


@dataclass(frozen=True)
class Key:
    """One key of a recipe.

    path: with dots. expected: what it may be, in words. values: the words that it may be, where there are any. default:
    as YAML has it. kinds: of a choice's field, the kinds that have it. is_value: whether it is set to one value, or
    holds keys only.
    """

    path: str
    meaning: str
    expected: str
    values: tuple[str, ...]
    default: str
    kinds: tuple[str, ...]
    is_value: bool

    @property
    def has_default(self) -> bool:
        return self.default != REQUIRED


@cache
def recipe_keys() -> tuple[Key, ...]:
    """Return all keys of a recipe, sections before what is in them; fields that several kinds share are one key."""
    found: dict[str, Key] = {}
    for key in keys_in(recipe_schema(), ""):
        before = found.get(key.path)
        found[key.path] = key if before is None else joined(before, key)
    return tuple(found.values())


@cache
def meanings() -> Mapping[tuple[str, str], str]:
    """Return what each key means, by path and kind; the kind is empty but for the fields of a choice."""
    return {(key.path, "".join(key.kinds)): key.meaning for key in keys_in(recipe_schema(), "")}


def meaning_of(path: str, kind: str) -> str:
    """Return what a key means where the section in which it stands is of a kind; empty where it is no key."""
    return meanings().get((path, kind), meanings().get((path, ""), ""))


def keys_in(section: Schema, prefix: str) -> Iterator[Key]:
    """Yield the keys of a section, each followed by those below it."""
    for name, schema in section["properties"].items():
        path, inner = f"{prefix}{name}", resolved(schema)
        yield key_of(path, schema, inner, REQUIRED if name in section.get("required", ()) else "null")
        if "properties" in inner:
            yield from keys_in(inner, f"{path}.")
        for kind, branch in branches_of(inner).items():
            fields = {own: field for own, field in branch["properties"].items() if own != "kind"}
            for own in keys_in({"properties": fields}, f"{path}."):
                yield replace(own, kinds=(kind,))


def key_of(path: str, schema: Schema, inner: Schema, fallback: str) -> Key:
    """Return one key. fallback: what its default is where the schema has none."""
    default = schema.get("default", fallback)
    if isinstance(default, dict):
        default = default.get("kind", "its own keys'")
    expected = in_words(schema)
    return Key(
        path=path,
        meaning=schema.get("description", ""),
        expected=expected,
        values=tuple(words(inner)),
        default=default if default is fallback else yaml_word(default),
        kinds=(),
        is_value="properties" not in inner,
    )


def joined(first: Key, second: Key) -> Key:
    """Return one key for a field of several kinds; where they differ, what they say is put side by side."""
    meaning, expected, default = (
        one if one == other or other in one.split(" | ") else f"{one} | {other}"
        for one, other in (
            (first.meaning, second.meaning),
            (first.expected, second.expected),
            (first.default, second.default),
        )
    )
    kinds = tuple(dict.fromkeys((*first.kinds, *second.kinds)))
    values = tuple(dict.fromkeys((*first.values, *second.values)))
    return replace(first, meaning=meaning, expected=expected, default=default, kinds=kinds, values=values)


def words(schema: Schema) -> Iterator[str]:
    """Yield the words that a key may be."""
    for branch in schema.get("anyOf", [schema]):
        if branch.get("type") == "boolean":
            yield from ("true", "false")
        yield from choices(resolved(branch))
        if branch.get("type") == "null":
            yield "null"


def values_of(path: str) -> tuple[str, ...]:
    """Return the words that may be given for a key; none where it is no key or has no such words."""
    if path in OPEN_NAMES:
        return tuple(OPEN_NAMES[path])
    return next((own.values for own in recipe_keys() if own.path == path), ())


def yaml_word(value: Any) -> str:
    """Return a plain value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
