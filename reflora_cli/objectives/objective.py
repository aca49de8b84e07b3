"""Define what training, evaluation and merging ask of a kind of task.

There are two kinds: `sequence.py` for labels of texts, `language.py` for answers after prompts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from accelerate.utils import gather_object
from torch import Tensor, nn

from reflora_cli.data.pad import Padding
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.reach import unused_modules, unused_parameters
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.tally import Tally

RowT = TypeVar("RowT")
TallyT = TypeVar("TallyT", bound=Tally[Any])
Watch = Callable[[Tally[Any]], None]
"""A function that is called after each batch, with the outcomes that this process has so far."""
LONGEST = 120
"""The most characters that a line shows of a text."""
Scores = Mapping[str, Mapping[str, float]]
"""Scores by split name, then by score name."""


@dataclass(frozen=True)
class Sample:
    """A row with the model's answer. expected: the right answer, or one of them."""

    prompt: str
    answer: str
    expected: str

    def record(self) -> dict[str, str]:
        return asdict(self)

    def line(self) -> str:
        """Return the sample on one line."""
        parts = (" ".join(text.split()) for text in (self.prompt, self.answer, self.expected))
        prompt, answer, expected = (text if len(text) <= LONGEST else f"{text[:LONGEST]}..." for text in parts)
        return f"{prompt} -> {answer} (expected: {expected})"


@dataclass(frozen=True)
class Split:
    """Rows to be scored.

    name: what the scores are called by. task: the task whose answers are looked for, if the rows are scored by a
    protocol. data_split: the name of the rows in the data. dropped: the number of rows that lost their whole answer.
    asked: rows that a language model is to answer for the user to see.
    """

    name: str
    rows: Sequence[Any]
    task: PromptTask | None = None
    data_split: str = ""
    dropped: int = 0
    asked: Sequence[PromptExample] = ()


def refuse_infinite(losses: Mapping[str, float]) -> None:
    """Raises InputError for losses, by the name of what was scored, that are not finite: such a model says nothing."""
    bad = [f"{name}: {value}" for name, value in losses.items() if not math.isfinite(value)]
    if bad:
        expected = "finite weights, and a model.dtype in which the model does not overflow"
        raise InputError(Problem("the model's loss is not finite", found=", ".join(bad), expected=expected))


def unwatched(_: Tally[Any]) -> None:
    """Show nothing."""


class Objective(ABC, Generic[RowT]):
    """A base model and what it is trained for. Rows are encoded rows of the objective's own kind."""

    base: Base
    compute: Compute
    loss_module: nn.Module
    """The module that training calls with `arguments` for the rows' summed loss, a scalar. It holds the model and
    can be wrapped."""
    main_metric: str
    scorer: Scorer | None = None
    """The protocol by which answers are found; None where the model's outputs are labels or numbers."""
    padding: Padding
    """How rows of unequal length go through the model together."""

    @abstractmethod
    def weight(self, row: RowT) -> int:
        """Return the row's share in a step's mean: the summed loss is divided by the sum of these."""

    def kind(self, row: RowT) -> int:
        """Return a value that must be equal for all rows of a batch: the length if the model reads padding, else a
        constant.
        """
        return self.length(row) if self.padding is Padding.NONE else 0

    @abstractmethod
    def length(self, row: RowT) -> int:
        """Return the row's number of tokens."""

    def shown(self, row: RowT) -> list[tuple[str, bool]]:
        """Return the pieces of a row's text, each with whether it is learned; nothing for rows with a label."""
        return []

    def samples(self, split: Split) -> list[Sample]:
        """Return the model's answers to the rows of a split that the user is to see."""
        return []

    @abstractmethod
    def trial_pass(self) -> AbstractContextManager[Callable[[], Tensor]]:
        """Return a context in which the model is as an untrained one in evaluation, and which gives a forward pass of
        one made-up row.
        """

    def unused(self, names: Sequence[str]) -> list[str]:
        """Return those of the named modules on which the result for a row does not depend: no gradient would reach
        them.
        """
        with self.trial_pass() as read:
            return unused_modules(self.base.model, names, read)

    def unused_parameters(self, names: Sequence[str]) -> list[str]:
        """Return those of the named parameters that no gradient would reach."""
        with self.trial_pass() as read:
            return unused_parameters(self.base.model, names, read)

    def notes(self) -> list[str]:
        """Say what a user should know of how rows are batched; nothing where they are padded on the right."""
        match self.padding:
            case Padding.LEFT:
                return ["padded on the left, because the model reads the last position of a row"]
            case Padding.NONE:
                return ["of rows of equal length only, because padding changes the model's results"]
            case _:
                return []

    @abstractmethod
    def arguments(self, rows: Sequence[RowT]) -> dict[str, Tensor]:
        """Return padded tensors on the device."""

    def pack(self) -> None:
        """Let training steps compute rows without padding, where the objective's rows do not share sequences already.

        Raises InputError for a model that cannot.
        """

    def step_arguments(self, rows: Sequence[RowT]) -> dict[str, Tensor]:
        """Return what a training step calls `loss_module` with: `arguments`, and what packing needs."""
        return self.arguments(rows)

    @abstractmethod
    def places(self, arguments: Mapping[str, Tensor]) -> Tensor:
        """Return which places of a batch are learned from, bool [n, length]: no padding, and nothing of prompts if only
        answers are learned. arguments: what `arguments` returned.
        """

    @abstractmethod
    def tally(self, split: Split, batch_size: int, watch: Watch = unwatched) -> Tally[Any]:
        """Return the outcomes of the split's rows; processes share the rows and all get the whole tally."""

    @abstractmethod
    def merit(self, scores: Scores) -> float:
        """Return one number for the scores of several splits, larger for a better model."""

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """Return what else must be known to read the scores; it is part of every results file."""

    @abstractmethod
    def made_up_inputs(self) -> dict[str, Tensor]:
        """Return the model's keyword arguments for two made-up rows, so that the task's data need not be there."""

    @abstractmethod
    def probe(self, rows: Sequence[RowT]) -> Tensor:
        """Return logits [n, k] on some rows, float32 on the CPU, to compare two forms of one model."""


def mine(batches: list[list[int]], compute: Compute) -> list[list[int]]:
    """Return this process's share of the batches."""
    rank, processes = compute.scoring
    return batches[rank::processes]


def joined(own: TallyT, compute: Compute) -> TallyT:
    """Return the tally of all processes that share the rows."""
    return own.total(gather_object([own]) if compute.scoring[1] > 1 else [own])
