"""Turn pydantic's errors into the user's terms: the key, where it was set, what was found, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from reflora_cli.ground.errors import Problem, near, nearest
from reflora_cli.methods.spelling import OLDER_KEYS
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
    "torch_compile": "train.compile",
    "attn_implementation": "model.attention",
    "flash_attn": "model.attention",
    "load_in_4bit": "model.quantization",
    "activation_offloading": "train.offload_activations",
    "neat_packing": "train.packing",
    "cache_implementation": "eval.cache",
}
"""The names that PEFT, transformers and others have for our keys."""
WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
LARGE = 10**6
"""The least magnitude of a bound that is shown with a power of ten."""
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
KINDS = {bool: "boolean", int: "whole number", float: "number", str: "text", list: "list", dict: "section"}


@dataclass(frozen=True)
class Spot:
    """What an error is about. path: its keys, without branches of unions and places in lists. schema: of the last key,
    empty if there is no such key. section: the schema in which that key stands. choice: of which discriminated union
    that section is a branch; empty for other sections.
    """

    path: KeyPath
    schema: Schema
    section: Schema
    choice: Schema


def problems_of(error: ValidationError, values: Any, origins: Origins, source: str) -> list[Problem]:
    """Return one problem per wrong key; the branches of a union are joined into one."""
    found: dict[KeyPath, Problem] = {}
    for detail in error.errors(include_url=False):
        spot = spot_of(detail["loc"])
        path = as_written(spot.path, values)
        if path not in found:
            found[path] = describe(replace(spot, path=path), detail, values, origins, source)
    return list(found.values())


def spot_of(location: tuple[int | str, ...]) -> Spot:
    """Return what pydantic's location is about."""
    path: list[str] = []
    schema, section, choice, tagged = recipe_schema(), Schema(), Schema(), Schema()
    for part in location:
        if "discriminator" in schema:
            tagged, schema = schema, branches_of(schema)[str(part)]
        elif "properties" in schema:
            path.append(str(part))
            section, choice, tagged = schema, tagged, {}
            schema = resolved(schema["properties"].get(part, {}))
        else:
            break
    return Spot(tuple(path), schema, section, choice)


def as_written(path: KeyPath, values: Any) -> KeyPath:
    """Return the key under which the user gave a value: pydantic saw a method that was spelled out."""
    section = values.get("method") if isinstance(values, dict) else None
    if path[:1] != ("method",) or not isinstance(section, dict):
        return path
    for older, key in OLDER_KEYS.items():
        if path[1:2] == (key,) and key not in section and older in section:
            return ("method", older, *path[2:])
    refactor, update = section.get("refactor"), section.get("update")
    is_elsewhere = not (isinstance(update, dict) and path[-1] in update)
    if path[1:2] == ("update",) and is_elsewhere and isinstance(refactor, dict) and path[-1] in refactor:
        return ("method", "refactor", *path[2:])
    return path


def describe(spot: Spot, detail: ErrorDetails, values: Any, origins: Origins, source: str) -> Problem:
    """Return one problem. values: what was validated. source: the recipe's name, for a value without a line."""
    path, kind = spot.path, detail["type"]
    if kind == "refused":
        return refused(path, detail["ctx"], values, origins, source)
    where, dotted = place(path, origins, source), ".".join(path)
    if kind == "extra_forbidden":
        return unknown_key(spot, where)
    expected = in_words(spot.schema)
    if kind == "missing":
        return Problem(f"{dotted} is missing", source, expected=expected)
    if kind == "finite_number":
        expected = expected.replace("a number", "a finite number")
    value = lookup(values, path)
    if kind == "union_tag_invalid":
        value, where = value["kind"], place((*path, "kind"), origins, source).removesuffix(".kind")
    remedy = value_remedy(value, spot.schema)
    if len(path) == 1:
        remedy = "" if value is None else section_remedy(dotted, f"{dotted}: {{name: {shortened(str(value))}}}")
    return Problem(f"wrong value for {dotted}", where, shown(value), expected, remedy)


def wrong_section(section: str, value: Any, where: str) -> Problem:
    """Return the problem of an override that sets a whole section to something else than its keys."""
    remedy = section_remedy(section, f"{section}.name={shortened(str(value))}")
    expected = in_words(recipe_schema()["properties"][section])
    return Problem(f"wrong value for {section}", where, shown(value), expected, remedy)


