"""Define a plan: which runs are compared, as a user writes it in YAML.

A plan is as strict as a recipe: an unknown key is an error that names its line and the nearest key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.methods.choice import refusal
from reflora_cli.recipe.files import DOTTED_KEY, LARGEST
from reflora_cli.recipe.problems import Origins, place, shown
from reflora_cli.recipe.section import Section
from reflora_cli.recipe.yaml_lines import parse_yaml
from reflora_cli.runs.comparison import SEED

RANGE = re.compile(r"([0-9]{1,9})\.\.([0-9]{1,9})")
MOST_SEEDS = 1_000
TUNE_WORDS = ("budget", "seeds", "by")
"""The keys of `tune` that are not keys of a recipe."""
Values = dict[str, Any]
"""Values by the dotted key of a recipe."""


def seed_list(value: Any) -> list[Any]:
    """Return seeds as a list, each once: `0..4` is the whole numbers from 0 to 4, also within a list."""
    found: list[Any] = []
    for part in value if isinstance(value, list) else [value]:
        match = RANGE.fullmatch(part) if isinstance(part, str) else None
        seeds = seeds_between(int(match[1]), int(match[2])) if match else [part]
        found += [seed for seed in seeds if seed not in found]
    return found


def seeds_between(first: int, last: int) -> list[int]:
    """Return the seeds of a range. Raises pydantic's error for one without seeds, or with too many."""
    if not first <= last < first + MOST_SEEDS:
        reason = f"the range {first}..{last} has no seeds, or more than {MOST_SEEDS:,}"
        raise refusal("", reason, "write the smaller seed first, as in 0..4")
    return list(range(first, last + 1))


Seeds = Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], BeforeValidator(seed_list), Field(min_length=1)]
SEEDS_WORDS = "whole numbers [0, 1, 2], or a range 0..2"


class PlanRecipe(Section):
    """One recipe of a plan."""

    name: str | None = Field(None, description="its name among the settings; null: the name of its file")
    title: str | None = Field(None, description="the name of its row in a report; null: made of method and values")
    recipe: str = Field(description="a recipe's file, or the name of a bundled one")
    set: Values = Field(default_factory=dict, description="{KEY: VALUE} for this recipe only")


class Tuning(Section):
    """What is tried for every method before it is compared: the same number of runs for each."""

    grid: dict[str, list[Any]] = Field(description="{KEY: [values]} of recipe keys to tune")
    budget: int | None = Field(None, ge=1, description="how many settings to try for each method; null: the whole grid")
    seeds: Seeds = Field(description=SEEDS_WORDS)
    by: str = Field("validation", description="validation (the task's main score), or the name of a score")

    @model_validator(mode="before")
    @classmethod
    def _keys_of_recipes(cls, values: Any) -> Any:
        """Gather the keys of recipes as the grid."""
        if not isinstance(values, dict):
            return values
        grid = {key: own for key, own in values.items() if "." in key}
        return {**{key: own for key, own in values.items() if key not in grid}, **({"grid": grid} if grid else {})}

    @property
    def size(self) -> int:
        """The number of settings in the whole grid."""
        return math.prod(map(len, self.grid.values()))

    @property
    def tries(self) -> int:
        """The number of settings that are tried for each method."""
        return self.size if self.budget is None else self.budget


class Plan(Section):
    """A plan of a comparison. A method is one of its settings: a point of `grid`, or one of `settings`."""

    recipe: str | None = Field(None, description="a recipe's file, or the name of a bundled one")
    recipes: list[PlanRecipe] | None = Field(None, min_length=1, description="several recipes, by name")
    set: Values = Field(default_factory=dict, description="{KEY: VALUE} for all runs")
    grid: dict[str, list[Any]] = Field(default_factory=dict, description="{KEY: [values]}, in all combinations")
    settings: list[Values] = Field(
        default_factory=list, description="a list of {KEY: VALUE}, each with an optional name"
    )
    seeds: Seeds | None = Field(None, description=SEEDS_WORDS)
    baseline: str | None = Field(None, description="the name of a setting or method")
    tune: Tuning | None = Field(None, description="{KEY: [values], budget: N, seeds: [...], by: validation}")

    @model_validator(mode="before")
    @classmethod
    def _recipes_as_sections(cls, values: Any) -> Any:
        """Write the recipes that are named alone as sections."""
        if isinstance(values, dict) and isinstance(named := values.get("recipes"), list):
            return {**values, "recipes": [{"recipe": own} if isinstance(own, str) else own for own in named]}
        return values

    @model_validator(mode="after")
    def _some_recipe(self) -> Plan:
        if (self.recipe is None) == (self.recipes is None):
            raise refusal("recipe", "a plan needs either recipe or recipes", "set one of them")
        if self.grid and self.settings:
            raise refusal("settings", "a plan has either grid or settings, not both", "set one of them", also="grid")
        return self

    @model_validator(mode="after")
    def _keys(self) -> Plan:
        for place_, values in self.layers().items():
            for key, own in values.items():
                if key == SEED:
                    raise refusal(f"{place_}.{key}", "a plan sets seeds by the key `seeds`", "set seeds: 0..4")
                if not DOTTED_KEY.fullmatch(key) or "." not in key:
                    raise refusal(
                        f"{place_}.{key}", f"{key!r} is not a key of a recipe", "write section and key, as method.rank"
                    )
                if place_ in ("grid", "tune") and not own:
                    raise refusal(f"{place_}.{key}", "a list of values is empty", "give at least one value")
        return self

    @model_validator(mode="after")
    def _tuned_apart(self) -> Plan:
        tune = self.tune
        if tune is None:
            return self
        for key in tune.grid:
            if found := next((own for own, values in self.layers().items() if own != "tune" and key in values), None):
                reason = f"{key} is both tuned and set"
                raise refusal(f"tune.{key}", reason, "leave one of them out", also=f"{found}.{key}")
        if tune.tries > tune.size:
            reason = f"the budget is {tune.tries} settings for each method, and the grid has {tune.size}"
            raise refusal("tune.budget", reason, f"set it to at most {tune.size}, or give more values")
        if common := sorted({*tune.seeds} & {*(self.seeds or ())}):
            reason = (
                f"seed {common[0]} is in both tune.seeds and seeds: the chosen values would look better than they are"
            )
            raise refusal("tune.seeds", reason, "use other seeds in one of them", also="seeds")
        return self

    def layers(self) -> dict[str, Mapping[str, Any]]:
        """Return everything that sets keys of recipes, by its place in the plan."""
        named = {f"settings.{number}": without_name(own) for number, own in enumerate(self.settings)}
        own = {f"recipes.{number}.set": one.set for number, one in enumerate(self.recipes or ())}
        return {"set": self.set, "grid": self.grid, **named, **own, "tune": self.tune.grid if self.tune else {}}


