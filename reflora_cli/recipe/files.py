"""Turn YAML files and overrides into a Recipe, and back.

Layers are merged from the bottom up: the recipe named by `extends` (a path relative to the file, or a bundled name),
the file itself, then all `KEY=VALUE` together, of which the last one counts where two set the same key. Sections merge
key by key; a choice of another kind (`method.update`) replaces the one below it with all its fields. Some keys replace
others when a later layer sets them: `method.name` drops the axes that earlier layers set, because a preset stands for
all of them, and one that trains the base itself drops what they say of adapters; and of `ALTERNATIVES`, such as
`train.epochs` and `train.steps`, the later one replaces the other, also among overrides. All keys of one layer count:
`method.name=dora method.update=reflora` is both, in either order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.ground.paths import expanded, is_directory, is_file
from reflora_cli.methods.method import replaced_by
from reflora_cli.methods.spelling import DEFAULTS, OLDER_KEYS
from reflora_cli.methods.update_record import Refactor
from reflora_cli.recipe.library import bundled_files, bundled_recipes
from reflora_cli.recipe.problems import OVERRIDE, place, problems_of, shown, wrong_section
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.yaml_lines import KeyPath, parse_yaml, write_yaml
from reflora_cli.tasks.registry import TASKS, find_task

LARGEST = 200_000
"""The most bytes of a recipe file: a wrong path should not read a model into memory."""
ALTERNATIVES: tuple[tuple[KeyPath, KeyPath], ...] = (
    (("train", "steps"), ("train", "epochs")),
    *((("method", older), ("method", key)) for older, key in OLDER_KEYS.items()),
    *((("method", "refactor", key), ("method", "update", key)) for key in Refactor.model_fields),
)
"""Pairs of keys that say the same thing, or contradict each other."""
DOTTED_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")
MISSING = object()
"""What stands where there is no key: null is a value."""


@dataclass(frozen=True)
class Settings:
    """Merged values and where each was last set."""

    values: dict[str, Any]
    origins: dict[KeyPath, str]


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a file, or bundled under that name, with its overrides. Raises InputError with all
    problems.
    """
    return recipe_below(source, parse_overrides(overrides))


def recipe_below(source: str, above: Settings) -> Recipe:
    """Return the recipe in a file, or bundled under that name, with a layer above it. Raises InputError with all
    problems.
    """
    path = find_recipe(source)
    settings = merge(read_layers(path, ()), above)
    problems = check_task(settings, str(path))
    try:
        recipe = Recipe.model_validate(settings.values)
    except ValidationError as error:
        raise InputError(*problems_of(error, settings.values, settings.origins, str(path)), *problems) from error
    if problems:
        raise InputError(*problems)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, every field written out; `load_recipe` reads it back as an equal recipe."""
    return write_yaml(recipe.model_dump(mode="json"))


def find_recipe(source: str) -> Path:
    """Return the file at a path, or a bundled recipe's file."""
    bundled, path = bundled_recipes(), expanded(source)
    if is_file(path):
        return path
    if source in bundled:
        return bundled[source]
    what = "a recipe is a file, not a directory" if source and is_directory(path) else "there is no such recipe"
    remedy = nearest(source, bundled, "reflora list recipes")
    raise InputError(Problem(what, source, expected="a YAML file or a bundled recipe", remedy=remedy))


def read_layers(path: Path, below: tuple[Path, ...]) -> Settings:
    """Read a file over the file that it extends. `below`: the files that led here, to find circles."""
    if path.resolve() in below:
        circle = " -> ".join(map(str, (*below, path.resolve())))
        raise InputError(Problem("recipes extend each other in a circle", str(path), circle))
    own = read_layer(path)
    parent = own.values.pop("extends", None)
    if parent is None:
        return own
    where = own.origins[("extends",)]
    if not isinstance(parent, str):
        raise InputError(Problem("extends names no recipe", where, shown(parent), "a path or a bundled name"))
    beside = path.parent / parent
    base = beside if is_file(beside) else extended(parent, where)
    return merge(read_layers(base, (*below, path.resolve())), own)


def extended(parent: str, where: str) -> Path:
    """Return the bundled file to extend. where: the line that names it."""
    bundled = bundled_files()
    if parent not in bundled:
        remedy = nearest(parent, bundled, "reflora list recipes")
        expected = "a path relative to this file, or a bundled name"
        raise InputError(Problem("the recipe to extend does not exist", where, repr(parent), expected, remedy))
    return bundled[parent]


def read_layer(path: Path) -> Settings:
    """Return one file's values and lines."""
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
    return with_kinds(Settings(values, {key: f"{path}, line {line}" for key, line in lines.items()}))


