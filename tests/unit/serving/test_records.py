"""Records keep every text and every answer, in both forms of files."""

from __future__ import annotations

import csv
import io
import json

from reflora_cli.objectives.asking import Answer, Question
from reflora_cli.serving.records import csv_text, jsonl_text, record


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_column_with_the_name_of_an_answer_is_kept() -> None:
    own = record(3, Question({"label": "a text", "row": "7", "body": "b"}, None), Answer({"label": "yes"}, False))
    assert own == {"row": 3, "input.label": "a text", "input.row": "7", "body": "b", "label": "yes"}


def test_a_row_says_that_it_was_truncated() -> None:
    assert record(1, Question({"text": "a"}, None), Answer({"value": 0.5}, True))["truncated"] is True
    assert "truncated" not in record(1, Question({"text": "a"}, None), Answer({"value": 0.5}, False))


def test_values_by_name_get_columns_where_all_rows_have_the_same_names() -> None:
    alike = [{"row": 1, "p": {"a": 0.25, "b": 0.75}}, {"row": 2, "p": {"a": 0.5, "b": 0.5}}]
    assert table(csv_text(alike)) == [
        {"row": "1", "p.a": "0.25", "p.b": "0.75"},
        {"row": "2", "p.a": "0.5", "p.b": "0.5"},
    ]
    unlike = [{"row": 1, "p": {"a": 1.0}}, {"row": 2, "p": {"b": 2.0}}]
    assert [json.loads(row["p"]) for row in table(csv_text(unlike))] == [{"a": 1.0}, {"b": 2.0}]


def test_lines_of_json_are_read_back() -> None:
    own = [{"row": 1, "text": "zwei\u2028Zeilen\n"}, {"row": 2, "text": "ü"}]
    assert [json.loads(line) for line in jsonl_text(own).rstrip("\n").split("\n")] == own
