"""A task is a record: where its rows are, which columns to read, what the labels mean, how it is scored.

Two kinds: a `SequenceTask` labels one text or a pair of texts; a `PromptTask` has a language model write an answer
after a prompt. A `Mixture` is several prompt tasks, trained as one and scored one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from reflora_cli.tasks.answers import AnswerCounts, Prediction
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.prompts import Template
from reflora_cli.tasks.sources import BuiltinSource, HubSource
from reflora_cli.tasks.tally import Tally
from reflora_cli.tasks.wording import Wording

Metric = Callable[[NDArray[np.float64], NDArray[np.float64]], float]
"""(predictions [n], labels [n]) -> score; class ids or real values, as float64. Both are [n, labels] of 0 and 1 where
a row may have several labels.
"""


@dataclass(frozen=True)
class OwnLabels:
    """How the rows of a task that a recipe describes are read.

    columns: one column with the labels, or one of 0 and 1 for each label of a multilabel task. separator: what stands
    between the labels of one cell of a multilabel task, where the cell is a text. held_out: the training rows that are
    held out and scored as `validation`: a number of rows, or a share like `10%`; None: they have a file of their own.
    weights: the weight of each label in the training loss, in the order of `label_names`; none where all count alike.
    numbers: whether the labels are numbers, not names.
    """

    columns: tuple[str, ...]
    separator: str | None = None
    held_out: int | str | None = None
    weights: tuple[float, ...] = ()
    numbers: bool = False


class Named:
    """Something that recipes call by a name, `family/short` or one word.

    label_names: the meanings of a classifier's outputs, in the order of class ids; empty for a task without a
    classifier and for a number.
    """

    name: str
    label_names: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        return self.name.rpartition("/")[2]

    def templated(self, chat_template: str) -> Self:
        """Return the task with its rows put by a chat template, where they may be. chat_template: its text, instead of
        the tokenizer's.
        """
        return self


@dataclass(frozen=True)
class SequenceTask(Named):
    """A sequence-level task: classification when it has label names, regression when it has none.

    several: whether a row may have several of the labels, or none.

    text: one column name, or two for a pair of texts.
    metrics: score name -> function; the first is the task's main score, by which the best adapter is chosen.
    label_range: the least and greatest label of a regression task that has bounds.
    evaluation: splits that are scored; the main score is that of the first.
    own: how rows are read, if a recipe describes the task.
    """

    name: str
    source: HubSource | BuiltinSource | None
    text: tuple[str, ...]
    metrics: dict[str, Metric]
    label_names: tuple[str, ...] = ()
    label_range: tuple[float, float] | None = None
    label: str = "label"
    train: str = "train"
    evaluation: tuple[str, ...] = ("validation",)
    several: bool = False
    own: OwnLabels | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.text, *(self.own.columns if self.own else (self.label,)))

    @property
    def parts(self) -> tuple[PromptTask, ...]:
        """The tasks that share one model with this one: none, since its head is of no use to another task."""
        return ()

    @property
    def with_rows(self) -> tuple[DataTask, ...]:
        """The tasks with rows of their own of which this one consists: itself."""
        return (self,)

    @property
    def is_regression(self) -> bool:
        return not self.label_names

    @property
    def problem_type(self) -> Literal["regression", "single_label_classification", "multi_label_classification"]:
        """What transformers calls the task in a model's config."""
        if self.is_regression:
            return "regression"
        return "multi_label_classification" if self.several else "single_label_classification"

    @property
    def main_metric(self) -> str:
        return next(iter(self.metrics))

    @property
    def reads_names(self) -> bool:
        """Whether labels are known by their names alone: those that a recipe describes, unless they are numbers."""
        return self.own is not None and not self.own.numbers

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each label in the training loss; empty where all count alike."""
        return self.own.weights if self.own else ()

    def score(self, predictions: Sequence[Any], labels: Sequence[Any]) -> dict[str, float]:
        """Return all metrics of the task, the main one first."""
        p, y = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
        return {name: metric(p, y) for name, metric in self.metrics.items()}


class Answers(StrEnum):
    """How the answers to a task's prompts are scored."""

    CHOSEN = "chosen"
    """One of a row's candidates, which a protocol finds."""
    COMPARED = "compared"
    """A free text, which is generated and compared with a row's reference texts."""
    LOSS = "loss"
    """A free text, of which only the loss is known."""


@dataclass(frozen=True)
class Layout:
    """One of the ways in which a file may hold the rows of a task, known by its columns.

    name: what the user is told. fields, example, optional: as those of a PromptTask. untyped: columns that may be
    absent, and whose cells the example checks.
    """

    name: str
    fields: Mapping[str, type]
    example: Callable[[Row], PromptExample]
    optional: tuple[str, ...] = ()
    untyped: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.fields, *self.optional, *self.untyped)


