"""Read a run directory into a record: what was asked of it, what it ran on, and what came of it.

Runs of every version are read. What a version did not write is None, and columns that nobody has are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import is_file
from reflora_cli.recipe.dotted import keys_of
from reflora_cli.recipe.files import load_recipe
from reflora_cli.reporting.plans import Plan, title_of
from reflora_cli.runs.comparison import Scores, read_fresh
from reflora_cli.runs.directory import RunDirectory, read_environment, read_results


class Stage(StrEnum):
    """What a run was for: only final runs are in the tables."""

    FINAL = "final"
    TUNING = "tuning"


@dataclass(frozen=True)
class Machine:
    """What a run ran on. versions: of reflora and of the libraries that compute."""

    device: str
    threads: int | None
    dtype: str
    processes: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Cost:
    """What a run took. Seconds are those of training, and for a step the median, which a pause does not change; of a
    run of an older version it is the mean. memory: the peak.
    """

    steps: int
    seconds: float
    seconds_per_step: float
    seconds_per_epoch: float
    memory: int | None
    trained: int | None


@dataclass(frozen=True)
class Course:
    """How a run went. losses: (step, seconds, loss) of each logged step. evaluations: (step, split, scores)."""

    losses: tuple[tuple[int, float, float], ...] = ()
    evaluations: tuple[tuple[int, str, Mapping[str, float]], ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    title: how its row's name begins: the name that a plan gives its setting, or else its method. keys: the resolved
    recipe, by dotted key. base: what identifies the base. rows: the hash of the rows of each split.
    metric: the main one, by which `scores` are compared. scores: those of the table, on rows that tuning never saw
    where `is_fresh`; validation: those that training itself found.
    """

    path: Path
    comparison: Path | None
    stage: Stage
    title: str
    keys: Mapping[str, Any]
    task: str
    base: str
    base_name: str
    method: str
    preset: str
    seed: int
    metric: str
    scores: Scores
    is_fresh: bool
    validation: Scores
    validation_metric: str
    rows: Mapping[str, str]
    row_counts: Mapping[str, int]
    machine: Machine
    cost: Cost
    course: Course

    @property
    def is_finite(self) -> bool:
        """Whether every score of the main metric is a number."""
        return all(math.isfinite(own[self.metric]) for own in self.scores.values() if self.metric in own)


def read_run(path: Path, stage: Stage, plan: Plan | None) -> RunRecord:
    """Return the record of a finished run. plan: that of the run's comparison. Raises InputError for a damaged run."""
    run = RunDirectory(path)
    keys = keys_of(load_recipe(str(run.recipe)).model_dump(mode="json"))
    results = read_results(run)
    if results is None:
        raise InputError(Problem("the run is not finished", str(path)))
    try:
        return record_of(run, keys, results, stage, plan)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(Problem("the results lack what a report needs", str(run.results), repr(error))) from error


def record_of(
    run: RunDirectory, keys: dict[str, Any], results: Mapping[str, Any], stage: Stage, plan: Plan | None
) -> RunRecord:
    """Return the record of a run whose files were read."""
    environment = read_environment(run) or {}
    base = environment.get("base") or {}
    data = environment.get("data") or {}
    fresh = read_fresh(run.path)
    validation, metric = results["scores"] or {}, str(results["main_metric"])
    scores = fresh or validation
    return RunRecord(
        path=run.path,
        comparison=plan.place if plan else None,
        stage=stage,
        title=title_of(plan, keys, str(results["method"])),
        keys={**keys, "model.dtype": results["dtype"], "data.train": (data.get("train") or {}).get("sha256")},
        task=str(results["task"]),
        base=str(base.get("sha256") or base.get("commit") or results["base"]),
        base_name=str(results["base"]),
        method=str(results["method"]),
        preset=str(keys["method.name"]),
        seed=int(results["seed"]),
        metric=main_of(scores, metric),
        scores=scores,
        is_fresh=fresh is not None,
        validation=validation,
        validation_metric=metric,
        rows={split: str(own["sha256"]) for split, own in data.items()},
        row_counts={split: int(own["rows"]) for split, own in data.items()},
        machine=machine_of(environment, results),
        cost=cost_of(results),
        course=read_course(run.metrics),
    )


def machine_of(environment: Mapping[str, Any], results: Mapping[str, Any]) -> Machine:
    """Return what a run ran on; unknown parts are said to be."""
    packages = environment.get("packages") or {}
    versions = {
        "reflora": environment.get("reflora"),
        **{name: packages.get(name) for name in ("torch", "transformers")},
    }
    return Machine(
        device=str(environment.get("device") or "an unknown device"),
        threads=environment.get("threads"),
        dtype=str(results["dtype"]),
        processes=int(results.get("processes", 1)),
        versions={name: str(version) for name, version in versions.items() if version},
    )


def cost_of(results: Mapping[str, Any]) -> Cost:
    """Return what a run took."""
    steps, seconds = int(results["steps"]), float(results["seconds"])
    times = results.get("step_seconds")
    return Cost(
        steps=steps,
        seconds=seconds,
        seconds_per_step=float(times["median"]) if times else seconds / max(steps, 1),
        seconds_per_epoch=float(results["seconds_per_epoch"]),
        memory=results.get("peak_memory_bytes"),
        trained=results.get("trained_parameters"),
    )


def main_of(scores: Scores, metric: str) -> str:
    """Return the metric that is compared: the run's main one, or else the first one that the scores have."""
    first = next(iter(scores.values()), {})
    return metric if metric in first or not first else next(iter(first))


def read_course(path: Path) -> Course:
    """Return how a run went, of its log; lines that are damaged or of other events count as absent."""
    if not is_file(path):
        return Course()
    losses, evaluations = [], []
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            events = [event for line in stream if (event := event_of(line)) is not None]
    except OSError:
        return Course()
    for event in events:
        match event:
            case {
                "event": "step",
                "step": int(step),
                "seconds": int() | float() as seconds,
                "loss": int() | float() as loss,
            }:
                losses.append((step, float(seconds), float(loss)))
            case {"event": "evaluation", "step": int(step), "split": str(split)}:
                numbers = {
                    key: float(own) for key, own in event.items() if key != "step" and isinstance(own, int | float)
                }
                evaluations.append((step, split, numbers))
    return Course(tuple(losses), tuple(evaluations))


def event_of(line: str) -> dict[str, Any] | None:
    """Return one line of a log; None for a damaged one, and for the long ones of no use here."""
    if '"health"' in line[:40]:
        return None
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None
