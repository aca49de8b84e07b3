"""Find the runs of a plan that would end before their warm-up does, before any run begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from reflora_cli.comparing.planned import PlannedRun
from reflora_cli.comparing.settings import leaf, limited, shown
from reflora_cli.data.batches import StepSampler
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.training.own_labels import with_labels
from reflora_cli.training.own_template import with_template
from reflora_cli.training.prepare import total_steps


def refuse_short(runs: Iterable[PlannedRun]) -> None:
    """Raises InputError with the problem of every setting whose runs would be refused for their number of steps. Those
    whose data cannot be read are not judged: they fail by themselves, and end no other run.

    Rows are counted as they are read: those that lose their whole answer to task.max_length still count here, so that
    a run of which few rows are left may be refused when it begins.
    """
    counts: dict[str, int | None] = {}
    problems: dict[Problem, None] = {}
    for run in runs:
        key = run.recipe.task.model_dump_json()
        if key not in counts:
            counts[key] = training_rows(run.recipe)
        rows, train = counts[key], run.recipe.train
        if rows is None:
            continue
        try:
            total_steps(run.recipe, StepSampler(rows, train.batch_size, train.seed))
        except InputError as error:
            values = (f"{leaf(own)}={shown(value)}" for own, value in run.tuned.items())
            point = ", ".join([run.setting, *values])
            problems |= {replace(own, what=f"{point}: {own.what}"): None for own in error.problems}
    if problems:
        raise InputError(*limited([*problems]))


def training_rows(recipe: Recipe) -> int | None:
    """Return the number of a run's training rows, as read; None where its data cannot be read."""
    try:
        recipe = with_template(with_labels(recipe, None))
        training, *_ = kind_of(task_of(recipe.task)).load_examples(recipe).values()
    except InputError:
        return None
    return len(training)
