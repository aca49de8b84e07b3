"""The task that a recipe's section means."""

from __future__ import annotations

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.recipe.tasks import described_task, task_of
from reflora_cli.tasks.base import Answers, PromptTask, SequenceTask
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.registry import find_task


def test_a_task_without_a_kind_is_known_by_its_name() -> None:
    assert task_of(TaskSection(name="glue/cola")) is find_task("glue/cola")


def test_a_section_with_a_kind_describes_its_task() -> None:
    values = {"kind": "multilabel", "text": ["a", "b"], "label": ["x", "y"], "labels": ["x", "y"], "metric": "macro_f1"}
    task = task_of(TaskSection.model_validate({**values, "class_weights": [1.0, 2.5], "validation": "5%"}))
    assert isinstance(task, SequenceTask)
    assert (task.name, task.columns, task.label_names) == ("multilabel", ("a", "b", "x", "y"), ("x", "y"))
    assert (task.several, task.main_metric, task.weights) == (True, "macro_f1", (1.0, 2.5))
    assert task.own is not None
    assert task.own.held_out == "5%"


def test_a_section_of_texts_describes_a_task_that_is_compared() -> None:
    values = {"kind": "generation", "text": "dialogue", "label": "summary", "metric": "rouge1", "validation": 20}
    plain = task_of(TaskSection.model_validate(values))
    assert isinstance(plain, PromptTask)
    assert (plain.answers, plain.main_metric, plain.held_out) == (Answers.COMPARED, "rouge1", 20)
    assert (plain.name, plain.columns) == ("generation", ("dialogue", "summary"))
    row = {"dialogue": "A: Hi.", "summary": ["Short.", " Brief.\n"]}
    texts = ("Short.", "Brief.")
    assert plain.example(row) == PromptExample("A: Hi. ||", " Short.", "A: Hi. ||", (), (), "Short.", texts)
    worded = task_of(TaskSection.model_validate({**values, "text": None, "wording": "Summarize: {dialogue}\n"}))
    assert isinstance(worded, PromptTask)
    prompt = "Summarize: A: Hi.\n"
    assert worded.example(row) == PromptExample(prompt, "Short.", prompt, (), (), "Short.", texts)
    assert worded.template.fill("A: Hi.", "") == prompt


def test_labels_that_were_not_found_yet_are_asked_for() -> None:
    section = TaskSection.model_validate({"kind": "classification"})
    assert described_task(section).columns == ("text", "label")
    with pytest.raises(InputError, match=r"task\.labels"):
        task_of(section)
    assert task_of(TaskSection.model_validate({"kind": "regression"})).short == "regression"
