"""Directories that `save_to_disk` of the library datasets wrote."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from reflora_cli.data.load import is_undivided, load_prompts, load_split
from reflora_cli.ground.errors import InputError
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.recipe.tasks import task_of
from reflora_cli.tasks.base import PromptTask, SequenceTask
from reflora_cli.tasks.examples import Example
from reflora_cli.tasks.registry import find_task

COLA = find_task("glue/cola")
ROWS = {"sentence": [f"sentence {i}" for i in range(6)], "label": [i % 2 for i in range(6)]}
EXAMPLES = [Example((text,), float(label)) for text, label in zip(ROWS["sentence"], ROWS["label"], strict=True)]


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    own = datasets.Dataset.from_dict(ROWS)
    place = tmp_path / "splits"
    datasets.DatasetDict(train=own, validation=own.select(range(2))).save_to_disk(str(place))
    return place


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    datasets.Dataset.from_dict(ROWS).save_to_disk(str(tmp_path / "rows"), num_shards=3)
    return tmp_path / "rows"


def test_a_data_set_for_each_split(splits: Path) -> None:
    assert load_split(COLA, str(splits), "train", None) == EXAMPLES
    assert load_split(COLA, str(splits), "validation", None) == EXAMPLES[:2]
    assert load_split(COLA, str(splits / "train"), "any split", 3) == EXAMPLES[:3]
    assert [is_undivided(place) for place in (splits, splits / "train")] == [False, True]


def test_one_data_set_is_held_out_of_as_one_file(rows: Path) -> None:
    values = {"kind": "classification", "text": "sentence", "labels": ["0", "1"], "validation": 2}
    task = task_of(TaskSection.model_validate(values))
    assert isinstance(task, SequenceTask)
    kept, held = (load_split(task, str(rows), split, None) for split in ("train", "validation"))
    assert (len(kept), len(held)) == (4, 2)
    assert sorted([*kept, *held], key=EXAMPLES.index) == EXAMPLES


def test_lists_are_right_texts(tmp_path: Path) -> None:
    data = {"text": ["a", "b"], "label": [["x", "y"], ["z"]]}
    datasets.Dataset.from_dict(data).save_to_disk(str(tmp_path / "rows"))
    task = task_of(TaskSection.model_validate({"kind": "generation"}))
    assert isinstance(task, PromptTask)
    assert [one.references for one in load_prompts(task, str(tmp_path / "rows"), "test", None)] == [("x", "y"), ("z",)]


def test_names_of_classes(tmp_path: Path) -> None:
    features = datasets.Features(sentence=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    datasets.Dataset.from_dict(ROWS, features=features).save_to_disk(str(tmp_path / "rows"))
    task = task_of(TaskSection.model_validate({"kind": "classification", "text": "sentence", "labels": ["yes", "no"]}))
    assert isinstance(task, SequenceTask)
    found = load_split(task, str(tmp_path / "rows"), "train", None)
    assert [example.label for example in found] == [1.0, 0.0] * 3
    assert load_split(COLA, str(tmp_path / "rows"), "train", None) == EXAMPLES


def test_a_split_that_is_not_there_names_those_that_are(splits: Path) -> None:
    with pytest.raises(InputError, match="no split 'validatoin'") as caught:
        load_split(COLA, str(splits), "validatoin", None)
    assert (caught.value.problems[0].found, caught.value.problems[0].remedy) == (
        "train, validation",
        "did you mean 'validation'?",
    )


@pytest.mark.parametrize("damage", ["no rows", "cut rows", "no json"])
def test_a_damaged_directory_is_one_message(damage: str, rows: Path) -> None:
    first = sorted(rows.glob("*.arrow"))[0]
    if damage == "no rows":
        first.unlink()
    elif damage == "cut rows":
        first.write_bytes(first.read_bytes()[:100])
    else:
        (rows / "state.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_split(COLA, str(rows), "train", None)
    assert caught.value.problems[0].where == str(rows)


def test_a_column_that_is_missing(splits: Path) -> None:
    with pytest.raises(InputError, match="'premise' is missing"):
        load_split(find_task("builtin/entailment"), str(splits), "train", None)
