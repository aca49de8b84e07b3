"""Scores of labels and numbers, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reflora_cli.objectives.sequence_tally import Outputs, SequenceTally, loss_sum, targets
from reflora_cli.tasks.base import OwnLabels, SequenceTask
from reflora_cli.tasks.own import own_task
from reflora_cli.tasks.registry import find_task

ROWS = 40


def task(name: str) -> SequenceTask:
    found = find_task(name)
    assert isinstance(found, SequenceTask)
    return found


def tally(name: str, places: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> SequenceTally:
    """All rows, in batches and in an order of their own."""
    own = SequenceTally(task(name), places)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)).tolist()
    for start in range(0, ROWS, 7):
        rows = order[start : start + 7]
        own.add(Outputs(rows, logits[rows], labels[rows]))
    return own


@pytest.mark.parametrize("places", [(0, 1, 2), (2, 0, 1)])
def test_classes_are_those_of_the_outputs_that_stand_for_them(places: tuple[int, ...]) -> None:
    """places: the output of entailment, neutral and contradiction; published heads have other orders than the task."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(ROWS, 3, generator=generator)
    labels = torch.randint(3, (ROWS,), generator=generator).float()
    found = tally("glue/mnli", torch.tensor(places), logits, labels).scores()
    own = logits.double().numpy()[:, list(places)]  # column c: the output of class c
    right = own.argmax(1) == labels.numpy()
    chosen = own[np.arange(ROWS), labels.long().numpy()]
    loss = np.mean(np.log(np.exp(own).sum(1)) - chosen)
    assert 0 < right.mean() < 1
    assert found == {"accuracy": right.mean(), "loss": pytest.approx(loss, rel=1e-6)}


def test_a_number_is_scored_by_correlations_and_squared_error() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.rand(ROWS, generator=generator) * 5
    logits = labels[:, None] + torch.randn(ROWS, 1, generator=generator)
    found = tally("glue/stsb", torch.empty(0, dtype=torch.long), logits, labels).scores()
    x, y = logits[:, 0].double().numpy(), labels.double().numpy()
    ranks = np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1]
    assert found["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
    assert found["spearman"] == pytest.approx(ranks, rel=1e-9)
    assert found["loss"] == pytest.approx(np.mean((x - y) ** 2), rel=1e-5)


def test_logits_are_in_the_order_of_the_rows() -> None:
    logits = torch.arange(ROWS * 2.0).view(ROWS, 2)
    assert torch.equal(tally("glue/rte", torch.tensor([0, 1]), logits, torch.zeros(ROWS)).logits(), logits)


@pytest.mark.parametrize("places", [(0, 1, 2), (2, 0, 1)])
def test_several_labels_are_those_of_the_outputs_that_stand_for_them(places: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(ROWS, 3, generator=generator)
    labels = torch.randint(2, (ROWS, 3), generator=generator).float()
    several = own_task("multilabel", "x", ["text"], ("a", "b", "c"), OwnLabels(("label",)), None)
    own = SequenceTally(several, torch.tensor(places))
    for rows in ([*range(20, 40)], [*range(20)]):
        own.add(Outputs(rows, logits[rows], labels[rows]))
    x, y = logits.double().numpy()[:, list(places)], labels.double().numpy()
    chance = 1 / (1 + np.exp(-x))
    assert own.probabilities().numpy() == pytest.approx(chance, rel=1e-5)
    assert np.array_equal(own.predictions().numpy(), chance >= 0.5)
    loss = -np.mean(y * np.log(chance) + (1 - y) * np.log(1 - chance))
    assert own.scores()["loss"] == pytest.approx(loss, rel=1e-6)
    assert own.scores()["exact_match"] == np.mean(((chance >= 0.5) == y).all(1))


def test_weights_count_labels_for_more() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, weights = torch.randn(ROWS, 3, generator=generator), torch.tensor([0.5, 1.0, 4.0])
    x, w = logits.double().numpy(), weights.double().numpy()
    classes = torch.randint(3, (ROWS,), generator=generator)
    own = np.log(np.exp(x).sum(1)) - x[np.arange(ROWS), classes.numpy()]
    assert float(loss_sum(logits, classes, weights)) == pytest.approx((own * w[classes.numpy()]).sum(), rel=1e-6)
    several = torch.randint(2, (ROWS, 3), generator=generator).float()
    y, chance = several.double().numpy(), 1 / (1 + np.exp(-x))
    rows = -(w * y * np.log(chance) + (1 - y) * np.log(1 - chance)).mean(1)
    assert float(loss_sum(logits, several, weights)) == pytest.approx(rows.sum(), rel=1e-6)


def test_one_output_of_several_labels_is_no_number() -> None:
    """One label that rows may have or not: binary cross-entropy, not a squared error."""
    logits, labels = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    expected = np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))
    assert float(loss_sum(logits, targets(labels, torch.tensor([0])))) == pytest.approx(expected, rel=1e-6)
