"""From YAML files and overrides to a Recipe, and back.

Layers are merged from the bottom up: the recipe named by `extends` (a path relative to the file, or a bundled name),
the file itself, then each `KEY=VALUE`. Sections merge key by key. Two keys take others with them when a later layer
sets them: `method.name` drops the axes that earlier layers set, because a preset stands for all of them; of
`train.epochs` and `train.steps` the later one replaces the other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from reflora_cli.errors import InputError, Problem, nearest
from reflora_cli.methods import AXES
from reflora_cli.recipe import Recipe
from reflora_cli.recipe_errors import OVERRIDE, problems_of, shown
from reflora_cli.tasks.registry import find_task
from reflora_cli.yaml_lines import KeyPath, parse_yaml

PLACES = (Path(__file__).parent / "_recipes", Path(__file__).parent.parent / "recipes")
"""Where bundled recipes lie: in an installed package, and in the repository."""
LARGEST = 1_000_000
"""Bytes of a recipe file: a wrong path should not read a model into memory."""


@dataclass(frozen=True)
class Settings:
    """Merged values and where each was last set."""

    values: dict[str, Any]
    origins: dict[KeyPath, str]


def load_recipe(source: str, overrides: Sequence[str]) -> Recipe:
    """The recipe in a file, or the bundled one of that name, under overrides. Raises InputError with every problem."""
    path = find_recipe(source)
    settings = read_layers(path, ())
    for override in overrides:
        settings = merge(settings, parse_override(override))
    try:
        recipe = Recipe.model_validate(settings.values)
    except ValidationError as error:
        raise InputError(*problems_of(error, settings.values, settings.origins, str(path))) from error
    find_task(recipe.task.name)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, every field written out; `load_recipe` reads it back as an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def bundled_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that comes with reflora; files in `base/` are only for extending."""
    root = next((place for place in PLACES if place.is_dir()), None)
    if root is None:
        return {}
    files = (path for path in sorted(root.rglob("*.yaml")) if path.relative_to(root).parts[0] != "base")
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def find_recipe(source: str) -> Path:
    """A path, or a bundled recipe's file."""
    bundled = bundled_recipes()
    path = Path(source).expanduser()
    if source in bundled and not path.is_file():
        return bundled[source]
    if path.is_file():
        return path
    what = "a recipe is a file, not a directory" if path.is_dir() else "there is no such recipe"
    raise InputError(Problem(what, source, expected="a YAML file or a bundled recipe", remedy=nearest(source, bundled)))


def read_layers(path: Path, below: tuple[Path, ...]) -> Settings:
    """A file over the file it extends. `below`: the files that led here, to find circles."""
    if path.resolve() in below:
        circle = " -> ".join(map(str, (*below, path.resolve())))
        raise InputError(Problem("recipes extend each other in a circle", str(path), circle))
    own = read_layer(path)
    parent = own.values.pop("extends", None)
    if parent is None:
        return own
    place = own.origins[("extends",)]
    if not isinstance(parent, str):
        raise InputError(Problem("extends names no recipe", place, shown(parent), "a path or a bundled name"))
    beside = path.parent / parent
    base = beside if beside.is_file() else extended(parent, place)
    return merge(read_layers(base, (*below, path.resolve())), own)


def extended(parent: str, place: str) -> Path:
    bundled = bundled_recipes()
    if parent not in bundled:
        remedy = nearest(parent, bundled)
        expected = "a path relative to this file, or a bundled name"
        raise InputError(Problem("the recipe to extend does not exist", place, repr(parent), expected, remedy))
    return bundled[parent]


def read_layer(path: Path) -> Settings:
    """One file's values and lines."""
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(Problem("the file is too large for a recipe", str(path), f"{path.stat().st_size} bytes"))
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(Problem("the recipe is not UTF-8 text", str(path), str(error))) from error
    except OSError as error:
        raise InputError(Problem("the recipe cannot be read", str(path), error.strerror or str(error))) from error
    values, lines = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        expected = "sections: model, method, task, train, eval"
        found = "nothing" if values is None else shown(values)
        raise InputError(Problem("the recipe has no sections", str(path), found, expected))
    return Settings(values, {key: f"{path}, line {line}" for key, line in lines.items()})


def parse_override(text: str) -> Settings:
    """`method.rank=16` -> the one value it sets."""
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        expected = "KEY=VALUE, for example method.rank=16"
        raise InputError(Problem("an override is malformed", OVERRIDE + text, expected=expected))
    parsed, _ = parse_yaml(value, OVERRIDE + text)
    nested: Any = parsed
    for part in reversed(path):
        nested = {part: nested}
    return Settings(nested, {path[:length]: OVERRIDE + text for length in range(1, len(path) + 1)})


def merge(below: Settings, above: Settings) -> Settings:
    """`above` over `below`."""
    values = copy.deepcopy(below.values)
    method, train = above.values.get("method"), above.values.get("train")
    if isinstance(method, dict) and "name" in method:
        forget(values, "method", AXES)
    if isinstance(train, dict) and ("steps" in train) != ("epochs" in train):
        forget(values, "train", ("epochs",) if "steps" in train else ("steps",))
    return Settings(merged(values, above.values), {**below.origins, **above.origins})


def forget(values: dict[str, Any], section: str, keys: Sequence[str]) -> None:
    """Drop keys of a section, if it is one."""
    for key in keys:
        if isinstance(values.get(section), dict):
            values[section].pop(key, None)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Mappings merge key by key; anything else is replaced."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
