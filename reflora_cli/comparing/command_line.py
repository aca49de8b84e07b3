"""Read what follows `reflora compare`: a plan or a recipe, and settings of one value or of several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reflora_cli.comparing.plan import Plan, checked_plan, is_comparison, plan_of_comparison, read_plan_file
from reflora_cli.ground.errors import InputError, Problem, near
from reflora_cli.ground.paths import expanded, is_directory, is_file
from reflora_cli.recipe.files import DOTTED_KEY, find_recipe
from reflora_cli.recipe.library import bundled_plans, bundled_recipes
from reflora_cli.recipe.problems import OVERRIDE
from reflora_cli.recipe.yaml_lines import KeyPath, parse_yaml
from reflora_cli.runs.comparison import SEED

PLAN_KEYS = ("recipe", "recipes")
"""The keys by which a plan is told from a recipe: every plan has one of them, and no recipe does."""
BRACKETS = {"[": "]", "{": "}"}
QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
"""A quoted text of YAML; what is no beginning of a value, as in `it's`, begins none."""


@dataclass(frozen=True)
class NamedPlan:
    """A plan with the name of its directory, and the place where each of its keys was set."""

    name: str
    plan: Plan
    origins: dict[KeyPath, str]
    source: str


def plan_of(source: str, arguments: Sequence[str]) -> NamedPlan:
    """Return the plan in a file, of an earlier comparison's `plan.yaml` too, or bundled under that name, or made of a
    recipe and `KEY=V1,V2,...`.

    Raises InputError with all problems.
    """
    path = bundled_plans().get(source, expanded(source))
    values: Any = {"recipe": source}
    name = path.stem if is_file(path) else source.rpartition("/")[2]
    origins: dict[KeyPath, str] = {}
    if is_file(path):
        found, places = read_plan_file(path)
        if is_comparison(found):
            name, found = str(found.get("name", name)), plan_of_comparison(found)
        if found is None or (isinstance(found, dict) and any(key in found for key in PLAN_KEYS)):
            values, origins = found, dict(places)
    elif source not in bundled_recipes():
        refuse_unknown(source)
    values = with_arguments(values, origins, arguments)
    return NamedPlan(name, checked_plan(values, origins, str(path)), origins, str(path))


def refuse_unknown(source: str) -> None:
    """Raises InputError for what is neither a plan nor a recipe."""
    plans = bundled_plans()
    question = near(source, [*plans, *bundled_recipes()])
    if not question and is_directory(expanded(source)):
        find_recipe(source)  # raises its own error for a directory
    expected = "a YAML file with a plan or a recipe, or a bundled one"
    remedy = question or f"`reflora list recipes` shows the recipes; plans: {', '.join(sorted(plans))}"
    raise InputError(Problem("there is no such plan or recipe", source, expected=expected, remedy=remedy))


def with_arguments(values: Any, origins: dict[KeyPath, str], arguments: Sequence[str]) -> Any:
    """Return a plan's values with those of the command line: one value goes to `set`, several to `grid`, and those of
    `train.seed` to `seeds`.
    """
    if not isinstance(values, dict):
        return values
    values, problems = dict(values), list[Problem]()
    for argument in arguments:
        try:
            key, found = argument_values(argument)
        except InputError as error:
            problems += error.problems
            continue
        where = f"{OVERRIDE}{argument}"
        if key == SEED:
            values["seeds"], origins[("seeds",)] = found, where
            continue
        section = "set" if len(found) == 1 else "grid"
        own = values.get(section) or {}
        values[section] = {**own, key: found[0] if section == "set" else found} if isinstance(own, dict) else own
        origins[(section, key)] = where
    if problems:
        raise InputError(*problems)
    return values


def argument_values(argument: str) -> tuple[str, list[Any]]:
    """Return the key and the values of `KEY=V1,V2,...`. Raises InputError for a malformed one."""
    where = f"{OVERRIDE}{argument}"
    key, equals, text = argument.partition("=")
    if not equals or not DOTTED_KEY.fullmatch(key):
        expected = "KEY=VALUE or KEY=V1,V2,..., for example method.name=lora,reflora"
        raise InputError(Problem("a setting is malformed", where, expected=expected))
    parts = divided(text)
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise InputError(Problem("a value is empty", where, expected="values with one comma between two of them"))
    return key, [parse_yaml(part, where)[0] for part in parts]


def divided(text: str) -> list[str]:
    """Divide a text at the commas that stand in no brackets, braces or quotes."""
    parts, closing, position = [""], list[str](), 0
    while position < len(text):
        begins = not parts[-1].strip() or parts[-1].rstrip()[-1] in "[{,:"
        quoted = QUOTED.match(text, position) if begins else None
        token = quoted[0] if quoted else text[position]
        position += len(token)
        if token == "," and not closing:
            parts.append("")
            continue
        if token in BRACKETS and (begins or closing):
            closing.append(BRACKETS[token])
        elif closing and token == closing[-1]:
            closing.pop()
        parts[-1] += token
    return parts
