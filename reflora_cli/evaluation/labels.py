"""Score a model whose outputs are labels or numbers, and write down what it predicts of each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from reflora_cli.console.reporter import Reporter
from reflora_cli.evaluation.answers import digest
from reflora_cli.evaluation.request import Evaluation, Request
from reflora_cli.ground.atomic import locked, write_file, write_json
from reflora_cli.objectives.objective import Split, refuse_infinite
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.sequence_tally import SequenceTally
from reflora_cli.objectives.watched import watched_tally
from reflora_cli.runs.restore import Restored, model_identity
from reflora_cli.runs.together import of_first
from reflora_cli.tasks.tally import Tally


def evaluate_labels(restored: Restored, request: Request, below: Path | None, reporter: Reporter) -> Evaluation:
    """Score the splits that are asked for. Raises InputError for a model whose loss is not finite.

    below: where the directory with predictions goes if the request names none; None: then none are written.
    """
    recipe, task, objective = restored.recipe, restored.task, restored.objective
    size, base = recipe.eval.batch_size, restored.base.source.name
    splits = list(kind_of(task).splits(recipe, restored.base, request.split, request.limit))
    tallies = {split.name: watched_tally(objective, split, size, reporter) for split in splits}
    scores = {name: own.scores() for name, own in tallies.items()}
    refuse_infinite({name: own["loss"] for name, own in scores.items()})
    adapter = str(restored.files.directory) if restored.files else None
    reports = {name: report for name, own in tallies.items() if (report := own.report())}
    directory = request.output or (below / f"labels-{digest(identity_of(restored, splits))[:8]}" if below else None)
    results: dict[str, Any] = {
        "task": task.name,
        "base": base,
        "adapter": adapter,
        "main_metric": objective.main_metric,
        "rows": {split.name: len(split.rows) for split in splits},
        "scores": scores,
        "dtype": restored.compute.dtype_name,
        "batch_size": size,
        **({"report": reports} if reports else {}),
        **({"directory": str(directory)} if directory else {}),
    }
    if directory is not None:
        of_first(restored.compute, lambda: keep(directory, tallies, results))
    columns = tuple(next(iter(scores.values())))
    return Evaluation(f"{task.name}, {adapter or base}", "split", columns, scores, results, directory, reports)


def keep(directory: Path, tallies: Mapping[str, Tally[Any]], results: Mapping[str, Any]) -> None:
    """Write the predictions of every split, and `results.json`. Raises InputError when another process is at work."""
    with locked(directory):
        for name, tally in tallies.items():
            if isinstance(tally, SequenceTally):
                lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in predictions_of(tally))
                write_file(directory / f"predictions-{name}.jsonl", "".join(lines))
        write_json(directory / "results.json", results)


def identity_of(restored: Restored, splits: Sequence[Split]) -> dict[str, object]:
    """Return everything that decides what is predicted, the rows included."""
    rows = hashlib.sha256()
    for split in splits:
        for row in split.rows:
            rows.update(f"{split.name} {row.input_ids.tolist()} {row.label}\n".encode())
    return {**model_identity(restored), "rows_sha256": rows.hexdigest()}


def predictions_of(tally: SequenceTally) -> Iterator[dict[str, Any]]:
    """Yield what is predicted of each row: its number in the split, from 1, its label, the prediction, and the
    probability of each label.

    Labels are written by name, those of a row that may have several as a list.
    """
    names, labels, predictions = tally.task.label_names, tally.labels(), tally.predictions()
    probabilities = tally.probabilities().tolist()
    for row, (label, predicted, own) in enumerate(zip(labels, predictions, probabilities, strict=True), start=1):
        if tally.task.is_regression:
            yield {"row": row, "label": float(label), "predicted": float(predicted)}
            continue
        line = {"row": row, "label": named(label, names), "predicted": named(predicted, names)}
        yield {**line, "probabilities": dict(zip(names, own, strict=True))}


def named(label: Tensor, names: Sequence[str]) -> str | list[str]:
    """Return the name of a class id [], or the names of those labels that are 1 of [labels]."""
    if label.dim() == 0:
        return names[int(label)]
    return [name for name, has in zip(names, label.tolist(), strict=True) if has]
