"""Turn pydantic's errors into the user's terms: the key, where it was set, what was found, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reflora_cli.ground.errors import Problem, nearest
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.yaml_lines import KeyPath, shortened

Origins = Mapping[KeyPath, str]
"""Where every key was last set: a file and line, or an override."""
Schema = dict[str, Any]
"""The JSON schema in which pydantic states what it expects of every key."""

OVERRIDE = "override "
"""The beginning of the origin of a value from the command line, which names its own key."""
ELSEWHERE = {
    "lr": "train.learning_rate",
    "r": "method.rank",
    "lora_alpha": "method.alpha",
    "lora_dropout": "method.dropout",
    "target_modules": "method.targets",
    "modules_to_save": "method.trainable_modules",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.steps",
    "per_device_train_batch_size": "train.micro_batch_size",
    "max_seq_length": "task.max_length",
}
"""PEFT's and transformers' names for our keys."""
WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
LARGE = 10**6
"""The least magnitude of a bound that is shown with a power of ten."""
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
KINDS = {bool: "boolean", int: "whole number", float: "number", str: "text", list: "list", dict: "section"}


def problems_of(error: ValidationError, values: Any, origins: Origins, source: str) -> list[Problem]:
    """Return one problem per wrong key; the branches of a union are joined into one."""
    first = {key_path(detail["loc"]): detail for detail in reversed(error.errors(include_url=False))}
    return [describe(path, first[path], values, origins, source) for path in reversed(first)]


def key_path(location: tuple[int | str, ...]) -> KeyPath:
    """Return the part of pydantic's location that consists of keys; branches of unions and places in lists follow
    it.
    """
    path: list[str] = []
    schema = recipe_schema()
    for part in location:
        if "properties" not in schema:
            break
        path.append(str(part))
        schema = resolved(schema["properties"].get(part, {}))
    return tuple(path)


def describe(path: KeyPath, detail: ErrorDetails, values: Any, origins: Origins, source: str) -> Problem:
    """Return one problem. values: what was validated. source: the recipe's name, for a value without a line."""
    if detail["type"] == "refused":
        context = detail["ctx"]
        where = place((*path, *context["key"].split(".")), origins, source)
        return Problem(context["reason"], where, remedy=context["remedy"])
    where, dotted = place(path, origins, source), ".".join(path)
    if detail["type"] == "extra_forbidden":
        return Problem(f"unknown key {path[-1]!r}", where, remedy=nearest_key(path))
    expected = in_words(schema_of(path))
    if detail["type"] == "missing":
        return Problem(f"{dotted} is missing", source, expected=expected)
    if detail["type"] == "finite_number":
        expected = expected.replace("a number", "a finite number")
    value = lookup(values, path)
    return Problem(f"wrong value for {dotted}", where, shown(value), expected, value_remedy(value, schema_of(path)))


def place(path: KeyPath, origins: Origins, source: str) -> str:
    """Return where a key was set, by its nearest enclosing key whose place is known."""
    for length in range(len(path), 0, -1):
        origin = origins.get(path[:length], "")
        if origin:
            return origin if origin.startswith(OVERRIDE) else f"{origin}, {'.'.join(path)}"
    return f"{source}, {'.'.join(path)}"


def lookup(values: Any, path: KeyPath) -> Any:
    for key in path:
        values = values[key]
    return values


def shown(value: Any) -> str:
    """Return a value and its kind in YAML's terms."""
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    # A date's repr is Python's, not YAML's.
    text = text if type(value) in KINDS else str(value)
    return f"{shortened(text)} ({KINDS.get(type(value), type(value).__name__)})"


def value_remedy(value: Any, schema: Schema) -> str:
    """Return the nearest valid word, or the punctuation that changes the value's kind."""
    branches = schema.get("anyOf", [schema])
    if isinstance(value, str):
        words = [word for branch in branches for word in choices(resolved(branch))]
        suggestion = nearest(value, words)
        if suggestion.startswith("did you mean"):
            return suggestion
        is_list = any(branch.get("type") == "array" for branch in branches)
        return f"put it in brackets: [{shortened(value)}]" if is_list and value else ""
    is_text = any(branch.get("type") == "string" and not choices(branch) for branch in branches)
    is_single = not isinstance(value, list | dict) and value is not None
    return "put it in quotes to make it text" if is_text and is_single else ""


def nearest_key(path: KeyPath) -> str:
    """Return the valid key most like the last of `path`, by its full path if it is in another section."""
    key, section = path[-1], recipe_schema()
    for part in path[:-1]:
        section = resolved(section["properties"][part])
    everywhere = list(all_keys(recipe_schema()))
    same = [full for full in everywhere if full.rpartition(".")[2] == key or full == ELSEWHERE.get(key)]
    if same:
        return f"did you mean {' or '.join(map(repr, same))}?"
    # A slip of the pen in a key of another section is nearer than what merely looks like it here.
    leaves = {full.rpartition(".")[2]: full for full in everywhere}
    slip = next(iter(difflib.get_close_matches(key, leaves, n=1, cutoff=0.8)), None)
    if slip is not None and slip not in section["properties"]:
        return f"did you mean {leaves[slip]!r}?"
    return nearest(key, section["properties"])


def all_keys(section: Schema, prefix: str = "") -> Iterator[str]:
    """Return the dotted paths of all keys of a recipe."""
    for name, value in section["properties"].items():
        yield prefix + name
        inner = resolved(value)
        if "properties" in inner:
            yield from all_keys(inner, f"{prefix}{name}.")


@cache
def recipe_schema() -> Schema:
    return Recipe.model_json_schema()


def schema_of(path: KeyPath) -> Schema:
    """Return the schema of a valid key."""
    schema = recipe_schema()
    for part in path:
        schema = resolved(schema["properties"][part])
    return schema


def resolved(schema: Schema) -> Schema:
    """Return the schema itself, or the named one it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    definition: Schema = recipe_schema()["$defs"][name] if name else schema
    return definition


def choices(schema: Schema) -> list[str]:
    """Return the words that a schema allows."""
    return [schema["const"]] if "const" in schema else list(schema.get("enum", []))


def in_words(schema: Schema) -> str:
    """Say what a schema allows: `a whole number >= 1`, `one of lora, dora`."""
    schema = resolved(schema)
    if "anyOf" in schema:
        return " or ".join(map(in_words, schema["anyOf"]))
    if "properties" in schema:
        return f"a section with {', '.join(schema['properties'])}"
    words = choices(schema)
    if words:
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if schema["type"] == "array":
        return f"a list of {in_words(schema['items'])}"
    bounds = " and ".join(f"{sign} {number(schema[name])}" for name, sign in BOUNDS.items() if name in schema)
    return f"{WORDS.get(schema['type'], schema['type'])} {bounds}".strip()


def number(bound: float) -> str:
    """Return a number as a reader would write it."""
    return f"{bound:g}" if abs(bound) >= LARGE else str(bound)
