"""Score a trained adapter, or any model as it is: the one function that `reflora eval` calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from reflora_cli.adapter_io.files import read_adapter
from reflora_cli.console.reporter import Reporter
from reflora_cli.evaluation.answers import evaluate_answers
from reflora_cli.evaluation.labels import evaluate_labels
from reflora_cli.evaluation.learned import has_learned_rows, refuse_learned_file
from reflora_cli.evaluation.request import Evaluation, Request
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import is_file
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.restore import restore
from reflora_cli.runs.trained_base import adapter_base, unchecked
from reflora_cli.tasks.registry import find_task


def evaluate(request: Request, reporter: Reporter) -> Iterator[Evaluation]:
    """Score model after model: one for each classifier's task, and one for all tasks of a language model.

    Yields each evaluation when it is complete. Raises InputError for what cannot be scored.
    """
    run = RunDirectory(Path(request.source))
    is_run = is_file(run.recipe)
    source = str(run.recipe) if is_run else request.source
    adapter = request.adapter or (run.adapter if is_run else None)
    below = (run.path if is_run else Path("runs")) / "evaluations"
    protocol = [f"eval.protocol={request.protocol.value}"] if request.protocol else []
    if request.tasks:
        refuse_other_task(load_recipe(source, request.overrides), request)
    for named in task_overrides(request.tasks):
        recipe = with_recorded_labels(load_recipe(source, [*request.overrides, *protocol, *named]), adapter)
        if is_run:
            recipe = with_all_rows(recipe, load_recipe(source, []), run)
        task = task_of(recipe.task)
        if is_run and request.adapter is None:
            refuse_learned_file(recipe, load_recipe(source, []), task, request.split)
        if request.protocol and not kind_of(task).protocols:
            raise InputError(Problem("only language models' answers are found by protocols", "--protocol"))
        yield evaluate_model(recipe, adapter, request, below, reporter)


def evaluate_model(
    recipe: Recipe, adapter: Path | None, request: Request, below: Path, reporter: Reporter
) -> Evaluation:
    """Score one model. below: where directories with predictions go."""
    restored = restore(recipe, adapter)
    if adapter and (doubt := unchecked(recipe.model, adapter_base(adapter))):
        reporter.note(doubt)
    if restored.objective.scorer is None:
        is_run = is_file(RunDirectory(Path(request.source)).recipe)
        return evaluate_labels(restored, request, below if is_run else None)
    return evaluate_answers(restored, restored.objective.scorer, request, below, reporter)


def task_overrides(names: Sequence[str]) -> list[list[str]]:
    """Return recipe overrides for the tasks asked for: language models' tasks are scored together, on one loaded model.

    Every sequence-level task has a head, and so a model, of its own.
    """
    if not names:
        return [[]]
    if all(find_task(name).parts for name in names):
        return [[f"task.name=[{', '.join(names)}]"]]
    return [[f"task.name={name}"] for name in names]


def refuse_other_task(recipe: Recipe, request: Request) -> None:
    """Raises InputError where a named task would be scored with the columns of a task of the user's own."""
    if recipe.task.kind is not None:
        what = "the model is trained for a task of your own"
        remedy = "leave --task out; task.data=PATH scores other rows"
        raise InputError(Problem(what, "--task", ", ".join(request.tasks), remedy=remedy))


def with_recorded_labels(recipe: Recipe, adapter: Path | None) -> Recipe:
    """Return the recipe with the labels that the adapter records, where a task of the user's own leaves them open."""
    section = recipe.task
    if not section.finds_labels or section.labels is not None or adapter is None:
        return recipe
    names = read_adapter(adapter).record.get("label_names")
    recorded = [str(name) for name in names] if isinstance(names, list) and names else None
    return recipe.model_copy(update={"task": section.model_copy(update={"labels": recorded})})


def with_all_rows(recipe: Recipe, trained: Recipe, run: RunDirectory) -> Recipe:
    """Return the recipe without rows held out of other data than the run's: all rows there are new to the run."""
    section = recipe.task
    if section.validation is None or section.data == trained.task.data or has_learned_rows(recipe, run):
        return recipe
    return recipe.model_copy(update={"task": section.model_copy(update={"validation": None})})
