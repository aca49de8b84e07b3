"""Turn a plan into its settings, each of them a checked recipe in which only the tuned values and the seed are open."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from reflora_cli.comparing.command_line import NamedPlan
from reflora_cli.comparing.plan import Plan, PlanRecipe, Values, path_of, without_name
from reflora_cli.comparing.tries import tries_of
from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.recipe.files import Settings, combined, recipe_below, setting_of
from reflora_cli.recipe.problems import OVERRIDE, place
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.comparison import SEED

MOST_PROBLEMS = 10
"""The number of problems that one message shows."""
MOST_SETTINGS = 2_000


@dataclass(frozen=True)
class Setting:
    """A point that is compared. source: its recipe. values: what the plan sets of it. places: where. title: what the
    plan's author calls it, whatever its recipe; empty if it is told by its method and values.
    """

    name: str
    source: str
    values: Values
    places: Mapping[str, str] = field(default_factory=dict, compare=False)
    title: str = ""

    def recipe(self, tuned: Mapping[str, Any], seed: int | None) -> Recipe:
        """Return the recipe of a run. seed: None for the recipe's own. Raises InputError that names the setting."""
        values = {**self.values, **tuned, **({} if seed is None else {SEED: seed})}
        above = Settings({}, {})
        for key, value in values.items():
            above = combined(above, setting_of(key, value, self.places.get(key, f"{key}: {shown(value)}")))
        try:
            return recipe_below(self.source, above)
        except InputError as error:
            point = ", ".join([self.name, *(f"{leaf(key)}={shown(value)}" for key, value in tuned.items())])
            found = (replace(problem, what=f"{point}: {problem.what}") for problem in error.problems)
            raise InputError(*found) from error


def checked_settings(named: NamedPlan) -> list[Setting]:
    """Return the settings of a plan; of those with equal recipes the first. Raises InputError with the problems of all
    settings and of all that will be tried for them, before anything runs.
    """
    plan, found, problems = named.plan, dict[str, Setting](), list[Problem]()
    for setting in settings_of(named):
        try:
            recipes = [setting.recipe(tuned, seed) for tuned, seed in points_of(plan)]
        except InputError as error:
            problems += error.problems
            continue
        found.setdefault(recipes[0].model_dump_json(), setting)
        problems += seed_problems(plan, setting, recipes[0])
    if problems:
        raise InputError(*limited(problems))
    settings = unique_names(list(found.values()))
    refuse_unknown_baseline(named, settings)
    return settings


def limited(problems: Sequence[Problem]) -> list[Problem]:
    """Return as many problems as one message shows, the last of which says how many there are beside them."""
    more = len(problems) - MOST_PROBLEMS
    last = [Problem(f"and {more} more problems like these")] if more > 0 else []
    return [*problems[:MOST_PROBLEMS], *last]


def points_of(plan: Plan) -> Iterator[tuple[Values, int | None]]:
    """Yield tuned values and seeds with which a setting must be valid: all values with one seed."""
    seed = plan.seeds[0] if plan.seeds else None
    yield from ((tuned, seed) for tuned in (tries_of(plan.tune) if plan.tune else [{}]))


def seed_problems(plan: Plan, setting: Setting, recipe: Recipe) -> list[Problem]:
    """Return the problem of a setting whose own seed is also tuned by."""
    if plan.tune is None or plan.seeds or recipe.train.seed not in plan.tune.seeds:
        return []
    what = f"{setting.name}: seed {recipe.train.seed} would be used for both tuning and comparing"
    return [Problem(what, "tune.seeds", remedy="set seeds to other ones than tune.seeds")]


def settings_of(named: NamedPlan) -> Iterator[Setting]:
    """Yield every setting of a plan, unchecked. Raises InputError for too many."""
    plan = named.plan
    recipes = plan.recipes or [PlanRecipe(recipe=plan.recipe or "")]
    if (count := len(recipes) * (len(plan.settings) or math.prod(map(len, plan.grid.values())))) > MOST_SETTINGS:
        problem = Problem("the plan has too many settings", named.source, f"{count:,}", f"at most {MOST_SETTINGS:,}")
        raise InputError(problem)
    for number, own in enumerate(recipes):
        for name, title, where, values in points(plan):
            stem = own.recipe.rpartition("/")[2].removesuffix(".yaml")
            named_by = (own.name,) if own.name else (stem, described(own.set)) if len(recipes) > 1 else ()
            label = ", ".join(dict.fromkeys(filter(None, (*named_by, name)))) or stem
            layers = {"set": plan.set, f"recipes.{number}.set": own.set, where: values}
            places = {
                key: place(path_of(f"{at}.{key}"), named.origins, named.source)
                for at, layer in layers.items()
                for key in layer
            }
            whole = {**plan.set, **own.set, **values}
            yield Setting(label, own.recipe, whole, spoken(places), title or own.title or "")


def spoken(places: Mapping[str, str]) -> dict[str, str]:
    """Return the places of keys as origins of a recipe's values, which are named again where a file has them."""
    return {key: own if own.startswith(OVERRIDE) else own.rpartition(", ")[0] for key, own in places.items()}


def points(plan: Plan) -> Iterator[tuple[str, str, str, Values]]:
    """Yield the name, the name that its author gave it (or an empty one), the place in the plan and the values of each
    point of the grid or the list of settings.
    """
    for number, setting in enumerate(plan.settings):
        values, title = without_name(setting), str(setting.get("name") or "")
        yield title or described(values), title, f"settings.{number}", values
    if not plan.settings:
        varied = {key for key, own in plan.grid.items() if len(own) > 1}
        for chosen in product(*plan.grid.values()):
            values = dict(zip(plan.grid, chosen, strict=True))
            yield described({key: own for key, own in values.items() if key in varied} or values), "", "grid", values


def unique_names(settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings with names of which none stands twice."""
    found: dict[str, Setting] = {}
    for setting in settings:
        numbered = (f"{setting.name} ({number})" for number in range(2, len(settings) + 2))
        name = setting.name if setting.name not in found else next(own for own in numbered if own not in found)
        found[name] = replace(setting, name=name)
    return [*found.values()]


def refuse_unknown_baseline(named: NamedPlan, settings: Sequence[Setting]) -> None:
    """Raises InputError for a baseline that no setting is called, nor the method of one."""
    baseline = named.plan.baseline
    methods = {str(own.values.get("method.name")) for own in settings}
    names = {own.name for own in settings} | (methods - {"None"})
    if baseline is not None and baseline not in names:
        where = place(("baseline",), named.origins, named.source)
        what = "the baseline is neither a setting nor a method of the plan"
        raise InputError(Problem(what, where, repr(baseline), remedy=nearest(baseline, names)))


def described(values: Mapping[str, Any]) -> str:
    """Return values as a name: that of a method alone, others with the last word of their key."""
    return ", ".join(shown(own) if key == "method.name" else f"{leaf(key)}={shown(own)}" for key, own in values.items())


def leaf(key: str) -> str:
    """Return the last word of a dotted key."""
    return key.rpartition(".")[2]


def shown(value: Any) -> str:
    """Return a value as YAML has it, in one line."""
    match value:
        case None | bool():
            return json.dumps(value)
        case float():
            return f"{value:g}"
        case dict() if "kind" in value:
            return ":".join(
                [str(value["kind"]), *(f"{key}={shown(own)}" for key, own in value.items() if key != "kind")]
            )
        case dict():
            return ",".join(f"{key}={shown(own)}" for key, own in value.items())
        case list():
            return "+".join(map(shown, value))
        case _:
            return str(value)