def without_name(setting: Mapping[str, Any]) -> Values:
    """Return a setting less its name, which is no key of a recipe."""
    return {key: value for key, value in setting.items() if key != "name"}


def read_plan_file(path: Path) -> tuple[Any, Origins]:
    """Return the values of a YAML file, and the place of every key. Raises InputError for a file that is none."""
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(Problem("the file is too large for a plan", str(path), f"{path.stat().st_size} bytes"))
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(Problem("the plan is not UTF-8 text", str(path), str(error))) from error
    except OSError as error:
        raise InputError(Problem("the plan cannot be read", str(path), error.strerror or str(error))) from error
    values, lines = parse_yaml(text, str(path))
    return values, {key: f"{path}, line {line}" for key, line in lines.items()}


def is_comparison(values: Any) -> bool:
    """Whether the values of a file are those of `plan.yaml` in a comparison's directory: its settings have names."""
    return isinstance(values, dict) and isinstance(values.get("settings"), dict)


def plan_of_comparison(values: dict[str, Any]) -> dict[str, Any]:
    """Return the plan that a comparison's `plan.yaml` has carried out: each of its settings is a recipe with a name."""
    settings = ((name, own if isinstance(own, dict) else {}) for name, own in values["settings"].items())
    kept = ("title", "recipe", "set")
    recipes = [{"name": name, **{key: own[key] for key in kept if key in own}} for name, own in settings]
    return {"recipes": recipes, **{key: values[key] for key in ("seeds", "baseline", "tune") if key in values}}


def checked_plan(values: Any, origins: Origins, source: str) -> Plan:
    """Return the plan with these values. Raises InputError with all problems, each at its line."""
    try:
        return Plan.model_validate(values)
    except ValidationError as error:
        found = (problem_of(detail, values, origins, source) for detail in error.errors(include_url=False))
        raise InputError(*dict.fromkeys(found)) from error


def problem_of(detail: ErrorDetails, values: Any, origins: Origins, source: str) -> Problem:
    """Return one of pydantic's errors in the user's terms."""
    path = tuple(str(part) for part in detail["loc"] if part != "grid" or detail["loc"][0] != "tune")
    dotted, where = ".".join(path), place(path, origins, source) if path else source
    section = section_at(path[:-1])
    match detail["type"]:
        case "refused":
            context = detail["ctx"]
            named = [key for key in (context["key"], context["also"]) if key]
            places = [place(path_of(key), origins, source) for key in named] or [where]
            return Problem(context["reason"], " and ".join(dict.fromkeys(places)), remedy=context["remedy"])
        case "extra_forbidden":
            known = [*TUNE_WORDS, "train.learning_rate"] if section is Tuning else [*section.model_fields]
            return Problem(f"unknown key {path[-1]!r}", where, remedy=nearest(path[-1], known))
        case "missing":
            if path == ("tune",):
                expected = "values to try, such as train.learning_rate: [3e-4, 1e-3]"
                return Problem("tune names no key of the recipe", where, expected=expected)
            return Problem(f"{dotted} is missing", where, expected=section.model_fields[path[-1]].description or "")
        case _:
            words = [part for part in path if not part.isdecimal()]
            field = section.model_fields.get(words[-1]) if words else None
            expected = (field.description or "") if field else detail["msg"]
            return Problem(f"wrong value for {dotted or 'the plan'}", where, shown(detail["input"]), expected)


def path_of(key: str) -> tuple[str, ...]:
    """Return where a key of a plan stands in its file: below its section, a key of a recipe is one word."""
    head, _, rest = key.partition(".")
    match head:
        case "set" | "grid" | "tune" if rest:
            return (head, rest)
        case "settings" if rest:
            return (head, *rest.split(".", 1))
        case "recipes" if rest:
            return (head, *rest.split(".", 2))
        case _:
            return (key,)


def section_at(path: tuple[str, ...]) -> type[Section]:
    """Return the record that is at a place of a plan."""
    match path[:1]:
        case ("tune",):
            return Tuning
        case ("recipes",):
            return PlanRecipe
        case _:
            return Plan