def check_task(settings: Settings, source: str) -> list[Problem]:
    """Raises InputError for a task that does not exist. The schema checks that there is a name, and that it is text."""
    section = settings.values.get("task")
    name = section.get("name") if isinstance(section, dict) else None
    if isinstance(section, dict) and section.get("kind") is not None:
        return own_name(name, settings, source)
    if not isinstance(name, str) and not (name and isinstance(name, list) and all(isinstance(n, str) for n in name)):
        return []
    try:
        find_task(name)
    except InputError as error:
        where = place(("task", "name"), settings.origins, source)
        return [replace(problem, where=where) for problem in error.problems]
    return []


def own_name(name: object, settings: Settings, source: str) -> list[Problem]:
    """Return the problem of a task of the user's own that has the name of another."""
    if not isinstance(name, str) or name not in TASKS:
        return []
    where = " and ".join(place(("task", key), settings.origins, source) for key in ("name", "kind"))
    remedy = "set task.name to a name of your own, or leave task.kind out"
    return [
        Problem(f"{name!r} has columns and labels of its own, and task.kind describes others", where, remedy=remedy)
    ]


def parse_overrides(overrides: Sequence[str]) -> Settings:
    """Return all overrides as one layer. Raises InputError with every malformed one."""
    settings, problems = Settings({}, {}), list[Problem]()
    for override in overrides:
        try:
            settings = combined(settings, parse_override(override))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    return settings


def parse_override(text: str) -> Settings:
    """Return the one value that an override such as `method.rank=16` sets."""
    where = f"{OVERRIDE}{text}"
    key, equals, value = text.partition("=")
    if not equals or not DOTTED_KEY.fullmatch(key):
        expected = "KEY=VALUE, for example method.rank=16"
        raise InputError(Problem("an override is malformed", where, expected=expected))
    parsed, _ = parse_yaml(value, where)
    return setting_of(key, parsed, where)


def setting_of(key: str, value: Any, where: str) -> Settings:
    """Return the layer that sets one value. key: its dotted path. where: the place where it is set, for messages."""
    path = tuple(key.split("."))
    if key in Recipe.model_fields and not isinstance(value, dict):
        raise InputError(wrong_section(key, value, where))
    nested: Any = value
    for part in reversed(path):
        nested = {part: nested}
    return with_kinds(Settings(nested, {path[:length]: where for length in range(1, len(path) + 1)}))


def merge(below: Settings, above: Settings) -> Settings:
    """Return the layer `above` over the layers `below`."""
    values = below.values
    preset = value_at(above.values, ("method", "name"), MISSING)
    if preset is not MISSING:
        for key in (*replaced_by(preset), *OLDER_KEYS):
            values = without(values, ("method", key))
    return combined(Settings(values, below.origins), above)


def combined(below: Settings, above: Settings) -> Settings:
    """Combine both, key by key. A section keeps the place where it was opened; any other value has that of `above`."""
    values = below.values
    for one, other in (pair for keys in ALTERNATIVES for pair in (keys, keys[::-1])):
        if value_at(above.values, one) is not None:
            values = without(values, other)
    origins = dict(below.origins)
    for path, origin in above.origins.items():
        if not (is_section(below, path) and is_section(above, path)):
            origins[path] = origin
    return Settings(merged(values, above.values), origins)


def with_kinds(settings: Settings) -> Settings:
    """Return the settings with every choice that is given by its kind alone as a mapping, so that layers merge."""
    values, origins = settings.values, dict(settings.origins)
    for key in (*DEFAULTS, *OLDER_KEYS):
        path = ("method", key)
        if isinstance(kind := value_at(values, path), str):
            values = {**values, "method": {**values["method"], key: {"kind": kind}}}
            origins[(*path, "kind")] = origins.get(path, "")
    return Settings(values, origins)


def value_at(values: Any, path: KeyPath, default: Any = None) -> Any:
    """Return what stands at `path`; the default if nothing does."""
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return default
        values = values[key]
    return values


def is_named(overrides: Sequence[str], path: KeyPath) -> bool:
    """Whether overrides KEY=VALUE say anything of the key at `path`. Raises InputError for what is no override."""
    return value_at(parse_overrides(overrides).values, path, MISSING) is not MISSING


def is_section(settings: Settings, path: KeyPath) -> bool:
    """Whether there is a mapping at `path`."""
    return isinstance(value_at(settings.values, path), dict)


def without(values: Any, path: KeyPath) -> Any:
    """Return nested mappings less the key at `path`, if it is there."""
    if value_at(values, path, MISSING) is MISSING:
        return values
    key, *rest = path
    kept = {name: value for name, value in values.items() if name != key}
    return {**values, key: without(values[key], tuple(rest))} if rest else kept


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key, unless they are choices of different kinds, and replace anything else."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and is_same_kind(old, value):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def is_same_kind(below: dict[str, Any], above: dict[str, Any]) -> bool:
    """Whether the mappings may be of one choice: at most one of them has a kind, or both have the same."""
    return "kind" not in below or "kind" not in above or bool(below["kind"] == above["kind"])
