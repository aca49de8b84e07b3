"""Rows of prompt tasks: what is a row, and one clear problem for each that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reflora_cli.data.load import load_mixture, load_prompts
from reflora_cli.ground.errors import InputError
from reflora_cli.tasks.base import Mixture, PromptTask
from reflora_cli.tasks.registry import find_task

GOOD = {
    "instruction": "Is it?\n\nAnswer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
}


def task(name: str) -> PromptTask:
    found = find_task(name)
    assert isinstance(found, PromptTask)
    return found


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def problems_of(name: str, rows: list[dict[str, Any]], folder: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_prompts(task(name), str(write(folder / "test.json", rows)), "test", None)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instruction": None}, ("'instruction' is missing", "row 2")),
        ({"output": ""}, ("'output' is missing", "row 2")),
        ({"answer": 1}, ("'answer' is not a text", "int", "row 2")),
        ({"answer": True}, ("'answer' is not a text", "bool")),
        ({"input": 5}, ("'input' is not a text",)),
        ({"instruction": "\ud800 Answer format: true/false"}, ("'instruction' is not valid Unicode",)),
        ({"answer": "maybe"}, ("'maybe' is not among the candidates true, false", "row 2")),
        ({"output": "so it is"}, ("does not end with the answer 'true'", "row 2")),
    ],
)
def test_a_bad_row_is_named(change: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
    (problem,) = problems_of("commonsense/boolq", [GOOD, GOOD | change], tmp_path)
    assert not [word for word in words if word not in problem], problem


def test_bad_rows_are_counted(tmp_path: Path) -> None:
    problems = problems_of("commonsense/boolq", [GOOD, *[GOOD | {"answer": "no"}] * 7], tmp_path)
    assert len(problems) == 4
    assert "7 of 8 rows are bad" in problems[-1]


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    rows = [{"instructions": "Do", "output": "done"}]
    (problem,) = problems_of("instruct", rows, tmp_path)
    assert "column 'instruction' is missing" in problem
    assert "'instructions'" in problem


def test_no_rows_are_an_error(tmp_path: Path) -> None:
    assert "there are no rows" in problems_of("instruct", [], tmp_path)[0]


def test_input_may_be_absent_null_or_empty(tmp_path: Path) -> None:
    rows = [{"instruction": "Do", "output": "done"}, {"instruction": "Do", "output": "done", "input": None}]
    path = write(tmp_path / "train.json", [*rows, {**rows[0], "input": ""}, {**rows[0], "input": "it"}])
    examples = load_prompts(task("instruct"), str(path), "train", None)
    assert [("### Input:" in example.prompt) for example in examples] == [False, False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"answer": 4}, "not the number of one of 4"), ({"choices": ["a", 1]}, "not a text"), ({"answer": "a"}, "number")],
)
def test_bad_questions(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    row = {"question": "Who?", "choices": ["a", "b", "c", "d"], "answer": 1}
    assert message in problems_of("builtin/questions", [row | change], tmp_path)[0]


class TestMixture:
    """Training rows of several tasks."""

    @staticmethod
    def mixture() -> Mixture:
        found = find_task(["commonsense/boolq", "commonsense/piqa"])
        assert isinstance(found, Mixture)
        return found

    @staticmethod
    def whole() -> Mixture:
        found = find_task("commonsense")
        assert isinstance(found, Mixture)
        return found

    def test_rows_of_all_parts_one_after_the_other(self, tmp_path: Path) -> None:
        write(tmp_path / "boolq" / "train.json", [GOOD] * 3)
        piqa = GOOD | {"instruction": "Which? Answer format: solution1/solution2", "output": "solution2"}
        write(tmp_path / "piqa" / "train.json", [piqa | {"answer": "solution2"}] * 2)
        labels = [example.label for example in load_mixture(self.mixture(), str(tmp_path), None)]
        assert labels == ["true"] * 3 + ["solution2"] * 2
        assert len(load_mixture(self.mixture(), str(tmp_path), 1)) == 2

    @pytest.mark.parametrize("name", ["commonsense_170k.json", "train.json"])
    def test_a_file_with_the_rows_of_all_parts_is_taken_instead(self, name: str, tmp_path: Path) -> None:
        path = write(tmp_path / name, [GOOD] * 5)
        assert len(load_mixture(self.whole(), str(tmp_path), None)) == 5
        assert len(load_mixture(self.whole(), str(path), 4)) == 4

    def test_the_repository_of_the_authors(self, tmp_path: Path) -> None:
        """`dataset/TASK/SPLIT.json` for each task, `ft-training_set/commonsense_170k.json` for all of them."""
        write(tmp_path / "ft-training_set" / "commonsense_170k.json", [GOOD] * 5)
        write(tmp_path / "ft-training_set" / "math_10k.json", [{"instruction": "1 + 1"}])
        for part in self.whole().parts:
            labels = part.pattern.split("|")
            row = {"instruction": f"? Answer format: {'/'.join(labels)}", "output": labels[0], "answer": labels[0]}
            write(tmp_path / "dataset" / part.short / "test.json", [row] * 2)
            write(tmp_path / "dataset" / part.short / "train.json", [row] * 3)
            assert len(load_prompts(part, str(tmp_path), "test", None)) == 2
            assert len(load_mixture(part, str(tmp_path), None)) == 3
        assert len(load_mixture(self.whole(), str(tmp_path), None)) == 5

    def test_a_part_without_rows_is_an_error(self, tmp_path: Path) -> None:
        write(tmp_path / "boolq" / "train.json", [GOOD])
        with pytest.raises(InputError, match="piqa"):
            load_mixture(self.mixture(), str(tmp_path), None)

    def test_one_file_for_a_list_of_tasks_is_an_error(self, tmp_path: Path) -> None:
        path = write(tmp_path / "train.json", [GOOD])
        with pytest.raises(InputError, match="not one file for all"):
            load_mixture(self.mixture(), str(path), None)
