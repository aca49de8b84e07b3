"""The rows of tasks, as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

Row = Mapping[str, Any]
"""One row of a data set by column."""


@dataclass(frozen=True)
class Example:
    """One row: one text or a pair of texts, and a class id, a real value, or 0 and 1 for each label of several."""

    texts: tuple[str, ...]
    label: float | tuple[float, ...]


LATER = ("references", "conversation")
"""The fields of a PromptExample that older runs do not have."""


@dataclass(frozen=True)
class PromptExample:
    """One row for a language model.

    prompt, answer: what the model reads and what it should write; they are joined without anything between them.
    generation_prompt: what the model reads when it is asked to generate; most tasks use `prompt`. candidates: the
    possible answers, written like `answer`; none for free text. labels: the word that stands for each candidate in a
    generated text, in the same order. label: the right one of the labels. references: the right texts, if free text is
    compared with any: `label` is the first of them, and `answer` ends with it. conversation: JSON with `messages` and
    `tools` for a row that a chat template puts; `prompt` and `answer` are then only what a reader should see.
    """

    prompt: str
    answer: str
    generation_prompt: str
    candidates: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    label: str = ""
    references: tuple[str, ...] = ()
    conversation: str = ""

    def __repr__(self) -> str:
        """Return all fields, but of the later ones those that are not empty: runs know their rows by this text, also
        those that are older.
        """
        names = [own.name for own in fields(self) if own.name not in LATER or getattr(self, own.name)]
        return f"PromptExample({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"


def has_surrogates(text: str) -> bool:
    """Whether a text holds lone surrogates, which JSON can write and UTF-8 cannot: no tokenizer takes it."""
    return not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)
