"""List the runs of a comparison, with names that are readable and unique."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from reflora_cli.comparing.plan import Plan, Values
from reflora_cli.comparing.settings import Setting, leaf, shown
from reflora_cli.comparing.tries import tries_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.comparison import FINAL, TUNING

LONGEST = 100
"""The most characters of a run's name."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison. setting: the name of its setting. tuned: the values that tuning gives it."""

    folder: str
    name: str
    setting: str
    tuned: Values
    seed: int
    recipe: Recipe

    @property
    def title(self) -> str:
        return f"{self.folder}/{self.name}"


def tuning_runs(plan: Plan, settings: Sequence[Setting]) -> list[PlannedRun]:
    """Return the runs by which the methods are tuned; none for a plan that tunes nothing."""
    if plan.tune is None:
        return []
    tries, seeds = tries_of(plan.tune), plan.tune.seeds
    return named(run(TUNING, own, tuned, seed) for own in settings for tuned in tries for seed in seeds)


def final_runs(plan: Plan, settings: Sequence[Setting], chosen: Mapping[str, Values]) -> list[PlannedRun]:
    """Return the runs that are compared. chosen: the tuned values by name of a setting; one without has no runs."""
    seeds: Sequence[int | None] = plan.seeds or [None]
    return named(run(FINAL, own, chosen[own.name], seed) for own in settings if own.name in chosen for seed in seeds)


def planned_finals(plan: Plan, settings: Sequence[Setting]) -> list[PlannedRun]:
    """Return the final runs as they are before tuning has chosen anything."""
    first = tries_of(plan.tune)[0] if plan.tune else {}
    return final_runs(plan, settings, {own.name: first for own in settings})


def run(folder: str, setting: Setting, tuned: Values, seed: int | None) -> PlannedRun:
    """Return one run. seed: None for that of the recipe."""
    recipe = setting.recipe(tuned, seed)
    parts = [
        setting.name,
        *(f"{leaf(key)}={shown(value)}" for key, value in tuned.items()),
        f"seed={recipe.train.seed}",
    ]
    name = "-".join(re.sub(r"[^A-Za-z0-9._=+]+", "-", part).strip("-.") for part in parts)
    return PlannedRun(folder, name, setting.name, tuned, recipe.train.seed, recipe)


def named(runs: Iterator[PlannedRun]) -> list[PlannedRun]:
    """Return the runs, those with a long name or one that another run has under a name with a digest."""
    found, taken = [], set[str]()
    for own in runs:
        name = own.name
        if len(name) > LONGEST or name.lower() in taken:
            digest = hashlib.sha256(f"{own.setting} {own.recipe.model_dump_json()}".encode()).hexdigest()[:8]
            name = f"{name[:LONGEST]}-{digest}"
        taken.add(name.lower())
        found.append(replace(own, name=name))
    return found
