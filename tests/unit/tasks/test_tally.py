"""Every tally: divided among processes and put together it has the same scores, to the bit."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from reflora_cli.objectives.sequence_tally import Outputs, SequenceTally
from reflora_cli.tasks.answers import AnswerCounts, Prediction
from reflora_cli.tasks.base import Answers, PromptTask, SequenceTask
from reflora_cli.tasks.registry import TASKS, find_task
from reflora_cli.tasks.tally import Tally
from reflora_cli.tasks.text_scores import TextScores
from reflora_cli.tasks.token_losses import BatchLoss, TokenLosses

LOSSES = [BatchLoss(10 ** random.Random(seed).uniform(-6, 6), 3, 7 + seed) for seed in range(12)]


def labels() -> SequenceTally:
    task = find_task("glue/mrpc")
    assert isinstance(task, SequenceTask)
    return SequenceTally(task, torch.tensor([1, 0]))


def outputs() -> list[Outputs]:
    generator = torch.Generator().manual_seed(0)
    return [
        Outputs(list(rows), torch.randn(len(rows), 2, generator=generator), torch.tensor([row % 2 for row in rows]))
        for rows in ([5, 0, 7], [1, 2], [6, 4, 3])
    ]


ANSWERS = [Prediction(label, parsed, "x") for label, parsed in (("a", "a"), ("a", None), ("b", "a"), ("b", "b"))]
WRITTEN = [
    Prediction("x", text, text, references=("a cup is red .", "the cup is red ."))
    for text in ("the cup is red .", "a red cup it is", "", "the cup is big .", "a cup")
]
CASES: dict[str, tuple[Any, Sequence[Any]]] = {
    "answers": (AnswerCounts, ANSWERS),
    "texts": (TextScores, WRITTEN),
    "losses": (TokenLosses, LOSSES),
    "labels": (labels, outputs()),
}


def filled(empty: Tally[Any], outcomes: Sequence[Any]) -> Tally[Any]:
    for outcome in outcomes:
        empty.add(outcome)
    return empty


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_parts_are_scored_as_the_whole(case: str, processes: int) -> None:
    """Processes take batches in turn."""
    make, outcomes = CASES[case]
    whole = filled(make(), outcomes)
    parts = [filled(make(), outcomes[rank::processes]) for rank in range(processes)]
    assert all(part.rows for part in parts)
    total = type(whole).total([pickle.loads(pickle.dumps(part)) for part in parts])
    assert (total.rows, total.scores(), total.interval()) == (whole.rows, whole.scores(), whole.interval())


@pytest.mark.parametrize(("case", "name"), [("answers", "accuracy"), ("losses", "loss"), ("labels", "accuracy")])
def test_the_score_so_far_is_that_of_the_rows_so_far(case: str, name: str) -> None:
    """Rows of a part of a split need not be its first ones."""
    make, outcomes = CASES[case]
    part = make()
    assert part.so_far() == {}
    for outcome in outcomes[:2]:
        part.add(outcome)
    if case == "labels":
        logits = torch.cat([own.logits for own in outcomes[:2]])
        wanted = [row % 2 for row in (5, 0, 7, 1, 2)]
        found = [1 - int(own.argmax()) for own in logits]  # the first output stands for label 1
        assert part.so_far() == {name: sum(a == b for a, b in zip(wanted, found, strict=True)) / 5}
    else:
        assert part.so_far()[name] == part.scores()[name]
    assert TextScores().so_far() == {}


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if isinstance(task, SequenceTask)])
def test_the_tally_of_every_labelled_task_can_be_sent_to_another_process(name: str) -> None:
    task = find_task(name)
    assert isinstance(task, SequenceTask)
    own = SequenceTally(task, torch.arange(len(task.label_names)))
    assert pickle.loads(pickle.dumps(own)).task == task


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if isinstance(task, PromptTask)])
def test_the_main_metric_of_every_prompt_task_is_its_tally_s_first_score(name: str) -> None:
    task = find_task(name)
    assert isinstance(task, PromptTask)
    expected = "bleu" if task.answers is Answers.COMPARED else "accuracy"
    assert task.main_metric == next(iter(filled(task.tally(), ANSWERS).scores())) == expected


def test_the_loss_is_that_of_all_tokens() -> None:
    """Batches of unequal size count by their tokens."""
    found = filled(TokenLosses(), LOSSES)
    expected = np.sum([own.loss for own in LOSSES], dtype=np.float64) / sum(own.tokens for own in LOSSES)
    assert found.scores()["loss"] == pytest.approx(expected, rel=1e-12)
    assert TokenLosses([3.0, 1.0], 2, 2).scores() == {"loss": 2.0, "perplexity": pytest.approx(math.exp(2.0))}
    assert math.isfinite(TokenLosses([1e6], 1, 1).scores()["perplexity"])
    assert (found.rows, found.interval()) == (36, None)
