"""Answers after prompts: the log-likelihood of supervised tokens; scored by a protocol, or by that loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from reflora_cli.data.encode_prompts import PromptRow, collate_prompts
from reflora_cli.data.pack import pack_prompts
from reflora_cli.errors import InputError, Problem
from reflora_cli.model.base import Base, pad_multiple
from reflora_cli.model.language import PARTS_TOLERANCE, hidden_states, logits_of, vocabulary
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.objective import Objective, Scores, Split
from reflora_cli.objectives.prediction import Scorer, Tally
from reflora_cli.objectives.token_loss import token_loss
from reflora_cli.tasks.base import PromptExample, PromptTask

MOST_PROBED = 256
"""Positions at which two forms of a model are compared: enough to show a difference, few enough to hold."""


@final
class LanguageLoss(nn.Module):
    """A causal language model -> the summed loss over a batch's supervised tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, supervised: Tensor, targets: Tensor, **inputs: Tensor) -> Tensor:
        return token_loss(self.model, states_at(self.model, supervised, inputs), targets)


def states_at(model: nn.Module, supervised: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """The body's output [k, width] at some places of the flattened batch."""
    hidden: Tensor = hidden_states(model, **inputs, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, supervised)


@final
class LanguageObjective(Objective[PromptRow]):
    """Causal language modelling of answers, or of prompts and answers."""

    def __init__(
        self,
        base: Base,
        compute: Compute,
        scorer: Scorer,
        *,
        train_on_prompt: bool,
        by_loss: bool,
        packing: bool = False,
    ) -> None:
        """by_loss: nothing but the loss tells a better model from a worse. packing: of rows that are trained on."""
        self.base, self.compute = base, compute
        self.scorer, self.train_on_prompt = scorer, train_on_prompt
        self.together = pack_prompts if packing else collate_prompts
        self.loss_module = LanguageLoss(base.model)
        self.multiple = pad_multiple(base, compute)
        self.main_metric = "loss" if by_loss else "accuracy"

    def weight(self, row: PromptRow) -> int:
        return row.weight

    def arguments(self, rows: Sequence[PromptRow]) -> dict[str, Tensor]:
        return self.placed(self.together(rows, self.base.tokenizer.pad_token_id, self.multiple))

    def padded(self, rows: Sequence[PromptRow]) -> dict[str, Tensor]:
        """The same, one row in each sequence."""
        return self.placed(collate_prompts(rows, self.base.tokenizer.pad_token_id, self.multiple))

    def placed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.compute.device, non_blocking=True) for name, tensor in batch.items()}

    def score(self, split: Split, batch_size: int) -> dict[str, float]:
        """A protocol's accuracy for a split with a task, the mean `loss` per supervised token for one without."""
        was_training = self.base.model.training
        self.base.model.eval()
        if split.task is None:
            scores = {"loss": self.mean_loss(split.rows, batch_size)}
        else:
            scores = self.tally(split.task, split.rows, batch_size).scores()
        self.base.model.train(was_training)
        return scores

    def tally(self, task: PromptTask, examples: Sequence[PromptExample], batch_size: int) -> Tally:
        """Counts over all examples, which are shared among all processes."""
        own = Tally()
        for batch in mine(by_length(examples), batch_size, self.compute):
            for prediction in self.scorer.predict(task, [examples[index] for index in batch]):
                own.add(prediction)
        return Tally.total(gather_object([own]) if self.compute.scoring[1] > 1 else [own])

    @torch.no_grad()
    def mean_loss(self, rows: Sequence[PromptRow], batch_size: int) -> float:
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
        losses = []
        for batch in mine(order, batch_size, self.compute):
            with precision(self.compute.device, self.compute.dtype):
                losses.append(float(self.loss_module(**self.padded([rows[index] for index in batch]))))
        total = sum(gather_object(losses) if self.compute.scoring[1] > 1 else losses)
        return total / sum(row.weight for row in rows)

    def merit(self, scores: Scores) -> float:
        """The mean accuracy of all splits that have one, else minus the mean loss."""
        accuracies = [own["accuracy"] for own in scores.values() if "accuracy" in own]
        losses = [own["loss"] for own in scores.values() if "loss" in own]
        return sum(accuracies) / len(accuracies) if accuracies else -sum(losses) / len(losses)

    def settings(self) -> dict[str, object]:
        own = self.scorer.settings() if self.main_metric == "accuracy" else {}
        return {"train_on_prompt": self.train_on_prompt, **own}

    @torch.no_grad()
    def probe(self, rows: Sequence[PromptRow]) -> Tensor:
        """Logits at supervised positions, the first 256 of them."""
        model, found, count = self.base.model, list[Tensor](), 0
        for start in range(0, len(rows), 8):
            batch = self.padded(rows[start : start + 8])
            supervised = batch.pop("supervised")
            del batch["targets"]
            with precision(self.compute.device, self.compute.dtype):
                hidden = states_at(model, supervised, batch)
                found.append(logits_of(model, hidden[: MOST_PROBED - count]).cpu())
            count += len(found[-1])
            if count == MOST_PROBED:
                break
        return torch.cat(found)


@torch.no_grad()
def check_packing(base: Base, compute: Compute) -> None:
    """Compare packed rows with the same rows apart. Raises InputError for a model in which they see each other."""
    model, was_training = base.model, base.model.training
    model.eval()
    # The longest alone, then the other two in one sequence: in the same order, packed or not.
    rows = [PromptRow(np.arange(4, 4 + length, dtype=np.int32) % vocabulary(model), 1) for length in (8, 5, 3)]
    found = []
    for together in (collate_prompts, pack_prompts):
        batch = {
            name: tensor.to(compute.device) for name, tensor in together(rows, base.tokenizer.pad_token_id).items()
        }
        supervised = batch.pop("supervised")
        del batch["targets"]
        with precision(compute.device, compute.dtype):
            found.append(states_at(model, supervised, batch).float())
    model.train(was_training)
    apart, packed = found
    if not (apart - packed).abs().max() <= PARTS_TOLERANCE * apart.abs().max():
        what = f"packed rows would see each other in a {model.config.model_type} model"
        raise InputError(Problem(what, "train.packing", "true", remedy="train.packing=false"))


def by_length(examples: Sequence[PromptExample]) -> list[int]:
    """Indices of examples, the longest first: rows of a batch are alike, and too large a batch shows at once."""
    return sorted(range(len(examples)), key=lambda index: (-len(examples[index].prompt), index))


def mine(order: Sequence[int], batch_size: int, compute: Compute) -> list[Sequence[int]]:
    """This process's share of the batches."""
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rank, processes = compute.scoring
    return batches[rank::processes]
