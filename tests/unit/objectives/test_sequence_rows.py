"""Training rows of named tasks with labels that are held out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reflora_cli.ground.errors import InputError
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from tests.unit.recipe_texts import GOOD, load, put

HELD_OUT = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty training rows, a quarter of them with label 1, each with a text of its own, and four for validation."""
    data = tmp_path_factory.mktemp("rows")
    for split, count in (("train", 40), ("validation", 4)):
        rows = [{"sentence": f"{split} {number}", "label": int(number % 4 == 0)} for number in range(count)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return data


def recipe_of(data: Path, *more: str) -> Recipe:
    return load(put(data, GOOD), f"task.data={data}", *more)


def rows(recipe: Recipe) -> dict[str, Any]:
    found = kind_of(task_of(recipe.task)).load_examples(recipe)
    return {name: [example.texts[0] for example in own] for name, own in found.items()}


@pytest.mark.parametrize("every", ["eval.every=epoch", "eval.every=never"])
def test_held_out_rows_are_not_trained_on(every: str, data: Path) -> None:
    """Whether they are scored in training or afterwards."""
    held_out = rows(recipe_of(data, f"task.validation_rows={HELD_OUT}"))["validation"]
    found = rows(recipe_of(data, f"task.validation_rows={HELD_OUT}", every, "eval.select=last"))
    assert len(held_out) == HELD_OUT
    assert {*found["train"]} | {*held_out} == {f"train {number}" for number in range(40)}
    assert {*found["train"]}.isdisjoint(held_out)
    assert [*found] == (["train", "validation"] if every.endswith("epoch") else ["train"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), method=st.sampled_from(["lora", "dora", "reflora"]), most=st.integers(1, 30))
def test_they_are_the_same_for_every_seed_and_method(data: Path, seed: int, method: str, most: int) -> None:
    base = rows(recipe_of(data, f"task.validation_rows={HELD_OUT}"))
    changes = (f"train.seed={seed}", f"method.name={method}", f"task.max_train_rows={most}")
    found = rows(recipe_of(data, f"task.validation_rows={HELD_OUT}", *changes))
    assert found["validation"] == base["validation"]
    assert found["train"] == base["train"][:most]


def test_of_each_label_there_are_as_many_in_proportion(data: Path) -> None:
    recipe = recipe_of(data, "task.validation_rows=12")
    found = kind_of(task_of(recipe.task)).load_examples(recipe)["validation"]
    assert Counter(example.label for example in found) == {0: 9, 1: 3}


def test_without_the_setting_the_published_rows_are_scored(data: Path) -> None:
    assert rows(recipe_of(data))["validation"] == [f"validation {number}" for number in range(4)]


def test_something_of_each_label_must_be_left(data: Path) -> None:
    with pytest.raises(InputError, match="too many rows would be held out") as refused:
        rows(recipe_of(data, "task.validation_rows=39"))
    assert f"task.validation_rows: {data}" in str(refused.value)


def test_one_file_is_enough(data: Path) -> None:
    file = data / "train.jsonl"
    found = rows(load(put(data, GOOD), f"task.data={file}", "task.validation_rows=5"))
    assert (len(found["train"]), len(found["validation"])) == (35, 5)


def test_a_task_of_ones_own_has_another_key(data: Path) -> None:
    own = ("task.name=null", "task.kind=classification", "task.text=sentence", "task.validation_rows=5")
    with pytest.raises(InputError, match=r"set task\.validation"):
        recipe_of(data, *own)
