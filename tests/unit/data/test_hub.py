"""Data sets of the hub by their names, for tasks of every kind; what the hub would give is put in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from reflora_cli.data.hub import named_source
from reflora_cli.data.load import load_mixture, load_prompts, load_split, load_table
from reflora_cli.data.own_labels import find_labels
from reflora_cli.ground.errors import InputError
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.recipe.tasks import described_task, task_of
from reflora_cli.tasks.base import Mixture, PromptTask, SequenceTask
from reflora_cli.tasks.examples import Example
from reflora_cli.tasks.registry import find_task
from reflora_cli.tasks.sources import HubSource

RTE = find_task("glue/rte")


def repository(place: Path) -> Path:
    """A data set with two configurations, as repositories of the hub lay them out."""
    configs = [
        {"config_name": name, "data_files": [{"split": own, "path": f"{name}/{own}.jsonl"} for own in ("train", "dev")]}
        for name in ("plain", "other")
    ]
    head = json.dumps({"configs": [{**configs[0], "default": True}, configs[1]]})
    for name in ("plain", "other"):
        (place / name).mkdir(parents=True)
        for split in ("train", "dev"):
            rows = [{"text": f"{name} {split} {i}", "label": ("no", "yes")[i % 2]} for i in range(12)]
            (place / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "README.md").write_text(f"---\n{head}\n---\nA data set.\n")
    return place


def put_instead(monkeypatch: pytest.MonkeyPatch, place: Path) -> list[tuple[object, ...]]:
    """Read a local repository in the place of any name of the hub, and return what was asked for."""
    asked: list[tuple[object, ...]] = []
    real = datasets.load_dataset

    def load_dataset(name: str, config: str | None) -> Any:
        asked.append((name, config))
        return real(str(place), config, cache_dir=str(place.parent / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("data", "source"),
    [
        ("hub:imdb", HubSource("imdb")),
        ("hub:nyu-mll/glue", HubSource("nyu-mll/glue")),
        ("hub:nyu-mll/glue/rte", HubSource("nyu-mll/glue", "rte")),
        ("hub:a.b_c/1-x/2024.10+all", HubSource("a.b_c/1-x", "2024.10+all")),
    ],
)
def test_the_number_of_parts_says_what_they_are(data: str, source: HubSource) -> None:
    assert named_source(data) == source


@pytest.mark.parametrize(
    "data",
    ["hub:", "hub:/", "hub:a//b", "hub:a/b/c/d", "hub:../x", "hub:a/b/", "hub:a b", "hub:https://h/datasets/a/b"],
)
def test_what_is_no_name_is_refused(data: str) -> None:
    with pytest.raises(InputError, match="hub:OWNER/NAME") as caught:
        load_split(RTE, data, "train", None)
    assert [problem.where for problem in caught.value.problems] == ["task.data"]
    assert ("address" in caught.value.problems[0].remedy) is ("https" in data)


def test_a_described_task_reads_a_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = put_instead(monkeypatch, repository(tmp_path / "rows"))
    values = {"kind": "classification", "labels": ["no", "yes"], "validation": 4, "data": "hub:me/rows/other"}
    task = task_of(TaskSection.model_validate(values))
    assert isinstance(task, SequenceTask)
    kept, held = (load_split(task, "hub:me/rows/other", split, None) for split in ("train", "validation"))
    whole = [Example((f"other train {i}",), float(i % 2)) for i in range(12)]
    assert (len(kept), len(held)) == (8, 4)
    assert sorted([*kept, *held], key=whole.index) == whole
    assert load_split(task, "hub:me/rows", "dev", 1) == [Example(("plain dev 0",), 0.0)]
    assert asked == [("me/rows", "other")] * 2 + [("me/rows", None)]


def test_texts_are_written_after_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_instead(monkeypatch, repository(tmp_path / "rows"))
    task = task_of(TaskSection.model_validate({"kind": "generation", "wording": "Answer {text}:"}))
    assert isinstance(task, PromptTask)
    (example,) = load_prompts(task, "hub:rows", "dev", 1)
    assert (example.prompt, example.answer) == ("Answer plain dev 0:", " no")
    with pytest.raises(InputError, match="no split 'validation'") as caught:
        load_prompts(task, "hub:rows", "validation", None)
    assert caught.value.problems[0].found == "train, dev"


def test_a_named_task_reads_another_data_set_by_its_own_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    split = datasets.Dataset.from_dict({"sentence1": ["a"], "sentence2": ["b"], "label": [1], "extra": [0]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(train=split))
    assert load_split(RTE, "hub:me/my-rte", "train", None) == [Example(("a", "b"), 1.0)]
    with pytest.raises(InputError, match="'train'"):
        load_split(RTE, "hub:me/my-rte", "trian", None)
    with pytest.raises(InputError, match="column 'question' is missing"):
        load_split(find_task("glue/qnli"), "hub:me/my-rte", "train", None)


def test_the_names_of_classes_are_read_by_a_described_task(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = datasets.ClassLabel(names=["red", "blue"])
    features = {"text": datasets.Value("string"), "label": classes, "tags": datasets.List(classes)}
    data = {"text": ["a", "b", "c"], "label": [1, 0, 1], "tags": [[0, 1], [], [1]]}
    rows = datasets.Dataset.from_dict(data, features=datasets.Features(features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(train=rows))
    one = described_task(TaskSection.model_validate({"kind": "classification"}))
    several = described_task(TaskSection.model_validate({"kind": "multilabel", "label": "tags"}))
    number = described_task(TaskSection.model_validate({"kind": "regression"}))
    for task, counts in ((one, {"blue": 2, "red": 1}), (several, {"blue": 2, "red": 1})):
        assert task.own is not None
        assert find_labels(load_table(task, "hub:x", "train", None), task, task.own, None).counts == counts
    assert [example.label for example in load_split(number, "hub:x", "train", None)] == [1.0, 0.0, 1.0]


def test_hidden_classes_are_missing_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["red", "blue"]))
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, -1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(test=rows))
    task = task_of(TaskSection.model_validate({"kind": "classification", "labels": ["red", "blue"]}))
    assert isinstance(task, SequenceTask)
    with pytest.raises(InputError, match=r"'label' is missing\n.*row 2"):
        load_split(task, "hub:x", "test", None)


def test_out_of_reach_is_one_message() -> None:
    with pytest.raises(InputError, match="cannot be loaded from the hub") as caught:
        load_split(RTE, "hub:nobody/of-that-name", "train", None)
    assert caught.value.problems[0].where == "nobody/of-that-name"


def test_one_data_set_is_not_divided_among_tasks() -> None:
    mixture = find_task("commonsense")
    assert isinstance(mixture, Mixture)
    with pytest.raises(InputError, match="not one data set for all"):
        load_mixture(mixture, "hub:me/commonsense", None)
