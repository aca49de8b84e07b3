"""Score a model whose outputs are labels or numbers; nothing is written."""

from __future__ import annotations

from typing import Any

from reflora_cli.evaluation.request import Evaluation, Request
from reflora_cli.objectives.objective import refuse_infinite
from reflora_cli.objectives.pick import kind_of
from reflora_cli.runs.restore import Restored


def evaluate_labels(restored: Restored, request: Request) -> Evaluation:
    """Score the splits that are asked for. Raises InputError for a model whose loss is not finite."""
    recipe, task, objective = restored.recipe, restored.task, restored.objective
    size, base = recipe.eval.batch_size, restored.base.source.name
    splits = list(kind_of(task).splits(recipe, restored.base, request.split, request.limit))
    scores = {split.name: objective.score(split, size) for split in splits}
    refuse_infinite({name: own["loss"] for name, own in scores.items()})
    adapter = str(restored.files.directory) if restored.files else None
    results: dict[str, Any] = {
        "task": task.name,
        "base": base,
        "adapter": adapter,
        "main_metric": objective.main_metric,
        "rows": {split.name: len(split.rows) for split in splits},
        "scores": scores,
        "dtype": restored.compute.dtype_name,
        "batch_size": size,
    }
    return Evaluation(f"{task.name}, {adapter or base}", "split", tuple(next(iter(scores.values()))), scores, results)
