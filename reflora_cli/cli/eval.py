"""`reflora eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from reflora_cli.cli.guard import guarded
from reflora_cli.cli.options import Json, Overrides


def eval_command(
    run: Annotated[str, typer.Argument(metavar="RUN|RECIPE", help="A run directory, a YAML file or a bundled recipe.")],
    overrides: Overrides = None,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="An adapter directory, ours or PEFT's.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Score on this task instead; repeatable.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Score this split [default: the task's own].")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N rows.")] = None,
    as_json: Json = False,
) -> None:
    """Score a trained adapter, or any model with the task's head.

    Example: `reflora eval runs/cola-dora --split validation`
    """
    with guarded():
        from reflora_cli.console import print_json, show_table
        from reflora_cli.recipe_file import load_recipe
        from reflora_cli.runs import RunDirectory

        directory = RunDirectory(Path(run))
        is_run = directory.recipe.is_file()
        source = str(directory.recipe) if is_run else run
        chosen = adapter or (directory.adapter if is_run else None)
        fixed = overrides or []
        recipes = [load_recipe(source, [*fixed, f"task.name={name}"]) for name in task or []]
        results = [score(recipe, chosen, split, limit) for recipe in recipes or [load_recipe(source, fixed)]]
        for result in results:
            columns = ["split", *next(iter(result["scores"].values()))]
            rows = [[name, *(f"{v:.4f}" for v in own.values())] for name, own in result["scores"].items()]
            show_table(f"{result['task']}, {result['adapter'] or result['base']}", columns, rows)
        if as_json:
            print_json(results[0] if len(results) == 1 else {"results": results})


def score(recipe: Any, adapter: Path | None, split: str | None, limit: int | None) -> dict[str, Any]:
    """Scores of one task's splits, as printed with --json."""
    from reflora_cli.evaluate import Compute, score_split
    from reflora_cli.restore import load_splits, restore

    restored = restore(recipe, adapter)
    splits = load_splits(restored, (split,) if split else restored.task.evaluation, limit)
    compute = Compute(restored.device, restored.dtype)
    model, base, size = restored.base.model, restored.base, recipe.eval.batch_size
    return {
        "task": restored.task.name,
        "base": base.source.name,
        "adapter": str(adapter) if adapter else None,
        "main_metric": restored.task.main_metric,
        "rows": {own.name: len(own.rows) for own in splits},
        "scores": {own.name: score_split(model, base, restored.task, own, size, compute) for own in splits},
        "dtype": compute.dtype_name,
        "batch_size": size,
    }
