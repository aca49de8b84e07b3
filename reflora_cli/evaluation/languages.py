"""Score a language model on its tasks, with predictions on disk, a closing table, and continuation after an
interruption.

The directory's name contains a digest of everything that decides the outcomes: base, adapter, precision, protocol and
its settings. Another adapter or protocol goes to another directory; nothing is overwritten or mixed.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli import __version__
from reflora_cli.adapter_io.files import WEIGHTS
from reflora_cli.console.reporter import Reporter
from reflora_cli.data.encode_prompts import encode_prompts
from reflora_cli.data.load import load_prompts, refuse_undivided
from reflora_cli.evaluation.prediction_file import PredictionFile
from reflora_cli.ground.atomic import locked, write_json
from reflora_cli.objectives.language import LanguageObjective, by_length
from reflora_cli.objectives.language_rows import held_out_examples, parts_to_score
from reflora_cli.objectives.objective import Split, refuse_infinite
from reflora_cli.objectives.prediction import Tally, mean_interval, wilson
from reflora_cli.runs.environment import base_identity
from reflora_cli.runs.restore import Restored
from reflora_cli.tasks.base import LanguageTask, PromptExample, PromptTask

EVERY_SECONDS = 15.0
"""Seconds between two lines about progress."""


@dataclass(frozen=True)
class Request:
    """What to score. directory: where to write; None for a place in `below` whose name is a digest of the settings."""

    task: LanguageTask
    split: str | None
    limit: int | None
    below: Path
    directory: Path | None


def evaluate_language(restored: Restored, request: Request, reporter: Reporter) -> dict[str, Any]:
    """Score every part of the task; returns what `results.json` in the evaluation's directory holds.

    Raises InputError when another process is at work in that directory.
    """
    objective = restored.objective
    assert isinstance(objective, LanguageObjective)
    identity = outcome_identity(restored, objective)
    directory = request.directory or request.below / f"{identity['protocol']}-{digest(identity)[:8]}"
    refuse_undivided(request.task, restored.recipe.task.data)
    with locked(directory):
        tasks, tallies = score_parts(restored, objective, request, directory, reporter)
        results = {
            "task": request.task.name,
            "tasks": tasks,
            "mean": mean(tallies) if len(tallies) > 1 else None,
            "identity": identity,
            "train_on_prompt": objective.train_on_prompt,
            "batch_size": restored.recipe.eval.batch_size,
            "directory": str(directory),
        }
        write_json(directory / "results.json", results)
    return results


def score_parts(
    restored: Restored, objective: LanguageObjective, request: Request, directory: Path, reporter: Reporter
) -> tuple[dict[str, dict[str, Any]], list[Tally]]:
    """Return the lines of the closing table by name, and the counts of those parts that have candidates."""
    limit, data = request.limit or restored.recipe.task.max_eval_rows, restored.recipe.task.data
    tasks: dict[str, dict[str, Any]] = {}
    tallies: list[Tally] = []
    for name, part, split in parts_to_score(request.task, request.split):
        if not part.has_candidates:
            examples = own_rows(restored, part, request.split) or load_prompts(part, data, split, limit)
            tasks[name] = {**free_text_loss(restored, objective, examples[:limit]), "split": split}
        else:
            examples = load_prompts(part, data, split, limit)
            file = PredictionFile(directory / f"predictions-{place(part, split)}.jsonl", examples)
            seconds = predict_rest(restored, objective, part, file, reporter)
            tallies.append(file.tally)
            tasks[name] = {**summary(file.tally), "split": split, "seconds": seconds}
        refuse_infinite({name: tasks[name].get("loss", 0.0)})
    return tasks, tallies


def own_rows(restored: Restored, task: PromptTask, split: str | None) -> list[PromptExample] | None:
    """Return the rows that training held out, if no split is asked for: for free text there may be no other rows at
    all.
    """
    return held_out_examples(restored.recipe, task) if split is None else None


def outcome_identity(restored: Restored, objective: LanguageObjective) -> dict[str, object]:
    """Return everything beside the rows that decides what is predicted."""
    files = restored.files
    weights = hashlib.sha256((files.directory / WEIGHTS).read_bytes()).hexdigest() if files else None
    return {
        **objective.scorer.settings(),
        "base": base_identity(restored.base),
        "adapter_sha256": weights,
        "dtype": restored.compute.dtype_name,
        "reflora": __version__,
    }


def digest(identity: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def place(task: PromptTask, split: str) -> str:
    """Return the task's part of a file name; a split that is not the task's own is named too."""
    return task.short if (split,) == task.evaluation else f"{task.short}-{split}"


def predict_rest(
    restored: Restored, objective: LanguageObjective, task: PromptTask, file: PredictionFile, reporter: Reporter
) -> float:
    """Score the rows that are not in the file yet; returns the seconds that it took."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    size, begin = restored.recipe.eval.batch_size, time.monotonic()
    shown = begin
    rest = [index for index in by_length(file.examples) if index not in file.done]
    if file.done:
        reporter.note(f"{task.name}: {len(file.done):,} of {len(file.examples):,} rows are there already, {file.path}")
    for start in range(0, len(rest), size):
        batch = rest[start : start + size]
        file.add(batch, objective.scorer.predict(task, [file.examples[index] for index in batch]))
        if time.monotonic() - shown > EVERY_SECONDS:
            shown = time.monotonic()
            reporter.note(f"{task.name}: {file.tally.rows:,} of {len(file.examples):,} rows")
    return time.monotonic() - begin


def summary(tally: Tally) -> dict[str, Any]:
    """Return one task's line of the closing table."""
    return {"rows": tally.rows, **tally.scores(), "interval": list(wilson(tally.correct, tally.rows))}


def mean(tallies: list[Tally]) -> dict[str, Any]:
    """Return the last line, in which every task counts the same."""
    accuracies = [tally.scores()["accuracy"] for tally in tallies]
    rows, unparsed = (sum(getattr(tally, name) for tally in tallies) for name in ("rows", "unparsed"))
    interval = list(mean_interval(tallies))
    return {
        "rows": rows,
        "accuracy": sum(accuracies) / len(accuracies),
        "interval": interval,
        "unparsed": unparsed / max(1, rows),
    }


def free_text_loss(restored: Restored, objective: LanguageObjective, examples: list[PromptExample]) -> dict[str, Any]:
    """Return the loss per supervised token, the only score of free text."""
    section = restored.recipe.task
    encoded = encode_prompts(
        restored.base.tokenizer, examples, section.max_length, train_on_prompt=section.train_on_prompt
    )
    scores = objective.score(Split("loss", encoded.rows), restored.recipe.eval.batch_size)
    return {"rows": len(encoded.rows), **scores, "dropped": encoded.dropped}
