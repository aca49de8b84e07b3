"""What both kinds of rows share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli.errors import InputError, Problem
from reflora_cli.objectives.objective import Split
from reflora_cli.recipe import Recipe

Examples = Mapping[str, Sequence[Any]]
"""Split name -> rows as read, the training rows under their split's own name first."""
PROBED = 64
"""Rows on which two forms of one model are compared."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows, ready for training and scoring. dropped: training rows without any answer left."""

    training: list[Any]
    splits: list[Split]
    dropped: int = 0


def wants_evaluation(recipe: Recipe) -> bool:
    """Whether anything is scored in training."""
    return recipe.eval.every != "never" or recipe.eval.at_start


def refuse_one_file(recipe: Recipe, remedy: str) -> None:
    """Raises InputError where one file would be both what is trained on and what is scored."""
    if Path(os.path.expanduser(recipe.task.data)).is_file():
        what = "one file cannot be trained on and scored too: the score would be of rows that were learned"
        expected = "a directory with a file for each split"
        raise InputError(Problem(what, "task.data", recipe.task.data, expected, remedy))
