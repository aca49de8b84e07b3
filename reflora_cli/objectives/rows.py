"""Hold what both kinds of rows share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from reflora_cli.data.load import is_undivided
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import expanded, is_file
from reflora_cli.objectives.objective import Split
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.examples import Example, PromptExample

E = TypeVar("E", Example, PromptExample)

Examples = Mapping[str, Sequence[Any]]
"""Rows as read by split name, the training rows under their split's own name first."""
HELD_OUT = "validation"
"""The name of the split of training rows that `task.validation_rows` holds out."""
PROBED = 64
"""The number of rows on which two forms of one model are compared."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows, ready for training and scoring. dropped: the number of training rows that lost their whole
    answer. facts: what the user should see of them.
    """

    training: list[Any]
    splits: list[Split]
    dropped: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)


def probe_examples(examples: Examples) -> list[Example | PromptExample]:
    """Return some of a run's rows as read: of the first split that is scored, or else of the training rows."""
    training, *scored = examples.values()
    return list((scored or [training])[0][:PROBED])


def rows_text(examples: Sequence[Example | PromptExample]) -> str:
    """Return examples as lines of JSON."""
    return "".join(json.dumps(asdict(example)) + "\n" for example in examples)


def kept_examples(path: Path, kind: type[E]) -> list[E] | None:
    """Return the examples that a run has kept; None if it kept none. Raises InputError for a damaged file."""
    if not is_file(path):
        return None
    try:
        examples = [TypeAdapter(kind).validate_json(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError) as error:
        remedy, found = "remove the file: rows are then read from task.data", str(error).splitlines()[0]
        raise InputError(Problem("the file is damaged", str(path), found, remedy=remedy)) from error
    return examples or None


def wants_evaluation(recipe: Recipe) -> bool:
    """Whether anything is scored in training."""
    return recipe.eval.every != "never" or recipe.eval.at_start


def refuse_one_file(recipe: Recipe) -> None:
    """Raises InputError if one file would be both trained on and scored."""
    if data_file(recipe) is not None:
        held_out = "task.validation=10%" if recipe.task.kind else "task.validation_rows=100"
        remedy = f"hold out rows with {held_out}, or score nothing with eval.every=never eval.select=last"
        what = "the same file cannot be used for training and scoring: scores would be of rows that were learned"
        expected = "a directory with a file for each split"
        raise InputError(Problem(what, "task.data", recipe.task.data, expected, remedy))


def data_file(recipe: Recipe) -> Path | None:
    """Return the one file, or saved data set, that all rows of a recipe come from; None if they come from elsewhere."""
    path = expanded(recipe.task.data)
    return path.resolve() if is_undivided(path) else None
