"""The rows of the built-in tasks, by the name of their generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from reflora_cli.builtin import acceptability, entailment, questions
from reflora_cli.builtin.world import Fact, Row

EXAMPLES: dict[str, Callable[[str], Iterator[tuple[Fact, Row]]]] = {
    "acceptability": acceptability.examples,
    "entailment": entailment.examples,
    "questions": questions.examples,
}
"""Generator name -> function from a split to its rows, each with the fact that it is about."""


def rows(generator: str, split: str) -> list[Row]:
    """All rows of one split, always the same; KeyError for an unknown generator or split."""
    return [copied(row) for row in made(generator, split)]


@cache
def made(generator: str, split: str) -> tuple[Row, ...]:
    """The rows of one split, which a process makes once."""
    return tuple(row for _, row in EXAMPLES[generator](split))


def copied(row: Row) -> Row:
    """A row that may be changed."""
    return {column: [*value] if isinstance(value, list) else value for column, value in row.items()}
