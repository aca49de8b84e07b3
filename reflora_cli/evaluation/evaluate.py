"""Score a trained adapter, or any model as it is: the one function that `reflora eval` calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from reflora_cli.adapter_io.files import read_adapter
from reflora_cli.console.reporter import Reporter
from reflora_cli.evaluation.answers import evaluate_answers
from reflora_cli.evaluation.labels import evaluate_labels
from reflora_cli.evaluation.learned import has_learned_rows, refuse_learned_file
from reflora_cli.evaluation.request import Evaluation, Request
from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.ground.paths import exists, expanded, is_file
from reflora_cli.model.attention import refuse_attention
from reflora_cli.model.precision import pick_device, resolve_dtype
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.files import is_named, load_recipe
from reflora_cli.recipe.library import bundled_recipes
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.launch import join_launch
from reflora_cli.runs.places import moved_data, run_recipe
from reflora_cli.runs.restore import restore
from reflora_cli.runs.trained_base import adapter_base, unchecked
from reflora_cli.tasks.registry import find_task


def evaluate(request: Request, reporter: Reporter) -> Iterator[Evaluation]:
    """Score model after model: one for each classifier's task, and one for all tasks of a language model.

    Yields each evaluation when it is complete. Raises InputError for what cannot be scored.
    """
    run = RunDirectory(Path(request.source))
    is_run = is_file(run.recipe)
    if not is_run:
        refuse_nothing(request.source)
    adapter = request.adapter or (run.adapter if is_run else None)
    below = (run.path if is_run else Path("runs")) / "evaluations"
    protocol = [f"eval.protocol={request.protocol.value}"] if request.protocol else []
    if request.tasks:
        refuse_other_task(recipe_of(request), request)
    for named in task_overrides(request.tasks):
        recipe = with_recorded_labels(recipe_of(request, *protocol, *named), adapter)
        if is_run:
            recipe = beside_run(recipe, run, request, reporter)
        if request.protocol and not kind_of(task_of(recipe.task)).protocols:
            raise InputError(Problem("--protocol is for language models, and this task has labels", "--protocol"))
        yield evaluate_model(recipe, adapter, request, below, reporter)


def recipe_of(request: Request, *further: str) -> Recipe:
    """Return the recipe to score by, that of a run with the present place of its data. further: more overrides."""
    run, overrides = RunDirectory(Path(request.source)), [*request.overrides, *further]
    return run_recipe(run, overrides) if is_file(run.recipe) else load_recipe(request.source, overrides)


def beside_run(recipe: Recipe, run: RunDirectory, request: Request, reporter: Reporter) -> Recipe:
    """Return the recipe by which a run is scored, seen beside its own. Raises InputError for rows that it learned."""
    trained = run_recipe(run)
    if recipe.task.data == trained.task.data and (moved := moved_data(trained, run)):
        reporter.note(moved)
    recipe = with_all_rows(recipe, trained, run)
    if request.adapter is None:
        refuse_learned_file(recipe, trained, task_of(recipe.task), request.split)
    return recipe


def refuse_nothing(source: str) -> None:
    """Raises InputError for a name of neither a run nor a recipe."""
    path, bundled = expanded(source), bundled_recipes()
    if is_file(path) or source in bundled:
        return
    there = source and exists(path)
    what = "this is neither a run nor a recipe" if there else "there is no such run or recipe"
    expected = "a run directory written by `reflora train`, with recipe.yaml; a YAML file; or a bundled recipe"
    remedy = "" if there else nearest(source, bundled, "reflora list recipes")
    raise InputError(Problem(what, source, expected=expected, remedy=remedy))


def evaluate_model(
    recipe: Recipe, adapter: Path | None, request: Request, below: Path, reporter: Reporter
) -> Evaluation:
    """Score one model. below: where directories with predictions go. Several processes share the rows, the first one
    writes, and all return the evaluation.
    """
    member = join_launch()
    refuse_named_attention(recipe, request, member.device or pick_device())
    restored = restore(recipe, adapter, member.device, member.rank, member.processes)
    if adapter and (doubt := unchecked(recipe.model, adapter_base(adapter))):
        reporter.note(doubt)
    if restored.objective.scorer is None:
        is_run = is_file(RunDirectory(Path(request.source)).recipe)
        return evaluate_labels(restored, request, below if is_run else None, reporter)
    return evaluate_answers(restored, restored.objective.scorer, request, below, reporter)


def refuse_named_attention(recipe: Recipe, request: Request, device: torch.device) -> None:
    """Raises InputError where the user names a way to compute attention that the device lacks; where only the recipe of
    a run does, the one of `auto` is taken.
    """
    if is_named(request.overrides, ("model", "attention")):
        refuse_attention(recipe.model.attention, device, resolve_dtype(recipe.model.dtype, device))


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
        learned = "conversations" if recipe.task.kind == "chat" else "a task of your own"
        what = f"--task cannot be used: the model is trained for {learned}"
        remedy = "leave --task out; to score other rows, set task.data=PATH"
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
    holds_out = section.validation is not None or (section.validation_rows is not None and not task_of(section).parts)
    if not holds_out or section.data == trained.task.data or has_learned_rows(recipe, run):
        return recipe
    all_rows = {"validation": None} if section.validation is not None else {"validation_rows": None}
    return recipe.model_copy(update={"task": section.model_copy(update=all_rows)})
