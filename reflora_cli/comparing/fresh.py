"""Score finished runs on rows that tuning never saw.

Training rows that `task.validation_rows` holds out leave the published evaluation splits for the comparison; otherwise
they were selected by, and a labelled `test` split is fresh, where the data have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli.console.reporter import Reporter
from reflora_cli.evaluation.evaluate import evaluate
from reflora_cli.evaluation.request import Request
from reflora_cli.ground.atomic import write_json
from reflora_cli.ground.errors import InputError
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.rows import data_file
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.tasks.base import Task
from reflora_cli.training.own_labels import with_labels
from reflora_cli.training.own_template import with_template

TEST = "test"
ALL_ROWS = "task.validation_rows=null"
"""The override with which a run that held rows out is scored on the task's own evaluation splits."""
UNSCORED = ("rows", "seconds", "dropped")
"""Numbers in the lines of an evaluation that are no scores."""


@dataclass(frozen=True)
class FreshRows:
    """Rows that tuning never saw, as `reflora eval` is asked for them. split: None for the task's evaluation splits."""

    overrides: tuple[str, ...]
    split: str | None


def fresh_rows(recipe: Recipe) -> FreshRows | None:
    """Return the fresh rows for a run with this recipe; None if its data have none. Raises InputError for data that
    cannot be read.
    """
    recipe = with_template(with_labels(recipe, None))
    task = task_of(recipe.task)
    if recipe.task.validation_rows is not None:
        published = recipe.model_copy(update={"task": recipe.task.model_copy(update={"validation_rows": None})})
        return FreshRows((ALL_ROWS,), None) if has_rows(published, task, None) else None
    own = (split for part in task.with_rows for split in part.evaluation)
    if TEST in own or len(task.with_rows) > 1 or data_file(recipe) is not None:
        return None
    return FreshRows((), TEST) if has_rows(recipe, task, TEST) else None


def has_rows(recipe: Recipe, task: Task, split: str | None) -> bool:
    """Whether a split, or those of the task for None, can be read and have labels."""
    if data_file(recipe) is not None:
        return False
    try:
        kind_of(task).refuse_unscorable(recipe, split)
    except InputError:
        return False
    return True


def score_fresh(run: Path, rows: FreshRows, place: Path, reporter: Reporter) -> None:
    """Score a finished run as `reflora eval` does, and write the scores to a file."""
    request = Request(str(run), rows.overrides, split=rows.split)
    scores: dict[str, Any] = {}
    for found in evaluate(request, reporter):
        scores |= {name: scores_in(line) for name, line in found.lines.items()}
    write_json(place, {"split": rows.split or next(iter(scores)), "scores": scores})


def scores_in(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of one line of an evaluation."""
    return {name: float(own) for name, own in line.items() if isinstance(own, int | float) and name not in UNSCORED}
