"""Keep `predictions-TASK.jsonl`: one line for every scored row, so that a result can be checked by hand.

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

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reflora_cli.ground.atomic import readable_os_errors, whole_lines
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_file
from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.tally import Tally

FIELDS = tuple(Prediction.__dataclass_fields__)


class Line(BaseModel):
    """One line: a row by its number and the digest of its prompt, and what was predicted of it."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: int = Field(ge=0)
    prompt: str
    label: str
    parsed: str | None
    output: str | None
    scores: dict[str, float] | None
    by_character: str | None
    cut: bool
    references: tuple[str, ...] = ()


class PredictionFile:
    """Predictions of one task's rows, kept on disk; in memory is only what the tally keeps of them."""

    def __init__(self, path: Path, examples: Sequence[PromptExample], tally: Tally[Prediction]) -> None:
        """tally: an empty one."""
        self.path, self.examples, self.tally = path, examples, tally
        self.done: set[int] = set()

    def read(self) -> tuple[set[int], Tally[Prediction]]:
        """Count what is there already; returns the rows and their tally. Raises InputError when it belongs to other
        rows.
        """
        if self.path.is_symlink() or (exists(self.path) and not is_file(self.path)):
            what = "predictions cannot be written here: this is not an ordinary file"
            raise InputError(Problem(what, str(self.path), remedy="remove it, or choose another --output"))
        for line in whole_lines(self.path) if is_file(self.path) else ():
            self.take(line)
        return self.done, self.tally

    def take(self, line: bytes) -> None:
        """Count one line, unless its row is beyond those asked for."""
        try:
            record = Line.model_validate_json(line)
        except ValidationError as error:
            what, remedy = "a line of the file is not a prediction", "remove the file, or choose another --output"
            first = error.errors()[0]
            found = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise InputError(Problem(what, str(self.path), found, remedy=remedy)) from error
        if record.id >= len(self.examples) or record.id in self.done:
            return
        example = self.examples[record.id]
        own = (prompt_id(example), example.label, example.references)
        if (record.prompt, record.label, record.references) != own:
            remedy = "choose another --output, or remove the directory"
            what = "the existing predictions are of other rows: the data has changed since"
            raise InputError(Problem(what, f"{self.path}, id {record.id}", remedy=remedy))
        self.count([record.id], [Prediction(**{name: getattr(record, name) for name in FIELDS})])

    def count(self, indices: Iterable[int], predictions: Iterable[Prediction]) -> None:
        """Take in one batch."""
        for index, prediction in zip(indices, predictions, strict=True):
            self.done.add(index)
            self.tally.add(prediction)

    def write(self, indices: Iterable[int], predictions: Iterable[Prediction]) -> None:
        """Append one batch and flush it to the disk."""
        with readable_os_errors(self.path), self.path.open("a", encoding="utf-8") as stream:
            for index, prediction in zip(indices, predictions, strict=True):
                own = {"id": index, "prompt": prompt_id(self.examples[index]), "correct": prediction.correct}
                stream.write(json.dumps({**own, **asdict(prediction)}, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def prompt_id(example: PromptExample) -> str:
    """Return the beginning of the prompt's sha256."""
    return hashlib.sha256(example.prompt.encode("utf-8", "surrogatepass")).hexdigest()[:16]