@dataclass(frozen=True)
class PromptTask(Named):
    """A task for a language model: rows become prompts with answers.

    fields: the columns that every row must have, with the type of their values; `optional` columns hold texts and may
        be absent or empty.
    answer: the column with a right text, or with a list of right texts; none if it is empty.
    example: (row) -> PromptExample; raises ValueError that says what is wrong with the row.
    template: the text around what is asked, as rows are trained; it tells a trained model's users how to ask.
    wording: the prompt of a row that is made of its columns, if it is; `template` is then made from it.
    pattern: finds the answer in a generated text, the first match counting; empty for free text, which is scored by its
        loss. A task whose candidates differ from row to row has none either: there the candidates are looked for.
    answers: how answers are scored.
    references: the column with a list of reference texts, which some splits have; none if it is empty.
    tally: makes an empty tally of the answers that are found.
    keys: the recipe's keys that name the columns, by column, if a recipe describes the task.
    held_out: the training rows that are held out and scored as `validation`: a number of prompts, or a share like
        `10%`; None: they have a file of their own.
    evaluation: splits that are scored.
    layouts: the ways in which a file may hold the rows, where there are several; that of a file gives the task its
        fields.
    by_chat_template: rows are put by the tokenizer's chat template, not by `template`.
    chat_template: the text of the chat template that the tokenizer gets, in the place of its own; empty: its own.
    example_by_template: the example of a row that is put by a chat template, of a task whose rows may be put either
        way; the recipe chooses (`task.prompt`).
    """

    name: str
    source: HubSource | BuiltinSource | None
    fields: Mapping[str, type]
    example: Callable[[Row], PromptExample]
    template: Template
    pattern: str = ""
    optional: tuple[str, ...] = ()
    answers: Answers = Answers.CHOSEN
    answer: str = ""
    references: str = ""
    wording: Wording | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    held_out: int | str | None = None
    tally: Callable[[], Tally[Prediction]] = AnswerCounts
    train: str = "train"
    evaluation: tuple[str, ...] = ("test",)
    layouts: tuple[Layout, ...] = ()
    by_chat_template: bool = False
    chat_template: str = ""
    example_by_template: Callable[[Row], PromptExample] | None = None

    def templated(self, chat_template: str) -> PromptTask:
        if self.example_by_template is None:
            return self
        example = self.example_by_template
        return replace(self, example=example, by_chat_template=True, chat_template=chat_template)

    @property
    def columns(self) -> tuple[str, ...]:
        own = (*self.fields, *self.optional, *filter(None, (self.answer, self.references)))
        return tuple(dict.fromkeys((*own, *(name for layout in self.layouts for name in layout.columns))))

    def laid_out(self, layout: Layout) -> PromptTask:
        """Return the task of the rows of one layout."""
        return replace(self, fields=layout.fields, optional=layout.optional, example=layout.example, layouts=())

    @property
    def parts(self) -> tuple[PromptTask, ...]:
        return (self,)

    @property
    def with_rows(self) -> tuple[DataTask, ...]:
        return (self,)

    @property
    def reads_names(self) -> bool:
        """Whether classes are known by their names: in the columns that a recipe describes, which hold texts."""
        return bool(self.keys)

    @property
    def joint(self) -> None:
        """How to read a file with the rows of several tasks: there is none for a single one."""
        return None

    @property
    def joint_files(self) -> tuple[str, ...]:
        return ()

    @property
    def main_metric(self) -> str:
        """The first score of the task's tally."""
        return next(iter(self.tally().scores()))

    def parse(self, text: str, labels: Sequence[str]) -> str | None:
        """Return the answer that a generated text gives: the first match of the pattern, or None."""
        pattern = self.pattern or "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
        match = re.search(pattern, text)
        return match[0] if match else None


@dataclass(frozen=True)
class Mixture(Named):
    """Prompt tasks that are trained together and scored one by one; its score is the mean of theirs.

    joint: how to read a file with the training rows of all of them, if there may be one. joint_files: the names that
    such a file may have.
    """

    name: str
    parts: tuple[PromptTask, ...]
    joint: PromptTask | None = None
    joint_files: tuple[str, ...] = ()
    train: str = "train"

    @property
    def with_rows(self) -> tuple[DataTask, ...]:
        return self.parts

    def templated(self, chat_template: str) -> Mixture:
        return replace(self, parts=tuple(part.templated(chat_template) for part in self.parts))


DataTask = SequenceTask | PromptTask
"""A task with rows of its own."""
LanguageTask = PromptTask | Mixture
"""A task that a language model is trained for."""
Task = SequenceTask | PromptTask | Mixture
