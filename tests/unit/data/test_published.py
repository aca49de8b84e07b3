"""The real GLUE files load whole: every row, both classes, exact texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reflora_cli.data.load import load_split
from reflora_cli.tasks.registry import find_task

SIZES = {
    "cola": {"train": 8551, "validation": 1043},
    "sst2": {"train": 67349, "validation": 872},
    "mrpc": {"train": 3668, "validation": 408},
    "stsb": {"train": 5749, "validation": 1500},
    "rte": {"train": 2490, "validation": 277},
    "wnli": {"train": 635, "validation": 71},
    "mnli": {"train": 3000, "validation_matched": 9815, "validation_mismatched": 9832},
    "qqp": {"train": 20000, "validation": 7600},
}


@pytest.mark.parametrize(
    ("short", "split", "size"),
    [(task, split, size) for task, splits in SIZES.items() for split, size in splits.items()],
)
def test_split_loads_whole(glue_data: Path, short: str, split: str, size: int) -> None:
    task = find_task(f"glue/{short}")
    examples = load_split(task, str(glue_data), split, None)
    assert len(examples) == size
    assert {len(example.texts) for example in examples} == {len(task.text)}
    with (glue_data / short / f"{split}.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    assert [example.texts for example in examples] == [tuple(row[name] for name in task.text) for row in rows]
    assert [example.label for example in examples] == [row["label"] for row in rows]
    if not task.is_regression:
        assert {example.label for example in examples} == set(range(len(task.label_names)))


def test_limit_takes_the_first_rows(glue_data: Path) -> None:
    task = find_task("glue/cola")
    assert load_split(task, str(glue_data), "train", 7) == load_split(task, str(glue_data / "cola"), "train", None)[:7]
