"""Train on labels of texts: cross-entropy for classes, squared error for real values, and for several labels of one
text binary cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from reflora_cli.data.batches import collate, cut
from reflora_cli.data.encode import EncodedRow, encode
from reflora_cli.data.pad import Padding
from reflora_cli.data.place import placed
from reflora_cli.data.token_cache import as_array
from reflora_cli.model.base import Base, pad_multiple, positions
from reflora_cli.model.packing import TOKENS, Packing, Way
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.invariance import (
    LONGEST,
    TEXTS,
    Trial,
    drawn_anew,
    evaluating,
    known_tokens,
    pick_padding,
    twin,
)
from reflora_cli.objectives.objective import Objective, Scores, Split, Watch, joined, mine, unwatched
from reflora_cli.objectives.packed_rows import begin_packing
from reflora_cli.objectives.sequence_tally import Outputs, SequenceTally, loss_sum, targets
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.examples import Example
from reflora_cli.tasks.metrics import LOWER_IS_BETTER

MADE_UP = (
    ("a small red cup", "The cup is red and small."),
    ("two boxes on the table", "Nothing is on the floor."),
)
"""The texts of two rows, for tasks of one text and of two."""


@final
class SequenceLoss(nn.Module):
    """A model with a sequence-level head whose forward pass returns the summed loss of a batch."""

    def __init__(self, model: nn.Module, weights: Tensor | None) -> None:
        """weights: that of each output [outputs] in the loss; None where all count alike."""
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, labels: Tensor, **inputs: Tensor) -> Tensor:
        return loss_sum(self.model(**inputs).logits, labels, self.weights)


@final
class SequenceObjective(Objective[EncodedRow]):
    """The objective of classification or regression."""

    def __init__(self, task: SequenceTask, base: Base, compute: Compute) -> None:
        self.task, self.base, self.compute = task, base, compute
        self.multiple = pad_multiple(base, compute)
        self.main_metric = task.main_metric
        self.packing: Packing | None = None
        order = base.labels or task.label_names
        self.outputs = torch.tensor([order.index(name) for name in task.label_names], dtype=torch.long)
        """The output [labels] that stands for each of the task's labels; empty for a regression."""
        weights = torch.tensor(task.weights, device=compute.device)[self.outputs.argsort()] if task.weights else None
        self.loss_module = SequenceLoss(base.model, weights)
        rows = self.trial_rows()
        with drawn_anew(base.model, base.head):
            trial = Trial(rows, lambda row: self.trial([row], Padding.ALONE))
            self.padding = pick_padding(base, compute, trial, (Padding.RIGHT, Padding.LEFT, Padding.NONE), self.trial)

    def weight(self, row: EncodedRow) -> int:
        return 1

    def length(self, row: EncodedRow) -> int:
        return len(row.input_ids)

    def trial_rows(self) -> list[EncodedRow]:
        """Return the rows of a trial, with as many texts each as the task's rows have."""
        tokenizer, longest = self.base.tokenizer, min(LONGEST, positions(self.base))
        texts = [Example((text,) * len(self.task.text), 0) for text in TEXTS]
        rows = [
            replace(row, input_ids=as_array([known_tokens(self.base, row.input_ids.tolist())]))
            for row in encode(tokenizer, texts, longest)
        ]
        return [*rows, replace(rows[0], input_ids=as_array([twin(rows[0].input_ids.tolist())]))]

    @contextmanager
    def trial_pass(self) -> Iterator[Callable[[], Tensor]]:
        model, row = self.base.model, self.trial_rows()[:1]

        def read() -> Tensor:
            with precision(self.compute.device, self.compute.dtype):
                logits: Tensor = model(**self.inputs(row, Padding.ALONE)).logits
            return logits

        with drawn_anew(model, self.base.head), evaluating(model):
            yield read

    def trial(self, rows: Sequence[EncodedRow], padding: Padding) -> Tensor:
        """Return the logits, float32 on the CPU, one row after the other."""
        return self.trial_logits(self.inputs(rows, padding))

    def packed_trial(self, rows: Sequence[EncodedRow], padding: Padding) -> Tensor:
        """Return the logits of rows that are computed without padding, as above."""
        return self.trial_logits(self.packed_inputs(rows, padding))

    def trial_logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        with evaluating(self.base.model), precision(self.compute.device, self.compute.dtype):
            logits: Tensor = self.base.model(**inputs).logits
        return logits.float().cpu().flatten()

    def arguments(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        return {**self.inputs(rows), **self.labels(rows)}

    def pack(self) -> None:
        with drawn_anew(self.base.model, self.base.head):
            trial = Trial(self.trial_rows(), lambda row: self.trial([row], Padding.ALONE))
            self.packing = begin_packing(self.base, self.compute, trial, self.padding, self.packed_trial)

    def notes(self) -> list[str]:
        how = {Way.FUNCTION: "computed without padding", Way.MODULE: "computed without padding, except by attention"}
        return [*super().notes(), *([how[self.packing.way]] if self.packing else [])]

    def step_arguments(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        if self.packing is None or len({self.length(row) for row in rows}) == 1:
            return self.arguments(rows)
        return {**self.packed_inputs(rows, self.padding), **self.labels(rows)}

    def labels(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        """Return the argument of the loss with the rows' labels."""
        return placed({"labels": targets(labels_of(rows), self.outputs)}, self.compute.device)

    def places(self, arguments: Mapping[str, Tensor]) -> Tensor:
        return arguments["attention_mask"].bool()

    def inputs(self, rows: Sequence[EncodedRow], padding: Padding | None = None) -> dict[str, Tensor]:
        """Return keyword arguments of the model. padding: a way to pad other than the one that was found."""
        return placed(self.collated(rows, padding or self.padding), self.compute.device)

    def packed_inputs(self, rows: Sequence[EncodedRow], padding: Padding) -> dict[str, Tensor]:
        """Return keyword arguments of a packed model, where tokens stand among them: that is found on the CPU, which so
        need not wait for the device.
        """
        batch = self.collated(rows, padding)
        batch[TOKENS] = batch["attention_mask"].flatten().nonzero()[:, 0]
        return placed(batch, self.compute.device)

    def collated(self, rows: Sequence[EncodedRow], padding: Padding) -> dict[str, Tensor]:
        """Return padded rows on the CPU."""
        tokenizer = self.base.tokenizer
        return collate(rows, tokenizer.pad_token_id, tokenizer.pad_token_type_id, self.multiple, padding)

    @torch.no_grad()
    def tally(self, split: Split, batch_size: int, watch: Watch = unwatched) -> SequenceTally:
        """Return the outputs for the split's rows.

        Rows are batched by length, which changes padding but, as a trial has shown, scores only by rounding.
        """
        rows, own = split.rows, SequenceTally(self.task, self.outputs)
        model, compute = self.base.model, self.compute
        was_training = model.training
        model.eval()
        by_length = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
        for batch in mine(cut(by_length, batch_size, lambda index: self.kind(rows[index])), compute):
            with precision(compute.device, compute.dtype):
                logits = model(**self.inputs([rows[index] for index in batch])).logits
            own.add(Outputs(batch, logits.float().cpu(), labels_of([rows[index] for index in batch])))
            watch(own)
        model.train(was_training)
        return joined(own, compute)

    def predict(self, rows: Sequence[EncodedRow], batch_size: int) -> Tensor:
        """Return logits [rows, labels], float32 on the CPU, in the order of `rows`; processes share the rows."""
        return self.tally(Split("", rows), batch_size).logits()

    def merit(self, scores: Scores) -> float:
        """Return the main metric of the first split, with the sign with which a better model has more of it."""
        score = next(iter(scores.values()))[self.main_metric]
        return -score if self.main_metric in LOWER_IS_BETTER else score

    def settings(self) -> dict[str, object]:
        return {}

    def made_up_inputs(self) -> dict[str, Tensor]:
        examples = [Example(texts[: len(self.task.text)], 0) for texts in MADE_UP]
        return self.inputs(encode(self.base.tokenizer, examples, 64))

    def probe(self, rows: Sequence[EncodedRow]) -> Tensor:
        return self.predict(rows, 32)


def labels_of(rows: Sequence[EncodedRow]) -> Tensor:
    """Return the rows' labels, float32: class ids or real values [n], or 0 and 1 [n, labels] for several labels."""
    return torch.tensor([row.label for row in rows])
