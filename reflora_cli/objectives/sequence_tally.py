"""Collect the outputs of a model with a sequence-level head, and score them by a task's metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.tally import Tally


@dataclass(frozen=True)
class Outputs:
    """What a model computes of a batch. rows: their indices in the split. logits: [n, outputs], float32 on the CPU.
    labels: [n], class ids of the task or real values.
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
        logits, labels = self.logits(), torch.empty(self.rows)
        for own in self.found:
            labels[own.rows] = own.labels.float()
        predictions = logits[:, 0] if self.task.is_regression else self.places.argsort()[logits.argmax(dim=1)]
        loss = loss_sum(logits, targets(labels, self.places)) / self.rows
        return {**self.task.score(predictions.tolist(), labels.tolist()), "loss": float(loss)}

    def logits(self) -> Tensor:
        """Return the logits [rows, outputs], float32 on the CPU, in the order of the split's rows."""
        result = torch.empty(self.rows, self.found[0].logits.shape[1])
        for own in self.found:
            result[own.rows] = own.logits
        return result


def targets(labels: Tensor, places: Tensor) -> Tensor:
    """Return what logits are compared with: real values, or the outputs [n] that stand for the labels [n]."""
    return places[labels.long()] if len(places) else labels


def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed loss over rows, in float32: squared error for one logit, cross-entropy for several.

    logits: [n, k]. labels: [n], real values or class ids.
    """
    if logits.shape[1] == 1:
        return F.mse_loss(logits[:, 0].float(), labels.float(), reduction="sum")
    return F.cross_entropy(logits.float(), labels.long(), reduction="sum")
