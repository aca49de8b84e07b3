"""Keep predictions on disk while they are made, and write the whole file when all are there.

While a command runs, or after it was interrupted, the answers are in `FILE.part/`, one line for each, in the order in
which they were made. The same command continues behind the last whole line. FILE itself is whole or absent, and holds
the rows in their own order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reflora_cli.data.read import read_file
from reflora_cli.ground.atomic import locked, readable_os_errors, whole_lines, write_file
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_file
from reflora_cli.objectives.asking import Answer, Question
from reflora_cli.serving.records import Record, csv_text, jsonl_text

WRITERS = {".jsonl": jsonl_text, ".csv": csv_text}
"""The function that writes records, by a file's suffix."""
DIGEST = "digest"
"""The field that identifies model, settings and rows: it is the same in all rows of a file."""
REMEDY = "choose another --output, or remove it"


class Begin(BaseModel):
    """The first line: what decides the answers."""

    model_config = ConfigDict(strict=True, extra="forbid")

    digest: str


class Line(BaseModel):
    """Every other line: an answer by the number of its row, from 0."""

    model_config = ConfigDict(strict=True, extra="forbid")

    id: int = Field(ge=0)
    values: dict[str, Any]
    truncated: bool


def check_output(path: Path) -> None:
    """Raises InputError for a file that cannot be written in any known form."""
    if path.suffix.lower() not in WRITERS:
        expected = " or ".join(f"a file named *{suffix}" for suffix in WRITERS)
        raise InputError(Problem("predictions cannot be written in this file format", "--output", str(path), expected))
    if path.is_symlink() or (exists(path) and not is_file(path)):
        raise InputError(
            Problem("predictions cannot be written here: this is not an ordinary file", str(path), remedy=REMEDY)
        )


@contextmanager
def output_file(path: Path, identity: Mapping[str, object], questions: Sequence[Question]) -> Iterator[OutputFile]:
    """Yield the answers that are there already, to be completed. Raises InputError if they are of other rows or of
    another model, and when another process is writing them.
    """
    part = path.with_name(f"{path.name}.part")
    with locked(part):
        yield OutputFile(path, part / "answers.jsonl", identity, questions)
    if is_file(path):
        with suppress(OSError):  # another process may have begun to write there
            part.rmdir()


class OutputFile:
    """The answers to some questions, on disk."""

    def __init__(self, path: Path, part: Path, identity: Mapping[str, object], questions: Sequence[Question]) -> None:
        """Read what is there already."""
        self.path, self.part, self.questions = path, part, questions
        everything = json.dumps([dict(identity), [dict(own.inputs) for own in questions]], sort_keys=True)
        self.digest = hashlib.sha256(everything.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        self.answers: dict[int, Answer] = {}
        self.is_whole = is_file(path)
        if self.is_whole:
            self.check_whole()
        elif is_file(part):
            for number, line in enumerate(whole_lines(part)):
                self.take(line, is_first=number == 0)

    def check_whole(self) -> None:
        """Raises InputError for a finished file that holds anything but the answers of this model to these rows. What
        an interrupted command may have left beside it is removed.
        """
        try:
            table = read_file(self.path, (DIGEST,), None)
        except InputError as error:
            raise self.refusal("the existing file does not hold predictions") from error
        if table.columns.get(DIGEST) != [self.digest] * len(self.questions):
            raise self.refusal("the existing file does not hold the predictions of this model for these rows")
        self.remove_part()

    def refusal(self, what: str) -> InputError:
        return InputError(Problem(what, str(self.path), remedy=REMEDY))

    def remove_part(self) -> None:
        with readable_os_errors(self.part):
            self.part.unlink(missing_ok=True)

    def take(self, line: bytes, *, is_first: bool) -> None:
        remedy = f"choose another --output, or remove {self.part.parent}"
        try:
            found = (Begin if is_first else Line).model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise InputError(
                Problem("a line of the file is not a prediction", str(self.part), reason, remedy=remedy)
            ) from error
        if isinstance(found, Line):
            self.answers[found.id] = Answer(found.values, found.truncated)
        elif found.digest != self.digest:
            what = "the unfinished predictions in this directory are of other rows or of another model"
            raise InputError(Problem(what, str(self.part.parent), remedy=remedy))

    def add(self, indices: Sequence[int], answers: Sequence[Answer]) -> None:
        """Append one batch and flush it to the disk."""
        lines = [json.dumps({"id": index, **asdict(own)}) for index, own in zip(indices, answers, strict=True)]
        with readable_os_errors(self.part), self.part.open("a", encoding="utf-8") as stream:
            if not stream.tell():
                stream.write(Begin(digest=self.digest).model_dump_json() + "\n")
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()
            os.fsync(stream.fileno())
        self.answers |= dict(zip(indices, answers, strict=True))

    def finish(self, records: Sequence[Record]) -> None:
        """Write the file, with the digest in every row, and remove what was kept meanwhile."""
        write = WRITERS[self.path.suffix.lower()]
        write_file(self.path, write([{**own, DIGEST: self.digest} for own in records]))
        self.remove_part()
