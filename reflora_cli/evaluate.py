"""Score a model on a task's splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F

from reflora_cli.data.batches import collate
from reflora_cli.data.encode import EncodedRow
from reflora_cli.model import Base, precision
from reflora_cli.tasks.base import Task


@dataclass(frozen=True)
class Split:
    """An encoded evaluation split."""

    name: str
    rows: list[EncodedRow]


@dataclass(frozen=True)
class Compute:
    """Where and how forward passes run: the device, the base's dtype, this process among all."""

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    processes: int = 1

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def score_split(
    model: nn.Module, base: Base, task: Task, split: Split, batch_size: int, compute: Compute
) -> dict[str, float]:
    """The task's metrics on one split, main one first, then the mean `loss`."""
    logits = predict(model, base, split.rows, batch_size, compute)
    labels = torch.tensor([row.label for row in split.rows])
    predictions = logits[:, 0] if task.is_regression else logits.argmax(dim=1)
    loss = loss_sum(logits, labels) / len(split.rows)
    return {**task.score(predictions.tolist(), labels.tolist()), "loss": float(loss)}


@torch.no_grad()
def predict(model: nn.Module, base: Base, rows: Sequence[EncodedRow], batch_size: int, compute: Compute) -> Tensor:
    """Logits [rows, labels], float32 on the CPU, in the order of `rows`; rows are shared among all processes.

    Rows are batched by length, which changes padding but, masked as it is, not the scores beyond rounding.
    """
    was_training = model.training
    model.eval()
    by_length = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
    batches = [by_length[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    found: list[tuple[list[int], Tensor]] = []
    for batch in batches[compute.rank :: compute.processes]:
        inputs = to_inputs([rows[index] for index in batch], base, compute.device)
        with precision(compute.device, compute.dtype):
            found.append((batch, model(**inputs).logits.float().cpu()))
    model.train(was_training)
    gathered: list[tuple[list[int], Tensor]] = gather_object(found) if compute.processes > 1 else found
    logits = torch.empty(len(rows), gathered[0][1].shape[1])
    for batch, part in gathered:
        logits[batch] = part
    return logits


def to_inputs(rows: Sequence[EncodedRow], base: Base, device: torch.device) -> dict[str, Tensor]:
    """Padded tensors on the device, as keyword arguments of the model."""
    batch = collate(rows, base.tokenizer.pad_token_id, base.tokenizer.pad_token_type_id)
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss over rows, in float32: squared error for one logit, cross-entropy for several.

    logits: [n, k]; labels: [n], real values or class ids.
    """
    if logits.shape[1] == 1:
        return F.mse_loss(logits[:, 0].float(), labels.float(), reduction="sum")
    return F.cross_entropy(logits.float(), labels.long(), reduction="sum")
