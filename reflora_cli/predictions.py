"""`predictions-TASK.jsonl`: one line for every scored row, so that a result can be checked by hand.

Lines are added in the order in which rows are scored, and never changed. An evaluation that was interrupted, even in
the middle of a line, continues behind the last whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reflora_cli.errors import InputError, Problem
from reflora_cli.objectives.prediction import Prediction, Tally
from reflora_cli.runs import readable_os_errors
from reflora_cli.tasks.base import PromptExample

FIELDS = tuple(Prediction.__dataclass_fields__)


class PredictionFile:
    """Predictions of one task's rows, kept on disk; of them only counts are held in memory."""

    def __init__(self, path: Path, examples: Sequence[PromptExample]) -> None:
        """Reads what is there already. Raises InputError when that belongs to other rows."""
        self.path, self.examples = path, examples
        self.tally = Tally()
        self.done: set[int] = set()
        if path.exists():
            self.read()

    def read(self) -> None:
        with readable_os_errors(self.path), self.path.open("r+b") as stream:
            whole = 0
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                self.take(line)
            stream.truncate(whole)

    def take(self, line: bytes) -> None:
        """Count one line, unless its row is beyond those asked for."""
        try:
            record: dict[str, Any] = json.loads(line)
            index, prompt = record["id"], record["prompt"]
            prediction = Prediction(**{name: record[name] for name in FIELDS})
        except (ValueError, KeyError, TypeError) as error:
            remedy = "remove the file, or choose another --output"
            raise InputError(
                Problem("this is no line of predictions", str(self.path), str(error), remedy=remedy)
            ) from error
        if index >= len(self.examples) or index in self.done:
            return
        if prompt != prompt_id(self.examples[index]):
            remedy = "choose another --output, or remove the directory"
            what = "the predictions there are of other rows: the data has changed since"
            raise InputError(Problem(what, f"{self.path}, id {index}", remedy=remedy))
        self.done.add(index)
        self.tally.add(prediction)

    def add(self, indices: Iterable[int], predictions: Iterable[Prediction]) -> None:
        """Append one batch and flush it to the disk."""
        with readable_os_errors(self.path), self.path.open("a", encoding="utf-8") as stream:
            for index, prediction in zip(indices, predictions, strict=True):
                own = {"id": index, "prompt": prompt_id(self.examples[index]), "correct": prediction.correct}
                stream.write(json.dumps({**own, **asdict(prediction)}, ensure_ascii=False) + "\n")
                self.done.add(index)
                self.tally.add(prediction)
            stream.flush()
            os.fsync(stream.fileno())


def prompt_id(example: PromptExample) -> str:
    """The beginning of the sha256 of the prompt."""
    return hashlib.sha256(example.prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
