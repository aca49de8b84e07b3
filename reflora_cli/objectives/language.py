"""Train on answers after prompts by the log-likelihood of supervised tokens; score by a protocol, or by that loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from reflora_cli.data.batches import cut
from reflora_cli.data.encode_prompts import PromptRow, collate_prompts
from reflora_cli.data.pack import pack_prompts
from reflora_cli.data.pad import Padding
from reflora_cli.data.place import placed
from reflora_cli.model.base import Base, pad_multiple
from reflora_cli.model.language import hidden_states, logits_of, vocabulary
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.causal import trial_tokens
from reflora_cli.objectives.generation import Generation
from reflora_cli.objectives.invariance import LONG, evaluating
from reflora_cli.objectives.objective import (
    Objective,
    Sample,
    Scores,
    Split,
    Watch,
    joined,
    mine,
    unwatched,
)
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.objectives.token_loss import token_loss
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.tally import Tally
from reflora_cli.tasks.token_losses import BatchLoss, TokenLosses

MADE_UP = (2, 12)
"""The rows and tokens of made-up inputs."""
MOST_PROBED = 256
"""The number of positions at which two forms of a model are compared: enough to show a difference, few enough to
hold."""


@final
class LanguageLoss(nn.Module):
    """A causal language model whose forward pass returns the summed loss over a batch's supervised tokens.

    smoothing: the share of every target that is spread evenly over the vocabulary.
    """

    def __init__(self, model: nn.Module, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, supervised: Tensor, targets: Tensor, **inputs: Tensor) -> Tensor:
        return token_loss(self.model, states_at(self.model, supervised, inputs), targets, self.smoothing)


def states_at(model: nn.Module, supervised: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the body's output [k, width] at some places of the flattened batch."""
    hidden: Tensor = hidden_states(model, **inputs, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, supervised)


@dataclass(frozen=True)
class LanguageSettings:
    """What the recipe decides. main_metric: the score by which models are compared, or `loss` where there is no other.
    packing: training rows share sequences. label_smoothing: that of the loss in training, not of a score.
    writer: the search that answers rows for the user to see; None where none are wanted.
    """

    train_on_prompt: bool
    main_metric: str
    packing: bool
    padding: Padding
    label_smoothing: float = 0.0
    writer: Generation | None = None


