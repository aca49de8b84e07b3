"""Rows that are held out are never trained on, whether training scores them or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.objectives.language_rows import held_out_examples, language_examples
from reflora_cli.tasks.instruct import INSTRUCT
from tests.unit.recipe_texts import GOOD, load, put

ROWS = [{"instruction": f"Say {index}", "output": str(index)} for index in range(30)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return put(tmp_path, json.dumps(ROWS), "rows.json")


@pytest.mark.parametrize("every", ["never", "epoch"])
def test_held_out_rows_are_not_trained_on(every: str, data: Path, tmp_path: Path) -> None:
    settings = ("task.name=instruct", f"task.data={data}", "task.validation_rows=5", f"eval.every={every}")
    recipe = load(put(tmp_path, GOOD), *settings, "eval.at_start=false", "eval.select=last")
    trained = {example.prompt for example in language_examples(recipe, INSTRUCT)["train"]}
    held_out = {example.prompt for example in held_out_examples(recipe, INSTRUCT) or ()}
    assert len(held_out) == 5
    assert len(trained) == 25
    assert not trained & held_out


@pytest.mark.parametrize("every", ["never", "epoch"])
def test_something_must_be_left(every: str, data: Path, tmp_path: Path) -> None:
    settings = ("task.name=instruct", f"task.data={data}", "task.validation_rows=30", f"eval.every={every}")
    recipe = load(put(tmp_path, GOOD), *settings, "eval.at_start=false", "eval.select=last")
    with pytest.raises(InputError, match="30 of 30"):
        language_examples(recipe, INSTRUCT)
