"""Score a model by the answers that a protocol finds, with predictions on disk and continuation after an interruption.

The directory's name contains a digest of everything that decides the outcomes: base, adapter, precision, protocol and
its settings. Another adapter or protocol goes to another directory; nothing is overwritten or mixed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reflora_cli import __version__
from reflora_cli.adapter_io.files import WEIGHTS
from reflora_cli.console.reporter import Reporter
from reflora_cli.evaluation.prediction_file import PredictionFile
from reflora_cli.evaluation.request import Evaluation, Request
from reflora_cli.ground.atomic import locked, write_json
from reflora_cli.objectives.language import by_length
from reflora_cli.objectives.objective import Sample, Split, refuse_infinite
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.runs.environment import base_identity
from reflora_cli.runs.restore import Restored
from reflora_cli.tasks.answers import AnswerCounts, mean_interval
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.tally import Tally

EVERY_SECONDS = 15.0
"""Seconds between two lines about progress."""
COLUMNS = (
    "rows",
    "accuracy",
    "bleu",
    "interval",
    "accuracy_by_character",
    "unparsed",
    "cut",
    "loss",
    "perplexity",
    "dropped",
)
"""The first columns of the closing table, before those of other scores."""
UNSHOWN = ("split", "seconds")


@dataclass(frozen=True)
class Line:
    """One line of the closing table, the tally from which it was made, and rows with the model's answers."""

    values: dict[str, Any]
    tally: Tally[Any]
    samples: Sequence[Sample] = ()


def evaluate_answers(
    restored: Restored, scorer: Scorer, request: Request, below: Path, reporter: Reporter
) -> Evaluation:
    """Score every part of the task, and write `results.json` to the evaluation's directory.

    below: where this directory is, if the request names none. Raises InputError when another process is at work in it.
    """
    recipe, identity = restored.recipe, outcome_identity(restored, scorer)
    directory = request.output or below / f"{identity['protocol']}-{digest(identity)[:8]}"
    splits = kind_of(restored.task).splits(recipe, restored.base, request.split, request.limit)
    with locked(directory):
        lines = {split.name: score_split(restored, scorer, split, directory, reporter) for split in splits}
        samples = {name: [own.record() for own in line.samples] for name, line in lines.items() if line.samples}
        counts = [line.tally for line in lines.values() if isinstance(line.tally, AnswerCounts)]
        results = {
            "task": restored.task.name,
            "tasks": {name: line.values for name, line in lines.items()},
            "mean": mean(counts) if len(counts) > 1 else None,
            **({"samples": samples} if samples else {}),
            "identity": identity,
            "train_on_prompt": recipe.task.train_on_prompt,
            "batch_size": recipe.eval.batch_size,
            "directory": str(directory),
        }
        write_json(directory / "results.json", results)
    return as_evaluation(restored, results, directory)


def as_evaluation(restored: Restored, results: dict[str, Any], directory: Path) -> Evaluation:
    """Return what `results.json` holds, with what is shown of it."""
    adapter = str(restored.files.directory) if restored.files else None
    base = restored.base.source.name
    lines = {**results["tasks"], **({"mean": results["mean"]} if results["mean"] else {})}
    names = dict.fromkeys(name for line in lines.values() for name in line if name not in UNSHOWN)
    columns = (*(name for name in COLUMNS if name in names), *(name for name in names if name not in COLUMNS))
    title = f"{results['identity']['protocol']}, {adapter or base}"
    return Evaluation(title, "task", columns, lines, {"base": base, "adapter": adapter, **results}, directory=directory)


def score_split(restored: Restored, scorer: Scorer, split: Split, directory: Path, reporter: Reporter) -> Line:
    """Score one split by the protocol, or by the loss of its rows where there is no answer to find."""
    size = restored.recipe.eval.batch_size
    if split.task is None:
        tally = restored.objective.tally(split, size)
        line = Line({**summary(tally), "dropped": split.dropped, "split": split.data_split}, tally)
    else:
        path = directory / f"predictions-{place(split.task, split.data_split)}.jsonl"
        file = PredictionFile(path, split.rows, split.task.tally())
        seconds = predict_rest(scorer, split.task, file, size, reporter)
        line = Line({**summary(file.tally), "split": split.data_split, "seconds": seconds}, file.tally)
    refuse_infinite({split.name: line.values.get("loss", 0.0)})
    samples = restored.objective.samples(split)
    for sample in samples:
        reporter.note(f"sample: {sample.line()}")
    return replace(line, samples=samples)


def outcome_identity(restored: Restored, scorer: Scorer) -> dict[str, object]:
    """Return everything beside the rows that decides what is predicted."""
    files = restored.files
    weights = hashlib.sha256((files.directory / WEIGHTS).read_bytes()).hexdigest() if files else None
    return {
        **scorer.settings(),
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


def predict_rest(scorer: Scorer, task: PromptTask, file: PredictionFile, size: int, reporter: Reporter) -> float:
    """Score the rows that are not in the file yet, `size` at a time; returns the seconds that it took."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    begin = shown = time.monotonic()
    rest = [index for index in by_length(file.examples) if index not in file.done]
    if file.done:
        reporter.note(f"{task.name}: {len(file.done):,} of {len(file.examples):,} rows are there already, {file.path}")
    for start in range(0, len(rest), size):
        batch = rest[start : start + size]
        file.add(batch, scorer.predict(task, [file.examples[index] for index in batch]))
        if time.monotonic() - shown > EVERY_SECONDS:
            shown = time.monotonic()
            reporter.note(f"{task.name}: {file.tally.rows:,} of {len(file.examples):,} rows")
    return time.monotonic() - begin


def summary(tally: Tally[Any]) -> dict[str, Any]:
    """Return the scores of a line, with the interval of the main one if there is one."""
    interval = tally.interval()
    return {"rows": tally.rows, **tally.scores(), **({"interval": list(interval)} if interval else {})}


def mean(counts: Sequence[AnswerCounts]) -> dict[str, Any]:
    """Return the last line, in which every task counts the same."""
    accuracies = [own.scores()["accuracy"] for own in counts]
    rows, unparsed = sum(own.rows for own in counts), sum(own.unparsed for own in counts)
    return {
        "rows": rows,
        "accuracy": sum(accuracies) / len(accuracies),
        "interval": list(mean_interval(counts)),
        "unparsed": unparsed / max(1, rows),
    }
