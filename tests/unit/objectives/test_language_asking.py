"""New rows of texts from data are put to a model by the prompts of training, and never with their answers."""

from __future__ import annotations

from typing import Any

import pytest

from reflora_cli.data.read import Table, table_of
from reflora_cli.objectives.language_kind import LanguageKind
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.recipe.tasks import task_of
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.nlg import E2E, WEBNLG
from reflora_cli.tasks.wording import AS_WRITTEN

TRIPLES = 'Aarhus | leaderName | Jacob_Bundsgaard && Aarhus_Airport | cityServed | "Aarhus, Denmark"'
OWN = task_of(
    TaskSection.model_validate({"kind": "generation", "wording": "{table}: {question}\nSQL:", "label": "query"})
)
ROWS: list[tuple[Any, dict[str, str]]] = [
    (E2E, {"meaning": "name : Blue Spice", "text": "It is called Blue Spice."}),
    (WEBNLG, {"triples": TRIPLES, "text": "Aarhus is led by Jacob."}),
    (OWN, {"question": "How {many}?", "table": "a, b", "query": "SELECT a"}),
]


def table(row: dict[str, str], wanted: tuple[str, ...]) -> Table:
    return table_of([row], "new rows", wanted)


@pytest.mark.parametrize(("task", "row"), ROWS, ids=["e2e", "webnlg", "own"])
def test_the_prompt_is_that_of_training(task: PromptTask, row: dict[str, str]) -> None:
    asking = LanguageKind(task).asking(None)
    (question,) = asking.questions(table(row, asking.wanted))
    assert question.example.prompt == task.example(row).prompt
    assert question.inputs == {name: row[name] for name in task.fields}


@pytest.mark.parametrize(("task", "row"), ROWS[:2], ids=["e2e", "webnlg"])
def test_without_a_prompt_the_input_is_asked_alone(task: PromptTask, row: dict[str, str]) -> None:
    asking = LanguageKind(task).asking(AS_WRITTEN)
    (question,) = asking.questions(table(row, (*asking.wanted, "text")))
    assert question.example.prompt == row[next(iter(task.fields))]
