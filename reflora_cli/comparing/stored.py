"""Keep a comparison's plan beside its runs, and find out whether another plan continues it.

A plan may grow: settings, seeds and tuned values may be added, and what is done is kept. Anything else would be another
comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, ValidationError

from reflora_cli.comparing.command_line import NamedPlan
from reflora_cli.comparing.directory import ComparisonDirectory
from reflora_cli.comparing.plan import Plan, Tuning, Values
from reflora_cli.comparing.settings import Setting
from reflora_cli.comparing.tries import tries_of
from reflora_cli.ground.atomic import write_file
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.recipe.dotted import flattened
from reflora_cli.recipe.section import Section
from reflora_cli.recipe.yaml_lines import parse_yaml, write_yaml
from reflora_cli.runs.comparison import SEED
from reflora_cli.training.resume import MOST_SHOWN

REMEDY = "undo the change, or start a new comparison with another --output"


class StoredSetting(Section):
    """A setting of a stored plan. title: what the plan's author calls it, whatever its recipe. set: what the plan sets.
    resolved: the whole recipe, whose tuned values and seed are those of the first run.
    """

    title: str = ""
    recipe: str
    set: Values
    resolved: dict[str, Any]


class StoredPlan(Section):
    """What `plan.yaml` in a comparison's directory holds."""

    name: str
    baseline: str | None
    seeds: list[int] | None
    tune: dict[str, Any] | None
    settings: dict[str, StoredSetting] = Field(min_length=1)


def stored_plan(named: NamedPlan, settings: Sequence[Setting]) -> StoredPlan:
    """Return the form in which a plan is kept."""
    plan = named.plan
    stored = {
        own.name: StoredSetting(title=own.title, recipe=own.source, set=own.values, resolved=resolved(plan, own))
        for own in settings
    }
    tune = plan.tune.model_dump(mode="json") if plan.tune else None
    return StoredPlan(name=named.name, baseline=plan.baseline, seeds=plan.seeds, tune=tune, settings=stored)


def resolved(plan: Plan, setting: Setting) -> dict[str, Any]:
    """Return the recipe of a setting's first run."""
    tuned = tries_of(plan.tune)[0] if plan.tune else {}
    return setting.recipe(tuned, plan.seeds[0] if plan.seeds else None).model_dump(mode="json")


def write_plan(directory: ComparisonDirectory, stored: StoredPlan) -> None:
    """Write `plan.yaml`."""
    write_file(directory.plan, write_yaml(stored.model_dump(mode="json")))


def read_plan(directory: ComparisonDirectory) -> StoredPlan:
    """Return the plan that the directory holds. Raises InputError for a damaged one."""
    try:
        values, _ = parse_yaml(directory.plan.read_text(encoding="utf-8"), str(directory.plan))
        return StoredPlan.model_validate(values)
    except (OSError, ValueError, ValidationError) as error:
        remedy = "start a new comparison with another --output"
        found, what = str(error).partition("\n")[0], "the comparison's plan is damaged"
        raise InputError(Problem(what, str(directory.plan), found, remedy=remedy)) from error


def continued(known: StoredPlan, named: NamedPlan, settings: Sequence[Setting]) -> list[Setting]:
    """Return the settings under the names by which a comparison knows them. Raises InputError if a plan does not
    continue it, with the keys that have changed.
    """
    plan, problems = named.plan, list[Problem]()
    where = f"{named.source}, compared with plan.yaml of the comparison"
    problems += changed_seeds("seeds", known.seeds, plan.seeds, where)
    problems += changed_tuning(known.tune, plan.tune, where)
    ignored = {SEED, *(plan.tune.grid if plan.tune else ())}
    now = {own.name: comparable(resolved(plan, own), ignored) for own in settings}
    found: dict[str, str] = {}
    for name, stored in known.settings.items():
        before = comparable(stored.resolved, ignored)
        same = [new for new, values in now.items() if values == before and new not in found]
        if same:
            found[name if name in same else same[0]] = name
        else:
            problems.append(changed_setting(name, before, now, where))
    if problems:
        raise InputError(*problems)
    taken = {*known.settings}
    return [replace(own, name=found.get(own.name) or free_name(own.name, taken)) for own in settings]


def free_name(name: str, taken: set[str]) -> str:
    """Return a name for a new setting that no other one has."""
    numbered = (f"{name} ({number})" for number in range(2, len(taken) + 3))
    chosen = name if name not in taken else next(own for own in numbered if own not in taken)
    taken.add(chosen)
    return chosen


def comparable(recipe: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    """Return a recipe's values by dotted key, without those that differ among the runs of a setting."""
    return {key: value for key, value in flattened(recipe).items() if key not in ignored}


def changed_setting(name: str, before: dict[str, Any], now: dict[str, dict[str, Any]], where: str) -> Problem:
    """Return the problem of a setting that the plan does not have any more."""
    if name not in now:
        what = f"the plan lacks the setting {name!r}, which the comparison has"
        return Problem(what, where, ", ".join(now), name, REMEDY)
    after = now[name]
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)][:MOST_SHOWN]
    found, expected = ("; ".join(f"{key}: {own.get(key)}" for key in changed) for own in (after, before))
    return Problem(f"the setting {name!r} differs from that of the comparison", where, found, expected, REMEDY)


def changed_seeds(key: str, before: list[int] | None, after: list[int] | None, where: str) -> list[Problem]:
    """Return the problem of seeds that the plan lacks; more seeds are none."""
    if before is None and after is None:
        return []
    if before is not None and after is not None and {*before} <= {*after}:
        return []
    found, expected = (("those of the recipes" if own is None else str(own)) for own in (after, before))
    return [Problem(f"{key} leaves out seeds of the comparison", where, found, f"at least {expected}", REMEDY)]


def changed_tuning(before: dict[str, Any] | None, after: Tuning | None, where: str) -> list[Problem]:
    """Return the problems of a tuning that leaves out what was tried."""
    if before is None and after is None:
        return []
    if before is None or after is None:
        found, expected = ("null" if own is None else "a section" for own in (after, before))
        return [Problem("tune differs from that of the comparison", where, found, expected, REMEDY)]
    known = Tuning.model_validate(before)
    if known.by != after.by:
        what = "tune.by differs from the score by which the comparison chose its settings"
        return [Problem(what, where, after.by, known.by, REMEDY)]
    if {*known.grid} != {*after.grid}:
        found, expected = (", ".join(own.grid) for own in (after, known))
        return [Problem("tune has other keys than that of the comparison", where, found, expected, REMEDY)]
    tried = tries_of(after)
    lost = [own for own in tries_of(known) if own not in tried]
    problems = changed_seeds("tune.seeds", known.seeds, after.seeds, where)
    if lost:
        remedy = "set more values, a larger budget, or both"
        what = "tune leaves out values that the comparison has tried"
        problems.append(Problem(what, where, expected=str(lost[0]), remedy=remedy))
    return problems
