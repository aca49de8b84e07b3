"""Labels of texts: cross-entropy for classes, squared error for real values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F

from reflora_cli.data.batches import collate
from reflora_cli.data.encode import EncodedRow
from reflora_cli.model.base import Base, pad_multiple
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.objective import Objective, Scores, Split
from reflora_cli.tasks.base import SequenceTask


@final
class SequenceLoss(nn.Module):
    """A model with a sequence-level head -> the summed loss of a batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, **inputs: Tensor) -> Tensor:
        return loss_sum(self.model(**inputs).logits, labels)


@final
class SequenceObjective(Objective[EncodedRow]):
    """Classification or regression."""

    def __init__(self, task: SequenceTask, base: Base, compute: Compute) -> None:
        self.task, self.base, self.compute = task, base, compute
        self.loss_module = SequenceLoss(base.model)
        self.multiple = pad_multiple(base, compute)
        self.main_metric = task.main_metric
        order = base.labels or task.label_names
        self.outputs = torch.tensor([order.index(name) for name in task.label_names], dtype=torch.long)
        """The output [labels] that stands for each of the task's labels; empty for a regression."""

    def weight(self, row: EncodedRow) -> int:
        return 1

    def arguments(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        return {**self.inputs(rows), "labels": self.targets(rows).to(self.compute.device)}

    def targets(self, rows: Sequence[EncodedRow]) -> Tensor:
        """What logits are compared with: real values, or the outputs [n] that stand for the rows' labels."""
        labels = torch.tensor([row.label for row in rows])
        return self.outputs[labels.long()] if len(self.outputs) else labels

    def inputs(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        """Keyword arguments of the model."""
        tokenizer = self.base.tokenizer
        batch = collate(rows, tokenizer.pad_token_id, tokenizer.pad_token_type_id, self.multiple)
        return {name: tensor.to(self.compute.device, non_blocking=True) for name, tensor in batch.items()}

    def score(self, split: Split, batch_size: int) -> dict[str, float]:
        """The task's metrics, then the mean `loss`."""
        logits = self.predict(split.rows, batch_size)
        labels = torch.tensor([row.label for row in split.rows])
        predictions = logits[:, 0] if self.task.is_regression else self.outputs.argsort()[logits.argmax(dim=1)]
        loss = loss_sum(logits, self.targets(split.rows)) / len(split.rows)
        return {**self.task.score(predictions.tolist(), labels.tolist()), "loss": float(loss)}

    @torch.no_grad()
    def predict(self, rows: Sequence[EncodedRow], batch_size: int) -> Tensor:
        """Logits [rows, labels], float32 on the CPU, in the order of `rows`; rows are shared among all processes.

        Rows are batched by length, which changes padding but, masked as it is, not the scores beyond rounding.
        """
        model, compute = self.base.model, self.compute
        was_training = model.training
        model.eval()
        by_length = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
        batches = [by_length[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        found: list[tuple[list[int], Tensor]] = []
        rank, processes = compute.scoring
        for batch in batches[rank::processes]:
            with precision(compute.device, compute.dtype):
                logits = model(**self.inputs([rows[index] for index in batch])).logits
            found.append((batch, logits.float().cpu()))
        model.train(was_training)
        gathered: list[tuple[list[int], Tensor]] = gather_object(found) if processes > 1 else found
        result = torch.empty(len(rows), gathered[0][1].shape[1])
        for batch, part in gathered:
            result[batch] = part
        return result

    def merit(self, scores: Scores) -> float:
        """The main metric of the first split."""
        return next(iter(scores.values()))[self.main_metric]

    def settings(self) -> dict[str, object]:
        return {}

    def probe(self, rows: Sequence[EncodedRow]) -> Tensor:
        return self.predict(rows, 32)


def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss over rows, in float32: squared error for one logit, cross-entropy for several.

    logits: [n, k]; labels: [n], real values or class ids.
    """
    if logits.shape[1] == 1:
        return F.mse_loss(logits[:, 0].float(), labels.float(), reduction="sum")
    return F.cross_entropy(logits.float(), labels.long(), reduction="sum")
