"""Rows that a recipe holds out of a file of the user's own are read with those that are learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reflora_cli.data import load as loading
from reflora_cli.ground.errors import InputError
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.tasks import task_of
from reflora_cli.tasks.base import PromptTask, SequenceTask
from tests.unit.recipe_texts import GOOD, load, put

ROWS = [{"text": f"Say {index}", "label": f"L{index % 2}"} for index in range(30)]
CHATS = [{"prompt": row["text"], "completion": row["label"]} for row in ROWS]
LIMITS = ("task.max_train_rows=20", "task.max_eval_rows=4")


@pytest.mark.parametrize("limits", [(), LIMITS])
@pytest.mark.parametrize(
    ("kind", "rows", "others"),
    [
        ("classification", ROWS, ("task.labels=[L0, L1]",)),
        ("generation", ROWS, ()),
        ("chat", CHATS, ()),
    ],
)
def test_one_file_is_read_once(
    kind: str, rows: list[Any], others: tuple[str, ...], limits: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    data = put(tmp_path, json.dumps(rows), "rows.json")
    settings = ("task.name=own", f"task.kind={kind}", f"task.data={data}", "task.validation=20%", *others, *limits)
    recipe = load(put(tmp_path, GOOD), *settings)
    task = task_of(recipe.task)
    assert isinstance(task, SequenceTask | PromptTask)
    split: Any = loading.load_split if isinstance(task, SequenceTask) else loading.load_prompts
    expected = {
        "train": split(task, str(data), "train", 20 if limits else None),
        "validation": split(task, str(data), "validation", 4 if limits else None),
    }
    reads: list[Path] = []
    read_file = loading.read_file

    def counted(path: Path, *others: Any) -> Any:
        reads.append(path)
        return read_file(path, *others)

    monkeypatch.setattr(loading, "read_file", counted)
    assert kind_of(task).load_examples(recipe) == expected
    assert [len(found) for found in expected.values()] == ([20, 4] if limits else [24, 6])
    assert reads == [data]


@pytest.mark.parametrize(
    "task", [("task.name=glue/cola",), ("task.name=instruct",), ("task.name=own", "task.kind=chat")]
)
def test_the_way_to_hold_rows_out_of_one_file_works(task: tuple[str, ...], tmp_path: Path) -> None:
    """The remedy of the error is followed as it is written."""
    rows = [
        {"sentence": f"Say {index}", "label": index % 2, "instruction": f"Say {index}", "output": "yes"}
        for index in range(300)
    ]
    data = put(tmp_path, json.dumps(rows), "rows.json")

    def examples(*more: str) -> Any:
        recipe = load(put(tmp_path, GOOD), f"task.data={data}", *task, *more)
        return kind_of(task_of(recipe.task)).load_examples(recipe)

    with pytest.raises(InputError, match="the same file cannot be used for training and scoring") as refused:
        examples()
    held_out, nothing = refused.value.problems[0].remedy.split(", or score nothing with ")
    assert {*examples(held_out.removeprefix("hold out rows with "))} == {"train", "validation"}
    assert {*examples(*nothing.split())} == {"train"}
