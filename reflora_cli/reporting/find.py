"""Find the run directories beneath the places that a report is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_directory, is_file
from reflora_cli.recipe.dotted import keys_of
from reflora_cli.recipe.files import load_recipe
from reflora_cli.reporting.plans import Plan, read_plan, title_of
from reflora_cli.reporting.records import RunRecord, Stage, read_run
from reflora_cli.runs.comparison import ASIDE, PLAN, TUNING
from reflora_cli.runs.directory import RunDirectory


@dataclass(frozen=True)
class Unfinished:
    """A run without results. title: the name of its row, as in a finished one; keys: its resolved recipe. Both are
    empty if it cannot be read.
    """

    path: Path
    stage: Stage
    title: str
    keys: dict[str, Any]


@dataclass
class Found:
    """What lies beneath the places. damaged: the message of each run that cannot be read, by path. aside: runs that a
    comparison has set aside.
    """

    runs: list[RunRecord] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    damaged: dict[Path, str] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)

    @property
    def final(self) -> list[RunRecord]:
        return [run for run in self.runs if run.stage is Stage.FINAL]

    @property
    def tuning(self) -> list[RunRecord]:
        return [run for run in self.runs if run.stage is Stage.TUNING]


def find_runs(places: Sequence[Path]) -> Found:
    """Return all runs beneath the places, each once. Raises InputError for a place that does not exist, and where no
    final run is finished.
    """
    found, seen = Found(), set[Path]()
    problems = [Problem("there is no such directory", str(place)) for place in places if not is_directory(place)]
    if problems:
        raise InputError(*problems)
    for place in places:
        for path in run_directories(place):
            if (whole := path.resolve()) not in seen:
                seen.add(whole)
                add_run(found, path)
    if not found.final:
        raise nothing_found(places, found)
    return found


def run_directories(place: Path) -> Iterator[Path]:
    """Yield the directories with a recipe.yaml at or beneath a place, in the order of their names. What lies in a run
    is the run's own.
    """
    for name, folders, files in os.walk(place):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        if "recipe.yaml" in files:
            folders.clear()
            yield Path(name)


def add_run(found: Found, path: Path) -> None:
    """Add a run to what was found: as a record, as unfinished, or as damaged."""
    root, folder = comparison_of(path), path.absolute().parent.name
    if root is not None and folder == ASIDE:
        found.aside.append(path)
        return
    stage = Stage.TUNING if root is not None and folder == TUNING else Stage.FINAL
    plan = None if root is None else plan_at(found, root)
    try:
        if exists(RunDirectory(path).results):
            found.runs.append(read_run(path, stage, plan))
        else:
            found.unfinished.append(read_unfinished(path, stage, plan))
    except InputError as error:
        found.damaged[path] = "; ".join(
            ": ".join(filter(None, (problem.what, problem.found))) for problem in error.problems
        )


def comparison_of(path: Path) -> Path | None:
    """Return the directory of the comparison that a run belongs to; None for a run of no comparison."""
    root = path.absolute().parent.parent
    return root if is_file(root / PLAN) else None


def plan_at(found: Found, root: Path) -> Plan:
    """Return the plan of the comparison in a directory; it is read once."""
    known = next((plan for plan in found.plans if plan.place == root), None)
    if known is None:
        found.plans.append(known := read_plan(root))
    return known


def read_unfinished(path: Path, stage: Stage, plan: Plan | None) -> Unfinished:
    """Return what is known of a run without results."""
    try:
        recipe = load_recipe(str(RunDirectory(path).recipe))
    except InputError:
        return Unfinished(path, stage, "", {})
    keys = keys_of(recipe.model_dump(mode="json"))
    return Unfinished(path, stage, title_of(plan, keys, recipe.method.label), keys)


def nothing_found(places: Sequence[Path], found: Found) -> InputError:
    """Return the error of places without a finished run that is not for tuning alone."""
    counts = {
        "unfinished": len(found.unfinished),
        "damaged": len(found.damaged),
        "for tuning only": len(found.tuning),
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    damaged = [Problem(message, str(path)) for path, message in list(found.damaged.items())[:3]]
    return InputError(
        Problem(
            "no finished run is here",
            ", ".join(map(str, places)),
            said or "no run directory",
            "directories that `reflora train` has finished: recipe.yaml beside results.json",
            "name runs or directories above them, or finish a run: `reflora train ... --resume`",
        ),
        *damaged,
    )
