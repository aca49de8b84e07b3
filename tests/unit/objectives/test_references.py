"""Free texts are generated and compared with all references of a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reflora_cli.ground.errors import InputError
from reflora_cli.model.base import Base
from reflora_cli.model.language import load_language_model
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.generation import Generation
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.references import References
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.nlg import E2E
from reflora_cli.tasks.registry import find_task
from tests.unit.recipe_texts import GOOD, load, put

CPU = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture
def tiny() -> Base:
    own = load_language_model(ModelSection(name="builtin:tiny-llama"), None, torch.float32)
    own.model.eval()
    return own


def test_all_that_is_written_is_compared(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what stands before a mark that a protocol would cut at, or matches no pattern."""
    texts = [" a\n### Response: b ", "", " two"]
    monkeypatch.setattr(tiny.tokenizer, "batch_decode", lambda *_, **__: texts)
    examples = [PromptExample("p", " one", "p", label="one", references=("one", "two"))] * 3
    scorer = References(Generation(tiny, CPU, 1, 4))
    found = scorer.predict(E2E, examples)
    assert [(own.output, own.parsed, own.correct) for own in found] == [
        (" a\n### Response: b ", "a\n### Response: b", False),
        ("", "", False),
        (" two", "two", True),
    ]
    assert {own.references for own in found} == {("one", "two")}
    assert scorer.settings() == {"protocol": "references", "num_beams": 1, "max_new_tokens": 4}


@pytest.mark.parametrize(
    ("task", "protocol", "where"),
    [("nlg/e2e", "choices", "eval.protocol"), ("[nlg/e2e, builtin/questions]", "llm-adapters", "task.name")],
)
def test_what_cannot_be_scored_is_refused(task: str, protocol: str, where: str, tmp_path: Path, tiny: Base) -> None:
    recipe = load(put(tmp_path, GOOD), f"task.name={task}", f"eval.protocol={protocol}")
    with pytest.raises(InputError) as refused:
        kind_of(find_task(recipe.task.name)).make_objective(recipe, tiny, CPU)
    assert [problem.where for problem in refused.value.problems] == [where]


@pytest.mark.parametrize(("task", "protocol"), [("[nlg/e2e, nlg/webnlg]", "references"), ("instruct", "llm-adapters")])
def test_tasks_alike_share_a_way(task: str, protocol: str, tmp_path: Path, tiny: Base) -> None:
    overrides = ("eval.num_beams=3", "eval.length_penalty=0.5", "eval.no_repeat_ngram=4")
    recipe = load(put(tmp_path, GOOD), f"task.name={task}", *overrides)
    scorer = kind_of(find_task(recipe.task.name)).make_objective(recipe, tiny, CPU).scorer
    assert scorer is not None
    assert scorer.settings() == {
        "protocol": protocol, "num_beams": 3, "max_new_tokens": 32, "length_penalty": 0.5, "no_repeat_ngram": 4,
    }  # fmt: skip
