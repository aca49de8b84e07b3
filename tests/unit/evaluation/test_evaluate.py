"""What is asked is checked before any model is loaded, and what is scored together is loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.console.reporter import SilentReporter
from reflora_cli.evaluation.evaluate import evaluate, task_overrides
from reflora_cli.evaluation.request import Request
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import EvalProtocol
from tests.unit.recipe_texts import GOOD, put


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), [[]]),
        (("commonsense/boolq", "instruct"), [["task.name=[commonsense/boolq, instruct]"]]),
        (("glue/cola", "glue/rte"), [["task.name=glue/cola"], ["task.name=glue/rte"]]),
        (("glue/cola", "instruct"), [["task.name=glue/cola"], ["task.name=instruct"]]),
    ],
)
def test_a_language_model_is_loaded_once_for_all_its_tasks(names: tuple[str, ...], expected: list[list[str]]) -> None:
    assert task_overrides(names) == expected


def test_a_classifier_has_no_protocol(tmp_path: Path) -> None:
    """The recipe's model does not exist: nothing is looked for."""
    request = Request(str(put(tmp_path, GOOD)), protocol=EvalProtocol.CHOICES)
    with pytest.raises(InputError, match="for language models, and this task has labels") as refused:
        next(evaluate(request, SilentReporter()))
    assert refused.value.problems[0].where == "--protocol"
