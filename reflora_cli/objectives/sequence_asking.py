"""Ask a model with a sequence-level head for the labels of new texts, or for their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch

from reflora_cli.data.check import bad_text, check_columns, summary
from reflora_cli.data.encode import EncodedRow, encode
from reflora_cli.data.read import Table
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.objectives.asking import Answer, Answerer, Asking, Question
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.sequence import SequenceObjective
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.examples import Example, Row


@final
class SequenceAsking(Asking):
    """Texts, or pairs of texts, without labels."""

    def __init__(self, task: SequenceTask) -> None:
        self.task, self.columns = task, task.text

    def questions(self, table: Table) -> list[Question]:
        check_columns(table, self.columns, self.task.name, self.is_text)
        found: list[Question] = []
        problems: list[Problem] = []
        texts = zip(*(table.columns[name] for name in self.columns), strict=True)
        for number, cells in enumerate(texts, start=1):
            if problem := bad_text(cells, self.task, f"{table.where}, row {number}"):
                problems.append(problem)
            else:
                inputs = dict(zip(self.columns, cells, strict=True))
                found.append(Question(inputs, Example(cells, 0.0)))
        if problems:
            raise InputError(*summary(problems, len(problems), table))
        return found

    def is_text(self, row: Row) -> bool:
        return all(isinstance(row.get(name), str) for name in self.columns)

    def answerer(self, recipe: Recipe, objective: Objective[Any]) -> SequenceAnswerer:
        assert isinstance(objective, SequenceObjective)
        return SequenceAnswerer(objective, recipe.task.max_length)


@final
class SequenceAnswerer(Answerer):
    """A classifier, which answers with `label` and `probabilities`, or a regression, with `value`."""

    def __init__(self, objective: SequenceObjective, max_length: int) -> None:
        self.objective, self.max_length = objective, max_length

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        examples = [question.example for question in questions]
        rows = encode(self.objective.base.tokenizer, examples, self.max_length)
        logits = self.objective.predict(rows, len(rows))
        if not logits.isfinite().all():
            expected = "finite weights, and a model.dtype in which the model does not overflow"
            raise InputError(Problem("the model's outputs are not finite", expected=expected))
        values = self.numbers(logits) if self.objective.task.is_regression else self.labels(logits)
        return [Answer(own, cut) for own, cut in zip(values, self.truncated(examples, rows), strict=True)]

    def numbers(self, logits: torch.Tensor) -> list[dict[str, Any]]:
        return [{"value": value} for value in logits[:, 0].tolist()]

    def labels(self, logits: torch.Tensor) -> list[dict[str, Any]]:
        """Return the labels of logits [n, outputs] with the probabilities of all, in the task's order. A row of a task
        with several labels has those whose probability is 0.5 or above.
        """
        names, places = self.objective.task.label_names, self.objective.outputs
        if self.objective.task.several:
            found = [dict(zip(names, own, strict=True)) for own in logits.double().sigmoid()[:, places].tolist()]
            return [
                {"labels": [name for name, share in own.items() if share >= 0.5], "probabilities": own} for own in found
            ]
        best = places.argsort()[logits.argmax(dim=1)].tolist()
        shares = logits.double().softmax(dim=1)[:, places].tolist()
        return [
            {"label": names[index], "probabilities": dict(zip(names, own, strict=True))}
            for index, own in zip(best, shares, strict=True)
        ]

    def truncated(self, examples: Sequence[Example], rows: Sequence[EncodedRow]) -> list[bool]:
        """Return which rows lost a part of their texts: those of the full length that one more token would lengthen."""
        full = [index for index, row in enumerate(rows) if len(row.input_ids) >= self.max_length]
        if not full:
            return [False] * len(rows)
        longer = encode(self.objective.base.tokenizer, [examples[index] for index in full], self.max_length + 1)
        lost = {index for index, row in zip(full, longer, strict=True) if len(row.input_ids) > self.max_length}
        return [index in lost for index in range(len(rows))]

    def settings(self) -> dict[str, object]:
        task = self.objective.task
        return {"max_length": self.max_length, "columns": task.text, "labels": task.label_names}
