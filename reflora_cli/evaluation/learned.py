"""Refuse to score the rows that a run was trained on as if they were new to it."""

from __future__ import annotations

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.rows import data_file
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import RunDirectory, read_environment
from reflora_cli.runs.environment import data_hash
from reflora_cli.tasks.base import Task

UNSCORED = {"every": "never", "at_start": False}
"""The settings with which a run reads its training rows alone."""


def refuse_learned_file(recipe: Recipe, trained: Recipe, task: Task, split: str | None) -> None:
    """Raises InputError if the one file that a run was trained on would be scored as if it were another split.

    recipe: the recipe of the scoring. trained: the run's recipe. Rows that the run held out may be scored.
    """
    file = data_file(recipe)
    if file is None or file != data_file(trained) or split == task.train:
        return
    if kind_of(task).scores_held_out(recipe, split):
        return
    what = "the run was trained on these rows, so their score would say nothing about new rows"
    remedy = f"set task.data to another file, or use --split {task.train} to score the training rows"
    raise InputError(Problem(what, "task.data", recipe.task.data, "rows that were not trained on", remedy))


def has_learned_rows(recipe: Recipe, run: RunDirectory) -> bool:
    """Whether the data of a task of the user's own are those of the run, wherever they lie now."""
    unscored = recipe.model_copy(update={"eval": recipe.eval.model_copy(update=UNSCORED)})
    try:
        task = task_of(recipe.task)
        known = (read_environment(run) or {})["data"][task.train]["sha256"]
        return bool(known == data_hash(kind_of(task).load_examples(unscored)[task.train]))
    except (InputError, OSError, ValueError, KeyError, TypeError):  # of a lost record, or of data unlike the run's
        return False
