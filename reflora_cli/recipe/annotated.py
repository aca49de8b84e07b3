"""Write a recipe out in full: every key with its meaning, its value, and the place where that was set."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reflora_cli.methods.method import AXES, replaced_by
from reflora_cli.methods.spelling import OLDER_KEYS
from reflora_cli.recipe.bundled import comment_of
from reflora_cli.recipe.files import find_recipe, load_recipe, merge, parse_overrides, read_layers
from reflora_cli.recipe.keys import meaning_of
from reflora_cli.recipe.library import bundled_files
from reflora_cli.recipe.problems import OVERRIDE
from reflora_cli.recipe.yaml_lines import KeyPath, shortened, write_yaml

DEFAULT = "default"
WIDEST = 100
"""The most characters of a line of comment."""


@dataclass(frozen=True)
class Annotated:
    """A resolved recipe. values: by section. origins: where each value was set, by dotted path."""

    source: str
    path: Path
    values: Mapping[str, Any]
    origins: Mapping[str, str]

    @cached_property
    def text(self) -> str:
        """The recipe as YAML that can be run as it is."""
        return "\n".join([*self.header(), *lines_of(self.values, (), self.origins)]) + "\n"

    def header(self) -> Iterator[str]:
        yield f"# {self.source}, with every key written out. Behind each value stands where it was set."
        yield from (f"# {line}" for line in wrapped(comment_of(self.path)))
        yield ""


def annotated(source: str, overrides: Sequence[str] = ()) -> Annotated:
    """Return a recipe in full. source: a bundled name or a file. Raises InputError with all problems."""
    path = find_recipe(source)
    recipe = load_recipe(source, overrides)
    given = merge(read_layers(path, ()), parse_overrides(overrides))
    values = recipe.model_dump(mode="json")
    names = {own.resolve(): f"{name}.yaml" for name, own in bundled_files().items()}
    origins = {".".join(leaf): origin_of(leaf, given.origins, given.values, names) for leaf in leaves(values, ())}
    return Annotated(source, path, values, origins)


def leaves(values: Mapping[str, Any], path: KeyPath) -> Iterator[KeyPath]:
    """Yield the paths of all values that are no mappings."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def origin_of(path: KeyPath, origins: Mapping[KeyPath, str], values: Any, names: Mapping[Path, str]) -> str:
    """Return where a value was set: a file's line, an override, the preset, or nowhere."""
    for written in spellings(path):
        if origin := stated(written, origins, values):
            return " ".join(shortened(origin).split()) if origin.startswith(OVERRIDE) else named(origin, names)
    return "the preset" if path[0] == "method" and path[1] in AXES and is_of_preset(path, values) else DEFAULT


def named(origin: str, names: Mapping[Path, str]) -> str:
    """Return a file's line, with the name of a bundled file in the place of its path."""
    place, comma, line = origin.rpartition(", ")
    return f"{names.get(Path(place).resolve(), place)}{comma}{line}"


def spellings(path: KeyPath) -> Iterator[KeyPath]:
    """Yield the ways in which a recipe may write a key: its own, and the older ones."""
    yield path
    for older, key in OLDER_KEYS.items():
        if path[:2] == ("method", key):
            yield ("method", older, *path[2:])
    if path[:2] == ("method", "update"):
        yield ("method", "refactor", *path[2:])


def stated(path: KeyPath, origins: Mapping[KeyPath, str], values: Any) -> str:
    """Return where a key was set, if it still stands in the merged values."""
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return ""
        values = values[key]
    return origins.get(path, "")


def is_of_preset(path: KeyPath, values: Any) -> bool:
    """Whether a preset is named, which fills in what this key belongs to."""
    method = values.get("method")
    preset = method.get("name") if isinstance(method, dict) else None
    return preset is not None and path[1] in replaced_by(preset)


def lines_of(values: Mapping[str, Any], path: KeyPath, origins: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of a section: above each key its meaning, behind its value where that was set."""
    indent = "  " * len(path)
    kind = str(values.get("kind", "")) if path else ""
    for name, value in values.items():
        own = (*path, name)
        dotted = ".".join(own)
        meaning = meaning_of(dotted, kind)
        yield from (f"{indent}# {line}" for line in wrapped(meaning))
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from lines_of(value, own, origins)
        else:
            yield f"{indent}{write_yaml({name: value}).rstrip()}  # {origins[dotted]}"


def wrapped(text: str) -> list[str]:
    """Return a text as lines of comment."""
    return textwrap.wrap(text, WIDEST)