@final
class LanguageObjective(Objective[PromptRow]):
    """Causal language modelling of answers, or of prompts and answers."""

    scorer: Scorer

    def __init__(self, base: Base, compute: Compute, scorer: Scorer, settings: LanguageSettings) -> None:
        self.base, self.compute, self.scorer = base, compute, scorer
        self.train_on_prompt, self.padding = settings.train_on_prompt, settings.padding
        self.together = pack_prompts if settings.packing else collate_prompts
        self.loss_module = LanguageLoss(base.model, settings.label_smoothing)
        self.plain_loss = LanguageLoss(base.model)
        self.multiple = 1 if self.padding is Padding.NONE else pad_multiple(base, compute)
        self.main_metric, self.writer = settings.main_metric, settings.writer

    def weight(self, row: PromptRow) -> int:
        return row.weight

    def length(self, row: PromptRow) -> int:
        return len(row.input_ids)

    def shown(self, row: PromptRow) -> list[tuple[str, bool]]:
        """Return the text between the borders of spans, special tokens included, as differences of whole beginnings:
        a tokenizer may write a token otherwise at the begin of a text.
        """
        borders = sorted({0, len(row.input_ids), *(place for span in row.spans for place in span)})
        tokenizer = self.base.tokenizer
        texts = [str(tokenizer.decode(row.input_ids[:end], clean_up_tokenization_spaces=False)) for end in borders]
        learned = {begin for begin, _ in row.spans}
        pairs = zip(borders, texts, texts[1:], strict=False)
        return [(whole[len(before) :], begin in learned) for begin, before, whole in pairs]

    def samples(self, split: Split) -> list[Sample]:
        if self.writer is None or not split.asked:
            return []
        with evaluating(self.base.model):
            found = self.writer.texts(split.asked)
        return [
            Sample(example.prompt, written.text.strip(), example.answer.strip())
            for example, written in zip(split.asked, found, strict=True)
        ]

    @contextmanager
    def trial_pass(self) -> Iterator[Callable[[], Tensor]]:
        model = self.base.model
        ids = torch.tensor([trial_tokens(self.base)[LONG]], device=self.compute.device)

        def read() -> Tensor:
            with precision(self.compute.device, self.compute.dtype):
                return logits_of(model, hidden_states(model, input_ids=ids, use_cache=False).last_hidden_state)

        with evaluating(model):
            yield read

    def notes(self) -> list[str]:
        shared = ["rows share sequences, unseen by each other"] if self.together is pack_prompts else []
        return [*super().notes(), *shared, *self.scorer.notes()]

    def arguments(self, rows: Sequence[PromptRow]) -> dict[str, Tensor]:
        return self.placed(self.together(rows, self.base.tokenizer.pad_token_id, self.multiple))

    def places(self, arguments: Mapping[str, Tensor]) -> Tensor:
        """Return the places of the tokens that are to be predicted."""
        found = torch.zeros_like(arguments["input_ids"], dtype=torch.bool)
        found.view(-1)[arguments["supervised"] + 1] = True
        return found

    def padded(self, rows: Sequence[PromptRow]) -> dict[str, Tensor]:
        """Collate rows with one row in each sequence."""
        return self.placed(collate_prompts(rows, self.base.tokenizer.pad_token_id, self.multiple))

    def placed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return placed(batch, self.compute.device)

    def cut(self, order: Sequence[int], rows: Sequence[PromptRow], size: int) -> list[list[int]]:
        """Return indices of rows, in order, in batches of at most `size`."""
        return cut(order, size, lambda index: self.kind(rows[index]))

    def tally(self, split: Split, batch_size: int, watch: Watch = unwatched) -> Tally[Any]:
        """Return the answers of a split with a task, or the losses of supervised tokens of one without."""
        was_training = self.base.model.training
        self.base.model.eval()
        if split.task is None:
            found = self.losses(split.rows, batch_size, watch)
        else:
            found = self.answers(split.task, split.rows, batch_size, watch)
        self.base.model.train(was_training)
        return found

    def answers(self, task: PromptTask, examples: Sequence[PromptExample], batch_size: int, watch: Watch) -> Tally[Any]:
        own = task.tally()
        for batch in mine(self.scorer.batches(examples, batch_size), self.compute):
            for prediction in self.scorer.predict(task, [examples[index] for index in batch]):
                own.add(prediction)
            watch(own)
        return joined(own, self.compute)

    @torch.no_grad()
    def losses(self, rows: Sequence[PromptRow], batch_size: int, watch: Watch) -> Tally[Any]:
        own = TokenLosses()
        order = sorted(range(len(rows)), key=lambda index: -len(rows[index].input_ids))
        for indices in mine(self.cut(order, rows, batch_size), self.compute):
            batch = [rows[index] for index in indices]
            with precision(self.compute.device, self.compute.dtype):
                loss = float(self.plain_loss(**self.padded(batch)))
            own.add(BatchLoss(loss, len(batch), sum(row.weight for row in batch)))
            watch(own)
        return joined(own, self.compute)

    def merit(self, scores: Scores) -> float:
        """Return the mean of the splits' main scores, or minus the mean loss where no split has another one."""
        main = [next(iter(own.items())) for own in scores.values()]
        losses = [value for name, value in main if name == "loss"]
        found = [value for name, value in main if name != "loss"]
        return sum(found) / len(found) if found else -sum(losses) / len(losses)

    def settings(self) -> dict[str, object]:
        own = self.scorer.settings() if self.main_metric != "loss" else {}
        return {"train_on_prompt": self.train_on_prompt, **own}

    def made_up_inputs(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(vocabulary(self.base.model), MADE_UP, generator=generator).to(self.compute.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @torch.no_grad()
    def probe(self, rows: Sequence[PromptRow]) -> Tensor:
        """Return the logits at the first 256 supervised positions."""
        model, found, count = self.base.model, list[Tensor](), 0
        for indices in self.cut(range(len(rows)), rows, 8):
            batch = self.padded([rows[index] for index in indices])
            supervised = batch.pop("supervised")
            del batch["targets"]
            with precision(self.compute.device, self.compute.dtype):
                hidden = states_at(model, supervised, batch)
                found.append(logits_of(model, hidden[: MOST_PROBED - count]).cpu())
            count += len(found[-1])
            if count == MOST_PROBED:
                break
        return torch.cat(found)
