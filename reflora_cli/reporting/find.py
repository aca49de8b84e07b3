"""Find the run directories beneath the places that a report is made of."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_directory, is_file
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.yaml_lines import parse_yaml
from reflora_cli.reporting.records import RunRecord, Stage, keys_of, read_run
from reflora_cli.runs.comparison import ASIDE, PLAN, TUNING
from reflora_cli.runs.directory import RunDirectory


@dataclass(frozen=True)
class Plan:
    """What a comparison's plan says of its report. tuned: the recipe keys that were tuned. baseline_keys: the recipe of
    the setting that is called like the baseline, by dotted key; empty if there is none.
    """

    place: Path
    baseline: str | None
    tuned: tuple[str, ...]
    baseline_keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Unfinished:
    """A run without results. method: its label; keys: its resolved recipe. Both are empty if it cannot be read."""

    path: Path
    stage: Stage
    method: str
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
    if root is not None and all(plan.place != root for plan in found.plans):
        found.plans.append(read_plan(root))
    try:
        if exists(RunDirectory(path).results):
            found.runs.append(read_run(path, stage, root))
        else:
            found.unfinished.append(read_unfinished(path, stage))
    except InputError as error:
        found.damaged[path] = "; ".join(
            ": ".join(filter(None, (problem.what, problem.found))) for problem in error.problems
        )


def comparison_of(path: Path) -> Path | None:
    """Return the directory of the comparison that a run belongs to; None for a run of no comparison."""
    root = path.absolute().parent.parent
    return root if is_file(root / PLAN) else None


def read_unfinished(path: Path, stage: Stage) -> Unfinished:
    """Return what is known of a run without results."""
    try:
        recipe = load_recipe(str(RunDirectory(path).recipe))
    except InputError:
        return Unfinished(path, stage, "", {})
    return Unfinished(path, stage, recipe.method.label, keys_of(recipe.model_dump(mode="json")))


def read_plan(root: Path) -> Plan:
    """Return what the plan of a comparison says; a plan that cannot be read says nothing."""
    try:
        values, _ = parse_yaml((root / PLAN).read_text(encoding="utf-8"), str(root / PLAN))
    except (OSError, ValueError, InputError):
        values = None
    if not isinstance(values, dict):
        return Plan(root, None, ())
    baseline, tune = values.get("baseline"), values.get("tune")
    grid = {**tune, **(tune.get("grid") or {})} if isinstance(tune, dict) else {}
    tuned = tuple(key for key in grid if "." in key)
    if not isinstance(baseline, str):
        return Plan(root, None, tuned)
    try:
        keys = keys_of(values["settings"][baseline]["resolved"])
    except (KeyError, TypeError, AttributeError):
        keys = {}
    return Plan(root, baseline, tuned, keys)


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
