"""Collect the outputs of a model with a sequence-level head, and score them by a task's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.classes import class_report, label_report
from reflora_cli.tasks.tally import Tally


@dataclass(frozen=True)
class Outputs:
    """What a model computes of a batch. rows: their indices in the split. logits: [n, outputs], float32 on the CPU.
    labels: [n], class ids of the task or real values, or [n, labels] of 0 and 1.
    """

    rows: Sequence[int]
    logits: Tensor
    labels: Tensor


@final
@dataclass
class SequenceTally(Tally[Outputs]):
    """The outputs for all rows of a split, in whatever order they were computed.

    places: the output [labels] that stands for each of the task's labels; empty for a regression.
    """

    task: SequenceTask
    places: Tensor
    rows: int = 0
    found: list[Outputs] = field(default_factory=list)

    def add(self, outcome: Outputs) -> None:
        self.rows += len(outcome.rows)
        self.found.append(outcome)

    @classmethod
    def total(cls, tallies: Sequence[Self]) -> Self:
        found = [own for tally in tallies for own in tally.found]
        return cls(tallies[0].task, tallies[0].places, sum(tally.rows for tally in tallies), found)

    def scores(self) -> dict[str, float]:
        """Return the task's metrics, then the mean `loss`."""
        labels = self.labels()
        loss = loss_sum(self.logits(), targets(labels, self.places)) / self.rows
        return {**self.task.score(self.predictions().tolist(), labels.tolist()), "loss": float(loss)}

    def so_far(self) -> dict[str, float]:
        """Return the main metric; rows are numbered in the order in which they came, as most may not be there yet."""
        if not self.rows:
            return {}
        numbers = iter(range(self.rows))
        found = [replace(own, rows=[next(numbers) for _ in own.rows]) for own in self.found]
        metric = self.task.main_metric
        return {metric: SequenceTally(self.task, self.places, self.rows, found).scores()[metric]}

    def report(self) -> dict[str, Any] | None:
        """Return how well each label is found; None for a regression."""
        if self.task.is_regression:
            return None
        predictions, labels = (own.long().numpy() for own in (self.predictions(), self.labels()))
        return (label_report if self.task.several else class_report)(predictions, labels, self.task.label_names)

    def labels(self) -> Tensor:
        """Return the labels of the split's rows, [rows] or [rows, labels], float32."""
        shape = self.found[0].labels.shape[1:]
        result = torch.empty(self.rows, *shape)
        for own in self.found:
            result[own.rows] = own.labels.float()
        return result

    def predictions(self) -> Tensor:
        """Return what is predicted of the split's rows, in the form of `labels`; a label of several at 0.5 or above."""
        logits = self.logits()
        if self.task.is_regression:
            return logits[:, 0]
        if self.task.several:
            return (logits[:, self.places] >= 0).float()
        return self.places.argsort()[logits.argmax(dim=1)]

    def probabilities(self) -> Tensor:
        """Return the probability of each of the task's labels [rows, labels], float32; [rows, 0] for a regression."""
        logits = self.logits()[:, self.places]
        return logits.sigmoid() if self.task.several else logits.softmax(dim=1)

    def logits(self) -> Tensor:
        """Return the logits [rows, outputs], float32 on the CPU, in the order of the split's rows."""
        result = torch.empty(self.rows, self.found[0].logits.shape[1])
        for own in self.found:
            result[own.rows] = own.logits
        return result


def targets(labels: Tensor, places: Tensor) -> Tensor:
    """Return what logits are compared with: real values, the outputs [n] that stand for the labels [n], or the labels
    [n, labels] in the order of the outputs.
    """
    if labels.dim() == 2:
        return labels[:, places.argsort()]
    return places[labels.long()] if len(places) else labels


def loss_sum(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the summed loss over rows, in float32: squared error for one logit, cross-entropy for several, the mean
    binary cross-entropy for a row with several labels.

    logits: [n, k]. labels: [n], real values or class ids, or [n, k] of 0 and 1. weights: [k], those of the classes, or
    of the presence of each of several labels.
    """
    if labels.dim() == 2:
        losses = F.binary_cross_entropy_with_logits(
            logits.float(), labels.float(), reduction="none", pos_weight=weights
        )
        return losses.mean(dim=1).sum()
    if logits.shape[1] == 1:
        return F.mse_loss(logits[:, 0].float(), labels.float(), reduction="sum")
    return F.cross_entropy(logits.float(), labels.long(), weight=weights, reduction="sum")
