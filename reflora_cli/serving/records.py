"""Turn questions and answers into records, and records into the text of a file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reflora_cli.objectives.asking import Answer, Question

Record = dict[str, Any]
"""One row: its number from 1, its texts, and what the model answered."""
ROW = "row"
INPUT = "input."
"""What stands before a column of texts that has the name of an answer's field."""


def record(number: int, question: Question, answer: Answer) -> Record:
    """Return one row's record. number: counted from 1."""
    cut = {"truncated": True} if answer.truncated else {}
    taken = {ROW, *answer.values, *cut}
    texts = {f"{INPUT}{name}" if name in taken else name: text for name, text in question.inputs.items()}
    return {ROW: number, **texts, **answer.values, **cut}


def jsonl_text(records: Sequence[Record]) -> str:
    """Return one JSON object in each line."""
    return "".join(json.dumps(own, ensure_ascii=False, allow_nan=False) + "\n" for own in records)


def csv_text(records: Sequence[Record]) -> str:
    """Return a table with a header. Values by name, as probabilities, get a column for each name, such as
    `probabilities.entailment`; they are JSON in one cell where rows have different names.
    """
    apart = {key for key in keys_of(records) if are_alike([own.get(key) for own in records])}
    rows = [flat(own, apart) for own in records]
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(keys_of(rows)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def keys_of(records: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    return dict.fromkeys(key for own in records for key in own)


def are_alike(values: Sequence[Any]) -> bool:
    """Whether all are mappings with the same names."""
    return all(isinstance(value, dict) and list(value) == list(values[0]) for value in values)


def flat(own: Record, apart: set[str]) -> Record:
    """Return a record whose values are cells. apart: the fields that get a column for each of their names."""
    cells: Record = {}
    for key, value in own.items():
        if key in apart:
            cells |= {f"{key}.{name}": one for name, one in value.items()}
        else:
            cells[key] = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
    return cells
