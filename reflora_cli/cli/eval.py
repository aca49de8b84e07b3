"""`reflora eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.options import Json, Overrides
from reflora_cli.methods.settings import EvalProtocol


def eval_command(
    run: Annotated[str, typer.Argument(metavar="RUN|RECIPE", help="A run directory, a YAML file or a bundled recipe.")],
    overrides: Overrides = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="An adapter directory, ours or PEFT's.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Score on this task instead; repeatable.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Score this split [default: the task's own].")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N rows.")] = None,
    protocol: Annotated[
        EvalProtocol | None, typer.Option("--protocol", help="For language models [default: the recipe's].")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where predictions go [default: RUN/evaluations/...].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score a trained adapter, or any model as it is.

    Example: `reflora eval runs/llama3 --task commonsense --protocol llm-adapters`
    """
    with guarded():
        refuse_several_processes("reflora eval")
        from reflora_cli.console.output import print_json
        from reflora_cli.ground.paths import is_file
        from reflora_cli.recipe.files import load_recipe
        from reflora_cli.runs.directory import RunDirectory
        from reflora_cli.tasks.base import SequenceTask
        from reflora_cli.tasks.registry import find_task

        directory = RunDirectory(Path(run))
        is_run = is_file(directory.recipe)
        source = str(directory.recipe) if is_run else run
        chosen = adapter or (directory.adapter if is_run else None)
        fixed = [*(overrides or []), *([f"eval.protocol={protocol.value}"] if protocol else [])]
        results = []
        for named in task_overrides(task or []):
            recipe = load_recipe(source, [*fixed, *named])
            asked = find_task(recipe.task.name)
            if is_run and adapter is None:
                from reflora_cli.objectives.rows import refuse_learned_file

                refuse_learned_file(recipe, load_recipe(source, []), asked, split)
            if isinstance(asked, SequenceTask):
                results.append(score_sequence(recipe, chosen, split, limit, (protocol, output)))
            else:
                below = (directory.path if is_run else Path("runs")) / "evaluations"
                results.append(score_language(recipe, chosen, split, limit, (below, output)))
        if as_json:
            print_json(results[0] if len(results) == 1 else {"results": results})


def task_overrides(names: list[str]) -> list[list[str]]:
    """Return recipe overrides for the tasks asked for: language models' tasks are scored together, on one loaded model.

    Every sequence-level task has a head, and so a model, of its own.
    """
    from reflora_cli.tasks.base import SequenceTask
    from reflora_cli.tasks.registry import find_task

    if not names:
        return [[]]
    if any(isinstance(find_task(name), SequenceTask) for name in names):
        return [[f"task.name={name}"] for name in names]
    return [[f"task.name=[{', '.join(names)}]"]]


def score_sequence(
    recipe: Any, adapter: Path | None, split: str | None, limit: int | None, refused: tuple[Any, Path | None]
) -> dict[str, Any]:
    """Score the splits of one sequence-level task, show the scores, and return what --json prints."""
    from reflora_cli.console.output import show_table
    from reflora_cli.ground.errors import InputError, Problem
    from reflora_cli.objectives.objective import refuse_infinite
    from reflora_cli.objectives.sequence_rows import sequence_splits
    from reflora_cli.runs.restore import restore
    from reflora_cli.tasks.base import SequenceTask

    for value, option in zip(refused, ("--protocol", "--output"), strict=True):
        if value:
            raise InputError(Problem("only language models' answers are written down and scored by protocols", option))
    restored = restore(recipe, adapter)
    tell_doubt(recipe, adapter)
    task, size = restored.task, recipe.eval.batch_size
    assert isinstance(task, SequenceTask)
    splits = sequence_splits(recipe, task, restored.base, (split,) if split else task.evaluation, limit)
    scores = {own.name: restored.objective.score(own, size) for own in splits}
    refuse_infinite({name: own["loss"] for name, own in scores.items()})
    base = restored.base.source.name
    rows = [[name, *(f"{value:.4f}" for value in own.values())] for name, own in scores.items()]
    show_table(f"{task.name}, {adapter or base}", ["split", *next(iter(scores.values()))], rows)
    return {
        "task": task.name,
        "base": base,
        "adapter": str(adapter) if adapter else None,
        "main_metric": task.main_metric,
        "rows": {own.name: len(own.rows) for own in splits},
        "scores": scores,
        "dtype": restored.compute.dtype_name,
        "batch_size": size,
    }


def score_language(
    recipe: Any,
    adapter: Path | None,
    split: str | None,
    limit: int | None,
    places: tuple[Path, Path | None],
) -> dict[str, Any]:
    """Score a language model's tasks, show the scores, and return what --json prints."""
    from reflora_cli.console.output import make_reporter, show_table
    from reflora_cli.evaluation.languages import Request, evaluate_language
    from reflora_cli.runs.restore import restore
    from reflora_cli.tasks.base import SequenceTask

    restored, reporter = restore(recipe, adapter), make_reporter()
    tell_doubt(recipe, adapter)
    assert not isinstance(restored.task, SequenceTask)
    results = evaluate_language(restored, Request(restored.task, split, limit, *places), reporter)
    lines = {**results["tasks"], **({"mean": results["mean"]} if results["mean"] else {})}
    columns = [c for c in COLUMNS if any(c in own for own in lines.values())]
    rows = [[name, *(cell(own.get(column)) for column in columns)] for name, own in lines.items()]
    protocol = results["identity"]["protocol"]
    show_table(f"{protocol}, {adapter or restored.base.source.name}", ["task", *columns], rows)
    reporter.note(f"row by row: {results['directory']}")
    return {"base": restored.base.source.name, "adapter": str(adapter) if adapter else None, **results}


def tell_doubt(recipe: Any, adapter: Path | None) -> None:
    """Say what could not be checked about an adapter's base."""
    from reflora_cli.console.output import make_reporter
    from reflora_cli.runs.trained_base import adapter_base, unchecked

    if adapter and (doubt := unchecked(recipe.model, adapter_base(adapter))):
        make_reporter().note(doubt)


COLUMNS = ("rows", "accuracy", "interval", "accuracy_by_character", "unparsed", "cut", "loss", "dropped")
"""The columns of the closing table."""


def cell(value: Any) -> str:
    """Return a number, an interval or nothing as text."""
    match value:
        case None:
            return ""
        case [low, high]:
            return f"{low:.4f} to {high:.4f}"
        case float():
            return f"{value:.4f}"
        case _:
            return f"{value:,}"
