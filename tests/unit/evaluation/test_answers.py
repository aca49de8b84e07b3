"""A score of one's own, as BLEU would be: a tally of a task is all that it takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pytest
import torch

from reflora_cli.console.reporter import SilentReporter
from reflora_cli.evaluation.answers import evaluate_answers
from reflora_cli.evaluation.request import Evaluation, Request
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.restore import Restored
from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.registry import find_task
from reflora_cli.tasks.tally import Tally
from tests.unit.recipe_texts import GOOD, load, put


@dataclass
class Letters(Tally[Prediction]):
    """The mean number of letters of an answer."""

    rows: int = 0
    letters: int = 0

    def add(self, outcome: Prediction) -> None:
        self.rows += 1
        self.letters += len(outcome.output or "")

    @classmethod
    def total(cls, tallies: Sequence[Self]) -> Self:
        return cls(sum(own.rows for own in tallies), sum(own.letters for own in tallies))

    def scores(self) -> dict[str, float]:
        return {"letters": self.letters / max(1, self.rows)}


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Restored:
    task = find_task("builtin/questions")
    assert isinstance(task, PromptTask)
    own = replace(task, tally=Letters)
    overrides = ("model.name=builtin:tiny-llama", "task.name=builtin/questions", "eval.max_new_tokens=3")
    recipe: Recipe = load(put(tmp_path_factory.mktemp("recipe"), GOOD), *overrides, "task.max_eval_rows=12")
    base = kind_of(own).load_base(recipe.model, None, torch.float32, seed=0)
    base.model.eval()
    objective = kind_of(own).make_objective(recipe, base, Compute(torch.device("cpu"), torch.float32))
    return Restored(recipe, own, base, None, None, objective)


def evaluated(restored: Restored, place: Path, limit: int | None = None) -> Evaluation:
    assert restored.objective.scorer is not None
    request = Request("", output=place, limit=limit)
    return evaluate_answers(restored, restored.objective.scorer, request, place, SilentReporter())


def written(place: Path) -> list[int]:
    """The letters of every answer, from the file of predictions."""
    lines = (place / "predictions-questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [len(json.loads(line)["output"]) for line in lines]


def test_training_and_evaluation_have_the_task_s_own_score(restored: Restored, tmp_path: Path) -> None:
    found = evaluated(restored, tmp_path)
    letters = written(tmp_path)
    assert len(letters) == 12
    assert sum(letters) > 0
    line = found.lines["validation"]
    assert (line["rows"], line["letters"]) == (12, sum(letters) / 12)
    assert found.columns == ("rows", "letters")
    assert found.results["mean"] is None
    assert json.loads((tmp_path / "results.json").read_text())["tasks"]["validation"]["letters"] == line["letters"]
    objective = restored.objective
    (split,) = kind_of(restored.task).splits(restored.recipe, restored.base, None, None)
    scores = {"validation": objective.tally(split, 5).scores()}
    assert scores == {"validation": {"letters": line["letters"]}}
    assert objective.main_metric == "letters"
    assert objective.merit(scores) == line["letters"]


def test_an_evaluation_that_continues_counts_what_is_there(restored: Restored, tmp_path: Path) -> None:
    evaluated(restored, tmp_path, limit=5)
    assert len(written(tmp_path)) == 5
    found = evaluated(restored, tmp_path)
    assert found.lines["validation"]["letters"] == sum(written(tmp_path)) / 12


def test_models_with_a_loss_alone_are_compared_by_it(restored: Restored) -> None:
    """Losses count where no split has another score, and the smaller one is better."""
    merit = restored.objective.merit
    assert merit({"a": {"loss": 2.0}, "b": {"loss": 1.0}}) == -1.5
    assert merit({"a": {"loss": 2.0}, "b": {"letters": 3.0}, "c": {"letters": 4.0}}) == 3.5


def test_rows_without_a_task_are_scored_by_their_loss(restored: Restored) -> None:
    examples = kind_of(restored.task).load_examples(restored.recipe.model_copy(deep=True))
    rows = kind_of(restored.task).encode(restored.recipe, restored.base, {"train": examples["train"][:9]}).training
    one, other = (restored.objective.tally(Split("loss", rows), size) for size in (1, 4))
    assert one.rows == other.rows == 9
    model = restored.base.model
    summed, tokens = 0.0, 0
    for row in rows:
        ids = torch.as_tensor(row.input_ids.astype("int64"))
        with torch.no_grad():
            logs = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        places = range(len(ids) - row.weight, len(ids))
        summed -= float(sum(logs[place - 1, ids[place]] for place in places))
        tokens += row.weight
    for found in (one, other):
        assert found.scores()["loss"] == pytest.approx(summed / tokens, rel=1e-5)
