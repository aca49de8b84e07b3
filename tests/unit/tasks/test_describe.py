"""Every task tells what it reads, and how it asks."""

from __future__ import annotations

import pytest

from reflora_cli.tasks.base import Answers, Mixture, PromptTask
from reflora_cli.tasks.describe import described_task
from reflora_cli.tasks.registry import TASKS


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_described(name: str) -> None:
    task = TASKS[name]
    own = described_task(task)
    assert own.name == name
    part = next(iter(task.parts), task)
    assert not isinstance(part, Mixture)
    is_loss = isinstance(part, PromptTask) and part.answers is Answers.LOSS
    assert own.metrics[0] == ("loss" if is_loss else part.main_metric)
    assert own.columns
    assert own.asks
    assert own.source
    assert (own.example is None) == (not task.parts)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if isinstance(task, PromptTask)])
def test_a_made_up_row_is_a_row_of_the_task(name: str) -> None:
    task = TASKS[name]
    assert isinstance(task, PromptTask)
    own = described_task(task)
    assert own.example is not None
    prompt, answer = own.example
    assert prompt
    assert answer
    if task.pattern:
        assert task.parse(answer, ()) in own.labels


def test_the_labels_of_a_mixture_are_those_of_its_parts() -> None:
    own = described_task(TASKS["commonsense"])
    assert len(own.parts) == 8
    assert own.labels == ("those of each task",)