def section_remedy(section: str, named: str) -> str:
    """Return the remedy for a section that is given as one value. named: how to give the value as the section's name,
    if it has one.
    """
    keys = resolved(recipe_schema()["properties"][section])["properties"]
    return f"did you mean {named}?" if "name" in keys else f"set its keys one by one, as {section}.{next(iter(keys))}"


def refused(path: KeyPath, context: dict[str, Any], values: Any, origins: Origins, source: str) -> Problem:
    """Return the problem of values that do not go together; where they are two, with both places."""
    places = [
        place(as_written((*path, *key.split(".")), values), origins, source)
        for key in (context["key"], context["also"])
        if key
    ]
    return Problem(context["reason"], " and ".join(dict.fromkeys(places)), remedy=context["remedy"])


def unknown_key(spot: Spot, where: str) -> Problem:
    """Return the problem of a key that its section does not have; other kinds of a choice may have it."""
    what, key = f"unknown key {spot.path[-1]!r}", spot.path[-1]
    own, *_ = choices(spot.section["properties"].get("kind", {})) or [""]
    kinds = [kind for kind, branch in branches_of(spot.choice).items() if key in branch["properties"]]
    if kinds:
        chosen = ".".join(spot.path[:-1])
        return Problem(what, where, f"{chosen} is {own}", f"kinds that have it: {', '.join(kinds)}")
    return Problem(what, where, remedy=nearest_key(spot))


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
        entries = [word for branch in branches if "items" in branch for word in choices(resolved(branch["items"]))]
        words = [*entries, *(word for branch in branches for word in choices(resolved(branch)))]
        if question := near(value, words):
            return question
        is_list = any(branch.get("type") == "array" for branch in branches) and not entries
        return f"put it in brackets: [{shortened(value)}]" if is_list and value else ""
    is_text = any(branch.get("type") == "string" and not choices(branch) for branch in branches)
    is_number = any(branch.get("type") in ("integer", "number") for branch in branches)  # and this one is out of range
    is_single = not isinstance(value, list | dict) and value is not None
    return "put it in quotes to make it text" if is_text and is_single and not is_number else ""


def nearest_key(spot: Spot) -> str:
    """Return the valid key most like the spot's, by its full path if it is in another section or in a choice."""
    key, section = spot.path[-1], spot.section
    everywhere = list(dict.fromkeys(all_keys(recipe_schema())))
    same = [full for full in everywhere if full.rpartition(".")[2] == key or full == ELSEWHERE.get(key)]
    if same:
        return f"did you mean {' or '.join(map(repr, same))}?"
    if spot.choice:
        like = difflib.get_close_matches(key, section["properties"], n=1, cutoff=0.5)
        if like:
            return f"did you mean {'.'.join((*spot.path[:-1], *like))!r}?"
    # A slip of the pen in a key of another section is nearer than what merely looks like it here.
    leaves = {full.rpartition(".")[2]: full for full in reversed(everywhere)}
    slip = next(iter(difflib.get_close_matches(key, leaves, n=1, cutoff=0.8)), None)
    if slip is not None and slip not in section["properties"]:
        return f"did you mean {leaves[slip]!r}?"
    return nearest(key, section["properties"], f"reflora show {'.'.join(spot.path[:-1])}")


def all_keys(section: Schema, prefix: str = "") -> Iterator[str]:
    """Return the dotted paths of all keys of a recipe; those of several kinds of one choice more than once."""
    for name, value in section["properties"].items():
        yield prefix + name
        inner = resolved(value)
        for part in (inner, *branches_of(inner).values()):
            if "properties" in part:
                yield from all_keys(part, f"{prefix}{name}.")


def branches_of(schema: Schema) -> dict[str, Schema]:
    """Return the schemas of a discriminated union by kind; none for any other schema."""
    branches = map(resolved, schema["oneOf"] if "discriminator" in schema else ())
    return {branch["properties"]["kind"]["const"]: branch for branch in branches}


@cache
def recipe_schema() -> Schema:
    return Recipe.model_json_schema()


def resolved(schema: Schema) -> Schema:
    """Return the schema itself, or the named one it refers to."""
    name = schema.get("$ref", "").rpartition("/")[2]
    definition: Schema = recipe_schema()["$defs"][name] if name else schema
    return definition


def choices(schema: Schema) -> list[str]:
    """Return the words that a schema allows; those of a discriminated union are its kinds."""
    return [schema["const"]] if "const" in schema else list(schema.get("enum", branches_of(schema)))


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
