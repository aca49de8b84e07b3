"""Write into a recipe what its training rows say of a task of the user's own: its labels and their weights.

They are found once, when a run begins, and stand in the run's recipe from then on.
"""

from __future__ import annotations

from pathlib import Path

from reflora_cli.data.load import load_table
from reflora_cli.data.own_labels import find_labels
from reflora_cli.ground.paths import is_file
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.recipe.tasks import described_task
from reflora_cli.runs.directory import RunDirectory


def with_labels(recipe: Recipe, continued: Path | None) -> Recipe:
    """Return the recipe with the labels of its task, if it has labels of its own.

    continued: the directory of a run that is continued, whose recipe knows them already. Raises InputError for labels
    that cannot be trained on.
    """
    section = recipe.task
    if not section.finds_labels:
        return recipe
    known = RunDirectory(continued).recipe if continued is not None else None
    if known is not None and is_file(known):
        return recipe.model_copy(update={"task": continued_section(section, load_recipe(str(known), []).task)})
    return recipe.model_copy(update={"task": found_section(section)})


def continued_section(section: TaskSection, known: TaskSection) -> TaskSection:
    """Return the section with what a run has found before, where it leaves that open."""
    found = {key: getattr(known, key) for key in ("labels", "separator") if getattr(section, key) is None}
    if section.class_weights == "balanced" and known.class_weights is not None:
        found["class_weights"] = known.class_weights
    return section.model_copy(update=found)


def found_section(section: TaskSection) -> TaskSection:
    """Return the section with what its training file says."""
    task = described_task(section)
    own = task.own
    if own is None:
        return section
    found = find_labels(load_table(task, section.data, task.train, None), task, own, section.labels)
    values: dict[str, object] = {"labels": list(found.counts), "separator": found.separator}
    if section.class_weights == "balanced":
        values["class_weights"] = found.weights(several=task.several)
    return section.model_copy(update=values)
