"""Define how a trained model is asked about new rows: what is read of a row, and what the model answers.

There are two kinds: `sequence_asking.py` for labels of texts, `language_asking.py` for answers after prompts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflora_cli.data.read import Table
from reflora_cli.objectives.objective import Objective
from reflora_cli.recipe.sections import Recipe


@dataclass(frozen=True)
class Question:
    """A row that a model is asked about.

    inputs: its texts by column, as read. example: the row as its kind encodes it.
    """

    inputs: Mapping[str, str]
    example: Any

    @property
    def length(self) -> int:
        """The number of characters, by which rows of a batch are alike."""
        return sum(map(len, self.inputs.values()))


@dataclass(frozen=True)
class Answer:
    """What a model answers.

    values: the answer, ready for JSON. truncated: whether the row was too long, so that only a part of it was read.
    """

    values: dict[str, Any]
    truncated: bool


class Answerer(ABC):
    """A model that is ready to answer."""

    @abstractmethod
    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """Return one answer for each question, in their order; all of them go through the model in one batch.

        Raises InputError for a model whose outputs are not finite.
        """

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """Return all that decides the answers beside model and rows."""


class Asking(ABC):
    """How a task's model is asked. columns: those that every row must have. optional: those that a row may have."""

    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def wanted(self) -> tuple[str, ...]:
        """All columns that are read where they are there."""
        return (*self.columns, *self.optional)

    @abstractmethod
    def questions(self, table: Table) -> list[Question]:
        """Return one question for each row. Raises InputError for missing columns, no rows, or bad rows."""

    @abstractmethod
    def answerer(self, recipe: Recipe, objective: Objective[Any]) -> Answerer:
        """Return the objective's model, ready to answer. Raises InputError for settings that do not fit it."""
