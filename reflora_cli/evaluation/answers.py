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
from functools import partial
from pathlib import Path
from typing import Any

from reflora_cli.console.reporter import Reporter, Work
from reflora_cli.evaluation.prediction_file import PredictionFile
from reflora_cli.evaluation.request import Evaluation, Request
from reflora_cli.ground.atomic import write_json
from reflora_cli.objectives.objective import Sample, Split, mine, refuse_infinite
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.objectives.watched import score_of, watched_tally
from reflora_cli.runs.restore import Restored, model_identity
from reflora_cli.runs.together import locked_by_first, of_all, of_first
from reflora_cli.tasks.answers import AnswerCounts, Prediction, mean_interval
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.tally import Tally

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
    with locked_by_first(directory, restored.compute):
        lines = {split.name: score_split(restored, split, directory, reporter) for split in splits}
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
        of_first(restored.compute, lambda: write_json(directory / "results.json", results))
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


def score_split(restored: Restored, split: Split, directory: Path, reporter: Reporter) -> Line:
    """Score one split by the protocol, or by the loss of its rows where there is no answer to find."""
    size = restored.recipe.eval.batch_size
    if split.task is None:
        tally = watched_tally(restored.objective, split, size, reporter)
        line = Line({**summary(tally), "dropped": split.dropped, "split": split.data_split}, tally)
    else:
        path = directory / f"predictions-{place(split.task, split.data_split)}.jsonl"
        file = PredictionFile(path, split.rows, split.task.tally())
        file.done, file.tally = of_first(restored.compute, file.read)
        begin = time.monotonic()
        predict_rest(restored, split.task, file, reporter)
        seconds = time.monotonic() - begin
        line = Line({**summary(file.tally), "split": split.data_split, "seconds": seconds}, file.tally)
    refuse_infinite({split.name: line.values.get("loss", 0.0)})
    samples = restored.objective.samples(split)
    for sample in samples:
        reporter.note(f"sample: {sample.line()}")
    return replace(line, samples=samples)


def outcome_identity(restored: Restored, scorer: Scorer) -> dict[str, object]:
    """Return everything beside the rows that decides what is predicted."""
    return {**scorer.settings(), **model_identity(restored)}


def digest(identity: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def place(task: PromptTask, split: str) -> str:
    """Return the task's part of a file name; a split that is not the task's own is named too."""
    return task.short if (split,) == task.evaluation else f"{task.short}-{split}"


def predict_rest(restored: Restored, task: PromptTask, file: PredictionFile, reporter: Reporter) -> None:
    """Score the rows that are not in the file yet, a batch at a time. Processes take the batches in turn, and the first
    one writes them in the order in which one process would.
    """
    compute, size, rows = restored.compute, restored.recipe.eval.batch_size, len(file.examples)
    if file.done:
        reporter.note(f"{task.name}: {len(file.done):,} of {rows:,} rows are there already, {file.path}")
    # All rows are planned, so that an interrupted evaluation continues with the batches of one that was not.
    planned = scorer_of(restored).batches(file.examples, size)
    batches = [rest for batch in planned if (rest := [index for index in batch if index not in file.done])]
    with reporter.counting(Work(f"scoring {task.name}", rows, before=len(file.done))) as tell:
        for begin in range(0, len(batches), compute.processes):
            turn = batches[begin : begin + compute.processes]
            for batch, found in zip(turn, predicted(restored, task, file.examples, turn), strict=True):
                if compute.rank == 0:
                    file.write(batch, found)
                file.count(batch, found)
            tell(len(file.done), partial(score_of, file.tally))


def predicted(
    restored: Restored, task: PromptTask, examples: Sequence[PromptExample], turn: list[list[int]]
) -> list[list[Prediction]]:
    """Return the predictions of at most one batch for each process, in all processes."""
    scorer, compute = scorer_of(restored), restored.compute
    own = [scorer.predict(task, [examples[index] for index in batch]) for batch in mine(turn, compute)]
    return of_all(compute, own)


def scorer_of(restored: Restored) -> Scorer:
    """Return the protocol of a model whose answers are found row by row."""
    assert restored.objective.scorer is not None
    return restored.objective.scorer


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
